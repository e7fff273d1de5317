"""Classifier-free guidance, on laws whose guided flow is known."""

import math

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser, Estimate
from gendiff.guide import ClassifierFree, Gradient, Threshold
from gendiff.ops import Random, expand, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun, downward
from gendiff.schedule import Cosine, Flow, Linear
from gendiff.space import Euclidean

SAMPLERS = [DDIM, Ancestral, Heun, DPMSolver]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def coupled():
    """A number and a class on two nodes, whose condition is the component they come from."""
    process = JointProcess(
        {
            "x": GaussianProcess(Linear(), Euclidean(1)),
            "c": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )
    p = f64([0.7, 0.2, 0.1], [0.1, 0.1, 0.8])[:, None]
    return AnalyticDenoiser(process, [0.4, 0.6], {"x": (f64(-1.0, 1.0)[:, None, None], 0.6), "c": p})


def state(n=6):
    mask = size_mask(torch.tensor([2, 1] * (n // 2)), 2)
    c = torch.nn.functional.one_hot(torch.randint(3, (n, 2)), 3) * mask[..., None]
    return {"x": torch.randn(n, 2, 1).double() * mask[..., None], "c": c.double()}, mask


CONDITION = {"component": torch.tensor([0, 1, 0, 1, 1, 0])}


@pytest.mark.parametrize(("scale", "interval"), [(1.0, (-math.inf, math.inf)), (3.0, (5.0, 5.0)), (3.0, (2.0, -2.0))])
@pytest.mark.parametrize("make", SAMPLERS)
def test_no_guidance_is_the_conditional_model_to_the_last_bit(make, scale, interval):
    x, mask = state()
    guided = ClassifierFree(coupled(), scale, interval)
    plain, same = (make(12)(d, x, mask, CONDITION, Random(0, 6)) for d in (coupled(), guided))
    for name in x:
        assert torch.equal(plain[name], same[name])


def test_outside_the_interval_the_estimate_is_the_conditional_one():
    """For each sample by its own noise, the clock's log-SNR in [low, high)."""
    x, mask = state()
    t = Linear().time(f64(-3.0, -1.0 - 1e-9, -1.0 + 1e-9, 0.0, 2.0 - 1e-9, 2.0 + 1e-9))
    plain = coupled()(x, t, mask, CONDITION).data
    partly = ClassifierFree(coupled(), 3.0, (-1.0, 2.0))(x, t, mask, CONDITION).data
    fully = ClassifierFree(coupled(), 3.0)(x, t, mask, CONDITION).data
    inside = torch.tensor([False, False, True, True, True, False])
    assert torch.equal(partly["x"][~inside], plain["x"][~inside])
    assert torch.allclose(partly["c"][~inside], plain["c"][~inside], rtol=1e-12)
    for name in x:
        assert torch.equal(partly[name][inside], fully[name][inside])
        assert ((fully[name] - plain[name]).abs().flatten(1).amax(1) > 1e-3)[mask.all(1)].all()


def test_no_weight_is_the_unconditional_model():
    x, mask = state()
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    guided, free = ClassifierFree(coupled(), 0.0)(x, t, mask, CONDITION).data, coupled()(x, t, mask).data
    for name in x:
        assert torch.allclose(guided[name], free[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [-0.5, 0.5, 2.5])
def test_the_estimates_are_mixed_linearly_and_the_classes_geometrically(scale):
    x, mask = state()
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    guided = ClassifierFree(coupled(), scale)(x, t, mask, CONDITION)
    c, u = coupled()(x, t, mask, CONDITION).data, coupled()(x, t, mask).data
    assert torch.allclose(guided.data["x"], (1 - scale) * u["x"] + scale * c["x"])
    p = u["c"] ** (1 - scale) * c["c"] ** scale
    p = torch.nan_to_num(p / p.sum(-1, keepdim=True)) * mask[..., None]
    assert torch.allclose(guided.data["c"], p, atol=1e-12)
    assert torch.allclose(guided.logits["c"].softmax(-1) * mask[..., None], p, atol=1e-12)
    assert torch.equal(guided.x_t["x"], x["x"])
    assert guided.score["x"].shape == x["x"].shape


class TwoWidths:
    """N(0, y) given y, and N(0, 4) when the condition is missing."""

    def __init__(self, schedule):
        self.process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})

    def __call__(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        v = expand(torch.nan_to_num(condition["y"], nan=4.0), x_t["x"])
        alpha, sigma = (expand(f(t), v) for f in (self.process.schedule.alpha, self.process.schedule.sigma))
        return Estimate(self.process, x_t, t, {"x": alpha * v / (alpha**2 * v + sigma**2) * x_t["x"]})


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_the_guided_flow_of_gaussians_has_a_closed_form(schedule, scale):
    """p(x_t | y)^w p(x_t)^(1 - w) is Gaussian: the stretches of the two flows multiply with those powers."""
    t, s = schedule.time(f64(-4.0, 4.0)).tolist()
    y = f64(0.25, 1.0, 2.0)

    def stretch(v):
        (a, b), (c, d) = ((schedule.alpha(f64(u)), schedule.sigma(f64(u))) for u in (t, s))
        return ((c**2 * v + d**2) / (a**2 * v + b**2)).sqrt()

    exact = stretch(y) ** scale * stretch(f64(4.0)) ** (1 - scale)
    plan = downward(schedule.time(torch.linspace(-4, 4, 201, dtype=torch.float64)).tolist())
    x = torch.ones(3, 1, 1, dtype=torch.float64)
    end = Heun()(ClassifierFree(TwoWidths(schedule), scale), {"x": x}, condition={"y": y}, plan=plan)["x"]
    assert torch.allclose(end.flatten(), exact, rtol=1e-3)
    if scale == 2.5:
        assert not torch.allclose(exact, stretch(y), rtol=0.05)


def test_guided_samples_hold_more_of_the_condition():
    """Unconditional at w = 0, the component asked for at w = 1, and further from the other one at w = 3."""
    n, shares, means = 1000, [], []
    mask, condition = torch.ones(n, 1, dtype=torch.bool), {"component": torch.zeros(n, dtype=torch.long)}
    for scale in (0.0, 1.0, 3.0):
        denoiser, random = coupled(), Random(0, n)
        start = denoiser.process.prior(denoiser.process.noise(mask, random), mask)
        end = DDIM(20)(ClassifierFree(denoiser, scale), start, mask, condition, random)
        shares.append(end["c"][:, 0, 0].mean().item())
        means.append(end["x"].mean().item())
    assert shares[0] == pytest.approx(0.4 * 0.7 + 0.6 * 0.1, abs=0.06)
    assert shares[1] == pytest.approx(0.7, abs=0.06)
    assert shares[2] > shares[1]
    assert means[:2] == pytest.approx([0.4 * -1 + 0.6 * 1, -1], abs=0.1)
    assert means[2] < -1.4


def test_both_estimates_come_from_one_call_with_all_that_belongs_to_it():
    calls = []

    class Spy(AnalyticDenoiser):
        def forward(self, *arguments):
            calls.append(arguments)
            return super().forward(*arguments)

    plain = coupled()
    spy = Spy(plain.process, plain.weights, plain.law)
    x, mask = state()
    t, previous = torch.linspace(0.1, 0.9, 6, dtype=torch.float64), {name: value + 1 for name, value in x.items()}
    noise = torch.randn(6, 4)
    ClassifierFree(spy, 2.0)(x, t, mask, CONDITION, previous, noise)
    ((both, times, masks, condition, last, noises),) = calls
    assert condition["component"].tolist() == [*CONDITION["component"].tolist(), *[-1] * 6]
    for twice, once in ((times, t), (masks, mask), (both["c"], x["c"]), (last["x"], previous["x"]), (noises, noise)):
        assert torch.equal(twice, torch.cat([once, once]))


@pytest.mark.parametrize("condition", [None, {}])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_guidance_needs_a_condition(scale, condition):
    x, mask = state()
    with pytest.raises(ValueError, match="classifier-free guidance needs a condition; sample with one"):
        ClassifierFree(coupled(), scale)(x, f64(*[0.5] * 6), mask, condition)


# Rescaling


def deviation(value, mask):
    """The standard deviation over the real entries of each sample."""
    entries = mask[..., None].expand_as(value)
    return torch.stack([v[m].std() for v, m in zip(value, entries, strict=True)])


class Wide(AnalyticDenoiser):
    """Four nodes of two numbers, which a condition places and shapes."""

    def __init__(self, schedule):
        process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2))})
        means = torch.arange(16, dtype=torch.float64).reshape(2, 4, 2).sin()
        super().__init__(process, [0.4, 0.6], {"x": (means, f64(0.3, 0.8)[:, None, None])})


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_a_full_rescale_has_the_deviation_of_the_conditional_v(schedule):
    """Over the real entries of each sample; half a rescale lies half way."""
    mask = size_mask(torch.tensor([4, 2, 3, 4, 1, 4]), 4)
    x = {"x": torch.randn(6, 4, 2).double() * mask[..., None]}
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    plain = Wide(schedule)(x, t, mask, CONDITION)
    guided, half, full = (
        ClassifierFree(Wide(schedule), 4.0, rescale=phi)(x, t, mask, CONDITION) for phi in (0, 0.5, 1)
    )
    wanted, grown = deviation(plain.v["x"], mask), deviation(guided.v["x"], mask)
    assert torch.allclose(deviation(full.v["x"], mask), wanted, rtol=1e-12)
    assert torch.allclose(deviation(half.v["x"], mask), (wanted + grown) / 2, rtol=1e-12)
    assert ((grown / wanted - 1).abs() > 0.5).sum() >= 4
    assert torch.allclose(full.v["x"], expand(wanted / grown, x["x"]) * guided.v["x"], rtol=1e-10)
    assert not full.data["x"][~mask].any()


def test_rescaling_leaves_classes_lone_numbers_and_what_is_not_guided_alone():
    x, mask = state()  # every other sample has one number only, which has no deviation
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    plain = coupled()
    plain.law["x"] = (f64([-1.0, 0.5], [1.0, 0.0])[:, :, None], 0.6)
    guided, full = (ClassifierFree(plain, 4.0, rescale=phi)(x, t, mask, CONDITION).data for phi in (0, 1))
    assert torch.equal(guided["c"], full["c"])
    assert torch.equal(guided["x"][1::2], full["x"][1::2])
    assert not torch.isclose(guided["x"][::2, 0], full["x"][::2, 0]).any()
    elsewhere = ClassifierFree(plain, 4.0, (50.0, 60.0), rescale=1)(x, t, mask, CONDITION).data
    assert torch.equal(elsewhere["x"], plain(x, t, mask, CONDITION).data["x"])


def test_what_else_the_model_says_is_that_of_the_condition():
    class Knowing(AnalyticDenoiser):
        def forward(self, x_t, t, mask, condition, *rest):
            estimate = super().forward(x_t, t, mask, condition, *rest)
            estimate.fraction["x"] = expand(condition["component"], x_t["x"]) + 0 * x_t["x"]
            estimate.variance["x"] = expand(condition["component"], x_t["x"])
            return estimate

    plain = coupled()
    x, mask = state()
    guided = ClassifierFree(Knowing(plain.process, plain.weights, plain.law), 2.0)(
        x, torch.full((6,), 0.5), mask, CONDITION
    )
    assert torch.equal(guided.fraction["x"], CONDITION["component"][:, None, None].expand(6, 2, 1).double())
    assert torch.equal(guided.variance["x"], CONDITION["component"][:, None, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": math.nan}, "scale must be a finite number, got nan"),
        ({"scale": math.inf}, "scale must be a finite number, got inf"),
        (
            {"scale": 2, "interval": (1.0,)},
            r"interval must be two log signal-to-noise ratios \(low, high\), got \(1.0,\)",
        ),
        ({"scale": 2, "interval": (math.nan, 1.0)}, "interval must be two"),
        ({"scale": 2, "rescale": 1.5}, r"rescale must lie in \[0, 1\] .* got 1.5"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClassifierFree(coupled(), **options)


def test_a_gradient_inside_is_refused_because_it_cannot_know_of_twice_the_batch():
    inner = Threshold(Gradient(coupled(), lambda x, t, mask: x["x"].sum((1, 2))))
    with pytest.raises(ValueError, match="put Gradient around ClassifierFree, not into it"):
        ClassifierFree(inner, 2.0)
