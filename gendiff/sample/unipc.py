"""UniPC: a predictor, and a corrector that costs nothing."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.multistep import shares, weights
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler, combine

VARIANTS = ("bh1", "bh2")


class UniPC(Sampler):
    r"""UniPC of data prediction: order p by the last p estimates, and p + 1 by a correction with the next one.

    With the notation of :class:`~gendiff.sample.DPMSolver` the predictor is

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} x_t^c - \alpha_s (e^{-h} - 1)\, \hat x_0
            + \alpha_s \sum_{m=1}^{p-1} w_m (\hat x_0^{(m)} - \hat x_0)

    and the next step, which evaluates the estimate at :math:`x_s` anyway, first replaces the sum by the one that takes
    this estimate too (at the share 1 of the step): :math:`x_s^c`. Sums of two or more terms integrate the polynomial
    through the estimates exactly; a single term is :math:`w_1 = B(h) / 2r`. What is corrected is a difference, so
    constraints that have moved :math:`x_s` stay. The step into clean data has nothing to lean on and is of order 1.

    Arguments:
        steps: How many steps (50), one evaluation each.
        grid: Spacing of the times.
        predictor_order: p, 1 to 3 (2); the order of convergence is p + 1.
        variant: "bh2", :math:`B(h) = 1 - e^{-h}`, or "bh1", :math:`B(h) = h`; where h is infinite (from alpha = 0)
            "bh1" takes the other.

    Raises:
        ValueError: for another p or variant, or a categorical field, whose draws no later estimate can correct.

    References: | UniPC (Zhao et al., 2023) | https://arxiv.org/abs/2302.04867
    """

    no_categories = "its draws cannot be corrected"

    def __init__(self, steps: int = 50, grid: str = "uniform", predictor_order: int = 2, variant: str = "bh2"):
        super().__init__(steps, grid)
        if predictor_order not in (1, 2, 3):
            raise ValueError(f"predictor_order must be 1, 2 or 3, got {predictor_order}; 2 is usual")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
        self.predictor_order, self.variant, self.order = predictor_order, variant, predictor_order + 1

    def _scale(self, h: float) -> float:
        return h if self.variant == "bh1" and math.isfinite(h) else -math.expm1(-h)

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
        """Correct the state with the estimate made from it, and predict the next one."""
        estimate = evaluate(x, step.t)
        result = {}
        for name in x:
            (alpha_t, sigma_t, level_t), (alpha_s, sigma_s, level_s) = step.at[name].numbers, step.to[name].numbers
            levels, estimates = memory.get(name, ([], []))
            h, c = level_s - level_t, sigma_s / sigma_t
            if h == 0:  # a plateau of the schedule
                result[name] = x[name]
                continue
            total = [alpha_s - c * alpha_t, *[0.0] * len(levels)]
            predicted = weights(h, shares(levels[: self.predictor_order - 1], level_t, h), self._scale(h))
            for m, weight in enumerate(predicted):
                total[m] += alpha_s * weight
            if levels:
                for m, weight in enumerate(self._correction(level_t, levels)):
                    total[m] += c * alpha_t * weight
            estimates = [estimate.data[name], *estimates]
            result[name] = combine((c, x[name]), *zip(total, estimates, strict=True))
            memory[name] = ([level_t, *levels][: self.predictor_order], estimates[: self.predictor_order])
        return result

    def _correction(self, level: float, levels: list[float]) -> list[float]:
        """Return what the estimate at `level` changes in the step that led there from the first of `levels`."""
        last, h = levels[0], level - levels[0]
        r, scale = shares(levels[1:], last, h), self._scale(h)
        at_last, new, *earlier = weights(h, [1.0, *r], scale)
        before = weights(h, r, scale)
        return [new, *(a - b for a, b in zip([at_last, *earlier], before, strict=True))]
