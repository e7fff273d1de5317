"""Data sets by name: the manifest of those that gendiff knows, and the files that a name stands for."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gendiff.files import UserError, cache_folder, read_json

SET = "data:"
"""Before a name of examples: it is a data set's, whatever lies in the working directory."""

PARTS = ("train", "valid", "test", "all")
"""Parts that a data set can have."""


def dataset_folder() -> Path:
    """Return the folder of the built-in data, in an installed package and in a checkout alike."""
    installed = Path(str(resources.files("gendiff"))) / "datasets"
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "datasets"


def manifest() -> dict[str, dict[str, Any]]:
    """Return the data sets that gendiff knows, by name."""
    with (dataset_folder() / "manifest.toml").open("rb") as file:
        return tomllib.load(file)


def builtin(name: str) -> Path:
    """Return the file of a built-in data set: of gendiff's own, or one that comes with a package it depends on.

    Raises:
        UserError: if there is none of that name, or the package is not installed.
    """
    entries = manifest()
    if name not in entries or not entries[name].get("file"):
        known = sorted(key for key, entry in entries.items() if entry.get("file"))
        raise UserError(f"no built-in data set {name!r}; there are: {', '.join(known)}")
    entry = entries[name]
    if "package" not in entry:
        return dataset_folder() / entry["file"]
    found = find_spec(entry["package"])  # looks for it and runs nothing of it
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{name} comes with {entry['package']}, which is not installed; gendiff doctor says more")
    return Path(found.submodule_search_locations[0]) / entry["file"]


def locate(name: str) -> list[Path]:
    """Return the files of a data set: a built-in one, or one that `gendiff data get` has fetched.

    Arguments:
        name: "qm9", which means the training part of a set that has parts, or a part: "qm9/train", "qm9/valid",
            "qm9/test".

    Raises:
        UserError: if there is no such set or part, if it was not fetched yet, or its files are gone.
    """
    name, _, part = name.partition("/")
    entries = manifest()
    if name not in entries:
        raise UserError(f"no data set {name!r}; there are: {', '.join(entries)}")
    if "sources" not in entries[name]:
        if part:
            raise UserError(f"{name} has no part {part!r}; {name} alone is all of it")
        return [builtin(name)]
    folder = cache_folder() / "data" / name
    if not (folder / "dataset.json").is_file():
        raise UserError(f"{name} is not here yet; gendiff data get {name} fetches it")
    return _part_files(folder, part, f"gendiff data get {name}")


def prepared(folder: Path) -> dict[str, Any]:
    """Return what dataset.json says of a folder that `gendiff data get` has made, {} if it is missing or damaged."""
    try:
        facts = read_json(folder / "dataset.json")
        words = all(isinstance(facts[key], str) for key in ("name", "modality", "gendiff", "prepared"))
        parts = bool(facts["parts"]) and all(files for files in facts["parts"].values())
        counts = all(isinstance(count, int) for count in facts["records"].values() if count is not None)
        known = all(isinstance(file["bytes"], int) and len(file["sha256"]) == 64 for file in facts["files"].values())
        names = [*facts["files"], *(name for files in facts["parts"].values() for name in files)]
        plain = all(name == Path(name).name for name in names)  # the files lie in the folder and nowhere else
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
    return facts if words and parts and counts and known and plain else {}


def _part_files(folder: Path, part: str, command: str) -> list[Path]:
    """Return the files of a part of a prepared folder, which `command` prepares again."""
    facts = prepared(folder)
    if not facts:
        raise UserError(f"{folder / 'dataset.json'}: is damaged; {command} prepares the set again")
    parts = facts["parts"]
    part = part or ("train" if "train" in parts else next(iter(parts)))
    if part not in parts:
        raise UserError(f"{facts['name']} has no part {part!r}; there are: {', '.join(parts)}")
    files = [folder / file for file in parts[part]]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: is gone; {command} prepares it again")
    return files


def resolve(words: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return files for what users name as examples: files as they are, and names of data sets as :func:`locate` does.

    "qm9" and "qm9/test" are names, "./qm9" is a path, and so is any :class:`~pathlib.Path`. A name that a file or
    folder has too could mean either, and which would change with the working directory: it is refused, unless the
    folder holds that very set. "data:qm9" is always the data set. A folder that `gendiff data get NAME -o FOLDER` has
    made stands for the training part in it.

    Raises:
        UserError: for a name that could mean either, and as :func:`locate`.
    """
    sets = manifest()

    def files(word: str | Path) -> list[Path]:
        if isinstance(word, str) and word.startswith(SET):
            return locate(word.removeprefix(SET))
        path = Path(word)
        name, slash, part = str(word).partition("/")
        if isinstance(word, str) and name in sets and (part or not slash):
            if not path.exists():
                return locate(word)
            if part in ("", *PARTS) and prepared(path).get("name") != name:
                here = "folder" if path.is_dir() else "file"
                raise UserError(f"{word}: is a data set, and a {here} here; write {SET}{word} or ./{word}")
        if (path / "dataset.json").is_file():
            return _part_files(path, "", f"move the folder away, and gendiff data get NAME -o {path}")
        return [path]

    return [file for word in ([words] if isinstance(words, (str, Path)) else words) for file in files(word)]
