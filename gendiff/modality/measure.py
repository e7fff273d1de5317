"""Metrics of records of which an adapter says no more than some numbers: what an adapter can start with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gendiff.files import UserError
from gendiff.metrics import Floats, Metric, Table, compare, share, told_apart, wasserstein

if TYPE_CHECKING:
    from gendiff.modality.contract import Modality

LEAST = 10
"""Fewest records that metrics are measured of."""

DISTANCE = "Wasserstein distance to real records, in the unit of the data"
TOLD_APART = "share that a classifier rightly calls real or generated, by all these numbers; 50 % at best"
RECOGNISED = "share whose nearest real neighbour, by all these numbers, has the same word"


def measure(kind: type[Modality], generated: Any, reference: Any, seed: int = 0) -> Table:
    """Compare generated records with one half of the reference by :meth:`Modality.features`.

    The other half, as many records, gives the reference's own numbers: what a perfect model would score.

    Arguments:
        kind: The adapter.
        generated: Records.
        reference: Real records.
        seed: Of the halves and of the bootstrap.

    Returns:
        The Wasserstein distance of each feature; "told_apart", the accuracy of a classifier; and, if there are two
        words or more, "recognised", the share of records whose nearest real neighbour has the same word.

    Raises:
        UserError: for fewer than 10 records, or 20 of the reference.
    """
    n = min(len(generated), len(reference) // 2)
    if n < LEAST:
        raise UserError(f"metrics need at least {LEAST} {kind.name}, and {2 * LEAST} of the reference")
    known = list(reference)
    order = np.random.default_rng(seed).permutation(len(known)).tolist()
    real, floor = ([known[i] for i in half] for half in (order[:n], order[n : 2 * n]))
    (looks, flat, words), *others = (_look(kind, records) for records in (real, list(generated)[:n], floor))
    rows = []
    for name, x in looks.items():
        drawn, best = (compare(wasserstein, other[name], x, n_resamples=200, seed=seed) for other, _, _ in others)
        rows.append(Metric(name, name, drawn, best, better="lower", help=DISTANCE))
    drawn, best = (share(told_apart(x, flat, seed=seed), seed=seed) for _, x, _ in others)
    rows.append(Metric("told_apart", "told apart", drawn, best, "%", "lower", TOLD_APART))
    if len(np.unique(words)) > 1:
        drawn, best = (share(words[cdist(x, flat).argmin(1)] == mine, seed=seed) for _, x, mine in others)
        rows.append(Metric("recognised", "recognised", drawn, best, "%", "higher", RECOGNISED))
    return Table(rows, {"compared": f"{n:,} of {len(generated):,} with {n:,} of {len(known):,}"})


def _look(kind: type[Modality], records: list[Any]) -> tuple[dict[str, Floats], Floats, NDArray[np.str_]]:
    """Return the features of records by name, all in one row each, and their words."""
    look = {name: np.asarray(x, np.float64) for name, x in kind.features(records).items()}
    flat = np.concatenate([x.reshape(len(records), -1) for x in look.values()], 1)
    return look, flat, np.array([str(getattr(record, "word", "")) for record in records])
