r"""How good are generated molecules? One protocol for what was generated and for the reference it is held against.

Bonds are always read off the coordinates by the rule that is named (:mod:`gendiff.modalities.molecules.bonds`), for generated and
reference molecules alike, whatever bonds a file states. Nothing is repaired, relaxed or filtered first. :data:`HELP` says what each
number means; the reference's own number is what the procedure gives on real molecules, so no model can be expected to beat it.

The interval of a number comes from resampling molecules. Numbers that count different molecules (uniqueness and what contains it)
give each of m equal molecules the weight 1/m and resample these weights: drawing with replacement would itself make duplicates.

Distances are between what the molecules hold together: :math:`p_k \propto \sum_i c_{ik}`, where molecule i adds :math:`c_{ik}` to bin k of a
histogram (its size, its atoms by element, its rings by size, its bonds by length). The reference's own distance is that between
two parts of it, drawn at random: as many molecules as were generated (at most half) against the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypedDict

import numpy as np
import rdkit
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers
from scipy import sparse

from gendiff.metrics import (
    Metric,
    Table,
    Value,
    bootstrap,
    bootstrap_totals,
    share,
    total_variation,
    wasserstein_counts,
)
from gendiff.modalities.molecules.bonds import Hydrogens, Rule, infer_all, stability_flat
from gendiff.modalities.molecules.records import MoleculeArrays, canonical_smiles

__all__ = ["HELP", "Table", "Verdict", "evaluate", "judge", "smiles_set", "stability", "strain_energy"]

CHUNK = 1000  # molecules whose bonds are drawn at once
LARGEST_RING = 12  # larger rings count as this size
MAX_STEPS = 2000  # of a minimisation

RULES = {
    ("lookup", "explicit"): "EDM's table of lengths, all atoms",
    ("lookup", "implicit"): "heavy-atom rule (lengths and free valences); RDKit adds the hydrogens",
    ("rdkit", "explicit"): "RDKit's DetermineBonds, all atoms",
}

HELP = {
    "atom_stability": "Atoms whose bond orders by EDM's table add up to an allowed valence (no formal charges), as EDM defines it.",
    "molecule_stability": "Molecules all of whose atoms are stable in this sense.",
    "validity": "Molecules that RDKit sanitises whole, with the bonds as drawn (not just the largest fragment).",
    "valid_connected": "Molecules that are valid and one single fragment.",
    "uniqueness": "Different SMILES among valid molecules, per valid molecule. It falls with the number of molecules.",
    "novelty": "Valid molecules whose SMILES is not among the training molecules', as the same rule reads or as their file states them. "
    "SMILES are canonical, without stereochemistry. For the reference: does not apply if it is what the model was trained on.",
    "valid_unique": "Different valid SMILES per molecule drawn.",
    "valid_unique_new": "Different valid SMILES that are not in the training set, per molecule drawn.",
    "size_variation": "Total variation between the distributions of the number of modelled atoms (0 equal, 1 disjoint).",
    "size_distance": "Wasserstein distance between the same distributions, in atoms.",
    "element_variation": "Total variation between the distributions of elements over atoms.",
    "ring_variation": f"Total variation between the distributions of ring sizes (valid molecules, smallest rings, {LARGEST_RING} for all larger).",
    "bond_length_distance": "Wasserstein distance between bond lengths, averaged over the kinds of bonds (elements and order, as drawn) that both "
    "have, weighted by how frequent they are in the reference. Lengths are rounded to 0.001 Å.",
    "strain": "Median over valid molecules of the MMFF94s energy as drawn minus the energy of the nearest minimum. Hydrogens that RDKit added count as "
    "drawn, so the reference has strain, too. Radicals and atoms that MMFF94s does not know are left out and counted.",
    "strain_low": "A quarter of the molecules has less strain.",
    "strain_high": "A quarter of the molecules has more strain.",
    "strain_per_atom": "Median of strain divided by the number of atoms, hydrogens included.",
}
"""What each metric of :func:`evaluate` means, by name."""


class Verdict(TypedDict):
    """What :func:`judge` says of a molecule."""

    valid: bool
    connected: bool
    smiles: str
    reason: str


def judge(mols: Iterable[Chem.Mol]) -> list[Verdict]:
    """Say of each molecule whether it is valid and connected, its SMILES and, if it is not valid, why.

    A molecule is valid if nobody marked it otherwise (property `invalid`, as bond inference sets it) and RDKit sanitises it whole. It is
    connected if its bonds make it one fragment, valid or not. `smiles` is canonical, without stereochemistry; "" if not valid.

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


def smiles_set(molecules: MoleculeArrays, rule: Rule = "lookup", hydrogens: Hydrogens = "explicit") -> set[str]:
    """Return the SMILES by which molecules are known, for looking up what is new.

    Arguments:
        molecules: The modelled atoms; hydrogens are left out if implicit.
        rule: How bonds are read off coordinates.
        hydrogens: "explicit" or "implicit".

    Returns:
        The canonical SMILES of those that the rule makes valid molecules of, and those that the records state.
    """
    return _known(_draw(_modelled(molecules, hydrogens), rule, hydrogens))


def stability(molecules: MoleculeArrays, **options: Any) -> tuple[Value | None, Value | None]:
    """Return the shares of stable atoms and of stable molecules by EDM's rule, for molecules with all their hydrogens.

    Arguments:
        molecules: The molecules.
        options: `n_resamples`, `seed`, `level` of :func:`gendiff.metrics.share`.
    """
    atoms, whole = stability_flat(molecules.num_atoms, molecules.atomic_numbers, molecules.positions)
    stable = np.bincount(molecules.molecule_of_atom, atoms, len(molecules))
    return share(stable, molecules.num_atoms, **options), share(whole, **options)


def strain_energy(mol: Chem.Mol) -> tuple[float, str]:
    """Return the MMFF94s energy of the conformer above the minimum it relaxes to, in kcal/mol.

    Reference:
        T. A. Halgren, MMFF VI. MMFF94s option for energy minimization studies (1999), J. Comput. Chem. 20, 720.

    Arguments:
        mol: A sanitised molecule with hydrogens and a conformer; it is not changed.

    Returns:
        The strain and "", or NaN and the reason if there is no such energy.
    """
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return np.nan, "radical"
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
        field = properties and rdForceFieldHelpers.MMFFGetMoleculeForceField(Chem.Mol(mol), properties)
        if not field:
            return np.nan, "no MMFF94s parameters"
        before = field.CalcEnergy()
        field.Minimize(maxIts=MAX_STEPS)
        strain = before - field.CalcEnergy()
    return (strain, "") if np.isfinite(strain) else (np.nan, "energy is not finite")


def evaluate(
    generated: MoleculeArrays,
    reference: MoleculeArrays,
    *,
    training: MoleculeArrays | None = None,
    rule: Rule = "lookup",
    hydrogens: Hydrogens = "explicit",
    strain: bool = True,
    max_strain: int = 1000,
    seed: int = 0,
    n_resamples: int = 1000,
    progress: Callable[[float], None] | None = None,
) -> Table:
    """Measure generated molecules, and a reference by the same procedure; see the first lines of this module.

    Arguments:
        generated: The molecules; their bonds, if they have any, are ignored.
        reference: Real molecules, for example the training set or a part that was held out.
        training: What the model was trained on, against which novelty is judged; the reference if None.
        rule: How bonds are read off coordinates: "lookup" or "rdkit".
        hydrogens: "explicit" (all atoms are modelled) or "implicit" (heavy atoms; hydrogens in the records are left out).
        strain: Whether to relax molecules with MMFF94s, the slow part (milliseconds per molecule).
        max_strain: Relax at most so many molecules of each set, drawn at random.
        seed: Seed of the bootstrap and of what is drawn at random.
        n_resamples: Bootstrap resamples.
        progress: Called with the fraction done, 0 to 1, now and then.

    Returns:
        The table. A number that does not apply is None: stability without hydrogens, uniqueness without valid molecules, ….

    Raises:
        UserError: for the RDKit rule with implicit hydrogens.
    """
    sets = [_modelled(molecules, hydrogens) for molecules in (generated, reference, reference if training is None else training)]
    meter = _Meter(progress, sum(map(len, sets)) + RELAXATION * 2 * max_strain * strain)
    drawn: list[_Drawn] = []
    for molecules in sets:
        equal = next((known for known in drawn if _equal(known.molecules, molecules)), None)
        relaxed = max_strain if strain and len(drawn) < 2 else 0
        drawn.append(equal or _draw(molecules, rule, hydrogens, relaxed, seed, meter))
    new, old, taught = drawn
    known, options = _known(taught), {"n_resamples": n_resamples, "seed": seed}
    scores = [_scores(one, known, hydrogens, options) | _strains(one, strain, options) for one in (new, old)]
    if old is taught:
        scores[1] |= {"novelty": None, "valid_unique_new": None}
    part, rest = _parts(old.content, len(sets[0]), seed)
    scores[0] |= _distances(new.content, old.content, options)
    scores[1] |= _distances(part, rest, options)
    meter.finish()
    return Table(
        [Metric(name, title, scores[0][name], scores[1][name], unit, better, HELP[name]) for name, title, unit, better in ROWS if name in scores[0]],
        _facts(new, old, taught, rule, hydrogens, strain, options),
        "Generated molecules beside the reference",
    )


@dataclass
class _Content:
    """What n molecules hold: molecule `rows[i]` adds one to bin `keys[i]` of a histogram."""

    n: int
    rows: NDArray[np.int64]
    keys: NDArray[np.int64]

    def select(self, molecules: NDArray[np.int64]) -> _Content:
        """The content of some molecules, each named once."""
        place = np.full(self.n, -1)
        place[molecules] = np.arange(len(molecules))
        rows = place[self.rows]
        return _Content(len(molecules), rows[rows >= 0], self.keys[rows >= 0])

    def matrix(self, bins: NDArray[np.int64]) -> sparse.csr_array:
        """Counts (n, K) by molecule and bin."""
        columns = np.searchsorted(bins, self.keys)
        return sparse.csr_array((np.ones(len(columns)), (self.rows, columns)), shape=(self.n, len(bins)))


@dataclass
class _Drawn:
    """Molecules with their bonds drawn: all that the metrics need of them."""

    molecules: MoleculeArrays
    verdicts: list[Verdict]
    content: _Content
    strains: list[tuple[float, int]]
    unstrained: Counter[str]

    def __post_init__(self) -> None:
        self.valid = np.array([verdict["valid"] for verdict in self.verdicts], bool)
        self.connected = np.array([verdict["connected"] for verdict in self.verdicts], bool)
        self.smiles = [verdict["smiles"] for verdict in self.verdicts]


class _Meter:
    """Tells a user's function which part of the work is done."""

    def __init__(self, progress: Callable[[float], None] | None, total: int) -> None:
        self.progress, self.total, self.done = progress, max(1, total), 0

    def advance(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(min(1.0, self.done / self.total))

    def finish(self) -> None:
        self.advance(self.total)


def _modelled(molecules: MoleculeArrays, hydrogens: Hydrogens) -> MoleculeArrays:
    return molecules if hydrogens == "explicit" else molecules.remove_hydrogens()


def _equal(a: MoleculeArrays, b: MoleculeArrays) -> bool:
    """Whether two sets are the same, so that bonds need not be drawn twice."""
    names = ("num_atoms", "atomic_numbers", "positions", "charges")
    return a is b or (a.smiles == b.smiles and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names))


def _rejection(mol: Chem.Mol) -> str:
    """Why RDKit refuses a molecule, or ""."""
    try:
        Chem.SanitizeMol(Chem.Mol(mol))
    except ValueError as error:
        return str(error).strip().splitlines()[0]
    return ""


def _draw(
    molecules: MoleculeArrays,
    rule: Rule,
    hydrogens: Hydrogens,
    max_strain: int = 0,
    seed: int = 0,
    meter: _Meter | None = None,
) -> _Drawn:
    """Draw the bonds of all molecules once, and take from them what the metrics need."""
    meter = meter or _Meter(None, 0)
    owner, first = molecules.molecule_of_atom, molecules.offsets
    rank = np.random.default_rng(seed).permutation(len(molecules))
    split, verdicts, bonds, rings = molecules.split(), [], [], []
    relaxed: list[tuple[int, Chem.Mol]] = []
    for start in range(0, len(molecules), CHUNK):
        mols = [mol for mol, _ in infer_all(split[start : start + CHUNK], rule, hydrogens)]
        verdicts += judge(mols)
        for row, mol in enumerate(mols, start):
            order = Chem.GetAdjacencyMatrix(mol, useBO=True)[: len(split[row][0]), : len(split[row][0])]
            i, j = np.nonzero(np.triu(order))
            bonds.append(np.stack([i + first[row], j + first[row], 2 * order[i, j].astype(np.int64)]))
            if verdicts[row]["valid"]:
                rings += [(row, min(len(ring), LARGEST_RING)) for ring in mol.GetRingInfo().AtomRings()]
                relaxed.append((rank[row], mol))
        relaxed = sorted(relaxed, key=lambda pair: pair[0])[:max_strain]
        meter.advance(len(mols))
