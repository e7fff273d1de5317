"""Muon for matrices and kernels, AdamW for everything else: two optimizers that Lightning sees as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from gendiff.train.muon import Muon

SMALLEST = 8
"""Rows and columns a matrix needs to count as one, or channels a kernel; below that (input and output layers)
directions mean little."""


class MuonAdamW(torch.optim.Optimizer):
    r"""Muon with AdamW.

    Muon steps along the nearest orthogonal matrix of the momentum, :math:`U V^T` for :math:`U S V^T`, so that every
    direction of a matrix learns at one speed. It is scaled to the root mean square of AdamW's steps, so both share one
    learning rate. What it brings on the geometry of small molecules: `benchmarks/recipe.py --variants default adamw`.

    Arguments:
        parameters: What is trained.
        lr: Learning rate (5e-3).
        weight_decay: Decoupled weight decay of matrices and kernels (0.01); vectors are not decayed.
        fused: Whether AdamW takes its fused kernel.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 5e-3, weight_decay: float = 0.01, fused: bool = True
    ):
        wanted = [p for p in parameters if p.requires_grad]
        large = [p for p in wanted if p.dim() in (2, 4) and min(p.shape[:2]) >= SMALLEST]
        muon = {id(p) for p in large}
        rest = [p for p in wanted if id(p) not in muon]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = []
        if large:
            self.parts.append(Muon(large, lr, weight_decay))
        if rest:
            self.parts.append(torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, fused=fused))
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        """The very groups of the parts, so that a rate set here is theirs."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns the value of `closure`, which recomputes the gradients."""
        first, *others = self.parts
        loss = first.step(closure)  # which recomputes them for all
        for part in others:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states of :meth:`state_dict`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()
