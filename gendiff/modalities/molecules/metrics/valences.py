"""Stability with bonds by RDKit, formal charges and aromatic bonds counted as such.

Bonds and charges come from `rdDetermineBonds`, so zwitterions are no defect. Aromatic bonds are neither 1 nor 1.5: an
atom is stable if the pair (number of its aromatic bonds, sum of the orders of its others) is one that its element has
at its formal charge. The pairs are those of real molecules in GEOM-Drugs, as the authors of the corrected benchmark
state them: neutral N with two and neutral C with three bonds, which older tables allow, are not among them.

References:
    | GEOM-Drugs revisited: toward more chemically accurate benchmarks for 3D molecule generation (Nikitin et al., 2025)
    | https://arxiv.org/abs/2505.00169
    | https://github.com/isayevlab/geom-drugs-3dgen-evaluation
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from gendiff.metrics import Value, share
from gendiff.modalities.molecules.bonds import infer_all
from gendiff.modalities.molecules.metrics.edm import copies_shared
from gendiff.modalities.molecules.metrics.judge import judge
from gendiff.modalities.molecules.metrics.rows import Row
from gendiff.modalities.molecules.records import MoleculeArrays

VALENCES = """
H   0: 01
B   0: 03            -1: 04
C   0: 04 22 21 30   -1: 03 21 30   +1: 03 21 30
N   0: 03 20 21 30   -1: 02 20      -2: 01         +1: 04 20 21 22 30
O   0: 02 20         -1: 01         +1: 03
F   0: 01
Si  0: 04            +1: 05
P   0: 03 05         +1: 04
S   0: 02 03 06 20   -1: 01         +1: 03 20 21 30   +2: 04 21 22   +3: 02 05
Cl  0: 01            +1: 02
Br  0: 01            +1: 02
I   0: 01            +1: 02         +2: 03
Bi  0: 03            +2: 05
"""
"""By element and formal charge: aromatic bonds (first digit) and the sum of the orders of the others (second digit)."""

ROWS: dict[str, Row] = {
    "rdkit_atom_stability": (
        "RDKit bonds: stable atoms",
        "%",
        "higher",
        "Atoms whose aromatic bonds and other bond orders their element has at their formal charge in real molecules "
        "(Nikitin et al. 2025), over all atoms. Where RDKit draws no bonds no atom is stable.",
    ),
    "rdkit_molecule_stability": ("RDKit bonds: stable molecules", "%", "higher", "All of their atoms are stable."),
    "rdkit_valid": (
        "RDKit bonds: valid",
        "%",
        "higher",
        "Molecules that RDKit's DetermineBonds draws bonds for, at their net charge, and sanitises whole.",
    ),
    "rdkit_valid_connected": ("RDKit bonds: valid and connected", "%", "higher", "Valid, and one single fragment."),
    "rdkit_valid_unique": ("RDKit bonds: valid and unique", "%", "higher", "Different valid SMILES per molecule."),
}


def _allowed() -> dict[tuple[str, int], set[tuple[int, int]]]:
    table: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for line in VALENCES.strip().splitlines():
        symbol, *words = line.split()
        for word in words:
            if word.endswith(":"):
                pairs = table.setdefault((symbol, int(word[:-1])), set())
            else:
                pairs.add((int(word[0]), int(word[1])))
    return table


ALLOWED = _allowed()


def stable_atoms(mol: Chem.Mol) -> NDArray[np.bool_]:
    """Return of each atom of a sanitised molecule with all its hydrogens whether it is stable, (N,)."""
    orders = np.rint(2 * Chem.GetAdjacencyMatrix(mol, useBO=True))  # 3 for an aromatic bond
    aromatic = (orders == 3).sum(1)
    pairs = np.stack([aromatic, (orders.sum(1) - 3 * aromatic) / 2], 1).astype(int).tolist()
    atoms = zip(mol.GetAtoms(), pairs, strict=True)
    return np.array(
        [tuple(pair) in ALLOWED.get((atom.GetSymbol(), atom.GetFormalCharge()), ()) for atom, pair in atoms], bool
    )


def scores(molecules: MoleculeArrays, **options: Any) -> dict[str, Value | None]:
    """Return the values of :data:`ROWS`.

    Arguments:
        molecules: The molecules, with all their hydrogens; their charges sum to the net charge that RDKit is given.
        options: `n_resamples`, `seed`, `level` of :func:`gendiff.metrics.share`.
    """
    drawn = [mol for mol, _ in infer_all(molecules.split(), "rdkit")]
    verdicts = judge(drawn)
    valid = np.array([verdict["valid"] for verdict in verdicts], bool)
    connected = np.array([verdict["connected"] for verdict in verdicts], bool)
    stable = [stable_atoms(mol) if good else np.zeros(1, bool) for mol, good in zip(drawn, valid, strict=True)]
    return {
        "rdkit_atom_stability": share([atoms.sum() for atoms in stable], molecules.num_atoms, **options),
        "rdkit_molecule_stability": share([atoms.all() for atoms in stable], **options),
        "rdkit_valid": share(valid, **options),
        "rdkit_valid_connected": share(valid & connected, **options),
        "rdkit_valid_unique": share(copies_shared([verdict["smiles"] for verdict in verdicts]), **options),
    }
