r"""Distances between two sets of feature vectors.

Nothing here knows where features come from. Sets are arrays (n, F) and (m, F) of independent samples; a flat array is
one feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from gendiff.metrics.values import Floats


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    r"""Fréchet distance of the normal laws with the means and covariances of two sets,

    .. math::
        \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr} \Sigma_a + \operatorname{tr} \Sigma_b
        - 2 \operatorname{tr} (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2}.

    With the centred features X (n, F) over :math:`\sqrt{n - 1}`, so that :math:`\Sigma = X^\top X`, the last trace is
    the sum of the singular values of :math:`X_a X_b^\top`: it needs no root of a matrix, so that covariances without
    full rank lose no digits. Biased upwards for finite sets; compare at equal sizes only.

    Dowson and Landau, The Fréchet distance between multivariate normal distributions (1982); Heusel et al., GANs
    trained by a two time-scale update rule (2017, arXiv 1706.08500).

    Arguments:
        a: Features, (n, F), n at least 2.
        b: Features, (m, F), m at least 2.

    Returns:
        The squared distance, at least 0, in the square of the features' unit.

    Raises:
        ValueError: for fewer than 2 samples, unlike lengths, or numbers that are not finite.
    """
    x, y = _features(a, b, 2)
    mean = x.mean(0) - y.mean(0)
    x, y = (_root(one) for one in (x, y))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(0.0, float(mean @ mean + (x**2).sum() + (y**2).sum() - 2 * cross))


def _root(x: Floats) -> Floats:
    """A matrix R of at most F rows with RᵀR the covariance of x."""
    x = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x


def _features(a: ArrayLike, b: ArrayLike, least: int = 1) -> tuple[Floats, Floats]:
    x, y = (np.asarray(one, np.float64) for one in (a, b))
    x, y = (one[:, None] if one.ndim == 1 else one for one in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(
            f"features must be (n, F) and (m, F) with at least {least} samples each, got {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features must be finite")
    return x, y
