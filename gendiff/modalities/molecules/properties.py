"""Numbers of molecules to ask for: columns of the file, and four that RDKit computes where the file has none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from gendiff.files import UserError
from gendiff.modalities.molecules.records import MoleculeArrays, heavy_mol, to_mol
from gendiff.modalities.molecules.store import HeavyAtoms


def _qed(mol: Chem.Mol) -> float:
    from rdkit.Chem import QED

    return float(QED.qed(mol))


def _descriptor(name: str) -> Callable[[Chem.Mol], float]:
    def compute(mol: Chem.Mol) -> float:
        from rdkit.Chem import Descriptors

        return float(getattr(Descriptors, name)(mol))

    return compute


COMPUTED: dict[str, Callable[[Chem.Mol], float]] = {
    "logP": _descriptor("MolLogP"),
    "TPSA": _descriptor("TPSA"),
    "QED": _qed,
    "MW": _descriptor("MolWt"),
}
"""What RDKit computes of a molecule with bonds: Crippen's logP, the topological polar surface area in Å^2, the
quantitative estimate of drug-likeness, and the molecular weight in g/mol."""


def column(records: MoleculeArrays | HeavyAtoms, name: str) -> NDArray[np.float64] | None:
    """Return a property of each molecule, (M,), NaN where unknown; None if neither the file nor RDKit has it."""
    if name in records.properties:
        values = np.asarray(records.properties[name], np.float64)
        return np.where(np.isfinite(values), values, np.nan)
    if name not in COMPUTED or not (records.num_bonds > 0).any():
        return None
    bonded = (records.num_bonds > 0) | (records.num_atoms == 1)
    known = zip(bonded, records, strict=True)
    return np.array([compute(to_mol(molecule), name) if good else np.nan for good, molecule in known], np.float64)


def compute(mol: Chem.Mol, name: str) -> float:
    """Return one of :data:`COMPUTED` of a molecule, NaN if RDKit rejects it."""
    try:
        with rdBase.BlockLogs():
            return COMPUTED[name](heavy_mol(mol))
    except ValueError:
        return float("nan")


def known_columns(records: MoleculeArrays | HeavyAtoms) -> str:
    """Return the names that :func:`column` knows, for people."""
    names = [*records.properties, *(name for name in COMPUTED if (records.num_bonds > 0).any())]
    return ", ".join(dict.fromkeys(names)) or "none"


def standards(records: MoleculeArrays | HeavyAtoms, names: list[str]) -> dict[str, list[float]]:
    """Return [mean, standard deviation] of each property over the molecules that have it.

    Raises:
        UserError: for a property that is unknown, missing everywhere, or the same in all molecules.
    """
    result = {}
    for name in names:
        if name == "class":  # means the class of an object in a model's configuration
            raise UserError("a column named 'class' cannot be a condition; rename it in the file")
        values = column(records, name)
        if values is None:
            raise UserError(f"no numeric column {name!r} to condition on; there are: {known_columns(records)}")
        values = values[np.isfinite(values)]
        if not len(values) or np.ptp(values) == 0:
            state = "is the same in every molecule" if len(values) else "has no number in any molecule"
            raise UserError(f"column {name!r} {state}: there is nothing to learn from it")
        result[name] = [float(f"{values.mean():.6g}"), float(f"{values.std():.6g}")]
    return result
