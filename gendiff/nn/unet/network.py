r"""The U-Net of images: the design of DDPM, that of ADM, and what lies between.

Features of the image go down through residual blocks and halvings and up again through blocks that also see what was
there on the way down. The noise level, as sines and cosines, and the conditions make one vector, which every block is
told. Both papers let the last layer of every residual branch, and of the network, start at zero: a new network puts
out exactly 0.

==========================  =============================  ================================
                            DDPM                           ADM
==========================  =============================  ================================
a block is told by          addition                       `scale_shift` of its second norm
sides change by             one convolution                `residual_resampling`
attention                   one head, one resolution       `head_channels` 64, at 32, 16, 8
variance                    fixed                          `learned_variance`
==========================  =============================  ================================

References:
    | U-Net (Ronneberger et al., 2015) | https://arxiv.org/abs/1505.04597
    | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021) | https://arxiv.org/abs/2105.05233
    | Improving diffusion model efficiency through patching (Luhman, Luhman, 2022) | https://arxiv.org/abs/2207.04316
    | Image super-resolution via iterative refinement (Saharia et al., 2021): images as conditions | https://arxiv.org/abs/2104.07636
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier, RandomFourier
from gendiff.nn.graph import add_condition, previous
from gendiff.nn.unet.layers import Design, Resolutions, Step, Tokens, activated, zeroed
from gendiff.ops import State

_ADM = {"attention": (32, 16, 8), "scale_shift": True, "residual_resampling": True, "learned_variance": True}
_DEEP = (1, 1, 2, 2, 4, 4)

PUBLISHED: dict[str, dict[str, Any]] = {
    "ddpm-32": {"width": 128, "multipliers": (1, 2, 2, 2), "attention": (16,), "size": 32, "dropout": 0.1},
    "adm-64": {
        **_ADM, "width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "size": 64, "head_channels": 64, "dropout": 0.1
    },
    "adm-128": {**_ADM, "width": 256, "multipliers": (1, 1, 2, 3, 4), "size": 128, "heads": 4},
    "adm-256": {**_ADM, "width": 256, "multipliers": _DEEP, "size": 256, "head_channels": 64},
    "adm-512": {**_ADM, "width": 256, "multipliers": (0.5, *_DEEP), "size": 512, "head_channels": 64},
    "adm-64-256": {**_ADM, "width": 192, "multipliers": _DEEP, "size": 256, "heads": 4},
    "adm-128-512": {
        **_ADM, "width": 192, "multipliers": _DEEP, "size": 512, "head_channels": 64, "attention": (32, 16)
    },
}  # fmt: skip
"""Arguments of published networks: of DDPM for CIFAR-10, of ADM by the side of the image, and its two upsamplers, which
have the small image, enlarged, as a condition {"image": {"grid": 3}}. All but the first know {"class": 1000}."""


class UNet(nn.Module):
    """A two-dimensional U-Net; what it computes is said at the top of :mod:`gendiff.nn.unet.network`.

    The defaults are the network of DDPM for CIFAR-10, but for its dropout of 0.1. Images may be of any height and
    width: where a side is odd, the coarser one has the larger half, and what is too much after doubling is cut.

    A condition is a vector, an image or a sequence of tokens. Vectors are embedded and added to the noise level, see
    :class:`gendiff.nn.embed.Conditioning`. An image `{"grid": C}`, (B, C, H, W), stands beside the fields as further
    channels; where it is NaN, at some pixels or at all, it counts as zero, and one more channel says where it is
    known. Tokens `{"tokens": D}`, (B, K, D), are attended to after each attention; those that are NaN are left out,
    and a sample that has no others sees a learned one in their place.

    Arguments:
        fields: Channels of each field by name, {"pixel": 3}; all have one height and width.
        width: Channels at the multiplier 1. The vector that blocks are told has four times as many features.
        multipliers: Channels of each resolution, the finest first, in widths.
        blocks: Residual blocks of a resolution on the way down; there is one more on the way up.
        attention: Resolutions with attention, as the shorter side of the features there in pixels.
        size: Side of the images, or height and width, from which the resolutions are counted.
        levels: Noise levels F that it is told.
        conditions: Name → kind: "float", a number of classes, {"points": D}, {"grid": C}, or, at most one of this
            kind, {"tokens": D}.
        heads: Heads of an attention, unless `head_channels` is given.
        head_channels: Channels of a head.
        scale_shift: Whether what a block is told scales and shifts its second norm, or is added before it.
        residual_resampling: Whether sides are halved and doubled by residual blocks or by a convolution.
        learned_variance: Whether `<field>_fraction` is put out, too: see :class:`gendiff.denoise.Denoiser`.
        dropout: Probability to drop a feature in the second half of a block, in training.
        groups: Groups of the normalizations; they divide all numbers of channels. Groups of 8 channels or more are
            the fastest on CPUs.
        periods: Longest and shortest period of the sines and cosines of a noise level. The default suits a quarter of
            a log-SNR, (2.0, 0.05) a time; DDPM's own, of its steps counted to 1000, are (62832.0, 6.2832).
        random_features: In their place, cosines and sines at random frequencies of this standard deviation, in periods
            per unit of the level (:class:`gendiff.nn.embed.RandomFourier`).
        self_condition: Whether `<field>_previous`, an earlier estimate of every field, is read; zero where not given.
        patch: Side of squares of pixels that the network sees as one pixel with their channels beside each other: the
            network is patch² times as cheap. Sides of images are multiples of it, and `attention` counts such pixels.
        channels_last: Whether the channels of a pixel lie side by side in memory, which is faster where all kernels
            keep it, as on CPUs and in compiled networks.
        checkpoint: Whether features inside of a step are computed again for the gradient: less memory for a third more
            time.

    Raises:
        UserError: for sizes that are not positive, groups or heads that do not divide the channels, a resolution that
            there is not, or an unknown kind of condition.
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        width: int = 128,
        multipliers: Sequence[float] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        size: int | Sequence[int] = 32,
        levels: int = 1,
        conditions: Mapping[str, Any] | None = None,
        heads: int = 1,
        head_channels: int | None = None,
        scale_shift: bool = False,
        residual_resampling: bool = False,
        learned_variance: bool = False,
        dropout: float = 0.0,
        groups: int = 32,
        periods: Sequence[float] = (20.0, 0.5),
        self_condition: bool = False,
        patch: int = 1,
        channels_last: bool = True,
        checkpoint: bool = False,
        random_features: float | None = None,
    ):
        super().__init__()
        self.fields, self.width, self.multipliers, self.blocks = dict(fields), width, list(multipliers), blocks
        self.attention, self.size, self.levels, self.conditions = list(attention), size, levels, dict(conditions or {})
        self.heads, self.head_channels, self.groups, self.periods = heads, head_channels, groups, list(periods)
        self.scale_shift, self.residual_resampling = scale_shift, residual_resampling
        self.learned_variance, self.dropout, self.self_condition = learned_variance, dropout, self_condition
        self.patch, self.channels_last, self.checkpoint = patch, channels_last, checkpoint
        self.random_features = random_features
        vectors, self.grids, sequences = _by_kind(self.conditions)
        self.sequence, token_features = next(iter(sequences.items()), ("", 0))
        design = Design(
            network="UNet",
            told=4 * width,
            tokens=token_features,
            heads=heads,
            head_channels=head_channels,
            scale_shift=scale_shift,
            residual_resampling=residual_resampling,
            dropout=dropout,
            groups=groups,
            checkpoint=checkpoint,
        )
        resolutions = design.resolutions(width, multipliers, blocks, size, attention, patch)
        self.names, features = sorted(fields), check_fields("UNet", fields) * patch**2
        self.level = embed_level(levels, width, periods, random_features)
        self.conditioning = Conditioning(vectors, 4 * width) if vectors else None
        if sequences:
            self.token_norm = nn.LayerNorm(token_features)
            self.null_token = nn.Parameter(torch.randn(token_features))
        inputs = features * (1 + self_condition) + patch**2 * sum(channels + 1 for channels in self.grids.values())
        self.encoder = Encoder(inputs, resolutions, blocks, design)
        self.up = nn.ModuleList(_way_up(self.encoder.kept, resolutions, blocks, design))
        self.norm = nn.GroupNorm(groups, resolutions[0][0])
        self.last = zeroed(nn.Conv2d(resolutions[0][0], features * (1 + learned_variance), 3, padding=1))

    def forward(
        self, x: State, noise_level: Tensor, mask: Tensor | None = None, condition: State | None = None
    ) -> State:
        """Return the fields, and their fractions if they are learned.

        Arguments:
            x: Fields (B, C, H, W).
            noise_level: (B, levels).
            mask: Ignored: every pixel is there.
            condition: By name, see above; what a sample does not have is NaN, -1 for classes, and what none has may
                be left out.

        Raises:
            UserError: for a condition that it was not built with, or one of another shape.
        """
        vectors = dict(condition or {})
        if self.conditions and (unknown := sorted(vectors.keys() - self.conditions.keys())):
            raise UserError(f"condition {unknown[0]!r} is unknown to this model; it knows {sorted(self.conditions)}")
        grids = {name: vectors.pop(name, None) for name in self.grids}
        sequence = vectors.pop(self.sequence, None)
        parts = [x[name] for name in self.names]
        batch, *size = parts[0][:, 0].shape
        if any(side % self.patch for side in size):
            raise UserError(f"this model takes images whose sides are multiples of {self.patch}, got {size}")
        if self.self_condition:
            parts += [previous(x, name) for name in self.names]
        for name, grid in grids.items():
            parts.append(_with_known(name, grid, parts[0].new_zeros(batch, self.grids[name], *size)))
        tokens = self._tokens(sequence, batch) if self.sequence else None
        told = self.level(noise_level.to(parts[0].dtype))
        told = F.silu(add_condition(told, self.conditioning, vectors))
        h, kept = self.encoder(stacked(parts, self.patch, self.channels_last), told, tokens)
        for step in self.up:
            beside = kept.pop()
            h = step(torch.cat((h[..., : beside.shape[2], : beside.shape[3]], beside), 1), told, tokens)
        h = F.pixel_shuffle(self.last(activated(self.norm(h))), self.patch).contiguous()
        names, channels = self.names, [self.fields[name] for name in self.names]
        if self.learned_variance:
            names, channels = [*names, *(f"{name}_fraction" for name in names)], 2 * channels
        return dict(zip(names, h.split(channels, 1), strict=True))

    def _tokens(self, given: Tensor | None, batch: int) -> Tokens:
        """Return the tokens (B, 1 + K, D), a learned one first, and which count: it does where there is no other."""
        null = self.null_token.expand(batch, 1, -1)
        if given is None:
            return self.token_norm(null), torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        if given.dim() != 3 or (len(given), given.shape[2]) != (batch, null.shape[2]):
            raise UserError(
                f"condition {self.sequence!r}: this model takes ({batch}, K, {null.shape[2]}), got {tuple(given.shape)}"
            )
        known = ~given.isnan().any(2)
        values = torch.where(known.unsqueeze(2), given, 0.0).to(null.dtype)
        counts = torch.cat((~known.any(1, keepdim=True), known), 1)
        return self.token_norm(torch.cat((null, values), 1)), counts


class Encoder(nn.Module):
    """The way down, and the middle.

    Arguments:
        inputs: Channels of the image and of what stands beside it.
        resolutions: Channels of each resolution, and whether it has attention.
        blocks: Residual blocks of a resolution.
        design: What all layers have in common.
    """

    def __init__(self, inputs: int, resolutions: Resolutions, blocks: int, design: Design):
        super().__init__()
        h = resolutions[0][0]
        self.first = nn.Conv2d(inputs, h, 3, padding=1)
        self.kept, steps = [h], []
        for level, (channels, attends) in enumerate(resolutions):
            if level:
                steps.append(design.step([design.resampling(h, "down")]))
                self.kept.append(h)
            for _ in range(blocks):
                steps.append(design.step(design.block(h, channels, attends)))
                h = channels
                self.kept.append(h)
        self.down = nn.ModuleList(steps)
        self.middle = design.step([*design.block(h, h, True), *design.block(h, h, False)])

    def forward(self, x: Tensor, told: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the features of the middle, and those of all steps on the way, whose channels are `kept`."""
        h = self.first(x)
        kept = [h]
        for step in self.down:
            h = step(h, told, tokens)
            kept.append(h)
        return self.middle(h, told, tokens), kept


def _way_up(kept: Sequence[int], resolutions: Resolutions, blocks: int, design: Design) -> Iterator[Step]:
    """Yield a step for each number of `kept` channels, the last first; what was kept stands beside its input."""
    h, beside = resolutions[-1][0], reversed(kept)
    for level, (channels, attends) in reversed(list(enumerate(resolutions))):
        for block in range(blocks + 1):
            layers = design.block(h + next(beside), channels, attends)
            h = channels
            if level and block == blocks:
                layers.append(design.resampling(h, "up"))
            yield design.step(layers)


def embed_level(
    levels: int, width: int, periods: Sequence[float], random_features: float | None = None
) -> nn.Sequential:
    """Return the embedding of noise levels, (B, levels) to (B, 4 width).

    Raises:
        UserError: for no level, periods that are not two positive numbers, or an odd width.
    """
    if levels < 1 or len(periods) != 2 or min(periods) <= 0:
        raise UserError(f"levels must be positive and periods two positive numbers, got {levels} and {list(periods)}")
    wide = 4 * width
    waves = Fourier(width, *periods) if random_features is None else RandomFourier(width, random_features)
    return nn.Sequential(waves, nn.Flatten(), nn.Linear(levels * width, wide), nn.SiLU(), nn.Linear(wide, wide))


def stacked(parts: Sequence[Tensor], patch: int, channels_last: bool) -> Tensor:
    """Return grids beside each other, each patch as one pixel, in a memory format that a single channel keeps too."""
    beside = F.pixel_unshuffle(torch.cat(tuple(parts), 1), patch)
    return beside.clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def check_fields(network: str, fields: Mapping[str, int]) -> int:
    """Return the channels of all fields together.

    Raises:
        UserError: if there are none.
    """
    if not fields or min(fields.values()) < 1:
        raise UserError(f"{network}: fields must name at least one grid and its channels, got {dict(fields)}")
    return sum(fields.values())


def _by_kind(conditions: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int], dict[str, int]]:
    """Return the conditions that are vectors, images and tokens, by name and in its order."""
    kinds: dict[str, dict[str, Any]] = {"": {}, "grid": {}, "tokens": {}}
    for name, kind in sorted(conditions.items()):
        word = next(iter(kind)) if isinstance(kind, Mapping) and len(kind) == 1 else ""
        if word not in ("grid", "tokens"):
            kinds[""][name] = kind
        elif isinstance(kind[word], int) and kind[word] > 0:
            kinds[word][name] = kind[word]
        else:
            raise UserError(f"condition {name!r}: {word} must be a positive number of features, got {kind[word]!r}")
    if len(kinds["tokens"]) > 1:
        raise UserError(f"UNet: takes one sequence of tokens, got {' and '.join(kinds['tokens'])}")
    return kinds[""], kinds["grid"], kinds["tokens"]


def _with_known(name: str, grid: Tensor | None, absent: Tensor) -> Tensor:
    """Return a condition (B, C, H, W), zero where it is not known, and a channel that says where it is."""
    if grid is None:
        return F.pad(absent, (0, 0, 0, 0, 0, 1))
    if grid.shape != absent.shape:
        raise UserError(f"condition {name!r}: this model takes {tuple(absent.shape)} here, got {tuple(grid.shape)}")
    known = ~grid.isnan().any(1, keepdim=True)
    return torch.cat((torch.where(known, grid, 0.0), known), 1).to(absent.dtype)
