"""`gendiff data`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendiff.cli.parsing import UsageError, parse, parser, say


def main(argv: Sequence[str]) -> int:
    """List, describe or copy out data sets."""
    p = parser("data", "The data sets that gendiff knows.", config=False)
    p.add_argument("action", type=str, help="list, info or get")
    p.add_argument("name", type=str | None, nargs="?", default=None, help="data set, for info and get")
    p.add_argument(
        "-o",
        "--output",
        type=str | None,
        default=None,
        help="for get: file to write, in the format of its ending (.sdf, .smi, .xyz, .npz)",
    )
    args = parse(p, argv)
    from gendiff.data import builtin, manifest
    from gendiff.files import UserError, check_target
    from gendiff.modality import find_modality, modalities

    sets = manifest()
    if args.action == "list":
        for name, entry in sets.items():
            later = "" if entry["modality"] in modalities() else f"; its modality {entry['modality']} is not installed"
            say(f"{name:<18} {entry['title']} ({entry['licence']}{later})")
        return 0
    if args.action not in ("info", "get"):
        raise UsageError(f"unknown action {args.action!r}; gendiff data list, info NAME or get NAME -o FILE")
    if args.name is None:
        raise UsageError(f"gendiff data {args.action} wants the name of a data set; gendiff data list shows them")
    if args.name not in sets:
        raise UserError(f"no data set {args.name!r}; there are: {', '.join(sets)}")
    if args.action == "info":
        for key, value in sets[args.name].items():
            say(f"{key}: {value}")
        return 0
    if args.output is None:
        raise UsageError("gendiff data get wants a file to write: -o examples.sdf")
    kind: Any = find_modality(sets[args.name]["modality"])
    output = Path(args.output)
    check_target(output, kind.extensions)
    records, _ = kind.read([builtin(args.name)])
    kind.write_examples(records, output)
    say(f"{len(records):,} {kind.name}: {output}")
    return 0
