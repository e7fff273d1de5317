r"""Progressive distillation: a student that goes in one deterministic step where its teacher goes in two.

From a noisy state z at time t the teacher takes two steps of DDIM, over t' to t'', and arrives at z''. One step of DDIM
with the estimate

.. math:: \tilde x = \frac{z'' - (\sigma'' / \sigma) z}{\alpha'' - (\sigma'' / \sigma) \alpha}

arrives there as well, so that is what the student learns to estimate. Then it is the teacher of the next student, which
needs half as many steps again.

References: | Progressive distillation for fast sampling (Salimans, Ho, 2022) | https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.objective import Loss
from gendiff.objective.loss import idle
from gendiff.ops import Random, State, expand
from gendiff.process import GivenProcess, JointProcess
from gendiff.sample import DDIM

GRIDS = {"uniform": 1, "quadratic": 2}
"""Grids of n steps that are every other time of the grid of 2 n: times are powers of these of k / n."""

WEIGHTINGS = ("truncated", "plus_one")


class Distill(Loss):
    r"""The error of a student's estimate against where two steps of its teacher lead.

    .. math::
        L = w(t)\, \|\tilde x - \hat x(z_t)\|^2, \qquad
        \tilde x = c\, \hat x'(z') + (1 - c)\, \hat x(z), \quad
        c = \frac{\alpha'' - (\sigma'' / \sigma') \alpha'}{\alpha'' - (\sigma'' / \sigma) \alpha}

    at the n times t of the student's grid. This is the target of the paper, written as what it is, a mean of the two
    estimates of the teacher: the same number with more digits, and probabilities where the field has logits. There the
    loss is the divergence :math:`KL(\tilde x \| \hat x)`. In the last step, to clean data, c = 1.

    =============  ==================================================================================================
    weighting      w(t)
    =============  ==================================================================================================
    `truncated`    max(SNR, 1): the larger of the errors of the data and of the noise
    `plus_one`     SNR + 1: the error of v, where :math:`\alpha^2 + \sigma^2 = 1`
    =============  ==================================================================================================

    The teacher is no part of this module: it is neither trained nor saved with it, and moves to where the data are.

    Arguments:
        teacher: A denoiser whose fields are Gaussian or given; a network of its own, or the student would teach itself.
            It is put into evaluation mode.
        steps: n, DDIM steps of the student; the teacher takes 2 n.
        grid: Their times, "uniform" or "quadratic".
        weighting: A row of the table.
        scale: Factor of each field in the sum (1).
        condition_dropout: Probability with which a sample loses its condition, for both, so that the student can be
            guided as the teacher can (0.1).

    Raises:
        ValueError: for an unknown grid or weighting, steps < 1, a categorical field, a teacher that sees its own last
            estimate, or one of noise or score, which say nothing of the data where there is nothing but noise.

    References: | Progressive distillation for fast sampling (Salimans, Ho, 2022) | https://arxiv.org/abs/2202.00512
    """

    def __init__(
        self,
        teacher: Any,
        steps: int,
        grid: str = "uniform",
        weighting: str = "truncated",
        scale: Mapping[str, float] | None = None,
        condition_dropout: float = 0.1,
    ):
        super().__init__(scale, condition_dropout=condition_dropout)
        if grid not in GRIDS:
            raise ValueError(f"grid must be one of {sorted(GRIDS)}, whose every other time is a grid too, got {grid!r}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        check_teacher(teacher)
        self.steps, self.grid, self.weighting = steps, grid, weighting
        self._teacher = _Apart(teacher.eval())

    @property
    def teacher(self) -> Any:
        """The teacher."""
        return self._teacher.module

    def sampler(self) -> DDIM:
        """Return the sampler of the student."""
        return DDIM(self.steps, self.grid)

    def draw(self, random: Random, process: JointProcess) -> tuple[Tensor, Tensor]:
        """Return a time of the student's grid for each sample, all alike likely, and the factor 1, both (B,)."""
        u = random.uniform((len(random.indices),))
        return ((u * self.steps).ceil() / self.steps) ** GRIDS[self.grid], torch.ones_like(u)

    def later(self, t: Tensor, half_steps: int) -> Tensor:
        """Return where the teacher is after so many of its steps from times (B,) of the student's grid."""
        power = GRIDS[self.grid]
        k = (2 * self.steps * t ** (1 / power)).round() - half_steps
        return (k / (2 * self.steps)) ** power

    @torch.no_grad()
    def target(self, z: State, t: Tensor, mask: Tensor | None = None, condition: State | None = None) -> State:
        """Return what the student should estimate of states z at times (B,) of its grid, by field that takes noise."""
        teacher = self.teacher.to(next(iter(z.values())))
        middle, end = self.later(t, 1), self.later(t, 2)
        process: JointProcess = teacher.process
        first, z_middle, share = teacher(z, t, mask, condition).data, {}, {}
        for name, field in process.items():
            if isinstance(field, GivenProcess):
                z_middle[name] = z[name]
                continue
            (a, s), (a_1, s_1), (a_2, s_2) = (levels(field.schedule, time, z[name]) for time in (t, middle, end))
            z_middle[name] = a_1 * first[name] + s_1 / s * (z[name] - a * first[name])
            share[name] = (a_2 - s_2 / s_1 * a_1) / (a_2 - s_2 / s * a)
        second = teacher(z_middle, middle, mask, condition).data
        return {name: first[name] + share[name] * (second[name] - first[name]) for name in share}

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
        target = self.target(x_t, t, mask, condition)
        estimate = denoiser(x_t, t, mask, condition)
        result = {}
        for name, field in denoiser.process.items():
            if isinstance(field, GivenProcess):
                result[name] = idle(estimate, name, mask)
                continue
            space, goal = field.space, target[name]
            if name in estimate.logits:
                divergence = torch.special.xlogy(goal, goal) - goal * estimate.logits[name].log_softmax(-1)
                surplus = divergence.sum(-1, keepdim=True)
                result[name] = space.sum(surplus, mask) / space.count(mask, goal).clamp(min=1)
                continue
            snr = field.schedule.log_snr(t).exp()
            weight = snr.clamp(min=1) if self.weighting == "truncated" else snr + 1
            error = space.sum((estimate.data[name] - goal) ** 2, mask)
            result[name] = weight * error / space.dim(mask, goal).clamp(min=1)
        return result


def check_teacher(teacher: Any) -> None:
    """Look at whether a denoiser can be distilled.

    Raises:
        ValueError: if it cannot, see :class:`Distill`.
    """
    for name, field in teacher.process.items():
        if field.categorical and not isinstance(field, GivenProcess):
            raise ValueError(f"field {name!r} is categorical: it has no deterministic steps to distill")
        row = getattr(teacher, "parameterization", {}).get(name)
        if row in ("noise", "score", "mean"):
            raise ValueError(
                f"field {name!r} is estimated by its {row}, which says nothing of the data where there is only noise, "
                "and a student of few steps starts there; distill a model of v, data, flow or karras"
            )
    if getattr(teacher, "self_condition", False):
        raise ValueError("it sees its own last estimate, which two steps and one step do not share")


def levels(schedule: Any, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at times (B,), shaped to multiply `like`; time 0 is clean data, 1 and 0."""
    clean = t == 0
    alpha, sigma = torch.where(clean, 1.0, schedule.alpha(t)), torch.where(clean, 0.0, schedule.sigma(t))
    return expand(alpha, like), expand(sigma, like)


class _Apart:
    """Holds a module without being one; copies of whoever holds it share it."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> _Apart:
        return self
