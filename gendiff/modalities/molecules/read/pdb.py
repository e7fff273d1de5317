"""Ligands of PDB files: every residue that is no water, no ion and no part of a polymer is a record.

In a file with a polymer (protein or nucleic acid) ligands are HETATM residues; in a file without one every residue may
be a ligand. Modified residues belong to their polymer where SEQRES or MODRES name them. A ligand of several residues (a
glycan) comes as its residues, and every model of a file brings its own. Of alternative locations the first is taken.

Bonds are those of CONECT; where a residue has none they are drawn by RDKit between atoms near each other. PDB files
have no bond orders, but some programs repeat a CONECT entry for a multiple bond. Where nothing is repeated and no
explicit hydrogens fill all valences, orders are read off the bond lengths by the heavy-atom rule of
:mod:`gendiff.modalities.molecules.bonds`, which coarse crystal structures mislead; where RDKit rejects the result all
bonds stay single and the SMILES unknown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from gendiff.files import UserError
from gendiff.modalities.molecules.bonds import heavy_orders
from gendiff.modalities.molecules.read.report import ReadReport
from gendiff.modalities.molecules.read.text import (
    MAX_RECORD,
    NUMBERS,
    Lines,
    Record,
    Unusable,
    explain_chemistry,
    one_line,
    to_float,
)
from gendiff.modalities.molecules.records import clean_name

WATERS = {"HOH", "WAT", "DOD", "H2O", "TIP", "SOL"}
IONS = {"SO4", "PO4", "NO3", "CO3", "NH4", "PER", "CLO", "SCN", "OH", "PI", "2HP", "IOD"}
"""Ions of several atoms, and names that are no element; a residue of one atom is one as well."""
POLYMER = set(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL ASX GLX SEC PYL MSE "
    "HID HIE HIP HSD HSE HSP CYX CYM ASH GLH LYN ACE NME NMA NH2 A C G U I N DA DC DG DT DU DI DN".split()
)
"""Amino acids, their variants in force fields, caps, and nucleotides."""

MAX_ATOMS = 10_000  # of a residue
MAX_BONDS = 32  # of an atom


@dataclass
class _Outline:
    """What a first look at a file finds: names of residues of a polymer, and bonds that hold in every model."""

    polymer: bool = False
    names: set[str] = field(default_factory=lambda: set(POLYMER))
    bonds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class _Model:
    """The lines of atoms of one model by residue (name, chain, number), and its own bonds."""

    number: int = 1
    title: str = ""
    residues: dict[tuple[str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    bonds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    size: int = 0


def parse_pdb(path: Path, advance: Callable[[int], None], strict: bool, report: ReadReport) -> Iterator[Record]:
    """Records of a PDB file.

    Arguments:
        path: Read twice, because bonds come after the atoms.
        advance: Told how many bytes went by.
        strict: Refuse what RDKit cannot sanitise; else keep it unsanitised.
        report: Gets what was taken and what was left aside.
    """
    outline, number = _look(Lines(path)), 0
    for model in _models(Lines(path, advance), outline):
        for (name, chain, place), lines in model.residues.items():
            kind = _kind(name, lines, outline)
            if kind != "ligand":
                report.aside[kind] += 1
                continue
            number += 1
            report.ligands[name] += 1
            where = " ".join(filter(None, (name, chain, place)))
            title = model.title or where + (f", model {model.number}" if model.number > 1 else "")
            bonds = model.bonds or outline.bonds
            yield _record(Record(number, clean_name(title)), lines, bonds, strict, report)


def _look(lines: Lines) -> _Outline:
    outline, inside = _Outline(), False
    for line in lines:
        tag = line[:6].rstrip()
        if tag in ("MODEL", "ENDMDL"):
            inside = tag == "MODEL"
        elif tag == "SEQRES":
            outline.polymer = True
            outline.names.update(word[:3] for word in line[19:70].split())
        elif tag == "MODRES":
            outline.names.add(line[12:15].strip())
        elif tag == "ATOM":
            outline.polymer |= line[17:20].strip() in POLYMER
        elif tag == "CONECT" and not inside:
            _connect(lines.path, outline.bonds, line)
    return outline


def _models(lines: Lines, outline: _Outline) -> Iterator[_Model]:
    model, count = _Model(), 1
    for line in lines:
        tag = line[:6].rstrip()
        if tag in ("MODEL", "ENDMDL"):
            if model.residues:
                yield model
                count += 1
            model = _Model(count)
        elif tag == "COMPND" and not outline.polymer and not line[10:].startswith("MOL_ID"):
            model.title = model.title or clean_name(line[10:])
        elif tag == "CONECT":
            _connect(lines.path, model.bonds, line)
        elif tag == "HETATM" or (tag == "ATOM" and not outline.polymer):
            name = line[17:20].strip()
            if outline.polymer and name in outline.names:
                continue
            model.size += len(line)
            if model.size > 8 * MAX_RECORD:
                raise UserError(f"{lines.path}: model {count:,} has too many atoms outside of polymers")
            model.residues[name, line[21:22].strip(), line[22:27].strip()].append(line)
    if model.residues:
        yield model


def _connect(path: Path, bonds: dict[str, list[str]], line: str) -> None:
    serials = [line[place : place + 5].strip() for place in range(6, 31, 5)]
    if len(bonds[serials[0]]) < MAX_BONDS:
        bonds[serials[0]].extend(filter(None, serials[1:]))
    if len(bonds) > 1_000_000:
        raise UserError(f"{path}: has over a million CONECT records")


def _kind(name: str, lines: list[str], outline: _Outline) -> str:
    if name in WATERS:
        return "water"
    atoms = {line[12:16] for line in lines}
    if name in IONS or (len(atoms) == 1 and (outline.polymer or name.rstrip("+-0123456789").capitalize() in NUMBERS)):
        return "ion"
    return "ligand"


def _record(record: Record, lines: list[str], bonds: dict[str, list[str]], strict: bool, report: ReadReport) -> Record:
    first = next((line[16] for line in lines if line[16:17].strip()), " ")
    kept = [line for line in lines if line[16:17] in (" ", "", first)]
    if len(kept) < len(lines):
        report.aside["other conformation"] += 1
    try:
        _check(kept)
        with rdBase.BlockLogs():
            mol, known = _bonded(kept, bonds)
            if mol is None:
                raise Unusable("unreadable PDB residue")
            orders, notes = (mol, []) if known else _with_orders(mol)
            problem = explain_chemistry(orders)
            if problem and not known:
                orders, notes = Chem.Mol(mol), ["orders_unknown"]
                problem = explain_chemistry(orders)
            if problem and strict:
                raise Unusable(problem)
            if not problem:
                Chem.SanitizeMol(orders)
        record.mol, record.notes = orders, [*notes, *(["rejected"] if problem else [])]
    except Unusable as error:
        record.reason = str(error)
    except (ValueError, RuntimeError) as error:
        record.reason = f"chemistry RDKit rejects: {one_line(error)}"
    return record


def _check(lines: list[str]) -> None:
    """Check what RDKit takes for granted.

    Raises:
        Unusable: for what is not there or no number.
    """
    if len(lines) > MAX_ATOMS:
        raise Unusable(f"too many atoms: {len(lines):,}")
    for place, line in enumerate(lines, 1):
        if len(line) < 54:
            raise Unusable(f"truncated record: the line of atom {place} has {len(line)} characters")
        x = [to_float(line[at : at + 8]) for at in (30, 38, 46)]
        if None in x:
            raise Unusable(f"unreadable coordinate: atom {place}")
        if not np.isfinite(np.array(x, float)).all():
            raise Unusable(f"NaN or infinite coordinate: atom {place}")
        symbol = line[76:78].strip() or "".join(filter(str.isalpha, line[12:14]))
        if not {symbol.capitalize(), symbol[:1]} & NUMBERS.keys() or symbol.isdigit():
            raise Unusable(f"unknown element: {clean_name(symbol, 20)} (atom {place})")


def _bonded(lines: list[str], bonds: dict[str, list[str]]) -> tuple[Chem.Mol | None, bool]:
    """The molecule of a residue, unsanitised, and whether its bond orders are stated."""
    place: dict[str, int] = {}
    for index, line in enumerate(lines, 1):
        place.setdefault(line[6:11].strip(), index)
    pairs = Counter(
        (i, place[other]) for serial, i in place.items() for other in bonds.get(serial, ()) if other in place
    )
    pairs = Counter({(i, j): max(count, pairs[j, i]) for (i, j), count in pairs.items() if i != j})
    text = [f"HETATM{index:5d} {line[12:16]} {line[17:80]}" for index, line in enumerate(lines, 1)]
    text += [f"CONECT{i:5d}{j:5d}" for i, j in sorted(pairs.elements()) if i < j]
    block = "\n".join([*text, "END", ""])
    mol = Chem.MolFromPDBBlock(block, sanitize=False, removeHs=False, proximityBonding=not pairs)
    return mol, any(count > 1 for count in pairs.values())


def _with_orders(mol: Chem.Mol) -> tuple[Chem.Mol, list[str]]:
    """A copy with bond orders read off the lengths, and "orders_read", if open valences leave room for them."""
    mol = Chem.RWMol(mol)
    mol.UpdatePropertyCache(strict=False)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    heavy = np.flatnonzero(numbers > 1)
    if len(heavy) < 2 or ((numbers == 1).any() and not any(atom.GetNumImplicitHs() for atom in mol.GetAtoms())):
        return mol.GetMol(), []
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()])
    positions = mol.GetConformer().GetPositions()
    mask = np.ones((1, len(heavy)), bool)
    orders = heavy_orders(numbers[None, heavy], positions[None, heavy], mask, charges[None, heavy])[0]
    kinds = {2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    row = {int(atom): at for at, atom in enumerate(heavy)}
    for bond in mol.GetBonds():
        i, j = row.get(bond.GetBeginAtomIdx()), row.get(bond.GetEndAtomIdx())
        if i is not None and j is not None and orders[i, j] in kinds:
            bond.SetBondType(kinds[int(orders[i, j])])
    return mol.GetMol(), ["orders_read"]
