"""`gendiff demo molecules`: what it leaves behind, what it compares, and that it can be repeated."""

import json
import re
import shlex
from html import unescape
from types import SimpleNamespace

import pytest
from pages import check

from gendiff.cli import main
from gendiff.cli.demo.molecules import ROWS, SAME, START, compared
from gendiff.config import describe
from gendiff.metrics import Metric, Table, Value
from gendiff.modalities.molecules.metrics import Suite
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import load

FILES = {"examples.npz", "run", "scratch", "molecules.sdf", "molecules.json", "molecules.png", "scratch.sdf",
         "metrics.json", "scratch.json", "index.html"}  # fmt: skip


def demo(folder):
    """The demo with networks that have learnt nothing new; three molecules of each set are relaxed."""
    init = Suite.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Suite, "__init__", lambda self, *args, **options: init(self, *args, **options, max_strain=3))
        assert main(["demo", "molecules", "--out", str(folder), "--steps", "1", "-n", "6", "--seed", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "demo")


def test_it_leaves_what_it_promises(done):
    assert {path.name for path in done.iterdir()} == FILES
    drawn, _ = Molecules.read([done / "molecules.sdf"], strict=False, embed=False, fragments="keep")
    assert len(drawn) == 6
    facts = json.loads((done / "molecules.json").read_text())
    assert facts["seed"] == 3


def test_both_models_are_of_one_kind_and_learn_from_the_same(done):
    adapted, scratch, start = load(done / "run"), load(done / "scratch"), load(START)
    assert adapted.modality.kept() == scratch.modality.kept() == start.modality.kept()
    networks = [describe(model.denoiser.network) for model in (adapted, scratch, start)]
    assert networks[0] == networks[1] == networks[2]
    assert start.info["training"]["preset"] == SAME["preset"]
    files = [model.info["training"]["files"]["examples.npz"] for model in (adapted, scratch)]
    assert files[0] == files[1]


def test_the_page_tells_of_the_start_and_its_commands_parse(done):
    page = (done / "index.html").read_text()
    assert f"The model {START}, which comes with gendiff, trained on" in page
    assert f"What {START} brings, after 1 steps of training each" in page
    commands = [shlex.split(unescape(line)) for line in re.findall(r"gendiff (?:train|sample|evaluate) [^<\n]*", page)]
    assert [words[1] for words in commands] == ["train", "sample", "evaluate"]
    assert START in commands[0]
    for words in commands:
        check(words)


def test_the_same_seed_draws_the_same(done, tmp_path):
    again = demo(tmp_path / "again")
    for file in ("examples.npz", "molecules.sdf", "scratch.sdf", "molecules.png"):
        assert (again / file).read_bytes() == (done / file).read_bytes(), file


def test_what_is_compared_stands_in_one_line_a_row():
    def table(share):
        value = Value(share, share - 0.1, share + 0.1, 20)
        return Table([Metric("validity", "valid", value, None, "%"), Metric("other", "other", value, None)])

    assert "validity" in ROWS
    assert compared({"a": table(0.75), "b": table(0.5)}) == {
        "valid": "a: 75.0 [65.0, 85.0] %, b: 50.0 [40.0, 60.0] %",
    }


@pytest.mark.slow
def test_the_start_helps(gendiff, tmp_path):
    """The demo as users run it."""
    assert gendiff("demo", "molecules", "--out", tmp_path / "demo").status == 0

    def found(file):
        rows = json.loads((tmp_path / "demo" / file).read_text())["metrics"]
        return SimpleNamespace(**{row["name"]: row["generated"]["value"] for row in rows if row["generated"]})

    adapted, scratch = found("metrics.json"), found("scratch.json")
    assert adapted.valid_connected >= 0.9
    assert adapted.strain < scratch.strain
