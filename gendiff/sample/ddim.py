"""DDIM, from the deterministic Euler step to ancestral sampling."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler, draw_categories


class DDIM(Sampler):
    r"""DDIM with noise :math:`\eta`.

    .. math::
        x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, \hat\epsilon + \tau \tilde c z, \qquad
        c = \eta\, \sigma_{ts} \sigma_s / \sigma_t, \quad
        \sigma_{ts}^2 = \sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2

    with :math:`\tilde c = c`, or :math:`\eta\sigma_{ts}` for the large variance. :math:`\eta = 0` is Euler's step in
    the log signal-to-noise ratio. A temperature :math:`\tau < 1` takes less noise in than the law asks for, which
    trades variety for likely samples (low-temperature sampling).

    Arguments:
        steps: How many steps (50).
        grid: Spacing of the times.
        eta: 0 deterministic, 1 ancestral.
        variance: "small", the posterior variance for data without spread; or "large", that for data of unit variance.
        temperature: tau (1), of Gaussian fields.

    References:
        | Denoising diffusion implicit models (Song et al., 2020) | https://arxiv.org/abs/2010.02502
        | Chroma (Ingraham et al., 2023): low-temperature sampling | https://doi.org/10.1038/s41586-023-06728-8
    """

    order = 1

    def __init__(
        self,
        steps: int = 50,
        grid: str = "uniform",
        eta: float = 0.0,
        variance: str = "small",
        temperature: float = 1.0,
    ):
        super().__init__(steps, grid)
        if not 0 <= temperature <= 1:
            raise ValueError(f"temperature must lie in [0, 1], got {temperature}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1] (0 deterministic, 1 ancestral), got {eta}")
        if variance not in ("small", "large"):
            raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
        self.eta, self.variance, self.temperature = eta, variance, temperature

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
        """One DDIM step."""
        estimate = evaluate(x, step.t)
        result = {}
        for name, field in process.items():
            if field.categorical:
                result[name] = draw_categories(name, x, estimate, step, process, mask, random)
                continue
            at, to, data = step.at[name], step.to[name], estimate.data[name]
            noise = (x[name] - at.alpha * data) / at.sigma
            if self.eta == 0 or step.last:
                result[name] = to.alpha * data + to.sigma * noise
                continue
            between = (at.sigma**2 - (at.alpha / to.alpha * to.sigma) ** 2).clamp(min=0).sqrt()
            c = self.eta * between * to.sigma / at.sigma
            fresh = self.temperature * (self.eta * between if self.variance == "large" else c)
            result[name] = (
                to.alpha * data + (to.sigma**2 - c**2).clamp(min=0).sqrt() * noise + fresh * field.noise(mask, random)
            )
        return result


class Ancestral(DDIM):
    """Ancestral sampling, DDIM with eta = 1: the reverse chain of DDPM.

    Arguments:
        steps: How many steps (1000).
        grid: Spacing of the times.
        variance: "small" or "large".
        temperature: Scale of the noise that is taken in (1).

    References: | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def __init__(self, steps: int = 1000, grid: str = "uniform", variance: str = "small", temperature: float = 1.0):
        super().__init__(steps, grid, 1.0, variance, temperature)
