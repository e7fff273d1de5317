"""What all guidance shares: a denoiser made of denoisers."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from gendiff.denoise import AnyDenoiser, Estimate
from gendiff.ops import State, expand
from gendiff.process import TINY, GivenProcess, JointProcess


class Guidance:
    """A denoiser around a denoiser; samplers cannot tell them apart.

    Arguments:
        denoiser: What is guided.
    """

    def __init__(self, denoiser: AnyDenoiser):
        self.denoiser = denoiser
        self.process: JointProcess = denoiser.process

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the guided estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


def finite(name: str, value: float) -> float:
    """Return `value` as a float, or raise a ValueError if it is not a finite number."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return float(value)


def extrapolate(strong: Estimate, weak: Estimate, weight: Tensor, mask: Tensor | None) -> Estimate:
    r"""Return :math:`\hat x_0^s + (w - 1)(\hat x_0^s - \hat x_0^w)`, which is `strong` itself for w = 1.

    Categorical fields mix log-probabilities, renormalised: :math:`p \propto p_s^w\, p_w^{1 - w}`. Probabilities count
    as at least 1e-30, so that a category which one side rules out has a finite logarithm. What
    is given stays.

    Arguments:
        strong: Where the estimate is pushed to; what is left of it (learned variances) is kept.
        weak: What it is pushed away from.
        weight: w of each sample, shape (B,).
        mask: (B, N) or None.
    """
    data, logits = {}, {}
    for name, field in strong.process.items():
        s, w = strong.data[name], weak.data[name]
        if isinstance(field, GivenProcess):
            data[name] = s
        elif field.categorical:
            log_s, log_w = (p.clamp(min=TINY).log() for p in (s, w))
            logits[name] = log_s + expand(weight - 1, s) * (log_s - log_w)
            data[name] = field.space.project(logits[name].softmax(-1), mask)
        else:
            data[name] = s + expand(weight - 1, s) * (s - w)
    return replace(strong, data=data, logits=logits)
