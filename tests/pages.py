"""What the documents show: their commands and their code."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path

from gendiff.cli import COMMANDS
from gendiff.cli.parsing import parse

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of every block of code of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def commands(page: str) -> list[list[str]]:
    """The words of every gendiff command of a page."""
    lines = [line for kind, block in blocks(page) if kind == "bash" for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(part.strip(), comments=True) for line in lines for part in line.split("&&")]
    return [word for word in words if word and Path(word[0]).name == "gendiff"]


def check(words: list[str]) -> None:
    """Parse a command as gendiff would; nothing is run."""
    assert words[1] in COMMANDS
    module = importlib.import_module(f"gendiff.cli.{words[1]}")
    if not hasattr(module, "build_parser"):
        assert words[1] in ("doctor", "data")
        assert words[1] == "doctor" or words[2] in ("list", "info", "get")
        return
    build = module.build_parser
    parse(build(words[2:]) if "argv" in inspect.signature(build).parameters else build(), words[2:])


def missing(page: str) -> list[str]:
    """The files that a page names and that are not there."""
    path = ROOT / page
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8"))
    return [target for target in targets if not (path.parent / target).exists()]
