"""Training of the networks that describe sketches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gendiff.metrics.fit import descend
from gendiff.nn.features import RasterNetwork, SequenceNetwork

BATCH = 128
RATES = {"raster": 3e-3, "sequence": 1e-2}
"""The highest learning rate of each network."""


def fit_raster(network: RasterNetwork, pictures: Tensor, labels: Tensor, steps: int, rng: np.random.Generator) -> None:
    """Train a network to tell the labels (M,) of pictures (M, H, W), uint8."""
    batches = _batches(np.zeros(len(labels)), rng)

    def loss() -> Tensor:
        index = next(batches)
        return F.cross_entropy(network(pictures[index, None] / 255), labels[index])

    descend(network, loss, steps, RATES["raster"])


def fit_sequence(
    network: SequenceNetwork, x: Tensor, mask: Tensor, labels: Tensor, steps: int, rng: np.random.Generator
) -> None:
    """Train a network to tell the labels (M,) of sequences (M, N, F) and to guess elements from their neighbours."""
    size = mask.sum(1).numpy()
    batches = _batches(size, rng)

    def loss() -> Tensor:
        index = next(batches)
        longest = size[index].max()
        return network.loss(x[index, :longest], mask[index, :longest], labels[index])

    descend(network, loss, steps, RATES["sequence"])


def _batches(size: NDArray[np.generic], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield batches without end: every sample once, those of like sizes together (among eight batches), and again."""
    while True:
        order = rng.permutation(len(size))
        block = np.arange(len(order)) // (8 * BATCH)
        order = order[np.lexsort([size[order], block])]
        batches = np.split(order, range(BATCH, len(order), BATCH))
        for number in rng.permutation(len(batches)):
            yield batches[number]
