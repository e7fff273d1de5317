"""The adaptive solver of the probability flow, against flows that are known exactly."""

import math

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import RK45, downward, time_grid
from gendiff.schedule import VE, VP, Cosine, Flow, Karras, Linear, Polynomial, SubVP
from gendiff.space import Euclidean

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "polynomial": Polynomial(),
    "flow": Flow(),
    "vp": VP(),
    "sub-vp": SubVP(),
    "ve": VE(),
    "karras": Karras(),
}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


MEAN, STD = f64(0.5, -0.3)[:, None], f64(0.4, 1.5)[:, None]


def two(schedule):
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})


def gaussian(schedule):
    return AnalyticDenoiser(two(schedule), [1.0], {"x": (MEAN, STD)})


def mixture(schedule):
    means, stds = f64([[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]), f64(0.3, 0.5, 0.4)[:, None, None]
    return AnalyticDenoiser(two(schedule), [0.3, 0.5, 0.2], {"x": (means, stds)})


def gaussian_flow(schedule, x, t, s):
    """Where the probability flow of N(MEAN, STD^2) takes x from time t to s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((schedule.alpha(f64(u)), schedule.sigma(f64(u))) for u in (t, s))
    stretch = (((alpha_s * STD) ** 2 + sigma_s**2) / ((alpha_t * STD) ** 2 + sigma_t**2)).sqrt()
    return alpha_s * MEAN + stretch * (x - alpha_t * MEAN)


def prior(schedule, *shape):
    one = f64(1.0)
    return (schedule.alpha(one) ** 2 + schedule.sigma(one) ** 2).sqrt() * torch.randn(*shape, dtype=torch.float64)


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser):
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.denoiser(*arguments)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
@scheduled
def test_the_flow_of_gaussian_data_to_the_tolerance(schedule, tolerance):
    denoiser, x = Counted(gaussian(schedule)), prior(schedule, 8, 2, 1)
    size = x.abs().max().item()
    end = RK45(rtol=tolerance, atol=tolerance)(denoiser, {"x": x}, plan=[(1.0, 0.2)])["x"]
    assert (end - gaussian_flow(schedule, x, 1.0, 0.2)).abs().max() < 10 * tolerance * max(1.0, size / 50)
    assert denoiser.calls < 300


@scheduled
def test_clean_data_is_the_estimate_at_the_least_noise(schedule):
    denoiser, x = gaussian(schedule), prior(schedule, 8, 2, 1)
    ((_, least), (same, zero)) = RK45().plan(denoiser.process)
    assert (same, zero) == (least, 0.0)
    ends = [(plan, least) for plan in (None, [(1.0, 0.0)], [(1.0, 0.4), (0.4, 0.0)])]
    for plan, t in (*ends, (downward([1.0, 0.5, least / 2, 0.0]), least / 2)):
        end = RK45(rtol=1e-7, atol=1e-7)(denoiser, {"x": x}, plan=plan)["x"]
        expected = denoiser({"x": gaussian_flow(schedule, x, 1.0, t)}, f64(t).expand(8)).data["x"]
        assert torch.allclose(end, expected, atol=1e-5)


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_order(schedule):
    """With a tolerance that accepts everything each pair takes three steps of fixed shares."""
    denoiser, x, errors = gaussian(schedule), torch.randn(8, 2, 1).double(), []
    low, high = schedule.time(f64(3.0, -3.0)).tolist()
    for steps in (8, 16, 32):
        shares = torch.linspace(*torch.sigmoid(f64(3.0, -3.0) / 2).tolist(), steps + 1, dtype=torch.float64)
        times = schedule.time(-2 * torch.logit(shares)).tolist()
        assert (times[0], times[-1]) == pytest.approx((high, low))
        end = RK45(rtol=1e9, atol=1e9)(denoiser, {"x": x}, plan=downward(times))["x"]
        errors.append((end - gaussian_flow(schedule, x, times[0], times[-1])).abs().max().item())
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(RK45.order, abs=0.3)


@pytest.mark.parametrize(
    ("schedules", "bound"),
    [((VP(), Flow(), VE(0.01, 5.0)), 3e-4), ((Linear(), Flow()), 3e-3)],
    ids=["smooth", "a table of 1000 steps"],
)
def test_fields_with_schedules_of_their_own(schedules, bound):
    """Independent fields follow their own flows, whichever of them is the clock."""
    names = dict(zip("abc", schedules, strict=False))
    x = {name: prior(schedule, 4, 2, 1) for name, schedule in names.items()}
    for clock in names:
        process = JointProcess({n: GaussianProcess(s, Euclidean(2, "grid", [1])) for n, s in names.items()}, clock)
        end = RK45()(AnalyticDenoiser(process, [1.0], {n: (MEAN, STD) for n in names}), x, plan=[(1.0, 0.3)])
        for name, schedule in names.items():
            assert (end[name] - gaussian_flow(schedule, x[name], 1.0, 0.3)).abs().max() < bound


def test_fields_that_hang_together_share_the_time():
    """The clock is a choice of coordinate: the flow of the joint law does not depend on it."""
    schedules = {"a": VP(), "b": Flow()}
    law = {n: (f64([[-1.0], [0.5]], [[1.2], [-0.4]]), 0.4) for n in schedules}
    ends, x = [], {name: torch.randn(4, 2, 1).double() for name in schedules}
    for clock in schedules:
        process = JointProcess({n: GaussianProcess(s, Euclidean(2, "grid", [1])) for n, s in schedules.items()}, clock)
        ends.append(RK45(rtol=1e-7, atol=1e-7)(AnalyticDenoiser(process, [0.4, 0.6], law), x, plan=[(1.0, 0.1)]))
    for name in schedules:
        assert torch.allclose(ends[0][name], ends[1][name], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [Linear(), Flow(), Karras()], ids=["linear", "flow", "karras"])
def test_a_mixture_to_the_tolerance_in_both_precisions(schedule, dtype):
    denoiser, x = Counted(mixture(schedule)), prior(schedule, 20, 2, 1).to(dtype)
    fine = RK45(rtol=1e-9, atol=1e-9)(mixture(schedule), {"x": x.double()})["x"]
    end = RK45()(denoiser, {"x": x})["x"]
    assert end.dtype == dtype
    assert (end - fine).abs().max() < 1e-3
    assert denoiser.calls < 150


def test_a_sample_takes_the_steps_it_needs_alone():
    denoiser, x = Counted(mixture(Linear())), torch.randn(16, 2, 1).double()
    whole = RK45()(denoiser, {"x": x})["x"]
    counts, calls = [], denoiser.calls
    for i in range(16):
        denoiser.calls = 0
        alone = RK45()(denoiser, {"x": x[[i]]})["x"]
        assert torch.allclose(whole[[i]], alone, rtol=1e-9, atol=1e-11)
        counts.append(denoiser.calls)
    assert len(set(counts)) > 1
    assert calls == max(counts)


def test_plans_that_go_up_and_hooks():
    denoiser, x, seen = gaussian(Cosine()), {"x": torch.randn(4, 2, 1).double()}, []

    class Hook:
        def after(self, x, step, process, mask, random):
            seen.append((step.s.item(), x["x"]))
            return {"x": x["x"] + 0.1}

        def finish(self, x, process, mask):
            return x

    plan = [(1.0, 0.4), (0.4, 0.7), (0.7, 0.0)]
    RK45()(denoiser, x, random=Random(0, 4), plan=plan, hooks=[Hook()])
    assert [time for time, _ in seen] == pytest.approx([0.4, 0.7, 0.0])
    assert torch.allclose(seen[0][1], gaussian_flow(Cosine(), x["x"], 1.0, 0.4), atol=1e-4)
    assert torch.allclose(seen[2][1], RK45()(denoiser, {"x": seen[1][1] + 0.1}, plan=[(0.7, 0.0)])["x"])


def test_a_start_in_the_middle():
    sampler, denoiser, x = RK45(), gaussian(Cosine()), {"x": torch.randn(4, 2, 1).double()}
    plan = sampler.plan(denoiser.process, 0.4)
    assert [t for t, _ in plan] == time_grid(2, "log_snr", Cosine(), 0.4)[:2]
    end = sampler(denoiser, x, plan=plan)["x"]
    assert torch.allclose(end, sampler(denoiser, x, plan=[(0.4, 0.0)])["x"], atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RK45(rtol=0.0), "rtol and atol must be positive, got 0.0 and 1e-05; 1e-5 is usual"),
        (lambda: RK45(atol=-1.0), "rtol and atol must be positive"),
        (lambda: RK45(0), "steps must be at least 1, got 0"),
        (lambda: RK45()(mixture(Flow()), {"x": torch.full((1, 2, 1), math.nan)}), "rk45 stopped at t = 1, not"),
    ],
)
def test_what_cannot_be_solved_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
