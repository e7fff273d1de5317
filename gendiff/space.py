r"""The linear space in which a field lives: its shape, its noise, its projection and its degrees of freedom.

=====  ================  ==========================================================
kind   shape of a field  entries that count
=====  ================  ==========================================================
node   (B, N, D)         those of `mask`
pair   (B, N, N, D)      mask_i mask_j off the diagonal; symmetric, each pair once
grid   (B, D, *size)     all; there is no mask
=====  ================  ==========================================================

`mask` is (B, N), True where a sample really has an element; None means everywhere. Entries that do not count are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendiff.config import Configurable
from gendiff.ops import Random, sum_rest

KINDS = ("node", "pair", "grid")


class Space(Configurable):
    """A Euclidean space of node, pair or grid features; every direction is free.

    Arguments:
        features: D, numbers per entry (channels of a grid).
        kind: "node", "pair" or "grid".
        size: Spatial shape of a grid, for example [28, 28].
    """

    def __init__(self, features: int, kind: str = "node", size: Sequence[int] = ()):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        if features < 1 or (kind == "grid") != bool(size):
            raise ValueError(
                f"a {kind} space wants features >= 1 and a size only for grids, got {features}, {tuple(size)}"
            )
        self.features, self.kind, self.size = features, kind, list(size)

    def shape(self, batch: int, mask: Tensor | None) -> tuple[int, ...]:
        """Return the shape of a field with `batch` samples."""
        if self.kind == "grid":
            return (batch, self.features, *self.size)
        if mask is None:
            raise ValueError(f"a {self.kind} field needs a mask to know how many elements it has: (B, N), of bool")
        return (batch, *(mask.shape[1],) * (2 if self.kind == "pair" else 1), self.features)

    @property
    def form(self) -> str:
        """The shape of a field, in letters: "(B, N, 3)"."""
        elements = {"node": ["N"], "pair": ["N", "N"], "grid": []}[self.kind]
        return f"({', '.join(map(str, ['B', *elements, self.features, *self.size]))})"

    def fits(self, x: Tensor) -> bool:
        """Whether a tensor has the shape of a field."""
        if self.kind == "grid":
            return list(x.shape[1:]) == [self.features, *self.size]
        pair = self.kind == "pair"
        return x.dim() == 3 + pair and x.shape[-1] == self.features and (not pair or x.shape[1] == x.shape[2])

    def entries(self, mask: Tensor | None, like: Tensor) -> Tensor | None:
        """Return 1 where `like` has an entry that counts, 0 elsewhere, broadcastable over features; None if all do."""
        if self.kind == "grid" or (mask is None and self.kind == "node"):
            return None
        if self.kind == "node":
            return mask[..., None].to(like.dtype)  # type: ignore[index]
        n = like.shape[1]
        off_diagonal = 1 - torch.eye(n, dtype=like.dtype, device=like.device)
        if mask is None:
            return off_diagonal[None, :, :, None]
        m = mask.to(like.dtype)
        return (m[:, :, None] * m[:, None, :] * off_diagonal)[..., None]

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the nearest point of the space: pairs symmetric, zero where an entry does not count. Idempotent."""
        if self.kind == "pair":
            x = (x + x.transpose(1, 2)) / 2
        entries = self.entries(mask, x)
        return x if entries is None else x * entries

    def noise(self, mask: Tensor | None, random: Random, kind: str = "normal") -> Tensor:
        """Return standard noise of the space: "normal", or "gumbel" for drawing categories. Shape as :meth:`shape`."""
        z = getattr(random, kind)(self.shape(len(random.indices), mask))
        if self.kind == "pair":
            z = torch.triu(z.movedim(-1, 1), 1)
            z = (z + z.transpose(-1, -2)).movedim(1, -1)
        entries = self.entries(mask, z)
        return z if entries is None else z * entries

    def sum(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sum `x` over the entries that count, each pair once: to shape (B,)."""
        entries = self.entries(mask, x)
        total = sum_rest(x if entries is None else x * entries)
        return total / 2 if self.kind == "pair" else total

    def count(self, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return how many entries each sample has (nodes, unordered pairs, pixels), shape (B,), dtype of `like`."""
        one = torch.ones_like(like[:, :1] if self.kind == "grid" else like[..., :1])
        return self.sum(one, mask)

    def dim(self, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return the degrees of freedom of each sample, shape (B,)."""
        return self.count(mask, like) * self.features

    def trace(self, diagonal: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the trace over the space of a diagonal matrix given by its entries, shape (B,).

        Exact if every direction is free, or if the entries of a sample are one number; else all entries count alike.
        """
        share = self.dim(mask, diagonal) / (self.count(mask, diagonal) * self.features).clamp(min=1)
        return self.sum(diagonal, mask) * share

    def impose(self, x: Tensor, known: Tensor, keep: Tensor) -> Tensor:
        """Return `x` with the entries where `keep` (broadcastable, bool) is True taken from `known`."""
        return torch.where(keep, known, x)

    def restore(self, x: Tensor, known: Tensor, keep: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return a finished `x` in the frame of `known`, whose kept entries are copied exactly."""
        return torch.where(keep, known, x)


class Euclidean(Space):
    """The plain space; see :class:`Space`."""


class ZeroCenterOfMass(Space):
    r"""Node features whose mean over the real nodes is zero: positions without a place.

    :math:`\mathrm{dim} = (n - 1) D`; the projection takes the mean away.

    References: | Equivariant diffusion for molecule generation in 3D (Hoogeboom et al., 2022) | https://arxiv.org/abs/2203.17003
    """

    def __init__(self, features: int = 3):
        super().__init__(features, "node")

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `x` minus its mean over the real nodes, zero at padding."""
        if mask is None:
            return x - x.mean(1, keepdim=True)
        m = mask[..., None].to(x.dtype)
        x = x * m
        return (x - x.sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)) * m

    def noise(self, mask: Tensor | None, random: Random, kind: str = "normal") -> Tensor:
        """Return standard normal noise of the subspace."""
        return self.project(super().noise(mask, random, kind), mask)

    def dim(self, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return (n - 1) D for each sample."""
        return (self.count(mask, like) - 1).clamp(min=0) * self.features

    def _shift(self, x: Tensor, known: Tensor, keep: Tensor) -> Tensor:
        weight = keep.to(x.dtype)
        return ((x - known) * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)

    def impose(self, x: Tensor, known: Tensor, keep: Tensor) -> Tensor:
        """Move `known` so that its kept nodes have the mean they have in `x`, then put them in: the mean stays zero."""
        return torch.where(keep, known + self._shift(x, known, keep), x)

    def restore(self, x: Tensor, known: Tensor, keep: Tensor, mask: Tensor | None = None) -> Tensor:
        """Move the real nodes of the finished `x` into the frame of `known` and copy the kept ones exactly."""
        moved = x - self._shift(x, known, keep)
        return torch.where(keep, known, moved if mask is None else moved * mask[..., None])
