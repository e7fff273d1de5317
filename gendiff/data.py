"""Training data: ragged samples in flat arrays, batches of one size, and the built-in sets.

Samples of unlike size lie one after another in flat tensors, so a batch is one gather and no sample is ever padded to
the largest of the set.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendiff.files import UserError, cache_folder, read_json
from gendiff.ops import State

SET = "data:"
"""Before a name of examples: it is a data set's, whatever lies in the working directory."""

PARTS = ("train", "valid", "test", "all")
"""Parts that a data set can have."""


@dataclass
class Batch:
    """Samples ready for a denoiser.

    Attributes:
        state: Clean fields, each (B, ...), zero at padding.
        mask: (B, N), True where a sample really has an element; None for fields without elements (grids).
        condition: Tensors (B, ...); NaN or -1 where a sample has none.
        index: Number of each sample in its data set, (B,).
    """

    state: State
    mask: Tensor | None
    condition: State
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return Batch(
            {name: value.to(device) for name, value in self.state.items()},
            None if self.mask is None else self.mask.to(device),
            {name: value.to(device) for name, value in self.condition.items()},
            self.index.to(device),
        )


@dataclass
class Ragged:
    """Samples with node fields of unlike size.

    Attributes:
        sizes: Elements of each sample, (M,).
        fields: Each (sum of sizes, D).
        condition: Each (M, ...).
    """

    sizes: Tensor
    fields: State
    condition: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = self.sizes.long()
        self._first = self.sizes.cumsum(0) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def select(self, index: Tensor) -> Ragged:
        """Return some of the samples."""
        places = torch.cat(
            [torch.arange(int(f), int(f + n)) for f, n in zip(self._first[index], self.sizes[index], strict=True)]
        )
        fields = {name: value[places] for name, value in self.fields.items()}
        return replace(
            self, sizes=self.sizes[index], fields=fields, condition={k: v[index] for k, v in self.condition.items()}
        )

    def batch(self, index: Tensor) -> Batch:
        """Gather samples, padded to the largest among them."""
        sizes = self.sizes[index]
        within = torch.arange(int(sizes.max()))
        mask = within < sizes[:, None]
        place = (self._first[index][:, None] + within).clamp(max=int(self.sizes.sum()) - 1)
        state = {name: value[place] * mask[..., None].to(value.dtype) for name, value in self.fields.items()}
        return Batch(state, mask, {name: value[index] for name, value in self.condition.items()}, index)


class Lazy(Ragged):
    """Samples that stay where they are, on a disk for instance, until a batch asks for them.

    They make the same batches as the samples themselves, one after another in memory, would.

    Arguments:
        sizes: Elements of each sample, (M,).
        gather: Gives the samples of some numbers (B,), in their order; their conditions are not asked for.
        condition: Each (M, ...).
    """

    def __init__(self, sizes: Tensor, gather: Callable[[Tensor], Ragged], condition: State | None = None):
        super().__init__(sizes, {}, condition or {})
        self.gather = gather

    def select(self, index: Tensor) -> Ragged:
        """Return some of the samples, in memory."""
        return replace(self.gather(index), condition={name: value[index] for name, value in self.condition.items()})

    def batch(self, index: Tensor) -> Batch:
        """Gather samples, padded to the largest among them."""
        return replace(self.select(index).batch(torch.arange(len(index))), index=index)


@dataclass
class Grids(Ragged):
    r"""Samples on grids of one size, such as images.

    Bytes p of 0 to 255 stay bytes in memory; in a batch they are

    .. math:: x = p / 127.5 - 1 \in [-1, 1].

    Attributes:
        sizes: 1 of each sample, (M,): it is one element, without a mask.
        fields: Each (M, C, H, W), uint8; floats are taken as they are.
        condition: Each (M, ...).
    """

    sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = torch.ones(len(next(iter(self.fields.values()))), dtype=torch.long)
        super().__post_init__()

    def select(self, index: Tensor) -> Grids:
        """Return some of the samples."""
        return Grids(
            {name: value[index] for name, value in self.fields.items()},
            {name: value[index] for name, value in self.condition.items()},
        )

    def batch(self, index: Tensor) -> Batch:
        """Gather samples, as floats; the mask is None."""
        part = self.select(index)
        state = {name: _real(value).contiguous() for name, value in part.fields.items()}
        return Batch(state, None, part.condition, index)


def _real(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def size_batches(sizes: Tensor, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Split samples into shuffled batches of (nearly) one size: sort a shuffle by size, cut, shuffle the cuts.

    Every sample comes once, and an epoch always has ceil(M / batch_size) batches. Only a cut that falls between two
    sizes holds both, so padding is rare.

    Arguments:
        sizes: Elements of each sample, (M,).
        batch_size: Samples in a batch; one batch of an epoch may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch; the result depends on nothing else.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    order = torch.randperm(len(sizes), generator=generator)
    order = order[sizes[order].argsort(stable=True)]
    batches = order.split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def dataset_folder() -> Path:
    """Return the folder of the built-in data, in an installed package and in a checkout alike."""
    installed = Path(str(resources.files("gendiff"))) / "datasets"
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "datasets"


def manifest() -> dict[str, dict[str, Any]]:
    """Return the data sets that gendiff knows, by name."""
    with (dataset_folder() / "manifest.toml").open("rb") as file:
        return tomllib.load(file)


def builtin(name: str) -> Path:
    """Return the file of a built-in data set: of gendiff's own, or one that comes with a package it depends on.

    Raises:
        UserError: if there is none of that name, or the package is not installed.
    """
    entries = manifest()
    if name not in entries or not entries[name].get("file"):
        known = sorted(key for key, entry in entries.items() if entry.get("file"))
        raise UserError(f"no built-in data set {name!r}; there are: {', '.join(known)}")
    entry = entries[name]
    if "package" not in entry:
        return dataset_folder() / entry["file"]
    found = find_spec(entry["package"])  # looks for it and runs nothing of it
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{name} comes with {entry['package']}, which is not installed; gendiff doctor says more")
    return Path(found.submodule_search_locations[0]) / entry["file"]


def locate(name: str) -> list[Path]:
    """Return the files of a data set: a built-in one, or one that `gendiff data get` has fetched.

    Arguments:
        name: "qm9", which means the training part of a set that has parts, or a part: "qm9/train", "qm9/valid",
            "qm9/test".

    Raises:
        UserError: if there is no such set or part, if it was not fetched yet, or its files are gone.
    """
    name, _, part = name.partition("/")
    entries = manifest()
    if name not in entries:
        raise UserError(f"no data set {name!r}; there are: {', '.join(entries)}")
    if "sources" not in entries[name]:
        if part:
            raise UserError(f"{name} has no part {part!r}; {name} alone is all of it")
        return [builtin(name)]
    folder = cache_folder() / "data" / name
    if not (folder / "dataset.json").is_file():
        raise UserError(f"{name} is not here yet; gendiff data get {name} fetches it")
    return _part_files(folder, part, f"gendiff data get {name}")


def prepared(folder: Path) -> dict[str, Any]:
    """Return what dataset.json says of a folder that `gendiff data get` has made, {} if it is missing or damaged."""
    try:
        facts = read_json(folder / "dataset.json")
        words = all(isinstance(facts[key], str) for key in ("name", "modality", "gendiff", "prepared"))
        parts = bool(facts["parts"]) and all(files for files in facts["parts"].values())
        counts = all(isinstance(count, int) for count in facts["records"].values() if count is not None)
        known = all(isinstance(file["bytes"], int) and len(file["sha256"]) == 64 for file in facts["files"].values())
        names = [*facts["files"], *(name for files in facts["parts"].values() for name in files)]
        plain = all(name == Path(name).name for name in names)  # the files lie in the folder and nowhere else
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
    return facts if words and parts and counts and known and plain else {}


def _part_files(folder: Path, part: str, command: str) -> list[Path]:
    """Return the files of a part of a prepared folder, which `command` prepares again."""
    facts = prepared(folder)
    if not facts:
        raise UserError(f"{folder / 'dataset.json'}: is damaged; {command} prepares the set again")
    parts = facts["parts"]
    part = part or ("train" if "train" in parts else next(iter(parts)))
    if part not in parts:
        raise UserError(f"{facts['name']} has no part {part!r}; there are: {', '.join(parts)}")
    files = [folder / file for file in parts[part]]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: is gone; {command} prepares it again")
    return files


def resolve(words: Iterable[str | Path]) -> list[Path]:
    """Return files for what users name as examples: files as they are, and names of data sets as :func:`locate` does.

    "qm9" and "qm9/test" are names, "./qm9" is a path, and so is any :class:`~pathlib.Path`. A name that a file or
    folder has too could mean either, and which would change with the working directory: it is refused, unless the
    folder holds that very set. "data:qm9" is always the data set. A folder that `gendiff data get NAME -o FOLDER` has
    made stands for the training part in it.

    Raises:
        UserError: for a name that could mean either, and as :func:`locate`.
    """
    sets = manifest()

    def files(word: str | Path) -> list[Path]:
        if isinstance(word, str) and word.startswith(SET):
            return locate(word.removeprefix(SET))
        path = Path(word)
        name, slash, part = str(word).partition("/")
        if isinstance(word, str) and name in sets and (part or not slash):
            if not path.exists():
                return locate(word)
            if part in ("", *PARTS) and prepared(path).get("name") != name:
                here = "folder" if path.is_dir() else "file"
                raise UserError(f"{word}: is a data set, and a {here} here; write {SET}{word} or ./{word}")
        if (path / "dataset.json").is_file():
            return _part_files(path, "", f"move the folder away, and gendiff data get NAME -o {path}")
        return [path]

    return [file for word in words for file in files(word)]


def batch_stream(sizes: Tensor, batch_size: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Yield the batches of epoch after epoch without end, from batch number `start` of the run."""
    per_epoch = -(-len(sizes) // batch_size)
    for epoch in itertools.count(start // per_epoch):
        yield from size_batches(sizes, batch_size, seed, epoch)[start % per_epoch :]
        start = 0
