r"""Small networks that describe samples by numbers: the feature spaces in which sets of samples are compared.

:class:`RasterNetwork` looks at grey pictures, :class:`SequenceNetwork` at sequences of points. Both are trained to tell
classes apart, and the last layer before the decision is the description. Nothing in them knows diffusion, and nothing
is downloaded.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RasterNetwork(nn.Module):
    """A convolutional classifier: four convolutions that each halve the picture, then a layer of features.

    The first convolution strides, the others are followed by maxima over 2 × 2; then come batch normalisation and ReLU.

    Arguments:
        classes: Number of classes.
        size: Pixels along the side of a picture, a multiple of 16.
        width: Channels of the last convolution; the first has an eighth.
        features: Length of the description.
        channels: Channels of a picture.
    """

    def __init__(self, classes: int, size: int = 32, width: int = 128, features: int = 128, channels: int = 1) -> None:
        super().__init__()
        if size % 16:
            raise ValueError(f"size must be a multiple of 16, got {size}")
        self.classes, self.size, self.width, self.features, self.channels = classes, size, width, features, channels
        widths = [width // 8, width // 4, width // 2, width]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0])]
        for before, after in pairwise(widths):
            convolve = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers += [nn.ReLU(), convolve, nn.MaxPool2d(2), nn.BatchNorm2d(after)]
        self.body = nn.Sequential(
            *layers, nn.ReLU(), nn.Flatten(), nn.Linear(width * (size // 16) ** 2, features), nn.ReLU()
        )
        self.decide = nn.Linear(features, classes)

    def describe(self, pictures: Tensor) -> Tensor:
        """Return the features (B, F) of pictures (B, C, H, W) with values in [0, 1]."""
        return self.body(pictures)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of the classes, (B, K), of pictures (B, C, H, W) with values in [0, 1]."""
        return self.decide(self.describe(pictures))


class SequenceNetwork(nn.Module):
    r"""A bidirectional GRU that classifies sequences, and guesses every element from those on one side of it.

    With the states :math:`f_i` of the forward and :math:`b_i` of the backward direction, the description is the mean of
    :math:`[f_i, b_i]` over the elements, and the guesses of element i are linear in :math:`f_{i-1}` and
    :math:`b_{i+1}`. The guesses make the description sense how a sequence goes on, where classes alone (or no classes)
    would not. Each direction runs over the real elements only: padding changes nothing.

    Arguments:
        inputs: Features of an element.
        classes: Number of classes.
        width: Width of each direction; the description is twice as long.
    """

    def __init__(self, inputs: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.inputs, self.classes, self.width = inputs, classes, width
        self.forwards = nn.GRU(inputs, width, batch_first=True)
        self.backwards = nn.GRU(inputs, width, batch_first=True)
        self.guess_next = nn.Linear(width, inputs)
        self.guess_last = nn.Linear(width, inputs)
        self.decide = nn.Linear(2 * width, classes)

    def _states(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States of both directions at every element, (B, N, H) each, zero at padding."""
        index = torch.arange(x.shape[1], device=x.device)
        flip = torch.where(mask, mask.sum(1, keepdim=True) - 1 - index, index)[..., None]
        ahead = self.forwards(x)[0]
        back = self.backwards(x.gather(1, flip.expand_as(x)))[0]
        return ahead * mask[..., None], back.gather(1, flip.expand_as(back)) * mask[..., None]

    def describe(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the features (B, 2H) of sequences (B, N, inputs), whose real elements come first by `mask` (B, N)."""
        return torch.cat(self._states(x, mask), -1).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of the classes, (B, K), of sequences as in :meth:`describe`."""
        return self.decide(self.describe(x, mask))

    def loss(self, x: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the classes (B,) plus the mean error (Huber) of both guesses of an element."""
        ahead, back = self._states(x, mask)
        logits = self.decide(torch.cat([ahead, back], -1).sum(1) / mask.sum(1, keepdim=True))
        inner = (mask[:, 1:] & mask[:, :-1])[..., None].expand(-1, -1, self.inputs)
        errors = F.smooth_l1_loss(self.guess_next(ahead[:, :-1]), x[:, 1:], reduction="none") + F.smooth_l1_loss(
            self.guess_last(back[:, 1:]), x[:, :-1], reduction="none"
        )
        return F.cross_entropy(logits, labels) + (errors * inner).sum() / inner.sum().clamp(min=1)
