"""Hydrogens that a model does not draw: where they stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from gendiff.modalities.molecules.bonds import Hydrogens, Molecule, Rule, infer_all

MAX_STEPS = 200
"""Of one relaxation; hydrogens alone take some dozens."""

NUDGE = 0.02
"""Å of a small displacement to start with: where groups are eclipsed, no force turns them."""


def relax_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """Return a molecule whose hydrogens stand in the minimum next to them, by MMFF94s; all other atoms stay.

    RDKit puts hydrogens where the ideal geometry of their own atom wants them, blind to all others: of the MMFF94s
    energy of real molecules above their minimum most is then due to hydrogens. Of a molecule in pieces each piece is
    relaxed alone. UFF serves molecules that MMFF94s has no parameters for; one that neither has any for, or that has no
    finite minimum, is returned as it is.

    References:
        | T. A. Halgren, MMFF VI. MMFF94s option for energy minimization studies (1999), J. Comput. Chem. 20, 720
        | Rappé, Casewit, Colwell, Goddard, Skiff, UFF (1992), J. Am. Chem. Soc. 114, 10024

    Arguments:
        mol: A sanitised molecule with all its hydrogens and a conformer; it is not changed.
    """
    others = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    if len(others) == mol.GetNumAtoms():
        return mol
    moved = Chem.Mol(mol)
    conformer = moved.GetConformer()
    nudge = np.random.default_rng(0).normal(scale=NUDGE, size=(mol.GetNumAtoms(), 3))
    nudge[others] = 0
    conformer.SetPositions(conformer.GetPositions() + nudge)
    with rdBase.BlockLogs():
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(moved, mmffVariant="MMFF94s")
        if parameters is not None:
            force_field = rdForceFieldHelpers.MMFFGetMoleculeForceField(moved, parameters)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(moved):
            force_field = rdForceFieldHelpers.UFFGetMoleculeForceField(moved)
        else:
            return mol
        force_field.Initialize()
        for index in others:
            force_field.AddFixedPoint(index)
        try:
            force_field.Minimize(maxIts=MAX_STEPS)
        except RuntimeError:  # atoms so near to one another that no step leads down
            return mol
    return moved if np.isfinite(conformer.GetPositions()).all() else mol


def infer_relaxed(
    molecules: Sequence[Molecule], rule: Rule = "kekule", hydrogens: Hydrogens = "explicit"
) -> list[tuple[Chem.Mol, str]]:
    """:func:`~gendiff.modalities.molecules.bonds.infer_all`, and hydrogens that RDKit adds to the valid are relaxed."""
    drawn = infer_all(molecules, rule, hydrogens)
    if hydrogens == "explicit":
        return drawn
    return [(mol if reason else relax_hydrogens(mol), reason) for mol, reason in drawn]
