"""A learned weight of the loss at each time."""

from __future__ import annotations

from torch import Tensor, nn

from gendiff.nn.embed import Fourier
from gendiff.process import JointProcess


class Uncertainty(nn.Module):
    r"""The log-uncertainty u of the loss at a noise level: the loss becomes :math:`L e^{-u} + u`.

    Its minimum over u is :math:`u^*(t) = \log E[L | t]`, where every noise level pulls with the same strength, whatever
    the size of its loss. u is a linear function of sines and cosines of the log signal-to-noise ratio of the clock
    field, and starts at zero, the plain loss. It belongs to the loss, not to the denoiser: nothing of it is left in a
    model.

    Arguments:
        features: How many sines and cosines (128).

    References: | Analyzing and improving the training dynamics of diffusion models (Karras et al., 2023) | https://arxiv.org/abs/2312.02696
    """

    def __init__(self, features: int = 128):
        super().__init__()
        self.features = features
        self.embed, self.linear = Fourier(features), nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, t: Tensor, process: JointProcess) -> Tensor:
        """Return u at times (B,), shape (B,)."""
        level = process.schedule.log_snr(t).detach().clamp(-20, 20).to(self.linear.weight)
        return self.linear(self.embed(level))[:, 0].to(t)
