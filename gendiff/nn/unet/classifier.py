"""A classifier of noisy images, for guidance: the first half of a U-Net and a pool of attention.

References:
    | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021) | https://arxiv.org/abs/2105.05233
    | Learning transferable visual models from natural language supervision (Radford et al., 2021): the pool | https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.unet.layers import Design, activated, attend, height_and_width, pixels, split_heads
from gendiff.nn.unet.network import Encoder, check_fields, embed_level, stacked
from gendiff.ops import State


class NoisyClassifier(nn.Module):
    """Logits of the classes of noisy images; the defaults are the classifier of ADM for images of 64 pixels.

    It guides by :func:`gendiff.guide.log_prob.classifier`, which gives it times: tell it the noise level of them,

        classifier(lambda x, t, mask: network(x, denoiser.level(t)), label)

    Arguments:
        fields: Channels of each field by name, {"pixel": 3}.
        classes: Number K of classes.
        size: Side of the images, or height and width; the pool knows places and takes no other.
        width: Channels at the multiplier 1, as all that follows like those of :class:`gendiff.nn.unet.UNet`.
        multipliers: Channels of each resolution, in widths.
        blocks: Residual blocks of a resolution. ADM has 4 at 64 pixels and 2 at larger sides.
        attention: Resolutions with attention.
        levels: Noise levels F that it is told.
        head_channels: Channels of a head.
        scale_shift: How a block is told.
        residual_resampling: How sides are halved.
        dropout: Probability to drop a feature, in training.
        groups: Groups of the normalizations.
        periods: Longest and shortest period of the sines and cosines of a noise level.
        channels_last: Memory format of the features.
        checkpoint: Whether features are computed again for the gradient.

    Raises:
        UserError: as :class:`gendiff.nn.unet.UNet`, and for fewer than one class.
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        classes: int,
        size: int | Sequence[int] = 64,
        width: int = 128,
        multipliers: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 4,
        attention: Sequence[int] = (32, 16, 8),
        levels: int = 1,
        head_channels: int = 64,
        scale_shift: bool = True,
        residual_resampling: bool = True,
        dropout: float = 0.0,
        groups: int = 32,
        periods: Sequence[float] = (20.0, 0.5),
        channels_last: bool = True,
        checkpoint: bool = False,
    ):
        super().__init__()
        if classes < 1:
            raise UserError(f"NoisyClassifier: classes = {classes} must be positive")
        self.fields, self.classes, self.size, self.width = dict(fields), classes, size, width
        self.multipliers, self.blocks, self.attention, self.levels = list(multipliers), blocks, list(attention), levels
        self.head_channels, self.scale_shift, self.groups = head_channels, scale_shift, groups
        self.residual_resampling, self.dropout, self.periods = residual_resampling, dropout, list(periods)
        self.channels_last, self.checkpoint = channels_last, checkpoint
        design = Design(
            network="NoisyClassifier",
            told=4 * width,
            tokens=0,
            heads=1,
            head_channels=head_channels,
            scale_shift=scale_shift,
            residual_resampling=residual_resampling,
            dropout=dropout,
            groups=groups,
            checkpoint=checkpoint,
        )
        resolutions = design.resolutions(width, multipliers, blocks, size, attention)
        self.level = embed_level(levels, width, periods)
        self.encoder = Encoder(check_fields("NoisyClassifier", fields), resolutions, blocks, design)
        channels, shrink = resolutions[-1][0], 2 ** (len(resolutions) - 1)
        places = math.prod(-(-side // shrink) for side in height_and_width("NoisyClassifier", size))
        self.norm = nn.GroupNorm(groups, channels)
        self.pool = AttentionPool(places, channels, head_channels, classes)

    def forward(self, x: State, noise_level: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (B, K).

        Arguments:
            x: Fields (B, C, H, W).
            noise_level: (B, levels), or (B,) if there is one.
            mask: Ignored: every pixel is there.

        Raises:
            UserError: for images of another size.
        """
        parts = [x[name] for name in sorted(self.fields)]
        size, got = height_and_width("NoisyClassifier", self.size), tuple(parts[0].shape[2:])
        if got != size:
            raise UserError(f"this classifier takes images of {size} pixels, got {got}")
        told = F.silu(self.level(noise_level.reshape(-1, self.levels).to(parts[0].dtype)))
        h, _ = self.encoder(stacked(parts, 1, self.channels_last), told)
        return self.pool(pixels(activated(self.norm(h))))


class AttentionPool(nn.Module):
    """Attention of the mean of some features over it and them, each with a learned vector for its place."""

    def __init__(self, places: int, channels: int, head_channels: int, outputs: int):
        super().__init__()
        self.heads = channels // head_channels
        self.place = nn.Parameter(torch.randn(1 + places, channels) / channels**0.5)
        self.query, self.pairs = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.outward = nn.Linear(channels, outputs)

    def forward(self, h: Tensor) -> Tensor:
        """Return (B, outputs) of features (B, N, C)."""
        h = torch.cat((h.mean(1, keepdim=True), h), 1) + self.place
        (q,), (k, v) = split_heads(self.query(h[:, :1]), self.heads, 1), split_heads(self.pairs(h), self.heads, 2)
        return self.outward(attend(q, k, v)).squeeze(1)
