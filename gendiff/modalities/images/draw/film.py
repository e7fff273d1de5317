"""The reverse process: how images come out of noise, moving or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gendiff.files import atomic_write
from gendiff.modalities.images.draw.sheet import Pixels, blank, depth, layout, opaque, paint, picture, png_bytes
from gendiff.modalities.images.records import Image

HOLD = 1.5
"""How long the finished images stay, s."""

WIDE = 1100
"""Width of a moving page, in pixels, beyond which its images are enlarged less."""

SHADES = 16
"""Colours of a GIF in colour, out of 256, that are for its captions."""

Frames = Sequence[Sequence[Image]]
"""The process: at each time, from noise to data, the same samples."""


def film_gif(
    frames: Frames, path: str | Path, columns: int | None = None, scale: int | None = None, seconds: float = 3.0
) -> None:
    """Write a GIF of the reverse process, with the words of the last state below its cells.

    Grays are exact. A GIF holds 256 colours a frame, so of colours it shows the nearest of those that fit each frame.

    Arguments:
        frames: The samples at each time, from noise to data; :func:`gendiff.model.film.film` gives them.
        path: Where; written atomically.
        columns: Cells in a row; by default so many that the sheet is about 8 wide and 5 high.
        scale: How many times as large images are drawn; by default as :func:`sheet_png`, up to a page 1,100 wide.
        seconds: How long the process takes; then the images stay for 1.5 s.

    Raises:
        ValueError: for no frame or sample, frames of unlike numbers of samples, columns or scale below 1, or seconds
            outside 0.1 to 60.
        UserError: if the file cannot be written.
    """
    _check(frames)
    if not 0.1 <= seconds <= 60:
        raise ValueError(f"seconds must be between 0.1 and 60, got {seconds}")
    words = [image.word for image in frames[-1]]
    sheet, channels = layout(frames[-1], columns, words, scale, WIDE), depth(image for row in frames for image in row)
    page, states = blank(sheet, words, channels), frames
    if channels == 3:
        page = few_colours([page], SHADES)[0]
        states = [list(map(Image, few_colours([image.pixels for image in row], 256 - SHADES))) for row in frames]
    pages = (picture(paint(page.copy(), sheet, row)).quantize(256) for row in states)
    each = max(2, round(100 * seconds / len(frames))) * 10  # a GIF counts in hundredths of a second
    durations = [each] * (len(frames) - 1) + [round(1000 * HOLD)]
    with atomic_write(path, "wb") as file:
        next(pages).save(file, "GIF", save_all=True, append_images=pages, duration=durations, loop=0, disposal=1)


def film_strip_png(frames: Frames, path: str | Path, scale: int | None = None) -> None:
    """Write the reverse process as a PNG: a row for each sample, a column for each time.

    Arguments:
        frames: As in :func:`film_gif`.
        path: Where; written atomically.
        scale: How many times as large images are drawn; by default as :func:`sheet_png`.

    Raises:
        ValueError: for no frame or sample, frames of unlike numbers of samples, or scale below 1.
        UserError: if the file cannot be written.
    """
    _check(frames)
    images = [image for sample in zip(*frames, strict=True) for image in sample]
    sheet = layout(images, len(frames), scale=scale)
    content = png_bytes(paint(blank(sheet, channels=depth(images)), sheet, images))
    with atomic_write(path, "wb") as file:
        file.write(content)


def _check(frames: Frames) -> None:
    if not frames or len({len(row) for row in frames}) != 1:
        raise ValueError(f"frames must all have the same samples, got {[len(row) for row in frames]}")
    if not frames[0]:
        raise ValueError("there is no image to draw; give at least one")


def few_colours(pictures: Sequence[Pixels], count: int) -> list[Pixels]:
    """Return pixels (H, W, C) as RGB in at most `count` colours that fit all of them together, each the nearest one.

    They are chosen before pixels are enlarged, and there is no dithering: a pixel stays a square of one colour.
    """
    flat = [np.broadcast_to(one, (*one.shape[:2], 3)).reshape(-1, 3) for one in map(opaque, pictures)]
    line = np.concatenate(flat)
    enough = 1 + len(line) // 50  # means are moved until so few pixels change theirs
    few = np.asarray(picture(line[None]).quantize(count, kmeans=enough).convert("RGB"))[0]
    parts = np.split(few, np.cumsum([len(one) for one in flat])[:-1])
    return [part.reshape(*one.shape[:2], 3) for part, one in zip(parts, pictures, strict=True)]
