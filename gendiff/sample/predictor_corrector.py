"""Predictor and corrector: a step of any sampler, then Langevin dynamics where it ends."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.ddim import Ancestral
from gendiff.sample.langevin import langevin
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler


class PredictorCorrector(Sampler):
    r"""One step of a predictor from t to s, then steps of Langevin dynamics at s.

    .. math::
        x \leftarrow x + h\, \nabla \log p_s(x) + \sqrt{2 h}\, z, \qquad
        h = 2\, \alpha_{ts}^2 (r\, \sigma_s)^2, \quad \alpha_{ts} = \alpha_t / \alpha_s

    r is the signal-to-noise ratio of a correction; :math:`\alpha_{ts}^2` is 1 - beta of a discrete chain, and 1 where
    alpha is. In the place of :math:`\sigma_s` the paper has :math:`\|z\| / \|\nabla \log p_s(x)\|`, each norm a mean
    over the batch. Those would make a sample depend on its batch; norms of one sample make the step depend on where it
    stands, and so bend the law that the chain leaves alone: the variance of a normal law grows by a fifth in 24
    dimensions and severalfold in 2. What stands here is the ratio for noise alone, which the paper's nears where noise
    prevails, and may be smaller than the paper's near the data.

    On Gaussian data of variance v' at a level, corrections alone settle at :math:`v' / (1 - \alpha_{ts}^2 r^2
    \sigma_s^2 / v')`: an error of order 1 in r^2. The step into clean data is the predictor's, uncorrected.

    Arguments:
        steps: How many steps (1000); 1 + `corrections` evaluations each.
        grid: Spacing of the times.
        predictor: A sampler whose `step` predicts (:class:`~gendiff.sample.Ancestral`; in the paper also
            :class:`~gendiff.sample.ReverseSDE`); its own steps and grid do not matter.
        snr: r, between 0 and 1 (0.16).
        corrections: Steps of Langevin dynamics after each prediction (1).

    Raises:
        ValueError: for a categorical field, a ratio outside (0, 1), or less than one correction.

    References: | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    """

    order = 1
    no_categories = "a category has no score"

    def __init__(
        self,
        steps: int = 1000,
        grid: str = "uniform",
        predictor: Sampler | None = None,
        snr: float = 0.16,
        corrections: int = 1,
    ):
        super().__init__(steps, grid)
        if not 0 < snr < 1:
            raise ValueError(f"snr must lie in (0, 1), where corrections are stable, got {snr}; 0.16 is usual")
        if corrections < 1:
            raise ValueError(
                f"corrections must be at least 1, got {corrections}; without any, take the predictor alone"
            )
        self.predictor = Ancestral() if predictor is None else predictor
        self.snr, self.corrections = snr, corrections

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
        """Predict, then correct unless that was clean data."""
        x = self.predictor.step(evaluate, x, step, process, mask, random, memory)
        if step.last:
            return x
        levels = ((name, step.at[name], step.to[name]) for name in process.fields)
        size = {name: 2 * (at.alpha / to.alpha * self.snr * to.sigma) ** 2 for name, at, to in levels}
        for _ in range(self.corrections):
            x = langevin(x, evaluate(x, step.s).score, size, process.noise(mask, random))
        return x
