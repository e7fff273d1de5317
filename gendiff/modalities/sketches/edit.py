r"""What an edit of a drawing starts from: strokes that stay, a rough draft, two drawings, or a cloud of points.

Results stand where the input stands, at its scale, and strokes that stay are the input's own numbers, whatever the
model saw of them (simplified points, in its unit, as 32-bit numbers). What is healed lies over the rough drawing.

A model knows drawings of the size of its training data. An input of a size that a drawing (or, to be completed, a
piece of one) can have there is taken to be in the same unit. Any other is scaled to the size of a whole drawing. Where
that is wrong, `side` says how large the finished drawing is to be in the unit of the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendiff.files import UserError, ending
from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.encode import agree, to_ragged
from gendiff.modalities.sketches.points import PICTURES, POINTS, box, cloud, condition, read_ink
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.modality import Part, Task
from gendiff.ops import State
from gendiff.wording import many

if TYPE_CHECKING:
    from gendiff.modalities.sketches.modality import Sketches


COMPLETION: dict[str, Any] = {"levels": 7, "agreement": 2.0}
"""How what is new is made to fit what stays."""

TASKS = {
    "complete": Task("keep", "strokes of the input stay as they are, the rest is drawn after them", **COMPLETION),
    "continue": Task("keep", "points of the input stay as they are, and the last stroke may go on", **COMPLETION),
    "heal": Task("noise", "a clean drawing from a rough one, in its place, point by point", strength=0.2),
    "vary": Task("noise", "variations of a drawing", strength=0.5),
    "interpolate": Task("path", "the way from one drawing to another"),
    "trace": Task("ask", "strokes through the ink of a picture (.png, .jpg), a drawing, or a cloud of points"),
}

TRUST = 0.5, 50.0
"""How much steps count beside places, at least and at most, when a healed drawing is laid over the rough one."""

WHOLE, PIECE = 2.0, 8.0
"""A drawing may be so many times smaller, or larger, than is typical, and a piece of one so many times smaller."""


def read_parts(paths: Sequence[str | Path], task: str) -> tuple[SketchArrays, Any]:
    """Read the drawings of an edit; to be traced, also pictures, whose ink becomes points without a pen.

    Raises:
        UserError: for a record that cannot be used, or pictures beside other files.
    """
    from gendiff.modalities.sketches.read import read_sketches

    pictures = [Path(path) for path in paths if ending(path) in PICTURES]
    if not pictures or task != "trace":
        try:
            return read_sketches(paths)
        except UserError as error:  # here every record counts
            raise UserError(str(error).removesuffix("; leave such records out with --on-error skip")) from None
    if len(pictures) < len(paths):
        raise UserError("trace takes one picture or one drawing at a time")
    clouds = [read_ink(path) for path in pictures]
    report = InkReport(
        [f"{path.name}: {many(len(points), 'point')} of ink" for path, points in zip(pictures, clouds, strict=True)]
    )
    return SketchArrays(np.array([len(points) for points in clouds]), np.concatenate(clouds)), report


@dataclass(frozen=True)
class InkReport:
    """What there is to say of pictures that were read.

    Attributes:
        said: A line for each.
    """

    said: list[str]

    def lines(self) -> list[str]:
        """Return the lines."""
        return self.said


def parts(
    adapter: Sketches, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None
) -> list[Part]:
    """Return what an edit starts from; see :meth:`gendiff.modality.Modality.parts`.

    Arguments:
        adapter: The adapter of the model.
        records: Drawings as they were read, or a list of :class:`Sketch`.
        task: "complete", "continue", "heal", "vary", "interpolate" or "trace".
        keep: Numbers of the strokes that stay, from 1; they come in the order of the input. All if None.
        side: Larger side of the finished drawing in the unit of the input.

    Raises:
        UserError: if the number of drawings, of strokes or of points does not fit, or the model cannot do it.
    """
    arrays = records if isinstance(records, SketchArrays) else SketchArrays.from_sketches(records)
    wanted = 2 if TASKS[task].kind == "path" else 1
    if len(arrays) != wanted:
        hint = "; --which says which of them" if len(arrays) > wanted else ""
        raise UserError(f"{task} takes {many(wanted, 'drawing')}, got {len(arrays):,}{hint}")
    if side is not None and not 0 < side < math.inf:
        raise UserError(f"--side must be a positive number, got {side:g}")
    if task == "trace":
        return [replace(Drawing.trace(adapter, arrays[0], side), task=task)]
    if reason := adapter.unknown(arrays)[0]:
        raise UserError(f"the input has {reason}")
    stays = TASKS[task].kind == "keep"
    if stays:
        found = [Drawing.prefix(adapter, _strokes(arrays[0], keep), side, goes_on=task == "continue")]
    else:
        found = [Drawing.draft(adapter, sketch, side, lies=task == "heal") for sketch in arrays]
    longest = adapter.sizes.high
    for part in found:
        if len(part) + stays > longest:
            raise UserError(
                f"the input has {len(part):,} points, and the model knows drawings of at most {longest:,}"
                + (", the rest included; keep fewer strokes" if stays else "; simplify it")
                + ", or train on longer ones"
            )
    return [replace(part, task=task) for part in found]


@dataclass(frozen=True)
class Drawing(Part):
    """A drawing that an edit starts from: all of it stays, or nothing.

    Arguments:
        sketch: The input, in its own unit, as far as it stays; or all of it.
        state: What the model sees of it.
        unit: Units of the input in one of the training data.
        stays: Whether it stays.
        known: Of one that stays, which entries are known: not the first offset, which is from the centre of the whole,
            nor, if its last stroke may go on, whether that ends.
        adrift: Fields of positions, of one that stays: they are around the centre of the whole, which is not known, so
            what is known of them moves together.
        condition: Its class, if the model knows it, or the cloud that it is.
        order: See :class:`gendiff.modality.Part`.
        rough: Where the points of a rough drawing lie, as the model sees it, around the centre of its box; what comes
            of it is laid over them.
        note: What to say of its scale, or "".
        task: The task, which is noted on what comes of it.
    """

    sketch: Sketch
    state: State
    unit: float
    stays: bool = False
    known: Mapping[str, Tensor] = field(default_factory=dict)
    adrift: tuple[str, ...] = ()
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    order: Tensor | None = None
    rough: NDArray[np.float64] | None = None
    note: str = ""
    task: str = ""

    @classmethod
    def draft(cls, adapter: Sketches, sketch: Sketch, side: float | None, lies: bool = False) -> Drawing:
        """Return a drawing all of which may change, but not where it `lies`, if so."""
        unit, _ = _unit(adapter, sketch, side)  # it is whole: as large as a finished drawing, in whatever unit
        seen = adapter.preprocess(_scaled(sketch, unit))
        rough = geometry.centred(seen) if lies else None
        return cls(sketch, _state(adapter, seen), unit, condition=_class(adapter, sketch), rough=rough)

    @classmethod
    def prefix(cls, adapter: Sketches, sketch: Sketch, side: float | None, goes_on: bool = False) -> Drawing:
        """Return strokes that stay while others are drawn after them; the last one may go on if `goes_on`."""
        unit, note = _unit(adapter, sketch, side, PIECE)
        state = _state(adapter, _seen(adapter, _scaled(sketch, unit)))
        number, known = torch.arange(len(state["stroke"])), {}
        if adapter.representation != "absolute":
            known["stroke"] = number > 0
        if goes_on and adapter.has_pen:
            known["pen"] = number < len(number) - 1
        adrift = {"offset": (), "absolute": ("stroke",), "both": ("position",)}[adapter.representation]
        return cls(sketch, state, unit, True, known, adrift, _class(adapter, sketch), note=note)

    @classmethod
    def trace(cls, adapter: Sketches, sketch: Sketch, side: float | None) -> Drawing:
        """Return a cloud to draw strokes through: points along a drawing, or those of a sequence without a pen."""
        if not adapter.points:
            raise UserError("trace needs a model that was told clouds of points; train with --condition points")
        if sketch.points.shape[1] != adapter.dimensions:
            raise UserError(
                f"the input has points of {sketch.points.shape[1]} coordinates; this model knows {adapter.dimensions}"
            )
        unit, note = _unit(adapter, sketch, side)
        arrays = SketchArrays.from_sketches([sketch])
        points = cloud(arrays, POINTS)[0] if sketch.has_pen else condition(sketch.points, POINTS)
        told = torch.from_numpy(points / unit / adapter.position_scale).float()
        return cls(sketch, {}, unit, condition={**_class(adapter, sketch), "points": told[None]}, note=note)

    def match(self, other: Drawing) -> tuple[Drawing, Drawing]:  # type: ignore[override]
        """Return both, point by point in the order in which they are drawn.

        The points of the one with fewer have partners evenly among those of the other. What lies between comes in one
        by one, evenly again: number k at the golden ratio times k, modulo 1.
        """
        few, most = sorted((len(self), len(other)))
        partners = torch.linspace(0, most - 1, few).round().long()
        rest = torch.ones(most, dtype=torch.bool).index_fill_(0, partners, False).nonzero()[:, 0]
        late = (torch.arange(len(rest)) * (math.sqrt(5) - 1) / 2 % 1).argsort()
        order = torch.cat([partners, rest[late.argsort()]])
        first, second = (
            replace(part, order=order if len(part) == most else torch.arange(few)) for part in (self, other)
        )
        return first, second

    def place(self, records: list[Any], **facts: Any) -> None:
        """Move drawings to where the input stands, at its scale; strokes that stay are the input's own numbers.

        The task is noted as `edit`, and the number of points that stay, the first ones, as `kept`. A last stroke that
        goes on ends where the model has it. What is healed takes its steps from the model and its places from the
        input: errors of steps add up, and would lead away from it.
        """
        seen, stay = len(self), len(self.sketch)
        for record in records:
            points = record.points * self.unit
            if self.stays:
                last = self.sketch.points[-1]
                points = np.concatenate([self.sketch.points, points[seen:] + (last - points[seen - 1])])
                goes_on = "pen" in self.known or not record.has_pen
                ends = self.sketch.pen[:-1], record.pen[seen - 1 :] if goes_on else [True, *record.pen[seen:]]
                record.pen = np.concatenate(ends)
                facts["kept"] = stay
            else:
                if self.rough is not None:
                    steps = np.diff(record.points, axis=0, prepend=0)
                    steps[0] = self.rough[0]
                    points = agree(steps, self.rough, trust(steps, self.rough)) * self.unit
                points = points + box(self.sketch.points)[0]
            record.points = points
            record.word = record.word or self.sketch.word
            record.facts.update(facts, edit=self.task)

    def remark(self, records: list[Any]) -> str:
        """Return how the input was taken: its scale, its class, and whether its last stroke goes on."""
        asked = "class" in self.condition and all(record.word == self.sketch.word for record in records)
        word = f"class {self.sketch.word} as the input has it; --class asks for another" if asked else ""
        ends = ""
        if "pen" in self.known:
            number = sum(not record.pen[len(self.sketch) - 1] for record in records)
            ends = f"the last stroke goes on in {number:,} of {len(records):,}"
        return "; ".join(filter(None, [self.note, word, ends]))


def trust(steps: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    """Return how much steps, (n, D), count beside places, (n, D): the variance of a place over that of a step.

    Between neighbours the errors of places, of variance v, make differences of the places other than the steps: by the
    variance 2 v, and the covariance -v with the next. What is left is the variance of the steps.
    """
    wrong = np.diff(places, axis=0) - steps[1:]
    total, place = float((wrong**2).mean()) if len(wrong) else 0.0, 0.0
    if len(wrong) > 1:
        place = max(-float((wrong[1:] * wrong[:-1]).mean()), 0.0)
    return float(np.clip(place / max(total - 2 * place, 0.01 * total, 1e-12), *TRUST))


def _strokes(sketch: Sketch, keep: Sequence[int] | None) -> Sketch:
    """Return a drawing with some of its strokes, in its order."""
    if keep is None:
        return sketch
    total = int(sketch.pen.sum())
    if not len(keep):
        raise UserError("--keep names no stroke; name those that stay, or leave it out to keep all")
    if wrong := [number for number in keep if not 1 <= number <= total]:
        raise UserError(f"--keep names stroke {wrong[0]}, and the input has strokes 1 to {total}")
    stroke = np.cumsum(sketch.pen) - sketch.pen + 1
    stay = np.isin(stroke, np.asarray(keep))
    return Sketch(sketch.points[stay], sketch.pen[stay], sketch.word, None, dict(sketch.facts), sketch.has_pen)


def _typical(adapter: Sketches) -> float:
    """Return the larger side of a typical drawing of the training data.

    Of points that fill a square of side a evenly, a coordinate has the deviation :math:`a / \\sqrt{12}`.
    """
    return geometry.BOX if adapter.boxed else math.sqrt(12) * adapter.position_scale


def _unit(adapter: Sketches, sketch: Sketch, side: float | None, smaller: float = WHOLE) -> tuple[float, str]:
    """Return how many units of the input are one of the training data, and what is to be said of it."""
    own, typical = box(sketch.points)[1], _typical(adapter)
    if side is not None:
        if side < own:
            raise UserError(f"--side {side:g} is too small: the larger side of the input itself is {own:g}")
        return side / typical, ""
    if smaller == WHOLE and adapter.boxed and own:
        return own / typical, ""
    if not own or typical / smaller <= own <= typical * WHOLE:
        return 1.0, ""
    note = (
        f"the larger side of the input is {own:.4g} units of its file, and that of drawings the model knows about"
        f" {typical:.3g}: the input is taken to be as large as a finished drawing; --side N says that a finished one is"
        " to have N of these units"
    )
    return own / typical, note


def _scaled(sketch: Sketch, unit: float) -> SketchArrays:
    """Return a drawing in the unit of the training data."""
    arrays = SketchArrays.from_sketches([sketch])
    return geometry.moved(arrays, arrays.points / unit)


def _seen(adapter: Sketches, piece: SketchArrays) -> SketchArrays:
    """Return a piece of a drawing as the model sees it; its tolerances are of the whole, not of the piece."""
    own = box(piece.points)[1]
    if not own:
        return piece
    share = _typical(adapter) / own
    piece = geometry.resample(piece, adapter.resample * share) if adapter.resample else piece
    return geometry.simplify(piece, adapter.simplify * share) if adapter.simplify else piece


def _state(adapter: Sketches, arrays: SketchArrays) -> State:
    return to_ragged(arrays, adapter.scale, adapter.position_scale, adapter.representation, adapter.pen).fields


def _class(adapter: Sketches, sketch: Sketch) -> dict[str, Tensor]:
    """Return the class of a drawing as a model is told it, if it knows it."""
    return {"class": torch.tensor([adapter.classes.index(sketch.word)])} if sketch.word in adapter.classes else {}
