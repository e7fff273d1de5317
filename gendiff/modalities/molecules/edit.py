"""Fragments: what stays of a molecule when the rest grows, and how two molecules answer to one another.

Atoms that stay come first in every molecule that is made, in the order of the input, and stand where they stood. With
implicit hydrogens the input's own are left out before, and RDKit adds new ones after, so every free valence is a place
where something may grow. Models of all atoms keep the hydrogens that they are given: leave out those that are to go.

SciPy is loaded where it is used: all commands that know of molecules load this file, and would wait a second for it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from gendiff.files import UserError
from gendiff.modalities.molecules.bonds import infer_bonds, overlap
from gendiff.modalities.molecules.encode import to_ragged
from gendiff.modalities.molecules.formulas import read_formula, sizes_around, tally, write_formula
from gendiff.modalities.molecules.read import ReadReport, read_molecules
from gendiff.modalities.molecules.records import MoleculeArrays, to_mol
from gendiff.modality import Part, Task
from gendiff.ops import State
from gendiff.wording import many

if TYPE_CHECKING:
    from gendiff.modalities.molecules.modality import Molecules

TASKS = {
    "grow": Task("keep", "atoms of the input stay where they are, the rest grows around them"),
    "link": Task(
        "keep",
        "the same for an input in pieces, with as many new atoms as it takes to join them; what came out in one piece"
        " is 'connected'",
    ),
    "vary": Task("noise", "variations of a molecule"),
    "isomers": Task(
        "fix",
        "other molecules of the same atoms, anywhere; where the model draws heavy atoms, of the same heavy atoms",
    ),
    "interpolate": Task("path", "the way from one molecule to another"),
}

REACH = 1.32
"""Å that a stretched chain gains with each bond at most: atoms 1 and 4 of butane are 3.93 Å apart."""
FOREIGN = 1.0
"""Å² that it costs to match atoms of unlike elements."""


def read_parts(paths: Sequence[str | Path], task: str) -> tuple[MoleculeArrays, ReadReport]:
    """Read the molecules of an edit, all fragments of a record together; of "isomers" a path may be a formula, C7H10O2.

    Raises:
        UserError: for a record that cannot be used, or coordinates that "grow" and "link" need and that are missing.
    """
    if task == "isomers" and not any(Path(path).exists() for path in paths):
        with contextlib.suppress(ValueError):
            return of_formulas([str(path) for path in paths]), NothingRead()
    try:
        records, report = read_molecules(paths, fragments="keep")
    except UserError as error:  # here every record counts
        raise UserError(str(error).removesuffix("; leave such records out with --on-error skip")) from None
    if task in ("grow", "link") and report.embedded:
        raise UserError(
            f"{', '.join(map(str, paths))}: has no 3-D coordinates, so nothing says where its atoms stay; give a file"
            " with coordinates"
        )
    return records, report


class NothingRead(ReadReport):
    """The report where nothing was read."""

    def lines(self) -> list[str]:
        """Nothing is to be said."""
        return []


def of_formulas(texts: Sequence[str]) -> MoleculeArrays:
    """Return molecules of these formulas, all of their atoms at the origin.

    Raises:
        ValueError: for a text that is no formula.
    """
    atoms = [np.array(sorted(read_formula(text).elements(), reverse=True), np.uint8) for text in texts]
    sizes = np.array([len(numbers) for numbers in atoms])
    return MoleculeArrays(sizes, np.concatenate(atoms), np.zeros((sizes.sum(), 3), np.float32), names=list(texts))


def fragments(
    adapter: Molecules, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None
) -> list[Part]:
    """Return the fragments that an edit starts from; see :meth:`gendiff.modality.Modality.parts`.

    Arguments:
        adapter: The adapter of the model.
        records: Molecules as they were read, or RDKit molecules with conformers.
        task: "grow", "link", "vary", "isomers" or "interpolate".
        keep: Numbers of the atoms that stay, from 1, as in the file; those of several records count on. All if None.
        side: Refused: molecules come in Å.

    Raises:
        UserError: if the number of molecules, of pieces or of atoms does not fit, or an atom is unknown to the model.
    """
    if side is not None:
        raise UserError("--side is for data that come in any unit; molecules come in Å")
    if keep is not None and not len(keep):
        raise UserError("--keep names no atom; name those that stay, or leave it out to keep all")
    arrays = records if isinstance(records, MoleculeArrays) else MoleculeArrays.from_mols(records)
    wanted = {"grow": 1, "vary": 1, "interpolate": 2}.get(task)
    if wanted and len(arrays) != wanted:
        hint = "; --which says which of them" if wanted == 1 and len(arrays) else ""
        hint += "; fragments of one scaffold belong in one record" if task == "grow" else ""
        raise UserError(f"{task} takes {many(wanted, 'molecule')}, got {len(arrays):,}{hint}")
    kind, largest = "atoms" if adapter.hydrogens == "explicit" else "heavy atoms", max(adapter.sizes)
    if task in ("interpolate", "vary", "isomers"):
        whole: list[Part] = [Fragment.take(adapter, arrays.select([row]), ()) for row in range(len(arrays))]
        for part in whole:
            if len(part) > largest:
                raise UserError(
                    f"the input has {len(part)} {kind}, and the model knows molecules of at most {largest}; train on"
                    " larger molecules"
                )
        if task == "isomers":
            return [_atoms_alone(adapter, arrays.select([row]), part) for row, part in enumerate(whole)]
        return whole
    fragment = Fragment.take(adapter, arrays, range(1, arrays.atomic_numbers.size + 1) if keep is None else keep)
    kept, least = len(fragment), fragment.gap() if task == "link" else 1
    most = 2 * least + 1
    if adapter.hydrogens == "explicit":  # two hydrogens to each atom of a chain, and its two ends
        most = 3 * most + 2
    if kept >= largest:
        raise UserError(
            f"{kept} {kind} stay, and the model knows molecules of at most {largest}; keep fewer, or train on larger"
            " molecules"
        )
    if adapter.formulas:
        fragment = replace(fragment, counts=_counts(adapter, fragment))
    if task == "grow":
        return [replace(fragment, sizes=(kept + least, None))]
    hint = "pieces that lie far apart need many elements between them"
    return [replace(fragment, sizes=(kept + least, kept + most), hint=hint)]


def _counts(adapter: Molecules, fragment: Fragment) -> dict[int, int]:
    """Return how many training molecules of each size have the atoms of a fragment, and more.

    Raises:
        UserError: if none has.
    """
    kept = Counter(fragment.atoms.atomic_numbers.tolist())
    counts = sizes_around(adapter.formulas, kept)
    if max(counts, default=0) <= len(fragment):
        raise UserError(
            f"this model draws formulas of its training molecules, and none contains {write_formula(kept)} and more;"
            " keep fewer atoms, or train on molecules that do"
        )
    return counts


def _atoms_alone(adapter: Molecules, arrays: MoleculeArrays, part: Part) -> Part:
    """Return the elements of a part without their places, to draw isomers of the molecule that it was taken from.

    Raises:
        UserError: if hydrogens are missing that the model would draw.
    """
    bonded = bool(arrays.num_bonds[0])
    mol = to_mol(arrays[0])
    missing = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()) if bonded else 0
    if missing and adapter.hydrogens == "explicit":
        raise UserError(
            f"isomers: the input lacks {many(missing, 'hydrogen')}, and this model draws all atoms; add them to the"
            " file"
        )
    whole = bonded or bool((arrays.atomic_numbers == 1).any())
    formula = _formula(mol) if bonded else next(iter(tally(arrays)))
    return replace(
        part,  # type: ignore[type-var]
        state={"element": part.state["element"]},
        formula=formula if whole and adapter.hydrogens == "implicit" else "",
    )


@dataclass(frozen=True)
class Fragment(Part):
    """Atoms of one input that an edit starts from; all stay, or none if `kept` is empty.

    Arguments:
        atoms: The modelled atoms as one record, in Å where the input stands.
        state: The same as fields, around their centroid.
        scale: Å per unit of position.
        kept: Their numbers in the input, from 1.
        centre: Their centroid in Å, (3,).
        sizes: Bounds of the number of modelled atoms of what comes of it.
        counts: See :class:`gendiff.modality.Part`.
        hint: See there.
        formula: What molecules should have that come of its heavy atoms, with hydrogens; "" if nothing is to be said.
    """

    atoms: MoleculeArrays
    state: State
    scale: float
    kept: tuple[int, ...]
    centre: NDArray[np.float64]
    sizes: tuple[int | None, int | None] = (None, None)
    counts: Mapping[int, int] | None = None
    hint: str = ""
    formula: str = ""

    @classmethod
    def take(cls, adapter: Molecules, arrays: MoleculeArrays, keep: Sequence[int]) -> Fragment:
        """Return the atoms of some molecules with numbers `keep`, or all of them if there are none."""
        total = arrays.atomic_numbers.size
        wrong = [number for number in keep if not 1 <= number <= total]
        if wrong:
            raise UserError(f"--keep names atom {wrong[0]}, and the input has atoms 1 to {total}")
        stay = np.ones(total, bool)
        if keep:
            stay[:] = False
            stay[np.asarray(keep) - 1] = True
        if adapter.hydrogens == "implicit":
            stay &= arrays.atomic_numbers > 1
        if not stay.any():
            raise UserError("no heavy atom is kept, and this model knows no others")
        atoms = _as_one(arrays.select_atoms(stay))
        if keep and (pair := overlap(atoms.atomic_numbers, atoms.positions)):
            first, second = (np.flatnonzero(stay) + 1)[list(pair)].tolist()
            raise UserError(
                f"atoms {first} and {second} of the input overlap, and what stays must be a molecule; move its pieces"
                " apart, or leave one of the atoms out with --keep"
            )
        ragged = to_ragged(atoms, adapter.elements, adapter.charges, adapter.position_scale, adapter.net)
        centre = atoms.positions.mean(0, dtype=np.float64)
        numbers = (np.flatnonzero(stay) + 1).tolist() if keep else ()
        return cls(atoms, ragged.fields, adapter.position_scale, tuple(numbers), centre)

    def pairs(self) -> NDArray[np.int64]:
        """Bonded pairs of atoms, (b, 2): those of the file or, where it has none, those read off the coordinates."""
        if self.atoms.num_bonds.any():
            return self.atoms.bonds[:, :2].astype(np.int64)
        hydrogens = "explicit" if (self.atoms.atomic_numbers == 1).any() else "implicit"
        mol, _ = infer_bonds(self.atoms.atomic_numbers, self.atoms.positions, self.atoms.charges, "kekule", hydrogens)  # type: ignore[arg-type]
        ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], np.int64).reshape(-1, 2)
        return ends[(ends < len(self)).all(1)]

    def gap(self) -> int:
        """Return how many atoms it takes to join the pieces: a stretched chain along each edge of their shortest tree.

        Raises:
            UserError: if there is one piece only.
        """
        from scipy.sparse import coo_array, csgraph
        from scipy.spatial import distance

        n, ends = len(self), self.pairs()
        graph = coo_array((np.ones(len(ends)), ends.T), (n, n))
        count, piece = csgraph.connected_components(graph, directed=False)
        if count < 2:
            raise UserError("link joins two or more pieces, and what is kept is one piece; --task grow adds to it")
        between = distance.squareform(distance.pdist(self.atoms.positions))
        gaps = np.array([[between[np.ix_(piece == a, piece == b)].min() for b in range(count)] for a in range(count)])
        tree = csgraph.minimum_spanning_tree(gaps).data
        return int(np.maximum(np.ceil(tree / REACH) - 1, 1).sum())

    def match(self, other: Fragment) -> tuple[Fragment, Fragment]:  # type: ignore[override]
        """Return both with atom i of one near atom i of the other, which is turned onto this one; none is mirrored.

        The cost of a match is the sum of squared distances, plus :data:`FOREIGN` for unlike elements. From each of the
        24 ways to lay the principal axes on one another, the best assignment (Hungarian method) and the best rotation
        of the matched atoms (Kabsch) follow one another until nothing changes; the cheapest end is taken. Atoms without
        a partner follow, the nearest to a matched one first.

        References:
            | Kabsch, Best rotation to relate two sets of vectors (1976), doi 10.1107/S0567739476001873
            | Kuhn, The Hungarian method (1955), doi 10.1002/nav.3800020109
        """
        from scipy.spatial import distance
        from scipy.spatial.transform import Rotation

        x, y = (part.atoms.positions - part.centre for part in (self, other))
        foreign = FOREIGN * (self.atoms.atomic_numbers[:, None] != other.atoms.atomic_numbers[None])
        tries = [_fit(x, y, start, foreign) for start in _axes(x) @ Rotation.create_group("O").as_matrix() @ _axes(y).T]
        _, i, j, turned = min(tries, key=lambda found: found[0])
        near = distance.cdist(x, turned)
        rest_i, rest_j = (np.setdiff1d(np.arange(len(part)), used) for part, used in ((self, i), (other, j)))
        first = [*i, *rest_i[np.argsort(near[np.ix_(rest_i, j)].min(1), kind="stable")]]
        second = [*j, *rest_j[np.argsort(near[np.ix_(i, rest_j)].min(0), kind="stable")]]
        moved = torch.from_numpy(turned).float() / self.scale
        state = other.state | {"position": moved}
        return (
            replace(self, state={name: value[first] for name, value in self.state.items()}),
            replace(other, state={name: value[second] for name, value in state.items()}),
        )

    def place(self, records: list[Any], **facts: Any) -> None:
        """Move molecules to the input's frame, its kept atoms exactly, and note what stayed as properties.

        `kept` are the numbers of the atoms that stayed, `kept_of_input` their numbers in the input, and `kept_bonds` is
        "same" if the bonds among them are those of the input (up to the mesomeric form), else "changed".
        """
        stayed = len(self.kept)
        for mol in records:
            if mol.GetNumConformers():
                x = mol.GetConformer().GetPositions() + self.centre
                x[:stayed] = self.atoms.positions[:stayed]
                mol.GetConformer().SetPositions(x)
            for name, value in facts.items():
                mol.SetProp(name, str(value))
            if self.formula:
                mol.SetProp("isomer", "true" if _formula(mol) == self.formula else "false")
            if stayed:
                mol.SetProp("kept", _ranges(range(1, stayed + 1)))
                mol.SetProp("kept_of_input", _ranges(self.kept))
                if self.atoms.num_bonds.any() or stayed == 1:
                    mol.SetProp("kept_bonds", "same" if self._bonded_alike(mol) else "changed")

    def intact(self, records: list[Any]) -> list[bool]:
        """Return which molecules have the bonds of the input among the kept atoms, or are isomers of it.

        Raises:
            UserError: if neither can be said.
        """
        if "position" not in self.state and not self.formula:
            return [True] * len(records)  # isomers by a model of all atoms
        if not (self.formula or (self.kept and (self.atoms.num_bonds.any() or len(self.kept) == 1))):
            why = "the input has no bonds to compare with" if self.kept else "nothing has to stay as it is here"
            raise UserError(f"--only intact: {why}; leave intact out")
        noted = ([mol.GetProp(name) for name in ("isomer", "kept_bonds") if mol.HasProp(name)] for mol in records)
        return [not {"false", "changed"} & set(words) for words in noted]

    def remark(self, records: list[Any]) -> str:
        """Return how many have the bonds of the input among their kept atoms, or its hydrogens, if not all have."""
        told = [mol.GetProp("isomer") for mol in records if mol.HasProp("isomer")]
        if (alike := told.count("true")) < len(told):
            return (
                f"{alike:,} of {len(told):,} have as many hydrogens as the input, and so its formula (property isomer)"
            )
        noted = [mol.GetProp("kept_bonds") for mol in records if mol.HasProp("kept_bonds")]
        same = noted.count("same")
        if same == len(noted):
            return ""
        return f"the kept atoms have the bonds of the input in {same:,} of {len(noted):,} (property kept_bonds)"

    def _bonded_alike(self, mol: Chem.Mol) -> bool:
        mine, theirs = (_orders(each, len(self)) for each in (to_mol(self.atoms[0]), mol))
        return mine.keys() == theirs.keys() and all(
            order == theirs[pair][0] or (conjugated and theirs[pair][1]) for pair, (order, conjugated) in mine.items()
        )


def _orders(mol: Chem.Mol, n: int) -> dict[tuple[int, int], tuple[float, bool]]:
    """Order, and whether it is conjugated, of every bond among the first n atoms."""
    found = {}
    for bond in mol.GetBonds():
        i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        if j < n:
            found[i, j] = bond.GetBondTypeAsDouble(), bond.GetIsConjugated()
    return found


def _as_one(arrays: MoleculeArrays) -> MoleculeArrays:
    """All atoms as one molecule."""
    return MoleculeArrays(
        np.array([arrays.atomic_numbers.size]),
        arrays.atomic_numbers,
        arrays.positions,
        arrays.charges,
        num_bonds=np.array([len(arrays.bonds)]),
        bonds=np.column_stack([arrays.bond_ends, arrays.bonds[:, 2]]),
    )


def _formula(mol: Chem.Mol) -> str:
    """The formula with implicit hydrogens, without its charge."""
    return re.sub(r"[+-]\d*$", "", rdMolDescriptors.CalcMolFormula(mol))


def _axes(x: NDArray[Any]) -> NDArray[np.float64]:
    """The principal axes of points around the origin as columns, right-handed."""
    axes = np.linalg.svd(x, full_matrices=True)[2].T.astype(np.float64)
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    return axes


def _fit(
    x: NDArray[Any], y: NDArray[Any], rotation: NDArray[np.float64], foreign: NDArray[np.float64]
) -> tuple[float, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cost, matched rows of x and of y, and y turned onto x; `rotation` is where to start."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial import distance

    best, moved = (math.inf, *np.zeros((2, 0), np.int64), y), y @ rotation.T
    while True:
        cost = distance.cdist(x, moved, "sqeuclidean") + foreign
        i, j = linear_sum_assignment(cost)
        total = float(cost[i, j].sum())
        if total >= best[0] - 1e-9:
            return best
        best = total, i, j, moved
        mean_x, mean_y = x[i].mean(0), y[j].mean(0)
        u, _, vt = np.linalg.svd((x[i] - mean_x).T @ (y[j] - mean_y))
        u[:, 2] *= np.sign(np.linalg.det(u @ vt))
        moved = (y - mean_y) @ (u @ vt).T + mean_x


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: 1,2,5-8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
