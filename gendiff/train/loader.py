"""Batches for Lightning: an endless stream that starts where the run left off."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gendiff.data import Batch, Ragged, batch_stream
from gendiff.train.task import DiffusionTask


class Stream(IterableDataset[Batch]):
    """The batches of a run from `task.batch_number` on; each process takes its share of every batch.

    Arguments:
        data: Training data.
        batch_size: Samples of a batch, over all processes.
        seed: Seed of the order.
        task: Knows the position.
    """

    def __init__(self, data: Ragged, batch_size: int, seed: int, task: DiffusionTask):
        self.data, self.batch_size, self.seed, self.task = data, batch_size, seed, task

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise RuntimeError("gathering a batch is one indexing operation; use num_workers = 0")
        rank, world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        for index in batch_stream(self.data.sizes, self.batch_size, self.seed, self.task.batch_number):
            share = index[rank::world]
            yield self.data.batch(share if len(share) else index[:1])

    def loader(self) -> DataLoader[Batch]:
        """Return the loader that Lightning wants."""
        return DataLoader(self, batch_size=None, num_workers=0)
