"""Images for pages: SVG with the pixels inside, and what a notebook shows."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from gendiff.modalities.images.draw import sheet
from gendiff.modalities.images.draw.sheet import DARK, SQUARE
from gendiff.modalities.images.records import Image
from gendiff.modalities.images.write import png

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold."""

NOTEBOOK = 1000
"""Width of a sheet in a notebook, in pixels, beyond which its images are enlarged less."""


def svg(image: Image, size: int = 200) -> str:
    """Return one image as an SVG, with its pixels inside as PNG and its word as title.

    Arguments:
        image: The image.
        size: Longer side of the picture in pixels. A small image is as large as whole pixels fill it, each pixel a
            square; a larger one is scaled down.
    """
    height, width = image.size
    longer = max(height, width)
    scale = max(1, size // longer) if longer <= size else size / longer
    word = escape(NOT_XML.sub("\ufffd", image.word))
    title = f"<title>{word}</title>" if word else ""
    data = base64.b64encode(png(Image(image.pixels))).decode()
    sharp = ' image-rendering="optimizeSpeed" style="image-rendering:pixelated"' if longer <= size else ""  # old, new
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * scale:g}" height="{height * scale:g}"'
        f' viewBox="0 0 {width} {height}" role="img">{title}{_chequers(image, scale)}'
        f'<image width="{width}" height="{height}"{sharp} href="data:image/png;base64,{data}"/></svg>\n'
    )


def _chequers(image: Image, scale: float) -> str:
    """What shows through an image with alpha."""
    if image.channels in (1, 3):
        return ""
    height, width = image.size
    side = SQUARE / scale
    squares = f"M0 {side:g}h{2 * side:g}v{-side:g}h{-side:g}v{2 * side:g}h{-side:g}z"
    pattern = f'<pattern id="gendiff-chequers-{scale:g}" width="{2 * side:g}" height="{2 * side:g}"'
    return (
        f'<defs>{pattern} patternUnits="userSpaceOnUse"><rect width="100%" height="100%" fill="#fff"/>'
        f'<path d="{squares}" fill="#{DARK:02x}{DARK:02x}{DARK:02x}"/></pattern></defs>'
        f'<rect width="{width}" height="{height}" fill="url(#gendiff-chequers-{scale:g})"/>'
    )


class Shown(NamedTuple):
    """A sheet that a notebook shows as the last value of a cell."""

    content: bytes

    def __repr__(self) -> str:
        return f"<{len(self.content):,} bytes of PNG>"

    def _repr_png_(self) -> bytes:
        return self.content


def show(
    images: Image | Iterable[Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
) -> Shown:
    """Return images as something that a notebook shows; arguments and errors as :func:`sheet_png`."""
    return Shown(sheet.png_bytes(sheet.page(sheet.several(images), columns, captions, scale, wide=NOTEBOOK)))
