"""Molecules on disk: read once from large files, kept as plain arrays, verified whenever they are opened again.

A store is a folder of `.npy` files in the cache (:func:`gendiff.files.cache_folder`), one per array of
:class:`~gendiff.modalities.molecules.records.MoleculeArrays`, and `store.json` with their sizes and SHA-256, the report
of the reading, and the key: what was read, how, and by which version. It is written beside and moved into place whole,
in the order of reading, so that memory holds one part at a time; it is opened as memory maps. One that is damaged, or
does not say what it is, counts for nothing and is made anew. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import rdkit
from numpy.typing import ArrayLike, NDArray

from gendiff.files import UserError, cache_folder, new_folder, read_json, sha256, write_json
from gendiff.modalities.molecules.records import CHUNK, Molecule, MoleculeArrays

FORMAT = 1
"""Version of the layout and of what reading makes of a file; another one is another store."""

DAY = 86_400
"""Seconds after which a folder that is being written counts as left behind."""

COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "num_atoms": (np.int64, ()),
    "atomic_numbers": (np.uint8, ()),
    "positions": (np.float32, (3,)),
    "charges": (np.int8, ()),
    "num_bonds": (np.int64, ()),
    "bonds": (np.int32, (3,)),
    "smiles": (np.uint8, ()),
    "smiles_ends": (np.int64, ()),
    "names": (np.uint8, ()),
    "names_ends": (np.int64, ()),
}
"""Type and shape of the rows of each array; texts are their bytes and where each of them ends."""


class Texts(Sequence[str]):
    """Texts in one array of bytes, made one at a time.

    Arguments:
        data: UTF-8, one text after another.
        ends: Where each text ends, (M,).
    """

    def __init__(self, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        index = range(len(self))[index]
        begin = self.ends[index - 1] if index else 0
        return self.data[begin : self.ends[index]].tobytes().decode("utf-8", "replace")


@dataclass(frozen=True, eq=False, repr=False)
class StoredMolecules(MoleculeArrays):
    """Molecules whose arrays are memory maps: what is selected comes into memory, and nothing else stays there.

    Everything works on them that works on :class:`MoleculeArrays`; what asks for whole arrays reads whole arrays. Large
    sets are walked through by :meth:`~gendiff.modalities.molecules.records.MoleculeArrays.chunks`.
    """

    maps: Sequence[np.memmap] = field(default=())

    def __post_init__(self) -> None:
        """Check nothing: the arrays were checked when they were stored, and are the same by their SHA-256."""

    def __iter__(self) -> Iterator[Molecule]:
        return (molecule for part in self.chunks() for molecule in part)

    def select(self, index: ArrayLike | slice) -> MoleculeArrays:
        """Return molecules in memory; arguments as :meth:`MoleculeArrays.select`."""
        result = super().select(index)
        for array in self.maps:
            _forget(array)
        return result


class HeavyAtoms:
    """What a model without hydrogens sees of stored molecules: their heavy atoms, taken when they are asked for.

    Arguments:
        molecules: The stored molecules; those of hydrogen alone are left out.
    """

    def __init__(self, molecules: StoredMolecules) -> None:
        counts = [
            (part.num_heavy, np.bincount(_owner(part), (part.atomic_numbers[part.bond_ends] > 1).all(1), len(part)))
            for part in molecules.chunks()
        ]
        atoms, bonds = (np.concatenate(list(values)).astype(np.int64) for values in zip(*counts, strict=True))
        self.molecules, self.rows = molecules, np.flatnonzero(atoms)
        self.num_atoms, self.num_bonds = atoms[self.rows], bonds[self.rows]
        self.properties = {name: values[self.rows] for name, values in molecules.properties.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Molecule]:
        return (molecule for part in self.chunks() for molecule in part)

    def select(self, index: Any) -> MoleculeArrays:
        """Return the heavy atoms of some molecules, in memory."""
        return self.molecules.select(self.rows[index]).remove_hydrogens()

    def chunks(self, size: int = CHUNK) -> Iterator[MoleculeArrays]:
        """Return the heavy atoms of all molecules, in parts of at most `size` molecules."""
        return (self.select(slice(start, start + size)) for start in range(0, len(self), size))


def _owner(part: MoleculeArrays) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(part)), part.num_bonds)


def _forget(array: np.memmap) -> None:
    """Let go of the pages of a map; they stay in the cache of the system, which frees them when it needs room."""
    if hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def keep(
    files: Mapping[str, str],
    options: Mapping[str, Any],
    parts: Callable[[], Iterable[MoleculeArrays]],
    report: Callable[[], dict[str, Any]],
) -> tuple[StoredMolecules, dict[str, Any], str]:
    """Return molecules from the store, after putting them there if it has them not.

    Arguments:
        files: SHA-256 of each file that is read, by its name; the order counts.
        options: Options of the reading.
        parts: Reads the files, some molecules at a time.
        report: Asked for a report, plain JSON, when all are read.

    Returns:
        The molecules, the report, and a line for people.

    Raises:
        UserError: whatever `parts` raises, or if the store cannot be written.
    """
    versions = {"format": FORMAT, "rdkit": rdkit.__version__}
    key = json.loads(json.dumps({"files": list(files.items()), "options": dict(options), **versions}))
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "molecules" / digest[:32]
    line = "kept as arrays in the cache, for other runs"
    if folder.exists():
        try:
            return (*_open(folder, key), "opened from the cache, where an earlier run kept them as arrays")
        except UserError:
            line = "what an earlier run kept in the cache was damaged: the files were read again, and kept anew"
    _sweep(folder.parent)
    try:
        with new_folder(folder, replace=True) as temporary:
            with _Writer(temporary) as writer:
                for part in parts():
                    writer.append(part)
            facts = {"key": key, "properties": list(writer.properties), "rows": writer.rows(), "report": report()}
            facts["sha256"] = {name: sha256(temporary / f"{name}.npy") for name in writer.columns}
            write_json(temporary / "store.json", facts)
    except UserError:
        try:  # another process may have put an equal store there meanwhile
            return (*_open(folder, key), "opened from the cache, where another run has just kept them as arrays")
        except UserError:
            pass
        raise
    return (*_open(folder, key), line)


def _sweep(folder: Path) -> None:
    """Take away what killed processes have left half-written: folders in which nothing was written for a day."""
    for pattern in (".*.part", ".*.old"):
        for path in folder.glob(pattern):
            with suppress(OSError):  # swept by another process, or finished
                if max(item.stat().st_mtime for item in (path, *path.iterdir())) < time.time() - DAY:
                    shutil.rmtree(path, ignore_errors=True)


def _open(folder: Path, key: dict[str, Any]) -> tuple[StoredMolecules, dict[str, Any]]:
    """Open a store, after reading it once from end to end.

    Raises:
        UserError: if it is not whole, or of another key.
    """
    facts = read_json(folder / "store.json")
    maps: dict[str, np.memmap] = {}
    try:
        if facts["key"] != key:
            raise UserError(f"{folder}: is the store of something else")
        columns = COLUMNS | {_property(place): (np.float64, ()) for place in range(len(facts["properties"]))}
        for name, (kind, shape) in columns.items():
            path = folder / f"{name}.npy"
            if sha256(path) != facts["sha256"][name]:
                raise UserError(f"{path}: is damaged")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.dtype != kind or array.shape != (facts["rows"][name], *shape):
                raise UserError(f"{path}: is not what {folder / 'store.json'} says")
            maps[name] = array
        report, properties = dict(facts["report"]), [str(name) for name in facts["properties"]]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"{folder}: is damaged ({type(error).__name__})") from None
    plain = {name: np.asarray(array) for name, array in maps.items()}
    plain |= {name: np.array(maps[name]) for name in ("num_atoms", "num_bonds")}  # short, and asked for all the time
    molecules = StoredMolecules(
        plain["num_atoms"],
        plain["atomic_numbers"],
        plain["positions"],
        plain["charges"],
        Texts(plain["smiles"], plain["smiles_ends"]) if len(plain["smiles"]) else None,
        Texts(plain["names"], plain["names_ends"]),
        {name: plain[_property(place)] for place, name in enumerate(properties)},
        plain["num_bonds"],
        plain["bonds"],
        list(maps.values()),
    )
    return molecules, report


def _property(place: int) -> str:
    return f"property_{place:03d}"


class _Writer:
    """Appends molecules to the columns of a store; a context that closes their files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack, self.count = folder, ExitStack(), 0
        self.columns: dict[str, _Column] = {}
        self.properties: dict[str, str] = {}

    def __enter__(self) -> _Writer:
        for name, (kind, shape) in COLUMNS.items():
            self._add(name, kind, shape)
        return self

    def __exit__(self, *_: Any) -> None:
        for column in self.columns.values():
            column.finish()
        self.stack.close()

    def rows(self) -> dict[str, int]:
        return {name: column.rows for name, column in self.columns.items()}

    def append(self, part: MoleculeArrays) -> None:
        texts = {"smiles": part.smiles or [""] * len(part), "names": part.names}
        for name in COLUMNS:
            if hasattr(part, name) and name not in texts:
                self.columns[name].append(getattr(part, name))
        for name, values in texts.items():
            data = [value.encode("utf-8", "replace") for value in values]
            start = self.columns[name].rows
            self.columns[name].append(np.frombuffer(b"".join(data), np.uint8))
            self.columns[f"{name}_ends"].append(start + np.cumsum([len(value) for value in data], dtype=np.int64))
        for name in part.properties:
            if name not in self.properties:
                self.properties[name] = _property(len(self.properties))
                self._add(self.properties[name], np.float64, ()).append_missing(self.count)
        for name, column in self.properties.items():
            self.columns[column].append(part.properties.get(name, np.full(len(part), np.nan)))
        self.count += len(part)

    def _add(self, name: str, kind: Any, shape: tuple[int, ...]) -> _Column:
        file = self.stack.enter_context(open(self.folder / f"{name}.npy", "wb"))
        self.columns[name] = _Column(file, kind, shape)
        return self.columns[name]


class _Column:
    """A `.npy` file that grows by rows. Its header leaves room for the number of rows, which is known at the end."""

    def __init__(self, file: IO[bytes], kind: Any, shape: tuple[int, ...]) -> None:
        self.file, self.kind, self.shape, self.rows = file, np.dtype(kind), shape, 0
        self.begin = self._header()

    def append(self, array: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(array, self.kind).tobytes())
        self.rows += len(array)

    def append_missing(self, count: int) -> None:
        for begin in range(0, count, 1 << 16):
            self.append(np.full(min(1 << 16, count - begin), np.nan))

    def finish(self) -> None:
        self.file.seek(0)
        if self._header() != self.begin:
            raise RuntimeError("the header of the array has outgrown its place")

    def _header(self) -> int:
        shape = (self.rows, *self.shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        return self.file.tell()
