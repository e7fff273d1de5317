"""Records of Tripos MOL2 files, by RDKit's reader, which knows the atom types that Corina writes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rdkit import Chem, rdBase

from gendiff.files import UserError
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

BEGIN = "@<TRIPOS>MOLECULE"
_DUMMIES = {"Du", "LP", "Any", "Hal", "Het", "Hev"}
_BONDS = {"1", "2", "3", "am", "ar"}


def parse_mol2(lines: Lines, strict: bool) -> Iterator[Record]:
    """Records of a MOL2 file, one per `@<TRIPOS>MOLECULE`.

    Arguments:
        lines: Of the file.
        strict: Refuse what RDKit cannot sanitise; else keep it unsanitised.
    """
    number, size, block, began = 0, 0, list[str](), False
    for line in lines:
        if line.startswith(BEGIN):
            if began:
                yield _record(number, block, strict)
            number, size, block, began = number + 1, 0, [], True
        elif not began and line.strip() and not line.startswith("#"):
            raise UserError(f"{lines.path}: begins with {clean_name(line, 40)!r}, not with {BEGIN}; is it a MOL2 file?")
        block.append(line)
        size += len(line) + 1
        if size > MAX_RECORD:
            raise UserError(f"{lines.path}, record {number:,}: has over {MAX_RECORD:,} characters; is it a MOL2 file?")
    if began:
        yield _record(number, block, strict)


def _record(number: int, lines: list[str], strict: bool) -> Record:
    name = clean_name(lines[1]) if len(lines) > 1 else ""
    record = Record(number, "" if name == "****" else name)
    try:
        _check(lines)
        block = "\n".join(lines) + "\n"
        with rdBase.BlockLogs():
            record.mol = Chem.MolFromMol2Block(block, removeHs=False)
            if record.mol is None:
                raw = Chem.MolFromMol2Block(block, removeHs=False, sanitize=False, cleanupSubstructures=False)
                record.reason = explain_chemistry(raw) or "unreadable MOL2 block"
                if raw is not None and not strict:
                    record.mol, record.reason = raw, ""
                    record.notes.append("rejected")
    except Unusable as error:
        record.reason = str(error)
    except (ValueError, RuntimeError) as error:
        record.reason = f"unreadable MOL2 block: {one_line(error)}"
    if record.mol is not None and not record.reason:
        positions = record.mol.GetConformer().GetPositions()
        record.flat = len(positions) > 3 and not positions[:, 2].any()  # three atoms lie in a plane anyway
    return record


def _check(lines: list[str]) -> None:
    """Check what RDKit takes for granted: that atoms and bonds are there and are numbers, and that it has the elements.

    Raises:
        Unusable: if not.
    """
    counts = [word for line in lines[2:3] for word in line.split()[:2]]
    if not counts or not all(word.isascii() and word.isdigit() and len(word) < 8 for word in counts):
        raise Unusable("unreadable counts line" if len(lines) > 2 else "truncated record: no counts line")
    atoms, bonds = [int(word) for word in [*counts, "0"][:2]]
    if not atoms:
        raise Unusable("no atoms")
    rows = _section(lines, "@<TRIPOS>ATOM", atoms, "atoms")
    for place, row in enumerate(rows, 1):
        if len(row) < 6:
            raise Unusable(f"unreadable atom line: atom {place}")
        x = [to_float(word) for word in row[2:5]]
        if None in x:
            raise Unusable(f"unreadable coordinate: atom {place}")
        if not np.isfinite(np.array(x, float)).all():
            raise Unusable(f"NaN or infinite coordinate: atom {place}")
        symbol = row[5].split(".")[0]
        if symbol in _DUMMIES:
            raise Unusable(f"dummy or query atom: {symbol} (atom {place})")
        if symbol not in NUMBERS or symbol.isdigit():
            raise Unusable(f"unknown element: {clean_name(symbol, 20)} (atom {place})")
    ids = {row[0] for row in rows}
    if len(ids) < len(rows):
        raise Unusable("unreadable atom line: two atoms of one number")
    for place, row in enumerate(_section(lines, "@<TRIPOS>BOND", bonds, "bonds"), 1):
        if len(row) < 4 or row[1] == row[2] or not {row[1], row[2]} <= ids:
            raise Unusable(f"bond table that does not fit the atoms: bond {place}")
        if row[3] not in _BONDS:
            raise Unusable(f"unknown kind of bond: {clean_name(row[3], 20)} (bond {place})")


def _section(lines: list[str], title: str, count: int, what: str) -> list[list[str]]:
    """The words of the lines of a section.

    Raises:
        Unusable: if there are fewer than `count`.
    """
    begin = next((place for place, line in enumerate(lines) if line.startswith(title)), len(lines))
    end = next((p for p in range(begin + 1, len(lines)) if lines[p].startswith("@<TRIPOS>")), len(lines))
    rows = [line.split() for line in lines[begin + 1 : end] if line.strip() and not line.startswith("#")]
    if len(rows) < count:
        raise Unusable(f"truncated record: {len(rows):,} of {count:,} {what}")
    return rows[:count]
