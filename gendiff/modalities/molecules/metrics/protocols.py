"""Protocols of the field beside the table's own, each number under the name of its protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gendiff.files import UserError
from gendiff.metrics import Metric, Value
from gendiff.modalities.molecules.bonds import Hydrogens, Rule
from gendiff.modalities.molecules.hydrogens import infer_relaxed
from gendiff.modalities.molecules.metrics import busters, edm, geometry, valences
from gendiff.modalities.molecules.metrics.content import split_content
from gendiff.modalities.molecules.metrics.drawn import Drawn
from gendiff.modalities.molecules.records import MoleculeArrays

MOST = {"rdkit": 10_000, "posebusters": 1000, "posebusters-energy": 100, "geometry": 10_000}
"""At most so many molecules of each set are judged, drawn at random; by EDM's rule all are."""

COST = {"edm": 1, "rdkit": 10, "posebusters": 100, "posebusters-energy": 5000, "geometry": 1}
"""How long one molecule takes, in drawings of bonds."""

PROTOCOLS = tuple(COST)
EXPLICIT = ("edm", "rdkit")
"""Protocols of all atoms."""


def chosen(protocol: str | Sequence[str], hydrogens: Hydrogens) -> list[str]:
    """Return the protocols that are asked for, in the order of :data:`PROTOCOLS`; words may stand in one text.

    Raises:
        UserError: for another word, or for one that needs all atoms where hydrogens are implicit.
    """
    words = protocol.replace(",", " ").split() if isinstance(protocol, str) else list(protocol)
    for word in words:
        if word not in PROTOCOLS:
            raise UserError(f"--protocol knows {', '.join(PROTOCOLS)}, not {word!r}")
        if word in EXPLICIT and hydrogens == "implicit":
            raise UserError(
                f"--protocol {word} judges molecules with all their atoms, and these were drawn by their heavy atoms;"
                " leave it out, or add --hydrogens explicit to judge them with the hydrogens that RDKit added"
            )
    return [word for word in PROTOCOLS if word in words]


def work(names: Sequence[str], *sizes: int) -> int:
    """Return how long protocols take for sets of so many molecules, in drawings of bonds."""
    return sum(COST[name] * min(size, MOST.get(name, size)) for name in names for size in sizes)


def rows(
    names: Sequence[str],
    new: Drawn,
    old: Drawn,
    rule: Rule,
    hydrogens: Hydrogens,
    options: dict[str, Any],
    advance: Callable[[int], Any] = lambda count: None,
) -> tuple[list[Metric], dict[str, str]]:
    """Return the rows of protocols, and what they rest on.

    Arguments:
        names: Those of :func:`chosen`.
        new: Generated molecules.
        old: The reference.
        rule: How the bonds were drawn that PoseBusters and the geometry look at.
        hydrogens: "explicit" or "implicit".
        options: `n_resamples`, `seed` of the bootstrap.
        advance: Told of the work done, in drawings of bonds.
    """
    metrics: list[Metric] = []
    facts: dict[str, str] = {}
    if "posebusters-energy" in names:  # it has all the rows of the faster one
        names = [name for name in names if name != "posebusters"]
    for name in names:
        if name.startswith("posebusters") and not busters.installed():
            facts["PoseBusters"] = busters.MISSING
            continue
        few = [_some(one.molecules, name, options["seed"]) for one in (new, old)]
        if name == "geometry":
            left, right = _geometry(new, old, options)
            advance(work([name], *map(len, few)))
        else:
            left = _scores(name, few[0], rule, hydrogens, options, advance)
            right = left if new is old else _scores(name, few[1], rule, hydrogens, options, advance)
        table = _ROWS[name]
        metrics += [Metric(key, table[key][0], left[key], right[key], *table[key][1:]) for key in table if key in left]
        facts |= _facts(name, *few)
    return metrics, facts


_ROWS = {
    "edm": edm.ROWS,
    "rdkit": valences.ROWS,
    "posebusters": busters.ROWS,
    "posebusters-energy": busters.ROWS,
    "geometry": geometry.ROWS,
}


def _scores(
    name: str,
    molecules: MoleculeArrays,
    rule: Rule,
    hydrogens: Hydrogens,
    options: dict[str, Any],
    advance: Callable[[int], Any],
) -> dict[str, Value | None]:
    if name in EXPLICIT:
        found = (edm if name == "edm" else valences).scores(molecules, **options)
        advance(work([name], len(molecules)))
        return found
    mols = infer_relaxed(molecules.split(), rule, hydrogens)
    return busters.scores(mols, name == "posebusters-energy", lambda: advance(COST[name]), **options)


def _geometry(new: Drawn, old: Drawn, options: dict[str, Any]) -> list[dict[str, Value | None]]:
    """Distances of the generated molecules from the reference, and of a part of it from the rest."""
    seed = options["seed"]
    left, right = (
        geometry.count_angles(one.molecules, one.bonds).select(_pick(len(one.molecules), "geometry", seed))
        for one in (new, old)
    )
    part, rest = split_content(right, left.n, seed)
    return [geometry.distances_between(a, b, options) for a, b in ((left, right), (part, rest))]


def _pick(size: int, name: str, seed: int) -> np.ndarray:
    """The molecules of a set that a protocol looks at, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(size)[: MOST.get(name, size)])


def _some(molecules: MoleculeArrays, name: str, seed: int) -> MoleculeArrays:
    most = MOST.get(name, len(molecules))
    return molecules if len(molecules) <= most else molecules.select(_pick(len(molecules), name, seed))


def _facts(name: str, new: MoleculeArrays, old: MoleculeArrays) -> dict[str, str]:
    counts = f"{len(new):,} generated, {len(old):,} reference molecules"
    drawn = "" if name == "edm" else f"; at most {MOST[name]:,} of each, at random"
    if name.startswith("posebusters"):
        return {"PoseBusters": f"version {busters.installed()}; {counts}{drawn}"}
    if name == "rdkit":
        return {"RDKit bonds": f"DetermineBonds at the net charge, valences of Nikitin et al. (2025); {counts}{drawn}"}
    if name == "edm":
        return {"EDM": f"its table of lengths, largest fragments (Hoogeboom et al. 2022); {counts}"}
    return {"geometry": f"{counts}{drawn}"}
