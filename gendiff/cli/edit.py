"""`gendiff edit`."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from gendiff.cli.parsing import (
    UsageError,
    add_guidance,
    add_size,
    bounds,
    parse,
    parser,
    say,
    step_bar,
    wants_help,
    wishes,
    words,
)
from gendiff.cli.sample import check_output, classes_of, pick_device, protect, read_sidecar, sidecar_of, write_samples
from gendiff.files import UserError, ending, write_json
from gendiff.wording import some

if TYPE_CHECKING:
    from gendiff.modality import Part


def build_parser(tasks: bool = True) -> ArgumentParser:
    """Return the parser, with the tasks of all installed modalities in its help if `tasks`: they take a while to load.

    The model on the command line has a modality, and so its words; --help has no model.
    """
    known = "\n".join(_tasks()) if tasks else ""
    p = parser(
        "edit",
        "Make new samples from given ones. What can be done is the model's to say. Beside the output a .json of the"
        f" same name says how it was made.\n{known}",
    )
    p.formatter_class = _Formatter
    p.add_argument("model", type=str, help="run folder of gendiff train, model folder, or name of a shipped model")
    p.add_argument(
        "input",
        type=str,
        nargs="+",
        help="what to edit: a file, two to interpolate, of pictures any number; isomers takes formulas, too: C7H10O2",
    )
    p.add_argument(
        "--which",
        type=str | None,
        default=None,
        help="which records of the input, counting from 1: 3, or for interpolate 7,3 (all of them)",
    )
    p.add_argument(
        "--task",
        type=str | None,
        default=None,
        help="what to do (default: the first of the model's tasks; of images the one that input and options ask for)",
    )
    p.add_argument(
        "-n",
        "--number",
        type=int | None,
        default=None,
        help="how many to make; for interpolate the steps, both ends included (default: 40; of several pictures one of"
        " each; 1 where the output holds no more)",
    )
    p.add_argument(
        "-o", "--output", type=str, required=True, help="file to write, of any format that gendiff sample writes"
    )
    p.add_argument("--seed", type=int, default=0, help="seed; sample i depends on it and i alone")
    p.add_argument(
        "--keep",
        type=str | None,
        default=None,
        help="grow, link, complete: numbers of the atoms or strokes that stay: 1,2,5-8 (all)",
    )
    add_size(
        p,
        "grow, link, complete, trace: bounds of the number of modelled atoms or points, kept ones included: 12-20,"
        " 12-, -20 or 12 (by default as in the training data, at least one more than stay; link: by the distance"
        " between the pieces)",
    )
    p.add_argument(
        "--side",
        type=float | None,
        default=None,
        help="sketches: the larger side of the finished drawing in the unit of the input (by default the input is in"
        " the unit of the training data, or as large as a whole drawing if it cannot be); uncrop: the larger side of"
        " the finished picture, in pixels of the input",
    )
    p.add_argument(
        "--mask",
        type=str | None,
        default=None,
        help="inpaint, uncrop: picture of the size of the input; what is white is drawn, the rest stays (default: what"
        " is transparent in the input is drawn)",
    )
    p.add_argument(
        "--box", type=str | None, default=None, help="inpaint, uncrop: rectangle to draw, x,y,width,height in pixels"
    )
    p.add_argument(
        "--factor",
        type=int | None,
        default=None,
        help="like: side in pixels of the blocks whose means stay (default: the largest with four blocks along each"
        " side)",
    )
    p.add_argument(
        "--strength",
        type=float | None,
        default=None,
        help="vary, heal: from 0, the input itself, to 1, a fresh sample of its size (default: the task's)",
    )
    p.add_argument(
        "--steps",
        type=int | None,
        default=None,
        help="levels of noise (grow, link: 16; complete: 7; inpaint, uncrop, of models that draw: 20; interpolate: 50;"
        " else the model's)",
    )
    p.add_argument(
        "--resamples",
        type=int | None,
        default=None,
        help="grow, link, complete, inpaint: how often each level is walked, so that old and new come to agree; time"
        " grows with it (24; pictures: 9)",
    )
    p.add_argument(
        "--class",
        type=str | None,
        default=None,
        help="class to ask for, of a model that knows it: cat; of several, sample i takes one after another: cat,dog",
    )
    p.add_argument(
        "--condition", type=str | None, default=None, help="properties to ask for, of a model trained with them: logP=2"
    )
    add_guidance(p)
    p.add_argument(
        "--only",
        type=str | None,
        default=None,
        help="draw until enough are all of valid,connected,stable,intact (intact: molecules with the bonds of the input"
        " among the atoms that were kept, or isomers of it)",
    )
    p.add_argument(
        "--batch-size", type=int, default=256, help="samples computed together; changes nothing but memory and speed"
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="run the network through torch's compiler, which takes minutes at the start: for many samples",
    )
    p.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps or auto")
    return p


class _Formatter(DefaultHelpFormatter):
    """Keeps the lines of the description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(fill(line, width, indent + "  " * line.startswith(" ")) for line in text.splitlines())


def _tasks() -> list[str]:
    """Return lines of what can be done, by modality."""
    from gendiff.modality import find_modality, installed

    lines = []
    for name in installed():
        if tasks := find_modality(name).tasks:
            lines += ["", f"{name}:", *(f"  {word}: {task.help}" for word, task in tasks.items())]
    return lines


def main(argv: Sequence[str]) -> int:
    """Edit."""
    args = parse(build_parser(tasks=wants_help(argv)), argv)
    sizes, only, keep = bounds(args.size), words(args.only), numbers(args.keep)
    which, keep = numbers(args.which, "--which"), sorted(set(keep)) if keep else keep
    condition = wishes(args.condition, args["class"], classes_of(args.model))
    output = Path(args.output)
    if any(output.resolve() == Path(path).resolve() for path in [*args.input, *([args.mask] if args.mask else [])]):
        raise UserError(f"{output}: is the input, which would be lost; choose another -o")
    from gendiff.denoise import compiled
    from gendiff.model import load
    from gendiff.model.digest import digest
    from gendiff.model.edit import NUMBER
    from gendiff.model.tasks import check, chosen, find_task, sampler_of, walks
    from gendiff.model.weaker import skip_of

    model = load(args.model, device=pick_device(args.device))
    model.skip = skip_of(model, args.skip, args.skip_scale)
    task, todo = find_task(model.modality, args.task)
    number = args.number
    if number is None and ending(output) in model.modality.single and todo.kind != "path":
        number = 1
    check_output(output, model.modality, NUMBER if number is None else number)
    protect(output, [])
    options = {"side": args.side, "mask": args.mask, "box": args.box, "factor": args.factor}
    options = {name: value for name, value in options.items() if value is not None}
    asked: dict[str, Any] = {
        "keep": keep,
        "sizes": sizes,
        "strength": args.strength,
        "steps": args.steps,
        "resamples": args.resamples,
        "condition": condition,
        "only": only,
        "batch_size": args.batch_size,
        **options,
    }
    if args.task:  # else it may be the input's to say
        check(model, task, number, **asked)
    records, report = model.modality.read_parts(args.input, task)
    records = chosen(records, which)
    task, todo = find_task(model.modality, args.task, records, options)
    notes: list[str] = []

    def tell(parts: Sequence[Part]) -> None:
        notes.extend(dict.fromkeys(part.note for part in parts if part.note))
        for line in [*report.lines(), *notes]:
            say(line)

    begin = time.monotonic()
    with compiled(model.denoiser, args.compile):
        drawn = model.edit(
            records,
            task,
            number,
            seed=args.seed,
            guidance=args.guidance,
            begin=tell,
            progress=step_bar("editing"),
            **asked,
        )
    seconds = time.monotonic() - begin
    written = write_samples(
        model,
        drawn,
        output,
        args.model,
        seed=args.seed,
        sampler=sampler_of(model, task, args.steps),
        seconds=seconds,
        only=only,
        sizes=sizes,
        condition=condition,
        guidance=args.guidance,
    )
    facts: dict[str, Any] = {
        "task": task,
        "input": [
            {"file": path, "sha256": digest(path)} if Path(path).exists() else {"formula": path} for path in args.input
        ],
        "which": which,
        "side": args.side,
        **options,
    }
    if args.mask:
        facts["mask"] = {"file": args.mask, "sha256": digest(args.mask)}
    if todo.kind == "keep":
        facts |= {"keep": keep, "resamples": walks(todo, args.resamples)}
    elif todo.kind == "noise":
        facts["strength"] = todo.strength if args.strength is None else args.strength
    write_json(sidecar_of(output), read_sidecar(output) | facts)
    rate = f", {100 * drawn.rate:.1f} % of {drawn.drawn:,} drawn are {' and '.join(only)}" if only else ""
    number = some(len(drawn.records), model.modality.name)
    if written < len(drawn.records):
        number = f"{written:,} of {number} fit {ending(output)}, made"
    say(f"{number} in {seconds:.1f} s{rate}: {output}")
    remark = drawn.remark
    for note in notes:  # which was said before the work
        remark = remark.removeprefix(note).removeprefix("; ")
    if remark:
        say(remark)
    return 0


def numbers(text: str | None, option: str = "--keep") -> list[int] | None:
    """Return the numbers of "1,2,5-8", in the order in which they come.

    Raises:
        UsageError: for anything else.
    """
    if text is None:
        return None
    found: list[int] = []
    for word in words(text):
        match = re.fullmatch(r"(\d{1,6})\s*(?:-\s*(\d{1,6}))?", word, re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise UsageError(f"{option} {text!r} is no list of numbers; write 1,2,5-8, counting from 1")
        found += range(low, high + 1)
    return found
