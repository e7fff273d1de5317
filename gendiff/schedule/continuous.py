"""Schedules in closed form, and so in continuous time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gendiff.schedule.base import Schedule, VariancePreserving


class Flow(Schedule):
    r"""Straight paths of flow matching, :math:`\alpha = 1 - t, \sigma = t`.

    References: | Flow matching for generative modeling (Lipman et al., 2022) | https://arxiv.org/abs/2210.02747
    """

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return torch.full_like(t, -1.0), torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(-log_snr / 2)


class Harmonic(Schedule):
    r"""The first schedule of diffusion, :math:`\alpha^2 = 1 - t, \sigma^2 = t`: an equal loss of signal at every step.

    In T steps it is :math:`\beta_k = 1 / (T - k + 1)`, whose product is :math:`1 - k / T` for every T. The last beta is
    1, so nothing is left of the data at t = 1, where the rows `noise` and `score` are singular. For categories it is
    the chance to be kept: with two of them, uniform, it is binomial diffusion; with an absorbing one, masking at a
    constant rate. (The authors' smallest beta of 1e-6 is below all of these for T < 10^6.)

    References: | Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al., 2015) | https://arxiv.org/abs/1503.03585
    """

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return (1 - t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return t.sqrt()

    def log_snr(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.log1p(-t) - t.log()

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(-log_snr)


class _Ramp(Schedule):
    r"""A rate :math:`\beta(t) = b_0 + (b_1 - b_0) t`, with :math:`\alpha^2 = \exp(-\int_0^t \beta)`."""

    def __init__(self, start: float = 0.1, end: float = 20.0):
        super().__init__()
        if not 0 < start <= end < math.inf:
            raise ValueError(f"{type(self).__name__} wants 0 < start <= end, got {start}, {end}")
        self.start, self.end = start, end

    def log_alpha_squared(self, t: Tensor) -> Tensor:
        r"""Return :math:`\log\alpha_t^2 = -(b_0 t + (b_1 - b_0) t^2 / 2)`."""
        return -t * (self.start + (self.end - self.start) / 2 * t)

    def _time(self, value: Tensor) -> Tensor:
        """Return the time at which -log alpha^2 has this value: the root of a quadratic, without cancellation."""
        value = value.clamp(max=(self.start + self.end) / 2)
        return 2 * value / (self.start + (self.start**2 + 2 * (self.end - self.start) * value).sqrt())


class VP(_Ramp, VariancePreserving):
    r"""The variance-preserving SDE, DDPM in continuous time.

    .. math:: \log\alpha = -\tfrac14 t^2 (b_1 - b_0) - \tfrac12 t b_0, \qquad \sigma^2 = 1 - \alpha^2

    Arguments:
        start: b_0, the rate beta at t = 0 (0.1).
        end: b_1, the rate at t = 1 (20).

    References: | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    """

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        return self._time(softplus(-log_snr))


class SubVP(_Ramp):
    r"""The sub-VP SDE: the signal of :class:`VP`, and less noise, :math:`\sigma = 1 - \alpha^2` (not its square root).

    Arguments:
        start: b_0, the rate beta at t = 0 (0.1).
        end: b_1, the rate at t = 1 (20).

    References: | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    """

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return (self.log_alpha_squared(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return -torch.expm1(self.log_alpha_squared(t))

    def log_snr(self, t: Tensor) -> Tensor:  # noqa: D102
        value = self.log_alpha_squared(t)
        return value - 2 * torch.log(-torch.expm1(value))

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        # alpha / sigma = 1 / (2 sinh u) with alpha = exp(-u)
        return self._time(2 * torch.asinh((-log_snr / 2).exp() / 2))


class VE(Schedule):
    r"""The variance-exploding SDE, a geometric ramp of noise.

    .. math:: \alpha = 1, \qquad \sigma = \sigma_0 (\sigma_1 / \sigma_0)^t

    With L uniform times it is the ladder of NCSN (1 to 0.01, L = 10) and NCSNv2 (50 to 0.01, L = 232).

    Arguments:
        sigma_min: sigma_0, the noise at t = 0 (0.01).
        sigma_max: sigma_1, the noise at t = 1 (50); at least the largest distance of two data.

    References: | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"VE wants 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self._log_min, self._log_ratio = math.log(sigma_min), math.log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return (self._log_min + self._log_ratio * t).exp()

    def log_snr(self, t: Tensor) -> Tensor:  # noqa: D102
        return -2 * (self._log_min + self._log_ratio * t)

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        return ((-log_snr / 2 - self._log_min) / self._log_ratio).clamp(0, 1)


class Karras(Schedule):
    r"""Noise added to the data as they are, with time running along the grid of EDM.

    .. math:: \alpha = 1, \qquad \sigma = \big(\sigma_0^{1/\rho} + t (\sigma_1^{1/\rho} - \sigma_0^{1/\rho})\big)^\rho

    So uniform times are noise levels of Karras et al.; the grid "karras" of n steps is their n levels and clean data.

    Arguments:
        sigma_min: sigma_0, the noise at t = 0 (0.002).
        sigma_max: sigma_1, the noise at t = 1 (80).
        rho: More crowds the times near the data (7).

    References: | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf:
            raise ValueError(f"Karras wants 0 < sigma_min < sigma_max and rho > 0, got {sigma_min}, {sigma_max}, {rho}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self._low = sigma_min ** (1 / rho)
        self._span = sigma_max ** (1 / rho) - self._low

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return (self._low + self._span * t) ** self.rho

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        return (((-log_snr / (2 * self.rho)).exp() - self._low) / self._span).clamp(0, 1)
