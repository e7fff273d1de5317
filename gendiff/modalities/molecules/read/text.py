"""Records of text files: SDF, SMILES lists and XYZ. Each parser turns lines into records, sound or with a reason.

Nothing here trusts a file: lines, records and SMILES are bounded, and a record that RDKit does not read is looked at
once more to say why, because RDKit itself tells only its log.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from gendiff.files import UserError
from gendiff.modalities.molecules.records import Molecule, clean_name, to_float32

MAX_LINE = 1 << 20  # bytes in a line
MAX_UNPACKED = 64 << 30  # bytes in a text file, unpacked; it is never in memory as a whole
MAX_RECORD = 1 << 22  # characters in a record of an SDF
MAX_SMILES = 4_000  # characters in a SMILES
MAX_FIELDS = 256  # numeric data fields taken from SDF files

NUMBERS = {Chem.GetPeriodicTable().GetElementSymbol(number): number for number in range(1, 119)} | {"D": 1, "T": 1}
NUMBERS |= {str(number): number for number in range(1, 119)}
_QUERIES = {"A", "Q", "*", "L", "LP", "R", "R#", "X", "M", "AH", "QH", "XH", "MH", "Du"}
HEADERS = ("smiles", "canonical_smiles", "canonicalsmiles", "isomeric_smiles", "isomericsmiles", "smi")
"""What a column of SMILES is called, the likeliest first."""


class Unusable(ValueError):
    """Why a record cannot be used, as "kind: detail"."""


@dataclass
class Record:
    """A record on its way: a molecule of RDKit, later of arrays; or the reason why there is none."""

    number: int
    name: str = ""
    mol: Chem.Mol | None = None
    molecule: Molecule | None = None
    properties: dict[str, float] = field(default_factory=dict)
    flat: bool = False  # no 3-D coordinates
    notes: list[str] = field(default_factory=list)  # counters of the report that go up if the molecule is kept
    reason: str = ""


class Lines:
    """The lines of a text file, packed by gzip or not, without white space at their ends.

    `advance` is told how many bytes of the file went by.
    """

    def __init__(self, path: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        self.path, self.advance = path, advance

    def __iter__(self) -> Iterator[str]:
        passed, size = 0, 0
        packed = self.path.suffix.lower() == ".gz"
        try:
            with open(self.path, "rb") as raw, gzip.open(raw) if packed else raw as file:
                for line in self._lines(file):
                    size += len(line)
                    if size > MAX_UNPACKED:
                        raise UserError(f"{self.path}: unpacks to more than the limit of {MAX_UNPACKED:,} bytes")
                    if (count := raw.tell() if packed else size) > passed + (1 << 18):
                        self.advance(count - passed)
                        passed = count
                    yield line.decode("utf-8", "replace").rstrip()
                self.advance(raw.tell() - passed)
        except gzip.BadGzipFile as error:
            reason = "is damaged" if size else "is not packed by gzip"
            raise UserError(f"{self.path}: {reason} ({one_line(error).lower()})") from None
        except (EOFError, zlib.error) as error:
            reason = "ends too early" if isinstance(error, EOFError) else "is damaged"
            raise UserError(f"{self.path}: the gzip file {reason}; copy or download it again") from None
        except OSError as error:
            raise UserError(f"{self.path}: {(error.strerror or str(error)).lower()}") from None

    def _lines(self, file: Any) -> Iterator[bytes]:
        head = file.peek(4096)[:4096]
        if b"\0" in head:
            raise UserError(f"{self.path}: is not a text file")
        if head.startswith(b"\xef\xbb\xbf"):
            file.read(3)
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise UserError(f"{self.path}: a line has over {MAX_LINE:,} bytes; is it a file of molecules?")
            yield line


def parse_sdf(lines: Lines, strict: bool, fields: set[str]) -> Iterator[Record]:
    """Records of an SDF.

    Arguments:
        lines: Of the file.
        strict: Refuse what RDKit cannot sanitise; else keep it unsanitised.
        fields: Names of the numeric data fields taken so far; grows up to `MAX_FIELDS`.
    """
    number, size, block = 1, 0, list[str]()
    for line in lines:
        if line.startswith("$$$$"):
            yield _sdf_record(number, block, True, strict, fields)
            number, size, block = number + 1, 0, []
            continue
        block.append(line)
        size += len(line) + 1
        if size > MAX_RECORD:
            raise UserError(f"{lines.path}, record {number:,}: has over {MAX_RECORD:,} characters; is it an SDF?")
    if any(line.strip() for line in block):
        yield _sdf_record(number, block, False, strict, fields)


def _sdf_record(number: int, lines: list[str], ended: bool, strict: bool, fields: set[str]) -> Record:
    record = Record(number, clean_name(lines[0]) if lines else "")
    end = lines.index("M  END") + 1 if "M  END" in lines else 0
    if not end:
        record.reason = _explain_mol_block(lines) if ended else "truncated record: the file ends inside it"
        return record
    if not ended and any(line.strip() for line in lines[end:]):
        record.reason = "truncated record: the file ends inside its data fields"
        return record
    block = "\n".join(lines[:end]) + "\n"
    with rdBase.BlockLogs():
        record.mol = Chem.MolFromMolBlock(block, removeHs=False)
        if record.mol is None and not strict:
            record.mol = Chem.MolFromMolBlock(block, removeHs=False, sanitize=False)
            if record.mol is not None:
                record.notes.append("rejected")
    if record.mol is None:
        record.reason = _explain_mol_block(lines[:end])
    else:
        record.flat = _is_flat(record.mol, lines[1])
        record.properties = _numeric_fields(lines[end:], fields)
    return record


def _is_flat(mol: Chem.Mol, header: str) -> bool:
    """Whether a mol block has no 3-D coordinates: every z is zero and its header does not say 3D, or all are zero."""
    positions = mol.GetConformer().GetPositions() if mol.GetNumConformers() else np.zeros((mol.GetNumAtoms(), 3))
    declared = header[20:22] == "3D"
    if len(positions) == 1:  # an atom is where it is, unless hydrogens belong around it
        return not (declared or mol.NeedsUpdatePropertyCache()) and mol.GetNumAtoms(onlyExplicit=False) > 1
    return not positions[:, 2].any() and not (declared and positions.any())


def _numeric_fields(lines: list[str], fields: set[str]) -> dict[str, float]:
    """Data fields `> <name>` whose value is one line with one finite number."""
    values = {}
    for header, value, rest in zip(lines, lines[1:], [*lines[2:], ""], strict=False):
        if header.startswith(">") and not rest.strip() and (match := re.search(r"<([^>]+)>", header)):
            number, name = to_float(value), clean_name(match[1])
            if number is not None and np.isfinite(number) and (name in fields or len(fields) < MAX_FIELDS):
                fields.add(name)
                values[name] = number
    return values


def _explain_mol_block(lines: list[str]) -> str:
    """Why RDKit does not read a mol block."""
    if len(lines) < 4 or not lines[3].strip():
        return "truncated record: no counts line"
    if "V3000" in lines[3]:
        rows = [line.split()[3:7] for line in lines if re.match(r"M  V30 +\d+ +\S+ +\S+ +\S+ +\S+ +\d+", line)]
    else:
        try:
            atoms, bonds = int(lines[3][:3]), int(lines[3][3:6])
        except ValueError:
            return f"unreadable counts line: {lines[3][:40]!r}"
        if len(lines) < 4 + atoms + bonds:
            return f"truncated record: {len(lines) - 4} lines for {atoms} atoms and {bonds} bonds"
        rows = [[line[31:34].strip(), line[:10], line[10:20], line[20:30]] for line in lines[4 : 4 + atoms]]
    for number, (symbol, *coordinates) in enumerate(rows, 1):
        values = [to_float(word) for word in coordinates]
        if None in values:
            return f"unreadable atom line: atom {number}"
        if not np.isfinite(np.array(values, float)).all():
            return f"NaN or infinite coordinate: atom {number}"
        if symbol in _QUERIES or symbol.startswith("["):
            return f"dummy or query atom: {symbol} (atom {number})"
        if symbol not in NUMBERS:
            return f"unknown element: {symbol} (atom {number})"
    if "M  END" not in lines:
        return "truncated record: no M  END line"
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock("\n".join(lines) + "\n", removeHs=False, sanitize=False)
    return explain_chemistry(mol) or "unreadable mol block"


def parse_smiles(lines: Lines) -> Iterator[Record]:
    """Records of a SMILES list; a first line `smiles` is a header, empty lines and comments (`#`) are nothing."""
    number = 0
    for line in lines:
        text, _, name = line.strip().replace("\t", " ").partition(" ")
        if not text or text.startswith("#") or (number == 0 and text.lower() in HEADERS):
            continue
        number += 1
        yield smiles_record(number, text, name)


def smiles_record(number: int, text: str, name: str) -> Record:
    """The record of a SMILES; its name, if it has none, is the SMILES."""
    record = Record(number, clean_name(name) or clean_name(text), flat=True)
    if len(text) > MAX_SMILES:
        record.reason = f"too many atoms: a SMILES of {len(text):,} characters; limit {MAX_SMILES:,}"
    else:
        with rdBase.BlockLogs():
            record.mol = Chem.MolFromSmiles(text)
        record.reason = _explain_smiles(text) if record.mol is None else ""
    return record


def _explain_smiles(text: str) -> str:
    """Why RDKit does not read a SMILES."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text, sanitize=False)
    if mol is not None:
        return explain_chemistry(mol) or "chemistry RDKit rejects"
    place = None
    if text.isascii() and hasattr(rdBase, "CaptureErrorLog"):  # new in RDKit 2026
        with rdBase.CaptureErrorLog() as log:
            Chem.MolFromSmiles(text, sanitize=False)
        place = re.search(r"position (\d+)", log.messages)
    return f"unreadable SMILES: {text[:60]}" + (f", near character {place[1]}" if place else "")


def explain_chemistry(mol: Chem.Mol | None) -> str:
    """What RDKit finds wrong with an unsanitised molecule, "" if nothing."""
    with rdBase.BlockLogs():
        problems = Chem.DetectChemistryProblems(mol) if mol is not None else ()
    return f"chemistry RDKit rejects: {one_line(problems[0].Message())}" if problems else ""


def parse_xyz(lines: Lines) -> Iterator[Record]:
    """Records of an XYZ file, one per frame; elements are symbols or atomic numbers, further columns are ignored."""
    stream = iter(lines)
    number, line = 0, next(stream, None)
    while line is not None:
        if not line.strip():
            line = next(stream, None)
            continue
        number += 1
        record, count, rows = Record(number), _count(line), list[list[str]]()
        if count is None:
            record.reason = f"no atom count: expected a number, found {line.strip()[:40]!r}"
        else:
            record.name = clean_name(next(stream, ""))
            line = next(stream, None)
            while len(rows) < count and line is not None and len(words := line.split()) > 3:
                rows.append(words[:4])
                line = next(stream, None)
            if record.name.startswith("gdb "):  # a raw QM9 file: frequencies, SMILES and InChI follow the atoms
                record.name, line = " ".join(record.name.split()[:2]), next(islice(stream, 2, None), None)
            try:
                record.molecule = _xyz_molecule(rows, count, record.name)
                record.notes += ["isotopes"] * any(row[0].upper() in ("D", "T") for row in rows)
            except Unusable as error:
                record.reason = str(error)
        yield record
        while record.reason and line is not None and _count(line) is None:
            line = next(stream, None)  # go on at the next record


def _xyz_molecule(rows: list[list[str]], count: int, name: str) -> Molecule:
    if len(rows) < count:
        raise Unusable(f"truncated record: {len(rows):,} of {count:,} atoms")
    numbers = [NUMBERS.get(row[0]) or NUMBERS.get(row[0].capitalize(), 0) for row in rows]
    if 0 in numbers:
        atom = numbers.index(0)
        raise Unusable(f"unknown element: {rows[atom][0][:20]} (atom {atom + 1})")
    try:
        positions = np.array([row[1:] for row in rows], np.float64).reshape(-1, 3)
    except ValueError:
        try:  # exponents as Mathematica and Fortran write them
            positions = np.array([[re.sub(r"\*\^|[dD]", "e", word) for word in row[1:]] for row in rows], np.float64)
        except ValueError as error:
            raise Unusable(f"unreadable coordinate: {one_line(error)}") from None
    x, charges, bonds = to_float32(positions), np.zeros(count, np.int8), np.zeros((0, 3), np.int32)
    return Molecule(np.array(numbers, np.uint8), x, charges, bonds, "", name, {})


def one_line(error: Any) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split())[:160]


def _count(line: str) -> int | None:
    text = line.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def to_float(text: str) -> float | None:
    """The number that a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None
