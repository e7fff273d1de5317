"""`gendiff evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.cli.parsing import parse, parser, say
from gendiff.cli.sample import read_sidecar
from gendiff.data import resolve
from gendiff.files import UserError, check_target, write_json
from gendiff.modality import find_modality


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "evaluate", "Measure generated samples; the reference's own numbers, by the same procedure, stand beside them."
    )
    p.add_argument("generated", type=str, help="file of generated samples")
    p.add_argument("--reference", type=str, nargs="+", required=True, help="real examples")
    p.add_argument(
        "--training",
        type=str,
        nargs="+",
        default=None,
        help="training examples, against which novelty is judged (default: the reference)",
    )
    p.add_argument(
        "--modality",
        type=str | None,
        default=None,
        help="what the files hold (default: what the .json beside the samples says, or molecules)",
    )
    p.add_argument(
        "--hydrogens",
        choices=("auto", "explicit", "implicit"),
        default="auto",
        help="protocol: explicit or implicit (default: as the model that made the samples)",
    )
    p.add_argument(
        "--rule",
        choices=("lookup", "rdkit"),
        default="lookup",
        help="how bonds are read off coordinates: lookup or rdkit",
    )
    p.add_argument("--no-strain", action="store_true", help="leave out the MMFF strain, the slow part")
    p.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at a record that cannot be read: stop, or skip it (it is then not counted)",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    p.add_argument("--json", type=str | None, default=None, help="also write the table to this .json file")
    return p


def main(argv: Sequence[str]) -> int:
    """Evaluate."""
    args = parse(build_parser(), argv)
    sidecar = read_sidecar(args.generated)
    kind: Any = find_modality(args.modality or sidecar.get("modality") or "molecules")
    if args.json:
        check_target(args.json, (".json",))
        if sidecar and Path(args.json).resolve() == Path(args.generated).with_suffix(".json").resolve():
            raise UserError(f"{args.json}: says how the samples were made, which would be lost; choose another --json")
    generated, drawn = kind.read([args.generated], on_error=args.on_error, strict=False, embed=False, fragments="keep")
    reference, report = kind.read(resolve(args.reference), on_error=args.on_error)
    training = kind.read(resolve(args.training), on_error=args.on_error)[0] if args.training else None
    for line in [*drawn.lines(), *report.lines()]:
        say(line)
    hydrogens = (
        args.hydrogens if args.hydrogens != "auto" else sidecar.get("hydrogens") or kind.fit(reference).hydrogens
    )
    table = kind.evaluate(
        generated,
        reference,
        training=training,
        rule=args.rule,
        hydrogens=hydrogens,
        strain=not args.no_strain,
        seed=args.seed,
    )
    for line in table.lines():
        say(line)
    if args.json:
        write_json(Path(args.json), table.to_json())
    return 0
