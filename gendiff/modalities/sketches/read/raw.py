"""What parsers give: sketches as they stand in the file, not yet checked, or the reason why a record is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.sketches.records import MAX_NUMBERS, SketchArrays

__all__ = ["MAX_NUMBERS", "Bad", "Raw", "Unusable", "clean"]

MAX_POINTS = 10_000
"""Most points of a sketch, unless asked otherwise."""

MAX_WORD = 100
"""Most characters of a class."""

MAX_COORDINATE = 1e15
"""Largest coordinate: integers below are exact, and squares of such numbers are finite in single precision."""

NOT_FINITE, FAR = "a coordinate is NaN or infinite", f"a coordinate is beyond {MAX_COORDINATE:g}"


class Unusable(ValueError):
    """Why a record cannot be used, as "kind: detail"."""


@dataclass
class Bad:
    """A record that cannot be used."""

    number: int
    name: str
    reason: str


@dataclass
class Raw:
    """Some sketches of a file in flat arrays as in :class:`SketchArrays`, of any number and any value of the points.

    Attributes:
        numbers: Of the records, from 1, (M,).
        words: Their classes; None, or None for some of them, if the file tells none.
        names: What the records are called in messages, "" for nothing.
    """

    numbers: NDArray[np.int64]
    num_points: NDArray[np.int64]
    points: NDArray[np.float64]
    pen: NDArray[np.bool_] | None = None
    words: Sequence[str | None] | NDArray[np.str_] | None = None
    times: NDArray[np.float64] | None = None
    facts: Sequence[Mapping[str, Any]] | None = None
    names: Sequence[str] | None = None

    def refused(self, max_points: int) -> list[Bad]:
        """The sketches that cannot be used, in order, each with the first reason that applies."""
        start = np.cumsum(self.num_points) - self.num_points

        def any_of(rows: Any) -> NDArray[np.bool_]:
            """Whether a sketch has such a row."""
            count = np.concatenate([[0], np.cumsum(rows)])
            return count[start + self.num_points] > count[start]

        with np.errstate(invalid="ignore"):
            checks = {
                "no points": self.num_points < 1,
                "too many points": self.num_points > max_points,
                NOT_FINITE: any_of(~np.isfinite(self.points).all(1)),
                FAR: any_of((np.abs(self.points) > MAX_COORDINATE).any(1)),
            }
            if self.times is not None:
                unknown = np.isnan(self.times)
                checks["a time is infinite"] = any_of(np.isinf(self.times))
                checks["a time is NaN or missing"] = any_of(unknown) & any_of(~unknown)
        if self.words is not None:
            checks["the class is too long"] = np.array([len(word or "") for word in self.words], int) > MAX_WORD
        bad = []
        for index in np.flatnonzero(np.any(list(checks.values()), axis=0)).tolist():
            reason = next(name for name, wrong in checks.items() if wrong[index])
            if reason == "too many points":
                reason += f": {self.num_points[index]:,}, over the bound of {max_points:,} (max_points)"
            elif reason == "the class is too long":
                reason += f": over {MAX_WORD} characters"
            bad.append(Bad(int(self.numbers[index]), self.names[index] if self.names else "", reason))
        return bad

    def without(self, bad: Sequence[Bad], word: str) -> SketchArrays:
        """The other sketches; `word` is the class of those in a file that knows none."""
        keep = ~np.isin(self.numbers, [record.number for record in bad])
        rows = np.repeat(keep, self.num_points)
        count = int(keep.sum())
        if self.words is None:
            words = np.full(count, word)
        else:
            texts = (word if text is None else text for text, kept in zip(self.words, keep, strict=True) if kept)
            words = np.array([*map(clean, texts), ""], str)
        return SketchArrays(
            self.num_points[keep],
            self.points[rows],
            None if self.pen is None else self.pen[rows],
            words[:count],
            None if self.times is None or np.isnan(self.times[rows]).all() else self.times[rows],
            None if self.facts is None else [fact for fact, kept in zip(self.facts, keep, strict=True) if kept],
        )


def clean(text: str, length: int = MAX_WORD) -> str:
    """A text in one line of at most `length` characters, without control characters and outer spaces."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
    return text.strip()[:length].rstrip()
