r"""What an edit of a picture starts from: pixels that stay, a rough picture, two pictures, or one to be restored.

An input is what the model knows: of its size, with its channels. It is converted where nothing is lost (gray to RGB, an
alpha channel that hides nothing), and otherwise only as the training data were (`--resize`, `--channels`). Pixels that
stay are the bytes of the input.

Of a model that draws images anything can be asked; one that restores them does what it was trained for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gendiff.files import UserError
from gendiff.modalities.images.encode import to_state
from gendiff.modalities.images.records import Image, ImageArrays
from gendiff.modalities.images.records import kind as form
from gendiff.modalities.images.restore import enlarge, gray, hide
from gendiff.modality import Part, Task
from gendiff.ops import State

if TYPE_CHECKING:
    from gendiff.modalities.images.modality import Images


HOLES = ("mask", "box")
"""What says where to fill in."""

FILLED: dict[str, Any] = {"uses": HOLES, "levels": 20, "resamples": 9, "agreement": 2.0}
"""How what is new is made to fit what stays."""

DRAWN = {
    "inpaint": Task("keep", "what a mask, a box or transparency says is drawn, other pixels stay", **FILLED),
    "uncrop": Task("keep", "a smaller picture stays in the middle, what is around it is drawn", **FILLED),
    "vary": Task("noise", "variations of a picture, or a good one from a rough one", strength=0.4),
    "like": Task("follow", "new pictures whose blocks have the means of those of a given one", uses=("factor",)),
    "interpolate": Task("path", "the way from one picture to another"),
}  # fmt: skip
"""What can be asked of a model that draws images."""

RESTORED = {
    "enlarge": Task("ask", "a small picture made large, by a model of --system sr3"),
    "colourise": Task("ask", "a gray picture in colours, by a model of --system palette"),
    "repair": Task("ask", "a picture that JPEG has damaged made good, by a model of --system palette"),
    "inpaint": replace(DRAWN["inpaint"], kind="ask"),
    "uncrop": replace(DRAWN["uncrop"], kind="ask"),
}
"""What models restore, by the words of :data:`gendiff.modalities.images.restore.DEGRADATIONS`."""

TASKS = RESTORED | DRAWN

CLEAR = 128
"""Where alpha is below it, a pixel is to be drawn, and where a mask is not."""

BLOCKS = 4
"""Blocks along the shorter side of a picture, at least, whose means stay by default."""


def read_parts(paths: Sequence[str | Path], task: str) -> tuple[Any, Any]:
    """Read the pictures of an edit, which need not be alike.

    Raises:
        UserError: for one that cannot be used.
    """
    read = [_read(path) for path in paths]
    if len(read) == 1:
        return read[0]
    return [image for arrays, _ in read for image in arrays], _Reports([each for _, each in read])


@dataclass
class _Reports:
    """What readings found."""

    reports: Sequence[Any]

    def lines(self) -> list[str]:
        return [line for report in self.reports for line in report.lines()]

    def to_json(self) -> dict[str, Any]:
        return {"files": [facts for report in self.reports for facts in report.to_json()["files"]]}


def _read(path: str | Path) -> tuple[ImageArrays, Any]:
    from gendiff.modalities.images.read import read_images

    try:
        return read_images([path])
    except UserError as error:  # options that gendiff edit has not
        raise UserError(re.sub(r"; (leave such files out|make all alike|--channels rgb) .*", "", str(error))) from None


def tasks(restored: Sequence[str]) -> dict[str, Task]:
    """Return the tasks of a model that restores what is named, or of one that draws images."""
    return {word: RESTORED[word] for word in restored} if restored else DRAWN


def usual(adapter: Images, records: Any, options: Mapping[str, Any]) -> str:
    """Return the task that an input asks for.

    What has holes is filled in, what is too small continued; then a model that restores does what it can, gray pictures
    before others, and one that draws makes variations.

    Arguments:
        adapter: The adapter of the model.
        records: Images.
        options: What is known of what is to be done.
    """
    if not len(records):
        return next(iter(adapter.tasks))  # which refuses it
    first: Image = records[0]
    small = "resize" not in adapter.reading and _within(first.size, adapter.size)
    asked = {
        "uncrop": "side" in options or small,
        "inpaint": not options.keys().isdisjoint(HOLES) or bool(_clear(adapter, first).any()),
        "like": "factor" in options,
        "colourise": _is_gray(first.pixels),
        "enlarge": True,
        "repair": True,
        "vary": True,
    }
    return next(word for word, wanted in asked.items() if wanted and word in adapter.tasks)


def parts(
    adapter: Images,
    records: Any,
    task: str,
    keep: Sequence[int] | None = None,
    side: float | None = None,
    mask: str | Path | ArrayLike | None = None,
    box: str | Sequence[int] | None = None,
    factor: int | None = None,
) -> list[Part]:
    """Return what an edit starts from, one part an image; see :meth:`gendiff.modality.Modality.parts`.

    Arguments:
        adapter: The adapter of the model.
        records: Images as they were read, or a list of :class:`Image`.
        task: A word of the model's tasks.
        keep: Refused: pixels have no numbers.
        side: Of "uncrop": larger side of the finished picture in pixels of the input, which is made smaller for it; by
            default that of the model, and the input stays as it is.
        mask: Of "inpaint" and "uncrop": what is to be drawn, True, of an input, (H, W), or of each of k inputs, (k, H,
            W); or the file of a picture, or of k, in which it is white. Besides it and `box`, what is transparent is to
            be drawn, if the model has no transparency.
        box: Of the same: a rectangle that is to be drawn, "x,y,width,height" in pixels from the top left.
        factor: Of "like": side of the blocks in pixels.

    Raises:
        UserError: if the number of images, their size or their channels do not fit, or nothing or all is to be drawn.
    """
    images = list(records)
    if keep is not None:
        raise UserError("--keep names elements, and pixels have no numbers; --mask or --box says what is to be drawn")
    if side is not None and task != "uncrop":
        raise UserError("--side belongs to uncrop; other tasks take pictures of the model's size")
    if not images or (adapter.tasks[task].kind == "path" and len(images) != 2):
        raise UserError(
            f"{task} takes {'two pictures' if images else 'a picture'}, got {len(images):,}; --which says which"
        )
    if task in ("inpaint", "uncrop"):
        found = [
            Picture.around(adapter, image, hole, task, side)
            for image, hole in zip(images, _holes(images, mask, box), strict=True)
        ]
    else:
        found = [Picture.take(adapter, image, task) for image in images]
    if task == "like":
        found = [replace(part, factor=blocks(adapter.size, factor)) for part in found]
    classes = adapter.class_condition([part.image.word for part in found]).get("class", torch.tensor([]))
    if (classes >= 0).any():
        found = [
            replace(part, condition={**part.condition, "class": number[None]})
            for part, number in zip(found, classes, strict=True)
        ]
    return list(found)


@dataclass(frozen=True)
class Picture(Part):
    """A picture that an edit starts from.

    Arguments:
        image: The input as the model sees it.
        state: The same as a field, (C, H, W).
        task: The task, which is noted on what comes of it.
        free: What is to be drawn, (H, W); the rest stays. Nothing stays if it is None.
        condition: What the network is told: the input, if the model restores it, and its class, if it knows it.
        factor: Side of the blocks whose means stay, where this is asked for.
        bounds: Of pixels in units of the state.
        note: What to say of how the input was taken, or "".
    """

    image: Image
    state: State
    task: str
    free: NDArray[np.bool_] | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    factor: int = 1
    bounds: tuple[float, float] | None = (-1.0, 1.0)
    note: str = ""

    whole = True

    def __len__(self) -> int:
        return 1

    @property
    def known(self) -> Mapping[str, Tensor]:  # type: ignore[override]
        """Which pixels stay, (1, H, W)."""
        return {} if self.free is None else {"pixel": torch.from_numpy(~self.free)[None]}

    @classmethod
    def take(cls, adapter: Images, image: Image, task: str) -> Picture:
        """Return a picture all of which may change, or that is to be restored."""
        factor = adapter.factor if task == "enlarge" else 1
        size = adapter.size[0] // factor, adapter.size[1] // factor
        pixels, note = seen(adapter, image, size, resize=task != "enlarge")
        x = to_state(pixels[None])
        told = {"enlarge": lambda: enlarge(x, factor), "colourise": lambda: gray(x), "repair": lambda: x}
        condition = {"image": told[task]()} if task in told else {}
        return cls(replace(image, pixels=pixels), {"pixel": x[0]}, task, condition=condition, note=note)

    @classmethod
    def around(
        cls, adapter: Images, image: Image, hole: NDArray[np.bool_], task: str, side: float | None = None
    ) -> Picture:
        """Return a picture of which pixels stay, others are to be drawn.

        Arguments:
            adapter: The adapter of the model.
            image: The input.
            hole: What is to be drawn of it besides what is transparent, (h, w).
            task: "inpaint", or "uncrop": then all around it, too.
            side: Of "uncrop": larger side of the finished picture in pixels of the input.
        """
        if (clear := _clear(adapter, image)).any():
            hole, image = hole | clear, replace(image, pixels=image.pixels[..., :-1])
        if task == "uncrop":
            image, hole = _in_the_middle(adapter, image, hole, side)
        pixels, note = seen(adapter, image, adapter.size)
        free = _resized(hole, adapter.size)
        where = image.name or "the input"
        if not free.any():
            more = "; --side is the larger side of the finished picture, in pixels of the input" * (task == "uncrop")
            raise UserError(f"{where}: nothing is to be drawn; --mask or --box says what, or transparency{more}")
        if free.all():
            raise UserError(f"{where}: no pixel stays; gendiff sample draws whole images")
        x, unknown = to_state(pixels[None]), torch.from_numpy(free)[None, None]
        condition = {"known": hide(x, unknown)} if adapter.tasks[task].kind == "ask" else {}
        return cls(replace(image, pixels=pixels), {"pixel": x[0]}, task, free, condition, note=note)

    def match(self, other: Picture) -> tuple[Picture, Picture]:  # type: ignore[override]
        """Return both: pixels answer to one another."""
        return self, other

    def place(self, records: list[Any], **facts: Any) -> None:
        """Put the bytes that stay into images, and note the task as `edit` and the name of the input as `input`.

        What has no class gets that of the input, but for what lies between two.
        """
        for record in records:
            if self.free is not None:
                record.pixels = np.where(self.free[..., None], record.pixels, self.image.pixels)
            if self.task != "interpolate":
                record.word = record.word or self.image.word
            record.facts.update(facts, edit=self.task, **({"input": self.image.name} if self.image.name else {}))

    def remark(self, records: list[Any]) -> str:
        """Return how the input was taken: its size, and its class."""
        asked = "class" in self.condition and all(record.word == self.image.word for record in records)
        word = f"class {self.image.word} as the input has it; --class asks for another" if asked else ""
        return "; ".join(filter(None, [self.note, word]))


def blocks(size: Sequence[int], factor: int | None = None) -> int:
    """Return the side of the blocks whose means stay: by default the largest with :data:`BLOCKS` along each side.

    Raises:
        UserError: for blocks that do not tile an image, or are no larger than a pixel.
    """
    sides = [n for n in range(2, max(min(size), 2) + 1) if not any(side % n for side in size)]
    if not sides or (factor is not None and factor not in sides):
        known = f"take {' or '.join(map(str, sides))}" if sides else "no other does, so like cannot be had"
        raise UserError(f"--factor {factor or 2} does not tile images of {size[1]} x {size[0]} pixels; {known}")
    few = [n for n in sides if min(size) // n >= BLOCKS]
    return factor or (few[-1] if few else sides[0])


def seen(adapter: Images, image: Image, size: Sequence[int], resize: bool = True) -> tuple[NDArray[np.uint8], str]:
    """Return the pixels of an image as a model knows them, and what there is to say of that.

    Arguments:
        adapter: The adapter of the model.
        image: The image.
        size: Height and width.
        resize: Whether it may be brought there, if the training data were.

    Raises:
        UserError: if it has another size, or channels that cannot be converted.
    """
    from gendiff.modalities.images.read.picture import convert

    mine, reading = (*size, adapter.channels), adapter.reading
    pixels, found, note = image.pixels, without_loss(image.pixels, adapter.channels), ""
    if found is None and "channels" in reading:
        found = convert(pixels[None], reading["channels"])[0]
    if found is not None and image.size != tuple(size) and resize and "resize" in reading:
        note = f"the input was brought to {form(mine)} pixels, as the training data were"
        found = convert(found[None], None, (size[0], size[1]))[0]
    if found is None or found.shape != mine:
        ways = {
            "enlarge": f" (to enlarge them {adapter.factor} times)",
            "uncrop": "; --task uncrop draws what is around a smaller one" * _within(image.size, size),
            "inpaint": "; --task inpaint draws what is transparent" * bool(_clear(adapter, image).any()),
        }
        hint = next((ways[word] for word in ways if word in adapter.tasks and ways[word]), "")
        raise UserError(
            f"{image.name or 'the input'}: has {form(pixels.shape)} pixels; this model takes {form(mine)}{hint}"
        )
    return found, note


def without_loss(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8] | None:
    """Return pixels (H, W, C) in so many channels; None if something would be lost: colours, or transparency."""
    clear = pixels.shape[2] % 2 == 0
    colours, alpha = (pixels[..., :-1], pixels[..., -1:]) if clear else (pixels, np.full_like(pixels[..., :1], 255))
    if (channels % 2 and (alpha < 255).any()) or (channels < 3 and not _is_gray(colours)):
        return None
    count = 3 if channels >= 3 else 1
    wanted = colours[..., :count] if colours.shape[2] >= count else colours.repeat(count, 2)
    return wanted if channels % 2 else np.concatenate([wanted, alpha], 2)


def _is_gray(pixels: NDArray[np.uint8]) -> bool:
    """Whether all colours of pixels (H, W, C) are gray."""
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    return bool((colours == colours[..., :1]).all())


def _clear(adapter: Images, image: Image) -> NDArray[np.bool_]:
    """Where an image is transparent, (H, W), for a model that knows no transparency."""
    if adapter.channels % 2 == 0 or image.channels % 2:
        return np.zeros(image.size, bool)
    return image.pixels[..., -1] < CLEAR


def _within(size: Sequence[int], room: Sequence[int]) -> bool:
    return tuple(size) != tuple(room) and all(own <= wide for own, wide in zip(size, room, strict=True))


def _resized(hole: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.bool_]:
    """Return a mask, (h, w), at the size of the picture that it is of."""
    from gendiff.modalities.images.read.picture import convert

    return convert((255 * hole.astype(np.uint8))[None, ..., None], None, (size[0], size[1]))[0, ..., 0] >= CLEAR


def _in_the_middle(
    adapter: Images, image: Image, hole: NDArray[np.bool_], side: float | None
) -> tuple[Image, NDArray[np.bool_]]:
    """Return a picture in the middle of one of the model's size, and what is to be drawn of that."""
    from gendiff.modalities.images.read.picture import convert

    (height, width), where = adapter.size, image.name or "the input"
    if side is not None:
        if not side >= max(image.size):
            raise UserError(f"--side {side:g} is too small: the larger side of {where} itself is {max(image.size)}")
        tall, wide = (max(1, round(own * max(adapter.size) / side)) for own in image.size)
        image, hole = (
            replace(image, pixels=convert(image.pixels[None], None, (tall, wide))[0]),
            _resized(hole, (tall, wide)),
        )
    tall, wide = image.size
    if tall > height or wide > width:
        raise UserError(
            f"{where}: has {form(image.pixels.shape)} pixels, more than the {width} x {height} of this model; --side is"
            " the larger side of the finished picture, in pixels of the input"
        )
    top, left = (height - tall) // 2, (width - wide) // 2
    pixels, free = np.zeros((height, width, image.channels), np.uint8), np.ones((height, width), bool)
    pixels[top : top + tall, left : left + wide] = image.pixels
    free[top : top + tall, left : left + wide] = hole
    return replace(image, pixels=pixels), free


def _holes(
    images: Sequence[Image], mask: str | Path | ArrayLike | None, box: str | Sequence[int] | None
) -> list[NDArray[np.bool_]]:
    """Return what a mask and a box say is to be drawn of each image, (h, w)."""
    holes = [np.zeros(image.size, bool) for image in images]
    if mask is not None:
        where = f"{mask}" if isinstance(mask, (str, Path)) else "mask"
        found = _white(mask) if isinstance(mask, (str, Path)) else np.asarray(mask, bool)
        found = found[None] if found.ndim == 2 else found
        if found.ndim != 3 or len(found) not in (1, len(images)):
            raise UserError(
                f"{where}: holds {len(found):,} masks, and there are {len(images):,} pictures; give one, or one each"
            )
        for number, image in enumerate(images):
            own = found[number % len(found)]
            if own.shape != image.size:
                mine, theirs = (f"{width} x {height}" for height, width in (own.shape, image.size))
                raise UserError(
                    f"{where}: is {mine}, and {image.name or 'the input'} {theirs}; a mask is as large as its picture"
                )
            holes[number] |= own
    if box is not None:
        left, top, wide, tall = _box(box)
        for image, hole in zip(images, holes, strict=True):
            if top + tall > image.size[0] or left + wide > image.size[1]:
                size = f"{image.size[1]} x {image.size[0]}"
                raise UserError(
                    f"--box {left},{top},{wide},{tall} reaches beyond {image.name or 'the input'} of {size} pixels"
                )
            hole[top : top + tall, left : left + wide] = True
    return holes


def _white(path: str | Path) -> NDArray[np.bool_]:
    """Return where the pictures of a file are white and not transparent, (M, H, W)."""
    from gendiff.modalities.images.read.picture import convert

    pixels = _read(path)[0].pixels
    clear = pixels.shape[3] % 2 == 0
    colours = pixels[..., :-1] if clear else pixels
    white = convert(colours, "gray")[..., 0] >= CLEAR
    return white & (pixels[..., -1] >= CLEAR) if clear else white


def _box(box: str | Sequence[int]) -> tuple[int, int, int, int]:
    """Return left, top, width and height."""
    words = [word.strip() for word in box.split(",")] if isinstance(box, str) else [str(number) for number in box]
    if len(words) != 4 or not all(re.fullmatch(r"\d{1,6}", word, re.ASCII) for word in words) or "0" in words[2:]:
        raise UserError(f"--box {','.join(words)} is no rectangle; write x,y,width,height in pixels from the top left")
    left, top, wide, tall = map(int, words)
    return left, top, wide, tall
