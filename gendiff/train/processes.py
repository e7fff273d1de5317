"""What the processes of one run know of each other."""

from __future__ import annotations

import os

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, distributed


def first() -> bool:
    """Return whether this process is the first of its run, before there is a Trainer that knows.

    Whoever started it (Lightning, torchrun, SLURM) has numbered it in its environment.
    """
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


def together() -> bool:
    """Return whether there are other processes, joined to this one."""
    return distributed.is_available() and distributed.is_initialized()


def place() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together() else (0, 1)


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes, the same bits in each; all of them must ask for it."""
    if not together():
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value / distributed.get_world_size()
