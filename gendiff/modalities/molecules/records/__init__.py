r"""What molecules are here: many of them in flat numpy arrays, one row per atom.

Molecules of different sizes lie one after another (compressed rows): molecule i owns the atoms
:math:`o_i \dots o_i + n_i - 1`, where :math:`n_i` is its number of atoms and :math:`o_i = \sum_{j<i} n_j`. Hundreds of
thousands of molecules fit into a few arrays, and every check runs over all of them at once.

Bonds are optional, because a generated molecule is points with elements and its bonds are drawn afterwards. Where a
file knows them they are kept as rows (begin, end, 2 × order), atoms counted inside the molecule: 2 single, 3 aromatic,
4 double, 6 triple.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase

from gendiff.files import atomic_write
from gendiff.modalities.molecules.records.defects import MAX_COORDINATE, MAX_HEAVY_ATOMS, MIN_DISTANCE, find_defects
from gendiff.modalities.molecules.records.molecule import (
    BOND_TYPES,
    Molecule,
    canonical_smiles,
    canonical_text,
    clean_name,
    from_mol,
    heavy_mol,
    to_float32,
    to_mol,
)

__all__ = [
    "BOND_TYPES",
    "CHUNK",
    "MAX_COORDINATE",
    "MAX_HEAVY_ATOMS",
    "MIN_DISTANCE",
    "Molecule",
    "MoleculeArrays",
    "canonical_smiles",
    "canonical_text",
    "centre",
    "clean_name",
    "find_defects",
    "from_mol",
    "heavy_mol",
    "to_float32",
    "to_mol",
]


CHUNK = 4096
"""Molecules that are looked at together where not all of them need to be in memory."""


@dataclass(frozen=True, eq=False)
class MoleculeArrays:
    """M molecules in flat arrays; ΣN is the number of all atoms and ΣB of all bonds.

    Arguments:
        num_atoms: Atoms of each molecule, (M,), at least 1.
        atomic_numbers: 1 to 118, (ΣN,).
        positions: Å, (ΣN, 3), finite; not necessarily centred.
        charges: Formal charges, (ΣN,); zero by default.
        smiles: Canonical SMILES without stereochemistry, "" where unknown; None (the default) if no molecule has one.
        names: Names from the file; "" by default.
        properties: Numbers by name, each (M,), NaN where unknown.
        num_bonds: Bonds of each molecule, (M,); zero by default, which means unknown unless the molecule is one atom.
        bonds: (ΣB, 3) begin, end (counted inside the molecule), 2 × order.

    Raises:
        ValueError: if shapes disagree, a position is not finite, or an element or a bond does not exist.
    """

    num_atoms: NDArray[np.int64]
    atomic_numbers: NDArray[np.uint8]
    positions: NDArray[np.float32]
    charges: NDArray[np.int8] = None  # type: ignore[assignment]
    smiles: Sequence[str] | None = None
    names: Sequence[str] = None  # type: ignore[assignment]
    properties: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    num_bonds: NDArray[np.int64] = None  # type: ignore[assignment]
    bonds: NDArray[np.int32] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        num_atoms = np.asarray(self.num_atoms, np.int64)
        size, atoms = num_atoms.size, int(num_atoms.sum())
        num_bonds = np.zeros(size, np.int64) if self.num_bonds is None else np.asarray(self.num_bonds, np.int64)
        bonds = np.zeros((0, 3), np.int32) if self.bonds is None else np.asarray(self.bonds, np.int32)
        numbers = np.asarray(self.atomic_numbers)
        values: dict[str, Any] = {
            "num_atoms": num_atoms,
            "atomic_numbers": numbers.astype(np.uint8, copy=False),
            "positions": np.asarray(self.positions, np.float32),
            "charges": np.zeros(atoms, np.int8) if self.charges is None else np.asarray(self.charges, np.int8),
            "smiles": None if self.smiles is None else list(self.smiles),
            "names": [""] * size if self.names is None else list(self.names),
            "properties": {str(key): np.asarray(value, np.float64) for key, value in self.properties.items()},
            "num_bonds": num_bonds,
            "bonds": bonds,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        shapes = {
            "num_atoms": (self.num_atoms.shape, (size,)),
            "atomic_numbers": (self.atomic_numbers.shape, (atoms,)),
            "positions": (self.positions.shape, (atoms, 3)),
            "charges": (self.charges.shape, (atoms,)),
            "num_bonds": (num_bonds.shape, (size,)),
            "bonds": (bonds.shape, (int(num_bonds.sum()), 3)),
            "names": ((len(self.names),), (size,)),
            "smiles": ((size if self.smiles is None else len(self.smiles),), (size,)),
        } | {f"properties[{name!r}]": (value.shape, (size,)) for name, value in self.properties.items()}
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise ValueError(f"`{name}` must have shape {expected}, got {got}")
        if (num_atoms < 1).any() or (num_bonds < 0).any():
            raise ValueError("every molecule needs at least one atom and no negative number of bonds")
        if ((numbers < 1) | (numbers > 118)).any():
            raise ValueError("`atomic_numbers` must lie in 1 to 118")
        if not np.isfinite(self.positions).all():
            raise ValueError("`positions` must be finite")
        ends, limit = bonds[:, :2], np.repeat(num_atoms, num_bonds)[:, None]
        if ((ends < 0) | (ends >= limit)).any() or (ends[:, 0] == ends[:, 1]).any():
            raise ValueError("`bonds` must join two different atoms of one molecule")
        if not np.isin(bonds[:, 2], list(BOND_TYPES)).all():
            raise ValueError(f"the third column of `bonds` (2 × order) must be one of {sorted(BOND_TYPES)}")

    def __len__(self) -> int:
        return self.num_atoms.size

    def __repr__(self) -> str:
        return f"MoleculeArrays({len(self):,} molecules, {self.atomic_numbers.size:,} atoms, {len(self.bonds):,} bonds)"

    def __getitem__(self, index: int) -> Molecule:
        """Molecule `index`, whose arrays are views; negative indices count from the end."""
        index = range(len(self))[index]
        atoms = slice(self.offsets[index], self.offsets[index + 1])
        bonds = slice(self.bond_offsets[index], self.bond_offsets[index + 1])
        return Molecule(
            self.atomic_numbers[atoms],
            self.positions[atoms],
            self.charges[atoms],
            self.bonds[bonds],
            self.smiles[index] if self.smiles else "",
            self.names[index],
            {name: float(value[index]) for name, value in self.properties.items()},
        )

    def __iter__(self) -> Iterator[Molecule]:
        return (self[index] for index in range(len(self)))

    def split(self) -> list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int8]]]:
        """Each molecule as (atomic numbers, positions, charges)."""
        parts = (np.split(x, self.offsets[1:-1]) for x in (self.atomic_numbers, self.positions, self.charges))
        return list(zip(*parts, strict=True)) if len(self) else []

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First atom of each molecule and the number of all atoms, (M + 1,)."""
        return self._cached("offsets", lambda: np.concatenate([[0], np.cumsum(self.num_atoms)]))

    @property
    def bond_offsets(self) -> NDArray[np.int64]:
        """First bond of each molecule and the number of all bonds, (M + 1,)."""
        return self._cached("bond_offsets", lambda: np.concatenate([[0], np.cumsum(self.num_bonds)]))

    @property
    def molecule_of_atom(self) -> NDArray[np.int64]:
        """The molecule that owns each atom, (ΣN,)."""
        return np.repeat(np.arange(len(self)), self.num_atoms)

    @property
    def bond_ends(self) -> NDArray[np.int64]:
        """Rows of the two atoms of each bond in the flat arrays, (ΣB, 2)."""
        return self.bonds[:, :2] + np.repeat(self.offsets[:-1], self.num_bonds)[:, None]

    @property
    def num_heavy(self) -> NDArray[np.int64]:
        """Atoms other than hydrogen of each molecule, (M,)."""
        return self._count(self.atomic_numbers > 1)

    @property
    def has_hydrogens(self) -> NDArray[np.bool_]:
        """Whether a molecule contains a hydrogen atom, (M,)."""
        return self.num_heavy < self.num_atoms

    @property
    def has_bonds(self) -> NDArray[np.bool_]:
        """Whether the bonds of a molecule are known, (M,)."""
        return (self.num_bonds > 0) | (self.num_atoms == 1)

    @property
    def total_charge(self) -> NDArray[np.int64]:
        """Net charge of each molecule, (M,)."""
        return self._count(self.charges)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return np.unique(self.atomic_numbers).tolist()

    def select(self, index: ArrayLike | slice) -> MoleculeArrays:
        """Molecules at `index`: integers (in this order, repeats allowed), booleans (M,), or a slice."""
        rows = _rows(index, len(self))
        atoms, bonds = _ranges(self.offsets, rows), _ranges(self.bond_offsets, rows)
        return MoleculeArrays(
            self.num_atoms[rows],
            self.atomic_numbers[atoms],
            self.positions[atoms],
            self.charges[atoms],
            None if self.smiles is None else [self.smiles[row] for row in rows.tolist()],
            [self.names[row] for row in rows.tolist()],
            {name: value[rows] for name, value in self.properties.items()},
            self.num_bonds[rows],
            self.bonds[bonds],
        )

    def chunks(self, size: int = CHUNK) -> Iterator[MoleculeArrays]:
        """The molecules, in memory, in parts of at most `size`."""
        return (self.select(slice(start, start + size)) for start in range(0, len(self), size))

    def select_atoms(self, keep: NDArray[np.bool_]) -> MoleculeArrays:
        """Atoms where `keep` (ΣN,) is true and the bonds between them. Molecules that lose all atoms are left out."""
        num_atoms = self._count(keep)
        inside = keep[self.bond_ends].all(1)
        owner = np.repeat(np.arange(len(self)), self.num_bonds)[inside]
        new_row, new_first = np.cumsum(keep) - 1, np.cumsum(num_atoms) - num_atoms
        ends = new_row[self.bond_ends[inside]] - new_first[owner, None]
        rows = np.flatnonzero(num_atoms)
        return MoleculeArrays(
            num_atoms[rows],
            self.atomic_numbers[keep],
            self.positions[keep],
            self.charges[keep],
            None if self.smiles is None else [self.smiles[row] for row in rows.tolist()],
            [self.names[row] for row in rows.tolist()],
            {name: value[rows] for name, value in self.properties.items()},
            np.bincount(owner, minlength=len(self))[rows],
            np.column_stack([ends, self.bonds[inside, 2]]),
        )

    def remove_hydrogens(self) -> MoleculeArrays:
        """Heavy atoms only. A molecule of nothing but hydrogen (H2) has none and is left out; see :attr:`num_heavy`."""
        return self.select_atoms(self.atomic_numbers > 1)

    def centred(self) -> MoleculeArrays:
        """The same molecules, each with its centroid (unweighted mean position) at the origin."""
        return dataclasses.replace(self, positions=centre(self.num_atoms, self.positions))

    @classmethod
    def concatenate(cls, parts: Sequence[MoleculeArrays]) -> MoleculeArrays:
        """The molecules of all `parts`, one after another. Properties that a part lacks are NaN there."""
        names = dict.fromkeys(name for part in parts for name in part.properties)
        return cls(
            _join(np.int64, (), [part.num_atoms for part in parts]),
            _join(np.uint8, (), [part.atomic_numbers for part in parts]),
            _join(np.float32, (3,), [part.positions for part in parts]),
            _join(np.int8, (), [part.charges for part in parts]),
            None
            if all(part.smiles is None for part in parts)
            else [smiles for part in parts for smiles in part.smiles or [""] * len(part)],
            [name for part in parts for name in part.names],
            {
                name: _join(np.float64, (), [part.properties.get(name, np.full(len(part), np.nan)) for part in parts])
                for name in names
            },
            _join(np.int64, (), [part.num_bonds for part in parts]),
            _join(np.int32, (3,), [part.bonds for part in parts]),
        )

    @classmethod
    def from_molecules(cls, molecules: Sequence[Molecule]) -> MoleculeArrays:
        """Gather single molecules; properties that one lacks are NaN there."""
        names = dict.fromkeys(name for molecule in molecules for name in molecule.properties)
        return cls(
            np.array([len(molecule.atomic_numbers) for molecule in molecules], np.int64),
            _join(np.uint8, (), [molecule.atomic_numbers for molecule in molecules]),
            _join(np.float32, (3,), [molecule.positions for molecule in molecules]),
            _join(np.int8, (), [molecule.charges for molecule in molecules]),
            [molecule.smiles for molecule in molecules] if any(molecule.smiles for molecule in molecules) else None,
            [molecule.name for molecule in molecules],
            {name: np.array([molecule.properties.get(name, np.nan) for molecule in molecules]) for name in names},
            np.array([len(molecule.bonds) for molecule in molecules], np.int64),
            _join(np.int32, (3,), [molecule.bonds for molecule in molecules]),
        )

    @classmethod
    def from_mols(cls, mols: Sequence[Chem.Mol]) -> MoleculeArrays:
        """Gather RDKit molecules that have 3-D coordinates, sanitised or not; see :func:`from_mol`.

        Raises:
            ValueError: if one has no atoms, no coordinates, or positions that are not finite.
        """
        with rdBase.BlockLogs():
            return cls.from_molecules([from_mol(mol) for mol in mols])

    def to_mols(self) -> list[Chem.Mol]:
        """RDKit molecules with their coordinates and the known bonds; see :func:`to_mol`."""
        with rdBase.BlockLogs():
            return [to_mol(molecule) for molecule in self]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the `.npz` layout.

        `num_atoms`, `atomic_numbers`, `positions`, `charges` per atom, `formal_charge` per molecule and, where known,
        `smiles`, `name`, `properties` (M, P) with `property_names`, `num_bonds` with `bonds`.
        """
        arrays: dict[str, NDArray[Any]] = {
            "num_atoms": _narrow(self.num_atoms),
            "atomic_numbers": self.atomic_numbers,
            "positions": self.positions,
            "charges": self.charges,
            "formal_charge": self.total_charge.astype(np.int16),
        }
        if self.smiles is not None:
            arrays["smiles"] = _as_bytes(self.smiles)
        if any(self.names):
            arrays["name"] = _as_bytes(self.names)
        if self.properties:
            arrays["properties"] = np.column_stack(list(self.properties.values()))
            arrays["property_names"] = _as_bytes(list(self.properties))
        if len(self.bonds):
            arrays |= {"num_bonds": _narrow(self.num_bonds), "bonds": self.bonds.astype(np.int16)}
        return arrays

    def save_npz(self, path: str | Path) -> None:
        """Write the `.npz` layout of :meth:`to_arrays`, atomically.

        Raises:
            UserError: if the file cannot be written.
        """
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self.to_arrays())

    def _count(self, weight: NDArray[Any]) -> NDArray[np.int64]:
        """Sum of integer `weight` (ΣN,) over the atoms of each molecule."""
        return np.bincount(self.molecule_of_atom, weight, len(self)).astype(np.int64)

    def _cached(self, name: str, compute: Any) -> NDArray[np.int64]:
        if name not in self.__dict__:
            self.__dict__[name] = compute()
        return self.__dict__[name]


def centre(num_atoms: NDArray[Any], positions: NDArray[Any]) -> NDArray[np.float32]:
    """Move the centroid of each molecule to the origin; sums run in float64."""
    owner = np.repeat(np.arange(num_atoms.size), num_atoms)
    sums = [np.bincount(owner, positions[:, axis], num_atoms.size) for axis in range(3)]
    mean = np.column_stack(sums) / num_atoms[:, None]
    return (positions - mean[owner]).astype(np.float32)


def _join(kind: type, shape: tuple[int, ...], arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate arrays of `kind` and shape (…, *shape), also if there are none."""
    return np.concatenate([np.zeros((0, *shape), kind), *arrays])


def _rows(index: ArrayLike | slice, size: int) -> NDArray[np.int64]:
    """The rows that an index means, at a cost that depends on their number alone, unless it is one of booleans."""
    if isinstance(index, slice):
        return np.arange(*index.indices(size))
    array = np.atleast_1d(np.asarray(index))
    if array.dtype == bool:
        return np.arange(size)[array]
    rows = np.where(array < 0, array + size, array).astype(np.int64)
    if ((rows < 0) | (rows >= size)).any():
        raise IndexError(f"there are {size:,} molecules, and no molecule {array[(rows < 0) | (rows >= size)][0]}")
    return rows


def _ranges(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers offsets[r] … offsets[r + 1] − 1 for every r of `rows`, one after another."""
    length = offsets[rows + 1] - offsets[rows]
    shift = offsets[rows] - (np.cumsum(length) - length)
    return np.repeat(shift, length) + np.arange(length.sum())


def _narrow(x: NDArray[Any]) -> NDArray[Any]:
    """The same non-negative integers in the smallest unsigned type."""
    return x.astype(np.min_scalar_type(int(x.max(initial=0))))


def _as_bytes(texts: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([text.encode("utf-8") for text in texts], np.bytes_)
