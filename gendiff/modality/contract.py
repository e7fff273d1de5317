"""What an adapter has to say, and what it need not: every method with a body is a default that most keep."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from gendiff.config import Configurable
from gendiff.data import Ragged
from gendiff.denoise import Denoiser
from gendiff.files import UserError, atomic_write, ending, read_text
from gendiff.modality.classes import class_numbers
from gendiff.modality.edits import Part, Task
from gendiff.modality.reports import Report, Table
from gendiff.nn.embed import Conditioning
from gendiff.objective import Loss, Objective
from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample import DPMSolver, Sampler
from gendiff.sizes import ClassSizes

PRESETS = ("tiny", "small", "base")


def check_network(preset: str, network: str | None = None, networks: Sequence[str] = ()) -> None:
    """Refuse a preset, or a network other than `networks`, that there is not.

    Raises:
        UserError: naming those that there are.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    if network is not None and network not in networks:
        known = f"choose from {', '.join(networks)}" if networks else "leave --network out"
        raise UserError(f"unknown network {network!r}; {known}")


FRAME, REST = 150, 2000
"""Milliseconds that a film shows a stage, and the samples at its end."""


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

    classes: Sequence[str] = ()
    """Words that can be asked for as the condition "class", in the order of their numbers; none if there are none."""

    class_sizes: ClassSizes | None = None
    """p(class) and p(N | class), or p(N) as that of one class, unless the adapter says them itself; None if N is 1."""

    networks: tuple[str, ...] = ()
    """Words for the networks that users can choose from, the default first; none if there is one."""

    filters: tuple[str, ...] = ("valid", "new")
    """What can be asked of samples (`--only`), by the user's word."""

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

    def kept(self) -> dict[str, Any]:
        """Return the options of reading and fitting that a model adapted to other examples shares, by name.

        By default those of :meth:`protocol`. Options of other names, and those that are None here, are free.
        """
        return self.protocol()

    def refit(self, records: Any, **options: Any) -> Modality:
        """Return the adapter of other examples, to which a model of this one is to be adapted (`gendiff train --from`).

        By default :meth:`fit`. Override it where a network knows the units of the data (scales then stay), or where a
        state has entries with a meaning (then the old ones stay among the new, see :meth:`axes`).

        Arguments:
            records: What :meth:`read` returned.
            options: As :meth:`fit` takes them, with those that are :meth:`kept`.

        Raises:
            UserError: if they are nothing that such a model can learn.
        """
        return self.fit(records, **options)

    def axes(self, network: nn.Module) -> dict[str, tuple[int, list[Any]]]:
        """Return what the entries of weights mean, where that differs from adapter to adapter.

        By name of a weight of `network` the axis, and along it one word an entry: a model that is adapted to other
        examples keeps the entries of words that it knows. By default the classes of embeddings.
        """
        found: dict[str, tuple[int, list[Any]]] = {}
        for name, module in network.named_modules():
            if isinstance(module, Conditioning) and isinstance(module.conditions.get("class"), int):
                found[f"{name}.embeddings.{module.keys['class']}.weight"] = (0, list(self.classes))
        return found

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

    def redraw(self, records: Any) -> list[Any]:
        """Return what was read from a file as the records that :meth:`decode` would give, by the same rules."""
        return list(records)

    def train_classifier(self, process: JointProcess, records: Any, **options: Any) -> Any:
        """Return a classifier of noisy samples, which has `classes` and `save(folder)`.

        Arguments:
            process: The forward process of the model that is to be led.
            records: Examples with classes.
            options: "steps", "preset", "batch_size", "learning_rate", "seed", "device", "say".

        Raises:
            UserError: if there is none for this modality, or for examples without classes.
        """
        raise UserError(f"there is no classifier of {self.name} yet; of images there is")

    def classifier_guide(
        self, folder: str | Path, scale: float = 1.0, word: str | None = None, device: Any = "cpu"
    ) -> Callable[[Any], Any]:
        """Return guidance by a classifier that was saved: a denoiser in, a denoiser out.

        Arguments:
            folder: Where it is.
            scale: Its power, 1 what Bayes' rule says.
            word: The class to lead to, of a model that is told none; others are led to what is asked for.
            device: Where to compute.

        Raises:
            UserError: if there is none for this modality, in this folder, or of this class.
        """
        raise UserError(f"there is no classifier of {self.name} yet; of images there is")

    @classmethod
    def read_parts(cls, paths: Sequence[str | Path], task: str) -> tuple[Any, Report]:
        """Read what is to be edited; as :meth:`read`, but nothing is left out."""
        return cls.read(paths)

    def usual_task(self, records: Any, options: Mapping[str, Any]) -> str:
        """Return the task where users name none: by default the first, whatever the records and what is said of them.

        Arguments:
            records: What :meth:`read_parts` returned.
            options: As :meth:`parts` takes them.
        """
        return next(iter(self.tasks))

    def parts(
        self, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None, **options: Any
    ) -> list[Part]:
        """Return what an edit starts from: one part, two for a task of the kind "path", or one for each of many inputs.

        Arguments:
            records: What :meth:`read_parts` returned.
            task: One of :attr:`tasks`.
            keep: Of the kind "keep": numbers, from 1, of what stays of the input; all if None.
            side: How large the finished sample is to be in the input's unit, for data that come in any unit.
            options: What the task `uses`.

        Raises:
            UserError: if they do not fit the task or the model.
        """
        raise UserError(f"{self.name} cannot be edited yet")

    @abstractmethod
    def process(self) -> JointProcess:
        """Return the forward process of the fields."""

    @abstractmethod
    def network(self, preset: str = "small", kind: str | None = None) -> nn.Module:
        """Return a network of a size preset, "tiny", "small" or "base"; `kind` names another than the default."""

    def denoiser(self, preset: str = "small", network: str | None = None) -> Denoiser:
        """Return the default denoiser around :meth:`network`; by default for states of a standard deviation of 1.

        Raises:
            UserError: for a preset, or a network other than :attr:`networks`, that there is not.
        """
        check_network(preset, network, self.networks)
        return Denoiser(self.network(preset, network), self.process())

    def objective(self) -> Loss:
        """Return the default training loss: the error of the network's own output."""
        return Objective()

    def sampler(self) -> Sampler:
        """Return the default sampler: DPM-Solver++ in 20 steps."""
        return DPMSolver(20)

    def draw_sizes(
        self, random: Random, low: int | None = None, high: int | None = None, condition: State | None = None
    ) -> Tensor:
        """Draw how many elements each sample has, (B,), from p(N | condition), within bounds if given.

        Raises:
            UserError: if the bounds leave no size.
        """
        if self.class_sizes is not None:
            return self.class_sizes.sample(random, (condition or {}).get("class"), low, high)
        if (low, high) != (None, None):
            raise UserError(f"--size: all {self.name} are of one size; leave it out")
        return torch.ones(len(random.indices), dtype=torch.long)

    def condition(self, wanted: Mapping[str, Any]) -> State:
        """Return what users want of samples, numbers or labels by name, as a network is told: one axis, of samples.

        By default that is a "class", if there are :attr:`classes`.

        Arguments:
            wanted: By name one value for all samples, or one for each.

        Raises:
            UserError: for a name that the model was not trained with, or a value that is none.
        """
        for name in wanted:
            if name != "class" or not self.classes:
                known = "class" if self.classes else "no condition"
                raise UserError(f"{name!r} cannot be asked of this model, which was trained with {known}")
        return {name: class_numbers(words, self.classes) for name, words in wanted.items()}

    def complete(self, asked: State, random: Random) -> State:
        """Return what the network is told of samples, (B, ...), with what was not asked for drawn from its law.

        By default classes are drawn as often as they occur.
        """
        if not self.classes or self.class_sizes is None or "class" in asked:
            return asked
        return {**asked, "class": self.class_sizes.sample_class(random)}

    def class_condition(self, words: Sequence[str]) -> State:
        """Return what a network is told of records of these classes: {"class": (M,)}, -1 for others; {} without any."""
        number = {word: i for i, word in enumerate(self.classes)}
        return {"class": torch.tensor([number.get(word, -1) for word in words])} if number else {}

    def class_words(self, condition: State | None, count: int) -> list[str]:
        """Return the class of each of `count` samples of which a network was told this, "" where it was told none."""
        if not self.classes or "class" not in (condition or {}):
            return [""] * count
        return [self.classes[i] if i >= 0 else "" for i in condition["class"].tolist()]  # type: ignore[index]

    def augmented(self, state: State, mask: Tensor | None, random: Random) -> State:
        """Return a batch of training data changed at random in ways that keep it good data."""
        return state

    def log_size(self, sizes: Tensor) -> Tensor:
        """Return log p(N) in nats of sizes (B,); 0 where there is only one size."""
        if self.class_sizes is not None:
            return self.class_sizes.log_prob(sizes)
        return torch.zeros(sizes.shape, dtype=torch.float64)

    def log_volume(self, sizes: Tensor) -> Tensor:
        """Return log |d data / d state| of samples of these sizes, (B,): the price of the data's own units."""
        return torch.zeros(sizes.shape, dtype=torch.float64)

    def protocol(self) -> dict[str, Any]:
        """Return by which rules samples become records, plain values by name: what whoever judges them must know."""
        return {}

    def labels(self, records: Any) -> list[str]:
        """Return a name for each record, "" where there is none; by default its `word`."""
        return [getattr(record, "word", "") for record in records]

    def annotate(self, records: list[Any], **facts: Any) -> None:
        """Note on each record where it comes from ("model", "seed", "index" of the first), and "targets".

        By default in the dictionary `facts` of the record, if it has one.
        """
        first = facts.pop("index", None)
        for i, record in enumerate(records):
            noted = {name: value for name, value in facts.items() if value is not None}
            getattr(record, "facts", {}).update(noted if first is None else {**noted, "index": first + i})

    def valid(self, record: Any) -> bool:
        """Return whether a record is what it should be, which is what "valid" asks for."""
        return True

    def identity(self, record: Any) -> str:
        """Return what two records share if and only if they count as the same, by which "new" is judged.

        Raises:
            UserError: if there is no such thing.
        """
        raise UserError(f"{self.name} have no identity, so 'new' cannot be asked for")

    def check_filters(self, wanted: Iterable[str], known: Sequence[str] = ()) -> None:
        """Refuse words of `wanted` that are not known, by default those that are no :attr:`filters`.

        Raises:
            UserError: naming the word, and those that are known.
        """
        known = known or self.filters
        for word in wanted:
            if word not in known:
                raise UserError(f"--only knows {', '.join(known[:-1])} and {known[-1]}, not {word!r}")

    def keep(self, records: list[Any], wanted: Sequence[str], known: set[str]) -> list[bool]:
        """Return which records meet all of `wanted`, words of :attr:`filters`.

        Raises:
            UserError: for another word.
        """
        self.check_filters(wanted)
        return [self.valid(r) and ("new" not in wanted or self.identity(r) not in known) for r in records]

    def known(self, records: Any) -> set[str]:
        """Return the identities of examples, against which "new" is judged."""
        return {self.identity(record) for record in self.redraw(records)}

    @abstractmethod
    def write(self, records: list[Any], path: str | Path) -> int:
        """Write the records that fit the format of the file's ending; return how many they are.

        Raises:
            NothingFits: if none of them can be written in this format.
            UserError: if the file cannot be written.
        """

    @classmethod
    def write_examples(cls, records: Any, path: str | Path) -> None:
        """Write what :meth:`read` returned, with its properties, in the format of the file's ending."""
        adapter = cls.fit(records)
        adapter.write(adapter.redraw(records), path)

    @classmethod
    def read_samples(cls, paths: Sequence[str | Path], on_error: str = "stop") -> tuple[Any, Report]:
        """Read files of samples, as :meth:`read`, but as they are: nothing is repaired or refused for its quality."""
        return cls.read(paths, on_error=on_error)

    @classmethod
    def features(cls, records: Sequence[Any]) -> Mapping[str, ArrayLike]:
        """Return numbers by which records are compared, (M,) or (M, K) by name; only the default metrics ask."""
        raise UserError(f"{cls.name} cannot be measured yet")

    @classmethod
    def gather(cls, records: Any) -> Any:
        """Return records as :meth:`read` does: the list that :meth:`decode` returns becomes arrays, if there are such.

        By default they stay as they are.
        """
        return records

    @classmethod
    def evaluate(cls, generated: Any, reference: Any, **options: Any) -> Table:
        """Return the metrics of what was read from a file, beside those of the reference.

        By default those of :meth:`features` against one half of the reference; its other half, as many records, gives
        the reference's own: Wasserstein distances, the share that a classifier tells apart, and, of records with a
        `word`, the share whose nearest real neighbour has the same.

        Raises:
            UserError: if there are too few records.
        """
        from gendiff.modality.measure import measure

        return measure(cls, generated, reference, options.get("seed", 0))

    @abstractmethod
    def draw(self, records: list[Any], path: str | Path, **options: Any) -> None:
        """Draw records as one picture."""

    photos = False
    """Whether its pictures have colours of their own, and are not drawn in ink."""

    films: tuple[str, ...] = ()
    """Endings of the files that :meth:`film` writes; none if there is no such method."""

    def film(self, frames: list[list[Any]], path: str | Path) -> None:
        """Draw how samples come out of noise: the records of all samples, stage after stage.

        By default each stage is what :meth:`draw` makes of it as .png, in a moving .gif that rests at the samples.

        Raises:
            UserError: for an ending that is not one of :attr:`films`.
        """
        from PIL import Image

        if ending(path) not in self.films:
            raise UserError(f"{path}: {self.name} are filmed as {', '.join(self.films) or 'nothing yet'}")
        pictures = []
        with tempfile.TemporaryDirectory() as folder:
            for number, records in enumerate(frames):
                self.draw(records, Path(folder) / f"{number}.png")
                with Image.open(Path(folder) / f"{number}.png") as picture:
                    pictures.append(picture.convert("RGB"))
        with atomic_write(path, "wb") as file:
            times = [*[FRAME] * (len(pictures) - 1), REST]
            pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)

    def picture(self, record: Any) -> tuple[str, str, str]:
        """Return one record as SVG, a caption, and a word of warning ("" if there is none).

        By default what :meth:`draw` makes of it as .svg, its label, and "invalid" if it is not :meth:`valid`.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "record.svg"
            self.draw([record], path)
            text = read_text(path)
        return text, self.labels([record])[0], "" if self.valid(record) else "invalid"
