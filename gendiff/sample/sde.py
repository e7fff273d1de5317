"""The reverse stochastic differential equation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler


class ReverseSDE(Sampler):
    r"""Steps of Euler and Maruyama on the reverse diffusion with noise :math:`\lambda`.

    .. math::
        dx = \left[f x - \tfrac{1 + \lambda^2}{2} g^2\, \nabla \log p_t(x)\right] dt + \lambda\, g\, d\bar w, \qquad
        f = \frac{d \log\alpha}{dt}, \quad g^2 = \frac{d\sigma^2}{dt} - 2 f \sigma^2

    All :math:`\lambda` have the marginals of the forward process: 1 is the reverse SDE, 0 the probability flow. As in
    the reverse-diffusion sampler of the paper, f and g^2 over a step are those of the forward transition from s to t,
    :math:`f\, \Delta t = \alpha_{ts} - 1` and :math:`g^2 \Delta t = \sigma_{ts}^2`, equal to the derivatives up to
    order 2 and free of the kinks that tables have:

    .. math:: x_s = (2 - \alpha_{ts})\, x_t + \tfrac{1 + \lambda^2}{2} \sigma_{ts}^2 \nabla \log p_t(x_t)
        + \lambda\, \sigma_{ts} z

    Order 1 (weak, for :math:`\lambda > 0`). Clean data is the estimate at the last noisy time. f has no bound where
    alpha goes to 0: such a start is refused, and near it steps must be small; the "log_snr" grid makes them so.

    Arguments:
        steps: How many steps (1000).
        grid: Spacing of the times.
        noise: lambda, 0 to 1 (1).

    Raises:
        ValueError: for a categorical field, lambda outside [0, 1], or alpha = 0 at the start of the plan.

    References: | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    """

    order = 1
    no_categories = "a category has no score"

    def __init__(self, steps: int = 1000, grid: str = "uniform", noise: float = 1.0):
        super().__init__(steps, grid)
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must lie in [0, 1] (0 the probability flow, 1 the reverse SDE), got {noise}")
        self.noise = noise

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
        """One step of Euler and Maruyama; to clean data, take the estimate."""
        if not all(level.alpha for level in (*step.at.values(), *step.to.values())):
            raise ValueError(
                "ReverseSDE cannot stand where alpha = 0, for its drift is infinite there; start the plan below, as in "
                "plan=sampler.plan(process, 0.99), or take Ancestral"
            )
        estimate = evaluate(x, step.t)
        if step.last:
            return estimate.data
        result, score = {}, estimate.score
        for name, field in process.items():
            at, to = step.at[name], step.to[name]
            alpha_ts = at.alpha / to.alpha
            square = at.sigma**2 - (alpha_ts * to.sigma) ** 2
            result[name] = (2 - alpha_ts) * x[name] + (1 + self.noise**2) / 2 * square * score[name]
            if self.noise:
                result[name] = result[name] + self.noise * square.clamp(min=0).sqrt() * field.noise(mask, random)
        return result
