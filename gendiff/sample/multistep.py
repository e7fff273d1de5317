r"""Solvers that lean on their last estimates.

With :math:`\lambda = \log(\alpha / \sigma)` and :math:`h = \lambda_s - \lambda_t` the probability flow of any schedule
is

.. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s h \int_0^1 e^{-h (1 - u)} \hat x_0(\lambda_t + u h)\, du

so a step needs the estimate along the way, which a polynomial in u continues from where it is known: at u = 0, and at
the shares :math:`r_m` of the step at which it was evaluated before (:math:`r_m < 0`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler, combine, draw_categories


def shares(levels: Sequence[float], level: float, h: float) -> list[float]:
    """Return where earlier `levels` lie, in steps of length `h` from `level`: r, newest first.

    None for a step of infinite length (from alpha = 0, or into clean data), over which nothing can be continued. The
    oldest level alone may be infinite, and is left out.
    """
    return [(old - level) / h for old in levels if math.isfinite(old)] if math.isfinite(h) else []


def weights(h: float, r: Sequence[float], scale: float) -> list[float]:
    r"""Return the weights of the estimates at 0 and at `r` in a step, less those of the constant at 0.

    .. math:: w_m = h \int_0^1 e^{-h (1 - u)} \ell_m(u)\, du, \qquad w_0 = -\sum_m w_m

    with :math:`\ell_m` the polynomial that is 1 at :math:`r_m` and 0 at 0 and the others. One share alone takes
    :math:`w_1 = B / (2 r_1)`, of the same order, with B = `scale`.
    """
    if len(r) < 2:
        w = [scale / (2 * share) for share in r]
        return [-sum(w), *w]
    moments = [-math.expm1(-h)]  # h times the integral of exp(-h (1 - u)) u^k
    for k in range(1, len(r) + 1):
        moments.append(1 - k / h * moments[-1])
    w = []
    for m, share in enumerate(r):
        polynomial = [0.0, 1 / share]
        for other in (*r[:m], *r[m + 1 :]):
            raised = zip([0.0, *polynomial], [*polynomial, 0.0], strict=True)
            polynomial = [(a - other * b) / (share - other) for a, b in raised]
        w.append(sum(a * b for a, b in zip(polynomial, moments, strict=True)))
    return [-sum(w), *w]


class DPMSolver(Sampler):
    r"""DPM-Solver++ with one evaluation a step: 2M and 3M, and with noise the SDE variant of 2M.

    .. math::
        x_s = c\, x_t + (\alpha_s - c\, \alpha_t)\, \hat x_0
            + \alpha_s \sum_{m=1}^{\mathrm{order} - 1} w_m (\hat x_0^{(m)} - \hat x_0)
            + \sqrt{\sigma_s^2 - c^2 \sigma_t^2}\, z, \qquad c = \frac{\sigma_s}{\sigma_t} e^{-\eta^2 h}

    with :math:`\hat x_0^{(m)}` the estimate m steps ago. With :math:`H = (1 + \eta^2) h`, :math:`r = -h_\mathrm{prev}
    / h` order 2 has :math:`w_1 = (1 - e^{-H}) / 2r`; order 3 integrates the parabola through three estimates exactly.
    The first steps, and the one into clean data, have fewer estimates to lean on and are of lower order, which does not
    show where the signal is weak as yet. From alpha = 0 the first step errs by :math:`O(\alpha_s^2)`.

    Arguments:
        steps: How many steps (50).
        grid: Spacing of the times.
        order: 2 or 3.
        eta: 0 deterministic; up to 1, the reverse SDE. With noise no method of this kind exceeds order 2 (in law).

    Raises:
        ValueError: for another order, eta outside [0, 1], or order 3 with noise.

    References: | DPM-Solver++ (Lu et al., 2022) | https://arxiv.org/abs/2211.01095
    """

    def __init__(self, steps: int = 50, grid: str = "uniform", order: int = 2, eta: float = 0.0):
        super().__init__(steps, grid)
        if order not in (2, 3):
            raise ValueError(f"order must be 2 or 3, got {order}; for order 1 take DDIM")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1] (0 deterministic, 1 the reverse SDE), got {eta}")
        if eta and order > 2:
            raise ValueError(
                f"with noise (eta = {eta}) the law converges with order 2, got order {order}; take order 2"
            )
        self.order, self.eta = order, eta

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
        """One step of DPM-Solver++ for Gaussian fields, one draw for categorical ones."""
        estimate = evaluate(x, step.t)
        result = {}
        for name, field in process.items():
            if field.categorical:
                result[name] = draw_categories(name, x, estimate, step, process, mask, random)
                continue
            (alpha_t, sigma_t, level_t), (alpha_s, sigma_s, level_s) = step.at[name].numbers, step.to[name].numbers
            levels, estimates = memory.get(name, ([], []))
            h = level_s - level_t
            if h == 0:  # a plateau of the schedule
                result[name] = x[name]
                continue
            added = self.eta**2 * h if self.eta else 0.0
            c = sigma_s / sigma_t * math.exp(-added)
            w = weights(h + added, shares(levels, level_t, h), -math.expm1(-h - added))
            estimates = [estimate.data[name], *estimates][: self.order]
            mean = combine(
                (c, x[name]),
                (alpha_s - c * alpha_t + alpha_s * w[0], estimates[0]),
                *((alpha_s * weight, old) for weight, old in zip(w[1:], estimates[1:], strict=False)),
            )
            if self.eta and not step.last:
                mean.add_(field.noise(mask, random), alpha=sigma_s * math.sqrt(-math.expm1(-2 * added)))
            memory[name] = ([level_t, *levels][: self.order - 1], estimates[: self.order - 1])
            result[name] = mean
        return result
