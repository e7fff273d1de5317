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

A statistic that has no value (no samples, nothing to divide by) is None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from gendiff.files import UserError

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


@dataclass(frozen=True)
class Metric:
    """One row of a table.

    Attributes:
        name: Identifier, for programs.
        title: A few words, for people.
        generated: What the generated samples score; None where it does not apply.
        reference: What the reference scores by the same procedure.
        unit: "%" (values are fractions, shown in per cent), "Å", "kcal/mol", …, or "" for a pure number.
        better: Which direction is better, if one is.
        help: How it is measured and what it means.
    """

    name: str
    title: str
    generated: Value | None
    reference: Value | None
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    help: str = ""

    def texts(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return estimate and interval as text, of the reference and of the generated samples; "–" and "" for None.

        All have the same decimals: one for per cent (unit "%"), else enough for three digits of the larger estimate and
        two of the smaller.
        """
        values = (self.reference, self.generated)
        scale = 100 if self.unit == "%" else 1
        sizes = [math.floor(math.log10(abs(v.value))) for v in values if v and 0 < abs(v.value) < math.inf]
        decimals = 1 if self.unit == "%" else min(6, max(0, 2 - max(sizes), 1 - min(sizes))) if sizes else 2

        def texts(value: Value | None) -> tuple[str, str]:
            if value is None:
                return "–", ""
            estimate, low, high = (f"{scale * x:.{decimals}f}" for x in (value.value, value.low, value.high))
            return estimate, f"[{low}, {high}]"

        return texts(values[0]), texts(values[1])


@dataclass(frozen=True)
class Table:
    """Metrics of generated samples beside the reference's own, which come first: they say what the numbers can mean.

    Attributes:
        metrics: The rows.
        facts: What they rest on: counts, rules, seeds.
        title: One line.
    """

    metrics: Sequence[Metric]
    facts: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Metrics"

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"no metric {name!r}; there are: {', '.join(metric.name for metric in self.metrics)}")

    def __contains__(self, name: str) -> bool:
        return any(metric.name == name for metric in self.metrics)

    def lines(self) -> list[str]:
        """Return aligned lines for a terminal: title, facts, rows, and what the signs mean."""
        rows = [["", "", "reference", "", "generated", "", ""]]
        for metric in self.metrics:
            cells = [text for texts in metric.texts() for text in texts]
            rows.append([metric.title, metric.unit, *cells, _ARROW[metric.better]])
        width = [max(len(row[column]) for row in rows) for column in range(7)]
        pads = (str.ljust, str.ljust, str.rjust, str.ljust, str.rjust, str.ljust, str.ljust)
        body = ["  ".join(pad(cell, n) for pad, cell, n in zip(pads, row, width, strict=True)).rstrip() for row in rows]
        label = max((len(key) for key in self.facts), default=0)
        return [
            self.title,
            *(f"  {key:<{label}}  {value}" for key, value in self.facts.items()),
            "",
            *body,
            "",
            _LEGEND,
        ]

    def markdown(self) -> str:
        """Return a Markdown table with the facts below it."""
        rows = [
            f"| {_plain(metric.title)} {_ARROW[metric.better]} | {metric.unit} | "
            + " | ".join(" ".join(texts) for texts in metric.texts())
            + " |"
            for metric in self.metrics
        ]
        facts = [f"- {_plain(key)}: {_plain(value)}" for key, value in self.facts.items()]
        head = ["| metric | unit | reference | generated |", "|---|---|---|---|"]
        return "\n".join([*head, *(" ".join(row.split()) for row in rows), "", *facts, "", _LEGEND]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain containers, as :func:`gendiff.files.write_json` writes them."""
        return {"title": self.title, "facts": dict(self.facts), "metrics": [asdict(metric) for metric in self.metrics]}

    @classmethod
    def from_json(cls, content: Any) -> Table:
        """Rebuild a table from :meth:`to_json`.

        Raises:
            UserError: if the content is not that of a table.
        """
        try:
            metrics = [
                Metric(**{**row, **{key: row[key] and Value(**row[key]) for key in ("generated", "reference")}})
                for row in content["metrics"]
            ]
            table = cls(metrics, dict(content["facts"]), str(content["title"]))
            table.lines()
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError("not a table of metrics as `gendiff evaluate` writes it") from None
        return table


_ARROW = {"higher": "↑", "lower": "↓", None: ""}
_LEGEND = "↑ higher is better, ↓ lower is better, – does not apply; in brackets 95 % bootstrap intervals"


def _plain(text: Any) -> str:
    """Return text that does not end a Markdown cell or start HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


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


def _moved(value: float, draws: Floats, n: int, level: float) -> Value | None:
    """A distance with the spread of its resamples around it, cut at zero; None if it is not a number."""
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(draws):
        return None
    low, high = _quantiles(draws - draws.mean() + value, level)
    return Value(value, max(0.0, min(low, value)), max(high, value), n)
