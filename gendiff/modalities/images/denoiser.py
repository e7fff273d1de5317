"""The denoiser of pixels: its estimates are pixels, and those that are known are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.denoise import Denoiser, Estimate
from gendiff.ops import State
from gendiff.process import JointProcess


class PixelDenoiser(Denoiser):
    """A denoiser of the field `pixel`, some of which may be known.

    Where the condition `known`, (B, C, H, W), is not NaN, the network sees it without noise, and the estimate is what
    is known: samples have it bit by bit. Outside of training the estimate of the rest is clipped to [-1, 1], where
    pixels lie, as the authors of DDPM and of what followed it did; for the row "noise" divides the errors of a network
    by alpha, which is small at first.

    Arguments:
        network: See :class:`gendiff.denoise.Denoiser`, as for all that follows but the last.
        process: The forward process.
        parameterization: A row of the table there.
        data_scale: Standard deviation of the data.
        noise_level: What the network is told.
        self_condition: Whether the network sees its last estimate.
        steps: T of the row "mean".
        clip: Whether estimates are clipped.

    References:
        | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
        | Palette: image-to-image diffusion models (Saharia et al., 2021): known pixels | https://arxiv.org/abs/2111.05826
    """

    def __init__(
        self,
        network: nn.Module,
        process: JointProcess,
        parameterization: str | Mapping[str, str] = "noise",
        data_scale: Mapping[str, float] | None = None,
        noise_level: str = "log_snr",
        self_condition: bool = False,
        steps: int = 1000,
        clip: bool = True,
    ):
        super().__init__(network, process, parameterization, data_scale, noise_level, self_condition, steps)
        self.clip = clip

    def forward(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        *more: Any,
        **options: Any,
    ) -> Estimate:
        """Estimate the clean data; arguments as :meth:`gendiff.denoise.Denoiser.forward`."""
        known = (condition or {}).get("known")
        x = x_t["pixel"]
        seen = x if known is None else torch.where(known.isnan(), x, known)
        estimate = super().forward({**x_t, "pixel": seen}, t, mask, condition, *more, **options)
        data = estimate.data["pixel"]
        if self.clip and not self.training:
            data = data.clamp(-1, 1)
        if known is not None:
            data = torch.where(known.isnan(), data, known)
        return replace(estimate, x_t=x_t, data={**estimate.data, "pixel": data})
