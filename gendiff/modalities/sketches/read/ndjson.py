r"""QuickDraw's NDJSON: a line, a drawing.

    {"word": "cat", "key_id": "5", "recognized": true, "drawing": [[[x0, x1, ...], [y0, y1, ...], [t0, t1, ...]], ...]}

One list per stroke. Raw drawings have times in ms, simplified ones have none. `word` is the class; whatever else a
line tells (key_id, countrycode, timestamp, recognized) becomes the facts of the sketch, in order. Integers are exact up
to 2^53.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.sketches.read.raw import Bad, Raw, Unusable, clean
from gendiff.modalities.sketches.read.text import lines

_NUMBERS = {int, float}
_CHUNK, _CHUNK_POINTS = 4096, 1 << 20  # sketches and points that are made into arrays together


def parse_ndjson(path: Path) -> Iterator[Raw | Bad]:
    """Sketches of a file, some at a time; records are numbered by line."""
    chunk = _Chunk()
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        record: Any = None
        try:
            record = _load(line)
            chunk.add(number, record)
        except Unusable as error:
            yield from chunk.flush()
            name = record.get("key_id") if isinstance(record, dict) else None
            yield Bad(number, f"key_id {clean(name, 40)}" if isinstance(name, str) else "", str(error))
        if len(chunk.numbers) >= _CHUNK or len(chunk.x) >= _CHUNK_POINTS:
            yield from chunk.flush()
    yield from chunk.flush()


def _load(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8").rstrip(), parse_constant=_constant)
    except Unusable:
        raise
    except RecursionError:
        raise Unusable("not a drawing: too deeply nested") from None
    except UnicodeDecodeError:
        raise Unusable("not JSON: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        if not line.endswith(b"\n") and line.lstrip().startswith(b"{"):
            raise Unusable("truncated record: the file ends inside it") from None
        raise Unusable(f"not JSON: {error.msg}, column {error.pos + 1:,}") from None
    except ValueError:
        raise Unusable("not a drawing: a number has thousands of digits") from None


def _constant(name: str) -> None:
    raise Unusable(f"a number is NaN or infinite: {name}")


class _Chunk:
    """Sketches on their way into flat arrays."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.num_points: list[int] = []
        self.x: list[float] = []
        self.y: list[float] = []
        self.times: list[float] = []
        self.strokes: list[int] = []
        self.words: list[str | None] = []
        self.facts: list[dict[str, Any]] = []
        self.timed = False

    def add(self, number: int, record: Any) -> None:
        """Add a drawing, or raise `Unusable` and add nothing."""
        if not isinstance(record, dict) or not isinstance(record.get("drawing"), list):
            raise Unusable('not a drawing: a line must be an object with a list "drawing"')
        word, drawing = record.pop("word", None), record.pop("drawing")
        if word is not None and not isinstance(word, str):
            raise Unusable("the class is no text: `word`")
        sizes, timed = [], set()
        for place, stroke in enumerate(drawing, 1):
            if not isinstance(stroke, list) or len(stroke) not in (2, 3):
                raise Unusable(f"not a drawing: stroke {place:,} is not [[x...], [y...]] or [[x...], [y...], [t...]]")
            if not all(isinstance(part, list) and set(map(type, part)) <= _NUMBERS for part in stroke):
                raise Unusable(f"not a drawing: stroke {place:,} holds something that is no number")
            sizes.append(len(stroke[0]))
            if len(set(map(len, stroke))) != 1:
                counts = ", ".join(f"{len(part):,} {axis}" for part, axis in zip(stroke, "xyt", strict=False))
                raise Unusable(f"coordinates of unlike number: stroke {place:,} has {counts}")
            if not sizes[-1]:
                raise Unusable(f"an empty stroke: stroke {place:,}")
            timed.add(len(stroke) == 3)
        if len(timed) > 1:
            raise Unusable("not a drawing: some strokes have times and some have none")
        for stroke in drawing:
            self.x += stroke[0]
            self.y += stroke[1]
            self.times += stroke[2] if len(stroke) == 3 else [np.nan] * len(stroke[0])
        self.timed |= True in timed
        self.numbers.append(number)
        self.num_points.append(sum(sizes))
        self.strokes += sizes
        self.words.append(word)
        self.facts.append(record)

    def flush(self) -> Iterator[Raw]:
        """What was added since the last time."""
        if self.numbers:
            pen = np.zeros(len(self.x), bool)
            pen[np.cumsum(np.array(self.strokes, np.int64)) - 1] = True
            yield Raw(
                np.array(self.numbers),
                np.array(self.num_points),
                np.stack([_floats(self.x), _floats(self.y)], 1),
                pen,
                self.words,
                _floats(self.times) if self.timed else None,
                self.facts if any(self.facts) else None,
                [f"key_id {clean(str(fact['key_id']), 40)}" if "key_id" in fact else "" for fact in self.facts],
            )
        self.__init__()  # type: ignore[misc]


def _floats(values: list[float]) -> NDArray[np.float64]:
    try:
        return np.array(values, np.float64)
    except OverflowError:  # an integer of over 308 digits
        return np.array([value if abs(value) < 1e300 else np.inf for value in values], np.float64)
