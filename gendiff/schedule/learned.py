"""A schedule that is trained with the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from gendiff.schedule.base import VariancePreserving


class Learned(VariancePreserving):
    r"""The monotone network of variational diffusion models, :math:`\alpha^2 = \mathrm{sigmoid}(-\gamma(t))`.

    .. math::
        \tilde\gamma(t) = l_1(t) + l_3(\mathrm{sigmoid}(l_2(l_1(t)))), \qquad
        \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0)
            \frac{\tilde\gamma(t) - \tilde\gamma(0)}{\tilde\gamma(1) - \tilde\gamma(0)}

    The linear maps have weights \|w\|, so :math:`\gamma = -\log\mathrm{SNR}` rises. Pinning the ends takes away the
    bias of :math:`l_3`, and that of :math:`l_2` stands for the one of :math:`l_1`. At first the features are spread
    evenly over time and :math:`\gamma` is nearly a line. The bound in continuous time depends on the ends alone; the
    shape in between changes its variance.

    Arguments:
        gamma_min: gamma_0, minus the log signal-to-noise ratio at t = 0 (-13.3).
        gamma_max: gamma_1, that at t = 1 (5).
        features: Width of the hidden layer (1024).
        learn_ends: Learn gamma_0 and gamma_1 too, from these values.

    References: | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def __init__(
        self, gamma_min: float = -13.3, gamma_max: float = 5.0, features: int = 1024, learn_ends: bool = False
    ):
        super().__init__()
        if not -math.inf < gamma_min < gamma_max < math.inf or features < 1:
            raise ValueError(
                f"Learned wants gamma_min < gamma_max and features >= 1, got {gamma_min}, {gamma_max}, {features}"
            )
        self.gamma_min, self.gamma_max, self.features, self.learn_ends = gamma_min, gamma_max, features, learn_ends
        steepness = 8.0
        self.linear = nn.Parameter(torch.ones(()))
        self.hidden = nn.Parameter(torch.full((features,), steepness))
        self.bias = nn.Parameter(-steepness * (torch.arange(features) + 0.5) / features)
        self.out = nn.Parameter(torch.full((features,), 1 / features))
        if learn_ends:  # the span by its logarithm: the ends never change places
            self.low = nn.Parameter(torch.tensor(float(gamma_min)))
            self.log_span = nn.Parameter(torch.tensor(math.log(gamma_max - gamma_min)))

    def _shape(self, t: Tensor) -> Tensor:
        linear, hidden, bias, out = (p.to(t) for p in (self.linear, self.hidden, self.bias, self.out))
        line = linear.abs() * t
        return line + torch.sigmoid(line[:, None] * hidden.abs() + bias) @ out.abs()

    def log_snr(self, t: Tensor) -> Tensor:  # noqa: D102
        ends = torch.arange(2, dtype=t.dtype, device=t.device)
        shape = self._shape(torch.cat([t.flatten(), ends]))
        share = ((shape[:-2] - shape[-2]) / (shape[-1] - shape[-2])).reshape(t.shape)
        if self.learn_ends:
            return -(self.low.to(t) + self.log_span.to(t).exp() * share)
        return -(self.gamma_min + (self.gamma_max - self.gamma_min) * share)

    def log_alpha_squared(self, t: Tensor) -> Tensor:  # noqa: D102
        return logsigmoid(self.log_snr(t))

    @torch.no_grad()
    def time(self, log_snr: Tensor) -> Tensor:
        """Return the time at which the log signal-to-noise ratio has this value, by bisection (no gradient)."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(1 - round(math.log2(torch.finfo(log_snr.dtype).eps))):
            middle = (low + high) / 2
            early = self.log_snr(middle) > log_snr
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2
