r"""Write images as PNG, JPEG or WebP, as arrays, or as a folder of PNGs, whole or not at all.

| path            | what                                                                                           |
| --------------- | ---------------------------------------------------------------------------------------------- |
| .png            | one image; its class and facts stand in its text                                               |
| .webp           | one image of RGB with or without alpha, without loss; its class stands in its EXIF             |
| .jpg .jpeg      | one image of gray or RGB, with loss (quality 95); its class likewise                           |
| .npz            | `images` (M, H, W, C), `labels` (M,) and `classes` (K,), arrays without pickle                 |
| a folder        | a PNG an image, numbered from 0: `FOLDER/CLASS/00017.png`, or `FOLDER/00017.png` without class |

Reading PNG, WebP, NPZ or a folder gives the same bytes and the same classes again.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gendiff import __version__
from gendiff.files import NothingFits, UserError, atomic_write, ending, new_folder
from gendiff.modalities.images.read.picture import DESCRIPTION, SOFTWARE
from gendiff.modalities.images.records import CHANNELS, Image, ImageArrays, folder_name, kind

SINGLE = (".png", ".webp", ".jpg", ".jpeg")
"""Endings of files that hold one image."""

EXTENSIONS = (".npz", *SINGLE)
"""Endings of the files that can be written; a path without an ending is a folder."""

HOLDS = {".png": (1, 2, 3, 4), ".webp": (3, 4), ".jpg": (1, 3), ".jpeg": (1, 3)}
"""Numbers of channels that a file can hold."""

MAX_SIDE = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}
"""Largest height or width of a file."""

_LOSSLESS = {"lossless": True, "exact": True}  # exact: also the colours under full transparency
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".webp": ("WEBP", _LOSSLESS),
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG", {"quality": 95, "subsampling": 0})),
}


def write_images(images: Sequence[Image], path: str | Path) -> int:
    """Write images in the format of the ending: one of `EXTENSIONS`, or a new folder.

    Arguments:
        images: What to write.
        path: Where; an existing file is replaced only when the new one is complete, an existing folder never. The name
            of a folder has no ending, or a slash after it.

    Returns:
        How many images were written.

    Raises:
        NothingFits: if there is no image, or the format cannot hold such.
        UserError: for an unknown ending, a path that cannot be written (permission, full disk, an existing folder),
            several images where a file holds one, or images of unlike size in one array.
    """
    suffix = "" if str(path).endswith(("/", os.sep)) else ending(path)
    path = Path(path)
    if suffix and suffix not in EXTENSIONS:
        raise UserError(
            f"{path}: unknown extension {suffix!r}; images are written as {' '.join(EXTENSIONS)}, or into a folder"
        )
    if not images:
        raise NothingFits(f"{path}: there is no image to write")
    if suffix in SINGLE:
        if len(images) > 1:
            raise UserError(f"{path}: holds one image, and there are {len(images):,}; write .npz or a folder")
        content = encoded(images[0], suffix, path)
        with atomic_write(path, "wb") as file:
            file.write(content)
    elif suffix == ".npz":
        arrays = _alike(images, path)
        classes, labels = np.unique(arrays.words, return_inverse=True)
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, images=arrays.pixels, labels=labels, classes=classes)
    else:
        _write_folder(images, path)
    return len(images)


def png(image: Image) -> bytes:
    """Return an image as the bytes of a PNG, with its class and facts as text."""
    return encoded(image, ".png")


def encoded(image: Image, suffix: str, path: str | Path = "") -> bytes:
    """Return an image as the bytes of a file of this ending, one of `SINGLE`; `path` is for messages.

    Raises:
        NothingFits: if the format cannot hold it.
    """
    from PIL import Image as pillow
    from PIL.PngImagePlugin import PngInfo

    where = f"{path}: " if str(path) else ""
    if image.channels not in HOLDS[suffix]:
        raise NothingFits(f"{where}{suffix} cannot hold {CHANNELS[image.channels]}; write .png")
    if max(image.size) > MAX_SIDE.get(suffix, 1 << 31):
        raise NothingFits(f"{where}{suffix} cannot hold {kind(image.pixels.shape)}; write .png")
    picture = pillow.fromarray(image.pixels[..., 0] if image.channels == 1 else image.pixels)
    file, software = io.BytesIO(), f"gendiff {__version__}"
    if suffix == ".png":
        text = PngInfo()
        text.add_text("Software", software)
        for name, value in {**image.facts, "word": image.word}.items():
            if value not in (None, "") and name.isprintable() and name.isascii() and 0 < len(name) < 80:
                text.add_text(name, value if isinstance(value, str) else json.dumps(value, default=str))
        picture.save(file, "PNG", pnginfo=text)
    else:
        form, options = _FORMATS[suffix]
        exif = pillow.Exif()
        exif[SOFTWARE], exif[DESCRIPTION] = software, image.word.encode()
        picture.save(file, form, exif=exif, **options)
    return file.getvalue()


def _alike(images: Sequence[Image], path: Path) -> ImageArrays:
    for image in images:
        if image.pixels.shape != images[0].pixels.shape:
            both = f"{kind(images[0].pixels.shape)} and {kind(image.pixels.shape)}"
            raise UserError(f"{path}: one array holds images of one size, not {both}; write them into a folder")
    return ImageArrays.from_images(images)


def _write_folder(images: Sequence[Image], path: Path) -> None:
    width = max(5, len(str(len(images) - 1)))
    with new_folder(path) as draft:
        for number, image in enumerate(images):
            folder = draft / folder_name(image.word) if image.word else draft
            folder.mkdir(exist_ok=True)
            (folder / f"{number:0{width}}.png").write_bytes(png(image))
