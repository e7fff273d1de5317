"""Autoguidance, and that guidance composes."""

import math

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.guide import Autoguidance, ClassifierFree, Gradient, Threshold
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun, downward
from gendiff.schedule import Cosine, Flow, Linear
from gendiff.space import Euclidean


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def coupled(spread=0.6, probabilities=(0.7, 0.2, 0.1), schedule=None, stationary=(0.2, 0.3, 0.5)):
    process = JointProcess(
        {
            "x": GaussianProcess(schedule or Linear(), Euclidean(1)),
            "c": CategoricalProcess(Cosine(), stationary, Euclidean(3)),
        }
    )
    p = f64(list(probabilities), [0.1, 0.1, 0.8])[:, None]
    return AnalyticDenoiser(process, [0.4, 0.6], {"x": (f64(-1.0, 1.0)[:, None, None], spread), "c": p})


def state(n=6):
    mask = size_mask(torch.tensor([2, 1] * (n // 2)), 2)
    c = torch.nn.functional.one_hot(torch.randint(3, (n, 2)), 3) * mask[..., None]
    return {"x": torch.randn(n, 2, 1).double() * mask[..., None], "c": c.double()}, mask


@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_no_guidance_is_the_model_to_the_last_bit(make):
    x, mask = state()
    guided = Autoguidance(coupled(), coupled(1.0), 1.0)
    plain, same = (make(12)(d, x, mask, random=Random(0, 6)) for d in (coupled(), guided))
    for name in x:
        assert torch.equal(plain[name], same[name])


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_estimates_are_extrapolated_and_classes_by_their_logarithms(scale):
    x, mask = state()
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    strong, weak = coupled(), coupled(1.0, (0.5, 0.3, 0.2))
    guided = Autoguidance(strong, weak, scale)(x, t, mask).data
    s, w = strong(x, t, mask).data, weak(x, t, mask).data
    assert torch.allclose(guided["x"], w["x"] + scale * (s["x"] - w["x"]), rtol=1e-12)
    p = torch.nan_to_num(s["c"] ** scale * w["c"] ** (1 - scale)) * mask[..., None]
    assert torch.allclose(guided["c"], torch.nan_to_num(p / p.sum(-1, keepdim=True)), atol=1e-12)


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_the_guided_flow_of_gaussians_has_a_closed_form(schedule):
    """The stretches of N(0, v) and of the wider N(0, u) multiply with the powers w and 1 - w."""
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})
    strong, weak = (AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)}) for v in (0.25, 1.5))
    t, s = schedule.time(f64(-4.0, 4.0)).tolist()

    def stretch(v):
        (a, b), (c, d) = ((schedule.alpha(f64(u)), schedule.sigma(f64(u))) for u in (t, s))
        return ((c**2 * v + d**2) / (a**2 * v + b**2)).sqrt()

    plan = downward(schedule.time(torch.linspace(-4, 4, 201, dtype=torch.float64)).tolist())
    x = {"x": torch.ones(1, 1, 1, dtype=torch.float64)}
    end = Heun()(Autoguidance(strong, weak, 2.0), x, plan=plan)["x"]
    assert end.item() == pytest.approx((stretch(0.25) ** 2 / stretch(1.5)).item(), rel=1e-3)


def test_a_class_that_the_weaker_model_rules_out_keeps_a_finite_logarithm():
    x, mask = state()
    guided = Autoguidance(coupled(), coupled(probabilities=(1.0, 0.0, 0.0)), 3.0)(x, torch.full((6,), 0.01), mask)
    assert torch.isfinite(guided.logits["c"]).all()
    assert torch.allclose(guided.data["c"].sum(-1), mask.double(), atol=1e-12)


def test_all_that_belongs_to_a_call_reaches_both_models():
    calls = []

    class Spy(AnalyticDenoiser):
        def forward(self, x_t, t, mask, condition, previous, noise):
            calls.append((x_t["x"], t, mask, condition["component"], previous["c"], noise))
            return super().forward(x_t, t, mask, condition)

    plain = coupled()
    strong, weak = (Spy(plain.process, plain.weights, plain.law) for _ in range(2))
    x, mask = state()
    t, previous = torch.linspace(0.1, 0.9, 6, dtype=torch.float64), {name: value + 1 for name, value in x.items()}
    condition, noise = {"component": torch.tensor([0, 1] * 3)}, torch.randn(6, 4)
    given = (x["x"], t, mask, condition["component"], previous["c"], noise)
    inner = Threshold(Autoguidance(strong, weak, 2.0), 100.0)
    for at in ("x_t", "data"):
        calls.clear()
        Gradient(inner, lambda x, t, mask: x["x"].sum((1, 2)), at=at)(x, t, mask, condition, previous, noise)
        assert len(calls) == 2
        for call in calls:
            assert all(torch.equal(seen, value) for seen, value in zip(call, given, strict=True))


def test_guidance_composes():
    """Each acts on the estimate of what it holds."""
    x, mask = state()
    t = torch.linspace(0.3, 0.9, 6, dtype=torch.float64)
    condition = {"component": torch.tensor([0, 1] * 3)}
    strong, weak = coupled(), coupled(1.0)
    guided = Threshold(
        Gradient(Autoguidance(ClassifierFree(strong, 2.0), weak, 1.5), lambda x, t, mask: x["x"].sum((1, 2)), 0.3), 0.8
    )
    assert guided.process is strong.process
    c, u, w = (
        strong(x, t, mask, condition).data["x"],
        strong(x, t, mask).data["x"],
        weak(x, t, mask, condition).data["x"],
    )
    free = 2 * c - u
    alpha, sigma = (f(t)[:, None, None] for f in (Linear().alpha, Linear().sigma))
    shifted = w + 1.5 * (free - w) + 0.3 * sigma**2 / alpha * mask[..., None]
    assert torch.allclose(guided(x, t, mask, condition).data["x"], shifted.clamp(-0.8, 0.8), rtol=1e-10)
    assert (shifted.abs() > 0.8).any()
    end = DDIM(10)(guided, x, mask, condition)
    assert end["x"].abs().max() <= 0.8
    assert not end["x"].requires_grad


@pytest.mark.parametrize(
    ("weak", "scale", "message"),
    [
        (coupled(), math.nan, "scale must be a finite number, got nan"),
        (
            coupled(schedule=Flow()),
            2.0,
            r"must share the process of the model, and fields \['x'\] differ; give its network",
        ),
        (coupled(stationary=(0.2, 0.2, 0.6)), 2.0, r"fields \['c'\] differ"),
    ],
)
def test_bad_arguments_are_refused(weak, scale, message):
    with pytest.raises(ValueError, match=message):
        Autoguidance(coupled(), weak, scale)
