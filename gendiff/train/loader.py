"""Batches for Lightning: an endless stream that starts where the run left off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gendiff.data import Batch, Ragged, batch_stream
from gendiff.train.processes import place
from gendiff.train.task import DiffusionTask


@dataclass
class Share(Batch):
    """What one process gets of a batch.

    Attributes:
        total: Samples of the whole batch.
        weight: Factor of the mean loss of the share, with which the mean over the processes is the mean over the batch.
    """

    total: int = 0
    weight: float = 1.0

    def to(self, device: torch.device | str) -> Share:
        """Return the share on another device."""
        return replace(self, **vars(super().to(device)))


class Stream(IterableDataset[Share]):
    """The batches of a run from `task.batch_number` on; each process takes its share of every batch.

    Arguments:
        data: Training data.
        batch_size: Samples of a batch, over all processes.
        seed: Seed of the order.
        task: Knows the position.
    """

    def __init__(self, data: Ragged, batch_size: int, seed: int, task: DiffusionTask):
        self.data, self.batch_size, self.seed, self.task = data, batch_size, seed, task

    def __iter__(self) -> Iterator[Share]:
        if get_worker_info() is not None:
            raise RuntimeError("gathering a batch is one indexing operation; use num_workers = 0")
        rank, world = place()
        for index in batch_stream(self.data.sizes, self.batch_size, self.seed, self.task.batch_number):
            mine = index[rank::world]
            # A process without samples would keep the others waiting: it takes one that counts nothing.
            batch = self.data.batch(mine if len(mine) else index[:1])
            yield Share(**vars(batch), total=len(index), weight=len(mine) * world / len(index))

    def loader(self) -> DataLoader[Share]:
        """Return the loader that Lightning wants."""
        return DataLoader(self, batch_size=None, num_workers=0)
