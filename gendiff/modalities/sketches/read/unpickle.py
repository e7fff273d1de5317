"""Object arrays of numpy without trusting their pickle: a reader that knows numeric arrays and nothing else.

A pickle is a program for a small machine. This one knows the dozen instructions that numpy's arrays are made of, runs
in Python, and calls nothing but the functions below, which stand for numpy's own by name: no name in a file reaches a
function of Python or numpy. Sizes are those of bytes that are really there.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.sketches.read.raw import MAX_NUMBERS, clean

MAX_INSTRUCTIONS = 1 << 26
"""Instructions that a pickle may take; an array takes about 25."""


@dataclass
class Rows:
    """Arrays (L, C) of many sketches one after another: `flat` (P, C), and the rows L of each."""

    flat: NDArray[Any]
    sizes: NDArray[np.int64]


def unpickle(data: bytes) -> Rows:
    """Return the arrays in a pickled object array, one (L, C) for each sketch.

    Raises:
        ValueError: for anything else in the pickle, or a damaged one.
    """
    try:
        value = _Unpickler(data).load()
    except _Forbidden:
        raise
    except Exception as error:  # the machine raises whatever a damaged program makes of it
        raise ValueError(f"is a damaged pickle ({type(error).__name__})") from None
    items = value.items if isinstance(value, _Array) and value.items is not None else None
    if items is None:
        raise _Forbidden("is not an array of arrays")
    if not all(isinstance(item, _Array) and item.items is None for item in items):
        raise _Forbidden("holds something else than arrays of numbers")
    if any(len(item.shape) != 2 for item in items) or len({item.shape[1] for item in items}) > 1:
        raise _Forbidden("must hold arrays (L, columns), all of as many columns")
    sizes = np.array([item.shape[0] for item in items], np.int64)
    if not len(items) or not items[0].shape[1]:
        return Rows(np.zeros((0, 3)), sizes)
    if int(sizes.sum()) * items[0].shape[1] > MAX_NUMBERS:
        raise _Forbidden(f"holds over {MAX_NUMBERS:,} numbers")
    if len({(item.dtype, item.fortran) for item in items}) == 1 and not items[0].fortran:
        flat = np.frombuffer(b"".join(item.data for item in items), items[0].dtype).reshape(-1, items[0].shape[1])
    else:
        flat = np.concatenate([item.numbers() for item in items])
    return Rows(flat, sizes)


class _Forbidden(ValueError):
    """Something that is no array of numbers."""


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?([biuf][1248]|O8?|O4)", name):
            raise _Forbidden(f"holds arrays of {str(name)[:40]!r}, not of plain numbers")
        self.name, self.order = name.lstrip("<>|="), "|"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _Forbidden("holds arrays of a structured type")
        self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.name.startswith("O")


class _Ndarray:
    """Stands for the name numpy.ndarray."""


class _Array:
    """Stands for an array: of numbers (`dtype`, `data`) or of objects (`items`)."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.items: list[Any] | None = None
        self.dtype, self.fortran = np.dtype(float), False
        self.text: bytes | str = b""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise _Forbidden("holds a damaged array")
        shape, dtype, fortran, data = state[-4:]
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or len(shape) > 8:
            raise _Forbidden("holds a damaged array")
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise _Forbidden("holds a damaged array")
        self.shape, self.fortran = shape, bool(fortran)
        if dtype.is_object:
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise _Forbidden("holds a damaged array")
            self.items = data
            return
        self.dtype = np.dtype(dtype.order + dtype.name if dtype.order != "|" else dtype.name)
        if not isinstance(data, (bytes, str)) or len(data) != math.prod(shape) * self.dtype.itemsize:
            raise _Forbidden("holds a damaged array")
        self.text = data

    @property
    def data(self) -> bytes:
        """The bytes of its numbers. Text (of Python 2) is encoded when it is asked for: many arrays may share one."""
        return self.text if isinstance(self.text, bytes) else self.text.encode("latin1")

    def numbers(self) -> NDArray[Any]:
        """It as an array."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    """Stands for numpy's function of this name: an empty array, filled by its state."""
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> str:
    """Stands for _codecs.encode, by which Python 3 writes bytes so that Python 2 can read them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Forbidden("holds text in an unknown encoding")
    return text


_NAMES = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}

_INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)


class _Dispatch(dict[int, Any]):
    """The instructions of the machine, so many times."""

    def __init__(self) -> None:
        codes = (getattr(pickle, name)[0] for name in _INSTRUCTIONS)
        super().__init__({code: pickle._Unpickler.dispatch[code] for code in codes})
        self.left = MAX_INSTRUCTIONS

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _Forbidden(f"takes over {MAX_INSTRUCTIONS:,} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        raise _Forbidden(
            "holds pickled objects, which are never loaded but for arrays of numbers; it has an instruction that no"
            f" array of numbers needs ({code})"
        )


class _Unpickler(pickle._Unpickler):
    """The machine in Python: the one in C sets memory aside for numbers that stand in the file."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.dispatch = _Dispatch()  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        try:
            return _NAMES[module, name]
        except KeyError:
            asked = clean(f"{module}.{name}", 80)
            raise _Forbidden(
                f"asks for {asked}: a pickle may hold arrays of numbers only, nothing of it was run"
            ) from None
