"""The variational bound as a loss, of a chain of T steps or of infinitely many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from gendiff.denoise import Estimate
from gendiff.objective.times import Times, Uniform
from gendiff.ops import Random, State, expand
from gendiff.process import TINY, CategoricalProcess, GaussianProcess, GivenProcess, Process
from gendiff.schedule import Schedule


class Bound(nn.Module):
    r"""An unbiased estimate of the variational bound of :math:`-\log p(x_0)`, in nats per degree of freedom.

    With T steps it is one random term of :func:`gendiff.likelihood.variational_bound`, times T, under the variance that
    the denoiser has learned (:attr:`gendiff.denoise.Estimate.fraction`), if any. For T = infinity, where no variance is
    left to choose, the sum of the terms is an integral, and one evaluation of the network goes to it and one to the
    reconstruction:

    .. math::
        KL(q(x_1 | x_0) \| p(x_1)) - E \log p(x_0 | x_{t_0}) + E_t \left[\frac{1}{p(t)} \lim_{s \to t}
        \frac{KL(q(x_s | x_t, x_0) \| q(x_s | x_t, \hat x_0))}{t - s}\right], \qquad t_0 \le t \le 1,

    see :func:`rate`. Times are uniform in :math:`\log(1 + \mathrm{SNR})` of the clock field: the information that x_t
    gives about unit-variance data grows evenly with it, and for such data all times weigh alike. The integral does not
    depend on this law, nor, for one field, on the schedule between its ends, and by this law its variance does not
    either: of a learned schedule the ends get a gradient, and what lies between has nothing to gain.

    Arguments:
        steps: T, the number of steps of the chain k / T (1000); None for infinitely many.
        start: t_0 of the infinite chain (1e-3), the time from which data are reconstructed; 0 for a schedule that has
            noise there.
        times: Law of the number in (0, 1] that picks the step, or the quantile of the time (uniform). One with a
            uniform mean: Antithetic spreads the numbers of a batch, LossAware prefers large terms.

    Raises:
        ValueError: for steps < 1, a start outside [0, 1), or other times; at the call, for a start without noise.

    References:
        | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
        | A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    """

    def __init__(self, steps: int | None = 1000, start: float = 1e-3, times: Times | None = None):
        super().__init__()
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, or None for infinitely many, got {steps}")
        if not 0 <= start < 1:
            raise ValueError(f"start must lie in [0, 1), got {start}")
        times = times or Uniform()
        if not times.unbiased:
            raise ValueError(f"Bound wants times with a uniform mean, Uniform, Antithetic or LossAware, got {times}")
        self.steps, self.start, self.times = steps, start, times

    def forward(
        self, denoiser: Any, x_0: State, mask: Tensor | None, condition: State | None, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the bound in nats per degree of freedom, shape (B,), and its parts by field (nats).

        Arguments as :meth:`Loss.forward`.
        """
        process = denoiser.process
        size = torch.stack([p.space.dim(mask, x_0[n]).clamp(min=1) for n, p in process.items()]).sum(0)
        u, factor = (value.to(size) for value in self.times(random, process))

        def look(t: Tensor) -> Estimate:
            return denoiser(process.corrupt(x_0, t, process.noise(mask, random), mask), t, mask, condition)

        def term(t: Tensor, s: Tensor) -> dict[str, Tensor]:
            return look(t).bound_term(x_0, s, mask)

        fixed = {name: p.prior_kl(x_0[name], mask) for name, p in process.items()}
        if self.steps is not None:
            k = (u * self.steps).floor().clamp(max=self.steps - 1)
            drawn = {name: self.steps * part for name, part in term((k + 1) / self.steps, k / self.steps).items()}
        else:
            zero = torch.zeros_like(u)
            fixed = {name: fixed[name] + part for name, part in term(zero + self.start, zero).items()}
            t, density = self._time(process.schedule, u)
            estimate, drawn = look(t), {}
            for name, p in process.items():
                x_t, data = estimate.x_t[name], estimate.data[name]
                drawn[name] = rate(p, x_0[name], x_t, data, t, mask) / density
        if self.training:
            self.times.update(u, torch.stack(list(drawn.values())).sum(0).detach() / size)
        parts = {name: factor * part + fixed[name] for name, part in drawn.items()}
        return torch.stack(list(parts.values())).sum(0) / size, parts

    @torch.no_grad()
    def _time(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return times from uniform numbers, uniform in log(1 + SNR) between start and 1, and their density."""
        high, low = -logsigmoid(-schedule.log_snr(u.new_tensor([self.start, 1.0])))
        if not high.isfinite():
            raise ValueError(f"there is no noise at start = {self.start}, so the bound is infinite; take start > 0")
        level = low + u * (high - low)
        t = schedule.time(level + (-torch.expm1(-level)).log())
        log_snr, slope = _with_slope(schedule.log_snr, t)
        return t, -slope * log_snr.sigmoid() / (high - low)


def rate(process: Process, x_0: Tensor, x_t: Tensor, data: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return the limit for s to t of KL(q(x_s | x_t, x_0) || q(x_s | x_t, estimate)) / (t - s), in nats, shape (B,).

    For a Gaussian field :math:`-\frac12 \mathrm{SNR}'(t) \|x_0 - \hat x_0\|^2`. A categorical one comes from j to
    :math:`x_t` by jumps with the rate :math:`\beta R_{j x_t}`, so on the way back it leaves for j with the rate
    :math:`\beta R_{j x_t} \rho_j`; two laws of jumps differ by

    .. math::
        \beta \sum_j R_{j x_t} \left(\rho_j \log\frac{\rho_j}{\hat\rho_j} - \rho_j + \hat\rho_j\right), \qquad
        \rho_j = \frac{q(x_t = j | x_0)}{q(x_t | x_0)}, \quad
        \hat\rho_j = \sum_k \hat p_k \frac{q(x_t = j | x_0 = k)}{q(x_t | x_0 = k)}, \quad
        \beta = -\frac{d}{dt} \log\alpha_t^2

    with R as in :class:`gendiff.process.CategoricalProcess`.

    A field that is given has none.

    Raises:
        ValueError: for a process that is none of these.
    """
    if isinstance(process, GaussianProcess):
        log_snr, slope = _with_slope(process.schedule.log_snr, t)
        return -0.5 * log_snr.exp() * slope * process.space.sum((x_0 - data) ** 2, mask)
    if isinstance(process, GivenProcess):
        return torch.zeros_like(t)
    if not isinstance(process, CategoricalProcess):
        raise ValueError(
            f"the bound of infinitely many steps knows no {type(process).__name__}; give a number of steps"
        )
    into = x_t @ x_t.new_tensor(process.stationary).expand(x_t.shape[-1], -1).T  # of a jump from j to x_t
    beta = expand(-2 * _with_slope(lambda time: process.schedule.alpha(time).log(), t)[1], x_t)
    here = process.likelihood(x_t, t).clamp(min=TINY)
    true, model = (process.marginal(x / here, t, mask).probabilities for x in (x_0, data))
    divergence = true * (true.clamp(min=TINY).log() - model.clamp(min=TINY).log()) - true + model
    return process.space.sum(beta * into * divergence, mask)


def _with_slope(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function of the time and its derivative, both (B,)."""
    value, slope, *_ = torch.func.jvp(function, (t,), (torch.ones_like(t),))
    return value, slope
