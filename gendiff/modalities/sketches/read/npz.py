r"""Sketches in numpy's files, `.npz` and `.npy`, in the forms people keep them in.

| form          | arrays                                                                                           |
| ------------- | ------------------------------------------------------------------------------------------------ |
| container     | `points` (P, C), the rows of all sketches, and `offsets` (M + 1,): sketch i owns the rows from   |
|               | offsets[i] to offsets[i + 1]                                                                     |
| sketch-rnn    | `train`, `valid`, `test`: object arrays of (L, C), pickled (:mod:`.unpickle` reads them safely)  |
| anything else | each array a sketch (L, C), or many of them (M, L, C), or an object array of (L, C)              |

A container may have `labels` (M,) and `words` (K,), the class of each sketch by number and their names (labels alone
are names themselves, words alone are one a sketch), `times` (P,) in ms, NaN where unknown, `facts` (the JSON of a list
of M objects) and further arrays (M,), which are facts by their names. `pen`, True or False, says whether the last
column is a pen, and `coordinates` (P, D) are absolute ones where the offsets do not give them back bit for bit.

The columns of the rows are

| C     | columns                                                                                                  |
| ----- | -------------------------------------------------------------------------------------------------------- |
| D + 1 | stroke-3: offset from the last point (the first from the origin), 1 on the last point of a stroke        |
| 5     | stroke-5: offset, then one-hot: pen down, last point of a stroke, no point (from there on all is padding)|
| 4     | offset, end of stroke, end of sketch, where the ends stand on marker rows of their own (MNIST strokes)   |
| D     | a sequence without a pen: absolute coordinates                                                           |

Which of them it is, is seen from the last columns being flags; `pen="none"` says that all columns are coordinates.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.files import UserError, ending, read_bytes
from gendiff.modalities.sketches.read.raw import MAX_NUMBERS, MAX_WORD, Bad, Raw, clean
from gendiff.modalities.sketches.read.unpickle import Rows, unpickle

SPLITS = ("train", "valid", "test")

MAX_UNPACKED = 3 << 29  # bytes in an archive, unpacked
MAX_MEMBERS = 1 << 20  # arrays in an archive

_PADDED = 1 << 17  # points that are padded and summed together

Array = np.ndarray | Rows


def parse_npz(path: Path, split: str | None, pen: str) -> Iterator[Raw | Bad]:
    """All sketches of a file at once."""
    arrays = load_arrays(path)
    parts = [name for name in SPLITS if name in arrays]
    if split in SPLITS and not parts:
        raise UserError(f"{path}: has no parts to choose from; leave out --split")
    if "points" in arrays and "offsets" in arrays:
        yield _container(path, arrays, pen)
        return
    labels, words, flag = (_beside(path, arrays, name) for name in ("labels", "words", "pen"))
    if parts:
        wanted = parts if split == "all" else [split or "train"]
        if wanted[0] not in parts:
            raise UserError(f"{path}: has no part {wanted[0]!r}; --split can be {', '.join(parts)} or all")
        arrays = {name: arrays[name] for name in wanted}
    rows = [_rows(path, name, array) for name, array in arrays.items()]
    if len({part.flat.shape[1] for part in rows}) != 1:
        raise UserError(f"{path}: " + ("its arrays have unlike numbers of columns" if rows else "has no arrays"))
    if sum(part.flat.size for part in rows) > MAX_NUMBERS:
        raise UserError(f"{path}: holds over {MAX_NUMBERS:,} numbers")
    flat, sizes = np.concatenate([part.flat for part in rows]), np.concatenate([part.sizes for part in rows])
    names = [name for name, part in zip(arrays, rows, strict=True) for _ in part.sizes]
    points, sizes, ends, _ = _strokes(flat, sizes, _has_pen(path, flag, pen))
    numbers = np.arange(1, len(sizes) + 1)
    yield Raw(numbers, sizes, points, ends, _words(path, labels, words, len(sizes)), names=names)


def load_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a `.npy` (named ""), or of a `.npz` archive; object arrays of sketches as `Rows`.

    Raises:
        UserError: for a damaged file, one that unpacks to too much, or arrays of something else than numbers and text.
    """
    content = read_bytes(path, MAX_UNPACKED)
    try:
        if ending(path) == ".npy":
            return {"": _array(content)}
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > MAX_UNPACKED:
                raise UserError(f"{path}: unpacks to {unpacked:,} bytes, more than the limit of {MAX_UNPACKED:,}")
            if len(members) > MAX_MEMBERS:
                raise UserError(f"{path}: has {len(members):,} arrays, more than the limit of {MAX_MEMBERS:,}")
            arrays = {}
            for member in members:
                if not member.filename.endswith(".npy"):
                    raise UserError(
                        f"{path}: {clean(member.filename, 60)!r} is not an array; an .npz archive holds arrays only"
                    )
                name = member.filename.removesuffix(".npy")
                try:
                    arrays[name] = _array(archive.read(member))
                except ValueError as error:
                    raise UserError(f"{path}, array {clean(name, 60)!r}: {error}") from None
            return arrays
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # zipfile and the libraries below it each raise their own kinds on damaged bytes
        raise UserError(f"{path}: is not a readable .npz archive ({type(error).__name__})") from None


def _array(content: bytes) -> Array:
    """An array of the bytes of a `.npy` file, without a copy of numbers."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older headers of Python 2
            shape, fortran, dtype = headers[version](file)
    except Exception:  # numpy's parser of headers raises whatever its tokenizer does
        raise ValueError("is not a readable .npy array") from None
    data = content[file.tell() :] if dtype.hasobject else memoryview(content)[file.tell() :]
    if dtype.kind == "O":
        return unpickle(bytes(data))
    if dtype.kind not in "biufUS" or dtype.subdtype is not None:
        raise ValueError(f"holds {clean(str(dtype), 60)}, which is neither numbers nor text")
    count = 1
    for size in shape:
        count *= size
    if any(size < 0 for size in shape) or count * dtype.itemsize != len(data):
        raise ValueError(f"is damaged: {len(data):,} bytes for shape {str(shape)[:60]}")
    return np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran else "C")


def _rows(path: Path, name: str, array: Array) -> Rows:
    """The sketches of one array."""
    where = f"{path}, array {clean(name, 60)!r}" if name else f"{path}"
    if isinstance(array, Rows):
        return array
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: holds text, not sketches")
    if array.ndim not in (2, 3) or not array.shape[-1]:
        raise UserError(f"{where}: has shape {array.shape}; sketches are (L, columns) or (M, L, columns)")
    count, length = (1, len(array)) if array.ndim == 2 else array.shape[:2]
    return Rows(array.reshape(-1, array.shape[-1]), np.full(count, length))


def _beside(path: Path, arrays: dict[str, Array], name: str) -> np.ndarray | None:
    """Take an array that does not hold sketches out of the others."""
    array = arrays.pop(name, None)
    if isinstance(array, Rows):
        raise UserError(f"{path}, array {name!r}: holds objects, not numbers or text")
    return array


def _has_pen(path: Path, flag: np.ndarray | None, pen: str) -> bool | None:
    """Whether the last column is a pen; None to see."""
    if flag is not None and flag.size != 1:
        raise UserError(f"{path}: `pen` must be True or False, whether the last column is a pen; it has {flag.shape}")
    if pen == "none":
        return False
    return None if flag is None else bool(flag.any())


def _container(path: Path, arrays: dict[str, Array], pen: str) -> Raw:
    plain = {name: _beside(path, arrays, name) for name in list(arrays)}
    flat, offsets, flag, absolute, times, labels, words, facts = (
        plain.pop(name, None)
        for name in ("points", "offsets", "pen", "coordinates", "times", "labels", "words", "facts")
    )
    if flat is None or flat.ndim != 2 or not flat.shape[1] or flat.dtype.kind not in "biuf":
        raise UserError(f"{path}: `points` must be numbers of shape (P, columns)")
    if offsets is None or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 1:
        raise UserError(f"{path}: `offsets` must be whole numbers of shape (M + 1,)")
    offsets = offsets.astype(np.int64)
    sizes: NDArray[np.int64] = offsets[1:] - offsets[:-1]
    if offsets[0] != 0 or offsets[-1] != len(flat) or (sizes < 0).any():
        raise UserError(f"{path}: `offsets` must rise from 0 to the number of points, {len(flat):,}")
    points, sizes, ends, kept = _strokes(flat, sizes, _has_pen(path, flag, pen))
    if absolute is not None:
        if absolute.shape != points.shape or absolute.dtype.kind != "f":
            raise UserError(f"{path}: `coordinates` must be floats of shape {points.shape}, not {absolute.shape}")
        points = absolute.astype(np.float64)
    if times is not None:
        if times.shape != (len(flat),) or times.dtype.kind not in "iuf":
            raise UserError(f"{path}: `times` must be numbers of shape ({len(flat):,},), not {times.shape}")
        times = times.astype(np.float64)[kept]
    count = len(sizes)
    others = {name: array for name, array in plain.items() if array is not None and array.shape == (count,)}
    return Raw(
        np.arange(1, count + 1),
        sizes,
        points,
        ends,
        _words(path, labels, words, count),
        times,
        _facts(path, facts, others, count),
    )


def _words(
    path: Path, labels: NDArray[Any] | None, words: NDArray[Any] | None, count: int
) -> NDArray[np.str_] | list[str] | None:
    """The class of each sketch."""
    if labels is not None and labels.shape != (count,):
        raise UserError(f"{path}: `labels` must be one a sketch, ({count:,},), not {labels.shape}")
    if words is not None and (words.dtype.kind not in "US" or words.ndim != 1):
        raise UserError(f"{path}: `words` must be texts of shape (K,)")
    if words is not None and words.dtype.kind == "S":
        words = np.char.decode(words, "utf-8", "replace")
    if labels is None:
        if words is not None and len(words) != count:
            raise UserError(f"{path}: {len(words):,} words for {count:,} sketches; say which is which in `labels`")
        return words
    if words is None:
        return labels.astype(str)
    if labels.dtype.kind not in "iu" or (len(labels) and (labels.min() < 0 or labels.max() >= len(words))):
        raise UserError(f"{path}: `labels` must be whole numbers from 0 to {len(words) - 1:,}, the places in `words`")
    if (longest := int(np.char.str_len(words).max(initial=1))) > MAX_WORD:
        raise UserError(f"{path}: `words` has a text of over {MAX_WORD} characters")
    return words.astype(f"U{longest}")[labels]


def _facts(
    path: Path, text: NDArray[Any] | None, columns: Mapping[str, NDArray[Any]], count: int
) -> Sequence[Mapping[str, Any]] | None:
    """What else is known of each sketch: of `facts`, and of every other array of one plain value a sketch."""
    facts: list[dict[str, Any]] = [{} for _ in range(count)]
    if text is not None:
        try:
            facts = json.loads(str(text)) if text.dtype.kind == "U" and text.ndim == 0 else []
        except (ValueError, RecursionError):
            facts = []
        if not isinstance(facts, list) or len(facts) != count or not all(isinstance(fact, dict) for fact in facts):
            raise UserError(f"{path}: `facts` must be the JSON of a list of {count:,} objects")
    for name, array in columns.items():
        if array.dtype.kind == "S":
            continue
        for fact, value in zip(facts, array.tolist(), strict=True):
            fact[name] = value
    return facts if any(facts) else None


def _strokes(
    flat: NDArray[Any], sizes: NDArray[np.int64], has_pen: bool | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_] | None, NDArray[np.bool_]]:
    """Absolute coordinates, points of each sketch and ends of strokes, of rows in any form; and which rows are points.

    Arguments:
        flat: Rows of all sketches, (P, C).
        sizes: Rows of each sketch, (M,).
        has_pen: Whether the last column is a pen; None to see.
    """
    keep = np.ones(len(flat), bool)
    if has_pen is None:
        form = _form(flat, sizes)
    else:
        form = "stroke-3" if has_pen else "no pen"
    if form == "no pen":
        return flat.astype(np.float64), sizes, None, keep
    if form == "stroke-5":
        moves, ends, keep = flat[:, :2], flat[:, 3] == 1, sums(flat[:, 4:], sizes)[:, 0] == 0
    elif form == "markers":  # they follow the last point of each stroke
        moves, keep = flat[:, :2], ~((flat[:, 2:] == 1).any(1) & (flat[:, :2] == 0).all(1))
        ends = np.append(~keep[1:], True)
    else:
        moves, ends = flat[:, :-1].astype(np.float64), flat[:, -1] > 0.5
        moves[np.isnan(flat[:, -1])] = np.nan  # so that such a sketch is refused
    sketch = np.repeat(np.arange(len(sizes)), sizes)
    sizes = np.bincount(sketch[keep], minlength=len(sizes))
    points, ends = sums(moves[keep], sizes), ends[keep]
    ends[(np.cumsum(sizes) - 1)[sizes > 0]] = True
    return points, sizes, ends, keep


def _form(flat: NDArray[Any], sizes: NDArray[np.int64]) -> str:
    """What the columns of rows mean."""
    columns = flat.shape[1]
    flags = (flat == 0) | (flat == 1) | np.isnan(flat)
    if columns < 3 or not flags[:, -1].all():
        return "no pen"
    if columns == 5 and flags[:, 2:].all() and (flat[:, 2:].sum(1) == 1).all():
        return "stroke-5"
    last = np.zeros(len(flat), bool)
    last[(np.cumsum(sizes) - 1)[sizes > 0]] = True
    if columns == 4 and flags[:, 2].all() and ((flat[:, 3] == 1) == last).all() and (flat[last, :2] == 0).all():
        return "markers"
    return "stroke-3"


def sums(moves: NDArray[Any], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the rows of each sketch up to each one; what is beside a sketch changes no bit of them."""
    start, out = np.cumsum(sizes) - sizes, np.empty(moves.shape, np.float64)
    order = np.argsort(-sizes, kind="stable")
    order, begin = order[sizes[order] > 0], 0
    while begin < len(order):
        length = int(sizes[order[begin]])
        some = order[begin : begin + max(1, _PADDED // length)]
        real = np.arange(length) < sizes[some][:, None]
        rows = (start[some][:, None] + np.arange(length))[real]
        padded = np.zeros((*real.shape, moves.shape[1]))
        padded[real] = moves[rows]
        with np.errstate(invalid="ignore", over="ignore"):
            out[rows] = np.cumsum(padded, 1)[real]
        begin += len(some)
    return out
