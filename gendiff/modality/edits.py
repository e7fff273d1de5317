"""What users can do with given samples, and what an edit starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from gendiff.ops import State


@dataclass(frozen=True)
class Task:
    """What an edit does; a modality names it by the word that users type.

    Attributes:
        kind: How it is done: "keep" some elements as they are and draw the rest; "fix" some fields of all elements and
            draw the others; "noise" all of them and take them back; "follow" the means of the blocks of a grid; walk
            the "path" between two samples; or "ask" for a sample by a condition that the input becomes.
        help: The same for users, in one line.
        strength: Of the kind "noise", by default: from 0, the input itself, to 1, a fresh sample.
        uses: Options that it takes besides those of all tasks, as words of :meth:`gendiff.modality.Modality.parts`.
        levels: Of the kind "keep", with the next two: levels of noise, by default (16 with 24 walks, a compromise that
            `benchmarks/edit.py` measures on molecules).
        resamples: How often each is walked, by default, in evaluations of the network; guided ones cost three.
        agreement: Weight of the guidance that makes what is drawn agree with what stays; 0 for none.
    """

    kind: str
    help: str
    strength: float = 0.3
    uses: tuple[str, ...] = ()
    levels: int = 16
    resamples: int = 24
    agreement: float = 0.0


class Part(ABC):
    """A sample, or what is known of one, that an edit starts from.

    Attributes:
        state: Clean node fields of its K elements, each (K, D), in the units of states, near the origin; {} if none. Of
            a whole its fields, (C, H, W) of a grid.
        whole: Whether the sample is one whole, as images are, rather than elements that could be more or fewer.
        known: Which elements of a field are known, (K,) bool, or entries of a whole; of a field that is not named here
            all are.
        adrift: Fields of positions whose place is not known before the rest is.
        factor: Of the kind "follow": side of the blocks.
        bounds: Of the kind "follow": where clean values are clipped, if they are.
        condition: What the network is told of samples that come of it, (1, ...) each, unless users ask for another.
        sizes: Smallest and largest number of elements of what comes of it (None: as in the training data).
        counts: How many samples of the training data have each size and contain what stays, where that is known; sizes
            are drawn by it, whatever is asked for. None: as the model draws them.
        hint: What to do, or to know, if there are no samples of such sizes; for the error.
        note: What to say of the input, in one line, before the work; the remark of what came of it begins with it.
        order: Where :meth:`match` has pairs that are not of the same rows: the elements, (K,), those first that have a
            partner, then the others in the order in which they come in. A path keeps the order of the rows.
    """

    state: State
    whole: bool = False
    known: Mapping[str, Tensor] = MappingProxyType({})
    adrift: tuple[str, ...] = ()
    factor: int = 1
    bounds: tuple[float, float] | None = None
    condition: Mapping[str, Tensor] = MappingProxyType({})
    sizes: tuple[int | None, int | None] = (None, None)
    counts: Mapping[int, int] | None = None
    hint: str = ""
    note: str = ""
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

    def intact(self, records: list[Any]) -> list[bool]:
        """Return which records still are what the edit was to leave as it is: all, where a copy cannot break.

        Raises:
            UserError: if this part cannot say, whatever the records.
        """
        return [True] * len(records)

    def remark(self, records: list[Any]) -> str:
        """Return in one line what else there is to say of the edit and what came of it, or ""."""
        return ""
