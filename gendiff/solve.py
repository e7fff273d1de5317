r"""Steppers for the differential equation dx/dt = f(x, t) on states, shared by samplers and likelihoods.

A state is a dict of tensors; a step adds scaled slopes. :func:`rk45` is the pair of Dormand and Prince with adaptive
steps, of one size for the whole state or of each sample's own.

References: | A family of embedded Runge-Kutta formulae (Dormand, Prince, 1980) | https://doi.org/10.1016/0771-050X(80)90013-3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Slope = Callable[[State, Any], State]


def add(x: State, slopes: Sequence[State], weights: Sequence[float | Tensor]) -> State:
    """Return x + sum_i weights_i slopes_i, field by field; a weight is a number, or one for each sample, (B,)."""
    return {
        name: value + sum(_expand(w, value) * k[name] for w, k in zip(weights, slopes, strict=True))
        for name, value in x.items()
    }


def _expand(a: Any, x: Tensor) -> Any:
    return a.reshape(a.shape + (1,) * (x.dim() - a.dim())) if isinstance(a, Tensor) and a.dim() else a


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
    slope: Slope,
    x: State,
    start: float | Tensor,
    end: float | Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
) -> State:
    """Integrate from `start` to `end` (either direction) with adaptive steps of order 5.

    With times (B,) every sample walks by steps of its own and ends where it would alone; one that is there waits for
    the others. With plain numbers one step serves the whole state. The device is asked once a step, and only whether
    all are there.

    Arguments:
        slope: f(x, t), t a tensor like `start`.
        x: State at `start`.
        start: First time, a number or (B,).
        end: Last time, a number or (B,).
        rtol: Relative tolerance of a step. The norm of the error is its largest entry, so every number is as accurate
            as asked, whatever stands beside it as padding or in the batch.
        atol: Absolute tolerance of a step.
        max_steps: Bound on accepted and rejected steps together.

    Raises:
        ValueError: if the tolerance cannot be met in `max_steps` steps, or the slope is not finite.
    """
    like = next(iter(x.values()))
    t, stop = torch.broadcast_tensors(*(torch.as_tensor(a, dtype=like.dtype, device=like.device) for a in (start, end)))
    step = (stop - t) / 20
    least = 8 * torch.finfo(like.dtype).eps * (stop - t).abs()
    first: State | None = None
    for _ in range(max_steps):
        left = stop - t
        done, stuck = torch.stack([(left == 0).all(), ((step.abs() < least) & (left != 0)).any()]).tolist()
        if done:
            return x
        if stuck:
            break
        step = torch.where(step.abs() < left.abs(), step, left)
        first = first or slope(x, t)
        slopes = [first]
        for node, weights in zip(_NODES, _STAGES, strict=True):
            y = add(x, slopes, [step * w for w in weights])
            slopes.append(slope(y, t + node * step))
        gap = add({name: torch.zeros_like(value) for name, value in x.items()}, slopes, [step * w for w in _ERROR])
        ratios = [gap[k] / (atol + rtol * torch.maximum(x[k].abs(), y[k].abs())) for k in x]
        error = torch.stack([ratio.abs().reshape(*t.shape, -1).amax(-1) for ratio in ratios]).amax(0)
        accepted = error <= 1
        x, first = _choose(accepted, y, x), _choose(accepted, slopes[-1], first)
        t = torch.where(accepted, torch.where(step == left, stop, t + step), t)
        step = step * (0.9 * torch.nan_to_num(error, nan=torch.inf).clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
    late = (stop - t).abs().argmax()
    raise ValueError(
        f"rk45 stopped at t = {float(t.flatten()[late]):.3g}, not {float(stop.flatten()[late])} (at most {max_steps} "
        f"steps); is dx/dt finite there? If so, loosen rtol = {rtol:g} or atol = {atol:g}"
    )


def _choose(condition: Tensor, a: State, b: State) -> State:
    return {name: torch.where(_expand(condition, value), a[name], value) for name, value in b.items()}
