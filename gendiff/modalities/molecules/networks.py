"""The networks that molecules can have, each in three sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gendiff.files import UserError
from gendiff.modality import PRESETS
from gendiff.nn.egnn import EGNN

NETWORKS = ("egnn",)
"""Words for the networks, the default first."""

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "egnn": {
        "tiny": {"width": 64, "layers": 3},
        "small": {"width": 128, "layers": 6},
        "base": {"width": 256, "layers": 9},
    },
}
"""What each preset of each network has: the EGNN 0.14, 1.0 and 5.6 million parameters."""


def build_network(
    kind: str | None, preset: str, features: Mapping[str, int], conditions: Mapping[str, str | int]
) -> nn.Module:
    """Return a network of fields `position` and `features`, told one noise level a field and `conditions`.

    Raises:
        UserError: for a preset or a kind that there is not.
    """
    kind = kind or NETWORKS[0]
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    if kind not in NETWORKS:
        raise UserError(f"unknown network {kind!r}; choose from {', '.join(NETWORKS)}")
    common: dict[str, Any] = {"features": dict(features), "levels": 1 + len(features), "conditions": dict(conditions)}
    return EGNN(
        **common,
        **SHAPES[kind][preset],
        normalization=8.0,
        distance_features=32,
        distance_range=4.0,
        vector_channels=8,
    )
