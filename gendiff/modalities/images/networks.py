"""The networks that images have, in three sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gendiff.modality import check_network
from gendiff.nn.unet import NoisyClassifier, UNet

NETWORKS = ("unet", "adm")
"""Words for the networks, the default first: a U-Net as in DDPM, or as in ADM."""

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 32, "multipliers": (1, 2), "blocks": 1, "groups": 4, "scale_shift": True},
    "small": {"width": 64, "multipliers": (1, 2), "blocks": 2, "groups": 8, "scale_shift": True},
    "base": {"width": 128, "multipliers": (1, 2, 2), "blocks": 2, "dropout": 0.1},
}
"""What each preset has, with its multipliers at sides of over 20, over 7 and fewer pixels; two of them are of presets
that see large images in patches. "base" is the U-Net of DDPM for CIFAR-10. Parameters in millions at 28 x 28 gray:
0.76, 4.3, 26."""

PATCHED = 20
"""Shorter sides of at most so many pixels, or patches of 2 x 2, 4 x 4 and so on, are what the smaller presets see: a
quarter of the work for each halving."""

ATTENTION = {"tiny": 8, "small": 8, "base": 16}
"""The finest resolution of at most so many pixels a side has attention; the coarsest has it anyway."""

ADM_ATTENTION = (8, 32)
"""In the design of ADM all resolutions of so many pixels a side have attention."""

HEAD = 64
"""Channels of a head in the design of ADM, or all of a narrow network's."""


def build_network(
    kind: str | None,
    preset: str,
    size: Sequence[int],
    fields: Mapping[str, int],
    conditions: Mapping[str, Any],
    learn_variance: bool = False,
    **changes: Any,
) -> nn.Module:
    """Return a network of `fields` on a grid of `size`, told `conditions`.

    Resolutions are halved down to a shorter side of 4 to 7 pixels: 8, 28, 32 and 64 pixels have 2, 3, 4 and 5 of them,
    one less for each doubling of the patch.

    Arguments:
        kind: A word of :data:`NETWORKS`.
        preset: "tiny", "small" or "base".
        size: Height and width.
        fields: Channels by name.
        conditions: As :class:`gendiff.nn.unet.UNet` takes them.
        learn_variance: Whether the network puts out fractions, too.
        changes: Further arguments of it.

    Raises:
        UserError: for a preset or a kind that there is not.
    """
    kind = kind or NETWORKS[0]
    check_network(preset, kind, NETWORKS)
    shape, sides = _shape(preset, size)
    shape |= {"attention": [side for side in sides if side <= ATTENTION[preset]][:1]}
    if kind == "adm":
        shape |= _adm(shape["width"], sides)
    return UNet(
        **{**shape, **changes}, fields=fields, size=list(size), conditions=conditions, learned_variance=learn_variance
    )


def classifier_network(preset: str, size: Sequence[int], fields: Mapping[str, int], classes: int) -> NoisyClassifier:
    """Return a classifier of noisy images, in the design of ADM; arguments as :func:`build_network`.

    Raises:
        UserError: for a preset that there is not.
    """
    shape, sides = _shape(preset, size, patched=False)
    return NoisyClassifier(fields, classes, list(size), **{**shape, **_adm(shape["width"], sides)})


def _adm(width: int, sides: Sequence[int]) -> dict[str, Any]:
    """Return what ADM has of its own."""
    low, high = ADM_ATTENTION
    return {
        "attention": [side for side in sides if low <= side <= high],
        "head_channels": min(HEAD, width),
        "scale_shift": True,
        "residual_resampling": True,
    }


def _shape(preset: str, size: Sequence[int], patched: bool = True) -> tuple[dict[str, Any], list[int]]:
    """Return what a preset has for a size, and the shorter side of each resolution."""
    check_network(preset)
    shape = dict(SHAPES[preset])
    coarse, middle, *fine = reversed(shape.pop("multipliers"))
    sides = [min(size)]
    if patched and not fine:
        while sides[0] > PATCHED and not any(side % (2 * shape.get("patch", 1)) for side in size):
            shape["patch"] = 2 * shape.get("patch", 1)
            sides[0] //= 2
    while sides[-1] >= 8:
        sides.append(-(-sides[-1] // 2))
    finest = fine[0] if fine else middle
    return {**shape, "multipliers": [finest if s > 20 else middle if s > 7 else coarse for s in sides]}, sides
