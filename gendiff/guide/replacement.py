"""Replacement of known entries: inpainting, scaffolds, completion."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess


class Step(Protocol):
    """What a constraint needs to know of a step."""

    @property
    def s(self) -> Tensor:
        """The time that the step has reached."""

    @property
    def last(self) -> bool:
        """Whether that is clean data."""


class Replacement:
    r"""After each step, put known entries, noised to its level, in the place of the model's.

    .. math:: x_s^\mathrm{known} \sim q(x_s | x_0^\mathrm{known})

    A space may move the known entries into the frame of the state (zero centre of mass); the finished sample comes back
    in the frame of `known`, whose kept entries are copied exactly.

    Arguments:
        known: Clean values of the fields that have known entries; others go free.
        keep: Which entries are known: bool (B, N) for node fields, or anything broadcastable to the field.

    References: | Palette (Saharia et al., 2021) | https://arxiv.org/abs/2111.05826
    """

    def __init__(self, known: State, keep: dict[str, Tensor]):
        if set(known) != set(keep):
            raise ValueError(f"known and keep must name the same fields, got {sorted(known)} and {sorted(keep)}")
        self.known, self.keep = known, keep

    def _keep(self, name: str) -> Tensor:
        keep = self.keep[name]
        return keep[..., None] if keep.dim() == 2 and self.known[name].dim() == 3 else keep

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Return the state at time s with the known entries at the noise of time s."""
        result = dict(x)
        for name, known in self.known.items():
            space, keep = process[name].space, self._keep(name)
            if not step.last:
                centred = space.project(space.impose(torch.zeros_like(known), known, keep), mask)
                known = process[name].corrupt(
                    centred, step.s.expand(len(known)), process[name].noise(mask, random), mask
                )
            result[name] = space.impose(x[name], known, keep)
        return result

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:
        """Return the sample in the frame of the known entries, which are copied exactly."""
        result = dict(x)
        for name, known in self.known.items():
            result[name] = process[name].space.restore(x[name], known, self._keep(name), mask)
        return result
