"""The format of MNIST [1]: a file of images, and one of classes beside it.

A file begins with two zero bytes, a byte for the type (8: unsigned bytes), one for the number of axes, and the length
of each axis in four bytes, the most significant first; the values follow. `train-images-idx3-ubyte` holds (M, H, W),
`train-labels-idx1-ubyte` (M,), either packed by gzip or not; also written `train-images.idx3-ubyte`.

References:
    | [1] The MNIST database of handwritten digits (LeCun, Cortes and Burges, 1998)
    | https://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gendiff.files import MAX_BYTES, UserError, check_file
from gendiff.modalities.images.read.raw import MAX_PIXELS, Raw, numbered

IMAGES = re.compile(r"[.-]idx3-ubyte(\.gz)?$", re.IGNORECASE)
LABELS = re.compile(r"[.-]idx1-ubyte(\.gz)?$", re.IGNORECASE)


def parse_idx(path: Path) -> Raw:
    """Return the images of a file, with the classes of the file beside it if there is one.

    Raises:
        UserError: if either is damaged, or holds something else.
    """
    pixels = read_idx(path, 3)
    labels = _labels(path)
    words = None
    if labels is not None:
        numbers = read_idx(labels, 1)
        if len(numbers) != len(pixels):
            raise UserError(f"{labels}: has {len(numbers):,} classes, and {path.name} {len(pixels):,} images")
        words = [str(number) for number in numbers.tolist()]
    return Raw(pixels[..., None], words, numbered(IMAGES.sub("", path.name), len(pixels)))


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Return the array of a file, of so many axes.

    Raises:
        UserError: if it is damaged, or holds something else.
    """
    path = check_file(path, MAX_BYTES)
    packed = path.suffix.lower() == ".gz"
    try:
        with open(path, "rb") as raw, gzip.open(raw) if packed else raw as file:
            head = file.read(4 + 4 * axes)
            if head[:4] != bytes((0, 0, 8, axes)):
                what = "images" if axes == 3 else "classes"
                raise UserError(
                    f"{path}: is no file of {what} in the format of MNIST; its first bytes are {head[:4].hex()}"
                )
            if len(head) < 4 + 4 * axes:
                raise UserError(f"{path}: ends inside of its header")
            shape = struct.unpack(f">{axes}I", head[4:])
            size = 1
            for length in shape:
                size *= length
            if not size or size > MAX_BYTES or (axes == 3 and shape[1] * shape[2] > MAX_PIXELS):
                raise UserError(
                    f"{path}: claims to hold {' x '.join(map(str, shape))} bytes, which is none or too many"
                )
            data = file.read(size)
            if len(data) < size or file.read(1):
                there = f"only {len(data):,}" if len(data) < size else "more"
                raise UserError(
                    f"{path}: must hold {size:,} bytes of values and has {there}; copy or download it again"
                )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the gzip file is damaged ({error}); copy or download it again") from None
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    return np.frombuffer(data, np.uint8).reshape(shape)


def _labels(path: Path) -> Path | None:
    """The file of classes that belongs to a file of images."""
    name = re.sub("images", "labels", IMAGES.sub("", path.name), flags=re.IGNORECASE)
    dot = path.name[len(IMAGES.sub("", path.name))]
    for candidate in (f"{name}{dot}idx1-ubyte", f"{name}{dot}idx1-ubyte.gz"):
        if (path.parent / candidate).is_file():
            return path.parent / candidate
    return None
