"""Write molecules as SDF, MOL, PDB, XYZ, SMILES list, CSV, TSV or NPZ, whole or not at all.

RDKit molecules come in as a model made them: sanitised if they are valid, else with their bonds as drawn and the reason
in the property `invalid`. SDF takes every molecule, so that a file shows what a model really made; nothing is repaired.
XYZ, PDB and NPZ take those that have coordinates, SMILES lists and tables those that are valid, MOL takes one. Text may
be packed by gzip: `.sdf.gz`.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from gendiff.files import NothingFits, UserError, atomic_write, ending
from gendiff.modalities.molecules.records import MoleculeArrays, canonical_smiles, clean_name, heavy_mol

_V2000_ATOMS, _V2000_LENGTH = 999, 9_999.0  # what fits the columns of a V2000 mol block
_PDB_ATOMS, _PDB_LENGTH = 99_999, 999.0


def annotate(
    mol: Chem.Mol,
    model: str = "",
    seed: int | None = None,
    index: int | None = None,
    reason: str | None = None,
    targets: Mapping[str, float] | None = None,
) -> None:
    """Note on a molecule what it is and where it comes from, as text properties that SDF writes as data fields.

    `valid` and `connected` are "true" or "false". Valid molecules get `SMILES` (with the stereochemistry of the
    coordinates), `QED` [1], `logP` (Crippen) [2] and `MW` (g/mol); others a `reason`. `model`, `seed`, `index` are
    noted as given; the title becomes model-index if there is none.

    References:
        | [1] G. R. Bickerton et al., Quantifying the chemical beauty of drugs (2012), doi 10.1038/nchem.1243
        | [2] S. A. Wildman, G. M. Crippen, Prediction of physicochemical parameters by atomic contributions (1999)

    Arguments:
        mol: Changed in place, its properties only.
        model: Name of the model.
        seed: Of the sampling.
        index: Number of the molecule in the sample.
        reason: Why the molecule is not valid; by default its property `invalid`, or what RDKit says.
        targets: Properties that were asked for, noted as `target_NAME`.
    """
    from rdkit.Chem import QED

    if reason is None:
        reason = mol.GetProp("invalid") if mol.HasProp("invalid") else ""
    with rdBase.BlockLogs():
        bare = None
        if not reason:
            try:
                bare = heavy_mol(mol)
            except ValueError as error:
                reason = str(error)
        facts = {"valid": _word(not reason), "connected": _word(len(Chem.GetMolFrags(mol)) == 1)}
        if bare is not None and not reason:
            if bare.GetNumConformers():
                Chem.AssignStereochemistryFrom3D(bare)
            facts["SMILES"] = Chem.MolToSmiles(bare)
            properties = QED.properties(bare)
            facts["QED"] = f"{QED.qed(bare, qedProperties=properties):.3f}"
            facts |= {"logP": f"{properties.ALOGP:.2f}", "MW": f"{properties.MW:.3f}"}
    if reason:
        facts["reason"] = clean_name(reason, 200)
    origin = {"model": model or None, "seed": seed, "index": index}
    facts |= {name: str(value) for name, value in origin.items() if value is not None}
    facts |= {f"target_{name}": f"{value:g}" for name, value in (targets or {}).items()}
    for name, value in facts.items():
        mol.SetProp(name, value)
    if not _title(mol) and index is not None:
        mol.SetProp("_Name", f"{model or 'molecule'}-{index}")


def is_valid(mol: Chem.Mol) -> bool:
    """Whether a molecule is noted as valid or, if nothing is noted, RDKit accepts it."""
    if mol.HasProp("invalid"):
        return False
    noted = mol.GetProp("valid") if mol.HasProp("valid") else ""
    return noted == "true" if noted in ("true", "false") else bool(canonical_smiles(mol))


def write_molecules(mols: Sequence[Chem.Mol], path: str | Path) -> int:
    """Write molecules in the format of the extension: one of `EXTENSIONS`.

    Arguments:
        mols: What to write, sanitised or not. Their properties become data fields of an SDF, columns of a table.
        path: Where; an existing file is replaced only when the new one is complete.

    Returns:
        How many molecules the file holds.

    Raises:
        UserError: for an unknown extension, a file that cannot be written (permission, full disk), if no molecule
            fits the format, or for several molecules in a `.mol` file.
    """
    path = Path(path)
    suffix = ending(path)
    if suffix not in EXTENSIONS:
        raise UserError(f"{path}: unknown extension {suffix!r}; molecules are written as {' '.join(EXTENSIONS)}")
    kind = suffix.removesuffix(".gz")
    fits, which = _FITS[kind]
    chosen = [mol for mol in mols if fits(mol)]
    if not chosen:
        raise NothingFits(f"{path}: there is no molecule {which}")
    if kind == ".mol" and len(chosen) > 1:
        raise UserError(f"{path}: a .mol file holds one molecule, not {len(chosen):,}; write .sdf")
    if kind == ".npz":
        MoleculeArrays.from_mols(chosen).save_npz(path)
        return len(chosen)
    packed = suffix.endswith(".gz")
    with ExitStack() as stack:
        file: IO[Any] = stack.enter_context(atomic_write(path, "wb" if packed else "w"))
        if packed:  # without a name or a time, so that equal molecules are equal bytes
            archive = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
            file = stack.enter_context(io.TextIOWrapper(archive, encoding="utf-8", newline="\n"))
        stack.enter_context(rdBase.BlockLogs())
        if kind in _COLUMNS:
            write_table(chosen, file, _COLUMNS[kind])
        for number, mol in enumerate(chosen if kind not in _COLUMNS else (), 1):
            file.write(pdb_model(mol, number) if kind == ".pdb" else _RECORDS[kind](mol))
    return len(chosen)


def write_table(mols: Sequence[Chem.Mol], file: IO[str], delimiter: str = ",") -> None:
    """Write SMILES, name and the other properties of molecules as columns; a property that one lacks is empty there."""
    names = dict.fromkeys(
        name for mol in mols for name in mol.GetPropNames(includePrivate=False, includeComputed=False)
    )
    columns = [name for name in names if name not in ("SMILES", "name", "smiles", "invalid")]
    table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    table.writerow(["smiles", "name", *(_cell(clean_name(name)) for name in columns)])
    for mol in mols:
        values = [clean_name(mol.GetProp(name), 2_000) if mol.HasProp(name) else "" for name in columns]
        table.writerow([_smiles(mol), *map(_cell, [_title(mol), *values])])


def _cell(text: str) -> str:
    """A field of a table. Spreadsheets run what begins like a formula: a quote before it makes it text."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def pdb_model(mol: Chem.Mol, number: int) -> str:
    """One model of a PDB file: a residue UNL with its bonds; multiple bonds are repeated in CONECT."""
    mol = Chem.Mol(mol)
    title = _title(mol)
    mol.ClearProp("_Name")
    try:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    except (ValueError, RuntimeError):
        pass
    lines = [line for line in Chem.MolToPDBBlock(mol).splitlines() if line.startswith(("HETATM", "CONECT"))]
    head = [f"MODEL     {number:4d}", *([f"COMPND    {title[:60]}"] if title else [])]
    return "\n".join([*head, *lines, "ENDMDL"]) + "\n"


def sdf_record(mol: Chem.Mol) -> str:
    """One record of an SDF: mol block, properties, `$$$$`. Works for any molecule, however wrong its chemistry."""
    lines = [mol_block(mol)]
    for name in mol.GetPropNames(includePrivate=False, includeComputed=False):
        if name != "invalid":  # the same as `reason`
            label, value = clean_name(name).replace("<", "(").replace(">", ")"), clean_name(mol.GetProp(name), 2_000)
            lines.append(f">  <{label}>\n{_inert(value)}\n\n")
    return "".join(lines) + "$$$$\n"


def mol_block(mol: Chem.Mol) -> str:
    """A mol block: V2000, or V3000 where something does not fit. Bonds that RDKit rejects are written as they are.

    Stereochemistry is that of the coordinates: a double bond is not marked as one that may be either way. Without a
    conformer all coordinates are zero or, if the molecule is noted as invalid, NaN.
    """
    mol = Chem.Mol(mol)
    mol.SetProp("_Name", _inert(_title(mol)))
    if not mol.GetNumConformers():
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.Set3D(False)
        conformer.SetPositions(np.full((mol.GetNumAtoms(), 3), np.nan if mol.HasProp("invalid") else 0.0))
        mol.AddConformer(conformer)
    positions = mol.GetConformer().GetPositions()
    large = mol.GetNumAtoms() > _V2000_ATOMS or bool((~(np.abs(positions) < _V2000_LENGTH)).any())
    for sound in (True, False):
        try:
            mol.UpdatePropertyCache(strict=False)
            if sound and mol.GetConformer().Is3D():
                Chem.FastFindRings(mol)
                Chem.AssignStereochemistryFrom3D(mol)
            return Chem.MolToMolBlock(mol, includeStereo=sound, kekulize=sound, forceV3000=large)
        except (ValueError, RuntimeError):
            continue
    return _plain_block(mol, positions)


def _plain_block(mol: Chem.Mol, positions: NDArray[np.float64]) -> str:
    """A V3000 mol block of what is there, for molecules that RDKit does not write."""
    orders = {Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3, Chem.BondType.AROMATIC: 4}
    atoms = [
        f"{i} {atom.GetSymbol()} {x:.4f} {y:.4f} {z:.4f} 0" + (f" CHG={q}" if (q := atom.GetFormalCharge()) else "")
        for i, (atom, (x, y, z)) in enumerate(zip(mol.GetAtoms(), positions, strict=True), 1)
    ]
    bonds = [
        f"{i} {orders.get(bond.GetBondType(), 1)} {bond.GetBeginAtomIdx() + 1} {bond.GetEndAtomIdx() + 1}"
        for i, bond in enumerate(mol.GetBonds(), 1)
    ]
    body = ["BEGIN CTAB", f"COUNTS {len(atoms)} {len(bonds)} 0 0 0", "BEGIN ATOM", *atoms, "END ATOM"]
    body += ["BEGIN BOND", *bonds, "END BOND", "END CTAB"] if bonds else ["END CTAB"]
    head = [_inert(_title(mol)), f"{'gendiff':>10}{'3D':>12}", "", "  0  0  0     0  0            999 V3000"]
    return "\n".join([*head, *(f"M  V30 {line}" for line in body), "M  END"]) + "\n"


def xyz_record(mol: Chem.Mol) -> str:
    """One frame of an XYZ file: atom count, title, `element x y z` in Å."""
    rows = zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True)
    lines = [f"{atom.GetSymbol():<2} {x:14.8f} {y:14.8f} {z:14.8f}" for atom, (x, y, z) in rows]
    return "\n".join([str(len(lines)), _title(mol), *lines]) + "\n"


def smiles_line(mol: Chem.Mol) -> str:
    """One line of a SMILES list: the property `SMILES`, or the canonical SMILES, and the title."""
    return f"{_smiles(mol)} {_title(mol)}".rstrip() + "\n"


def _smiles(mol: Chem.Mol) -> str:
    return mol.GetProp("SMILES") if mol.HasProp("SMILES") else canonical_smiles(mol)


def _title(mol: Chem.Mol) -> str:
    return clean_name(mol.GetProp("_Name")) if mol.HasProp("_Name") else ""


def _inert(text: str) -> str:
    """A line of an SDF. What begins like the end of a record or a new field is moved on by a space."""
    return f" {text}" if text.startswith(("$$$$", "M  END", ">")) else text


def _has_coordinates(mol: Chem.Mol) -> bool:
    return (
        mol.GetNumAtoms() > 0
        and mol.GetNumConformers() > 0
        and bool(np.isfinite(mol.GetConformer().GetPositions()).all())
    )


def _word(value: bool) -> str:
    return "true" if value else "false"


def _fits_pdb(mol: Chem.Mol) -> bool:
    """Whether coordinates and numbers of atoms fit the columns of a PDB file."""
    if not _has_coordinates(mol) or mol.GetNumAtoms() > _PDB_ATOMS:
        return False
    return bool((np.abs(mol.GetConformer().GetPositions()) < _PDB_LENGTH).all())


_FITS: dict[str, tuple[Callable[[Chem.Mol], bool], str]] = {
    ".sdf": (lambda mol: True, "to write"),
    ".mol": (lambda mol: True, "to write"),
    ".xyz": (_has_coordinates, "with atoms and coordinates"),
    ".pdb": (_fits_pdb, "with atoms, and coordinates below 1,000 Å"),
    ".npz": (_has_coordinates, "with atoms and coordinates"),
    ".smi": (is_valid, "that is valid; .sdf takes the others too"),
    ".smiles": (is_valid, "that is valid; .sdf takes the others too"),
    ".csv": (is_valid, "that is valid; .sdf takes the others too"),
    ".tsv": (is_valid, "that is valid; .sdf takes the others too"),
}
"""Which molecules a format takes."""

_COLUMNS = {".csv": ",", ".tsv": "\t"}
"""What stands between the columns of tables."""

_RECORDS: dict[str, Callable[[Chem.Mol], str]] = {
    ".sdf": sdf_record,
    ".mol": mol_block,
    ".xyz": xyz_record,
    ".smi": smiles_line,
    ".smiles": smiles_line,
}

EXTENSIONS = (*_FITS, *(f"{kind}.gz" for kind in _FITS if kind not in (".npz", ".mol")))
"""Endings of the files that can be written."""
