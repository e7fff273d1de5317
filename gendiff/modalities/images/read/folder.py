"""Folders of pictures, a folder for each class or none, and tables that say which class a picture has."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gendiff.files import UserError, read_text
from gendiff.modalities.images.read.raw import MAX_WORD, Unusable, clean

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Endings of files of one picture."""

MAX_TABLE = 1 << 28
"""Largest table of classes: 256 MiB."""

FILE = ("file", "file_name", "filename", "image", "path")
LABEL = ("label", "class", "word", "category")


@dataclass
class Listing:
    """What is in a folder, in the order of names.

    Attributes:
        pictures: Path and class of each file of a picture; the class is None outside of class folders.
        others: Other files, by their ending.
        unread: Folders that were not read, or in vain, and why.
    """

    pictures: list[tuple[Path, str | None]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unread: list[tuple[Path, str]] = field(default_factory=list)


def list_folder(folder: Path) -> Listing:
    """List the pictures in a folder and in its own folders, which are classes; names that begin with a dot are hidden.

    Raises:
        UserError: if it cannot be listed.
    """
    listing = Listing()
    for path in _pick(folder, None, listing):
        if folder.resolve().is_relative_to(path.resolve()):
            listing.unread.append((path, "a link to a folder around it"))
            continue
        before = len(listing.pictures)
        deeper = _pick(path, path.name, listing)
        if deeper:
            listing.unread.insert(0, (deeper[0], "a folder in a folder of a class: name the folder of classes itself"))
        elif len(listing.pictures) == before:
            listing.unread.append((path, "a folder without pictures"))
    return listing


def _pick(folder: Path, word: str | None, listing: Listing) -> list[Path]:
    """Put the pictures of one folder into the listing; return the folders in it."""
    folders = []
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or str(error)).lower()}") from None
    for name in names:
        path = folder / name
        if path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in PICTURES:
            listing.pictures.append((path, word))
        else:
            listing.others[path.suffix.lower() or "without an ending"] += 1
    return folders


class Labels:
    """The classes of pictures by a table, `.csv`, whose first line names a column `file` and a column `label`.

    A file is named from the folder that is read, or from where the table lies. The table opens no file: it is asked.

    Arguments:
        path: The table.

    Raises:
        UserError: if it cannot be read, or has no such columns.
    """

    def __init__(self, path: Path):
        self.path = path
        self.words: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.bad: list[str] = []
        rows = self._rows()
        _, head = next(rows, (1, []))
        lower = [cell.strip().lower() for cell in head]
        columns = [next((lower.index(name) for name in names if name in lower), None) for names in (FILE, LABEL)]
        if None in columns:
            there = clean(", ".join(head), 60) or "nothing"
            raise UserError(f"{path}: the first line must name a column file and a column label, not {there}")
        for line, row in rows:
            if len(row) != len(head):
                self.bad.append(f"a row of another length: line {line:,} has {len(row):,} of {len(head):,} cells")
                continue
            name, word = (row[column].strip() for column in columns if column is not None)
            key = os.path.normpath(name) if name else name
            if key in self.words:
                self.bad.append(f"a file comes twice: line {line:,}, {clean(name, 60)!r}")
            elif len(word) > MAX_WORD:
                self.bad.append(f"the class is too long: line {line:,}, over {MAX_WORD} characters")
            else:
                self.words[key], self.lines[key] = clean(word), line

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(read_text(self.path, MAX_TABLE).splitlines(keepends=True), strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise UserError(f"{self.path}, line {reader.line_num:,}: is no table of commas ({error})") from None

    def take(self, path: Path, name: str) -> str:
        """Return the class of a picture, which `name` says from the folder that is read.

        Raises:
            Unusable: if the table does not name it.
        """
        for key in (os.path.normpath(name), os.path.relpath(path, self.path.parent)):
            if key in self.words:
                self.lines.pop(key, None)
                return self.words[key]
        raise Unusable(f"has no class: {self.path.name} does not name it")

    def left(self) -> Iterator[str]:
        """What is wrong with the table, after all pictures have asked."""
        yield from self.bad
        for name, line in self.lines.items():
            yield f"a row of no picture: line {line:,}, {clean(name, 60)!r} is none of those that are read"
