"""Plots for reports, all in one style: generated samples blue, the reference grey, as SVG."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from gendiff.files import UserError, read_text

GREY, BLUE, INK, LINE = "#9aa3b2", "#2f5fd0", "#3a4252", "#d9dee6"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # names from files are text, whatever they hold
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "gendiff",
}


def histogram(reference: ArrayLike, generated: ArrayLike, title: str, label: str, bins: int | None = None) -> bytes:
    """Draw how a continuous quantity is distributed in both sets.

    Arguments:
        reference: Numbers; those that are not finite are left out.
        generated: Numbers.
        title: Above the plot.
        label: Of the horizontal axis, with its unit.
        bins: 10 to 40 by default, more for more numbers. They span all but 0.5 % on either side, which the bins at the
            ends take in.

    Returns:
        SVG.
    """
    sets = [_finite(values) for values in (reference, generated)]
    every = np.concatenate(sets)
    low, high = np.quantile(every, [0.005, 0.995]) if len(every) else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    bins = bins or int(np.clip(1.5 * np.sqrt(min(map(len, sets))), 10, 40))
    edges = np.linspace(low, high, bins + 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(title, label, "share per bin in %")
        for values, color, name in zip(sets, (GREY, BLUE), ("reference", "generated"), strict=True):
            counts = np.histogram(np.clip(values, low, high), edges)[0]
            shares = 100 * counts / max(1, counts.sum())
            axes.stairs(shares, edges, fill=name == "reference", color=color, alpha=0.45 if name == "reference" else 1)
            axes.plot(
                [], [], color=color, linewidth=6 if name == "reference" else 1.5, label=f"{name} ({len(values):,})"
            )
        axes.set_xlim(low, high)
        return _svg(figure, axes)


def bars(
    reference: Mapping[Any, float], generated: Mapping[Any, float], title: str, label: str, most: int = 40
) -> bytes:
    """Draw how often each of a few things (sizes, elements, rings) occurs in both sets, side by side.

    Arguments:
        reference: Counts by thing; numbers are sorted, names keep their order.
        generated: Counts by thing.
        title: Above the plot.
        label: Of the horizontal axis.
        most: Only the most frequent so many things are shown.

    Returns:
        SVG.
    """
    keys = list(dict.fromkeys([*reference, *generated]))
    keys = sorted(keys, key=lambda key: -reference.get(key, 0) - generated.get(key, 0))[:most]
    if all(isinstance(key, (int, float)) for key in keys):
        keys.sort()
    place = np.arange(len(keys))
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(title, label, "share in %")
        for counts, shift, color, name in ((reference, -0.2, GREY, "reference"), (generated, 0.2, BLUE, "generated")):
            total = sum(counts.values())
            shares = [100 * counts.get(key, 0) / (total or 1) for key in keys]
            axes.bar(place + shift, shares, 0.38, color=color, label=f"{name} ({total:,})")
        step = max(1, math.ceil(len(keys) / 20))
        axes.set_xticks(place[::step], [str(key) for key in keys[::step]])
        return _svg(figure, axes)


def loss_curve(steps: ArrayLike, losses: ArrayLike, title: str = "Training loss") -> bytes:
    """Draw a loss by step: every value pale, and the running median (over a fiftieth of all) in front.

    Arguments:
        steps: Optimiser steps.
        losses: As many losses; those that are not finite are left out.
        title: Above the plot.

    Returns:
        SVG.
    """
    x, y = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(title, "optimizer step", "loss")
        if len(y):
            axes.plot(x, y, color=GREY, linewidth=0.7, alpha=0.6)
            width = max(1, len(y) // 50) | 1
            padded = np.pad(y, width // 2, mode="reflect" if len(y) > width // 2 else "edge")
            smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
            axes.plot(x, smooth, color=BLUE, linewidth=1.8)
            low, high = np.quantile(y, [0.0, 0.99])
            if low > 0 and high > 20 * low:
                axes.set_yscale("log")
            else:
                margin = 0.05 * (high - low) or 0.5
                axes.set_ylim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return _svg(figure, axes)


def read_losses(path: str | Path, column: str = "loss") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and losses from a CSV log with columns `step` and `column`; rows without a loss are left out.

    Raises:
        UserError: if the file cannot be read or a column is missing.
    """
    rows = csv.DictReader(io.StringIO(read_text(path)))
    names = rows.fieldnames or []
    missing = [name for name in ("step", column) if name not in names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; there are: {', '.join(map(str, names))}")
    pairs = []
    for row in rows:
        try:
            pairs.append((float(row["step"]), float(row[column])))
        except (TypeError, ValueError):
            continue
    x, y = np.array(pairs, np.float64).reshape(-1, 2).T
    return x, y


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64).ravel()
    return x[np.isfinite(x)]


def _axes(title: str, label: str, height: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.6, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel(height)
    axes.tick_params(length=0)
    return figure, axes


def _svg(figure: Figure, axes: Any) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
