"""What a reading found, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.modalities.sketches.records import SketchArrays
from gendiff.wording import many


@dataclass
class ReadReport:
    """What was read: :meth:`lines` for people, :meth:`to_json` for programs. Numbers count sketches that were kept.

    Attributes:
        files: Of each file its path, bytes, sha256, records and records kept.
        records: Records met, usable or not.
        kept: Sketches read.
        skipped: Records left out, by kind of reason.
        examples: File, number and detail of the first record left out, by kind of reason.
        classes: Sketches by class, of those that have one.
        dimensions: Number of coordinates.
        has_pen: Whether they are drawings with strokes.
        timed: Sketches with times.
        total_points: Points of all.
        points: Smallest, median and largest number of points.
        strokes: The same of strokes.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)
    dimensions: int = 2
    has_pen: bool = True
    timed: int = 0
    total_points: int = 0
    points: tuple[int, float, int] = (0, 0, 0)
    strokes: tuple[int, float, int] = (0, 0, 0)

    def count(self, arrays: SketchArrays) -> None:
        """Fill in what follows from the sketches themselves."""
        words, counts = np.unique(np.asarray(arrays.words), return_counts=True)
        order = np.argsort(-counts, kind="stable")
        self.classes = Counter({str(words[i]): int(counts[i]) for i in order if words[i]})
        self.kept, self.dimensions, self.has_pen = len(arrays), arrays.dimensions, arrays.has_pen
        self.timed = 0 if arrays.times is None else int((~np.isnan(arrays.times[arrays.last])).sum())
        self.total_points = len(arrays.points)
        self.points, self.strokes = _range(arrays.num_points), _range(arrays.num_strokes)

    def lines(self) -> list[str]:
        """A line of numbers and, if need be, one on what was left out."""
        where = Path(self.files[0]["path"]).name if len(self.files) == 1 else f"{len(self.files):,} files"
        noun = "sketch" if self.has_pen else "sequence"
        facts = [f"read {many(self.kept, noun)} from {where}", _spread(self.points, "point")]
        if self.has_pen:
            facts.append(_spread(self.strokes, "stroke"))
        if self.dimensions != 2:
            facts.append(f"{self.dimensions} coordinates")
        if self.timed:
            facts.append("with times" if self.timed == self.kept else f"{self.timed:,} with times")
        if self.classes:
            named = ", ".join(f"{word} {count:,}" for word, count in self.classes.most_common(12))
            rest = len(self.classes) - 12
            head = many(len(self.classes), "class")
            facts.append(f"{head}: {named}" + (f" and {rest:,} others" if rest > 0 else ""))
            if (without := self.kept - self.classes.total()) > 0:
                facts.append(f"{without:,} without a class")
        else:
            facts.append("no classes")
        lines = ["; ".join(facts)]
        if self.skipped:
            lines.append(f"left out {self.skipped.total():,} of {many(self.records, 'record')}: {self.reasons()}")
        return lines

    def reasons(self) -> str:
        """Why records were left out, the five most frequent reasons first; "" if none was."""
        return "; ".join(
            f"{kind} {count:,} (first: {self.examples[kind]})" for kind, count in self.skipped.most_common(5)
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return asdict(self) | {
            "skipped": dict(self.skipped.most_common()),
            "classes": dict(self.classes.most_common()),
            "points": list(self.points),
            "strokes": list(self.strokes),
        }


def _spread(values: tuple[int, float, int], noun: str) -> str:
    low, median, high = values
    return f"{low:,}-{high:,} (median {median:g}) {noun}s" if high > low else many(low, noun)


def _range(values: np.ndarray) -> tuple[int, float, int]:
    return int(values.min()), float(np.median(values)), int(values.max())
