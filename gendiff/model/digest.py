"""Which examples a run was made of, by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from gendiff.files import sha256


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of what `sha256sum` prints of the files in it, ordered by name.

    Files and folders that begin with a dot do not count.
    """
    path = Path(path)
    if not path.is_dir():
        return sha256(path)
    result = hashlib.sha256()
    for name in sorted(_files(path)):
        result.update(f"{sha256(path / name)}  {name}\n".encode(errors="surrogateescape"))
    return result.hexdigest()


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Names of the files below a folder, from there; links are followed, but not in circles."""
    here = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith(".") or path.resolve() in here:
            continue
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in _files(path, here))
        elif path.is_file():
            yield path.name
