"""Guidance by gradients, where the exact conditional law is known."""

import math

import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser, Denoiser, Estimate
from gendiff.guide import Gradient
from gendiff.ops import Random, expand, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


# A classifier of noisy states


def everything(length=4, kinds=3):
    """A mixture over fields of every space: positions without a place, pairs, an image and classes."""
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass(2)),
            "bond": GaussianProcess(Cosine(), Euclidean(2, "pair")),
            "pixel": GaussianProcess(Flow(), Euclidean(1, "grid", [3])),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )

    def wave(*shape):
        return torch.arange(math.prod((kinds, *shape)), dtype=torch.float64).sin().reshape(kinds, *shape)

    std = f64(0.3, 0.5, 0.9)
    bond = wave(length, length, 2)
    p = wave(length, 3).softmax(-1)
    law = {
        "position": (wave(length, 2), std[:, None, None]),
        "bond": ((bond + bond.transpose(1, 2)) / 2, std[:, None, None, None]),
        "pixel": (wave(1, 3), std[:, None, None]),
        "element": p,
    }
    return AnalyticDenoiser(process, [0.2, 0.5, 0.3], law)


def log_component(denoiser, component):
    """log p(c | x_t), exactly."""

    def log_prob(x, t, mask):
        return denoiser.components(x, t, mask)[0].log_softmax(1).gather(1, component[:, None])[:, 0]

    return log_prob


def noisy(denoiser, t, mask, seed=0):
    """States of the forward process from around the origin."""
    process, random = denoiser.process, Random(seed, len(t))
    x = {name: value.double() for name, value in process.prior(process.noise(mask, random), mask).items()}
    return {k: v.double() for k, v in process.corrupt(x, t, process.noise(mask, random), mask).items()}


@pytest.mark.parametrize("t", [0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_the_unconditional_score_and_an_exact_classifier_make_the_exact_conditional_score(t):
    denoiser, n = everything(), 12
    mask, t = size_mask(torch.tensor([4, 2, 3, 4] * 3), 4), f64(*[t] * n)
    component, x = torch.arange(n) % 3, noisy(denoiser, t, mask)
    guided = Gradient(denoiser, log_component(denoiser, component))(x, t, mask)
    exact, free = denoiser(x, t, mask, {"component": component}), denoiser(x, t, mask)
    for name, score in exact.score.items():
        assert (guided.score[name] - score).abs().max() < 1e-10
        assert (free.score[name] - score).abs().max() > 1e-4
        assert torch.allclose(guided.data[name], denoiser.process[name].space.project(guided.data[name], mask))


def test_a_scale_multiplies_the_gradient():
    denoiser, t = everything(), f64(0.2, 0.8)
    mask, component = torch.ones(2, 4, dtype=torch.bool), torch.tensor([0, 1])
    x = noisy(denoiser, t, mask)
    free = denoiser(x, t, mask).score
    once, thrice = (Gradient(denoiser, log_component(denoiser, component), w)(x, t, mask).score for w in (1.0, 3.0))
    for name in free:
        assert torch.allclose(thrice[name] - free[name], 3 * (once[name] - free[name]), atol=1e-9)


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_guided_samples_land_in_the_component(make, schedule):
    """999 of 1000; each where the conditional model takes it. Flow starts without signal, so its first step is free."""
    n = 1500
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})
    means = f64([-1.0, -1.0], [1.0, -1.0], [0.0, 1.2])[..., None]
    denoiser = AnalyticDenoiser(process, [0.5, 0.3, 0.2], {"x": (means, 0.15)})
    component = torch.arange(n) % 3
    start = {"x": process["x"].noise(None, Random(1, n)).double()}
    guided = Gradient(denoiser, log_component(denoiser, component))
    end = make(40)(guided, start, random=Random(0, n))["x"]
    landed = (end[:, None] - means).square().sum((2, 3)).argmin(1)
    assert (landed == component).double().mean() >= 0.999
    conditional = make(40)(denoiser, start, condition={"component": component}, random=Random(0, n))["x"]
    assert (end - conditional).abs().max() < (1e-8 if isinstance(schedule, Linear) else 0.02)


def test_a_state_without_signal_is_not_guided():
    process = JointProcess({"x": GaussianProcess(Flow(), Euclidean(1, "grid", [2]))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.3, 1.0)})
    x = {"x": torch.randn(3, 1, 2)}
    t = torch.tensor([1.0, 0.9995, 0.5])
    guided = Gradient(denoiser, lambda x, t, mask: x["x"].sum((1, 2)))(x, t)
    free = denoiser(x, t).data["x"]
    assert torch.equal(guided.data["x"][:2], free[:2])  # where alpha is next to nothing it would be led far away
    assert torch.allclose(guided.data["x"][2], free[2] + 0.5)  # sigma^2 / alpha


@pytest.mark.parametrize("kind", ["node", "pair"])
def test_classes_of_noisy_states_follow_to_first_order_in_what_is_lost(kind):
    """One class and its exact classifier: p(x_0 | x_t, y) is right up to (1 - a)^2, 1 - a the share drawn anew."""
    process = JointProcess({"c": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3, kind))})
    space, mask = process["c"].space, torch.ones(3, 1 if kind == "node" else 2, dtype=torch.bool)
    prior, given = f64(0.5, 0.3, 0.2), f64(0.9, 0.2, 0.4)  # p(x_0) and p(y | x_0)
    denoiser, exact = (AnalyticDenoiser(process, [1.0], {"c": p}) for p in (prior, prior * given / (prior @ given)))
    states = torch.eye(3, dtype=torch.float64)  # the three values of x_t, one a sample
    x = {"c": states[:, None] if kind == "node" else space.project(states[:, None, None].expand(3, 2, 2, 3), mask)}
    errors = []
    for share in (1e-3, 1e-4):
        t = Cosine().time(torch.logit(f64(1 - share)).expand(3))
        law = denoiser(x, t, mask).data["c"].reshape(3, -1, 3).amax(1)  # p(x_0 | x_t), without the empty diagonal
        log_given = (law @ given).log()  # log p(y | x_t) of the three values

        def log_prob(x, t, mask, log_given=log_given):
            return space.sum(x["c"] * log_given, mask)

        guided, wanted = Gradient(denoiser, log_prob)(x, t, mask).data["c"], exact(x, t, mask).data["c"]
        errors.append((guided - wanted).abs().max().item())
    assert errors[0] < 1e-5
    assert errors[1] == pytest.approx(0.01 * errors[0], rel=0.05)


# At the data


class Observed:
    """N(MEAN, COVARIANCE) of two numbers, of which C x_0 + noise is seen: everything is linear."""

    MEAN, COVARIANCE = f64(0.5, -0.3), f64([1.0, 0.6], [0.6, 0.8])

    def __init__(self, schedule):
        self.process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})

    def gain(self, t):
        """E[x_0 | x_t] = mean + gain (x_t - alpha mean), shape (B, 2, 2)."""
        alpha, sigma = (f(t)[:, None, None] for f in (self.process.schedule.alpha, self.process.schedule.sigma))
        return alpha * self.COVARIANCE @ torch.linalg.inv(alpha**2 * self.COVARIANCE + sigma**2 * torch.eye(2))

    def covariance(self, t):
        """Cov(x_0 | x_t), shape (B, 2, 2)."""
        return self.COVARIANCE - self.process.schedule.alpha(t)[:, None, None] * self.gain(t) @ self.COVARIANCE

    def __call__(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        alpha = self.process.schedule.alpha(t)[:, None]
        rest = x_t["x"].flatten(1) - alpha * self.MEAN
        data = self.MEAN + (self.gain(t) @ rest[..., None])[..., 0]
        return Estimate(self.process, x_t, t, {"x": data[..., None]})


def seen(covariance, direction, value, std):
    """log p(y | x_t) of y = direction . x_0 + noise, by the mean of x_0 and its covariance given x_t."""

    def log_prob(x, t, mask):
        variance = direction @ covariance(t) @ direction + std**2
        return -0.5 * (value - x["x"].flatten(1) @ direction) ** 2 / variance

    return log_prob


def updated(mean, covariance, direction, value, std):
    """The mean and covariance of a Gaussian after such an observation."""
    gain = covariance @ direction / (direction @ covariance @ direction + std**2)[:, None]
    mean = mean + gain * (value - mean @ direction)[:, None]
    return mean, covariance - gain[:, :, None] * (direction @ covariance)[:, None]


FIRST, SECOND = f64(1.0, 0.5), f64(-0.3, 1.0)


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
@pytest.mark.parametrize("nested", [False, True], ids=["one", "two"])
def test_what_is_known_of_the_data_makes_the_exact_conditional_estimate(schedule, nested):
    """p(y | x_t) of a Gaussian is exact at its mean if it knows the covariance; twice, one within the other."""
    denoiser, t = Observed(schedule), torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    x = {"x": torch.randn(8, 2, 1).double()}
    mean, covariance = updated(denoiser(x, t).data["x"][..., 0], denoiser.covariance(t), FIRST, 1.2, 0.3)
    guided = Gradient(denoiser, seen(denoiser.covariance, FIRST, 1.2, 0.3), at="data")
    if nested:
        guided = Gradient(guided, seen(lambda t: covariance, SECOND, -0.7, 0.2), at="data")
        mean, _ = updated(mean, covariance, SECOND, -0.7, 0.2)
    with torch.no_grad():
        result = guided(x, t)
    assert torch.allclose(result.data["x"][..., 0], mean, rtol=1e-9)
    assert (denoiser(x, t).data["x"][..., 0] - mean).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["node", "pair"])
def test_classes_are_exact_where_the_log_probability_is_linear(kind):
    """Independent classes under independent evidence: p(x_0 | x_t, y) at any time, padding and pairs included."""
    process = JointProcess({"c": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3, kind))})
    mask, t = size_mask(torch.tensor([3, 2, 3, 1]), 3), f64(0.05, 0.3, 0.6, 0.95)
    shape = (3, 3) if kind == "node" else (3, 3, 3)
    prior, evidence = torch.randn(shape).double().softmax(-1), torch.randn(shape).double()
    if kind == "pair":
        prior, evidence = ((v + v.transpose(0, 1)) / 2 for v in (prior, evidence))
    posterior = prior * evidence.exp()
    posterior = posterior / posterior.sum(-1, keepdim=True)
    free, exact = (AnalyticDenoiser(process, [1.0], {"c": p[None]}) for p in (prior, posterior))
    x = process.prior(process.noise(mask, Random(0, 4)), mask)
    x = {"c": x["c"].double()}
    guided = Gradient(free, lambda x, t, mask: process["c"].space.sum(x["c"] * evidence, mask), at="data")(x, t, mask)
    assert torch.allclose(guided.data["c"], exact(x, t, mask).data["c"], atol=1e-12)
    assert torch.isfinite(guided.logits["c"]).all()
    assert (guided.data["c"] - free(x, t, mask).data["c"]).abs().max() > 0.1


def test_positions_feel_what_is_asked_of_the_classes():
    """Through the denoiser: with one node of two kinds, far apart, asking for a class pulls the number there."""
    process = JointProcess(
        {
            "x": GaussianProcess(Linear(), Euclidean(1)),
            "c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    p = f64([1.0, 0.0], [0.0, 1.0])[:, None]
    denoiser = AnalyticDenoiser(process, [0.5, 0.5], {"x": (f64(-1.0, 1.0)[:, None, None], 0.2), "c": p})
    n, mask = 400, torch.ones(400, 1, dtype=torch.bool)
    guided = Gradient(denoiser, lambda x, t, mask: x["c"][:, 0, 1].clamp(min=1e-30).log(), at="data")
    random = Random(0, n)
    start = process.prior(process.noise(mask, random), mask)
    end = Ancestral(60)(guided, start, mask, random=random)
    assert (end["x"] > 0).float().mean() >= 0.99
    assert end["c"][:, 0, 1].mean() >= 0.99


def test_a_class_ruled_out_keeps_a_finite_logarithm():
    denoiser, t = everything(), f64(0.3, 0.6)
    denoiser.law["element"] = f64(1.0, 0.0, 0.0)
    mask = torch.ones(2, 4, dtype=torch.bool)
    x = noisy(denoiser, t, mask)
    for at in ("x_t", "data"):
        guided = Gradient(denoiser, lambda x, t, mask: 50 * x["element"][..., 1].sum(1), at=at)(x, t, mask)
        assert torch.isfinite(guided.logits["element"]).all()
        assert torch.allclose(guided.data["element"].sum(-1), mask.double())


# Inside samplers


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, noise_level, mask, condition):
        return {"x": self.layer(x["x"].tanh()) * mask[..., None]}


@pytest.mark.parametrize("at", ["x_t", "data"])
@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_a_sampler_needs_no_gradients_and_keeps_none(make, at):
    process = JointProcess({"x": GaussianProcess(Linear(), ZeroCenterOfMass(2))})
    denoiser, mask = Denoiser(Small(), process), size_mask(torch.tensor([4, 2, 3]), 4)

    def log_prob(x, t, mask):
        assert torch.is_grad_enabled()
        return -0.1 * x["x"].square().sum((1, 2))

    x = process.prior(process.noise(mask, Random(0, 3)), mask)
    end = make(8)(Gradient(denoiser, log_prob, at=at), x, mask)["x"]
    assert not end.requires_grad
    assert not x["x"].requires_grad
    assert all(p.grad is None for p in denoiser.parameters())
    assert end.abs().max() < make(8)(denoiser, x, mask)["x"].abs().max()
    assert torch.allclose(end, process["x"].space.project(end, mask), atol=1e-5)


class Apart(nn.Module):
    """Two fields that know nothing of each other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)})

    def forward(self, x, noise_level, mask, condition):
        return {name: layer(x[name]) for name, layer in self.layers.items()}


@pytest.mark.parametrize("at", ["x_t", "data"])
def test_a_field_that_is_not_asked_about_keeps_its_estimate_to_the_last_bit(at):
    process = JointProcess({name: GaussianProcess(Linear(), Euclidean(2)) for name in ("x", "y")})
    denoiser, t = Denoiser(Apart(), process), torch.tensor([0.3, 0.6])
    x = {name: torch.randn(2, 3, 2) for name in ("x", "y")}
    with torch.no_grad():
        free = denoiser(x, t).data
        guided = Gradient(denoiser, lambda x, t, mask: x["x"].square().sum((1, 2)), at=at)(x, t).data
    assert torch.equal(guided["y"], free["y"])
    assert not torch.isclose(guided["x"], free["x"]).any()
    assert not any(value.requires_grad for value in guided.values())


@pytest.mark.parametrize("at", ["x_t", "data"])
def test_padding_and_the_others_of_a_batch_change_nothing(at):
    denoiser, t = everything(), f64(0.2, 0.5, 0.8)
    sizes = torch.tensor([2, 4, 3])

    def log_prob(x, t, mask):
        return -(x["position"].square().sum((1, 2)) + x["bond"].square().sum((1, 2, 3)) + x["element"][..., 0].sum(1))

    mask = size_mask(sizes, 4)
    x = noisy(denoiser, t, mask)
    whole = Gradient(denoiser, log_prob, at=at)(x, t, mask).data
    for i in range(3):
        alone = Gradient(denoiser, log_prob, at=at)({k: v[i : i + 1] for k, v in x.items()}, t[[i]], mask[[i]]).data
        for name, value in whole.items():
            assert torch.allclose(value[i], alone[name][0], atol=1e-12)
        assert not whole["position"][i, sizes[i] :].any()


@pytest.mark.parametrize("at", ["x_t", "data"])
def test_with_gradients_on_the_result_can_be_differentiated(at):
    """The slope of the guided estimate of a Gaussian, twice: data' = gain + sigma^2 / alpha (log p)''."""
    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1, "grid", [1]))})
    denoiser, t = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.7)}), f64(0.4)
    x = torch.randn(1, 1, 1, dtype=torch.float64, requires_grad=True)
    guided = Gradient(denoiser, lambda x, t, mask: -x["x"].square().sum((1, 2)), at=at)
    (slope,) = torch.autograd.grad(guided({"x": x}, t).data["x"].sum(), x)
    alpha, sigma = Linear().alpha(t), Linear().sigma(t)
    gain = alpha * 0.49 / (alpha**2 * 0.49 + sigma**2)
    inner = 1.0 if at == "x_t" else gain**2
    assert slope.item() == pytest.approx((gain - 2 * sigma**2 / alpha * inner).item())


WEIGHT = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "x_0"}, "at must be 'x_t' or 'data', got 'x_0'"),
        ({"scale": math.inf}, "scale must be a finite number, got inf"),
        ({"log_prob": lambda x, t, mask: x["x"].sum()}, r"one number per sample, shape \(2,\), got \(\)"),
        ({"log_prob": lambda x, t, mask: t}, "does not depend on the state; compute it from the state, without detach"),
        ({"log_prob": lambda x, t, mask: x["x"].detach()[:, 0, 0] * WEIGHT}, "does not depend on the state"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1, "grid", [1]))})
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.7)})
    with pytest.raises(ValueError, match=message):
        Gradient(denoiser, **{"log_prob": lambda x, t, mask: x["x"].sum((1, 2)), **options})(
            {"x": torch.ones(2, 1, 1)}, torch.tensor([0.5, 0.5])
        )


def test_each_sample_has_the_factor_of_its_own_time():
    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1, "grid", [2]))})
    denoiser, t = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.7)}), f64(0.2, 0.6)
    x = {"x": torch.randn(2, 1, 2).double()}
    guided = Gradient(denoiser, lambda x, t, mask: x["x"].sum((1, 2)))(x, t)
    shift = Linear().sigma(t) ** 2 / Linear().alpha(t)
    assert torch.allclose(guided.data["x"] - denoiser(x, t).data["x"], expand(shift, x["x"]).expand(2, 1, 2))
