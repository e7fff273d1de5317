"""Real images, spoilt more and more: what the numbers of a table look like when something known is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from gendiff.metrics import Table
from gendiff.modalities.images.metrics.features import STEPS
from gendiff.modalities.images.metrics.suite import Suite
from gendiff.modalities.images.records import ImageArrays

Spoil = Literal["noise", "blur", "holes", "invert"]

AMOUNTS: Mapping[Spoil, tuple[float, ...]] = MappingProxyType(
    {"noise": (0.0, 0.1, 0.3), "blur": (0.0, 0.5, 1.5), "holes": (0.0, 0.2, 0.5), "invert": (0.0, 0.1, 1.0)}
)
"""Rungs by kind, ascending; the first is images as they are."""


def spoil(arrays: ImageArrays, kind: Spoil, amount: float, seed: int = 0) -> ImageArrays:
    """Return images with something wrong.

    Arguments:
        arrays: The images.
        kind: "noise" adds normal noise to every number, "blur" averages with normal weights, "holes" makes a square at
            a random place the mean colour of the image, "invert" makes negatives of some images.
        amount: Of noise, its standard deviation, 1 being the range from black to white; of blur, that of the weights
            in pixels; of holes, their side, 1 being the shorter side of the image; of negatives, their share.
        seed: Of what is drawn at random.

    Raises:
        ValueError: for another kind, or an amount out of range.
    """
    if kind not in get_args(Spoil) or not 0 <= amount <= (1 if kind in ("holes", "invert") else np.inf):
        raise ValueError(f"kind must be one of {', '.join(get_args(Spoil))} and amount fit it, got {kind!r}, {amount}")
    rng = np.random.default_rng(seed)
    x = arrays.pixels.astype(np.float32)
    count, height, width, _ = x.shape
    if kind == "noise":
        x += 255 * amount * rng.standard_normal(x.shape, np.float32)
    elif kind == "blur":
        from scipy.ndimage import gaussian_filter

        x = gaussian_filter(x, (0, amount, amount, 0))
    elif kind == "invert":
        x = np.where(rng.random((count, 1, 1, 1)) < amount, 255 - x, x)
    else:
        side = round(amount * min(height, width))
        inside = [
            (np.arange(length) - rng.integers(length - side + 1, size=(count, 1))) // max(side, 1) == 0
            for length in (height, width)
        ]
        hole = inside[0][:, :, None, None] & inside[1][:, None, :, None] & (side > 0)
        x = np.where(hole, x.mean((1, 2), keepdims=True), x)
    return ImageArrays(np.rint(x).clip(0, 255).astype(np.uint8), arrays.words, arrays.names)


def ladder(
    reference: ImageArrays,
    *,
    amounts: Mapping[Spoil, Sequence[float]] = AMOUNTS,
    seed: int = 0,
    steps: int = STEPS,
    n_resamples: int = 200,
) -> dict[tuple[str, float], Table]:
    """Return the tables of a third of the reference, spoilt by kind and amount, against the rest.

    Arguments:
        reference: Real images.
        amounts: What is done and how much; see :func:`spoil`.
        seed: Of everything random.
        steps: Steps of training of the network.
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
        for kind, rungs in amounts.items()
        for amount in rungs
    }
