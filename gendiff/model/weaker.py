"""Guidance of a model by a weaker one that learned the same: trained for a shorter time, smaller, or a part of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gendiff.config import describe
from gendiff.files import UserError
from gendiff.guide import Autoguidance, Skip
from gendiff.guide.skip import SCALE
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


def skip_of(model: Model, blocks: Sequence[int] | str | int | None = None, scale: float | None = None) -> Skip | None:
    """Return skip guidance for a model (:class:`gendiff.guide.Skip`): its own, another, or none.

    Arguments:
        model: The model.
        blocks: Numbers of the blocks that are left out, from 0, or one, or these as text, "2,3"; nothing or "none" for
            no such guidance, None for that of the model.
        scale: None for that of the model or, if it has none, 1.5.

    Raises:
        UserError: for blocks that there are not, or a scale that is no number or has nothing to scale.
    """
    if isinstance(blocks, str | int):
        text = str(blocks).strip()
        parts = [] if text == "none" else [part.strip() for part in text.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise UserError(f"--skip {blocks}: write the numbers of blocks, counting from 0, as 2 or 2,3; or none")
        blocks = [int(part) for part in parts]
    own = ([], SCALE) if model.skip is None else (model.skip.blocks, model.skip.scale)
    blocks = own[0] if blocks is None else blocks
    if not blocks:
        if scale is not None:
            raise UserError(f"--skip-scale {scale:g} scales what --skip leaves out, and that is nothing; add --skip 2")
        return None
    try:
        skip = Skip(blocks, own[1] if scale is None else scale)
        skip(model.denoiser)
    except ValueError as error:
        raise UserError(f"--skip: {error}") from None
    return skip
