"""What the networks of nodes with positions share: their fields, checked, and the frame of what they put out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.ops import State


def check_shape(network: str, features: Mapping[str, int], **sizes: float) -> dict[str, int]:
    """Return the scalar fields of a network in alphabetical order.

    Raises:
        UserError: for a size that is not positive, or if `position` is among the features.
    """
    if wrong := [f"{name} = {value}" for name, value in sizes.items() if value <= 0]:
        raise UserError(f"{network}: {wrong[0]} must be positive")
    if "position" in features:
        raise UserError(
            f"{network}: `features` lists scalar fields; 'position' is always there and must not be among them"
        )
    return {name: features[name] for name in sorted(features)}


def add_condition(x: Tensor, conditioning: nn.Module | None, condition: State | None) -> Tensor:
    """Return features (B, ..., D) of samples or nodes with the embedding of the conditions added, if there are any.

    Raises:
        UserError: for a condition that the network does not know.
    """
    if conditioning is None:
        if condition:
            raise UserError(f"this model knows no condition, so {min(condition)!r} cannot be given")
        return x
    return x + conditioning(condition, len(x)).unflatten(0, (len(x), *[1] * (x.dim() - 2)))


def previous(x: State, name: str) -> Tensor:
    """Return the last estimate of a field, zero if there is none."""
    estimate = x.get(f"{name}_previous")
    return torch.zeros_like(x[name]) if estimate is None else estimate


def centred(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x (B, N, D) without its mean over the real nodes, zero at padding."""
    if mask is None:
        return x - x.mean(1, keepdim=True)
    real = mask.unsqueeze(2).to(x.dtype)
    return real * (x - (real * x).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1))
