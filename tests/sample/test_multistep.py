"""DPM-Solver++: its formulas, what it is exact for, and its SDE variant."""

import math

import pytest
import torch
from scipy.integrate import quad

from gendiff.denoise import AnalyticDenoiser, Estimate
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, DPMSolver, UniPC, downward
from gendiff.sample.multistep import shares, weights
from gendiff.schedule import Flow, Karras, Linear
from gendiff.space import Euclidean

SCHEDULES = {"linear": Linear(), "karras": Karras(), "flow": Flow()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def scalars(schedule):
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})


def levels(schedule, t):
    """alpha, sigma and lambda at t, as numbers."""
    alpha, sigma = schedule.alpha(f64(t)).item(), schedule.sigma(f64(t)).item()
    return alpha, sigma, math.log(alpha / sigma)


class Polynomial:
    """Estimates that are a polynomial of lambda, whatever the state."""

    def __init__(self, schedule, *coefficients):
        self.process, self.coefficients = scalars(schedule), coefficients

    def __call__(self, x_t, t, mask=None, condition=None, previous=None):
        level = self.process.schedule.log_snr(t) / 2
        data = sum(c * level**k for k, c in enumerate(self.coefficients))
        return Estimate(self.process, x_t, t, {"x": data[:, None, None].expand_as(x_t["x"])})


class Given:
    """Stands in for `Random`: the numbers given."""

    def __init__(self, noise):
        self.noise, self.indices = noise, torch.arange(len(noise))

    def normal(self, shape):
        return self.noise


@pytest.mark.parametrize("r", [(-0.7, -1.9), (1.0, -0.8), (1.0, -0.8, -2.1)])
@pytest.mark.parametrize("h", [0.05, 0.9, 4.0, -0.9])
def test_weights_are_integrals(h, r):
    """Of the polynomials that are 1 at one share of the step and 0 at the others and at 0, by quadrature."""
    w = weights(h, r, math.nan)
    for m, share in enumerate(r):
        others = [0.0, *r[:m], *r[m + 1 :]]

        def integrand(u, share=share, others=others):
            return h * math.exp(-h * (1 - u)) * math.prod((u - o) / (share - o) for o in others)

        assert w[m + 1] == pytest.approx(quad(integrand, 0, 1, epsabs=1e-13)[0], abs=1e-11)
    assert sum(w) == pytest.approx(0, abs=1e-14)


def test_shares_of_infinite_steps():
    assert shares([1.0, 0.5], 2.0, 0.5) == [-2.0, -3.0]
    assert shares([1.0, -math.inf], 2.0, 0.5) == [-2.0]
    for h in (math.inf, -math.inf):
        assert shares([1.0], 2.0, h) == []


@scheduled
def test_a_2m_step_is_that_of_the_paper(schedule):
    denoiser = AnalyticDenoiser(scalars(schedule), [0.4, 0.6], {"x": (f64(-1, 1)[:, None, None], 0.3)})
    x, times = torch.randn(9, 1, 1).double(), (0.8, 0.5, 0.3)
    (_, sigma_0, l_0), (alpha_1, sigma_1, l_1), (alpha_2, sigma_2, l_2) = (levels(schedule, t) for t in times)
    first = denoiser({"x": x}, f64(0.8).expand(9)).data["x"]
    middle = sigma_1 / sigma_0 * x - alpha_1 * math.expm1(l_0 - l_1) * first
    second = denoiser({"x": middle}, f64(0.5).expand(9)).data["x"]
    h, r = l_2 - l_1, (l_1 - l_0) / (l_2 - l_1)
    slanted = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    expected = sigma_2 / sigma_1 * middle - alpha_2 * math.expm1(-h) * slanted
    ours = DPMSolver()(denoiser, {"x": x}, plan=downward(times))["x"]
    assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-13)


@scheduled
def test_3m_is_exact_for_parabolas(schedule):
    """After two steps of lower order, on a grid without even steps."""
    c_0, c_1, c_2 = 0.7, -0.4, 0.3
    denoiser, x = Polynomial(schedule, c_0, c_1, c_2), torch.randn(3, 1, 1).double()
    times = (0.8, 0.7, 0.55, 0.5, 0.3, 0.2)

    def primitive(level):
        """Of exp(lambda) times the parabola."""
        return math.exp(level) * (c_0 + c_1 * (level - 1) + c_2 * (level**2 - 2 * level + 2))

    def states(order):
        ends = [DPMSolver(order=order)(denoiser, {"x": x}, plan=downward(times[:n]))["x"] for n in range(2, 7)]
        return [x, *ends]

    def misses(order):
        found, path = [], states(order)
        for before, after, t, s in zip(path[:-1], path[1:], times[:-1], times[1:], strict=True):
            (_, sigma_t, level_t), (_, sigma_s, level_s) = levels(schedule, t), levels(schedule, s)
            exact = sigma_s / sigma_t * before + sigma_s * (primitive(level_s) - primitive(level_t))
            found.append((after - exact).abs().max().item())
        return found

    assert max(misses(3)[2:]) < 1e-13
    assert min(misses(3)[:2]) > 1e-5
    assert min(misses(2)) > 1e-5


def test_from_pure_noise_the_first_step_and_into_clean_data_the_last_are_those_of_ddim():
    x = {"x": torch.randn(3, 1, 1).double()}
    denoiser = AnalyticDenoiser(scalars(Flow()), [0.4, 0.6], {"x": (f64(-1, 1)[:, None, None], 0.3)})
    for plan in ([(1.0, 0.8)], [(0.3, 0.0)]):
        for order in (2, 3):
            ours, euler = (sampler(denoiser, x, plan=plan)["x"] for sampler in (DPMSolver(order=order), DDIM()))
            assert torch.allclose(ours, euler, rtol=1e-13)
    whole = DPMSolver(6, order=3)(Polynomial(Flow(), 0.7), x)["x"]
    assert torch.allclose(whole, torch.full_like(whole, 0.7), rtol=1e-14)


class Plateau(Linear):
    """Nothing happens between 0.4 and 0.6."""

    def log_alpha_squared(self, t):
        return super().log_alpha_squared(torch.where((t > 0.4) & (t < 0.6), 0.4, t))


@pytest.mark.parametrize(
    "sampler",
    [DPMSolver(), DPMSolver(order=3), DPMSolver(eta=1.0), UniPC(), UniPC(predictor_order=3)],
    ids=["2M", "3M", "SDE", "UniPC-2", "UniPC-3"],
)
def test_a_step_of_no_length_changes_nothing(sampler):
    law = {"x": (f64(-1, 1)[:, None, None], 0.3)}
    x, denoiser = {"x": torch.randn(9, 1, 1).double()}, AnalyticDenoiser(scalars(Plateau()), [0.4, 0.6], law)
    times = ((0.9, 0.8, 0.59, 0.5, 0.3, 0.2), (0.9, 0.8, 0.5, 0.3, 0.2))
    ends = [sampler(denoiser, x, random=Random(0, 9), plan=downward(each))["x"] for each in times]
    assert torch.equal(*ends)


# With noise


@pytest.mark.parametrize("eta", [0.3, 1.0])
@scheduled
def test_a_step_with_noise_solves_the_sde_for_estimates_that_stay(schedule, eta):
    """x / alpha - data is an Ornstein-Uhlenbeck path: what is left of it, and the noise that has come in."""
    x, z, data = torch.randn(9, 1, 1).double(), torch.randn(9, 1, 1).double(), 0.7
    (alpha_t, _, l_t), (alpha_s, sigma_s, l_s) = levels(schedule, 0.8), levels(schedule, 0.5)
    left = math.exp(-(1 + eta**2) * (l_s - l_t))
    noise = sigma_s * math.sqrt(1 - math.exp(-2 * eta**2 * (l_s - l_t)))
    expected = alpha_s * (data + left * (x / alpha_t - data)) + noise * z
    ours = DPMSolver(eta=eta)(Polynomial(schedule, data), {"x": x}, random=Given(z), plan=[(0.8, 0.5)])["x"]
    assert torch.allclose(ours, expected, rtol=1e-12)


@scheduled
def test_the_second_sde_step_is_sde_dpm_solver_2m(schedule):
    """x_s = sigma_s / sigma_t exp(-h) x_t + alpha_s (1 - exp(-2h)) D + sigma_s sqrt(1 - exp(-2h)) z."""
    denoiser = AnalyticDenoiser(scalars(schedule), [0.4, 0.6], {"x": (f64(-1, 1)[:, None, None], 0.3)})
    x, z = torch.randn(9, 1, 1).double(), torch.randn(9, 1, 1).double()
    times, last, h_last = (0.8, 0.5, 0.3), None, None
    state = x
    for t, s in downward(times):
        (_, sigma_t, l_t), (alpha_s, sigma_s, l_s) = levels(schedule, t), levels(schedule, s)
        h, data = l_s - l_t, denoiser({"x": state}, f64(t).expand(9)).data["x"]
        slanted = data if last is None else data + h / (2 * h_last) * (data - last)
        decay = math.exp(-2 * h)
        state = sigma_s / sigma_t * math.exp(-h) * state + alpha_s * (1 - decay) * slanted
        state, last, h_last = state + sigma_s * math.sqrt(1 - decay) * z, data, h
    ours = DPMSolver(eta=1.0)(denoiser, {"x": x}, random=Given(z), plan=downward(times))["x"]
    assert torch.allclose(ours, state, rtol=1e-12, atol=1e-13)


class Probe:
    """Stands in for `Random`: draw d is one for sample d and zero for all others, so outputs are coefficients."""

    def __init__(self, batch):
        self.indices, self.draws = torch.arange(batch), 0

    def normal(self, shape):
        unit = torch.zeros(shape, dtype=torch.float64)
        unit[self.draws] = 1
        self.draws += 1
        return unit


def error_of_variance(sampler, schedule, v):
    """From noise of the exact variance to the last noisy time, for data from N(0, v): all is linear in the noise."""

    def exact(t):
        return (schedule.alpha(f64(t)) ** 2 * v + schedule.sigma(f64(t)) ** 2).item()

    denoiser = AnalyticDenoiser(scalars(schedule), [1.0], {"x": (0.0, v**0.5)})
    random, plan = Probe(sampler.steps), sampler.plan(denoiser.process)[:-1]
    x = {"x": random.normal((sampler.steps, 1, 1)) * exact(1.0) ** 0.5}
    end = sampler(denoiser, x, random=random, plan=plan)["x"]
    return abs(end.square().sum().item() - exact(plan[-1][1]))


@pytest.mark.parametrize("eta", [0.5, 1.0])
@scheduled
def test_order_of_the_law_with_noise(schedule, eta):
    errors = [error_of_variance(DPMSolver(n, "log_snr", eta=eta), schedule, 0.25) for n in (50, 100, 200)]
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.3)


def test_data_in_one_point_keep_the_marginal_at_any_step():
    for eta in (0.4, 1.0):
        seen = []

        class Hook:
            def after(self, x, step, process, mask, random, seen=seen):
                seen.append((step.s.item(), x["x"].square().sum().item()))
                return x

            def finish(self, x, process, mask):
                return x

        denoiser, random = AnalyticDenoiser(scalars(Linear()), [1.0], {"x": (0.0, 0.0)}), Probe(9)
        x = {"x": random.normal((9, 1, 1)) * Linear().sigma(f64(1.0))}
        DPMSolver(8, eta=eta)(denoiser, x, random=random, hooks=[Hook()])
        for t, square in seen[:-1]:
            assert square == pytest.approx(Linear().sigma(f64(t)).item() ** 2, rel=1e-5)


def test_noise_is_drawn_for_every_sample_and_not_at_the_end():
    denoiser, x = Polynomial(Linear(), 0.7), {"x": torch.zeros(2, 1, 1).double()}
    sampler, random = DPMSolver(3, eta=1.0), Random(0, 2)
    assert torch.allclose(sampler(denoiser, x, random=random)["x"], f64(0.7))
    assert random.draws == 2
    a, b = sampler(denoiser, x, random=Random(0, 2), plan=sampler.plan(denoiser.process)[:-1])["x"].flatten()
    assert abs(a - b) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 1}, "order must be 2 or 3, got 1; for order 1 take DDIM"),
        ({"order": 4}, "order must be 2 or 3, got 4"),
        ({"eta": 1.1}, r"eta must lie in \[0, 1\] .* got 1.1"),
        ({"eta": -0.1}, r"eta must lie in \[0, 1\] .* got -0.1"),
        (
            {"order": 3, "eta": 1.0},
            r"with noise \(eta = 1.0\) the law converges with order 2, got order 3; take order 2",
        ),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DPMSolver(**options)
