"""The pages of gendiff: of a demo, of a run, of a file of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendiff.files import UserError
from gendiff.metrics import Table
from gendiff.modality import Modality
from gendiff.report.html import Code, Facts, Gallery, Highlights, Metrics, Picture, Plots, Section, write_report
from gendiff.report.plots import loss_curve, read_losses

SHOWN = 200
"""Most samples a page shows."""


def gallery(modality: Modality, records: Sequence[Any], title: str = "Samples") -> Gallery:
    """Return samples as a section: the first of them, all kinds, nothing picked."""
    shown = [Picture(*modality.picture(record), photo=modality.photos) for record in records[:SHOWN]]
    text = f"The first {len(shown):,} of {len(records):,}, as they were drawn; nothing is picked, repaired or left out."
    return Gallery(
        title,
        shown,
        text
        if len(shown) < len(records)
        else "All of them, as they were drawn; nothing is picked, repaired or left out.",
    )


def curves(run: Path) -> list[Section]:
    """Return the training loss of a run folder as a section, if it was logged."""
    logs = sorted(run.glob("logs/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    points: dict[int, float] = {}
    for log in logs:
        try:
            steps, losses = read_losses(log)
        except UserError:
            continue
        points |= dict(zip(steps.tolist(), losses.tolist(), strict=True))
    if not points:
        return []
    order = sorted(points)
    return [Plots("Training", [Picture(loss_curve(order, [points[step] for step in order]))])]


def demo_page(
    path: Path,
    modality: Modality,
    records: Sequence[Any],
    table: Table,
    shares: Mapping[str, str],
    seconds: Mapping[str, float],
    run: Path,
    commands: Sequence[str],
    pictures: Sequence[Picture] = (),
    beside: str = "the training set",
    made: str = "Trained from scratch on a random half of the built-in data, then sampled.",
    more: Sequence[Section] = (),
) -> None:
    """Write the page of a demo.

    Arguments:
        path: Where.
        modality: Of the records.
        records: What was drawn.
        table: Metrics.
        shares: What matters most of them, by label.
        seconds: What the demo spent its time on.
        run: Run folder.
        commands: How to do the same by hand.
        pictures: Larger pictures of how samples come to be.
        beside: What the reference of the table is.
        made: One line on how the samples came to be.
        more: Further sections, after the table.
    """
    times = {what: f"{value:.0f} s" for what, value in seconds.items()}
    sections: list[Section] = [
        Highlights({"drawn": f"{len(records):,}", **shares, **times}),
        Metrics(f"Beside {beside}", table),
        *more,
        gallery(modality, records),
    ]
    if pictures:
        sections.append(Plots("How they come to be", pictures))
    sections += [*curves(run), Code("The same by hand", "\n".join(commands))]
    write_report(
        path,
        f"gendiff demo: {modality.name}",
        sections,
        made,
    )


def run_page(path: Path, run: Path, info: Mapping[str, Any], title: str, photos: bool = False) -> None:
    """Write the page of a run: data, settings, loss and previews."""
    training = {key: value for key, value in dict(info.get("training", {})).items() if value is not None}
    sections: list[Section] = [
        Facts("Data", {str(i + 1): line for i, line in enumerate(info.get("data", []))}),
        Facts("Training", training),
        *curves(run),
    ]
    previews = [
        Picture(image.read_bytes(), image.stem.replace("-", " "), photo=photos)
        for image in sorted(run.glob("samples/*.png"))
    ]
    if previews:
        sections.append(Plots("Previews", previews))
    write_report(path, title, sections)


def samples_page(
    path: Path, modality: Modality, records: Sequence[Any], facts: Mapping[str, Any], table: Table | None, title: str
) -> None:
    """Write the page of a file of samples."""
    sections: list[Section] = [Facts("How they were made", facts)] if facts else []
    if table is not None:
        sections.append(Metrics("Beside the reference", table))
    write_report(path, title, [*sections, gallery(modality, records)])
