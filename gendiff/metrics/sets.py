"""What metrics of any kind of records read off two sets of them: which to compare, overlap, classes, copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gendiff.metrics.distances import neighbours
from gendiff.metrics.values import Floats, Value, bootstrap, bootstrap_totals, ratio, share

Scores = dict[str, Value | None]
"""Numbers by name."""

CANDIDATES = 24
"""How many records of a rough search are measured exactly."""

CHUNK = 1000
"""Records that a rough search looks at together."""

T = TypeVar("T", bound="Records")


class Records(Protocol):
    """A set of records of which some can be taken."""

    def __len__(self) -> int: ...

    def select(self: T, index: ArrayLike) -> T:
        """Return some of them, by numbers."""


def matched(words: Sequence[NDArray[np.str_]], most: int) -> list[NDArray[np.int64]]:
    """Return rows of every set, of equal number and with the same words, as many as there are but at most `most`.

    Of each word every set gives as many as the poorest has, its first ones; the first set says which words come first.
    """
    kinds = np.unique(np.concatenate(words))
    number = [np.searchsorted(kinds, one) for one in words]
    rank = []
    for one in number:  # how many of its word come before each record
        order = np.argsort(one, kind="stable")
        first = np.searchsorted(one[order], np.arange(len(kinds)))
        place = np.empty(len(one), np.int64)
        place[order] = np.arange(len(one)) - first[one[order]]
        rank.append(place)
    least = np.min([np.bincount(one, minlength=len(kinds)) for one in number], axis=0)
    lead = np.flatnonzero(rank[0] < least[number[0]])[:most]
    least = np.bincount(number[0][lead], minlength=len(kinds))
    return [np.flatnonzero(place < least[one]) for one, place in zip(number, rank, strict=True)]


def overlap(generated: Floats, reference: Floats, options: dict[str, Any]) -> Scores:
    """Return precision and recall (k = 3), density and coverage (k = 5) of features (n, F) and (m, F), by name.

    Nothing of sets that have no five neighbours.
    """
    if min(len(generated), len(reference)) <= 5:
        return {}
    near, wide = neighbours(reference, generated, 3), neighbours(reference, generated, 5)
    return {
        "precision": share(near.precise, **options),
        "recall": share(near.recalled, **options),
        "density": ratio(wide.dense, **options),
        "coverage": share(wide.covered, **options),
    }


def classes(guess: NDArray[np.int64], words: NDArray[np.str_], known: Sequence[str], options: dict[str, Any]) -> Scores:
    """Return how many records are recognised as their word, and the entropy of what they are recognised as.

    Arguments:
        guess: Number, among the `known` words, that a classifier takes each record for, (M,).
        words: What they should be, (M,), "" where that is not said.
        known: The words of the classifier.
        options: `n_resamples` and `seed`.
    """
    if not len(guess):
        return {"recognised": None, "entropy": None}
    named = words != ""
    (spread,) = bootstrap_totals(_entropy, np.eye(len(known))[guess], **options)
    return {"recognised": share(np.array(known)[guess[named]] == words[named], **options), "entropy": spread}


def copies(
    nearest: Callable[[Any, Any, NDArray[np.int64] | None], Floats],
    generated: T,
    real: T,
    training: T,
    itself: NDArray[np.int64] | None,
    options: dict[str, Any],
) -> tuple[Scores, Scores]:
    """Return what of generated and of real records lies near to training records and to each other.

    Near is what is nearer than all but 1 % of real records are to a training record other than themselves.

    Arguments:
        nearest: The distance from each of some records to the nearest of others, but for those that it is itself.
        generated: Generated records.
        real: Real records, at least 4: every other one says what is near, the rest is judged like generated ones.
        training: The training records.
        itself: Which of the training records each real one is; None if it is none of them.
        options: `n_resamples` and `seed`.

    Returns:
        Of both the share that is "equal" (a distance of 0), "copies" (near), the median distance "nearest", and the
        share that is "unique", without another one near.
    """
    way = nearest(real, training, itself)
    limit = float(np.quantile(way[::2], 0.01))
    found = []
    for one, away in (
        (generated, nearest(generated, training, None) if len(generated) else np.zeros(0)),
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


def search(
    rough: Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]],
    exact: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats],
    count: int,
    others: int,
    itself: NDArray[np.int64] | None = None,
) -> Floats:
    """Return the distance from each of `count` records to the nearest of many others, (count,); infinite without any.

    Arguments:
        rough: Numbers of others, (R,), to about their distances from all records, (count, R).
        exact: Numbers of records, (P,), and of one other for each, to their distances, (P,).
        count: How many records there are.
        others: How many others there are.
        itself: Which of the others each record is, and so is not compared with, (count,).
    """
    best = np.full((count, 1), np.inf, np.float32)
    which = np.zeros(best.shape, np.int64)
    for start in range(0, others, CHUNK):
        rows = np.arange(start, min(others, start + CHUNK))
        near = rough(rows)
        if itself is not None:
            mine = np.flatnonzero((itself >= start) & (itself <= rows[-1]))
            near[mine, itself[mine] - start] = np.inf
        best = np.concatenate([best, near], 1)
        which = np.concatenate([which, np.broadcast_to(rows, near.shape)], 1)
        if best.shape[1] > CANDIDATES:
            pick = np.argpartition(best, CANDIDATES, 1)[:, :CANDIDATES]
            best, which = np.take_along_axis(best, pick, 1), np.take_along_axis(which, pick, 1)
    found = np.full(best.shape, np.inf)
    for candidate in range(best.shape[1]):
        some = np.flatnonzero(np.isfinite(best[:, candidate]))
        if len(some):
            found[some, candidate] = exact(some, which[some, candidate])
    return found.min(1)


def _entropy(counts: Floats) -> Floats:
    """Entropy, in nats, of histograms (R, K), as (R, 1)."""
    share = counts / counts.sum(1, keepdims=True)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(1, keepdims=True)
