"""`gendiff data`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff import __version__
from gendiff.cli.parsing import UsageError, parse, parser, say
from gendiff.wording import some

if TYPE_CHECKING:
    from gendiff.download import Progress, Source

SLACK = 50_000_000
"""Bytes of the disk that a download leaves free."""


def main(argv: Sequence[str]) -> int:
    """List, describe, fetch or copy out data sets."""
    p = parser(
        "data",
        "The data sets that gendiff knows: built-in ones, and public ones to fetch. Other commands take a name for its "
        "files: qm9, which is its training part, or qm9/test. Where a file or folder here has the name too, data:qm9 "
        "is the data set and ./qm9 what is here.",
        config=False,
    )
    p.add_argument("action", type=str, help="list, info or get")
    p.add_argument("name", type=str | None, nargs="?", default=None, help="data set, for info and get")
    p.add_argument(
        "-o",
        "--output",
        type=str | None,
        default=None,
        help="for get: a file to write, in the format of its ending (.sdf, .ndjson, .npz, …); for public sets also "
        "a folder (default: $GENDIFF_CACHE, or ~/.cache/gendiff)",
    )
    args = parse(p, argv)
    from gendiff.catalog import manifest
    from gendiff.files import UserError

    sets = manifest()
    if args.action == "list":
        _list(sets)
        return 0
    if args.action not in ("info", "get"):
        raise UsageError(
            f"unknown action {args.action!r}; gendiff data list, info NAME, get NAME or get NAME -o examples.sdf"
        )
    if args.name is None:
        raise UsageError(f"gendiff data {args.action} wants the name of a data set; gendiff data list shows them")
    if args.name not in sets:
        raise UserError(f"no data set {args.name!r}; there are: {', '.join(sets)}")
    if args.action == "info":
        _info(args.name, sets[args.name])
    else:
        _get(args.name, sets[args.name], args.output)
    return 0


def _list(sets: dict[str, dict[str, Any]]) -> None:
    for name, entry in sets.items():
        say(f"{name:<16} {_state(name, entry):<9} {_size(entry):>10}  {entry['title']} ({entry['licence']})")
    if any("sources" in entry for entry in sets.values()):
        say("gendiff data get NAME fetches a public set; gendiff train and others then take its name for its files")


def _info(name: str, entry: dict[str, Any]) -> None:
    from gendiff.catalog import prepared
    from gendiff.download import human_size

    say(f"name: {name} ({_state(name, entry)})")
    for key, value in entry.items():
        if key == "sources":
            for source in value:
                checksums = [f"{kind} {source[kind]}" for kind in ("sha256", "sha1", "md5") if kind in source]
                known = ", ".join(checksums) or "no checksum stated; that of the first download is kept"
                size = f"{human_size(source['size'])}, " if "size" in source else ""
                say(f"source: {source['file']} ({size}{known}) from {source['url']}")
        elif key in ("size", "disk"):
            say(f"{key}: {human_size(value)} ({value:,} bytes)")
        else:
            say(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}")
    folder = _folder(name)
    facts = prepared(folder) if "sources" in entry else {}
    if facts:
        parts = "; ".join(_part(facts, part) for part in facts["parts"])
        say(f"here: {folder}: {parts}; prepared {facts['prepared']} by gendiff {facts['gendiff']}")


def _get(name: str, entry: dict[str, Any], output: str | None) -> None:
    from gendiff.catalog import builtin, prepared
    from gendiff.download import alone
    from gendiff.files import UserError, cache_folder, check_target, new_folder
    from gendiff.modality import find_modality

    public = "sources" in entry
    if output is None and not public:
        raise UsageError("gendiff data get wants a file to write: -o examples.sdf")
    kind: Any = find_modality(entry["modality"])
    one_file = output is not None and (not public or bool(Path(output).suffix))
    if one_file:
        check_target(str(output), kind.extensions)
    if one_file and Path(str(output)).exists():
        raise UserError(f"{output}: already exists; choose another name, or remove it")
    if not public:
        _write(kind, [builtin(name)], str(output))
        return
    folder = _folder(name) if one_file or output is None else Path(output)
    if folder.exists() and output is not None and not one_file:
        there = prepared(folder).get("name")
        if there is None:
            raise UserError(f"{folder}: is there and is not a data set of gendiff; choose another name")
        if there != name:
            raise UserError(f"{folder}: holds another data set, {there}; choose another name")
    sources = cache_folder() / "sources" / name
    with alone(sources / ".lock"):
        _sweep(folder)
        if _in_order(folder):
            say(f"{name} is here and in order: {folder}")
        else:
            _check_foreign(folder)
            facts = _fetch(name, entry, sources)
            say("preparing")
            with new_folder(folder, replace=True) as draft:
                made = kind.prepare(entry["loader"], {file: sources / file for file in facts}, draft)
                _describe(name, entry, facts, made, draft)
            size = sum(item["bytes"] for item in facts.values())
            if size > 1_000_000_000:
                say(f"the publisher's files stay in {sources} and may be deleted now")
        facts = prepared(folder)
        for part in facts["parts"]:
            say(f"  {_part(facts, part)}")
        if one_file:
            if any(len(files) > 1 for files in facts["parts"].values()):
                raise UserError(f"{output}: {name} is too large for one file; its files are in {folder}")
            _write(kind, [folder / file for files in facts["parts"].values() for file in files], str(output))


def _fetch(name: str, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fetch the publisher's files into a folder; return what is known of each."""
    from gendiff.download import fetch, human_size, need_space
    from gendiff.files import UserError

    if "needs" in entry and find_spec(entry["needs"]) is None:
        raise UserError(f"{name} needs a library to be prepared; install it first: pip install {entry['needs']}")
    say(f"{name}: {entry['title']}")
    say(f"licence: {entry['licence']}")
    say(f"please cite: {entry['citation']}")
    say(f"source: {entry['url']} ({_size(entry)} to fetch)")
    files = {item["file"]: _source(item) for item in entry["sources"]}
    missing = sum((source.size or 0) - _arrived(folder / file) for file, source in files.items())
    need_space(folder, max(missing, 0) + entry.get("disk", 0) + SLACK)
    facts = {}
    for file, source in files.items():
        try:
            with _bar(file) as progress:
                facts[file] = fetch(source, folder / file, progress)
        except KeyboardInterrupt:
            say(f"{file}: {human_size(_arrived(folder / file))} are kept; the same command goes on from there")
            raise
        verified = ", ".join(facts[file]["verified"])
        how = f"agrees with the publisher's {verified}" if verified else f"sha256 {facts[file]['sha256']}"
        say(f"{file}: {human_size(facts[file]['bytes'])}, {how}")
    return facts


def _describe(name: str, entry: dict[str, Any], sources: dict[str, Any], made: dict[str, Any], folder: Path) -> None:
    """Write dataset.json: where the files of a folder come from, and their checksums."""
    from gendiff.files import sha256, write_json

    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    facts = {key: entry[key] for key in ("title", "licence", "citation", "url", "modality")}
    today = datetime.now(timezone.utc).date().isoformat()  # noqa: UP017
    about = {"name": name, **facts, "gendiff": __version__, "prepared": today}
    write_json(folder / "dataset.json", {**about, "sources": sources, **made, "files": files})


def _in_order(folder: Path) -> bool:
    """Say whether the prepared files are those that were made; tell what is not."""
    from gendiff.catalog import prepared
    from gendiff.files import sha256

    facts = prepared(folder)
    for file, known in facts.get("files", {}).items():
        path = folder / file
        if not path.is_file() or path.stat().st_size != known["bytes"] or sha256(path) != known["sha256"]:
            say(f"{path}: is damaged or gone; preparing the set again")
            return False
    return bool(facts)


def _check_foreign(folder: Path) -> None:
    """Refuse to replace a prepared folder into which somebody has put something of their own."""
    from gendiff.catalog import prepared
    from gendiff.files import UserError

    facts = prepared(folder)
    for path in sorted(folder.iterdir()) if facts else ():
        if path.name not in (*facts["files"], "dataset.json"):
            raise UserError(f"{path}: is not of the data set and would be lost; move it away and repeat the command")


def _write(kind: Any, files: list[Path], output: str) -> None:
    records, _ = kind.read(files)
    kind.write_examples(records, Path(output))
    say(f"{some(len(records), kind.name)}: {output}")


def _sweep(folder: Path) -> None:
    """Take away what a killed process has left half-prepared."""
    for pattern in (f".{folder.name}.*.part", f".{folder.name}.*.old"):
        for path in folder.parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _folder(name: str) -> Path:
    from gendiff.files import cache_folder

    return cache_folder() / "data" / name


def _state(name: str, entry: dict[str, Any]) -> str:
    from gendiff.catalog import prepared

    if "sources" in entry:
        return "here" if prepared(_folder(name)) else "to fetch"
    return "built in"


def _size(entry: dict[str, Any]) -> str:
    """Return the bytes of the publisher's files, or of the built-in file, with their unit."""
    from gendiff.download import human_size

    sizes = [source.get("size") for source in entry.get("sources", [entry])]
    return "unknown size" if None in sizes else human_size(sum(sizes))


def _part(facts: dict[str, Any], part: str) -> str:
    files, count = facts["parts"][part], facts["records"].get(part)
    names = files[0] if len(files) == 1 else f"{files[0]} to {files[-1]}"
    return f"{part}: {names}" + ("" if count is None else f" ({count:,} {facts['modality']})")


def _source(item: dict[str, Any]) -> Source:
    from gendiff.download import DIGITS, Source

    return Source(item["url"], item.get("size"), {kind: item[kind] for kind in DIGITS if kind in item})


def _arrived(path: Path) -> int:
    """Return the bytes of a file that are here, complete or not."""
    found = [item for item in (path, path.with_name(path.name + ".part")) if item.is_file()]
    return found[0].stat().st_size if found else 0


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """Draw a bar of bytes on a terminal."""
    from tqdm import tqdm

    with tqdm(
        unit="B", unit_scale=True, desc=what, leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty()
    ) as bar:

        def tick(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tick
