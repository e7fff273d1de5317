"""The networks that molecules can have, each in three sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gendiff.modality import check_network
from gendiff.nn.egnn import EGNN
from gendiff.nn.equivariant import EquivariantTransformer

NETWORKS = ("egnn", "transformer", "steerable")
"""Words for the networks, the default first."""

CHIRAL = ("chiral-transformer", "chiral-steerable")
"""The same with a sense of handedness: equivariant to rotations, not to reflections."""

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "egnn": {
        "tiny": {"width": 64, "layers": 3},
        "small": {"width": 128, "layers": 6},
        "base": {"width": 256, "layers": 9},
    },
    "transformer": {
        "tiny": {"width": 64, "layers": 3, "message": 48, "heads": 6},
        "small": {"width": 128, "layers": 6, "message": 64, "heads": 8},
        "base": {"width": 256, "layers": 9, "message": 96, "heads": 8, "vectors": 32},
    },
    "steerable": {
        "tiny": {"width": 32, "layers": 4},
        "small": {"width": 64, "layers": 5},
        "base": {"width": 128, "layers": 6},
    },
}
"""What each preset of each network has. Parameters in millions: EGNN 0.14, 1.0, 5.6; transformer 0.19,
1.0, 5.2; steerable 0.11, 0.51, 2.4."""


def build_network(
    kind: str | None,
    preset: str,
    features: Mapping[str, int],
    conditions: Mapping[str, str | int],
    self_condition: bool = False,
) -> nn.Module:
    """Return a network of fields `position` and `features`, told one noise level a field and `conditions`.

    With `self_condition` it also sees an earlier estimate of every field.

    Raises:
        UserError: for a preset or a kind that there is not.
    """
    kind = kind or NETWORKS[0]
    check_network(preset, kind, NETWORKS + CHIRAL)
    chirality, kind = kind in CHIRAL, kind.removeprefix("chiral-")
    common: dict[str, Any] = {"features": dict(features), "levels": 1 + len(features), "conditions": dict(conditions)}
    common |= {"self_condition": self_condition, "distance_features": 32, "distance_range": 4.0, **SHAPES[kind][preset]}
    if kind == "transformer":
        return EquivariantTransformer(**common, chirality=chirality)
    if kind == "steerable":
        from gendiff.nn.steerable import SteerableDenoiser  # e3nn takes seconds to load

        return SteerableDenoiser(**common, chirality=chirality)
    return EGNN(**common, normalization=8.0, vector_channels=8)
