"""Which modality a command line is about, and the options that this brings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from gendiff.cli.parsing import config_file
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
    kinds = [find_modality(name) for name in installed()]
    suffix = ending(path) or "/" * Path(path).is_dir()
    fitting = [kind for kind in kinds if suffix in kind.extensions]
    if not fitting:
        raise UserError(f"{path}: no modality writes such files; say --modality {' or '.join(installed())}")
    return next((kind for kind in fitting if kind.name == "molecules"), fitting[0])


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
