"""PoseBusters: whether a molecule is physically plausible, by the checks of a free molecule.

The checks look at bonds and rings, so they judge the bonds that the table's rule draws, too. A molecule that is not
valid fails all of them, and so does one that PoseBusters cannot check. Its configuration "mol" also asks for the energy
beside that of conformers (seconds for a molecule, minutes for a strained cage), "mol_fast" does not. The package is
optional.

References:
    | PoseBusters: AI-based docking methods fail to generate physically valid poses or generalise to novel sequences
      (Buttenschoen et al., 2023) | https://doi.org/10.1039/D3SC04185A
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from gendiff.metrics import Value, share
from gendiff.modalities.molecules.metrics.rows import Row

MISSING = 'left out, for the package is not installed: pip install "gendiff[eval]"'

CHECKS = {
    "sanitization": "RDKit sanitises the molecule.",
    "inchi_convertible": "It has an InChI.",
    "all_atoms_connected": "It is one fragment.",
    "no_radicals": "No atom has an unpaired electron.",
    "bond_lengths": "Bond lengths lie within the widened bounds of distance geometry.",
    "bond_angles": "So do bond angles.",
    "internal_steric_clash": "No atoms that are not bonded clash.",
    "aromatic_ring_flatness": "Aromatic rings of five and six are flat.",
    "non-aromatic_ring_non-flatness": "Saturated rings of six are not.",
    "double_bond_flatness": "Double bonds of carbon are flat.",
    "internal_energy": "The energy is not far above that of conformers that RDKit makes (UFF).",
}
"""The checks of a free molecule, by their column in PoseBusters' report, and what they ask; the last is slow."""

ROWS: dict[str, Row] = {
    "posebusters_geometry": (
        "PoseBusters: all but energy",
        "%",
        "higher",
        "Molecules that, with the bonds as drawn, pass every check but the last: PoseBusters' configuration mol_fast.",
    ),
    "posebusters_all": (
        "PoseBusters: passes all",
        "%",
        "higher",
        "Molecules that, with the bonds as drawn, pass every check of PoseBusters' configuration mol (PB-valid).",
    ),
}
for _name, _text in CHECKS.items():
    ROWS[f"posebusters_{_name}"] = (f"PoseBusters: {_name.replace('_', ' ')}", "%", "higher", _text)


def installed() -> str:
    """Return the version of PoseBusters, "" where it is not installed."""
    try:
        return version("posebusters")
    except PackageNotFoundError:
        return ""


def bust(
    mols: Sequence[tuple[Chem.Mol, str]], energy: bool = False, tick: Callable[[], Any] = lambda: None
) -> NDArray[np.bool_]:
    """Return which checks molecules pass, (M, C); the columns are those of :data:`CHECKS`, the last with `energy` only.

    Arguments:
        mols: Molecules with bonds and a conformer, and why they are not valid ("" if they are).
        energy: Whether to look at energies.
        tick: Called after each molecule.

    Raises:
        ImportError: if PoseBusters is not installed.
    """
    judge = import_module("posebusters").PoseBusters(config="mol" if energy else "mol_fast")
    names = list(CHECKS)[: None if energy else -1]
    passed = np.zeros((len(mols), len(names)), bool)
    logger = logging.getLogger("posebusters")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would tell of every molecule without conformers
    try:
        with warnings.catch_warnings(), rdBase.BlockLogs():
            warnings.simplefilter("ignore")
            for row, (mol, reason) in enumerate(mols):
                if not reason:
                    report = judge.bust([mol]).iloc[0]
                    passed[row] = [isinstance(report[name], bool | np.bool_) and report[name] for name in names]
                tick()
    finally:
        logger.setLevel(level)
    return passed


def scores(
    mols: Sequence[tuple[Chem.Mol, str]],
    energy: bool = False,
    tick: Callable[[], Any] = lambda: None,
    **options: Any,
) -> dict[str, Value | None]:
    """Return values of :data:`ROWS`; options as of :func:`gendiff.metrics.share`, arguments as :func:`bust`."""
    passed = bust(mols, energy, tick)
    whole = {"all": passed.all(1)} if energy else {}
    columns = {"geometry": passed[:, : len(CHECKS) - 1].all(1), **whole, **dict(zip(CHECKS, passed.T, strict=False))}
    return {f"posebusters_{name}": share(column, **options) for name, column in columns.items()}
