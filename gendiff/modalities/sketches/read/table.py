r"""Tables of points, `.csv` and `.tsv`: a row a point, with a first line that names the columns.

| column                  | meaning                                                                        |
| ----------------------- | ------------------------------------------------------------------------------ |
| id, sketch or sequence  | rows of one value are one record, in their order; without it all rows are      |
| pen                     | 1 on the last point of a stroke, else 0                                        |
| stroke                  | number or name of the stroke, the other way to tell them                       |
| t or time               | when the point was drawn, in ms; empty if unknown                              |
| word, label or class    | the class of the record                                                        |
| any other               | a coordinate, in the order of the columns: x, y, or any number of them         |

Without `pen` and `stroke` the records are sequences without a pen.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError, ending
from gendiff.modalities.sketches.read.raw import MAX_NUMBERS, Bad, Raw, clean
from gendiff.modalities.sketches.read.text import lines

ROLES = {
    **dict.fromkeys(("id", "sketch", "sequence"), "id"),
    **dict.fromkeys(("t", "time"), "time"),
    **dict.fromkeys(("word", "label", "class"), "word"),
    "pen": "pen",
    "stroke": "stroke",
}

MAX_COLUMNS = 1_000

_CHUNK = 1 << 16  # rows converted together


def parse_table(path: Path) -> Iterator[Raw | Bad]:
    """All records of a file at once."""
    rows = csv.reader(_texts(path), delimiter="\t" if ending(path).startswith(".tsv") else ",")
    try:
        table = _Table(path, next(rows, []))
        numbered = ((rows.line_num, row) for row in rows if row)
        while chunk := list(islice(numbered, _CHUNK)):
            table.add(chunk)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num:,}: {error}") from None
    yield from table.records()


def _texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(lines(path), 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}: line {number:,} is not UTF-8 text; save the table as UTF-8") from None


class _Table:
    """The columns of a file by what they mean. A row that cannot be used makes its record unusable."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path = path
        names = [clean(name.strip(), 40) for name in header]
        if len(names) > MAX_COLUMNS:
            raise UserError(f"{path}: has {len(names):,} columns, more than the limit of {MAX_COLUMNS:,}")
        if "" in names or any(_number(name) is not None for name in names):
            raise UserError(f"{path}: the first line must name the columns, such as id,x,y,pen")
        roles = [ROLES.get(name.lower(), name) for name in names]
        for role in roles:
            if roles.count(role) > 1:
                twice = " and ".join(name for name, other in zip(names, roles, strict=True) if other == role)
                raise UserError(f"{path}: several columns for the same: {twice}")
        self.names = dict(zip(roles, names, strict=True))
        self.place = {role: roles.index(role) for role in roles}
        self.coordinates = [name for name in roles if name not in ROLES.values()]
        if not self.coordinates:
            raise UserError(f"{path}: has no columns of coordinates, such as x and y, but {', '.join(names)}")
        self.codes: dict[str, dict[str, int]] = {role: {} for role in ("id", "stroke", "word")}
        self.columns: dict[str, list[NDArray[Any]]] = {role: [] for role in ["id", *roles]}
        self.reasons: dict[int, str] = {}
        self.rows = 0

    def add(self, chunk: Sequence[tuple[int, list[str]]]) -> None:
        """Convert some rows, each with its line."""
        self.rows += len(chunk)
        if self.rows * len(self.coordinates) > MAX_NUMBERS:
            raise UserError(f"{self.path}: has over {MAX_NUMBERS:,} numbers")
        width = len(self.place)
        rows = [row if len(row) == width else (row + [""] * width)[:width] for _, row in chunk]
        cells = dict(zip(self.place, zip(*rows, strict=True), strict=True))
        records = self._codes("id", cells["id"]) if "id" in self.place else np.zeros(len(chunk), np.int64)
        for place in (i for i, (_, row) in enumerate(chunk) if len(row) != width):
            count = len(chunk[place][1])
            self._refuse(
                records[place], f"a row of another length: line {chunk[place][0]:,} has {count:,} of {width:,}"
            )
        for role in self.columns:
            if role in ("stroke", "word"):
                self.columns[role].append(self._codes(role, cells[role]))
            elif role != "id":
                column = cells[role]
                values, bad = _numbers([text.strip() or "nan" for text in column] if role == "time" else column)
                if role == "pen":
                    bad = [*bad, *np.flatnonzero((values != 0) & (values != 1)).tolist()]
                for place in bad:
                    text = f"line {chunk[place][0]:,}, {self.names[role]} = {clean(column[place], 40)!r}"
                    kind = "the pen is neither 0 nor 1" if role == "pen" else "a cell is no number"
                    self._refuse(records[place], f"{kind}: {text}")
                self.columns[role].append(values)
        self.columns["id"].append(records)

    def _codes(self, role: str, texts: Sequence[str]) -> NDArray[np.int64]:
        """A column of texts as numbers, from 0 in the order in which they first occur."""
        codes = self.codes[role]
        return np.array([codes.setdefault(text, len(codes)) for text in texts])

    def _refuse(self, record: int, reason: str) -> None:
        self.reasons.setdefault(int(record), reason)

    def records(self) -> Iterator[Raw | Bad]:
        """The records, those that cannot be used first."""
        if not self.rows:
            raise UserError(f"{self.path}: has no rows below the names of the columns")
        columns = {role: np.concatenate(parts) for role, parts in self.columns.items()}
        record = columns["id"]
        sizes, order = np.bincount(record), np.argsort(record, kind="stable")
        columns = {role: column[order] for role, column in columns.items()}
        first = np.cumsum(sizes) - sizes
        ends: NDArray[np.bool_] | None = None
        if "pen" in columns:
            ends = columns["pen"] == 1
        elif "stroke" in columns:
            ends = np.append(columns["stroke"][1:] != columns["stroke"][:-1], True)
        if ends is not None:
            ends[first + sizes - 1] = True
        names = [f"{self.names['id']} {clean(name, 40)}" for name in self.codes["id"]] or [""]
        for index in sorted(self.reasons):
            yield Bad(index + 1, names[index], self.reasons[index])
        good = ~np.isin(np.arange(len(sizes)), list(self.reasons))
        rows, numbers = np.repeat(good, sizes), np.flatnonzero(good).tolist()
        words = None
        if "word" in columns:
            texts = [_unquoted(word) for word in self.codes["word"]]
            words = [texts[code] for code in columns["word"][first[good]]]
        yield Raw(
            np.array(numbers, np.int64) + 1,
            sizes[good],
            np.stack([columns[name][rows] for name in self.coordinates], 1),
            None if ends is None else ends[rows],
            words,
            columns["time"][rows] if "time" in columns else None,
            names=[names[index] for index in numbers],
        )


def _numbers(texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
    """Texts as numbers, NaN where there is none, and the places of these."""
    try:
        return np.array(texts, np.float64), []
    except ValueError:
        values = [_number(text) for text in texts]
        bad = [place for place, value in enumerate(values) if value is None]
        return np.array([np.nan if value is None else value for value in values]), bad


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _unquoted(text: str) -> str:
    """The text of a cell that a quote keeps from being run as a formula by spreadsheets."""
    return text[1:] if text[:1] == "'" and text.lstrip("'")[:1] in ("=", "+", "-", "@") else text
