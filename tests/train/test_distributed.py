"""Several processes train as one does: the same weights at the same batch, one voice, one file, one end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
from processes import shared
from safetensors.torch import load_file

import examples

OPTIONS = ("--steps", 15, "--batch-size", 3, "--previews", 0, "--seed", 3, "--trainer.accelerator", "cpu")
"""40 molecules in batches of 3: two processes share 2 and 1 and, at the end of an epoch, 1 and none."""

DOUBLE = ("--trainer.precision", "64-true")
"""In 64 bits little of the order of a sum is left, though Muon makes small singular values larger."""

TWO = ("--trainer.devices", 2, "--trainer.strategy", "ddp")


@pytest.fixture(scope="module")
def processes():
    return shared()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    examples.write(folder / "examples.sdf")
    return folder


@pytest.fixture(scope="module")
def alone(processes, folder):
    """A run of one process."""
    (answer,) = processes.run("train", "molecules", folder / "examples.sdf", "--out", folder / "one", *OPTIONS, *DOUBLE)
    assert answer["code"] == 0, answer["err"]
    return folder / "one"


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def farthest(run, other):
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    return max((mine[name] - theirs[name]).abs().max().item() for name in mine)


def fine(answers):
    """Every process ended well, and only the first had a word to say."""
    assert [answer["code"] for answer in answers] == [0] * len(answers), answers
    assert all(answer["out"] == "" and answer["err"] == "" for answer in answers[1:]), answers


def test_the_weights_are_those_of_one_process(processes, folder, alone):
    words = ("train", "molecules", folder / "examples.sdf", "--out", folder / "two", *OPTIONS, *DOUBLE, *TWO)
    answers = processes.run(*words, world=2, faults=[["wait", 1, str(folder / "two" / "config.yaml")]])
    fine(answers)
    assert "of 3 on 2 x cpu" in answers[0]["out"]
    start = folder / "start"
    fine(processes.run(*words[:4], start, *OPTIONS, *DOUBLE, "--learning-rate", 1e-30))
    assert farthest(alone, start) > 1e-3
    assert farthest(folder / "two", alone) < 1e-13
    first, second = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (folder / "two", alone))
    assert first["samples_seen"] == second["samples_seen"] == 14 * 3 + 1


@pytest.mark.slow
def test_a_run_is_started_and_ended_by_the_command_itself(folder, alone):
    """Lightning runs the very words again for the second process, when the folder is already there."""
    words = ("train", "molecules", folder / "examples.sdf", "--out", folder / "real", *OPTIONS, *DOUBLE, *TWO)
    command = [sys.executable, "-m", "gendiff_test", *map(str, words)]
    (folder / "gendiff_test.py").write_text("import sys\nfrom gendiff.cli import main\nsys.exit(main())\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["read", "training", "trained"]
    assert "Initializing" not in done.stderr
    assert farthest(folder / "real", alone) < 1e-13
    assert not list((folder / "real").rglob("*.part"))


def test_resumed_weights_are_those_of_one_process(processes, folder, alone):
    """Killed at step 7, gone on with from step 5."""
    words = ("train", "molecules", folder / "examples.sdf", "--out", folder / "again", *OPTIONS, *DOUBLE, *TWO)
    answers = processes.run(*words, "--checkpoint-every", 5, world=2, faults=[["batch", None, 7]])
    assert [answer["code"] for answer in answers] == [-9, -9]
    assert torch.load(folder / "again" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    fine(processes.run("train", "molecules", "--out", folder / "again", "--resume", *TWO, world=2))
    assert farthest(folder / "again", alone) < 1e-13


@pytest.mark.slow
def test_in_32_bits_to_the_digits_of_muon(processes, folder):
    """Small singular values of Muon grow five hundredfold in five iterations, and with them last digits of sums."""
    words = ("train", "molecules", folder / "examples.sdf", *OPTIONS, "--out")
    fine(processes.run(*words, folder / "one-32"))
    fine(processes.run(*words, folder / "two-32", *TWO, world=2))
    assert farthest(folder / "one-32", folder / "two-32") < 1e-4


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_one_process_ends_all_after_the_same_step(processes, folder, number, rank):
    out = folder / f"signal-{number}-{rank}"
    words = ("train", "molecules", folder / "examples.sdf", "--out", out, *OPTIONS, *TWO, "--steps", 100_000)
    answers = processes.run(
        *words, "--checkpoint-every", 5, world=2, send=[rank, number, str(out / "checkpoints" / "last.ckpt"), 1]
    )
    assert [answer["code"] for answer in answers] == [130, 0]
    assert "interrupted at step" in answers[0]["out"]
    assert answers[1]["out"] == answers[1]["err"] == ""
    step = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert f"interrupted at step {step:,};" in answers[0]["out"]
    assert (out / "model" / "model.safetensors").is_file()


def test_a_loss_that_is_no_number_in_one_process_is_one_line(processes, folder):
    out = folder / "poisoned"
    words = ("train", "molecules", folder / "examples.sdf", "--out", out, *OPTIONS, *TWO, "--steps", 60)
    answers = processes.run(*words, world=2, faults=[["poison", 1, 50]])
    assert answers[0]["code"] == 1
    assert "the loss is not finite at step 49" in answers[0]["err"]
    assert answers[1]["out"] == answers[1]["err"] == ""
    assert not out.exists()


def test_a_run_bounded_in_time_has_one_learning_rate(processes, folder):
    """The clocks of two processes differ; their weights may not."""
    out = folder / "timed"
    words = ("train", "molecules", folder / "examples.sdf", "--out", out, *OPTIONS[2:], *TWO, "--max-time", "4s")
    fine(processes.run(*words, world=2, faults=[["late", 1, 2.0], ["tell", None, str(folder)]]))
    mine, theirs = (load_file(folder / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_full_disk_ends_all_processes(processes, folder):
    """The first process writes, so it alone meets the error, while the other waits for it."""
    out = folder / "full"
    words = ("train", "molecules", folder / "examples.sdf", "--out", out, *OPTIONS, *TWO)
    answers = processes.run(*words, world=2, faults=[["full", 0]])
    assert answers[0]["code"] == 1
    assert "last.ckpt: no space left on device" in answers[0]["err"]
    assert answers[1]["code"] != 0
