"""What makes a molecule unusable, checked for all molecules at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_COORDINATE = 1_000.0
"""Largest coordinate in Å; what lies beyond is in another unit or broken."""

MIN_DISTANCE = 0.1
"""Atoms closer than this, in Å, are at one place. No bond is shorter than 0.7 Å."""

MAX_HEAVY_ATOMS = 256
"""Largest molecule read by default, in heavy atoms; with hydrogens it may have three times as many atoms."""


def find_defects(
    num_atoms: ArrayLike,
    atomic_numbers: ArrayLike,
    positions: ArrayLike,
    max_heavy_atoms: int = MAX_HEAVY_ATOMS,
    min_distance: float = MIN_DISTANCE,
) -> list[str]:
    """Say of each molecule why it cannot be used, as "kind: detail", or "".

    A molecule is refused if it has no atoms, an element outside 1 to 118, a coordinate that is NaN, infinite or beyond
    `MAX_COORDINATE`, too many atoms, or two atoms closer than `min_distance`. All molecules are checked at once.

    Arguments:
        num_atoms: (M,); zero is allowed here.
        atomic_numbers: (ΣN,).
        positions: (ΣN, 3) in Å.
        max_heavy_atoms: Largest number of heavy atoms; with hydrogens three times as many.
        min_distance: Å; 0 switches this check off.

    Returns:
        M reasons.
    """
    size = np.asarray(num_atoms, np.int64)
    numbers, x = np.asarray(atomic_numbers), np.asarray(positions)
    owner, first = np.repeat(np.arange(size.size), size), np.cumsum(size) - size
    reasons = np.full(size.size, "", object)

    def refuse(bad: NDArray[np.bool_], reason: Any) -> None:
        """Give `reason`, a text or a function of the first bad atom, to molecules that have none yet."""
        rows, atoms = np.unique(owner[bad], return_index=True)
        for row, atom in zip(rows, np.flatnonzero(bad)[atoms], strict=True):
            reasons[row] = reasons[row] or (reason if isinstance(reason, str) else reason(atom))

    def place(atom: int) -> int:
        return atom - first[owner[atom]] + 1

    reasons[size == 0] = "no atoms"
    refuse(numbers == 0, lambda a: f"dummy or query atom: atom {place(a)}")
    refuse(numbers != numbers.clip(1, 118), lambda a: f"unknown element: atomic number {numbers[a]} (atom {place(a)})")
    refuse(~np.isfinite(x).all(1), lambda a: f"NaN or infinite coordinate: atom {place(a)}")
    with np.errstate(invalid="ignore"):
        far = (np.abs(x) > MAX_COORDINATE).any(1)
    refuse(far, lambda a: f"coordinate beyond {MAX_COORDINATE:,.0f} Å: atom {place(a)}")
    heavy = np.bincount(owner, numbers > 1, size.size)
    for row in np.flatnonzero((heavy > max_heavy_atoms) | (size > 3 * max_heavy_atoms)):
        count = f"{heavy[row]:,.0f} heavy, {size[row]:,} in all"
        reasons[row] = reasons[row] or f"too many atoms: {count}; limit {max_heavy_atoms} heavy"
    if min_distance > 0:
        atoms = np.flatnonzero((reasons == "")[owner])
        last = (first + size - 1)[owner]
        step = 0
        while atoms.size:  # all pairs (atom, atom + step) of all molecules at once
            step += 1
            atoms = atoms[atoms + step <= last[atoms]]
            close = ((x[atoms + step] - x[atoms]) ** 2).sum(1) < min_distance**2
            for atom in atoms[close]:
                i, j = place(atom), place(atom) + step
                reasons[owner[atom]] = reasons[owner[atom]] or f"two atoms at one place: atoms {i} and {j}"
    return reasons.tolist()
