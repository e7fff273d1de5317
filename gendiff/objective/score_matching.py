r"""Score matching without the score of the noise: of the noisy states themselves.

*Denoising* score matching is the weighting "noise" of :class:`gendiff.objective.Objective`, with the row "score" if the
network itself is to be a score: there the target is :math:`\nabla \log q(x_t | x_0) = -\epsilon / \sigma`. The losses
here need no such target. Both are

.. math:: L = \frac{\sigma^2}{\dim} \left(\frac12 \|s\|^2 + \mathrm{tr}\, \frac{\partial s}{\partial x_t}\right)

for the model's score s of :math:`x_t`, and equal half the denoising loss minus 1/2 in expectation, whatever the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gendiff.objective.loss import Loss
from gendiff.objective.times import Times
from gendiff.ops import Random, State, sum_rest


class ImplicitScoreMatching(Loss):
    """Score matching with the exact trace of the Jacobian: one backward pass per number of a sample.

    Arguments:
        scale: Factor of each field in the sum (1).
        times: Law of the times (uniform).
        condition_dropout: Probability with which a sample loses its condition (0.1).
        self_condition: Probability with which a batch sees the network's first estimate (0.5).

    Raises:
        ValueError: at the call, if a field is categorical.

    References: | Estimation of non-normalized statistical models by score matching (Hyvarinen, 2005) | https://jmlr.org/papers/v6/hyvarinen05a.html
    """

    def __init__(
        self,
        scale: Mapping[str, float] | None = None,
        times: Times | None = None,
        condition_dropout: float = 0.1,
        self_condition: float = 0.5,
    ):
        super().__init__(scale, times, condition_dropout, self_condition)

    def directions(self, x: Tensor, random: Random) -> Iterator[Tensor]:
        """Yield directions u of the shape of `x` with a sum of u u^T that is the identity (in expectation)."""
        for unit in torch.eye(x[0].numel(), dtype=x.dtype, device=x.device):
            yield unit.view_as(x[0]).expand_as(x)

    @torch.enable_grad()
    def errors(  # noqa: D102
        self,
        denoiser: Any,
        x_0: State,
        x_t: State,
        noise: State,
        t: Tensor,
        mask: Tensor | None,
        condition: State | None,
        random: Random,
    ) -> dict[str, Tensor]:
        process = denoiser.process
        for name, p in process.items():
            if p.categorical:
                raise ValueError(f"score matching wants Gaussian fields and {name!r} is categorical; use Objective")
        # Of free numbers that are put into the space first, the score has a trace over the space alone.
        free = {name: x.requires_grad_() for name, x in x_t.items()}
        states = {name: p.space.project(free[name], mask) for name, p in process.items()}
        estimate = self.estimate(denoiser, states, t, mask, condition, random)
        parts = {}
        for name, p in process.items():
            scaled = -estimate.noise[name]  # sigma s
            trace = torch.zeros_like(t)
            for u in self.directions(free[name], random):
                along = torch.autograd.grad((scaled * u).sum(), free[name], create_graph=True)[0]
                trace = trace + sum_rest(along * u)
            loss = 0.5 * p.space.sum(scaled**2, mask) + p.schedule.sigma(t) * trace
            parts[name] = loss / p.space.dim(mask, x_t[name]).clamp(min=1)
        return parts


class SlicedScoreMatching(ImplicitScoreMatching):
    r"""Score matching with the trace along random directions, :math:`E_u\, u^T \frac{\partial s}{\partial x} u`.

    Its mean over directions is :class:`ImplicitScoreMatching`, at the price of one backward pass for each. The square
    of the score is taken whole, not along u (the form of smaller variance).

    Arguments:
        slices: How many directions (1).
        direction: "rademacher", signs: exact if the Jacobian is diagonal; or "normal".
        scale: Factor of each field in the sum (1).
        times: Law of the times (uniform).
        condition_dropout: Probability with which a sample loses its condition (0.1).
        self_condition: Probability with which a batch sees the network's first estimate (0.5).

    Raises:
        ValueError: for slices < 1 or another direction; at the call, if a field is categorical.

    References: | Sliced score matching: a scalable approach to density and score estimation (Song et al., 2019) | https://arxiv.org/abs/1905.07088
    """

    def __init__(
        self,
        slices: int = 1,
        direction: str = "rademacher",
        scale: Mapping[str, float] | None = None,
        times: Times | None = None,
        condition_dropout: float = 0.1,
        self_condition: float = 0.5,
    ):
        super().__init__(scale, times, condition_dropout, self_condition)
        if slices < 1:
            raise ValueError(f"slices must be at least 1, got {slices}")
        if direction not in ("rademacher", "normal"):
            raise ValueError(f"direction must be 'rademacher' or 'normal', got {direction!r}")
        self.slices, self.direction = slices, direction

    def directions(self, x: Tensor, random: Random) -> Iterator[Tensor]:  # noqa: D102
        for _ in range(self.slices):
            u = random.normal(tuple(x.shape)).to(x)
            yield (u.sign() if self.direction == "rademacher" else u) / self.slices**0.5
