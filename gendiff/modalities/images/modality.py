"""The image adapter: read this file first."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.data import Grids
from gendiff.denoise import Denoiser
from gendiff.files import UserError, ending
from gendiff.modalities.images import edit
from gendiff.modalities.images.encode import from_state, to_grids
from gendiff.modalities.images.networks import NETWORKS, build_network
from gendiff.modalities.images.records import CHANNELS, Image, ImageArrays
from gendiff.modalities.images.records import kind as form
from gendiff.modalities.images.systems import SYSTEMS
from gendiff.modalities.images.write import EXTENSIONS, SINGLE, write_images
from gendiff.modality import Modality, Option, Part, Table, Task
from gendiff.objective import Hybrid, Loss
from gendiff.ops import Random, State, expand
from gendiff.process import JointProcess
from gendiff.sample import Ancestral, Sampler
from gendiff.sizes import ClassSizes

LABELS = "table of the classes of pictures, .csv with the columns file and label (default: the folder that each is in)"
RESIZE = "bring every image to this size, 64 or 64x48 (width x height): scaled, and cut to its middle"
FLIP = "mirror images at random in training, left to right"
FID = "also measure FID, by the Inception network of torch-fidelity, whose weights must be at hand"
VARIANCE = "learn the variance of the reverse process too, and sample with it in 100 steps"
SYSTEM = "recipe of a paper: " + "; ".join(f"{name}: {system.help}" for name, system in SYSTEMS.items())
FACTOR = "of --system sr3: how many times smaller, along each side, the pictures are that it enlarges"
DEFAULT = next(iter(SYSTEMS))

PROTOCOL = ("resize", "channels")
"""What may have been done to the training data, and has then to be done to whatever samples are compared with."""


class Images(Modality):
    r"""Images of one size; a state is the field `pixel`, (C, H, W), with a byte p as :math:`p / 127.5 - 1`.

    Arguments:
        size: Height and width.
        channels: 1 (gray), 2 (gray with alpha), 3 (RGB) or 4 (RGB with alpha).
        counts: By class, how many training images are of it; one entry of the name "" without classes.
        scale: Root mean square of the states of the training data.
        flip: Whether training mirrors images at random, left to right.
        learn_variance: Whether the default system learns the variance of the reverse process.
        system: How it is trained and sampled, a name of :data:`gendiff.modalities.images.systems.SYSTEMS`.
        factor: Of a system that enlarges images: how many times, along each side.
        reading: What was done to the training data, and has to be done to others: "resize" and "channels" as
            :meth:`read` takes them.

    Raises:
        ValueError: for arguments outside these.
    """

    name = "images"
    extensions = (*EXTENSIONS, "/")
    networks = NETWORKS
    single = SINGLE
    limits = (
        "What it draws resembles its training data, biases included; of few examples it may draw copies.",
        "It knows only the classes and the one size of its training data.",
    )
    options = (
        Option("labels", "read", None, LABELS, kind=Path),
        Option("resize", "read", None, RESIZE),
        Option("channels", "read", None, "convert every image to: gray, rgb or rgba", ("gray", "rgb", "rgba")),
        Option("flip", "fit", False, FLIP, kind=bool),
        Option("learn_variance", "fit", False, VARIANCE, kind=bool),
        Option("fid", "evaluate", False, FID, kind=bool),
        Option("system", "fit", DEFAULT, SYSTEM, tuple(SYSTEMS)),
        Option("factor", "fit", 4, FACTOR, kind=int),
    )
    tasks: Mapping[str, Task] = edit.TASKS

    def __init__(
        self,
        size: Sequence[int],
        channels: int = 3,
        counts: Mapping[str, int] | None = None,
        scale: float = 1.0,
        flip: bool = False,
        learn_variance: bool = False,
        system: str = DEFAULT,
        factor: int = 4,
        reading: Mapping[str, Any] | None = None,
    ):
        self.size, self.channels = [int(side) for side in size], channels
        if len(self.size) != 2 or min(self.size) < 1 or channels not in CHANNELS or not scale > 0:
            raise ValueError(
                f"images have a height, a width, 1 to 4 channels and a positive scale, got {size}, {channels}, {scale}"
            )
        self.counts = {str(word): int(count) for word, count in (counts or {"": 1}).items()}
        self.class_sizes = ClassSizes({word: {1: count} for word, count in self.counts.items()})
        self.classes = [] if len(self.counts) == 1 else self.class_sizes.classes
        self.scale, self.flip, self.learn_variance = float(scale), bool(flip), bool(learn_variance)
        self.system, self.factor, self.reading = system, factor, dict(reading or {})
        if reason := unfit(self.size, system, factor, self.learn_variance):
            raise ValueError(reason)
        self.recipe = SYSTEMS[system]
        self.tasks = edit.tasks(self.recipe.tasks + (self.recipe.colour if channels >= 3 else ()))

    @classmethod
    def read(
        cls, paths: Sequence[str | Path], on_error: str = "stop", resize: str | int | None = None, **options: Any
    ) -> tuple[ImageArrays, Any]:
        """Read files and folders of images; all but `resize` as :func:`gendiff.modalities.images.read.read_images`.

        Arguments:
            paths: Files and folders.
            on_error: "stop" or "skip".
            resize: Size to bring all to, 64 or "64x48" (width x height).
            options: "labels", a table of classes, and "channels": "gray", "rgb" or "rgba".

        Raises:
            UserError: as said there, and for a size that is none.
        """
        from gendiff.modalities.images.read import read_images

        return read_images([Path(path) for path in paths], on_error, resize=sides(resize), **options)  # type: ignore[arg-type]

    @classmethod
    def prepare(cls, loader: str, sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:  # noqa: D102
        from gendiff.modalities.images.prepare import LOADERS

        return LOADERS[loader](sources, folder) if loader in LOADERS else super().prepare(loader, sources, folder)

    @classmethod
    def fit(
        cls,
        records: ImageArrays,
        flip: bool = False,
        learn_variance: bool = False,
        system: str = DEFAULT,
        factor: int = 4,
        conditions: Sequence[str] = (),
        reading: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Images:
        """Return the adapter for these images; it is told classes if there are at least two words.

        Arguments:
            records: The examples.
            flip: As the class says.
            learn_variance: As the class says.
            system: As the class says.
            factor: As the class says.
            conditions: "class", which need not be named.
            reading: With which options they were read.

        Raises:
            UserError: for another condition, "class" without classes, or what does not go together.
        """
        if unknown := sorted({*conditions} - {"class"}):
            raise UserError(f"--condition knows class here (and takes it from the files), not {unknown[0]!r}")
        if reason := unfit(records.size, system, factor, learn_variance):
            raise UserError(reason)
        counts = dict(sorted(Counter(word for word in records.words.tolist() if word).items()))
        if len(counts) < 2 or not SYSTEMS[system].classes:
            if conditions:
                raise UserError(
                    "--condition class needs images of at least two classes, and a --system that has classes"
                )
            counts = {"": len(records)}
        values = np.arange(256) / 127.5 - 1
        share = np.bincount(records.pixels.ravel(), minlength=256) / records.pixels.size
        scale = round(math.sqrt(share @ values**2), 6)
        kept = {name: value for name, value in (reading or {}).items() if name in PROTOCOL and value is not None}
        return cls(records.size, records.channels, counts, scale, flip, learn_variance, system, factor, kept)

    def kept(self) -> dict[str, Any]:  # noqa: D102
        return self.reading | {name: getattr(self, name) for name in ("system", "factor", "learn_variance")}

    def refit(self, records: ImageArrays, **options: Any) -> Images:
        """Return the adapter of other images, of the size and the scale of these.

        Raises:
            UserError: as :meth:`fit`, and for images of another size.
        """
        fitted = self.fit(records, **options)
        mine, theirs = ((*adapter.size, adapter.channels) for adapter in (self, fitted))
        if mine != theirs:
            ways = f"--resize {mine[1]}x{mine[0]} and --channels bring them there"
            raise UserError(f"the images have {form(theirs)} pixels and the model draws {form(mine)}; {ways}")
        fitted.scale = self.scale
        return fitted

    def encode(self, records: ImageArrays) -> Grids:  # noqa: D102
        if reason := self.unknown(records)[0]:
            raise UserError(f"image 1: has {reason}")
        ready = prepared(records, **self.reading)
        return replace(to_grids(ready), condition=self.class_condition(ready.words.tolist()))

    def unknown(self, records: ImageArrays) -> list[str]:  # noqa: D102
        mine, theirs = (*self.size, self.channels), (*records.size, records.channels)
        sized = mine[:2] == theirs[:2] or "resize" in self.reading
        fits = sized and (mine[2] == theirs[2] or "channels" in self.reading)
        reason = "" if fits else f"{form(theirs)} pixels; this model knows {form(mine)}"
        return [reason] * len(records)

    def decode(self, state: State, mask: Tensor, condition: State | None = None) -> list[Image]:
        """Return images; values beyond those of a byte are clipped, one with a value that is no number is flagged."""
        x = state["pixel"]
        pixels, _ = from_state(x)
        words = self.class_words(condition, len(pixels))
        images = [Image(each, word) for each, word in zip(pixels, words, strict=True)]
        for image, finite in zip(images, x.isfinite().flatten(1).all(1).tolist(), strict=True):
            if not finite:
                image.facts["valid"] = False
        return images

    @classmethod
    def read_parts(cls, paths: Sequence[str | Path], task: str) -> tuple[Any, Any]:  # noqa: D102
        return edit.read_parts(paths, task)

    def usual_task(self, records: Any, options: Mapping[str, Any]) -> str:
        """Return the task that images ask for, and what is said of them, where users name none."""
        return edit.usual(self, records, options)

    def parts(  # noqa: D102
        self, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None, **options: Any
    ) -> list[Part]:
        return edit.parts(self, records, task, keep, side, **options)

    def train_classifier(self, process: JointProcess, records: Any, **options: Any) -> Any:  # noqa: D102
        from gendiff.modalities.images.classifier import train_classifier

        return train_classifier(process, prepared(records, **self.reading), **options)

    def classifier_guide(  # noqa: D102
        self, folder: str | Path, scale: float = 1.0, word: str | None = None, device: Any = "cpu"
    ) -> Callable[[Any], Any]:
        from gendiff.modalities.images.classifier import load_classifier

        return load_classifier(folder, device).guide(word, scale, () if word is not None else self.classes)

    def process(self) -> JointProcess:  # noqa: D102
        return self.recipe.process(self.channels, self.size)

    def network(self, preset: str = "small", kind: str | None = None) -> nn.Module:  # noqa: D102
        conditions = self.recipe.conditions(self.channels) | ({"class": len(self.classes)} if self.classes else {})
        changes = dict(self.recipe.network)
        kind = kind or changes.pop("kind", None)
        learns = self.learn_variance or self.recipe.learn_variance
        return build_network(kind, preset, self.size, {"pixel": self.channels}, conditions, learns, **changes)

    def denoiser(self, preset: str = "small", network: str | None = None) -> Denoiser:
        """Return the denoiser of the system, by default one of v."""
        return self.recipe.denoiser(self.network(preset, network), self.process(), self.scale)

    def objective(self) -> Loss:
        """Return the loss of the system, by default the error of v; with the bound for a variance that is learned."""
        return Hybrid(weighting="network") if self.learn_variance else self.recipe.loss(self.channels, self.factor)

    def sampler(self) -> Sampler:
        """Return the sampler of the system, by default DPM-Solver++, or ancestral steps of a learned variance."""
        if self.learn_variance:
            return Ancestral(100, variance="learned")
        return self.recipe.sampler(math.prod(self.size) * self.channels)

    def draw_sizes(
        self, random: Random, low: int | None = None, high: int | None = None, condition: State | None = None
    ) -> Tensor:
        """Return 1 for each sample: an image is one element.

        Raises:
            UserError: if bounds are given.
        """
        if (low, high) != (None, None):
            raise UserError(f"--size: all images of this model are {form((*self.size, self.channels))}; leave it out")
        return torch.ones(len(random.indices), dtype=torch.long)

    def log_volume(self, sizes: Tensor) -> Tensor:
        """Return D log(127.5), for densities of pixels from 0 to 255: then bits per dimension are those of bytes."""
        dimensions = math.prod(self.size) * self.channels
        return torch.full(sizes.shape, dimensions * math.log(127.5), dtype=torch.float64)

    def augmented(self, state: State, mask: Tensor | None, random: Random) -> State:
        """Return the state with half of the images mirrored, left to right, if this was asked for."""
        if not self.flip:
            return state
        x = state["pixel"]
        mirrored = random.uniform((len(x),)) < 0.5
        return {**state, "pixel": torch.where(expand(mirrored, x), x.flip(-1), x)}

    def labels(self, records: ImageArrays) -> list[str]:
        """Return the class of each image, or its name where it has none."""
        return [str(word or name) for word, name in zip(records.words, records.names, strict=True)]

    def valid(self, record: Image) -> bool:
        """Return whether all values of an image were numbers."""
        return bool(record.facts.get("valid", True))

    def identity(self, record: Image) -> str:
        """Return the SHA-256 of the pixels."""
        return hashlib.sha256(str(record.pixels.shape).encode() + record.pixels.tobytes()).hexdigest()

    def known(self, records: ImageArrays) -> set[str]:
        """Return the identities of examples.

        Raises:
            UserError: if they are not such images as the model draws, so that all of those would count as new.
        """
        if reason := self.unknown(records)[0]:
            raise UserError(f"the examples have {reason}, so they cannot say what is new")
        return super().known(prepared(records, **self.reading))

    def protocol(self) -> dict[str, Any]:  # noqa: D102
        return dict(self.reading)

    def write(self, records: list[Image], path: str | Path) -> int:  # noqa: D102
        return write_images(records, path)

    @classmethod
    def write_examples(cls, records: ImageArrays, path: str | Path) -> None:  # noqa: D102
        write_images(list(records), path)

    @classmethod
    def gather(cls, records: ImageArrays | Sequence[Image]) -> ImageArrays:  # noqa: D102
        return records if isinstance(records, ImageArrays) else ImageArrays.from_images(records)

    @classmethod
    def evaluate(cls, generated: ImageArrays, reference: ImageArrays, **options: Any) -> Table:
        """Return the metrics; the reference and the training data are prepared by the protocol of the model first."""
        from gendiff.modalities.images import metrics

        rules = {name: options.pop(name) for name in PROTOCOL if name in options}
        if options.get("training") is not None:
            options["training"] = prepared(options["training"], **rules)
        return metrics.evaluate(generated, prepared(reference, **rules), **options)

    def draw(self, records: list[Image], path: str | Path, **options: Any) -> None:
        """Draw images as one sheet, .png."""
        from gendiff.modalities.images import draw

        draw.sheet_png(records, Path(path), **options)

    photos = True
    films = (".gif", ".png")

    def film(self, frames: list[list[Image]], path: str | Path) -> None:
        """Draw how images come out of noise: moving as .gif, side by side as .png."""
        from gendiff.modalities.images import draw

        films: dict[str, Any] = {".gif": draw.film_gif, ".png": draw.film_strip_png}
        films[ending(path)](frames, Path(path))

    def picture(self, record: Image) -> tuple[str, str, str]:  # noqa: D102
        from gendiff.modalities.images import draw

        return draw.svg(record), record.word, "" if self.valid(record) else "not finite"


def sides(text: str | int | None) -> tuple[int, int] | None:
    """Return height and width of "64" or "64x48" (width x height).

    Raises:
        UserError: for another form, or nothing.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,5})\s*(?:[x×]\s*(\d{1,5})\s*)?", str(text))
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (width and height):
        raise UserError(f"--resize {text!r} is no size; write 64, or 64x48 for width x height")
    return height, width


def prepared(records: ImageArrays, resize: str | int | None = None, channels: str | None = None) -> ImageArrays:
    """Return images as :meth:`Images.read` would have read them with these options.

    Raises:
        UserError: for a size that is none, or that they cannot be brought to.
    """
    from gendiff.modalities.images.read.picture import convert
    from gendiff.modalities.images.read.raw import Unusable

    try:
        return replace(records, pixels=convert(records.pixels, channels, sides(resize)))
    except Unusable as error:
        raise UserError(f"the images cannot be resized: {error}") from None


def unfit(size: Sequence[int], system: str, factor: int, learn_variance: bool) -> str:
    """Return why a system cannot be had of images of this size, "" if it can."""
    if system not in SYSTEMS:
        return f"--system must be one of {', '.join(SYSTEMS)}, got {system!r}"
    if learn_variance and system != DEFAULT:
        return f"--learn-variance belongs to {DEFAULT}; leave it out (iddpm and adm always learn it)"
    if "enlarge" in SYSTEMS[system].tasks and (factor < 2 or any(side % factor for side in size)):
        return f"--factor {factor} does not divide images of {size[1]} x {size[0]} pixels; take another, 2 or more"
    return ""
