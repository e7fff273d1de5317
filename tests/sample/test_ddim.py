"""The variances of ancestral sampling, by the exact moments of the chain: every step is affine on Gaussian data."""

import itertools
import math

import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser, AnalyticVariance, Denoiser
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral
from gendiff.schedule import Cosine, Flow, Linear
from gendiff.space import Euclidean

V = 0.25
ONE = torch.ones(1, 1, dtype=torch.bool)


class Steady:
    """Stands in for `Random`: every normal number is this one."""

    def __init__(self, value):
        self.value, self.indices = value, torch.arange(1)

    def normal(self, shape):
        return torch.full(shape, self.value, dtype=torch.float64)


def exact(schedule):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1))})
    return AnalyticDenoiser(process, [1.0], {"x": (0.0, V**0.5)})


def known(schedule, times):
    alpha, sigma = (f(torch.tensor(times, dtype=torch.float64)) for f in (schedule.alpha, schedule.sigma))
    return AnalyticVariance(exact(schedule), times, {"x": (V * sigma**2 / (alpha**2 * V + sigma**2)).tolist()})


def sampled_variance(sampler, denoiser):
    """The variance of the samples, from that of the prior, step by step: a for x, c for the noise."""
    alpha, sigma = (
        f(torch.ones(1, dtype=torch.float64)).item()
        for f in (denoiser.process.schedule.alpha, denoiser.process.schedule.sigma)
    )
    variance = alpha**2 * V + sigma**2
    for pair in sampler.plan(denoiser.process):
        a, c = (
            sampler(denoiser, {"x": torch.full((1, 1, 1), x, dtype=torch.float64)}, ONE, random=Steady(z), plan=[pair])[
                "x"
            ].item()
            for x, z in ((1.0, 0.0), (0.0, 1.0))
        )
        variance = a**2 * variance + c**2
    return variance


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Flow()], ids=["linear", "cosine", "flow"])
def test_the_analytic_variance_keeps_the_spread_of_the_data_in_any_number_of_steps(schedule, eta, steps):
    """Also DDIM's: what its deterministic part leaves out of the spread comes back as noise."""
    sampler = DDIM(steps, eta=eta, variance="analytic")
    times = sorted(t for t, _ in sampler.plan(exact(schedule).process))
    assert sampled_variance(sampler, known(schedule, times)) == pytest.approx(V, rel=1e-9)


@pytest.mark.parametrize(
    ("variance", "golden"),
    [("small", (0.0051, 0.0617, 0.1112, 0.1972, 0.2461)), ("large", (0.0055, 0.1296, 0.2439, 0.2619, 0.2508))],
)
def test_the_fixed_variances_do_not(variance, golden):
    """Golden variances of samples of N(0, 0.25) under DDPM's schedule with strided steps."""
    for steps, value in zip((2, 5, 10, 50, 1000), golden, strict=True):
        assert sampled_variance(Ancestral(steps, variance=variance), exact(Linear())) == pytest.approx(value, abs=1e-4)


class Learned(nn.Module):
    """The exact estimate for N(0, V), as a network of the row "data", with a constant fraction."""

    def __init__(self, schedule, v):
        super().__init__()
        self.schedule, self.v = schedule, v

    def forward(self, x, noise_level, mask, condition):
        snr = (4 * noise_level[:, :1, None]).exp()  # x is scaled to unit variance for data of scale 1
        alpha, sigma = torch.sqrt(snr / (1 + snr)), torch.sqrt(1 / (1 + snr))
        return {"x": alpha * V / (alpha**2 * V + sigma**2) * x["x"], "x_fraction": torch.full_like(x["x"], self.v)}


def test_the_learned_variance_reaches_from_the_small_to_the_large():
    schedule, process = Linear(), exact(Linear()).process
    for v, variance in ((-1.0, "small"), (1.0, "large")):
        learned = sampled_variance(Ancestral(20, variance="learned"), Denoiser(Learned(schedule, v), process, "data"))
        assert learned == pytest.approx(sampled_variance(Ancestral(20, variance=variance), exact(schedule)), rel=1e-6)
    between = sampled_variance(Ancestral(20, variance="learned"), Denoiser(Learned(schedule, 0.0), process, "data"))
    ends = [sampled_variance(Ancestral(20, variance=variance), exact(schedule)) for variance in ("small", "large")]
    assert ends[0] < between < ends[1]


def test_a_variance_that_is_not_known_is_asked_for():
    x = {"x": torch.ones(1, 1, 1, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"'learned' of field 'x' is not known.*fraction"):
        Ancestral(3, variance="learned")(exact(Cosine()), x, ONE)
    with pytest.raises(ValueError, match=r"'analytic' of field 'x' is not known.*AnalyticVariance"):
        Ancestral(3, variance="analytic")(exact(Cosine()), x, ONE)


def test_euler_with_the_analytic_variance_is_the_same_at_the_limit():
    """As steps grow nothing is left out, and nothing comes back."""
    x = {"x": torch.full((1, 1, 1), 1.3, dtype=torch.float64)}
    gaps = []
    for steps in (50, 100, 200):
        times = sorted(t for t, _ in DDIM(steps).plan(exact(Linear()).process))
        noisy = sampled_variance(DDIM(steps, variance="analytic"), known(Linear(), times))
        gaps.append(abs(sampled_variance(DDIM(steps), exact(Linear())) - noisy))
        assert math.isfinite(DDIM(steps)(exact(Linear()), x, ONE)["x"].item())
    assert all(coarse / fine == pytest.approx(2, rel=0.3) for coarse, fine in itertools.pairwise(gaps))
