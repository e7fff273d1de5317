r"""What sketches are here: many of them in flat numpy arrays, one row per point.

Sketches of different lengths lie one after another (compressed rows): sketch i owns the points
:math:`o_i \dots o_i + n_i - 1` with :math:`o_i = \sum_{j<i} n_j`. A point has D coordinates, two for drawings (x to the
right, y down, as on a screen), and a pen: True on the last point of each stroke. A sequence without a pen (a
trajectory, a signal) is one stroke.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_NUMBERS = 1 << 27
"""Most coordinates of all sketches of a set that is read or resampled: 1 GiB of them."""


@dataclass(eq=False)
class Sketch:
    """One sketch.

    Attributes:
        points: Coordinates, (L, D), float64.
        pen: True on the last point of each stroke, and so on the last of all, (L,).
        word: Its class, "" if none.
        times: When each point was drawn, ms, (L,); None if unknown.
        facts: What else is known of it, plain values by name: of a file (key_id, …), or of a model (seed, index, …).
        has_pen: Whether it is a drawing with strokes, and not a sequence without a pen.
    """

    points: NDArray[np.float64]
    pen: NDArray[np.bool_]
    word: str = ""
    times: NDArray[np.float64] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    has_pen: bool = True

    def __len__(self) -> int:
        return len(self.points)

    @property
    def strokes(self) -> list[NDArray[np.float64]]:
        """The points of each stroke, (n, D)."""
        return np.split(self.points, np.flatnonzero(self.pen[:-1]) + 1)

    def _repr_svg_(self) -> str:
        """Show it in a notebook."""
        from gendiff.modalities.sketches.draw import svg

        return svg(self)


@dataclass(frozen=True, eq=False)
class SketchArrays:
    """M sketches in flat arrays; P is the number of all points.

    Arguments:
        num_points: Points of each sketch, (M,), at least 1.
        points: Coordinates, (P, D), finite.
        pen: True on the last point of each stroke, (P,); the last point of each sketch ends a stroke. None, the
            default, for sequences without a pen.
        words: Class of each, (M,), "" where there is none; none by default.
        times: ms, (P,), NaN where unknown; None, the default, if no sketch has any.
        facts: What else is known of each, by name; nothing by default.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or a last point does not end a stroke.
    """

    num_points: NDArray[np.int64]
    points: NDArray[np.float64]
    pen: NDArray[np.bool_] | None = None
    words: NDArray[np.str_] = None  # type: ignore[assignment]  # made of "" below
    times: NDArray[np.float64] | None = None
    facts: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "num_points", np.asarray(self.num_points, np.int64))
        put(self, "points", np.asarray(self.points, np.float64))
        count, total = len(self.num_points), int(self.num_points.sum())
        if self.points.ndim != 2 or len(self.points) != total or (self.num_points < 1).any():
            raise ValueError(f"points must be ({total}, D) for at least one point a sketch, got {self.points.shape}")
        if not np.isfinite(self.points).all():
            raise ValueError("coordinates must be finite")
        if self.pen is not None:
            put(self, "pen", np.asarray(self.pen, bool))
            if self.pen.shape != (total,) or not self.pen[self.last].all():
                raise ValueError("pen must be (P,), True on the last point of every sketch")
        words = np.full(count, "") if self.words is None else np.asarray(self.words, str)
        put(self, "words", words)
        if words.shape != (count,):
            raise ValueError(f"words must be ({count},), got {words.shape}")
        if self.times is not None:
            put(self, "times", np.asarray(self.times, np.float64))
            if self.times.shape != (total,):
                raise ValueError(f"times must be ({total},), got {self.times.shape}")
        if self.facts is not None and len(self.facts) != count:
            raise ValueError(f"facts must be of {count} sketches, got {len(self.facts)}")

    def __len__(self) -> int:
        return len(self.num_points)

    @property
    def dimensions(self) -> int:
        """Number D of coordinates."""
        return self.points.shape[1]

    @property
    def has_pen(self) -> bool:
        """Whether these are drawings with strokes."""
        return self.pen is not None

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Row of the first point of each sketch, (M,)."""
        return np.cumsum(self.num_points) - self.num_points

    @property
    def last(self) -> NDArray[np.int64]:
        """Row of the last point of each sketch, (M,)."""
        return np.cumsum(self.num_points) - 1

    @cached_property
    def sketch_of_point(self) -> NDArray[np.int64]:
        """Number of the sketch of each point, (P,)."""
        return np.repeat(np.arange(len(self)), self.num_points)

    @cached_property
    def ends(self) -> NDArray[np.bool_]:
        """True on the last point of each stroke, (P,), also where there is no pen."""
        if self.pen is not None:
            return self.pen
        ends = np.zeros(len(self.points), bool)
        ends[self.last] = True
        return ends

    @property
    def num_strokes(self) -> NDArray[np.int64]:
        """Strokes of each sketch, (M,)."""
        return np.add.reduceat(self.ends.astype(np.int64), self.first) if len(self) else np.zeros(0, np.int64)

    def __getitem__(self, index: int) -> Sketch:
        index = range(len(self))[index]
        rows = slice(self.first[index], self.first[index] + self.num_points[index])
        times = None if self.times is None or np.isnan(self.times[rows]).any() else self.times[rows]
        facts = {} if self.facts is None else dict(self.facts[index])
        return Sketch(self.points[rows], self.ends[rows], str(self.words[index]), times, facts, self.has_pen)

    def __iter__(self) -> Iterator[Sketch]:
        return (self[index] for index in range(len(self)))

    def rows(self, index: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of the points of some sketches, in their order."""
        index = np.asarray(index, np.int64)
        sizes = self.num_points[index]
        return np.repeat(self.first[index] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))

    def select(self, index: ArrayLike) -> SketchArrays:
        """Return some of the sketches, by numbers or by a mask (M,)."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        rows = self.rows(index)
        return SketchArrays(
            self.num_points[index],
            self.points[rows],
            None if self.pen is None else self.pen[rows],
            self.words[index],
            None if self.times is None else self.times[rows],
            None if self.facts is None else [self.facts[i] for i in index.tolist()],
        )

    def select_points(self, keep: NDArray[np.bool_]) -> SketchArrays:
        """Return the same sketches with some of their points, (P,) bool, at least the last of each stroke."""
        return SketchArrays(
            np.add.reduceat(keep.astype(np.int64), self.first) if len(self) else self.num_points,
            self.points[keep],
            None if self.pen is None else self.pen[keep],
            self.words,
            None if self.times is None else self.times[keep],
            self.facts,
        )

    @classmethod
    def from_sketches(cls, sketches: Sequence[Sketch], dimensions: int = 2) -> SketchArrays:
        """Return sketches as arrays; `dimensions` is that of no sketch at all."""
        if not sketches:
            return cls(np.zeros(0, np.int64), np.zeros((0, dimensions)), np.zeros(0, bool))
        times = [np.full(len(s), np.nan) if s.times is None else s.times for s in sketches]
        has_pen = any(sketch.has_pen for sketch in sketches)
        return cls(
            np.array([len(sketch) for sketch in sketches]),
            np.concatenate([sketch.points for sketch in sketches]),
            np.concatenate([sketch.pen for sketch in sketches]) if has_pen else None,
            np.array([sketch.word for sketch in sketches], str),
            np.concatenate(times) if any(sketch.times is not None for sketch in sketches) else None,
            [dict(sketch.facts) for sketch in sketches] if any(sketch.facts for sketch in sketches) else None,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[SketchArrays]) -> SketchArrays:
        """Return the sketches of several sets, in order.

        Raises:
            ValueError: if they have unlike numbers of coordinates, or some have a pen and some have none.
        """
        if len(parts) == 1:
            return parts[0]
        if len({(part.dimensions, part.has_pen) for part in parts}) != 1:
            raise ValueError("all sets must have as many coordinates, and all a pen or none")
        times = [np.full(len(p.points), np.nan) if p.times is None else p.times for p in parts]
        facts = [fact for p in parts for fact in (p.facts or [{}] * len(p))]
        return cls(
            np.concatenate([p.num_points for p in parts]),
            np.concatenate([p.points for p in parts]),
            np.concatenate([p.ends for p in parts]) if parts[0].has_pen else None,
            np.concatenate([p.words for p in parts]),
            np.concatenate(times) if any(p.times is not None for p in parts) else None,
            facts if any(p.facts is not None for p in parts) else None,
        )
