r"""A one-dimensional U-Net along a sequence, exactly blind to padding.

Going down, each level has half as many points and twice the features; going up, every point is repeated and sees what
its level was on the way down. A block is

.. math:: h \leftarrow h + g \odot C_2\, \mathrm{silu}(\mathrm{norm}(C_1 \mathrm{silu}(n)))

with n the layer norm of h scaled and shifted by what the sample is told, g as well a linear function of that, and
convolutions C over a point and its two neighbours. Before every convolution the features at padding are set to zero: a
sequence sees its end as it would without padding. Norms are of single points. Point i of a level is centred on point
2i of the level above, and is real where that is. At the coarsest level all real points attend to each other.

References:
    | U-Net (Ronneberger et al., 2015) | https://arxiv.org/abs/1505.04597
    | Denoising diffusion probabilistic models (Ho et al., 2020): blocks, attention at coarse levels | https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.equivariant import modulated
from gendiff.nn.frame import SequenceFrame, real_points
from gendiff.nn.sequence import Attention
from gendiff.ops import State


class Convolution(nn.Module):
    """A linear map of every point with its two neighbours, of features (B, N, C): a matrix, as optimizers like it.

    Arguments:
        inputs: Features of a point.
        outputs: Features of a result.
        stride: Distance of the points that get a result; the first is one of them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.linear = nn.Linear(3 * inputs, outputs)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Convolve features whose padding counts as zero."""
        h = F.pad(h * mask.unsqueeze(2), (0, 0, 1, 1))
        near = (h[:, shift : h.shape[1] - 2 + shift : self.stride] for shift in range(3))
        return self.linear(torch.cat(list(near), -1))


class Block(nn.Module):
    """One block of :class:`UNet1d`, of features (B, N, width)."""

    def __init__(self, width: int, told: int):
        super().__init__()
        self.modulation = nn.Linear(told, 3 * width)
        self.first, self.second = Convolution(width, width), Convolution(width, width)
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():  # a start close to no conditioning
            self.modulation.weight.mul_(0.1)
            self.modulation.bias.zero_()

    def forward(self, h: Tensor, told: Tensor, mask: Tensor) -> Tensor:
        """Map features, what samples are told (B, told) and a mask (B, N) to features."""
        shift, scale, gate = self.modulation(told).unsqueeze(1).chunk(3, -1)
        change = self.first(F.silu(modulated(h, shift, scale)), mask)
        return h + (1 + gate) * self.second(F.silu(self.norm(change)), mask)


class Blocks(nn.ModuleList):
    """Blocks one after another."""

    def forward(self, h: Tensor, told: Tensor, mask: Tensor) -> Tensor:
        """Map as each :class:`Block` does."""
        for block in self:
            h = block(h, told, mask)
        return h


class UNet1d(nn.Module):
    """A one-dimensional U-Net; what it computes is said at the top of :mod:`gendiff.nn.unet1d`.

    Arguments:
        fields: Features of each field by name, {"stroke": 2, "pen": 2}.
        width: Features of a point at the finest resolution; each coarser one has twice as many.
        layers: Blocks of a resolution, on each way.
        levels: Noise levels that it is told.
        conditions: As :class:`gendiff.nn.embed.Conditioning`.
        depth: Number of resolutions.
        heads: Heads of the attention at the coarsest resolution.
        complement: See :class:`gendiff.nn.frame.SequenceFrame`.
        self_condition: See :class:`gendiff.nn.frame.SequenceFrame`.

    Raises:
        UserError: for sizes that are not positive, or heads that do not divide the coarsest width into even parts.
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        width: int = 64,
        layers: int = 1,
        levels: int = 1,
        conditions: Mapping[str, str | int] | None = None,
        depth: int = 3,
        heads: int = 4,
        complement: str | None = "sum",
        self_condition: bool = False,
    ):
        super().__init__()
        if layers < 1 or depth < 1 or heads < 1 or width * 2 ** (depth - 1) % (2 * heads):
            raise UserError(
                f"UNet1d: width 2^(depth - 1) must be a multiple of 2 heads, layers, depth and heads positive, got"
                f" {width}, {layers}, {depth} and {heads}"
            )
        self.fields, self.width, self.layers, self.levels = dict(fields), width, layers, levels
        self.conditions, self.depth, self.heads = dict(conditions or {}), depth, heads
        self.complement, self.self_condition = complement, self_condition
        self.frame = SequenceFrame(self.fields, width, levels, self.conditions, complement, self_condition)
        *fine, coarsest = [width * 2**k for k in range(depth)]

        def blocks(size: int) -> Blocks:
            return Blocks(Block(size, width) for _ in range(layers))

        self.down = nn.ModuleList(blocks(size) for size in fine)
        self.halve = nn.ModuleList(Convolution(size, 2 * size, stride=2) for size in fine)
        self.before, self.after = blocks(coarsest), blocks(coarsest)
        self.attention, self.norm = Attention(coarsest, heads), nn.LayerNorm(coarsest)
        self.join = nn.ModuleList(Convolution(3 * size, size) for size in fine)
        self.up = nn.ModuleList(blocks(size) for size in fine)

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
        real = [real_points(h, mask)]
        kept = []
        for blocks, halve in zip(self.down, self.halve, strict=True):
            h = blocks(h, told, real[-1])
            kept.append(h)
            h = halve(h, real[-1])
            real.append(real[-1][:, ::2])
        h = self.before(h, told, real[-1])
        h = self.after(h + self.attention(self.norm(h), real[-1]), told, real[-1])
        for k in reversed(range(self.depth - 1)):
            h = h.repeat_interleave(2, 1)[:, : kept[k].shape[1]]
            h = self.up[k](self.join[k](torch.cat((kept[k], h), -1), real[k]), told, real[k])
        return self.frame.leave(h, told, mask)
