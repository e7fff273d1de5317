"""Annealed Langevin dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler


def langevin(x: State, score: State, size: Mapping[str, Tensor], noise: State) -> State:
    r"""Return one step of Langevin dynamics, :math:`x + h\, \nabla \log p(x) + \sqrt{2 h}\, z`.

    Arguments:
        x: The state.
        score: The gradient of log p at x.
        size: h of each field, a scalar.
        noise: z, standard normal.
    """
    return {name: x[name] + h * score[name] + (2 * h).sqrt() * noise[name] for name, h in size.items()}


class Langevin(Sampler):
    r"""Annealed Langevin dynamics: a Markov chain at every level of noise, none of them followed to its end.

    NCSN in the units :math:`y = x / \alpha` in which its data has scale 1, :math:`\tilde\sigma = \sigma / \alpha`:
    going from t to s leaves y as it is, and k steps at s follow,

    .. math::
        y \leftarrow y + h\, \nabla_y \log p_s(y) + \sqrt{2 h}\, z, \qquad
        h = \epsilon\, (\tilde\sigma_s / \tilde\sigma_L)^2 = \rho\, \tilde\sigma_s^2

    In units of x that is a move by :math:`\alpha_s / \alpha_t` and steps of :math:`\rho\, \sigma_s^2`. (From a time
    without signal, alpha = 0, the noise is kept: a move by :math:`\sigma_s / \sigma_t`.) The first time of the plan
    has no steps, for a draw of the prior is a sample there. Clean data is the estimate at the last level, which is
    the final :math:`y + \tilde\sigma_L^2 \nabla_y \log p(y)` of NCSNv2.

    Levels must lie close together: the default is a geometric ladder. On Gaussian data of variance v' at a level the
    chain settles at :math:`v' / (1 - \rho\sigma^2 / 2v')`: the error is of order 1 in :math:`\rho`, and all steps below
    2 are stable.

    Arguments:
        steps: Levels, the first included (232).
        grid: Spacing of the times ("log_snr").
        corrections: k, steps at each level (5).
        step_size: :math:`\rho = \epsilon / \tilde\sigma_L^2` (0.062, that is 6.2e-6 for the last level 0.01 of NCSNv2).
            NCSN is `Langevin(10, corrections=100, step_size=0.1)`.

    Raises:
        ValueError: for a categorical field, less than one correction, or a step size outside (0, 2).

    References:
        | Generative modeling by estimating gradients of the data distribution (Song, Ermon, 2019) | https://arxiv.org/abs/1907.05600
        | Improved techniques for training score-based generative models (Song, Ermon, 2020) | https://arxiv.org/abs/2006.09011
    """

    order = 1
    no_categories = "a category has no score"

    def __init__(self, steps: int = 232, grid: str = "log_snr", corrections: int = 5, step_size: float = 0.062):
        super().__init__(steps, grid)
        if corrections < 1:
            raise ValueError(f"corrections must be at least 1, got {corrections}")
        if not 0 < step_size < 2:
            raise ValueError(f"step_size must lie in (0, 2), where the chain is stable, got {step_size}; try 0.062")
        self.corrections, self.step_size = corrections, step_size

    def step(
        self,
        evaluate: Evaluate,
        x: State,
        step: Step,
        process: JointProcess,
        mask: Tensor | None,
        random: Random,
        memory: dict[str, Any],
    ) -> State:
        """Carry the state to s and walk its chain there; to clean data, take the estimate."""
        if step.last:
            return evaluate(x, step.t).data
        for name in process.fields:
            at, to = step.at[name], step.to[name]
            move = torch.where(at.alpha > 0, to.alpha / at.alpha, to.sigma / at.sigma)
            x = {**x, name: move * x[name]}
        size = {name: self.step_size * to.sigma**2 for name, to in step.to.items()}
        for _ in range(self.corrections):
            x = langevin(x, evaluate(x, step.s).score, size, process.noise(mask, random))
        return x
