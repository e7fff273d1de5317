r"""Sketches as small grey pictures: what the eye sees, without the order of the strokes.

A sketch is moved so that the middle of its bounding box lies in the middle of the picture and scaled, alike in x and
y, so that the longer side of the box fills it but for a margin. The picture therefore depends on neither where a
sketch lies nor how large it is. A disc is stamped at points close together along every stroke, on a grid four times
as fine, and the mean over 4 × 4 of its cells is the grey: anti-aliased lines of constant width with round ends and
corners, and a dot where a stroke has no length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.sketches.geometry import normalised
from gendiff.modalities.sketches.records import SketchArrays

SIZE = 32
"""Pixels along the side of a picture."""

FINE = 4
"""Cells of the fine grid along the side of a pixel."""

CHUNK = 1 << 24
"""Cells of the fine grid drawn at once: 16 MiB."""


def rasterise(arrays: SketchArrays, size: int = SIZE, width: float = 0.05, margin: float = 0.03) -> NDArray[np.uint8]:
    """Draw sketches as pictures, 0 where there is nothing and 255 inside a stroke.

    Arguments:
        arrays: M drawings with two coordinates, x to the right and y down.
        size: Pixels along a side.
        width: Width of the strokes, as a fraction of the side.
        margin: What stays free on each side beyond the strokes, as a fraction of the side.

    Returns:
        Pictures, (M, size, size), uint8.

    Raises:
        ValueError: if the points do not have two coordinates, or nothing is left between the margins.
    """
    if arrays.dimensions != 2:
        raise ValueError(f"only sketches with two coordinates can be drawn as pictures, got {arrays.dimensions}")
    room = 1 - 2 * margin - width
    if size < 1 or width <= 0 or room <= 0:
        raise ValueError(f"no room for a drawing: size {size}, width {width}, margin {margin}")
    side = FINE * size
    pictures = np.empty((len(arrays), size, size), np.uint8)
    step = max(1, CHUNK // side**2)
    for start in range(0, len(arrays), step):
        part = arrays.select(np.arange(start, min(len(arrays), start + step)))
        fine = _stamp(part, side, room, width).reshape(len(part), size, FINE, size, FINE)
        pictures[start : start + len(part)] = np.rint(255 / FINE**2 * fine.sum((2, 4), dtype=np.uint16))
    return pictures


def _stamp(arrays: SketchArrays, side: int, room: float, width: float) -> NDArray[np.uint8]:
    """Ones under the strokes, zeros elsewhere, (M, side, side)."""
    points = normalised(arrays) * room * side + side / 2
    offset = np.where(arrays.ends[:, None], 0, np.diff(points, axis=0, append=points[-1:]))
    pieces = np.ceil(np.abs(offset).max(1)).astype(np.int64) + 1  # points at most a cell apart, and the last one
    fraction = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    x, y = (
        np.repeat(points, pieces, 0) + (fraction / np.repeat(pieces, pieces))[:, None] * np.repeat(offset, pieces, 0)
    ).T
    radius = width * side / 2
    most = side - 1 - int(radius)  # without a margin the far edge of a disc lies on that of the picture
    x, y = (np.minimum(axis.astype(np.int64), most) for axis in (x, y))
    cell = (np.repeat(arrays.sketch_of_point, pieces) * side + y) * side + x
    canvas = np.zeros(len(arrays) * side**2, np.uint8)
    reach = np.arange(-int(radius), int(radius) + 1)
    for dy in reach:
        for dx in reach:
            if dx**2 + dy**2 <= radius**2:
                canvas[cell + (dy * side + dx)] = 1
    return canvas.reshape(-1, side, side)
