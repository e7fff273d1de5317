"""Heun's method on the probability flow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Level, Step
from gendiff.sample.sampler import Evaluate, Sampler, draw_categories
from gendiff.solve import add


class Heun(Sampler):
    r"""Two evaluations a step, order 2; the last step, into clean data, is Euler's.

    With :math:`z = x / (\alpha + \sigma)` and :math:`u = \sigma / (\alpha + \sigma) \in [0, 1]` the probability flow of
    any schedule is :math:`dz/du = \hat\epsilon - \hat x_0`, without a singularity at either end. `coordinate="karras"`
    takes :math:`z = x / \alpha, u = \sigma / \alpha`, the choice of EDM, which needs alpha > 0 at the start.

    Arguments:
        steps: How many steps (50); 2 steps - 1 evaluations.
        grid: Spacing of the times.
        coordinate: "flow" or "karras".

    References: | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    order = 2

    def __init__(self, steps: int = 50, grid: str = "uniform", coordinate: str = "flow"):
        super().__init__(steps, grid)
        if coordinate not in ("flow", "karras"):
            raise ValueError(f"coordinate must be 'flow' or 'karras', got {coordinate!r}")
        self.coordinate = coordinate

    def _scale(self, level: Level) -> Tensor:
        return level.alpha + level.sigma if self.coordinate == "flow" else level.alpha

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
        """One step of Heun's method for Gaussian fields, one draw for categorical ones."""
        gaussian = [name for name, field in process.items() if not field.categorical]
        at, to = {n: self._scale(step.at[n]) for n in gaussian}, {n: self._scale(step.to[n]) for n in gaussian}
        if self.coordinate == "karras" and step.number == 0 and not all(at.values()):
            raise ValueError("coordinate 'karras' divides by alpha, which is 0 at the start; take coordinate 'flow'")
        du = {n: step.to[n].sigma / to[n] - step.at[n].sigma / at[n] for n in gaussian}

        def slope(state: State, data: State, levels: dict[str, Level]) -> State:
            noise = {n: (state[n] - levels[n].alpha * data[n]) / levels[n].sigma for n in gaussian}
            return {n: (noise[n] - data[n] if self.coordinate == "flow" else noise[n]) * du[n] for n in gaussian}

        estimate = evaluate(x, step.t)
        first = slope(x, estimate.data, step.at)
        z = {n: x[n] / at[n] for n in gaussian}
        end = {n: to[n] * value for n, value in add(z, [first], [1.0]).items()}
        for name, field in process.items():
            if field.categorical:
                end[name] = draw_categories(name, x, estimate, step, process, mask, random)
        if step.last or not gaussian:
            return end
        second = slope(end, evaluate(end, step.s).data, step.to)
        mean = add(z, [first, second], [0.5, 0.5])
        return {**end, **{n: to[n] * mean[n] for n in gaussian}}
