"""Molecules to turn around in a notebook, by py3Dmol (the extra `view`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from rdkit import Chem

from gendiff.files import UserError
from gendiff.modalities.molecules.records import Molecule, MoleculeArrays, from_mol, to_mol
from gendiff.modalities.molecules.write import mol_block

STICKS = {"stick": {"radius": 0.14}, "sphere": {"scale": 0.25}}
"""Default style: balls and sticks."""

LARGEST = 100
"""Most molecules in one view."""


def view(
    molecules: Chem.Mol | Molecule | MoleculeArrays | Iterable[Chem.Mol | Molecule],
    columns: int = 4,
    size: tuple[int, int] = (240, 200),
    style: dict[str, Any] | None = None,
) -> Any:
    """Return a view of one molecule, or of several in a grid; a notebook shows it as the last value of a cell.

    Of a molecule only elements, coordinates, bonds and charges go into the page: no name, no SMILES, no property.

    Arguments:
        molecules: RDKit molecules or records, with coordinates; valid or not.
        columns: Molecules in a row.
        size: Width and height of each in pixels.
        style: A style of 3Dmol.js (balls and sticks).

    Returns:
        A `py3Dmol.view`.

    Raises:
        UserError: if py3Dmol is not installed.
        ValueError: if there is no molecule, there are more than 100, or one has no finite coordinates.
    """
    try:
        import py3Dmol
    except ImportError:
        raise UserError("3-D views need py3Dmol; get it with: pip install 'gendiff[view]'") from None
    mols = [_plain(one) for one in _several(molecules)]
    if not 1 <= len(mols) <= LARGEST:
        raise ValueError(f"a view shows 1 to {LARGEST} molecules, got {len(mols)}; choose some")
    columns = max(1, min(columns, len(mols)))
    rows = math.ceil(len(mols) / columns)
    result = py3Dmol.view(
        width=size[0] * columns, height=size[1] * rows, linked=False, viewergrid=(rows, columns) if mols[1:] else None
    )
    for index, mol in enumerate(mols):
        place = divmod(index, columns) if mols[1:] else None
        result.addModel(mol_block(mol), "sdf", {"keepH": True}, viewer=place)
        result.setStyle({}, style or STICKS, viewer=place)
        result.zoomTo(viewer=place)
    return result


def _several(molecules: Any) -> list[Chem.Mol | Molecule]:
    return [molecules] if isinstance(molecules, (Chem.Mol, Molecule)) else list(molecules)


def _plain(one: Chem.Mol | Molecule) -> Chem.Mol:
    """A molecule of nothing but arrays: elements, coordinates, bonds, charges."""
    if isinstance(one, Chem.Mol):
        if not one.GetNumConformers() or not one.GetNumAtoms():
            raise ValueError("a view needs molecules with finite 3-D coordinates")
        one = from_mol(one, smiles="", name="")
    mol = to_mol(one._replace(name="", smiles="", properties={}))
    if not mol.GetNumConformers() or not np.isfinite(mol.GetConformer().GetPositions()).all():
        raise ValueError("a view needs molecules with finite 3-D coordinates")
    return mol
