"""What the networks of sequences share: what they read, what they are told, and what they put out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier
from gendiff.nn.equivariant import modulated
from gendiff.nn.graph import add_condition, previous
from gendiff.ops import State

COMPLEMENTS = ("sum", "difference")

SUM_SCALE = 0.25
"""Scale of a sum among the inputs: it sums many steps of unit size, of which many cancel."""


class SequenceFrame(nn.Module):
    r"""The first and the last layer of a network of sequences.

    A point is a linear map of its fields, in alphabetical order, and of what complements the field `stroke`: if that
    holds offsets, the position :math:`\sum_{j \le i} \mathrm{stroke}_j`; if it holds positions, the offset
    :math:`\mathrm{stroke}_i - \mathrm{stroke}_{i-1}`. What a sample is told, its noise levels and conditions, is one
    vector, which also scales and shifts the normalized features before the last layer. That one starts at zero, and
    with it all that the network puts out.

    Arguments:
        fields: Features of each field by name, {"stroke": 2, "pen": 2}.
        width: Features of a point, and of what a sample is told.
        levels: Number F of noise levels of a sample.
        conditions: As :class:`gendiff.nn.embed.Conditioning`.
        complement: What complements `stroke`: "sum", "difference", or None for nothing.
        self_condition: Whether `<field>_previous`, an earlier estimate of every field, is read too; those that are not
            given count as zero.
        level_features: Fourier features of a noise level, even.
        level_range: Length of the interval in which levels lie: 10 for a quarter of a log-SNR within ±20, 1 for a time.

    Raises:
        UserError: for sizes that are not positive, no fields, an unknown complement, or one without a `stroke`.
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        width: int,
        levels: int = 1,
        conditions: Mapping[str, str | int] | None = None,
        complement: str | None = "sum",
        self_condition: bool = False,
        level_features: int = 32,
        level_range: float = 10.0,
    ):
        super().__init__()
        sizes = {"width": width, "levels": levels, **fields}
        if wrong := [f"{name} = {value}" for name, value in sizes.items() if value < 1]:
            raise UserError(f"a network of sequences: {wrong[0]} must be positive")
        if not fields:
            raise UserError("a network of sequences needs at least one field")
        if complement is not None and (complement not in COMPLEMENTS or "stroke" not in fields):
            raise UserError(
                f"complement = {complement!r} must be one of {COMPLEMENTS} and there must be a field 'stroke', or None"
            )
        self.fields = {name: fields[name] for name in sorted(fields)}
        self.complement, self.self_condition = complement, self_condition
        features = sum(fields.values())
        inputs = features * (1 + self_condition) + (fields["stroke"] if complement else 0)
        self.fourier = Fourier(level_features, 2 * level_range, level_range / 20)
        self.level = nn.Sequential(nn.Linear(levels * level_features, width), nn.SiLU(), nn.Linear(width, width))
        self.conditioning = Conditioning(dict(conditions), width) if conditions else None
        self.embedding = nn.Linear(inputs, width)
        self.film = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def enter(
        self, x: State, noise_level: Tensor, mask: Tensor | None, condition: State | None
    ) -> tuple[Tensor, Tensor]:
        """Return the features of the points, (B, N, width), and what the samples are told, (B, width).

        Arguments:
            x: The fields, (B, N, features).
            noise_level: Levels of every sample, (B, F).
            mask: True for real points, (B, N), which come first; None if all are.
            condition: As :class:`gendiff.nn.embed.Conditioning`.

        Raises:
            UserError: for a condition that the network does not know.
        """
        parts = [x[name] for name in self.fields]
        if self.self_condition:
            parts += [previous(x, name) for name in self.fields]
        if self.complement == "sum":
            parts.append(SUM_SCALE * x["stroke"].cumsum(1))
        elif self.complement == "difference":
            parts.append(x["stroke"].diff(dim=1, prepend=torch.zeros_like(x["stroke"][:, :1])))
        told = self.level(self.fourier(noise_level.to(parts[0].dtype)).flatten(1))
        return self.embedding(torch.cat(parts, -1)), F.silu(add_condition(told, self.conditioning, condition))

    def leave(self, h: Tensor, told: Tensor, mask: Tensor | None) -> State:
        """Return the fields of features (B, N, width), zero at padding; `told` is as :meth:`enter` returned it."""
        shift, scale = self.film(told).unsqueeze(1).chunk(2, -1)
        out = self.output(modulated(h, shift, scale))
        if mask is not None:
            out = out * mask.unsqueeze(2)
        return dict(zip(self.fields, out.split(list(self.fields.values()), -1), strict=True))


def real_points(h: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask (B, N) of features (B, N, D): all points, if there is none."""
    return torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask
