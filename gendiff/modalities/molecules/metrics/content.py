"""What molecules hold, as histograms, and distances between two sets of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from gendiff.metrics import Floats, Value, bootstrap_totals, total_variation, wasserstein_counts
from gendiff.modalities.molecules.records import MoleculeArrays


@dataclass
class Content:
    """What n molecules hold: molecule `rows[i]` adds one to the histogram bin `keys[i]`; see `count_content`."""

    n: int
    rows: NDArray[np.int64]
    keys: NDArray[np.int64]

    def select(self, molecules: NDArray[np.int64]) -> Content:
        """Return the content of some molecules, none of them twice."""
        place = np.full(self.n, -1)
        place[molecules] = np.arange(len(molecules))
        rows = place[self.rows]
        return Content(len(molecules), rows[rows >= 0], self.keys[rows >= 0])

    def matrix(self, bins: NDArray[np.int64]) -> sparse.csr_array:
        """Return counts (n, K) by molecule and bin."""
        columns = np.searchsorted(bins, self.keys)
        return sparse.csr_array((np.ones(len(columns)), (self.rows, columns)), shape=(self.n, len(bins)))


SIZE, ELEMENT, RING, BOND = (kind << 40 for kind in range(4))
LENGTHS = 1 << 12  # bins of 0.001 Å


def count_content(molecules: MoleculeArrays, bonds: NDArray[np.int64], rings: NDArray[np.int64]) -> Content:
    """Number the bins of all histograms: kind of histogram, kind of bond if it is one of lengths, place in it.

    Arguments:
        molecules: The modelled atoms.
        bonds: (3, b) begin and end among all atoms, 2 × order.
        rings: (r, 2) molecule and size.
    """
    begin, end, order = bonds
    owner, numbers = molecules.molecule_of_atom, molecules.atomic_numbers.astype(np.int64)
    lengths = np.linalg.norm(molecules.positions[begin].astype(np.float64) - molecules.positions[end], axis=1)
    pair = np.sort(np.stack([numbers[begin], numbers[end]]), axis=0)
    kind = (pair[0] * 128 + pair[1]) * 8 + order
    bins = np.minimum(np.rint(lengths * 1000).astype(np.int64), LENGTHS - 1)
    parts = [
        (np.arange(len(molecules)), SIZE + molecules.num_atoms),
        (owner, ELEMENT + numbers),
        (rings[:, 0], RING + rings[:, 1]),
        (owner[begin], BOND + kind * LENGTHS + bins),
    ]
    rows, keys = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Content(len(molecules), rows, keys)


def distances_between(a: Content, b: Content, options: dict[str, Any]) -> dict[str, Value | None]:
    """The metrics that compare two sets of molecules, all from the same resamples."""
    names = ("size_variation", "size_distance", "element_variation", "ring_variation", "bond_length_distance")
    if not (a.n and b.n):
        return dict.fromkeys(names)
    bins = np.unique(np.concatenate([a.keys, b.keys]))
    size, element, ring, bond = np.split(np.arange(len(bins)), np.searchsorted(bins, [ELEMENT, RING, BOND]))

    def distances(x: Floats, y: Floats) -> Floats:
        found = [
            total_variation(x[:, size], y[:, size]),
            wasserstein_counts(x[:, size], y[:, size], bins[size]),
            total_variation(x[:, element], y[:, element]),
            total_variation(x[:, ring], y[:, ring]),
            by_kind(x, y, bond, bins // LENGTHS, bins % LENGTHS / 1000),
        ]
        return np.stack(found, 1)

    return dict(zip(names, bootstrap_totals(distances, a.matrix(bins), b.matrix(bins), **options), strict=True))


def by_kind(x: Floats, y: Floats, columns: NDArray[np.int64], kind: NDArray[np.int64], support: NDArray[Any]) -> Floats:
    """Return Wasserstein distances of histograms, averaged over kinds that both have by their frequency in y, (R,).

    Arguments:
        x: Counts (R, K).
        y: Counts (R, K) of the reference.
        columns: Which of the K bins count; the bins of a kind lie side by side.
        kind: Kind of each of the K bins.
        support: Where each of the K bins lies.
    """
    kinds = np.split(columns, np.flatnonzero(np.diff(kind[columns])) + 1)
    weights = np.stack([y[:, one].sum(1) * (x[:, one].sum(1) > 0) for one in kinds], 1)
    apart = np.stack([wasserstein_counts(x[:, one], y[:, one], support[one]) for one in kinds], 1)
    return np.where(weights > 0, weights * apart, 0).sum(1) / weights.sum(1)


def split_content(content: Content, size: int, seed: int) -> tuple[Content, Content]:
    """Split molecules at random into `size` of them, at most half (and half if `size` is zero), and the rest."""
    half = content.n // 2
    size = min(size, half) or half
    order = np.random.default_rng(seed).permutation(content.n)
    return content.select(order[:size]), content.select(order[size:])
