r"""QM9 as EDM uses it: 133,885 relaxed molecules less the 3,054 uncharacterized, split by one permutation.

A record of the archive is a text file:

    n
    gdb ID  A B C mu alpha homo lumo gap r2 zpve U0 U H G Cv
    element  x y z  charge        (n lines; Å, Mulliken charges)
    frequencies
    SMILES of the GDB-17 entry  SMILES of the relaxed geometry
    InChI  InChI

Numbers may be written as `6.8*^-6`. Positions, the fifteen properties in the publisher's units, the id, and the SMILES
of the relaxed geometry are kept. The split is that of the code of Hoogeboom et al. [1], which takes it from Cormorant
[2]: the permutation of the N = 130,831 others, in ascending order of their ids, by numpy's Mersenne Twister with
seed 0; the first 100,000 are for training, the last ⌊N / 10⌋ = 13,083 for the test, the 17,748 between for validation.

References:
    | [1] E. Hoogeboom et al., Equivariant Diffusion for Molecule Generation in 3D (2022), arXiv 2203.17003
    | [2] B. Anderson et al., Cormorant: Covariant Molecular Neural Networks (2019), arXiv 1906.04015
    | [3] R. Ramakrishnan et al., Quantum chemistry structures and properties of 134 kilo molecules (2014)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gendiff.download import read_tar, unpacking
from gendiff.files import UserError, read_text
from gendiff.modalities.molecules.prepare.parts import PARTS, only_member, save_arrays

TOTAL, UNCHARACTERIZED, TRAIN = 133_885, 3_054, 100_000
LEFT_OUT = 3
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
PROPERTIES = {
    "A": "GHz", "B": "GHz", "C": "GHz", "mu": "D", "alpha": "a0^3", "homo": "Ha", "lumo": "Ha", "gap": "Ha",
    "r2": "a0^2", "zpve": "Ha", "U0": "Ha", "U": "Ha", "H": "Ha", "G": "Ha", "Cv": "cal/(mol K)",
}  # fmt: skip


class Record(NamedTuple):
    """One molecule of QM9."""

    id: int
    numbers: NDArray[np.uint8]
    positions: NDArray[np.float32]
    properties: list[float]
    smiles: str


def edm_split(left_out: Iterable[int], total: int = TOTAL, train: int = TRAIN) -> NDArray[np.uint8]:
    """Return the part of each id, (total,): 0 train, 1 valid, 2 test, 3 left out; entry i belongs to id i + 1.

    Arguments:
        left_out: Ids of molecules that are not used, from 1.
        total: Molecules of the set.
        train: Molecules for training; a tenth of those used is for the test, the rest for validation.
    """
    used = np.setdiff1d(np.arange(total), np.array(list(left_out), np.int64) - 1)
    order = np.random.RandomState(0).permutation(used.size)  # the split is defined by this generator
    test = used.size // 10
    split = np.full(total, LEFT_OUT, np.uint8)
    split[used[order]] = np.repeat(np.arange(3), [train, used.size - train - test, test])
    return split


def read_left_out(path: Path) -> list[int]:
    """Return the ids of the publisher's list: the first word of each line, where that is a number.

    Raises:
        UserError: if there are not 3,054 different ones, or one is no id.
    """
    words = [line.split()[:1] for line in read_text(path, 16 << 20).splitlines()]
    ids = sorted({int(word[0]) for word in words if word and word[0].isdecimal()})
    if len(ids) != UNCHARACTERIZED or ids[0] < 1 or ids[-1] > TOTAL:
        raise UserError(f"{path}: lists {len(ids):,} molecules; QM9 has {UNCHARACTERIZED:,} uncharacterized ones")
    return ids


def parse_record(text: str, where: str) -> Record:
    """Read one record.

    Raises:
        UserError: naming `where`, if it does not have this form.
    """
    lines = text.replace("*^", "e").splitlines()
    try:
        size, head = int(lines[0]), lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + size]]
        elements, positions = [NUMBERS[atom[0]] for atom in atoms], [[float(x) for x in atom[1:4]] for atom in atoms]
        properties, smiles = [float(word) for word in head[2:]], lines[3 + size].split()[1]
        number, coordinates = int(head[1]), np.array(positions, np.float32)
    except (ValueError, IndexError, KeyError):
        raise UserError(f"{where}: is not a record of QM9") from None
    good = size > 0 and coordinates.shape == (size, 3) and len(properties) == len(PROPERTIES)
    if not good or not np.isfinite(coordinates).all() or not np.isfinite(properties).all():
        raise UserError(f"{where}: is not a record of QM9")
    return Record(number, np.array(elements, np.uint8), coordinates, properties, smiles)


def prepare_qm9(sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write train.npz, valid.npz and test.npz, molecules in ascending order of their ids.

    Raises:
        UserError: if the archive does not hold each of the 133,885 molecules once.
    """
    archive = only_member(sources, ".tar.bz2")
    left_out = read_left_out(only_member(sources, ".txt"))
    records: dict[int, Record] = {}
    with unpacking(archive):
        for name, stream in read_tar(archive, max_members=TOTAL + 10, max_bytes=1 << 16):
            if name.endswith(".xyz"):
                record = parse_record(stream.read().decode("ascii", "replace"), f"{archive}, {name}")
                if record.id in records or not 1 <= record.id <= TOTAL:
                    raise UserError(f"{archive}, {name}: id {record.id} comes twice or is none")
                records[record.id] = record
    if len(records) != TOTAL:
        raise UserError(f"{archive}: holds {len(records):,} molecules; QM9 has {TOTAL:,}")
    split = edm_split(left_out, TOTAL, TRAIN)
    counts = {}
    for number, part in enumerate(PARTS):
        ids = (np.flatnonzero(split == number) + 1).tolist()
        chosen = [records[i] for i in ids]
        save_arrays(
            folder / f"{part}.npz",
            [record.numbers for record in chosen],
            [record.positions for record in chosen],
            [record.smiles for record in chosen],
            ids,
            [record.properties for record in chosen],
            PROPERTIES,
            part,
        )
        counts[part] = len(ids)
    return {"parts": {part: [f"{part}.npz"] for part in PARTS}, "records": counts, "left_out": len(left_out)}
