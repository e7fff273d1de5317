"""One large SDF in an archive, cut into files of bounded size and into parts, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from gendiff.download import read_tar, unpacking
from gendiff.files import UserError
from gendiff.modalities.molecules.prepare.parts import PARTS, only_member, part_of

RECORDS_PER_FILE = 200_000
MAX_RECORD = 1 << 20


def prepare_sdf(sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write train-000.sdf, …: the records as they are, 8:1:1 to train, valid and test by a hash of their number.

    Raises:
        UserError: if the archive does not hold one SDF.
    """
    archive = only_member(sources, ".tar.gz")
    files: dict[str, list[str]] = {part: [] for part in PARTS}
    counts = dict.fromkeys(PARTS, 0)
    with unpacking(archive), ExitStack() as stack:
        members, writing = 0, dict[str, IO[bytes]]()
        for name, stream in read_tar(archive, max_members=10, max_bytes=1 << 40):
            if name.endswith(".sdf"):
                members += 1
                for number, record in enumerate(read_records(stream, f"{archive}, {name}"), 1):
                    part = part_of(str(number))
                    if counts[part] % RECORDS_PER_FILE == 0:
                        files[part].append(f"{part}-{len(files[part]):03d}.sdf")
                        if part in writing:
                            writing[part].close()
                        writing[part] = stack.enter_context((folder / files[part][-1]).open("wb"))
                    writing[part].write(record)
                    counts[part] += 1
        if members != 1 or not sum(counts.values()):
            raise UserError(
                f"{archive}: holds {members} SDF files with {sum(counts.values())} records; one is expected"
            )
    kept = [part for part in PARTS if counts[part]]
    return {"parts": {part: files[part] for part in kept}, "records": {part: counts[part] for part in kept}}


def read_records(stream: IO[bytes], where: str) -> Iterator[bytes]:
    """Yield the records of an SDF, each with the `$$$$` that ends it.

    Raises:
        UserError: if the last one is not ended, or one is larger than 1 MiB.
    """
    lines: list[bytes] = []
    size = 0
    while line := stream.readline(MAX_RECORD):
        lines.append(line)
        size += len(line)
        if line.startswith(b"$$$$"):
            yield b"".join(lines)
            lines, size = [], 0
        elif size >= MAX_RECORD:
            raise UserError(f"{where}: has a record of more than {MAX_RECORD:,} bytes; that is no SDF of molecules")
    if b"".join(lines).strip():
        raise UserError(f"{where}: ends in the middle of a record")
