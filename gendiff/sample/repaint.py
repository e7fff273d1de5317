"""The plan of RePaint: down, and up again in jumps, so that free and known entries come to agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gendiff.sample.plan import Plan
from gendiff.schedule import time_grid


def repaint_plan(grid: int | Sequence[float] = 250, jump_length: int = 10, resamples: int = 10) -> Plan:
    r"""Return a plan that walks a time grid down and every stretch of it `resamples` times.

    At the levels 1, 1 + j, 1 + 2j, .. (counted in steps from clean data, j the jump length, as far as a jump fits) the
    plan adds j steps of noise again and walks them down once more, `resamples` - 1 times. Every pair is one step of the
    grid. The defaults make 2,410 denoising and 2,160 noising steps. Goes with :class:`gendiff.guide.Replacement`.

    Arguments:
        grid: Number of even steps from t = 1 (250), or decreasing times, down to 0 for clean data (see
            :func:`gendiff.schedule.time_grid`).
        jump_length: j, in steps (10).
        resamples: How often each stretch is walked (10); 1 is the plain plan.

    Raises:
        ValueError: for a jump length or a count below 1, times that do not decrease, or a grid with no room for a jump.

    References: | RePaint (Lugmayr et al., 2022) | https://arxiv.org/abs/2201.09865
    """
    times = time_grid(grid) if isinstance(grid, int) else list(grid)
    if any(later >= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"the times of a grid must decrease, got {times}")
    if jump_length < 1 or resamples < 1:
        raise ValueError(f"jump_length and resamples must be at least 1, got {jump_length} and {resamples}")
    top = len(times) - 1
    jumps = {level: resamples - 1 for level in range(1, top - jump_length + 1, jump_length)}
    if not jumps:
        raise ValueError(f"a jump of {jump_length} steps needs a grid of more steps, got {top}")
    path = [top]
    while path[-1] > 0:
        level = path[-1] - 1
        path.append(level)
        if jumps.get(level, 0) > 0:
            jumps[level] -= 1
            path += range(level + 1, level + jump_length + 1)
    return [(times[top - a], times[top - b]) for a, b in pairwise(path)]
