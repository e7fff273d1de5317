"""Losses: exact expectations by quadrature, conversions between weightings, and invariances.

A squared error is quadratic in the data and the noise, so its mean over x_0 = +-sqrt(v) and noise = +-1 is its exact
expectation.
"""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from gendiff.denoise import PARAMETERIZATIONS, AnalyticDenoiser, Denoiser
from gendiff.likelihood import variational_bound
from gendiff.objective import WEIGHTINGS, Bound, Objective, Power, Uniform, drop_condition
from gendiff.ops import Random, expand, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
ROWS = [row for row in PARAMETERIZATIONS if row != "logits"]
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
rows = pytest.mark.parametrize("row", ROWS)
TIMES = (0.002, 0.1, 0.4, 0.7, 0.95)
SIGNS = torch.cartesian_prod(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0])).double()


class At:
    """A law of times: always t."""

    def __init__(self, t):
        self.t = t

    def __call__(self, random):
        return torch.full((len(random.indices),), self.t, dtype=torch.float64)


class Given:
    """Stands in for `Random`: hands out the same uniform and normal numbers at every draw."""

    def __init__(self, normal, uniform=0.5):
        self.n, self.u, self.indices = normal, uniform, torch.arange(len(normal))

    def normal(self, shape):
        return self.n.reshape(shape)

    def uniform(self, shape):
        return torch.as_tensor(self.u, dtype=torch.float64).expand(shape)

    def shared_uniform(self):
        return 0.5


class Optimal(nn.Module):
    """The linear network whose denoiser is exact for N(0, v) at one time."""

    def __init__(self, v, denoiser, t):
        super().__init__()
        time = torch.tensor([t], dtype=torch.float64)
        alpha, sigma, skip, out = (float(c) for c in denoiser.row("x", time, time))
        exact, scale = alpha * v / (alpha**2 * v + sigma**2), denoiser.data_scale["x"]
        self.gain = (exact - skip) / out * math.sqrt((alpha * scale) ** 2 + sigma**2)

    def forward(self, x, noise_level, mask, condition):
        return {"x": self.gain * x["x"]}


def plain(schedule, row, scale=1.0, network=None):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1))})
    return Denoiser(network or nn.Identity(), process, row, {"x": scale})


def quadrature(v):
    """x_0, mask and noise of the four points whose mean is the expectation over N(0, v) and N(0, 1)."""
    return {"x": SIGNS[:, :1, None] * v**0.5}, torch.ones(4, 1, dtype=torch.bool), Given(SIGNS[:, 1])


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
    }
    return {"network": own[row], "data": 1.0, "noise": snr, "min_snr": min(snr, 5.0)}[weighting]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@rows
@scheduled
def test_the_loss_of_the_optimal_denoiser_is_the_weighted_conditional_variance(schedule, row, weighting):
    """E[w (x_0 - E[x_0 | x_t])^2] = w v / (1 + v SNR) for N(0, v)."""
    v = 1.6
    for t in (0.0021, 0.1003, 0.4004, 0.7007, 0.9501):
        denoiser = plain(schedule, row, 1.3)
        denoiser.network = Optimal(v, denoiser, t)
        x_0, mask, random = quadrature(v)
        objective = Objective(weighting, times=At(t))
        loss, parts = objective(denoiser, x_0, mask, None, random)
        snr = schedule.log_snr(torch.tensor(t, dtype=torch.float64)).exp().item()
        assert loss.mean().item() == pytest.approx(expected(weighting, denoiser, t) * v / (1 + v * snr), rel=2e-6)
        assert torch.equal(loss, parts["x"])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@scheduled
def test_karras_with_an_idle_network_has_loss_1_at_every_noise_level(schedule, scale):
    """For any data of the stated deviation."""

    class Zero(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": torch.zeros_like(x["x"])}

    for t in TIMES:
        x_0, mask, random = quadrature(scale**2)
        loss, _ = Objective(times=At(t))(plain(schedule, "karras", scale, Zero()), x_0, mask, None, random)
        assert loss.mean().item() == pytest.approx(1, rel=1e-9)


@rows
@scheduled
def test_weightings_are_the_errors_that_they_are_named_for(schedule, row):
    """With any network: the mean squared errors of data, noise, velocity and of the network's own target."""

    class Odd(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": torch.sin(3 * x["x"]) + noise_level[:, :1, None]}

    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2))})
    denoiser = Denoiser(Odd(), process, row, {"x": 0.8})
    x_0, z = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 2).double()
    for t in TIMES:
        time = At(t)(Given(z))
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
        }[row]
        for weighting, error in errors.items():
            objective = Objective(weighting, times=At(t))
            loss, _ = objective(denoiser, {"x": x_0}, torch.ones(3, 4).bool(), None, Given(z))
            assert torch.allclose(loss, (error**2).mean((1, 2)), rtol=1e-6), weighting


@rows
def test_targets_keep_their_digits_near_the_data(row):
    """In float32 at t = 1e-6 the loss agrees with float64: x_0 is not recovered from x_t by a difference."""
    losses = []
    for dtype in (torch.float32, torch.float64):

        class Half(nn.Module):
            def forward(self, x, noise_level, mask, condition):
                return {"x": 0.5 * torch.ones_like(x["x"])}

        objective = Objective(times=lambda random: torch.full((1,), 1e-6, dtype=dtype))  # noqa: B023
        x = torch.tensor([[[0.3], [-1.2]]], dtype=dtype)
        noise = Given(torch.tensor([[[0.7], [0.4]]], dtype=dtype))
        losses.append(
            objective(plain(Linear(), row, 1.0, Half()), {"x": x}, torch.ones(1, 2).bool(), None, noise)[0].item()
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_bound_on_the_weight():
    x_0, mask, random = quadrature(1.0)
    denoiser = plain(Flow(), "data", network=Optimal(0.5, plain(Flow(), "data"), 0.01))
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
        return {"position": self.b * change, "element": (element + degree) * self.a}


def molecules(self_condition=False):
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass()),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )
    return Denoiser(Molecules(), process, "noise", {"position": 1.5}, self_condition=self_condition)


def batch(sizes=(4, 2, 5), length=5):
    mask = size_mask(torch.tensor(sizes), length)
    position = torch.randn(len(sizes), length, 3).double()
    element = nn.functional.one_hot(torch.randint(3, (len(sizes), length)), 3).double()
    return {"position": ZeroCenterOfMass().project(position, mask), "element": element * mask[..., None]}, mask


OBJECTIVES = {"noise": Objective(), "velocity": Objective("velocity", {"element": 0.1}), "bound": Bound(20)}
objectives = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@objectives
def test_a_sample_loses_the_same_alone_and_in_a_padded_batch(objective):
    x_0, mask = batch()
    loss, parts = objective(molecules(), x_0, mask, None, Random(0, 3))
    for i, n in enumerate((4, 2, 5)):
        alone = {name: value[i : i + 1, :n] for name, value in x_0.items()}
        one, pieces = objective(molecules(), alone, mask[i : i + 1, :n], None, Random(0, torch.tensor([i])))
        assert torch.allclose(one[0], loss[i], rtol=1e-5)  # noise is drawn in float32
        for name, part in pieces.items():
            assert torch.allclose(part[0], parts[name][i], rtol=1e-5)
    wide = {name: nn.functional.pad(value, (0, 0, 0, 3)) for name, value in x_0.items()}
    padded, _ = objective(molecules(), wide, nn.functional.pad(mask, (0, 3)), None, Random(0, 3))
    assert torch.allclose(padded, loss, rtol=1e-5)
    order = torch.tensor([2, 0, 1])
    shuffled, _ = objective(molecules(), {n: v[order] for n, v in x_0.items()}, mask[order], None, Random(0, order))
    assert torch.allclose(shuffled, loss[order], rtol=1e-5)


@objectives
def test_rotation_and_reflection_leave_the_loss_unchanged(objective, monkeypatch):
    """With the noise turned along, sample by sample."""
    x_0, mask = batch()
    turn = torch.linalg.qr(torch.randn(3, 3).double()).Q
    denoiser = molecules()
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


# The bound


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


# Conditions, self-conditioning, times


def test_conditions_are_dropped_by_sample_and_all_at_once():
    n = 4000
    condition = {"y": torch.arange(n).double(), "label": torch.arange(n), "vector": torch.randn(n, 3)}
    dropped = drop_condition(condition, 0.3, Random(0, n))
    missing = dropped["label"] == -1
    assert stats.binomtest(int(missing.sum()), n, 0.3).pvalue > 0.01
    assert torch.equal(dropped["y"].isnan(), missing)
    assert torch.equal(dropped["vector"].isnan().all(1), missing)
    for name, value in condition.items():
        assert torch.equal(dropped[name][~missing], value[~missing])
    for probability, count in ((0.0, 0), (1.0, n)):
        assert int((drop_condition(condition, probability, Random(0, n))["label"] == -1).sum()) == count


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


@pytest.mark.parametrize(("times", "power"), [(Uniform(), 1.0), (Power(), 1.5), (Power(3.0), 3.0)])
def test_times(times, power):
    t = times(Random(0, 20_000))
    assert stats.kstest(t.numpy(), lambda x: x ** (1 / power)).pvalue > 0.01
    assert t.shape == (20_000,)
    assert t.min() > 0


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
        (lambda: Objective(condition_dropout=1.5), "probabilities must lie in"),
        (lambda: Objective(self_condition=-0.1), "probabilities must lie in"),
        (lambda: Power(0), "power must be positive"),
        (lambda: Bound(0), "steps must be at least 1, got 0"),
    ],
)
def test_impossible_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
