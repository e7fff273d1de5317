r"""Elementary operations on batched tensors: broadcasting, masked means, and random streams of each sample.

A batch is dense, (B, ...). A per-sample number `a` of shape (B,) is spread over a tensor by :func:`expand`. Random
numbers come from :class:`Random`: a *counter-based* generator, in which every number is a hash of (seed, sample, draw,
position). Sample i therefore gets the same numbers whatever the batch size, the padding, the order or the process that
draws it, with no loop over samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Named fields of a batch, each (B, ...)."""


def expand(a: Tensor, x: Tensor) -> Tensor:
    """Reshape `a` of shape (B,) to (B, 1, ..., 1) so that it multiplies `x` of shape (B, ...)."""
    return a.reshape(a.shape + (1,) * (x.dim() - a.dim()))


def sum_rest(x: Tensor) -> Tensor:
    """Sum over all axes but the first: (B, ...) to (B,)."""
    return x.flatten(1).sum(1)


def size_mask(sizes: Tensor, length: int | None = None) -> Tensor:
    """Return the (B, N) mask that is True for the first `sizes[b]` entries; N is `length` or the largest size."""
    length = int(sizes.max()) if length is None else length
    return torch.arange(length, device=sizes.device) < sizes[:, None]


def _wrap(value: int) -> int:
    """Return `value` modulo 2^64 as a signed 64-bit number."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_GOLDEN, _MIX_1, _MIX_2 = (_wrap(k) for k in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(z: Tensor) -> Tensor:
    """Finalizer of SplitMix64 on int64 (arithmetic wraps modulo 2^64; shifts are made logical by a mask)."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX_2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


class Random:
    r"""Independent random streams, one per sample.

    Entry (j, k, ..) of draw d of sample i is :math:`h(h(h(h(h(s) + i) + d) + j) + k)..`, h the SplitMix64 finalizer and
    every + a multiple of its increment (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). An
    entry depends on its own coordinates only, so padding an axis does not change the entries that were there. Normals
    are by Box and Muller in float64, cast to float32.

    Arguments:
        seed: Any integer.
        indices: Number of each sample, shape (B,), or the count B for samples 0 .. B-1.
        device: Where numbers are made and wanted.
        draws: How many draws this stream has behind it.
    """

    def __init__(self, seed: int, indices: Tensor | int, device: torch.device | str | None = None, draws: int = 0):
        if isinstance(indices, int):
            indices = torch.arange(indices)
        self.seed, self.indices, self.draws = int(seed), indices.to(device=device, dtype=torch.int64), draws
        root = _mix(torch.tensor(_wrap(int(seed) * _GOLDEN + 0x632BE59BD9B4E019)))
        self._keys = _mix(root.to(self.indices.device) + self.indices * _GOLDEN)

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        if shape[0] != len(self.indices):
            raise ValueError(f"shape {tuple(shape)} wants {shape[0]} samples, this stream has {len(self.indices)}")
        self.draws += 1
        bits = _mix(self._keys + _wrap(self.draws * _GOLDEN))
        for size in shape[1:]:
            bits = _mix(bits[..., None] + torch.arange(1, size + 1, device=bits.device) * _GOLDEN)
        return bits

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers in (0, 1), float32, shape (B, ...)."""
        return ((self._bits(shape) >> 41) & 0x7FFFFF).float().add_(0.5).div_(1 << 23)  # 24 bits: exact, never 0 or 1

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32, shape (B, ...)."""
        bits = self._bits(shape)
        real = torch.float32 if bits.device.type == "mps" else torch.float64
        radius = (((bits >> 32) & 0xFFFFFFFF).to(real) + 0.5).div_(1 << 32).log_().mul_(-2).sqrt_()
        angle = (bits & 0xFFFFFFFF).to(real).mul_(2 * math.pi / (1 << 32)).cos_()
        return radius.mul_(angle).float()

    def gumbel(self, shape: tuple[int, ...]) -> Tensor:
        """Standard Gumbel numbers -log(-log u): log p + gumbel is largest at category k with probability p_k."""
        u = ((self._bits(shape) >> 12) & ((1 << 52) - 1)).double().add_(0.5).div_(1 << 52)
        return u.log_().neg_().log_().neg_().float()

    def shared_uniform(self) -> float:
        """One uniform number in (0, 1) of seed and draw only: a coin for the whole batch, alike in every process."""
        self.draws += 1
        bits = _mix(_mix(torch.tensor(_wrap(self.seed * _GOLDEN + 1))) + _wrap(self.draws * _GOLDEN))
        return ((int(bits) >> 40 & 0xFFFFFF) + 0.5) / (1 << 24)

    def select(self, rows: Tensor) -> Random:
        """Return the streams of some samples, at the same draw."""
        return Random(self.seed, self.indices[rows], self.indices.device, self.draws)
