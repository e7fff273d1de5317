"""How well fragments of unseen molecules grow whole again, beside what the same model draws freely.

    python benchmarks/edit.py RUN --exclude examples.npz --task grow --plans 100x1 16x8 16x24 30x60

Molecules that were not trained on are cut at single bonds outside rings: "grow" keeps one piece of half to four fifths
of the atoms, "link" keeps the outer two of three. Each fragment grows to the size of its molecule. A plan is levels x
walks of each (100x1: replacement alone). Counted are samples that are valid, that are also one molecule, and whose kept
atoms also have the bonds of the input; the target is half of the rate of free samples. Nothing is repaired. Intervals
are 95 %, by resampling fragments.
"""

from __future__ import annotations

import argparse
import platform
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem

import gendiff
from gendiff.catalog import builtin
from gendiff.files import sha256
from gendiff.metrics import Value, share
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.model.keep import resampled_plan
from gendiff.model.tasks import sampler_of


def cuts(mol: Chem.Mol, task: str) -> list[list[int]]:
    """Sets of atoms to keep, 0-based."""
    bonds = [b for b in mol.GetBonds() if b.GetBondType() == Chem.BondType.SINGLE and not b.IsInRing()]
    total, found = mol.GetNumAtoms(), []
    for chosen in combinations(bonds, 1 if task == "grow" else 2):
        rest = Chem.RWMol(mol)
        for bond in chosen:
            rest.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        pieces = [set(piece) for piece in Chem.GetMolFrags(rest)]
        if task == "grow":
            found += [piece for piece in pieces if 0.5 <= len(piece) / total <= 0.8]
            continue
        ends = [{b.GetBeginAtomIdx(), b.GetEndAtomIdx()} for b in chosen]
        outer = [piece for piece in pieces if not all(piece & end for end in ends)]
        kept = set().union(*outer)
        if len(outer) == 2 and min(map(len, outer)) >= 2 and len(kept) >= 0.5 * total:
            found.append(kept)
    return [sorted(piece) for piece in found]


def fragments(
    molecules: MoleculeArrays, task: str, number: int, seed: int
) -> list[tuple[MoleculeArrays, list[int], int]]:
    """Molecules without hydrogens, the numbers of the atoms to keep, and the sizes to grow to."""
    heavy, random = molecules.remove_hydrogens(), np.random.default_rng(seed)
    found: list[tuple[MoleculeArrays, list[int], int]] = []
    for row in random.permutation(len(heavy)):
        one = heavy.select([int(row)])
        choices = cuts(one.to_mols()[0], task)
        if choices:
            keep = choices[random.integers(len(choices))]
            found.append((one, [index + 1 for index in keep], int(one.num_atoms[0])))
        if len(found) == number:
            break
    return found


def good(mols: list[Chem.Mol]) -> np.ndarray:
    """Valid; valid and connected; with the bonds of the input, too: a row of three for each molecule."""
    rows = []
    for mol, verdict in zip(mols, metrics.judge(mols), strict=True):
        whole = verdict["valid"] and verdict["connected"]
        same = not mol.HasProp("kept_bonds") or mol.GetProp("kept_bonds") == "same"
        rows.append([verdict["valid"], whole, whole and same])
    return np.array(rows, float)


def text(value: Value | None) -> str:
    """A share in percent with its interval."""
    return "-" if value is None else f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"


def main(argv: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run or model folder, of heavy atoms")
    parser.add_argument("--data", default=None, help="molecules to cut (the built-in set)")
    parser.add_argument("--exclude", default=None, help="molecules that were trained on, by SMILES")
    parser.add_argument("--task", choices=["grow", "link"], default="grow")
    parser.add_argument(
        "--plans", nargs="+", default=["100x1", "16x8", "16x24", "30x60"], help="levels x walks of each"
    )
    parser.add_argument("--number", type=int, default=60, help="fragments (60)")
    parser.add_argument("--copies", type=int, default=8, help="samples of each (8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cuts and the samples (0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    model = gendiff.load(options.model)
    path = Path(options.data or builtin("small-molecules"))
    molecules, _ = Molecules.read([path])
    if options.exclude:
        seen = set(Molecules.read([options.exclude])[0].smiles or [])
        molecules = molecules.select(np.array([smiles not in seen for smiles in molecules.smiles or []]))
    largest = max(model.modality.sizes)  # type: ignore[attr-defined]
    molecules = molecules.select(molecules.num_heavy <= largest)
    tasks = fragments(molecules, options.task, options.number, options.seed)
    kept = np.mean([len(keep) / size for _, keep, size in tasks])
    print(f"{path.name} (sha256 {sha256(path)[:16]}), {len(molecules):,} unseen molecules, {len(tasks)} fragments of")
    print(f"{100 * kept:.0f} % of their atoms, {options.copies} samples each, seed {options.seed};")
    print(f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}\n")
    print(
        f"{'plan':<10} {'valid %':>20} {'and connected %':>20} {'bonds kept, too %':>20} {'evaluations':>12} {'s':>7}"
    )
    number = len(tasks) * options.copies
    begin = time.perf_counter()
    free = good(model.sample(number, seed=options.seed))
    line("free", free[None].swapaxes(0, 1), model.sampler.steps, time.perf_counter() - begin, options.seed)
    for plan in options.plans:
        steps, walks = map(int, plan.split("x"))
        begin, counts = time.perf_counter(), []
        for row, (one, keep, size) in enumerate(tasks):
            made: dict[str, Any] = {"sizes": (size, size), "steps": steps, "resamples": walks}
            records = model.edit(one, options.task, options.copies, seed=options.seed + row, keep=keep, **made).records
            counts.append(good(records))
        seconds, pairs = time.perf_counter() - begin, resampled_plan(model, sampler_of(model, "grow", steps), walks)
        line(plan, np.array(counts), sum(t > s for t, s in pairs), seconds, options.seed)


def line(name: str, rows: np.ndarray, evaluations: int, seconds: float, seed: int) -> None:
    """Print a line of the table: rows (fragments, copies, 3)."""
    copies = np.full(len(rows), rows.shape[1])
    cells = [text(share(rows[:, :, k].sum(1), copies, seed=seed)) for k in range(3)]
    print(f"{name:<10} {cells[0]:>20} {cells[1]:>20} {cells[2]:>20} {evaluations:>12} {seconds:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
