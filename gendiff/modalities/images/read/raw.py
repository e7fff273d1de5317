"""What parsers give: images as they stand in the file, or the reason why there is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 1 << 26
"""Most pixels of one image, 8,192 x 8,192: what claims more is not decoded."""

MAX_WORD = 100
"""Most characters of a class."""


class Unusable(ValueError):
    """Why an image or a file cannot be used, as "kind: detail"."""


@dataclass
class Raw:
    """Images of one shape.

    Attributes:
        pixels: (M, H, W, C), uint8.
        words: Their classes, None if the file tells none.
        names: What each is called.
    """

    pixels: NDArray[np.uint8]
    words: Sequence[str] | None
    names: Sequence[str]


def numbered(stem: str, count: int) -> list[str]:
    """Return names of the images of a container: its own with a number, from 0."""
    return [f"{stem}-{i:05d}" for i in range(count)]


def clean(text: str, length: int = MAX_WORD) -> str:
    """Return a text in one line of at most `length` characters, without control characters."""
    if text.isprintable() and len(text) <= length:
        return text
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
    return text.strip()[:length]
