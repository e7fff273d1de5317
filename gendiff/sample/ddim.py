"""DDIM, from the deterministic Euler step to ancestral sampling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler, combine, draw_categories

VARIANCES = ("small", "large", "learned", "analytic")


class DDIM(Sampler):
    r"""DDIM with noise :math:`\eta`.

    .. math::
        x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, \hat\epsilon + \tau \tilde c z, \qquad
        c = \eta\, \sigma_{ts} \sigma_s / \sigma_t, \quad
        \sigma_{ts}^2 = \sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2

    with :math:`\tilde c` by `variance`:

    ==========  ====================================================================================================
    "small"     c, right for data without spread
    "large"     :math:`\eta\sigma_{ts}`, right for data of unit variance
    "learned"   :math:`\mathrm{large}^f\, \mathrm{small}^{1 - f}`, f the fraction that the network puts out
    "analytic"  :math:`[c^2 + (\alpha_s - \sqrt{\sigma_s^2 - c^2}\, \alpha_t / \sigma_t)^2 v(t)]^{1/2}`, in the last
                step too, v the variance of data around their estimate (:class:`gendiff.denoise.AnalyticVariance`)
    ==========  ====================================================================================================

    :math:`\eta = 0` is Euler's step in the log signal-to-noise ratio. A temperature :math:`\tau < 1` takes less noise
    in than the law asks for, which trades variety for likely samples (low-temperature sampling).

    Arguments:
        steps: How many steps (50).
        grid: Spacing of the times.
        eta: 0 deterministic, 1 ancestral.
        variance: "small", "large", "learned" or "analytic".
        temperature: tau (1), of Gaussian fields.

    References:
        | Denoising diffusion implicit models (Song et al., 2020) | https://arxiv.org/abs/2010.02502
        | Improved denoising diffusion probabilistic models (Nichol, Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
        | Analytic-DPM (Bao et al., 2022) | https://arxiv.org/abs/2201.06503
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
        if variance not in VARIANCES:
            raise ValueError(f"variance must be one of {VARIANCES}, got {variance!r}")
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
            (alpha_t, sigma_t, _), (alpha_s, sigma_s, _) = step.at[name].numbers, step.to[name].numbers
            large = self.eta * math.sqrt(max(sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2, 0)) if self.eta else 0.0
            small = large * sigma_s / sigma_t
            kept = math.sqrt(max(sigma_s**2 - small**2, 0))
            of_data = alpha_s - kept * alpha_t / sigma_t
            mean = combine((kept / sigma_t, x[name]), (of_data, estimate.data[name]))
            fresh: float | Tensor = large if self.variance == "large" else small
            if self.variance == "analytic":
                fresh = (small**2 + of_data**2 * _known(estimate.variance, name, "analytic")).sqrt()
            elif step.last or not self.eta:
                result[name] = mean
                continue
            elif self.variance == "learned":
                fraction = _known(estimate.fraction, name, "learned")
                fresh = torch.exp(fraction * math.log(large) + (1 - fraction) * math.log(small))
            result[name] = mean.add_(field.noise(mask, random) * (self.temperature * fresh))
        return result


def _known(variances: State, name: str, kind: str) -> Tensor:
    if name not in variances:
        ways = {
            "learned": "its network must put out the field's fraction",
            "analytic": "wrap the denoiser in AnalyticVariance",
        }
        raise ValueError(
            f"variance {kind!r} of field {name!r} is not known to this denoiser: {ways[kind]}, or take 'small'"
        )
    return variances[name]


class Ancestral(DDIM):
    """Ancestral sampling, DDIM with eta = 1: the reverse chain of DDPM.

    Arguments:
        steps: How many steps (1000).
        grid: Spacing of the times.
        variance: "small", "large", "learned" or "analytic".
        temperature: Scale of the noise that is taken in (1).

    References: | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def __init__(self, steps: int = 1000, grid: str = "uniform", variance: str = "small", temperature: float = 1.0):
        super().__init__(steps, grid, 1.0, variance, temperature)
