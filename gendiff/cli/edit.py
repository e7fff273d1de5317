"""`gendiff edit`."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.cli.parsing import UsageError, bounds, parse, parser, say, step_bar, words
from gendiff.cli.sample import check_output, pick_device, protect, read_sidecar, write_samples
from gendiff.files import UserError, ending, sha256, write_json

TASKS = ("grow", "link", "vary", "interpolate")


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "edit",
        "Make new samples from given ones. grow: atoms of the input stay where they are, the rest grows around them. "
        "link: the same for an input in pieces, with as many new atoms as it takes to join them; what came out in one "
        "piece is 'connected'. vary: variations of a molecule. interpolate: the way from one molecule to another. "
        "Beside the output a .json of the same name says how it was made.",
    )
    p.add_argument("model", type=str, help="run folder of gendiff train, or model folder")
    p.add_argument("input", type=str, nargs="+", help="file of what to edit; for interpolate two molecules")
    p.add_argument("--task", default="grow", choices=TASKS, help="what to do")
    p.add_argument(
        "-n", "--number", type=int, default=40, help="how many to make; for interpolate the steps, both ends included"
    )
    p.add_argument(
        "-o",
        "--output",
        type=str,
        required=True,
        help="file to write: .sdf, .mol, .pdb, .xyz, .smi, .csv, packed or not (.sdf.gz), or .npz",
    )
    p.add_argument("--seed", type=int, default=0, help="seed; sample i depends on it and i alone")
    p.add_argument(
        "--keep", type=str | None, default=None, help="grow, link: numbers of the atoms that stay: 1,2,5-8 (all)"
    )
    p.add_argument(
        "--atoms",
        type=str | None,
        default=None,
        help="grow, link: bounds of the number of modelled atoms, kept ones included: 12-20, 12-, -20 or 12 (grow: as "
        "in the training data, at least one more than stay; link: by the distance between the pieces)",
    )
    p.add_argument(
        "--strength", type=float, default=0.3, help="vary: from 0, the input itself, to 1, a fresh sample of its size"
    )
    p.add_argument(
        "--steps",
        type=int | None,
        default=None,
        help="levels of noise (grow, link: 16; vary: the model's; interpolate: 50)",
    )
    p.add_argument(
        "--resamples",
        type=int,
        default=24,
        help="grow, link: how often each level is walked, so that old and new come to agree; time grows with it",
    )
    p.add_argument("--only", type=str | None, default=None, help="draw until there are enough that are valid,connected")
    p.add_argument(
        "--batch-size", type=int, default=256, help="samples computed together; changes nothing but memory and speed"
    )
    p.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps or auto")
    return p


def main(argv: Sequence[str]) -> int:
    """Edit."""
    args = parse(build_parser(), argv)
    sizes, only, keep = bounds(args.atoms), words(args.only), numbers(args.keep)
    output = Path(args.output)
    if any(output.resolve() == Path(path).resolve() for path in args.input):
        raise UserError(f"{output}: is the input, which would be lost; choose another -o")
    from gendiff.model import load
    from gendiff.model.edit import sampler_of

    model = load(args.model, device=pick_device(args.device))
    check_output(output, model.modality, args.number)
    protect(output, [])
    records, report = model.modality.read_parts(args.input, args.task)
    for line in report.lines():
        say(line)
    begin = time.monotonic()
    drawn = model.edit(
        records,
        args.task,
        args.number,
        seed=args.seed,
        keep=keep,
        sizes=sizes,
        strength=args.strength,
        steps=args.steps,
        resamples=args.resamples,
        only=only,
        batch_size=args.batch_size,
        progress=step_bar("editing"),
    )
    seconds = time.monotonic() - begin
    written = write_samples(
        model,
        drawn,
        output,
        args.model,
        seed=args.seed,
        sampler=sampler_of(model, args.task, args.steps),
        seconds=seconds,
        only=only,
        sizes=sizes,
    )
    used = {"grow": ("keep", "resamples"), "link": ("keep", "resamples"), "vary": ("strength",)}.get(args.task, ())
    facts: dict[str, Any] = {
        "task": args.task,
        "input": [{"file": str(path), "sha256": sha256(path)} for path in args.input],
        **{name: {"keep": keep}.get(name, getattr(args, name)) for name in used},
    }
    write_json(output.with_suffix(".json"), read_sidecar(output) | facts)
    rate = f", {100 * drawn.rate:.1f} % of {drawn.drawn:,} drawn are {' and '.join(only)}" if only else ""
    number = f"{len(drawn.records):,} {model.modality.name}"
    if written < len(drawn.records):
        number = f"{written:,} of {number} fit {ending(output)}, made"
    say(f"{number} in {seconds:.1f} s{rate}: {output}")
    if drawn.remark:
        say(drawn.remark)
    return 0


def numbers(text: str | None) -> list[int] | None:
    """Return the numbers of "1,2,5-8", ascending.

    Raises:
        UsageError: for anything else.
    """
    if text is None:
        return None
    found: set[int] = set()
    for word in words(text):
        match = re.fullmatch(r"(\d{1,6})\s*(?:-\s*(\d{1,6}))?", word, re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise UsageError(f"--keep {text!r} is no list of atom numbers; write 1,2,5-8, counting from 1")
        found.update(range(low, high + 1))
    return sorted(found)
