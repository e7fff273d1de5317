"""SDEdit: a variation of a given sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gendiff.denoise import AnyDenoiser, first_time
from gendiff.guide.constraint import Step, offset
from gendiff.ops import Random, State
from gendiff.process import JointProcess


def sdedit(
    sampler: Any,
    denoiser: AnyDenoiser,
    guide: State,
    start: float,
    mask: Tensor | None = None,
    condition: State | None = None,
    random: Random | None = None,
    hooks: Sequence[Any] = (),
    repeats: int = 1,
) -> State:
    r"""Noise a guide to time :math:`t_0` and let the sampler take it back to data.

    .. math:: x_{t_0} \sim q(x_{t_0} | x_\mathrm{guide}), \qquad x_0 \sim p(x_0 | x_{t_0})

    A small :math:`t_0` stays close to the guide, a large one becomes a fresh sample. The result stands in the frame of
    the guide (its centre of mass). To keep a region, and change the rest only, give `Replacement(guide, keep)` as a
    hook.

    Arguments:
        sampler: Any :class:`gendiff.sample.Sampler`; its plan is spaced over [0, start].
        denoiser: Any denoiser.
        guide: A clean state, perhaps a rough one.
        start: :math:`t_0` in [0, 1] (the paper finds 0.3 to 0.6 good); 0 returns the guide as it is.
        mask: (B, N) or None.
        condition: Condition or None.
        random: One stream per sample (seed 0).
        hooks: Constraints.
        repeats: How often to noise and denoise, each time from the last result (1).

    Raises:
        ValueError: for `start` outside [0, 1] or repeats < 1.

    References: | SDEdit (Meng et al., 2021) | https://arxiv.org/abs/2108.01073
    """
    if not 0 <= start <= 1:
        raise ValueError(f"start must be a time in [0, 1] (0 is the guide, 1 a fresh sample), got {start}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if start == 0:
        return dict(guide)
    process, start = denoiser.process, min(start, first_time(denoiser))
    first = guide[process.clock]
    random = random or Random(0, len(first), first.device)
    t, plan = torch.full_like(first.flatten(1)[:, 0], start), sampler.plan(process, start)
    x = guide
    for _ in range(repeats):
        centred = {name: field.space.project(x[name], mask) for name, field in process.items()}
        x_t = process.corrupt(centred, t, process.noise(mask, random), mask)
        x = sampler(denoiser, x_t, mask, condition, random, [_Home(guide), *hooks], plan)
    return x


class _Home:
    """Takes the finished sample to where the guide stands, before any other hook does with it what it wants."""

    def __init__(self, guide: State):
        self.guide = guide

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        return x

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:
        return {name: value + offset(process[name].space, self.guide[name], mask) for name, value in x.items()}
