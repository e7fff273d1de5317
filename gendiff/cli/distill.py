"""`gendiff distill`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from jsonargparse import ArgumentParser

from gendiff.cli.options import add_options, given
from gendiff.cli.parsing import UsageError, add_trainer, asked_of_trainer, parse, parser, say
from gendiff.files import UserError, read_json
from gendiff.modality import Modality, find_modality
from gendiff.model.folder import model_folder


def build_parser(kind: type[Modality] | None = None, argv: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser, with the options of reading of a modality."""
    p = parser(
        "distill",
        "Make a model of many steps into one of few, by progressive distillation: a student learns to do in one step "
        "of DDIM what its teacher does in two, and is the next teacher. The folder gets a run of each student and "
        "model/, the last one, with which gendiff sample draws in its few steps.",
    )
    p.add_argument(
        "model",
        type=str | None,
        nargs="?",
        default=None,
        help="the teacher: run folder, model folder, or the name of a shipped model, with Gaussian fields and no "
        "estimate of the noise (none with --resume)",
    )
    p.add_argument("files", nargs="*", type=str, metavar="FILE", help="examples of what it was trained on")
    p.add_argument("--out", type=str, required=True, help="folder to make")
    p.add_argument("--resume", action="store_true", help="go on with the distillation in --out")
    p.add_argument("--steps", type=int, default=8, help="DDIM steps of the last student")
    p.add_argument(
        "--start", type=int, default=64, help="DDIM steps of the teacher at first, --steps times a power of two"
    )
    p.add_argument("--updates", type=int, default=2000, help="training steps of each student, batches")
    p.add_argument("--seed", type=int, default=0, help="seed of order, noise and times")
    p.add_argument("--batch-size", type=int, default=64, help="samples of a batch")
    p.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate of each student")
    p.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights, per step")
    p.add_argument(
        "--compile",
        action="store_true",
        help="run the network of each student through torch's compiler, which takes minutes at the start",
    )
    p.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a bad record: stop, or skip it and count it"
    )
    add_options(p, kind, "read")
    add_trainer(p, argv, gradient_clip_val=1.0, num_sanity_val_steps=0)
    return p


def main(argv: Sequence[str]) -> int:
    """Distill."""
    kind = kind_of(argv)
    p = build_parser(kind, argv)
    args = parse(p, argv)
    if not args.resume and not (args.model and args.files):
        raise UsageError("write gendiff distill MODEL FILE --steps 8 --out RUN")
    from gendiff.train import distill

    names = ("updates", "seed", "batch_size", "learning_rate", "average", "compile", "on_error", "resume")
    distill(
        args.model or "",
        args.files,
        args.out,
        steps=(args.start, args.steps),
        reading=given(args, kind, "read"),
        trainer=asked_of_trainer(args, p),
        say=say,
        **{name: args[name] for name in names},
    )
    return 0


def kind_of(argv: Sequence[str]) -> type[Modality] | None:
    """Return the adapter of the model on a command line, the first word that names one; None if none does."""
    for word in argv:
        path = model_folder(word) / "config.json"
        if not word.startswith("-") and path.is_file():
            with suppress(UserError, KeyError, TypeError):  # loading says what is wrong with it
                return find_modality(read_json(path)["modality"]["name"])
    return None
