r"""Distances between two sets of feature vectors.

Sets are arrays (n, F) and (m, F) of independent samples; a flat array is one feature. Nothing here knows where the
features come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gendiff.metrics.values import Floats, Value, _moved, _resamples, _streams

Kernel = Callable[[Floats, Floats], Floats]
CHUNK = 1 << 22  # entries of a matrix of pairs at a time: 32 MiB


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    r"""Fréchet distance of the normal laws with the means and covariances of two sets.

    .. math::
        \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr} \Sigma_a + \operatorname{tr} \Sigma_b
        - 2 \operatorname{tr} (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2}

    With centred features X over :math:`\sqrt{n - 1}`, so that :math:`\Sigma = X^\top X`, the last trace is the sum of
    the singular values of :math:`X_a X_b^\top`. No root of a matrix is taken, so covariances that lack full rank cost
    no digits. The distance of finite sets is biased upwards: compare at equal sizes only.

    Dowson, Landau: The Fréchet distance between multivariate normal distributions (1982). Heusel et al.: GANs trained
    by a two time-scale update rule converge to a local Nash equilibrium (2017, arXiv 1706.08500).

    Arguments:
        a: Features, (n, F), n at least 2.
        b: Features, (m, F), m at least 2.

    Returns:
        The squared distance, at least 0, in the square of the features' unit.

    Raises:
        ValueError: for fewer than 2 samples, unlike features, or numbers that are not finite.
    """
    x, y = _features(a, b, 2)
    mean = x.mean(0) - y.mean(0)
    x, y = _root(x), _root(y)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(0.0, float(mean @ mean + (x**2).sum() + (y**2).sum() - 2 * cross))


def cubic_kernel(x: Floats, y: Floats) -> Floats:
    r"""The kernel of :func:`kernel_distance`, :math:`(x \cdot y / F + 1)^3`, of all pairs, (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gauss_kernel(scale: float) -> Kernel:
    r"""Return the kernel :math:`\exp(-\lVert x - y \rVert^2 / 2 s^2)`; see :func:`median_distance` for s."""
    if not scale > 0:
        raise ValueError(f"the scale of a kernel must be positive, got {scale}")
    return lambda x, y: np.exp(-_squares(x, y) / (2 * scale**2))


def median_distance(a: ArrayLike) -> float:
    """Return the median distance between different samples, by which kernels are scaled; at most 1,000 are looked at.

    Gretton et al.: A kernel two-sample test (2012).
    """
    x = _features(a, a, 2)[0][:1000]
    return float(np.sqrt(np.median(_squares(x, x)[np.triu_indices(len(x), 1)])))


def kernel_distance(a: ArrayLike, b: ArrayLike, kernel: Kernel = cubic_kernel) -> float:
    r"""Squared maximum mean discrepancy, unbiased: its mean is 0 for equal laws at any size.

    .. math::
        \frac{1}{n (n - 1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(b_i, b_j)
        - \frac{2}{n m} \sum_{i, j} k(a_i, b_j)

    With the cubic kernel in the space of a network it is the kernel inception distance (KID) of Bińkowski et al.:
    Demystifying MMD GANs (2018, arXiv 1801.01401).

    Arguments:
        a: Features, (n, F), n at least 2.
        b: Features, (m, F), m at least 2.
        kernel: Gives the matrix (n, m) of two sets.

    Returns:
        The squared distance; below 0 by chance where there is hardly any.

    Raises:
        ValueError: for fewer than 2 samples, unlike features, or numbers that are not finite.
    """
    x, y = _features(a, b, 2)
    within = [
        sum(_off_diagonal(kernel(one[rows], one), rows).sum() for rows in _pieces(one, one))
        / (len(one) * (len(one) - 1))
        for one in (x, y)
    ]
    across = sum(kernel(x[rows], y).sum() for rows in _pieces(x, y)) / (len(x) * len(y))
    return float(sum(within) - 2 * across)


def compare_kernels(
    a: ArrayLike,
    b: ArrayLike,
    kernel: Kernel = cubic_kernel,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Value:
    """Estimate :func:`kernel_distance` with its bootstrap interval.

    A resample weighs the pairs of samples; a sample drawn twice makes no pair with itself. Holds the three matrices of
    pairs in memory, so it is for some thousands of samples.

    Arguments:
        a: Features, (n, F), n at least 2.
        b: Features, (m, F), m at least 2.
        kernel: Gives the matrix (n, m) of two sets.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        level: Coverage of the interval.
    """
    x, y = _features(a, b, 2)
    across = kernel(x, y)
    sides = []
    for one, rng in zip((x, y), _streams(seed, 2), strict=True):
        pairs = _off_diagonal(kernel(one, one), slice(0, len(one)))
        draws = list(_resamples(np.ones(len(one), np.int64), n_resamples, rng))
        weight = np.concatenate([np.ones((1, len(one))), *draws])
        total = weight.sum(1) ** 2 - (weight**2).sum(1)
        sides.append((weight, ((weight @ pairs) * weight).sum(1) / np.where(total > 0, total, np.nan)))
    (weight, within_a), (other, within_b) = sides
    values = within_a + within_b - 2 * ((weight @ across) * other).sum(1) / (len(x) * len(y))
    value = _moved(float(values[0]), values[1:], len(x), level, lowest=-np.inf)
    return value or Value(float(values[0]), -np.inf, np.inf, len(x))


class Neighbours(NamedTuple):
    """What :func:`neighbours` counts.

    Attributes:
        precise: Whether a generated sample lies among the real ones, (m,).
        recalled: Whether a real sample lies among the generated ones, (n,).
        dense: In how many balls of real samples a generated one lies, over k, (m,).
        covered: Whether the ball of a real sample holds a generated one, (n,).
    """

    precise: NDArray[np.bool_]
    recalled: NDArray[np.bool_]
    dense: Floats
    covered: NDArray[np.bool_]


def neighbours(real: ArrayLike, generated: ArrayLike, k: int = 3) -> Neighbours:
    """Look around every sample as far as its k-th nearest neighbour in its own set: the ball that it stands for.

    Arguments:
        real: Features, (n, F), n above k.
        generated: Features, (m, F), m above k.
        k: Neighbours, at least 1.

    Returns:
        For each sample what :func:`precision_recall` and :func:`density_coverage` are the means of.

    Raises:
        ValueError: for too few samples, unlike features, or numbers that are not finite.
    """
    x, y = _features(real, generated, k + 1)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    x, y = x - x.mean(0), y - x.mean(0)  # far from 0, squares of differences would lose digits
    radius_x, radius_y = _radii(x, k), _radii(y, k)
    recalled, covered = np.zeros(len(x), bool), np.zeros(len(x), bool)
    balls = np.zeros(len(y), np.int64)
    for rows in _pieces(x, y):
        square = _squares(x[rows], y)
        inside = square <= radius_x[rows, None]
        covered[rows], recalled[rows] = inside.any(1), (square <= radius_y).any(1)
        balls += inside.sum(0)
    return Neighbours(balls > 0, recalled, balls / k, covered)


def precision_recall(real: ArrayLike, generated: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Return the share of generated samples that lie among the real ones, and of real among the generated ones.

    A set covers the balls around its samples that reach to the k-th nearest neighbour. Kynkäänniemi et al.: Improved
    precision and recall metric for assessing generative models (2019, arXiv 1904.06991). Arguments as for
    :func:`neighbours`.
    """
    found = neighbours(real, generated, k)
    return float(found.precise.mean()), float(found.recalled.mean())


def density_coverage(real: ArrayLike, generated: ArrayLike, k: int = 5) -> tuple[float, float]:
    """Return density and coverage, which outliers among the samples mislead less than precision and recall.

    Density is the mean number of real balls that a generated sample lies in, over k: about 1 for equal laws, more
    where samples crowd. Coverage is the share of real balls with a generated sample in them. Naeem et al.: Reliable
    fidelity and diversity metrics for generative models (2020, arXiv 2002.09797). Arguments as for :func:`neighbours`.
    """
    found = neighbours(real, generated, k)
    return float(found.dense.mean()), float(found.covered.mean())


def told_apart(a: ArrayLike, b: ArrayLike, *, folds: int = 5, seed: int = 0) -> NDArray[np.bool_]:
    """Return for every sample of both sets whether a classifier that has not seen it says rightly of which set it is.

    The share of them is the accuracy of the two-sample test by a classifier (C2ST), 0.5 for equal laws; at equal sizes
    only. The classifier is ridge regression on features in standard deviations and their squares, so differences of
    means and spreads are seen. Lopez-Paz, Oquab: Revisiting classifier two-sample tests (2017, arXiv 1610.06545).

    Arguments:
        a: Features, (n, F), n at least 2.
        b: Features, (m, F), m at least 2.
        folds: Parts of which each is judged by what the others teach.
        seed: Of the parts.

    Returns:
        (n + m,), a first.

    Raises:
        ValueError: for fewer than 2 samples, unlike features, or numbers that are not finite.
    """
    x, y = _features(a, b, 2)
    both, sign = np.concatenate([x, y]), np.repeat([1.0, -1.0], [len(x), len(y)])
    spread = both.std(0)
    z = (both - both.mean(0)) / np.where(spread > 0, spread, 1)
    z = np.hstack([z, z**2 - 1, np.ones((len(z), 1))])
    correct = np.zeros(len(z), bool)
    for part in np.array_split(np.random.default_rng(seed).permutation(len(z)), min(folds, len(z))):
        taught = np.delete(np.arange(len(z)), part)
        u = z[taught]
        # A prior variance of 1/100 for weights of standardised features; noise of variance 1.
        weight = np.linalg.solve(u.T @ u + 100 * np.eye(u.shape[1]), u.T @ sign[taught])
        correct[part] = (z[part] @ weight > 0) == (sign[part] > 0)
    return correct


def _root(x: Floats) -> Floats:
    """A matrix R of at most F rows whose square RᵀR is the covariance of x."""
    x = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x


def _squares(x: Floats, y: Floats) -> Floats:
    """Squared distances of all pairs, (n, m)."""
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)


def _radii(x: Floats, k: int) -> Floats:
    """Squared distance of every sample to its k-th nearest other one, (n,)."""
    radius = np.empty(len(x))
    for rows in _pieces(x, x):
        square = _off_diagonal(_squares(x[rows], x), rows, np.inf)
        radius[rows] = np.partition(square, k - 1, axis=1)[:, k - 1]
    return radius


def _off_diagonal(pairs: Floats, rows: slice, value: float = 0.0) -> Floats:
    """Rows of a matrix of pairs within one set, with another value where a sample meets itself."""
    pairs[np.arange(len(pairs)), np.arange(rows.start, rows.stop)] = value
    return pairs


def _pieces(x: Floats, y: Floats) -> Iterator[slice]:
    """Rows of x whose pairs with y fit into memory."""
    step = max(1, CHUNK // len(y))
    for start in range(0, len(x), step):
        yield slice(start, min(len(x), start + step))


def _features(a: ArrayLike, b: ArrayLike, least: int) -> tuple[Floats, Floats]:
    x, y = (np.asarray(one, np.float64) for one in (a, b))
    x, y = (one[:, None] if one.ndim == 1 else one for one in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(
            f"features must be (n, F) and (m, F), at least {least} samples of each, got {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features must be finite")
    return x, y
