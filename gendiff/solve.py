r"""Steppers for the differential equation dx/dt = f(x, t) on states, shared by samplers and likelihoods.

A state is a dict of tensors; a step adds scaled slopes. :func:`rk45` is the pair of Dormand and Prince with adaptive
steps.

References: | A family of embedded Runge-Kutta formulae (Dormand, Prince, 1980) | https://doi.org/10.1016/0771-050X(80)90013-3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]
Slope = Callable[[State, float], State]


def add(x: State, slopes: Sequence[State], weights: Sequence[float | Tensor]) -> State:
    """Return x + sum_i weights_i slopes_i, field by field."""
    return {name: value + sum(w * k[name] for w, k in zip(weights, slopes, strict=True)) for name, value in x.items()}


def euler(slope: Slope, x: State, t: float, step: float) -> State:
    """One step of Euler's method, order 1."""
    return add(x, [slope(x, t)], [step])


def heun(slope: Slope, x: State, t: float, step: float) -> State:
    """One step of Heun's method, order 2: the mean of the slopes at both ends."""
    first = slope(x, t)
    second = slope(add(x, [first], [step]), t + step)
    return add(x, [first, second], [step / 2, step / 2])


_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(b - c for b, c in zip((*_STAGES[-1], 0.0), _FOURTH, strict=True))


def rk45(
    slope: Slope, x: State, start: float, end: float, rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 10_000
) -> State:
    """Integrate from `start` to `end` (either direction) with adaptive steps of order 5.

    Arguments:
        slope: f(x, t).
        x: State at `start`.
        start: First time.
        end: Last time.
        rtol: Relative tolerance of a step. The norm of the error is its largest entry, so every number of every sample
            is as accurate as asked, whatever stands beside it in the batch or as padding.
        atol: Absolute tolerance of a step.
        max_steps: Bound on accepted and rejected steps together.

    Raises:
        ValueError: if the tolerance cannot be met in `max_steps` steps, or the slope is not finite.
    """
    t, step = start, (end - start) / 20
    first = slope(x, t)
    for _ in range(max_steps):
        if (end - t) * (end - start) <= 0:
            return x
        if abs(step) < 1e-14 * abs(end - start):
            break
        step = min(abs(step), abs(end - t)) * (1 if end > start else -1)
        slopes = [first]
        for node, weights in zip(_NODES, _STAGES, strict=True):
            y = add(x, slopes, [step * w for w in weights])
            slopes.append(slope(y, t + node * step))
        error = _norm(
            add({k: torch.zeros_like(v) for k, v in x.items()}, slopes, [step * w for w in _ERROR]), x, y, rtol, atol
        )
        if error <= 1:
            x, first = y, slopes[-1]
            t = end if abs(end - t - step) < 1e-12 * abs(end - start) else t + step
        step *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
    raise ValueError(
        f"rk45 stopped at t = {t:.3g}, not {end} (at most {max_steps} steps); is dx/dt finite there? "
        f"If so, loosen rtol = {rtol:g} or atol = {atol:g}"
    )


def _norm(error: State, x: State, y: State, rtol: float, atol: float) -> float:
    ratios = [(error[k] / (atol + rtol * torch.maximum(x[k].abs(), y[k].abs()))).abs().max() for k in x]
    return float(torch.stack(ratios).max())
