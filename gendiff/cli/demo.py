"""`gendiff demo`: the main job end to end on the built-in data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from gendiff.cli.parsing import UsageError, parse, parser, say, step_bar
from gendiff.cli.sample import write_samples
from gendiff.files import UserError, write_json

DATA = {"molecules": "small-molecules"}
"""Built-in set of each modality that has a demo."""


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "demo",
        "Train on a random half of the built-in data, sample, judge, and write a page to look at: minutes on two CPU "
        "cores.",
        config=False,
    )
    p.add_argument("modality", nargs="?", type=str, default="molecules", help="what to generate: molecules")
    p.add_argument("--out", type=str, default="gendiff-demo", help="folder to make")
    p.add_argument("--steps", type=int, default=STEPS, help="training steps, batches of 64")
    p.add_argument("-n", "--number", type=int, default=200, help="samples to draw")
    p.add_argument("--seed", type=int, default=0, help="seed of the split, the training and the sampling")
    return p


STEPS = 3800


def main(argv: Sequence[str]) -> int:
    """Run the demo."""
    args = parse(build_parser(), argv)
    if args.modality not in DATA:
        raise UsageError(f"no demo for {args.modality!r}; there is one for: {', '.join(DATA)}")
    if args.steps < 1 or args.number < 1:
        raise UsageError(f"--steps and -n must be at least 1, got {args.steps} and {args.number}")
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists; choose another --out")
    begin = time.monotonic()

    import torch

    from gendiff.data import builtin
    from gendiff.modalities.molecules.modality import Molecules
    from gendiff.report.pages import demo_page
    from gendiff.train import train

    # Small tensors gain little from threads that share a core with anything else, and sums in another order are other
    # digits: with one thread the same seed draws the same molecules whatever the number of cores.
    torch.set_num_threads(1)
    records, _ = Molecules.read([builtin(DATA[args.modality])])
    half = torch.randperm(len(records), generator=torch.Generator().manual_seed(args.seed))[: len(records) // 2]
    training = records.select(half.sort().values.numpy())
    examples = out / "examples.npz"
    training.save_npz(examples)
    say(f"a random half of {DATA[args.modality]}: {len(training):,} of {len(records):,} molecules, in {examples}")
    model = train(
        args.modality,
        [examples],
        out / "run",
        steps=args.steps,
        seed=args.seed,
        preset="tiny",
        previews=0,
        fitting={"hydrogens": "implicit"},
        trainer={"accelerator": "cpu"},
        say=say,
    )
    trained = time.monotonic() - begin
    drawn = model.draw(args.number, seed=args.seed, progress=step_bar("sampling"))
    sampled = time.monotonic() - begin - trained
    write_samples(
        model, drawn, out / "molecules.sdf", out / "run", seed=args.seed, sampler=model.sampler, seconds=sampled
    )
    model.modality.draw(drawn.records, out / "molecules.png", columns=10)
    generated, _ = Molecules.read([out / "molecules.sdf"], strict=False, embed=False, fragments="keep")
    table = Molecules.evaluate(generated, training, hydrogens="implicit", seed=args.seed)
    for line in table.lines():
        say(line)
    write_json(out / "metrics.json", table.to_json())
    total = time.monotonic() - begin
    commands = [
        f"gendiff train molecules {examples} --out {out}/mine --hydrogens implicit --preset tiny --previews 0"
        f" --steps {args.steps} --seed {args.seed}",
        f"gendiff sample {out}/mine -n {args.number} -o {out}/mine.sdf --seed {args.seed}",
        f"gendiff evaluate {out}/mine.sdf --reference {examples}",
    ]
    seconds = {"training": trained, "sampling": sampled, "in all": total}
    demo_page(out / "index.html", model.modality, drawn.records, table, seconds, out / "run", commands)
    say(f"trained in {trained:.0f} s, sampled in {sampled:.0f} s, {total:.0f} s in all; look at {out / 'index.html'}")
    return 0
