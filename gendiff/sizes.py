"""Models of how many elements a sample has: p(N), p(N | class), and p(N | properties)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gendiff.config import Configurable
from gendiff.files import UserError
from gendiff.ops import Random

SHRINKAGE = 10.0
"""Samples of a size that weigh as much as the covariance common to all sizes, or of a class as the sizes of all."""

RIDGE = 1e-4
"""Added to every variance, in squared standard deviations: a property may be fixed by the size, or by another."""


class SizeModel:
    """p(N): how often each size occurs in the training data.

    Arguments:
        counts: How many samples have each size; keys may be strings, as JSON makes them.

    Raises:
        ValueError: if there is no size, or one is below 1.
    """

    def __init__(self, counts: dict[Any, int]):
        self.counts = {int(size): int(count) for size, count in sorted(counts.items(), key=lambda item: int(item[0]))}
        if not self.counts or min(self.counts) < 1 or min(self.counts.values()) < 1:
            raise ValueError(f"a size model needs sizes of at least 1 with positive counts, got {self.counts}")

    def sample(self, random: Random, low: int | None = None, high: int | None = None) -> Tensor:
        """Draw sizes, (B,), from p(N | low <= N <= high).

        Raises:
            UserError: if no size of the training data lies in the range.
        """
        sizes = self.within(low, high)
        weights = torch.tensor([self.counts[size] for size in sizes], dtype=torch.float64)
        edges = (weights.cumsum(0) / weights.sum())[:-1]
        u = random.uniform((len(random.indices),)).double().cpu()
        return torch.tensor(sizes)[torch.searchsorted(edges, u, right=True)]

    def within(self, low: int | None = None, high: int | None = None) -> list[int]:
        """Return the sizes that occurred within bounds.

        Raises:
            UserError: if there is none.
        """
        low, high = low or 1, high or max(self.counts)
        sizes = [size for size in self.counts if low <= size <= high]
        if not sizes:
            raise UserError(
                f"no size between {low} and {high} in the training data,"
                f" which has {min(self.counts)} to {max(self.counts)}"
            )
        return sizes

    def log_prob(self, sizes: Tensor) -> Tensor:
        """Return log p(N) in nats, (B,); -inf for a size that never occurred."""
        total = sum(self.counts.values())
        table = torch.full((int(max(max(self.counts), int(sizes.max()))) + 1,), -torch.inf, dtype=torch.float64)
        for size, count in self.counts.items():
            table[size] = count / total
        return torch.where(table[sizes.cpu()] > 0, table[sizes.cpu()].log(), -torch.inf).to(sizes.device)


class ClassSizes:
    r"""p(class), and p(N | class): histograms, smoothed over neighbouring sizes and drawn towards that of all classes.

    .. math:: p(N | c) \propto \tilde n_{cN} + 10\, p(N), \qquad p(N) \propto \sum_c \tilde n_{cN}

    :math:`\tilde n_{cN} = (n_{c, N-1} + 2 n_{cN} + n_{c, N+1}) / 4`, reflected at the smallest and largest size of all.

    Arguments:
        counts: By class, how many of its samples have each size; keys may be strings, as JSON makes them. One class of
            any name is p(N).

    Raises:
        ValueError: if there is no class, a class has no size, or a size or a count is below 1.
    """

    def __init__(self, counts: Mapping[str, Mapping[Any, int]]):
        models = {str(name): SizeModel(dict(sizes)) for name, sizes in counts.items()}
        if not models:
            raise ValueError("a size model needs at least one class")
        self.counts = {name: model.counts for name, model in models.items()}
        self.classes = list(self.counts)
        self.low, self.high = min(min(m) for m in self.counts.values()), max(max(m) for m in self.counts.values())
        table = torch.zeros(len(self.counts), self.high - self.low + 1, dtype=torch.float64)
        for row, sizes in zip(table, self.counts.values(), strict=True):
            row[torch.tensor(list(sizes)) - self.low] = torch.tensor(list(sizes.values()), dtype=torch.float64)
        wide = torch.cat([table[:, :1], table, table[:, -1:]], 1)
        smooth = (wide[:, :-2] + 2 * table + wide[:, 2:]) / 4
        self._share = table.sum(1) / table.sum()
        everyone = smooth.sum(0) / smooth.sum()
        rows = smooth + SHRINKAGE * everyone
        self._all, self._table = everyone, rows / rows.sum(1, keepdim=True)

    def sample_class(self, random: Random) -> Tensor:
        """Draw classes, (B,), as often as they occur."""
        return _draw(self._share.expand(len(random.indices), -1), random)

    def sample(
        self, random: Random, classes: Tensor | None = None, low: int | None = None, high: int | None = None
    ) -> Tensor:
        """Draw sizes, (B,), from p(N | class, low <= N <= high); of p(N) where a class is -1 or none are given.

        Raises:
            UserError: if the bounds leave no size.
        """
        least, most = max(low or self.low, self.low), min(high or self.high, self.high)
        if least > most:
            raise UserError(
                f"no size between {low or self.low} and {high or self.high} in the training data,"
                f" which has {self.low} to {self.high}"
            )
        p = self._rows(len(random.indices), classes)[:, least - self.low : most - self.low + 1]
        return least + _draw(p / p.sum(1, keepdim=True), random)

    def log_prob(self, sizes: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return log p(N | class) in nats, (B,); -inf outside the sizes of the training data."""
        place = sizes.cpu() - self.low
        inside = (place >= 0) & (place < self._all.numel())
        p = self._rows(len(sizes), classes).gather(1, place.clamp(0, self._all.numel() - 1)[:, None])[:, 0]
        return torch.where(inside, p.log(), -torch.inf).to(sizes.device)

    def _rows(self, batch: int, classes: Tensor | None) -> Tensor:
        if classes is None:
            return self._all.expand(batch, -1)
        classes = classes.cpu()
        return torch.where((classes < 0)[:, None], self._all, self._table[classes.clamp(min=0)])


def _draw(p: Tensor, random: Random) -> Tensor:
    """Draw a column of each row of probabilities (B, K)."""
    u = random.uniform((len(p),)).double().cpu()
    return (p.cumsum(1)[:, :-1] <= u[:, None]).sum(1)


class PropertySizes(Configurable):
    r"""p(N | c): how often each size occurs among samples with properties c, by Bayes' rule on normal laws.

    .. math:: p(N | c) \propto p(N)\, \mathcal N(c; \mu_N, \Sigma_N)

    :math:`\Sigma_N` is the covariance of the samples of a size, drawn towards the one within all sizes as if that were
    ten samples. Properties that are not asked for are integrated out.

    Arguments:
        names: Names of the P properties, in order.
        counts: How many samples have each size.
        means: Mean of the properties at each size, P numbers.
        covariances: Their covariance, P x P numbers.
    """

    def __init__(
        self,
        names: Sequence[str],
        counts: Mapping[Any, int],
        means: Mapping[Any, Sequence[float]],
        covariances: Mapping[Any, Sequence[Sequence[float]]],
    ):
        self.names = list(names)
        self.model = SizeModel(dict(counts))
        self.counts = self.model.counts
        self.means = {int(size): list(map(float, mean)) for size, mean in means.items()}
        self.covariances = {int(size): [list(map(float, row)) for row in rows] for size, rows in covariances.items()}
        wide = len(self.names)
        if set(self.means) != set(self.counts) or set(self.covariances) != set(self.counts):
            raise ValueError("means and covariances need one entry for each size")
        if any(len(mean) != wide for mean in self.means.values()) or any(
            len(rows) != wide or any(len(row) != wide for row in rows) for rows in self.covariances.values()
        ):
            raise ValueError(f"means and covariances must be of {wide} properties, {self.names}")

    @classmethod
    def fit(cls, sizes: Tensor, values: Mapping[str, Tensor]) -> PropertySizes | None:
        """Return the model of samples of `sizes` (M,) with `values` (M,) each, standardized; NaN rows are left out.

        None if no sample has all properties.
        """
        names = list(values)
        table = torch.stack([values[name].double() for name in names], 1)
        whole = ~table.isnan().any(1)
        sizes, table = sizes[whole], table[whole]
        if not len(sizes):
            return None
        found, place, counts = sizes.unique(return_inverse=True, return_counts=True)
        means = torch.zeros(len(found), len(names), dtype=torch.float64).index_add_(0, place, table) / counts[:, None]
        away = table - means[place]
        products = away[:, :, None] * away[:, None, :]
        total = torch.zeros(len(found), len(names), len(names), dtype=torch.float64).index_add_(0, place, products)
        common, ridge = total.sum(0) / len(sizes), RIDGE * torch.eye(len(names), dtype=torch.float64)
        covariances = (total + SHRINKAGE * common) / (counts[:, None, None] + SHRINKAGE) + ridge
        keys = found.tolist()
        return cls(
            names,
            dict(zip(keys, counts.tolist(), strict=True)),
            {size: [round(x, 6) for x in mean] for size, mean in zip(keys, means.tolist(), strict=True)},
            {
                size: [[round(x, 6) for x in row] for row in rows]
                for size, rows in zip(keys, covariances.tolist(), strict=True)
            },
        )

    def log_prob(
        self, values: Mapping[str, Tensor], low: int | None = None, high: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the sizes within the bounds, (S,), and log p(N | values) over them, (B, S).

        Raises:
            UserError: if no size of the training data lies in the range.
        """
        sizes = self.model.within(low, high)
        columns = [self.names.index(name) for name in self.names if name in values]
        c = torch.stack([values[self.names[k]].double().cpu() for k in columns], 1)
        mean = torch.tensor([self.means[size] for size in sizes], dtype=torch.float64)[:, columns]
        covariance = torch.tensor([self.covariances[size] for size in sizes], dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance[:, columns][:, :, columns])  # (S, P, P)
        away = (c[:, None, :] - mean).transpose(0, 1).transpose(1, 2)  # (S, P, B)
        distance = torch.linalg.solve_triangular(factor, away, upper=False).square().sum(1)
        log_volume = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        prior = torch.tensor([math.log(self.counts[size]) for size in sizes], dtype=torch.float64)
        return torch.tensor(sizes), (prior[:, None] - 0.5 * distance - log_volume[:, None]).T.log_softmax(1)

    def sample(
        self, random: Random, values: Mapping[str, Tensor], low: int | None = None, high: int | None = None
    ) -> Tensor:
        """Draw a size for each sample, (B,), from p(N | values, low <= N <= high); values are (B,) each."""
        sizes, log_prob = self.log_prob(values, low, high)
        edges = log_prob.exp().cumsum(1)[:, :-1].contiguous()
        u = random.uniform((len(random.indices),)).double().cpu()
        return sizes[torch.searchsorted(edges, u[:, None], right=True)[:, 0]]
