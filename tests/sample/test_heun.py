"""Heun's method with churn: its plan, its law, and the published algorithm step by step."""

import itertools
import math

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Heun, UniPC
from gendiff.schedule import Cosine, Flow, Karras, Linear
from gendiff.space import Euclidean

SCHEDULES = {"linear": Linear(), "karras": Karras(), "flow": Flow()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def process_of(schedule, features=1):
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(features, "grid", [1]))})


def mixture(schedule):
    means = f64([[-1.0], [-1.0]], [[1.0], [1.0]], [[1.0], [-1.0]])
    return AnalyticDenoiser(process_of(schedule, 2), [0.3, 0.4, 0.3], {"x": (means, f64(0.1, 0.2, 0.3)[:, None, None])})


def ratio(schedule, t):
    return (schedule.sigma(f64(t)) / schedule.alpha(f64(t))).item()


@scheduled
def test_no_churn_is_bit_identical_to_none(schedule):
    denoiser, x = mixture(schedule), {"x": torch.randn(4, 2, 1)}
    plain, still = Heun(10), Heun(10, churn=0.0, churn_from=0.1, churn_to=3.0, noise_scale=1.1)
    assert plain.plan(denoiser.process) == still.plan(denoiser.process)
    assert torch.equal(plain(denoiser, x)["x"], still(denoiser, x)["x"])
    outside = Heun(10, churn=5.0, churn_from=1e5)
    assert torch.equal(plain(denoiser, x)["x"], outside(denoiser, x)["x"])


@pytest.mark.parametrize(("churn", "gamma"), [(2.0, 0.1), (30.0, math.sqrt(2) - 1)])
@scheduled
def test_churn_raises_the_ratio_of_noise_to_signal(schedule, churn, gamma):
    sampler = Heun(20, "log_snr", churn=churn, churn_from=0.1, churn_to=10.0)
    process = process_of(schedule)
    down, plan = Heun(20, "log_snr").plan(process), sampler.plan(process)
    ups = [(t, s) for t, s in plan if s > t]
    inside = [t for t, _ in down if 0.1 <= ratio(schedule, t) <= 10]
    assert [t for t, _ in ups] == inside
    assert 5 < len(ups) < 20
    for low, high in ups:
        assert ratio(schedule, high) / ratio(schedule, low) == pytest.approx(1 + gamma, rel=1e-9)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(plan))
    assert [s for t, s in plan if s < t] == [s for _, s in down]


@scheduled
def test_churn_goes_no_further_than_pure_noise(schedule):
    process = process_of(schedule)
    plan = Heun(50, churn=50.0).plan(process)
    assert max(max(pair) for pair in plan) <= 1
    assert plan[0] == (1.0, 0.98)
    assert plan[1] == (0.98, plan[2][0])
    assert Heun(50, churn=50.0).plan(process, 0.4)[0][1] > 0.4


class Given:
    """Stands in for `Random`: the same noise at every draw."""

    def __init__(self, noise):
        self.noise, self.indices = noise, torch.arange(len(noise))

    def normal(self, shape):
        return self.noise


@pytest.mark.parametrize("coordinate", ["karras", "flow"])
@pytest.mark.parametrize("schedule", [Karras(), Linear()], ids=["karras", "linear"])
def test_the_stochastic_sampler_of_edm_step_by_step(schedule, coordinate):
    """In its own variables, y = x / alpha and sigma / alpha; for the flow, both over 1 + sigma / alpha."""
    denoiser, n, scale = mixture(schedule), 12, 1.1
    x, z = torch.randn(30, 2, 1).double(), torch.randn(30, 2, 1).double()
    sampler = Heun(n, "log_snr", coordinate, 3.0, 0.05, 20.0, scale)
    start = 0.95
    plan = sampler.plan(denoiser.process, start)
    ours = sampler(denoiser, {"x": x}, random=Given(z), plan=plan)["x"]

    def data(y, level):
        t = schedule.time(-2 * f64(level).log()).expand(30)
        return denoiser({"x": y * schedule.alpha(t[0])}, t).data["x"]

    def in_flow(level):
        return 1 + level if coordinate == "flow" else 1.0

    times = [t for t, _ in Heun(n, "log_snr").plan(denoiser.process, start)]
    sigmas = [*(ratio(schedule, t) for t in times), 0.0]
    y, gamma = x / schedule.alpha(f64(start)), min(3.0 / n, math.sqrt(2) - 1)
    for sigma, after in itertools.pairwise(sigmas):
        if 0.05 <= sigma <= 20:
            high = sigma * (1 + gamma)
            y, sigma = y + scale * math.sqrt(high**2 - sigma**2) * z, high
        first = data(y, sigma)
        (z_0, u_0), (scale_1, u_1) = (
            (y / in_flow(sigma), sigma / in_flow(sigma)),
            (in_flow(after), after / in_flow(after)),
        )
        slope = (z_0 - first) / u_0
        end = z_0 + (u_1 - u_0) * slope
        if after:
            end = z_0 + (u_1 - u_0) / 2 * (slope + (end - data(scale_1 * end, after)) / u_1)
        y = scale_1 * end
    assert torch.allclose(ours, y, rtol=1e-8, atol=1e-9)


class Probe:
    """Stands in for `Random`: draw d is one for sample d and zero for all others, so outputs are coefficients."""

    def __init__(self, batch):
        self.indices, self.draws = torch.arange(batch), 0

    def normal(self, shape):
        unit = torch.zeros(shape, dtype=torch.float64)
        unit[self.draws] = 1
        self.draws += 1
        return unit


def error_of_variance(sampler, schedule, v=0.25, plan=None):
    """Of what a sampler makes of N(0, v) at the end of its plan: exactly, for it is linear in its noise."""

    def exact(t):
        return (schedule.alpha(f64(t)) ** 2 * v + schedule.sigma(f64(t)) ** 2).item() if t else v

    denoiser = AnalyticDenoiser(process_of(schedule), [1.0], {"x": (0.0, v**0.5)})
    plan = sampler.plan(denoiser.process) if plan is None else plan
    random = Probe(len(plan) + 1)
    x = {"x": random.normal((len(plan) + 1, 1, 1)) * exact(plan[0][0]) ** 0.5}
    return sampler(denoiser, x, random=random, plan=plan)["x"].square().sum().item() - exact(plan[-1][1])


@pytest.mark.parametrize("churn", [0.0, 10.0])
@scheduled
def test_the_law_converges_with_order_two(schedule, churn):
    errors = []
    for steps in (40, 80, 160):
        sampler = Heun(steps, "log_snr", churn=churn, churn_from=0.05, churn_to=50.0)
        errors.append(abs(error_of_variance(sampler, schedule, plan=sampler.plan(process_of(schedule))[:-1])))
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.3)
    assert errors[2] < 1e-3


@scheduled
def test_the_scale_of_the_noise(schedule):
    """One upward pair alone: what it adds is scaled, and what was there is not."""
    v, plan = 0.25, [(0.3, 0.5)]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((schedule.alpha(f64(t)), schedule.sigma(f64(t))) for t in plan[0])
    added = (sigma_s**2 - (alpha_s / alpha_t * sigma_t) ** 2).item()
    assert error_of_variance(Heun(), schedule, v, plan) == pytest.approx(0, abs=1e-12 * (added + 1))
    assert error_of_variance(Heun(noise_scale=1.2), schedule, v, plan) == pytest.approx(0.44 * added, rel=1e-9)


def test_categories_are_noised_with_the_numbers_and_not_scaled():
    """A plan that only goes up: classes jump by q(x_s | x_t), whatever the scale of the noise of numbers."""
    process = JointProcess(
        {
            "x": GaussianProcess(Cosine(), Euclidean(1)),
            "c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser, n = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0), "c": f64(0.5, 0.5)}), 4000
    mask, first = torch.ones(n, 1, dtype=torch.bool), f64(1.0, 0.0).expand(n, 1, 2)
    x = {"x": torch.zeros(n, 1, 1).double(), "c": first}
    ends = [Heun(noise_scale=s)(denoiser, x, mask, random=Random(0, n), plan=[(0.2, 0.6)]) for s in (1.0, 1.5)]
    assert torch.equal(ends[0]["c"], ends[1]["c"])
    assert torch.allclose(1.5 * ends[0]["x"], ends[1]["x"])
    kept = (Cosine().alpha(f64(0.6)) / Cosine().alpha(f64(0.2))).item() ** 2
    p = kept + (1 - kept) / 2
    assert ends[0]["c"][..., 0].mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


def test_errors_of_edm_on_a_mixture():
    """512 points in the plane on the grid of EDM; published beside: Heun 1.5e-1 .. 4.2e-4, Euler 2.3e-1 .. 2.4e-2."""
    denoiser, x = mixture(Karras()), {"x": 80 * torch.randn(512, 2, 1).double()}
    exact = UniPC(200, "karras", predictor_order=3)(denoiser, x)["x"]

    def errors(make):
        ends = (make(steps)(denoiser, x)["x"] for steps in (10, 20, 40, 80, 160))
        return [(end - exact).square().mean().sqrt().item() for end in ends]

    heun, euler = errors(lambda n: Heun(n, "karras", "karras")), errors(lambda n: DDIM(n, "karras"))
    for found, expected in zip(heun, (1.5e-1, 3.2e-2, 8.6e-3, 1.7e-3, 4.2e-4), strict=True):
        assert expected / 2 < found < 2 * expected
    assert (euler[0], euler[-1]) == (pytest.approx(2.3e-1, rel=0.5), pytest.approx(2.4e-2, rel=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"churn": -1.0}, "churn and noise_scale must be at least 0, got -1.0 and 1.0"),
        ({"noise_scale": -0.5}, "churn and noise_scale must be at least 0, got 0.0 and -0.5"),
        ({"churn_from": 2.0, "churn_to": 1.0}, "0 <= churn_from <= churn_to, got 2.0 and 1.0"),
        ({"churn_from": -2.0}, "0 <= churn_from <= churn_to, got -2.0 and None"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Heun(**options)
