r"""A transformer over the points of a sequence.

A block adds to the features :math:`h_i` of the points, n being their layer norm, scaled and shifted by what the sample
is told,

.. math::
    h_i &\leftarrow h_i + g \odot W \sum_j \mathrm{softmax}_j\!\left(
        \frac{(R^i Q n_i) \cdot (R^j K n_j)}{\sqrt d}\right) V n_j \\
    h_i &\leftarrow h_i + g' \odot W_2\, \mathrm{silu}(W_1 n_i)

where j runs over real points and :math:`R^i` turns each pair of features by an angle proportional to i, so that the
product depends on i and j through the distance :math:`j - i` alone, at any length. Scales, shifts and the gates g are
linear in the embedding of noise levels and conditions. How far a point is from either end is an input of its own,
:math:`[\log(1 + i), \log(n - i)]`.

References:
    | RoFormer: enhanced transformer with rotary position embedding (Su et al., 2021) | https://arxiv.org/abs/2104.09864
    | Scalable diffusion models with transformers (Peebles, Xie, 2023): scales, shifts and gates | https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.equivariant import modulated
from gendiff.nn.frame import SequenceFrame, real_points
from gendiff.ops import State

LONGEST = 1000.0
"""Longest period of a rotation, 2π times this many points."""


def rotation(length: int, features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the angles of points 0 .. length − 1, each (length, features / 2)."""
    steps = torch.arange(features // 2, dtype=torch.float64, device=like.device)
    places = torch.arange(length, dtype=torch.float64, device=like.device)
    angle = places[:, None] * LONGEST ** (-steps / max(features // 2, 1))
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_k, x_{k + d/2}) of features (B, H, N, d) by the angles of the points."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)


class Attention(nn.Module):
    """Attention of all points to the real ones, turned by their places.

    Arguments:
        width: Number of features of a point.
        heads: Number of heads, each of width / heads features.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, n: Tensor, mask: Tensor) -> Tensor:
        """Map normalized features (B, N, width) under a mask (B, N) to what is added to the features."""
        q, k, v = self.inputs(n).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        cos, sin = rotation(n.shape[1], q.shape[-1], q)
        seen = F.scaled_dot_product_attention(
            turn(q, cos, sin), turn(k, cos, sin), v, mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        )
        return self.output(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One block of :class:`SequenceTransformer`; arguments as there."""

    def __init__(self, width: int, heads: int, expansion: int):
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads)
        self.first = nn.Linear(width, expansion * width)
        self.second = nn.Linear(expansion * width, width)
        with torch.no_grad():  # a start close to no conditioning
            self.modulation.weight.mul_(0.1)
            self.modulation.bias.zero_()

    def forward(self, h: Tensor, told: Tensor, mask: Tensor) -> Tensor:
        """Map features (B, N, width), what samples are told (B, width) and a mask (B, N) to features."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(told).unsqueeze(1).chunk(6, -1)
        h = h + (1 + gate) * self.attention(modulated(h, shift, scale), mask)
        return h + (1 + gate_2) * self.second(F.silu(self.first(modulated(h, shift_2, scale_2))))


class SequenceTransformer(nn.Module):
    """A transformer over the points of a sequence; the formulas are at the top of :mod:`gendiff.nn.sequence`.

    Arguments:
        fields: Features of each field by name, {"stroke": 2, "pen": 2}.
        width: Features of a point.
        layers: Number of blocks.
        levels: Noise levels that it is told.
        conditions: As :class:`gendiff.nn.embed.Conditioning`.
        heads: Heads of an attention; width / heads is even.
        expansion: Width between the two layers of a block, in multiples of `width`.
        complement: See :class:`gendiff.nn.frame.SequenceFrame`.
        self_condition: See :class:`gendiff.nn.frame.SequenceFrame`.

    Raises:
        UserError: for sizes that are not positive, or heads that do not divide the width into even parts.
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        width: int = 128,
        layers: int = 4,
        levels: int = 1,
        conditions: Mapping[str, str | int] | None = None,
        heads: int = 4,
        expansion: int = 4,
        complement: str | None = "sum",
        self_condition: bool = False,
    ):
        super().__init__()
        if layers < 1 or heads < 1 or expansion < 1 or width % (2 * heads):
            raise UserError(
                f"SequenceTransformer: width must be a multiple of 2 heads, layers, heads and expansion positive, got"
                f" {width}, {layers}, {heads} and {expansion}"
            )
        self.fields, self.width, self.layers, self.levels = dict(fields), width, layers, levels
        self.conditions, self.heads, self.expansion = dict(conditions or {}), heads, expansion
        self.complement, self.self_condition = complement, self_condition
        self.frame = SequenceFrame(self.fields, width, levels, self.conditions, complement, self_condition)
        self.ends = nn.Linear(2, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(layers))

    def forward(
        self, x: State, noise_level: Tensor, mask: Tensor | None = None, condition: State | None = None
    ) -> State:
        """Return the fields (B, N, D), zero at padding.

        Arguments:
            x: Fields (B, N, D).
            noise_level: (B, levels).
            mask: (B, N), the real points first; None if all are.
            condition: See :class:`gendiff.nn.embed.Conditioning`.
        """
        h, told = self.frame.enter(x, noise_level, mask, condition)
        real = real_points(h, mask)
        place = torch.arange(real.shape[1], device=real.device)
        after = (real.sum(1, keepdim=True) - place).clamp(min=1)
        h = h + self.ends(torch.stack(((1 + place).expand_as(after), after), -1).to(h.dtype).log())
        for block in self.blocks:
            h = block(h, told, real)
        return self.frame.leave(h, told, mask)
