"""`gendiff edit`: files in, files out, and one line for what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rdkit import Chem

import examples
from gendiff.files import sha256

FAST = ("--steps", 4, "--resamples", 2)


@pytest.fixture
def fragment(tmp_path):
    """Methanol far from the origin."""
    mol = Chem.Mol(examples.molecules()[0])
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() + np.array([100.0, -50.0, 7.0]))
    (tmp_path / "fragment.sdf").write_text(Chem.MolToMolBlock(mol) + "$$$$\n")
    return tmp_path / "fragment.sdf"


def test_a_fragment_grows(gendiff, fragment, tmp_path):
    out = tmp_path / "grown.sdf"
    words = ("edit", examples.run(), fragment, "--task", "grow", "-n", 7, "--seed", 1, *FAST)
    done = gendiff(*words, "-o", out)
    assert done.status == 0, done.err
    assert "7 molecules in" in done.out
    mols = list(Chem.SDMolSupplier(str(out), sanitize=False, removeHs=False))
    where = Chem.MolFromMolFile(str(fragment), removeHs=False).GetConformer().GetPositions()[:2]
    assert len(mols) == 7
    for i, mol in enumerate(mols):
        assert np.abs(mol.GetConformer().GetPositions()[:2] - where).max() < 1e-4
        assert mol.GetProp("kept") == mol.GetProp("kept_of_input") == "1-2"
        assert mol.GetProp("kept_bonds") in ("same", "changed")
        assert mol.GetProp("index") == str(i)
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["task"] == "grow"
    assert facts["input"] == [{"file": str(fragment), "sha256": sha256(fragment)}]
    assert (facts["keep"], facts["resamples"], facts["seed"], facts["sampler"]["steps"]) == (None, 2, 1, 4)
    assert facts["sha256"] == sha256(out)
    again = gendiff(*words, "-o", tmp_path / "again.sdf", "--batch-size", 2)
    assert again.status == 0
    assert (tmp_path / "again.sdf").read_text().count("$$$$") == 7


def test_tasks_and_formats(gendiff, fragment, tmp_path):
    two = examples.write(tmp_path / "two.xyz", 2)
    for task, given, ending, more in (
        ("vary", fragment, ".xyz", ("--strength", 0.2, "--steps", 4)),
        ("interpolate", two, ".npz", ("--steps", 4)),
        ("grow", fragment, ".sdf", ("--keep", "1", "--atoms", "3", "--only", "connected", *FAST)),
    ):
        out = tmp_path / f"{task}{ending}"
        done = gendiff("edit", examples.run(), given, "--task", task, "-n", 3, "-o", out, *more)
        assert done.status == 0, done.err
        facts = json.loads(out.with_suffix(".json").read_text())
        assert (facts["task"], facts["number"], facts["made"]) == (task, 3, "samples")
    assert facts["keep"] == [1]
    assert facts["size"] == [3, 3]
    assert gendiff("evaluate", out, "--reference", examples.run().parent / "examples.sdf").status == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--keep", "x"), 2, "--keep 'x' is no list of numbers; write 1,2,5-8, counting from 1"),
        (("--keep", "3-1"), 2, "--keep '3-1' is no list of numbers"),
        (("--keep", "0"), 2, "--keep '0' is no list"),
        (("--keep", "1-99999999999"), 2, "is no list"),
        (("--keep", ","), 1, "--keep names no atom"),
        (("--keep", "2,99"), 1, "--keep names atom 99, and the input has atoms 1 to 6"),
        (
            ("--task", "shrink"),
            1,
            "--task must be one of grow, link, vary, isomers, interpolate for molecules, got 'shrink'",
        ),
        (
            ("--task", "trace"),
            1,
            "--task must be one of grow, link, vary, isomers, interpolate for molecules, got 'trace'",
        ),
        (("--side", "3"), 1, "--side is for data that come in any unit; molecules come in Å"),
        (("--class", "cat"), 1, "molecules have no classes to ask for"),
        (("--task", "vary", "--strength", "1.5"), 1, "--strength must lie in [0, 1]"),
        (("--task", "vary", "--strength", "much"), 2, "strength"),
        (("--task", "interpolate"), 1, "interpolate takes 2 molecules, got 1"),
        (("--task", "link"), 1, "link joins two or more pieces"),
        (("--atoms", "2"), 1, "--size allows 2 at most, and 2 stay"),
        (("--steps", "0"), 1, "--steps must be at least 1"),
        (("-n", "0"), 1, "-n must be at least 1"),
        (("--only", "new"), 1, "--only new is not known here"),
        (("--only", "pretty"), 1, "not 'pretty'"),
        (("--device", "abacus"), 1, "--device abacus"),
        (("--keep", "3,4"), 1, "no heavy atom is kept"),
        (("--guidance", "2"), 1, "--guidance 2 strengthens a condition, and none is given"),
        (("--mask", "hole.png"), 1, "--mask belongs to other modalities or models; grow has no use for it"),
        (("-o", "out.docx"), 1, "out.docx: cannot write .docx; choose from .sdf"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(gendiff, fragment, tmp_path, words, status, message):
    before = sorted(tmp_path.iterdir())
    done = gendiff("edit", examples.run(), fragment, "-o", tmp_path / "out.sdf", *words)
    assert done.status == status
    assert message in done.err
    assert done.err.startswith("gendiff: error: ")
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "shrink"), "--task must be one of grow, link, vary, isomers, interpolate"),
        (("--task", "vary", "--keep", "1"), "--keep belongs to grow and link; vary may change every element"),
        (("--task", "vary", "--size", "3"), "--size belongs to grow and link"),
        (("--task", "vary", "--strength", "1.5"), "--strength must lie in [0, 1]"),
        (("--task", "vary", "--factor", "2"), "--factor belongs to other modalities"),
        (("--task", "grow", "--steps", "0"), "--steps must be at least 1, got 0"),
        (("--task", "grow", "--resamples", "0"), "--resamples must be at least 1, got 0"),
        (("--task", "grow", "--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--task", "grow", "-n", "0"), "-n must be at least 1, got 0"),
        (("--task", "grow", "--condition", "logP=2"), "'logP' cannot be asked of this model"),
        (("--task", "grow", "--only", "pretty"), "not 'pretty'"),
        (("--task", "interpolate", "-n", "1"), "-n must be at least 2 for a path"),
        (("--task", "interpolate", "--only", "valid"), "--only draws until there are enough"),
        (("-o", "out.docx"), "out.docx: cannot write .docx"),
        (("-o", "mine.sdf"), "mine.sdf: already exists and holds no samples of gendiff"),
        (("-o", "mine.sdf/out.sdf"), "mine.sdf: is a file, and mine.sdf/out.sdf would lie in it"),
        (("--task", "grow"), "gone.sdf: no such file"),
    ],
)
def test_bad_options_are_told_before_the_input_is_read(gendiff, tmp_path, monkeypatch, words, message):
    """There is no input; without another mistake that is the error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.sdf").write_text("mine")
    done = gendiff("edit", examples.run(), "gone.sdf", "-o", "out.sdf", *words)
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert message in done.err


def test_what_was_read_is_said_before_the_work(gendiff, fragment, tmp_path):
    done = gendiff("edit", examples.run(), fragment, "-n", 1, "-o", tmp_path / "out.sdf", *FAST)
    first, second = done.out.splitlines()[:2]
    assert first.startswith("read 1 molecule from fragment.sdf: ")
    assert second.startswith("1 molecule in ")


def test_the_input_is_never_written_over(gendiff, fragment):
    text = fragment.read_text()
    done = gendiff("edit", examples.run(), fragment, "-o", fragment.parent / "." / fragment.name)
    assert done.status == 1
    assert "is the input, which would be lost" in done.err
    assert fragment.read_text() == text


def test_a_fragment_without_coordinates_is_refused(gendiff, tmp_path):
    (tmp_path / "a.smi").write_text("CO\n")
    done = gendiff("edit", examples.run(), tmp_path / "a.smi", "-o", tmp_path / "b.sdf")
    assert done.status == 1
    assert "a.smi: has no 3-D coordinates, so nothing says where its atoms stay" in done.err


def test_too_large_a_fragment_and_a_foreign_element_are_refused(gendiff, tmp_path):
    large = tmp_path / "large.xyz"
    large.write_text("5\n\n" + "".join(f"C {1.5 * i} 0.1 0\n" for i in range(5)))
    done = gendiff("edit", examples.run(), large, "-o", tmp_path / "b.sdf")
    assert done.status == 1
    assert "5 heavy atoms stay, and the model knows molecules of at most 4" in done.err
    (tmp_path / "iron.xyz").write_text("1\n\nFe 0 0 0\n")
    done = gendiff("edit", examples.run(), tmp_path / "iron.xyz", "-o", tmp_path / "b.sdf")
    assert done.status == 1
    assert "element Fe; this model knows C, N, O, F" in done.err
