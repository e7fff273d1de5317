"""The loop that every sampler shares: walk a plan, one `step` a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gendiff.config import Configurable
from gendiff.denoise import AnyDenoiser, Estimate, first_time
from gendiff.ops import Random, State
from gendiff.process import Categorical, GivenProcess, JointProcess
from gendiff.sample.plan import Plan, Step, Table, downward
from gendiff.schedule import coefficients, time_grid


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

    no_categories: str = ""
    """Why categorical fields are refused, where they are."""

    def __init__(self, steps: int = 50, grid: str = "uniform"):
        time_grid(steps, "uniform" if grid in ("log_snr", "karras") else grid)
        self.steps, self.grid = steps, grid

    def plan(self, process: JointProcess, start: float = 1.0) -> Plan:
        """Return the plan from time `start` down to clean data."""
        return downward(time_grid(self.steps, self.grid, process.schedule, start))

    def check(self, process: JointProcess) -> None:
        """Check that this sampler can walk a process.

        Raises:
            ValueError: for a categorical field, if it takes none.
        """
        if self.no_categories:
            refuse_categories(process, type(self).__name__, self.no_categories)

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
            plan: Pairs (t, s); by default :meth:`plan` from t = 1, or from :attr:`gendiff.denoise.Denoiser.start`.
            progress: Called with (steps done, steps in all).

        Raises:
            ValueError: for a process that :meth:`check` refuses, or a plan that cannot be walked.
        """
        process = denoiser.process
        self.check(process)
        first = x_t[process.clock]
        random = random or Random(0, len(first), first.device)
        table = Table(process, self.plan(process, first_time(denoiser)) if plan is None else plan, x_t)
        evaluate = _Evaluate(denoiser, mask, condition, len(first))
        memory: dict[str, Any] = {}
        for step in table:
            evaluate.walked = step
            if step.up:
                memory, evaluate.previous = {}, None
                x_t = self.renoise(x_t, step, process, mask, random)
            else:
                x_t = self.step(evaluate, x_t, step, process, mask, random, memory)
            for hook in hooks:
                x_t = hook.after(x_t, step, process, mask, random)
            if progress is not None:
                progress(step.number + 1, len(table))
        for hook in hooks if table.plan[-1][1] == 0 else ():  # a plan may end in noise, where nothing is finished
            x_t = hook.finish(x_t, process, mask)
        return x_t

    @torch.no_grad()
    def encode(
        self,
        denoiser: AnyDenoiser,
        x_0: State,
        mask: Tensor | None = None,
        condition: State | None = None,
        plan: Plan | None = None,
    ) -> State:
        r"""Return the noise that this sampler turns into `x_0`: the same steps, walked upwards.

        Clean data has no noise to estimate. The first pair, from 0 to :math:`t_1`, takes the estimate at
        :math:`t_1`, made from the mean :math:`\alpha x_0`,

        .. math:: x_{t_1} = \alpha x_0 + \sigma \hat\epsilon(\alpha x_0, t_1)

        which undoes the last step of sampling up to :math:`O(\sigma^4)`. Sampling with the reversed plan returns to
        the data up to the error of the sampler, which falls with its order.

        Arguments:
            denoiser: Estimates the clean data; its fields must be Gaussian or given. What is given stays as it is.
            x_0: Clean state, or the state at the first time of the plan.
            mask: (B, N) or None.
            condition: Condition or None.
            plan: Pairs of increasing times; by default :meth:`plan` backwards, from clean data to t = 1.

        Raises:
            ValueError: if the sampler draws noise or cannot reach the end of the plan, a field is categorical, or the
                plan goes down.

        References: | Denoising diffusion implicit models (Song et al., 2020) | https://arxiv.org/abs/2010.02502
        """
        process, kind = denoiser.process, type(self).__name__
        refuse_categories(process, "encode", "a categorical field has no code", given=False)
        plan = [(s, t) for t, s in reversed(self.plan(process, first_time(denoiser)))] if plan is None else plan
        for i, (low, high) in enumerate(plan):
            if low >= high:
                raise ValueError(f"encode walks up, and pair {i} of its plan is {(low, high)}; give increasing times")
        first = x_0[process.clock]
        evaluate = _Evaluate(denoiser, mask, condition, len(first))
        random = _NoRandom(kind, len(first), first.device)
        memory: dict[str, Any] = {}
        x = x_0
        for step in Table(process, plan, x_0):
            if plan[step.number][0] > 0:
                x = self.step(evaluate, x, step, process, mask, random, memory)
                continue
            t = step.s.expand(len(first))
            gaussian = [name for name, field in process.items() if not field.categorical]
            mean = {name: coefficients(process[name].schedule, t, x[name])[0] * x[name] for name in gaussian}
            noise = evaluate(x | mean, t).noise
            x = x | {name: mean[name] + step.to[name].sigma * noise[name] for name in gaussian}
        if not all(bool(value.isfinite().all()) for value in x.values()):
            raise ValueError(
                f"{kind}.encode reached no finite code; if alpha is 0 at the end of the plan, end it below or take DDIM"
            )
        return x

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

    def renoise(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Return the state at the end of an upward pair: a draw of q(x_s | x_t), s > t."""
        low, high = (time.expand(len(x[process.clock])) for time in (step.t, step.s))
        return process.renoise(x, low, high, process.noise(mask, random), mask)


class _Evaluate:
    """The denoiser of one walk: (state, time) to estimate, with the last estimate for self-conditioning."""

    def __init__(self, denoiser: AnyDenoiser, mask: Tensor | None, condition: State | None, batch: int):
        self.denoiser, self.mask, self.condition, self.batch = denoiser, mask, condition, batch
        self.takes_levels = getattr(denoiser, "takes_levels", False)
        self.previous: State | None = None
        self.walked: Step | None = None

    def __call__(self, x: State, t: Tensor) -> Estimate:
        known = self._levels(t) if self.takes_levels else {}
        estimate = self.denoiser(x, t.expand(self.batch), self.mask, self.condition, self.previous, **known)
        self.previous = estimate.data
        return estimate

    def _levels(self, t: Tensor) -> dict[str, Any]:
        """Return the levels of the fields at t, if it is an end of the pair being walked: no schedule need be asked."""
        if self.walked is not None:
            for end, levels in ((self.walked.t, self.walked.at), (self.walked.s, self.walked.to)):
                if t is end:
                    return {"levels": {name: level.numbers for name, level in levels.items()}}
        return {}


class _NoRandom(Random):
    """The stream of a walk that must not draw."""

    def __init__(self, sampler: str, batch: int, device: torch.device):
        super().__init__(0, batch, device)
        self.sampler = sampler

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        raise ValueError(
            f"encode needs a deterministic sampler and {self.sampler} draws noise; take DDIM with eta = 0, Heun, "
            "DPMSolver or RK45"
        )


def refuse_categories(process: JointProcess, what: str, why: str, given: bool = True) -> None:
    """Raise a ValueError that names the first categorical field, if there is one.

    Arguments:
        process: The forward process.
        what: Who asks.
        why: What stands in the way.
        given: Whether fields that are given count.
    """
    for name, field in process.items():
        told = isinstance(field, GivenProcess)
        if field.categorical and (given or not told):
            kind = "given" if told else f"categorical ({why})"
            raise ValueError(f"{what} needs Gaussian fields and {name!r} is {kind}; DDIM, Heun and DPMSolver sample it")


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """Return the sum of weight times tensor over `terms`, in one pass over memory for each."""
    (weight, first), *rest = terms
    total = first * weight
    for weight, x in rest:
        total.add_(x, alpha=weight)
    return total


def draw_categories(
    name: str, x: State, estimate: Estimate, step: Step, process: JointProcess, mask: Tensor | None, random: Random
) -> Tensor:
    """Return one draw of q(x_s | x_t) for a categorical field: what every sampler does with it. What is given stays."""
    field, batch = process[name], len(x[name])
    if isinstance(field, GivenProcess):
        return x[name]
    if step.last:  # a = 1: the posterior is the estimate itself
        law: Any = Categorical(estimate.data[name], field.space, mask)
    else:
        law = field.posterior(x[name], estimate.data[name], step.t.expand(batch), step.s.expand(batch), mask)
    return law.sample(field.noise(mask, random))
