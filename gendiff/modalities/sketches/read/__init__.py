"""Read sketches and other continuous sequences from files of many formats, and say what was read.

| extension  | record                                                        | brings                                 |
| ---------- | ------------------------------------------------------------- | -------------------------------------- |
| .ndjson    | a line, as QuickDraw has them (:mod:`.ndjson`)                | strokes, times, class, facts           |
| .npz .npy  | stroke-3, stroke-5, sketch-rnn, containers (:mod:`.npz`)      | whatever is in it                      |
| .svg       | a file, or a group of class "sketch" in it (:mod:`.svg`)      | strokes, class                         |
| .csv .tsv  | the rows of one id, a row a point (:mod:`.table`)             | strokes, times, class; any coordinates |

Text may be packed by gzip (.ndjson.gz, .csv.gz, .tsv.gz). Coordinates become absolute, y down, and keep their units.

The class of a sketch is what the file says of it. Containers of many sketches (NDJSON, NPZ, CSV) that say nothing give
the name of the file, without what is not its own: `sketchrnn_cat.full.npz` holds cats. Of drawings in a folder of
folders it is the name of the inner one.

A record that cannot be used stops the reading with its file, number (from 1) and reason, or is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError, check_file, ending, opened, sha256
from gendiff.modalities.sketches.geometry import prepared
from gendiff.modalities.sketches.read.ndjson import parse_ndjson
from gendiff.modalities.sketches.read.npz import parse_npz
from gendiff.modalities.sketches.read.raw import MAX_NUMBERS, MAX_POINTS, Bad, Raw, clean
from gendiff.modalities.sketches.read.report import ReadReport
from gendiff.modalities.sketches.read.svg import TOLERANCE, parse_svg
from gendiff.modalities.sketches.read.table import parse_table
from gendiff.modalities.sketches.read.text import MAX_UNPACKED
from gendiff.modalities.sketches.records import SketchArrays
from gendiff.wording import many

__all__ = ["EXTENSIONS", "ReadReport", "read_sketches"]

TEXT, NUMPY, SVG = (".ndjson", ".csv", ".tsv"), (".npz", ".npy"), (".svg",)
EXTENSIONS = (*TEXT, *NUMPY, *SVG, *(f"{name}.gz" for name in TEXT))


def read_sketches(
    paths: str | Path | Iterable[str | Path],
    on_error: Literal["stop", "skip"] = "stop",
    split: Literal["train", "valid", "test", "all"] | None = None,
    *,
    pen: Literal["auto", "none"] = "auto",
    max_points: int = MAX_POINTS,
    tolerance: float = TOLERANCE,
    longest: int | None = None,
    resample: float | None = None,
    simplify: float | None = None,
) -> tuple[SketchArrays, ReadReport]:
    """Read the sketches of one or several files.

    Arguments:
        paths: Files, whose extension says the format, and folders of such files.
        on_error: "stop" at the first record that cannot be used, or "skip" such records and count them.
        split: Which part of sketch-rnn's `.npz` files: "train", "valid", "test" or "all". By default the training part
            of such files, and all of others.
        pen: "none" says that all columns of numpy arrays are coordinates of sequences without a pen; by default a last
            column of flags is a pen.
        max_points: Longer sketches cannot be used.
        tolerance: How far the points of SVG may lie off its curves, as a share of the larger side of the drawing.
        longest: Leave out, and count, sketches of more points than this when they are resampled and simplified.
        resample: Spacing of :func:`gendiff.modalities.sketches.geometry.resample`, for `longest` alone.
        simplify: Tolerance of :func:`gendiff.modalities.sketches.geometry.simplify`, for `longest` alone.

    Returns:
        The sketches, in the order of the files, and the report.

    Raises:
        UserError: for a file that cannot be read, an unknown extension, a record that cannot be used
            (`on_error="stop"`), files that do not go together, or if no usable sketch is left.
        ValueError: for an option that does not exist.
    """
    for name, value, choices in (
        ("on_error", on_error, ("stop", "skip")),
        ("split", split, (None, "train", "valid", "test", "all")),
        ("pen", pen, ("auto", "none")),
    ):
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if max_points < 1:
        raise ValueError(f"`max_points` must be at least 1, got {max_points}")
    if not 1e-5 <= tolerance <= 0.5:
        raise ValueError(f"`tolerance` must be from 1e-5 to 0.5, got {tolerance}")
    places = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not places:
        raise UserError("no file of sketches given; name at least one")
    files = [(path, class_of(path, place)) for place in places for path in opened(place, EXTENSIONS)]
    for path, _ in files:
        check_file(path, MAX_UNPACKED)
        if ending(path) not in EXTENSIONS:
            known = " ".join(name for name in EXTENSIONS if not name.endswith(".gz"))
            raise UserError(
                f"{path}: unknown extension {ending(path)!r}; sketches are read from {known}, and text packed as .gz"
            )
    reader = _Reader(on_error, split, pen, max_points, tolerance, longest, resample, simplify, ReadReport())
    parts = [(path, part) for path, word in files for part in reader.read(path, word)]
    report = reader.report
    if not any(len(part) for _, part in parts):
        where, why = files[0][0] if len(files) == 1 else f"{len(files)} files", report.reasons()
        raise UserError(f"{where}: no usable sketch in {many(report.records, 'record')}" + (f": {why}" if why else ""))
    parts = [(path, part) for path, part in parts if len(part)]
    first, head = parts[0]
    for path, part in parts:
        if (part.dimensions, part.has_pen) != (head.dimensions, head.has_pen):
            raise UserError(f"{path} holds {_kind(part)}, {first} {_kind(head)}; read them apart")
    arrays = SketchArrays.concatenate([part for _, part in parts])
    report.count(arrays)
    return arrays, report


@dataclass
class _Reader:
    """Reads files with one set of options into one report."""

    on_error: str
    split: str | None
    pen: str
    max_points: int
    tolerance: float
    longest: int | None
    resample: float | None
    simplify: float | None
    report: ReadReport
    numbers: int = 0  # coordinates read so far

    def read(self, path: Path, word: str) -> Iterator[SketchArrays]:
        """The usable sketches of one file, some at a time; of the class `word`, if it tells none."""
        report, before, kept = self.report, self.report.records, 0
        for part in self._parse(path, ending(path).removesuffix(".gz")):
            bad = [part] if isinstance(part, Bad) else part.refused(self.max_points)
            for record in bad:
                self._refuse(path, record)
            report.records += 1 if isinstance(part, Bad) else len(part.numbers)
            if isinstance(part, Raw):
                numbers = part.numbers[~np.isin(part.numbers, [record.number for record in bad])]
                arrays = self._short(path, part.without(bad, word), numbers)
                kept += len(arrays)
                self.numbers += arrays.points.size
                if self.numbers > MAX_NUMBERS:
                    raise UserError(f"{path}: over {MAX_NUMBERS:,} coordinates in all; read fewer files at once")
                yield arrays
        facts = {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
        report.files.append(facts | {"records": report.records - before, "kept": kept})

    def _parse(self, path: Path, kind: str) -> Iterator[Raw | Bad]:
        if kind == ".ndjson":
            return parse_ndjson(path)
        if kind in (".csv", ".tsv"):
            return parse_table(path)
        if kind in SVG:
            return parse_svg(path, self.tolerance, self.max_points)
        return parse_npz(path, self.split, self.pen)

    def _refuse(self, path: Path, record: Bad) -> None:
        """Stop at, or count, a record that cannot be used."""
        where = _place(path, record.number) + (f" ({clean(record.name, 60)})" if record.name else "")
        reason = clean(record.reason, 200)
        if self.on_error == "stop":
            raise UserError(f"{path}, {where}: {reason}; leave such records out with --on-error skip")
        kind, _, detail = reason.partition(": ")
        self.report.skipped[kind] += 1
        self.report.examples.setdefault(kind, f"{path.name}, {where}" + (f": {detail}" if detail else ""))

    def _short(self, path: Path, arrays: SketchArrays, numbers: NDArray[np.int64]) -> SketchArrays:
        """Return the sketches that are short enough; the others, records of these numbers, are counted."""
        if self.longest is None:
            return arrays
        count = prepared(arrays, self.resample, self.simplify).num_points
        long = np.flatnonzero(count > self.longest)
        if len(long):
            kind = f"more than {many(self.longest, 'point')}"
            self.report.skipped[kind] += len(long)
            first = f"{path.name}, {_place(path, numbers[long[0]])}: {count[long[0]]:,}"
            self.report.examples.setdefault(kind, first)
        return arrays.select(count <= self.longest)


def _place(path: Path, number: int) -> str:
    return f"{'line' if ending(path).startswith('.ndjson') else 'record'} {number:,}"


def class_of(path: Path, place: Path) -> str:
    """The class that a file or, of a drawing, its folder is named after, where users named `place`.

    `sketchrnn_cat.full.npz`, `cat_train.npz`, `full_raw_cat.ndjson`: cat; `cat/1.svg`: cat in `place`, else none.
    """
    if ending(path) in SVG:
        return "" if path.parent in (place, place.parent) else clean(path.parent.name)
    stem = path.name[: -len(ending(path))]
    stem = re.sub(r"^(sketchrnn|full[_-](raw|simplified)|raw|simplified)[_-]", "", stem, flags=re.IGNORECASE)
    return clean(re.sub(r"[._-](full|train|valid|test)$", "", stem, flags=re.IGNORECASE))


def _kind(part: SketchArrays) -> str:
    return f"{'sketches' if part.has_pen else 'sequences without a pen'} of {part.dimensions} coordinates"
