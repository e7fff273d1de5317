"""Thresholding of the estimate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from gendiff.denoise import AnyDenoiser, Estimate
from gendiff.guide.guidance import Guidance
from gendiff.ops import State, expand
from gendiff.space import Space


class Threshold(Guidance):
    r"""Keep estimates of the clean data within its range, which strong guidance leaves.

    Static: :math:`\hat x_0` is clamped to [-b, b]. Dynamic (Imagen): with q the p-quantile of :math:`|\hat x_0|` over
    the real entries of a field in one sample,

    .. math:: \hat x_0 \leftarrow \frac{b}{s}\, \mathrm{clamp}(\hat x_0, -s, s), \qquad s = \max(q, b)

    Arguments:
        denoiser: What is bounded, usually guided.
        bound: b (1).
        percentile: p in (0, 1], for example 0.995; None for the static one.
        fields: Gaussian fields to bound; all of them by default.

    Raises:
        ValueError: for bound <= 0, `percentile` outside (0, 1], or fields that are not Gaussian.

    References: | Imagen (Saharia et al., 2022) | https://arxiv.org/abs/2205.11487
    """

    def __init__(
        self,
        denoiser: AnyDenoiser,
        bound: float = 1.0,
        percentile: float | None = None,
        fields: Collection[str] | None = None,
    ):
        super().__init__(denoiser)
        if not bound > 0:
            raise ValueError(f"bound must be positive, got {bound}")
        if percentile is not None and not 0 < percentile <= 1:
            raise ValueError(f"percentile must lie in (0, 1], for example 0.995, got {percentile}")
        gaussian = [name for name, field in self.process.items() if not field.categorical]
        wrong = sorted(set(fields or ()) - set(gaussian))
        if wrong:
            raise ValueError(f"only Gaussian fields, {gaussian}, can be thresholded, got {wrong}")
        self.bound, self.percentile, self.fields = bound, percentile, gaussian if fields is None else list(fields)

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the bounded estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`."""
        estimate = self.denoiser(x_t, t, mask, condition, previous, noise)
        data = dict(estimate.data)
        for name in self.fields:
            x, space = data[name], self.process[name].space
            if self.percentile is None:
                data[name] = x.clamp(-self.bound, self.bound)
            else:
                s = expand(_quantile(x.abs(), self.percentile, space, mask).clamp(min=self.bound), x)
                data[name] = self.bound / s * torch.maximum(torch.minimum(x, s), -s)
            data[name] = space.project(data[name], mask)
        return replace(estimate, data=data)


def _quantile(x: Tensor, p: float, space: Space, mask: Tensor | None) -> Tensor:
    """Return the p-quantile of the real entries of each sample, shape (B,), with linear interpolation."""
    entries = space.entries(mask, x)
    real = torch.ones_like(x) if entries is None else entries.expand_as(x)
    ordered = x.masked_fill(real == 0, torch.inf).flatten(1).sort(1).values
    place = p * (real.flatten(1).sum(1, keepdim=True) - 1).clamp(min=0)
    below, above = (ordered.gather(1, i.long()) for i in (place.floor(), place.ceil()))
    return torch.lerp(below, above, place - place.floor())[:, 0]
