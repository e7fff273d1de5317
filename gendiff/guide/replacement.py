"""Replacement of known entries: inpainting, scaffolds, completion."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.guide.constraint import Step, at_step, fitting, spread
from gendiff.ops import Random, State
from gendiff.process import JointProcess


class Replacement:
    r"""After each step, put known entries, noised to its level, in the place of the model's.

    .. math:: x_s^\mathrm{known} \sim q(x_s | x_0^\mathrm{known})

    A step that adds noise leaves the state alone: there known and free entries take noise together, which is what lets
    them agree (RePaint, :func:`gendiff.sample.repaint_plan`).

    A space may move the known entries into the frame of the state (zero centre of mass); the finished sample comes back
    in the frame of `known`, whose kept entries are copied exactly.

    Arguments:
        known: Clean values of the fields that have known entries; others go free.
        keep: Which entries are known: bool (B, N) for node fields, or anything broadcastable to the field.

    Raises:
        ValueError: if they do not name the same fields.

    References:
        | Palette (Saharia et al., 2021) | https://arxiv.org/abs/2111.05826
        | RePaint (Lugmayr et al., 2022) | https://arxiv.org/abs/2201.09865
    """

    def __init__(self, known: State, keep: dict[str, Tensor]):
        self.known, self.keep = known, spread(known, keep)

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Return the state at time s with the known entries at the noise of time s."""
        if step.up:
            return x
        result = dict(x)
        for name, known in self.known.items():
            space, keep, known = process[name].space, self.keep[name], fitting(name, known, x[name])
            centred = space.project(space.impose(torch.zeros_like(known), known, keep), mask)
            result[name] = space.impose(x[name], at_step(name, centred, step, process, mask, random), keep)
        return result

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:
        """Return the sample in the frame of the known entries, which are copied exactly."""
        result = dict(x)
        for name, known in self.known.items():
            result[name] = process[name].space.restore(x[name], known, self.keep[name], mask)
        return result
