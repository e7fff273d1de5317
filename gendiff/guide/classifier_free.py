"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendiff.denoise import Estimate, null_condition
from gendiff.ops import State, expand


class ClassifierFree:
    r"""Guidance by the difference that a condition makes.

    .. math:: \hat x_0 = \hat x_0(c) + (w - 1)\, (\hat x_0(c) - \hat x_0(\varnothing))

    so w = 1 is the plain conditional model, w = 0 the unconditional one (papers that write :math:`(1 + w')` have w = 1
    + w'). Categorical fields mix log-probabilities, renormalised. Both estimates come from one call at twice the batch.

    Arguments:
        denoiser: A conditional denoiser trained with dropped conditions.
        scale: w.
        interval: Guide only for log signal-to-noise ratios of the clock field in [low, high); elsewhere w = 1.

    References:
        | Classifier-free diffusion guidance (Ho, Salimans, 2022) | https://arxiv.org/abs/2207.12598
        | Applying guidance in a limited interval (Kynkaanniemi et al., 2024) | https://arxiv.org/abs/2404.07724
    """

    def __init__(
        self, denoiser: Callable[..., Estimate], scale: float, interval: Sequence[float] = (-float("inf"), float("inf"))
    ):
        self.denoiser, self.scale, self.interval = denoiser, float(scale), (float(interval[0]), float(interval[1]))
        self.process = denoiser.process  # type: ignore[attr-defined]

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
    ) -> Estimate:
        """Return the guided estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`.

        Raises:
            ValueError: if there is no condition to guide by.
        """
        if not condition:
            raise ValueError("classifier-free guidance needs a condition; sample with one, or without guidance")
        if self.scale == 1 or self.interval[0] >= self.interval[1]:
            return self.denoiser(x_t, t, mask, condition, previous)

        def twice(state: State) -> State:
            return {name: torch.cat([value, value]) for name, value in state.items()}

        null = null_condition(condition)
        both = self.denoiser(
            twice(x_t),
            torch.cat([t, t]),
            None if mask is None else torch.cat([mask, mask]),
            {name: torch.cat([value, null[name]]) for name, value in condition.items()},
            None if previous is None else twice(previous),
        )
        log_snr = self.process.schedule.log_snr(t)
        w = torch.where((log_snr >= self.interval[0]) & (log_snr < self.interval[1]), self.scale, 1.0)
        data, logits = {}, {}
        for name, field in self.process.items():
            c, u = both.data[name].chunk(2)
            if field.categorical:
                log_c, log_u = (p.clamp(min=1e-30).log() for p in (c, u))
                logits[name] = log_c + expand(w - 1, c) * (log_c - log_u)
                data[name] = field.space.project(logits[name].softmax(-1), mask)
            else:
                data[name] = c + expand(w - 1, c) * (c - u)
        return Estimate(self.process, x_t, t, data, logits)
