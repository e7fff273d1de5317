"""The networks that sketches can have, each in three sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gendiff.modality import check_network
from gendiff.nn.birnn import BiRNN
from gendiff.nn.sequence import SequenceTransformer
from gendiff.nn.unet1d import UNet1d

NETWORKS = ("birnn", "transformer", "unet")
"""Words for the networks, the default first."""

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "birnn": {
        "tiny": {"width": 96, "layers": 3},
        "small": {"width": 192, "layers": 4},
        "base": {"width": 384, "layers": 6},
    },
    "transformer": {
        "tiny": {"width": 96, "layers": 3},
        "small": {"width": 192, "layers": 4},
        "base": {"width": 384, "layers": 6, "heads": 6},
    },
    "unet": {
        "tiny": {"width": 32, "layers": 1},
        "small": {"width": 72, "layers": 1},
        "base": {"width": 128, "layers": 2},
    },
}
"""What each preset of each network has. Parameters in millions: BiRNN 0.41, 2.1, 12; transformer 0.54, 2.8, 16; U-Net
0.45, 2.3, 12."""


def build_network(
    kind: str | None, preset: str, fields: Mapping[str, int], conditions: Mapping[str, Any], complement: str | None
) -> nn.Module:
    """Return a network of `fields`, told one noise level a field and `conditions`.

    Raises:
        UserError: for a preset or a kind that there is not.
    """
    kind = kind or NETWORKS[0]
    check_network(preset, kind, NETWORKS)
    maker = {"birnn": BiRNN, "transformer": SequenceTransformer, "unet": UNet1d}[kind]
    common = {"fields": dict(fields), "levels": len(fields), "conditions": dict(conditions), "complement": complement}
    return maker(**common, **SHAPES[kind][preset])
