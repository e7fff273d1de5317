r"""Numbers as EDM computes them, to stand beside those of papers.

Bonds come from EDM's table (`lookup_orders`). An atom is stable if its bond orders add up to an allowed valence, a
molecule if all of its atoms are. A molecule is valid if RDKit sanitises it, free valences filled with implicit
hydrogens; then only its **largest fragment** is kept, so pieces do not count against it, and atoms may overlap. Unique
are different SMILES of these fragments, with the hydrogens that were drawn:

.. math:: \mathrm{V{\times}U} = \frac{\#\,\mathrm{valid}}{n} \cdot
    \frac{\#\,\mathrm{different}}{\#\,\mathrm{valid}} = \frac{\#\,\mathrm{different}}{n}

References:
    | Equivariant diffusion for molecule generation in 3D (Hoogeboom et al., 2022) | https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from gendiff.metrics import Value, share
from gendiff.modalities.molecules.bonds import bond_lists, by_size, draw_mol, lookup_orders, stability_flat
from gendiff.modalities.molecules.metrics.rows import Row
from gendiff.modalities.molecules.records import MoleculeArrays

ROWS: dict[str, Row] = {
    "edm_atom_stability": (
        "EDM: stable atoms",
        "%",
        "higher",
        "Atoms whose bond orders by EDM's table add up to an allowed valence of their element, over all atoms.",
    ),
    "edm_molecule_stability": ("EDM: stable molecules", "%", "higher", "Molecules all of whose atoms are stable."),
    "edm_valid": (
        "EDM: valid",
        "%",
        "higher",
        "Molecules that RDKit sanitises with the bonds of EDM's table; those in pieces count by their largest one.",
    ),
    "edm_valid_unique": (
        "EDM: valid and unique",
        "%",
        "higher",
        "Different SMILES of the largest fragments of valid molecules, per molecule.",
    ),
}


def stability(molecules: MoleculeArrays, **options: Any) -> tuple[Value | None, Value | None]:
    """Return the shares of stable atoms and of stable molecules by EDM's rule, for molecules with all their hydrogens.

    Arguments:
        molecules: The molecules.
        options: `n_resamples`, `seed`, `level` of :func:`gendiff.metrics.share`.
    """
    atoms, whole = stability_flat(molecules.num_atoms, molecules.atomic_numbers, molecules.positions)
    stable = np.bincount(molecules.molecule_of_atom, atoms, len(molecules))
    return share(stable, molecules.num_atoms, **options), share(whole, **options)


def largest_fragments(molecules: MoleculeArrays) -> list[str]:
    """Return the SMILES of each molecule's largest fragment by EDM's table, "" where RDKit does not sanitise it."""
    smiles = [""] * len(molecules)
    numbers, positions = molecules.atomic_numbers, molecules.positions
    for rows, atoms in by_size(molecules.num_atoms):
        orders = lookup_orders(numbers[atoms], positions[atoms], np.ones(atoms.shape, bool))
        for row, place, bonds in zip(rows, atoms, bond_lists(orders), strict=True):
            smiles[row] = _largest(draw_mol((numbers[place], positions[place], None), bonds, explicit=False))
    return smiles


def _largest(mol: Chem.Mol) -> str:
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except ValueError:
            return ""
        fragments = Chem.GetMolFrags(mol, asMols=True)
    return Chem.MolToSmiles(max(fragments, key=Chem.Mol.GetNumAtoms)) if fragments else ""


def scores(molecules: MoleculeArrays, **options: Any) -> dict[str, Value | None]:
    """Return the values of :data:`ROWS` for molecules with all their hydrogens; options as of :func:`stability`."""
    atoms, whole = stability(molecules, **options)
    smiles = largest_fragments(molecules)
    return {
        "edm_atom_stability": atoms,
        "edm_molecule_stability": whole,
        "edm_valid": share([text != "" for text in smiles], **options),
        "edm_valid_unique": share(copies_shared(smiles), **options),
    }


def copies_shared(smiles: list[str]) -> NDArray[np.float64]:
    """Return 1/m for each of m equal texts, 0 for "": their sum counts the different ones."""
    copies = Counter(smiles)
    return np.array([1 / copies[text] if text else 0 for text in smiles], np.float64)
