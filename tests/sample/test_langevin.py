"""Langevin dynamics, annealed and as a corrector, on laws whose chains are known in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, Heun, Langevin, PredictorCorrector, ReverseSDE, Sampler, downward
from gendiff.schedule import VE, Cosine, Flow, Karras, Linear, SubVP
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "flow": Flow(), "sub-vp": SubVP(), "ve": VE(), "karras": Karras()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
VARIANCE = 0.3


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def levels(schedule, *times):
    return [(schedule.alpha(f64(t)).item(), schedule.sigma(f64(t)).item()) for t in times]


def normal(schedule, dim=1, mean=0.0, variance=VARIANCE):
    """N(mean, variance) in some dimensions."""
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(dim, "grid", [1]))})
    return AnalyticDenoiser(process, [1.0], {"x": (mean, variance**0.5)})


def mixture(schedule):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})
    means, stds = f64([[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]), f64(0.3, 0.5, 0.4)[:, None, None]
    return AnalyticDenoiser(process, [0.3, 0.5, 0.2], {"x": (means, stds)})


def order_of(errors):
    """Slope of the log error over doublings."""
    return math.log2(errors[-3] / errors[-1]) / 2


class Probe:
    """Stands in for `Random`: draw d is one for sample d and zero for all others, so outputs are coefficients."""

    def __init__(self, batch):
        self.indices, self.draws = torch.arange(batch), 0

    def normal(self, shape):
        unit = torch.zeros(shape, dtype=torch.float64)
        unit[self.draws] = 1
        self.draws += 1
        return unit


class Silent:
    """Stands in for `Random`: every number is zero, the mean of all."""

    def __init__(self, batch=1):
        self.indices = torch.arange(batch)

    def normal(self, shape):
        return torch.zeros(shape, dtype=torch.float64)


def variance_of(sampler, denoiser, plan, draws, start):
    """The exact variance of what a sampler makes of N(0, start^2): it is linear in its noise."""
    random = Probe(draws + 1)
    x = {"x": start * random.normal((draws + 1, 1, 1))}
    return sampler(denoiser, x, random=random, plan=plan)["x"].square().sum().item()


# Annealed dynamics


@pytest.mark.parametrize("size", [0.3, 1.2])
@scheduled
def test_a_chain_settles_at_its_stationary_variance(schedule, size):
    """At noise sigma and v' = alpha^2 v + sigma^2 that is v' / (1 - step / 2 v') with step = size sigma^2."""
    ((alpha, sigma),) = levels(schedule, 0.6)
    total = alpha**2 * VARIANCE + sigma**2
    step = size * sigma**2
    steps = 40 + round(40 / -math.log(abs(1 - step / total)))
    sampler = Langevin(corrections=steps, step_size=size)
    expected = total / (1 - step / (2 * total))
    assert variance_of(sampler, normal(schedule), [(0.61, 0.6)], steps, 1.0) == pytest.approx(expected, rel=1e-9)


def test_the_error_of_a_chain_is_of_its_order_in_the_step():
    ((alpha, sigma),) = levels(Linear(), 0.3)
    total, errors = alpha**2 * VARIANCE + sigma**2, []
    for size in (0.4, 0.2, 0.1):
        steps = round(30 / size)
        plan, sampler = [(0.31, 0.3)], Langevin(corrections=steps, step_size=size)
        errors.append(abs(variance_of(sampler, normal(Linear()), plan, steps, 1.0) - total))
    assert order_of(errors) == pytest.approx(Langevin.order, abs=0.3)


@scheduled
def test_mean_and_variance_of_a_whole_run(schedule):
    """Propagated by hand in the units of the papers, y = x / alpha and step = epsilon (sigma_i / sigma_L)^2."""
    times, size, count, m = [0.95, 0.8, 0.6, 0.35, 0.2, 0.1], 0.25, 3, 1.5
    scale = [sigma / alpha for alpha, sigma in levels(schedule, *times)]
    epsilon = size * scale[-1] ** 2
    (first, _), *_ = levels(schedule, times[0])
    mean, variance = 0.2 / first, (1.3 / first) ** 2
    for sigma in scale[1:]:
        step = epsilon * (sigma / scale[-1]) ** 2
        for _ in range(count):
            slope = 1 - step / (VARIANCE + sigma**2)  # y + step (m - y) / (v + sigma^2)
            mean, variance = m + slope * (mean - m), slope**2 * variance + 2 * step
    gain = 1 - scale[-1] ** 2 / (VARIANCE + scale[-1] ** 2)  # y + sigma_L^2 score
    mean, variance = m + gain * (mean - m), gain**2 * variance
    sampler, plan = Langevin(corrections=count, step_size=size), downward([*times, 0.0])
    x = {"x": f64(0.2).reshape(1, 1, 1)}
    assert sampler(normal(schedule, mean=m), x, random=Silent(), plan=plan)["x"].item() == pytest.approx(mean, rel=1e-9)
    draws = count * (len(times) - 1)
    assert variance_of(sampler, normal(schedule), plan, draws, 1.3) == pytest.approx(variance, rel=1e-9)


def test_a_run_is_that_of_the_papers():
    """NCSN's algorithm, written down for its own schedule, where alpha = 1."""
    denoiser, schedule, plan = mixture(VE(0.01, 1.0)), VE(0.01, 1.0), Langevin(8, corrections=3).plan
    x, random, ours = torch.randn(6, 2, 1).double(), Random(3, 6), Random(3, 6)
    times = [t for t, _ in plan(denoiser.process)]
    sigmas = schedule.sigma(f64(*times))
    assert torch.allclose(sigmas[1:] / sigmas[:-1], sigmas[1:2] / sigmas[:1], rtol=1e-6)  # geometric
    start = {"x": x}
    for sigma, t in zip(sigmas[1:], times[1:], strict=True):
        step = 6.2e-6 / 0.01**2 * sigmas[-1] ** 2 * (sigma / sigmas[-1]) ** 2
        for _ in range(3):
            score = denoiser({"x": x}, f64(t).expand(6)).score["x"]
            x = x + step * score + (2 * step).sqrt() * random.normal((6, 2, 1))
    x = x + sigmas[-1] ** 2 * denoiser({"x": x}, f64(times[-1]).expand(6)).score["x"]
    result = Langevin(8, corrections=3)(denoiser, start, random=ours)["x"]
    assert torch.allclose(result, x, atol=1e-6)  # the noise is in float32


@scheduled
def test_the_scale_of_the_signal_does_not_matter(schedule):
    """At equal ratios of signal and noise x / alpha walks the same way in every schedule."""
    ratios, x = torch.linspace(-2, 8, 12, dtype=torch.float64), torch.randn(5, 2, 1).double()
    results = []
    for other in (schedule, Flow()):
        times = other.time(ratios).tolist()
        start = {"x": other.alpha(f64(times[0])) * x}
        plan = downward([*times, 0.0])
        results.append(Langevin(corrections=2)(mixture(other), start, random=Random(0, 5), plan=plan)["x"])
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)


def test_a_start_without_signal_keeps_its_noise():
    x = torch.randn(4, 2, 1).double()
    still = Langevin(corrections=1, step_size=1e-12)(mixture(Flow()), {"x": x}, random=Silent(4), plan=[(1.0, 0.8)])[
        "x"
    ]
    assert torch.allclose(still, 0.8 * x, rtol=1e-9)
    end = Langevin(100)(mixture(Flow()), {"x": x}, random=Random(0, 4))["x"]
    assert end.isfinite().all()
    assert end.abs().max() < 4


# Predictor and corrector


class Stay(Sampler):
    """A predictor that does nothing."""

    def step(self, evaluate, x, step, process, mask, random, memory):
        return x


@pytest.mark.parametrize("snr", [0.16, 0.5])
@scheduled
def test_corrections_settle_at_their_stationary_variance(schedule, snr):
    """v' / (1 - h / 2 v') with h = 2 a r^2 sigma^2, a the share of the signal that the step brings."""
    (high, _), (alpha, sigma) = levels(schedule, 0.61, 0.6)
    total, h = alpha**2 * VARIANCE + sigma**2, 2 * (high / alpha * snr * sigma) ** 2
    steps = 40 + round(40 / -math.log(1 - h / total))
    sampler = PredictorCorrector(predictor=Stay(), snr=snr, corrections=steps)
    expected = total / (1 - h / (2 * total))
    assert variance_of(sampler, normal(schedule), [(0.61, 0.6)], steps, 1.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", [Linear(), VE()], ids=["linear", "ve"])
def test_where_noise_prevails_the_size_is_that_of_the_paper(schedule):
    """|z| / |score| with the norms of a batch is sigma there."""
    denoiser, n = normal(schedule, 1000), 50
    x = denoiser.process["x"].corrupt(
        VARIANCE**0.5 * torch.randn(n, 1000, 1).double(), f64(0.95).expand(n), torch.randn(n, 1000, 1).double()
    )
    score, z = denoiser({"x": x}, f64(0.95).expand(n)).score["x"], torch.randn(n, 1000, 1).double()
    ((_, sigma),) = levels(schedule, 0.95)
    assert (z.norm(dim=1).mean() / score.norm(dim=1).mean()).item() == pytest.approx(sigma, rel=0.01)


def variance_of_corrected(steps, snr, corrections=1, predictor=None, grid="uniform"):
    ((alpha, sigma),), draws = levels(Linear(), 1.0), (1 + corrections) * steps
    sampler = PredictorCorrector(steps, grid, predictor, snr, corrections)
    return variance_of(sampler, normal(Linear()), None, draws, (alpha**2 * VARIANCE + sigma**2) ** 0.5)


@pytest.mark.parametrize("corrections", [1, 3])
def test_the_variance_of_a_whole_run_of_predictor_and_corrector(corrections):
    """Ancestral sampling is x <- A x + c z, the correction as above: every number by hand."""
    steps, snr, schedule = 30, 0.16, Linear()
    at = levels(schedule, *(k / steps for k in range(steps, 0, -1)))
    variance = at[0][0] ** 2 * VARIANCE + at[0][1] ** 2
    for (alpha, sigma), (low, s) in pairwise(at):
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        c = (sigma**2 - (alpha / low * s) ** 2) ** 0.5 * s / sigma
        slope = low * gain + (s**2 - c**2) ** 0.5 * (1 - alpha * gain) / sigma
        variance = slope**2 * variance + c**2
        total = low**2 * VARIANCE + s**2
        for _ in range(corrections):
            h = 2 * (alpha / low * snr * s) ** 2
            variance = (1 - h / total) ** 2 * variance + 2 * h
    alpha, sigma = at[-1]
    variance *= (alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)) ** 2
    assert variance_of_corrected(steps, snr, corrections) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("predictor", [Ancestral(), ReverseSDE()], ids=["ancestral", "reverse sde"])
def test_order_of_predictor_and_corrector(predictor):
    """Steps as many again, and corrections half as strong in r^2, halve the error of the law."""
    errors = []
    for steps in (60, 120, 240):
        variance = variance_of_corrected(steps, (6 / steps) ** 0.5, predictor=predictor, grid="log_snr")
        errors.append(abs(variance - VARIANCE))
    assert order_of(errors) == pytest.approx(PredictorCorrector.order, abs=0.3)


def test_corrections_repair_what_a_coarse_predictor_spoils():
    alone, corrected = (variance_of_corrected(20, 0.16, n, grid="log_snr") for n in (1, 40))
    assert abs(corrected - VARIANCE) < 0.5 * abs(alone - VARIANCE)


@pytest.mark.parametrize("predictor", [DDIM(), Heun(), Ancestral()], ids=["ddim", "heun", "ancestral"])
@scheduled
def test_any_sampler_predicts(schedule, predictor):
    """A step is the predictor's own, and then Langevin's where it ended."""
    denoiser, x, plan = mixture(schedule), {"x": torch.randn(6, 2, 1).double()}, [(0.62, 0.6)]
    ours = PredictorCorrector(predictor=predictor, snr=0.3)(denoiser, x, random=Random(1, 6), plan=plan)["x"]
    random = Random(1, 6)
    middle = predictor(denoiser, x, random=random, plan=plan)
    score, z = denoiser(middle, f64(0.6).expand(6)).score["x"], random.normal((6, 2, 1))
    (high, _), (alpha, sigma) = levels(schedule, 0.62, 0.6)
    h = 2 * (high / alpha * 0.3 * sigma) ** 2
    assert torch.allclose(ours, middle["x"] + h * score + (2 * h) ** 0.5 * z, rtol=1e-6, atol=1e-6)


def test_one_node_without_freedom_stays_where_it_is():
    process = JointProcess({"x": GaussianProcess(Linear(), ZeroCenterOfMass(3))})
    denoiser, mask = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0)}), torch.ones(1, 1, dtype=torch.bool)
    for sampler in (PredictorCorrector(10), Langevin(10)):
        assert not sampler(denoiser, {"x": torch.zeros(1, 1, 3)}, mask)["x"].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Langevin(corrections=0), "corrections must be at least 1, got 0"),
        (lambda: Langevin(step_size=2.0), r"step_size must lie in \(0, 2\), where the chain is stable, got 2.0; try"),
        (lambda: Langevin(step_size=0.0), r"step_size must lie in \(0, 2\)"),
        (
            lambda: PredictorCorrector(snr=0.0),
            r"snr must lie in \(0, 1\), where corrections are stable, got 0.0; 0.16 is",
        ),
        (lambda: PredictorCorrector(snr=1.0), r"snr must lie in \(0, 1\)"),
        (
            lambda: PredictorCorrector(corrections=0),
            "corrections must be at least 1, got 0; without any, take the pred",
        ),
        (lambda: PredictorCorrector(0), "steps must be at least 1, got 0"),
    ],
)
def test_impossible_chains_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
