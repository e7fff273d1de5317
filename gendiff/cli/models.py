"""`gendiff models`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.cli.parsing import parse, parser, say
from gendiff.files import UserError, read_json, read_text
from gendiff.shipped import shipped


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "models",
        "List the models that come with gendiff, with their licence and the first lines of what was measured; of one "
        "that is named, print the card. gendiff sample NAME draws with it, and gendiff.load(NAME) loads it.",
        config=False,
    )
    p.add_argument("name", nargs="?", type=str | None, default=None, help="a model, for its card")
    return p


def main(argv: Sequence[str]) -> int:
    """List them."""
    args = parse(build_parser(), argv)
    folders = shipped()
    if args.name is not None:
        if args.name not in folders:
            raise UserError(f"no model {args.name!r} comes with gendiff; there are: {', '.join(folders) or 'none'}")
        say(read_text(folders[args.name] / "README.md"))
        return 0
    for name, folder in folders.items():
        for line in lines(name, folder):
            say(line)
    if not folders:
        say("none yet")
    return 0


def lines(name: str, folder: Path) -> list[str]:
    """Return what there is to say of a model in a few lines."""
    config: Any = read_json(folder / "config.json")
    info = config["info"]
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    return [
        f"{name}: {info.get('title', config['modality']['name'])}",
        f"  {size:.1f} MB, licence {info.get('licence', 'not stated')}",
        *(f"  {line}" for line in info.get("highlights", [])),
    ]
