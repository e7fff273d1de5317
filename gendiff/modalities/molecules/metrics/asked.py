"""What was asked for beside what came: properties of generated molecules and the targets that their file notes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gendiff.metrics import Floats, Metric, bootstrap
from gendiff.modalities.molecules.properties import COMPUTED
from gendiff.modalities.molecules.records import MoleculeArrays

TARGET = "target_"
"""What a property that was asked for is called in the file of samples, before its name."""


def wanted(molecules: MoleculeArrays) -> list[str]:
    """Return the properties that were asked for of some molecule and that RDKit computes."""
    return [name for name in COMPUTED if np.isfinite(molecules.properties.get(TARGET + name, [np.nan])).any()]


def rank_correlation(rows: Floats, x: Floats, y: Floats, axis: int) -> Floats:
    """Spearman's correlation of x and y at `rows` along their last axis; NaN where one of them is constant."""
    from scipy.stats import rankdata  # a second to load, of which other tables have no need

    ranks = [rankdata(values[rows.astype(np.int64)], axis=axis) for values in (x, y)]
    a, b = (rank - rank.mean(axis, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis) / np.sqrt((a**2).sum(axis) * (b**2).sum(axis))


def rows(
    molecules: MoleculeArrays, names: Sequence[str], found: dict[str, NDArray[np.float64]], options: dict[str, Any]
) -> list[Metric]:
    """Return rows for each property over the valid: what was found, its rank correlation with what was asked for (if
    that was not the same for all), and the mean error.

    Arguments:
        molecules: The generated molecules, with their targets as properties.
        names: Those of :func:`wanted`.
        found: What RDKit says of each molecule, NaN for one that is not valid.
        options: Of the bootstrap.
    """
    result = []
    for name in names:
        asked = np.asarray(molecules.properties[TARGET + name], np.float64)
        both = np.flatnonzero(np.isfinite(asked) & np.isfinite(found[name]))
        x, y = asked[both], found[name][both]
        spread = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
        index: ArrayLike = np.arange(len(x), dtype=np.float64)
        correlation = bootstrap(index, partial(rank_correlation, x=x, y=y), **options) if spread else None
        unit = {"TPSA": "Å²", "MW": "g/mol"}.get(name, "")
        wanted_all = f" (asked: {x[0]:g})" if len(x) and np.ptp(x) == 0 else ""
        result.append(
            Metric(
                f"asked_{name}_found",
                f"{name}: median{wanted_all}",
                bootstrap(y, np.median, **options),
                None,
                unit,
                None,
                f"The median {name} of the valid molecules for which one was asked for (RDKit).",
            )
        )
        if correlation is not None:
            result.append(
                Metric(
                    f"asked_{name}_correlation",
                    f"{name}: asked and found",
                    correlation,
                    None,
                    "",
                    "higher",
                    f"Spearman's rank correlation of the {name} that was asked for and that of the molecule drawn "
                    "(RDKit), over the valid.",
                )
            )
        result += [
            Metric(
                f"asked_{name}_error",
                f"{name}: mean error",
                bootstrap(np.abs(x - y), **options),
                None,
                unit,
                "lower",
                f"Mean absolute difference of the {name} that was asked for and that of the molecule drawn, over the "
                "valid.",
            ),
        ]
    return result
