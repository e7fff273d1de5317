"""Squared errors under a weighting: exact expectations, conversions between weightings, and invariances."""

import itertools
import json

import pytest
import torch
from expectation import At, Given, optimal, plain, quadrature
from scipy import stats
from torch import nn

from gendiff.config import build, describe
from gendiff.denoise import Denoiser
from gendiff.denoise.denoiser import ROWS
from gendiff.objective import (
    WEIGHTINGS,
    Antithetic,
    Bound,
    Hybrid,
    ImplicitScoreMatching,
    LogNormal,
    LossAware,
    Objective,
    OptimalTransport,
    Piecewise,
    Power,
    SlicedScoreMatching,
    Uncertainty,
    Uniform,
    drop_condition,
)
from gendiff.ops import Random, expand, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
rows = pytest.mark.parametrize("row", sorted(ROWS - {"logits"}))
TIMES = (0.002, 0.1, 0.4, 0.7, 0.95)


class Odd(nn.Module):
    def forward(self, x, noise_level, mask, condition):
        return {"x": torch.sin(3 * x["x"]) + noise_level[:, :1, None]}


def expected(weighting, denoiser, t):
    """w(t) by the definitions of the papers, in plain numbers."""
    time, h = torch.tensor(t, dtype=torch.float64), 1e-7
    schedule = denoiser.process["x"].schedule
    alpha, sigma = schedule.alpha(time).item(), schedule.sigma(time).item()
    snr, scale, row = alpha**2 / sigma**2, denoiser.data_scale["x"], denoiser.parameterization["x"]
    if weighting == "velocity":
        d_alpha, d_sigma = (((f(time + h) - f(time - h)) / (2 * h)).item() for f in (schedule.alpha, schedule.sigma))
        return (d_alpha - d_sigma * alpha / sigma) ** 2
    own = {
        "noise": snr,
        "data": 1.0,
        "v": (alpha**2 + sigma**2) / sigma**2,
        "flow": (alpha + sigma) ** 2 / sigma**2,
        "karras": (sigma**2 + (alpha * scale) ** 2) / (sigma * scale) ** 2,
        "residual": 1 / scale**2,
        "score": snr / sigma**2,
        "mean": mean_of_data(schedule, t) ** 2,
    }
    tau = sigma / alpha
    return {
        "network": own[row],
        "data": 1.0,
        "noise": snr,
        "min_snr": min(snr, 5.0),
        "karras": (tau**2 + scale**2) / (tau * scale) ** 2,
    }[weighting]


def mean_of_data(schedule, t, steps=1000):
    """B in the posterior mean A x_t + B x_0 one step before t."""
    times = torch.tensor([t, max(t - 1 / steps, 0)], dtype=torch.float64)
    (alpha_t, alpha_s), (sigma_t, sigma_s) = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    return alpha_s * (1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@rows
@scheduled
def test_the_loss_of_the_optimal_denoiser_is_the_weighted_conditional_variance(schedule, row, weighting):
    """E[w (x_0 - E[x_0 | x_t])^2] = w v / (1 + v SNR) for N(0, v)."""
    v = 1.6
    for t in (0.0021, 0.1003, 0.4004, 0.7007, 0.9501):
        denoiser = plain(schedule, row, 1.3)
        denoiser.network = optimal(v, denoiser, t)
        x_0, mask, random = quadrature(v)
        objective = Objective(weighting, times=At(t))
        loss, parts = objective(denoiser, x_0, mask, None, random)
        snr = schedule.log_snr(torch.tensor(t, dtype=torch.float64)).exp().item()
        assert loss.mean().item() == pytest.approx(expected(weighting, denoiser, t) * v / (1 + v * snr), rel=2e-6)
        assert torch.equal(loss, parts["x"])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@scheduled
def test_karras_with_an_idle_network_has_loss_1_at_every_noise_level(schedule, scale):
    """For any data of the stated deviation; that is EDM's weight, which is a weighting of its own for other rows."""
    for t in TIMES:
        x_0, mask, random = quadrature(scale**2)
        denoiser = plain(schedule, "karras", scale)
        for weighting in ("network", "karras"):
            loss, _ = Objective(weighting, times=At(t))(denoiser, x_0, mask, None, random)
            assert loss.mean().item() == pytest.approx(1, rel=1e-8)


def test_min_snr_is_cut_at_gamma():
    x_0, mask, random = quadrature(1.0)
    denoiser = plain(Flow(), "data")
    for t, gamma, weight in ((0.2, 5.0, 5.0), (0.2, 20.0, 16.0), (0.8, 0.01, 0.01), (0.8, 5.0, 0.0625)):
        loss, _ = Objective("min_snr", times=At(t), gamma=gamma)(denoiser, x_0, mask, None, random)
        assert loss.mean().item() == pytest.approx(weight, rel=1e-12)  # the error of an idle data network is x_0


@rows
@scheduled
def test_noise_weighting_is_denoising_score_matching(schedule, row):
    """sigma^2 |s - grad log q(x_t | x_0)|^2 with the model's score s, and so the row score under weighting noise."""
    denoiser = plain(schedule, row, 0.8, Odd())
    x_0, z = torch.randn(5, 3, 1).double(), torch.randn(5, 3, 1).double()
    for t in TIMES:
        time = torch.full((5,), t, dtype=torch.float64)
        alpha, sigma = (expand(f(time), z) for f in (schedule.alpha, schedule.sigma))
        x_t = (alpha * x_0 + sigma * z).requires_grad_()
        log_q = (-((x_t - alpha * x_0) ** 2) / (2 * sigma**2)).sum()
        target = torch.autograd.grad(log_q, x_t)[0]
        score = denoiser({"x": x_t}, time).score["x"]
        loss, _ = Objective("noise", times=At(t))(denoiser, {"x": x_0}, torch.ones(5, 3).bool(), None, Given(z))
        assert torch.allclose(loss, (sigma**2 * (score - target) ** 2).mean((1, 2)), rtol=1e-6)


@rows
@scheduled
def test_weightings_are_the_errors_that_they_are_named_for(schedule, row):
    """With any network: the mean squared errors of data, noise, velocity and of the network's own target."""
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2))})
    denoiser = Denoiser(Odd(), process, row, {"x": 0.8})
    x_0, z = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 2).double()
    for t in TIMES:
        time = torch.full((3,), t, dtype=torch.float64)
        alpha, sigma = (expand(f(time), z) for f in (schedule.alpha, schedule.sigma))
        estimate = denoiser({"x": alpha * x_0 + sigma * z}, time)
        d_alpha, d_sigma = (expand(d, z) for d in schedule.derivatives(time))
        errors = {
            "data": estimate.data["x"] - x_0,
            "noise": estimate.noise["x"] - z,
            "velocity": estimate.velocity["x"] - (d_alpha * x_0 + d_sigma * z),
        }
        errors["network"] = {
            "data": errors["data"],
            "noise": errors["noise"],
            "v": (estimate.v["x"] - (alpha * z - sigma * x_0)) / (alpha**2 + sigma**2) ** 0.5,
            "flow": estimate.noise["x"] - estimate.data["x"] - (z - x_0),
            "karras": errors["data"] * (sigma**2 + (0.8 * alpha) ** 2) ** 0.5 / (0.8 * sigma),
            "residual": errors["data"] / 0.8,
            "score": estimate.score["x"] + z / sigma,
            "mean": errors["data"] * mean_of_data(schedule, t),
        }[row]
        for weighting, error in errors.items():
            objective = Objective(weighting, times=At(t))
            loss, _ = objective(denoiser, {"x": x_0}, torch.ones(3, 4).bool(), None, Given(z))
            assert torch.allclose(loss, (error**2).mean((1, 2)), rtol=1e-6), weighting


@rows
def test_targets_keep_their_digits_near_the_data(row):
    """In float32 at t = 1e-6 the loss agrees with float64: x_0 is not recovered from x_t by a difference."""

    class Half(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": 0.5 * torch.ones_like(x["x"])}

    losses = []
    for dtype in (torch.float32, torch.float64):
        objective = Objective(times=At(1e-6, dtype))
        x = torch.tensor([[[0.3], [-1.2]]], dtype=dtype)
        noise = Given(torch.tensor([[[0.7], [0.4]]], dtype=dtype))
        losses.append(
            objective(plain(Linear(), row, 1.0, Half()), {"x": x}, torch.ones(1, 2).bool(), None, noise)[0].item()
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_bound_on_the_weight():
    x_0, mask, random = quadrature(1.0)
    denoiser = plain(Flow(), "data", network=optimal(0.5, plain(Flow(), "data"), 0.01))
    free, bound = (
        Objective("noise", times=At(0.01), max_weight=w)(denoiser, x_0, mask, None, random)[0] for w in (None, 100.0)
    )
    assert torch.allclose(bound / free, torch.full((4,), 100 / (0.99 / 0.01) ** 2).double())


# Invariances


class Molecules(nn.Module):
    """An equivariant toy: moves nodes along the vectors between them, by their distances and classes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]).double()), nn.Parameter(torch.tensor(0.5).double())

    def forward(self, x, noise_level, mask, condition):
        position, element = x["position"], x["element"]
        real = mask[..., None].to(position)
        difference = position[:, :, None] - position[:, None]
        weight = torch.exp(-(difference**2).sum(-1, keepdim=True)) * real[:, :, None] * real[:, None]
        degree = weight.sum(2) * real
        change = (weight * difference * (element @ self.a)[:, None, :, None]).sum(2) + noise_level[
            :, :1, None
        ] * position
        if condition is not None:
            degree = degree + torch.nan_to_num(condition["y"])[:, None, None]
        return {
            "position": self.b * change,
            "element": (element + degree) * self.a,
            "position_fraction": torch.tanh(degree).expand_as(position),
        }


def molecules(self_condition=False, categorical=True):
    element = CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3))
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass()),
            "element": element if categorical else GaussianProcess(Cosine(), Euclidean(3)),
        }
    )
    return Denoiser(Molecules(), process, "noise", {"position": 1.5}, self_condition=self_condition)


def batch(sizes=(4, 2, 5), length=5):
    mask = size_mask(torch.tensor(sizes), length)
    position = torch.randn(len(sizes), length, 3).double()
    element = nn.functional.one_hot(torch.randint(3, (len(sizes), length)), 3).double()
    return {"position": ZeroCenterOfMass().project(position, mask), "element": element * mask[..., None]}, mask


OBJECTIVES = {
    "noise": Objective(),
    "velocity": Objective("velocity", {"element": 0.1}),
    "lognormal": Objective("karras", times=LogNormal()),
    "uncertainty": Objective(uncertainty=Uncertainty()),
    "hybrid": Hybrid(0.1, 20),
    "bound": Bound(20),
    "continuous": Bound(None),
    "implicit": ImplicitScoreMatching(),
    "sliced": SlicedScoreMatching(2),
}
objectives = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def fitting(objective):
    """A denoiser that the objective can train."""
    return molecules(categorical=not isinstance(objective, ImplicitScoreMatching))


@objectives
def test_a_sample_loses_the_same_alone_and_in_a_padded_batch(objective):
    x_0, mask = batch()
    denoiser = fitting(objective)
    loss, parts = objective(denoiser, x_0, mask, None, Random(0, 3))
    for i, n in enumerate((4, 2, 5)):
        alone = {name: value[i : i + 1, :n] for name, value in x_0.items()}
        one, pieces = objective(denoiser, alone, mask[i : i + 1, :n], None, Random(0, torch.tensor([i])))
        assert torch.allclose(one[0], loss[i], rtol=1e-5)  # noise is drawn in float32
        for name, part in pieces.items():
            assert torch.allclose(part[0], parts[name][i], rtol=1e-5)
    wide = {name: nn.functional.pad(value, (0, 0, 0, 3)) for name, value in x_0.items()}
    padded, _ = objective(denoiser, wide, nn.functional.pad(mask, (0, 3)), None, Random(0, 3))
    assert torch.allclose(padded, loss, rtol=1e-5)
    order = torch.tensor([2, 0, 1])
    shuffled, _ = objective(denoiser, {n: v[order] for n, v in x_0.items()}, mask[order], None, Random(0, order))
    assert torch.allclose(shuffled, loss[order], rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(OBJECTIVES.keys() - {"sliced"}))  # random directions are not turned along
def test_rotation_and_reflection_leave_the_loss_unchanged(kind, monkeypatch):
    """With the noise turned along, sample by sample."""
    objective = OBJECTIVES[kind]
    x_0, mask = batch()
    turn = torch.linalg.qr(torch.randn(3, 3).double()).Q
    denoiser = fitting(objective)
    loss, _ = objective(denoiser, x_0, mask, None, Random(0, 3))
    draw = denoiser.process.noise
    turned_noise = lambda *a: {n: v.double() @ turn if n == "position" else v for n, v in draw(*a).items()}  # noqa: E731
    monkeypatch.setattr(denoiser.process, "noise", turned_noise)
    turned, _ = objective(denoiser, {**x_0, "position": x_0["position"] @ turn}, mask, None, Random(0, 3))
    assert torch.allclose(turned, loss, rtol=1e-10)
    assert not torch.allclose(objective(denoiser, x_0, mask, None, Random(0, 3))[0], loss, rtol=1e-3)


def test_the_loss_is_per_degree_of_freedom():
    """An error of one on every free direction is a loss of one, whatever the size of the molecule."""
    mask = size_mask(torch.tensor([2, 5]), 5)

    class Shift(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": (Given(z).normal(z.shape) + u) * mask[..., None]}

    space = ZeroCenterOfMass()
    z, u = (space.project(torch.randn(2, 5, 3).double(), mask) for _ in range(2))
    u = u * ((space.dim(mask, u) / space.sum(u**2, mask)).sqrt())[:, None, None]
    denoiser = Denoiser(Shift(), JointProcess({"x": GaussianProcess(Linear(), space)}), "noise")
    loss, _ = Objective(times=At(0.5))(denoiser, {"x": torch.zeros(2, 5, 3).double()}, mask, None, Given(z))
    assert torch.allclose(loss, torch.ones(2).double())


def test_what_a_network_says_outside_the_space_costs_nothing():
    """A common shift of all nodes, and junk at padding."""

    class Shifted(Molecules):
        def forward(self, x, noise_level, mask, condition):
            output = super().forward(x, noise_level, mask, condition)
            junk = torch.where(mask[..., None], 5.0, torch.randn(3).double())
            return {"position": output["position"] + junk, "element": output["element"] + junk * ~mask[..., None]}

    x_0, mask = batch()
    loss, _ = Objective()(molecules(), x_0, mask, None, Random(0, 3))
    shifted = molecules()
    shifted.network = Shifted()
    assert torch.allclose(Objective()(shifted, x_0, mask, None, Random(0, 3))[0], loss, rtol=1e-10)


def test_cross_entropy_of_categories():
    logits = torch.randn(2, 3, 4).double()

    class Net(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"c": logits}

    process = JointProcess({"c": CategoricalProcess(Linear(), [0.25] * 4, Euclidean(4))})
    classes, mask = torch.tensor([[0, 3, 1], [2, 2, 0]]), size_mask(torch.tensor([3, 2]))
    x_0 = {"c": nn.functional.one_hot(classes, 4).double() * mask[..., None]}
    loss, _ = Objective()(Denoiser(Net(), process), x_0, mask, None, Random(0, 2))
    each = nn.functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none") * mask
    assert torch.allclose(loss, each.sum(1) / mask.sum(1))


def test_fields_are_added_by_their_factors():
    x_0, mask = batch()
    total, parts = Objective(scale={"element": 0.25})(molecules(), x_0, mask, None, Random(0, 3))
    assert torch.allclose(total, parts["position"] + 0.25 * parts["element"])
    _, other = Objective({"position": "data"})(molecules(), x_0, mask, None, Random(0, 3))
    assert torch.equal(other["element"], parts["element"])
    assert not torch.allclose(other["position"], parts["position"], rtol=1e-3)


# Conditions and self-conditioning


def test_conditions_are_dropped_by_sample_all_at_once_or_each_alone():
    n, p = 4000, 0.3
    condition = {"y": torch.arange(n).double(), "label": torch.arange(n), "vector": torch.randn(n, 3)}
    dropped = drop_condition(condition, p, Random(0, n))
    missing = {"y": dropped["y"].isnan(), "label": dropped["label"] == -1, "vector": dropped["vector"].isnan().all(1)}
    assert torch.equal(dropped["vector"].isnan().any(1), missing["vector"])
    for name, value in condition.items():
        assert torch.equal(dropped[name][~missing[name]], value[~missing[name]])
    for pattern in itertools.product([False, True], repeat=3):
        found = torch.stack([missing[name] == gone for name, gone in zip(missing, pattern, strict=True)]).all(0)
        alone = p ** sum(pattern) * (1 - p) ** (3 - sum(pattern))
        assert stats.binomtest(int(found.sum()), n, p * all(pattern) + (1 - p) * alone).pvalue > 0.005
    for probability, count in ((0.0, 0), (1.0, n)):
        assert int((drop_condition(condition, probability, Random(0, n))["label"] == -1).sum()) == count


def test_a_single_condition_is_dropped_with_the_probability_itself():
    missing = drop_condition({"y": torch.ones(4000)}, 0.3, Random(1, 4000))["y"].isnan()
    assert stats.binomtest(int(missing.sum()), 4000, 0.3).pvalue > 0.01


def test_the_objective_drops_conditions_only_from_the_denoiser():
    seen = []

    class Spy(Molecules):
        def forward(self, x, noise_level, mask, condition):
            seen.append(condition["y"])
            return super().forward(x, noise_level, mask, condition)

    denoiser = molecules()
    denoiser.network = Spy()
    x_0, mask = batch((3,) * 500, 3)
    condition = {"y": torch.ones(500).double()}
    Objective(condition_dropout=0.2)(denoiser, x_0, mask, condition, Random(0, 500))
    assert stats.binomtest(int(seen[0].isnan().sum()), 500, 0.2).pvalue > 0.01
    assert torch.equal(condition["y"], torch.ones(500).double())


def test_self_conditioning_is_a_coin_for_the_batch_without_gradient():
    calls = []

    class Spy(Molecules):
        def forward(self, x, noise_level, mask, condition):
            calls.append((torch.is_grad_enabled(), x["position_previous"]))
            return super().forward(x, noise_level, mask, condition)

    denoiser = molecules(self_condition=True)
    denoiser.network = Spy()
    x_0, mask = batch()
    counts = []
    for seed in range(200):
        calls.clear()
        Objective(self_condition=0.3)(denoiser, x_0, mask, None, Random(seed, 3))
        counts.append(len(calls))
        assert calls[-1][0]
        assert calls[-1][1].any() == (len(calls) == 2)
        if len(calls) == 2:
            assert not calls[0][0]
            assert not calls[0][1].any()
    assert stats.binomtest(counts.count(2), 200, 0.3).pvalue > 0.01
    assert set(counts) == {1, 2}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@rows
def test_gradients_are_finite_and_reach_the_network(row, weighting):
    x_0, mask = batch((4,) * 64, 4)
    denoiser = molecules()
    denoiser.parameterization["position"] = row
    loss, _ = Objective(weighting, max_weight=1e6)(denoiser, x_0, mask, None, Random(0, 64))
    loss.mean().backward()
    for parameter in denoiser.network.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective("sigma"), "weighting must be one of .* got 'sigma'"),
        (lambda: Objective({"x": "sigma"}), "weighting must be one of .* got 'sigma'"),
        (lambda: Objective(gamma=0), "gamma must be positive, got 0"),
        (lambda: Objective(condition_dropout=1.5), "probabilities must lie in"),
        (lambda: Objective(self_condition=-0.1), "probabilities must lie in"),
    ],
)
def test_impossible_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_objective_is_described_and_rebuilt():
    for thing in [
        Objective({"x": "min_snr"}, {"x": 2.0}, Power(2.0), 5.0, 0.2, 0.3, 7.0, OptimalTransport("x"), Uncertainty(8)),
        Objective(times=LossAware(7, 3, 0.01)),
        Objective(times=LogNormal(-1.0, 1.5)),
        Objective(times=Piecewise(50)),
        Bound(20, times=Antithetic()),
        Bound(None, 0.01),
        Hybrid(0.01, 50, "network", {"x": 2.0}, Uniform(), 5.0, 0.2, 0.3),
        ImplicitScoreMatching({"x": 2.0}, Power(2.0), 0.2, 0.3),
        SlicedScoreMatching(3, "normal", {"x": 2.0}, Power(2.0), 0.2, 0.3),
    ]:
        description = json.dumps(describe(thing))
        again = build(json.loads(description))
        assert type(again) is type(thing)
        assert json.dumps(describe(again)) == description
        again.load_state_dict(thing.state_dict())


def test_descriptions_from_before_the_room_was_a_folder_are_read():
    old = {"class": "gendiff.objective.Objective", "times": {"class": "gendiff.objective.Power", "power": 2.0}}
    assert build(old).times.power == 2.0
    assert build({"class": "gendiff.objective.Bound", "steps": 7}).steps == 7


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": torch.zeros(4, 2)}, r"field 'x' has shape \(4, 2\); it should be \(B, N, 2\), B samples"),
        ({"x": torch.zeros(4, 1, 3)}, r"field 'x' has shape \(4, 1, 3\); it should be \(B, N, 2\)"),
        ({"y": torch.zeros(4, 1, 2)}, r"the state has the fields \['y'\]; those of the process are \['x'\]"),
    ],
)
def test_a_state_is_checked_before_it_is_learned(state, message):
    process = JointProcess({"x": GaussianProcess(Cosine(), Euclidean(2))})
    with pytest.raises(ValueError, match=message):
        Objective()(Denoiser(nn.Identity(), process, "v"), state, None, None, Random(0, 4))


def test_no_mask_is_a_mask_of_all():
    class Echo(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": x["x"].tanh()}

    process = JointProcess({"x": GaussianProcess(Cosine(), ZeroCenterOfMass())})
    denoiser, x = Denoiser(Echo(), process, "v"), {"x": torch.randn(4, 5, 3)}
    everywhere = torch.ones(4, 5, dtype=torch.bool)
    losses = [Objective()(denoiser, x, mask, None, Random(0, 4))[0] for mask in (None, everywhere)]
    assert torch.equal(*losses)
