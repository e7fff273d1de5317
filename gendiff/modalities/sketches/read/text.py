"""The lines of text files, packed by gzip or not, with bounds on what they unpack to."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gendiff.files import MAX_BYTES, UserError

MAX_LINE = 1 << 25  # bytes in a line
MAX_UNPACKED = MAX_BYTES  # in a text file; it is never in memory as a whole


def lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends; only that of a file cut short has none.

    Raises:
        UserError: if the file is binary or damaged, unpacks to too much, or has a line of over 32 MiB.
    """
    size = 0
    packed = path.suffix.lower() == ".gz"
    try:
        with open(path, "rb") as raw, gzip.open(raw) if packed else raw as file:
            for line in _lines(path, file):
                size += len(line)
                if size > MAX_UNPACKED:
                    raise UserError(f"{path}: unpacks to more than the limit of {MAX_UNPACKED:,} bytes")
                yield line
    except gzip.BadGzipFile as error:
        reason = "is damaged" if size else "is not packed by gzip"
        raise UserError(f"{path}: {reason} ({error})") from None
    except (EOFError, zlib.error) as error:
        reason = "ends too early" if isinstance(error, EOFError) else "is damaged"
        raise UserError(f"{path}: the gzip file {reason}; copy or download it again") from None
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _lines(path: Path, file: Any) -> Iterator[bytes]:
    head = file.peek(4096)[:4096]
    if b"\0" in head or not head:
        raise UserError(f"{path}: " + ("is not a text file" if head else "the file is empty"))
    if head.startswith(b"\xef\xbb\xbf"):
        file.read(3)
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise UserError(f"{path}: a line has over {MAX_LINE:,} bytes; is it a file of sketches?")
        yield line
