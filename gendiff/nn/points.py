r"""An encoder of sets of points: what a network is told of a cloud.

.. math::
    h_i = \mathrm{MLP}(x_i, \cos \omega x_i, \sin \omega x_i), \qquad h \leftarrow h + \mathrm{attention}(h, h), \qquad
    y = W\, \mathrm{attention}(q, h)

:math:`q` are learned queries. Every step is the same for all points, or a mean over them, so their order changes
nothing, and points that are absent take no part.

References: | Set transformer (Lee et al., 2019) | https://arxiv.org/abs/1810.00825
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Fourier

LONGEST, SHORTEST, FEATURES = 8.0, 0.25, 12
"""Periods of the sines and cosines of each coordinate, which should be of order 1, and how many there are."""


class PointSet(nn.Module):
    """A set of points as one vector, whatever their order.

    Arguments:
        dimensions: Coordinates D of a point, in units of their standard deviation or so.
        width: Features of the result, a multiple of `heads`.
        heads: Heads of each attention.
        queries: Learned queries, whose answers are joined.

    Raises:
        UserError: for sizes that are not positive, or a width that is no multiple of the heads.
    """

    def __init__(self, dimensions: int = 2, width: int = 128, heads: int = 4, queries: int = 4):
        super().__init__()
        if min(dimensions, width, heads, queries) < 1 or width % heads:
            raise UserError(
                f"PointSet: sizes must be positive and width a multiple of heads, got {dimensions}, {width}, {heads},"
                f" {queries}"
            )
        self.dimensions, self.width, self.heads, self.queries = dimensions, width, heads, queries
        self.waves = Fourier(FEATURES, LONGEST, SHORTEST)
        self.inward = nn.Sequential(
            nn.Linear(dimensions * (1 + FEATURES), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.pool = _Attention(width, heads), _Attention(width, heads)
        self.query = nn.Parameter(torch.randn(queries, width))
        self.outward = nn.Sequential(nn.Linear(queries * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, points: Tensor) -> Tensor:
        """Return (B, width) of points (B, K, D); a row with a NaN is absent. A set without points has a value, too."""
        absent = points.isnan().any(2)
        points = points.masked_fill(absent[..., None], 0.0)
        present = ~absent | absent.all(1, keepdim=True)  # a softmax over nothing would be NaN
        h = self.inward(torch.cat([points, self.waves(points).flatten(2)], -1))
        u = self.norm(h)
        h = self.last(h + self.mix(u, u, present))
        pooled = self.pool(self.query.expand(len(h), -1, -1), h, present)
        return self.outward(pooled.flatten(1))


class _Attention(nn.Module):
    """Attention of queries (B, Q, W) over elements (B, K, W), of which some are present."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # softmax does not see what all keys share

    def forward(self, query: Tensor, elements: Tensor, present: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, elements), (self.value, elements))
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None])
        return self.out(mixed.transpose(1, 2).flatten(2))
