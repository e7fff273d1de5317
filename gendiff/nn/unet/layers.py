r"""The layers of the two-dimensional U-Net.

Every layer maps features (B, C, H, W), the vector `told` (B, D) of what a sample is told, and its tokens to features.
All of them work in either memory format and keep it. With `channels_last` the convolutions of CPUs and tensor cores
need no reordering, and attention and normalization see the channels of a pixel side by side.

References:
    | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021) | https://arxiv.org/abs/2105.05233
    | High-resolution image synthesis with latent diffusion models (Rombach et al., 2022): cross-attention | https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gendiff.files import UserError

Tokens = tuple[Tensor, Tensor]
"""Tokens (B, K, D), and which of them count, (B, K)."""


def pixels(x: Tensor) -> Tensor:
    """Return features (B, C, H, W) as rows (B, H W, C): a view, if the channels lie side by side."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows (B, H W, C) as features (B, C, H, W), of the height and width of `like`."""
    return rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def zeroed(layer: nn.Module) -> nn.Module:
    """Return a layer with all its parameters at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def doubled(x: Tensor) -> Tensor:
    """Return every pixel four times: (B, C, H, W) to (B, C, 2 H, 2 W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def activated(h: Tensor) -> Tensor:
    """Return silu(h), in the memory of h where no gradient is wanted: h belongs to the caller and is not used again."""
    return F.silu(h, inplace=not torch.is_grad_enabled())


def dropout(h: Tensor, probability: float) -> Tensor:
    """Return features with entries set to zero at random and the others scaled so that the mean stays.

    On CPUs 16 random bits decide of an entry. The kernel of torch draws 64, which can take a fifth of a convolution.
    """
    if h.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(h, probability)
    lost = round(2**16 * probability)
    bits = torch.empty(-(-h.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = (bits[: h.numel()] >= lost - 2**15).to(h.dtype).mul_(2**16 / (2**16 - lost))
    return h * kept.as_strided(h.shape, h.stride())


def halved(x: Tensor) -> Tensor:
    """Return the means of squares of 2 x 2 pixels; at an odd border of those that there are."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def beside(h: Tensor) -> bool:
    """Return whether the channels of a pixel lie side by side."""
    return h.is_contiguous(memory_format=torch.channels_last)


def laid_as(h: Tensor, kernel: Tensor) -> Tensor:
    """Return a kernel, whose channels lie side by side, in the memory format of features: it is that of the result."""
    return kernel if beside(h) else kernel.clone(memory_format=torch.contiguous_format)


class Convolution(nn.Linear):
    """A convolution of features, whose kernel is kept as a matrix, as optimizers like it, and lies as memory wants it.

    Row o of the matrix holds, for one offset after the other, the weights of all inputs: as a kernel, without a copy,
    those of one offset lie side by side like the channels of a pixel.

    Arguments:
        inputs: Channels that come in.
        outputs: Channels that go out.
        side: Height and width of the kernel, odd; around the image there are zeros, so at stride 1 it keeps its size.
        stride: Distance of the pixels that get a result; the first is one of them.
    """

    def __init__(self, inputs: int, outputs: int, side: int = 3, stride: int = 1):
        super().__init__(side**2 * inputs, outputs)
        self.side, self.stride = side, stride

    def forward(self, h: Tensor) -> Tensor:
        """Map features (B, C, H, W)."""
        if self.side == self.stride == 1 and beside(h):  # a matrix product, for which a convolution reorders
            return image(F.linear(pixels(h), self.weight, self.bias), h)
        kernel = laid_as(h, self.weight.unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2))
        return F.conv2d(h, kernel, self.bias, self.stride, self.side // 2)


class Doubling(nn.Linear):
    """A 3 x 3 convolution of features doubled in height and width, as one transposed convolution of the features.

    A pixel of the result sees 2 x 2 different pixels of the features, so weights that meet the same one are summed
    first: 16 products for a pixel and a pair of channels in place of 36, and no doubled features in memory. The weights
    are kept as those of :class:`Convolution`.
    """

    sums: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(9 * inputs, outputs)
        along = torch.tensor([[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])  # weight d is in the sums 2 - d and 3 - d
        self.register_buffer("sums", torch.kron(along, along), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, D, 2 H, 2 W)."""
        kernel = self.sums.mT @ self.weight.unflatten(1, (9, -1)).permute(2, 1, 0)  # (inputs, 16, outputs)
        kernel = laid_as(h, kernel.unflatten(1, (4, 4)).permute(0, 3, 1, 2))
        return F.conv_transpose2d(h, kernel, self.bias, stride=2, padding=1)


Resolutions = list[tuple[int, bool]]
"""Channels of each resolution, the finest first, and whether it has attention."""


def height_and_width(network: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return the height and width of images from both or their one side.

    Raises:
        UserError: if it is neither.
    """
    both = [size, size] if isinstance(size, int) else list(size)
    if len(both) != 2:
        raise UserError(f"{network}: size must be a side, or a height and a width, got {size}")
    return both[0], both[1]


@dataclass(frozen=True)
class Design:
    """What the layers of one network have in common; what is not said here, :class:`gendiff.nn.unet.UNet` says.

    Attributes:
        network: Whose design it is, for errors.
        told: Features D of what a sample is told.
        tokens: Features of a token; 0 if there are none.
    """

    network: str
    told: int
    tokens: int
    heads: int
    head_channels: int | None
    scale_shift: bool
    residual_resampling: bool
    dropout: float
    groups: int
    checkpoint: bool

    def resolutions(
        self,
        width: int,
        multipliers: Sequence[float],
        blocks: int,
        size: int | Sequence[int],
        attention: Sequence[int],
        patch: int = 1,
    ) -> Resolutions:
        """Return the resolutions of a network.

        Raises:
            UserError: for numbers that do not go together, or attention at a side that there is not.
        """
        sizes = height_and_width(self.network, size)
        numbers = {"width": width, "blocks": blocks, "size": min(sizes), "heads": self.heads, "groups": self.groups}
        numbers |= {"patch": patch}
        if wrong := [f"{name} = {value}" for name, value in numbers.items() if value < 1]:
            raise UserError(f"{self.network}: {wrong[0]} must be positive")
        if any(side % patch for side in sizes):
            raise UserError(f"{self.network}: size {size} must be a multiple of the patch, {patch}")
        if not multipliers or min(multipliers) <= 0:
            raise UserError(f"{self.network}: multipliers must be positive numbers, got {list(multipliers)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"{self.network}: dropout = {self.dropout} must be in [0, 1)")
        short = min(sizes) // patch
        found = [(int(width * multiplier), -(-short // 2**level)) for level, multiplier in enumerate(multipliers)]
        sides = [side for _, side in found]
        if missing := sorted(set(attention) - set(sides)):
            raise UserError(f"{self.network}: attention at {missing[0]} pixels, but the sides are {sides}")
        for channels, side in found:
            if channels < 1 or channels % self.groups:
                raise UserError(f"{self.network}: {self.groups} groups do not divide {channels} channels")
            if (side in attention or (channels, side) == found[-1]) and channels % (self.head_channels or self.heads):
                heads = f"heads of {self.head_channels}" if self.head_channels else f"{self.heads} heads"
                raise UserError(f"{self.network}: {heads} do not divide {channels} channels")
        return [(channels, side in attention) for channels, side in found]

    def step(self, layers: list[nn.Module]) -> Step:
        """Return layers as one step."""
        return Step(layers, self.checkpoint)

    def block(self, inputs: int, outputs: int, attends: bool) -> list[nn.Module]:
        """Return a residual block and the attentions behind it."""
        layers: list[nn.Module] = [ResidualBlock(inputs, outputs, self)]
        if attends:
            heads = outputs // self.head_channels if self.head_channels else self.heads
            layers.append(SelfAttention(outputs, heads, self.groups))
            if self.tokens:
                layers.append(CrossAttention(outputs, self.tokens, heads, self.groups))
        return layers

    def resampling(self, channels: int, way: str) -> nn.Module:
        """Return the layer that halves the side ("down") or doubles it ("up")."""
        return ResidualBlock(channels, channels, self, way) if self.residual_resampling else Resampling(channels, way)


class Step(nn.ModuleList):
    """Layers one after another; their features are computed again for the gradient, if `checkpoint` says so."""

    def __init__(self, layers: list[nn.Module], checkpoint: bool):
        super().__init__(layers)
        self.checkpoint = checkpoint

    def forward(self, h: Tensor, told: Tensor, tokens: Tokens | None) -> Tensor:
        """Map features as each layer does."""
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self._run, h, told, tokens, use_reentrant=False)
        return self._run(h, told, tokens)

    def _run(self, h: Tensor, told: Tensor, tokens: Tokens | None) -> Tensor:
        for layer in self:
            h = layer(h, told, tokens)
        return h


class ResidualBlock(nn.Module):
    r"""Two convolutions, and what a sample is told between them.

    .. math:: x \leftarrow S x + C_2\, \mathrm{silu}(\mathrm{norm}(C_1\, \mathrm{silu}(\mathrm{norm}(x)) + e))

    with e linear in `told`; with `scale_shift`, :math:`(1 + a)\, \mathrm{norm}(C_1 \ldots) + b` in the place of
    :math:`\mathrm{norm}(C_1 \ldots + e)`. S is a linear map of each pixel if the number of channels changes, else the
    identity. A block that resamples does so before :math:`C_1` and at S. :math:`C_2` starts at zero.

    Arguments:
        inputs: Channels that come in.
        outputs: Channels that go out.
        design: What all layers have in common.
        way: "down" to halve the side, "up" to double it, "" for neither.
    """

    def __init__(self, inputs: int, outputs: int, design: Design, way: str = ""):
        super().__init__()
        self.way, self.scale_shift, self.dropout = way, design.scale_shift, design.dropout
        self.before, self.after = nn.GroupNorm(design.groups, inputs), nn.GroupNorm(design.groups, outputs)
        self.first = Doubling(inputs, outputs) if way == "up" else Convolution(inputs, outputs)
        self.second = zeroed(Convolution(outputs, outputs))
        self.told = nn.Linear(design.told, outputs * (1 + design.scale_shift))
        self.skip = Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, told: Tensor, tokens: Tokens | None = None) -> Tensor:
        """Map features."""
        h = activated(self.before(x))
        if self.way == "down":
            h, x = halved(h), halved(x)
        elif self.way == "up":
            x = doubled(x)
        h = self.first(h)
        told = self.told(told)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            h = torch.addcmul(shift, self.after(h), 1 + scale)
        else:
            h = self.after(h.add_(told))
        h = activated(h)
        if self.training and self.dropout:
            h = dropout(h, self.dropout)
        return self.second(h).add_(self.skip(x))


class Resampling(nn.Module):
    """A convolution that halves the side of features ("down"), or doubles it ("up")."""

    def __init__(self, channels: int, way: str):
        super().__init__()
        self.convolution = Doubling(channels, channels) if way == "up" else Convolution(channels, channels, stride=2)

    def forward(self, h: Tensor, told: Tensor, tokens: Tokens | None = None) -> Tensor:
        """Map features."""
        return self.convolution(h)


def attend(query: Tensor, key: Tensor, value: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return attention (B, Q, C) of queries (B, heads, Q, D) over keys and values, of which some count, (B, K)."""
    mask = None if counts is None else counts[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int, parts: int) -> Tensor:
    """Return features (B, N, parts C) as (parts, B, heads, N, D)."""
    return x.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


class SelfAttention(nn.Module):
    """Attention of the pixels over each other, added to the features; it starts at zero."""

    def __init__(self, channels: int, heads: int, groups: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.inward = nn.Linear(channels, 3 * channels)
        self.outward = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor, told: Tensor, tokens: Tokens | None = None) -> Tensor:
        """Map features."""
        q, k, v = split_heads(self.inward(pixels(self.norm(h))), self.heads, 3)
        return h + image(self.outward(attend(q, k, v)), h)


class CrossAttention(nn.Module):
    """Attention of the pixels over the tokens, added to the features; it starts at zero."""

    def __init__(self, channels: int, tokens: int, heads: int, groups: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.query, self.pairs = nn.Linear(channels, channels), nn.Linear(tokens, 2 * channels)
        self.outward = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor, told: Tensor, tokens: Tokens) -> Tensor:
        """Map features."""
        values, counts = tokens
        (q,) = split_heads(self.query(pixels(self.norm(h))), self.heads, 1)
        k, v = split_heads(self.pairs(values), self.heads, 2)
        return h + image(self.outward(attend(q, k, v, counts)), h)
