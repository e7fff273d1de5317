r"""Images to states and back.

An image of height H and width W is the field `pixel`, (C, H, W), channels first:

.. math:: x = p / 127.5 - 1 \in [-1, 1], \qquad p = \mathrm{round}(127.5\,(x + 1)) \in \{0, \dots, 255\}
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendiff.data import Grids
from gendiff.modalities.images.records import ImageArrays


def to_grids(arrays: ImageArrays) -> Grids:
    """Return images as training data. They share memory: bytes become floats batch by batch."""
    pixels = np.require(arrays.pixels, requirements=["C", "W"])  # what torch can share; a view with gaps is copied
    return Grids({"pixel": torch.from_numpy(pixels).permute(0, 3, 1, 2)})


def to_state(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels (M, H, W, C) as the field `pixel`, (M, C, H, W), float32."""
    return to_grids(ImageArrays(pixels)).batch(torch.arange(len(pixels))).state["pixel"]


def from_state(x: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the pixels of a field, and how much of each image had to be clipped.

    Arguments:
        x: The field `pixel`, (B, C, H, W).

    Returns:
        Pixels (B, H, W, C), and for each image the share of its values, (B,), from 0 to 1, that lay outside 0 to 255
        after rounding; they became 0 or 255. Of values that are no numbers, which count too, 0 is made.
    """
    values = (x.detach().float().permute(0, 2, 3, 1) + 1) * 127.5
    rounded = values.round()
    clipped = ~((rounded >= 0) & (rounded <= 255))
    pixels = rounded.nan_to_num(nan=0.0).clamp(0, 255).to(torch.uint8)
    return pixels.cpu().contiguous().numpy(), clipped.flatten(1).float().mean(1).cpu().double().numpy()
