"""Numbers with their bootstrap intervals, and distances of one-dimensional distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Floats = NDArray[np.float64]
CHUNK = 4_000_000  # numbers in the work arrays of a bootstrap


@dataclass(frozen=True)
class Value:
    """A number with its bootstrap interval.

    Attributes:
        value: The estimate from all samples.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Samples (molecules, drawings, images) it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def ratio(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Value | None:
    r"""Estimate :math:`\sum_i a_i / \sum_i b_i`, the mean of a if there is no b, with its percentile interval.

    Arguments:
        numerator: a, one number per sample, (n,).
        denominator: b, (n,); ones by default.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        level: Coverage of the interval.

    Returns:
        The ratio, or None if the denominators sum to zero (as they do without samples).
    """
    a = np.asarray(numerator, np.float64)
    b = np.ones_like(a) if denominator is None else np.asarray(denominator, np.float64)
    if not b.sum():
        return None
    rows, counts = np.unique(np.column_stack([a, b]), axis=0, return_counts=True)
    totals = np.concatenate(
        [weights @ rows for weights in _resamples(counts, n_resamples, np.random.default_rng(seed))]
    )
    totals = totals[totals[:, 1] != 0]
    low, high = _quantiles(totals[:, 0] / totals[:, 1], level)
    return Value(float(a.sum() / b.sum()), low, high, len(a))


def share(
    successes: ArrayLike,
    trials: ArrayLike | None = None,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Value | None:
    r"""Estimate which share of trials succeed: :func:`ratio`, mended at the ends.

    If none or all succeed, resampling sees no spread. The inner bound is then the exact binomial one of Clopper and
    Pearson (1934, doi 10.1093/biomet/26.4.404), at a distance of :math:`1 - ((1 - level)/2)^{1/n}`, as if a sample
    were one trial.

    Arguments:
        successes: One bool, or a number from 0 to that of its trials, per sample, (n,).
        trials: Trials of each sample, (n,); one by default.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        level: Coverage of the interval.

    Returns:
        The share, or None if there are no trials.
    """
    value = ratio(successes, trials, n_resamples=n_resamples, seed=seed, level=level)
    if value is None or 0 < value.value < 1:
        return value
    bound = 1 - ((1 - level) / 2) ** (1 / value.n)
    return replace(value, high=bound) if value.value == 0 else replace(value, low=1 - bound)


def bootstrap(
    values: ArrayLike,
    statistic: Callable[..., Any] | None = None,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Value | None:
    """Estimate a statistic of one sample with its percentile interval.

    Arguments:
        values: One number per sample, (n,).
        statistic: Called as `statistic(values, axis=...)`, for example `np.median`; the mean if None.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        level: Coverage of the interval.

    Returns:
        The statistic, or None without samples.

    Example:
        >>> bootstrap([1.0, 2.0, 4.0], np.median).value
        2.0
    """
    x = np.asarray(values, np.float64)
    if statistic is None:
        return ratio(x, n_resamples=n_resamples, seed=seed, level=level)
    if not len(x):
        return None
    rng, step = np.random.default_rng(seed), max(1, CHUNK // len(x))
    draws = [
        statistic(x[rng.integers(len(x), size=(min(step, n_resamples - start), len(x)))], axis=1)
        for start in range(0, n_resamples, step)
    ]
    low, high = _quantiles(np.concatenate(draws), level)
    return Value(float(statistic(x, axis=0)), low, high, len(x))


def compare(
    distance: Callable[..., float], *samples: ArrayLike, n_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Value | None:
    """Estimate a distance between samples with its interval, by calling `distance` on resamples of each.

    Arguments:
        distance: A function of as many arrays as there are samples, not negative, for example :func:`wasserstein`.
        samples: Arrays (n_k, ...) of independent samples.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        level: Coverage of the interval.

    Returns:
        The distance, `n` being the size of the first sample, or None if a sample is empty.
    """
    arrays = [np.asarray(sample) for sample in samples]
    if not all(len(array) for array in arrays):
        return None
    rngs = _streams(seed, len(arrays))
    draws = [
        float(
            distance(
                *(array[rng.integers(len(array), size=len(array))] for array, rng in zip(arrays, rngs, strict=True))
            )
        )
        for _ in range(n_resamples)
    ]
    return _moved(float(distance(*arrays)), np.array(draws), len(arrays[0]), level)


def bootstrap_totals(
    statistic: Callable[..., Floats],
    *samples: Any,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Value | None]:
    r"""Estimate distances that depend on each sample through its column sums only, such as those of histograms.

    A resample is a vector of multinomial weights w, and its sums are :math:`w^\top X`: no data is gathered, and
    sparse X stays sparse.

    Arguments:
        statistic: Called with the sums of each sample, (R, K_k), it returns S distances of R resamples, (R, S).
        samples: Arrays or scipy sparse matrices X_k, (n_k, K_k); row i counts what sample i adds to each column.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        level: Coverage of the intervals.

    Returns:
        S values, `n` being the size of the first sample; None where the distance is not a finite number.
    """
    columns = [sparse.csr_array(sparse.csr_array(sample).T) for sample in samples]
    sizes = [matrix.shape[1] for matrix in columns]
    rngs = _streams(seed, len(columns))
    step = max(1, CHUNK // max(1, *(max(matrix.shape) for matrix in columns)))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(*(matrix.sum(1)[None] for matrix in columns))[0]
        if not all(sizes):
            return [None] * len(values)
        weights = zip(
            *(_resamples(np.ones(n, int), n_resamples, rng, step) for n, rng in zip(sizes, rngs, strict=True)),
            strict=True,
        )
        draws = np.concatenate(
            [
                statistic(*((m @ w.T.astype(np.float64)).T for m, w in zip(columns, group, strict=True)))
                for group in weights
            ]
        )
    return [_moved(float(value), draw, sizes[0], level) for value, draw in zip(values, draws.T, strict=True)]


def wasserstein(a: ArrayLike, b: ArrayLike) -> float:
    r"""Wasserstein-1 distance of two samples of numbers, :math:`\int |F_a(x) - F_b(x)|\,dx`, in their unit.

    Arguments:
        a: Finite numbers, (n,), at least one.
        b: Finite numbers, (m,), at least one.
    """
    a, b = np.sort(np.ravel(a)), np.sort(np.ravel(b))
    if not (len(a) and len(b)):
        raise ValueError(f"both samples need at least one number, got {len(a)} and {len(b)}")
    x = np.sort(np.concatenate([a, b]))
    gap = np.searchsorted(a, x[:-1], "right") / len(a) - np.searchsorted(b, x[:-1], "right") / len(b)
    return float(np.abs(gap) @ np.diff(x))


def wasserstein_counts(a: ArrayLike, b: ArrayLike, support: ArrayLike) -> Floats:
    """Wasserstein-1 distance of two histograms, in the unit of the support.

    Arguments:
        a: Counts (..., K).
        b: Counts (..., K).
        support: Where the bins lie, ascending, (K,).

    Returns:
        Distances (...); NaN where a histogram is empty.
    """
    difference, empty = _difference(a, b)
    distance = np.abs(np.cumsum(difference, -1)[..., :-1]) @ np.diff(np.asarray(support, np.float64))
    return np.where(empty, np.nan, distance)


def total_variation(a: ArrayLike, b: ArrayLike) -> Floats:
    r"""Total variation distance of two histograms, :math:`\frac12 \sum_k |p_k - q_k|`, in [0, 1].

    Arguments:
        a: Counts (..., K).
        b: Counts (..., K).

    Returns:
        Distances (...); NaN where a histogram is empty.
    """
    difference, empty = _difference(a, b)
    return np.where(empty, np.nan, np.abs(difference).sum(-1) / 2)


def _difference(a: ArrayLike, b: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Differences (..., K) of two histograms that each sum to one, and whether one of them is empty (...)."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    total_x, total_y = x.sum(-1, keepdims=True), y.sum(-1, keepdims=True)
    empty = (total_x == 0) | (total_y == 0)
    return x / np.where(empty, 1, total_x) - y / np.where(empty, 1, total_y), empty[..., 0]


def _streams(seed: int, count: int) -> list[np.random.Generator]:
    """Independent random streams for `count` samples."""
    return [np.random.default_rng([seed, index]) for index in range(count)]


def _resamples(
    counts: NDArray[np.int64], n_resamples: int, rng: np.random.Generator, step: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield (r, K): how often n draws with replacement hit each of K distinct rows, which occur `counts` times."""
    n, k = int(counts.sum()), len(counts)
    step = step or max(1, CHUNK // n)
    for start in range(0, n_resamples, step):
        r = min(step, n_resamples - start)
        if k < n:
            yield rng.multinomial(n, counts / n, size=r)
        else:
            hits = rng.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
            yield np.bincount(hits.ravel(), minlength=r * n).reshape(r, n)


def _quantiles(draws: Floats, level: float) -> tuple[float, float]:
    """The interval that leaves (1 - level) / 2 of the draws on either side."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _moved(value: float, draws: Floats, n: int, level: float, lowest: float = 0.0) -> Value | None:
    """A distance with the spread of its resamples around it, cut at the lowest it can be; None if not a number."""
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(draws):
        return None
    low, high = _quantiles(draws - draws.mean() + value, level)
    return Value(value, max(lowest, min(low, value)), max(high, value), n)
