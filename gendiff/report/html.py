"""One HTML file to look at, print and send: tables, pictures, plots and commands.

The file stands alone: style is inside, pictures are data URIs, there is no script, and its security policy forbids
to load anything. Whatever comes from data (names, SMILES, reasons) is escaped by the template; pictures never
become part of the page's markup.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, StrictUndefined

from gendiff import __version__
from gendiff.files import atomic_write
from gendiff.metrics import Metric, Table, Value


@dataclass(frozen=True)
class Picture:
    """A picture with a caption.

    Attributes:
        image: SVG (text or bytes), PNG or JPEG bytes.
        caption: Text below it.
        flag: A word of warning on it, such as "invalid"; none by default.
        photo: Whether its colours are its own; others, drawn in ink, turn light on a dark page.
    """

    image: bytes | str
    caption: str = ""
    flag: str = ""
    photo: bool = False

    def uri(self) -> str:
        """Return the picture as a data URI.

        Raises:
            ValueError: if it is neither SVG nor PNG nor JPEG.
        """
        data = self.image.encode() if isinstance(self.image, str) else self.image
        start = data[:512].lstrip()
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            kind = "image/png"
        elif data.startswith(b"\xff\xd8\xff"):
            kind = "image/jpeg"
        elif start.startswith((b"<svg", b"<?xml")):
            kind = "image/svg+xml"
        else:
            raise ValueError(f"a picture must be SVG, PNG or JPEG, got bytes that start with {data[:8]!r}")
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class Highlights:
    """The few numbers that matter most, large: `items` gives each label its text."""

    items: Mapping[str, str]
    title: str = ""
    kind: ClassVar[str] = "highlights"


@dataclass(frozen=True)
class Facts:
    """Keys and values."""

    title: str
    items: Mapping[str, Any]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Metrics:
    """A table of metrics, what it rests on, and what the metrics mean."""

    title: str
    table: Table
    kind: ClassVar[str] = "metrics"

    def rows(self) -> list[dict[str, Any]]:
        """Return what the page shows of each metric: its texts, counts of samples, and intervals as bars."""
        rows = []
        for metric in self.table.metrics:
            reference, generated = metric.texts()
            numbers = [value and value.n for value in (metric.reference, metric.generated)]
            rows.append({"metric": metric, "texts": (reference, generated), "n": numbers, "bars": _bars(metric)})
        return rows


@dataclass(frozen=True)
class Gallery:
    """Small pictures in a grid, those with a flag in a red frame."""

    title: str
    pictures: Sequence[Picture]
    text: str = ""
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Plots:
    """Large pictures, two in a row where there is room."""

    title: str
    pictures: Sequence[Picture]
    text: str = ""
    kind: ClassVar[str] = "plots"


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines."""

    title: str
    text: str
    kind: ClassVar[str] = "text"

    def paragraphs(self) -> list[str]:
        """Return the paragraphs."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Code:
    """Commands or source, as it stands."""

    title: str
    code: str
    text: str = ""
    kind: ClassVar[str] = "code"


Section = Highlights | Facts | Metrics | Gallery | Plots | Text | Code


def write_report(path: str | Path, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Write a report as one self-contained HTML file, atomically.

    Arguments:
        path: Where.
        title: Its headline.
        sections: What it shows, in this order.
        subtitle: A line below the headline.

    Raises:
        UserError: if the file cannot be written.
        ValueError: if a picture is neither SVG nor PNG nor JPEG.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("gendiff.report").joinpath("page.html").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title, subtitle=subtitle, sections=sections, version=__version__
    )
    with atomic_write(path) as file:
        file.write(page)


def _bars(metric: Metric) -> list[tuple[float, float, float]] | None:
    """Low, value and high of the reference and of the generated samples, from 0 to 100; None if one is missing.

    Per cent fill the scale; other units are scaled to the largest number of the row.
    """
    values = [value for value in (metric.reference, metric.generated) if isinstance(value, Value)]
    largest = 1.0 if metric.unit == "%" else max((value.high for value in values), default=0.0)
    if len(values) < 2 or not largest > 0 or min(value.low for value in values) < 0:
        return None
    return [(100 * value.low / largest, 100 * value.value / largest, 100 * value.high / largest) for value in values]
