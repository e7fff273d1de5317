"""Batches of samples of nearly one size, bounded in memory."""

from __future__ import annotations

import math

import torch

from gendiff.process import JointProcess

PAIRS_PER_BATCH = 1 << 18
"""Bound on batch size x elements^2 of one sampling batch, so that memory does not grow with the number of samples."""

PIXELS_PER_BATCH = 1 << 20
"""Bound on batch size x pixels of one sampling batch of grids: 1,337 images of 28 x 28, 16 of 256 x 256."""


ALIKE = 32
"""On a CPU a batch of so many samples ends where their size does: padding costs more there than smaller batches do."""


def cut(sizes: torch.Tensor, batch_size: int, alike: int) -> list[tuple[int, int]]:
    """Cut ascending sizes into batches of at most `batch_size` samples and PAIRS_PER_BATCH pairs.

    A batch of `alike` samples or more takes no sample of another size.
    """
    cuts, start = [], 0
    values = sizes.tolist()
    for i, size in enumerate(values):
        count = i - start
        full = count >= batch_size or (count + 1) * size * size > PAIRS_PER_BATCH
        if count and (full or (count >= alike and size != values[i - 1])):
            cuts.append((start, i))
            start = i
    return [*cuts, (start, len(values))]


def cut_batches(sizes: torch.Tensor, batch_size: int, device: torch.device) -> list[torch.Tensor]:
    """Return the rows of each batch: samples of nearly one size, within the bounds of :func:`cut`."""
    order = sizes.argsort(stable=True)
    alike = ALIKE if device.type == "cpu" else batch_size
    return [order[start:stop] for start, stop in cut(sizes[order], batch_size, alike)]


def affordable(batch_size: int, process: JointProcess) -> int:
    """Return `batch_size`, or as many samples as :data:`PIXELS_PER_BATCH` allows where fields lie on grids."""
    pixels = max(math.prod(field.space.size) for _, field in process.items())  # 1 where there is no grid
    return min(batch_size, max(1, PIXELS_PER_BATCH // pixels))
