"""How fast and how right are bonds drawn? The published loop over pairs against gendiff, on the same molecules.

    python benchmarks/evaluate.py [--data FILE.npz] [--molecules 10000]

Stability: both decide by the rule of EDM (arXiv 2203.17003), bond orders from distances, an atom is stable if they add
up to an allowed valence. `judge` is that rule written plainly, pair by pair in Python, as the published evaluation
does it. The two must agree on every atom.

SMILES: how many molecules does each rule give back, from all atoms (Kekulé, EDM's lookup, RDKit's DetermineBonds) or
from heavy ones? No formal charges are given. Compared are canonical SMILES without stereochemistry, of molecules
without a net charge; in QM9 those where `smiles_source` is 4.

The file needs `num_atoms`, `atomic_numbers` and `positions`, for the second part `smiles`. Default is QM9 as
`$GENDIFF_DATA/molecules/qm9.npz`, or the built-in set where the variable is unset. QM9 is public (figshare collection
978904, doi 10.6084/m9.figshare.c.978904); any copy of it in these arrays serves.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import GetPeriodicTable

from gendiff.catalog import builtin
from gendiff.modalities.molecules.bonds import (
    EDM_DOUBLE,
    EDM_SINGLE,
    EDM_TRIPLE,
    EDM_VALENCE,
    Hydrogens,
    Rule,
    infer_all,
    stability_flat,
)


def table(text: str) -> dict[tuple[str, str], int]:
    """Lengths in pm by pair of symbols, both ways round."""
    words = text.split()
    entries = {tuple(pair.split("-")): int(length) for pair, length in zip(words[::2], words[1::2], strict=True)}
    return entries | {(j, i): length for (i, j), length in entries.items()}


SINGLE, DOUBLE, TRIPLE = table(EDM_SINGLE), table(EDM_DOUBLE), table(EDM_TRIPLE)
VALENCES: dict[str, set[int]] = {}
for symbol, valence in zip(EDM_VALENCE.split()[::2], EDM_VALENCE.split()[1::2], strict=True):
    VALENCES.setdefault(symbol, set()).add(int(valence))


def bond_order(first: str, second: str, distance: float) -> int:
    """The order of one bond; distance in pm."""
    pair = first, second
    if pair not in SINGLE or distance >= SINGLE[pair] + 10:
        return 0
    if pair not in DOUBLE or distance >= DOUBLE[pair] + 5:
        return 1
    return 3 if pair in TRIPLE and distance < TRIPLE[pair] + 3 else 2


def judge(symbols: list[str], positions: np.ndarray) -> list[bool]:
    """Is each atom of one molecule stable?"""
    valence = [0] * len(symbols)
    for i in range(len(symbols)):
        for j in range(i + 1, len(symbols)):
            distance = 100 * np.sqrt(np.sum((positions[i] - positions[j]) ** 2))
            order = bond_order(symbols[i], symbols[j], distance)
            valence[i] += order
            valence[j] += order
    return [number in VALENCES[symbol] for symbol, number in zip(symbols, valence, strict=True)]


def reference(smiles: bytes) -> str:
    """The canonical SMILES to compare with; "" for a molecule with a net charge, or none."""
    mol = Chem.MolFromSmiles(smiles.decode()) if smiles else None
    return "" if mol is None or Chem.GetFormalCharge(mol) else Chem.MolToSmiles(mol, isomericSmiles=False)


def written(mol: Chem.Mol, reason: str) -> str:
    """What is compared of a molecule that was drawn."""
    return "" if reason else Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


def timed(function: Callable, *arguments: object) -> float:
    """CPU seconds of one call and of the processes that it ends: what other programs take does not count."""
    start = spent()
    function(*arguments)
    return spent() - start


def spent() -> float:
    """CPU seconds so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    """Time both, check that they agree, print the figures."""
    root = os.environ.get("GENDIFF_DATA")
    default = Path(root) / "molecules" / "qm9.npz" if root else builtin("small-molecules")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, default=default, help="molecules as .npz arrays")
    parser.add_argument("--molecules", type=int, default=10_000, help="how many of them, drawn with a fixed seed")
    args = parser.parse_args()

    with np.load(args.data, allow_pickle=False) as file:
        data = dict(file)
    total = len(data["num_atoms"])
    rows = np.sort(np.random.default_rng(0).permutation(total)[: args.molecules])
    atoms = np.repeat(np.isin(np.arange(total), rows), data["num_atoms"])
    num_atoms = data["num_atoms"][rows].astype(np.int64)
    numbers, positions = data["atomic_numbers"][atoms], data["positions"][atoms].astype(np.float64)
    print(f"{args.data.name}, sha256 {hashlib.sha256(args.data.read_bytes()).hexdigest()}")
    print(f"{len(rows):,} molecules, {len(numbers):,} atoms; {platform.machine()}, CPU seconds of one process")

    fast = min(timed(stability_flat, num_atoms, numbers, positions) for _ in range(5))
    atom_stable, molecule_stable = stability_flat(num_atoms, numbers, positions)
    print(f"atom stability {atom_stable.mean():.6f}, molecule stability {molecule_stable.mean():.6f}")

    ends = np.cumsum(num_atoms)
    slices = [slice(end - size, end) for end, size in zip(ends, num_atoms, strict=True)]
    symbols = [GetPeriodicTable().GetElementSymbol(int(number)) for number in numbers]
    split = [(symbols[part], positions[part]) for part in slices]
    plain: list[bool] = []
    slow = timed(lambda: plain.extend(stable for one in split for stable in judge(*one)))
    if not np.array_equal(plain, atom_stable):
        raise SystemExit(f"the two disagree on {(plain != atom_stable).sum()} atoms")
    print(f"loop over pairs   {slow:8.3f} s   {len(rows) / slow:12,.0f} molecules/s")
    print(f"gendiff           {fast:8.3f} s   {len(rows) / fast:12,.0f} molecules/s")
    print(f"ratio             {slow / fast:8.0f}     both agree on every atom")

    if "smiles" not in data:
        return
    agreed = data["smiles_source"][rows] == 4 if "smiles_source" in data else np.ones(len(rows), bool)
    texts = [reference(text) if good else "" for text, good in zip(data["smiles"][rows].tolist(), agreed, strict=True)]
    known = [(numbers[part], positions[part], None) for part, text in zip(slices, texts, strict=True) if text]
    texts = [text for text in texts if text]
    heavy = [(number[number > 1], position[number > 1], None) for number, position, _ in known]
    ways: list[tuple[str, list, Rule, Hydrogens]] = [
        ("Kekulé", known, "kekule", "explicit"),
        ("EDM's lookup", known, "lookup", "explicit"),
        ("DetermineBonds", known, "rdkit", "explicit"),
        ("heavy atoms", heavy, "lookup", "implicit"),
    ]
    for name, molecules, rule, hydrogens in ways:
        drawn: list[tuple[Chem.Mol, str]] = []
        seconds = timed(lambda into, *how: into.extend(infer_all(*how)), drawn, molecules, rule, hydrogens)
        right = sum(written(*one) == text for one, text in zip(drawn, texts, strict=True))
        print(f"{name:<17} {right / len(texts):8.2%} of {len(texts):,} SMILES, {len(texts) / seconds:,.0f} molecules/s")


if __name__ == "__main__":
    main()
