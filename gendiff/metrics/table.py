"""The table of metrics: generated samples beside the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gendiff.files import UserError
from gendiff.metrics.values import Value


@dataclass(frozen=True)
class Metric:
    """One row of a table.

    Attributes:
        name: Identifier, for programs.
        title: A few words, for people.
        generated: What the generated samples score; None where it does not apply.
        reference: What the reference scores by the same procedure.
        unit: "%" (values are fractions, shown in per cent), "Å", "kcal/mol", …, or "" for a pure number.
        better: Which direction is better, if one is.
        help: How it is measured and what it means.
    """

    name: str
    title: str
    generated: Value | None
    reference: Value | None
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    help: str = ""

    def texts(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return estimate and interval as text, of the reference and of the generated samples; "–" and "" for None.

        All have the same decimals: one for per cent (unit "%"), else enough for three digits of the larger estimate and
        two of the smaller, but for no more than four of the larger.
        """
        values = (self.reference, self.generated)
        scale = 100 if self.unit == "%" else 1
        sizes = [math.floor(math.log10(abs(v.value))) for v in values if v and 0 < abs(v.value) < math.inf]
        large, small = (max(sizes), min(sizes)) if sizes else (0, 0)
        decimals = 1 if self.unit == "%" else min(6, max(0, 2 - large, min(1 - small, 3 - large)))

        def texts(value: Value | None) -> tuple[str, str]:
            if value is None:
                return "–", ""
            estimate, low, high = (f"{scale * x:z.{decimals}f}" for x in (value.value, value.low, value.high))
            return estimate, f"[{low}, {high}]"

        return texts(values[0]), texts(values[1])


@dataclass(frozen=True)
class Table:
    """Metrics of generated samples beside the reference's own, which come first: they say what the numbers can mean.

    Attributes:
        metrics: The rows.
        facts: What they rest on: counts, rules, seeds.
        title: One line.
    """

    metrics: Sequence[Metric]
    facts: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Metrics"

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"no metric {name!r}; there are: {', '.join(metric.name for metric in self.metrics)}")

    def __contains__(self, name: str) -> bool:
        return any(metric.name == name for metric in self.metrics)

    def lines(self) -> list[str]:
        """Return aligned lines for a terminal: title, facts, rows, and what the signs mean."""
        rows = [["", "", "reference", "", "generated", "", ""]]
        for metric in self.metrics:
            cells = [text for texts in metric.texts() for text in texts]
            rows.append([metric.title, metric.unit, *cells, _ARROW[metric.better]])
        width = [max(len(row[column]) for row in rows) for column in range(7)]
        pads = (str.ljust, str.ljust, str.rjust, str.ljust, str.rjust, str.ljust, str.ljust)
        body = ["  ".join(pad(cell, n) for pad, cell, n in zip(pads, row, width, strict=True)).rstrip() for row in rows]
        label = max((len(key) for key in self.facts), default=0)
        return [
            self.title,
            *(f"  {key:<{label}}  {value}" for key, value in self.facts.items()),
            "",
            *body,
            "",
            _LEGEND,
        ]

    def markdown(self) -> str:
        """Return a Markdown table with the facts below it."""
        rows = [
            f"| {_plain(metric.title)} {_ARROW[metric.better]} | {metric.unit} | "
            + " | ".join(" ".join(texts) for texts in metric.texts())
            + " |"
            for metric in self.metrics
        ]
        facts = [f"- {_plain(key)}: {_plain(value)}" for key, value in self.facts.items()]
        head = ["| metric | unit | reference | generated |", "|---|---|---|---|"]
        return "\n".join([*head, *(" ".join(row.split()) for row in rows), "", *facts, "", _LEGEND]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain containers, as :func:`gendiff.files.write_json` writes them."""
        return {"title": self.title, "facts": dict(self.facts), "metrics": [asdict(metric) for metric in self.metrics]}

    @classmethod
    def from_json(cls, content: Any) -> Table:
        """Rebuild a table from :meth:`to_json`.

        Raises:
            UserError: if the content is not that of a table.
        """
        try:
            metrics = [
                Metric(**{**row, **{key: row[key] and Value(**row[key]) for key in ("generated", "reference")}})
                for row in content["metrics"]
            ]
            table = cls(metrics, dict(content["facts"]), str(content["title"]))
            table.lines()
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError("not a table of metrics as `gendiff evaluate` writes it") from None
        return table


_ARROW = {"higher": "↑", "lower": "↓", None: ""}
_LEGEND = "↑ higher is better, ↓ lower is better, – does not apply; in brackets 95 % bootstrap intervals"


def _plain(text: Any) -> str:
    """Return text that does not end a Markdown cell or start HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
