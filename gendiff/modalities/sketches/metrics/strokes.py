r"""Statistics of strokes: seven numbers of a sketch that need no network, and how far their distributions are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import Floats, wasserstein
from gendiff.modalities.sketches.raster import normalise
from gendiff.modalities.sketches.records import SketchArrays


def stroke_values(arrays: SketchArrays) -> dict[str, tuple[Floats, NDArray[np.int64]]]:
    r"""Return the statistics as numbers and the sketch that each belongs to, both (K,), by name.

    Lengths are in units of the longer side of the sketch's bounding box:

    - `points`: points of a sketch,
    - `strokes`: strokes of a sketch (drawings with a pen only),
    - `stroke_length`: length of each stroke (of the whole without a pen),
    - `jump_length`: from the end of each stroke to the beginning of the next (with a pen only),
    - `step_length`: between points next to each other in a stroke,
    - `turning`: angle between steps next to each other in a stroke, signed in two dimensions, radians; steps of no
      length have none,
    - `aspect`: log of height over width, each at least 1 % of the longer side (two dimensions only).
    """
    points, which = normalise(arrays), arrays.sketch_of_point
    every = np.arange(len(arrays))
    values = {"points": (arrays.num_points.astype(float), every)}
    if arrays.has_pen:
        values["strokes"] = (arrays.num_strokes.astype(float), every)
    step = np.diff(points, axis=0)
    length = np.linalg.norm(step, axis=1)
    ends = np.flatnonzero(arrays.ends)
    in_stroke, stroke = ~arrays.ends[:-1], np.cumsum(arrays.ends[:-1])
    values["stroke_length"] = (np.bincount(stroke[in_stroke], length[in_stroke], len(ends)), which[ends])
    if arrays.has_pen:
        jumps = ends[:-1][which[ends[:-1]] == which[ends[:-1] + 1]]
        values["jump_length"] = (length[jumps], which[jumps])
    values["step_length"] = (length[in_stroke], which[:-1][in_stroke])
    moves = in_stroke & (length > 0)
    corner = np.flatnonzero(moves[:-1] & moves[1:])
    a, b = step[corner], step[corner + 1]
    dot = (a * b).sum(1)
    if arrays.dimensions == 2:
        angle = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], dot)
    else:
        angle = np.arccos(np.clip(dot / (length[corner] * length[corner + 1]), -1, 1))
    values["turning"] = (angle, which[corner])
    if arrays.dimensions == 2 and len(arrays):
        side = np.maximum(2 * np.maximum.reduceat(points, arrays.first, 0), 0.01)
        values["aspect"] = (np.log(side[:, 1] / side[:, 0]), every)
    return values


def stroke_distances(generated: SketchArrays, reference: SketchArrays) -> dict[str, float | None]:
    """Return Wasserstein-1 distances of the statistics over the reference's standard deviations, by name.

    None where one of the sets has no such number, or the reference has but one.
    """
    new, old = stroke_values(generated), stroke_values(reference)
    return {name: _distance(new[name][0], old[name][0]) for name in old if name in new}


def _distance(a: Floats, b: Floats) -> float | None:
    return wasserstein(a, b) / b.std() if len(a) and len(b) and b.std() > 0 else None
