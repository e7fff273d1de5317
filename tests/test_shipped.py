"""Models that come with gendiff."""

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rdkit import Chem
from scribbles import scribbles

from gendiff.cli import main
from gendiff.config import describe
from gendiff.model import load, shipped

MODELS = shipped()

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
checkout = pytest.mark.skipif(not BENCHMARKS.exists(), reason="benchmarks/ is not here: not a checkout")


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # where its data classes look their names up
        spec.loader.exec_module(module)
    return module


@checkout
def test_recipes_measure_what_their_cards_show_and_count_the_whole_training(tmp_path):
    shipped = benchmark("shipped")
    for name, folder in MODELS.items():
        recipe = shipped.RECIPES[name]
        first, _, card = (folder / "README.md").read_text(encoding="utf-8").partition("Quality against steps")
        model = load(name)
        assert getattr(model.sampler, "temperature", 1.0) == recipe.temperature
        assert (model.skip and describe(model.skip)) == (recipe.skip and describe(recipe.skip))
        assert ("| without skip guidance |" in first) == (recipe.skip is not None), name
        rows = [int(steps) for steps in re.findall(r"^\| (\d+) \|", card, re.MULTILINE)]
        assert rows == sorted((*recipe.curve, recipe.steps)), name
    (tmp_path / "checkpoints").mkdir()
    torch.save({"elapsed": 750.0}, tmp_path / "checkpoints" / "last.ckpt")
    assert shipped.minutes(tmp_path) == 12.5


@checkout
def test_a_second_run_starts_from_the_first(tmp_path, monkeypatch):
    shipped, runs, loaded = benchmark("shipped"), [], []

    def train(modality, files, out, **options):
        out.mkdir(parents=True)
        runs.append((out, options))

    monkeypatch.setattr(shipped, "train", train)
    monkeypatch.setattr(shipped, "carve", lambda recipe, data, work: (tmp_path, tmp_path))
    monkeypatch.setattr(shipped, "sha256", lambda path: "0")
    monkeypatch.setattr(shipped, "minutes", lambda run: 1.26)
    monkeypatch.setattr(shipped, "measure", lambda recipe, model, files: {"metrics": []})
    monkeypatch.setattr(shipped, "load", lambda run: loaded.append(run) or load("molecules-qm9"))
    shipped.main(["molecules-qm9", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--steps", "3"])
    (first, options), (second, more) = runs
    assert (options["parent"], options["steps"], options["fitting"]["atom_types"]) == (None, 3, "given")
    assert (more["parent"], more["steps"], more["seed"], "fitting" in more) == (first, 3, 1, False)
    assert loaded == [second]
    config = json.loads((tmp_path / "out" / "molecules-qm9" / "config.json").read_text())
    assert config["info"]["training"]["minutes"] == 2.5


@checkout
def test_real_sketches_of_the_benchmark_are_none_that_its_judges_learnt_from():
    named = scribbles(20)
    learnt = SimpleNamespace(trained_on=np.arange(0, 20, 2))
    real = benchmark("sketches").unseen(named, learnt, 15)
    odd = [named[i].points.tobytes() for i in range(1, 20, 2)]
    assert sorted(sketch.points.tobytes() for sketch in real) == sorted(odd)


def test_those_that_are_promised_are_there():
    promised = {"images-mnist", "molecules-qm9", "molecules-qm9-heavy", "sketches-digits", "sketches-kanji"}
    assert promised <= MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_says_what_it_is(name, capsys):
    folder = MODELS[name]
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    limit = 10e6 if name.startswith("sketches") else 20e6
    assert sum(file.stat().st_size for file in folder.iterdir()) < limit
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Not measured" not in card
    assert "not stated" not in card
    assert main(["models", name]) == 0
    assert card.strip() in capsys.readouterr().out
    info = json.loads((folder / "config.json").read_text())["info"]
    assert {"title", "licence", "data", "training", "metrics", "highlights", "limits"} <= info.keys()
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(line in out for line in [name, info["title"], info["licence"], *info["highlights"]])


def test_small_organic_molecules_are_drawn_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "molecules-qm9-heavy", "-n", "60", "--steps", "20", "-o", "drawn.sdf"]) == 0
    mols = [mol for mol in Chem.SDMolSupplier("drawn.sdf") if mol is not None]
    assert len(mols) >= 45  # measured: 94 %
    sizes = [mol.GetNumHeavyAtoms() for mol in mols]
    assert max(sizes) <= 9
    assert np.mean(sizes) > 8  # of the data: 8.8
    counts = Counter(atom.GetSymbol() for mol in mols for atom in mol.GetAtoms())
    assert counts["C"] > counts["O"] > 0
    assert counts["N"] > 5 * counts["F"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_loaded_by_its_name_and_draws_as_it_did(name):
    model = load(name)
    assert model.card() == (MODELS[name] / "README.md").read_text(encoding="utf-8")
    records = model.sample(3, steps=2, seed=4)
    assert len(records) == 3


def test_digits_are_asked_for_by_their_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "sketches-digits", "-n", "100", "--class", "3", "-o", "threes.ndjson"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "threes.ndjson").read_text().splitlines()]
    assert [line["word"] for line in lines] == ["3"] * 100
    for line in lines:
        x, y = ([k for stroke in line["drawing"] for k in stroke[axis]] for axis in (0, 1))
        assert (min(x), min(y), max(x + y)) == (0, 0, 255)
