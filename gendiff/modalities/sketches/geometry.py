r"""Geometry of many sketches at once: boxes, offsets, simplification, resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.sketches.records import SketchArrays

BOX = 255.0
"""Larger side of a sketch in the units of QuickDraw's simplified drawings, in which tolerances are given."""


def boxes(arrays: SketchArrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centre of the bounding box of each sketch, (M, D), and its larger side, (M,)."""
    if not len(arrays):
        return np.zeros((0, arrays.dimensions)), np.zeros(0)
    low, high = (f.reduceat(arrays.points, arrays.first, 0) for f in (np.minimum, np.maximum))
    return (low + high) / 2, (high - low).max(1)


def centred(arrays: SketchArrays) -> NDArray[np.float64]:
    """Return all points, (P, D), around the centre of the bounding box of their sketch."""
    return arrays.points - boxes(arrays)[0][arrays.sketch_of_point]


def offsets(arrays: SketchArrays) -> NDArray[np.float64]:
    """Return the way from point to point, (P, D), to the first of a sketch from the centre of its bounding box."""
    around = centred(arrays)
    steps = np.diff(around, axis=0, prepend=0)
    steps[arrays.first] = around[arrays.first]
    return steps


def moved(arrays: SketchArrays, points: NDArray[np.float64]) -> SketchArrays:
    """Return the sketches with other coordinates, (P, D)."""
    return SketchArrays(arrays.num_points, points, arrays.pen, arrays.words, arrays.times, arrays.facts)


def boxed(arrays: SketchArrays) -> SketchArrays:
    """Return the sketches with boxes of which the larger side is 255; a single dot stays as it is."""
    side = boxes(arrays)[1]
    return moved(arrays, arrays.points * (BOX / np.where(side > 0, side, BOX))[arrays.sketch_of_point, None])


def prepared(arrays: SketchArrays, spacing: float | None, epsilon: float | None) -> SketchArrays:
    """Return the sketches resampled, then simplified, each if it is asked for."""
    arrays = resample(arrays, spacing) if spacing else arrays
    return simplify(arrays, epsilon) if epsilon else arrays


def simplify(arrays: SketchArrays, epsilon: float) -> SketchArrays:
    """Return the sketches without the points that their strokes do not need (Ramer 1972, Douglas and Peucker 1973).

    A stroke keeps its ends and, again and again, the point farthest from the chord of what it lies in, until none is
    farther than the tolerance. All strokes of all sketches are split together, level by level.

    Arguments:
        arrays: The sketches.
        epsilon: Tolerance where the larger side of a sketch is 255; QuickDraw's own is 2.

    Raises:
        ValueError: for a tolerance below 0.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    x = arrays.points
    tolerance = epsilon / BOX * boxes(arrays)[1][arrays.sketch_of_point]
    ends = np.flatnonzero(arrays.ends)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    keep = np.zeros(len(x), bool)
    keep[starts] = keep[ends] = True
    a, b = starts, ends
    while len(a):
        a, b = a[b - a > 1], b[b - a > 1]
        if not len(a):
            break
        inner = b - a - 1
        begin = np.cumsum(inner) - inner
        segment = np.repeat(np.arange(len(a)), inner)
        point = np.arange(int(inner.sum())) - begin[segment] + a[segment] + 1
        chord, away = (x[b] - x[a])[segment], x[point] - x[a][segment]
        share = (away * chord).sum(1) / np.maximum((chord**2).sum(1), 1e-300)
        distance = np.linalg.norm(away - np.clip(share, 0, 1)[:, None] * chord, axis=1)
        farthest = np.maximum.reduceat(distance, begin)
        hits = np.flatnonzero(distance == farthest[segment])
        middle = point[hits[np.unique(segment[hits], return_index=True)[1]]]
        split = farthest > tolerance[a]
        keep[middle[split]] = True
        a, b = np.concatenate([a[split], middle[split]]), np.concatenate([middle[split], b[split]])
    return arrays.select_points(keep)


def resample(arrays: SketchArrays, spacing: float) -> SketchArrays:
    """Return the sketches with points evenly along each stroke; its ends stay.

    Arguments:
        arrays: The sketches.
        spacing: Distance along the stroke, about, where the larger side of a sketch is 255. A stroke of length l gets
            round(l / spacing) + 1 points, at least 2; a dot stays one point. Times go along.

    Raises:
        ValueError: for a spacing that is not positive.
    """
    if not spacing > 0:
        raise ValueError(f"spacing must be positive, got {spacing}")
    if not len(arrays):
        return arrays
    side = boxes(arrays)[1]
    step = spacing / BOX * np.where(side > 0, side, 1.0)
    first, last = np.concatenate([[True], arrays.ends[:-1]]), arrays.ends
    lengths = np.linalg.norm(np.diff(arrays.points, axis=0, prepend=arrays.points[:1]), axis=1)
    lengths[first] = 0
    total = np.add.reduceat(lengths, np.flatnonzero(first))
    owner = arrays.sketch_of_point[last]
    count = np.where(total > 0, np.maximum(np.rint(total / step[owner]).astype(np.int64), 1) + 1, 1)
    # one long line: the stroke number plus the share of its length, which rises within a stroke and jumps between two
    stroke = np.cumsum(first) - 1
    along = np.cumsum(lengths)
    share = (along - along[first][stroke]) / np.maximum(total, 1e-300)[stroke]
    where = np.repeat(np.arange(len(count)), count)
    wanted = np.arange(len(where)) - (np.cumsum(count) - count)[where]
    at = 2 * where + wanted / np.maximum(count - 1, 1)[where]
    line = 2 * stroke + share
    points = np.stack([np.interp(at, line, x) for x in arrays.points.T], 1)
    pen = wanted == count[where] - 1
    return SketchArrays(
        np.bincount(owner, count, len(arrays)).astype(np.int64),
        points,
        pen if arrays.has_pen else None,
        arrays.words,
        None if arrays.times is None else np.interp(at, line, arrays.times),
        arrays.facts,
    )
