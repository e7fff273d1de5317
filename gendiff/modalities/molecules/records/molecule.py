"""One molecule as arrays, and its ways to and from RDKit."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Geometry import Point3D

BOND_TYPES = {
    2: Chem.BondType.SINGLE,
    3: Chem.BondType.AROMATIC,
    4: Chem.BondType.DOUBLE,
    6: Chem.BondType.TRIPLE,
}


class Molecule(NamedTuple):
    """One molecule of n atoms: `positions` (n, 3) in Å, formal `charges` (n,), `bonds` (b, 3), and what is known."""

    atomic_numbers: NDArray[np.uint8]
    positions: NDArray[np.float32]
    charges: NDArray[np.int8]
    bonds: NDArray[np.int32]
    smiles: str
    name: str
    properties: dict[str, float]


def from_mol(mol: Chem.Mol, smiles: str | None = None, name: str | None = None) -> Molecule:
    """Take the arrays out of an RDKit molecule with a conformer. Aromatic bonds become a Kekulé structure if they can.

    Its public properties that are finite numbers, or texts of such, are kept.

    Arguments:
        mol: The molecule, sanitised or not, of the atoms it shows (hydrogens are not added).
        smiles: Its SMILES if it is known already; else :func:`canonical_smiles`.
        name: Its name; else its title.

    Raises:
        ValueError: if it has no atoms or no coordinates.
    """
    if not mol.GetNumAtoms() or not mol.GetNumConformers():
        raise ValueError("a molecule needs atoms and coordinates (a conformer)")
    smiles = canonical_smiles(mol) if smiles is None else smiles
    name = (mol.GetProp("_Name") if mol.HasProp("_Name") else "") if name is None else name
    atoms = [mol.GetAtomWithIdx(index) for index in range(mol.GetNumAtoms())]
    return Molecule(
        np.array([atom.GetAtomicNum() for atom in atoms], np.uint8),
        to_float32(mol.GetConformer().GetPositions()),
        np.array([atom.GetFormalCharge() for atom in atoms], np.int8),
        _bond_table(mol),
        smiles,
        clean_name(name),
        _numbers(mol),
    )


def _numbers(mol: Chem.Mol) -> dict[str, float]:
    """The public properties of a molecule that are finite numbers."""
    numbers = {}
    for name in mol.GetPropNames(includePrivate=False, includeComputed=False):
        try:
            value = float(mol.GetProp(name))
        except ValueError:
            continue
        if math.isfinite(value):
            numbers[name] = value
    return numbers


def to_mol(molecule: Molecule) -> Chem.Mol:
    """Build an RDKit molecule with implicit hydrogens at open valences; unsanitised if RDKit rejects the bonds.

    Its finite properties become public properties of the molecule, as text; words that RDKit and gendiff keep for
    notes of their own (`_…`, `SMILES`, `invalid`) do not.
    """
    mol = Chem.RWMol()
    for number, charge in zip(molecule.atomic_numbers.tolist(), molecule.charges.tolist(), strict=True):
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        mol.AddAtom(atom)
    for begin, end, code in molecule.bonds.tolist():
        mol.AddBond(begin, end, BOND_TYPES[code])
        if code == 3:
            mol.GetBondBetweenAtoms(begin, end).SetIsAromatic(True)
            for index in (begin, end):
                mol.GetAtomWithIdx(index).SetIsAromatic(True)
    conformer = Chem.Conformer(len(molecule.atomic_numbers))
    conformer.Set3D(True)
    for index, position in enumerate(molecule.positions.tolist()):
        conformer.SetAtomPosition(index, Point3D(*position))
    mol.AddConformer(conformer, assignId=True)
    if molecule.name:
        mol.SetProp("_Name", molecule.name)
    for name, value in molecule.properties.items():
        if math.isfinite(value) and not name.startswith("_") and name not in ("", "SMILES", "invalid"):
            mol.SetProp(name, repr(float(value)).removesuffix(".0"))
    result = Chem.Mol(mol)
    if len(molecule.bonds) or len(molecule.atomic_numbers) == 1:
        sane = Chem.Mol(result)
        if Chem.SanitizeMol(sane, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
            return sane
    result.UpdatePropertyCache(strict=False)
    return result


def canonical_smiles(mol: Chem.Mol, sanitised: bool = False) -> str:
    """Canonical SMILES without stereochemistry, isotopes, atom maps and hydrogens, or "" if RDKit rejects the molecule.

    This is what uniqueness and novelty compare: models that are blind to reflections cannot choose a stereoisomer.

    Arguments:
        mol: The molecule, hydrogens explicit or implicit.
        sanitised: Trust that RDKit accepts it, which is faster.
    """
    with rdBase.BlockLogs():
        try:
            bare = Chem.RemoveHs(mol, sanitize=False) if sanitised else heavy_mol(mol)
        except ValueError:
            return ""
        smiles = Chem.MolToSmiles(bare, isomericSmiles=False)
        if ":" in smiles or "[H]" in smiles:  # atom maps, or hydrogens that are isotopes or H2
            for atom in bare.GetAtoms():
                atom.SetAtomMapNum(0)
                atom.SetIsotope(0)
            smiles = Chem.MolToSmiles(Chem.RemoveHs(bare), isomericSmiles=False)
        return smiles


def canonical_text(smiles: str) -> str:
    """A SMILES in the form of :func:`canonical_smiles`, or "" if RDKit rejects it."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles) if smiles else None
    return "" if mol is None else canonical_smiles(mol, sanitised=True)


def heavy_mol(mol: Chem.Mol) -> Chem.Mol:
    """A sanitised copy with its hydrogens implicit, where that is possible.

    Raises:
        ValueError: if RDKit rejects the molecule as it stands, hydrogens included; says why.
    """
    with rdBase.BlockLogs():
        copy = Chem.Mol(mol)
        try:
            Chem.SanitizeMol(copy)  # before the hydrogens go: H with two bonds must not vanish unseen
            return Chem.RemoveHs(copy)
        except (ValueError, RuntimeError) as error:
            raise ValueError(" ".join(str(error).split())[:160]) from None


def clean_name(text: str, length: int = 80) -> str:
    """One line of at most `length` printable characters."""
    text = text[: 4 * length]
    return (text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).strip()[:length]


def to_float32(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Cast; what float32 cannot hold becomes its largest number, so that only NaN and infinity are not finite."""
    limit = float(np.finfo(np.float32).max)
    return np.where(np.isfinite(x), np.clip(x, -limit, limit), x).astype(np.float32)


def _bond_table(mol: Chem.Mol) -> NDArray[np.int32]:
    """Bonds as (b, 3) rows, a Kekulé structure if there is one. Unusual orders count as single, zero as no bond."""
    order = Chem.GetAdjacencyMatrix(mol, useBO=True, force=True)
    if (order == 1.5).any():
        kekule = Chem.Mol(mol)
        try:
            Chem.Kekulize(kekule, clearAromaticFlags=True)
            order = Chem.GetAdjacencyMatrix(kekule, useBO=True, force=True)
        except (ValueError, RuntimeError):
            pass
    begin, end = np.nonzero(np.triu(order))
    code = np.rint(2 * order[begin, end]).astype(np.int32)
    code[(code < 2) | (code == 5) | (code > 6)] = 2
    return np.stack([begin, end, code], 1, dtype=np.int32, casting="unsafe")
