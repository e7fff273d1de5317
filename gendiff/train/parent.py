"""A run that starts from a trained model: what stays of it, and what its weights mean in the new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gendiff.config import build, describe
from gendiff.denoise import Denoiser
from gendiff.distill import GRIDS, Distill
from gendiff.files import UserError, sha256
from gendiff.modality import Modality
from gendiff.model import Model, load
from gendiff.model.folder import model_folder
from gendiff.nn.embed import Conditioning
from gendiff.objective import Loss


@dataclass(frozen=True)
class Parent:
    """The model that a run starts from.

    Attributes:
        source: Folder, or name of a shipped model.
        model: The model.
        distill: DDIM steps of a student of it; None to learn from the data.
        hashes: SHA-256 of each of its files that a run depends on, by path.
    """

    source: str
    model: Model
    distill: int | None
    hashes: dict[str, str]

    @classmethod
    def of(cls, source: str, modality: str, distill: int | None = None) -> Parent:
        """Load it.

        Raises:
            UserError: if it cannot be loaded, or is of another modality.
        """
        model, folder = load(source), model_folder(source)
        if model.modality.name != modality:
            raise UserError(f"--from {source}: is a model of {model.modality.name}, not of {modality}")
        files = [folder / name for name in ("config.json", "model.safetensors")]
        return cls(source, model, distill, {str(file): sha256(file) for file in files})

    @property
    def name(self) -> str:
        """What it is called: the name of its folder."""
        return Path(self.source).name

    @property
    def preset(self) -> str:
        """The preset of its network, as far as it says."""
        return str(self.training.get("preset", f"as {self.name}"))

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained, as far as it says."""
        facts = self.model.info.get("training")
        return facts if isinstance(facts, dict) else {}

    def options(self, of: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return options of a method ("read" or "fit"), those that it shares filled in.

        Raises:
            UserError: for one that it has otherwise.
        """
        kept, options = self.model.modality.kept(), dict(given)
        for option in self.model.modality.options:
            value = kept.get(option.name)
            if option.of != of or value is None:
                continue
            asked = options.get(option.name, option.default)
            if asked not in (option.default, value):
                flag = "--" + option.name.replace("_", "-")
                raise UserError(f"{flag} {asked}: the model that --from names has {value}; leave {flag} out")
            options[option.name] = value
        return options

    def adapter(self, records: Any, **options: Any) -> Modality:
        """Return the adapter of the examples: a student's is its teacher's."""
        return self.model.modality if self.distill else self.model.modality.refit(records, **options)

    def denoiser(self, adapter: Modality) -> tuple[Denoiser, float]:
        """Return the denoiser to begin with, and the share of its weights that it has from here."""
        return adapted(self.model, adapter)

    def objective(self, default: Loss, denoiser: Denoiser) -> Loss:
        """Return the loss: the default, or that of a student.

        Raises:
            UserError: if the model cannot be distilled.
        """
        if self.distill is None:
            return default
        denoiser.process.requires_grad_(False)  # a schedule that is learned is the teacher's
        grid = self.model.sampler.grid if self.model.sampler.grid in GRIDS else "uniform"
        common = {"scale": default.scale, "condition_dropout": default.condition_dropout}
        try:
            return Distill(self.model.denoiser, self.distill, grid, **common)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"{self.source}: cannot be distilled: {error}") from None

    def succeed(self, model: Model, objective: Loss) -> None:
        """Give a model the sampler and the guidance of this one, and let it remember where it comes from."""
        info, known = self.model.info, next(sha for file, sha in self.hashes.items() if file.endswith(".safetensors"))
        data = info.get("data")
        model.sampler = objective.sampler() if isinstance(objective, Distill) else self.model.sampler
        model.guidance, model.skip = self.model.guidance, None if self.distill else self.model.skip
        way = f"distilled to {self.distill} steps" if self.distill else "adapted"
        model.info["data"] = [
            *model.info["data"],
            f"{way} from the model {self.name} (weights of SHA-256 {known}), which was trained on:",
            *(map(str, data) if isinstance(data, list) else ["not stated"]),
            f"licence of that model: {info.get('licence', 'not stated')}",
        ]
        parent = {"name": self.name, "weights_sha256": known, "training": self.training}
        model.info["training"] |= {"parent": parent} | ({"distill": self.distill} if self.distill else {})


def adapted(parent: Model, modality: Modality) -> tuple[Denoiser, float]:
    """Return the parent's denoiser for an adapter of other examples, and the share of its weights that it has from it.

    Weights of the same name and shape have the same values. Where their entries have a meaning
    (:meth:`gendiff.modality.Modality.axes`), those of the same meaning have: others start fresh, or at zero where they
    are inputs, so that what was known is answered as before. What a network was told and is told no more is missing for
    good; what it is told besides adds nothing at first.

    Raises:
        UserError: if the adapter wants other fields than the parent has.
    """
    before, after = (describe(adapter.denoiser("tiny")) for adapter in (parent.modality, modality))
    denoiser = build(merged(describe(parent.denoiser), before, after), "--from")
    if dict(denoiser.process.items()).keys() != dict(modality.process().items()).keys():
        raise UserError("--from: the model has fields that these examples do not; train without it")
    old, new = parent.denoiser.state_dict(), denoiser.state_dict()
    then, now = (m.axes(d.network) for m, d in ((parent.modality, parent.denoiser), (modality, denoiser)))
    count = 0
    for name, weight in new.items():
        axis, words = now.get(name.removeprefix("network."), (0, []))
        _, known = then.get(name.removeprefix("network."), (0, []))
        if name in old and words and weight.shape[axis] == len(words) and old[name].shape[axis] == len(known):
            count += copy_entries(old[name], known, weight, axis, words)
        elif name in old and not words and old[name].shape == weight.shape:
            count += weight.copy_(old[name]).numel()
    for path, module in denoiser.named_modules():
        if isinstance(module, Conditioning):
            for key in module.keys.values():
                if f"{path}.null.{key}" not in old:
                    silence(module, key)
    return denoiser, count / sum(weight.numel() for weight in new.values())


def merged(mine: Any, before: Any, after: Any) -> Any:
    """Return a description with the changes that lead from a second to a third one; nothing is taken away."""
    if before == after:
        return mine
    if not all(isinstance(part, dict) for part in (mine, before, after)):
        return after
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    return {**mine, **{key: merged(mine.get(key), before.get(key), value) for key, value in changed.items()}}


def copy_entries(old: torch.Tensor, then: list[Any], new: torch.Tensor, axis: int, now: list[Any]) -> int:
    """Copy the entries along an axis that mean the same, make inputs of no such meaning zero; return how many numbers.

    Arguments:
        old: A weight.
        then: What its entries mean.
        new: The weight to change.
        axis: 0 for entries that are put out or looked up, 1 for inputs.
        now: What the entries of that one mean.
    """
    place = {word: k for k, word in enumerate(then)}
    known = [k for k, word in enumerate(now) if word in place]
    values = old.index_select(axis, torch.tensor([place[now[k]] for k in known], dtype=torch.long))
    if axis == 1:
        new.zero_()
    new.index_copy_(axis, torch.tensor(known, dtype=torch.long), values)
    return values.numel()


@torch.no_grad()
def silence(conditioning: Conditioning, key: str) -> None:
    """Make a condition add nothing to what a network is told, until it has learned something."""
    layers = [part for part in conditioning.embeddings[key].modules() if isinstance(part, nn.Linear | nn.Embedding)]
    for weight in (conditioning.null[key], *layers[-1].parameters()):
        weight.zero_()
