"""The command: the user's path on every format, and every option explained."""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import yaml
from processes import shared
from rdkit import Chem

import examples
from gendiff import __version__, load
from gendiff.catalog import manifest
from gendiff.cli import COMMANDS
from gendiff.cli.parsing import OURS
from gendiff.cli.sample import read_sidecar, sidecar_of
from gendiff.config import describe
from gendiff.files import sha256
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model
from gendiff.sample import SAMPLERS, Heun

WARM = ("--steps", 10, "--temperature", 1)
QUICK = ("--steps", 2, "--batch-size", 8, "--previews", 0)


def mols(path):
    return list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))


# The front door


def test_overview(gendiff):
    for words in (["--help"], ["-h"], ["help"], []):
        result = gendiff(*words)
        assert result.status == (0 if words else 2)
        assert all(name in result.out for name in COMMANDS)
    assert gendiff("--version").out == f"gendiff {__version__}\n"
    assert gendiff("--version").status == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_with_its_default(gendiff, command):
    result = gendiff(command, "--help")
    assert result.status == 0
    assert result.err == ""
    entries = re.split(r"\n  (?=-)", result.out.split("\noptions:")[1])[1:]
    for entry in entries:
        option, text = entry.split()[0], " ".join(entry.split())
        if option in ("-h,", "--config", "--print_config", "--trainer") or option.endswith(".help"):
            continue
        assert re.search(r"\((required|(type: [^()]*, )?default: [^()]+)", text), text
        assert len(re.sub(r"\((required|type|default).*", "", text).split()) > 2, f"{option} is not explained"


@pytest.mark.parametrize("command", ["train", "sample", "distill"])
def test_help_is_of_gendiffs_options_and_names_lightnings(gendiff, command):
    text = gendiff(command, "--help").out
    assert len(text.splitlines()) < 130
    assert re.findall(r"\n  (--trainer\S*)", text) == ["--trainer.help"]
    for name in (
        "max_epochs",
        "accelerator",
        "devices",
        "num_nodes",
        "precision",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "strategy",
    ):
        assert f"--trainer.{name}" in text


@pytest.mark.parametrize("command", ["train", "sample", "distill"])
def test_lightnings_options_have_a_help_of_their_own(gendiff, command):
    result = gendiff(command, "--trainer.help")
    assert (result.status, result.err) == (0, "")
    text = result.out
    explained = set(re.findall(r"\n  --trainer\.(\w+)", text))
    known = set(inspect.signature(pl.Trainer).parameters)
    assert explained == known - OURS
    assert "Number of GPU nodes" in " ".join(text.split())
    assert "--seed" not in text
    assert ("gradient_clip_val" in text, "default: 1.0" in text) == (True, command != "sample")  # gendiff's defaults
    for name in ("logger", "callbacks", "enable_progress_bar", "default_root_dir"):  # gendiff's own affair
        assert f"--trainer.{name} " not in text


# The user's path


@pytest.mark.parametrize("suffix", examples.FORMATS)
def test_the_path_from_examples_to_metrics(gendiff, tmp_path, suffix):
    path, run = examples.write(tmp_path / f"examples{suffix}"), tmp_path / "runs" / "mine"
    trained = gendiff("train", "molecules", path, "--out", run, *QUICK)
    assert trained.status == 0, trained.err
    assert trained.out.startswith(f"read 40 molecules from examples{suffix}: C ")
    assert "about" in trained.out
    for name in ("new.sdf", "new.xyz", "new.npz"):
        sampled = gendiff("sample", run, "-n", 12, "-o", tmp_path / name, "--steps", 4, "--seed", 3)
        assert (sampled.status, sampled.err) == (0, "")
        assert sampled.out.startswith("12 molecules in ")
        measured = gendiff(
            "evaluate", tmp_path / name, "--reference", path, "--no-strain", "--json", tmp_path / "table.json"
        )
        assert (measured.status, measured.err) == (0, "")
        table = json.loads((tmp_path / "table.json").read_text())
        assert "valid" in measured.out
        assert table
    sidecar = json.loads((tmp_path / "new.json").read_text())
    assert sidecar["protocol"]["hydrogens"] == ("explicit" if suffix == ".xyz" else "implicit")
    assert len(mols(tmp_path / "new.sdf")) == 12


@pytest.mark.parametrize("made_by", ["kekule", "lookup"])
def test_bonds_are_judged_by_the_rule_that_drew_them_or_the_one_that_is_named(gendiff, tmp_path, made_by):
    path, model = examples.write(tmp_path / "examples.xyz"), examples.model("explicit")
    model.modality.rule = made_by
    model.save(tmp_path / "model")
    drawn = tmp_path / "new.sdf"
    assert gendiff("sample", tmp_path / "model", "-n", 12, "-o", drawn, "--steps", 4).status == 0
    words = {"kekule": "orders by valences", "lookup": "by EDM's table", "rdkit": "by RDKit's DetermineBonds"}
    for rule, expected in (("", made_by), ("auto", made_by), *((name, name) for name in words)):
        more = ("--rule", rule) if rule else ()
        measured = gendiff("evaluate", drawn, "--reference", path, "--no-strain", *more)
        assert measured.status == 0, measured.err
        assert [word for word in words.values() if word in measured.out] == [words[expected]]


def test_several_files_of_several_formats(gendiff, tmp_path):
    paths = [examples.write(tmp_path / f"{k}{suffix}", 10) for k, suffix in enumerate(examples.FORMATS)]
    result = gendiff("train", "molecules", *paths, "--out", tmp_path / "run", "--hydrogens", "implicit", *QUICK)
    assert result.status == 0, result.err
    assert "read 40 molecules from 4 files" in result.out
    assert "duplicates" in result.out
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["sha256"] == {str(path): sha256(path) for path in paths}


def test_what_is_written_says_how_it_was_made(gendiff, tmp_path):
    run = examples.run()
    result = gendiff(
        "sample", run, "-n", 15, "-o", tmp_path / "a" / "b" / "new.sdf", "--steps", 7, "--seed", 11, "--atoms", "3-4"
    )
    assert result.status == 0, result.err
    path = tmp_path / "a" / "b" / "new.sdf"
    sidecar = json.loads(path.with_suffix(".json").read_text())
    expected = {
        "made": "samples",
        "gendiff": __version__,
        "modality": "molecules",
        "file": "new.sdf",
        "sha256": sha256(path),
        "model": str(run),
        "weights_sha256": sha256(run / "model" / "model.safetensors"),
        "number": 15,
        "drawn": 15,
        "seed": 11,
        "only": [],
        "size": [3, 4],
        "device": "cpu",
        "protocol": {"hydrogens": "implicit", "rule": "kekule"},
    }
    assert {name: sidecar[name] for name in expected} == expected
    assert sidecar["sampler"]["steps"] == 7
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", sidecar["date"])
    for index, mol in enumerate(mols(path)):
        assert (mol.GetProp("model"), mol.GetProp("seed"), mol.GetProp("index")) == ("run", "11", str(index))
        assert 3 <= mol.GetNumHeavyAtoms() <= 4
        if mol.GetProp("valid") == "true":
            assert Chem.MolFromSmiles(mol.GetProp("SMILES")) is not None
            assert all(np.isfinite(float(mol.GetProp(name))) for name in ("QED", "logP", "MW"))
        else:
            assert mol.GetProp("reason")


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_sampler_takes_the_place_of_the_models(gendiff, tmp_path, name):
    """In its steps and on its grid, unless they are given; the file and its sidecar are those of Python."""
    run, path = examples.run(), tmp_path / "new.npz"
    result = gendiff("sample", run, "-n", 4, "--sampler", name, "--steps", 3, "-o", path)
    assert (result.status, result.err) == (0, "")
    model = load(run)
    expected = model.tuned(3, sampler=name)
    sidecar = read_sidecar(path)
    assert (sidecar["sampler"], sidecar["prior_scale"]) == (describe(expected), 1.0)
    drawn, _ = Molecules.read([path], strict=False, fragments="keep")
    model.write(model.sample(4, sampler=expected), tmp_path / "python.npz")
    mine, _ = Molecules.read([tmp_path / "python.npz"], strict=False, fragments="keep")
    np.testing.assert_array_equal(drawn.positions, mine.positions)


def test_help_names_the_samplers(gendiff):
    words = " ".join(gendiff("sample", "--help").out.split()).replace("- ", "-")  # a line may end behind a hyphen
    assert all(name in words for name in SAMPLERS)
    assert "heun evaluates the network twice a step" in words


def test_the_same_words_give_the_same_samples(gendiff, tmp_path):
    words = ("sample", examples.run(), "-n", 10, "--steps", 5, "--seed", 2, "--temperature", 1)
    for name, more in {"a": (), "b": ("--batch-size", 3), "c": ("--seed", 4)}.items():
        assert gendiff(*words, "-o", tmp_path / f"{name}.xyz", *more).status == 0
    read = {name: Molecules.read([tmp_path / f"{name}.xyz"], strict=False)[0] for name in "abc"}
    np.testing.assert_allclose(read["a"].positions, read["b"].positions, atol=1e-4)
    assert not np.array_equal(read["a"].num_atoms, read["c"].num_atoms) or not np.allclose(
        read["a"].positions, read["c"].positions, atol=1e-2
    )


def test_only_what_is_wanted(gendiff, tmp_path):
    run, path = examples.run(), tmp_path / "new.sdf"
    result = gendiff("sample", run, "-n", 8, "-o", path, *WARM, "--only", "valid,connected,new")
    assert result.status == 0, result.err
    sidecar = json.loads(path.with_suffix(".json").read_text())
    rate = 100 * 8 / sidecar["drawn"]
    assert f"{rate:.1f} % of {sidecar['drawn']:,} drawn are valid and connected and new" in result.out
    assert sidecar["only"] == ["valid", "connected", "new"]
    for mol in mols(path):
        assert (mol.GetProp("valid"), mol.GetProp("connected")) == ("true", "true")
        assert Chem.CanonSmiles(mol.GetProp("SMILES"), useChiral=False) not in examples.SMILES
    indices = [int(mol.GetProp("index")) for mol in mols(path)]
    assert indices == sorted(indices)
    assert indices[-1] == sidecar["drawn"] - 1


def test_a_smiles_list_holds_the_valid_ones(gendiff, tmp_path):
    words = ("sample", examples.run(), "-n", 20, *WARM)
    assert gendiff(*words, "-o", tmp_path / "new.smi").status == 0
    assert gendiff(*words, "-o", tmp_path / "new.sdf").status == 0
    valid = [mol.GetProp("SMILES") for mol in mols(tmp_path / "new.sdf") if mol.GetProp("valid") == "true"]
    assert [line.split()[0] for line in (tmp_path / "new.smi").read_text().splitlines()] == valid
    assert 0 < len(valid) < 20
    result = gendiff(*words, "-o", tmp_path / "new.smi")
    assert result.out.startswith(f"{len(valid)} of 20 molecules fit .smi, drawn in ")
    for name, written in (("new.smi", len(valid)), ("new.sdf", 20)):
        gendiff(*words, "-o", tmp_path / name)
        facts = read_sidecar(tmp_path / name)
        assert (facts["file"], facts["number"], facts["written"]) == (name, 20, written)
    assert {path.name for path in tmp_path.iterdir()} == {"new.smi", "new.json", "new.sdf", "new.sdf.json"}


def test_files_of_one_name_have_sidecars_of_their_own(gendiff, tmp_path):
    """x.json is about the first of them; what is said of one is never taken for another, of the user's own too."""

    def sample(name, number):
        result = gendiff("sample", examples.run(), "-n", number, "--steps", 2, "-o", tmp_path / name)
        assert (result.status, result.err) == (0, "")

    for number, name in enumerate(("x.sdf.gz", "x.xyz", "x.npz", "x.xyz", "x.sdf.gz"), 2):
        sample(name, number)
    assert sidecar_of(tmp_path / "x.sdf.gz").name == "x.json"
    assert sidecar_of(tmp_path / "x.npz").name == "x.npz.json"
    expected = {"x.sdf.gz": 6, "x.xyz": 5, "x.npz": 4}
    assert {name: read_sidecar(tmp_path / name)["number"] for name in expected} == expected
    mine = tmp_path / "x.smi"
    mine.write_text("CCO\n")
    assert read_sidecar(mine) == {}
    result = gendiff("sample", examples.run(), "-n", 2, "--steps", 2, "-o", mine)
    assert "already exists and holds no samples of gendiff" in result.err
    assert mine.read_text() == "CCO\n"
    (tmp_path / "y.json").write_text('{"mine": 1}')
    sample("y.xyz", 3)
    assert (tmp_path / "y.json").read_text() == '{"mine": 1}'
    assert read_sidecar(tmp_path / "y.xyz")["number"] == 3
    before = (tmp_path / "x.json").read_bytes()
    words = ("evaluate", tmp_path / "x.xyz", "--reference", examples.write(tmp_path / "real.sdf"), "--no-strain")
    assert "says how samples were made" in gendiff(*words, "--json", tmp_path / "x.json").err
    assert (tmp_path / "x.json").read_bytes() == before


def test_samples_take_what_is_said_of_them_to_another_name(gendiff, tmp_path):
    assert gendiff("sample", examples.run(), "-n", 3, "--steps", 2, "-o", tmp_path / "x.xyz").status == 0
    for ending in ("xyz", "json"):
        shutil.copy(tmp_path / f"x.{ending}", tmp_path / f"copy.{ending}")
    assert read_sidecar(tmp_path / "copy.xyz")["number"] == 3
    (tmp_path / "copy.xyz").write_text("other\n")
    assert read_sidecar(tmp_path / "copy.xyz") == {}
    (tmp_path / "x.xyz").unlink()  # as after renaming both
    assert read_sidecar(tmp_path / "copy.xyz")["number"] == 3


def test_a_table_of_metrics_never_takes_the_place_of_what_is_known_of_samples(gendiff, tmp_path):
    assert gendiff("sample", examples.run(), "-n", 2, "--steps", 2, "-o", tmp_path / "new.sdf").status == 0
    before = (tmp_path / "new.json").read_bytes()
    words = ("evaluate", tmp_path / "new.sdf", "--reference", examples.write(tmp_path / "real.sdf"), "--no-strain")
    result = gendiff(*words, "--json", tmp_path / "." / "new.json")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert "says how samples were made, which would be lost; choose another --json" in result.err
    assert (tmp_path / "new.json").read_bytes() == before


@pytest.mark.parametrize("text", ["[1, 2]", "a word", "files: some", "files: 3", "a: [", "a: \x00", "\xff"])
def test_a_config_that_is_no_runs_is_passed_over(gendiff, tmp_path, text):
    load(examples.run() / "model").save(tmp_path / "model")
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    result = gendiff("sample", tmp_path / "model", "-n", 2, "--steps", 2, "-o", tmp_path / "new.sdf")
    assert (result.status, result.err) == (0, "")


def test_new_is_judged_against_a_reference_where_the_run_is_far(gendiff, tmp_path):
    model, known = examples.run() / "model", examples.write(tmp_path / "known.smi")
    load(model).save(tmp_path / "alone")
    words = ("sample", tmp_path / "alone", "-n", 2, *WARM, "--only", "new", "-o", tmp_path / "new.sdf")
    result = gendiff(*words)
    assert result.status == 1
    assert "name them with --reference FILE" in result.err
    assert gendiff(*words, "--reference", known, known).status == 0


@pytest.mark.parametrize(
    ("text", "sizes"), [("3", {3}), ("3-3", {3}), ("-2", {2}), ("4-", {4}), ("2-3", {2, 3}), (" 3 - 4 ", {3, 4})]
)
def test_atoms(gendiff, tmp_path, text, sizes):
    words = ("sample", examples.run(), "-n", 20, "--steps", 1, "-o", tmp_path / "new.npz", "--atoms", text)
    assert gendiff(*words).status == 0
    drawn, _ = Molecules.read([tmp_path / "new.npz"], strict=False, fragments="keep")
    assert set(drawn.num_heavy.tolist()) == sizes


def test_logprob(gendiff, tmp_path):
    """One line for each record, in order: the numbers of the model, and what they add up to."""
    path = examples.write(tmp_path / "some.sdf", 6)
    words = ("logprob", examples.run(), path, "-o", tmp_path / "p.csv", "--steps", 4)
    result = gendiff(*words)
    assert (result.status, result.err) == (0, "")
    assert "mean log p" in result.out
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [Chem.CanonSmiles(text) for text in examples.SMILES[:6]]
    model = load(examples.run())
    found = model.log_prob(model.modality.read([path])[0], steps=4)["log_prob"]
    assert [float(row["log_prob"]) for row in rows] == pytest.approx(found.tolist(), rel=1e-4)
    for row in rows:
        parts = float(row["prior"]) + float(row["diffusion"]) + float(row["reconstruction"])
        expected = float(row["size"]) - float(row["volume"]) - parts
        assert float(row["log_prob"]) == pytest.approx(expected, rel=1e-3)
        assert float(row["bits_per_dim"]) * float(row["dim"]) * math.log(2) == pytest.approx(-expected, rel=1e-3)


def test_encode(gendiff, tmp_path):
    path = examples.write(tmp_path / "some.xyz", 5)
    result = gendiff("encode", examples.run(), path, "-o", tmp_path / "codes.npz", "--steps", 3)
    assert (result.status, result.err) == (0, "")
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as codes:
        sizes = [mol.GetNumHeavyAtoms() for mol in examples.molecules()[:5]]
        assert codes["sizes"].tolist() == sizes
        assert codes["position"].shape == (sum(sizes), 3)
        assert np.isfinite(codes["element"]).all()


@pytest.mark.parametrize(("command", "output"), [("logprob", "p.csv"), ("encode", "z.npz")])
def test_a_model_run_over_files_refuses_bad_words(gendiff, tmp_path, command, output):
    path = examples.write(tmp_path / "some.sdf", 3)
    strange = tmp_path / "strange.smi"
    strange.write_text("CBr bromomethane\n")
    for words, reason in (
        ((path, "-o", tmp_path / "table.txt"), "cannot write .txt"),
        ((path, "-o", tmp_path / output, "--steps", 0), "--steps must be at least 1, got 0"),
        ((path, "-o", tmp_path / output, "--batch-size", 0), "--batch-size must be at least 1, got 0"),
        ((strange, "-o", tmp_path / output), "element of atomic number 35"),
        ((tmp_path / "none.sdf", "-o", tmp_path / output), "no such file"),
    ):
        result = gendiff(command, examples.run(), *words)
        assert result.status == 1
        assert reason in result.err
        assert len(result.err.strip().splitlines()) == 1
        assert not (tmp_path / output).exists()


def test_samples_never_take_the_place_of_the_examples(gendiff, tmp_path):
    examples.write(tmp_path / "mine.sdf")
    before = (tmp_path / "mine.sdf").read_bytes()
    assert gendiff("train", "molecules", tmp_path / "mine.sdf", "--out", tmp_path / "run", *QUICK).status == 0
    for words in ((tmp_path / "run",), (examples.run(), "--reference", tmp_path / "mine.sdf")):
        result = gendiff("sample", *words, "-n", 2, "-o", tmp_path / "mine.sdf")
        assert result.status == 1
        assert "holds examples, which would be lost; choose another -o" in result.err
    assert (tmp_path / "mine.sdf").read_bytes() == before


def test_resume_says_which_options_it_leaves_aside(gendiff, tmp_path):
    path = examples.write(tmp_path / "some.sdf")
    assert gendiff("train", "molecules", path, "--out", tmp_path / "run", *QUICK).status == 0
    result = gendiff("train", "molecules", "--out", tmp_path / "run", "--resume", "--steps", 9, "--learning-rate", 1)
    assert result.status == 0
    assert "settings the run began with, not with --steps, --learning-rate as given here" in result.out
    assert "not with" not in gendiff("train", "molecules", "--out", tmp_path / "run", "--resume").out
    words = ("--hydrogens", "implicit", "--checkpoint-every", 7, "--fragments", "keep", "--trainer.max_epochs", 3)
    result = gendiff("train", "molecules", path, "--out", tmp_path / "run", "--resume", *words)
    names = re.search("not with (.*) as given here", result.out)[1].split(", ")
    assert set(names) == {"FILE", "--hydrogens", "--checkpoint-every", "--fragments", "--trainer.max_epochs"}


def test_resume(gendiff, tmp_path):
    path = examples.write(tmp_path / "a.sdf")
    words = ("train", "molecules", path, "--out", tmp_path / "run", *QUICK)
    assert gendiff(*words).status == 0
    again = gendiff(*words)
    assert again.status == 1
    assert "add --resume" in again.err
    for modality in (["molecules"], []):  # the run knows what it is of
        result = gendiff("train", *modality, "--out", tmp_path / "run", "--resume")
        assert result.status == 0, result.err
        assert "trained 2 steps" in result.out


# Options: of ours, of Lightning, of a YAML file


def test_lightnings_options_by_name(gendiff, tmp_path):
    path = examples.write(tmp_path / "a.sdf")
    words = (
        "--trainer.max_epochs",
        1,
        "--trainer.accelerator",
        "cpu",
        "--trainer.accumulate_grad_batches",
        2,
        "--previews",
        0,
    )
    result = gendiff("train", "molecules", path, "--out", tmp_path / "run", "--batch-size", 8, *words)
    assert result.status == 0, result.err
    assert "trained 2 steps" in result.out
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["trainer"] == {"max_epochs": 1, "accelerator": "cpu", "accumulate_grad_batches": 2}


def test_a_yaml_file_of_options(gendiff, tmp_path):
    path = examples.write(tmp_path / "a.sdf")
    (tmp_path / "options.yaml").write_text(
        yaml.safe_dump({"steps": 3, "batch_size": 8, "previews": 0, "seed": 5, "trainer": {"gradient_clip_val": 0.5}})
    )
    words = ("train", "molecules", path, "--config", tmp_path / "options.yaml")
    assert gendiff(*words, "--out", tmp_path / "a").status == 0
    assert gendiff(*words, "--out", tmp_path / "b", "--seed", 6).status == 0
    a, b = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in "ab")
    assert (a["steps"], a["seed"], a["trainer"]) == (3, 5, {"gradient_clip_val": 0.5})
    assert (b["steps"], b["seed"]) == (3, 6)  # the command line has the last word


def test_print_config_is_a_config(gendiff, tmp_path, monkeypatch):
    words = ("train", "molecules", "a.sdf", "--out", tmp_path / "run", "--steps", 5, "--trainer.max_epochs", 2)
    first = gendiff(*words, "--print_config")
    assert first.status == 0
    settings = yaml.safe_load(first.out)
    assert (settings["modality"], settings["files"], settings["steps"]) == ("molecules", ["a.sdf"], 5)
    assert settings["trainer"]["max_epochs"] == 2
    (tmp_path / "all.yaml").write_text(first.out)
    assert not (tmp_path / "run").exists()
    examples.write(tmp_path / "a.sdf", 8)
    monkeypatch.chdir(tmp_path)
    result = gendiff("train", "--config", tmp_path / "all.yaml", "--previews", 0)
    assert result.status == 0, result.err
    assert load(tmp_path / "run").info["training"]["steps"] == 2


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_other_commands_take_a_yaml_file_too(gendiff, tmp_path, command):
    examples.write(tmp_path / "a.sdf")
    options = {
        "sample": {"model": str(examples.run()), "number": 3, "output": str(tmp_path / "new.sdf"), "steps": 2},
        "evaluate": {"generated": str(tmp_path / "a.sdf"), "reference": [str(tmp_path / "a.sdf")], "no_strain": True},
    }[command]
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options))
    result = gendiff(command, "--config", tmp_path / "options.yaml")
    assert result.status == 0, result.err


# Smaller commands


def test_data(gendiff, tmp_path):
    listed = gendiff("data", "list")
    assert listed.status == 0
    assert all(name in listed.out for name in manifest())
    info = gendiff("data", "info", "small-molecules")
    assert info.status == 0
    assert manifest()["small-molecules"]["sha256"] in info.out


def test_built_in_data_in_a_format_of_the_user(gendiff, tmp_path):
    result = gendiff("data", "get", "small-molecules", "-o", tmp_path / "a.smi")
    assert result.status == 0, result.err
    lines = (tmp_path / "a.smi").read_text().splitlines()
    assert len(lines) >= 3000
    assert all(Chem.MolFromSmiles(line.split()[0]) for line in lines[::100])


def test_doctor(gendiff):
    result = gendiff("doctor")
    assert result.status == 0, result.err
    for word in ("gendiff", "torch", "rdkit", "CPU", "molecules", "all is well"):
        assert word in result.out


def test_doctor_finds_what_is_missing(gendiff, monkeypatch):
    from importlib import metadata

    from gendiff.cli import doctor

    def version(name):
        if name == "e3nn":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    result = gendiff("doctor")
    assert result.status == 1
    assert result.err == "gendiff: error: e3nn is missing: pip install e3nn\n"


# As a real process


def command(*words, **options):
    code = "import sys; from gendiff.cli import main; sys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def test_ctrl_c_leaves_a_usable_run(tmp_path):
    path, run = examples.write(tmp_path / "a.sdf"), tmp_path / "run"
    options = ("--steps", 100_000, "--batch-size", 8, "--previews", 0, "--checkpoint-every", 2)
    interrupt = [0, signal.SIGINT, str(run / "checkpoints" / "last.ckpt"), 1]
    (process,) = shared().run("train", "molecules", path, "--out", run, *options, send=interrupt)
    assert process["code"] == 130
    assert "go on with --resume" in process["out"]
    assert process["err"].splitlines()[-1] == "gendiff: error: interrupted"
    assert "Traceback" not in process["err"]
    assert len(load(run).sample(2, steps=2)) == 2


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["data", "list"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(words):
    process = command(*words)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in (0, 141)
    assert err == ""


@pytest.mark.parametrize(("command", "output"), [("logprob", "p.csv"), ("encode", "z.npz")])
def test_records_that_the_model_does_not_know_stop_or_are_left_out(gendiff, tmp_path, command, output):
    path = tmp_path / "mixed.smi"
    path.write_text("CCO good\nCBr bromide\n[H][H] nothing\nCC(=O)N fine\n")
    words = (command, examples.run(), path, "-o", tmp_path / output, "--steps", 2)
    stopped = gendiff(*words)
    assert stopped.status == 1
    assert "mixed.smi, record 2" in stopped.err
    assert "--on-error skip" in stopped.err
    assert not (tmp_path / output).exists()
    left = gendiff(*words, "--on-error", "skip")
    assert left.status == 0
    assert "left out 2 that the model does not know: record 2 (CBr) has element of atomic number 35" in left.out
    assert (tmp_path / output).exists()
    path.write_text("CBr\n")
    none = gendiff(*words, "--on-error", "skip")
    assert none.status == 1
    assert "knows none of the 1 records" in none.err


def test_a_data_set_is_named_in_place_of_a_file(gendiff, tmp_path):
    assert gendiff("train", "molecules", "small-molecules", "--out", tmp_path / "run", *QUICK).status == 0
    result = gendiff("evaluate", gendiff_samples(gendiff, tmp_path), "--reference", "small-molecules", "--no-strain")
    assert (result.status, result.err) == (0, "")
    assert "3,989 molecules" in result.out
    missing = gendiff("train", "molecules", "qm9", "--out", tmp_path / "other", *QUICK)
    assert missing.status == 1
    assert "gendiff data get qm9" in missing.err
    assert not (tmp_path / "other").exists()


def gendiff_samples(gendiff, tmp_path):
    assert gendiff("sample", tmp_path / "run", "-n", 3, "--steps", 2, "-o", tmp_path / "new.sdf").status == 0
    return tmp_path / "new.sdf"


def test_a_file_of_one_record_takes_one(gendiff, tmp_path):
    words = ("sample", examples.run(), "--steps", 2, "-o", tmp_path / "new.mol")
    refused = gendiff(*words, "-n", 2)
    assert refused.status == 1
    assert ".mol holds one record, and 2 are asked for" in refused.err
    assert gendiff(*words, "-n", 1).status == 0
    assert Chem.MolFromMolFile(str(tmp_path / "new.mol"), sanitize=False).GetNumAtoms() > 0


def test_what_is_new_is_judged_by_a_data_set(gendiff, tmp_path):
    words = ("sample", examples.run(), "-n", 2, "--steps", 8, "--only", "new", "--reference", "small-molecules")
    result = gendiff(*words, "-o", tmp_path / "new.sdf")
    assert (result.status, result.err) == (0, "")


def test_files_of_ones_own_are_not_written_over_and_older_samples_are(gendiff, tmp_path):
    mine = tmp_path / "mine.sdf"
    mine.write_text("my own\n")
    for words in (
        ("sample", examples.run(), "-n", 2, "--steps", 2, "-o", mine),
        ("data", "get", "small-molecules", "-o", mine),
        ("edit", examples.run(), examples.write(tmp_path / "a.sdf", 1), "--task", "vary", "-n", 2, "-o", mine),
    ):
        refused = gendiff(*words)
        assert refused.status == 1
        assert "mine.sdf: already exists" in refused.err
        assert mine.read_text() == "my own\n"
    for seed in (0, 1):
        words = ("sample", examples.run(), "-n", 2, "--steps", 2, "-o", tmp_path / "new.sdf", "--seed", seed)
        assert gendiff(*words).status == 0


def test_a_word_elsewhere_on_the_line_is_no_modality(gendiff, tmp_path):
    """The run folder may have the name of another modality; options before the modality hide it, which is said."""
    words = ["--out", tmp_path / "r", "--steps", 1]
    said = gendiff("train", "molecules", "nothing.sdf", *words, "--hydrogens", "implicit")
    assert "nothing.sdf" in said.err
    said = gendiff("train", "--resume", "molecules", *words)
    assert (said.status, "write the modality first" in said.err) == (2, True)


def test_a_film_shows_the_sampler_that_was_asked_for(gendiff, tmp_path, monkeypatch):
    film, filmed = Model.film, []
    monkeypatch.setattr(Model, "film", lambda *args, **options: filmed.append(options) or film(*args, **options))
    words = ("-n", 2, "--sampler", "heun", "--steps", 2, "--temperature", 0.5, "-o", tmp_path / "a.npz")
    said = gendiff("sample", "sketches-digits", *words, "--film", tmp_path / "a.gif")
    assert (said.status, said.err) == (0, "")
    assert describe(filmed[0]["sampler"]) == describe(Heun(2)) == read_sidecar(tmp_path / "a.npz")["sampler"]
    assert filmed[0]["temperature"] == 0.5


def test_a_film_of_shards_is_refused(gendiff, tmp_path):
    said = gendiff("sample", examples.run(), "-n", 4, "-o", f"{tmp_path}/new/", "--film", "a.gif")
    assert (said.status, "--film goes with a file of samples" in said.err) == (2, True)
    assert not (tmp_path / "new").exists()
