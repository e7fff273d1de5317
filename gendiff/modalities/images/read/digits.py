"""The table of handwritten digits of UCI [1]: a row of 64 values from 0 to 16, the ink in each of 8 x 8 fields, and the
digit. A value k becomes the byte round(255 k / 16).

scikit-learn brings its test part as `digits.csv.gz`, which is the built-in set `digits`; UCI's own files are
`optdigits.tra` and `optdigits.tes`.

References:
    | [1] Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998)
    | https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from gendiff.files import UserError, check_file
from gendiff.modalities.images.read.raw import Raw, numbered

MAX_TABLE = 1 << 26
"""Largest table, unpacked: 64 MiB."""


def parse_digits(path: Path) -> Raw:
    """Return the images of a table.

    Raises:
        UserError: if it is another table, damaged, or too large.
    """
    path = check_file(path, MAX_TABLE)
    try:
        with open(path, "rb") as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else raw as file:
            text = file.read(MAX_TABLE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy or download it again") from None
    if len(text) > MAX_TABLE:
        raise UserError(f"{path}: is larger than {MAX_TABLE:,} bytes")
    try:
        rows = np.array([line.split(b",") for line in text.splitlines() if line.strip()], np.uint8)
    except (ValueError, OverflowError):
        rows = np.zeros((0, 0), np.uint8)
    if rows.ndim != 2 or rows.shape[1:] != (65,) or rows[:, :64].max() > 16 or rows[:, 64].max() > 9:
        raise UserError(
            f"{path}: is no table of digits, 64 numbers from 0 to 16 and a digit in each row; a table of the classes of"
            " pictures is given as --labels"
        )
    ink = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return Raw(ink, [str(digit) for digit in rows[:, 64].tolist()], numbered("digit", len(rows)))
