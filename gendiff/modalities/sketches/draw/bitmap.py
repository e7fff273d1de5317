"""Sketches as pixels, by Pillow: drawn four times as large and averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gendiff.files import atomic_write
from gendiff.modalities.sketches.draw import scene as scenes
from gendiff.modalities.sketches.draw.scene import TEXT, TIP, Box, Scene, Sheet, scene
from gendiff.modalities.sketches.draw.vector import MARGIN
from gendiff.modalities.sketches.records import Sketch

if TYPE_CHECKING:
    from PIL import Image

FINE = 4
"""Pixels drawn for each pixel of a picture, in each direction."""

END = 2.0
"""A time at which everything is drawn."""


def png(sketch: Sketch, path: str | Path, size: int = 400, by_order: bool = False) -> None:
    """Write one sketch as a square PNG.

    Arguments:
        sketch: A drawing; or any other sequence, which is plotted (see :mod:`gendiff.modalities.sketches.draw`).
        path: Where; written atomically.
        size: Side in pixels.
        by_order: Colour the strokes from the first to the last.

    Raises:
        ValueError: for size < 16.
        UserError: if the file cannot be written.
    """
    scenes.sheet(1, 1, size)
    save_png(cell(scene(sketch, by_order), size), path)


def sheet_png(
    sketches: Sketch | Iterable[Sketch],
    path: str | Path,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    by_order: bool = False,
    size: int | None = None,
    scale: int = 2,
) -> None:
    """Write many sketches as one PNG, row by row; arguments and errors as :func:`sheet_svg`.

    Arguments:
        sketches: What to draw, each as large as its cell.
        path: Where; written atomically.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        captions: A line below each, [] for none; by default the words.
        by_order: Colour the strokes from the first to the last.
        size: Side of a cell in units of the page; by default 100, 240 of one sketch, and less where there are hundreds.
        scale: Pixels per unit.
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    sketches = scenes.several(sketches)
    captions = scenes.check_captions(captions, sketches)
    grid = scenes.sheet(len(sketches), columns, size, captions)
    sheet = blank(grid, captions, scale)
    for index, sketch in enumerate(sketches):
        x, y = grid.corner(index)
        sheet.paste(cell(scene(sketch, by_order), grid.side * scale), (x * scale, y * scale))
    save_png(sheet, path)


def blank(grid: Sheet, captions: Sequence[str] = (), scale: int = 1) -> Image.Image:
    """Return the page of a sheet with nothing but captions on it."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (grid.size[0] * scale, grid.size[1] * scale), "white")
    if any(captions):
        pen, font = ImageDraw.Draw(page), ImageFont.load_default(11 * scale)
        for index, caption in enumerate(captions):
            x, y = grid.corner(index)
            text = scenes.short(caption, lambda part: pen.textlength(part, font=font), grid.side * scale)
            place = ((x + grid.side / 2) * scale, (y + grid.side + grid.caption / 2) * scale)
            pen.text(place, text, TEXT, font, anchor="mm")
    return page


def cell(picture: Scene, side: int, box: Box | None = None, margin: float = MARGIN, time: float = END) -> Image.Image:
    """Return a square picture of what the pen has drawn; while it draws, a red dot shows where it is.

    Arguments:
        picture: Lines.
        side: Side in pixels.
        box: What fills the picture up to the margin; what is outside the picture is cut off (its own box).
        margin: White around the box, in sides.
        time: When, in [0, 1]; by default the end.
    """
    from PIL import Image, ImageDraw

    box = box or picture.box
    whole = side * FINE
    scale = (1 - 2 * margin) * whole / box.extent
    radius = picture.width * whole / 2
    width = max(1, round(2 * radius))
    page = Image.new("RGB", (whole, whole), "white")
    pen = ImageDraw.Draw(page)
    tips = []
    for line in picture.lines:
        points = line.points if time >= 1 else line.until(time)
        points = ((points - box.center) * scale + whole / 2).clip(-8.0 * whole, 9.0 * whole)
        flat = points.ravel().tolist()
        if len(points) > 1:
            pen.line(flat, line.color, width)
        for x, y in zip(flat[::2], flat[1::2], strict=True):  # round ends and joins
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), line.color)
        if flat and line.times[0] < time < line.times[-1]:
            tips.append(flat[-2:])
    for x, y in tips:
        pen.ellipse((x - 2 * radius, y - 2 * radius, x + 2 * radius, y + 2 * radius), TIP)
    return page.reduce(FINE)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a picture as PNG."""
    with atomic_write(path, "wb") as file:
        image.save(file, "PNG", compress_level=6)
