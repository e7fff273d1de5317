r"""Geometry of many sketches at once: boxes, offsets, simplification, resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError
from gendiff.modalities.sketches.records import MAX_NUMBERS, SketchArrays

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


def normalised(arrays: SketchArrays) -> NDArray[np.float64]:
    """Return all points with every sketch moved and scaled: its bounding box centred at 0, the larger side 1, (P, D).

    A sketch whose points all coincide is at 0.
    """
    if not len(arrays):
        return arrays.points.copy()
    low, high = (extreme.reduceat(arrays.points, arrays.first, 0) for extreme in (np.minimum, np.maximum))
    side = (high - low).max(1, keepdims=True)
    side[side == 0] = 1
    # From the corner, not from the middle, which is rounded: so no point can leave the box.
    which = arrays.sketch_of_point
    return (arrays.points - low[which]) / side[which] - ((high - low) / side / 2)[which]


def boxed(arrays: SketchArrays) -> SketchArrays:
    """Return the sketches with their boxes centred at 0, of which the larger side is 255 (0 of a single dot)."""
    return moved(arrays, BOX * normalised(arrays))


def prepared(arrays: SketchArrays, spacing: float | None, epsilon: float | None) -> SketchArrays:
    """Return the sketches resampled, then simplified, each if it is asked for: by more than 0."""
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
        UserError: for one so small that all coordinates together would be over 2^27.
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
    with np.errstate(all="ignore"):
        pieces = np.where(total > 0, np.maximum(np.rint(total / step[owner]), 1), 0)
    if not (pieces.sum() + len(pieces)) * arrays.dimensions <= MAX_NUMBERS:
        raise UserError(
            f"points at a spacing of {spacing:g}, where a sketch is {BOX:g}, would be over {MAX_NUMBERS:,} numbers;"
            " take a larger one"
        )
    count = pieces.astype(np.int64) + 1
    # one long line: twice the stroke number plus the share of its length, from 0 to 1; jumps take up the rest
    stroke = np.cumsum(first) - 1
    share = np.cumsum(lengths / np.where(total > 0, total, 1.0)[stroke])
    share = np.minimum(share - share[first][stroke], 1)
    share[last] = np.where(total > 0, 1.0, 0.0)
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
