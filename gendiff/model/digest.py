"""Which examples a run was made of, by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gendiff.files import names_below, sha256


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of what `sha256sum` prints of the files in it, ordered by name.

    Files and folders that begin with a dot do not count.
    """
    path = Path(path)
    if not path.is_dir():
        return sha256(path)
    result = hashlib.sha256()
    for name in sorted(names_below(path)):
        result.update(f"{sha256(path / name)}  {name}\n".encode(errors="surrogateescape"))
    return result.hexdigest()
