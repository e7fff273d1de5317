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
    free, tied, graph = not formal.any(), False, _Graph.of(numbers, bonds)
    state = best = graph.match(formal, np.zeros_like(formal))
    while 0 < state.lost <= HOPELESS:
        trials = [*graph.raised(state), *(graph.charged(state) if free else ())]
        if not trials:
            break
        _, trial = min(trials, key=lambda each: (each[1].lost, each[0], -each[1].more @ bonds[2]))
        if trial.lost > state.lost - tied:  # two may bring what one of them alone does not: pyrazine-1,4-dioxide
            break
        state, tied = trial, trial.lost == state.lost
        best = min(best, state, key=lambda each: each.lost)
    return 1 + best.more, best.formal


@dataclass(frozen=True)
class _State:
    """Formal charges (N,), valences that are higher than usual, and what comes of them."""

    formal: NDArray[np.int64]
    higher: NDArray[np.int64]
    more: NDArray[np.int64]
    """How many electron pairs each bond has besides the first, (K,)."""
    missing: NDArray[np.int64]
    """How many each atom still misses, (N,); negative, if it has too many neighbours."""

    @property
    def lost(self) -> int:
        return int(np.abs(self.missing).sum())


Trial = tuple[tuple[int, ...], _State]
"""A state, and its place among those that lose as little."""


@dataclass(frozen=True)
class _Graph:
    """Atoms, which of them are near one another, and how many neighbours each has."""

    numbers: NDArray[np.int64]
    bonds: Bonds
    near: NDArray[np.bool_]
    neighbours: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: NDArray[np.int64], bonds: Bonds) -> _Graph:
        near = np.zeros((len(numbers), len(numbers)), bool)
        near[bonds[:2]] = near[bonds[1::-1]] = True
        return cls(numbers, bonds, near, near.sum(1))

    def match(self, formal: NDArray[np.int64], higher: NDArray[np.int64]) -> _State:
        """Share electron pairs: as many as possible, in bonds as short as possible."""
        isoelectronic = np.clip(self.numbers - formal, 0, 118)
        missing = _VALENCE[isoelectronic, np.minimum(self.neighbours, MOST)] + higher - self.neighbours
        more = np.zeros(len(self.bonds[0]), np.int64)
        graph = networkx.Graph()
        wants = np.clip(missing, 0, 2 + (higher > 0)).tolist()  # no bond of more than three
        for bond, (i, j, slack) in enumerate(zip(*(each.tolist() for each in self.bonds), strict=True)):
            if slack > 0:
                for ends in product(product([i], range(wants[i])), product([j], range(wants[j]))):
                    graph.add_edge(*ends, weight=slack, bond=bond)
        for u, v in networkx.max_weight_matching(graph, maxcardinality=True):
            more[graph[u][v]["bond"]] += 1
        for atoms in self.bonds[:2]:
            np.subtract.at(missing, atoms, more)
        return _State(formal, higher, more, missing)

    def raised(self, state: _State) -> Iterator[Trial]:
        """Yield states in which one more atom of sulfur or selenium shares two more pairs, where a neighbour wants."""
        taken = self.neighbours.copy()
        for atoms in self.bonds[:2]:
            np.add.at(taken, atoms, state.more)
        wanted = self.near @ (state.missing > 0)
        for atom in np.flatnonzero(np.isin(self.numbers, (16, 34)) & (state.formal == 0) & (taken < 6) & wanted):
            higher = state.higher.copy()
            higher[atom] += 2
            yield (0,), self.match(state.formal, higher)

    def charged(self, state: _State) -> Iterator[Trial]:
        """Yield states with one more cation and anion."""
        for plus, minus in self.pairs(state):
            formal = state.formal.copy()
            formal[plus], formal[minus] = 1, -1
            kind = POSITIVE.index(self.numbers[plus]), NEGATIVE.index(self.numbers[minus])
            yield (1, *kind, int(self.neighbours[minus])), self.match(formal, state.higher)

    def pairs(self, state: _State) -> Iterator[tuple[int, int]]:
        """Yield pairs of atoms that may be cation and anion."""
        numbers, near, neutral, missing = self.numbers, self.near, state.formal == 0, state.missing
        hetero = np.isin(numbers, (7, 8, 16))
        others = ((numbers == 6) & (self.neighbours == 1)) | ((numbers == 5) & (missing < 0))
        concerned = (missing != 0) | near @ (missing != 0)
        for plus in np.flatnonzero(np.isin(numbers, POSITIVE) & neutral & concerned).tolist():
            likely = near[plus] & (others | (hetero if numbers[plus] == 7 else numbers == 8))
            far = (missing[plus] < 0) & (missing > 0) & hetero & (numbers[plus] == 7)
            for minus in np.flatnonzero((likely | far) & neutral).tolist():
                yield plus, minus
