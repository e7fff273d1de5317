"""The bound as a loss: unbiased for any T, exact for exact denoisers in the limit, with the gradient of a schedule."""

import math

import pytest
import torch
from expectation import Given, gauss_legendre, plain, quadrature
from scipy import stats
from torch import nn

from gendiff.denoise import AnalyticDenoiser
from gendiff.likelihood import variational_bound
from gendiff.objective import Antithetic, Bound, LogNormal, Power
from gendiff.objective.bound import rate
from gendiff.ops import Random
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess, Process
from gendiff.schedule import Cosine, Flow, Learned, Linear, Polynomial, SubVP, VariancePreserving, ZeroTerminalSNR
from gendiff.space import Euclidean

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "polynomial": Polynomial(),
    "flow": Flow(),
    "subvp": SubVP(),
    "learned": Learned(features=16),
    "no signal": ZeroTerminalSNR(Linear()),
}


class Bent(VariancePreserving):
    """A schedule with three parameters: both ends of gamma = -log SNR, and how it bends in between."""

    def __init__(self, low=-6.0, high=3.0, bend=0.0):
        super().__init__()
        self.low, self.high, self.bend = (nn.Parameter(torch.tensor(x).double()) for x in (low, high, bend))

    def log_snr(self, t):
        return -(self.low + (self.high - self.low) * (t + self.bend * t * (1 - t)))

    def log_alpha_squared(self, t):
        return nn.functional.logsigmoid(self.log_snr(t))

    @torch.no_grad()
    def time(self, log_snr):
        y, b = (-log_snr - self.low) / (self.high - self.low), self.bend
        return 2 * y / (1 + b + ((1 + b) ** 2 - 4 * b * y).sqrt())


def gaussian(schedule, v):
    return AnalyticDenoiser(plain(schedule, "data").process, [1.0], {"x": (0.0, v**0.5)})


def expectation(objective, denoiser, v, nodes=40):
    """The mean loss over N(0, v), over the noise and over the law of the time."""
    u, weights = gauss_legendre(nodes)
    x_0, mask, random = quadrature(v, nodes, uniform=u.repeat_interleave(4))
    loss, _ = objective(denoiser, x_0, mask, None, random)
    return (weights * loss.unflatten(0, (nodes, 4)).mean(1)).sum()


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_bound_is_an_unbiased_estimate_of_the_variational_bound(steps):
    """Its mean over all terms and both signs of the noise is the whole sum, divided by the degrees of freedom."""
    v, values = 0.7, torch.tensor([0.4, -1.1], dtype=torch.float64)
    process = JointProcess({"x": GaussianProcess(Linear(40, 0.01, 0.3), Euclidean(2))})
    exact = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})
    n = 2 * steps
    x_0, mask = {"x": values.expand(n, 1, 2)}, torch.ones(n, 1).bool()
    signs = torch.tensor([1.0, -1.0]).double().repeat(steps)[:, None, None].expand(n, 1, 2)
    uniform = ((torch.arange(n) // 2).double() + 0.5) / steps
    loss, parts = Bound(steps)(exact, x_0, mask, None, Given(signs, uniform))
    whole = variational_bound(exact, {"x": x_0["x"][:2]}, mask[:2], random=Given(signs[:2]), steps=steps)[
        "total"
    ].mean()
    assert loss.mean().item() * 2 == pytest.approx(whole.item(), rel=1e-10)
    assert parts["x"].mean().item() == pytest.approx(whole.item(), rel=1e-10)


def test_bound_draws_every_term_equally_often():
    terms = []

    class Spy(AnalyticDenoiser):
        def forward(self, x_t, t, *rest):
            terms.append(t)
            return super().forward(x_t, t, *rest)

    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1))})
    x_0 = {"x": torch.zeros(5000, 1, 1)}
    Bound(8)(Spy(process, [1.0], {"x": (0.0, 1.0)}), x_0, torch.ones(5000, 1).bool(), None, Random(0, 5000))
    values, counts = torch.cat(terms).unique(return_counts=True)
    assert values.tolist() == [k / 8 for k in range(1, 9)]
    assert stats.chisquare(counts).pvalue > 0.01
    terms.clear()
    x_0, mask, random = {"x": torch.zeros(2, 1, 1)}, torch.ones(2, 1).bool(), Given(torch.zeros(2), 0.5)
    Bound(8, times=Antithetic())(Spy(process, [1.0], {"x": (0.0, 1.0)}), x_0, mask, None, random)
    assert terms[0].tolist() == [0.625, 1.0]  # the number 1 picks the last term too


# Infinitely many steps


@pytest.mark.parametrize("v", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_bound_of_an_exact_gaussian_denoiser_is_tight(schedule, v):
    """E[-log p(x_0)], with the divergence of the prior and that of the reconstruction, whose variance is 1 / SNR."""

    def divergence(ratio):  # of two normal laws with this ratio of their variances
        return 0.5 * (ratio - 1 - math.log(ratio))

    end = torch.ones(1).double()
    alpha, sigma = schedule.alpha(end).item(), schedule.sigma(end).item()
    entropy = 0.5 * math.log(2 * math.pi * math.e * v)
    prior = divergence((alpha**2 * v + sigma**2) / (alpha**2 + sigma**2))
    for start in (1e-3, 0.2):
        snr = schedule.log_snr(torch.tensor(start, dtype=torch.float64)).exp().item()
        value = expectation(Bound(None, start), gaussian(schedule, v), v)
        assert value.item() == pytest.approx(entropy + prior + divergence(v * snr / (1 + v * snr)), rel=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_all_times_weigh_alike_for_data_of_unit_variance(schedule):
    """So the estimate has no variance that comes from the time."""
    u = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64).repeat_interleave(4)
    x_0, mask, random = quadrature(1.0, 5, uniform=u)
    loss, _ = Bound(None)(gaussian(schedule, 1.0), x_0, mask, None, random)
    by_time = loss.unflatten(0, (5, 4)).mean(1)
    assert torch.allclose(by_time, by_time[:1].expand(5), rtol=1e-6)


def closed_form(schedule, v, w):
    """The bound of N(0, v) under the exact denoiser of N(0, w): integral of 1/2 mse over the SNR, and both ends.

    mse = (v + S w^2) / (1 + S w)^2, whose integral over S is log(1 + S w) - (v - w) / (w (1 + S w)).
    """
    log_snr = -torch.stack([schedule.low, schedule.high])
    most, least = log_snr.exp()
    integral = [torch.log(1 + s * w) - (v - w) / (w * (1 + s * w)) for s in (most, least)]
    mse = (v + most * w**2) / (1 + most * w) ** 2
    reconstruction = 0.5 * torch.log(2 * math.pi / most) + 0.5 * most * mse
    alpha, sigma = log_snr[1].sigmoid(), (-log_snr[1]).sigmoid()
    prior = 0.5 * (alpha * v + sigma - 1 - sigma.log())
    return prior + reconstruction + 0.5 * (integral[0] - integral[1])


@pytest.mark.parametrize("bend", [-0.9, 0.0, 0.6])
@pytest.mark.parametrize("w", [0.7, 2.0])
def test_value_and_gradient_depend_on_the_ends_of_the_schedule_alone(w, bend):
    """VDM: for w = v the integral is 1/2 [log(1 + v SNR_max) - log(1 + v SNR_min)]."""
    v, schedule = 0.7, Bent(bend=bend)
    value = expectation(Bound(None, 0.0), gaussian(schedule, w), v, 100)
    exact = closed_form(schedule, v, w)
    assert value.item() == pytest.approx(exact.item(), rel=1e-12)
    gradients = torch.autograd.grad(value, [schedule.low, schedule.high, schedule.bend])
    wanted = torch.autograd.grad(exact, [schedule.low, schedule.high])
    assert torch.allclose(torch.stack(gradients[:2]), torch.stack(wanted), rtol=1e-8, atol=1e-12)
    assert abs(gradients[2].item()) < 1e-11


def test_the_gradient_reaches_every_parameter_of_a_learned_schedule():
    schedule = Learned(-6.0, 3.0, 8, learn_ends=True)
    for objective in (Bound(None, 0.0), Bound(5)):
        x_0, mask, random = quadrature(0.7, 4, uniform=torch.linspace(0.1, 0.9, 16).double())
        loss, _ = objective(gaussian(schedule, 2.0), x_0, mask, None, random)
        gradients = torch.autograd.grad(loss.mean(), list(schedule.parameters()))
        assert all(g.isfinite().all() and g.any() for g in gradients)


def test_the_discrete_sum_decreases_to_the_limit():
    v, schedule = 0.7, Bent(bend=0.3)
    limit = closed_form(schedule, v, v).item()
    values = []
    for steps in (8, 32, 128, 512):
        x_0, mask, random = quadrature(v, steps, uniform=((torch.arange(steps) + 0.5) / steps).repeat_interleave(4))
        values.append(Bound(steps)(gaussian(schedule, v), x_0, mask, None, random)[0].mean().item() - limit)
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
    assert values[2] / values[3] == pytest.approx(4, rel=0.02)


def test_single_precision_keeps_the_value():
    for schedule in SCHEDULES.values():
        exact = expectation(Bound(None), gaussian(schedule, 0.3), 0.3).item()
        u, weights = gauss_legendre(40)
        x_0, mask, random = quadrature(0.3, 40, uniform=u.float().repeat_interleave(4))
        x_0, random.n = {"x": x_0["x"].float()}, random.n.float()
        loss, _ = Bound(None)(gaussian(schedule, 0.3), x_0, mask, None, random)
        assert loss.dtype == torch.float32
        assert (weights * loss.unflatten(0, (40, 4)).mean(1)).sum().item() == pytest.approx(exact, rel=2e-4, abs=2e-4)


STATIONARY = {
    "uniform": [1 / 3] * 3,
    "marginal": [0.2, 0.3, 0.5],
    "absorbing": [0.0, 0.0, 1.0],
    "matrix": [[0.6, 0.4, 0.0], [0.2, 0.5, 0.3], [0.3, 0.0, 0.7]],
}
stationaries = pytest.mark.parametrize("stationary", STATIONARY.values(), ids=STATIONARY)


@stationaries
def test_rate_is_the_limit_of_the_divergence_of_a_step(stationary):
    """For every category before and after, by extrapolation of ever smaller steps; and for a Gaussian field."""
    categorical = CategoricalProcess(Cosine(), stationary, Euclidean(3))
    eye = torch.eye(3).double()
    real = 2 if stationary == STATIONARY["absorbing"] else 3
    x_0, x_t = eye[:real].repeat_interleave(3, 0)[:, None], eye.repeat(real, 1)[:, None]
    possible = (categorical.marginal(x_0, torch.full((3 * real,), 0.4).double()).probabilities * x_t).sum((1, 2)) > 0
    x_0, x_t = x_0[possible], x_t[possible]
    data = torch.tensor([0.5, 0.5, 0.0] if real == 2 else [0.2, 0.5, 0.3]).double().expand_as(x_0)
    cases = [(categorical, x_0, x_t, data)]
    cases += [(GaussianProcess(Cosine(), Euclidean(3)), torch.randn_like(x_0), x_t, torch.randn_like(x_0))]
    for process, clean, noisy, estimate in cases:
        t = torch.full((len(clean),), 0.40005, dtype=torch.float64)
        steps = [process.kl(clean, noisy, estimate, t, t - h) / h for h in (2e-5, 1e-5)]
        exact = rate(process, clean, noisy, estimate, t)
        assert exact.max() > 0.1
        assert torch.allclose(2 * steps[1] - steps[0], exact, rtol=1e-5, atol=1e-9)


def categories(process, x_0, weights, denoiser, start, nodes):
    """The mean of the continuous bound over clean states, both noisy states and the time, by enumeration."""
    times = []

    class Spy(nn.Module):
        process = denoiser.process

        def forward(self, x_t, t, *rest):
            times.append(t)
            return denoiser(x_t, t, *rest)

    n, size, k = x_0.shape
    states = torch.eye(k).double()[torch.cartesian_prod(*[torch.arange(k)] * size).view(-1, size)]
    u, by_time = gauss_legendre(nodes)
    u, by_time = u**6, 6 * u**5 * by_time  # smooth at u = 0, where the last categories are lost by powers of alpha
    pick = torch.cartesian_prod(*(torch.arange(c) for c in (n, nodes, len(states), len(states)))).T
    clean, at_start, at_time = x_0[pick[0]], states[pick[2]], states[pick[3]]
    noise = [state * 1e4 for state in (at_start, at_time)]  # Gumbel noise that decides the draw
    random = Given(clean, u[pick[1]], noise)
    loss, _ = Bound(None, start)(Spy(), {"c": clean}, torch.ones(len(clean), size).bool(), None, random)
    total = weights[pick[0]] * by_time[pick[1]]
    for state, t in zip((at_start, at_time), times, strict=True):
        total = total * (process.marginal(clean, t).probabilities * state).sum(-1).prod(1)
    assert total.sum().item() == pytest.approx(1, rel=1e-12)
    return (total * loss).sum().item() * len(clean[0]) * k  # from nats per number


@stationaries
def test_the_bound_of_an_exact_categorical_denoiser_is_tight(stationary):
    """The entropy of the data and the mismatch of the prior, whatever the time of the reconstruction."""
    absorbing = stationary == STATIONARY["absorbing"]
    process = CategoricalProcess(ZeroTerminalSNR(Linear()) if absorbing else Linear(), stationary, Euclidean(3))
    law = torch.tensor([0.7, 0.3, 0.0] if absorbing else [0.6, 0.3, 0.1], dtype=torch.float64)
    denoiser = AnalyticDenoiser(JointProcess({"c": process}), [1.0], {"c": law})
    end = process.marginal(law[None, None], torch.ones(1).double()).probabilities[0, 0]
    mismatch = torch.special.xlogy(end, end / process.law(end).clamp(min=1e-300)).sum().item()
    entropy = torch.special.entr(law).sum().item()
    kept = law > 0
    x_0 = torch.eye(3).double()[kept][:, None]
    for start in (1e-3, 0.3):
        value = categories(process, x_0, law[kept], denoiser, start, 36)
        assert value == pytest.approx(entropy + mismatch, rel=1e-10)


def test_the_limit_knows_what_two_entries_share():
    """Two equal bits: a chain of T steps draws them apart, infinitely many steps never move both at once."""
    process = CategoricalProcess(Linear(), [0.5, 0.5], Euclidean(2))
    joint = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]).double()
    denoiser = AnalyticDenoiser(JointProcess({"c": process}), [0.5, 0.5], {"c": joint})
    half = torch.full((2,), 0.5).double()
    for start in (1e-3, 0.1):
        flip = (1 - process.schedule.alpha(torch.tensor(start, dtype=torch.float64)).item() ** 2) / 2
        # Only the reconstruction draws both at once, apart: what they share given x_t, all that is not yet known.
        unequal, twice = 2 * flip * (1 - flip), flip**2 / (flip**2 + (1 - flip) ** 2)
        binary = -twice * math.log(twice) - (1 - twice) * math.log1p(-twice)
        shared = unequal * math.log(2) + (1 - unequal) * binary
        value = categories(process, joint, half, denoiser, start, 48)
        assert value == pytest.approx(math.log(2) + shared, rel=1e-9)


# What is refused


def test_what_has_no_bound_is_refused():
    x_0, mask, random = quadrature(1.0)
    with pytest.raises(ValueError, match=r"there is no noise at start = 0\.0, .* take start > 0"):
        Bound(None, 0.0)(gaussian(Flow(), 1.0), x_0, mask, None, random)
    with pytest.raises(ValueError, match="knows no Process; give a number of steps"):
        rate(Process(Flow(), Euclidean(1)), x_0["x"], x_0["x"], x_0["x"], torch.ones(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bound(0), "steps must be at least 1, or None for infinitely many, got 0"),
        (lambda: Bound(None, 1.0), r"start must lie in \[0, 1\), got 1.0"),
        (lambda: Bound(None, -0.1), r"start must lie in \[0, 1\), got -0.1"),
        (lambda: Bound(times=Power()), "times with a uniform mean"),
        (lambda: Bound(times=LogNormal()), "times with a uniform mean"),
    ],
)
def test_impossible_bounds_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
