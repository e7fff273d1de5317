"""What can go wrong in a process, done to this one: see `processes.py`."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from gendiff.train.task import DiffusionTask


def wait(path: str) -> None:
    """Let it begin when a file is there, as a process does that another has started."""
    end = time.monotonic() + 30
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)


def change(k: int) -> None:
    """Kill it before its k-th change of a file (os.replace, os.fsync)."""
    calls = [0]

    def counted(original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] > k:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)


def batch(k: int) -> None:
    """Kill it in the middle of its k-th batch, after the backward pass."""

    def die(task: DiffusionTask) -> None:
        if task.batch_number == k:
            os.kill(os.getpid(), signal.SIGKILL)

    DiffusionTask.on_after_backward = die


def poison(k: int) -> None:
    """Make its loss no number from batch k on."""
    step = DiffusionTask.training_step

    def poisoned(task: DiffusionTask, *args: Any) -> Any:
        loss = step(task, *args)
        if task.batch_number >= k:
            task.last["loss"] = torch.tensor(float("nan"))
        return loss

    DiffusionTask.training_step = poisoned


def full() -> None:
    """Leave it no space for a checkpoint."""

    def fail(trainer: pl.Trainer, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pl.Trainer.save_checkpoint = fail


def late(seconds: float) -> None:
    """Let its clock say that it began before the others."""
    start = DiffusionTask.on_fit_start

    def early(task: DiffusionTask) -> None:
        start(task)
        task._started -= seconds

    DiffusionTask.on_fit_start = early


def tell(folder: str) -> None:
    """Write down the weights that it ends with."""

    def end(task: DiffusionTask) -> None:
        weights = {name: p.detach().clone() for name, p in task.denoiser.named_parameters()}
        save_file(weights, f"{folder}/rank-{task.global_rank}.safetensors")

    DiffusionTask.on_train_end = end
