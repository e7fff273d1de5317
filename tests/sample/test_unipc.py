"""UniPC: against its equations solved afresh, at infinite steps, and beside constraints."""

import math

import numpy as np
import pytest
import torch

from gendiff.denoise import AnalyticDenoiser, Estimate
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, UniPC, downward
from gendiff.schedule import Cosine, Flow, Karras, Linear
from gendiff.space import Euclidean

TIMES = (0.9, 0.7, 0.6, 0.45, 0.4, 0.2, 0.15)
settings = pytest.mark.parametrize(("p", "variant"), [(p, v) for p in (1, 2, 3) for v in ("bh1", "bh2")])


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def mixture(schedule):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})
    return AnalyticDenoiser(process, [0.4, 0.6], {"x": (f64(-1, 1)[:, None, None], f64(0.3, 0.5)[:, None, None])})


def integral_weights(h, r, scale):
    """Weights of D_m - D_0 that integrate exp(-h (1 - u)) times a polynomial exactly, by linear algebra."""
    if len(r) == 1:
        return [scale / (2 * r[0])]
    node, weight = np.polynomial.legendre.leggauss(40)
    u = (node + 1) / 2
    moments = [h / 2 * (weight * np.exp(-h * (1 - u)) * u**k).sum() for k in range(1, len(r) + 1)]
    return np.linalg.solve(np.array([[share**k for share in r] for k in range(1, len(r) + 1)]), moments)


def textbook(denoiser, x, times, p, variant):
    """Predictor and corrector with every state kept; the last correction has no estimate."""
    schedule, points, base = denoiser.process.schedule, [], None
    for t, s in downward(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ((schedule.alpha(f64(u)), schedule.sigma(f64(u))) for u in (t, s))
        level = (alpha_t / sigma_t).log().item()
        data = denoiser({"x": x}, f64(t).expand(len(x))).data["x"]
        if points:
            (last, data_last), *older = points[:p]
            h = level - last
            r = [(old - last) / h for old, _ in older] + [1.0]
            w = integral_weights(h, r, h if variant == "bh1" else 1 - math.exp(-h))
            known = [estimate for _, estimate in older] + [data]
            x = base + alpha_t * sum(a * (d - data_last) for a, d in zip(w, known, strict=True))
        points = [(level, data), *points]
        h = ((alpha_s / sigma_s).log() - level).item()
        base = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * data
        older = points[1:p]
        w = (
            integral_weights(h, [(old - level) / h for old, _ in older], h if variant == "bh1" else 1 - math.exp(-h))
            if older
            else []
        )
        x = base + alpha_s * sum(a * (d - data) for a, (_, d) in zip(w, older, strict=True))
    return x


@settings
@pytest.mark.parametrize("schedule", [Linear(), Karras(), Flow()], ids=["linear", "karras", "flow"])
def test_the_textbook(schedule, p, variant):
    denoiser, x = mixture(schedule), torch.randn(9, 1, 1).double()
    for length in range(2, len(TIMES) + 1):
        ours = UniPC(predictor_order=p, variant=variant)(denoiser, {"x": x}, plan=downward(TIMES[:length]))["x"]
        expected = textbook(denoiser, x, TIMES[:length], p, variant)
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)


@settings
def test_both_ends_may_be_infinitely_far(p, variant):
    """alpha = 0 at the start and sigma = 0 at the end; with data in one point all estimates are right."""
    denoiser = mixture(Flow())
    x = torch.randn(40, 1, 1).double()
    end = UniPC(40, predictor_order=p, variant=variant)(denoiser, {"x": x})["x"]
    fine = UniPC(400, "log_snr", predictor_order=3)(denoiser, {"x": x})["x"]
    assert (end - fine).abs().max() < 0.02
    denoiser.law = {"x": (0.7, 0.0)}
    end = UniPC(6, predictor_order=p, variant=variant)(denoiser, {"x": x})["x"]
    assert torch.allclose(end, torch.full_like(end, 0.7), rtol=1e-12)


def test_the_correction_of_the_step_from_pure_noise_is_half_the_change():
    """Near alpha = 0 the estimate is linear in alpha / sigma; the integral of exp(lambda) then halves its change."""

    class Linearly:
        process = mixture(Flow()).process

        def __call__(self, x_t, t, mask=None, condition=None, previous=None):
            return Estimate(self.process, x_t, t, {"x": (0.7 + (1 - t) / t)[:, None, None].expand_as(x_t["x"])})

    x, t, s = torch.randn(3, 1, 1).double(), 0.8, 0.7
    exact_t = (
        t * x + (1 - t) * 0.7 + t / 2 * ((1 - t) / t) ** 2
    )  # x_t / sigma moves by 0.7 k + k^2 / 2, k = alpha / sigma
    end = UniPC(predictor_order=1)(Linearly(), {"x": x}, plan=[(1.0, t), (t, s)])["x"]
    expected = s / t * exact_t + (1 - s - s / t * (1 - t)) * (0.7 + (1 - t) / t)
    assert torch.allclose(end, expected, rtol=1e-12)


@settings
def test_what_a_constraint_moves_stays(p, variant):
    """Estimates that do not look at the state: a shift after a step is carried to the end as it is."""

    class Blind:
        process = mixture(Linear()).process

        def __call__(self, x_t, t, mask=None, condition=None, previous=None):
            return Estimate(self.process, x_t, t, {"x": torch.sin(5 * t)[:, None, None].expand_as(x_t["x"])})

    class Push:
        def after(self, x, step, process, mask, random):
            return {"x": x["x"] + 0.3} if step.number == 2 else x

        def finish(self, x, process, mask):
            return x

    x, sampler = {"x": torch.randn(3, 1, 1).double()}, UniPC(predictor_order=p, variant=variant)
    free, pushed = (sampler(Blind(), x, hooks=hooks, plan=downward(TIMES))["x"] for hooks in ([], [Push()]))
    carried = 0.3 * (Linear().sigma(f64(TIMES[-1])) / Linear().sigma(f64(TIMES[3])))
    assert torch.allclose(pushed - free, carried.expand_as(free), rtol=1e-9)


def test_it_forgets_when_noise_is_added():
    denoiser, x = mixture(Linear()), {"x": torch.randn(4, 1, 1).double()}
    ends = []

    class Keep:
        def after(self, x, step, process, mask, random):
            ends.append(x)
            return x

        def finish(self, x, process, mask):
            return x

    UniPC()(denoiser, x, hooks=[Keep()], plan=[(0.9, 0.7), (0.7, 0.5), (0.5, 0.8), (0.8, 0.6), (0.6, 0.4)])
    assert torch.allclose(ends[3]["x"], DDIM()(denoiser, ends[2], plan=[(0.8, 0.6)])["x"], rtol=1e-12)


def test_a_categorical_field_is_refused_by_name():
    process = JointProcess(
        {
            "x": GaussianProcess(Cosine(), Euclidean(1)),
            "kind": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0), "kind": f64(0.5, 0.5)})
    x = {"x": torch.randn(2, 3, 1), "kind": torch.nn.functional.one_hot(torch.zeros(2, 3, dtype=torch.long), 2).float()}
    with pytest.raises(
        ValueError, match=r"UniPC needs Gaussian fields and 'kind' is categorical .* DDIM, Heun and DPM"
    ):
        UniPC()(denoiser, x, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor_order": 0}, "predictor_order must be 1, 2 or 3, got 0"),
        ({"predictor_order": 4}, "predictor_order must be 1, 2 or 3, got 4"),
        ({"variant": "bh3"}, r"variant must be one of \('bh1', 'bh2'\), got 'bh3'"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UniPC(**options)
