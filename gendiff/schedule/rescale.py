"""A schedule made to end in pure noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gendiff.schedule.base import Schedule, VariancePreserving
from gendiff.schedule.discrete import Table


class ZeroTerminalSNR(Schedule):
    r"""Another schedule, with its signal moved and scaled so that nothing of it is left at t = 1.

    .. math:: \alpha'_t = \alpha_{t_1} \frac{\alpha_t - \alpha_1}{\alpha_{t_1} - \alpha_1}, \qquad
        \sigma'^2 = 1 - \alpha'^2

    The first step :math:`t_1` is 1 / T for a table of T steps, and 0 otherwise; up to it the schedule is as it was.
    Sampling starts from pure noise, which then is what training has seen at t = 1. There the rows `noise` and `score`
    are singular (they divide by alpha): take `v`, `data`, `flow` or `karras`.

    Arguments:
        schedule: A variance-preserving schedule: Linear, Cosine, Polynomial, VP or Learned.

    Raises:
        ValueError: if it is not.

    References: | Common diffusion noise schedules and sample steps are flawed (Lin et al., 2023) | https://arxiv.org/abs/2305.08891
    """

    def __init__(self, schedule: VariancePreserving):
        super().__init__()
        if not isinstance(schedule, VariancePreserving):
            raise ValueError(
                "ZeroTerminalSNR wants a variance-preserving schedule (Linear, Cosine, Polynomial, VP or Learned),"
                f" got {type(schedule).__name__}"
            )
        self.schedule = schedule
        self._first = 1 / schedule.steps if isinstance(schedule, Table) else 0.0

    def _missing(self, t: Tensor) -> Tensor:
        """Return 1 - alpha of the schedule inside."""
        return -torch.expm1(self.schedule.log_alpha_squared(t) / 2)

    def _ends(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - alpha of the schedule inside at the first step and alpha at t = 1, in the shape of `t`."""
        return self._missing(torch.full_like(t, self._first)), self.schedule.alpha(torch.ones_like(t))

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        first, last = self._ends(t)
        alpha = self.schedule.alpha(t)
        left = (alpha - last).clamp(min=0)  # at t = 1 two calls may differ in their last digit
        return torch.where(t <= self._first, alpha, (1 - first) / (1 - first - last) * left)

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        first, last = self._ends(t)
        missing = self._missing(t)
        moved = ((1 - first) * missing - last * first) / (1 - first - last)
        missing = torch.where(t <= self._first, missing, moved).clamp(max=1)
        return (missing * (2 - missing)).sqrt()  # keeps its digits near t = 0, where 1 - alpha^2 loses them

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        first, last = self._ends(log_snr)
        missing = torch.sigmoid(-log_snr) / (1 + (logsigmoid(log_snr) / 2).exp())
        moved = ((1 - first - last) * missing + last * first) / (1 - first)
        missing = torch.where(missing <= first, missing, moved)
        return self.schedule.time(2 * torch.log1p(-missing) - (missing * (2 - missing)).log())
