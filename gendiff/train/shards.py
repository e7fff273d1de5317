"""A folder of shards: files of samples that any number of processes make, stop making and go on making.

Sample i of a seed depends on the seed and i alone, so shard k, what was kept of the draws [k S, (k + 1) S), is the same
whoever makes it, and whenever. `shard-000000.sdf` is moved into place whole; `shard-000000.json`, its record, follows.
A shard is there if its record is and the file has the sum that the record states; all else is drawn again. A process
takes a shard by making `.shard-000000.taken`, which only one can. `manifest.json` says what the folder holds.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gendiff.files import NothingFits, UserError, json_text, read_json, sha256, write_json

DRAWS = 100
"""Draws for each wanted sample after which a search for samples that are kept is given up."""

LEFT = r"\.manifest\.json\..*\.part"
"""What a process leaves that is killed before there is a manifest."""

LOCK = ".lock"
"""Held by the first process of a run: the system lets go of it when that process ends, in whatever way."""

NAME = re.compile(rf"\.?shard-(\d{{6,}})\..*|{LEFT}")
"""Files of a folder of shards, but for its manifest and its lock."""


class Shards:
    """The shards of one folder.

    Arguments:
        folder: Where they are.
        number: How many samples are wanted.
        size: Draws of a shard.
        ending: Of the files, ".sdf".
        facts: What else determines the samples, for the manifest and the records.
    """

    def __init__(self, folder: str | Path, number: int, size: int, ending: str, facts: Mapping[str, Any]):
        self.folder, self.number, self.size, self.ending = Path(folder), number, size, ending
        self.facts: dict[str, Any] = json.loads(json_text(facts))
        self.filtered = bool(self.facts.get("only"))
        self._records: dict[int, dict[str, Any]] = {}
        self._mine: int | None = None

    # What there is

    def file(self, k: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"shard-{k:06d}{self.ending}"

    def bounds(self, k: int) -> tuple[int, int]:
        """Return the first draw of a shard and the one after its last."""
        stop = (k + 1) * self.size
        return k * self.size, stop if self.filtered else min(stop, self.number)

    def record(self, k: int) -> dict[str, Any] | None:
        """Return the record of a shard, if it is there."""
        if k not in self._records:
            path = self._path(k, "json")
            try:
                record = read_json(path)
                fits = record["range"] == list(self.bounds(k)) and 0 <= record["number"] <= record["drawn"] <= self.size
                record.setdefault("written", record["number"])
            except (UserError, KeyError, TypeError):
                return None
            if not fits:
                return None
            self._records[k] = record
        return self._records[k]

    def records(self) -> dict[int, dict[str, Any]]:
        """Return the records of all shards that are there, in order."""
        names = (NAME.fullmatch(path.name) for path in self.folder.glob("shard-*.json"))
        numbers = sorted(int(name[1]) for name in names if name)
        return {k: record for k in numbers if (record := self.record(k)) is not None}

    def kept(self) -> int:
        """Return how many samples there are."""
        return sum(record["number"] for record in self.records().values())

    def enough(self, k: int, kept: int | None = None) -> bool:
        """Return whether shard k need not be drawn: those before it hold all samples, or too few of very many draws."""
        if not self.filtered:
            return k * self.size >= self.number
        if kept is None:
            kept = sum(record["number"] for j in range(k) if (record := self.record(j)))
        return kept >= self.number or k * self.size >= DRAWS * self.number

    def count(self) -> int | None:
        """Return how many shards hold all samples; None while one of them is missing."""
        kept = 0
        for k in itertools.count():
            if self.enough(k, kept):
                return k
            if (record := self.record(k)) is None:
                return None
            kept += record["number"]
        raise AssertionError("counting does not end")

    # Who draws what

    def take(self, k: int) -> bool:
        """Take a shard; return whether it is this process that draws it."""
        if self.enough(k) or self.record(k):
            return False
        self._mine = k  # before it is: an interruption between the two must not leave it taken
        try:
            os.close(os.open(self._path(k, "taken", "."), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            self._mine = None
            return False
        if self.record(k):  # made while we looked
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give back the shard that this process has taken, if it has one."""
        if self._mine is not None:
            self._path(self._mine, "taken", ".").unlink(missing_ok=True)
            self._mine = None

    def busy(self) -> bool:
        """Return whether a process is drawing."""
        return any(self.folder.glob(".shard-*.taken"))

    # Making and keeping

    def check(self, resume: bool = False) -> None:
        """Check, changing nothing, that the folder can be made or gone on with.

        Raises:
            UserError: for a folder that holds something, or, to go on, no shards, or others than are asked for.
        """
        manifest = self.folder / "manifest.json"
        if resume:
            if not manifest.is_file():
                raise UserError(f"{self.folder}: holds no shards to go on with (no manifest.json); leave out --resume")
            self._compare(read_json(manifest), manifest)
        elif self.folder.exists() and not self._free():
            raise UserError(f"{self.folder}: already exists; add --resume to go on with it, or choose another -o")

    def begin(self, resume: bool = False) -> None:
        """Make the folder with its manifest or, to go on, check both and remove what is not whole.

        Raises:
            UserError: as :meth:`check`.
        """
        self.check(resume)
        if self.folder.exists():
            self._sweep()
        if not resume or self.count() is None:
            self.note("drawing")

    def save(self, k: int, records: list[Any], indices: list[int], drawn: int, write: Any, **facts: Any) -> None:
        """Write a shard and its record.

        Arguments:
            k: Which.
            records: What was kept of its draws.
            indices: Number of each.
            drawn: How many were drawn.
            write: Called with (records, path); returns how many of them fit the format, None for all.
            facts: What else the record says.
        """
        if self.enough(k):  # by now: those before it were still being drawn when it was taken
            return self.release()
        before = [self.record(j) for j in range(k)] if self.filtered else []
        if all(before) and self.filtered:  # else a later look at the whole cuts what is too much
            missing = self.number - sum(r["number"] for r in before if r)
            if len(records) >= missing:
                records, indices, drawn = records[:missing], indices[:missing], indices[missing - 1] + 1 - k * self.size
        path = self.file(k)
        written = 0
        if records:
            try:
                count = write(records, path)
                written = len(records) if count is None else count
            except NothingFits:  # such a shard has no file, and the run goes on
                written = 0
        record = {
            "made": "samples",
            "file": path.name if written else None,
            "sha256": sha256(path) if written else None,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "shard": k,
            "range": list(self.bounds(k)),
            "number": len(records),
            "written": written,
            "drawn": drawn,
            **self.facts,
            **facts,
        }
        write_json(self._path(k, "json"), record)
        self._records[k] = record
        self.release()

    def cut(self) -> int | None:
        """Remove what is behind the last sample; return the shard that holds it if it must be drawn again to be cut."""
        count = self.count()
        if count is None:
            return None
        for k in self.records():
            if k >= count:
                self._remove(k)
        if self.kept() <= self.number:
            return None
        self._remove(count - 1)
        return count - 1

    def finish(self) -> bool:
        """Write the manifest; return whether all samples are there.

        Raises:
            UserError: if (nearly) nothing was kept.
        """
        count = self.count()
        self.note("drawing" if count is None or self.kept() < self.number else "complete")
        if count is not None and self.kept() < self.number:
            drawn = sum(record["drawn"] for record in self.records().values())
            raise UserError(
                f"only {self.kept():,} of {drawn:,} samples are {', '.join(self.facts['only'])};"
                f" {self.number:,} were asked for: train longer or relax --only"
            )
        return count is not None

    def note(self, state: str) -> None:
        """Write the manifest."""
        shards = [
            {name: record[name] for name in ("file", "range", "number", "written", "drawn", "sha256")}
            for record in self.records().values()
        ]
        there = {name: sum(shard[name] for shard in shards) for name in ("number", "written", "drawn")}
        write_json(
            self.folder / "manifest.json",
            {**self._plan(), "state": state, "there": there.pop("number"), **there, "shards": shards},
        )

    def _plan(self) -> dict[str, Any]:
        return {"made": "shards", "number": self.number, "shard_size": self.size, "ending": self.ending, **self.facts}

    def _free(self) -> bool:
        return self.folder.is_dir() and all(
            path.name == LOCK or re.fullmatch(LEFT, path.name) for path in self.folder.iterdir()
        )

    def _compare(self, manifest: Any, path: Path) -> None:
        if not isinstance(manifest, dict) or manifest.get("made") != "shards":
            raise UserError(f"{path}: is not the manifest of shards")
        for name, value in self._plan().items():
            if name != "model" and manifest.get(name) != value:  # a model may have moved; its weights may not change
                raise UserError(
                    f"{path}: these shards were begun with {name} {_brief(manifest.get(name))}, not {_brief(value)};"
                    " repeat the options they were begun with, or choose another -o"
                )

    def _sweep(self) -> None:
        """Remove what is half-written, taken by processes that are gone, or not what its record says."""
        whole = {"manifest.json"}
        for k, record in self.records().items():
            path = self.file(k)
            if record["file"] is None or (path.is_file() and sha256(path) == record["sha256"]):
                whole |= {path.name, self._path(k, "json").name}
        self._records.clear()
        for path in self.folder.iterdir():
            if NAME.fullmatch(path.name) and path.name not in whole:
                path.unlink()

    def _remove(self, k: int) -> None:
        self._records.pop(k, None)
        self._path(k, "json").unlink(missing_ok=True)  # first: a file without a record counts for nothing
        self.file(k).unlink(missing_ok=True)

    def _path(self, k: int, ending: str, hidden: str = "") -> Path:
        return self.folder / f"{hidden}shard-{k:06d}.{ending}"


def candidates(shards: Shards) -> Iterator[int]:
    """Yield the numbers of shards as long as samples are missing."""
    for k in itertools.count():
        if shards.enough(k):
            return
        yield k


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:36]}..."
