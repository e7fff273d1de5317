"""A run: its folder, its bounds, what it says, and how it ends."""

from __future__ import annotations

import csv
import errno
import os
import signal
import time
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

import examples
from gendiff import Ancestral, load
from gendiff.files import UserError, sha256
from gendiff.modalities.molecules.modality import Molecules
from gendiff.train import callbacks, train
from gendiff.train import run as module
from gendiff.train.callbacks import AveragedWeights
from gendiff.train.run import parse_time
from gendiff.train.task import DiffusionTask

SHORT = {"batch_size": 8, "previews": 0, "say": None}


@pytest.fixture
def data(tmp_path):
    return examples.write(tmp_path / "examples.sdf")


@pytest.fixture
def steps(monkeypatch):
    """How many batches are trained on, without training on them."""
    seen = []
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, *args, **kwargs: seen.append(self.max_steps))
    monkeypatch.setattr(module, "load", lambda folder: None)
    return seen


def step_of(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


# The folder


def test_the_run_folder():
    run = examples.run()
    assert {path.name for path in run.iterdir()} == {"config.yaml", "checkpoints", "model", "logs", "samples"}
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    settings = yaml.safe_load((run / "config.yaml").read_text())
    path = str(run.parent / "examples.sdf")
    assert settings["files"] == [path]
    assert settings["sha256"] == {path: sha256(path)}
    assert (settings["modality"], settings["steps"], settings["batch_size"], settings["seed"]) == (
        "molecules",
        60,
        16,
        0,
    )
    info = load(run).info
    assert info["training"]["steps"] == 60
    assert info["training"]["files"] == {"examples.sdf": sha256(path)}
    assert info["data"][0].startswith(f"read {len(examples.SMILES)} molecules from examples.sdf: C ")
    assert info["data"][0] in (run / "model" / "README.md").read_text()


def test_logs_are_means_over_batches_and_say_how_fast():
    (path,) = (examples.run() / "logs").rglob("metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [50]
    assert all(float(row[name]) > 0 for row in rows for name in ("loss", "position", "element", "samples_per_second"))
    assert float(rows[0]["learning_rate"]) > 0


def test_one_picture_for_one_preview():
    assert [path.name for path in (examples.run() / "samples").iterdir()] == ["step-0000030.png"]


@pytest.mark.parametrize(
    ("total", "wanted", "at"),
    [(12, 3, [3, 6, 9]), (13, 3, [4, 8, 12]), (30, 3, [8, 16, 24]), (11, 3, []), (9, 2, [3, 6])],
)
def test_as_many_previews_as_asked_for(data, tmp_path, monkeypatch, total, wanted, at):
    monkeypatch.setattr(
        callbacks.Previews, "__init__", lambda self, folder, model, averages, every: seen.append(every) or None
    )
    monkeypatch.setattr(callbacks.Previews, "on_train_batch_end", lambda self, trainer, *_: None)
    seen = []
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(module, "load", lambda folder: None)
    train("molecules", [data], tmp_path / "run", steps=total, **{**SHORT, "previews": wanted})
    assert [step for every in seen for step in range(every, total, every)] == at


def test_a_preview_is_drawn_once_per_step_whatever_is_accumulated(data, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("gendiff.model.Model.sample", lambda self, n, **options: drawn.append(n) or [])
    monkeypatch.setattr(
        "gendiff.modalities.molecules.modality.Molecules.draw", lambda self, records, path: path.touch()
    )
    train(
        "molecules",
        [data],
        tmp_path / "run",
        steps=4,
        trainer={"accumulate_grad_batches": 3},
        **{**SHORT, "previews": 1},
    )
    assert drawn == [24]
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step-0000002.png"]


@pytest.mark.parametrize(("steps", "asked"), [(1000, 100), (100, None), (7, None)])
def test_a_preview_takes_no_more_steps_than_it_may(tmp_path, monkeypatch, steps, asked):
    """A thousand would take longer than the training of a short run."""
    model, drawn = examples.model(), []
    model.sampler = Ancestral(steps)
    monkeypatch.setattr(type(model), "sample", lambda self, n, **options: drawn.append(options["steps"]) or [])
    monkeypatch.setattr(type(model.modality), "draw", lambda self, records, path: None)
    trainer = SimpleNamespace(global_step=5, max_steps=10, is_global_zero=True)
    averages = SimpleNamespace(applied=lambda denoiser: nullcontext())
    callbacks.Previews(tmp_path, model, averages, 5).on_train_batch_end(trainer, None, None, None, 0)
    assert drawn == [asked]


@pytest.mark.parametrize(
    "options",
    [{"preset": "huge"}, {"network": "unet"}, {"trainer": {"accelerator": "abacus"}}, {"trainer": {"devices": 0}}],
)
def test_what_the_machine_cannot_do_is_refused_before_the_examples_are_read(data, tmp_path, monkeypatch, options):
    monkeypatch.setattr(Molecules, "read", lambda *args, **words: pytest.fail("was read"))
    with pytest.raises(UserError):
        train("molecules", [data], tmp_path / "run", **{**SHORT, "steps": 2, **options})


# What it says


def test_it_says_what_it_read_and_how_long_it_will_take(data, tmp_path, capfd):
    train("molecules", [data], tmp_path / "run", steps=2, batch_size=8)
    out, err = capfd.readouterr()
    read, training, trained = out.splitlines()
    assert read.startswith("read 40 molecules from examples.sdf: C ")
    assert "2-4 heavy atoms" in read
    assert "0 duplicates" in read
    assert "0 charged" in read
    assert training.startswith("training EGNN (tiny, ")
    assert "for 2 steps of 8 on cpu: about " in training
    assert trained.startswith("trained 2 steps in ")
    assert str(tmp_path / "run" / "model") in trained
    assert "training: 100%" in err  # the bar
    assert "warning" not in (out + err).lower()


def test_none_is_silence(data, tmp_path, capfd):
    train("molecules", [data], tmp_path / "run", steps=2, **SHORT)
    assert capfd.readouterr() == ("", "")


# Bounds


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, module.STEPS),
        ({"steps": 7}, 7),
        ({"trainer": {"max_epochs": 3}}, 15),
        ({"trainer": {"max_steps": 4}}, 4),
        ({"trainer": {"max_epochs": -1}}, module.STEPS),
        ({"trainer": {"max_steps": -1, "max_epochs": 1}}, 5),
        ({"steps": 7, "trainer": {"max_epochs": 1}}, 5),
        ({"steps": 4, "trainer": {"max_epochs": 1}}, 4),
        ({"batch_size": 7, "trainer": {"max_epochs": 2}}, 12),
        ({"batch_size": 1000, "trainer": {"max_epochs": 2}}, 2),
        ({"trainer": {"max_epochs": 2, "accumulate_grad_batches": 2}}, 4),
        ({"trainer": {"max_epochs": 2, "accumulate_grad_batches": 50}}, 2),
        ({"max_time": "1h"}, -1),
        ({"max_time": "1h", "steps": 9}, 9),
    ],
)
def test_bounds(data, tmp_path, steps, options, expected):
    train("molecules", [data], tmp_path / "run", **{**SHORT, **options})
    assert steps == [expected]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1.5d", 129600),
        ("45", 45),
        ("0.5h", 1800),
        ("00:00:01:30", 90),
        ("01:02:03:04", 93784),
    ],
)
def test_time(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "ten minutes",
        "1w",
        "1:30",
        "a:b:c:d",
        "1:2:3:4:5",
        "nan",
        "nans",
        "inf",
        "infs",
        "0",
        "0s",
        "-5m",
        "-1:0:0:0",
    ],
)
def test_no_time(text):
    with pytest.raises(UserError, match="--max-time"):
        parse_time(text)


def test_a_run_bounded_in_time_ends_in_time_with_a_model(data, tmp_path):
    begin = time.monotonic()
    model = train("molecules", [data], tmp_path / "run", max_time="1s", **SHORT)
    assert time.monotonic() - begin < 6
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] > 3
    averages = {name.removeprefix("denoiser."): value for name, value in checkpoint["state_dict"].items()}
    assert all(torch.equal(value, averages[name]) for name, value in model.denoiser.state_dict().items())
    current = checkpoint["current_model_state"]
    assert any(
        not torch.equal(current[name], checkpoint["state_dict"][name]) for name in current
    )  # raw weights, not averages


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"steps": -5}, "--steps must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"previews": -1}, "--previews must be at least 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every must be at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
        ({"learning_rate": float("nan")}, "--learning-rate must be positive"),
        ({"average": 1.0}, r"--average must lie in \[0, 1\)"),
        ({"average": -0.1}, "--average must lie"),
        ({"on_error": "ignore"}, "--on-error must be stop or skip"),
        ({"max_time": "soon"}, "--max-time 'soon' is no time"),
        ({"preset": "huge"}, "unknown preset 'huge'; choose from tiny, small, base"),
        ({"trainer": {"max_epochs": 0}}, "--trainer.max_epochs must be at least 1, got 0"),
        ({"trainer": {"max_steps": 0}}, "--trainer.max_steps must be at least 1"),
        ({"trainer": {"max_steps": -7}}, "--trainer.max_steps must be at least 1"),
        ({"trainer": {"accumulate_grad_batches": 0}}, "--trainer.accumulate_grad_batches must be at least 1"),
        ({"trainer": {"precision": "8-bit"}}, "--trainer: .*precision"),
        ({"trainer": {"no_such_option": 1}}, "--trainer: .*no_such_option"),
        ({"trainer": {"accelerator": "abacus"}}, "--trainer: .*abacus"),
        ({"seed": 1 << 63}, "--seed must be a number of 64 bits"),
        ({"seed": "zero"}, "`seed` is 'zero', which is no int"),
        ({"steps": 2.5}, "`steps` is 2.5, which is no int"),
        ({"reading": {"fragments": "some"}}, "fragments"),
        ({"fitting": {"hydrogens": "some"}}, "hydrogens"),
        (
            {"fitting": {"hydrogen": "implicit"}},
            "`fitting`: molecules have no option 'hydrogen'; there are: atom_types",
        ),
    ],
)
def test_options_that_make_no_sense_are_one_line_and_leave_nothing(data, tmp_path, options, words):
    with pytest.raises((UserError, ValueError), match=words) as error:
        train("molecules", [data], tmp_path / "deep" / "run", **{**SHORT, "steps": 2, **options})
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["examples.sdf"]


def test_an_existing_folder_is_left_alone(data, tmp_path):
    for name in ("run", "file", "other"):
        (tmp_path / name).mkdir() if name != "file" else (tmp_path / name).write_text("mine")
    (tmp_path / "run" / "config.yaml").write_text("mine")
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for name in ("run", "file", "other"):
        with pytest.raises(UserError, match="already exists; add --resume to go on with it, or choose another --out"):
            train("molecules", [data], tmp_path / name, steps=1, **SHORT)
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path != data} == {"mine"}


def test_an_empty_folder_is_welcome(data, tmp_path):
    (tmp_path / "run").mkdir()
    train("molecules", [data], tmp_path / "run", steps=1, **SHORT)
    assert load(tmp_path / "run").info["training"]["steps"] == 1


def test_seed_preset_and_options_reach_the_model(data, tmp_path):
    weights = {}
    for name, options in {"a": {}, "b": {}, "seed": {"seed": 1}, "rate": {"learning_rate": 1e-4}}.items():
        model = train("molecules", [data], tmp_path / name, steps=2, **{**SHORT, **options})
        weights[name] = torch.cat([p.detach().flatten() for p in model.denoiser.parameters()])
    assert torch.equal(weights["a"], weights["b"])
    assert not torch.equal(weights["a"], weights["seed"])
    assert not torch.equal(weights["a"], weights["rate"])
    fitting, reading = {"hydrogens": "explicit"}, {"fragments": "keep"}
    model = train(
        "molecules", [data], tmp_path / "c", steps=1, preset="small", fitting=fitting, reading=reading, **SHORT
    )
    assert model.modality.hydrogens == "explicit"
    assert model.denoiser.network.width == 128


def test_callbacks_of_the_user_are_called(data, tmp_path):
    class Count(pl.Callback):
        steps = 0

        def on_train_batch_end(self, *args):
            self.steps += 1

    count = Count()
    train("molecules", [data], tmp_path / "run", steps=3, trainer={"callbacks": [count]}, **SHORT)
    assert count.steps == 3


# How it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_usable_and_goes_on_exactly(data, tmp_path, monkeypatch, number):
    train("molecules", [data], tmp_path / "whole", steps=8, **SHORT)
    step, handlers = DiffusionTask.training_step, [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(self, batch, batch_idx):
        if self.batch_number == 4:
            signal.raise_signal(number)  # in the middle of the fifth batch
        return step(self, batch, batch_idx)

    said = []
    monkeypatch.setattr(DiffusionTask, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("molecules", [data], tmp_path / "run", steps=8, **{**SHORT, "say": said.append})
    monkeypatch.undo()
    assert said[-1] == "interrupted at step 5; go on with --resume"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert step_of(tmp_path / "run") == 5
    assert len(load(tmp_path / "run").sample(2, steps=2)) == 2
    train("molecules", [], tmp_path / "run", resume=True, say=None)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


def test_a_second_interrupt_ends_it_at_once(data, tmp_path, monkeypatch):
    step = DiffusionTask.training_step

    def interrupted(self, batch, batch_idx):
        if self.batch_number == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it went on")
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(DiffusionTask, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("molecules", [data], tmp_path / "run", steps=8, checkpoint_every=2, **SHORT)
    assert step_of(tmp_path / "run") == 2  # the last whole checkpoint
    assert signal.getsignal(signal.SIGINT) is before


def test_weights_that_are_no_numbers_are_never_saved(data, tmp_path, monkeypatch):
    step = DiffusionTask.training_step

    def bad(self, batch, batch_idx):
        return step(self, batch, batch_idx) * (float("nan") if self.batch_number > 3 else 1.0)

    monkeypatch.setattr(DiffusionTask, "training_step", bad)
    with pytest.raises(
        UserError, match=r"the weights are not finite at step 4; start a new run with a lower --learning-rate"
    ):
        train("molecules", [data], tmp_path / "run", steps=8, checkpoint_every=2, **SHORT)
    assert step_of(tmp_path / "run") == 2
    assert all(torch.isfinite(p).all() for p in load(tmp_path / "run").denoiser.parameters())


def test_a_loss_that_is_no_number_ends_the_run(data, tmp_path, monkeypatch):
    step = DiffusionTask.training_step

    def bad(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        self.last["loss"] = torch.tensor(float("inf"))
        return loss

    monkeypatch.setattr(DiffusionTask, "training_step", bad)
    monkeypatch.setattr(callbacks.NonFinite.__init__, "__defaults__", (3,))
    with pytest.raises(UserError, match="the loss is not finite at step 2"):
        train("molecules", [data], tmp_path / "run", steps=8, **SHORT)


@pytest.mark.parametrize("call", ["config.yaml", "model", "last.ckpt"])
def test_a_full_disk_is_one_line_and_what_was_there_stays(data, tmp_path, monkeypatch, call):
    """Whatever is written first of a kind, and its successors, find no place."""
    fsync, run = os.fsync, tmp_path / "run"
    at = {"config.yaml": 0, "model": 5, "last.ckpt": 8}[call]  # configuration; weights, config, card; checkpoint
    calls = []

    def full(file):
        calls.append(file)
        if len(calls) > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"{call}.*: no space left on device") as error:
        train("molecules", [data], run, steps=6, checkpoint_every=2, **SHORT)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    if call == "config.yaml":
        assert not run.exists()
        return
    assert not [path for path in run.rglob("*") if path.name.endswith((".part", ".old"))]
    assert step_of(run) == 2
    train("molecules", [], run, resume=True, say=None)
    assert step_of(run) == 6


# Averages


def test_averages_follow_their_law():
    r"""w̄ <- w̄ + (1 - d_n)(w - w̄), d_n = min(d, (1 + n) / (10 + n)), from w̄ = w at the first step."""
    module = pl.LightningModule()
    module.denoiser = nn.Linear(3, 2)
    averages = AveragedWeights(0.3)
    averages.setup(None, module, "fit")
    expected = None
    for n in range(12):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))
        averages._average_model.update_parameters(module)
        d = min(0.3, (1 + n) / (10 + n))
        weights = [p.detach().double() for p in module.parameters()]
        expected = weights if n == 0 else [d * e + (1 - d) * w for e, w in zip(expected, weights, strict=True)]
        for mine, theirs in zip(averages._average_model.module.parameters(), expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


def test_averages_are_lent_and_given_back():
    module = pl.LightningModule()
    module.denoiser = nn.Linear(3, 2)
    averages = AveragedWeights()
    with pytest.raises(RuntimeError, match="no averages before training"), averages.applied(module.denoiser):
        pass
    averages.setup(None, module, "fit")
    raw = nn.init.ones_(module.denoiser.weight).clone()
    kept = averages._average_model.module.denoiser.weight.clone()
    with suppress(ZeroDivisionError), averages.applied(module.denoiser):
        assert torch.equal(module.denoiser.weight, kept)
        raise ZeroDivisionError
    assert torch.equal(module.denoiser.weight, raw)
    assert not torch.equal(raw, kept)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_decay_of_averages(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
        AveragedWeights(decay)
