"""docs/molecules.md tells chemists the truth: its commands parse, its Python runs, its table names every number."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import examples
from gendiff.cli import COMMANDS
from gendiff.cli.parsing import parse
from gendiff.modalities.molecules.metrics import METRICS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "molecules.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
COMMAND_LINES = [
    shlex.split(line, comments=True)
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("gendiff ")
]


def test_the_page_shows_the_whole_way():
    words = {line[1] for line in COMMAND_LINES}
    assert {"train", "sample", "evaluate", "report", "edit", "data"} <= words <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMAND_LINES, ids=lambda words: " ".join(words[1:5]))
def test_a_command_of_the_page_parses(words):
    module = importlib.import_module(f"gendiff.cli.{words[1]}")
    if words[1] == "data":
        assert words[2] in ("list", "info", "get")
        return
    build = module.build_parser
    parse(build(words[2:]) if build.__code__.co_argcount else build(), words[2:])


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    """As printed, on a run that has learned little: few molecules, and they may come in pieces."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(examples.run())
    examples.write(tmp_path / "examples.sdf")
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        code = re.sub(r"sample\(\d+", "sample(4", block.replace(', "connected"', ""))
        exec(compile(code, "docs/molecules.md", "exec"), {})


def test_the_table_names_every_number():
    table = PAGE[PAGE.index("| number |") :]
    for title, *_ in METRICS.values():
        what, _, kind = title.partition(": ")
        assert what in table, title
        assert kind.split()[-1] in table if kind else True, title


def test_files_that_the_page_names_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
