"""`gendiff train`."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.catalog import resolve
from gendiff.cli.options import add_options, explained, flags, formats, given, listed, modality_of
from gendiff.cli.parsing import (
    UsageError,
    add_trainer,
    asked_of_trainer,
    parse,
    parser,
    say,
    value_of,
    wants_help,
    words,
)
from gendiff.cli.sample import run_settings
from gendiff.files import UserError
from gendiff.modality import find_modality, installed


def build_parser(argv: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser, with the options of the modality that a command line names."""
    kind = modality_of(argv)
    kinds = explained(argv, kind)
    p = parser(
        "train",
        "Train a model on files of examples. The run folder gets config.yaml, checkpoints/last.ckpt, model/, logs/ and "
        "samples/.",
    )
    p.add_argument(
        "modality",
        type=str,
        help=f"what the files hold, one of {', '.join(installed())}; each has options of its own, which gendiff train "
        f"MODALITY --help explains: {listed(kinds, lambda kind: flags(kind, 'read', 'fit'))}",
    )
    p.add_argument(
        "files",
        nargs="*",
        type=str,
        metavar="FILE",
        help="examples: files with records in them, as gendiff sample writes them "
        f"({listed(kinds, formats)}; * one record), others that the modality reads, folders of such files, or the "
        "name of a data set (none with --resume)",
    )
    p.add_argument("--out", type=str, required=True, help="run folder to make")
    p.add_argument(
        "--from",
        type=str | None,
        default=None,
        help="model to start from: run folder, model folder, or the name of a shipped one (gendiff models). Its "
        "network, units and options stay; what it knows of elements, charges, classes and conditions stays, by name",
    )
    p.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where its checkpoint is")
    p.add_argument(
        "--steps",
        type=int | None,
        default=None,
        help="training steps, batches (default: 10,000, or --trainer.max_epochs)",
    )
    p.add_argument(
        "--max-time",
        type=str | None,
        default=None,
        help="bound in time: 90s, 10m, 2h or DD:HH:MM:SS (not exactly repeatable)",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of weights, order, noise and times")
    p.add_argument(
        "--preset",
        type=str | None,
        default=None,
        help="size of the network: tiny, small or base (default: tiny on a CPU, base on a GPU)",
    )
    p.add_argument(
        "--network",
        type=str | None,
        default=None,
        help=f"network of the modality: {listed(kinds, lambda kind: kind.networks)} (default: its first)",
    )
    p.add_argument(
        "--condition",
        type=str | None,
        default=None,
        help="what to ask for when sampling, comma-separated; of molecules numeric columns of the files: logP,TPSA "
        "(RDKit computes logP, TPSA, QED and MW where the file has none); of sketches: points (clouds and pictures to "
        "strokes; classes need not be named)",
    )
    p.add_argument("--batch-size", type=int, default=64, help="samples of a batch")
    p.add_argument("--learning-rate", type=float, default=5e-3, help="peak learning rate")
    p.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights, per step")
    p.add_argument("--previews", type=int, default=3, help="pictures drawn on the way")
    p.add_argument(
        "--checkpoint-every",
        type=int,
        default=1000,
        help="steps between checkpoints; a minute without one brings one too",
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="run the network through torch's compiler, which takes minutes at the start: for long runs",
    )
    p.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a bad record: stop, or skip it and count it"
    )
    add_options(p, kind, "read", "fit")
    add_trainer(p, argv, gradient_clip_val=1.0, num_sanity_val_steps=0)
    return p


OBEYED = ("out", "resume", "modality", "config", "trainer")
"""What `--resume` does not take from the run, and Lightning's options, which are looked at one by one."""


def main(argv: Sequence[str]) -> int:
    """Train."""
    kind = modality_of(argv)
    if kind is None and argv and not argv[0].startswith("-"):
        find_modality(argv[0])
    out = value_of(argv, "--out")
    named = {*installed()} & {word for word in argv if word != out}  # if in the wrong place
    if kind is None and out and not named and "--resume" in argv and not wants_help(argv):
        begun = run_settings(out).get("modality")
        if begun in installed():
            kind, argv = find_modality(begun), [begun, *argv]
        else:
            from gendiff.train.run import began

            began(Path(out), "run")  # says what is wrong with it
    p = build_parser(argv)
    args = parse(p, argv)
    if not args.files and not args.resume:
        raise UsageError(f"no file of examples; write gendiff train {args.modality} FILE --out runs/mine")
    if not args.resume:
        for path in resolve(args.files):  # what is not there is told before Lightning is loaded
            if not path.exists():
                raise UserError(f"{path}: no such file")
    from gendiff.train import train
    from gendiff.train.processes import first

    if args.resume and first():
        defaults = dict(vars(p.get_defaults()))
        ignored = [
            "FILE" if name == "files" else "--" + name.replace("_", "-")
            for name, default in defaults.items()
            if name not in OBEYED and (args[name] or None) != (default or None)
        ]
        ignored += [f"--trainer.{name}" for name in asked_of_trainer(args, p)]
        if ignored:
            names = ", ".join(ignored)
            say(f"--resume goes on with the settings the run began with, not with {names} as given here")
    options: dict[str, Any] = {
        name: args[name]
        for name in (
            "steps",
            "max_time",
            "seed",
            "preset",
            "network",
            "batch_size",
            "learning_rate",
            "average",
            "previews",
            "checkpoint_every",
            "compile",
            "resume",
            "on_error",
        )
    }
    if kind is None or kind.name != args.modality:
        raise UsageError(f"write the modality first: gendiff train {find_modality(args.modality).name} FILE --out RUN")
    reading, fitting = given(args, kind, "read"), given(args, kind, "fit")
    reading |= {name: fitting[name] for name in fitting.keys() & signature(kind.read).parameters}
    trainer = asked_of_trainer(args, p)
    options |= {"conditions": words(args.condition), "parent": args["from"]}
    train(args.modality, args.files, args.out, reading=reading, fitting=fitting, trainer=trainer, say=say, **options)
    return 0
