"""Kekulé structures: bond orders that fill the valences of atoms whose hydrogens are all there.

Once it is known which atoms are neighbours, each must share as many more electron pairs with them as its valence wants:
a carbon with three neighbours one, with two neighbours two. Those who share are found by a matching of maximum
cardinality, and of these by one in which the bonds are as short as they can be. An atom that wants two takes part
twice, so that triple bonds and cumulated double bonds are the same problem (a b-matching). Aromatic rings need no rule
of their own.

Atoms without formal charges may still bear some, in pairs: where a valence stays unfilled, or a nitrogen has a
neighbour too many, a nitrogen becomes positive and a neighbour of it negative if more valences are filled so. Nitro
groups, N-oxides, azides, diazo compounds and isonitriles come out right. A nitrogen of four neighbours may find the
other charge further away, as in amino acids.

Element z of charge q has the valence of element z - q, with as many electrons.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import networkx
import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

VALENCES = "H 1 B 3 C 4 N 3 O 2 F 1 Al 3 Si 4 P 3 P 5 S 2 S 4 S 6 Cl 1 As 3 As 5 Se 2 Se 4 Se 6 Br 1 I 1 I 3 I 5"
MOST = 8
"""Neighbours; more count as so many."""
NEGATIVE = (8, 16, 7, 6)
"""Elements that bear the other charge, the likeliest first."""


def _valences() -> NDArray[np.int64]:
    """A (119, MOST + 1) table: of the valences of an element, the least that is enough for so many neighbours."""
    table = np.zeros((119, MOST + 1), np.int64)
    words = VALENCES.split()
    for symbol, text in reversed(list(zip(words[::2], words[1::2], strict=True))):
        row, valence = table[Chem.GetPeriodicTable().GetAtomicNumber(symbol)], int(text)
        row[: valence + 1 if row.any() else None] = valence
    table[[16, 34], 4] = 6  # as S(IV), four neighbours would leave the oxygens of sulfones without double bonds
    return table


_VALENCE = _valences()

Bonds = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""One atom and the other of each pair of neighbours, (K,), and by how much they are nearer than in the longest multiple
bond of their elements, 0 if they are not."""


def kekulize(
    numbers: NDArray[np.int64], bonds: Bonds, charges: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the orders (K,) of the bonds of one molecule and its formal charges (N,).

    An atom whose valence cannot be filled keeps fewer bonds (a radical); one with too many neighbours keeps them all.

    Arguments:
        numbers: Atomic numbers (N,), hydrogens included.
        bonds: Its bonds; those without slack stay single.
        charges: Formal charges (N,), which stay as they are. Without any, or where all are zero, some may be found, of
            sum zero.
    """
    formal = np.zeros_like(numbers) if charges is None else np.asarray(charges, np.int64)
    neighbours = np.bincount(np.concatenate(bonds[:2]), minlength=len(numbers))
    more, missing = _match(numbers - formal, neighbours, bonds)
    free = not formal.any()
    while free and missing.any():
        trials = []
        for plus, minus in _pairs(numbers, formal, missing, bonds):
            trial = formal.copy()
            trial[plus], trial[minus] = 1, -1
            orders, rest = _match(numbers - trial, neighbours, bonds)
            rank = (np.abs(rest).sum(), NEGATIVE.index(numbers[minus]), neighbours[minus], -orders @ bonds[2])
            trials.append((rank, trial, orders, rest))
        best = min(trials, key=lambda trial: trial[0], default=None)
        if best is None or best[0][0] >= np.abs(missing).sum():
            break
        _, formal, more, missing = best
    return 1 + more, formal


def _match(
    isoelectronic: NDArray[np.int64], neighbours: NDArray[np.int64], bonds: Bonds
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many more electron pairs each bond has, (K,), and how many each atom still misses, (N,)."""
    missing = _VALENCE[isoelectronic, np.minimum(neighbours, MOST)] - neighbours
    more = np.zeros(len(bonds[0]), np.int64)
    graph = networkx.Graph()
    wants = np.clip(missing, 0, 2).tolist()
    for bond, (i, j, slack) in enumerate(zip(*(each.tolist() for each in bonds), strict=True)):
        if slack > 0:
            for ends in product(product([i], range(wants[i])), product([j], range(wants[j]))):
                graph.add_edge(*ends, weight=slack, bond=bond)
    for u, v in networkx.max_weight_matching(graph, maxcardinality=True):
        more[graph[u][v]["bond"]] += 1
    for atoms in bonds[:2]:
        np.subtract.at(missing, atoms, more)
    return more, missing


def _pairs(
    numbers: NDArray[np.int64], formal: NDArray[np.int64], missing: NDArray[np.int64], bonds: Bonds
) -> Iterator[tuple[int, int]]:
    """Yield pairs of atoms that may be N+ and an anion: neighbours or, where N has four of them, any two."""
    near = np.zeros((len(numbers), len(numbers)), bool)
    near[bonds[:2]] = near[bonds[1::-1]] = True
    neutral = formal == 0
    for plus in np.flatnonzero((numbers == 7) & neutral & ((missing != 0) | near @ (missing != 0))).tolist():
        far = (missing[plus] < 0) & (missing > 0) & (numbers != 6)
        for minus in np.flatnonzero((near[plus] | far) & neutral & np.isin(numbers, NEGATIVE)).tolist():
            yield plus, minus
