"""The numbers of one set of sketches against a real one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import (
    Floats,
    compare,
    compare_kernels,
    frechet_distance,
    gauss_kernel,
    median_distance,
    sets,
    share,
    told_apart,
)
from gendiff.metrics.sets import Scores
from gendiff.modalities.sketches.metrics.copies import nearest
from gendiff.modalities.sketches.metrics.features import Features
from gendiff.modalities.sketches.metrics.strokes import stroke_distances, stroke_vectors
from gendiff.modalities.sketches.records import SketchArrays

MOST_PAIRS = 2000
"""Sketches of a set that metrics of all pairs look at."""


@dataclass(frozen=True, eq=False)
class View:
    """Sketches and what is seen of them, once.

    Attributes:
        arrays: At least 2 sketches.
        features: The networks; None where there were too few sketches to train any.
    """

    arrays: SketchArrays
    features: Features | None

    @cached_property
    def vectors(self) -> Floats:
        """Statistics of the strokes, (M, 7 or fewer)."""
        return stroke_vectors(self.arrays)

    @cached_property
    def spaces(self) -> dict[str, Floats]:
        """What the networks see, (M, 128) each, by the name of the space."""
        if self.features is None:
            return {}
        found = {"sequence": self.features.describe_sequences(self.arrays)}
        if self.features.raster is not None:
            found["raster"] = self.features.describe_pictures(self.arrays)
        return found


def distances(new: View, real: View, options: dict[str, Any]) -> Scores:
    """Return how far a set is from a real one, by name; what needs more sketches than there are is left out."""
    scores: Scores = dict(stroke_distances(new.arrays, real.arrays, **options))
    spread = real.vectors.std(0)
    spread = np.where(spread > 0, spread, 1)
    vectors = [view.vectors[:MOST_PAIRS] / spread for view in (new, real)]
    scale = median_distance(vectors[1])
    if scale > 0:
        scores["stroke_kernel"] = compare_kernels(vectors[0], vectors[1], gauss_kernel(scale), **options)
    few = options | {"n_resamples": max(2, options["n_resamples"] // 4)}
    for name in new.spaces:
        scores[f"{name}_frechet"] = compare(frechet_distance, new.spaces[name], real.spaces[name], **few)
    pairs = {name: (new.spaces[name][:MOST_PAIRS], real.spaces[name][:MOST_PAIRS]) for name in new.spaces}
    if "raster" in pairs:
        generated, reference = pairs["raster"]
        scores["raster_kernel"] = compare_kernels(generated, reference, **options)
        scores |= sets.overlap(generated, reference, options)
    sides = [np.hstack([pair[side] for pair in (vectors, *pairs.values())]) for side in (0, 1)]
    if len(sides[0]) == len(sides[1]):
        scores["told_apart"] = share(told_apart(*sides, seed=options["seed"]), **options)
    return scores


def classes(features: Features, arrays: SketchArrays, options: dict[str, Any]) -> Scores:
    """Return how many sketches are recognised as their word, and the entropy of what they are recognised as."""
    guess = features.probabilities(arrays).argmax(1) if len(arrays) else np.zeros(0, np.int64)
    return sets.classes(guess, arrays.words, features.words, options)


def copies(
    generated: SketchArrays,
    real: SketchArrays,
    training: SketchArrays,
    itself: NDArray[np.int64] | None,
    options: dict[str, Any],
) -> tuple[Scores, Scores]:
    """Return what of generated and of real sketches lies near to training sketches, as :func:`sets.copies`."""
    return sets.copies(nearest, generated, real, training, itself, options)
