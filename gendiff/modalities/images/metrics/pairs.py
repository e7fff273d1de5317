"""Two sets of images, pair by pair: what was restored beside what it should be."""

from __future__ import annotations

import numpy as np

from gendiff.metrics import Floats
from gendiff.modalities.images.metrics.copies import distance
from gendiff.modalities.images.records import ImageArrays


def psnr(a: ImageArrays, b: ImageArrays) -> Floats:
    r"""Return the peak signal-to-noise ratio of each pair of images, (M,), in dB.

    .. math:: 20 \log_{10} \frac{255}{\sqrt{\operatorname{mean} (a - b)^2}}

    The mean is over pixels and channels, colours times alpha where there is one; equal images have infinitely many dB.
    Means over several images are of these numbers.

    Raises:
        ValueError: if the sets are not of one length, size and number of channels.
    """
    if a.pixels.shape != b.pixels.shape:
        raise ValueError(f"pairs need two sets of one shape, got {a.pixels.shape} and {b.pixels.shape}")
    with np.errstate(divide="ignore"):
        return 20 * np.log10(255 / distance(a.pixels, b.pixels))
