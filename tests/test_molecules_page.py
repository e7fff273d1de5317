"""docs/molecules.md tells chemists the truth: its commands parse, its Python runs, its table names every number."""

from __future__ import annotations

import re

import pages
import pytest

import examples
from gendiff.cli import COMMANDS
from gendiff.modalities.molecules.metrics import METRICS

NAME = "docs/molecules.md"
PAGE = (pages.ROOT / NAME).read_text(encoding="utf-8")


def test_the_page_shows_the_whole_way():
    words = {line[1] for line in pages.commands(NAME)}
    assert {"train", "sample", "evaluate", "report", "edit", "data"} <= words <= set(COMMANDS)


@pytest.mark.parametrize("words", pages.commands(NAME), ids=lambda words: " ".join(words[1:5]))
def test_a_command_of_the_page_parses(words):
    pages.check(words)


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    """As printed, on a run that has learned little: few molecules, and they may come in pieces."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(examples.run())
    examples.write(tmp_path / "examples.sdf")
    blocks = [block for kind, block in pages.blocks(NAME) if kind == "python"]
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
    assert pages.missing(NAME) == []
