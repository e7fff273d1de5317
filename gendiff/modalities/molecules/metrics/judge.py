"""What is said of one molecule: whether it is valid, and how strained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from gendiff.modalities.molecules.records import canonical_smiles

MAX_STEPS = 2000
"""Of one relaxation."""


class Verdict(TypedDict):
    """What :func:`judge` says of a molecule."""

    valid: bool
    connected: bool
    smiles: str
    reason: str


def judge(mols: Iterable[Chem.Mol]) -> list[Verdict]:
    """Say of each molecule whether it is valid and connected, its SMILES and, if it is not valid, why.

    A molecule is valid if nothing marks it otherwise (the property `invalid` that bond inference sets) and RDKit
    sanitises it whole. It is connected if its bonds make it one fragment, be it valid or not. Its SMILES is
    canonical and without stereochemistry, "" if it is not valid.

    Arguments:
        mols: Molecules with their bonds; they are not changed.
    """
    verdicts = []
    with rdBase.BlockLogs():
        for mol in mols:
            reason = mol.GetProp("invalid") if mol.HasProp("invalid") else _rejection(mol)
            connected = mol.GetNumAtoms() > 0 and len(Chem.GetMolFrags(mol)) == 1
            smiles = "" if reason else canonical_smiles(mol)
            verdicts.append(Verdict(valid=not reason, connected=connected, smiles=smiles, reason=reason))
    return verdicts


def strain_energy(mol: Chem.Mol) -> tuple[float, str]:
    """Return the MMFF94s energy of a conformer above that of the minimum it relaxes to, in kcal/mol.

    References:
        | T. A. Halgren, MMFF VI. MMFF94s option for energy minimization studies (1999), J. Comput. Chem. 20, 720

    Arguments:
        mol: A sanitised molecule with hydrogens and a conformer; it is not changed.

    Returns:
        The strain and "", or NaN and the reason if there is no such energy.
    """
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return np.nan, "radical"
    mol = Chem.Mol(mol)  # the force field moves its atoms and does not keep it alive
    with rdBase.BlockLogs():
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
        if parameters is None:
            return np.nan, "no MMFF94s parameters"
        force_field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters)
        before = force_field.CalcEnergy()
        force_field.Minimize(maxIts=MAX_STEPS)
        strain = before - force_field.CalcEnergy()
    return (strain, "") if np.isfinite(strain) else (np.nan, "no finite energy")


def _rejection(mol: Chem.Mol) -> str:
    """Say why RDKit refuses a molecule, or ""."""
    try:
        Chem.SanitizeMol(Chem.Mol(mol))
    except ValueError as error:
        return str(error).strip().splitlines()[0]
    return ""
