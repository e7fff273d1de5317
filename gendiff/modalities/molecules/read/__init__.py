r"""Read molecules from files of many formats, and say what was read.

| extension         | record                                               | brings                                |
| ----------------- | ---------------------------------------------------- | ------------------------------------- |
| .sdf .sd .mol     | V2000 or V3000, ended by `$$$$`                      | bonds, charges, numeric fields, name  |
| .mol2             | `@<TRIPOS>MOLECULE`, atom types as Corina's          | bonds, name                           |
| .pdb .ent         | a residue that is a ligand, in each model            | bonds, name; :mod:`.pdb` says how     |
| .csv .tsv         | a row with a column of SMILES                        | bonds, charges, numeric columns, name |
| .smi .smiles .txt | a line: SMILES, then a name; `#` starts a comment    | bonds, charges, name                  |
| .xyz              | atom count, comment, a line `element x y z` per atom | name (the comment)                    |
| .npz              | a row of the arrays of `MoleculeArrays.to_arrays`    | whatever is in it                     |

Text files may be packed by gzip (.sdf.gz). They are read as a stream, some hundred molecules at a time; what is read
from large ones is kept on disk (:mod:`gendiff.modalities.molecules.store`).

Lengths are in Å. A record without 3-D coordinates (SMILES, a 2-D drawing, all coordinates zero) is embedded: hydrogens
are added, ETKDGv3 [1] draws a conformer from a seed of its own, MMFF94s [2] (UFF where that has no parameters) relaxes
it. A mol block counts as 3-D if a z is not zero or its header says so.

A record that cannot be used stops the reading with its file, number (from 1), name and reason, or is left out and
counted.

References:
    | [1] S. Wang et al., Improving conformer generation for small rings and macrocycles (2020), J. Chem. Inf. Model.
    | [2] T. A. Halgren, MMFF VI. MMFF94s option for energy minimization studies (1999), J. Comput. Chem. 20, 720
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from gendiff.files import MAX_BYTES, UserError, check_file, ending, opened, sha256
from gendiff.modalities.molecules.read.archive import read_archive
from gendiff.modalities.molecules.read.mol2 import parse_mol2
from gendiff.modalities.molecules.read.pdb import parse_pdb
from gendiff.modalities.molecules.read.report import Fragments, ReadReport, Tally
from gendiff.modalities.molecules.read.table import parse_table
from gendiff.modalities.molecules.read.text import (
    MAX_UNPACKED,
    Lines,
    Record,
    Unusable,
    one_line,
    parse_sdf,
    parse_smiles,
    parse_xyz,
)
from gendiff.modalities.molecules.records import (
    MAX_HEAVY_ATOMS,
    MIN_DISTANCE,
    Molecule,
    MoleculeArrays,
    canonical_smiles,
    clean_name,
    find_defects,
    from_mol,
)
from gendiff.modalities.molecules.store import keep

__all__ = ["EXTENSIONS", "ReadReport", "embed_3d", "read_molecules"]

SDF, SMILES, XYZ, NPZ = (".sdf", ".sd", ".mol"), (".smi", ".smiles", ".txt"), (".xyz",), (".npz",)
TABLE, MOL2, PDB = (".csv", ".tsv"), (".mol2",), (".pdb", ".ent")
PACKED = tuple(f"{name}.gz" for name in SDF + SMILES + TABLE + XYZ + MOL2 + PDB)
EXTENSIONS = SDF + SMILES + TABLE + XYZ + MOL2 + PDB + NPZ + PACKED

LARGE = 64 << 20  # bytes of text from which on molecules are kept on disk and not in memory
PACKING = 5  # how much smaller gzip makes files of molecules, about
CHUNK = 256  # records embedded and checked together
EMBEDDING_SECONDS = 30  # how long ETKDG may think about one molecule


def read_molecules(
    paths: str | Path | Iterable[str | Path],
    on_error: Literal["stop", "skip"] = "stop",
    *,
    embed: bool = True,
    add_hydrogens: bool = False,
    fragments: Fragments = "largest",
    strict: bool = True,
    split: Literal["train", "valid"] | None = None,
    max_heavy_atoms: int = MAX_HEAVY_ATOMS,
    seed: int = 0,
    smiles_column: str | None = None,
    store: bool | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[MoleculeArrays, ReadReport]:
    """Read the molecules of one or several files.

    Arguments:
        paths: Files, whose extension says the format, and folders of such files.
        on_error: "stop" at the first record that cannot be used, or "skip" such records and count them.
        embed: Give records without 3-D coordinates some; if false they cannot be used.
        add_hydrogens: Add the hydrogens that 3-D SDF records lack, at ideal positions; else they stay as they are.
        fragments: Of records with several fragments (salts) take the "largest" (most heavy atoms, then most atoms, then
            the first), "keep" them whole, or "refuse" them. Without bonds (XYZ) nothing is cut.
        strict: Refuse records whose chemistry RDKit rejects or with two atoms at one place. False keeps them, so that
            an evaluation of generated molecules can count them.
        split: Read only this part of `.npz` files, which then need an array `split` (0 train, 1 valid).
        max_heavy_atoms: Larger molecules cannot be used.
        seed: Of the embedding.
        smiles_column: Name of the column of SMILES in tables; by default `smiles` or the like.
        store: Keep the molecules as arrays on disk, one part at a time, so that memory does not grow with the files and
            another reading of the same files takes a moment (:mod:`gendiff.modalities.molecules.store`). By default
            if there are 64 MiB of text or more; archives (`.npz`) are arrays already.
        progress: Called with the fraction done, 0 to 1, now and then.

    Returns:
        The molecules, in the order of the files, and the report. From a store the molecules are
        :class:`~gendiff.modalities.molecules.store.StoredMolecules`.

    Raises:
        UserError: for a file that cannot be read, an unknown extension, a record that cannot be used
            (`on_error="stop"`), or if no usable molecule is left.
        ValueError: for an option that does not exist.
    """
    for name, value, choices in (
        ("on_error", on_error, ("stop", "skip")),
        ("fragments", fragments, ("largest", "keep", "refuse")),
        ("split", split, (None, "train", "valid")),
    ):
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")
    files = opened(paths, EXTENSIONS)
    if not files:
        raise UserError("no file of molecules given; name at least one")
    for path in files:
        check_file(path, MAX_BYTES if ending(path) in NPZ else MAX_UNPACKED)
        if ending(path) not in EXTENSIONS:
            known = " ".join(name for name in EXTENSIONS if not name.endswith(".gz"))
            raise UserError(
                f"{path}: unknown extension {ending(path)!r}; molecules are read from {known}, and text packed as .gz"
            )
    if split is not None and (whole := [path for path in files if ending(path) not in NPZ]):
        raise UserError(
            f"{whole[0]}: --split takes a part of .npz files with an array `split`, and this is none of them"
        )
    size = sum(path.stat().st_size for path in files)
    if store is None:
        text = [path for path in files if ending(path) not in NPZ]
        store = sum(path.stat().st_size * (PACKING if ending(path) in PACKED else 1) for path in text) >= LARGE
    options: dict[str, Any] = {
        "on_error": on_error,
        "embed": embed,
        "add_hydrogens": add_hydrogens,
        "fragments": fragments,
        "strict": strict,
        "split": split,
        "max_heavy_atoms": max_heavy_atoms,
        "seed": seed,
        "smiles_column": smiles_column,
    }
    reader = _Reader(**options, progress=progress, total_bytes=size, report=ReadReport(fragments))
    if not store:
        arrays = MoleculeArrays.concatenate([part for path in files for part in reader.read(path)])
        reader.finish()
        return arrays, reader.report
    hashes = {f"{place} {path.name}": sha256(path) for place, path in enumerate(files)}
    stored, facts, line = keep(
        hashes, options, lambda: (part for path in files for part in reader.read(path)), reader.finish
    )
    report = ReadReport.from_json(facts)
    report.store = line
    for file, path in zip(report.files, files, strict=True):
        file["path"] = str(path)
    return stored, report


def remarks(mol: Chem.Mol) -> Iterator[str]:
    """Yield what is remarkable about the atoms of a molecule, as the report counts it."""
    for name, of in (("isotopes", Chem.Atom.GetIsotope), ("radicals", Chem.Atom.GetNumRadicalElectrons)):
        if any(map(of, mol.GetAtoms())):
            yield name


def embed_3d(mol: Chem.Mol, seed: int = 0) -> Chem.Mol:
    """Return a molecule with hydrogens and one relaxed conformer: ETKDGv3, then MMFF94s, or UFF for want of parameters.

    Arguments:
        mol: A sanitised molecule; its own conformers are dropped.
        seed: Of the conformer; the same seed gives the same coordinates.

    Raises:
        ValueError: if no conformer is found or no force field knows the atoms.
    """
    mol = Chem.AddHs(mol)
    options = rdDistGeom.ETKDGv3()
    settings = {"randomSeed": seed % (1 << 31), "timeout": EMBEDDING_SECONDS, "useRandomCoords": False}
    for settings["useRandomCoords"] in (False, True):
        for name, value in settings.items():
            if hasattr(options, name):  # `timeout` is new in RDKit 2025
                setattr(options, name, value)
        if rdDistGeom.EmbedMolecule(mol, options) >= 0:
            break
    else:
        raise Unusable("cannot be embedded in 3-D: ETKDGv3 finds no conformer")
    _set_apart(mol)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, "MMFF94s", maxIters=1000)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=1000)
    else:
        raise Unusable("cannot be embedded in 3-D: no force field (MMFF94s, UFF) has parameters for its atoms")
    return mol


def _set_apart(mol: Chem.Mol) -> None:
    """Line up the fragments of an embedded molecule, 2 Å between them; RDKit puts all of them at the origin."""
    fragments, edge = Chem.GetMolFrags(mol), 0.0
    if len(fragments) > 1:
        x = mol.GetConformer().GetPositions()
        for fragment in map(list, fragments):
            x[fragment, 0] += edge - x[fragment, 0].min()
            edge = x[fragment, 0].max() + 2.0
        mol.GetConformer().SetPositions(x)


@dataclass
class _Reader:
    """Reads files with one set of options into one report."""

    on_error: str
    embed: bool
    add_hydrogens: bool
    fragments: Fragments
    strict: bool
    split: str | None
    max_heavy_atoms: int
    seed: int
    progress: Callable[[float], None] | None
    total_bytes: int
    report: ReadReport
    smiles_column: str | None = None
    done_bytes: int = 0
    fields: set[str] = field(default_factory=set)  # names of numeric data fields met so far
    tally: Tally = field(default_factory=Tally)

    def read(self, path: Path) -> Iterator[MoleculeArrays]:
        """The usable molecules of one file, some at a time."""
        before, size, kept = self.report.records, path.stat().st_size, 0
        for part in self._parts(path, ending(path).removesuffix(".gz")):
            self.tally.add(part)
            kept += len(part)
            yield part
        count = self.report.records - before
        facts = {"path": str(path), "bytes": size, "sha256": sha256(path), "records": count, "kept": kept}
        self.report.files.append(facts)

    def finish(self) -> dict[str, Any]:
        """Complete the report, and return it as JSON.

        Raises:
            UserError: if no molecule was kept.
        """
        report, files = self.report, self.report.files
        if not sum(file["kept"] for file in files):
            where, why = files[0]["path"] if len(files) == 1 else f"{len(files)} files", report.reasons()
            raise UserError(f"{where}: no usable molecule in {report.records:,} records" + (f": {why}" if why else ""))
        self.tally.finish(report)
        return report.to_json()

    def _parts(self, path: Path, kind: str) -> Iterator[MoleculeArrays]:
        if kind in NPZ:
            yield read_archive(path, self)
            self._advance(path.stat().st_size)
            return
        lines = Lines(path, self._advance)
        if kind in SDF:
            records = parse_sdf(lines, self.strict, self.fields)
        elif kind in TABLE:
            records = parse_table(lines, self.smiles_column, self.fields)
        elif kind in MOL2:
            records = parse_mol2(lines, self.strict)
        elif kind in PDB:
            records = parse_pdb(path, self._advance, self.strict, self.report)
        else:
            records = parse_smiles(lines) if kind in SMILES else parse_xyz(lines)
        yield from self._gather(path, records)

    def refuse(self, path: Path, number: int, name: str, reason: str) -> None:
        """Stop at, or count, a record that cannot be used; `reason` is "kind: detail"."""
        where = f"record {number:,}" + (f" ({name})" if name else "")
        reason = clean_name(reason, 200)
        if self.on_error == "stop":
            raise UserError(f"{path}, {where}: {reason}; leave such records out with --on-error skip")
        kind, _, detail = reason.partition(": ")
        self.report.skipped[kind] += 1
        self.report.examples.setdefault(kind, f"{path.name}, {where}" + (f": {detail}" if detail else ""))

    def defects(self, molecules: list[Molecule]) -> list[str]:
        """Why each molecule cannot be used, or ""."""
        if not molecules:
            return []
        return find_defects(
            [len(molecule.atomic_numbers) for molecule in molecules],
            np.concatenate([molecule.atomic_numbers for molecule in molecules]),
            np.concatenate([molecule.positions for molecule in molecules]),
            self.max_heavy_atoms,
            MIN_DISTANCE if self.strict else 0.0,
        )

    def _advance(self, count: int) -> None:
        self.done_bytes += count
        if self.progress:
            self.progress(min(1.0, self.done_bytes / self.total_bytes))

    def _gather(self, path: Path, records: Iterator[Record]) -> Iterator[MoleculeArrays]:
        """Complete, check and collect records, a chunk at a time."""

        def parsed() -> Iterator[Record]:
            for record in records:
                self.report.records += 1
                if record.reason:
                    self.refuse(path, record.number, record.name, record.reason)
                else:
                    yield record

        stream = parsed()
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # RDKit embeds and relaxes without Python's lock
            while chunk := list(islice(stream, CHUNK)):
                with rdBase.BlockLogs():
                    list((pool.map if any(record.flat for record in chunk) else map)(self._complete, chunk))
                    for record in chunk:
                        if record.mol is not None and not record.reason:
                            smiles = ""
                            if "orders_unknown" not in record.notes:
                                smiles = canonical_smiles(record.mol, sanitised="rejected" not in record.notes)
                            molecule = from_mol(record.mol, smiles, record.name)
                            record.molecule = molecule._replace(properties=record.properties)
                defects = iter(self.defects([record.molecule for record in chunk if record.molecule]))
                for record in chunk:
                    record.reason = record.reason or next(defects)
                    if record.reason:
                        self.refuse(path, record.number, record.name, record.reason)
                    for note in () if record.reason else record.notes:
                        setattr(self.report, note, getattr(self.report, note) + 1)
                good = [record.molecule for record in chunk if record.molecule and not record.reason]
                yield MoleculeArrays.from_molecules(good)

    def _complete(self, record: Record) -> None:
        """Cut and embed the RDKit molecule of a record, or note why that is impossible."""
        if record.mol is None:
            return
        try:
            mol = self._one_fragment(record.mol, record.notes)
            if not mol.GetNumAtoms():
                raise Unusable("no atoms")
            if mol.GetNumHeavyAtoms() > self.max_heavy_atoms:
                raise Unusable(f"too many atoms: {mol.GetNumHeavyAtoms():,} heavy; limit {self.max_heavy_atoms}")
            if mol.HasQuery() or (record.flat and any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms())):
                raise Unusable("dummy or query atom")
            if record.flat and not self.embed:
                raise Unusable("no 3-D coordinates")
            record.notes += remarks(mol)
            if record.flat:
                mol = embed_3d(mol, 1_000_003 * self.seed + record.number)
                record.notes.append("embedded")
            elif "rejected" not in record.notes and mol.GetNumAtoms(onlyExplicit=False) > mol.GetNumAtoms():
                if self.add_hydrogens:
                    mol = Chem.AddHs(mol, addCoords=True)
                else:
                    record.notes.append("without_hydrogens")
            record.mol = mol
        except Unusable as error:
            record.reason = str(error)
        except (ValueError, RuntimeError) as error:  # the kinds RDKit raises
            record.reason = f"chemistry RDKit rejects: {one_line(error)}"

    def _one_fragment(self, mol: Chem.Mol, notes: list[str]) -> Chem.Mol:
        count = len(Chem.GetMolFrags(mol))
        if count < 2:
            return mol
        if self.fragments == "refuse":
            raise Unusable(f"several fragments: {count}")
        notes.append("fragments")
        if self.fragments == "keep":
            return mol
        parts = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags="rejected" not in notes)
        return max(parts, key=lambda part: (part.GetNumHeavyAtoms(), part.GetNumAtoms()))
