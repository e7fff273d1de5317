"""What a reading found, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.modalities.images.records import ImageArrays, kind
from gendiff.wording import many


@dataclass
class ReadReport:
    """What was read: :meth:`lines` for people, :meth:`to_json` for programs. Numbers count images that were kept.

    Attributes:
        files: Of each file or folder that was named its path, bytes, sha256, records and records kept. The sha256 of a
            folder is that of what `sha256sum` prints of its pictures in the order of their names.
        records: Images met, usable or not; a file of many that could not be used counts once.
        kept: Images read.
        skipped: Records left out, by kind of reason.
        examples: Name and detail of the first record left out, by kind of reason.
        others: Files in folders that are no images, by their ending; they were left alone.
        classes: Images by class, of those that have one.
        size: Height and width.
        channels: Number of channels.
        low: Smallest value of a pixel.
        high: Largest value of a pixel.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    low: int = 0
    high: int = 0

    def count(self, arrays: ImageArrays) -> None:
        """Fill in what follows from the images themselves."""
        words, counts = np.unique(arrays.words, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        self.classes = Counter({str(words[i]): int(counts[i]) for i in order if words[i]})
        self.kept, self.size, self.channels = len(arrays), arrays.size, arrays.channels
        self.low, self.high = int(arrays.pixels.min()), int(arrays.pixels.max())

    def lines(self) -> list[str]:
        """A line of numbers and, if need be, one on what was left out and one on what was left alone."""
        where = Path(self.files[0]["path"]).name if len(self.files) == 1 else f"{len(self.files):,} files"
        facts = [
            f"read {many(self.kept, 'image')} from {where}",
            kind((*self.size, self.channels)),
            f"values {self.low}-{self.high}",
        ]
        if self.classes:
            named = ", ".join(f"{word} {count:,}" for word, count in self.classes.most_common(12))
            rest = len(self.classes) - 12
            head = many(len(self.classes), "class")
            facts.append(f"{head}: {named}" + (f" and {rest:,} others" if rest > 0 else ""))
            if (without := self.kept - self.classes.total()) > 0:
                facts.append(f"{without:,} without a class")
        else:
            facts.append("no classes")
        lines = ["; ".join(facts)]
        if self.skipped:
            lines.append(f"left out {self.skipped.total():,} of {many(self.records, 'record')}: {self.reasons()}")
        if self.others:
            kinds = ", ".join(f"{name} {count:,}" for name, count in self.others.most_common(5))
            lines.append(f"left alone {many(self.others.total(), 'file')} that are no images: {kinds}")
        return lines

    def reasons(self) -> str:
        """Why records were left out, the five most frequent reasons first; "" if none was."""
        return "; ".join(
            f"{kind} {count:,} (first: {self.examples[kind]})" for kind, count in self.skipped.most_common(5)
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return asdict(self) | {
            "skipped": dict(self.skipped.most_common()),
            "others": dict(self.others.most_common()),
            "classes": dict(self.classes.most_common()),
            "size": list(self.size),
        }
