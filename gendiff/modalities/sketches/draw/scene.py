r"""What there is to draw of a sketch, before anyone says with what: lines on a page, their colours, and when the pen
is where.

A drawing (D = 2) is its strokes, in its own coordinates. Any other sequence is a plot: of every coordinate d a line
through the points :math:`(i w, -x_{id})`, upwards as plots are, with w such that the plot is 4 wide and 3 high; behind
them a pale line at 0, where it lies among the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.sketches.records import Sketch

Color = tuple[int, int, int]
Points = NDArray[np.float64]

INK, AXIS, TEXT, TIP = (28, 32, 38), (206, 212, 218), (73, 80, 87), (214, 40, 40)

ORDER: tuple[Color, ...] = ((23, 37, 140), (122, 31, 162), (205, 33, 105), (214, 81, 20), (160, 110, 0))
"""Colours from the first stroke to the last, all legible on white."""

COORDINATES: tuple[Color, ...] = (
    (0, 96, 170),
    (205, 70, 0),
    (0, 130, 95),
    (176, 70, 140),
    (120, 85, 20),
    (85, 85, 85),
    (0, 130, 160),
    (190, 20, 40),
)
"""Colours of the coordinates of a sequence, again from the start after the eighth."""

STROKE, CURVE = 0.018, 0.009
"""Width of a line of a drawing and of a plot, in sides of its cell."""

PAUSE = 0.15
"""How long the pen takes from stroke to stroke: as long as to draw this share of the larger side of the sketch."""

FAR = 1e100
"""Where a picture ends: coordinates beyond are drawn there."""

CAPTION, GAP = 16, 6
"""Height of the line of text below a cell of a sheet, and the room between cells, in units of the page."""


class Line(NamedTuple):
    """A stroke, or one coordinate of a sequence, on the page: points (n, 2), when the pen is there (n,), in [0, 1]."""

    points: Points
    times: NDArray[np.float64]
    color: Color

    def until(self, time: float) -> Points:
        """Return what is drawn at `time`: no point before the first, one more than whole steps between two."""
        done = int(np.searchsorted(self.times, time, side="right"))
        if done in (0, len(self.points)):
            return self.points[:done]
        share = (time - self.times[done - 1]) / (self.times[done] - self.times[done - 1])
        tip = self.points[done - 1] + share * (self.points[done] - self.points[done - 1])
        return np.concatenate([self.points[:done], tip[None]])


class Box(NamedTuple):
    """The window of a cell: centre (2,) and size (2,), in the coordinates of the lines."""

    center: Points
    size: Points

    @property
    def extent(self) -> float:
        """The larger side; 1 for a dot, which has none."""
        return float(self.size.max()) or 1.0


class Scene(NamedTuple):
    """The lines of a sketch, the box around them, and `spread`, the range of values of a plot."""

    lines: list[Line]
    box: Box
    spread: float
    is_drawing: bool

    @property
    def width(self) -> float:
        """Width of the lines, in sides of the cell."""
        return STROKE if self.is_drawing else CURVE


def scene(sketch: Sketch, by_order: bool = False, spread: float | None = None) -> Scene:
    """Return what there is to draw of a sketch; points that are not finite are left out.

    Arguments:
        sketch: The sketch.
        by_order: Give each stroke of a drawing a colour, from the first to the last.
        spread: Range of values for which a plot is 4 wide and 3 high (its own).
    """
    points = np.asarray(sketch.points, np.float64).clip(-FAR, FAR)
    finite = np.isfinite(points).all(1)
    ends = np.flatnonzero(sketch.pen[:-1]) + 1
    strokes = [rows[finite[rows]] for rows in np.split(np.arange(len(points)), ends)]
    strokes = [rows for rows in strokes if len(rows)]
    if points.shape[1] == 2:
        drawn = [points[rows] for rows in strokes]
        box = box_of(drawn)
        colors = ramp(len(drawn)) if by_order else [INK] * len(drawn)
        return Scene(list(map(Line, drawn, pen_times(drawn, box.extent), colors)), box, 0.0, True)
    values = points[finite]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    spread = (high - low if spread is None else spread) or 1.0
    last = max(len(points) - 1, 1)
    step = 4 / 3 * spread / last
    lines = [
        Line(np.stack([rows * step, -points[rows, d]], 1), rows / last, COORDINATES[d % len(COORDINATES)])
        for d in range(points.shape[1])
        for rows in strokes
    ]
    box = box_of([line.points for line in lines])
    if low < 0 < high:
        lines.insert(0, Line(np.array([[0.0, 0.0], [last * step, 0.0]]), np.zeros(2), AXIS))
    return Scene(lines, box, spread, False)


def box_of(lines: Sequence[Points]) -> Box:
    """Return the box around all points of some lines."""
    if not lines:
        return Box(np.zeros(2), np.zeros(2))
    points = np.concatenate(lines)
    low, high = points.min(0), points.max(0)
    return Box((low + high) / 2, high - low)


def pen_times(strokes: Sequence[Points], extent: float) -> list[NDArray[np.float64]]:
    """Return when a pen of constant speed, which pauses between strokes, is at each point; it ends at 1."""
    if not strokes:
        return []
    points = np.concatenate(strokes)
    steps = np.linalg.norm(np.diff(points, axis=0, prepend=points[:1]), axis=1)
    starts = np.cumsum([len(stroke) for stroke in strokes])[:-1]
    steps[starts] = PAUSE * extent
    times = steps.cumsum()
    return np.split(times / (times[-1] or 1.0), starts)


def ramp(count: int) -> list[Color]:
    """Return `count` colours along :data:`ORDER`, of at most 24 kinds."""
    at = np.linspace(0, 1, count) if count > 1 else np.zeros(count)
    at = np.rint(23 * at) / 23 * (len(ORDER) - 1)
    channels = np.stack([np.interp(at, range(len(ORDER)), channel) for channel in zip(*ORDER, strict=True)], 1)
    return [(int(r), int(g), int(b)) for r, g, b in np.rint(channels)]


class Sheet(NamedTuple):
    """A grid of square cells of `side`, each with room for a line of text below it if `caption` is not 0."""

    cells: int
    columns: int
    side: int
    caption: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the page."""
        rows = max(1, -(-self.cells // self.columns))
        return self.columns * (self.side + GAP) + GAP, rows * (self.side + self.caption + GAP) + GAP

    def corner(self, index: int) -> tuple[int, int]:
        """Return where a cell begins, left and top."""
        row, column = divmod(index, self.columns)
        return GAP + column * (self.side + GAP), GAP + row * (self.side + self.caption + GAP)


def sheet(
    count: int, columns: int | None = None, side: int | None = None, captions: Sequence[str] = (), wide: int = 2400
) -> Sheet:
    """Return the grid for `count` cells.

    Arguments:
        count: How many.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        side: Side of a cell; by default 100, less where the sheet would be wider than `wide`, but 24 at least; 240 of
            one cell.
        captions: What is written below the cells.
        wide: See `side`.

    Raises:
        ValueError: for less than one column or a side below 16.
    """
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if side is not None and side < 16:
        raise ValueError(f"size must be at least 16, got {side}")
    if columns is None:
        columns = math.ceil(count / max(1, round(math.sqrt(count / 1.6))))
    columns = max(1, min(columns, count))
    side = side or (240 if count == 1 else max(24, min(100, wide // columns - GAP)))
    return Sheet(count, columns, side, CAPTION if any(captions) else 0)


def several(sketches: Sketch | Iterable[Sketch]) -> list[Sketch]:
    """Return one sketch or several as a list."""
    return [sketches] if isinstance(sketches, Sketch) else list(sketches)


def check_captions(captions: Sequence[str] | None, sketches: Sequence[Sketch]) -> list[str]:
    """Return a line for each sketch: what was given, or the words; no lines at all are as many empty ones.

    Raises:
        ValueError: for another number of captions than of sketches.
    """
    if captions is None:
        return [sketch.word for sketch in sketches]
    if len(captions) not in (0, len(sketches)):
        raise ValueError(f"captions must be one for each of the {len(sketches)} sketches, or none, got {len(captions)}")
    return list(captions) or [""] * len(sketches)


def short(text: str, measure: Callable[[str], float], width: float) -> str:
    """Return one line of text, shortened to a width with an ellipsis."""
    text = " ".join(text.split())
    if measure(text) <= width:
        return text
    while text and measure(text + "…") > width:
        text = text[:-1]
    return text + "…"
