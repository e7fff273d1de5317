"""Sketches as SVG, for people, and for programs that read them back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from gendiff.files import atomic_write
from gendiff.modalities.sketches.draw import scene as scenes
from gendiff.modalities.sketches.draw.scene import INK, TEXT, Color, Line, Points, Scene, Sheet, scene
from gendiff.modalities.sketches.records import Sketch

MARGIN = 0.08
"""White around a sketch, in sides of its cell."""

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold."""

More = Callable[[Line], tuple[str, str]]
"""Attributes, each after a space, and content of the path of a line: an animation."""


def svg(sketch: Sketch, size: int = 200, by_order: bool = False) -> str:
    """Return one sketch as an SVG of its own.

    Arguments:
        sketch: A drawing; or any other sequence, which is plotted (see :mod:`gendiff.modalities.sketches.draw`).
        size: Larger side of the picture in pixels.
        by_order: Colour the strokes from the first to the last.
    """
    picture = scene(sketch, by_order)
    box = picture.box
    extent = box.extent / (1 - 2 * MARGIN)
    width, height = (max(float(side), extent / 4) + 2 * MARGIN * extent for side in box.size)
    left, top = box.center[0] - width / 2, box.center[1] - height / 2
    longer = max(width, height)
    body = group(picture, sketch, picture.width * extent)
    view = f"{_number(left)} {_number(top)} {_number(width)} {_number(height)}"
    return page(body, (size * width / longer, size * height / longer), sketch.word or "sketch", view)


def sheet_svg(
    sketches: Sketch | Iterable[Sketch],
    path: str | Path | None = None,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    by_order: bool = False,
    size: int | None = None,
) -> str:
    """Return many sketches as one SVG, row by row, and write it if a path is given.

    A program finds every sketch again, exactly. Each is an element

        <g class="sketch" data-word="cat" transform="…" stroke-width="…"><title>cat</title>
        <path d="M10 20L30 40L50 60"/><path class="dot" d="M5 5L5 5"/></g>

    whose paths are its strokes in order, with absolute M and L only, in the sketch's own coordinates to the last digit;
    the transform just puts it into its cell and is to be left out. A stroke of one point is a path of class "dot" that
    goes from the point to itself. `data-pen="false"` marks a sequence without a pen. Sequences of another dimension
    than two have no such coordinates: their plots are elements of class "plot".

    Arguments:
        sketches: What to draw, each as large as its cell.
        path: Where; written atomically.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        captions: A line below each, [] for none; by default the words.
        by_order: Colour the strokes from the first to the last.
        size: Side of a cell in pixels; by default 100, 240 of one sketch, and less where there are hundreds.

    Raises:
        ValueError: for columns < 1, size < 16, or another number of captions than of sketches.
        UserError: if the file cannot be written.
    """
    text = sheet_of(scenes.several(sketches), columns, captions, by_order, size)
    return write(text, path)


def sheet_of(
    sketches: Sequence[Sketch],
    columns: int | None,
    captions: Sequence[str] | None,
    by_order: bool,
    size: int | None,
    more: More = lambda line: ("", ""),
) -> str:
    """Return a sheet; `more` says what else there is to the path of a line."""
    captions = scenes.check_captions(captions, sketches)
    grid = scenes.sheet(len(sketches), columns, size, captions)
    side = grid.side
    parts = []
    for index, (sketch, caption) in enumerate(zip(sketches, captions, strict=True)):
        picture = scene(sketch, by_order)
        scale = (1 - 2 * MARGIN) * side / picture.box.extent
        x, y = (corner + side / 2 for corner in grid.corner(index))
        center = " ".join(_number(-float(c)) for c in picture.box.center)
        move = f"translate({x:g} {y:g}) scale({scale:.9g}) translate({center})"
        parts.append(group(picture, sketch, picture.width * side / scale, move, more))
        parts.append(caption_text(grid, index, caption))
    return page("\n".join(filter(None, parts)), grid.size, f"{len(sketches)} sketches")


def group(picture: Scene, sketch: Sketch, width: float, transform: str = "", more: More = lambda line: ("", "")) -> str:
    """Return the element of one sketch; see :func:`sheet_svg`."""
    head = f'class="{"sketch" if picture.is_drawing else "plot"}" data-word={quoteattr(clean(sketch.word))}'
    head += "" if sketch.has_pen else ' data-pen="false"'
    head += f' transform="{transform}"' if transform else ""
    parts = [f"<title>{escape(clean(sketch.word))}</title>" if sketch.word else ""]
    for line in picture.lines:
        attributes, content = more(line)
        if len(line.points) == 1:
            attributes += ' class="dot"'
        if line.color != INK:
            attributes += f' stroke="{hexadecimal(line.color)}"'
        parts.append(f'<path{attributes} d="{path_data(line.points)}"' + (f">{content}</path>" if content else "/>"))
    return f'<g {head} stroke-width="{width:.4g}">{"".join(parts)}</g>'


def path_data(points: Points) -> str:
    """Return points as an SVG path, to the last digit: M10 20L30 40; one point goes to itself, which shows as a dot."""
    points = points if len(points) > 1 else points.repeat(2, 0)
    numbers = iter(map(_number, points.ravel().tolist()))
    return "M" + "L".join(f"{x} {y}" for x, y in zip(numbers, numbers, strict=True))


def page(body: str, size: tuple[float, float], title: str, view: str | None = None) -> str:
    """Return an SVG document around `body`, in which lines have ink and round ends."""
    width, height = size
    view = view or f"0 0 {width:g} {height:g}"
    box = " ".join(f'{key}="{value}"' for key, value in zip(("x", "y", "width", "height"), view.split(), strict=True))
    back = f'<rect {box} fill="#fff" stroke="none"/>'
    ink = f'fill="none" stroke="{hexadecimal(INK)}" stroke-linecap="round" stroke-linejoin="round"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.6g}" height="{height:.6g}" viewBox="{view}" role="img"'
        f" {ink}>\n<title>{escape(clean(title))}</title>{back}\n{body}\n</svg>\n"
    )


def caption_text(grid: Sheet, index: int, caption: str) -> str:
    """Return the line of text below a cell, shortened to its width."""
    if not caption:
        return ""
    x, y = grid.corner(index)
    text = escape(scenes.short(clean(caption), lambda part: 6.0 * len(part), grid.side))
    style = f'fill="{hexadecimal(TEXT)}" stroke="none" font-family="sans-serif" font-size="11" text-anchor="middle"'
    return f'<text x="{x + grid.side / 2:g}" y="{y + grid.side + 0.7 * grid.caption:g}" {style}>{text}</text>'


class Shown(NamedTuple):
    """A sheet that a notebook shows as the last value of a cell."""

    text: str

    def __repr__(self) -> str:
        return f"<{len(self.text):,} characters of SVG>"

    def _repr_svg_(self) -> str:
        return self.text


def show(sketches: Sketch | Iterable[Sketch], columns: int | None = None, **options: bool | int) -> Shown:
    """Return sketches as something that a notebook shows; options as :func:`sheet_svg`."""
    return Shown(sheet_svg(sketches, None, columns, **options))  # type: ignore[arg-type]


def write(text: str, path: str | Path | None) -> str:
    """Return an SVG, written if a path is given."""
    if path is not None:
        with atomic_write(path) as file:
            file.write(text)
    return text


def clean(text: str) -> str:
    """Return text with a replacement for each character that XML may not hold."""
    return NOT_XML.sub("\ufffd", text)


def hexadecimal(color: Color) -> str:
    """Return a colour as SVG writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _number(value: float) -> str:
    """The shortest text that is this number again."""
    return repr(float(value)).removesuffix(".0")
