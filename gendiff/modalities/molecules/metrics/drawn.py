"""Molecules with their bonds drawn, once, and all that the metrics need of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from gendiff.modalities.molecules.bonds import Hydrogens, Rule, infer_all
from gendiff.modalities.molecules.hydrogens import relax_hydrogens
from gendiff.modalities.molecules.metrics.content import Content, count_content
from gendiff.modalities.molecules.metrics.judge import Verdict, judge, strain_energy
from gendiff.modalities.molecules.metrics.rows import LARGEST_RING
from gendiff.modalities.molecules.properties import compute
from gendiff.modalities.molecules.records import MoleculeArrays

CHUNK = 1000
"""Molecules whose bonds are drawn at once."""

COST = 20
"""One relaxation takes about as long as drawing the bonds of so many molecules."""


@dataclass
class Drawn:
    """Molecules whose bonds have been drawn, and all that the metrics need of them."""

    molecules: MoleculeArrays
    verdicts: list[Verdict]
    bonds: NDArray[np.int64]  # (3, b) begin and end among all modelled atoms, 2 × order
    content: Content
    strains: list[tuple[float, int]]  # kcal/mol, atoms
    unstrained: Counter[str]
    found: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # wanted properties, NaN where not valid

    def __post_init__(self) -> None:
        self.valid = np.array([verdict["valid"] for verdict in self.verdicts], bool)
        self.connected = np.array([verdict["connected"] for verdict in self.verdicts], bool)
        self.smiles = [verdict["smiles"] for verdict in self.verdicts]


class Meter:
    """Tells a user's function which fraction of the work is done."""

    def __init__(self, progress: Callable[[float], None] | None, total: int) -> None:
        self.progress, self.total, self.done = progress, max(1, total), 0

    def advance(self, count: int) -> None:
        """Count what is done."""
        self.done = min(self.total, self.done + count)
        if self.progress:
            self.progress(self.done / self.total)


def modelled(molecules: MoleculeArrays, hydrogens: Hydrogens) -> MoleculeArrays:
    """Return the atoms that are modelled: all, or the heavy ones."""
    return molecules if hydrogens == "explicit" else molecules.remove_hydrogens()


def same_molecules(a: MoleculeArrays, b: MoleculeArrays) -> bool:
    """Whether two sets are the same, so that their bonds need not be drawn twice."""
    names = ("num_atoms", "atomic_numbers", "positions", "charges")
    return a is b or (
        list(a.smiles or ()) == list(b.smiles or ())
        and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in names)
    )


def draw_bonds(
    molecules: MoleculeArrays,
    rule: Rule,
    hydrogens: Hydrogens,
    max_strain: int = 0,
    seed: int = 0,
    meter: Meter | None = None,
    wanted: Sequence[str] = (),
) -> Drawn:
    """Draw the bonds of all molecules, once, and take from them what the metrics need.

    Arguments:
        molecules: The modelled atoms.
        rule: How bonds are read off coordinates.
        hydrogens: "explicit" or "implicit".
        max_strain: Relax at most so many valid molecules.
        seed: Of which these are.
        meter: Told of the work done.
        wanted: Names of properties to compute of the valid.
    """
    meter = meter or Meter(None, 0)
    rank = np.random.default_rng(seed).permutation(len(molecules)).tolist()
    split, first = molecules.split(), molecules.offsets
    verdicts: list[Verdict] = []
    bonds: list[NDArray[np.int64]] = [np.zeros((3, 0), np.int64)]
    rings: list[tuple[int, int]] = []
    chosen: list[tuple[int, Chem.Mol]] = []
    found = {name: np.full(len(molecules), np.nan) for name in wanted}
    for start in range(0, len(molecules), CHUNK):
        mols = [mol for mol, _ in infer_all(split[start : start + CHUNK], rule, hydrogens)]
        verdicts += judge(mols)
        for row, mol in enumerate(mols, start):
            size = len(split[row][0])  # hydrogens that RDKit added come after the modelled atoms
            order = np.rint(2 * Chem.GetAdjacencyMatrix(mol, useBO=True)[:size, :size]).astype(np.int64)
            i, j = np.nonzero(np.triu(order))
            bonds.append(np.stack([first[row] + i, first[row] + j, order[i, j]]))
            if verdicts[row]["valid"]:
                rings += [(row, min(len(ring), LARGEST_RING)) for ring in mol.GetRingInfo().AtomRings()]
                chosen.append((rank[row], mol))
                for name, values in found.items():
                    values[row] = compute(mol, name)
        chosen = sorted(chosen, key=lambda pair: pair[0])[:max_strain]
        meter.advance(len(mols))
    strains, unstrained = [], Counter[str]()
    for _, mol in chosen:
        energy, reason = strain_energy(mol if hydrogens == "explicit" else relax_hydrogens(mol))
        if reason:
            unstrained[reason] += 1
        else:
            strains.append((energy, mol.GetNumAtoms()))
        meter.advance(COST)
    drawn = np.concatenate(bonds, 1)
    content = count_content(molecules, drawn, np.array(rings, np.int64).reshape(-1, 2))
    return Drawn(molecules, verdicts, drawn, content, strains, unstrained, found)
