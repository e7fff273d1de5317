"""Train in processes that are killed: a server that forks, so that a killed process costs a fraction of a second.

A line of JSON in: {"crash": what, "train": options}; a line of JSON out: what became of the process. It is killed with
SIGKILL, `crash` says when:

    null            never
    ["call", k]     before its k-th call that changes files for good (os.replace, os.fsync)
    ["batch", k]    in the middle of its k-th batch, after the backward pass
    ["write", k]    when the k-th checkpoint is half on the disk
    ["save", s]     s seconds after a new last.ckpt has appeared
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytorch_lightning as pl
import torch

from gendiff.train import run, train
from gendiff.train.task import DiffusionTask


def after(k, original, last_act=None):
    """`original`, but for its calls from number k on, in whose place the process does its last act."""
    calls = [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] <= k:
            return original(*args, **kwargs)
        if last_act:
            last_act(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return call


def child(crash, options, report) -> None:
    kind, k = crash or (None, None)
    step, first = DiffusionTask.training_step, []

    def noted(self, batch, batch_idx):
        if not first:
            first.append(self.batch_number)
            os.write(report, json.dumps({"first": self.batch_number}).encode())
        return step(self, batch, batch_idx)

    DiffusionTask.training_step = noted
    if kind == "call":
        do = after(k, lambda original, *args: original(*args))
        os.replace, os.fsync = (lambda *args, f=f: do(f, *args) for f in (os.replace, os.fsync))
    elif kind == "batch":
        DiffusionTask.on_after_backward = after(k, lambda self: None)
    elif kind == "write":
        save = pl.Trainer.save_checkpoint

        def half(self, path):
            save(self, path)
            os.truncate(path, os.path.getsize(path) // 2)

        pl.Trainer.save_checkpoint = after(k, save, half)
    log = os.open(options["out"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    train("molecules", **options)


def state(path: Path):
    """The step of a checkpoint, which must be whole; None if there is none."""
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


def serve(job):
    options, out = job["train"], Path(job["train"]["out"])
    last = out / "checkpoints" / "last.ckpt"
    before, age = state(last), last.stat().st_mtime_ns if last.exists() else 0
    options["resume"] = (out / "config.yaml").exists()
    read, report = os.pipe()
    process = os.fork()
    if not process:
        try:
            child(job["crash"], options, report)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)
    os.close(report)
    status = None
    if job["crash"] and job["crash"][0] == "save":
        while status is None and (not last.exists() or last.stat().st_mtime_ns == age):
            time.sleep(0.0005)
            done, code = os.waitpid(process, os.WNOHANG)
            status = code if done else None
        if status is None:
            time.sleep(job["crash"][1])
            os.kill(process, signal.SIGKILL)
    if status is None:
        status = os.waitpid(process, 0)[1]
    with os.fdopen(read) as pipe:
        first = json.loads(pipe.read() or "{}").get("first")
    code = os.waitstatus_to_exitcode(status)
    error = Path(f"{out}.log").read_text()[-2000:] if code not in (0, -signal.SIGKILL) else ""
    return {"code": code, "before": before, "first": first, "after": state(last), "error": error}


if __name__ == "__main__":
    torch.set_num_threads(1)
    run._seconds_per_step = lambda *args: 0.0  # what it only says needs no time
    with tempfile.TemporaryDirectory() as folder:  # what is loaded on first use need not be loaded by every child
        train("molecules", sys.argv[1:], folder, steps=1, previews=0, say=None)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
