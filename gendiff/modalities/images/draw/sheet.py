"""Many images on one page of white, row by row."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gendiff.files import atomic_write
from gendiff.modalities.images.records import Image

if TYPE_CHECKING:
    from PIL import Image as pillow

Pixels = NDArray[np.uint8]

CAPTION, GAP, FONT = 18, 4, 12
"""Height of the line of text below a cell, the room between cells, and the size of the letters, in pixels."""

SIDE, SINGLE = 128, 256
"""Longer side of a cell by default, in pixels: as much of it as whole pixels fill; and that of one image alone."""

WIDE = 2400
"""Width of a page, in pixels, beyond which its images are enlarged less."""

SQUARE, LIGHT, DARK = 8, 255, 208
"""Chequers behind what is transparent: their side in pixels, and their two grays."""

TEXT = (73, 80, 87)


def sheet_png(
    images: Image | Iterable[Image],
    path: str | Path,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
) -> None:
    """Write images as one PNG, row by row, gray if all of them are.

    Images of unlike size are each drawn as large as the cell of the largest one lets them be by a whole factor.

    Arguments:
        images: What to draw, one or several.
        path: Where; written atomically.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        captions: A line below each, [] for none; by default the words.
        scale: How many times as large the largest image is drawn, each pixel as a square; by default so that it is up
            to 128 pixels wide and high (256 if it is alone), less where the sheet would be wider than 2,400.

    Raises:
        ValueError: for columns or scale below 1, or another number of captions than of images.
        UserError: if the file cannot be written.
    """
    content = png_bytes(page(several(images), columns, captions, scale))
    with atomic_write(path, "wb") as file:
        file.write(content)


class Sheet(NamedTuple):
    """A grid of cells of one size, each with room for a line of text below it if `caption` is not 0; in pixels."""

    cells: int
    columns: int
    height: int
    width: int
    caption: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the page."""
        rows = max(1, -(-self.cells // self.columns))
        return rows * (self.height + self.caption + GAP) + GAP, self.columns * (self.width + GAP) + GAP

    def corner(self, index: int) -> tuple[int, int]:
        """Return where a cell begins, top and left."""
        row, column = divmod(index, self.columns)
        return GAP + row * (self.height + self.caption + GAP), GAP + column * (self.width + GAP)


def page(
    images: Sequence[Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
    wide: int = WIDE,
) -> Pixels:
    """Return the pixels of a sheet, (H, W, 1) if all images are gray, else (H, W, 3); see :func:`sheet_png`."""
    captions = check_captions(captions, images)
    sheet = layout(images, columns, captions, scale, wide)
    return paint(blank(sheet, captions, depth(images)), sheet, images)


def layout(
    images: Sequence[Image],
    columns: int | None = None,
    captions: Sequence[str] = (),
    scale: int | None = None,
    wide: int = WIDE,
) -> Sheet:
    """Return the grid for images; arguments and errors as :func:`sheet_png`, `wide` is the most that is wanted."""
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if scale is not None and scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}")
    count = len(images)
    height, width = (max((image.size[axis] for image in images), default=SIDE) for axis in (0, 1))
    if columns is None:
        rows = max(1, round(math.sqrt(count * width / height / 1.6)))
        columns = math.ceil(count / rows)
    columns = max(1, min(columns, count))
    if scale is None:
        side = SINGLE if count == 1 else SIDE
        scale = max(1, min(side // max(height, width), (wide // columns - GAP) // width))
    return Sheet(count, columns, height * scale, width * scale, CAPTION if any(captions) else 0)


def blank(sheet: Sheet, captions: Sequence[str] = (), channels: int = 3) -> Pixels:
    """Return the page of a sheet with nothing but captions on it, (H, W, channels) of 1 or 3."""
    if not any(captions):
        return np.full((*sheet.size, channels), 255, np.uint8)
    from PIL import Image as pillow
    from PIL import ImageDraw, ImageFont

    canvas = pillow.new("L" if channels == 1 else "RGB", sheet.size[::-1], "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT)
    for index, caption in enumerate(captions):
        top, left = sheet.corner(index)
        text = short(caption, lambda part: pen.textlength(part, font=font), sheet.width)
        place = (left + sheet.width / 2, top + sheet.height + sheet.caption / 2)
        pen.text(place, text, TEXT[0] if channels == 1 else TEXT, font, anchor="mm")
    return np.array(canvas).reshape(*sheet.size, channels)


def paint(canvas: Pixels, sheet: Sheet, images: Sequence[Image]) -> Pixels:
    """Draw images into the cells of a page, each in the middle of its own, and return the page."""
    for index, image in enumerate(images):
        scale = min(sheet.height // image.size[0], sheet.width // image.size[1])
        picture = opaque(image.pixels, scale)
        top, left = sheet.corner(index)
        top += (sheet.height - picture.shape[0]) // 2
        left += (sheet.width - picture.shape[1]) // 2
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def opaque(pixels: Pixels, scale: int = 1) -> Pixels:
    """Return pixels (H, W, C) as gray or RGB, (sH, sW, 1 or 3), each as a square, with chequers behind alpha."""
    pixels = pixels.repeat(scale, 0).repeat(scale, 1)
    if pixels.shape[2] in (1, 3):
        return pixels
    row, column = (np.arange(side) // SQUARE for side in pixels.shape[:2])
    board = np.where((row[:, None] + column) % 2, DARK, LIGHT)[..., None]
    alpha = pixels[..., -1:] / 255
    return np.rint(alpha * pixels[..., :-1] + (1 - alpha) * board).astype(np.uint8)


def depth(images: Iterable[Image]) -> int:
    """Return 1 if all images are gray, with alpha or without, else 3."""
    return 1 if all(image.channels < 3 for image in images) else 3


def png_bytes(pixels: Pixels) -> bytes:
    """Return pixels (H, W, 1 or 3) as a PNG."""
    file = io.BytesIO()
    picture(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def picture(pixels: Pixels) -> pillow.Image:
    """Return pixels (H, W, 1 or 3) as Pillow has them."""
    from PIL import Image as pillow

    return pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def several(images: Image | Iterable[Image]) -> list[Image]:
    """Return one image or several as a list."""
    return [images] if isinstance(images, Image) else list(images)


def check_captions(captions: Sequence[str] | None, images: Sequence[Image]) -> list[str]:
    """Return a line for each image: what was given, or the words; no lines at all are as many empty ones.

    Raises:
        ValueError: for another number of captions than of images.
    """
    if captions is None:
        return [image.word for image in images]
    if len(captions) not in (0, len(images)):
        raise ValueError(f"captions must be one for each of the {len(images)} images, or none, got {len(captions)}")
    return list(captions) or [""] * len(images)


def short(text: str, measure: Callable[[str], float], width: float) -> str:
    """Return one line of text, shortened to a width with an ellipsis."""
    text = " ".join(text.split())
    if measure(text) <= width:
        return text
    while text and measure(text + "…") > width:
        text = text[:-1]
    return text + "…"
