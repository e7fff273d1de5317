"""`gendiff evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.catalog import resolve
from gendiff.cli.options import Kind, add_options, given, guessed, in_config, modality_of_file
from gendiff.cli.parsing import parse, parser, say
from gendiff.cli.sample import protocol, read_sidecar, samples_facts
from gendiff.files import UserError, check_target, write_json


def build_parser(argv: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser, with the options of the modality that a command line is about."""
    kind = _kind(argv)
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
        help="what the files hold (default: what the .json beside the samples, or the ending, says); each has options "
        "of its own, which --modality NAME --help lists",
    )
    add_options(p, kind, "evaluate", "read")
    p.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at a record that cannot be read: stop, or skip it (it is then not counted)",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    p.add_argument("--json", type=str | None, default=None, help="also write the table to this .json file")
    return p


def _kind(argv: Sequence[str]) -> Kind | None:
    """Return the adapter that a command line is about, before it is parsed; None if it does not say."""
    named = next((b for a, b in pairwise(argv) if a == "--modality"), None) or in_config(argv, "modality")
    files = [word for word in argv if not word.startswith("-")]
    for file in filter(None, [*files, in_config(argv, "generated")]):
        try:
            return modality_of_file(file, named, read_sidecar(file))
        except UserError:
            continue
    return None


FEW = 20
"""A reference of fewer records is measured at once."""


def say_measuring(reference: Any) -> None:
    """Say that it may take a while, unless there is little to measure."""
    if len(reference) >= FEW:
        say("measuring; this may take a minute or two")


def main(argv: Sequence[str]) -> int:
    """Evaluate."""
    args = parse(build_parser(argv), argv)
    sidecar = read_sidecar(args.generated)
    kind: Any = modality_of_file(args.generated, args.modality, sidecar)
    if args.json:
        check_target(args.json, (".json",))
        if samples_facts(args.json):
            raise UserError(f"{args.json}: says how samples were made, which would be lost; choose another --json")
    with guessed(args.generated, args.modality, sidecar):
        generated, drawn = kind.read_samples([args.generated], on_error=args.on_error)
    reading = {"on_error": args.on_error, **given(args, kind, "read")}
    reference, report = kind.read(resolve(args.reference), **reading)
    reading.pop("split", None)  # which part is held out is said of the reference; what was trained on is read as ever
    training = kind.read(resolve(args.training), **reading)[0] if args.training else None
    for line in [*drawn.lines(), *report.lines()]:
        say(line)
    defaults = {option.name: option.default for option in kind.options if option.of == "evaluate"}
    chosen = {name: value for name, value in given(args, kind, "evaluate").items() if value != defaults[name]}
    rules = {**defaults, **protocol(sidecar), **chosen}
    say_measuring(reference)
    table = kind.evaluate(generated, reference, training=training, seed=args.seed, **rules)
    for line in table.lines():
        say(line)
    if args.json:
        write_json(Path(args.json), table.to_json())
    return 0
