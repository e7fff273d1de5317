r"""Which images are copies: the nearest of many others, by the root mean square of the differences of their pixels.

To look through many, images are averaged down to at most 32 pixels along the longer side, which can only bring them
nearer, and all pairs are compared by a product of matrices; the 24 nearest by this are measured exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gendiff.metrics import Floats
from gendiff.metrics.sets import search
from gendiff.modalities.images.metrics.fit import visible
from gendiff.modalities.images.records import ImageArrays

SIDE = 32
FEW = 1 << 24  # bytes of pixels


def nearest(arrays: ImageArrays, others: ImageArrays, itself: NDArray[np.int64] | None = None) -> Floats:
    """Return the distance from each image to the nearest of others, in levels of 0 to 255, (M,); 0 for equal ones.

    Arguments:
        arrays: Images.
        others: Images of the same size and channels.
        itself: Which of the others each image is, and so is not compared with, (M,).

    Returns:
        Distances; infinite where there is no other.
    """
    small = _small(arrays.pixels)
    middle = small.mean(0)  # far from 0, squares of differences would lose digits
    small -= middle
    norms = (small**2).sum(1)

    def rough(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        theirs = _small(others.pixels[rows]) - middle
        return norms[:, None] + (theirs**2).sum(1) - 2 * small @ theirs.T

    def exact(some: NDArray[np.int64], which: NDArray[np.int64]) -> Floats:
        return distance(arrays.pixels[some], others.pixels[which])

    return search(rough, exact, len(arrays), len(others), itself)


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Floats:
    """Return the root mean square of the differences of each pair of images, (M,), from (M, H, W, C) twice."""
    found = np.empty(len(a))
    for rows in _parts(a):
        difference = visible(a[rows]).astype(np.int32) - visible(b[rows])
        found[rows] = np.sqrt((difference**2).reshape(len(difference), -1).mean(1))
    return found


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images of at most 32 pixels along the longer side, one row each, (M, F)."""
    height, width, _ = pixels.shape[1:]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows = []
    for part in _parts(pixels):
        x = torch.from_numpy(visible(pixels[part])).movedim(-1, 1).float()
        rows.append((F.interpolate(x, size, mode="area") if scale < 1 else x).flatten(1).numpy())
    return np.concatenate(rows)


def _parts(pixels: NDArray[np.uint8]) -> Iterator[slice]:
    """Rows of images that are few enough to be worked on at once."""
    step = max(1, FEW // math.prod(pixels.shape[1:]))
    return (slice(start, start + step) for start in range(0, len(pixels), step))
