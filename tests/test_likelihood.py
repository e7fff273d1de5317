"""Likelihoods of laws that are known exactly."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.likelihood import bits_per_dim, log_density, variational_bound
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.schedule import Cosine, Flow, Harmonic, Linear, Polynomial, Schedule
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
FINITE = Polynomial(1000, 2.0, 1e-2)  # its SNR is finite at t = 0, so that equal steps of time can be fine enough
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Given:
    """Stands in for `Random`: hands out the same normal numbers at every draw."""

    def __init__(self, numbers):
        self.numbers, self.indices = numbers, torch.arange(len(numbers))

    def normal(self, shape):
        return self.numbers.reshape(shape)

    def uniform(self, shape):
        return ((torch.arange(shape[0]) + 0.5) / shape[0]).expand(shape)


def gaussian_bound(schedule, v, square, dim, steps):
    """The bound of x_0 with |x_0|^2 = square under N(0, v I) on `dim` dimensions, term by term, in plain floats.

    With g the gain of the optimal denoiser, E|x_0 - g x_t|^2 = (1 - g alpha)^2 |x_0|^2 + g^2 sigma^2 dim.
    """
    at = [tuple(f(f64(k / steps)).item() for f in (schedule.alpha, schedule.sigma)) for k in range(steps + 1)]

    def error(k):
        alpha, sigma = at[k]
        g = alpha * v / (alpha**2 * v + sigma**2)
        return (1 - g * alpha) ** 2 * square + g**2 * sigma**2 * dim

    (alpha, sigma), total = at[steps], 0.0
    variance = alpha**2 + sigma**2
    prior = 0.5 * (alpha**2 * square / variance + dim * (sigma**2 / variance - 1 - math.log(sigma**2 / variance)))
    for k in range(2, steps + 1):
        snr_s, snr_t = ((at[j][0] / at[j][1]) ** 2 for j in (k - 1, k))
        total += 0.5 * (snr_s - snr_t) * error(k)
    ratio = (at[1][1] / at[1][0]) ** 2
    reconstruction = 0.5 * error(1) / ratio + 0.5 * dim * math.log(2 * math.pi * ratio)
    return prior, total, reconstruction


@pytest.mark.parametrize("steps", [1, 2, 50])
@scheduled
def test_bound_of_gaussian_data_is_its_closed_form(schedule, steps):
    """On the centred space of three nodes in the plane, with padding: four degrees of freedom.

    (A chain of one step of the flow has no finite bound: nothing of the data is left in it.) Each term is quadratic in
    the noise, so its mean over all signs of the six raw numbers is exact.
    """
    v, mask, steps = (
        0.6,
        size_mask(torch.tensor([3] * 64), 4),
        max(steps, 2) if schedule is SCHEDULES["flow"] else steps,
    )
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=6))).double().reshape(64, 3, 2)
    x_0 = ZeroCenterOfMass(2).project(torch.nn.functional.pad(normal(1, 3, 2), (0, 0, 0, 1)), mask[:1]).expand(64, 4, 2)
    process = JointProcess({"x": GaussianProcess(schedule, ZeroCenterOfMass(2))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})
    noise = Given(torch.nn.functional.pad(signs, (0, 0, 0, 1)))
    ours = variational_bound(denoiser, {"x": x_0}, mask, random=noise, steps=steps)
    expected = gaussian_bound(schedule, v, x_0[0].square().sum().item(), 4, steps)
    for name, value in zip(("prior", "diffusion", "reconstruction"), expected, strict=True):
        assert ours[name].mean().item() == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert torch.equal(ours["total"], ours["prior"] + ours["diffusion"] + ours["reconstruction"])


def test_bound_of_gaussian_data_tends_to_its_negative_log_density():
    """From above, the gap falling as 1 / T."""
    v, signs = 0.6, f64(1.0, -1.0)
    process = JointProcess({"x": GaussianProcess(FINITE, Euclidean(1))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})
    x_0 = {"x": (signs * v**0.5).repeat(2)[:, None, None]}  # the mean over +-sqrt(v) is the mean over N(0, v)
    entropy, gaps = 0.5 * math.log(2 * math.pi * math.e * v), []
    for steps in (125, 250, 500):
        noise = Given(signs.repeat_interleave(2))
        bound = variational_bound(denoiser, x_0, torch.ones(4, 1).bool(), random=noise, steps=steps)["total"].mean()
        gaps.append(bound.item() - entropy)
    assert 0 < gaps[2] < gaps[1] < gaps[0]
    assert gaps[2] < 0.02
    for coarse, fine in itertools.pairwise(gaps):
        assert coarse / fine == pytest.approx(2, rel=0.2)


def edm_bound(denoiser, x_0, mask, noise, steps):
    """EDM's bound on centred positions, as its paper and code state it, in terms of the noise: T + 1 levels.

    With gamma = -log SNR: L_t = 1/2 (exp(gamma_t - gamma_s) - 1) |e - e'|^2, L_0 = 1/2 |e - e'|^2 less the logarithm
    of the normal constant, and the KL of N(alpha_T x, sigma_T^2) and N(0, 1), on (n - 1) 3 degrees of freedom.
    """
    schedule = denoiser.process.schedule
    gamma = [-schedule.log_snr(f64(k / steps)).item() for k in range(steps + 1)]
    dim = 3.0 * (mask.sum(1) - 1)

    def error(k):
        t = f64(k / steps).expand(len(x_0))
        alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
        x_t = alpha * x_0 + sigma * noise
        data = denoiser({"x": x_t}, t, mask).data["x"]
        return (noise - (x_t - alpha * data) / sigma).square().sum((1, 2))

    loss = sum(0.5 * math.expm1(gamma[k] - gamma[k - 1]) * error(k) for k in range(1, steps + 1))
    constants = dim * (-0.5 * gamma[0] - 0.5 * math.log(2 * math.pi))
    alpha, sigma = schedule.alpha(f64(1.0)), schedule.sigma(f64(1.0))
    square = (alpha * x_0).square().sum((1, 2))
    prior = dim * (1 / sigma).log() + 0.5 * (dim * sigma**2 + square) - 0.5 * dim
    return prior, loss, 0.5 * error(0) - constants


def edm_positions(v, steps=1000):
    """Positions on EDM's schedule, of which the exact denoiser knows that they are N(0, v)."""
    process = JointProcess({"x": GaussianProcess(Polynomial(steps), ZeroCenterOfMass(3))})
    return process, AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})


def test_the_bound_with_noise_at_zero_is_edms_constant_by_constant():
    process, denoiser = edm_positions(0.6)
    mask = size_mask(torch.tensor([4, 2, 3]), 4)
    x_0, noise = (process["x"].space.project(normal(3, 4, 3), mask) for _ in range(2))
    ours = variational_bound(
        denoiser, {"x": x_0}, mask, random=Given(noise), steps=40, grid="uniform", noise_at_zero=True
    )
    for name, value in zip(
        ("prior", "diffusion", "reconstruction"), edm_bound(denoiser, x_0, mask, noise, 40), strict=True
    ):
        torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-7)


def test_edms_bound_tends_to_the_exact_density_of_normal_positions():
    """Of two atoms, in three degrees of freedom, to 1e-2 nats on a grid of log SNR, its gap of order 1 / T taken out.

    Each term is quadratic in the noise, so its mean over all signs of the six raw numbers is exact. Equal steps of
    time, EDM's own chain, stay a nat above in as many steps: near the data its log SNR falls too fast for them.
    """
    v = 0.6
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=6))).double().reshape(64, 2, 3)
    mask, gaps = torch.ones(64, 2).bool(), {}
    x_0 = ZeroCenterOfMass(3).project(normal(1, 2, 3), mask[:1]).expand(64, 2, 3)
    exact = 0.5 * (x_0[0].square().sum().item() / v + 3 * math.log(2 * math.pi * v))
    _, denoiser = edm_positions(v)
    for steps, grid in ((250, "log_snr"), (500, "log_snr"), (500, "uniform")):
        options = {"random": Given(signs), "steps": steps, "grid": grid, "noise_at_zero": grid == "uniform"}
        bound = variational_bound(denoiser, {"x": x_0}, mask, **options)["total"].mean().item()
        gaps[grid, steps] = bound - exact
    assert gaps["log_snr", 250] > gaps["log_snr", 500] > 0
    assert 2 * gaps["log_snr", 500] == pytest.approx(gaps["log_snr", 250], abs=1e-2)
    assert gaps["uniform", 500] > 5 * gaps["log_snr", 500]


def test_noise_at_zero_where_there_is_none_is_refused():
    process = JointProcess({"x": GaussianProcess(Flow(), Euclidean(1))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0)})
    with pytest.raises(ValueError, match="noise_at_zero needs schedules with noise"):
        variational_bound(denoiser, {"x": torch.zeros(1, 1, 1)}, steps=2, noise_at_zero=True)


def test_bound_of_the_flow_on_a_grid_of_log_snr_reaches_the_negative_log_density():
    """Equal steps of time do not: the step from the data to t = 1 / T is too long for any T."""
    v, signs = 0.6, f64(1.0, -1.0)
    denoiser = AnalyticDenoiser(JointProcess({"x": GaussianProcess(Flow(), Euclidean(1))}), [1.0], {"x": (0.0, v**0.5)})
    x_0, mask = {"x": (signs * v**0.5).repeat(2)[:, None, None]}, torch.ones(4, 1).bool()
    entropy, gaps = 0.5 * math.log(2 * math.pi * math.e * v), {}
    for grid, steps in itertools.product(("uniform", "log_snr"), (125, 250, 500)):
        noise = Given(signs.repeat_interleave(2))
        bound = variational_bound(denoiser, x_0, mask, random=noise, steps=steps, grid=grid)["total"].mean()
        gaps[grid, steps] = bound.item() - entropy
    assert gaps["uniform", 500] > 1
    h = 22 / 499  # each of the 12 / h steps at an SNR above 1 costs (e^h - 1 - h) / 2 = h^2 / 4, those below little
    assert 0 < gaps["log_snr", 500] < 12 * h / 4
    assert gaps["log_snr", 125] / gaps["log_snr", 250] == pytest.approx(2, rel=0.2)
    assert gaps["log_snr", 250] / gaps["log_snr", 500] == pytest.approx(2, rel=0.2)


class OneHot(AnalyticDenoiser):
    """The exact denoiser of one-hot categories under Gaussian noise, with logits as a trained one has them."""

    def forward(self, *inputs):
        estimate = super().forward(*inputs)
        return replace(estimate, logits={name: data.clamp(min=1e-30).log() for name, data in estimate.data.items()})


def test_bound_of_categories_under_gaussian_noise_comes_down_to_their_entropy():
    """With logits the reconstruction is a probability; taken for a density it would fall without end."""
    p = f64(0.5, 0.3, 0.2)
    process = JointProcess({"c": GaussianProcess(Flow(), Euclidean(3))})
    denoiser = OneHot(process, p, {"c": (torch.eye(3).double()[:, None], 0.0)})
    n = 3000
    x_0 = {"c": torch.eye(3).double().repeat_interleave(n, 0)[:, None]}
    weights, gaps = (p / n).repeat_interleave(n), []
    for steps in (20, 40, 80):
        bound = variational_bound(denoiser, x_0, torch.ones(3 * n, 1).bool(), steps=steps, grid="log_snr")
        assert bound["reconstruction"].abs().max() < 1e-6  # at log SNR 12 no category is in doubt
        gaps.append((weights * bound["total"]).sum().item() + torch.special.xlogy(p, p).sum().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.25)


def test_random_terms_of_the_bound_are_unbiased():
    """One draw for each of the 49 terms and both signs of the noise: the mean is the whole sum."""
    schedule, v, square = Linear(50, 0.002, 0.2), 0.6, 0.81
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})
    x_0, mask = {"x": torch.full((98, 1, 1), 0.9, dtype=torch.float64)}, torch.ones(98, 1).bool()
    signs = f64(1.0, -1.0).repeat(49)
    for terms in (1, 3):
        bound = variational_bound(denoiser, x_0, mask, random=Given(signs), steps=50, terms=terms)
        for name, value in zip(("prior", "diffusion"), gaussian_bound(schedule, v, square, 1, 50), strict=False):
            assert bound[name].mean().item() == pytest.approx(value, rel=1e-9)


def test_bound_ignores_padding_and_neighbours():
    process = JointProcess(
        {
            "x": GaussianProcess(Polynomial(), ZeroCenterOfMass()),
            "c": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
            "b": CategoricalProcess(Cosine(), [0.9, 0.1], Euclidean(2, "pair")),
        }
    )
    law = {"x": (0.0, 1.3), "c": f64([0.6, 0.3, 0.1], [0.1, 0.1, 0.8])[:, None], "b": f64(0.7, 0.3)}
    denoiser, mask = AnalyticDenoiser(process, [0.5, 0.5], law), size_mask(torch.tensor([4, 2, 3]), 5)
    x_0 = {name: p.prior(p.noise(mask, Random(1, 3)), mask).double() for name, p in process.items()}
    bound = variational_bound(denoiser, x_0, mask, random=Random(0, 3), steps=10)["total"]
    for i, n in enumerate((4, 2, 3)):
        alone = {"x": x_0["x"][i : i + 1, :n], "c": x_0["c"][i : i + 1, :n], "b": x_0["b"][i : i + 1, :n, :n]}
        one = variational_bound(denoiser, alone, mask[i : i + 1, :n], random=Random(0, torch.tensor([i])), steps=10)
        assert torch.allclose(one["total"], bound[i], rtol=1e-5)


# Categories

TOKENS = f64([0.9, 0.1], [0.2, 0.8])  # p(token | component), two tokens
STATES = torch.eye(2).double()[torch.tensor(list(itertools.product([0, 1], repeat=2)))]  # (4, 2 tokens, 2 classes)


def two_tokens(schedule, law):
    """Two binary tokens that know of one another through a hidden component; the exact law of the four states."""
    process = JointProcess({"c": CategoricalProcess(schedule, law, Euclidean(2))})
    weights = f64(0.35, 0.65)
    denoiser = AnalyticDenoiser(process, weights, {"c": TOKENS[:, None]})
    p = torch.stack([weights[k] * (STATES * TOKENS[k]).sum(-1).prod(1) for k in range(2)]).sum(0)
    return process, denoiser, p


def enumerated_bound(process, denoiser, p, steps):
    """E of the bound over x_0 and x_t, state by state."""
    pairs = list(itertools.product(range(4), repeat=2))
    x_0, x_t = STATES[[a for a, _ in pairs]], STATES[[b for _, b in pairs]]
    prior = process["c"].prior_kl(x_0)
    total = (prior * p.repeat_interleave(4)).sum() / 4
    for k in range(steps):
        t = torch.full((16,), (k + 1) / steps, dtype=torch.float64)
        weight = p.repeat_interleave(4) * process["c"].marginal(x_0, t).log_prob(x_t).exp()
        data = denoiser({"c": x_t}, t).data
        term = process.bound_term({"c": x_0}, {"c": x_t}, data, t, t - 1 / steps)["c"]
        total = total + (weight * torch.where(weight > 1e-12, term, 0)).sum()
    return total.item()


@pytest.mark.parametrize("law", [[0.5, 0.5], [0.3, 0.7]], ids=["uniform", "marginal"])
@pytest.mark.parametrize("schedule", [Cosine(), Flow()], ids=["cosine", "flow"])
def test_categorical_bound_comes_down_to_the_entropy(schedule, law):
    process, denoiser, p = two_tokens(schedule, law)
    entropy = -(p * p.log()).sum().item()
    gaps = [enumerated_bound(process, denoiser, p, steps) - entropy for steps in (5, 10, 20, 40, 80)]
    assert all(0 < fine < coarse for coarse, fine in itertools.pairwise(gaps))
    assert gaps[0] > 0.01  # the reverse chain draws the tokens apart, so few steps do not get there
    assert gaps[-1] < 0.1 * gaps[0]
    assert gaps[-2] / gaps[-1] == pytest.approx(2, rel=0.25)


def test_categorical_bound_of_one_token_is_its_entropy_in_any_number_of_steps():
    """Alone, a token has an exact reverse chain; the flow's prior is exact too."""
    for steps, law in itertools.product((1, 2, 5), ([0.2, 0.3, 0.5], [0.0, 0.0, 1.0])):
        process = JointProcess({"c": CategoricalProcess(Flow(), law, Euclidean(3))})
        p = f64(0.6, 0.3, 0.1) if law[0] else f64(0.6, 0.4, 0.0)
        denoiser = AnalyticDenoiser(process, [1.0], {"c": p})
        states, total = torch.eye(3).double()[:, None], 0.0
        for a, k in itertools.product(range(3), range(steps)):
            x_0, t = states[a].expand(3, 1, 3), torch.full((3,), (k + 1) / steps, dtype=torch.float64)
            q = process["c"].marginal(x_0, t).log_prob(states).exp()
            data = denoiser({"c": states}, t).data
            term = process.bound_term({"c": x_0}, {"c": states}, data, t, t - 1 / steps)["c"]
            total += (p[a] * q * torch.where(q > 1e-20, term, 0)).sum().item()
        assert total == pytest.approx(-torch.special.xlogy(p, p).sum().item(), abs=1e-9)


def test_sampled_categorical_bound_is_the_enumerated_one():
    process, denoiser, p = two_tokens(Cosine(), [0.3, 0.7])
    n, steps = 8000, 6
    x_0 = {"c": STATES[torch.multinomial(p, n, replacement=True)]}
    bound = variational_bound(denoiser, x_0, torch.ones(n, 2).bool(), steps=steps)["total"]
    error = bound.std() / n**0.5
    assert abs(bound.mean() - enumerated_bound(process, denoiser, p, steps)) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize(("steps", "expected", "error"), [(20, 2.496, 0.055), (200, 2.331, 0.018)])
def test_heartbeat(steps, expected, error):
    """Sequences of 20 bits with a one at every fifth place: log2(5) bits, and the published bound of the chain."""
    beats = torch.eye(5).repeat(1, 4).double()
    process = JointProcess({"c": CategoricalProcess(Harmonic(), [0.5, 0.5], Euclidean(2))})
    law = torch.stack([1 - beats, beats], -1)
    denoiser, n = AnalyticDenoiser(process, [0.2] * 5, {"c": law}), 800 if steps == 20 else 200
    x_0 = {"c": law.repeat(n // 5, 1, 1)}
    bits = variational_bound(denoiser, x_0, torch.ones(n, 20).bool(), steps=steps)["total"] / math.log(2)
    noise = bits.std().item() / n**0.5
    assert abs(bits.mean().item() - expected) < 4 * math.hypot(noise, error)
    assert bits.mean().item() > math.log2(5) - 3 * noise
    assert noise < 0.06


def test_joint_bound_comes_down_to_the_joint_entropy():
    """A number and a class that know of one another: h(x, c) = H(c) + h(x | c), by a fine grid."""
    weights, means, std, p = f64(0.3, 0.7), f64(-1.5, 1.0), 0.5, f64([0.9, 0.1], [0.2, 0.8])
    process = JointProcess(
        {"x": GaussianProcess(FINITE, Euclidean(1)), "c": CategoricalProcess(Cosine(), [0.4, 0.6], Euclidean(2))}
    )
    denoiser = AnalyticDenoiser(process, weights, {"x": (means[:, None, None], std), "c": p[:, None]})
    grid = torch.linspace(-5, 5, 10_001, dtype=torch.float64)
    density = (torch.distributions.Normal(means, std).log_prob(grid[:, None]).exp() * weights) @ p  # p(x, c)
    entropy = -torch.special.xlogy(density, density).sum().item() * (grid[1] - grid[0]).item()
    n = 4000
    component = torch.multinomial(weights, n, replacement=True)
    c = torch.multinomial(p[component], 1)[:, 0]
    x_0 = {"x": (means[component] + std * normal(n))[:, None, None], "c": torch.eye(2).double()[c][:, None]}
    nats = -density.log()[((x_0["x"].flatten() + 5) / (grid[1] - grid[0])).round().long(), c]
    excess = {}
    for steps in (5, 300):
        bound = variational_bound(denoiser, x_0, torch.ones(n, 1).bool(), steps=steps)["total"]
        difference = bound - nats  # the same samples on both sides
        excess[steps], error = difference.mean().item(), difference.std().item() / n**0.5
    assert excess[5] > 0.3
    assert -3 * error < excess[300] < 0.05 + 2 * error
    assert error < 0.02
    assert nats.mean().item() == pytest.approx(entropy, abs=4 * nats.std().item() / n**0.5)


# Densities


def blur(schedule, start=1e-3):
    """The standard deviation of what log_density adds to the data: that of x_0 seen through the first time."""
    return (schedule.sigma(f64(start)) / schedule.alpha(f64(start))).item()


@scheduled
def test_density_of_gaussian_data(schedule):
    """log N(0, v), on the centred space, with padding."""
    v, mask = 0.6, size_mask(torch.tensor([3, 2, 1]), 4)
    space = ZeroCenterOfMass(2)
    process = JointProcess({"x": GaussianProcess(schedule, space)})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})
    x_0 = space.project(normal(3, 4, 2), mask)
    variance, dim = v + blur(schedule) ** 2, space.dim(mask, x_0)
    end = process["x"].prior(torch.ones(1).double()).item() ** 2
    expected = -0.5 * (x_0.square().sum((1, 2)) / variance + dim * math.log(2 * math.pi * variance))
    alpha, sigma = schedule.alpha(f64(1.0)).item(), schedule.sigma(f64(1.0)).item()
    scale = (alpha**2 * v + sigma**2) / end  # the prior is not quite the law of x_1
    expected = expected - 0.5 * (x_0.square().sum((1, 2)) / variance * (scale - 1) - dim * math.log(scale))
    ours = log_density(denoiser, {"x": x_0}, mask, probes=None, rtol=1e-7, atol=1e-7)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-6)
    assert ours[2] == 0  # one node, centred: no freedom, density one


def test_one_probe_is_exact_for_a_diagonal_jacobian_and_the_default_tolerance_good_to_four_digits():
    process = JointProcess({"x": GaussianProcess(Cosine(), Euclidean(3, "grid", [2]))})
    denoiser, x_0 = AnalyticDenoiser(process, [1.0], {"x": (0.3, 0.8)}), normal(10, 3, 2)
    std = math.hypot(0.8, blur(Cosine()))
    expected = torch.distributions.Normal(0.3, std).log_prob(x_0).sum((1, 2))
    assert torch.allclose(log_density(denoiser, {"x": x_0}), expected, atol=1e-4)


def mixture(schedule=None):
    """Two shapes of a field of three numbers, and its true log-density after the blur."""
    schedule = schedule or Flow()
    means, stds, weights = f64([[-1.0, 0.5, 0.3]], [[0.8, -0.4, 0.0]]), f64(0.5, 0.3), f64(0.4, 0.6)
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(3))})
    denoiser = AnalyticDenoiser(process, weights, {"x": (means, stds[:, None, None])})

    def log_p(x):
        std = (stds**2 + blur(schedule) ** 2).sqrt()[:, None, None]
        parts = torch.distributions.Normal(means, std).log_prob(x[:, None]).sum((2, 3))
        return (parts + weights.log()).logsumexp(1)

    return denoiser, log_p


def test_density_of_a_mixture_by_the_exact_trace():
    denoiser, log_p = mixture()
    x_0 = normal(20, 1, 3)
    ours = log_density(denoiser, {"x": x_0}, probes=None, rtol=1e-7, atol=1e-7)
    assert torch.allclose(ours, log_p(x_0), atol=1e-5)
    assert log_p(x_0).std() > 1


def test_hutchinsons_estimate_is_unbiased():
    """Of a mixture, and on the centred space, where the probes are projected."""
    denoiser, log_p = mixture()
    n, x_0 = 500, f64(0.1, 0.2, 0.3)[None, None]
    one = log_density(denoiser, {"x": x_0.expand(n, 1, 3)}, probes=1)
    four = log_density(denoiser, {"x": x_0.expand(n, 1, 3)}, probes=4)
    for ours in (one, four):
        assert abs(ours.mean() - log_p(x_0)) < 4 * ours.std() / n**0.5
    assert one.std() / four.std() == pytest.approx(2, rel=0.2)

    process = JointProcess({"x": GaussianProcess(Flow(), ZeroCenterOfMass(2))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.8)})
    x_0, mask = {"x": f64([0.3, 1.0], [-0.3, -1.0], [0.0, 0.0]).expand(n, 3, 2)}, size_mask(torch.tensor([2] * n), 3)
    ours = log_density(denoiser, x_0, mask)
    exact = -0.5 * (2 * 1.09 / 0.64 + 2 * math.log(2 * math.pi * 0.64))  # two degrees of freedom
    assert abs(ours.mean() - exact) < 4 * ours.std() / n**0.5 + 1e-4


def test_gaussian_directions_are_exact_where_the_flow_is_isotropic_and_unbiased_elsewhere():
    process = JointProcess({"x": GaussianProcess(Flow(), ZeroCenterOfMass(2))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.8)})
    x_0 = {"x": f64([0.3, 1.0], [-0.3, -1.0], [0.0, 0.0]).expand(5, 3, 2)}
    ours = log_density(denoiser, x_0, size_mask(torch.tensor([2] * 5), 3), directions="gaussian")
    exact = -0.5 * (2 * 1.09 / 0.64 + 2 * math.log(2 * math.pi * 0.64))
    assert torch.allclose(ours, f64(exact), atol=1e-4)
    denoiser, log_p = mixture()
    n, x_0 = 500, f64(0.1, 0.2, 0.3)[None, None]
    ours = log_density(denoiser, {"x": x_0.expand(n, 1, 3)}, torch.ones(n, 1).bool(), directions="gaussian")
    assert abs(ours.mean() - log_p(x_0)) < 4 * ours.std() / n**0.5
    assert ours.std() > 0.01


@pytest.mark.parametrize(
    ("options", "rule"), [({"directions": "up"}, "directions must be"), ({"probes": 0}, "at least 1")]
)
def test_senseless_probes_are_refused(options, rule):
    denoiser, _ = mixture()
    with pytest.raises(ValueError, match=rule):
        log_density(denoiser, {"x": torch.zeros(1, 1, 3).double()}, **options)


def test_density_of_centred_shapes_ignores_padding_neighbours_rotation_and_order():
    space = ZeroCenterOfMass(2)
    process = JointProcess({"x": GaussianProcess(Flow(), space)})
    shapes = normal(2, 5, 2)
    mask = size_mask(torch.tensor([5, 3, 4]), 5)
    turn, order = torch.linalg.qr(normal(2, 2)).Q, torch.tensor([2, 0, 1, 3, 4])

    def density(shapes, x_0, mask):
        denoiser = AnalyticDenoiser(process, [0.3, 0.7], {"x": (shapes, 0.5)})
        return log_density(denoiser, {"x": space.project(x_0, mask)}, mask, probes=None, rtol=1e-6, atol=1e-6)

    x_0 = shapes[0] + f64(0.0, 0.3, 0.9)[:, None, None] * normal(3, 5, 2)
    whole = density(shapes, x_0, mask)
    assert whole.std() > 0.1
    assert torch.allclose(density(shapes @ turn, x_0 @ turn, mask), whole, atol=1e-5)
    assert torch.allclose(density(shapes[:, order], x_0[:, order], mask), whole, atol=1e-5)
    for i, n in enumerate((5, 3, 4)):
        alone = density(shapes[:, :n], x_0[i : i + 1, :n], mask[i : i + 1, :n])
        assert torch.allclose(alone, whole[i], atol=1e-5)


def test_padding_does_not_change_a_single_step():
    """With one sample, padded or not, the adaptive steps are the same and so is every digit but the last."""
    process = JointProcess({"x": GaussianProcess(Linear(), ZeroCenterOfMass(2))})
    denoiser, x_0 = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.7)}), ZeroCenterOfMass(2).project(normal(1, 3, 2))
    padded = torch.nn.functional.pad(x_0, (0, 0, 0, 4))
    values = [log_density(denoiser, {"x": x}, size_mask(torch.tensor([3]), x.shape[1])) for x in (x_0, padded)]
    assert torch.allclose(*values, rtol=1e-12)


class Circle(Schedule):
    """A smooth variance-preserving schedule."""

    def alpha(self, t):
        return torch.cos(math.pi / 2 * t)

    def sigma(self, t):
        return torch.sin(math.pi / 2 * t)

    def time(self, log_snr):
        return torch.atan(torch.exp(-log_snr / 2)) * 2 / math.pi


@pytest.mark.parametrize("clock", ["d", "x"])
def test_density_of_pairs_and_of_several_fields(clock):
    """Fields under their own schedules: the density of independent fields is a product; a pair counts once."""
    space = Euclidean(1, "pair")
    fields = {"d": GaussianProcess(Circle(), space), "x": GaussianProcess(Flow(), Euclidean(2))}
    process = JointProcess(fields, clock=clock)
    denoiser = AnalyticDenoiser(process, [1.0], {"d": (0.2, 0.5), "x": (-0.3, 0.9)})
    mask = size_mask(torch.tensor([3, 2]), 3)
    x_0 = {"d": space.project(normal(2, 3, 3, 1), mask), "x": normal(2, 3, 2) * mask[..., None]}
    pair = torch.distributions.Normal(0.2, math.hypot(0.5, blur(Circle())))
    node = torch.distributions.Normal(-0.3, math.hypot(0.9, blur(Flow())))
    i, j = torch.triu_indices(3, 3, 1)
    expected = (pair.log_prob(x_0["d"][:, i, j, 0]) * (mask[:, i] & mask[:, j])).sum(1)
    expected = expected + (node.log_prob(x_0["x"]) * mask[..., None]).sum((1, 2))
    for probes in (None, 2):
        ours = log_density(denoiser, x_0, mask, probes=probes, rtol=1e-6, atol=1e-6)
        assert torch.allclose(ours, expected, atol=2e-5)


def test_density_refuses_categories():
    _, denoiser, _ = two_tokens(Cosine(), [0.5, 0.5])
    with pytest.raises(ValueError, match="'c' is categorical; use variational_bound"):
        log_density(denoiser, {"c": STATES})


def test_bits_per_dimension():
    """Bytes that are all equally likely take eight bits each, on any scale of the values."""
    for width in (1.0, 2 / 256, 1 / 255):
        nats = torch.tensor([300 * math.log(256 * width)])  # minus the log-density of a uniform law on 300 numbers
        assert bits_per_dim(nats, 300, width).item() == pytest.approx(8)
    assert bits_per_dim(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0])).tolist() == pytest.approx(
        [2 / math.log(2)] * 2
    )
