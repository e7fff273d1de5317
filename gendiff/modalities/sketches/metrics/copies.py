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
from gendiff.modalities.sketches.raster import normalise
from gendiff.modalities.sketches.records import SketchArrays

Points = NDArray[np.floating[Any]]

POINTS = 64
CELLS = 16
CANDIDATES = 24
CHUNK = 1000
FEW = 32  # sketches whose matrices of distances stay in the cache of a core


def ink(arrays: SketchArrays, count: int = POINTS) -> Floats:
    """Return points evenly along the strokes of each sketch in its own box, (M, count, D); jumps are no ink."""
    points = normalise(arrays)
    step = np.linalg.norm(np.diff(points, axis=0, append=points[-1:]), axis=1) * ~arrays.ends
    before = np.cumsum(step) - step
    first, last = arrays.first[:, None], arrays.last[:, None]
    wanted = before[first] + (np.arange(count) + 0.5) / count * (before[last] - before[first])
    # The line on which a point lies starts at the last point with no more ink before it than wanted.
    start = np.clip(np.searchsorted(before, wanted, "right") - 1, first, last)
    share = (wanted - before[start]) / np.where(step[start] > 0, step[start], 1)
    end = np.minimum(start + 1, len(points) - 1)
    return (
        points[start] + np.clip(share, 0, 1)[..., None] * (points[end] - points[start]) * (step[start] > 0)[..., None]
    )


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
    best = np.full((len(arrays), 1), np.inf, np.float32)
    which = np.zeros(best.shape, np.int64)
    for start in range(0, len(others), CHUNK):
        rows = np.arange(start, min(len(others), start + CHUNK))
        their_counts, their_ways = _grid(ink(others.select(rows)).astype(np.float32))
        near = counts @ their_ways.T + ways @ their_counts.T
        if itself is not None:
            mine = np.flatnonzero((itself >= start) & (itself <= rows[-1]))
            near[mine, itself[mine] - start] = np.inf
        best = np.concatenate([best, near], 1)
        which = np.concatenate([which, np.broadcast_to(rows, near.shape)], 1)
        if best.shape[1] > CANDIDATES:
            pick = np.argpartition(best, CANDIDATES, 1)[:, :CANDIDATES]
            best, which = np.take_along_axis(best, pick, 1), np.take_along_axis(which, pick, 1)
    exact = np.full(best.shape, np.inf)
    for candidate in range(best.shape[1]):
        some = np.flatnonzero(np.isfinite(best[:, candidate]))
        if len(some):
            exact[some, candidate] = chamfer(points[some], ink(others.select(which[some, candidate])))
    return exact.min(1)


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
