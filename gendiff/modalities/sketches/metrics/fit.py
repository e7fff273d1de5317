"""Training of the networks that describe sketches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gendiff.nn.features import RasterNetwork, SequenceNetwork

BATCH = 128
RATES = {"raster": 3e-3, "sequence": 1e-2}
"""The highest learning rate of each network."""


def fit_raster(network: RasterNetwork, pictures: Tensor, labels: Tensor, steps: int, rng: np.random.Generator) -> None:
    """Train a network to tell the labels (M,) of pictures (M, H, W), uint8."""

    def loss(index: NDArray[np.int64]) -> Tensor:
        return F.cross_entropy(network(pictures[index, None] / 255), labels[index])

    _descend(network, loss, _batches(np.zeros(len(labels)), rng), steps, RATES["raster"])


def fit_sequence(
    network: SequenceNetwork, x: Tensor, mask: Tensor, labels: Tensor, steps: int, rng: np.random.Generator
) -> None:
    """Train a network to tell the labels (M,) of sequences (M, N, F) and to guess elements from their neighbours."""
    size = mask.sum(1).numpy()

    def loss(index: NDArray[np.int64]) -> Tensor:
        longest = size[index].max()
        return network.loss(x[index, :longest], mask[index, :longest], labels[index])

    _descend(network, loss, _batches(size, rng), steps, RATES["sequence"])


def _batches(size: NDArray[np.generic], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield batches without end: every sample once, those of like sizes together (among eight batches), and again."""
    while True:
        order = rng.permutation(len(size))
        block = np.arange(len(order)) // (8 * BATCH)
        order = order[np.lexsort([size[order], block])]
        batches = np.split(order, range(BATCH, len(order), BATCH))
        for number in rng.permutation(len(batches)):
            yield batches[number]


def _descend(
    network: nn.Module,
    loss: Callable[[NDArray[np.int64]], Tensor],
    batches: Iterator[NDArray[np.int64]],
    steps: int,
    rate: float,
) -> None:
    """Minimise a loss of batches: AdamW, the rate rising and falling once. The network is left to be used, frozen."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    for step in range(steps):
        done = (step + 0.5) / steps
        optimizer.param_groups[0]["lr"] = rate * min(1.0, done / 0.1) * (1 + np.cos(np.pi * done)) / 2
        optimizer.zero_grad()
        loss(next(batches)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval().requires_grad_(False)
