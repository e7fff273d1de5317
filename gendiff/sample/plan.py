r"""Plans: the (t, s) pairs that a sampler walks, and their table of coefficients.

A downward pair (s < t) denoises from t to s; an upward one (s > t) adds noise again. A plan that ends at 0 ends at
clean data: there alpha = 1 and sigma = 0, whatever the schedule says. Discrete-step papers are grids of k / T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gendiff.ops import State
from gendiff.process import JointProcess
from gendiff.schedule import Schedule

Plan = list[tuple[float, float]]


def downward(grid: Sequence[float]) -> Plan:
    """Return the plan that walks a decreasing grid of times once."""
    return list(pairwise(grid))


class Level(NamedTuple):
    """Signal and noise of one field at one time.

    The tensors are float64 scalars on the CPU: they multiply a state of any device and dtype, and wait for no device.
    """

    alpha: Tensor
    sigma: Tensor
    log_ratio: Tensor
    """log(alpha / sigma), half the log signal-to-noise ratio."""
    numbers: tuple[float, float, float]
    """The same three as plain numbers, in this order: for steps that are a few fused operations."""


class Step(NamedTuple):
    """One pair of a plan."""

    number: int
    t: Tensor
    s: Tensor
    up: bool
    last: bool
    at: dict[str, Level]
    """Levels of each field at t."""
    to: dict[str, Level]
    """Levels of each field at s."""


class Table:
    """The steps of a plan with their coefficients, computed once in float64.

    Arguments:
        process: The forward process.
        plan: Pairs (t, s) with times in [0, 1], each starting where the last one ended.
        like: A state, for device and dtype of the times.

    Raises:
        ValueError: if the plan is empty, leaves [0, 1], stands still, or jumps.
    """

    def __init__(self, process: JointProcess, plan: Plan, like: State):
        if not plan:
            raise ValueError("the plan is empty; give at least one (t, s) pair")
        for i, (t, s) in enumerate(plan):
            if not (0 <= t <= 1 and 0 <= s <= 1) or t == s or (i and plan[i - 1][1] != t):
                raise ValueError(f"a plan walks connected, distinct times in [0, 1]; pair {i} is ({t}, {s})")
        self.plan = plan
        times = torch.tensor([plan[0][0], *(s for _, s in plan)], dtype=torch.float64)
        self._times = times.to(next(iter(like.values()))).unbind()
        self._levels = {name: _levels(p.schedule, times) for name, p in process.items()}

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Step]:
        to = {name: levels[0] for name, levels in self._levels.items()}
        for i, (t, s) in enumerate(self.plan):
            at, to = to, {name: levels[i + 1] for name, levels in self._levels.items()}
            yield Step(i, self._times[i], self._times[i + 1], s > t, s == 0, at, to)


def _levels(schedule: Schedule, times: Tensor) -> list[Level]:
    """Return the levels of a field at `times`."""
    alpha, sigma = (f(times.to(_device(schedule))).double().cpu() for f in (schedule.alpha, schedule.sigma))
    alpha, sigma = torch.where(times == 0, 1.0, alpha), torch.where(times == 0, 0.0, sigma)
    columns = (alpha, sigma, alpha.log() - sigma.log())
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [Level(*level) for level in zip(*(column.unbind() for column in columns), numbers, strict=True)]


def _device(schedule: Schedule) -> torch.device:
    parameter = next(schedule.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
