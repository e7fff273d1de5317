r"""Which sketches are copies: the nearest of many others, by chamfer distance.

A sketch is 64 points evenly along its ink, in its own box. The distance of two is

.. math:: \tfrac12 \Bigl( \operatorname*{mean}_i \min_j \lVert a_i - b_j \rVert
    + \operatorname*{mean}_j \min_i \lVert a_i - b_j \rVert \Bigr).

To look through many, the 64 points are counted in the cells of a 16 × 16 grid, and every cell is given its distance to
the nearest of them. The distance of two sketches is then about a product of the counts of one with the distances of
the other; the 24 nearest by this are measured exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import Floats
from gendiff.metrics.sets import search
from gendiff.modalities.sketches.geometry import normalised
from gendiff.modalities.sketches.points import along
from gendiff.modalities.sketches.records import SketchArrays

Points = NDArray[np.floating[Any]]

POINTS = 64
CELLS = 16
FEW = 32  # sketches whose matrices of distances stay in the cache of a core


def ink(arrays: SketchArrays, count: int = POINTS) -> Floats:
    """Return points evenly along the strokes of each sketch in its own box, (M, count, D); dots are ink, jumps not."""
    at = np.broadcast_to((np.arange(count) + 0.5) / count, (len(arrays), count))
    return along(arrays, normalised(arrays), at) if len(arrays) else np.zeros((0, count, arrays.dimensions))


def nearest(arrays: SketchArrays, others: SketchArrays, itself: NDArray[np.int64] | None = None) -> Floats:
    """Return the chamfer distance from each sketch to the nearest of others, in units of the box, (M,).

    Arguments:
        arrays: Drawings in two dimensions.
        others: Drawings in two dimensions.
        itself: Which of the others each sketch is, and so is not compared with, (M,).

    Returns:
        Distances; infinite where there is no other.
    """
    points = ink(arrays).astype(np.float32)
    counts, ways = _grid(points)

    def rough(rows: NDArray[np.int64]) -> Points:
        their_counts, their_ways = _grid(ink(others.select(rows)).astype(np.float32))
        return counts @ their_ways.T + ways @ their_counts.T

    def exact(some: NDArray[np.int64], which: NDArray[np.int64]) -> Floats:
        return chamfer(points[some], ink(others.select(which)))

    return search(rough, exact, len(arrays), len(others), itself)


def chamfer(a: Points, b: Points) -> Floats:
    """Return the chamfer distance of each pair of sets of points, (M,), from (M, K, D) and (M, L, D)."""
    found = np.empty(len(a))
    for start in range(0, len(a), FEW):
        rows = slice(start, start + FEW)
        square = np.zeros((len(a[rows]), a.shape[1], b.shape[1]), a.dtype)
        for axis in range(a.shape[2]):
            way = a[rows, :, None, axis] - b[rows, None, :, axis]
            way *= way
            square += way
        found[rows] = (np.sqrt(square.min(2)).mean(1) + np.sqrt(square.min(1)).mean(1)) / 2
    return found


def _grid(points: Points) -> tuple[Points, Points]:
    """Shares of points in the cells of the grid, and distances of the cells to the nearest point, (M, cells) each."""
    cell = np.clip(((points + 0.5) * CELLS).astype(np.int64), 0, CELLS - 1)
    number = cell[..., 0] * CELLS + cell[..., 1] + np.arange(len(points))[:, None] * CELLS**2
    counts = np.bincount(number.ravel(), minlength=len(points) * CELLS**2).reshape(-1, CELLS**2) / points.shape[1]
    centre = ((np.indices((CELLS, CELLS)).reshape(2, -1).T + 0.5) / CELLS - 0.5).astype(np.float32)
    ways = np.full((len(points), CELLS**2), np.inf, np.float32)
    for point in range(points.shape[1]):
        here = points[:, point]
        square = (here[:, :1] - centre[:, 0]) ** 2 + (here[:, 1:] - centre[:, 1]) ** 2
        np.minimum(ways, square, out=ways)
    return counts.astype(np.float32), np.sqrt(ways)
