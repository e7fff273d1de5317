"""Classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gendiff.denoise import AnyDenoiser, Estimate, null_condition
from gendiff.guide.gradient import Gradient
from gendiff.guide.guidance import Guidance, extrapolate, finite
from gendiff.ops import State, expand
from gendiff.schedule import coefficients
from gendiff.space import Space


class ClassifierFree(Guidance):
    r"""Guidance by the difference that a condition makes.

    .. math:: \hat x_0 = \hat x_0(c) + (w - 1)\, (\hat x_0(c) - \hat x_0(\varnothing))

    so w = 1 is the plain conditional model, w = 0 the unconditional one (papers that write :math:`(1 + w')` have w = 1
    + w'). Categorical fields mix log-probabilities, renormalised. Both estimates come from one call at twice the batch.

    A large w makes the estimate too large. Rescaling brings back the standard deviation of
    :math:`v = \alpha\hat\epsilon - \sigma\hat x_0`, the output of the paper's models, over the real entries of a
    Gaussian field in one sample:

    .. math:: v \leftarrow \left(1 - \phi + \phi\, \frac{\mathrm{std}\, v(c)}{\mathrm{std}\, v}\right) v

    Arguments:
        denoiser: A conditional denoiser trained with dropped conditions.
        scale: w.
        interval: Guide only for log signal-to-noise ratios of the clock field in [low, high); elsewhere w = 1.
        rescale: :math:`\phi` in [0, 1] (0; the paper takes 0.7 with w = 7.5).

    Raises:
        ValueError: for a scale that is not finite, an interval that is no pair of numbers, `rescale` outside [0, 1], or
            a :class:`Gradient` inside.

    References:
        | Classifier-free diffusion guidance (Ho, Salimans, 2022) | https://arxiv.org/abs/2207.12598
        | Applying guidance in a limited interval (Kynkaanniemi et al., 2024) | https://arxiv.org/abs/2404.07724
        | Common diffusion noise schedules and sample steps are flawed (Lin et al., 2023): rescaling | https://arxiv.org/abs/2305.08891
    """

    def __init__(
        self,
        denoiser: AnyDenoiser,
        scale: float,
        interval: Sequence[float] = (-math.inf, math.inf),
        rescale: float = 0.0,
    ):
        super().__init__(denoiser)
        self.scale, self.interval, self.rescale = finite("scale", scale), tuple(map(float, interval)), float(rescale)
        if len(self.interval) != 2 or any(math.isnan(end) for end in self.interval):
            raise ValueError(f"interval must be two log signal-to-noise ratios (low, high), got {interval}")
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale must lie in [0, 1] (0 leaves the guided estimate as it is), got {rescale}")
        inner: object = denoiser
        while inner is not None:
            if isinstance(inner, Gradient):
                raise ValueError(
                    "classifier-free guidance evaluates twice the batch, which a log_prob cannot know;"
                    " put Gradient around ClassifierFree, not into it"
                )
            inner = getattr(inner, "denoiser", None)

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the guided estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`.

        Raises:
            ValueError: if there is no condition to guide by.
        """
        if not condition:
            raise ValueError("classifier-free guidance needs a condition; sample with one, or without guidance")
        if self.scale == 1 or self.interval[0] >= self.interval[1]:
            return self.denoiser(x_t, t, mask, condition, previous, noise)

        def twice(state: State) -> State:
            return {name: torch.cat([value, value]) for name, value in state.items()}

        null = null_condition(condition)
        both = self.denoiser(
            twice(x_t),
            torch.cat([t, t]),
            None if mask is None else torch.cat([mask, mask]),
            {name: torch.cat([value, null[name]]) for name, value in condition.items()},
            None if previous is None else twice(previous),
            None if noise is None else torch.cat([noise, noise]),
        )

        def half(state: State, which: int) -> State:
            return {name: value.chunk(2)[which] for name, value in state.items()}

        fraction, variance = ({n: v[: len(t)] for n, v in part.items()} for part in (both.fraction, both.variance))
        conditional = Estimate(self.process, x_t, t, half(both.data, 0), fraction=fraction, variance=variance)
        log_snr = self.process.schedule.log_snr(t)
        w = torch.where((log_snr >= self.interval[0]) & (log_snr < self.interval[1]), self.scale, 1.0)
        guided = extrapolate(conditional, replace(conditional, data=half(both.data, 1)), w, mask)
        return self._rescaled(guided, conditional, mask) if self.rescale else guided

    def _rescaled(self, guided: Estimate, conditional: Estimate, mask: Tensor | None) -> Estimate:
        data = dict(guided.data)
        for name, field in self.process.items():
            if field.categorical:
                continue
            # sigma v = alpha x_t - (alpha^2 + sigma^2) x_0: to scale v is to scale x_0 about where v is zero.
            x_t, g = guided.x_t[name], guided.data[name]
            alpha, sigma = coefficients(field.schedule, guided.t, x_t)
            center = alpha / (alpha**2 + sigma**2) * x_t
            kept, grown = (_deviation(e.data[name] - center, field.space, mask) for e in (conditional, guided))
            ratio = torch.where(grown > 0, kept / grown, 1.0)  # the deviation of a single number is zero
            data[name] = g + self.rescale * expand(ratio - 1, g) * (g - center)
        return replace(guided, data=data)


def _deviation(x: Tensor, space: Space, mask: Tensor | None) -> Tensor:
    """Return the standard deviation over the real entries and features of each sample, shape (B,)."""
    count = (space.count(mask, x) * space.features).clamp(min=1)
    mean = expand(space.sum(x, mask) / count, x)
    return (space.sum((x - mean) ** 2, mask) / count).sqrt()
