"""The reverse SDE: its coefficients, and its order on laws that an affine step keeps Gaussian."""

import math

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import ReverseSDE, downward
from gendiff.schedule import VE, VP, Cosine, Flow, Karras, Linear, SubVP
from gendiff.space import Euclidean

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "flow": Flow(),
    "vp": VP(),
    "sub-vp": SubVP(),
    "ve": VE(),
    "karras": Karras(),
}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
VARIANCE, MEAN = 0.3, 1.5


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def normal(schedule, mean=0.0):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})
    return AnalyticDenoiser(process, [1.0], {"x": (mean, VARIANCE**0.5)})


def mixture(schedule):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})
    means, stds = f64([[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]), f64(0.3, 0.5, 0.4)[:, None, None]
    return AnalyticDenoiser(process, [0.3, 0.5, 0.2], {"x": (means, stds)})


class Given:
    """Stands in for `Random`: the same numbers at every draw."""

    def __init__(self, numbers):
        self.numbers, self.indices = numbers, torch.arange(len(numbers))

    def normal(self, shape):
        return self.numbers


class Probe:
    """Stands in for `Random`: draw d is one for sample d and zero for all others, so outputs are coefficients."""

    def __init__(self, batch):
        self.indices, self.draws = torch.arange(batch), 0

    def normal(self, shape):
        unit = torch.zeros(shape, dtype=torch.float64)
        unit[self.draws] = 1
        self.draws += 1
        return unit


def plan_of(schedule, steps):
    """From log-SNR -5 to 5 in even steps of it."""
    return downward(schedule.time(torch.linspace(-5, 5, steps + 1, dtype=torch.float64)).tolist())


def law_at(schedule, t):
    """The mean and the variance of x_t."""
    alpha, sigma = (f(f64(t)).item() for f in (schedule.alpha, schedule.sigma))
    return alpha * MEAN, alpha**2 * VARIANCE + sigma**2


def law_of(schedule, noise, steps):
    """The exact mean and variance at the end, from those at the start: the step is affine."""
    sampler, plan = ReverseSDE(noise=noise), plan_of(schedule, steps)
    mean, variance = law_at(schedule, plan[0][0])
    start, silence = {"x": f64(mean).reshape(1, 1, 1)}, Given(torch.zeros(1, 1, 1))
    mean = sampler(normal(schedule, MEAN), start, random=silence, plan=plan)["x"].item()
    random = Probe(steps + 1)
    start = {"x": variance**0.5 * random.normal((steps + 1, 1, 1))}
    return mean, sampler(normal(schedule), start, random=random, plan=plan)["x"].square().sum().item()


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
@scheduled
def test_order_of_the_law(schedule, noise):
    """Mean and variance of Gaussian data, propagated exactly."""
    true = law_at(schedule, plan_of(schedule, 1)[0][1])
    errors = [math.dist(law_of(schedule, noise, steps), true) for steps in (30, 60, 120)]
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(ReverseSDE.order, abs=0.3)
    assert errors[2] < 0.1


@pytest.mark.parametrize("noise", [0.0, 0.7, 1.0])
@scheduled
def test_a_small_step_is_the_differential_equation(schedule, noise):
    """dx = [f x - (1 + noise^2)/2 g^2 score] dt + noise g dw with f and g^2 from the derivatives of the schedule."""
    denoiser, x, t, dt = mixture(schedule), torch.randn(6, 2, 1).double(), 0.60005, 1e-7
    alpha, sigma = schedule.alpha(f64(t)), schedule.sigma(f64(t))
    d_alpha, d_sigma = schedule.derivatives(f64(t))
    f = d_alpha / alpha
    square = 2 * sigma * d_sigma - 2 * f * sigma**2
    drift = f * x - (1 + noise**2) / 2 * square * denoiser({"x": x}, f64(t).expand(6)).score["x"]
    still, moved = (
        ReverseSDE(noise=noise)(denoiser, {"x": x}, random=Given(z), plan=[(t, t - dt)])["x"]
        for z in (torch.zeros(6, 2, 1).double(), torch.ones(6, 2, 1).double())
    )
    assert torch.allclose((x - still) / dt, drift, rtol=1e-4, atol=1e-5)
    assert torch.allclose((moved - still) ** 2 / dt, (noise**2 * square).expand(6, 2, 1), rtol=1e-4)


def test_a_step_is_that_of_the_paper():
    """Reverse diffusion where alpha = 1: x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z."""
    denoiser, x, z = mixture(VE()), 3 * torch.randn(6, 2, 1).double(), torch.randn(6, 2, 1).double()
    high, low = VE().sigma(f64(0.7, 0.6)) ** 2
    expected = x + (high - low) * denoiser({"x": x}, f64(0.7).expand(6)).score["x"] + (high - low).sqrt() * z
    assert torch.allclose(ReverseSDE()(denoiser, {"x": x}, random=Given(z), plan=[(0.7, 0.6)])["x"], expected)


def test_clean_data_is_the_estimate_at_the_last_noisy_time():
    denoiser, x = mixture(Linear()), {"x": torch.randn(6, 2, 1).double()}
    end = ReverseSDE()(denoiser, x, random=Given(torch.ones(6, 2, 1)), plan=[(0.01, 0.0)])["x"]
    assert torch.equal(end, denoiser(x, f64(0.01).expand(6)).data["x"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_keep_their_precision(dtype):
    x = torch.randn(5, 2, 1, dtype=torch.float64)
    end = ReverseSDE(50)(mixture(Linear()), {"x": x.to(dtype)}, random=Random(0, 5))["x"]
    assert end.dtype == dtype
    assert torch.allclose(
        end.double(), ReverseSDE(50)(mixture(Linear()), {"x": x}, random=Random(0, 5))["x"], atol=1e-4
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReverseSDE(0), "steps must be at least 1, got 0"),
        (
            lambda: ReverseSDE(noise=1.5),
            r"noise must lie in \[0, 1\] \(0 the probability flow, 1 the reverse SDE\), got",
        ),
        (lambda: ReverseSDE(noise=-0.1), r"noise must lie in \[0, 1\]"),
        (
            lambda: ReverseSDE(10)(mixture(Flow()), {"x": torch.randn(2, 2, 1)}),
            r"alpha = 0, .* 0.99\), or take Ancestral",
        ),
    ],
)
def test_impossible_walks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_way_out_of_a_start_without_signal():
    sampler, denoiser, x = ReverseSDE(200, "log_snr"), normal(Flow()), torch.randn(2000, 1, 1).double()
    end = sampler(denoiser, {"x": x}, random=Random(1, 2000), plan=sampler.plan(denoiser.process, 0.99))["x"]
    assert end.var().item() == pytest.approx(VARIANCE, rel=0.1)
