"""The loop that every sampler shares: walk a plan, one `step` a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gendiff.config import Configurable
from gendiff.denoise import Estimate
from gendiff.ops import Random, State
from gendiff.process import Categorical, JointProcess
from gendiff.sample.plan import Plan, Step, Table, downward
from gendiff.schedule import time_grid


class AnyDenoiser(Protocol):
    """A denoiser, exact or learned, guided or not."""

    process: JointProcess

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
    ) -> Estimate:
        """Return the estimate of the clean data; see :meth:`gendiff.denoise.Denoiser.forward`."""


class Hook(Protocol):
    """Something that acts on the state around steps: a constraint."""

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Return the state to go on with, at time `step.s`."""

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:
        """Return the finished sample."""


Evaluate = Callable[[State, Tensor], Estimate]


class Sampler(Configurable):
    """A way to walk from noise to data. A subclass writes one :meth:`step` and declares its `order`.

    Arguments:
        steps: How many steps of the time grid (50).
        grid: How times are spaced; see :func:`gendiff.schedule.time_grid`.

    Raises:
        ValueError: for steps < 1 or an unknown grid.
    """

    order: int
    """Order of convergence to the exact flow (to the exact law, for random samplers), verified by a test."""

    def __init__(self, steps: int = 50, grid: str = "uniform"):
        time_grid(steps, "uniform" if grid == "log_snr" else grid)
        self.steps, self.grid = steps, grid

    def plan(self, process: JointProcess, start: float = 1.0) -> Plan:
        """Return the plan from time `start` down to clean data."""
        return downward(time_grid(self.steps, self.grid, process.schedule, start))

    @torch.no_grad()
    def __call__(
        self,
        denoiser: AnyDenoiser,
        x_t: State,
        mask: Tensor | None = None,
        condition: State | None = None,
        random: Random | None = None,
        hooks: Sequence[Hook] = (),
        plan: Plan | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> State:
        """Walk a plan and return the state at its end.

        Arguments:
            denoiser: Estimates the clean data.
            x_t: State at the first time of the plan; :meth:`JointProcess.prior` gives one at t = 1.
            mask: (B, N) or None.
            condition: Condition or None.
            random: One stream per sample (seed 0).
            hooks: Constraints.
            plan: Pairs (t, s); by default :meth:`plan` from t = 1.
            progress: Called with (steps done, steps in all).
        """
        process = denoiser.process
        first = x_t[process.clock]
        random = random or Random(0, len(first), first.device)
        table = Table(process, self.plan(process) if plan is None else plan, x_t)
        previous: list[State | None] = [None]

        def evaluate(x: State, t: Tensor) -> Estimate:
            estimate = denoiser(x, t.expand(len(first)), mask, condition, previous[0])
            previous[0] = estimate.data
            return estimate

        memory: dict[str, Any] = {}
        for step in table:
            if step.up:
                memory, previous[0] = {}, None
                s, t = (time.expand(len(first)) for time in (step.t, step.s))
                x_t = process.renoise(x_t, s, t, process.noise(mask, random), mask)
            else:
                x_t = self.step(evaluate, x_t, step, process, mask, random, memory)
            for hook in hooks:
                x_t = hook.after(x_t, step, process, mask, random)
            if progress is not None:
                progress(step.number + 1, len(table))
        for hook in hooks:
            x_t = hook.finish(x_t, process, mask)
        return x_t

    def step(
        self,
        evaluate: Evaluate,
        x: State,
        step: Step,
        process: JointProcess,
        mask: Tensor | None,
        random: Random,
        memory: dict[str, Any],
    ) -> State:
        """Return the state at `step.s` from the state at `step.t`.

        Arguments:
            evaluate: The denoiser: (state, time) to estimate.
            x: State at t.
            step: Times and coefficients.
            process: The forward process.
            mask: (B, N) or None.
            random: One stream per sample.
            memory: What a multistep method keeps from step to step; emptied when noise is added again.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step")


def draw_categories(
    name: str, x: State, estimate: Estimate, step: Step, process: JointProcess, mask: Tensor | None, random: Random
) -> Tensor:
    """Return one draw of q(x_s | x_t) for a categorical field: what every sampler does with it."""
    field, batch = process[name], len(x[name])
    if step.last:  # a = 1: the posterior is the estimate itself
        law: Any = Categorical(estimate.data[name], field.space, mask)
    else:
        law = field.posterior(x[name], estimate.data[name], step.t.expand(batch), step.s.expand(batch), mask)
    return law.sample(field.noise(mask, random))
