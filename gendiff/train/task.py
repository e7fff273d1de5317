"""The Lightning task: a denoiser, its loss and its optimizer.

Everything random in batch k is a function of (seed, k) and of the number of each sample in the data set, and the
learning rate is a function of k. So a run needs to remember only weights, averages, optimizer and k to go on exactly
as if it had never stopped, and a batch split over processes has the noise it has in one. Each process has a share of
every batch, and its loss a weight by which the mean of the gradients is that of the whole batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from gendiff.data import Batch
from gendiff.denoise import Denoiser
from gendiff.objective import Loss
from gendiff.ops import Random, State
from gendiff.train.optimizer import MuonAdamW
from gendiff.train.processes import mean, together


class DiffusionTask(pl.LightningModule):
    """Trains a denoiser.

    Arguments:
        denoiser: What is trained.
        objective: The loss.
        seed: Seed of noise, times and dropped conditions.
        learning_rate: Peak learning rate (5e-3).
        warmup: Batches over which the rate rises from zero (100).
        weight_decay: On matrices only (0.01).
        steps: Batches in all, over which the rate falls by half a cosine to zero; None without such a bound.
        seconds: Bound in time, over which the rate falls if it comes first.
        augment: Changes a batch at random, (state, mask, random) to state; see
            :meth:`gendiff.modality.Modality.augmented`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Loss,
        seed: int = 0,
        learning_rate: float = 5e-3,
        warmup: int = 100,
        weight_decay: float = 0.01,
        steps: int | None = None,
        seconds: float | None = None,
        augment: Callable[[State, Tensor | None, Random], State] | None = None,
    ):
        super().__init__()
        self.denoiser, self.objective, self.seed, self.augment = denoiser, objective, seed, augment
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self.steps, self.seconds = steps, seconds
        self.batch_number, self.samples_seen = 0, 0
        self.last: dict[str, Tensor] = {}
        self._started, self._elapsed = time.monotonic(), 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Muon for matrices with AdamW for the rest."""
        # Lightning clips no gradients for a fused optimizer in mixed precision
        fused = "mixed" not in str(self.trainer.precision)
        learned = [*self.denoiser.parameters(), *self.objective.parameters()]
        return MuonAdamW(learned, self.learning_rate, self.weight_decay, fused)

    def progress(self) -> float:
        """Return how much of the run is behind, 0 to 1."""
        by_steps = self.batch_number / self.steps if self.steps else 0.0
        by_time = (time.monotonic() - self._started) / self.seconds if self.seconds else 0.0
        if self.seconds and together():  # whose clocks differ, but not their learning rates
            by_time = float(mean(torch.tensor(by_time, device=self.device)))
        return min(1.0, max(by_steps, by_time))

    def on_fit_start(self) -> None:
        """Start the clock, where the run has come to."""
        self._started = time.monotonic() - self._elapsed

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate: linear warm-up, then half a cosine."""
        warm = min(1.0, (self.batch_number + 1) / max(1, self.warmup))
        rate = self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch, or what this process adds to it."""
        random = Random(self.seed * 1_000_003 + self.batch_number, batch.index, batch.index.device)
        device, state = batch.index.device, batch.state
        if self.augment is not None:
            state = self.augment(state, batch.mask, Random(~random.seed, batch.index, batch.index.device))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(random.seed % (1 << 63))  # dropout alone draws from torch's own stream
            losses, parts = self.objective(self.denoiser, state, batch.mask, batch.condition or None, random)
        weight = getattr(batch, "weight", 1.0)
        loss = weight * losses.mean()
        self.last = {"loss": loss.detach(), **{name: weight * part.detach().mean() for name, part in parts.items()}}
        self.batch_number += 1
        self.samples_seen += getattr(batch, "total", len(batch))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the position in the data."""
        checkpoint["batch_number"], checkpoint["samples_seen"] = self.batch_number, self.samples_seen
        checkpoint["elapsed"] = time.monotonic() - self._started

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go back to the position in the data."""
        self.batch_number, self.samples_seen = checkpoint["batch_number"], checkpoint["samples_seen"]
        self._elapsed = checkpoint["elapsed"]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return batch.to(device)
