"""Kekulé structures: bond orders that fill the valences of atoms whose hydrogens are all there.

Once it is known which atoms are neighbours, each must share as many more electron pairs with them as its valence wants:
a carbon with three neighbours one, with two neighbours two. Those who share are found by a matching of maximum
cardinality, and of these by one in which the bonds are as short as they can be. An atom that wants two takes part
twice, so that triple bonds and cumulated double bonds are the same problem (a b-matching). Aromatic rings need no rule
of their own.

Where valences stay unfilled, sulfur and selenium may share two more pairs (SO2), and atoms without formal charges bear
some, in pairs, if more valences are filled so: a nitrogen becomes positive and a neighbour of it negative. Nitro
groups, N-oxides, azides, diazo compounds, isonitriles and complexes of boron come out right; a nitrogen of four
neighbours may find the other charge further away, as in amino acids. Other zwitterions need their charges given.

Element z of charge q has the valence of element z - q, with as many electrons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import networkx
import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

VALENCES = "H 1 B 3 C 4 N 3 O 2 F 1 Al 3 Si 4 P 3 P 5 S 2 S 4 S 6 Cl 1 As 3 As 5 Se 2 Se 4 Se 6 Br 1 I 1 I 3 I 5"
MOST = 8
"""Neighbours; more count as so many."""
POSITIVE = (7, 8)
"""Elements that bear the positive charge, the likelier first."""
NEGATIVE = (8, 16, 7, 6, 5)
"""Elements that bear the negative one."""
HOPELESS = 24
"""Unfilled valences; where more are left, nothing more is tried."""


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
    free, tied = not formal.any(), False
    state = best = _match(numbers, bonds, formal, np.zeros_like(formal))
    while 0 < state.lost <= HOPELESS:
        trials = [
            (0, 0, 0, 0, _match(numbers, bonds, state.formal, state.raised + 2 * (np.arange(len(numbers)) == atom)))
            for atom in _expandable(numbers, bonds, state)
        ]
        for plus, minus in _pairs(numbers, bonds, state) if free else ():
            moved = state.formal.copy()
            moved[plus], moved[minus] = 1, -1
            kind = POSITIVE.index(numbers[plus]), NEGATIVE.index(numbers[minus])
            trials.append((1, *kind, state.neighbours[minus], _match(numbers, bonds, moved, state.raised)))
        if not trials:
            break
        trial = min(trials, key=lambda each: (each[-1].lost, *each[:-1], -each[-1].more @ bonds[2]))[-1]
        if trial.lost > state.lost - tied:  # two may bring what one of them alone does not: pyrazine-1,4-dioxide
            break
        state, tied = trial, trial.lost == state.lost
        best = min(best, state, key=lambda each: each.lost)
    return 1 + best.more, best.formal


@dataclass(frozen=True)
class _State:
    """Formal charges (N,), valences that are higher than usual, and what comes of them."""

    formal: NDArray[np.int64]
    raised: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    more: NDArray[np.int64]
    """How many electron pairs each bond has besides the first, (K,)."""
    missing: NDArray[np.int64]
    """How many each atom still misses, (N,); negative, if it has too many neighbours."""

    @property
    def lost(self) -> int:
        return int(np.abs(self.missing).sum())


def _match(numbers: NDArray[np.int64], bonds: Bonds, formal: NDArray[np.int64], raised: NDArray[np.int64]) -> _State:
    """Share electron pairs: as many as possible, in bonds as short as possible."""
    neighbours = np.bincount(np.concatenate(bonds[:2]), minlength=len(numbers))
    missing = _VALENCE[np.clip(numbers - formal, 0, 118), np.minimum(neighbours, MOST)] + raised - neighbours
    more = np.zeros(len(bonds[0]), np.int64)
    graph = networkx.Graph()
    wants = np.clip(missing, 0, 2 + (raised > 0)).tolist()  # no bond of more than three
    for bond, (i, j, slack) in enumerate(zip(*(each.tolist() for each in bonds), strict=True)):
        if slack > 0:
            for ends in product(product([i], range(wants[i])), product([j], range(wants[j]))):
                graph.add_edge(*ends, weight=slack, bond=bond)
    for u, v in networkx.max_weight_matching(graph, maxcardinality=True):
        more[graph[u][v]["bond"]] += 1
    for atoms in bonds[:2]:
        np.subtract.at(missing, atoms, more)
    return _State(formal, raised, neighbours, more, missing)


def _near(numbers: NDArray[np.int64], bonds: Bonds) -> NDArray[np.bool_]:
    near = np.zeros((len(numbers), len(numbers)), bool)
    near[bonds[:2]] = near[bonds[1::-1]] = True
    return near


def _expandable(numbers: NDArray[np.int64], bonds: Bonds, state: _State) -> list[int]:
    """Return the atoms of sulfur and selenium that could share more pairs with a neighbour that misses some."""
    taken = state.neighbours + np.bincount(np.concatenate(bonds[:2]), np.tile(state.more, 2), len(numbers))
    wanted = _near(numbers, bonds) @ (state.missing > 0)
    return np.flatnonzero(np.isin(numbers, (16, 34)) & (state.formal == 0) & (taken < 6) & wanted).tolist()


def _pairs(numbers: NDArray[np.int64], bonds: Bonds, state: _State) -> Iterator[tuple[int, int]]:
    """Yield pairs of atoms that may be cation and anion."""
    near, neutral, missing = _near(numbers, bonds), state.formal == 0, state.missing
    hetero = np.isin(numbers, (7, 8, 16))
    others = ((numbers == 6) & (state.neighbours == 1)) | ((numbers == 5) & (missing < 0))
    for plus in np.flatnonzero(
        np.isin(numbers, POSITIVE) & neutral & ((missing != 0) | near @ (missing != 0))
    ).tolist():
        likely = near[plus] & (others | (hetero if numbers[plus] == 7 else numbers == 8))
        far = (missing[plus] < 0) & (missing > 0) & hetero & (numbers[plus] == 7)
        for minus in np.flatnonzero((likely | far) & neutral).tolist():
            yield plus, minus
