"""`gendiff data`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gendiff.cli.parsing import UsageError, parse, parser, say


def main(argv: Sequence[str]) -> int:
    """List, describe or copy out data sets."""
    p = parser("data", "The data sets that gendiff knows.", config=False)
    p.add_argument("action", type=str, help="list, info or get")
    p.add_argument("name", type=str | None, nargs="?", default=None, help="data set, for info and get")
    p.add_argument("-o", "--output", type=str | None, default=None, help="for get: file to write, in the format of its ending (.sdf, .smi, .xyz, .npz)")
    args = parse(p, argv)
    from gendiff.data import builtin, manifest
    from gendiff.files import UserError, check_target

    sets = manifest()
    if args.action == "list":
        for name, entry in sets.items():
            say(f"{name:<18} {entry['title']} ({entry['licence']})")
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
    from gendiff.modalities.molecules.modality import Molecules
    from gendiff.modalities.molecules.read import read_molecules

    output = Path(args.output)
    check_target(output, Molecules.extensions)
    records, _ = read_molecules([builtin(args.name)])
    if output.suffix == ".npz":
        records.save_npz(output)
    else:
        from gendiff.modalities.molecules.write import write_molecules
        from gendiff.modalities.molecules.bonds import infer_all

        mols = [mol for mol, _ in infer_all(records.split(), "lookup", "explicit")]
        for mol, name in zip(mols, records.names, strict=True):
            mol.SetProp("_Name", name)
        write_molecules(mols, output)
    say(f"{len(records):,} molecules: {output}")
    return 0
