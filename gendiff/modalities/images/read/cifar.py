"""The binary version of CIFAR-10 and CIFAR-100: rows of bytes, without a pickle.

A row [1] is one label, of CIFAR-100 a coarse and a fine one of which the fine counts, and 32 x 32 bytes of each of red,
green and blue. The names of the classes come from `batches.meta.txt` beside the file, of CIFAR-100 from
`fine_label_names.txt`; without it they are numbers. The python version is a pickle and is not read.

References:
    | [1] Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009)
    | https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError, read_bytes, read_text
from gendiff.modalities.images.read.raw import Raw, clean, numbered

PIXELS = 3 * 32 * 32

LABELS = {10: 1, 100: 2}
"""Labels of a row, by the number of classes."""

NAMES = {10: "batches.meta.txt", 100: "fine_label_names.txt"}
"""The file of the names of the classes, by their number."""


def parse_cifar(path: Path) -> Raw:
    """Return the images of a file.

    Raises:
        UserError: if it is not of this form.
    """
    data = read_bytes(path)
    for classes, name in NAMES.items():
        found = parse_rows(data, classes)
        if found is not None:
            pixels, labels = found
            beside = path.parent / name
            names = [str(number) for number in range(classes)]
            if beside.is_file():
                names = parse_names(read_text(beside, 1 << 20), classes, str(beside))
            return Raw(pixels, [names[label] for label in labels.tolist()], numbered(path.stem, len(pixels)))
    raise UserError(
        f"{path}: is no whole file of CIFAR's binary version, rows of {1 + PIXELS:,} or {2 + PIXELS:,} bytes; it has"
        f" {len(data):,} bytes"
    )


def parse_rows(data: bytes, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return the pixels (M, 32, 32, 3) and labels (M,) of rows of 10 or 100 classes, None if these are none."""
    labels = LABELS[classes]
    if not data or len(data) % (labels + PIXELS):
        return None
    rows = np.frombuffer(data, np.uint8).reshape(-1, labels + PIXELS)
    if (rows[:, labels - 1] >= classes).any():
        return None
    return rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, labels - 1]


def parse_names(text: str, classes: int, where: str) -> list[str]:
    """Return the names of classes, one a line.

    Raises:
        UserError: naming `where`, if there are not as many as classes.
    """
    names = [clean(line.strip()) for line in text.splitlines() if line.strip()]
    if len(names) != classes:
        raise UserError(f"{where}: must have a line for each of {classes} classes, and has {len(names):,}")
    return names
