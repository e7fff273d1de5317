"""Files of bounded size, and which part of a set a molecule belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError

PARTS = ("train", "valid", "test")
ATOMS_PER_FILE = 4_000_000


def part_of(key: str) -> str:
    """Return "train", "valid" or "test", 8:1:1 in the long run, by a hash of the key, so that order does not matter."""
    draw = int.from_bytes(hashlib.sha256(f"gendiff split 0: {key}".encode()).digest()[:8], "big") / 2**64
    return PARTS[0] if draw < 0.8 else PARTS[1] if draw < 0.9 else PARTS[2]


def only_member(sources: Mapping[str, Path], ending: str) -> Path:
    """Return the one source whose name ends so.

    Raises:
        UserError: if there is none or several.
    """
    found = [path for name, path in sources.items() if name.endswith(ending)]
    if len(found) != 1:
        raise UserError(f"a data set of this kind has one file *{ending}, not {len(found)}")
    return found[0]


@dataclass
class Arrays:
    """Molecules without bonds on their way into `.npz` files of a part, `ATOMS_PER_FILE` atoms each.

    Attributes:
        folder: Where they go.
        part: "train" gives train-000.npz, train-001.npz, …
        properties: Unit of each property, by name.
    """

    folder: Path
    part: str
    properties: dict[str, str]
    files: list[str] = field(default_factory=list)
    records: int = 0
    _rows: list[tuple[NDArray[np.uint8], NDArray[np.float32], str, int, list[float]]] = field(default_factory=list)
    _atoms: int = 0

    def add(
        self, numbers: NDArray[np.uint8], positions: NDArray[np.float32], smiles: str, index: int, values: list[float]
    ) -> None:
        """Take one molecule: elements (n,), positions (n, 3) in Å, its number in the set and its properties."""
        self._rows.append((numbers, positions, smiles, index, values))
        self._atoms += len(numbers)
        if self._atoms >= ATOMS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken since the last file."""
        if not self._rows:
            return
        numbers, positions, smiles, index, values = zip(*self._rows, strict=True)
        name = f"{self.part}-{len(self.files):03d}.npz"
        save_arrays(self.folder / name, numbers, positions, smiles, index, values, self.properties, self.part)
        self.files.append(name)
        self.records += len(self._rows)
        self._rows, self._atoms = [], 0


def save_arrays(
    path: Path,
    numbers: Any,
    positions: Any,
    smiles: Any,
    index: Any,
    values: Any,
    properties: dict[str, str],
    part: str,
) -> None:
    """Write molecules as the arrays that the reader takes; `index` is the number of each in its publisher's set."""
    np.savez_compressed(
        path,
        allow_pickle=False,
        num_atoms=np.array([len(item) for item in numbers], np.uint16),
        atomic_numbers=np.concatenate(numbers),
        positions=np.concatenate(positions),
        smiles=np.array([item.encode() for item in smiles], np.bytes_),
        index=np.array(index, np.int32),
        split=np.full(len(numbers), PARTS.index(part), np.uint8),
        properties=np.array(values, np.float64).reshape(len(numbers), len(properties)),
        property_names=np.array(list(properties), np.str_),
        property_units=np.array(list(properties.values()), np.str_),
    )
