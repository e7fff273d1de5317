"""Solvers that lean on their last estimates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler, draw_categories


class DPMSolver(Sampler):
    r"""DPM-Solver++(2M): order 2 with one evaluation a step, by the last two estimates.

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) \left[
            \left(1 + \frac{1}{2r}\right) \hat x_0 - \frac{1}{2r} \hat x_0^\mathrm{prev}\right],
        \quad h = \lambda_s - \lambda_t, \quad r = h_\mathrm{prev} / h, \quad \lambda = \log(\alpha / \sigma)

    The first step and the one into clean data have no second estimate to lean on and are Euler's.

    Arguments:
        steps: How many steps (50).
        grid: Spacing of the times.

    References: | DPM-Solver++ (Lu et al., 2022) | https://arxiv.org/abs/2211.01095
    """

    order = 2

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
        """One DPM-Solver++(2M) step for Gaussian fields, one draw for categorical ones."""
        estimate = evaluate(x, step.t)
        result = {}
        for name, field in process.items():
            if field.categorical:
                result[name] = draw_categories(name, x, estimate, step, process, mask, random)
                continue
            at, to, data = step.at[name], step.to[name], estimate.data[name]
            h = to.log_ratio - at.log_ratio
            slanted = data
            if name in memory and not step.last:
                last_data, last_h = memory[name]
                slanted = data + torch.nan_to_num(h / (2 * last_h)) * (data - last_data)
            memory[name] = (data, h)
            result[name] = to.sigma / at.sigma * x[name] - to.alpha * torch.expm1(-h) * slanted
        return result
