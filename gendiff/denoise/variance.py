"""The analytic variance of the reverse law: how far clean data lie from their estimate, measured once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gendiff.denoise.estimate import AnyDenoiser, Estimate
from gendiff.ops import Random, State, expand
from gendiff.process import JointProcess


class AnalyticVariance:
    r"""A denoiser whose estimates know their variance, :math:`v(t) = \frac1d E \|x_0 - \hat x_0(x_t)\|^2`.

    Given the mean that a denoiser predicts, the reverse law closest to the true one has the variance

    .. math:: \frac{\sigma_{ts}^2 \sigma_s^2}{\sigma_t^2}
        + \left(\frac{\alpha_s \sigma_{ts}^2}{\sigma_t^2}\right)^2 v(t);

    `Ancestral(variance="analytic")` takes it, at the last step too, so few steps keep the spread of the data. For the
    exact denoiser v is Analytic-DPM's :math:`\frac{\sigma^2}{\alpha^2}(1 - \frac1d E\|\hat\epsilon\|^2)`; written as an
    error of the data it loses no digits at either end, and also holds for a denoiser that errs.

    Arguments:
        denoiser: Any denoiser.
        times: Where v was measured, ascending; linear in between, constant beyond.
        variance: v of each Gaussian field at these times.

    Raises:
        ValueError: for times that do not ascend, other lengths, or a negative variance.

    References:
        | Analytic-DPM (Bao et al., 2022) | https://arxiv.org/abs/2201.06503
        | Estimating the optimal covariance with imperfect mean (Bao et al., 2022) | https://arxiv.org/abs/2206.07309
    """

    def __init__(self, denoiser: AnyDenoiser, times: Sequence[float], variance: Mapping[str, Sequence[float]]):
        if not times or any(b <= a for a, b in pairwise(times)):
            raise ValueError(f"times must ascend, got {list(times)}")
        for name, values in variance.items():
            if len(values) != len(times) or any(not value >= 0 for value in values):
                raise ValueError(
                    f"variance of {name!r} wants {len(times)} numbers that are not negative, got {list(values)}"
                )
        self.denoiser = denoiser
        self.process: JointProcess = denoiser.process
        self.times, self.variance = list(times), {name: list(values) for name, values in variance.items()}

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the denoiser's estimate with its variance; arguments as :meth:`Denoiser.forward`."""
        estimate = self.denoiser(x_t, t, mask, condition, previous, noise)
        for name, values in self.variance.items():
            estimate.variance[name] = expand(_interpolate(t, self.times, values), x_t[name])
        return estimate

    @classmethod
    @torch.no_grad()
    def measure(
        cls,
        denoiser: AnyDenoiser,
        batches: Iterable[tuple[State, Tensor | None] | tuple[State, Tensor | None, State | None]],
        times: Sequence[float],
        seed: int = 0,
        bound: float | None = None,
    ) -> AnalyticVariance:
        """Measure v in one pass over data.

        Arguments:
            denoiser: Any denoiser.
            batches: Clean states with their masks: (x_0, mask), or (x_0, mask, condition). What is measured of a model
                without its conditions is the variance of all data, too large where something is asked for.
            times: Where to measure, ascending: those of the sampler's grid, without 0.
            seed: Seed of the noise.
            bound: Largest variance that data can have (1 for data in [-1, 1]); None for no bound.
        """
        process: JointProcess = denoiser.process
        names = [name for name, field in process.items() if not field.categorical]
        total: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        free: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        count = 0
        for x_0, mask, *rest in batches:
            condition: Any = rest[0] if rest else None
            first = x_0[process.clock]
            random = Random(seed, torch.arange(count, count + len(first)), first.device)
            count += len(first)
            errors: dict[str, list[Tensor]] = {name: [] for name in names}
            for time in times:
                t = first.new_full((len(first),), time)
                data = denoiser(process.corrupt(x_0, t, process.noise(mask, random), mask), t, mask, condition).data
                for name in names:
                    errors[name].append(process[name].space.sum((x_0[name] - data[name]) ** 2, mask).sum().double())
            for name in names:
                total[name] = total[name] + torch.stack(errors[name])
                free[name] = free[name] + process[name].space.dim(mask, x_0[name]).sum().double()
        if not count:
            raise ValueError("there are no batches to measure the variance on; give at least one")
        found = {name: (total[name] / free[name]).clamp(0, bound).tolist() for name in names}  # type: ignore[union-attr]
        return cls(denoiser, times, found)


def _interpolate(t: Tensor, times: Sequence[float], values: Sequence[float]) -> Tensor:
    """Return the piecewise linear function through (times, values) at t, constant beyond its ends."""
    place, height = t.new_tensor(times), t.new_tensor(values)
    if len(times) == 1:
        return height.expand_as(t)
    right = torch.searchsorted(place, t.contiguous()).clamp(1, len(times) - 1)
    share = ((t - place[right - 1]) / (place[right] - place[right - 1])).clamp(0, 1)
    return torch.lerp(height[right - 1], height[right], share)
