"""The loss of Improved DDPM, which also learns the variance of the reverse process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from gendiff.denoise import Denoiser, Estimate
from gendiff.objective.times import Times
from gendiff.objective.weighted import Objective
from gendiff.ops import Random
from gendiff.process import JointProcess


class Hybrid(Objective):
    r"""A squared error for the mean and the variational bound for the variance.

    .. math:: L = L_\mathrm{simple} + \lambda\, T\, KL(q(x_s | x_t, x_0) \| p(x_s | x_t)), \qquad s = t - 1/T,

    with times on the chain k / T and p the reverse law with the network's fraction
    (:meth:`gendiff.denoise.Estimate.reverse`). The bound sees the mean without its gradient, so it trains the fraction
    only. It is in nats per degree of freedom. The step into the data has no such term: its variance is zero.

    Arguments:
        bound: lambda (0.001).
        steps: T (1000).
        weighting: As :class:`Objective`, of the squared error ("noise": L_simple).
        scale: Factor of each field in the sum (1).
        times: Law of the times (uniform); each is moved up to the next k / T.
        max_weight: As :class:`Objective`.
        condition_dropout: Probability with which a sample loses its condition (0.1).
        self_condition: Probability with which a batch sees the network's first estimate (0.5).

    Raises:
        ValueError: for steps < 2 or a negative `bound`; at the call, if the network puts out no fraction.

    References: | Improved denoising diffusion probabilistic models (Nichol, Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    def __init__(
        self,
        bound: float = 0.001,
        steps: int = 1000,
        weighting: str | Mapping[str, str] = "noise",
        scale: Mapping[str, float] | None = None,
        times: Times | None = None,
        max_weight: float | None = None,
        condition_dropout: float = 0.1,
        self_condition: float = 0.5,
    ):
        super().__init__(weighting, scale, times, max_weight, condition_dropout, self_condition)
        if bound < 0 or steps < 2:
            raise ValueError(f"Hybrid wants bound >= 0 and steps >= 2, got {bound} and {steps}")
        self.bound, self.steps = bound, steps

    def draw(self, random: Random, process: JointProcess) -> tuple[Tensor, Tensor]:  # noqa: D102
        t, factor = super().draw(random, process)
        return (t * self.steps).ceil() / self.steps, factor

    def error(  # noqa: D102
        self, name: str, denoiser: Denoiser, estimate: Estimate, x_0: Tensor, noise: Tensor, mask: Tensor | None
    ) -> Tensor:
        if not estimate.fraction:
            raise ValueError("Hybrid trains a learned variance, and the network puts out no fraction; use Objective")
        simple = super().error(name, denoiser, estimate, x_0, noise, mask)
        if name not in estimate.fraction:
            return simple
        s = ((estimate.t * self.steps).round() - 1) / self.steps
        frozen = dataclasses.replace(estimate, data={name: estimate.data[name].detach()})
        kl = frozen.kl(name, x_0, s, mask)
        return simple + self.bound * self.steps * kl / denoiser.process[name].space.dim(mask, x_0).clamp(min=1)
