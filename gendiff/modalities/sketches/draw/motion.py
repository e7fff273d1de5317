"""Sketches that move: the pen in stroke order, and the reverse process from noise to drawing.

Pictures of the process show each sample in the cell of its last state: noise reaches far beyond it and is cut off, so
one sees the drawing condense.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gendiff.files import atomic_write
from gendiff.modalities.sketches.draw import scene as scenes
from gendiff.modalities.sketches.draw import vector
from gendiff.modalities.sketches.draw.bitmap import END, blank, cell, save_png
from gendiff.modalities.sketches.draw.scene import INK, STROKE, TEXT, TIP, Color, Line, Scene, Sheet, scene
from gendiff.modalities.sketches.records import Sketch

if TYPE_CHECKING:
    from PIL import Image

RATE = 12.5
"""Frames per second of a pen: a GIF counts in hundredths of a second."""

HOLD = 1.5
"""How long the finished drawing stays, s."""

WIDE = 1100
"""Width of a page, in pixels, beyond which its cells shrink."""

FILM_MARGIN = 0.2
"""White around the finished drawing where the process is shown, in sides of its cell: noise needs room."""

Frames = Sequence[Sequence[Sketch]]
"""The process: at each time, from noise to data, the same samples."""


def pen_gif(
    sketches: Sketch | Iterable[Sketch],
    path: str | Path,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    by_order: bool = False,
    size: int | None = None,
    seconds: float = 4.0,
) -> None:
    """Write a GIF of the pen drawing one sketch, or a sheet of them at once, at a constant speed in each.

    Arguments:
        sketches: What to draw.
        path: Where; written atomically.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        captions: A line below each, [] for none; by default the words.
        by_order: Colour the strokes from the first to the last.
        size: Side of a cell in pixels; by default 100, 240 of one sketch, and less for more than about 100 sketches.
        seconds: How long the pen takes; then the drawings stay for 1.5 s.

    Raises:
        ValueError: for no sketch, columns < 1, size < 16, seconds outside 0.1 to 60, or another number of captions
            than of sketches.
        UserError: if the file cannot be written.
    """
    sketches = scenes.several(sketches)
    captions = scenes.check_captions(captions, sketches)
    _check(len(sketches), seconds)
    grid = scenes.sheet(len(sketches), columns, size, captions, WIDE)
    pictures = [scene(sketch, by_order) for sketch in sketches]
    page = blank(grid, captions)
    count = max(2, round(seconds * RATE))
    times = [*(k / count for k in range(1, count)), END]
    frames = (_sheet(page, grid, [cell(picture, grid.side, time=time) for picture in pictures]) for time in times)
    colors = {line.color for picture in pictures for line in picture.lines}
    _save_gif(frames, path, [seconds / count] * (count - 1) + [HOLD], colors)


def pen_svg(
    sketches: Sketch | Iterable[Sketch],
    path: str | Path | None = None,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    by_order: bool = False,
    size: int | None = None,
    seconds: float = 4.0,
) -> str:
    """Return a sheet as :func:`sheet_svg`, and write it if a path is given; its strokes appear in order, over and over.

    The animation is SVG's own (SMIL): no script. What cannot play it shows the finished drawings. Arguments and errors
    as :func:`pen_gif`.
    """
    sketches = scenes.several(sketches)
    _check(len(sketches), seconds)
    total = seconds + HOLD

    def animate(line: Line) -> tuple[str, str]:
        start, stop = (f"{float(time) * seconds / total:.4f}" for time in (line.times[0], line.times[-1]))
        loop = f'dur="{total:g}s" repeatCount="indefinite"'
        if start == stop:  # a dot
            keys = f'values="0;1" keyTimes="0;{start}" calcMode="discrete"'
            return "", f'<animate attributeName="opacity" {keys} {loop}/>'
        # a dash as long as the path comes out of hiding; it begins a little before it, so that its round end hides too
        keys = f'values="1.02;1.02;0;0" keyTimes="0;{start};{stop};1"'
        dash = ' pathLength="1" stroke-dasharray="1 3"'
        return dash, f'<animate attributeName="stroke-dashoffset" {keys} {loop}/>'

    return vector.write(vector.sheet_of(sketches, columns, captions, by_order, size, animate), path)


def film_gif(
    frames: Frames, path: str | Path, columns: int | None = None, size: int | None = None, seconds: float = 3.0
) -> None:
    """Write a GIF of the reverse process, with the words of the last state below its cells.

    Arguments:
        frames: The samples at each time, from noise to data; :func:`gendiff.model.film.film` gives them.
        path: Where; written atomically.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        size: Side of a cell in pixels; by default 100, 240 of one sample, and less for more than about 100 samples.
        seconds: How long the process takes; then the drawings stay for 1.5 s.

    Raises:
        ValueError: for no frame or sample, frames of unlike numbers of samples, columns < 1, size < 16, or seconds
            outside 0.1 to 60.
        UserError: if the file cannot be written.
    """
    states, words = _states(frames, seconds), [sketch.word for sketch in frames[-1]]
    grid = scenes.sheet(len(words), columns, size, words, WIDE)
    page = blank(grid, words)
    pages = (_sheet(page, grid, _cells(row, states[-1], grid.side)) for row in states)
    colors = {line.color for row in states for picture in row for line in picture.lines}
    _save_gif(pages, path, [seconds / len(states)] * (len(states) - 1) + [HOLD], colors)


def film_svg(
    frames: Frames,
    path: str | Path | None = None,
    columns: int | None = None,
    size: int | None = None,
    seconds: float = 3.0,
) -> str:
    """Return the reverse process as an SVG that moves by itself, without a script, and write it if a path is given.

    What cannot play it shows the finished drawings. The class "film" tells readers that these are no sketches.
    Arguments and errors as :func:`film_gif`.
    """
    states, words = _states(frames, seconds), [sketch.word for sketch in frames[-1]]
    grid = scenes.sheet(len(words), columns, size, words, WIDE)
    total = seconds + HOLD
    parts = []
    for i, row in enumerate(states):
        marks = [("hidden", 0)] * (i > 0) + [("visible", i)] + [("hidden", i + 1)] * (i + 1 < len(states))
        values = ";".join(value for value, _ in marks)
        times = ";".join(f"{k * seconds / len(states) / total:.4f}" for _, k in marks)
        animate = (
            f'<animate attributeName="visibility" calcMode="discrete" values="{values}" keyTimes="{times}"'
            f' dur="{total:g}s" repeatCount="indefinite"/>'
        )
        hidden = ' visibility="hidden"' if i + 1 < len(states) else ""
        cells = [_film_cell(row[k], states[-1][k], grid.side, *grid.corner(k)) for k in range(grid.cells)]
        parts.append(f"<g{hidden}>{animate}{''.join(cells)}</g>")
    parts += [vector.caption_text(grid, k, word) for k, word in enumerate(words)]
    return vector.write(_film_page(parts, grid, "the reverse process"), path)


def film_strip_png(frames: Frames, path: str | Path, size: int = 80, scale: int = 2) -> None:
    """Write the reverse process as a PNG: a row for each sample, a column for each time.

    Arguments:
        frames: As in :func:`film_gif`.
        path: Where; written atomically.
        size: Side of a cell in units of the page.
        scale: Pixels per unit.

    Raises:
        ValueError: for no frame or sample, frames of unlike numbers of samples, size < 16 or scale < 1.
        UserError: if the file cannot be written.
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    states = _states(frames)
    grid = scenes.sheet(len(states) * len(states[0]), len(states), size)
    page = blank(grid, scale=scale)
    for column, row in enumerate(states):
        for k, image in enumerate(_cells(row, states[-1], size * scale)):
            x, y = grid.corner(k * len(states) + column)
            page.paste(image, (x * scale, y * scale))
    save_png(page, path)


def _check(count: int, seconds: float) -> None:
    if not count:
        raise ValueError("there is no sketch to draw; give at least one")
    if not 0.1 <= seconds <= 60:
        raise ValueError(f"seconds must be between 0.1 and 60, got {seconds}")


def _states(frames: Frames, seconds: float = 1.0) -> list[list[Scene]]:
    """Return the lines of each sample at each time; plots are scaled as the last one."""
    if not frames or len({len(row) for row in frames}) != 1:
        raise ValueError(f"frames must all have the same samples, got {[len(row) for row in frames]}")
    _check(len(frames[0]), seconds)
    last = [scene(sketch) for sketch in frames[-1]]
    before = [[scene(s, spread=end.spread or None) for s, end in zip(row, last, strict=True)] for row in frames[:-1]]
    return [*before, last]


def _cells(row: Sequence[Scene], last: Sequence[Scene], side: int) -> list[Image.Image]:
    return [cell(picture, side, end.box, FILM_MARGIN) for picture, end in zip(row, last, strict=True)]


def _film_cell(picture: Scene, last: Scene, side: int, x: int, y: int) -> str:
    """A state in the cell of the last one, in pixels of the page to a tenth; lines of one colour are one path."""
    scale = (1 - 2 * FILM_MARGIN) * side / last.box.extent
    data: dict[Color, str] = {}
    for line in picture.lines:
        points = ((line.points - last.box.center) * scale + side / 2).clip(-8.0 * side, 9.0 * side).round(1)
        data[line.color] = data.get(line.color, "") + vector.path_data(points)
    paths = [f'<path stroke="{vector.hexadecimal(color)}" d="{text}"/>' for color, text in data.items()]
    return f'<g transform="translate({x} {y})" clip-path="url(#gendiff-cell-{side})">{"".join(paths)}</g>\n'


def _film_page(parts: Sequence[str], grid: Sheet, title: str) -> str:
    clip = f'<clipPath id="gendiff-cell-{grid.side}"><rect width="{grid.side}" height="{grid.side}"/></clipPath>'
    body = f'<defs>{clip}</defs><g class="film" stroke-width="{STROKE * grid.side:g}">\n{"".join(parts)}</g>'
    return vector.page(body, grid.size, title)


def _sheet(page: Image.Image, grid: Sheet, cells: Sequence[Image.Image]) -> Image.Image:
    page = page.copy()
    for index, image in enumerate(cells):
        page.paste(image, grid.corner(index))
    return page


def _save_gif(frames: Iterable[Image.Image], path: str | Path, seconds: Sequence[float], colors: set[Color]) -> None:
    """Write pictures on white as a GIF of few colours: shades of those that there are."""
    from PIL import Image

    used = sorted({*colors, INK, TEXT, TIP})
    shades = max(2, min(8, 255 // len(used)))
    mixes = [tuple(round(255 + (c - 255) * k / shades) for c in color) for color in used for k in range(1, shades + 1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, *(c for mix in mixes[:255] for c in mix)])
    flat = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [max(2, round(100 * s)) * 10 for s in seconds]
    with atomic_write(path, "wb") as file:
        next(flat).save(
            file, "GIF", save_all=True, append_images=flat, duration=durations, loop=0, optimize=True, disposal=1
        )
