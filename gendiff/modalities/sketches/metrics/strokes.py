r"""Statistics of strokes: seven numbers of a sketch that need no network, and how far their distributions are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from gendiff.metrics import Floats, Value, bootstrap_totals, wasserstein_counts
from gendiff.modalities.sketches.geometry import normalised
from gendiff.modalities.sketches.records import SketchArrays

LEVELS = 1001
"""Distinct values of a statistic; if there are more, they are rounded to so many quantiles."""


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
    points, which = normalised(arrays), arrays.sketch_of_point
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


def stroke_distances(
    generated: SketchArrays, reference: SketchArrays, *, n_resamples: int = 200, seed: int = 0
) -> dict[str, Value | None]:
    """Return Wasserstein-1 distances of the statistics over the reference's standard deviations, by name.

    If there are more than 1,001 distinct numbers, they are rounded to the nearest of so many quantiles. Intervals
    come from resampling sketches.

    Arguments:
        generated: Sketches.
        reference: Real sketches.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        The distances; None where a set has no such number, or the reference's are all equal.
    """
    new, old = stroke_values(generated), stroke_values(reference)
    found: dict[str, Value | None] = {}
    for name in old:
        (a, in_a), (b, in_b) = new.get(name, (np.zeros(0), np.zeros(0, np.int64))), old[name]
        if not len(a) or not len(b) or b.std() == 0:
            found[name] = None
            continue
        support = np.unique(np.concatenate([a, b]))
        if len(support) > LEVELS:
            support = np.unique(np.quantile(np.concatenate([a, b]), np.linspace(0, 1, LEVELS)))
        counts = [
            sparse.csr_array((np.ones(len(x)), (which, _nearest(x, support))), (len(one), len(support)))
            for x, which, one in ((a, in_a, generated), (b, in_b, reference))
        ]
        unit = b.std()
        (found[name],) = bootstrap_totals(
            lambda p, q, s=support, u=unit: wasserstein_counts(p, q, s)[:, None] / u,
            *counts,
            n_resamples=n_resamples,
            seed=seed,
        )
    return found


def stroke_vectors(arrays: SketchArrays) -> Floats:
    """Return one vector of statistics for each sketch, (M, 7 or fewer): the mean of each, 0 where there is none.

    Of the angles it is the mean size.
    """
    columns = []
    for name, (value, which) in stroke_values(arrays).items():
        value = np.abs(value) if name == "turning" else value
        count = np.bincount(which, minlength=len(arrays))
        columns.append(np.bincount(which, value, len(arrays)) / np.maximum(count, 1))
    return np.stack(columns, 1)


def _nearest(x: Floats, support: Floats) -> NDArray[np.int64]:
    """Which number of an ascending support is nearest to each x."""
    return np.searchsorted((support[1:] + support[:-1]) / 2, x)
