"""Muon for matrices and kernels, AdamW for everything else: two optimizers of torch that Lightning sees as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 8
"""Rows and columns a matrix needs to count as one, or channels a kernel; below that (input and output layers)
directions mean little."""


class MuonAdamW(torch.optim.Optimizer):
    r"""Muon with AdamW.

    Muon steps along the nearest orthogonal matrix of the momentum, :math:`U V^T` for :math:`U S V^T`, so that every
    direction of a matrix learns at one speed. It is scaled to the root mean square of AdamW's steps, so both share one
    learning rate. The kernel of a convolution counts as the matrix of all its weights for each output channel. What it
    brings on the geometry of small molecules: `benchmarks/recipe.py --variants default adamw`.

    Arguments:
        parameters: What is trained.
        lr: Learning rate (5e-3).
        weight_decay: Decoupled weight decay of matrices and kernels (0.01); vectors are not decayed.
        fused: Whether AdamW takes its fused kernel.

    References:
        | Muon: an optimizer for hidden layers in neural networks (Jordan et al., 2024) | https://kellerjordan.github.io/posts/muon
        | Muon is scalable for LLM training (Liu et al., 2025): the common learning rate | https://arxiv.org/abs/2502.16982
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 5e-3, weight_decay: float = 0.01, fused: bool = True
    ):
        wanted = [p for p in parameters if p.requires_grad]
        large = [p for p in wanted if p.dim() in (2, 4) and min(p.shape[:2]) >= SMALLEST]
        muon = {id(p) for p in large}
        rest = [p for p in wanted if id(p) not in muon]
        self.large = large
        # torch's Muon takes matrices only: kernels are shown to it as such, in the same memory
        self.shown = [p if p.dim() == 2 else nn.Parameter(matrix(p.detach(), p)) for p in large]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = []
        if large:
            options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
            self.parts.append(torch.optim.Muon(self.shown, **options))
        if rest:
            self.parts.append(torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, fused=fused))
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        """The groups of the parts as others see them, with kernels as they are."""
        groups = [dict(group) for part in self.parts for group in part.param_groups]
        if self.large:
            groups[0]["params"] = self.large
        return groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns the value of `closure`, which recomputes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        theirs = [group for part in self.parts for group in part.param_groups]
        for group, mine in zip(theirs, self.param_groups, strict=True):  # what was set here is theirs
            group.update({name: value for name, value in mine.items() if name != "params"})
        for p, shown in zip(self.large, self.shown, strict=True):
            if p.dim() == 4:
                shown.data, shown.grad = matrix(p.data, p), None if p.grad is None else matrix(p.grad, p)
        for part in self.parts:
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


def matrix(x: Tensor, kernel: Tensor) -> Tensor:
    """Return `x` of the shape and strides of a kernel (O, I, H, W) as the matrix (O, I H W): a view, never a copy."""
    return (x if kernel.is_contiguous() else x.movedim(1, 3)).view(len(x), -1)
