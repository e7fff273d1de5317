r"""Statistics every modality shares: numbers with their uncertainty, distances between distributions, and their table.

A measured number without its spread says little, so all numbers here are a :class:`Value`: an estimate with a 95 %
interval from the bootstrap (B. Efron, Bootstrap methods: another look at the jackknife, 1979, doi
10.1214/aos/1176344552). It draws n of the n samples with replacement, many times, and watches how far the number
moves:

- :func:`share` and :func:`ratio` for shares and means, :math:`\sum_i a_i / \sum_i b_i` (a sample stays whole: the
  atoms of a molecule are drawn together),
- :func:`bootstrap` for any other statistic of one sample, such as a median,
- :func:`compare` for a distance between samples, and :func:`bootstrap_totals`, much faster, where it depends on
  sums over the samples.

A distance between two finite samples is positive even if both come from one law, and resampling adds as much again.
So intervals of distances are the spread of the resampled distances moved to the measured one, and tables show, as
the reference's own number, the distance between two parts of the reference: what a perfect model would reach.

Distances of feature vectors (Fréchet, kernel, precision and recall, …) have a file of their own,
:mod:`gendiff.metrics.distances`; what is read off two sets of records, with their words and copies, is in
:mod:`gendiff.metrics.sets`, how networks that metrics look with are trained in :mod:`gendiff.metrics.fit`, and what a
suite of such metrics compares in :mod:`gendiff.metrics.paired`.

A statistic that has no value (no samples, nothing to divide by) is None, never NaN.
"""

from gendiff.metrics.distances import (
    compare_kernels,
    cubic_kernel,
    density_coverage,
    frechet_distance,
    gauss_kernel,
    kernel_distance,
    median_distance,
    neighbours,
    precision_recall,
    told_apart,
)
from gendiff.metrics.table import Metric, Table
from gendiff.metrics.values import (
    Floats,
    Value,
    bootstrap,
    bootstrap_totals,
    compare,
    ratio,
    share,
    total_variation,
    wasserstein,
    wasserstein_counts,
)

__all__ = [
    "Floats",
    "Metric",
    "Table",
    "Value",
    "bootstrap",
    "bootstrap_totals",
    "compare",
    "compare_kernels",
    "cubic_kernel",
    "density_coverage",
    "frechet_distance",
    "gauss_kernel",
    "kernel_distance",
    "median_distance",
    "neighbours",
    "precision_recall",
    "ratio",
    "share",
    "told_apart",
    "total_variation",
    "wasserstein",
    "wasserstein_counts",
]
