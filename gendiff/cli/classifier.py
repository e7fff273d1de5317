"""`gendiff classifier`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from gendiff.cli.logprob import add_reading, read_known
from gendiff.cli.parsing import UsageError, parse, parser, say
from gendiff.cli.sample import pick_device
from gendiff.files import UserError


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "classifier",
        "Train a classifier of noisy samples on labelled examples, by which gendiff sample --classifier leads a model "
        "to a class, also one that was never told classes.",
    )
    p.add_argument("model", type=str, help="the model to be led: run folder, model folder or name (images)")
    p.add_argument("files", type=str, nargs="+", help="examples with classes, in the formats that training reads")
    p.add_argument("--out", type=str, required=True, help="folder to make")
    p.add_argument("--steps", type=int, default=2000, help="training steps, batches")
    p.add_argument("--preset", choices=("tiny", "small", "base"), default="tiny", help="size of the network")
    p.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate")
    p.add_argument("--seed", type=int, default=0, help="seed of weights, order, noise and times")
    add_reading(p, batch_size=64)
    return p


def main(argv: Sequence[str]) -> int:
    """Train a classifier."""
    args = parse(build_parser(), argv)
    for name in ("steps", "batch_size"):
        if args[name] < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {args[name]}")
    from gendiff.model import load

    out = Path(args.out)
    if out.exists():
        raise UserError(f"{out}: already exists; choose another --out")
    model = load(args.model, device=pick_device(args.device))
    records = read_known(model, args.files, args.on_error)
    names = ("steps", "preset", "batch_size", "learning_rate", "seed")
    options = {name: args[name] for name in names}
    classifier = model.modality.train_classifier(
        model.denoiser.process, records, device=model.device, say=say, **options
    )
    classifier.save(out)
    say(f"a classifier of {', '.join(classifier.classes)}: {out}")
    return 0
