"""The benchmark of molecule models: what it counts, and that it goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import examples
from gendiff import Heun, UserError
from gendiff.data import Ragged
from gendiff.likelihood import variational_bound
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model
from gendiff.ops import Random
from gendiff.sample import DDIM

PATH = Path(__file__).parents[3] / "benchmarks" / "molecules.py"
pytestmark = pytest.mark.skipif(not PATH.exists(), reason="benchmarks/ is not here: not a checkout")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("molecules_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    examples.model("explicit").save(folder / "explicit")
    examples.model().save(folder / "implicit")
    examples.write(folder / "examples.sdf")
    return folder


def run(benchmark, folder, name, out, *words):
    benchmark.main([str(folder / name), "--data", str(folder / "examples.sdf"), "--out", str(out), "-n", "6", *words])


@pytest.mark.parametrize(("sampler", "evaluations"), [(DDIM(3), 3), (Heun(3), 5)])
def test_evaluations_are_passes_of_the_network_for_one_molecule(benchmark, sampler, evaluations):
    model = examples.model()
    found = benchmark.sample(model, sampler, 7, 0, 2)
    assert found["evaluations"] == evaluations
    verdicts = metrics.judge(model.sample(7, sampler=sampler))
    assert found["valid"] == [int(verdict["valid"]) for verdict in verdicts]
    assert found["connected"] == [int(verdict["valid"] and verdict["connected"]) for verdict in verdicts]
    assert len({v["smiles"] for v in verdicts if v["valid"]}) == pytest.approx(sum(found["unique"]), abs=1e-5)
    assert not model.denoiser._forward_pre_hooks


def test_where_all_atoms_are_modelled_the_numbers_are_edms(benchmark):
    model = examples.model("explicit")
    found = benchmark.sample(model, DDIM(3), 8, 0, 0)
    drawn = benchmark.arrays(model.sample(8, sampler=DDIM(3)))
    atoms, stable = metrics.stability(drawn)
    values = benchmark.judge([found])
    assert (values[0], values[1]) == (atoms, stable)
    assert found["atoms"] == drawn.num_atoms.tolist()
    assert values[2].value == np.mean([text != "" for text in benchmark.edm.largest_fragments(drawn)])


def test_a_diverged_sample_has_no_stable_atom(benchmark):
    mols = examples.model("explicit").sample(2, sampler=DDIM(2))
    mols[1].RemoveAllConformers()
    drawn = benchmark.arrays(mols)
    assert not benchmark.stability_flat(drawn.num_atoms, drawn.atomic_numbers, drawn.positions)[0][
        drawn.num_atoms[0] :
    ].any()


def test_seeds_count_together_and_uniqueness_within_each(benchmark):
    runs = [{"valid": [1, 1], "unique": [0.5, 0.5], "connected": [1, 0], "strain": [1.0, 2.0]}] * 2
    values = benchmark.judge([*runs, {"valid": [0, 0], "unique": [0, 0], "connected": [0, 0], "strain": [6.0]}])
    assert values[:2] == [None, None]
    assert [value.value for value in values[2:]] == pytest.approx([4 / 6, 2 / 6, 2 / 6, 2])
    assert values[2].n == 6


def test_what_is_measured_is_not_measured_again(benchmark, folder, tmp_path, monkeypatch, capsys):
    words = ("--steps", "2", "--samplers", "default", "heun", "--train-steps", "1", "--strain", "1", "--nll", "3")
    run(benchmark, folder, "implicit", tmp_path / "out", *words)
    first = capsys.readouterr().out
    assert "Ancestral 2" in first
    assert "Heun 2" in first
    assert "of the rate of the matrix product" in first
    path = tmp_path / "out" / "results.jsonl"
    lines = path.read_text().splitlines()
    whats = [json.loads(line)["asked"]["what"] for line in lines]
    assert whats == ["product", "training", "likelihood", "samples", "samples"]

    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:50])  # a killed run has left half a line
    drawn = []
    monkeypatch.setattr(benchmark, "train", None)
    sample = benchmark.sample
    monkeypatch.setattr(
        benchmark,
        "sample",
        lambda model, sampler, *rest: drawn.append(type(sampler).__name__) or sample(model, sampler, *rest),
    )
    run(benchmark, folder, "implicit", tmp_path / "out", *words)
    assert drawn == ["Heun"]
    again = path.read_text().splitlines()
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["asked"] == json.loads(lines[-1])["asked"]
    assert json.loads(again[-1])["found"]["valid"] == json.loads(lines[-1])["found"]["valid"]

    path.write_text("no result\n" + "\n".join(lines))
    with pytest.raises(UserError, match=r"results.jsonl, line 1: not a result"):
        run(benchmark, folder, "implicit", tmp_path / "out", *words)


def test_likelihood_is_that_of_the_model_and_of_edms_chain(benchmark, monkeypatch):
    """The chain has noise at t = 0; each molecule's bound is that of the molecule alone, in Å, log p(N) included."""
    monkeypatch.setattr(benchmark, "TERMS", 2)
    adapter = Molecules.fit(examples.arrays(), hydrogens="explicit", target="noise")
    model, few = Model(adapter, adapter.denoiser("tiny")), examples.arrays().select([0, 5])
    monkeypatch.setattr(model, "log_prob", lambda records: {"log_prob": torch.tensor([-1.0, -2.0])})
    found = benchmark.likelihood(model, few)
    assert found["bound"] == [1, 2]
    data = adapter.encode(few)
    for row, nats in enumerate(found["chain"]):
        batch = data.batch(torch.tensor([row]))
        options = {"steps": 1000, "terms": 2, "noise_at_zero": True, "random": Random(0, torch.tensor([row]))}
        bound = variational_bound(model.denoiser.eval(), batch.state, batch.mask, **options)["total"]
        size = int(data.sizes[row])
        share = math.log(adapter.sizes[size] / sum(adapter.sizes.values()))
        expected = bound.item() + 3 * (size - 1) * math.log(adapter.position_scale) - share
        assert nats == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(model.denoiser, "process", examples.model().denoiser.process)
    assert set(benchmark.likelihood(model, few)) == {"bound"}


def test_the_plain_network_is_timed_beside_the_model(benchmark, monkeypatch):
    class Plain:
        def __init__(self):
            self.jobs = []

        def seconds(self, job, batches, largest=0):
            self.jobs.append((job, len(batches[0]), largest))
            return 0.5

    plain, sizes = Plain(), torch.tensor([2] * 5)
    model = examples.model()
    position, element = torch.zeros(10, 3), torch.eye(len(model.modality.elements))[:1].expand(10, -1)
    data = Ragged(sizes, {"position": position, "element": element})
    before = [p.clone() for p in model.denoiser.parameters()]
    found = benchmark.train(model, data, 4, 2, plain)
    assert plain.jobs == [("training", 4, 0)] * 3 + [("sampling", 4, 2)] * 2
    assert found["plain"] == [0.5, 0.5]
    assert found["flops"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.denoiser.parameters(), strict=True))  # of a copy
