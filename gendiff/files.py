"""Files in and out: one error type for users, atomic writes, and reading that executes nothing.

Everything gendiff writes goes through :func:`atomic_write`, so a crash, a full disk or a second process never leaves
half a file. Everything it reads is bounded in size and free of pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

MAX_BYTES = 4 << 30
"""Largest file, and largest unpacked archive, read at once: 4 GiB."""


class UserError(Exception):
    """A mistake the user can mend: one line that says what is wrong, where, and what to do."""

    status = 1
    """Exit status of a command that meets it."""


class NothingFits(UserError):
    """None of the records can be written in the format of a file."""


def check_file(path: str | Path, max_bytes: int = MAX_BYTES) -> Path:
    """Return `path` as a Path after checking that it is a readable, non-empty file of at most `max_bytes`.

    Raises:
        UserError: if it is missing, a directory, not a regular file, empty, too large, or may not be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory; name a file, or the files in it: {path}/*")
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        size = path.stat().st_size
    except OSError as error:
        raise _os_error(path, error) from None
    if size == 0:
        raise UserError(f"{path}: the file is empty")
    if size > max_bytes:
        raise UserError(f"{path}: {size:,} bytes, more than the limit of {max_bytes:,}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: permission denied; make it readable (chmod u+r)")
    return path


def names_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yield the names of the files below a folder, from there.

    Names that begin with a dot are hidden; links are followed, but not in circles.

    Raises:
        UserError: if a folder cannot be listed.
    """
    here = (*above, folder.resolve())
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise _os_error(folder, error) from None
    for path in paths:
        if path.name.startswith(".") or path.resolve() in here:
            continue
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in names_below(path, here))
        elif path.is_file():
            yield path.name


def opened(paths: str | Path | Iterable[str | Path], extensions: Collection[str]) -> list[Path]:
    """Return files as they are and, in the place of a folder, the files below it that end so, ordered by name.

    Raises:
        UserError: for a folder without any, or one that cannot be listed.
    """
    files: list[Path] = []
    for path in [Path(paths)] if isinstance(paths, (str, Path)) else map(Path, paths):
        if path.is_dir():
            found = sorted(name for name in names_below(path) if ending(name) in extensions)
            if not found:
                known = " ".join(name for name in extensions if not name.endswith(".gz"))
                raise UserError(f"{path}: holds no file that ends in one of {known}")
            files += [path / name for name in found]
        else:
            files.append(path)
    return files


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file; see :func:`check_file` for limits and errors."""
    path = check_file(path, max_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _os_error(path, error) from None


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the content of a UTF-8 text file.

    Raises:
        UserError: as :func:`check_file`, or if the bytes are not UTF-8 text.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def read_json(path: str | Path, max_bytes: int = 64 << 20) -> Any:
    """Return the content of a JSON file; errors name the file and the line."""
    try:
        return json.loads(read_text(path, max_bytes))
    except (
        ValueError,
        RecursionError,
    ) as error:  # a ValueError that is no JSONDecodeError: a number of over 4,300 digits
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}{where}: is not valid JSON") from None


def load_npz(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Return the arrays of a `.npz` archive. Pickled (object) arrays are refused, as is one that unpacks too large.

    Raises:
        UserError: as :func:`check_file`, or if the archive is damaged, holds objects, or unpacks to over `max_bytes`.
    """
    path = check_file(path, max_bytes)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max_bytes:
            raise UserError(f"{path}: unpacks to {unpacked:,} bytes, more than the limit of {max_bytes:,}")
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
        for name, value in content.items():
            if not isinstance(value, np.ndarray):
                raise UserError(f"{path}: {name!r} is not an array; an .npz archive holds .npy members only")
        return content
    except UserError:
        raise
    except ValueError as error:
        reason = "holds pickled objects, which are never loaded" if "pickle" in str(error).lower() else str(error)
        raise UserError(f"{path}: {reason}") from None
    except OSError as error:
        raise _os_error(path, error) from None
    except Exception as error:  # zipfile, zlib and numpy's header parser each raise their own kinds on damaged bytes
        raise UserError(f"{path}: is not a readable .npz archive ({type(error).__name__})") from None


def ending(path: str | Path) -> str:
    """Return the ending of a file name in lower case, of a packed file with what is in it: ".sdf", ".sdf.gz", ""."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def cache_folder() -> Path:
    """Return where gendiff keeps what it can make again: `$GENDIFF_CACHE`, by default `~/.cache/gendiff`."""
    return Path(os.environ.get("GENDIFF_CACHE") or "~/.cache/gendiff").expanduser()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and move it there when the block ends well; otherwise leave nothing behind.

    Arguments:
        path: Where the file goes; its folder is made if missing.
        mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
        UserError: if the folder or file cannot be written (permission, full disk, a directory in the way).
    """
    path = Path(path)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with _parents(path):
        if path.is_dir():
            raise UserError(f"{path}: is a directory; name a file")
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def check_target(path: str | Path, extensions: Sequence[str]) -> Path:
    """Check, before hours of work, that a file of a known ending can be written at `path`.

    Raises:
        UserError: for another ending, a directory in the way, or a folder that cannot be made or written.
    """
    path = Path(path)
    if ending(path) not in extensions:
        raise UserError(
            f"{path}: cannot write {ending(path) or 'a file without an ending'}; choose from"
            f" {', '.join('FOLDER/' if word == '/' else word for word in extensions)}"
        )
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name a file")
    nearest = next(parent for parent in [path.absolute().parent, *path.absolute().parents] if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is a file, and {path} would lie in it")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: permission denied; choose another place for {path.name}")
    return path


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity become null, so any JSON reader accepts the file."""
    with atomic_write(path) as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON; NaN and infinity become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def new_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well; otherwise nothing is left behind.

    Arguments:
        path: The folder to make.
        replace: Put it in the place of an existing folder instead of refusing.

    Raises:
        UserError: if `path` exists and `replace` is false or it is not a folder, or if it cannot be made.
    """
    path = Path(path)
    with _parents(path):
        if path.exists() and not (replace and path.is_dir()):
            raise UserError(f"{path}: already exists; choose another name or remove it")
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if path.exists():
                retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
                os.replace(path, retired / "old")
                os.replace(temporary, path)
                shutil.rmtree(retired, ignore_errors=True)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the folders above `path` for a block that writes it; take them away again if it fails, naming `path`."""
    missing: list[Path] = []
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for folder in missing:
            with suppress(OSError):  # never made, or already in use by someone else
                folder.rmdir()
        if isinstance(error, OSError):
            raise _os_error(path, error) from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _os_error(path: Path, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{path}: {reason}")
