"""Models of how many elements a sample has: p(N), and p(N | properties)."""

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
"""Samples of a size that weigh as much as the covariance common to all sizes."""

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
