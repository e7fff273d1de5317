"""`gendiff demo`: the main job end to end on the built-in data."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from gendiff.cli.parsing import UsageError, parse, parser
from gendiff.files import UserError

if TYPE_CHECKING:
    from torch import Tensor

STEPS = {"molecules": 500, "sketches": 1100, "images": 1000}
"""Training steps of each demo, in its module here."""


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "demo",
        "Train on a random half of the built-in data, sample, judge, and write a page to look at: minutes on two CPU "
        "cores. The demo of molecules adapts a model that comes with gendiff, and trains one from scratch to compare.",
        config=False,
    )
    p.add_argument("modality", nargs="?", type=str, default="molecules", help=f"what to generate: {', '.join(STEPS)}")
    p.add_argument("--out", type=str, default="gendiff-demo", help="folder to make")
    defaults = ", ".join(f"{name} {steps}" for name, steps in STEPS.items())
    p.add_argument("--steps", type=int | None, default=None, help=f"steps of each training, batches of 64 ({defaults})")
    p.add_argument("-n", "--number", type=int, default=200, help="samples to draw")
    p.add_argument("--seed", type=int, default=0, help="seed of the split, the training and the sampling")
    return p


def main(argv: Sequence[str]) -> int:
    """Run the demo."""
    args = parse(build_parser(), argv)
    if args.modality not in STEPS:
        raise UsageError(f"no demo for {args.modality!r}; there is one for: {', '.join(STEPS)}")
    steps = STEPS[args.modality] if args.steps is None else args.steps
    if steps < 1 or args.number < 1:
        raise UsageError(f"--steps and -n must be at least 1, got {steps} and {args.number}")
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists; choose another --out")

    import torch

    # Small tensors gain little from threads that share a core with anything else, and sums in another order are other
    # digits: with one thread the same seed draws the same samples whatever the number of cores.
    torch.set_num_threads(1)
    import_module(f"gendiff.cli.demo.{args.modality}").run(out, steps, args.number, args.seed)
    return 0


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of a random half of `count` records, rounded down, and of the other, both in order."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // 2].sort().values, order[count // 2 :].sort().values
