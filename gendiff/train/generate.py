"""Generation at scale: any number of samples, by Lightning's predict loop, on any number of devices."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from gendiff.catalog import resolve
from gendiff.denoise import compiled
from gendiff.download import alone
from gendiff.files import UserError
from gendiff.model import Drawn, Model, load
from gendiff.model.digest import digest
from gendiff.model.model import prior_scale
from gendiff.model.origin import origin
from gendiff.model.weaker import skip_of
from gendiff.sample import Sampler
from gendiff.train.lightning import end_others, make_trainer, silence
from gendiff.train.processes import first
from gendiff.train.shards import LOCK, Shards, candidates
from gendiff.wording import many, some

ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}
"""Lightning's names of torch's devices."""


def generate(
    source: str | Path,
    number: int,
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    temperature: float | None = None,
    sampler: Sampler | str | None = None,
    sizes: tuple[int | None, int | None] = (None, None),
    only: Sequence[str] = (),
    reference: Sequence[str | Path] = (),
    reading: Mapping[str, Any] | None = None,
    condition: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    skip: Sequence[int] | str | int | None = None,
    skip_scale: float | None = None,
    batch_size: int = 256,
    compile: bool = False,
    shard_size: int = 10_000,
    ending: str | None = None,
    device: str = "auto",
    resume: bool = False,
    trainer: Mapping[str, Any] | None = None,
    say: Callable[[str], Any] | None = print,
) -> Path:
    """Draw samples into a folder of shards, in memory that does not grow with their number.

    The folder holds the samples that `model.draw(number, ...)` returns, in order: shard k what was kept of the draws
    [k S, (k + 1) S) of the seed's stream, whatever the number of processes. With `only`, draws go on until `number`
    samples are kept, and the last shard is cut there. A run that was killed has lost its unfinished shards only.

    Arguments:
        source: Model folder or run folder.
        number: How many samples.
        out: Folder to make: manifest.json, shard-000000.sdf, shard-000000.json, ...
        seed: Seed.
        steps: Steps of the sampler (the model's).
        temperature: Of the sampler (the model's), or scale of the noise that samples start from; see
            :meth:`gendiff.model.Model.draw`.
        sampler: Another sampler, or the name of one, as :meth:`gendiff.model.Model.tuned`.
        sizes: Smallest and largest number of elements.
        only: Keep only samples that are all of these: "valid", "connected", "new".
        reference: Files of examples, against which "new" is judged.
        reading: Further options of the modality's reader, of them.
        condition: What is asked for, by name: one number each, for all samples.
        guidance: Scale of classifier-free guidance, 1 for none (the model's own).
        skip: Blocks that skip guidance leaves out, as :func:`gendiff.model.weaker.skip_of` (the model's own).
        skip_scale: Its scale.
        batch_size: Samples computed together; to rounding, it changes nothing but memory and speed.
        compile: Run the network through torch's compiler (:func:`gendiff.denoise.compiled`): worth its minutes
            for many samples.
        shard_size: S, the draws of a shard (10,000). A process holds one shard in memory.
        ending: Format of the shards by its ending (the first of the modality: ".sdf").
        device: "cpu", "cuda", "mps" or "auto".
        resume: Go on with the shards in `out`; what determines the samples must be the same.
        trainer: Options of Lightning's Trainer by name: devices, num_nodes, strategy.
        say: Told what goes on, line by line; None for silence.

    Returns:
        The folder.

    Raises:
        UserError: for bad arguments, a folder that is in use, or when `only` keeps (nearly) nothing.
        KeyboardInterrupt: on Ctrl-C; `resume` goes on from there.
    """
    for name, value in (("-n", number), ("--shard-size", shard_size), ("--batch-size", batch_size)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    for name, value in (condition or {}).items():
        if not isinstance(value, (Real, str)):
            raise UserError(f"--condition: {name} takes one number for all samples, not a {type(value).__name__}")
    condition = {name: float(value) if isinstance(value, Real) else value for name, value in (condition or {}).items()}
    quiet = say is None
    say = say if say and first() else (lambda line: None)
    model, folder = load(source), Path(out)
    model.skip = skip_of(model, skip, skip_scale)
    endings = [each for each in model.modality.extensions if each.startswith(".") and each not in model.modality.single]
    ending = ending or endings[0]
    if ending not in endings:
        raise UserError(f"--format: cannot write {ending}; choose from {', '.join(e.lstrip('.') for e in endings)}")
    model.modality.check_filters(only)
    known: set[str] = set()
    reference = resolve(reference)
    if "new" in only:
        if not reference:
            raise UserError("'new' needs to know the training examples; name them with --reference FILE")
        examples, _ = model.modality.read(reference, on_error="skip", **(reading or {}))
        known = model.modality.known(examples)
    sampler = model.tuned(steps, temperature, sampler)
    draw = {
        "seed": seed,
        "sampler": sampler,
        "prior_scale": prior_scale(sampler, temperature),
        "sizes": sizes,
        "condition": condition,
        "guidance": guidance,
    }
    facts = origin(model, source, only=only, **draw)  # type: ignore[arg-type]
    if "new" in only:
        facts["reference"] = {Path(file).name: digest(file) for file in reference}
    shards = Shards(folder, number, shard_size, ending, facts)
    task = ShardTask(model, shards, only, known, {**draw, "batch_size": batch_size})
    writer = ShardWriter(shards, model, Path(source).resolve().name, quiet)
    with silence(), ExitStack() as stack:
        options = {
            "accelerator": ACCELERATORS[device],
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            **(trainer or {}),
        }
        machine = make_trainer(**options, default_root_dir=str(folder), callbacks=[writer])
        if machine.is_global_zero:
            shards.check(resume)  # before the lock, which makes a file
            try:
                stack.enter_context(alone(folder / LOCK))
            except OSError as error:
                raise UserError(f"{folder}: cannot be written to ({error.strerror})") from None
            shards.begin(resume)
        there = shards.kept()
        try:
            with compiled(model.denoiser, compile):
                machine.predict(task, Candidates(shards).loader(), return_predictions=False)
        except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
            if not machine.is_global_zero:
                raise SystemExit from None
            say(f"interrupted at {shards.kept():,} of {number:,}; go on with --resume")
            raise KeyboardInterrupt from None
        except Exception:
            end_others(machine)
            if machine.is_global_zero and not resume and not shards.records():
                shutil.rmtree(folder, ignore_errors=True)
            raise
    if machine.is_global_zero and not shards.finish():
        say(f"{shards.kept():,} of {number:,} are there; go on with --resume")
    elif machine.is_global_zero:
        records, made = shards.records().values(), number - there
        rate = f", {made:,} of them now in {writer.seconds():,.1f} s ({made / writer.seconds():,.0f}/s)" if made else ""
        if only:
            drawn = sum(record["drawn"] for record in records)
            rate += f", {100 * number / drawn:.1f} % of {drawn:,} drawn are {' and '.join(only)}"
        written = sum(record["written"] for record in records)
        rate += f", {written:,} of {number:,} fit {ending}" if written < number else ""
        say(f"{some(number, model.modality.name)} in {many(len(records), 'shard')}{rate}: {folder}")
    return folder


class Candidates(IterableDataset[int]):
    """The numbers of the shards to draw, the same for every process; each takes those that no other has taken.

    Nothing is dealt out beforehand, so a fast device draws more of them, and none waits.
    """

    def __init__(self, shards: Shards):
        self.shards, self.parent = shards, os.getppid()

    def __iter__(self) -> Iterator[int]:
        for k in candidates(self.shards):
            if os.getppid() != self.parent and not first():
                return  # whoever started this process is gone, and nobody waits for it
            yield k

    def loader(self) -> DataLoader[int]:
        """Return the loader that Lightning wants."""
        return DataLoader(self, batch_size=None, num_workers=0)


class ShardTask(pl.LightningModule):
    """Draws shards.

    Arguments:
        model: The model.
        shards: Where they go.
        only: What samples have to be.
        known: Identities of examples, against which "new" is judged.
        options: Arguments of :meth:`gendiff.model.Model.draw_at`.
    """

    def __init__(self, model: Model, shards: Shards, only: Sequence[str], known: set[str], options: Mapping[str, Any]):
        super().__init__()
        self.denoiser = model.denoiser  # for Lightning, which moves it to the device
        self.model, self.shards, self.only, self.known, self.options = model, shards, only, known, dict(options)
        self.tick: Callable[[int, int], Any] | None = None

    def predict_step(self, batch: int, batch_idx: int) -> Drawn:
        """Return what was kept of shard number `batch`; nothing of one that is there, or that another process draws."""
        return self.draw(batch) if self.shards.take(batch) else Drawn()

    def draw(self, k: int) -> Drawn:
        """Return what was kept of a shard."""
        start, stop = self.shards.bounds(k)
        records = self.model.draw_at(torch.arange(start, stop), **self.options, progress=self.tick)
        kept = self.model.modality.keep(records, self.only, self.known) if self.only else [True] * len(records)
        rows = [i for i, good in enumerate(kept) if good]
        return Drawn([records[i] for i in rows], [start + i for i in rows], stop - start)


class ShardWriter(Callback):
    """Writes shards as they come, and shows how far all processes are, at which rate.

    Arguments:
        shards: Where they go.
        model: Writes them.
        name: What the model is called in its samples.
        quiet: Show nothing.
        every: Seconds between two looks at the manifest (10).
    """

    def __init__(self, shards: Shards, model: Model, name: str, quiet: bool = False, every: float = 10.0):
        self.shards, self.model, self.name, self.quiet, self.every = shards, model, name, quiet, every
        self._opened = self._began = self._noted = time.monotonic()
        self._there, self._rate = 0, 1.0
        self._interrupted = False
        self._bar: Any = None

    def seconds(self) -> float:
        """Return how long this process has been drawing."""
        return time.monotonic() - self._opened

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar; let Ctrl-C and SIGTERM end the run at the next step of the sampler, a second one at once."""
        task: ShardTask = pl_module  # type: ignore[assignment]
        self._opened = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):  # Lightning gives back what was there before
                signal.signal(number, self._stop)
        interval = 0.5 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(
            total=self.shards.number,
            initial=self.shards.kept(),
            unit=f" {self.model.modality.name}",
            disable=self.quiet or not trainer.is_global_zero,
            desc="sampling",
            mininterval=interval,
            delay=interval,
            dynamic_ncols=True,
            leave=False,
        )
        self._show()
        task.tick = lambda done, total: self._show(done / total * self.shards.size * trainer.world_size)

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the shard that was drawn."""
        if not outputs.drawn:
            return
        self._write(batch, outputs, pl_module.device)
        self._show()
        if trainer.is_global_zero and time.monotonic() - self._noted > self.every:
            self.shards.note("drawing")
            self._noted = time.monotonic()

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the other processes, without a bound of time, and cut the last shard."""
        task: ShardTask = pl_module  # type: ignore[assignment]
        if trainer.is_global_zero:
            while self.shards.busy():
                self._show()
                time.sleep(0.2)
            k = self.shards.cut()
            if k is not None and self.shards.take(k):
                self._began = time.monotonic()
                self._write(k, task.draw(k), pl_module.device)
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, and give back the shard in hand."""
        self.shards.release()
        if self._bar is not None:
            self._bar.close()

    def _stop(self, number: int, frame: Any) -> None:
        self._interrupted = True
        signal.signal(number, signal.default_int_handler)

    def _write(self, k: int, drawn: Drawn, device: torch.device) -> None:
        facts: dict[str, Any] = {"model": self.name, "seed": self.shards.facts["seed"]}
        if condition := self.shards.facts["condition"]:
            facts["targets"] = condition
        for record, index in zip(drawn.records, drawn.indices, strict=True):
            self.model.modality.annotate([record], index=index, **facts)
        seconds = round(time.monotonic() - self._began, 3)
        self.shards.save(
            k, drawn.records, drawn.indices, drawn.drawn, self.model.modality.write, seconds=seconds, device=str(device)
        )

    def _show(self, drawing: float = 0.0) -> None:
        """Move the bar to what is there, and to what will be kept of the draws that are under way."""
        if self._interrupted:  # no file is half-written now
            raise KeyboardInterrupt
        if not drawing:
            records = self.shards.records().values()
            self._there, drawn = (sum(record[name] for record in records) for name in ("number", "drawn"))
            self._rate = self._there / drawn if drawn else 1.0
        at = min(int(self._there + drawing * self._rate), self.shards.number)
        if at > self._bar.n:
            self._bar.update(at - self._bar.n)
