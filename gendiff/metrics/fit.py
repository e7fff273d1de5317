"""Training of the small networks that metrics look with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn, optim


def descend(network: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
    """Minimise the losses of batches, one a step; the network is left to be used, frozen.

    AdamW with a weight decay of 0.01 and gradients of norm 1 at most. The rate rises over the first tenth and falls by
    half a cosine.

    Arguments:
        network: What is trained.
        loss: Gives the loss of the next batch.
        steps: Steps.
        rate: The highest learning rate.
    """
    optimizer = optim.AdamW(network.parameters(), weight_decay=1e-2)
    for step in range(steps):
        done = (step + 0.5) / steps
        optimizer.param_groups[0]["lr"] = rate * min(1.0, done / 0.1) * (1 + np.cos(np.pi * done)) / 2
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval().requires_grad_(False)
