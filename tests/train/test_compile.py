"""`--compile` changes how the network runs and not what comes out; a failing compiler leaves nothing behind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

import examples
from gendiff.cli import main
from gendiff.train import train

SHORT = {"steps": 3, "batch_size": 7, "previews": 0, "say": None, "trainer": {"precision": "64-true"}}


@pytest.fixture
def data(tmp_path):
    return examples.write(tmp_path / "examples.sdf")


def test_the_network_runs_as_the_compiler_made_it(tmp_path, data, monkeypatch):
    calls = []

    def stand_in(function, dynamic):
        assert dynamic  # molecules come in many sizes
        return lambda *args: calls.append(1) or function(*args)

    monkeypatch.setattr(torch, "compile", stand_in)
    plain = train("molecules", [data], tmp_path / "plain", **SHORT)
    assert not calls
    model = train("molecules", [data], tmp_path / "compiled", compile=True, **SHORT)
    assert len(calls) == 3 * len(model.denoiser.network.blocks)
    for a, b in zip(plain.denoiser.parameters(), model.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler looks at
@pytest.mark.slow
def test_the_weights_are_those_of_training_without(tmp_path, data, monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    plain = train("molecules", [data], tmp_path / "plain", **SHORT)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    graphs = train("molecules", [data], tmp_path / "graphs", compile=True, **SHORT)
    assert counters["stats"]["unique_graphs"] >= 1
    for a, b in zip(plain.denoiser.parameters(), graphs.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_compiler_that_fails_is_one_line_and_no_run(tmp_path, data, monkeypatch, capsys):
    def broken(function, dynamic):
        def call(*args):
            raise TorchDynamoException("No working C++ compiler found\n\nAdvice to developers")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    words = ["train", "molecules", str(data), "--out", str(tmp_path / "run"), "--steps", "3", "--compile"]
    assert main([*words, "--trainer.accelerator", "cpu"]) == 1
    (last,) = capsys.readouterr().err.splitlines()[-1:]
    assert last == (
        "gendiff: error: --compile: torch's compiler cannot do it here (No working C++ compiler found); leave "
        "--compile out"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("output", ["one.sdf", "many/"])
def test_sampling_runs_through_the_compiler(tmp_path, monkeypatch, output):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *args: calls.append(1) or function(*args))
    drawn = []
    for folder, more in (("plain", []), ("compiled", ["--compile"])):
        (tmp_path / folder).mkdir()
        words = ["sample", str(examples.run()), "-n", "3", "--steps", "4", "-o", f"{tmp_path / folder}/{output}"]
        assert main([*words, "--device", "cpu", *more]) == 0
        (file,) = (tmp_path / folder).rglob("*.sdf")
        drawn.append(file.read_bytes())
        assert bool(calls) == bool(more)
    assert drawn[0] == drawn[1]


def test_editing_runs_through_the_compiler(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *args: calls.append(1) or function(*args))
    given = examples.write(tmp_path / "given.xyz", 1)
    made = []
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        out = tmp_path / f"{name}.sdf"
        words = ["edit", str(examples.run()), str(given), "--task", "vary", "-n", "3", "--steps", "4", "-o", str(out)]
        assert main([*words, "--device", "cpu", *more]) == 0
        made.append(out.read_bytes())
        assert bool(calls) == bool(more)
    assert made[0] == made[1]
