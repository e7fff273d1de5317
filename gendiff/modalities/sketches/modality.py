"""The sketch adapter: read this file first."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.data import Ragged
from gendiff.denoise import Denoiser
from gendiff.files import UserError, ending
from gendiff.modalities.sketches import edit, geometry
from gendiff.modalities.sketches.encode import PENS, REPRESENTATIONS, from_state, to_ragged
from gendiff.modalities.sketches.networks import NETWORKS, build_network
from gendiff.modalities.sketches.points import cloud
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.modalities.sketches.write import EXTENSIONS, write_sketches
from gendiff.modality import Modality, Option, Part, Table, class_numbers
from gendiff.ops import Random, State
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess, Process
from gendiff.schedule import Cosine
from gendiff.sizes import ClassSizes
from gendiff.space import Euclidean

SPREAD = 4.0
"""Sketches of which the 95th percentile of the sizes is so many times the 5th are scaled one by one."""

SIMPLIFY = (
    "drop points that strokes do not need, by this tolerance where the larger side of a sketch is 255 (QuickDraw: 2; 0"
    " drops none)"
)
RESAMPLE = "points evenly along strokes, at this spacing where the larger side of a sketch is 255 (0: as they are)"
LONGEST = "leave out sketches of more points than this, as the model sees them"

PROTOCOL = ("simplify", "resample", "boxed", "max_points")
"""What was done to the examples, and has to be done to whatever samples are compared with."""


class Sketches(Modality):
    """Drawings as offsets of a pen, or any continuous sequences.

    Arguments:
        lengths: By class, how many training sketches have each number of points; one entry for all without classes.
        classes: Words that can be asked for, in the order of their numbers; none if there are fewer than two.
        dimensions: Coordinates D of a point.
        has_pen: Whether these are drawings with strokes.
        scale: Root mean square of the offsets of the training data, in its units; states are in units of it.
        position_scale: The same of positions around the centre of the bounding box.
        pen_share: Share of the points that end a stroke.
        representation: "offset", "absolute" or "both".
        pen: "logits" (one-hot under Gaussian noise, trained with cross-entropy), "gaussian" (a number, -1 or 1) or
            "categorical" (a category that jumps).
        simplify: Tolerance of :func:`gendiff.modalities.sketches.geometry.simplify` that every sketch undergoes before
            anything else; None or 0 for none.
        resample: Spacing of :func:`gendiff.modalities.sketches.geometry.resample`, likewise.
        boxed: Whether every sketch is scaled to a box of 255.
        max_points: The most points of a sketch after all this; longer ones are none of its data. None for any number.
        augment: Half of the range of the random scale of each axis in training (0: none).
        points: Whether a cloud of points can be asked for.

    Raises:
        ValueError: for arguments outside these.
    """

    name = "sketches"
    extensions = EXTENSIONS
    networks = NETWORKS
    limits = (
        "What it draws resembles its training data, biases included; of few examples it may draw copies.",
        "It knows only the classes and lengths of its training data.",
    )
    tasks = edit.TASKS
    options = (
        Option("no_pen", "read", False, "the files hold sequences without a pen", kind=bool),
        Option("split", "read", None, "use only this part of sketch-rnn .npz files", ("train", "valid", "test", "all")),
        Option("pen", "fit", "auto", "how the pen is modelled: logits, gaussian or categorical", ("auto", *PENS)),
        Option("representation", "fit", "offset", "what a point is: offset, absolute or both", REPRESENTATIONS),
        Option("simplify", "fit", None, SIMPLIFY, kind=float),
        Option("resample", "fit", None, RESAMPLE, kind=float),
        Option("max_points", "fit", None, LONGEST, kind=int),
        Option("augment", "fit", 0.0, "random scale of each axis in training: 0.15 for 0.85 to 1.15", kind=float),
        Option("simplify", "evaluate", None, f"of the reference (default: as the model): {SIMPLIFY}", kind=float),
        Option("resample", "evaluate", None, f"of the reference (default: as the model): {RESAMPLE}", kind=float),
        Option("max_points", "evaluate", None, f"of the reference (default: as the model): {LONGEST}", kind=int),
    )

    def __init__(
        self,
        lengths: Mapping[str, Mapping[Any, int]],
        classes: Sequence[str] = (),
        dimensions: int = 2,
        has_pen: bool = True,
        scale: float = 1.0,
        position_scale: float = 1.0,
        pen_share: float = 0.1,
        representation: str = "offset",
        pen: str = "logits",
        simplify: float | None = None,
        resample: float | None = None,
        boxed: bool = False,
        augment: float = 0.0,
        points: bool = False,
        max_points: int | None = None,
    ):
        if representation not in REPRESENTATIONS or pen not in PENS:
            raise ValueError(
                f"representation must be one of {REPRESENTATIONS} and pen of {PENS}, got {representation!r}, {pen!r}"
            )
        self.sizes = ClassSizes(lengths)
        self.lengths, self.classes = self.sizes.counts, [str(word) for word in classes]
        if self.classes and self.classes != self.sizes.classes:
            raise ValueError(f"lengths must be of the classes, got {self.sizes.classes} for {self.classes}")
        if dimensions < 1 or not (scale > 0 and position_scale > 0 and 0 < pen_share < 1 and 0 <= augment < 1):
            raise ValueError(
                "dimensions and scales must be positive, pen_share between 0 and 1 and augment from 0 to below 1, got"
                f" {dimensions}, {scale}, {position_scale}, {pen_share}, {augment}"
            )
        self.dimensions, self.has_pen, self.boxed, self.points = dimensions, has_pen, boxed, points
        self.scale, self.position_scale, self.pen_share = float(scale), float(position_scale), float(pen_share)
        self.representation, self.pen = representation, pen
        self.simplify, self.resample, self.augment, self.max_points = simplify, resample, augment, max_points

    @classmethod
    def read(
        cls,
        paths: Sequence[str | Path],
        on_error: str = "stop",
        no_pen: bool = False,
        max_points: int | None = None,
        simplify: float | None = None,
        resample: float | None = None,
        **options: Any,
    ) -> tuple[SketchArrays, Any]:
        """Read files of sketches; formats and options as `gendiff.modalities.sketches.read.read_sketches`.

        Sketches of more than `max_points` points, counted as a model of this `simplify` and `resample` sees them, are
        left out and reported. Those that are read are neither simplified nor resampled.
        """
        from gendiff.modalities.sketches.read import read_sketches

        _check(simplify, resample, max_points)
        pen: Any = "none" if no_pen else "auto"
        prepared = {"longest": max_points, "simplify": simplify, "resample": resample}
        return read_sketches([Path(path) for path in paths], on_error, pen=pen, **prepared, **options)  # type: ignore[arg-type]

    @classmethod
    def fit(
        cls,
        records: SketchArrays,
        representation: str = "offset",
        pen: str = "auto",
        simplify: float | None = None,
        resample: float | None = None,
        augment: float = 0.0,
        max_points: int | None = None,
        conditions: Sequence[str] = (),
        **_: Any,
    ) -> Sketches:
        """Return the adapter for these sketches; it is told classes if there are at least two words.

        Arguments:
            records: The examples.
            representation: As the class says.
            pen: As the class says; "auto" is "logits".
            simplify: As the class says.
            resample: As the class says.
            augment: As the class says.
            max_points: As the class says; read the examples with the same, :meth:`encode` refuses longer ones.
            conditions: "points", to turn point clouds and pictures into strokes; classes need not be named.

        Raises:
            UserError: for another condition, a number out of range, sketches without extent, or none that is so short.
        """
        if unknown := sorted({*conditions} - {"points", "class"}):
            raise UserError(f"--condition knows points here (classes are taken from the files), not {unknown[0]!r}")
        _check(simplify, resample, max_points, augment)
        if augment and "points" in conditions:
            raise UserError("--augment scales strokes, and the points they are drawn from stay; leave one of them out")
        side = geometry.boxes(records)[1]
        low, high = np.quantile(side[side > 0], (0.05, 0.95)) if (side > 0).any() else (0.0, 0.0)
        if not high > 0:
            raise UserError("no sketch has two distinct points")
        draft = cls(
            {"": {1: 1}}, simplify=simplify, resample=resample, boxed=bool(records.has_pen and high > SPREAD * low)
        )
        ready = draft.preprocess(records)
        if max_points is not None:
            ready = ready.select(ready.num_points <= max_points)
            if not len(ready):
                raise UserError(f"no sketch has at most {max_points:,} points; allow more with --max-points")
        words = sorted(set(ready.words.tolist()) - {""})
        classes = words if len(words) > 1 else []
        if "class" in conditions and not classes:
            raise UserError("--condition class needs sketches of at least two classes")
        lengths = {
            word: Counter(ready.num_points[ready.words == word if classes else slice(None)].tolist())
            for word in classes or [""]
        }
        scale, position = (
            _rounded(float(np.sqrt((x**2).mean()))) for x in (geometry.offsets(ready), geometry.centred(ready))
        )
        return cls(
            lengths,
            classes,
            ready.dimensions,
            ready.has_pen,
            scale,
            position,
            min(max(round(float(ready.ends.mean()), 6), 1e-3), 1 - 1e-3),
            representation,
            "logits" if pen == "auto" else pen,
            simplify,
            resample,
            draft.boxed,
            augment,
            "points" in conditions,
            max_points,
        )

    def preprocess(self, records: SketchArrays) -> SketchArrays:
        """Return sketches as the model knows them: boxed, resampled, simplified, whichever it was fitted to."""
        ready = geometry.boxed(records) if self.boxed else records
        return geometry.prepared(ready, self.resample, self.simplify)

    def kept(self) -> dict[str, Any]:  # noqa: D102
        return {name: getattr(self, name) for name in ("representation", "pen", "simplify", "resample")}

    def refit(self, records: SketchArrays, conditions: Sequence[str] = (), **options: Any) -> Sketches:
        """Return the adapter of other sketches, at the scale of these unless they come in another unit.

        Sketches of more than four times the size, or less than a quarter of it, do: their own scale makes states alike.

        Raises:
            UserError: as :meth:`fit`.
        """
        fitted = self.fit(records, conditions=sorted({*conditions, *["points"] * self.points}), **options)
        if self.boxed or 1 / SPREAD < fitted.position_scale / self.position_scale < SPREAD:
            fitted.scale, fitted.position_scale, fitted.boxed = self.scale, self.position_scale, self.boxed
        fitted.pen_share = self.pen_share
        return fitted

    def encode(self, records: SketchArrays) -> Ragged:  # noqa: D102
        for place, reason in enumerate(self.unknown(records), 1):
            if reason:
                raise UserError(f"sketch {place:,}: has {reason}")
        ready = self.preprocess(records)
        ragged = to_ragged(ready, self.scale, self.position_scale, self.representation, self.pen)
        condition = self.class_condition(ready.words.tolist())
        if self.points:
            condition["points"] = torch.from_numpy(cloud(ready) / self.position_scale).float()
        return replace(ragged, condition=condition)

    def unknown(self, records: SketchArrays) -> list[str]:  # noqa: D102
        reason = ""
        if records.dimensions != self.dimensions:
            reason = f"points of {records.dimensions} coordinates; this model knows {self.dimensions}"
        elif records.has_pen and not self.has_pen:
            reason = "a pen; this model knows sequences without one"
        elif self.has_pen and not records.has_pen:
            reason = "no pen; this model knows drawings"
        if reason or self.max_points is None:
            return [reason] * len(records)
        longest = self.max_points
        return [
            f"{n:,} points; this model knows {longest:,} at most" if n > longest else ""
            for n in self.preprocess(records).num_points.tolist()
        ]

    def condition(self, wanted: Mapping[str, Any]) -> State:  # noqa: D102
        state: State = {}
        for name, value in wanted.items():
            if name == "class" and self.classes:
                state["class"] = class_numbers(value, self.classes)
            elif name == "points" and self.points:
                points = torch.as_tensor(value).float()
                state["points"] = points[None] if points.dim() == 2 else points
            else:
                known = ["class"] * bool(self.classes) + ["points"] * self.points
                raise UserError(
                    f"{name!r} cannot be asked of this model, which was trained with"
                    f" {' and '.join(known) or 'no condition'}"
                )
        return state

    def complete(self, asked: State, random: Random) -> State:
        """Return `asked` with classes drawn as often as they occur, if the model knows some and none is asked for."""
        if not self.classes or "class" in asked:
            return asked
        return {**asked, "class": self.sizes.sample_class(random)}

    def decode(self, state: State, mask: Tensor, condition: State | None = None) -> list[Sketch]:
        """Return sketches around the origin, in the units of the training data."""
        points, ends = from_state(state, mask, self.scale, self.position_scale, self.representation)
        words = self.class_words(condition, len(points))
        return [Sketch(x, pen, word, has_pen=self.has_pen) for x, pen, word in zip(points, ends, words, strict=True)]

    @classmethod
    def read_parts(cls, paths: Sequence[str | Path], task: str) -> tuple[Any, Any]:  # noqa: D102
        return edit.read_parts(paths, task)

    def parts(  # noqa: D102
        self, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None, **_: Any
    ) -> list[Part]:
        return edit.parts(self, records, task, keep, side)

    def fields(self) -> dict[str, int]:
        """Return the number of features of each field."""
        found = {"stroke": self.dimensions}
        if self.representation == "both":
            found["position"] = self.dimensions
        if self.has_pen:
            found["pen"] = 1 if self.pen == "gaussian" else 2
        return found

    def process(self) -> JointProcess:  # noqa: D102
        processes: dict[str, Process] = {}
        for name, features in self.fields().items():
            if name == "pen" and self.pen == "categorical":
                stationary = [1 - self.pen_share, self.pen_share]
                processes[name] = CategoricalProcess(Cosine(), stationary, Euclidean(2))
            else:
                processes[name] = GaussianProcess(Cosine(), Euclidean(features))
        return JointProcess(processes, clock="stroke")

    def network(self, preset: str = "small", kind: str | None = None) -> nn.Module:  # noqa: D102
        conditions: dict[str, Any] = {"class": len(self.classes)} if self.classes else {}
        if self.points:
            conditions["points"] = {"points": self.dimensions}
        complement = {"offset": "sum", "absolute": "difference", "both": None}[self.representation]
        return build_network(kind, preset, self.fields(), conditions, complement)

    def denoiser(self, preset: str = "small", network: str | None = None) -> Denoiser:
        """Return the default: v of offsets, probabilities of the pen."""
        rows = {name: "v" for name in self.fields()}
        scale = {}
        if self.has_pen and self.pen != "gaussian":
            rows["pen"] = "logits"
        if self.pen == "logits" and self.has_pen:
            scale["pen"] = round(math.sqrt(self.pen_share * (1 - self.pen_share)), 6)
        return Denoiser(self.network(preset, network), self.process(), rows, scale)

    def draw_sizes(  # noqa: D102
        self, random: Random, low: int | None = None, high: int | None = None, condition: State | None = None
    ) -> Tensor:
        return self.sizes.sample(random, (condition or {}).get("class"), low, high)

    def log_size(self, sizes: Tensor) -> Tensor:  # noqa: D102
        return self.sizes.log_prob(sizes)

    def log_volume(self, sizes: Tensor) -> Tensor:
        """Return N D log(scale), for densities of points in the units of the data, given the centre of the box."""
        scale = self.position_scale if self.representation == "absolute" else self.scale
        return sizes.double() * self.dimensions * math.log(scale)

    def augmented(self, state: State, mask: Tensor | None, random: Random) -> State:
        """Return the state with each axis scaled at random, by 1 - augment to 1 + augment."""
        if not self.augment:
            return state
        u = random.uniform((len(random.indices), 1, self.dimensions))
        factor = 1 + self.augment * (2 * u - 1)
        return {n: x * factor.to(x) if n in ("stroke", "position") else x for n, x in state.items()}

    def protocol(self) -> dict[str, Any]:  # noqa: D102
        return {name: getattr(self, name) for name in PROTOCOL}

    def labels(self, records: SketchArrays) -> list[str]:
        """Return the word of each sketch."""
        return records.words.tolist()

    def valid(self, record: Sketch) -> bool:
        """Return whether a sketch is finite and has two distinct points."""
        return bool(np.isfinite(record.points).all() and np.ptp(record.points, axis=0).any())

    def identity(self, record: Sketch) -> str:
        """Return :func:`identity`."""
        return identity(record)

    def known(self, records: SketchArrays) -> set[str]:
        """Return identities of examples as the model knows them; see :func:`identity`."""
        return {identity(sketch) for sketch in self.preprocess(records)}

    def write(self, records: list[Sketch], path: str | Path) -> int:  # noqa: D102
        return write_sketches(records, Path(path))

    @classmethod
    def write_examples(cls, records: SketchArrays, path: str | Path) -> None:  # noqa: D102
        write_sketches(list(records), Path(path))

    @classmethod
    def gather(cls, records: SketchArrays | Sequence[Sketch]) -> SketchArrays:  # noqa: D102
        return records if isinstance(records, SketchArrays) else SketchArrays.from_sketches(records)

    @classmethod
    def evaluate(cls, generated: SketchArrays, reference: SketchArrays, **options: Any) -> Table:
        """Return the metrics; the reference and the training data are prepared by the protocol of the model first.

        Raises:
            UserError: for a number out of range, sets of unlike kinds, or if no real sketch is as short as the protocol
                has it.
        """
        from gendiff.modalities.sketches import metrics

        sets = [one for one in (generated, reference, options.get("training")) if one is not None and len(one)]
        kinds = {f"{one.dimensions} coordinates with{'out' * (not one.has_pen)} a pen" for one in sets}
        if len(kinds) > 1:
            raise UserError(f"sketches can be compared with their own kind only, not {' and '.join(sorted(kinds))}")
        draft = cls({"": {1: 1}}, **{name: options.pop(name) for name in PROTOCOL if name in options})
        _check(draft.simplify, draft.resample, draft.max_points)
        training = options.pop("training", None)
        real = draft._comparable(reference)
        known = None if training is None else draft._comparable(training)
        table = metrics.evaluate(generated, real, training=known, **options)
        if left := len(reference) - len(real):
            longer = f"{left:,} of {len(reference):,} of the reference, of more than {draft.max_points:,} points"
            table = replace(table, facts={**table.facts, "left out": longer})
        return table

    def _comparable(self, records: SketchArrays) -> SketchArrays:
        """Return real sketches as the model knows them, without those that are too long for it."""
        ready = self.preprocess(records)
        if self.max_points is not None:
            ready = ready.select(ready.num_points <= self.max_points)
            if len(records) and not len(ready):
                raise UserError(f"no real sketch has at most {self.max_points:,} points; see --max-points")
        return ready

    def draw(self, records: list[Sketch], path: str | Path, **options: Any) -> None:  # noqa: D102
        from gendiff.modalities.sketches import draw

        sheet: Any = draw.sheet_svg if ending(path) == ".svg" else draw.sheet_png
        sheet(records, Path(path), **options)

    films = (".gif", ".svg", ".png")

    def film(self, frames: list[list[Sketch]], path: str | Path) -> None:
        """Draw how sketches come out of noise: moving as .gif or .svg, side by side as .png."""
        from gendiff.modalities.sketches import draw

        films: dict[str, Any] = {".gif": draw.film_gif, ".svg": draw.film_svg, ".png": draw.film_strip_png}
        films[ending(path)](frames, Path(path))

    def picture(self, record: Sketch) -> tuple[str, str, str]:  # noqa: D102
        from gendiff.modalities.sketches.draw import svg
        from gendiff.wording import many

        caption = f"{record.word} · " * bool(record.word) + many(len(record), "point")
        return svg(record), caption + f", {many(int(record.pen.sum()), 'stroke')}" * record.has_pen, ""


def _rounded(scale: float) -> float:
    """Six decimals of a scale, or six digits if it is small; 1 in place of 0."""
    return round(scale, max(6, 5 - math.floor(math.log10(scale)))) if scale > 0 else 1.0


def _check(simplify: float | None, resample: float | None, max_points: int | None, augment: float = 0.0) -> None:
    for option, value, least in (("simplify", simplify, 0), ("resample", resample, 0), ("max-points", max_points, 1)):
        if value is not None and not value >= least:
            raise UserError(f"--{option} must be at least {least}, got {value:g}")
    if not 0 <= augment < 1:
        raise UserError(f"--augment must be from 0 to below 1, got {augment:g}")


def identity(sketch: Sketch) -> str:
    """Return the fingerprint of a sketch: its strokes to an eighth of a percent of its box."""
    x = sketch.points - sketch.points.min(0)
    grid = np.rint(800 * x / max(float(x.max()), 1e-12)).astype(np.int64)
    return hashlib.sha256(grid.tobytes() + sketch.pen.tobytes()).hexdigest()
