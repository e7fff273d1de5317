"""The numbers of one set of sketches against a real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import (
    Floats,
    Value,
    bootstrap,
    bootstrap_totals,
    compare,
    compare_kernels,
    frechet_distance,
    gauss_kernel,
    median_distance,
    neighbours,
    ratio,
    share,
    told_apart,
)
from gendiff.modalities.sketches.metrics.copies import nearest
from gendiff.modalities.sketches.metrics.features import Features
from gendiff.modalities.sketches.metrics.strokes import stroke_distances, stroke_vectors
from gendiff.modalities.sketches.records import SketchArrays

MOST_PAIRS = 2000
"""Sketches of a set that metrics of all pairs look at."""

Scores = dict[str, Value | None]


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
        if min(len(generated), len(reference)) > 5:
            near, wide = neighbours(reference, generated, 3), neighbours(reference, generated, 5)
            scores["precision"] = share(near.precise, **options)
            scores["recall"] = share(near.recalled, **options)
            scores["density"] = ratio(wide.dense, **options)
            scores["coverage"] = share(wide.covered, **options)
    sides = [np.hstack([pair[side] for pair in (vectors, *pairs.values())]) for side in (0, 1)]
    if len(sides[0]) == len(sides[1]):
        scores["told_apart"] = share(told_apart(*sides, seed=options["seed"]), **options)
    return scores


def classes(features: Features, arrays: SketchArrays, options: dict[str, Any]) -> Scores:
    """Return how many sketches are recognised as their word, and the entropy of what they are recognised as."""
    if not len(arrays):
        return {"recognised": None, "entropy": None}
    guess = features.probabilities(arrays).argmax(1)
    named = arrays.words != ""
    (spread,) = bootstrap_totals(_entropy, np.eye(len(features.words))[guess], **options)
    return {
        "recognised": share(np.array(features.words)[guess[named]] == arrays.words[named], **options),
        "entropy": spread,
    }


def copies(
    generated: SketchArrays,
    real: SketchArrays,
    training: SketchArrays,
    itself: NDArray[np.int64] | None,
    options: dict[str, Any],
) -> tuple[Scores, Scores]:
    """Return what of generated and of real sketches lies near to training sketches and to each other.

    Arguments:
        generated: Generated sketches.
        real: Real sketches, at least 4: every other one says what is near, the rest is judged like generated ones.
        training: The training sketches.
        itself: Which of the training sketches each real one is; None if it is none of them.
        options: `n_resamples` and `seed`.
    """
    way = nearest(real, training, itself)
    limit = float(np.quantile(way[::2], 0.01))
    found = []
    for one, away in (
        (generated, nearest(generated, training) if len(generated) else np.zeros(0)),
        (real.select(np.arange(1, len(real), 2)), way[1::2]),
    ):
        some = one.select(np.arange(min(len(one), len(real) // 2)))
        apart = nearest(some, some, np.arange(len(some))) if len(some) else np.zeros(0)
        found.append(
            {
                "copies": share(away <= limit, **options),
                "nearest": bootstrap(away, np.median, **options),
                "unique": share(apart > limit, **options),
            }
        )
    return found[0], found[1]


def matched(words: Sequence[NDArray[np.str_]], most: int) -> list[NDArray[np.int64]]:
    """Return rows of every set, of equal number and with the same words, as many as there are but at most `most`.

    Of each word every set gives as many as the poorest has, its first ones; the first set says which words come first.
    """
    kinds = np.unique(np.concatenate(words))
    number = [np.searchsorted(kinds, one) for one in words]
    rank = []
    for one in number:  # how many of its word come before each sketch
        order = np.argsort(one, kind="stable")
        first = np.searchsorted(one[order], np.arange(len(kinds)))
        place = np.empty(len(one), np.int64)
        place[order] = np.arange(len(one)) - first[one[order]]
        rank.append(place)
    least = np.min([np.bincount(one, minlength=len(kinds)) for one in number], axis=0)
    lead = np.flatnonzero(rank[0] < least[number[0]])[:most]
    least = np.bincount(number[0][lead], minlength=len(kinds))
    return [np.flatnonzero(place < least[one]) for one, place in zip(number, rank, strict=True)]


def _entropy(counts: Floats) -> Floats:
    """Entropy, in nats, of histograms (R, K), as (R, 1)."""
    share = counts / counts.sum(1, keepdims=True)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(1, keepdims=True)
