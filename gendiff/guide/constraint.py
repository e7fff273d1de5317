"""What constraints share: hooks that act on the state after a step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.space import Space


class Step(Protocol):
    """What a constraint needs to know of a step."""

    @property
    def s(self) -> Tensor:
        """The time that the step has reached."""

    @property
    def up(self) -> bool:
        """Whether it added noise."""

    @property
    def last(self) -> bool:
        """Whether it reached clean data."""


def spread(known: State, keep: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `keep` shaped to select entries of `known`: (B, N) of a node field becomes (B, N, 1).

    Raises:
        ValueError: if they do not name the same fields.
    """
    if set(known) != set(keep):
        raise ValueError(f"known and keep must name the same fields, got {sorted(known)} and {sorted(keep)}")
    return {
        name: kept[..., None] if kept.dim() == 2 and known[name].dim() == 3 else kept for name, kept in keep.items()
    }


def fitting(name: str, given: Tensor, x: Tensor) -> Tensor:
    """Return what a caller gave for a field, or raise a ValueError if it has not the shape of the state's."""
    if given.shape != x.shape:
        raise ValueError(
            f"field {name!r} was given in shape {tuple(given.shape)} and is {tuple(x.shape)} in the state;"
            " give a number for every entry of every sample"
        )
    return given


def at_step(name: str, clean: Tensor, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> Tensor:
    """Return a clean field at the noise of the state that the step has reached: a draw of q(x_s | x_0)."""
    if step.last:
        return clean
    return process[name].corrupt(clean, step.s.expand(len(clean)), process[name].noise(mask, random), mask)


def offset(space: Space, reference: Tensor, mask: Tensor | None) -> Tensor:
    """Return where `reference` stands outside its space (its centre of mass), for the entries that count; else 0."""
    entries = space.entries(mask, reference)
    away = reference - space.project(reference, mask)
    return away if entries is None else torch.where(entries > 0, away, 0.0)
