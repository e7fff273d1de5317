"""README tells the truth: its commands parse, its Python runs."""

import re

import pages
import pytest

import gendiff


def test_readme_names_commands():
    assert {words[1] for words in pages.commands("README.md")} >= {"demo", "train", "sample", "evaluate"}


@pytest.mark.parametrize("words", pages.commands("README.md"), ids=lambda words: " ".join(words[1:4]))
def test_commands_parse(words):
    pages.check(words)


def test_python_example_runs(tmp_path, monkeypatch):
    """The example as printed, but short: fewer steps, and the built-in molecules under the name the example uses."""
    examples = [block for kind, block in pages.blocks("README.md") if kind == "python"]
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
    assert pages.missing("README.md") == []
