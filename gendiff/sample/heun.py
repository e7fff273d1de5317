"""Heun's method on the probability flow, with or without fresh noise before its steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Plan, Step
from gendiff.sample.sampler import Evaluate, Sampler, combine, draw_categories


class Heun(Sampler):
    r"""Two evaluations a step, order 2; the last step, into clean data, is Euler's.

    With :math:`z = x / (\alpha + \sigma)` and :math:`u = \sigma / (\alpha + \sigma) \in [0, 1]` the probability flow of
    any schedule is :math:`dz/du = (z - \hat x_0) / u`, without a singularity at either end. `coordinate="karras"` takes
    :math:`z = x / \alpha, u = \sigma / \alpha`, the choice of EDM, which needs alpha > 0. Euler's step is that of DDIM
    in both, and the mean of the slopes at both ends moves it by

    .. math:: x_s \leftarrow x_s + \frac{x_s}{z_s}\, \frac{u_t - u_s}{2 u_s}\, (\hat x_0(x_s, s) - \hat x_0(x_t, t))

    `churn` puts fresh noise in before the steps of the plan that start at a ratio :math:`\sigma/\alpha` of the clock
    field between `churn_from` and `churn_to`, by an upward pair that raises this ratio by the factor :math:`1 + \gamma,
    \gamma = \min(\mathrm{churn} / \mathrm{steps}, \sqrt 2 - 1)` (at most to that of t = 1). The law still converges
    with order 2.

    Arguments:
        steps: How many steps (50); 2 steps - 1 evaluations.
        grid: Spacing of the times.
        coordinate: "flow" or "karras".
        churn: S_churn of EDM (0: no noise); EDM took 40 for ImageNet, with the limits 0.05, 50 and the scale 1.003.
        churn_from: S_tmin.
        churn_to: S_tmax; None for no limit.
        noise_scale: S_noise (1), a factor of the noise that upward pairs add to Gaussian fields.

    Raises:
        ValueError: for an unknown coordinate, a negative churn or scale, limits out of order, or alpha = 0 with
            "karras".

    References: | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    order = 2

    def __init__(
        self,
        steps: int = 50,
        grid: str = "uniform",
        coordinate: str = "flow",
        churn: float = 0.0,
        churn_from: float = 0.0,
        churn_to: float | None = None,
        noise_scale: float = 1.0,
    ):
        super().__init__(steps, grid)
        if coordinate not in ("flow", "karras"):
            raise ValueError(f"coordinate must be 'flow' or 'karras', got {coordinate!r}")
        if churn < 0 or noise_scale < 0:
            raise ValueError(f"churn and noise_scale must be at least 0, got {churn} and {noise_scale}")
        if not 0 <= churn_from <= (math.inf if churn_to is None else churn_to):
            raise ValueError(f"churn wants 0 <= churn_from <= churn_to, got {churn_from} and {churn_to}")
        self.coordinate, self.churn, self.noise_scale = coordinate, churn, noise_scale
        self.churn_from, self.churn_to = churn_from, churn_to

    def plan(self, process: JointProcess, start: float = 1.0) -> Plan:
        """Return the plan from time `start` down to clean data, with the upward pairs of churn."""
        plan = super().plan(process, start)
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        if gamma == 0:
            return plan
        log_snr = process.schedule.log_snr(torch.tensor([t for t, _ in plan], dtype=torch.float64))
        high = process.schedule.time(log_snr - 2 * math.log1p(gamma)).clamp(max=1).tolist()
        ratio = (-log_snr / 2).exp().tolist()
        churned: Plan = []
        for (t, s), u, r in zip(plan, high, ratio, strict=True):
            inside = self.churn_from <= r <= (math.inf if self.churn_to is None else self.churn_to)
            churned += [(t, u), (u, s)] if inside and u > t else [(t, s)]
        return churned

    def renoise(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Return the state at the end of an upward pair, with `noise_scale`."""
        noise = process.noise(mask, random)
        scaled = {n: z if process[n].categorical else self.noise_scale * z for n, z in noise.items()}
        low, high = (time.expand(len(x[process.clock])) for time in (step.t, step.s))
        return process.renoise(x, low, high, scaled, mask)

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
        estimate = evaluate(x, step.t)
        end, change = {}, {}
        for name, field in process.items():
            if field.categorical:
                end[name] = draw_categories(name, x, estimate, step, process, mask, random)
                continue
            (alpha_t, sigma_t, _), (alpha_s, sigma_s, _) = step.at[name].numbers, step.to[name].numbers
            c = sigma_s / sigma_t
            end[name] = combine((c, x[name]), (alpha_s - c * alpha_t, estimate.data[name]))
            scale_t, scale_s = alpha_t, alpha_s
            if self.coordinate == "flow":
                scale_t, scale_s = alpha_t + sigma_t, alpha_s + sigma_s
            elif alpha_t == 0 or alpha_s == 0:
                raise ValueError(f"coordinate 'karras' divides by alpha, here 0 ({name!r}); take coordinate 'flow'")
            if not step.last:
                change[name] = scale_s / 2 * (sigma_t / scale_t * scale_s / sigma_s - 1)
        if not change:
            return end
        second = evaluate(end, step.s)
        for name, weight in change.items():
            moved = end[name].add(second.data[name], alpha=weight)
            end[name] = moved.sub_(estimate.data[name], alpha=weight)
        return end
