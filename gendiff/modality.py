"""The contract of a modality: how one kind of data becomes states and comes back.

The core knows fields; a modality knows molecules, sketches or images. An adapter is one class, found through the
entry-point group `gendiff.modalities`, so another package can bring one and nothing here changes. It lives through
two phases: :meth:`Modality.read` and :meth:`Modality.fit` look at the user's examples and give an object that
remembers, in plain JSON-able attributes, whatever generation needs to know of them (elements, scales, sizes). From
then on the examples are not needed.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gendiff.config import GROUP, Configurable
from gendiff.data import Ragged
from gendiff.denoise import Denoiser
from gendiff.files import UserError
from gendiff.objective import Loss
from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample import Sampler

PRESETS = ("tiny", "small", "base")


class Report(Protocol):
    """What reading says of the files."""

    def lines(self) -> list[str]:
        """Return lines for people."""

    def to_json(self) -> dict[str, Any]:
        """Return the same for programs."""


class Table(Protocol):
    """A table of metrics beside the reference's own."""

    def lines(self) -> list[str]:
        """Return lines for people."""

    def to_json(self) -> dict[str, Any]:
        """Return the same for programs."""


@dataclass(frozen=True)
class Option:
    """An option of a modality: of the command line and of the method that takes it.

    Attributes:
        name: Its name; `--name` on the command line, with dashes.
        of: Which method takes it: "read", "fit" or "evaluate".
        default: Its default.
        help: What it does, with its unit.
        choices: Words that it can be; any value if there are none.
        kind: Type of the value where there are no choices.
    """

    name: str
    of: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    kind: type = str


@dataclass(frozen=True)
class Task:
    """What an edit does; a modality names it by the word that users type.

    Attributes:
        kind: How it is done: "keep" some elements as they are and draw the rest; "noise" all of them and take them
            back; walk the "path" between two samples; or "ask" for a sample by a condition that the input becomes.
        help: The same for users, in one line.
        strength: Of the kind "noise", by default: from 0, the input itself, to 1, a fresh sample.
    """

    kind: str
    help: str
    strength: float = 0.3


class Part(ABC):
    """A sample, or what is known of one, that an edit starts from.

    Attributes:
        state: Clean node fields of its K elements, each (K, D), in the units of states, near the origin; {} if none.
        known: Which elements of a field are known, (K,) bool; of a field that is not named here all are.
        condition: What the network is told of samples that come of it, (1, ...) each, unless users ask for another.
        sizes: Smallest and largest number of elements of what comes of it (None: as in the training data).
        hint: What to do, or to know, if there are no samples of such sizes; for the error.
        order: Where :meth:`match` has pairs that are not of the same rows: the elements, (K,), those first that have a
            partner, then the others in the order in which they come in. A path keeps the order of the rows.
    """

    state: State
    known: Mapping[str, Tensor] = MappingProxyType({})
    condition: Mapping[str, Tensor] = MappingProxyType({})
    sizes: tuple[int | None, int | None] = (None, None)
    hint: str = ""
    order: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.state.values()), ()))

    @abstractmethod
    def match(self, other: Part) -> tuple[Part, Part]:
        """Return both so that element i of one answers to element i of the other, in the frame of this one.

        As many elements as the smaller has are matched and come first, in the rows or in `order`; what the larger has
        besides follows.
        """

    @abstractmethod
    def place(self, records: list[Any], **facts: Any) -> None:
        """Move records that were decoded in the frame of `state` to where the input stands, and note `facts` on them.

        A Part of which something is kept has it first in every record; it is copied exactly, and noted.
        """

    def remark(self, records: list[Any]) -> str:
        """Return in one line what else there is to say of the edit and what came of it, or ""."""
        return ""


class Modality(Configurable, ABC):
    """An adapter for one kind of data. Its constructor takes JSON-able arguments and keeps each under its name."""

    name: str
    """The word the user types."""

    extensions: tuple[str, ...]
    """Endings of the files it writes."""

    single: tuple[str, ...] = ()
    """Those of them that hold one record."""

    limits: tuple[str, ...] = ("It resembles its training data, biases included, and nothing else.",)
    """What the card of a model says of its use and limits, unless the model says it itself."""

    options: tuple[Option, ...] = ()
    """What users can set of reading, fitting and judging."""

    tasks: Mapping[str, Task] = MappingProxyType({})
    """What can be done with given samples (`gendiff edit`), by the user's word; the first is the default."""

    @classmethod
    @abstractmethod
    def read(cls, paths: Sequence[str | Path], on_error: str = "stop", **options: Any) -> tuple[Any, Report]:
        """Read files.

        Arguments:
            paths: Files of one or several formats.
            on_error: "stop" at the first bad record, or "skip" it and count it.
            options: What else the modality knows of reading.

        Returns:
            Records, a container with a length, and what there is to say of them.

        Raises:
            UserError: naming file and record.
        """

    @classmethod
    def prepare(cls, loader: str, sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:
        """Turn a publisher's files into files that :meth:`read` takes.

        Arguments:
            loader: The way to do it, as the manifest names it; "file" takes the files as they are.
            sources: The publisher's files, verified, by name.
            folder: An empty folder for the result.

        Returns:
            What was made: "parts" (names of files by part: "train", "valid", "test", or "all") and "records" (how many
            records each part has, where known).

        Raises:
            UserError: if the files are not what they should be, or there is no such loader.
        """
        if loader != "file":
            raise UserError(f"{cls.name} have no preparation {loader!r}; another version of gendiff may")
        for name, path in sources.items():
            shutil.copyfile(path, folder / name)
        return {"parts": {"all": list(sources)}, "records": {}}

    @classmethod
    @abstractmethod
    def fit(cls, records: Any, **options: Any) -> Modality:
        """Return the adapter for these examples."""

    @abstractmethod
    def encode(self, records: Any) -> Ragged:
        """Return records as training data.

        Raises:
            UserError: if a record holds something this adapter was not fitted to.
        """

    def unknown(self, records: Any) -> list[str]:
        """Return for each record why :meth:`encode` could not take it, "" if it can."""
        return [""] * len(records)

    @abstractmethod
    def decode(self, state: State, mask: Tensor, condition: State | None = None) -> list[Any]:
        """Return the records that users see, one per sample; what is not valid is flagged, not left out.

        Arguments:
            state: Clean fields.
            mask: (B, N).
            condition: What the network was told, if it was.
        """

    @abstractmethod
    def redraw(self, records: Any) -> list[Any]:
        """Return what was read from a file as the records that :meth:`decode` would give, by the same rules."""

    @classmethod
    def read_parts(cls, paths: Sequence[str | Path], task: str) -> tuple[Any, Report]:
        """Read what is to be edited; as :meth:`read`, but nothing is left out."""
        return cls.read(paths)

    def parts(
        self, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None
    ) -> list[Part]:
        """Return what an edit starts from: one part, or two for a task of the kind "path".

        Arguments:
            records: What :meth:`read_parts` returned.
            task: One of :attr:`tasks`.
            keep: Of the kind "keep": numbers, from 1, of what stays of the input; all if None.
            side: How large the finished sample is to be in the input's unit, for data that come in any unit.

        Raises:
            UserError: if they do not fit the task or the model.
        """
        raise UserError(f"{self.name} cannot be edited yet")

    @abstractmethod
    def process(self) -> JointProcess:
        """Return the forward process of the fields."""

    @abstractmethod
    def network(self, preset: str = "small", kind: str | None = None) -> nn.Module:
        """Return a network of a size preset, "tiny", "small" or "base"; `kind` names another than the default.

        Raises:
            UserError: for a preset or a kind that there is not.
        """

    @abstractmethod
    def denoiser(self, preset: str = "small", network: str | None = None) -> Denoiser:
        """Return the default denoiser around :meth:`network`."""

    @abstractmethod
    def objective(self) -> Loss:
        """Return the default training loss."""

    @abstractmethod
    def sampler(self) -> Sampler:
        """Return the default sampler."""

    @abstractmethod
    def draw_sizes(
        self, random: Random, low: int | None = None, high: int | None = None, condition: State | None = None
    ) -> Tensor:
        """Draw how many elements each sample has, (B,), from p(N | condition), within bounds if given."""

    def condition(self, wanted: Mapping[str, Any]) -> State:
        """Return what users want of samples, numbers or labels by name, as a network is told: one axis, of samples.

        Arguments:
            wanted: By name one value for all samples, or one for each.

        Raises:
            UserError: for a name that the model was not trained with, or a value that is none.
        """
        if wanted:
            raise UserError(f"this model was trained without conditions, so {min(wanted)!r} cannot be asked of it")
        return {}

    def complete(self, asked: State, random: Random) -> State:
        """Return what the network is told of samples, (B, ...), with what was not asked for drawn from its law."""
        return asked

    def augmented(self, state: State, mask: Tensor | None, random: Random) -> State:
        """Return a batch of training data changed at random in ways that keep it good data."""
        return state

    def log_size(self, sizes: Tensor) -> Tensor:
        """Return log p(N) in nats of sizes (B,); 0 where there is only one size."""
        return torch.zeros(sizes.shape, dtype=torch.float64)

    def log_volume(self, sizes: Tensor) -> Tensor:
        """Return log |d data / d state| of samples of these sizes, (B,): the price of the data's own units."""
        return torch.zeros(sizes.shape, dtype=torch.float64)

    def protocol(self) -> dict[str, Any]:
        """Return by which rules samples become records, plain values by name: what whoever judges them must know."""
        return {}

    def labels(self, records: Any) -> list[str]:
        """Return a name for each record that was read, "" where there is none."""
        return [""] * len(records)

    @abstractmethod
    def annotate(self, records: list[Any], **facts: Any) -> None:
        """Note on each record where it comes from ("model", "seed", "index" of the first), and "targets"."""

    @abstractmethod
    def keep(self, records: list[Any], wanted: Sequence[str], known: set[str]) -> list[bool]:
        """Return which records meet all of `wanted` (for molecules: "valid", "connected", "new")."""

    @abstractmethod
    def known(self, records: Any) -> set[str]:
        """Return the identities of examples, against which "new" is judged."""

    @abstractmethod
    def write(self, records: list[Any], path: str | Path) -> int:
        """Write the records that fit the format of the file's ending; return how many they are.

        Raises:
            NothingFits: if none of them can be written in this format.
            UserError: if the file cannot be written.
        """

    @classmethod
    @abstractmethod
    def write_examples(cls, records: Any, path: str | Path) -> None:
        """Write what :meth:`read` returned, with its properties, in the format of the file's ending."""

    @classmethod
    def read_samples(cls, paths: Sequence[str | Path], on_error: str = "stop") -> tuple[Any, Report]:
        """Read files of samples, as :meth:`read`, but as they are: nothing is repaired or refused for its quality."""
        return cls.read(paths, on_error=on_error)

    @classmethod
    @abstractmethod
    def evaluate(cls, generated: Any, reference: Any, **options: Any) -> Table:
        """Return the metrics of what was read from a file, beside those of the reference."""

    @abstractmethod
    def draw(self, records: list[Any], path: str | Path, **options: Any) -> None:
        """Draw records as one picture."""

    films: tuple[str, ...] = ()
    """Endings of the files that :meth:`film` writes; none if there is no such method."""

    def film(self, frames: list[list[Any]], path: str | Path) -> None:
        """Draw how samples come out of noise: the records of all samples, stage after stage."""
        raise UserError(f"{self.name} cannot be filmed yet")

    @abstractmethod
    def picture(self, record: Any) -> tuple[str, str, str]:
        """Return one record as SVG, a caption, and a word of warning ("" if there is none)."""


def modalities() -> dict[str, type[Modality]]:
    """Return the installed adapters by name."""
    found = {}
    for point in entry_points(group=GROUP):
        found[point.name] = point.load()
    return found


def installed() -> list[str]:
    """Return the names of the installed adapters."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find_modality(name: str) -> type[Modality]:
    """Return one adapter.

    Raises:
        UserError: if there is none of that name.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise UserError(
            f"unknown modality {name!r}; installed: {', '.join(sorted(points)) or 'none (is gendiff installed?)'}"
        )
    return points[name].load()
