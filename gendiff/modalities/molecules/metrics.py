r"""How good are generated molecules? One protocol for what was generated and for the reference it is held against.

Bonds are always read off the coordinates by the rule that is named (:mod:`gendiff.modalities.molecules.bonds`), for
generated and reference molecules alike, whatever bonds a file states. Nothing is repaired, relaxed or filtered
first. :data:`METRICS` says what each number means. The reference's own number is what the procedure gives on real
molecules; no model can be expected to do better.

The interval of a number comes from resampling molecules. Numbers that count *different* molecules (uniqueness and
what contains it) give each of m equal molecules the weight 1/m and resample these weights: drawing with replacement
would itself make duplicates.

Distances are between what the molecules hold together: :math:`p_k \propto \sum_i c_{ik}`, where molecule i adds
:math:`c_{ik}` to bin k of a histogram (its size, its atoms by element, its rings by size, its bonds by length). The
reference's own distance is that between two parts of it, drawn at random: as many molecules as were generated (at
most half of it) against the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
import rdkit
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers
from scipy import sparse

from gendiff import __version__
from gendiff.metrics import (
    Floats,
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

__all__ = ["METRICS", "Table", "Verdict", "evaluate", "judge", "smiles_set", "stability", "strain_energy"]

CHUNK = 1000  # molecules whose bonds are drawn at once
LARGEST_RING = 12  # larger rings count as this size
MAX_STEPS = 2000  # of one relaxation
COST = 20  # one relaxation takes about as long as drawing the bonds of so many molecules

RULES = {
    ("lookup", "explicit"): "from the coordinates of all atoms by EDM's table of lengths",
    ("lookup", "implicit"): "from the coordinates of heavy atoms by lengths, then valences; hydrogens by RDKit",
    ("rdkit", "explicit"): "from the coordinates of all atoms by RDKit's DetermineBonds",
}

Row = tuple[str, str, Literal["higher", "lower"] | None, str]
METRICS: dict[str, Row] = {
    "atom_stability": (
        "stable atoms",
        "%",
        "higher",
        "Atoms whose bond orders by EDM's table add up to an allowed valence of their element. The rule knows no "
        "formal charges, so ions in the reference count as unstable.",
    ),
    "molecule_stability": ("stable molecules", "%", "higher", "Molecules all of whose atoms are stable in this sense."),
    "validity": (
        "valid",
        "%",
        "higher",
        "Molecules without overlapping atoms that RDKit sanitises whole, with the bonds as drawn.",
    ),
    "valid_connected": ("valid and connected", "%", "higher", "Molecules that are valid and one single fragment."),
    "uniqueness": (
        "unique, of the valid",
        "%",
        "higher",
        "Different SMILES (canonical, without stereochemistry) per valid molecule. Falls as more are drawn.",
    ),
    "novelty": (
        "new, of the valid",
        "%",
        None,
        "Valid molecules whose SMILES is not among those of the training molecules, neither as the same rule reads "
        "them off the coordinates nor as the file states them. Neither high nor low is good in itself.",
    ),
    "valid_unique": ("valid and unique", "%", "higher", "Different valid SMILES per molecule (V×U)."),
    "valid_unique_new": (
        "valid, unique and new",
        "%",
        "higher",
        "Different valid SMILES that are not among the training molecules', per molecule (V×U×N).",
    ),
    "size_variation": (
        "sizes: total variation",
        "",
        "lower",
        "Between the distributions of the number of modelled atoms; 0 equal, 1 disjoint.",
    ),
    "size_distance": ("sizes: Wasserstein", "atoms", "lower", "Between the same distributions."),
    "element_variation": (
        "elements: total variation",
        "",
        "lower",
        "Between the distributions of elements over modelled atoms; 0 equal, 1 disjoint.",
    ),
    "ring_variation": (
        "ring sizes: total variation",
        "",
        "lower",
        "Between the distributions of ring sizes in valid molecules (smallest set of smallest rings; "
        f"{LARGEST_RING} stands for all larger); 0 equal, 1 disjoint.",
    ),
    "bond_length_distance": (
        "bond lengths: Wasserstein",
        "Å",
        "lower",
        "Between bond lengths, averaged over the kinds of bonds (elements and order) that both sets have, weighted by "
        "how frequent they are in the reference. Lengths are rounded to 0.001 Å.",
    ),
    "strain": (
        "strain: median",
        "kcal/mol",
        "lower",
        "MMFF94s energy of a valid molecule as drawn minus that of the minimum it relaxes to, per molecule. Where "
        "hydrogens are not modelled they count where RDKit put them, which strains real molecules, too. Radicals and "
        "molecules that MMFF94s has no parameters for are left out and counted.",
    ),
    "strain_low": ("strain: lower quartile", "kcal/mol", "lower", "A quarter of the molecules are strained less."),
    "strain_high": ("strain: upper quartile", "kcal/mol", "lower", "A quarter of the molecules are strained more."),
    "strain_per_atom": (
        "strain per atom: median",
        "kcal/mol",
        "lower",
        "The strain of a molecule divided by the number of its atoms, hydrogens included.",
    ),
}
"""The rows of :func:`evaluate`: title, unit, which direction is better, and what the number means, by name."""


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


def smiles_set(molecules: MoleculeArrays, rule: Rule = "lookup", hydrogens: Hydrogens = "explicit") -> set[str]:
    """Return the SMILES by which molecules are known, to look up what is new.

    Arguments:
        molecules: The molecules; their hydrogens are left out if implicit.
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
    """Measure generated molecules, and a reference by the same procedure; the first lines of this module say how.

    Arguments:
        generated: The molecules; bonds that they state are ignored.
        reference: Real molecules, for example the training set or a part that was held out.
        training: What the model was trained on, against which novelty is judged; the reference if None.
        rule: How bonds are read off coordinates: "lookup" or "rdkit".
        hydrogens: "explicit" (all atoms are modelled) or "implicit" (heavy atoms only; hydrogens are left out).
        strain: Whether to relax molecules with MMFF94s, the slow part (milliseconds per molecule).
        max_strain: Relax at most so many molecules of each set, drawn at random.
        seed: Seed of the bootstrap and of what is drawn at random.
        n_resamples: Bootstrap resamples.
        progress: Called with the fraction done, 0 to 1, now and then.

    Returns:
        The table. Stability is there with explicit hydrogens only; a number that does not apply is None (the
        novelty of the training set, distances without molecules, …).

    Raises:
        UserError: for the RDKit rule with implicit hydrogens.
    """
    sets = [_modelled(one, hydrogens) for one in (generated, reference, reference if training is None else training)]
    max_strain *= strain
    meter = _Meter(progress, sum(map(len, sets)) + COST * sum(min(max_strain, len(one)) for one in sets[:2]))
    drawn: list[_Drawn] = []
    for one in sets:
        equal = next((before for before in drawn if _equal(before.molecules, one)), None)
        drawn.append(equal or _draw(one, rule, hydrogens, max_strain if len(drawn) < 2 else 0, seed, meter))
    new, old, taught = drawn
    known, options = _known(taught), {"n_resamples": n_resamples, "seed": seed}
    part, rest = _parts(old.content, new.content.n, seed)
    left = _scores(new, known, hydrogens, options) | _distances(new.content, old.content, options)
    right = _scores(old, known, hydrogens, options) | _distances(part, rest, options)
    if old is taught:
        right |= {"novelty": None, "valid_unique_new": None}
    if not strain:
        left = {name: value for name, value in left.items() if not name.startswith("strain")}
    meter.advance(meter.total)
    rows = [Metric(name, row[0], left[name], right[name], *row[1:]) for name, row in METRICS.items() if name in left]
    facts = _facts(new, old, taught, rule, hydrogens, max_strain, options)
    return Table(rows, facts, "Generated molecules beside the reference")


@dataclass
class _Content:
    """What n molecules hold: molecule `rows[i]` adds one to the histogram bin `keys[i]`; see `_keys`."""

    n: int
    rows: NDArray[np.int64]
    keys: NDArray[np.int64]

    def select(self, molecules: NDArray[np.int64]) -> _Content:
        """Return the content of some molecules, none of them twice."""
        place = np.full(self.n, -1)
        place[molecules] = np.arange(len(molecules))
        rows = place[self.rows]
        return _Content(len(molecules), rows[rows >= 0], self.keys[rows >= 0])

    def matrix(self, bins: NDArray[np.int64]) -> sparse.csr_array:
        """Return counts (n, K) by molecule and bin."""
        columns = np.searchsorted(bins, self.keys)
        return sparse.csr_array((np.ones(len(columns)), (self.rows, columns)), shape=(self.n, len(bins)))


@dataclass
class _Drawn:
    """Molecules whose bonds have been drawn, and all that the metrics need of them."""

    molecules: MoleculeArrays
    verdicts: list[Verdict]
    content: _Content
    strains: list[tuple[float, int]]  # kcal/mol, atoms
    unstrained: Counter[str]

    def __post_init__(self) -> None:
        self.valid = np.array([verdict["valid"] for verdict in self.verdicts], bool)
        self.connected = np.array([verdict["connected"] for verdict in self.verdicts], bool)
        self.smiles = [verdict["smiles"] for verdict in self.verdicts]


class _Meter:
    """Tells a user's function which fraction of the work is done."""

    def __init__(self, progress: Callable[[float], None] | None, total: int) -> None:
        self.progress, self.total, self.done = progress, max(1, total), 0

    def advance(self, count: int) -> None:
        self.done = min(self.total, self.done + count)
        if self.progress:
            self.progress(self.done / self.total)


def _modelled(molecules: MoleculeArrays, hydrogens: Hydrogens) -> MoleculeArrays:
    return molecules if hydrogens == "explicit" else molecules.remove_hydrogens()


def _equal(a: MoleculeArrays, b: MoleculeArrays) -> bool:
    """Whether two sets are the same, so that their bonds need not be drawn twice."""
    names = ("num_atoms", "atomic_numbers", "positions", "charges")
    return a is b or (a.smiles == b.smiles and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in names))


def _rejection(mol: Chem.Mol) -> str:
    """Say why RDKit refuses a molecule, or ""."""
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
    """Draw the bonds of all molecules, once, and take from them what the metrics need."""
    meter = meter or _Meter(None, 0)
    rank = np.random.default_rng(seed).permutation(len(molecules)).tolist()
    split, first = molecules.split(), molecules.offsets
    verdicts: list[Verdict] = []
    bonds: list[NDArray[np.int64]] = [np.zeros((3, 0), np.int64)]
    rings: list[tuple[int, int]] = []
    chosen: list[tuple[int, Chem.Mol]] = []
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
        chosen = sorted(chosen, key=lambda pair: pair[0])[:max_strain]
        meter.advance(len(mols))
    strains, unstrained = [], Counter[str]()
    for _, mol in chosen:
        energy, reason = strain_energy(mol)
        if reason:
            unstrained[reason] += 1
        else:
            strains.append((energy, mol.GetNumAtoms()))
        meter.advance(COST)
    content = _keys(molecules, np.concatenate(bonds, 1), np.array(rings, np.int64).reshape(-1, 2))
    return _Drawn(molecules, verdicts, content, strains, unstrained)


SIZE, ELEMENT, RING, BOND = (kind << 40 for kind in range(4))
LENGTHS = 1 << 12  # bins of 0.001 Å


def _keys(molecules: MoleculeArrays, bonds: NDArray[np.int64], rings: NDArray[np.int64]) -> _Content:
    """Number the bins of all histograms: kind of histogram, kind of bond if it is one of lengths, place in it.

    Arguments:
        molecules: The modelled atoms.
        bonds: (3, b) begin and end among all atoms, 2 × order.
        rings: (r, 2) molecule and size.
    """
    begin, end, order = bonds
    owner, numbers = molecules.molecule_of_atom, molecules.atomic_numbers.astype(np.int64)
    lengths = np.linalg.norm(molecules.positions[begin].astype(np.float64) - molecules.positions[end], axis=1)
    pair = np.sort(np.stack([numbers[begin], numbers[end]]), axis=0)
    kind = (pair[0] * 128 + pair[1]) * 8 + order
    bins = np.minimum(np.rint(lengths * 1000).astype(np.int64), LENGTHS - 1)
    parts = [
        (np.arange(len(molecules)), SIZE + molecules.num_atoms),
        (owner, ELEMENT + numbers),
        (rings[:, 0], RING + rings[:, 1]),
        (owner[begin], BOND + kind * LENGTHS + bins),
    ]
    rows, keys = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Content(len(molecules), rows, keys)


def _known(taught: _Drawn) -> set[str]:
    return {*taught.smiles, *(taught.molecules.smiles or ())} - {""}


def _scores(drawn: _Drawn, known: set[str], hydrogens: Hydrogens, options: dict[str, Any]) -> dict[str, Value | None]:
    """The metrics that need one set of molecules."""
    valid = drawn.valid
    copies = Counter(smiles for smiles, good in zip(drawn.smiles, valid, strict=True) if good)
    weight = np.array([good / max(1, copies[smiles]) for smiles, good in zip(drawn.smiles, valid, strict=True)])
    new = np.array([smiles not in known for smiles in drawn.smiles], bool)
    scores = {
        "validity": share(valid, **options),
        "valid_connected": share(valid & drawn.connected, **options),
        "uniqueness": share(weight[valid], **options),
        "novelty": share(new[valid], **options),
        "valid_unique": share(weight, **options),
        "valid_unique_new": share(weight * new, **options),
    }
    if hydrogens == "explicit":
        scores["atom_stability"], scores["molecule_stability"] = stability(drawn.molecules, **options)
    strain, atoms = np.array(drawn.strains, np.float64).reshape(-1, 2).T
    return scores | {
        "strain": bootstrap(strain, np.median, **options),
        "strain_low": bootstrap(strain, partial(np.quantile, q=0.25), **options),
        "strain_high": bootstrap(strain, partial(np.quantile, q=0.75), **options),
        "strain_per_atom": bootstrap(strain / atoms, np.median, **options),
    }


def _distances(a: _Content, b: _Content, options: dict[str, Any]) -> dict[str, Value | None]:
    """The metrics that compare two sets of molecules, all from the same resamples."""
    names = ("size_variation", "size_distance", "element_variation", "ring_variation", "bond_length_distance")
    if not (a.n and b.n):
        return dict.fromkeys(names)
    bins = np.unique(np.concatenate([a.keys, b.keys]))
    size, element, ring, bond = np.split(np.arange(len(bins)), np.searchsorted(bins, [ELEMENT, RING, BOND]))
    kinds = np.split(bond, np.flatnonzero(np.diff(bins[bond] // LENGTHS)) + 1)

    def distances(x: Floats, y: Floats) -> Floats:
        weights = np.stack([y[:, kind].sum(1) * (x[:, kind].sum(1) > 0) for kind in kinds], 1)
        apart = np.stack([wasserstein_counts(x[:, kind], y[:, kind], bins[kind] % LENGTHS / 1000) for kind in kinds], 1)
        found = [
            total_variation(x[:, size], y[:, size]),
            wasserstein_counts(x[:, size], y[:, size], bins[size]),
            total_variation(x[:, element], y[:, element]),
            total_variation(x[:, ring], y[:, ring]),
            np.where(weights > 0, weights * apart, 0).sum(1) / weights.sum(1),
        ]
        return np.stack(found, 1)

    return dict(zip(names, bootstrap_totals(distances, a.matrix(bins), b.matrix(bins), **options), strict=True))


def _parts(content: _Content, size: int, seed: int) -> tuple[_Content, _Content]:
    """Split molecules at random into `size` of them, at most half (and half if `size` is zero), and the rest."""
    half = content.n // 2
    size = min(size, half) or half
    order = np.random.default_rng(seed).permutation(content.n)
    return content.select(order[:size]), content.select(order[size:])


def _facts(
    new: _Drawn,
    old: _Drawn,
    taught: _Drawn,
    rule: Rule,
    hydrogens: Hydrogens,
    max_strain: int,
    options: dict[str, Any],
) -> dict[str, str]:
    """What the numbers rest on, in words."""
    facts = {
        "generated": _count(new),
        "reference": _count(old),
        "training": "the reference" if taught is old else _count(taught),
        "bonds": f"{RULES[rule, hydrogens]}; nothing is repaired",
    }
    faults = Counter(_kind(verdict["reason"]) for verdict in new.verdicts if not verdict["valid"])
    if faults:
        facts["not valid"] = f"{faults.total():,} generated: {_most(faults)}"
    if max_strain:
        facts["strain"] = f"MMFF94s, up to {max_strain:,} valid molecules of each, at random"
        for name, drawn in (("generated", new), ("reference", old)):
            without = f" (without {_most(drawn.unstrained)})" if drawn.unstrained else ""
            facts["strain"] += f"; {len(drawn.strains):,} {name}{without}"
    facts["intervals"] = f"95 %, {options['n_resamples']:,} bootstrap resamples of molecules; seed {options['seed']}"
    facts["versions"] = f"gendiff {__version__}, RDKit {rdkit.__version__}"
    return facts


def _count(drawn: _Drawn) -> str:
    return f"{len(drawn.molecules):,} molecules, {len(drawn.molecules.atomic_numbers):,} modelled atoms"


def _kind(reason: str) -> str:
    """A reason without the numbers of atoms, so that all molecules with one fault have the same."""
    reason = re.sub(r"Explicit valence for atom # \d+ (\w+), (\d+).*", r"\1 with \2 bonds", reason)
    return re.sub(r"( #|:)( ?\d+)+| \d+ and \d+", "", reason)


def _most(counts: Counter[str]) -> str:
    """The three most frequent kinds, with how often each occurs."""
    kinds = [f"{count:,} × {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return "; ".join(kinds[:3] + ["…"] * (len(kinds) > 3))
