"""Molecules from `.npz` archives, checked all at once with no loop over atoms."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError, load_npz
from gendiff.modalities.molecules.read.report import ReadReport
from gendiff.modalities.molecules.records import (
    BOND_TYPES,
    MIN_DISTANCE,
    Molecule,
    MoleculeArrays,
    canonical_smiles,
    canonical_text,
    clean_name,
    find_defects,
    to_mol,
)

Arrays = dict[str, NDArray[Any]]


class Reader(Protocol):
    """What this file needs of a reader: its options, its report and its way to refuse a record."""

    fragments: Any
    strict: bool
    split: str | None
    max_heavy_atoms: int
    report: ReadReport

    def refuse(self, path: Path, number: int, name: str, reason: str) -> None:
        """Stop at, or count, a record that cannot be used."""


def read_archive(path: Path, reader: Reader) -> MoleculeArrays:
    """The usable rows of an archive; see `MoleculeArrays.to_arrays` for its arrays. Only the first three are needed.

    Charges come from `charges` (per atom) or are restored from the bonds and `formal_charge` (per molecule). SMILES are
    made canonical, as duplicates and novelty compare them; one that RDKit rejects, or whose `smiles_source` is 1 (QM9:
    taken from a list, wrong too often), counts as unknown.

    Raises:
        UserError: if an array is missing or does not fit the others, or a row cannot be used and none may be skipped.
    """
    arrays = load_npz(path)
    num_atoms, numbers, positions, num_bonds, bonds = _tables(path, arrays)
    size = num_atoms.size
    rows = np.arange(size)
    if reader.split is not None:
        _check(path, arrays, "split", (size,), "iu")
        rows = np.flatnonzero(arrays["split"] == ("train", "valid").index(reader.split))
    names = _texts(path, arrays, "name", size) or _texts(path, arrays, "index", size) or [""] * size
    smiles = _texts(path, arrays, "smiles", size)
    if smiles and "smiles_source" in arrays:
        _check(path, arrays, "smiles_source", (size,), "iu")
        smiles = [text if source != 1 else "" for text, source in zip(smiles, arrays["smiles_source"], strict=True)]

    reasons = find_defects(
        num_atoms, numbers, positions, reader.max_heavy_atoms, MIN_DISTANCE if reader.strict else 0.0
    )
    owner_of_atom, owner_of_bond = np.repeat(np.arange(size), num_atoms), np.repeat(np.arange(size), num_bonds)
    ends = bonds[:, :2]
    misfit = (ends < 0).any(1) | (ends >= num_atoms[owner_of_bond][:, None]).any(1) | (ends[:, 0] == ends[:, 1])
    for row in np.unique(owner_of_bond[misfit | ~np.isin(bonds[:, 2], list(BOND_TYPES))]):
        reasons[row] = reasons[row] or "bond table that does not fit the atoms"
    usable = np.array([not reason for reason in reasons], bool)
    reader.report.records += rows.size
    for row in rows[~usable[rows]].tolist():
        reader.refuse(path, row + 1, clean_name(names[row]), reasons[row])

    rows = rows[usable[rows]]
    chosen = np.isin(np.arange(size), rows)
    result = MoleculeArrays(
        num_atoms[rows],
        numbers[chosen[owner_of_atom]],
        positions[chosen[owner_of_atom]],
        smiles=[canonical_text(smiles[row]) for row in rows] if smiles else None,
        names=[clean_name(names[row]) for row in rows],
        properties={name: values[rows] for name, values in _properties(path, arrays, size).items()},
        num_bonds=num_bonds[rows],
        bonds=bonds[chosen[owner_of_bond]],
    )
    if "charges" in arrays:
        _check(path, arrays, "charges", numbers.shape, "iu")
        result = replace(result, charges=arrays["charges"][chosen[owner_of_atom]])
    else:
        if "formal_charge" in arrays:
            _check(path, arrays, "formal_charge", (size,), "iu")
        net = arrays["formal_charge"][rows].astype(np.int64) if "formal_charge" in arrays else None
        result = replace(result, charges=restore_charges(result, net))
    if len(result) and not result.has_hydrogens.any():
        reader.report.without_hydrogens += len(result)
    return _cut(path, result, rows, reader)


def restore_charges(arrays: MoleculeArrays, net: NDArray[np.int64] | None = None) -> NDArray[np.int8]:
    """Formal charges from bonds: N of valence four +1, O and S with one single bond −1.

    An aromatic N of valence four may be a pyridinium (+1) or an N-substituted pyrrole (0), and S with four single bonds
    may be +2 (S-O with separated charges) or 0. They take the charge where that explains a net charge left open; if
    only some of them can, RDKit says which.

    Arguments:
        arrays: Molecules; those without bonds get zeros.
        net: Net charges, (M,), if known.

    Returns:
        (ΣN,) charges.
    """
    numbers, owner = arrays.atomic_numbers, arrays.molecule_of_atom
    ends, codes = arrays.bond_ends.ravel(), np.repeat(arrays.bonds[:, 2], 2)
    degree = np.bincount(ends, minlength=numbers.size)
    valence = np.bincount(ends, codes, numbers.size) / 2
    aromatic = np.bincount(ends, codes == 3, numbers.size) > 0
    plus = (numbers == 7) & (valence == 4) & ~aromatic
    minus = np.isin(numbers, (8, 16)) & (degree == 1) & (valence == 1)
    charges = plus.astype(np.int64) - minus
    undecided = [
        (2, (numbers == 16) & (degree == 4) & (valence == 4)),
        (1, (numbers == 7) & (degree == 3) & (valence == 4) & aromatic),
    ]
    for unit, atoms in undecided:
        if net is not None:
            left_open = net - np.bincount(owner, charges, len(arrays))
            count = np.bincount(owner, atoms, len(arrays))
            charges = charges + unit * (atoms & (left_open == unit * count)[owner])
            for row in np.flatnonzero((left_open > 0) & (left_open < unit * count)).tolist():
                first, last = arrays.offsets[row : row + 2]
                places = np.flatnonzero(atoms[first:last])
                charges[first:last] = _place_charges(arrays[row], charges[first:last], places, unit, left_open[row])
    return charges.astype(np.int8)


def _place_charges(
    molecule: Molecule, charges: NDArray[np.int64], places: NDArray[np.int64], unit: int, missing: int
) -> NDArray[np.int64]:
    """Put `missing` charges on the first choice of `places` that RDKit accepts; none if it accepts none."""
    for chosen in islice(combinations(places, int(missing) // unit), 200):
        trial = charges.copy()
        trial[list(chosen)] += unit
        if canonical_smiles(to_mol(molecule._replace(charges=trial.astype(np.int8)))):
            return trial
    return charges


def fragment_of_atom(arrays: MoleculeArrays) -> NDArray[np.int64]:
    """The connected fragment of each atom, (ΣN,), numbered in the order of their first atoms through all molecules."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = arrays.atomic_numbers.size
    edges = coo_array((np.ones(len(arrays.bonds), np.int8), tuple(arrays.bond_ends.T)), (size, size))
    label = connected_components(edges, directed=False)[1]
    _, first = np.unique(label, return_index=True)
    return np.argsort(np.argsort(first))[label]


def _cut(path: Path, arrays: MoleculeArrays, rows: NDArray[np.int64], reader: Reader) -> MoleculeArrays:
    """Apply the policy on fragments where bonds are known; `rows` are the places of the molecules in the file."""
    fragment, owner = fragment_of_atom(arrays), arrays.molecule_of_atom
    home = owner[np.unique(fragment, return_index=True)[1]]  # molecule of each fragment
    several = arrays.has_bonds & (np.bincount(home, minlength=len(arrays)) > 1)
    if not several.any():
        return arrays
    if reader.fragments == "refuse":
        for row in np.flatnonzero(several).tolist():
            reader.refuse(path, int(rows[row]) + 1, arrays.names[row], "several fragments")
        return arrays.select(~several)
    reader.report.fragments += int(several.sum())
    if reader.fragments == "keep":
        return arrays
    heavy, atoms = np.bincount(fragment, arrays.atomic_numbers > 1), np.bincount(fragment)
    order = np.lexsort((-np.arange(home.size), atoms, heavy, home))  # best fragment of each molecule last
    best = np.zeros(len(arrays), np.int64)
    best[home[order]] = order
    return arrays.select_atoms(~several[owner] | (fragment == best[owner]))


def _check(path: Path, arrays: Arrays, key: str, shape: tuple[int, ...], kinds: str) -> None:
    if key not in arrays:
        raise UserError(f"{path}: lacks the array `{key}`")
    if arrays[key].shape != shape or arrays[key].dtype.kind not in kinds:
        wanted = f"`{key}` should be {' or '.join(_KINDS[kind] for kind in kinds)} of shape {shape}"
        got = f"{arrays[key].dtype} of shape {arrays[key].shape}"
        raise UserError(f"{path}: truncated or inconsistent: {wanted}, got {got}")


_KINDS = {"i": "integers", "u": "unsigned integers", "f": "floats", "S": "bytes", "U": "text"}


def _tables(path: Path, arrays: Arrays) -> tuple[NDArray[Any], ...]:
    """Check and return num_atoms, atomic_numbers, positions, num_bonds, bonds (zero and empty if absent)."""
    for key in ("num_atoms", "atomic_numbers", "positions"):
        if key not in arrays:
            raise UserError(
                f"{path}: lacks the array `{key}`; a molecule archive has num_atoms, atomic_numbers, positions"
            )
    if arrays["num_atoms"].ndim != 1:
        raise UserError(f"{path}: `num_atoms` should have one axis, got shape {arrays['num_atoms'].shape}")
    size = arrays["num_atoms"].size
    if "bonds" not in arrays or "num_bonds" not in arrays:
        arrays = arrays | {"num_bonds": np.zeros(size, np.int64), "bonds": np.zeros((0, 3), np.int64)}
    counts = []
    for key in ("num_atoms", "num_bonds"):
        _check(path, arrays, key, (size,), "iu")
        count = arrays[key].astype(np.int64)
        if ((count < 0) | (count > arrays["positions"].size + arrays["bonds"].size)).any():
            raise UserError(f"{path}: truncated or inconsistent: `{key}` counts more rows than there are")
        counts.append(count)
    atoms, bonds = int(counts[0].sum()), int(counts[1].sum())
    _check(path, arrays, "atomic_numbers", (atoms,), "iu")
    _check(path, arrays, "positions", (atoms, 3), "f")
    _check(path, arrays, "bonds", (bonds, 3), "iu")
    return counts[0], arrays["atomic_numbers"], arrays["positions"], counts[1], arrays["bonds"].astype(np.int64)


def _texts(path: Path, arrays: Arrays, key: str, size: int) -> list[str]:
    """An array of bytes, text or integers as texts; empty if there is none."""
    if key not in arrays:
        return []
    _check(path, arrays, key, (size,), "SUiu")
    array = arrays[key]
    return (np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array.astype(str)).tolist()


def _properties(path: Path, arrays: Arrays, size: int) -> dict[str, NDArray[np.float64]]:
    values = arrays.get("properties")
    if values is None:
        return {}
    width = values.shape[-1] if values.ndim else 0
    _check(path, arrays, "properties", (size, width), "fiu")
    names = _texts(path, arrays, "property_names", width) or [f"property_{index}" for index in range(width)]
    return dict(zip(names, values.astype(np.float64).T, strict=True))
