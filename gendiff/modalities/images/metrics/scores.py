"""The numbers of one set of images against a real one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import Floats, compare, compare_kernels, frechet_distance, sets, share, told_apart
from gendiff.metrics.sets import Scores
from gendiff.modalities.images.metrics.copies import nearest
from gendiff.modalities.images.metrics.features import Features
from gendiff.modalities.images.records import ImageArrays

MOST_PAIRS = 2000
"""Images of a set that metrics of all pairs look at."""


def distances(new: Floats, real: Floats, options: dict[str, Any]) -> Scores:
    """Return how far the features (n, F) of a set are from those of a real one, (m, F), both at least 2, by name."""
    few = options | {"n_resamples": max(2, options["n_resamples"] // 4)}
    scores: Scores = {"frechet": compare(frechet_distance, new, real, **few)}
    generated, reference = new[:MOST_PAIRS], real[:MOST_PAIRS]
    scores["kernel"] = compare_kernels(generated, reference, **options)
    scores |= sets.overlap(generated, reference, options)
    if len(generated) == len(reference):
        scores["told_apart"] = share(told_apart(generated, reference, seed=options["seed"]), **options)
    return scores


def classes(features: Features, arrays: ImageArrays, options: dict[str, Any]) -> Scores:
    """Return how many images are recognised as their word, and the entropy of what they are recognised as."""
    guess = features.probabilities(arrays).argmax(1) if len(arrays) else np.zeros(0, np.int64)
    return sets.classes(guess, arrays.words, features.words, options)


def copies(
    generated: ImageArrays,
    real: ImageArrays,
    training: ImageArrays,
    itself: NDArray[np.int64] | None,
    options: dict[str, Any],
) -> tuple[Scores, Scores]:
    """Return what of generated and of real images lies near to training images, as :func:`sets.copies`."""
    return sets.copies(nearest, generated, real, training, itself, options)
