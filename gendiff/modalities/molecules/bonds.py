"""Bonds from coordinates: which atoms are bonded, by which order, and whether the result is a molecule.

Generated molecules are points with elements; chemistry begins when bonds are drawn. Four rules draw them.

**Lookup** (`lookup_orders`, hydrogens explicit): the published rule of EDM (Hoogeboom et al., "Equivariant Diffusion
for Molecule Generation in 3D", ICML 2022, arXiv 2203.17003). With d in picometres and b1, b2, b3 tables of typical
lengths, a pair is bonded if d < b1 + 10, double if also d < b2 + 5, triple if also d < b3 + 3; a stage without a table
entry is never passed. The rule knows no formal charges, and is blind to conjugation: 1.395 Å in benzene counts as
single.

**Kekulé** (`kekule_bonds`, hydrogens explicit): neighbours by step 1 of the heavy-atom rule, orders by valences
(:mod:`gendiff.modalities.molecules.kekule`). A bond may be multiple up to the `CONJUGATED` or `DOUBLE` length of that
rule, and `ROUGH` more.

**Heavy-atom rule** (`heavy_orders`, hydrogens implicit): bonds among heavy atoms when hydrogens are not modelled, so
that valences do not reveal conjugation.

1. A pair is bonded if EDM's single-bond stage says so (d < b1 + 10 pm). Where the table has no length, as of most pairs
   with boron or selenium, or a smaller one, as of S-O, it is the sum of covalent radii.
2. A bond shorter than its `DOUBLE` or `TRIPLE` length is multiple, whatever that does to the valences of its atoms: a
   carbon that ends up with five bonds makes the molecule invalid, and nothing is repaired.
3. A single bond shorter than its `CONJUGATED` length may be double if both of its atoms have free valence and no
   multiple bond yet. A maximum-weight matching chooses among these bonds, so that an atom takes part in at most one; a
   bond weighs (conjugated length − d) / 10 pm, and `RING` more if it lies in a ring of such bonds. Aromatic rings thus
   become Kekulé structures (without their amino groups), the shorter bonds of an azole or an amidine the double ones.
   Step 2 leaves the bonds of charged atoms alone: they are matched here, and those shorter than `DOUBLE` a second time,
   so that nitro groups, carboxylates, N-oxides, azides and isonitriles come out right where formal charges are given.
4. What is left of the normal valence (C 4, N 3, O 2, F 1, …; formal charges shift it) is filled with hydrogens.

**RDKit** (`rule="rdkit"`, hydrogens explicit): `rdDetermineBonds` in a separate process that is killed after
`TIME_LIMIT` seconds (it can run for very long), for at most `ATOM_LIMIT` atoms. It places formal charges; their sum is
given.

Lengths are in Å outside the tables. A molecule is *valid* if no atoms overlap and RDKit's `SanitizeMol` accepts its
bonds as drawn (all of it, not the largest fragment), *connected* if it is one fragment; the two are counted apart.
RDKit itself reads a neutral nitro group, N with two double bonds to O, as the charged one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import IO, Any, Literal, cast

import networkx
import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from gendiff.files import UserError
from gendiff.modalities.molecules.kekule import kekulize

Rule = Literal["kekule", "lookup", "rdkit"]
Hydrogens = Literal["explicit", "implicit"]
Molecule = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]
Bonds = tuple[list[list[int]], NDArray[Any] | None]
"""Bonds (i, j, order) of a molecule, and formal charges of its atoms, if there are any."""

TIME_LIMIT = 5.0
"""Seconds that RDKit's rule may take for one molecule."""
ATOM_LIMIT = 100
"""Largest molecule that RDKit's rule is given."""
OVERLAP = 0.6
"""Atoms nearer than this fraction of their single-bond length overlap."""
RING = 0.4
"""Extra weight of a bond in a ring of conjugated bonds: it may be 4 pm longer than another one."""
CHARGED = 4
"""Picometres by which a conjugated bond may be longer at a charged atom."""
ROUGH = 5
"""Picometres by which a multiple bond may be longer where the valences ask for it."""

# Typical bond lengths in picometres, and valences, as published with EDM.
EDM_SINGLE = """H-H 74 H-C 109 H-N 101 H-O 96 H-F 92 H-B 119 H-Si 148 H-P 144 H-As 152 H-S 134 H-Cl 127 H-Br 141 H-I 161
C-C 154 C-N 147 C-O 143 C-F 135 C-Si 185 C-P 184 C-S 182 C-Cl 177 C-Br 194 C-I 214
N-N 145 N-O 140 N-F 136 N-Cl 175 N-Br 214 N-S 168 N-I 222 N-P 177
O-O 148 O-F 142 O-Br 172 O-S 151 O-P 163 O-Si 163 O-Cl 164 O-I 194
F-F 142 F-S 158 F-Si 160 F-Cl 166 F-Br 178 F-P 156 F-I 187 B-Cl 175
Si-Si 233 Si-S 200 Si-Cl 202 Si-Br 215 Si-I 243 Cl-Cl 199 Cl-P 203 Cl-S 207 Cl-Br 214
S-S 204 S-Br 225 S-P 210 S-I 234 Br-Br 228 Br-P 222 P-P 221 I-I 266"""
EDM_DOUBLE = "C-C 134 C-N 129 C-O 120 C-S 160 N-N 125 N-O 121 O-O 121 O-P 150 P-S 186"
EDM_TRIPLE = "C-C 120 C-N 116 C-O 113 N-N 110"
EDM_VALENCE = "H 1 C 4 N 3 O 2 F 1 B 3 Al 3 Si 4 P 3 P 5 S 4 Cl 1 As 3 Br 1 I 1 Hg 1 Hg 2 Bi 3 Bi 5"

# Largest lengths in picometres, and valences, of the heavy-atom rule; tuned on MMFF94s and B3LYP geometries.
CONJUGATED = "C-C 144 C-N 138 N-N 136"
DOUBLE = """C-C 135 C-N 130 C-O 128 C-S 169 C-P 172 C-Se 181 N-N 127 N-O 130 N-S 158 N-P 160 O-O 130 O-S 152 O-P 154
O-As 168 O-Se 167 O-I 188 P-S 198 S-S 195"""
TRIPLE = "C-C 124 C-N 119 N-N 114"
VALENCE = "H 1 B 3 C 4 N 3 O 2 F 1 Al 3 Si 4 P 5 S 6 Cl 1 As 5 Se 6 Br 1 I 1"


def _lengths(text: str) -> NDArray[np.float64]:
    """A symmetric (119, 119) table by atomic numbers, −inf where the text has no entry."""
    table = np.full((119, 119), -np.inf)
    words = text.split()
    for pair, length in zip(words[::2], words[1::2], strict=True):
        i, j = map(Chem.GetPeriodicTable().GetAtomicNumber, pair.split("-"))
        table[i, j] = table[j, i] = float(length)
    return table


def _valences(text: str) -> NDArray[np.bool_]:
    """A (119, 16) table: may an element have this valence?"""
    table = np.zeros((119, 16), bool)
    words = text.split()
    for symbol, valence in zip(words[::2], words[1::2], strict=True):
        table[Chem.GetPeriodicTable().GetAtomicNumber(symbol), int(valence)] = True
    return table


def _radii(known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A (119, 119) table of sums of covalent radii in picometres; −inf but for known elements and where EDM has H."""
    radii = 100 * np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in range(119)])
    table = np.where(known & known[:, None], radii + radii[:, None], -np.inf)
    table[1, np.isfinite(_lengths(EDM_SINGLE)[1])] = -np.inf
    return np.minimum(table, table.T)


# A stage is reached only through the stages before it; nested limits turn the rule into a count of passed stages.
_EDM = np.minimum.accumulate([_lengths(EDM_SINGLE) + 10, _lengths(EDM_DOUBLE) + 5, _lengths(EDM_TRIPLE) + 3])
_HEAVY = np.stack([np.maximum(_lengths(CONJUGATED), _lengths(DOUBLE)), _lengths(DOUBLE), _lengths(TRIPLE)])
_MULTIPLE = _HEAVY[0] + ROUGH
_ALLOWED = _valences(EDM_VALENCE)
_NORMAL = np.argmax(_valences(VALENCE), axis=1)
_SINGLE = np.maximum(_EDM[0], _radii(_NORMAL > 0) + 10)
_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def by_size(num_atoms: NDArray[Any]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Molecules of equal size together, so that nothing is padded.

    Args:
        num_atoms: (M,) sizes of molecules that lie one after another in flat arrays.

    Yields:
        rows (m,) indices of molecules with n atoms each, and atoms (m, n) indices into the flat arrays.
    """
    num_atoms = np.asarray(num_atoms, np.int64)
    first = np.cumsum(num_atoms) - num_atoms
    for size in np.unique(num_atoms):
        rows = np.flatnonzero(num_atoms == size)
        yield rows, first[rows, None] + np.arange(size)


def _near(
    atomic_numbers: NDArray[np.int64], positions: NDArray[Any], mask: NDArray[np.bool_]
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Pairs near enough for a bond: rows of molecules, then (K,) molecule among them, atoms i < j, distance in pm."""
    molecules, atoms = atomic_numbers.shape
    elements = np.unique(atomic_numbers)
    farthest = _SINGLE[np.ix_(elements, elements)].max(initial=0)
    i, j = np.triu_indices(atoms, 1)
    step = max(1, 500_000 // max(1, len(i)))
    for rows in (slice(start, start + step) for start in range(0, molecules, step)):
        real = mask[rows].T
        x = np.where(real, np.asarray(positions[rows], np.float64).T, 0.0)
        if not np.isfinite(x).all():
            raise ValueError("positions are not finite")
        square = np.where(real[i] & real[j], 0.0, np.inf)
        with np.errstate(over="ignore"):  # diverged samples are far apart, not an error
            for axis in x:
                difference = axis[i] - axis[j]
                difference *= difference
                square += difference
        pair, molecule = np.nonzero(square < (farthest / 100) ** 2)
        yield rows, molecule, i[pair], j[pair], 100 * np.sqrt(square[pair, molecule])


def lookup_orders(atomic_numbers: NDArray[Any], positions: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Bond orders by EDM's lookup rule.

    Args:
        atomic_numbers: (M, N) integers up to 118.
        positions: (M, N, 3) in Å.
        mask: (M, N), True where there is an atom.

    Returns:
        (M, N, N) int8, symmetric: 0 none, 1 single, 2 double, 3 triple.

    Raises:
        ValueError: a position is NaN or infinite.
    """
    numbers = np.asarray(atomic_numbers, np.int64)
    orders = np.zeros((*numbers.shape, numbers.shape[1]), np.int8)
    for rows, molecule, i, j, distance in _near(numbers, positions, mask):
        left, right = numbers[rows][molecule, i], numbers[rows][molecule, j]
        order = sum((distance < table[left, right]).astype(np.int8) for table in _EDM)
        orders[rows][molecule, i, j] = orders[rows][molecule, j, i] = order
    return orders


def stability(
    atomic_numbers: NDArray[Any], positions: NDArray[Any], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """EDM's stability: does the sum of an atom's bond orders equal an allowed valence of its element?

    Args and errors are those of `lookup_orders`.

    Returns:
        atom_stable (M, N), False on padding, and molecule_stable (M,): all of its atoms are.
    """
    valence = lookup_orders(atomic_numbers, positions, mask).sum(2, dtype=np.int64)
    atoms = _ALLOWED[atomic_numbers, np.minimum(valence, 15)] & mask
    return atoms, (atoms | ~mask).all(1)


def stability_flat(
    num_atoms: NDArray[Any], atomic_numbers: NDArray[Any], positions: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """`stability` of molecules that lie one after another: num_atoms (M,), atomic_numbers (ΣN,), positions (ΣN, 3).

    Returns:
        atom_stable (ΣN,) and molecule_stable (M,).
    """
    atom_stable, molecule_stable = np.zeros(len(atomic_numbers), bool), np.zeros(len(num_atoms), bool)
    for rows, atoms in by_size(num_atoms):
        mask = np.ones(atoms.shape, bool)
        atom_stable[atoms], molecule_stable[rows] = stability(atomic_numbers[atoms], positions[atoms], mask)
    return atom_stable, molecule_stable


def _capacity(numbers: NDArray[np.int64], charges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bonds an atom can have: the normal valence, one more for N⁺, O⁺, one fewer for N⁻, O⁻, C⁺, C⁻."""
    gains = np.isin(numbers, (7, 8, 9, 15, 16, 17, 34, 35, 53))
    boron = np.isin(numbers, (5, 13))
    shift = np.where(gains, charges, np.where(boron, -charges, -np.abs(charges)))
    return np.maximum(_NORMAL[numbers] + shift, 0)


def heavy_orders(
    atomic_numbers: NDArray[Any],
    positions: NDArray[Any],
    mask: NDArray[np.bool_],
    charges: NDArray[Any] | None = None,
) -> NDArray[np.int8]:
    """Bond orders of molecules without their hydrogens: the heavy-atom rule of the module's first lines.

    Args:
        atomic_numbers: (M, N) integers up to 118.
        positions: (M, N, 3) in Å.
        mask: (M, N), True where there is an atom.
        charges: (M, N) formal charges; none means neutral atoms.

    Returns:
        (M, N, N) int8, symmetric, aromatic rings as Kekulé structures.

    Raises:
        ValueError: a position is NaN or infinite.
    """
    numbers = np.asarray(atomic_numbers, np.int64)
    charge = np.zeros_like(numbers) if charges is None else np.asarray(charges, np.int64)
    orders = np.empty((*numbers.shape, numbers.shape[1]), np.int8)
    for rows, molecule, i, j, near in _near(numbers, positions, mask):
        z = numbers[rows]
        distance = np.full(orders[rows].shape, np.inf)
        distance[molecule, i, j] = distance[molecule, j, i] = near
        conjugated, double, triple = (table[z[:, :, None], z[:, None, :]] for table in _HEAVY)
        neutral = _both(charge[rows] == 0)
        capacity = _capacity(z, charge[rows])
        order = (distance < _SINGLE[z[:, :, None], z[:, None, :]]).astype(np.int8)
        order += (distance < double) & neutral
        order += (distance < triple) & neutral
        weight = (conjugated - distance + CHARGED * ~neutral) / 10
        band = (order == 1) & (weight > 0) & _both((capacity > order.sum(2)) & (order.max(2, initial=0) < 2))
        _match(order, band, weight)
        if not neutral.all():
            _match(order, (distance < double) & ~neutral & _both(capacity > order.sum(2)), weight)
        orders[rows] = order
    return orders


def _both(atoms: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(M, N) to (M, N, N): the condition holds for both atoms of a pair."""
    return atoms[:, :, None] & atoms[:, None, :]


def _match(order: NDArray[np.int8], band: NDArray[np.bool_], weight: NDArray[np.float64]) -> None:
    """Raise the orders of the maximum-weight matching among the bonds of `band`; all (M, N, N), weights positive.

    A bond with no neighbour in the band, which most are, is its own matching and needs no graph.
    """
    alone = band & _both(band.sum(2) == 1)
    order += alone
    band = band & ~alone
    for m in np.flatnonzero(band.any((1, 2))):
        graph = networkx.Graph()
        graph.add_weighted_edges_from((i, j, RING + weight[m, i, j]) for i, j in np.argwhere(np.triu(band[m])).tolist())
        for i, j in networkx.bridges(graph):
            graph[i][j]["weight"] -= RING
        for i, j in networkx.max_weight_matching(graph):
            order[m, [i, j], [j, i]] += 1


def kekule_bonds(molecules: Sequence[Molecule]) -> list[Bonds]:
    """Return bonds (i, j, order) and formal charges of molecules of one size: the Kekulé rule of the first lines.

    Args:
        molecules: numbers (N,), positions (N, 3) in Å, charges (N,) or None; all of their hydrogens are there.

    Raises:
        ValueError: a position is NaN or infinite.
    """
    numbers, positions = _stacked(molecules)
    drawn: list[Bonds] = []
    for rows, molecule, i, j, distance in _near(numbers, positions, np.ones(numbers.shape, bool)):
        z = numbers[rows]
        left, right = z[molecule, i], z[molecule, j]
        slack = np.maximum(_MULTIPLE[left, right] - distance, 0)
        bonded = np.flatnonzero(distance < _SINGLE[left, right])
        bonded = bonded[np.argsort(molecule[bonded], kind="stable")]
        ends = np.searchsorted(molecule[bonded], np.arange(len(z) + 1)).tolist()
        for atoms, (_, _, charges), (start, end) in zip(z, molecules[rows], pairwise(ends), strict=True):
            own = bonded[start:end]
            orders, formal = kekulize(atoms, (i[own], j[own], slack[own]), charges)
            drawn.append((np.stack([i[own], j[own], orders], 1).tolist(), formal))
    return drawn


def infer_bonds(
    numbers: NDArray[Any],
    positions: NDArray[Any],
    charges: NDArray[Any] | None = None,
    rule: Rule = "kekule",
    hydrogens: Hydrogens = "explicit",
) -> tuple[Chem.Mol, str]:
    """One molecule from elements and coordinates.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in Å.
        charges: (N,) formal charges; none means neutral atoms, or by "kekule" those that it finds.
        rule: "kekule" (lengths and valences), "lookup" (lengths alone, by EDM's table) or "rdkit" (explicit hydrogens
            only). With implicit hydrogens the first two are the heavy-atom rule.
        hydrogens: "explicit" (all atoms are given; one with too few bonds is left a radical) or "implicit" (RDKit adds
            hydrogens, with coordinates, after the heavy atoms).

    Returns:
        The molecule with a conformer, and why it is not valid ("" if it is). A valid molecule is sanitised; another one
        has the bonds as drawn, unsanitised, and the reason also as its property `invalid`. It has no bonds if atoms
        overlap, and no conformer either if positions are not finite.

    Raises:
        UserError: the RDKit rule with implicit hydrogens.
    """
    return infer_all([(numbers, positions, charges)], rule, hydrogens)[0]


def infer_all(
    molecules: Sequence[Molecule], rule: Rule = "kekule", hydrogens: Hydrogens = "explicit"
) -> list[tuple[Chem.Mol, str]]:
    """`infer_bonds` of many molecules, each (numbers, positions, charges or None); equal sizes share the arithmetic."""
    if rule == "rdkit" and hydrogens == "implicit":
        raise UserError("bond rule 'rdkit' needs explicit hydrogens; use rule 'kekule' or a model of all atoms")
    results: list[tuple[Chem.Mol, str] | None] = [None] * len(molecules)
    for rows, _ in by_size(np.array([len(numbers) for numbers, _, _ in molecules], int)):
        reasons = _refusals([molecules[row] for row in rows])
        for row, why in zip(rows, reasons, strict=True):
            results[row] = _refuse(draw_mol(molecules[row]), why) if why else None
        good = [row for row, why in zip(rows, reasons, strict=True) if not why]
        if rule != "rdkit" and good:
            for row, (bonds, formal) in zip(
                good, _bonds([molecules[row] for row in good], rule, hydrogens), strict=True
            ):
                numbers, positions, _ = molecules[row]
                drawn = draw_mol((numbers, positions, formal), bonds, hydrogens == "explicit")
                results[row] = _finish(drawn, "", hydrogens)
    if rule == "rdkit":
        with RDKitBonds() as worker:
            for row in (row for row, result in enumerate(results) if result is None):
                numbers, positions, charges = molecules[row]
                bonds, formal, why = worker(numbers, positions, 0 if charges is None else int(np.sum(charges)))
                results[row] = _finish(draw_mol((numbers, positions, formal), bonds), why, hydrogens)
    return [result for result in results if result is not None]


def _bonds(molecules: Sequence[Molecule], rule: Rule, hydrogens: Hydrogens) -> list[Bonds]:
    """Bonds and formal charges of molecules of one size, by any rule but RDKit's."""
    if rule == "kekule" and hydrogens == "explicit":
        return kekule_bonds(molecules)
    charges = [charges for _, _, charges in molecules]
    return list(zip(bond_lists(_orders(molecules, hydrogens)), charges, strict=True))


def _stacked(molecules: Sequence[Molecule]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers (M, N) and positions (M, N, 3) of molecules of N atoms each."""
    numbers, positions, _ = zip(*molecules, strict=True)
    return np.array(numbers, np.int64), np.array(positions, np.float64)


def _orders(molecules: Sequence[Molecule], hydrogens: Hydrogens) -> NDArray[np.int8]:
    """(M, N, N) bond orders of molecules of N atoms each."""
    numbers, positions = _stacked(molecules)
    mask = np.ones(numbers.shape, bool)
    if hydrogens == "explicit":
        return lookup_orders(numbers, positions, mask)
    charged = any(charges is not None and np.any(charges) for _, _, charges in molecules)
    zero = np.zeros(numbers.shape[1], int)
    charges = np.array([zero if charges is None else charges for _, _, charges in molecules]) if charged else None
    return heavy_orders(numbers, positions, mask, charges)


def bond_lists(orders: NDArray[np.int8]) -> list[list[list[int]]]:
    """Bonds (i, j, order), i < j, of each molecule, from orders (M, N, N)."""
    row, i, j = np.nonzero(np.triu(orders))
    bonds = np.stack([i, j, orders[row, i, j]], 1).tolist()
    ends = np.searchsorted(row, np.arange(len(orders) + 1)).tolist()
    return [bonds[start:end] for start, end in pairwise(ends)]


def _refusals(molecules: Sequence[Molecule]) -> list[str]:
    """Why no bonds can be drawn among the points of each of some molecules of one size; "" if they can."""
    number, position = _stacked(molecules)
    if not number.size:
        return ["no atoms"] * len(molecules)
    finite = np.asarray(np.isfinite(position).all((1, 2)))
    reasons = np.where(finite, "", "positions are not finite").tolist()
    mask = np.broadcast_to(finite[:, None], number.shape)
    for row, i, j in _overlaps(number, position, mask):
        reasons[row] = f"atoms {i + 1} and {j + 1} overlap"
    return reasons


def overlap(numbers: NDArray[np.integer], positions: NDArray[np.floating]) -> tuple[int, int] | None:
    """Return the first two of some atoms, (N,) and (N, 3), that overlap, if any do."""
    number, position = np.asarray(numbers, np.int64)[None], np.asarray(positions, np.float64)[None]
    return next(((i, j) for _, i, j in _overlaps(number, position, np.ones(number.shape, bool))), None)


def _overlaps(
    number: NDArray[np.int64], position: NDArray[np.float64], mask: NDArray[np.bool_]
) -> Iterator[tuple[int, int, int]]:
    """Molecules (M, N) in which atoms overlap, each with the first two that do."""
    for rows, molecule, i, j, distance in _near(number, position, mask):
        left, right = number[rows][molecule, i], number[rows][molecule, j]
        overlapping = np.flatnonzero(distance < OVERLAP * (_SINGLE[left, right] - 10))
        whose, first = np.unique(molecule[overlapping], return_index=True)
        pairs = overlapping[first]
        yield from zip((whose + rows.start).tolist(), i[pairs].tolist(), j[pairs].tolist(), strict=True)


def draw_mol(molecule: Molecule, bonds: Iterable[Sequence[int]] = (), explicit: bool = True) -> Chem.Mol:
    """An unsanitised molecule of bonds (i, j, order) with its coordinates, where finite, as conformer.

    Args:
        molecule: numbers (N,), positions (N, 3), charges (N,) or None.
        bonds: begin, end and order of each bond.
        explicit: whether all hydrogens are there; else RDKit fills valences with implicit ones.
    """
    numbers, positions, charges = molecule
    mol = Chem.RWMol()
    formal = [0] * len(numbers) if charges is None else np.asarray(charges).tolist()
    for number, charge in zip(np.asarray(numbers).tolist(), formal, strict=True):
        mol.AddAtom(_atom(number, charge, explicit))
    for i, j, order in bonds:
        mol.AddBond(i, j, _TYPES[order])
    if np.isfinite(positions).all():
        conformer = Chem.Conformer(len(numbers))
        conformer.SetPositions(np.array(positions, np.float64).reshape(-1, 3))
        mol.AddConformer(conformer)
    return mol.GetMol()


@cache
def _atom(number: int, charge: int, explicit: bool) -> Chem.Atom:
    """The atom that a molecule takes a copy of."""
    atom = Chem.Atom(number)
    atom.SetNoImplicit(explicit)
    atom.SetFormalCharge(charge)
    return atom


def _refuse(mol: Chem.Mol, reason: str) -> tuple[Chem.Mol, str]:
    mol.UpdatePropertyCache(strict=False)
    mol.SetProp("invalid", reason)
    return mol, reason


def _finish(mol: Chem.Mol, reason: str, hydrogens: Hydrogens) -> tuple[Chem.Mol, str]:
    """Sanitise, then add hydrogens if they are implicit; refuse what has a reason already or gets one from RDKit."""
    if reason:
        return _refuse(mol, reason)
    drawn = Chem.Mol(mol)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except ValueError as error:
            return _refuse(drawn, str(error).strip().splitlines()[0])
    return (mol if hydrogens == "explicit" else Chem.AddHs(mol, addCoords=True)), ""


class RDKitBonds:
    """RDKit's rule in a process of its own, which is killed and replaced when a molecule takes too long.

    A context manager; leaving it ends the process.

    Args:
        time_limit: seconds for one molecule; default `TIME_LIMIT`.
        atom_limit: largest number of atoms; default `ATOM_LIMIT`.
    """

    def __init__(self, time_limit: float | None = None, atom_limit: int | None = None) -> None:
        self.time_limit = TIME_LIMIT if time_limit is None else time_limit
        self.atom_limit = ATOM_LIMIT if atom_limit is None else atom_limit
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RDKitBonds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if not cast(IO[str], process.stdout).readline():  # the time limit does not count the start
            raise RuntimeError(f"the process that draws bonds ended at once with code {process.wait()}")
        return process

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __call__(
        self, numbers: NDArray[Any], positions: NDArray[Any], charge: int = 0
    ) -> tuple[list[list[int]], NDArray[Any] | None, str]:
        """Bonds (i, j, order) and formal charges (N,) of one molecule, and why there are none ("" on success).

        Args:
            numbers: (N,) atomic numbers.
            positions: (N, 3) in Å.
            charge: sum of the formal charges.
        """
        if len(numbers) > self.atom_limit:
            return [], None, f"{len(numbers)} atoms, more than the {self.atom_limit} that RDKit's rule is given"
        self._process = process = self._process or self._start()
        expired = threading.Event()

        def end() -> None:
            expired.set()
            process.kill()

        late = threading.Timer(self.time_limit, end)
        late.start()
        try:
            stdin = cast(IO[str], process.stdin)
            stdin.write(json.dumps([np.asarray(numbers).tolist(), np.asarray(positions).tolist(), charge]) + "\n")
            stdin.flush()
            answer = cast(IO[str], process.stdout).readline()
        except BrokenPipeError:
            answer = ""
        finally:
            late.cancel()
        if not answer:
            self._stop()
            return (
                [],
                None,
                f"RDKit drew no bonds within {self.time_limit:g} s" if expired.is_set() else "RDKit crashed",
            )
        bonds, charges, reason = json.loads(answer)
        return bonds, None if charges is None else np.array(charges), reason


def _serve() -> None:
    """The other side of `RDKitBonds`: after an empty line, one line of JSON in, one out."""
    print(flush=True)
    with rdBase.BlockLogs():
        for line in sys.stdin:
            numbers, positions, charge = json.loads(line)
            mol = draw_mol((numbers, positions, None))
            try:
                rdDetermineBonds.DetermineBonds(mol, charge=charge)
                Chem.Kekulize(mol, clearAromaticFlags=True)
            except (ValueError, RuntimeError) as error:
                print(json.dumps([[], None, str(error).strip().splitlines()[0]]), flush=True)
                continue
            bonds = [[b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())] for b in mol.GetBonds()]
            print(json.dumps([bonds, [atom.GetFormalCharge() for atom in mol.GetAtoms()], ""]), flush=True)
