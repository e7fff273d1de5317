"""Which modality a command line is about, and the options that this brings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from gendiff.cli.parsing import config_file, wants_help
from gendiff.files import UserError, ending
from gendiff.modality import Modality, find_modality, installed

Kind = type[Modality]


def modality_of(argv: Sequence[str]) -> Kind | None:
    """Return the adapter that the words of a command line, or its file of options, name; None if they name none."""
    names = installed()
    words = [word for before, word in pairwise(["", *argv]) if not before.startswith("-")]  # no values of options
    word = next((word for word in words if word in names), None) or in_config(argv, "modality")
    return find_modality(word) if word in names else None


def in_config(argv: Sequence[str], name: str) -> str | None:
    """Return what the file of options of a command line says of an option, if that is a word."""
    path = config_file(argv)
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError, yaml.YAMLError):  # parsing says what is wrong with it
        return None
    word = content.get(name) if isinstance(content, dict) else None
    return word if isinstance(word, str) else None


def modality_of_file(path: str | Path, named: str | None, sidecar: dict[str, Any]) -> Kind:
    """Return the adapter of a file of samples: the one that is named, that of its sidecar, or that of its ending.

    The ending of a folder without one is "/".

    Raises:
        UserError: for a name that there is not, or an ending of no adapter.
    """
    known = named or sidecar.get("modality")
    if known:
        return find_modality(str(known))
    fitting = _fitting(path)
    if not fitting:
        raise UserError(f"{path}: no modality writes such files; say --modality {' or '.join(installed())}")
    return fitting[0]


def _fitting(path: str | Path) -> list[Kind]:
    """Return the adapters that write files of this ending, molecules first."""
    suffix = ending(path) or "/" * Path(path).is_dir()
    kinds = [find_modality(name) for name in installed()]
    return sorted((kind for kind in kinds if suffix in kind.extensions), key=lambda kind: kind.name != "molecules")


@contextmanager
def guessed(path: str | Path, named: str | None, sidecar: dict[str, Any]) -> Iterator[None]:
    """Say in the error of a reader that the adapter was a guess, where nothing but an ending of several spoke for it.

    Arguments as :func:`modality_of_file`.
    """
    try:
        yield
    except UserError as error:
        told = named or sidecar.get("modality") or not Path(path).exists()
        fitting = [] if told else [kind.name for kind in _fitting(path)]
        if len(fitting) < 2:
            raise
        others = " or ".join(fitting[1:])
        raise UserError(f"{error}; the file was taken for {fitting[0]}: if it holds {others}, say --modality") from None


def explained(argv: Sequence[str], kind: Kind | None = None) -> list[Kind]:
    """Return the adapters that a help speaks of: the one that is named, else all that are installed.

    They take a while to load; where no help is asked for there are none.
    """
    if not wants_help(argv):
        return []
    return [kind] if kind else [find_modality(name) for name in installed()]


def listed(kinds: Iterable[Kind], words: Callable[[Kind], Sequence[str]]) -> str:
    """Return what adapters have by the name of each: "molecules .sdf, .mol; sketches .svg"."""
    return "; ".join(f"{kind.name} {', '.join(found)}" for kind in kinds if (found := words(kind)))


def formats(kind: Kind) -> list[str]:
    """Return the endings of the files that an adapter writes, for people: ".sdf[.gz]", or, of one record, ".mol*"."""
    plain = [word for word in kind.extensions if word.startswith(".") and not word.endswith(".gz")]
    return [word + "[.gz]" * (f"{word}.gz" in kind.extensions) + "*" * (word in kind.single) for word in plain]


def flags(kind: Kind, *of: str) -> list[str]:
    """Return the options of an adapter that these of its methods take, as users write them."""
    return ["--" + option.name.replace("_", "-") for option in kind.options if option.of in of]


def add_options(command: ArgumentParser, kind: Kind | None, *of: str) -> None:
    """Add the options of an adapter that these of its methods take."""
    for option in kind.options if kind else ():
        if option.of not in of:
            continue
        flag, text = "--" + option.name.replace("_", "-"), option.help
        if option.kind is bool:
            command.add_argument(flag, action="store_true", help=text)
        elif option.choices:
            command.add_argument(flag, choices=option.choices, default=option.default, help=text)
        else:
            value: Any = option.kind if option.default is not None else option.kind | None
            command.add_argument(flag, type=value, default=option.default, help=text)


def given(args: Namespace, kind: Kind | None, of: str) -> dict[str, Any]:
    """Return the values of the options that a method takes, by name; a path as text, from the root."""
    values = {option.name: args[option.name] for option in (kind.options if kind else ()) if option.of == of}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in values.items()}
