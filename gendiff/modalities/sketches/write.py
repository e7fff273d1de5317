r"""Write sketches as QuickDraw NDJSON, NPZ, CSV, SVG, PNG or GIF, whole or not at all.

| extension       | what                                                                                             |
| --------------- | ------------------------------------------------------------------------------------------------ |
| .ndjson         | QuickDraw's records: a drawing of strokes, with times if it has some, its class and its facts    |
| .npz            | arrays without pickle: everything, bit for bit, of any number of coordinates                     |
| .csv .tsv       | a row a point: coordinates with all their digits, pen, times, class                              |
| .svg .png .gif  | a sheet of all sketches; the drawing of the pen (GIF)                                            |

Reading NDJSON, NPZ or CSV gives the same numbers again. A sketch that a model drew (its facts name a `seed`) without
times becomes, in NDJSON, what QuickDraw's tools expect of a simplified drawing: its top left corner at 0, its larger
side 255, whole numbers. Every other one keeps its coordinates; one made from a given drawing (`edit`) stands at that
one's place.

An archive (.npz) holds `points` (P, D + 1), stroke-3 of all sketches one after another: the offset from the last point,
of the first one from the origin, and 1 on the last point of a stroke; `offsets` (M + 1,), where each sketch begins;
`pen`, whether the last column is one (without a pen `points` are (P, D), absolute); `labels` (M,) and `words` (K,), the
class of each. If need be `times` (P,), `facts` (the JSON of a list), and `coordinates` (P, D), the absolute ones if
summing the offsets would not give them back to the last bit.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gendiff.files import NothingFits, UserError, atomic_write, ending
from gendiff.modalities.sketches.read.npz import sums
from gendiff.modalities.sketches.records import Sketch, SketchArrays

_TEXT, _DRAWN = (".ndjson", ".csv", ".tsv"), (".svg", ".png", ".gif")

EXTENSIONS = (*_TEXT, ".npz", *_DRAWN, *(f"{kind}.gz" for kind in _TEXT))
"""Endings of the files that can be written."""

SIDE = 255
"""Larger side of a simplified drawing."""


def write_sketches(sketches: Sequence[Sketch], path: str | Path) -> int:
    """Write sketches in the format of the extension: one of `EXTENSIONS`.

    Arguments:
        sketches: What to write.
        path: Where; an existing file is replaced only when the new one is complete.

    Returns:
        How many sketches the file holds.

    Raises:
        UserError: for an unknown extension, a file that cannot be written (permission, full disk), no sketches, or
            sequences that are no drawings where the format takes drawings only.
    """
    path = Path(path)
    suffix = ending(path)
    if suffix not in EXTENSIONS:
        raise UserError(f"{path}: unknown extension {suffix!r}; sketches are written as {' '.join(EXTENSIONS)}")
    kind = suffix.removesuffix(".gz")
    if not sketches:
        raise NothingFits(f"{path}: there is no sketch to write")
    if len(dimensions := {sketch.points.shape[1] for sketch in sketches}) > 1:
        raise UserError(
            f"{path}: sketches of {' and '.join(map(str, sorted(dimensions)))} coordinates, write them apart"
        )
    if len({sketch.has_pen for sketch in sketches}) > 1:
        raise UserError(f"{path}: some are drawings and some are sequences without a pen, write them apart")
    if kind == ".ndjson" and (dimensions != {2} or not sketches[0].has_pen):
        what = "without a pen" if dimensions == {2} else f"of {dimensions.pop()} coordinates"
        raise NothingFits(f"{path}: sequences {what} are no drawings; write .npz or .csv")
    if kind in _DRAWN:
        from gendiff.modalities.sketches import draw

        if kind == ".svg":
            draw.sheet_svg(sketches, path)
        else:
            (draw.sheet_png if kind == ".png" else draw.pen_gif)(sketches, path)
    elif kind == ".npz":
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, **to_npz(SketchArrays.from_sketches(sketches)))
    else:
        with _text(path) as file:
            if kind == ".ndjson":
                file.writelines(ndjson_line(sketch) for sketch in sketches)
            else:
                write_table(sketches, file, "\t" if kind == ".tsv" else ",")
    return len(sketches)


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    if path.suffix.lower() != ".gz":
        with atomic_write(path) as file:
            yield file
        return
    # without a name or a time, so that equal sketches are equal bytes
    with atomic_write(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as archive:
        with io.TextIOWrapper(archive, encoding="utf-8", newline="\n") as file:
            yield file


def ndjson_line(sketch: Sketch) -> str:
    """A line of QuickDraw's NDJSON."""
    points = sketch.points
    if "seed" in sketch.facts and "edit" not in sketch.facts and sketch.times is None:
        points = simplified(points)
    columns = [_plain(column) for column in (*points.T, *([] if sketch.times is None else [sketch.times]))]
    cuts = [0, *(np.flatnonzero(sketch.pen) + 1).tolist()]
    drawing = [[column[first:end] for column in columns] for first, end in pairwise(cuts)]
    facts = {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in sketch.facts.items()
    }
    record = {"word": ""} | facts | {"word": sketch.word, "drawing": drawing}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=_native) + "\n"


def simplified(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points as QuickDraw's simplified drawings have them: from 0, the larger side 255, whole numbers."""
    points = points - points.min(0)
    side = float(points.max())
    scale = SIDE / side if side > 0 else 1.0
    return np.round(points * scale)


def to_npz(arrays: SketchArrays) -> dict[str, Any]:
    """The arrays of an archive."""
    points: NDArray[np.float64] = arrays.points
    found: dict[str, Any] = {}
    if arrays.has_pen:
        moves = np.diff(points, axis=0, prepend=np.zeros((1, arrays.dimensions)))
        moves[arrays.first] = points[arrays.first]
        found["points"] = np.column_stack([moves, arrays.ends])
        if sums(moves, arrays.num_points).tobytes() != points.tobytes():
            found["coordinates"] = points
    else:
        found["points"] = points
    words, labels = np.unique(np.asarray(arrays.words), return_inverse=True)
    found |= {"offsets": np.append(0, np.cumsum(arrays.num_points)), "pen": np.array(arrays.has_pen)}
    found |= {"labels": labels, "words": words}
    if arrays.times is not None:
        found["times"] = arrays.times
    if arrays.facts is not None and any(arrays.facts):
        found["facts"] = np.array(json.dumps([dict(fact) for fact in arrays.facts], default=_native))
    return found


def write_table(sketches: Sequence[Sketch], file: IO[str], separator: str = ",") -> None:
    """Write a row a point: number of the sketch, its class, coordinates, pen and time if there are such."""
    dimensions = sketches[0].points.shape[1]
    has_pen, timed = sketches[0].has_pen, any(sketch.times is not None for sketch in sketches)
    axes = list("xyz"[:dimensions]) if dimensions < 4 else [f"x{axis}" for axis in range(1, dimensions + 1)]
    table = csv.writer(file, delimiter=separator, lineterminator="\n")
    table.writerow(["sketch", "word", *axes, *["pen"] * has_pen, *["t"] * timed])
    for number, sketch in enumerate(sketches):
        columns: list[Sequence[Any]] = [_plain(column) for column in sketch.points.T]
        if has_pen:
            columns.append(sketch.pen.astype(int).tolist())
        if timed:
            columns.append([""] * len(sketch) if sketch.times is None else _plain(sketch.times))
        head = number, _cell(sketch.word)
        table.writerows((*head, *row) for row in zip(*columns, strict=True))


def _cell(text: str) -> str:
    """A field of a table. Spreadsheets run what begins like a formula: a quote before it makes it text."""
    return f"'{text}" if text.lstrip("'")[:1] in ("=", "+", "-", "@") else text


def _plain(values: NDArray[np.float64]) -> list[int | float]:
    """Numbers as Python has them, whole ones as int; reading their text gives the same bits."""
    whole = (values == np.round(values)) & (np.abs(values) <= 1 << 53) & ~((values == 0) & np.signbit(values))
    return [int(value) if is_whole else value for value, is_whole in zip(values.tolist(), whole.tolist(), strict=True)]


def _native(value: Any) -> Any:
    """A number of numpy or torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
