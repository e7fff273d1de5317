r"""Clouds of points: what is left of a drawing without its strokes, and what a model can be asked to trace.

Three ways lead to a cloud of about `count` points, spread evenly over the ink: along the strokes of a drawing
(:func:`cloud`), out of more points than that (:func:`thin`), and from the ink of a picture (:func:`read_ink`).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from gendiff.files import UserError, check_file
from gendiff.modalities.sketches.geometry import boxes, centred
from gendiff.modalities.sketches.records import SketchArrays

POINTS = 64
"""Points of the condition "points"."""
PICTURES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 1 << 24
MAX_PICTURE_BYTES = 64 << 20
CONTRAST = 32
"""Grey levels, of 255, between paper and the darkest ink below which a picture counts as empty."""
INK = 1 << 15
"""Pixels of ink that are looked at; of more, as many at random."""
ROUNDS = 8


def cloud(arrays: SketchArrays, count: int = POINTS, seed: int = 0) -> NDArray[np.float64]:
    """Return points along the strokes of each sketch, (M, count, D), in no order, around the centre of its box.

    The whole length of the strokes is cut into `count` equal pieces, and one point is drawn evenly from each. A stroke
    that is a single dot counts as long as a piece.

    Arguments:
        arrays: The sketches.
        count: Points of each.
        seed: Seed of the draw and of the order.

    Raises:
        ValueError: for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not len(arrays):
        return np.zeros((0, count, arrays.dimensions))
    random = np.random.default_rng(seed)
    at = (np.arange(count) + random.uniform(size=(len(arrays), count))) / count
    points = along(arrays, centred(arrays), at)
    order = random.uniform(size=(len(arrays), count)).argsort(1)
    return np.take_along_axis(points, order[..., None], 1)


def along(arrays: SketchArrays, x: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points at some shares of the length of all strokes of each sketch, (M, K, D); jumps have none.

    A stroke that is a single dot counts as long as a K-th of the others, or alike where there are only dots.

    Arguments:
        arrays: The sketches, at least one.
        x: Their points where they stand, (P, D).
        at: The shares, 0 to 1, (M, K).
    """
    count = at.shape[1]
    first = np.concatenate([[True], arrays.ends[:-1]])
    before = np.where(first, np.arange(len(x)), np.arange(len(x)) - 1)  # where the segment that ends here begins
    lengths = np.linalg.norm(x - x[before], axis=1)
    stroke, owner = np.cumsum(first) - 1, arrays.sketch_of_point
    drawn = np.add.reduceat(lengths, arrays.first)
    dot = first & (np.bincount(stroke, lengths)[stroke] == 0)
    lengths[dot] = np.where(drawn > 0, drawn / count, 1.0)[owner[dot]]
    total = np.add.reduceat(lengths, arrays.first)
    # one line of all sketches, each of length 1
    share = lengths / total[owner]
    line = np.cumsum(share) - np.repeat(np.cumsum(share)[arrays.last] - 1, arrays.num_points) + owner
    wanted = (np.clip(at, 0, 1 - 1e-9) + np.arange(len(arrays))[:, None]).ravel()
    end = np.clip(np.searchsorted(line, wanted), *(np.repeat(rows, count) for rows in (arrays.first, arrays.last)))
    back = np.clip((line[end] - wanted) / np.maximum(share[end], 1e-300), 0, 1)[:, None]
    return (x[end] + back * (x[before[end]] - x[end])).reshape(len(arrays), count, -1)


def thin(points: NDArray[np.float64], count: int = 64, seed: int = 0) -> NDArray[np.float64]:
    """Return at most `count` points, (K, D), spread evenly over many, (P, D): the centres of as many groups (k-means).

    The first centres are each farthest from those before it; a few rounds of Lloyd's algorithm follow.
    """
    random = np.random.default_rng(seed)
    points = np.unique(points, axis=0)
    if len(points) <= count:
        return points[random.permutation(len(points))]
    if len(points) > INK:
        points = points[random.choice(len(points), INK, replace=False)]
    chosen = [int(random.integers(len(points)))]
    away = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
    centres = points[chosen]
    for _ in range(ROUNDS):
        group = cKDTree(centres).query(points)[1]
        size = np.bincount(group, minlength=count)[:, None]
        sums = np.stack([np.bincount(group, x, count) for x in points.T], 1)
        centres = np.where(size > 0, sums / np.maximum(size, 1), centres)
    return centres[random.permutation(count)]


def read_ink(path: str | Path) -> NDArray[np.float64]:
    """Return the middle line of the ink of a picture, .png or .jpg, as pixels (P, 2): x to the right, y down.

    The paper is the median grey, whatever it is; ink is what lies more than half way from it to the farthest grey. Of
    a broad line those pixels are taken that lie farthest inside it among their neighbours.

    Raises:
        UserError: for what is no such picture, one too large, or one without ink.
    """
    from PIL import Image

    path = check_file(path, MAX_PICTURE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the size, which is checked here before a pixel is unpacked
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {picture.width:,} x {picture.height:,} pixels, more than the limit of"
                        f" {MAX_PIXELS:,}; make it smaller"
                    )
                paper = Image.new("RGBA", picture.size, "white")
                grey = np.asarray(Image.alpha_composite(paper, picture.convert("RGBA")).convert("L"), np.float64)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path}: has far more pixels than the limit of {MAX_PIXELS:,}; make it smaller") from None
    except Exception as error:  # each decoder raises kinds of its own on damaged bytes
        raise UserError(f"{path}: is not a readable PNG or JPEG picture ({type(error).__name__})") from None
    contrast = np.abs(grey - np.median(grey))
    if contrast.max() < CONTRAST:
        raise UserError(f"{path}: shows no ink, all of it is of nearly one grey")
    ink = contrast > contrast.max() / 2
    inside = ndimage.distance_transform_edt(np.pad(ink, 1))[1:-1, 1:-1]
    middle = ink & (inside == ndimage.maximum_filter(inside, 3))
    return np.argwhere(middle)[:, ::-1].astype(np.float64)


def condition(points: NDArray[np.float64], count: int, seed: int = 0) -> NDArray[np.float64]:
    """Return a cloud of any number of points (P, D) as a model is told it, (count, D): thinned, then filled with NaN.

    It stands around the centre of its box.
    """
    found = thin(points, count, seed)
    centre = (points.min(0) + points.max(0)) / 2
    return np.concatenate([found - centre, np.full((count - len(found), points.shape[1]), np.nan)])


def box(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the centre of the box of some points, (D,), and its larger side."""
    centre, side = boxes(SketchArrays(np.array([len(points)]), points))
    return centre[0], float(side[0])
