"""The contract of a modality: how one kind of data becomes states and comes back.

The core knows fields; a modality knows molecules, sketches or images. An adapter is one class, found through the
entry-point group `gendiff.modalities`, so another package can bring one and nothing here changes. It lives through
two phases: :meth:`Modality.read` and :meth:`Modality.fit` look at the user's examples and give an object that
remembers, in plain JSON-able attributes, whatever generation needs to know of them (elements, scales, sizes). From
then on the examples are not needed.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from gendiff.config import GROUP
from gendiff.files import UserError
from gendiff.modality.classes import class_counts, class_numbers
from gendiff.modality.contract import PRESETS, Modality, Option, check_network
from gendiff.modality.edits import Part, Task
from gendiff.modality.reports import Report, Table, Tally

__all__ = [
    "PRESETS",
    "Modality",
    "Option",
    "Part",
    "Report",
    "Table",
    "Tally",
    "Task",
    "check_network",
    "class_counts",
    "class_numbers",
    "find_modality",
    "installed",
    "modalities",
]


def modalities() -> dict[str, type[Modality]]:
    """Return the installed adapters by name."""
    found = {}
    for point in entry_points(group=GROUP):
        found[point.name] = point.load()
    return found


def installed() -> list[str]:
    """Return the names of the installed adapters."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find_modality(name: str) -> type[Modality]:
    """Return one adapter.

    Raises:
        UserError: if there is none of that name.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise UserError(
            f"unknown modality {name!r}; installed: {', '.join(sorted(points)) or 'none (is gendiff installed?)'}"
        )
    return points[name].load()
