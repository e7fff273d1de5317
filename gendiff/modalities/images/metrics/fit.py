"""What a network sees of images, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gendiff.metrics.fit import descend
from gendiff.nn.features import RasterNetwork

SMALL, LARGE = 16, 64
"""Pixels along the longer side between which an image is seen as it is."""

BATCH, RATE, SMOOTHING = 128, 1e-2, 0.1
"""Images of a step, the highest learning rate, and the share of the target that is spread over all classes."""


def side(height: int, width: int) -> int:
    """Return the side of the square in which images of a size are seen, a multiple of 16."""
    return -(-max(_shown(height, width)) // 16) * 16


def seen(pixels: NDArray[np.uint8]) -> Tensor:
    """Return what a network sees of images (B, H, W, C), uint8: (B, C, S, S) with values in [0, 1], S by :func:`side`.

    Small images are enlarged a whole number of times, large ones are averaged down to 64 pixels along the longer side,
    and the pixels at their edges are continued to a square. Colours count by their alpha: what cannot be seen is black.
    """
    x = torch.from_numpy(visible(pixels)).movedim(-1, 1) / 255
    height, width = _shown(*x.shape[2:])
    if height > x.shape[2]:
        x = x.repeat_interleave(height // x.shape[2], 2).repeat_interleave(width // x.shape[3], 3)
    elif (height, width) != x.shape[2:]:
        x = F.interpolate(x, (height, width), mode="area")
    square = side(height, width)
    top, left = (square - height) // 2, (square - width) // 2
    return F.pad(x, (left, square - width - left, top, square - height - top), mode="replicate")


def visible(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels (..., C) with colours times alpha where there is one: equal if and only if they look the same."""
    if pixels.shape[-1] in (1, 3):
        return pixels
    alpha = pixels[..., -1:]
    colour = (pixels[..., :-1].astype(np.uint16) * alpha + 127) // 255
    return np.concatenate([colour.astype(np.uint8), alpha], -1)


def shifted(pictures: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Return pictures (B, C, S, S), each moved at random by up to `most` pixels both ways; edges are continued."""
    count, channels, square = pictures.shape[:3]
    move = torch.from_numpy(rng.integers(-most, most + 1, (2, count, 1)))
    row, column = (torch.arange(square) + move).clamp(0, square - 1)
    each, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return pictures[each, channel, row[:, None, :, None], column[:, None, None, :]]


def fit(
    network: RasterNetwork,
    examples: Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]],
    count: int,
    steps: int,
    rng: np.random.Generator,
) -> None:
    """Train a network on pictures that are moved a little at random, by :func:`gendiff.metrics.fit.descend`.

    The loss is the cross-entropy with smoothed labels.

    Arguments:
        network: What is trained.
        examples: Gives the pictures (B, C, S, S) and labels (B,) of some numbers below `count`.
        count: How many examples there are.
        steps: Steps, at batches of 128.
        rng: Of the order, and of how far pictures move: at most a sixteenth of their side.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    numbers = _batches(count, rng)

    def loss() -> Tensor:
        pictures, labels = examples(next(numbers))
        pictures = shifted(pictures, network.size // 16, rng).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(network(pictures), labels, label_smoothing=SMOOTHING)

    descend(network, loss, steps, RATE)


def _batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield numbers in batches without end: every one once, in a random order, and again."""
    while True:
        order = rng.permutation(count)
        yield from np.array_split(order, -(-count // BATCH))


def _shown(height: int, width: int) -> tuple[int, int]:
    """The height and width at which an image is seen, before it is continued to a square."""
    longer = max(height, width)
    if longer > LARGE:
        return max(1, round(height * LARGE / longer)), max(1, round(width * LARGE / longer))
    times = max(1, SMALL // longer)
    return height * times, width * times
