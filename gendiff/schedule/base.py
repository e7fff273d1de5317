"""What a noise schedule is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gendiff.ops import expand


class Schedule(nn.Module):
    """Interface of a noise schedule. All methods map a tensor of times to a tensor of the same shape and dtype.

    They stand on hot paths and look at no value: that times lie in [0, 1] is checked where grids and plans are made.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Return the scale of the signal."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha(t)")

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise."""
        raise NotImplementedError(f"{type(self).__name__} must define sigma(t)")

    def log_snr(self, t: Tensor) -> Tensor:
        r"""Return :math:`2(\log\alpha_t - \log\sigma_t)`: +inf where there is no noise, -inf where no signal."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor) -> Tensor:
        """Return the time at which the log signal-to-noise ratio has this value (beyond the range, the nearest end)."""
        raise NotImplementedError(f"{type(self).__name__} must define time(log_snr)")

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`d\alpha/dt` and :math:`d\sigma/dt`, by forward-mode differentiation."""
        times = t.flatten().contiguous()  # forward mode refuses expanded tensors and loses the dtype of scalars
        one = torch.ones_like(times)
        alpha, sigma = (torch.func.jvp(f, (times,), (one,))[1] for f in (self.alpha, self.sigma))
        return alpha.reshape(t.shape), sigma.reshape(t.shape)


class VariancePreserving(Schedule):
    r"""A schedule with :math:`\alpha^2 + \sigma^2 = 1`; a subclass gives :math:`\log\alpha^2` and its inverse.

    :math:`\sigma^2 = -\mathrm{expm1}(\log\alpha^2)` keeps its digits near t = 0 in float32 too.
    """

    def log_alpha_squared(self, t: Tensor) -> Tensor:
        r"""Return :math:`\log\alpha_t^2`."""
        raise NotImplementedError(f"{type(self).__name__} must define log_alpha_squared(t)")

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return (self.log_alpha_squared(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return (-torch.expm1(self.log_alpha_squared(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:  # noqa: D102
        value = self.log_alpha_squared(t)
        return value - torch.log(-torch.expm1(value))


def coefficients(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha(t) and sigma(t) of times (B,), shaped to multiply `like` of shape (B, ...)."""
    return expand(schedule.alpha(t), like), expand(schedule.sigma(t), like)
