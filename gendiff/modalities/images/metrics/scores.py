"""The numbers of one set of images against a real one."""

from __future__ import annotations

from collections.abc import Sequence
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
    neighbours,
    ratio,
    share,
    told_apart,
)
from gendiff.modalities.images.metrics.copies import nearest
from gendiff.modalities.images.metrics.features import Features
from gendiff.modalities.images.records import ImageArrays

MOST_PAIRS = 2000
"""Images of a set that metrics of all pairs look at."""

Scores = dict[str, Value | None]


def distances(new: Floats, real: Floats, options: dict[str, Any]) -> Scores:
    """Return how far the features (n, F) of a set are from those of a real one, (m, F), both at least 2, by name."""
    few = options | {"n_resamples": max(2, options["n_resamples"] // 4)}
    scores: Scores = {"frechet": compare(frechet_distance, new, real, **few)}
    generated, reference = new[:MOST_PAIRS], real[:MOST_PAIRS]
    scores["kernel"] = compare_kernels(generated, reference, **options)
    if min(len(generated), len(reference)) > 5:
        near, wide = neighbours(reference, generated, 3), neighbours(reference, generated, 5)
        scores["precision"] = share(near.precise, **options)
        scores["recall"] = share(near.recalled, **options)
        scores["density"] = ratio(wide.dense, **options)
        scores["coverage"] = share(wide.covered, **options)
    if len(generated) == len(reference):
        scores["told_apart"] = share(told_apart(generated, reference, seed=options["seed"]), **options)
    return scores


def classes(features: Features, arrays: ImageArrays, options: dict[str, Any]) -> Scores:
    """Return how many images are recognised as their word, and the entropy of what they are recognised as."""
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
    generated: ImageArrays,
    real: ImageArrays,
    training: ImageArrays,
    itself: NDArray[np.int64] | None,
    options: dict[str, Any],
) -> tuple[Scores, Scores]:
    """Return what of generated and of real images lies near to training images and to each other.

    Arguments:
        generated: Generated images.
        real: Real images, at least 4: every other one says what is near, the rest is judged like generated ones.
        training: The training images.
        itself: Which of the training images each real one is; None if it is none of them.
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
                "equal": share(away == 0, **options),
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
    for one in number:  # how many of its word come before each image
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
