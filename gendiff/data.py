"""Training data: ragged samples in flat arrays, and batches of one size.

Samples of unlike size lie one after another in flat tensors, so a batch is one gather and no sample is ever padded to
the largest of the set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gendiff.ops import State


@dataclass
class Batch:
    """Samples ready for a denoiser.

    Attributes:
        state: Clean fields, each (B, ...), zero at padding.
        mask: (B, N), True where a sample really has an element; None for fields without elements (grids).
        condition: Tensors (B, ...); NaN or -1 where a sample has none.
        index: Number of each sample in its data set, (B,).
    """

    state: State
    mask: Tensor | None
    condition: State
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return Batch(
            {name: value.to(device) for name, value in self.state.items()},
            None if self.mask is None else self.mask.to(device),
            {name: value.to(device) for name, value in self.condition.items()},
            self.index.to(device),
        )


@dataclass
class Ragged:
    """Samples with node fields of unlike size.

    Attributes:
        sizes: Elements of each sample, (M,).
        fields: Each (sum of sizes, D).
        condition: Each (M, ...).
    """

    sizes: Tensor
    fields: State
    condition: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = self.sizes.long()
        self._first = self.sizes.cumsum(0) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def select(self, index: Tensor) -> Ragged:
        """Return some of the samples."""
        places = torch.cat(
            [torch.arange(int(f), int(f + n)) for f, n in zip(self._first[index], self.sizes[index], strict=True)]
        )
        fields = {name: value[places] for name, value in self.fields.items()}
        return replace(
            self, sizes=self.sizes[index], fields=fields, condition={k: v[index] for k, v in self.condition.items()}
        )

    def batch(self, index: Tensor) -> Batch:
        """Gather samples, padded to the largest among them."""
        sizes = self.sizes[index]
        within = torch.arange(int(sizes.max()))
        mask = within < sizes[:, None]
        place = (self._first[index][:, None] + within).clamp(max=int(self.sizes.sum()) - 1)
        state = {name: value[place] * mask[..., None].to(value.dtype) for name, value in self.fields.items()}
        return Batch(state, mask, {name: value[index] for name, value in self.condition.items()}, index)


class Lazy(Ragged):
    """Samples that stay where they are, on a disk for instance, until a batch asks for them.

    They make the same batches as the samples themselves, one after another in memory, would.

    Arguments:
        sizes: Elements of each sample, (M,).
        gather: Gives the samples of some numbers (B,), in their order; their conditions are not asked for.
        condition: Each (M, ...).
    """

    def __init__(self, sizes: Tensor, gather: Callable[[Tensor], Ragged], condition: State | None = None):
        super().__init__(sizes, {}, condition or {})
        self.gather = gather

    def select(self, index: Tensor) -> Ragged:
        """Return some of the samples, in memory."""
        return replace(self.gather(index), condition={name: value[index] for name, value in self.condition.items()})

    def batch(self, index: Tensor) -> Batch:
        """Gather samples, padded to the largest among them."""
        return replace(self.select(index).batch(torch.arange(len(index))), index=index)


@dataclass
class Grids(Ragged):
    r"""Samples on grids of one size, such as images.

    Bytes p of 0 to 255 stay bytes in memory; in a batch they are

    .. math:: x = p / 127.5 - 1 \in [-1, 1].

    Attributes:
        sizes: 1 of each sample, (M,): it is one element, without a mask.
        fields: Each (M, C, H, W), uint8; floats are taken as they are.
        condition: Each (M, ...).
    """

    sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = torch.ones(len(next(iter(self.fields.values()))), dtype=torch.long)
        super().__post_init__()

    def select(self, index: Tensor) -> Grids:
        """Return some of the samples."""
        return Grids(
            {name: value[index] for name, value in self.fields.items()},
            {name: value[index] for name, value in self.condition.items()},
        )

    def batch(self, index: Tensor) -> Batch:
        """Gather samples, as floats; the mask is None."""
        part = self.select(index)
        state = {name: _real(value).contiguous() for name, value in part.fields.items()}
        return Batch(state, None, part.condition, index)


def _real(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def size_batches(sizes: Tensor, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Split samples into shuffled batches of (nearly) one size: sort a shuffle by size, cut, shuffle the cuts.

    Every sample comes once, and an epoch always has ceil(M / batch_size) batches. Only a cut that falls between two
    sizes holds both, so padding is rare.

    Arguments:
        sizes: Elements of each sample, (M,).
        batch_size: Samples in a batch; one batch of an epoch may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch; the result depends on nothing else.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    order = torch.randperm(len(sizes), generator=generator)
    order = order[sizes[order].argsort(stable=True)]
    batches = order.split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def batch_stream(sizes: Tensor, batch_size: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Yield the batches of epoch after epoch without end, from batch number `start` of the run."""
    per_epoch = -(-len(sizes) // batch_size)
    for epoch in itertools.count(start // per_epoch):
        yield from size_batches(sizes, batch_size, seed, epoch)[start % per_epoch :]
        start = 0
