"""`gendiff sample` into a folder of shards, and what can be asked of samples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from rdkit import Chem

import examples
from gendiff.cli.parsing import UsageError, numbers
from gendiff.files import sha256
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model, load
from gendiff.sample import Ancestral

QUICK = ("--steps", 3, "--shard-size", 4, "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    examples.model().save(folder)
    return folder


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A model with random weights that can be asked for logP and TPSA."""
    folder = tmp_path_factory.mktemp("conditional") / "model"
    adapter = Molecules.fit(examples.arrays(), hydrogens="implicit", conditions=["logP", "TPSA"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = adapter.denoiser("tiny")
        for weights in denoiser.parameters():  # what begins at zero hears of no condition
            weights.data += 0.02 * torch.randn_like(weights)
        Model(adapter, denoiser, Ancestral(8)).save(folder)
    return folder


def mols(*paths):
    return [mol for path in sorted(paths) for mol in Chem.SDMolSupplier(str(path), sanitize=False)]


def test_a_folder_of_shards(gendiff, model, tmp_path):
    result = gendiff("sample", model, "-n", 10, "-o", f"{tmp_path}/new/", *QUICK)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("10 molecules in 3 shards, 10 of them now in ")
    assert len(mols(*(tmp_path / "new").glob("*.sdf"))) == 10
    again = gendiff("sample", model, "-n", 10, "-o", f"{tmp_path}/new/", *QUICK)
    assert again.status == 1
    assert "already exists; add --resume" in again.err
    (tmp_path / "new" / "shard-000001.sdf").unlink()
    more = gendiff("sample", model, "-n", 10, "-o", tmp_path / "new", *QUICK, "--resume")  # a folder needs no slash
    assert more.status == 0
    assert more.out.startswith("10 molecules in 3 shards, 4 of them now in ")
    done = gendiff("sample", model, "-n", 10, "-o", tmp_path / "new", *QUICK, "--resume")
    assert done.out == f"10 molecules in 3 shards: {tmp_path / 'new'}\n"
    measured = gendiff(
        "evaluate",
        tmp_path / "new" / "shard-000000.sdf",
        "--reference",
        examples.run().parent / "examples.sdf",
        "--no-strain",
    )
    assert measured.status == 0, measured.err


def test_filters_formats_and_the_rate(gendiff, model, tmp_path):
    words = ("sample", model, "-n", 5, "-o", f"{tmp_path}/new/", *QUICK, "--only", "valid,new", "--format", "xyz")
    known = examples.write(tmp_path / "known.smi")
    result = gendiff(*words, "--reference", known)
    assert result.status == 0, result.err
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert f"{100 * 5 / manifest['drawn']:.1f} % of {manifest['drawn']} drawn are valid and new" in result.out
    assert manifest["reference"] == {"known.smi": sha256(known)}
    assert {path.suffix for path in (tmp_path / "new").glob("[!.]*")} == {".json", ".xyz"}
    known.write_text(known.read_text() * 2)
    refused = gendiff(*words, "--reference", known, "--resume")
    assert "begun with reference" in refused.err
    assert gendiff(*words[:-4], "--only", "new").err.count("name them with --reference FILE") == 1


@pytest.mark.parametrize("option", [("--shard-size", 5), ("--format", "sdf"), ("--resume",), ("--trainer.devices", 2)])
def test_options_of_shards_want_a_folder(gendiff, model, tmp_path, option):
    result = gendiff("sample", model, "-o", tmp_path / "new.sdf", *option)
    assert result.status == 2
    assert f"is about a folder of shards; write -o {tmp_path / 'new.sdf'}/" in result.err


def test_what_fits_the_format_is_counted(gendiff, model, tmp_path):
    result = gendiff("sample", model, "-n", 14, "-o", f"{tmp_path}/new/", *QUICK, "--format", "smi")
    assert (result.status, result.err) == (0, "")
    lines = sum(len(path.read_text().splitlines()) for path in (tmp_path / "new").glob("*.smi"))
    assert 0 < lines < 14
    assert f", {lines} of 14 fit .smi: " in result.out
    help_text = " ".join(gendiff("sample", "--help").out.split())
    assert "a format as above without the dot" in help_text


def test_options_of_lightning(gendiff, model, tmp_path):
    result = gendiff("sample", model, "-n", 10, "-o", f"{tmp_path}/new/", *QUICK, "--trainer.limit_predict_batches", 2)
    assert result.status == 0, result.err
    assert result.out == "8 of 10 are there; go on with --resume\n"
    unknown = gendiff("sample", model, "-o", f"{tmp_path}/other/", "--trainer.wings", 2)
    assert unknown.status == 2
    assert "wings" in unknown.err
    (tmp_path / "options.yaml").write_text("steps: 3\nshard_size: 4\ntrainer:\n  limit_predict_batches: 3\n")
    result = gendiff("sample", model, "-n", 14, "-o", f"{tmp_path}/third/", "--config", tmp_path / "options.yaml")
    assert result.out == "12 of 14 are there; go on with --resume\n"


def test_a_hundred_samples_wait_for_no_library_they_do_not_need():
    check = (
        "import sys, gendiff.cli.sample as sample; sample.build_parser();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pytorch_lightning', 'rdkit')))"
    )
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


# What is asked for


@pytest.mark.parametrize("name", ["new.sdf", "new/"])
def test_what_was_asked_for_is_drawn_and_noted(gendiff, conditional, tmp_path, name):
    words = ("sample", conditional, "-n", 6, "--steps", 3, "--atoms", 3, "-o", f"{tmp_path}/{name}")
    result = gendiff(*words, "--condition", "logP=-1.5, TPSA=40", "--guidance", 2)
    assert result.status == 0, result.err
    path, facts = tmp_path / "new.sdf", tmp_path / "new.json"
    if name == "new/":
        path, facts = tmp_path / "new" / "shard-000000.sdf", tmp_path / "new" / "manifest.json"
    facts = json.loads(facts.read_text())
    assert (facts["condition"], facts["guidance"]) == ({"logP": -1.5, "TPSA": 40.0}, 2.0)
    drawn = load(conditional).draw(6, steps=3, sizes=(3, 3), condition={"logP": -1.5, "TPSA": 40}, guidance=2.0).records
    plain = load(conditional).draw(6, steps=3, sizes=(3, 3)).records
    moved = 0.0
    for mine, theirs, other in zip(mols(path), drawn, plain, strict=True):
        assert (mine.GetProp("target_logP"), mine.GetProp("target_TPSA")) == ("-1.5", "40")
        positions = [torch.as_tensor(mol.GetConformer().GetPositions()) for mol in (mine, theirs, other)]
        torch.testing.assert_close(positions[0], positions[1], atol=1e-3, rtol=0)
        moved = max(moved, float((positions[2][:3] - positions[0][:3]).abs().max()))
    assert moved > 0.01


@pytest.mark.parametrize("text", ["logP", "logP=", "=2", "logP=high", "logP=nan", "logP=2,TPSA", "logP=1e999"])
def test_a_condition_that_is_none(text):
    with pytest.raises(UsageError, match=r"is no NAME=NUMBER; write --condition logP=2\.5,TPSA=40"):
        numbers(text, "--condition")


def test_conditions():
    assert numbers(None, "--condition") == {}
    assert numbers(" logP = 2.5 ,TPSA=-4e1", "--condition") == {"logP": 2.5, "TPSA": -40.0}
    with pytest.raises(UsageError, match="names logP twice"):
        numbers("logP=1,logP=2", "--condition")


@pytest.mark.parametrize("name", ["new.sdf", "new/"])
def test_what_the_model_does_not_know_is_refused(gendiff, model, conditional, tmp_path, name):
    def refused(*words):
        result = gendiff("sample", *words, "-n", 2, "-o", f"{tmp_path}/{name}")
        assert result.status == 1
        assert result.err.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return result.err

    assert "'logP' cannot be asked of this model" in refused(model, "--condition", "logP=1")
    assert "'colour' cannot be asked of this model" in refused(conditional, "--condition", "colour=1")
    assert "--guidance 2 strengthens a condition, and none is given" in refused(model, "--guidance", 2)


# The command itself


@pytest.mark.slow
def test_two_real_processes_are_killed_and_gone_on_with(model, tmp_path, gendiff):
    """Lightning starts the second by running the words again, when the folder is there; both die; one goes on."""
    (tmp_path / "command.py").write_text("import sys\nfrom gendiff.cli import main\nsys.exit(main())\n")
    words = ["sample", model, "-n", 400, *QUICK, "--shard-size", 20]
    two = ["--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    command = [sys.executable, tmp_path / "command.py", *words, "-o", f"{tmp_path}/new/", *two]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive"}
    options = {"env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = subprocess.Popen(list(map(str, command)), start_new_session=True, **options)
    end = time.monotonic() + 120
    while len(list((tmp_path / "new").glob("shard-*.json"))) < 3 and first.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    assert first.communicate(timeout=30) == ("", "")
    assert 3 <= len(list((tmp_path / "new").glob("shard-*.json"))) < 20
    done = subprocess.run(list(map(str, [*command, "--resume"])), timeout=180, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("400 molecules in 20 shards, ")
    assert done.stdout.count("\n") == 1
    assert gendiff(*words, "-o", f"{tmp_path}/reference/").status == 0
    for path in sorted((tmp_path / "reference").glob("*.sdf")):
        assert sha256(tmp_path / "new" / path.name) == sha256(path)
    assert [mol.GetProp("index") for mol in mols(*(tmp_path / "new").glob("*.sdf"))] == [str(i) for i in range(400)]
    assert not list((tmp_path / "new").glob(".[!l]*"))
