"""What reading and judging say, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from gendiff.files import UserError


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


@dataclass
class Tally:
    """The simplest report of reading: how many records were kept, and why others were left out.

    Attributes:
        what: What the records are: "point clouds".
        kept: How many were read.
        refused: Where each of the others stands and what is wrong with it, in one line.
    """

    what: str
    kept: int = 0
    refused: list[str] = field(default_factory=list)

    def refuse(self, reason: str, on_error: str = "stop") -> None:
        """Count a bad record, or stop at it.

        Raises:
            UserError: with the reason, unless `on_error` is "skip".
        """
        if on_error != "skip":
            raise UserError(f"{reason}; leave such records out with --on-error skip")
        self.refused.append(reason)

    def of(self, records: Any) -> tuple[Any, Tally]:
        """Return the records that were kept with this report, as :meth:`Modality.read` does.

        Raises:
            UserError: if there are none.
        """
        self.kept = len(records)
        if not self.kept:
            raise UserError(f"no usable {self.what}: {self.refused[0] if self.refused else 'the files hold none'}")
        return records, self

    def lines(self) -> list[str]:
        """Return lines for people."""
        first = [f"left out {len(self.refused):,}, the first: {self.refused[0]}"] if self.refused else []
        return [f"read {self.kept:,} {self.what}", *first]

    def to_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {"what": self.what, "kept": self.kept, "refused": list(self.refused)}
