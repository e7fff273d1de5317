"""How fast and how right are bonds drawn? The published loop over pairs against gendiff, on the same molecules.

    python benchmarks/evaluate.py [--data FILE.npz] [--molecules 10000]

Stability: both decide by the rule of EDM (arXiv 2203.17003), bond orders from distances, an atom is stable if they add
up to an allowed valence. `judge` is that rule written plainly, pair by pair in Python, as the published evaluation
does it. The two must agree on every atom.

SMILES: how many molecules does each rule give back, hydrogens modelled (lookup) or not (heavy-atom rule)? Compared are
canonical SMILES without stereochemistry, of neutral atoms only; in QM9 those where `smiles_source` is 4.

The file needs `num_atoms`, `atomic_numbers` and `positions`, for the second part `smiles`. Default is QM9 as
`$GENDIFF_DATA/molecules/qm9.npz`, or the built-in set where the variable is unset. QM9 is public (figshare collection
978904, doi 10.6084/m9.figshare.c.978904); any copy of it in these arrays serves.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import GetPeriodicTable

from gendiff.data import builtin
from gendiff.modalities.molecules.bonds import (
    EDM_DOUBLE,
    EDM_SINGLE,
    EDM_TRIPLE,
    EDM_VALENCE,
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


def recovered(molecules: list, smiles: list[bytes], hydrogens: str) -> tuple[int, int]:
    """How many molecules have the bonds of their SMILES, and of how many: those without charges."""
    right = compared = 0
    for text, (mol, reason) in zip(smiles, infer_all(molecules, "lookup", hydrogens), strict=True):
        reference = Chem.MolFromSmiles(text.decode())
        if not text or reference is None or any(atom.GetFormalCharge() for atom in reference.GetAtoms()):
            continue
        compared += 1
        drawn = "" if reason else Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)
        right += drawn == Chem.MolToSmiles(reference, isomericSmiles=False)
    return right, compared


def timed(function: Callable, *arguments: object) -> float:
    """CPU seconds of one call: what other programs take does not count."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


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
    chosen = [part for part, good in zip(slices, agreed, strict=True) if good]
    smiles = [text for text, good in zip(data["smiles"][rows].tolist(), agreed, strict=True) if good]
    whole = [(numbers[part], positions[part], None) for part in chosen]
    heavy = [(number[number > 1], position[number > 1], None) for number, position, _ in whole]
    for name, molecules, hydrogens in (("lookup", whole, "explicit"), ("heavy atoms", heavy, "implicit")):
        drawn = timed(infer_all, molecules, "lookup", hydrogens)
        right, compared = recovered(molecules, smiles, hydrogens)
        print(f"{name:<17} {right / compared:8.2%} of {compared:,} SMILES, {len(molecules) / drawn:,.0f} molecules/s")


if __name__ == "__main__":
    main()
