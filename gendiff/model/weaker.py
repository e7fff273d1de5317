"""Guidance of a model by a weaker one that learned the same: trained for a shorter time, or smaller."""

from __future__ import annotations

import math
from pathlib import Path

from gendiff.config import describe
from gendiff.files import UserError
from gendiff.guide import Autoguidance
from gendiff.model.model import Guide, Model, load


def away_from(model: Model, weaker: str | Path, scale: float) -> Guide:
    """Return the guidance of a model away from the mistakes of a weaker one (:class:`gendiff.guide.Autoguidance`).

    Arguments:
        model: The model.
        weaker: Run folder, model folder or name of the other. It must know the same words and units, as a model of the
            same examples read with the same options does.
        scale: 1 is the model as it is; what 1.5 and 2 do to molecules, docs/molecules.md says.

    Raises:
        UserError: if it cannot be loaded, is of other examples, or has another process; for a scale that is no number.
    """
    if not math.isfinite(scale):
        raise UserError(f"--weaker-scale must be a finite number, got {scale}")
    other = load(weaker, device=model.device)
    if other.modality.name != model.modality.name:
        raise UserError(f"--weaker {weaker}: is a model of {other.modality.name}, and not of {model.modality.name}")
    mine, theirs = ({k: v for k, v in describe(m.modality).items() if k != "sizes"} for m in (model, other))
    if mine != theirs:
        differing = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
        raise UserError(
            f"--weaker {weaker}: learned other examples, or otherwise ({', '.join(differing)} differ); train it"
            " on those of the model, with the same options"
        )
    try:
        Autoguidance(model.denoiser, other.denoiser, scale)
    except ValueError as error:
        raise UserError(f"--weaker {weaker}: {error}") from None
    return lambda denoiser: Autoguidance(denoiser, other.denoiser, scale)
