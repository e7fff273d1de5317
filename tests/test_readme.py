"""README tells the truth: its commands parse, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

import gendiff
from gendiff.cli import COMMANDS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)


def commands() -> list[list[str]]:
    lines = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    words = [shlex.split(part, comments=True) for part in parts]
    return [word for word in words if word and Path(word[0]).name == "gendiff"]


def test_readme_names_commands():
    assert {words[1] for words in commands()} >= {"demo", "train", "sample", "evaluate"}


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[1:4]))
def test_commands_parse(words, monkeypatch):
    import importlib

    assert words[1] in COMMANDS
    module = importlib.import_module(f"gendiff.cli.{words[1]}")
    if not hasattr(module, "build_parser"):
        assert words[1] in ("doctor", "data")
        return
    from gendiff.cli.parsing import parse

    parse(module.build_parser(), words[2:])


def test_python_example_runs(tmp_path, monkeypatch):
    """The example as printed, but short: fewer steps, and the built-in molecules under the name the example uses."""
    examples = [block for kind, block in BLOCKS if kind == "python"]
    assert examples
    assert all(len([line for line in block.splitlines() if line.strip()]) <= 10 for block in examples)
    from gendiff.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["data", "get", "small-molecules", "-o", "examples.sdf"]) == 0
    full = gendiff.train
    monkeypatch.setattr(
        gendiff, "train", lambda *args, **options: full(*args, **{**options, "steps": 3, "previews": 0})
    )
    code = re.sub(r"only=\[[^\]]*\],? ?", "", examples[0])
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "new.sdf").stat().st_size > 0


def test_files_that_readme_names_exist():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
