"""What a file of samples says of where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendiff import __version__
from gendiff.config import describe
from gendiff.files import sha256
from gendiff.model.folder import model_folder
from gendiff.model.model import Model
from gendiff.sample import Sampler


def origin(
    model: Model,
    source: str | Path,
    *,
    seed: int,
    sampler: Sampler,
    only: Sequence[str] = (),
    sizes: tuple[int | None, int | None] = (None, None),
    condition: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    prior_scale: float = 1.0,
) -> dict[str, Any]:
    """Return what determines samples, ready for JSON: the model and the arguments of :meth:`Model.draw`.

    Arguments:
        model: The model.
        source: Folder that it was loaded from.
        seed: Seed.
        sampler: Sampler.
        only: What the samples had to be.
        sizes: Bounds of their sizes.
        condition: What was asked for.
        guidance: How strongly; None for the model's own.
        prior_scale: Of the noise that samples start from (:func:`gendiff.model.model.prior_scale`).
    """
    return {
        "gendiff": __version__,
        "modality": model.modality.name,
        "model": str(source),
        "weights_sha256": sha256(model_folder(source) / "model.safetensors"),
        "seed": seed,
        "sampler": describe(sampler),
        "prior_scale": prior_scale,
        "only": list(only),
        "size": list(sizes),
        "condition": dict(condition or {}),
        "guidance": model.guidance if guidance is None else guidance,
        "protocol": model.modality.protocol(),
        **({} if model.skip is None else {"skip": describe(model.skip)}),
    }
