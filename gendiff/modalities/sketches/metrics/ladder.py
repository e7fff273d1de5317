"""Real sketches, spoilt more and more: what the numbers of a table look like when something known is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import Table
from gendiff.modalities.sketches.geometry import boxes
from gendiff.modalities.sketches.metrics.suite import Suite
from gendiff.modalities.sketches.records import SketchArrays

Spoil = Literal["jitter", "drop", "flip"]

AMOUNTS = (0.0, 0.02, 0.1)


def spoil(arrays: SketchArrays, kind: Spoil, amount: float, seed: int = 0) -> SketchArrays:
    """Return sketches with something wrong.

    Arguments:
        arrays: The sketches.
        kind: "jitter" moves every coordinate by normal noise, "drop" leaves out strokes (one stays), "flip" exchanges
            going on and ending at points other than the last.
        amount: Of the noise, its standard deviation in units of the longer side of the sketch's box; otherwise the
            probability for each stroke or point.
        seed: Of what is drawn at random.

    Raises:
        ValueError: for another kind, an amount out of range, or strokes asked of sketches without a pen.
    """
    rng = np.random.default_rng(seed)
    if kind not in ("jitter", "drop", "flip") or not 0 <= amount <= (1 if kind != "jitter" else np.inf):
        raise ValueError(f"kind must be jitter, drop or flip and amount a share, got {kind!r} and {amount}")
    if kind == "jitter":
        noise = rng.normal(size=arrays.points.shape) * (amount * boxes(arrays)[1])[arrays.sketch_of_point, None]
        return SketchArrays(arrays.num_points, arrays.points + noise, arrays.pen, arrays.words)
    if arrays.pen is None:
        raise ValueError(f"sketches without a pen have no strokes to {kind}")
    if kind == "flip":
        pen = arrays.pen ^ (rng.random(len(arrays.pen)) < amount)
        pen[arrays.last] = True
        return SketchArrays(arrays.num_points, arrays.points, pen, arrays.words)
    stroke: NDArray[np.int64] = np.cumsum(arrays.pen) - arrays.pen.astype(np.int64)
    sketch = arrays.sketch_of_point[arrays.pen]
    lot = rng.random(len(sketch))
    keep = lot >= amount
    luckiest = np.lexsort([-lot, sketch])[np.flatnonzero(np.diff(sketch, prepend=-1))]
    keep[luckiest] = True
    return arrays.select_points(keep[stroke])


def ladder(
    reference: SketchArrays,
    *,
    amounts: Sequence[float] = AMOUNTS,
    kinds: Sequence[Spoil] = ("jitter", "drop", "flip"),
    seed: int = 0,
    steps: int = 400,
    n_resamples: int = 200,
) -> dict[tuple[str, float], Table]:
    """Return the tables of a third of the reference, spoilt by kind and amount, against the rest.

    Arguments:
        reference: Real sketches.
        amounts: Rungs, ascending; 0 is the third as it is.
        kinds: What is done; see :func:`spoil`.
        seed: Of everything random.
        steps: Steps of training of each network.
        n_resamples: Bootstrap resamples.

    Returns:
        Tables by kind and amount.
    """
    order = np.random.default_rng([seed, 2]).permutation(len(reference))
    third = len(order) // 3
    suite = Suite(reference.select(order[third:]), seed=seed, steps=steps)
    good = reference.select(order[:third])
    return {
        (kind, amount): suite.evaluate(spoil(good, kind, amount, seed), n_resamples=n_resamples)
        for kind in kinds
        for amount in amounts
    }
