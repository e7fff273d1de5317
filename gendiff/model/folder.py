"""The folder of a model: it loads without the training data, and from strangers.

It holds `config.json` (everything needed to rebuild the model; JSON only), `model.safetensors` (averaged weights) and
`README.md` (the model card). There is no pickle in it, and the configuration can name only classes of gendiff or of an
installed adapter.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from gendiff import __version__
from gendiff.config import build, check_trusted, describe
from gendiff.denoise import Denoiser
from gendiff.files import UserError, check_file, json_text, new_folder, read_json
from gendiff.guide import Skip
from gendiff.modality import Modality
from gendiff.sample import Sampler
from gendiff.shipped import shipped

if TYPE_CHECKING:
    from gendiff.model.model import Model

FORMAT = 1
"""Version of the model folder; a folder of another version is refused with its number."""


def model_folder(source: str | Path) -> Path:
    """Return the model folder that is meant: that of a run folder, a folder itself, or that of a shipped model.

    A folder that is there comes before a shipped model of the same name.
    """
    folder = Path(source)
    if not folder.exists() and str(source) in shipped():
        return shipped()[str(source)]
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder


def write(model: Model, folder: str | Path) -> None:
    """Write the model folder, atomically; an older one of the same name is replaced.

    Raises:
        UserError: for a part whose class would not be loaded again: one that is neither gendiff's nor an adapter's.
    """
    for name, part in model.config().items():
        if name != "info":
            check_trusted(part, f"{folder}: cannot be loaded again: its {name}")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.denoiser.state_dict().items()}
    with new_folder(folder, replace=True) as temporary:
        content = {
            "config.json": json_text(model.config()).encode(),
            "model.safetensors": safetensors.torch.save(weights, {"format": "gendiff"}),
            "README.md": model.card().encode(),
        }
        for name, data in content.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def config(model: Model) -> dict[str, Any]:
    """Return everything needed to rebuild the model, but its weights."""
    return {
        "format": FORMAT,
        "gendiff": __version__,
        "modality": {"name": model.modality.name, **describe(model.modality)},
        "denoiser": describe(model.denoiser),
        "sampler": describe(model.sampler),
        "guidance": model.guidance,
        **({} if model.skip is None else {"skip": describe(model.skip)}),
        "info": model.info,
    }


def card(model: Model) -> str:
    """Return the model card."""
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    lines = [
        f"# {model.info.get('title', f'A gendiff model of {model.modality.name}')}",
        "",
        f"Made with gendiff {__version__}; {parameters:,} parameters. Load it with `gendiff.load(FOLDER)`;",
        "nothing in this folder is executed.",
        "",
        "## Data",
        "",
        *[f"- {line}" for line in model.info.get("data", ["not stated"])],
        f"- Licence: {model.info.get('licence', 'not stated; it follows that of the data')}",
        "",
        "## Training",
        "",
        "```json",
        json.dumps(model.info.get("training", {}), indent=2),
        "```",
        "",
        "## Measured",
        "",
        *model.info.get(
            "metrics", ["Not measured yet: `gendiff evaluate` compares generated samples with a reference."]
        ),
        "",
        "## Use and limits",
        "",
        *[f"- {line}" for line in model.info.get("limits", model.modality.limits)],
        "",
    ]
    return "\n".join(lines)


def read(source: str | Path) -> tuple[Modality, Denoiser, Sampler, dict[str, Any], float, Skip | None]:
    """Return the parts of a model from a model folder, a run folder, or of a shipped model. Never executes code.

    Arguments:
        source: Folder, or name.

    Raises:
        UserError: if there is no model, or it is damaged, of another version, or names classes that are not allowed.
    """
    folder = model_folder(source)
    if not folder.is_dir():
        names = ", ".join(shipped())
        raise UserError(
            f"{source}: no such model; name a run folder of `gendiff train`, a model folder"
            + (f", or a shipped model: {names}" if names else "")
        )
    if not (folder / "config.json").is_file():
        unfinished = (folder / "checkpoints").is_dir()
        hint = (
            "its training has not written a model yet"
            if unfinished
            else "it has no config.json; name a run folder or a model folder"
        )
        raise UserError(f"{source}: is not a model: {hint}")
    where = str(folder / "config.json")
    config = read_json(where)
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(f"{where}: is not the configuration of a gendiff model")
    if config["format"] != FORMAT:
        raise UserError(
            f"{where}: written in model format {config['format']}; this gendiff {__version__} reads format {FORMAT}:"
            " use a matching version"
        )
    modality = build({k: v for k, v in _part(config, "modality", where).items() if k != "name"}, where)
    denoiser = build(_part(config, "denoiser", where), where)
    sampler = build(_part(config, "sampler", where), where)
    if not (isinstance(modality, Modality) and isinstance(denoiser, Denoiser) and isinstance(sampler, Sampler)):
        raise UserError(f"{where}: its parts are not a modality, a denoiser and a sampler")
    path = check_file(folder / "model.safetensors")
    try:
        weights = safetensors.torch.load_file(path)
        denoiser.load_state_dict(weights)
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: does not hold the weights that config.json describes ({str(error).splitlines()[0]})"
        ) from None
    info = config.get("info")
    guidance = config.get("guidance", 1.0)
    if not isinstance(guidance, int | float) or not math.isfinite(guidance):
        raise UserError(f"{where}: its guidance is not a number")
    skip = None if config.get("skip") is None else build(_part(config, "skip", where), where)
    try:
        if not (skip is None or isinstance(skip, Skip)):
            raise ValueError("is of another kind")
        if skip is not None:
            skip(denoiser)
    except ValueError as error:
        raise UserError(f"{where}: its skip guidance: {error}") from None
    return modality, denoiser.eval(), sampler, info if isinstance(info, dict) else {}, float(guidance), skip


def _part(config: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict) or "class" not in part:
        raise UserError(f"{where}: has no {name}")
    return part
