r"""What images are here: many of one size in one array of bytes.

Pixels are whole numbers from 0 to 255, (H, W, C), row by row from the top left. C is 1 for gray, 2 for gray with alpha,
3 for RGB and 4 for RGB with alpha. All images of one set have one size and as many channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHANNELS = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGB with alpha"}
"""What numbers of channels are called."""

MAX_NAME = 200
"""Most bytes of the name of a class folder; file systems take 255."""

RESERVED = r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?"
"""Names that are no files on Windows."""


@dataclass(eq=False)
class Image:
    """One image.

    Attributes:
        pixels: (H, W, C), uint8; (H, W) is taken as gray.
        word: Its class, "" if none.
        facts: What else is known of it, plain values by name: of a model (model, seed, index, …).
        name: What it is called where it comes from, "" if nothing.

    Raises:
        ValueError: for pixels of another type or shape.
    """

    pixels: NDArray[np.uint8]
    word: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        self.pixels = self.pixels[..., None] if np.ndim(self.pixels) == 2 else self.pixels
        _check(np.asarray(self.pixels)[None])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def channels(self) -> int:
        """Number C of channels."""
        return self.pixels.shape[2]

    def _repr_png_(self) -> bytes:
        """Show it in a notebook, a small one with every pixel as a square."""
        from gendiff.modalities.images.write import png

        scale = max(1, 128 // max(self.size))
        return png(Image(self.pixels.repeat(scale, 0).repeat(scale, 1)))


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """M images of one size.

    Arguments:
        pixels: (M, H, W, C), uint8; (M, H, W) is taken as gray.
        words: Class of each, (M,), "" where there is none; none by default.
        names: What each is called where it comes from, (M,); "" by default.

    Raises:
        ValueError: for pixels of another type or shape, or if the numbers disagree.
    """

    pixels: NDArray[np.uint8]
    words: NDArray[np.str_] = None  # type: ignore[assignment]  # made of "" below, as are names
    names: NDArray[np.str_] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "pixels", self.pixels[..., None] if np.ndim(self.pixels) == 3 else np.asarray(self.pixels))
        _check(self.pixels)
        for key in ("words", "names"):
            texts = getattr(self, key)
            put(self, key, np.full(len(self), "") if texts is None else np.asarray(texts, str))
            if getattr(self, key).shape != (len(self),):
                raise ValueError(f"{key} must be ({len(self)},), got {getattr(self, key).shape}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def channels(self) -> int:
        """Number C of channels."""
        return self.pixels.shape[3]

    def __getitem__(self, index: int) -> Image:
        index = range(len(self))[index]
        return Image(self.pixels[index], str(self.words[index]), name=str(self.names[index]))

    def __iter__(self) -> Iterator[Image]:
        return (self[index] for index in range(len(self)))

    def select(self, index: ArrayLike) -> ImageArrays:
        """Return some of the images, by numbers or by a mask (M,)."""
        index = np.asarray(index)
        index = index if index.dtype == bool else index.astype(np.int64)
        return ImageArrays(self.pixels[index], self.words[index], self.names[index])

    @classmethod
    def from_images(cls, images: Sequence[Image]) -> ImageArrays:
        """Return images as arrays.

        Raises:
            ValueError: if there is none, or they differ in size or channels.
        """
        shapes = sorted({image.pixels.shape for image in images})
        if len(shapes) != 1:
            raise ValueError(f"images must be of one size and number of channels, got {shapes or 'none'}")
        return cls(
            np.stack([image.pixels for image in images]),
            np.array([image.word for image in images], str),
            np.array([image.name for image in images], str),
        )


def kind(shape: Sequence[int]) -> str:
    """Return for people what images of shape (..., H, W, C) are: "48 x 32 RGB", width first."""
    height, width, channels = shape[-3:]
    return f"{width} x {height} {CHANNELS[channels]}"


def folder_name(word: str) -> str:
    """Return the name of the folder of a class: `word` as far as file names may have its characters, else with "_"."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", word).strip(" .")
    name = name.encode("utf-8", "replace")[:MAX_NAME].decode(errors="ignore").strip(" .")
    return f"{name}_" if not name or re.fullmatch(RESERVED, name, re.IGNORECASE) else name


def _check(pixels: NDArray[Any]) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be bytes (uint8) from 0 to 255, got {pixels.dtype}")
    if pixels.ndim != 4 or pixels.shape[3] not in CHANNELS or 0 in pixels.shape[1:]:
        raise ValueError(f"pixels must be (H, W, C) of 1 to 4 channels, got {pixels.shape[1:]}")
