"""What happens around training steps: averages, checkpoints that are always whole, progress and previews."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor, nn
from tqdm import tqdm

from gendiff.files import UserError
from gendiff.model import Model
from gendiff.train.processes import mean, together
from gendiff.train.task import DiffusionTask


class AveragedWeights(WeightAveraging):
    r"""Exponential moving average of the weights with a warm-up, so that short runs do not average their first
    weights in.

    :math:`\bar w \leftarrow \bar w + (1 - d_n)(w - \bar w)` with :math:`d_n = \min(d, (1 + n) / (10 + n))`.

    Arguments:
        decay: d (0.999).
    """

    def __init__(self, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay

        def average(averages: list[Tensor], weights: list[Tensor], n: Tensor) -> None:
            rate = 1 - ((1 + n) / (10 + n)).clamp(max=decay)
            change = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(change, rate.to(weights[0]))
            torch._foreach_add_(averages, change)

        super().__init__(use_buffers=False, multi_avg_fn=average)

    @contextmanager
    def applied(self, denoiser: nn.Module) -> Iterator[None]:
        """Give `denoiser` the averaged weights inside the block."""
        if self._average_model is None:
            raise RuntimeError("there are no averages before training starts")
        current = {name: value.clone() for name, value in denoiser.state_dict().items()}
        denoiser.load_state_dict(self._average_model.module.denoiser.state_dict())  # type: ignore[union-attr]
        try:
            yield
        finally:
            denoiser.load_state_dict(current)


class Keeper(Callback):
    """Writes `model/` for using and `checkpoints/last.ckpt` for resuming, both whole at any moment.

    The model goes first, so where a checkpoint ends the run its model is there. Both hold whole optimizer steps only.
    Of several processes the first one writes; when to write and when to stop they decide together.

    Arguments:
        folder: The run folder.
        model: The model in training; its denoiser is the task's.
        averages: Whose weights go to `model/`.
        every: Steps between checkpoints (1000).
        seconds: Longest time between checkpoints (60).
    """

    def __init__(self, folder: Path, model: Model, averages: AveragedWeights, every: int = 1000, seconds: float = 60.0):
        self.folder, self.model, self.averages = folder, model, averages
        self.every, self.seconds = every, seconds
        self.interrupted = self.saved = False
        self._before: dict[int, Any] = {}
        self._last_time, self._last_step = time.monotonic(), -1

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside the block Ctrl-C (or SIGTERM) ends the run after the step in hand, a second one at once.

        Raises:
            KeyboardInterrupt: at its end, if there was one.
        """
        signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.getsignal(number) for number in signals}
        self._listen()
        try:
            yield
        except SystemExit:  # what Lightning makes of a signal
            raise KeyboardInterrupt from None
        finally:
            for number, before in self._before.items():
                signal.signal(number, before)
        if self.interrupted:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.interrupted = True
        signal.signal(number, self._before[number])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take back the signals from Lightning, whose own handler talks to other processes in the middle of a step."""
        if not self.interrupted:
            self._listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time."""
        task: DiffusionTask = pl_module  # type: ignore[assignment]
        step = trainer.global_step
        if step == self._last_step or task.batch_number % trainer.accumulate_grad_batches:
            return
        late = time.monotonic() - self._last_time > self.seconds
        if together():
            wishes = torch.tensor([float(late), float(self.interrupted)], device=pl_module.device)
            late, interrupted = (mean(wishes) > 0).tolist()
            self.interrupted |= interrupted
        if step % self.every == 0 or late or self.interrupted or step == trainer.max_steps:
            self.save(trainer)
        trainer.should_stop |= self.interrupted

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what a bound on time has cut; there is one epoch only, and after it the weights become the averages."""
        if trainer.global_step > self._last_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write model and checkpoint.

        Raises:
            UserError: if the weights are not finite, or cannot be written.
        """
        self._last_time, self._last_step = time.monotonic(), trainer.global_step
        if not all(torch.isfinite(weights).all() for weights in self.model.denoiser.parameters()):
            raise diverged("the weights are", trainer.global_step)
        if trainer.is_global_zero:
            with self.averages.applied(self.model.denoiser):
                self.model.save(self.folder / "model")
        self.saved = True
        path = self.folder / "checkpoints" / "last.ckpt"
        part = path.with_name(".last.ckpt.part")
        try:
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(part, path)
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        finally:
            if trainer.is_global_zero:
                part.unlink(missing_ok=True)


def diverged(what: str, step: int) -> UserError:
    """Return the error of a run that has left the numbers."""
    return UserError(f"{what} not finite at step {step:,}; start a new run with a lower --learning-rate")


class Progress(Callback):
    """A bar with loss and samples per second on a terminal, a line now and then elsewhere; logs the means of the loss.

    Arguments:
        noun: What a sample is called.
        every: Batches between log entries (50).
        quiet: Show nothing.
    """

    def __init__(self, noun: str = "samples", every: int = 50, quiet: bool = False):
        self.noun, self.every, self.quiet = noun, every, quiet
        self._sums: dict[str, Tensor] = {}
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        task: DiffusionTask = pl_module  # type: ignore[assignment]
        total = trainer.max_steps if trainer.max_steps > 0 else None
        hidden = self.quiet or not trainer.is_global_zero
        interval = 0.5 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(
            total=total,
            initial=trainer.global_step,
            unit="step",
            disable=hidden,
            mininterval=interval,
            desc="training",
            dynamic_ncols=True,
        )
        self._clock, self._seen = time.monotonic(), task.samples_seen

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and now and then read the means; numbers are read from the devices only here."""
        task: DiffusionTask = pl_module  # type: ignore[assignment]
        for name, value in task.last.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        if task.batch_number % self.every:
            return
        now = time.monotonic()
        rate = (task.samples_seen - self._seen) / max(now - self._clock, 1e-9)
        sums = mean(torch.stack(list(self._sums.values()))).tolist()
        means = {name: value / self.every for name, value in zip(self._sums, sums, strict=True)}
        self._sums, self._clock, self._seen = {}, now, task.samples_seen
        if trainer.logger is not None:
            rates = {"samples_per_second": rate, "learning_rate": trainer.optimizers[0].param_groups[0]["lr"]}
            for logger in trainer.loggers:
                logger.log_metrics({**means, **rates}, step=trainer.global_step)
        self._bar.set_postfix_str(f"loss {means['loss']:.4f}, {rate:,.0f} {self.noun}/s", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._bar.update(trainer.global_step - self._bar.n)
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class NonFinite(Callback):
    """Stops a run whose loss is no number, before it harms the weights that are saved."""

    def __init__(self, every: int = 50):
        self.every = every

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the loss now and then."""
        task: DiffusionTask = pl_module  # type: ignore[assignment]
        if task.batch_number % self.every == 0 and not torch.isfinite(mean(task.last["loss"])):
            raise diverged("the loss is", trainer.global_step)


MOST_STEPS = 100
"""Steps of the sampler for a preview, at most: a thousand would take longer than the training of a short run."""


class Previews(Callback):
    """Draws a few samples with the averaged weights while the run goes on, in at most :data:`MOST_STEPS` steps.

    Arguments:
        folder: Where pictures go.
        model: The model in training.
        averages: Whose weights are used.
        every: Batches between previews.
        count: Samples of a preview (24).
    """

    def __init__(self, folder: Path, model: Model, averages: AveragedWeights, every: int, count: int = 24):
        self.folder, self.model, self.averages, self.every, self.count = folder, model, averages, every, count
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw when it is time."""
        step = trainer.global_step
        if step % self.every or step in (self._last_step, trainer.max_steps) or not trainer.is_global_zero:
            return
        self._last_step = step
        own = getattr(self.model.sampler, "steps", 0)
        with self.averages.applied(self.model.denoiser):
            records = self.model.sample(self.count, seed=0, steps=MOST_STEPS if own > MOST_STEPS else None)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.modality.draw(records, self.folder / f"step-{step:07d}.png")
