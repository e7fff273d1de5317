r"""Plans: the (t, s) pairs that a sampler walks, and their table of coefficients.

A downward pair (s < t) denoises from t to s; an upward one (s > t) adds noise again. A plan that ends at 0 ends at
clean data: there alpha = 1 and sigma = 0, whatever the schedule says. Discrete-step papers are grids of k / T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gendiff.ops import State
from gendiff.process import JointProcess
from gendiff.schedule import Schedule

Plan = list[tuple[float, float]]


def downward(grid: Sequence[float]) -> Plan:
    """Return the plan that walks a decreasing grid of times once."""
    return list(pairwise(grid))


@dataclass(frozen=True)
class Level:
    """Signal and noise of one field at one time, scalars on the device of the state."""

    alpha: Tensor
    sigma: Tensor
    log_ratio: Tensor
    """log(alpha / sigma), half the log signal-to-noise ratio."""


@dataclass(frozen=True)
class Step:
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
    """The steps of a plan with their coefficients, computed once in float64 and moved to the device once.

    Arguments:
        process: The forward process.
        plan: Pairs (t, s) with times in [0, 1], each starting where the last one ended.
        like: A state, for device and dtype.

    Raises:
        ValueError: if the plan is empty, leaves [0, 1], stands still, or jumps.
    """

    def __init__(self, process: JointProcess, plan: Plan, like: State):
        if not plan:
            raise ValueError("the plan is empty; give at least one (t, s) pair")
        for i, (t, s) in enumerate(plan):
            if not (0 <= t <= 1 and 0 <= s <= 1) or t == s or (i and plan[i - 1][1] != t):
                raise ValueError(f"a plan walks connected, distinct times in [0, 1]; pair {i} is ({t}, {s})")
        first = next(iter(like.values()))
        self.plan = plan
        times = torch.tensor([[t for t, _ in plan], [s for _, s in plan]], dtype=torch.float64)
        self._times = times.to(first)
        self._levels = {}
        for name, p in process.items():
            alpha, sigma = (
                f(times.to(_device(p.schedule))).double().cpu() for f in (p.schedule.alpha, p.schedule.sigma)
            )
            alpha, sigma = torch.where(times == 0, 1.0, alpha), torch.where(times == 0, 0.0, sigma)
            self._levels[name] = torch.stack([alpha, sigma, alpha.log() - sigma.log()]).to(like[name])

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Step]:
        for i, (t, s) in enumerate(self.plan):
            at = {name: Level(*level[:, 0, i]) for name, level in self._levels.items()}
            to = {name: Level(*level[:, 1, i]) for name, level in self._levels.items()}
            yield Step(i, self._times[0, i], self._times[1, i], s > t, s == 0, at, to)


def _device(schedule: Schedule) -> torch.device:
    parameter = next(schedule.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
