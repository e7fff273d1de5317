"""Denoisers: the table of parameterizations, conversions of an estimate, and the exact denoiser against integrals."""

import math

import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser, AnalyticVariance, Denoiser, Estimate, null_condition
from gendiff.denoise.denoiser import NOISE_LEVELS
from gendiff.denoise.denoiser import ROWS as ALL_ROWS
from gendiff.ops import Random, expand, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess, Process
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
ROWS = sorted(ALL_ROWS - {"logits"})
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
rows = pytest.mark.parametrize("row", ROWS)
free_of_schedule = pytest.mark.parametrize("row", [row for row in ROWS if row not in ("score", "mean")])
T = torch.tensor([1e-3, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Fixed(nn.Module):
    """A network that puts out what it was given, and remembers what it saw."""

    def __init__(self, **output):
        super().__init__()
        self.output = output

    def forward(self, x, noise_level, mask, condition):
        self.x, self.level, self.mask, self.condition = x, noise_level, mask, condition
        return self.output


def gaussian(schedule, features=3, kind="node"):
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(features, kind))})


# The table


def target(row, x_0, noise, alpha, sigma, scale, schedule=None):
    """What each parameterization says that F estimates, from the data and the noise."""
    if row == "noise":
        return noise
    if row == "score":
        return -noise / sigma
    if row == "mean":  # of x_s given both, s a thousandth before: a Kalman update of N(alpha_s x_0, sigma_s^2)
        s = (T - 1e-3).clamp(min=0)
        alpha_s, sigma_s = expand(schedule.alpha(s), x_0), expand(schedule.sigma(s), x_0)
        a = alpha / alpha_s
        gain = a * sigma_s**2 / sigma**2
        return alpha_s * x_0 + gain * (alpha * x_0 + sigma * noise - a * alpha_s * x_0)
    if row == "data":
        return x_0
    if row == "v":
        return (alpha * noise - sigma * x_0) / (alpha**2 + sigma**2) ** 0.5
    if row == "flow":
        return noise - x_0
    if row == "residual":
        return x_0 / scale - (alpha * x_0 + sigma * noise) / (alpha**2 * scale**2 + sigma**2) ** 0.5
    skip = alpha * scale**2 / (sigma**2 + alpha**2 * scale**2)
    return (x_0 - skip * (alpha * x_0 + sigma * noise)) * (sigma**2 + alpha**2 * scale**2) ** 0.5 / (sigma * scale)


@rows
@scheduled
def test_the_exact_target_gives_back_the_data(row, schedule):
    x_0, noise, scale = normal(5, 4, 3), normal(5, 4, 3), 0.7
    alpha, sigma = expand(schedule.alpha(T), x_0), expand(schedule.sigma(T), x_0)
    network = Fixed(x=target(row, x_0, noise, alpha, sigma, scale, schedule))
    denoiser = Denoiser(network, gaussian(schedule), row, {"x": scale})
    estimate = denoiser({"x": alpha * x_0 + sigma * noise}, T)
    assert torch.allclose(estimate.data["x"], x_0, rtol=1e-9, atol=1e-9)
    assert torch.allclose(estimate.noise["x"], noise, rtol=1e-6, atol=1e-6)


@scheduled
def test_karras_targets_have_unit_variance_on_data_of_that_scale(schedule):
    alpha, sigma, scale = schedule.alpha(T), schedule.sigma(T), 1.7
    of_data = target("karras", f64(1.0), f64(0.0), alpha, sigma, scale)
    of_noise = target("karras", f64(0.0), f64(1.0), alpha, sigma, scale)
    assert torch.allclose((of_data * scale) ** 2 + of_noise**2, torch.ones_like(T))


@rows
@scheduled
def test_the_network_sees_unit_variance(row, schedule):
    """Data of the stated scale plus noise: the input is (alpha D a + sigma b) / its own deviation, a and b standard."""
    scale, network = 2.5, Fixed(x=normal(5, 2, 1))
    denoiser = Denoiser(network, gaussian(schedule, 1), row, {"x": scale})
    denoiser({"x": torch.ones(5, 2, 1).double()}, T)
    variance = (schedule.alpha(T) * scale) ** 2 + schedule.sigma(T) ** 2
    assert torch.allclose(network.x["x"][:, 0, 0] ** 2 * variance, torch.ones_like(T))


@free_of_schedule
@scheduled
def test_a_change_of_schedule_leaves_the_estimate_unchanged(row, schedule):
    """At equal log-SNR the states differ by a factor only, and the network is told only the log-SNR."""

    class Net(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": torch.tanh(x["x"] + noise_level[:, :1, None])}

    x_0, noise = normal(5, 4, 3), normal(5, 4, 3)
    t = f64(0.05, 0.2, 0.4, 0.6, 0.8)
    estimates = []
    for other, time in ((Linear(), t), (schedule, schedule.time(Linear().log_snr(t)))):
        x_t = {"x": expand(other.alpha(time), x_0) * x_0 + expand(other.sigma(time), x_0) * noise}
        exact = AnalyticDenoiser(gaussian(other), [0.4, 0.6], {"x": (f64(-1.0, 1.0)[:, None, None], 0.5)})
        estimates.append((Denoiser(Net(), gaussian(other), row)(x_t, time).data["x"], exact(x_t, time).data["x"]))
    for a, b in zip(*estimates, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("log_snr", lambda s, t: s.log_snr(t).clamp(-20, 20) / 4),
        ("time", lambda s, t: t),
        ("alpha", lambda s, t: s.alpha(t)),
        ("log_sigma", lambda s, t: s.sigma(t).log() / 4),
    ],
)
def test_noise_level_has_a_column_for_each_field(kind, level):
    process = JointProcess(
        {"a": GaussianProcess(Linear(), Euclidean(1)), "c": CategoricalProcess(Flow(), [0.5, 0.5], Euclidean(2))}
    )
    network = Fixed(a=normal(5, 2, 1), c=normal(5, 2, 2))
    Denoiser(network, process, noise_level=kind)({"a": normal(5, 2, 1), "c": normal(5, 2, 2)}, T)
    assert torch.allclose(network.level, torch.stack([level(Linear(), T), level(Flow(), T)], 1))
    assert Denoiser(network, process, noise_level=kind).level(f64(0.0, 1.0)).isfinite().all()


# Fields, conditions, self-conditioning


def joint():
    return JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass(2)),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )


def test_fields_are_estimated_each_in_its_space():
    mask = size_mask(torch.tensor([4, 2]), 4)
    out = {"position": normal(2, 4, 2), "element": normal(2, 4, 3)}
    x = {"position": normal(2, 4, 2), "element": normal(2, 4, 3)}
    estimate = Denoiser(Fixed(**out), joint(), "data")(x, T[1:3], mask)
    position, element = estimate.data["position"], estimate.data["element"]
    assert torch.allclose(position, ZeroCenterOfMass(2).project(out["position"], mask))
    assert torch.allclose(element, out["element"].softmax(-1) * mask[..., None])
    assert torch.equal(estimate.logits["element"], out["element"])
    assert "position" not in estimate.logits
    assert set(estimate.noise) == set(estimate.score) == set(estimate.v) == set(estimate.velocity) == {"position"}


def test_self_conditioning_gives_the_last_estimate_or_zero():
    mask, scale = size_mask(torch.tensor([4, 2]), 4), 2.0
    network = Fixed(position=normal(2, 4, 2), element=normal(2, 4, 3))
    x = {"position": normal(2, 4, 2), "element": normal(2, 4, 3)}
    denoiser = Denoiser(network, joint(), data_scale={"position": scale}, self_condition=True)
    first = denoiser(x, T[:2], mask)
    assert set(network.x) == {"position", "element", "position_previous", "element_previous"}
    assert not network.x["position_previous"].any()
    assert not network.x["element_previous"].any()
    denoiser(x, T[:2], mask, previous=first.data)
    assert torch.allclose(network.x["position_previous"] * scale, first.data["position"])
    assert torch.allclose(network.x["element_previous"], first.data["element"])


def test_what_the_network_is_given_besides():
    network = Fixed(x=normal(2, 4, 3))
    condition, mask, noise = {"y": f64(1.0, 2.0)}, torch.ones(2, 4).bool(), normal(2, 5)
    Denoiser(network, gaussian(Linear()))({"x": normal(2, 4, 3)}, T[:2], mask, condition, noise=noise)
    assert network.condition is condition
    assert network.mask is mask
    assert network.x["noise"] is noise


def test_missing_conditions():
    null = null_condition({"a": f64(1.0, 2.0), "b": torch.tensor([[1, 2], [3, 4]])})
    assert null["a"].isnan().all()
    assert null["a"].shape == (2,)
    assert null["b"].tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_are_not_trusted_with_the_softmax(dtype):
    """Under autocast outputs come in half precision; probabilities and data stay in single."""
    out = {"position": torch.randn(2, 4, 2).to(dtype), "element": torch.randn(2, 4, 3).to(dtype)}
    x = {"position": torch.randn(2, 4, 2), "element": torch.randn(2, 4, 3)}
    estimate = Denoiser(Fixed(**out), joint())(x, T[:2].float(), torch.ones(2, 4).bool())
    assert estimate.data["position"].dtype == estimate.data["element"].dtype == torch.float32
    assert torch.allclose(estimate.data["element"].sum(-1), torch.ones(2, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameterization": "x0"}, "field 'position' wants a parameterization of .* got 'x0'"),
        ({"parameterization": {"position": "v"}}, "field 'element' wants a parameterization .* got None"),
        ({"parameterization": {"position": "v", "element": "v"}}, "'element' is categorical"),
        ({"noise_level": "beta"}, "noise_level must be one of .* got 'beta'"),
    ],
)
def test_unknown_words_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(Fixed(), joint(), **options)


# An estimate says the same in several ways


@scheduled
def test_conversions_of_an_estimate(schedule):
    process, x_0, noise = gaussian(schedule), normal(5, 4, 3), normal(5, 4, 3)
    alpha, sigma = expand(schedule.alpha(T), x_0), expand(schedule.sigma(T), x_0)
    x_t = alpha * x_0 + sigma * noise
    estimate = Estimate(process, {"x": x_t}, T, {"x": x_0})
    assert torch.allclose(estimate.noise["x"], noise, rtol=1e-8, atol=1e-9)
    assert torch.allclose(estimate.score["x"], -noise / sigma, rtol=1e-8, atol=1e-7)
    assert torch.allclose(estimate.v["x"], alpha * noise - sigma * x_0, rtol=1e-8, atol=1e-9)
    t, h = f64(0.0504, 0.1234, 0.5006, 0.9002, 0.9801), 1e-6  # away from the kinks of the tables
    at, before, after = (
        expand(schedule.alpha(time), x_0) * x_0 + expand(schedule.sigma(time), x_0) * noise
        for time in (t, t - h, t + h)
    )
    velocity = Estimate(process, {"x": at}, t, {"x": x_0}).velocity["x"]
    assert torch.allclose(velocity, (after - before) / (2 * h), rtol=1e-6, atol=1e-6)


# The exact denoiser

WEIGHTS, MEANS, STDS = f64(0.2, 0.5, 0.3), f64(-2.0, 0.3, 1.5), f64(0.3, 0.6, 0.1)


def mixture(alpha, sigma):
    """The law of x_t in one dimension, by torch."""
    parts = torch.distributions.Normal(alpha * MEANS, ((alpha * STDS) ** 2 + sigma**2).sqrt())
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(WEIGHTS), parts)


def exact_1d(schedule):
    return AnalyticDenoiser(gaussian(schedule, 1), WEIGHTS, {"x": (MEANS[:, None, None], STDS[:, None, None])})


@scheduled
@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
def test_exact_denoiser_is_the_integral(schedule, t):
    """E[x_0 | x_t] by the trapezoid rule over x_0."""
    x_t = torch.linspace(-3, 3, 13, dtype=torch.float64)
    time = torch.full((13,), t, dtype=torch.float64)
    alpha, sigma = schedule.alpha(f64(t)), schedule.sigma(f64(t))
    x_0 = torch.linspace(-6, 6, 60_001, dtype=torch.float64)
    prior = mixture(f64(1.0), f64(0.0)).log_prob(x_0)
    log_joint = prior - 0.5 * ((x_t[:, None] - alpha * x_0) / sigma) ** 2
    weight = log_joint.softmax(1)
    data = exact_1d(schedule)({"x": x_t[:, None, None]}, time).data["x"].flatten()
    assert torch.allclose(data, weight @ x_0, rtol=1e-8, atol=1e-8)


@scheduled
def test_exact_score_is_the_gradient_of_the_log_density(schedule):
    for t in (0.02, 0.3, 0.9):
        x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()
        log_p = mixture(schedule.alpha(f64(t)), schedule.sigma(f64(t))).log_prob(x)
        expected = torch.autograd.grad(log_p.sum(), x)[0]
        denoiser, state, time = (
            exact_1d(schedule),
            {"x": x.detach()[:, None, None]},
            torch.full((13,), t, dtype=torch.float64),
        )
        assert torch.allclose(denoiser(state, time).score["x"].flatten(), expected, rtol=1e-9, atol=1e-9)
        assert torch.allclose(denoiser.components(state, time)[0].logsumexp(1), log_p, rtol=1e-12)


def test_exact_score_on_the_centred_space():
    """Of a mixture of shapes: the gradient of the density in an orthonormal basis of the subspace, padding or not."""
    n, d, schedule, t = 4, 2, Linear(), f64(0.4)
    basis = torch.linalg.qr(torch.eye(n).double() - 1 / n).Q[:, : n - 1]
    means, stds, weights = normal(2, n, d), f64(0.4, 0.7), f64(0.3, 0.7)
    y = normal(1, n - 1, d).requires_grad_()
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    variance = (alpha * stds) ** 2 + sigma**2
    parts = torch.distributions.Normal(alpha * (basis.T @ means), variance.sqrt()[:, None, None])
    log_p = (parts.log_prob(y).sum((1, 2)) + weights.log()).logsumexp(0)
    expected = basis @ torch.autograd.grad(log_p, y)[0]
    process = JointProcess({"x": GaussianProcess(schedule, ZeroCenterOfMass(d))})
    for size in (n, n + 3):
        pad = (0, 0, 0, size - n)
        law = {"x": (nn.functional.pad(means, pad, value=9.0), stds[:, None, None])}
        denoiser = AnalyticDenoiser(process, weights, law)
        x = {"x": nn.functional.pad(basis @ y.detach(), pad)}
        mask = size_mask(torch.tensor([n]), size)
        estimate = denoiser(x, t[None] if t.dim() == 0 else t, mask)
        assert torch.allclose(estimate.score["x"][:, :n], expected, atol=1e-10)
        assert not estimate.data["x"][:, n:].any()
        assert denoiser.components(x, t[None] if t.dim() == 0 else t, mask)[0].logsumexp(1).item() == pytest.approx(
            log_p.item()
        )


def coupled(schedule=None):
    """A number and a class that know of one another, on one node."""
    process = JointProcess(
        {
            "x": GaussianProcess(schedule or Linear(), Euclidean(1)),
            "c": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )
    p = f64([0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3])
    return AnalyticDenoiser(process, WEIGHTS, {"x": (MEANS[:, None, None], STDS[:, None, None]), "c": p[:, None]}), p


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_exact_denoiser_of_a_joint_law_is_the_sum_and_integral(t):
    """p(x_0, c_0 | x_t, c_t) on a fine grid of x_0 and all c_0, for every c_t."""
    denoiser, p = coupled()
    time, x_0 = f64(t), torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    alpha, sigma = Linear().alpha(time), Linear().sigma(time)
    law = torch.distributions.Normal(MEANS, STDS).log_prob(x_0[:, None]).exp() * WEIGHTS  # p(x_0, component)
    prior = law @ p  # p(x_0, c_0)
    q = (
        denoiser.process["c"].marginal(torch.eye(3).double()[:, None], time.expand(3)).probabilities[:, 0]
    )  # q(c_t | c_0)
    for x_t in (-1.0, 0.4):
        seen = prior * torch.exp(-0.5 * ((x_t - alpha * x_0) / sigma) ** 2)[:, None]
        for c_t in range(3):
            joint = seen * q[:, c_t]
            joint = joint / joint.sum()
            state = {"x": f64(x_t)[:, None, None], "c": torch.eye(3).double()[None, c_t : c_t + 1]}
            data = denoiser(state, time[None]).data
            assert data["x"].item() == pytest.approx((joint.sum(1) @ x_0).item(), abs=1e-8)
            assert torch.allclose(data["c"].flatten(), joint.sum(0), atol=1e-8)


def test_exact_denoiser_ignores_padding_and_neighbours():
    """Also of categories, whose padded states are all zero."""
    denoiser, _ = coupled()
    x = {"x": normal(3, 4, 1), "c": nn.functional.one_hot(torch.randint(3, (3, 4)), 3).double()}
    mask = size_mask(torch.tensor([4, 2, 3]), 4)
    x = {name: value * mask[..., None] for name, value in x.items()}
    t = f64(0.3, 0.5, 0.7)
    whole = denoiser(x, t, mask)
    alone = denoiser({name: value[1:2, :2] for name, value in x.items()}, t[1:2], mask[1:2, :2])
    for name in x:
        assert whole.data[name].isfinite().all()
        assert torch.allclose(whole.data[name][1:2, :2], alone.data[name], atol=1e-14)
        assert not whole.data[name][~mask].any()
    assert torch.allclose(whole.data["c"].sum(-1), mask.double())


def test_exact_denoiser_of_one_component():
    denoiser, p = coupled()
    x, t = {"x": normal(3, 1, 1), "c": torch.eye(3).double()[:, None]}, f64(0.3, 0.5, 0.7)
    condition = {"component": torch.tensor([2, -1, 0])}
    data = denoiser(x, t, None, condition).data
    free = denoiser(x, t).data
    for row, k in ((0, 2), (2, 0)):
        only = AnalyticDenoiser(denoiser.process, [1.0], {"x": (MEANS[k], STDS[k]), "c": p[k]})(x, t).data
        for name in data:
            assert torch.allclose(data[name][row], only[name][row])
            assert not torch.allclose(data[name][row], free[name][row], rtol=1e-3)
    assert torch.equal(data["x"][1], free["x"][1])


def test_exact_denoiser_of_pairs():
    """A symmetric field of independent pairs, each a two-class law, with nothing on the diagonal."""
    p, pi = f64(0.9, 0.1), f64(0.6, 0.4)
    process = JointProcess({"bond": CategoricalProcess(Linear(), pi.tolist(), Euclidean(2, "pair"))})
    denoiser = AnalyticDenoiser(process, [1.0], {"bond": p})
    mask, t = size_mask(torch.tensor([3, 2]), 3), f64(0.4, 0.6)
    x = process["bond"].space.project(nn.functional.one_hot(torch.ones(2, 3, 3).long(), 2).double(), mask)
    data = denoiser({"bond": x}, t, mask).data["bond"]
    a = Linear().alpha(t) ** 2
    joint = torch.stack([p[0] * (1 - a) * pi[1], p[1] * (a + (1 - a) * pi[1])], 1)
    expected = joint / joint.sum(1, keepdim=True)
    assert torch.allclose(data[0, 0, 1], expected[0])
    assert torch.allclose(data[1, 0, 1], expected[1])
    assert torch.equal(data, process["bond"].space.project(data, mask))
    log_q = denoiser.components({"bond": x}, t, mask)[0].flatten()
    assert torch.allclose(log_q, f64(3.0, 1.0) * joint.sum(1).log())


def test_exact_denoiser_refuses_what_it_does_not_know():
    class Other(Process):
        pass

    denoiser = AnalyticDenoiser(JointProcess({"x": Other(Linear(), Euclidean(1))}), [1.0], {"x": (0.0, 1.0)})
    with pytest.raises(ValueError, match=r"knows Gaussian, categorical and given fields, not .*Other"):
        denoiser({"x": normal(1, 1, 1)}, f64(0.5))


def test_gradients_flow_through_every_row():
    class Linear1(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(f64(0.3))

        def forward(self, x, noise_level, mask, condition):
            return {"x": self.weight * x["x"]}

    for row in ROWS:
        network = Linear1()
        x = normal(5, 2, 3).requires_grad_()
        data = Denoiser(network, gaussian(Flow()), row)({"x": x}, T).data["x"]
        data.square().sum().backward()
        assert network.weight.grad.isfinite()
        assert network.weight.grad != 0
        assert x.grad.isfinite().all()
        assert math.isfinite(data.sum().item())


# Variances of the reverse law


@scheduled
def test_a_learned_variance_lies_between_the_small_and_the_large(schedule):
    """Minus one is the small one, one the large one, zero their geometric mean; each entry has its own."""
    x_t, data, t, s = normal(5, 2, 3), normal(5, 2, 3), f64(0.05, 0.2, 0.4, 0.6, 0.9), f64(0.01, 0.1, 0.3, 0.4, 0.8)
    v = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).expand(5, 2, 3)
    denoiser = Denoiser(Fixed(x=data, x_fraction=v), gaussian(schedule), "data")
    law = denoiser({"x": x_t}, t).reverse("x", s)
    process = denoiser.process["x"]
    alpha, sigma = (expand(f(t), x_t) for f in (schedule.alpha, schedule.sigma))
    alpha_s, sigma_s = (expand(f(s), x_t) for f in (schedule.alpha, schedule.sigma))
    large = (sigma**2 - (alpha / alpha_s * sigma_s) ** 2).sqrt()
    small = large * sigma_s / sigma
    assert torch.allclose(law.std[..., :1], small, rtol=1e-9)
    assert torch.allclose(law.std[..., 1:2], (small * large).sqrt(), rtol=1e-9)
    assert torch.allclose(law.std[..., 2:], large, rtol=1e-9)
    assert torch.equal(law.mean, process.posterior(x_t, data, t, s).mean)
    independent = torch.distributions.Independent(torch.distributions.Normal(law.mean, law.std), 2)
    assert torch.allclose(law.log_prob(x_t), independent.log_prob(x_t))
    other = process.posterior(x_t, x_t, t, s)
    theirs = torch.distributions.Independent(torch.distributions.Normal(other.mean, other.std.expand_as(x_t)), 2)
    assert torch.allclose(law.kl(other), torch.distributions.kl_divergence(independent, theirs))


@scheduled
def test_the_analytic_variance_makes_the_reverse_law_exact(schedule):
    """For N(0, v) data p(x_s | x_t) is normal, and its moments are those of the joint normal law of x_s and x_t."""
    v, t, s = 0.25, f64(0.05, 0.2, 0.4, 0.6, 0.9), f64(0.01, 0.1, 0.3, 0.4, 0.8)
    (a, b), (a_s, b_s) = ((schedule.alpha(u), schedule.sigma(u)) for u in (t, s))
    exact = AnalyticDenoiser(gaussian(schedule, 1), [1.0], {"x": (0.0, v**0.5)})
    spread = (v * b**2 / (a**2 * v + b**2)).tolist()
    denoiser, x_t = AnalyticVariance(exact, t.tolist(), {"x": spread}), normal(5, 1, 1)
    law = denoiser({"x": x_t}, t).reverse("x", s)
    total, total_s = a**2 * v + b**2, a_s**2 * v + b_s**2
    covariance = a / a_s * total_s
    assert torch.allclose(law.mean[:, 0, 0], covariance / total * x_t[:, 0, 0])
    assert torch.allclose(law.std.expand_as(x_t)[:, 0, 0] ** 2, total_s - covariance**2 / total)


def test_the_analytic_variance_is_measured_on_data():
    """One pass over standard normal atoms of a centred space: v(t) = v s^2 / (a^2 v + s^2), of (n - 1) 3 directions."""
    v, space, schedule = 0.36, ZeroCenterOfMass(), Cosine()
    process = JointProcess({"x": GaussianProcess(schedule, space)})
    exact = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)})
    mask = size_mask(torch.tensor([5, 3, 4, 2] * 500), 5)
    x_0 = {"x": v**0.5 * space.noise(mask, Random(1, len(mask))).double()}
    times = [0.2, 0.5, 0.8]
    parts = [({"x": x_0["x"][k::2]}, mask[k::2]) for k in (0, 1)]
    found = AnalyticVariance.measure(exact, parts, times).variance["x"]
    a, b = schedule.alpha(f64(*times)), schedule.sigma(f64(*times))
    expected = v * b**2 / (a**2 * v + b**2)
    error = expected * (2 / (mask.sum() - len(mask)).item() / 3) ** 0.5  # of a variance from so many numbers
    assert ((f64(*found) - expected).abs() < 4 * error).all()
    assert AnalyticVariance.measure(exact, parts, times, bound=0.1).variance["x"] == [
        0.1 if e > 0.1 else f for e, f in zip(expected, found, strict=True)
    ]


def test_the_analytic_variance_is_that_of_what_is_asked_for():
    """Of two points there is some, of one that is named none."""
    process = JointProcess({"x": GaussianProcess(Cosine(), Euclidean(1, "grid", [1]))})
    exact = AnalyticDenoiser(process, [0.5, 0.5], {"x": (f64(-1.0, 1.0)[:, None, None], 1e-9)})
    component = torch.arange(400) % 2
    x_0 = {"x": (2.0 * component - 1).double()[:, None, None]}
    free = AnalyticVariance.measure(exact, [(x_0, None)], [0.8]).variance["x"][0]
    told = AnalyticVariance.measure(exact, [(x_0, None, {"component": component})], [0.8]).variance["x"][0]
    assert free > 0.3
    assert told < 1e-12


def test_the_analytic_variance_between_its_times():
    exact = AnalyticDenoiser(gaussian(Cosine(), 1), [1.0], {"x": (0.0, 1.0)})
    denoiser = AnalyticVariance(exact, [0.2, 0.4, 1.0], {"x": [1.0, 3.0, 0.0]})
    t = f64(0.1, 0.2, 0.3, 0.7, 1.0)
    variance = denoiser({"x": normal(5, 2, 1)}, t).variance["x"]
    assert torch.allclose(variance, f64(1.0, 1.0, 2.0, 1.5, 0.0)[:, None, None])
    assert AnalyticVariance(exact, [0.5], {"x": [2.0]})({"x": normal(5, 2, 1)}, t).variance["x"].unique().tolist() == [
        2
    ]


@pytest.mark.parametrize(
    ("times", "values", "rule"),
    [
        ([], [], "times must ascend"),
        ([0.5, 0.5], [1.0, 1.0], "times must ascend"),
        ([0.1], [1.0, 2.0], "wants 1 numbers"),
        ([0.1], [-1.0], "not negative"),
        ([0.1], [math.nan], "not negative"),
    ],
)
def test_a_senseless_analytic_variance_is_refused(times, values, rule):
    exact = AnalyticDenoiser(gaussian(Cosine(), 1), [1.0], {"x": (0.0, 1.0)})
    with pytest.raises(ValueError, match=rule):
        AnalyticVariance(exact, times, {"x": values})
    with pytest.raises(ValueError, match="no batches"):
        AnalyticVariance.measure(exact, [], [0.5])


@pytest.mark.parametrize("level", NOISE_LEVELS)
@rows
def test_known_levels_spare_the_schedule(row, level):
    class Mix(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": x["x"].sin() + noise_level[:, :, None]}

    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1, "grid", [3]))})
    denoiser = Denoiser(Mix(), process, row, {"x": 1.5}, noise_level=level)
    x, t = {"x": torch.randn(4, 1, 3).double()}, f64(0.3).expand(4)
    alpha, sigma = Linear().alpha(f64(0.3)).item(), Linear().sigma(f64(0.3)).item()
    known = denoiser(x, t, levels={"x": (alpha, sigma, math.log(alpha / sigma))}).data["x"]
    assert torch.allclose(known, denoiser(x, t).data["x"], rtol=1e-12)


def test_plans_start_where_the_state_says_something_of_the_data():
    """Rows that divide by alpha, and they alone, where alpha is small and not 0."""
    tiny = 2 * math.log(1e-3)
    for row, schedule, start in (
        ("noise", Cosine(), float(Cosine().time(f64(tiny)))),
        ("score", Cosine(), float(Cosine().time(f64(tiny)))),
        ("v", Cosine(), 1.0),
        ("noise", Linear(), 1.0),  # alpha ends at 0.006
        ("noise", Flow(), 1.0),  # refused at 1
    ):
        assert Denoiser(nn.Identity(), gaussian(schedule), row).start == start, (row, schedule)
    assert 0.99 < float(Cosine().time(f64(tiny))) < 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(4, 3, 1), "for 'x' there is none in Tensor"),
        ({"y": torch.zeros(4, 3, 1)}, r"for 'x' there is none in \['y'\]"),
        ({"x": torch.zeros(4, 1)}, r"shape \(4, 1\) for field 'x' of shape \(4, 3, 1\)"),
        ({"x": torch.zeros(4, 1, 1)}, r"shape \(4, 1, 1\) for field 'x'"),
        ({"x": torch.zeros(4, 3, 1), "x_fraction": torch.zeros(4)}, r"shape \(4,\) for field 'x_fraction'"),
    ],
)
def test_what_a_network_puts_out_is_checked(output, message):
    class Network(nn.Module):
        def forward(self, *inputs):
            return output

    with pytest.raises(ValueError, match=message):
        Denoiser(Network(), gaussian(Cosine(), 1), "v")({"x": torch.zeros(4, 3, 1)}, torch.full((4,), 0.5))


@pytest.mark.parametrize("t", [torch.tensor([500]), torch.tensor(0.5)])
def test_times_are_floats_one_per_sample(t):
    denoiser = Denoiser(Fixed(x=torch.zeros(1, 3, 1)), gaussian(Cosine(), 1), "v")
    with pytest.raises(ValueError, match=r"t are times in \[0, 1\], one per sample: floats \(B,\); got torch"):
        denoiser({"x": torch.zeros(1, 3, 1)}, t)


@pytest.mark.parametrize("row", ["noise", "score"])
def test_a_row_that_divides_by_alpha_says_so(row):
    process = JointProcess({"x": GaussianProcess(Flow(), Euclidean(1, "grid", [3]))})
    denoiser = Denoiser(nn.Identity(), process, row)
    with pytest.raises(ValueError, match=f"row '{row}' of field 'x' divides by alpha, which is 0 here: start the plan"):
        denoiser({"x": torch.randn(4, 1, 3)}, torch.ones(4), levels={"x": (0.0, 1.0, -math.inf)})
