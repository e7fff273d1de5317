r"""Angles and torsions of two sets of molecules, kind by kind.

A bond angle i-j-k is of the kind of its elements and of its two bond orders, a torsion i-j-k-l of the kind of its
elements and of the order of its middle bond. Torsions are taken without their sign, from 0 to 180 degrees, for models
that are blind to reflection draw both; they are left out next to an angle above 175 degrees, where they mean nothing.
The distance of two sets is the Wasserstein distance of the angles of a kind, averaged over the kinds that both have by
how frequent they are in the reference.

The measures are those of the geometry benchmarks of, for example,

    | MiDi: mixed graph and 3D denoising diffusion for molecule generation (Vignac et al., 2023) | https://arxiv.org/abs/2302.09048
    | GEOM-Drugs revisited (Nikitin et al., 2025) | https://arxiv.org/abs/2505.00169
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.metrics import Floats, Value, bootstrap_totals
from gendiff.modalities.molecules.metrics.content import Content, by_kind
from gendiff.modalities.molecules.metrics.rows import Row
from gendiff.modalities.molecules.records import MoleculeArrays

Index = NDArray[np.int64]

ROWS: dict[str, Row] = {
    "bond_angle_distance": (
        "geometry: bond angles",
        "°",
        "lower",
        "Wasserstein distance of bond angles, averaged over kinds (three elements, two bond orders) that both sets "
        "have by how frequent they are in the reference. Angles are rounded to 0.2°.",
    ),
    "torsion_distance": (
        "geometry: torsions",
        "°",
        "lower",
        "The same of torsions from 0 to 180°, without their sign (four elements, order of the middle bond), rounded "
        "to 1°; not those next to an angle above 175°.",
    ),
}

BINS = 1 << 10  # of one kind
ANGLE_BIN, TORSION_BIN = 0.2, 1.0  # degrees
TORSION = 1 << 44  # keys from here on are of torsions
STRAIGHT = 175.0


def count_angles(molecules: MoleculeArrays, bonds: Index) -> Content:
    """Return the histograms of angles and torsions by kind.

    Arguments:
        molecules: The modelled atoms.
        bonds: (3, b) begin and end among all atoms, 2 × order.
    """
    start, end, order = np.concatenate([bonds, bonds[[1, 0, 2]]], 1)  # each bond from both of its atoms
    sort = np.argsort(start, kind="stable")
    start, end, order = start[sort], end[sort], order[sort]
    count = np.bincount(start, minlength=len(molecules.atomic_numbers))
    first = np.cumsum(count) - count
    number, owner = molecules.atomic_numbers.astype(np.int64), molecules.molecule_of_atom

    def bonds_of(atoms: Index) -> tuple[Index, Index]:
        """Every bond that starts at one of some atoms, after the place of that atom among them."""
        place = np.repeat(np.arange(len(atoms)), count[atoms])
        step = np.arange(len(place)) - np.repeat(np.cumsum(count[atoms]) - count[atoms], count[atoms])
        return place, first[atoms[place]] + step

    e, f = bonds_of(start)
    e, f = e[e < f], f[e < f]
    centre = start[e]
    ends = np.sort(np.stack([number[end[e]] * 8 + order[e], number[end[f]] * 8 + order[f]]), axis=0)
    kind = (ends[0] * 1024 + ends[1]) * 128 + number[centre]
    x = molecules.positions.astype(np.float64)
    angle = _degrees(x[end[e]] - x[centre], x[end[f]] - x[centre])
    angles = kind * BINS + np.rint(angle / ANGLE_BIN).astype(np.int64)

    middle = np.flatnonzero(start < end)
    place, f = bonds_of(start[middle])
    middle, i = middle[place], end[f]
    place, f = bonds_of(end[middle])
    middle, i, k = middle[place], i[place], end[f]
    real = (i != end[middle]) & (k != start[middle]) & (i != k)
    middle, i, k = middle[real], i[real], k[real]
    a, b, c = x[i] - x[start[middle]], x[end[middle]] - x[start[middle]], x[k] - x[end[middle]]
    bent = (_degrees(a, b) <= STRAIGHT) & (_degrees(-b, c) <= STRAIGHT)
    middle, i, k, a, b, c = (value[bent] for value in (middle, i, k, a, b, c))
    along = np.stack([number[i], number[start[middle]], number[end[middle]], number[k]])
    weights = 128 ** np.arange(4)
    kind = np.minimum(weights @ along, weights @ along[::-1]) * 8 + order[middle]
    torsion = _degrees(np.cross(b, a), np.cross(b, c))
    torsions = TORSION + kind * BINS + np.rint(torsion / TORSION_BIN).astype(np.int64)
    rows = np.concatenate([owner[centre], owner[i]])
    return Content(len(molecules), rows, np.concatenate([angles, torsions]))


def _degrees(a: Floats, b: Floats) -> Floats:
    """Angles between vectors (n, 3), also near 0 and 180 degrees to all digits; 0 where one of them is 0."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))


def distances_between(a: Content, b: Content, options: dict[str, Any]) -> dict[str, Value | None]:
    """Return the values of :data:`ROWS`, both from the same resamples; `options` of the bootstrap."""
    if not (a.n and b.n):
        return dict.fromkeys(ROWS)
    bins = np.unique(np.concatenate([a.keys, b.keys]))
    angles, torsions = np.split(np.arange(len(bins)), np.searchsorted(bins, [TORSION]))

    def distances(x: Floats, y: Floats) -> Floats:
        place = bins % BINS
        found = [
            by_kind(x, y, angles, bins // BINS, place * ANGLE_BIN),
            by_kind(x, y, torsions, bins // BINS, place * TORSION_BIN),
        ]
        return np.stack(found, 1)

    return dict(zip(ROWS, bootstrap_totals(distances, a.matrix(bins), b.matrix(bins), **options), strict=True))
