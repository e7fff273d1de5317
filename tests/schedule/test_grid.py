"""Time grids: their spacing, their ends, published levels."""

from itertools import pairwise

import pytest
import torch

from gendiff.schedule import (
    GRIDS,
    VE,
    VP,
    Cosine,
    Flow,
    Karras,
    Learned,
    Linear,
    Polynomial,
    SubVP,
    ZeroTerminalSNR,
    time_grid,
)

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
ALL = SCHEDULES | {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(),
    "karras": Karras(),
    "learned": Learned(features=8),
    "zero terminal": ZeroTerminalSNR(Linear()),
}


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def levels(schedule, times):
    t = f64(times)
    return schedule.sigma(t) / schedule.alpha(t)


def test_uniform_and_quadratic_times():
    assert time_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert time_grid(4, "quadratic") == [1.0, 0.5625, 0.25, 0.0625, 0.0]
    assert time_grid(2, start=0.6) == [0.6, 0.3, 0.0]
    assert time_grid(1) == [1.0, 0.0]


@pytest.mark.parametrize("start", [1.0, 0.7, 0.05])
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_times_fall_from_the_start_to_the_data(schedule, kind, start):
    for steps in (1, 2, 20):
        times = time_grid(steps, kind, schedule, start)
        assert (times[0], times[-1], len(times)) == (start, 0.0, steps + 1)
        assert all(t > s for t, s in pairwise(times))
        assert all(t > s for t, s in pairwise(torch.tensor(times).tolist()))  # in float32 too


@pytest.mark.parametrize("start", [1.0, 0.7, 0.05])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_log_snr_times_are_even_steps_of_it(schedule, start):
    times = time_grid(20, "log_snr", schedule, start)
    inner = schedule.log_snr(f64(times[1:-1]))
    steps = inner.diff()
    assert torch.allclose(steps, steps[:1].expand(18), rtol=1e-6)
    low = schedule.log_snr(f64(1e-3 * start)).item()
    assert inner[-1].item() == pytest.approx(min(12.0, low), rel=1e-6)
    assert inner[0].item() - max(-10, schedule.log_snr(f64(start)).item()) == pytest.approx(steps[0].item(), rel=1e-6)


@pytest.mark.parametrize("start", [1.0, 0.7, 0.05])
@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_karras_times_are_even_steps_of_a_root_of_the_noise(schedule, start):
    times = time_grid(20, "karras", schedule, start)
    roots = levels(schedule, times[1:-1]) ** (1 / 7)
    steps = roots.diff()
    assert torch.allclose(steps, steps[:1].expand(18), rtol=1e-6)
    at_0, early, first = levels(schedule, [0.0, 1e-3 * start, start]).tolist()
    assert levels(schedule, times[-2:-1]).item() == pytest.approx(at_0 or early, rel=1e-6)
    top = schedule.sigma(f64(start)).item() / 0.005 if schedule.alpha(f64(start)) < 0.005 else first
    assert (roots[0] - steps[0]).item() == pytest.approx(top ** (1 / 7), rel=1e-6)


def test_karras_times_walk_the_levels_of_edm():
    times = time_grid(18, "karras", Karras())
    sigma = Karras().sigma(f64(times))[[0, 1, 8, 16, 17]]
    assert sigma.tolist() == pytest.approx([80, 57.58598472, 3.25682152, 0.00752802, 0.002], abs=5e-9)
    assert times[:-1] == pytest.approx([1 - i / 17 for i in range(18)], abs=1e-11)  # even steps of its time


def test_karras_times_of_ddpm_start_at_its_largest_noise():
    """The levels of public samplers: from 157.407 to that of the first of a thousand steps."""
    sigma = levels(Linear(), time_grid(20, "karras", Linear())[:-1])
    assert sigma[0].item() == pytest.approx(157.40728, abs=1e-5)
    assert sigma[-1].item() == pytest.approx((1e-4 / (1 - 1e-4)) ** 0.5, rel=1e-9)
    i = torch.arange(20).double() / 19
    expected = (157.40728 ** (1 / 7) * (1 - i) + sigma[-1] ** (1 / 7) * i) ** 7
    assert torch.allclose(sigma, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["log_snr", "karras"])
def test_a_grid_of_one_step(kind):
    assert time_grid(1, kind, Flow()) == [1.0, 0.0]


def test_a_grid_of_a_schedule_in_training():
    schedule = Learned(features=8)
    assert schedule.log_snr(torch.ones(1)).requires_grad
    assert len(time_grid(5, "karras", schedule)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": -3}, "steps must be at least 1, got -3"),
        ({"steps": 5, "start": 0.0}, r"start must lie in \(0, 1\], got 0.0; 1 starts from noise"),
        ({"steps": 5, "start": 1.1}, r"start must lie in \(0, 1\], got 1.1"),
        ({"steps": 5, "start": float("nan")}, r"start must lie in \(0, 1\], got nan"),
        ({"steps": 5, "kind": "cubic"}, "grid must be one of .* got 'cubic'"),
        ({"steps": 5, "kind": "log_snr"}, "a log_snr grid needs the schedule, got none; pass schedule="),
        ({"steps": 5, "kind": "karras"}, "a karras grid needs the schedule"),
    ],
)
def test_impossible_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        time_grid(**options)
