r"""How a part of a sample is kept while the rest is drawn: plans that walk levels again, and guidance by what is known.

Replacement alone tells what is drawn of what is known only as far as the noise of its level lets through. In much
noise, where it is decided what the whole will be, that is little, and what is drawn keeps to what was decided. Walking
a level again and again (RePaint) lets both agree; the gradient of :func:`agreement` tells what is drawn of the known
entries themselves.

References:
    | RePaint (Lugmayr et al., 2022) | https://arxiv.org/abs/2201.09865
    | Pseudoinverse-guided diffusion models for inverse problems (Song et al., 2023) | https://openreview.net/forum?id=9_gsMA8MRKQ
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from gendiff.guide import Replacement
from gendiff.guide.constraint import Step, spread
from gendiff.guide.gradient import LogProb
from gendiff.model.model import Model
from gendiff.ops import Random, State
from gendiff.process import TINY, GaussianProcess, JointProcess
from gendiff.sample import Plan, Sampler, Table, downward
from gendiff.schedule import time_grid
from gendiff.space import ZeroCenterOfMass

LAST_STEPS = 4
"""Steps of the last level of noise, for "keep"."""
GRADIENT = 3
"""Evaluations of the network that a guided one costs."""
GUIDED = (-5.0, 2.0)
"""log-SNR between which walks are guided. Where there is more noise, gradients show the errors of the network."""


def adrift(process: JointProcess, fields: Collection[str]) -> JointProcess:
    """Return the process in which some node fields have no place: their known elements move with the state, together.

    Noise is the same in every direction. So it is to that of the mean of the known elements, which is free, and to
    those of their differences, which are known.
    """
    moved = {
        name: GaussianProcess(field.schedule, ZeroCenterOfMass(field.space.features)) if name in fields else field
        for name, field in process.items()
    }
    return JointProcess(moved, process.clock)


class Framed(Replacement):
    """Replacement where some fields have no place. They stay in the frame of the state, known elements moved into it.

    Arguments:
        known: As :class:`gendiff.guide.Replacement`.
        keep: Likewise.
        frame: The process by :func:`adrift`.
        fields: Those fields.
    """

    def __init__(self, known: State, keep: dict[str, Tensor], frame: JointProcess, fields: Collection[str]):
        super().__init__(known, keep)
        self.frame, self.fields = frame, fields

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:  # noqa: D102
        return super().after(x, step, self.frame, mask, random)

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:  # noqa: D102
        moved = {n: self.frame[n].space.impose(x[n], self.known[n], self.keep[n]) for n in self.fields}
        return super().finish(x, process, mask) | moved


def agreement(known: State, keep: dict[str, Tensor], process: JointProcess) -> LogProb:
    r"""Return how well an estimate agrees with known entries a, for :class:`gendiff.guide.Gradient` at the data.

    .. math:: \log p(x_a | x_t) \approx -\tfrac12 \left(1 + \frac{\alpha^2}{\sigma^2}\right)
        \|x_a - \hat x_a(x_t)\|^2

    This is exact for one entry of normal data of variance 1. Unlike reconstruction guidance
    (:func:`gendiff.guide.reconstruction`), which has no 1, it tells what is drawn of what is known in much noise too,
    where it is decided what the whole will be. Beyond the noise of :data:`GUIDED` it says nothing. Categories take
    :math:`\log \hat p(x_a)`.

    Arguments:
        known: Clean values of the fields.
        keep: Which entries are known.
        process: The forward process; known entries of a field without a place are compared where they fit best.
    """
    keep = spread(known, keep)

    def log_prob(x: State, t: Tensor, mask: Tensor | None) -> Tensor:
        total = torch.zeros_like(t)
        for name, value in known.items():
            field, estimate = process[name], x[name]
            if field.categorical:
                total = total + field.space.sum(value * keep[name] * estimate.clamp(min=TINY).log(), mask)
            else:
                log_snr = field.schedule.log_snr(t)
                precision = (1 + log_snr.clamp(max=20).exp()) * (log_snr > GUIDED[0] - 1e-3)  # finite at clean data
                error = field.space.impose(estimate, value, keep[name]) - estimate
                total = total - 0.5 * precision * field.space.sum(error**2, mask)
        return total

    return log_prob


def guided_plan(model: Model, sampler: Sampler, walks: int) -> Plan:
    """Return a plan of steps even in the log-SNR, between the ends of :data:`GUIDED`, each walked `walks` times.

    Where there is less noise at t = 1, they begin there. The rest of the way into data is taken by a few steps of the
    sampler's own grid.
    """
    process = model.denoiser.process
    schedule, (low, high) = process[process.clock].schedule, GUIDED
    device = next((weight.device for weight in schedule.parameters()), None)
    least = float(schedule.log_snr(torch.ones(1, dtype=torch.float64, device=device)))
    levels = torch.linspace(max(low, least), high, sampler.steps + 1, dtype=torch.float64, device=device)
    times = schedule.time(levels).tolist()
    if least < low:
        plan = [(1.0, times[0])]
    else:
        plan, times[0] = [], 1.0
    for t, s in downward(times):
        plan += [(t, s)] + [(s, t), (t, s)] * (walks - 1)
    return plan + model.tuned(LAST_STEPS).plan(process, times[-1])


def resampled_plan(model: Model, sampler: Sampler, resamples: int) -> Plan:
    """Return a plan of even steps, of which those that end with more signal than noise are walked `resamples` times.

    In more noise than that there is nothing yet to agree on. The last step into data is taken by a few steps of the
    sampler's own grid.
    """
    process, times = model.denoiser.process, time_grid(sampler.steps)
    down = downward(times[:-1]) if sampler.steps > 1 else []
    plan: Plan = []
    for (t, s), step in zip(down, Table(process, down, {"": torch.zeros(())}) if down else (), strict=True):
        clear = step.to[process.clock].numbers[2] >= 0
        plan += [(t, s)] + [(s, t), (t, s)] * (resamples - 1 if clear else 0)
    return plan + model.tuned(LAST_STEPS).plan(process, times[-2])
