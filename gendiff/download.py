"""Downloads that may break off and cannot deceive: resumed, bounded, verified, and moved into place whole.

A file under way is `NAME.part`, with `NAME.part.json` beside it, which says of which version of the file it is a piece.
Interrupted at any point, :func:`fetch` goes on where it stopped, or starts over if the server's file has changed or the
server cannot resume. A file that is there has been verified; `NAME.json` beside it keeps its SHA-256 for ever after.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import ssl
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from gendiff import __version__
from gendiff.files import UserError, read_json, write_json

MAX_BYTES = 1 << 30
"""Largest download whose size nobody states: 1 GiB."""

MAX_HEADER = 1 << 20
"""Largest header of a file in a tar archive, its long name for instance: 1 MiB."""

CHUNK = 1 << 16
DIGITS = {"sha256": 64, "sha1": 40, "md5": 32}
PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server that may answer otherwise in a moment

Progress = Callable[[int, "int | None"], None]


class ChecksumError(UserError):
    """A file that is not the one it should be."""


@dataclass(frozen=True)
class Source:
    """A file of a publisher.

    Attributes:
        url: Where it is: https, or http with a checksum (or on this machine).
        size: Bytes, if the publisher states them.
        checksums: What the publisher states, as hexadecimal digits by algorithm: sha256, sha1 or md5.

    Raises:
        ValueError: for an unknown algorithm, a checksum that is none, or http without a checksum.
    """

    url: str
    size: int | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for algorithm, digest in self.checksums.items():
            if algorithm not in DIGITS or not re.fullmatch(f"[0-9a-f]{{{DIGITS[algorithm]}}}", digest):
                raise ValueError(f"a checksum is sha256, sha1 or md5 in lower-case digits, got {algorithm} {digest!r}")
        reason = _objection(self.url, bool(self.checksums))
        if reason:
            raise ValueError(f"{self.url}: {reason}")


def fetch(
    source: Source,
    path: str | Path,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 60.0,
) -> dict[str, Any]:
    """Download a file unless it is there, and verify it either way.

    Arguments:
        source: The file.
        path: Where it goes. A file put there by other means is verified just so.
        progress: Told bytes arrived and, if known, the bytes in all.
        attempts: How often to try in a row without getting further.
        pause: Seconds before the second try; doubled each time, a minute at most.
        timeout: Seconds without a byte that count as a broken connection.

    Returns:
        What is known of the file: url, bytes, sha256, verified (the publisher's checksums that agreed), fetched (date).

    Raises:
        ChecksumError: if what arrived is not the file; it is deleted.
        UserError: if the server refuses, is not reached, offers another size, or the disk is too full. What arrived
            stays beside `path` for another attempt.
    """
    path = Path(path)
    if path.is_file():
        try:
            return verify(source, path)
        except ChecksumError:  # damaged since: fetch it again
            pass
    part, state = _part(path), _state(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = build_opener(_Redirects(bool(source.checksums)))
    failures, best = 0, part.stat().st_size if part.exists() else 0
    while True:
        try:
            _attempt(opener, source, path, progress, timeout)
            break
        except _BrokenOff as reason:
            size = part.stat().st_size if part.exists() else 0
            failures, best = (0, size) if size > best else (failures + 1, best)
            if failures >= attempts:
                kept = f"; {size:,} bytes stay in {part}, and the same command goes on from there" if size else ""
                raise UserError(f"{source.url}: {reason} ({attempts} attempts){kept}; {_by_hand(path)}") from None
            time.sleep(min(pause * 2 ** max(failures - 1, 0), 60.0))
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        facts = _examine(source, part, _record(path))
        write_json(_record(path), facts)
        os.replace(part, path)
    finally:
        state.unlink(missing_ok=True)
    return facts


def verify(source: Source, path: str | Path) -> dict[str, Any]:
    """Check a file against its publisher's size and checksums, and against what was recorded when it first came.

    Returns:
        As :func:`fetch`.

    Raises:
        ChecksumError: if it is another file; it is deleted.
    """
    path = Path(path)
    facts = _examine(source, path, _record(path))
    if not _record(path).exists():
        write_json(_record(path), facts)
    return facts


def need_space(folder: str | Path, size: int) -> None:
    """Check that the disk of a folder, which need not exist yet, has room for `size` bytes.

    Raises:
        UserError: if it has not.
    """
    folder = Path(folder).absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    if free < size:
        raise UserError(
            f"{folder}: the disk has {human_size(free)} free and {human_size(size)} are needed;"
            f" make room or choose another place"
        )


def human_size(size: float) -> str:
    """Return bytes as people say them: "86.1 MB"; powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Hold a lock file for a block, so that two processes do not write the same files.

    Raises:
        UserError: if another process holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path.parent}: another process is at work there; wait until it is done") from None
        yield


def read_tar(path: str | Path, max_members: int, max_bytes: int) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files of a tar archive in their order, each as (name, stream), with nothing written to the disk.

    A stream must be read before the next file is asked for. Memory does not grow with the archive.

    Arguments:
        path: The archive, compressed by gzip, bzip2 or xz.
        max_members: Most entries it may have.
        max_bytes: Largest size of one file.

    Raises:
        UserError: for links, devices, sparse files, names that lead out of a folder, headers of over 1 MiB, and more
            or larger files than that. Read inside :func:`unpacking`, so that a damaged archive becomes one too.
    """
    with (
        _decompressed(Path(path)) as plain,
        tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as archive,
    ):
        for count, member in enumerate(archive, 1):
            archive.members.clear()  # type: ignore[attr-defined]  # it remembers every member it has met
            name = PurePosixPath(member.name)
            if count > max_members:
                raise UserError(f"{path}: has more than {max_members:,} entries")
            if member.isdir():
                continue
            if not member.isreg():
                raise UserError(f"{path}: {member.name!r} is a link or a device; such archives are refused")
            if name.is_absolute() or ".." in name.parts or "\\" in member.name:
                raise UserError(f"{path}: {member.name!r} leads out of the archive; such archives are refused")
            if member.size > max_bytes:
                raise UserError(f"{path}: {member.name!r} has {member.size:,} bytes, more than {max_bytes:,}")
            stream = archive.extractfile(member)
            assert stream is not None  # noqa: S101  # it is a regular file
            yield member.name, stream
        while plain.read(1 << 20):  # to the end, where the compressed formats keep their own checksums
            pass


class _Header(tarfile.TarInfo):
    """The header of a file in an archive; refuses what would be read into memory whole, whatever its size."""

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_size()
        return super()._proc_pax(archive)  # type: ignore[misc]

    def _proc_gnulong(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_size()
        return super()._proc_gnulong(archive)  # type: ignore[misc]

    def _proc_sparse(self, *_: Any) -> tarfile.TarInfo:
        raise UserError("the archive has a sparse file; such archives are refused")

    _proc_gnusparse_10 = _proc_sparse  # its map of holes has no bound

    def _check_size(self) -> None:
        if self.size > MAX_HEADER:
            raise UserError(f"the archive has a header of {self.size:,} bytes, more than {MAX_HEADER:,}")


@contextmanager
def unpacking(path: str | Path) -> Iterator[None]:
    """Turn what libraries raise over a damaged archive into a :class:`UserError` that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, RecursionError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: is damaged or no archive ({error}); delete it to fetch it again") from None
    except OSError as error:
        if error.errno is not None:  # of the system, not of a decompressor
            raise
        raise UserError(f"{path}: is damaged or no archive ({error}); delete it to fetch it again") from None


def _decompressed(path: Path) -> IO[bytes] | gzip.GzipFile:
    """Open a file that is compressed by gzip, bzip2 or xz: their checksums tell a damaged one, tar alone does not."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    if magic == b"\xfd7zXZ\0":
        return lzma.open(path)
    raise tarfile.ReadError("not compressed by gzip, bzip2 or xz")


class _BrokenOff(Exception):
    """An attempt that did not reach the end; another may."""


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def __init__(self, checked: bool):
        self.checked = checked

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        reason = _objection(newurl, self.checked, after=req.full_url)
        if reason:
            raise UserError(f"{req.full_url}: redirects to {newurl}: {reason}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _objection(url: str, checked: bool, after: str = "") -> str:
    """Return why a URL is not to be followed, or ""; `checked`: a checksum will tell whether the file is right."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return ""
    if parts.scheme != "http" or not parts.hostname:
        return "downloads are by https"
    if urlsplit(after).scheme == "https":
        return "a redirect from https to http is not followed"
    if not checked and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        return "a download by http needs a checksum"
    return ""


def _attempt(opener: OpenerDirector, source: Source, path: Path, progress: Progress | None, timeout: float) -> None:
    """Fetch what is missing of a file, or raise :class:`_BrokenOff`."""
    part, state = _part(path), _state(path)
    known = _read_state(state, source.url)
    start = part.stat().st_size if part.exists() else 0
    if not known or not (known.get("validator") or source.checksums):
        start = 0  # nothing would tell whether two pieces belong together
    total = source.size or known.get("total")
    if start and start == total:
        return
    headers = {"User-Agent": f"gendiff/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    try:
        with opener.open(Request(source.url, headers=headers), timeout=timeout) as response:  # noqa: S310
            _receive(response, source, path, start, known, progress)
    except HTTPError as error:
        with error:
            if error.code == 416 and start:
                part.unlink()
                raise _BrokenOff(f"the server has nothing after {start:,} bytes of the file") from None
            if error.code in PASSING:
                raise _BrokenOff(f"the server answers {error.code} {error.reason}") from None
            reason = "a redirect that leads nowhere" if 300 <= error.code < 400 else f"{error.code} {error.reason}"
            raise UserError(_refusal(source, path, reason)) from None
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise UserError(f"{source.url}: the server's certificate is not valid: {cause.verify_message}") from None
        raise _BrokenOff(_words(cause)) from None


def _receive(
    response: HTTPResponse, source: Source, path: Path, start: int, known: dict[str, Any], progress: Progress | None
) -> None:
    """Append the body of a response to the part, after checking that it belongs there."""
    part, validator = _part(path), _validator(response)
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        total = int(span[2]) if span and span[2] != "*" else None
        known_total = source.size or known.get("total")
        changed = known.get("validator") and validator and validator != known["validator"]
        if not span or int(span[1]) != start or changed or (total and known_total and total != known_total):
            part.unlink(missing_ok=True)
            raise _BrokenOff("the file on the server has changed")
        total = total or known_total
    elif response.status == 200:
        start = 0  # a server that cannot resume, or whose file is another by now
    else:
        raise UserError(_refusal(source, path, f"{response.status} {response.reason}"))
    if source.size and total and total != source.size:
        raise UserError(
            f"{source.url}: offers {total:,} bytes and should have {source.size:,}; the publisher's file has changed"
        )
    end = source.size or total
    limit = end or MAX_BYTES
    need_space(path.parent, end - start if end else 0)
    if not start:
        write_json(_state(path), {"url": source.url, "total": total, "validator": validator})
    done = start
    with part.open("rb+" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        while done != end and (chunk := response.read1(CHUNK)):
            done += len(chunk)
            if done > limit:
                raise UserError(f"{source.url}: sends more than {limit:,} bytes; broken off")
            file.write(chunk)
            if progress:
                progress(done, end)
    if done < (end or 0):
        raise _BrokenOff(f"the connection broke off after {done:,} bytes")


def _examine(source: Source, path: Path, record: Path) -> dict[str, Any]:
    """Return what is known of a complete file; if it is the wrong one, delete it and raise :class:`ChecksumError`."""
    old = read_json(record) if record.exists() else {}
    wanted = {"sha256": str(old.get("sha256", ""))} | dict(source.checksums)
    size = path.stat().st_size
    with path.open("rb") as file:
        digests = _digests(file, wanted)
    got = {"size": str(size)} | digests
    for name, value in ({"size": str(source.size or "")} | wanted).items():
        if value and got[name] != value:
            path.unlink()
            first = "" if name in source.checksums or name == "size" else f", as it was on {old.get('fetched')}"
            raise ChecksumError(
                f"{source.url}: is not the file it should be: {name} expected {value}{first}, got {got[name]};"
                f" it was deleted" + (f" (to accept the publisher's new file, delete {record})" if first else "")
            )
    today = datetime.now(timezone.utc).date().isoformat()  # noqa: UP017
    return {
        "url": source.url,
        "bytes": size,
        "sha256": digests["sha256"],
        "verified": sorted(source.checksums),
        "fetched": old.get("fetched", today),
    }


def _digests(file: IO[bytes], algorithms: Mapping[str, Any]) -> dict[str, str]:
    """Return several checksums of a file, which is read once."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    while chunk := file.read(1 << 20):
        for value in hashes.values():
            value.update(chunk)
    return {name: value.hexdigest() for name, value in hashes.items()}


def _validator(response: HTTPResponse) -> str | None:
    """Return what tells one version of a file from another: a strong ETag, else the date of its last change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _read_state(path: Path, url: str) -> dict[str, Any]:
    """Return what is known of the part, {} if it is of another URL or nothing is known."""
    try:
        state = json.loads(path.read_text())
        return state if state["url"] == url else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _refusal(source: Source, path: Path, answer: str) -> str:
    return f"{source.url}: the server answers {answer}; {_by_hand(path)}"


def _by_hand(path: Path) -> str:
    return f"if a browser gets the file, save it as {path.absolute()} and repeat the command"


def _words(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return "the server is silent"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the connection failed ({' '.join(text.split())})"


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _state(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")
