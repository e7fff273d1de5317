"""`gendiff demo molecules`."""

from __future__ import annotations

import time
from pathlib import Path

from gendiff.cli.demo import halves
from gendiff.cli.parsing import say, step_bar
from gendiff.cli.sample import write_samples
from gendiff.files import write_json

DATA = "small-molecules"


def run(out: Path, steps: int, number: int, seed: int) -> None:
    """Train on a random half of the small molecules, draw `number`, judge them and write the page."""
    begin = time.monotonic()
    from gendiff.data import builtin
    from gendiff.modalities.molecules.modality import Molecules
    from gendiff.report.pages import demo_page
    from gendiff.train import train

    records, _ = Molecules.read([builtin(DATA)])
    training = records.select(halves(len(records), seed)[0].numpy())
    examples = out / "examples.npz"
    training.save_npz(examples)
    say(f"a random half of {DATA}: {len(training):,} of {len(records):,} molecules, in {examples}")
    model = train(
        "molecules",
        [examples],
        out / "run",
        steps=steps,
        seed=seed,
        preset="tiny",
        previews=0,
        fitting={"hydrogens": "implicit"},
        trainer={"accelerator": "cpu"},
        say=say,
    )
    trained = time.monotonic() - begin
    drawn = model.draw(number, seed=seed, progress=step_bar("sampling"))
    sampled = time.monotonic() - begin - trained
    write_samples(model, drawn, out / "molecules.sdf", out / "run", seed=seed, sampler=model.sampler, seconds=sampled)
    model.modality.draw(drawn.records, out / "molecules.png", columns=10)
    generated, _ = Molecules.read([out / "molecules.sdf"], strict=False, embed=False, fragments="keep")
    table = Molecules.evaluate(generated, training, hydrogens="implicit", seed=seed)
    for line in table.lines():
        say(line)
    write_json(out / "metrics.json", table.to_json())
    total = time.monotonic() - begin
    labels = {"valid_connected": "valid and connected", "novelty": "new, of the valid"}
    shares = {label: f"{table[name].texts()[1][0]} %" for name, label in labels.items() if name in table}
    commands = [
        f"gendiff train molecules {examples} --out {out}/mine --hydrogens implicit --preset tiny --previews 0"
        f" --steps {steps} --seed {seed}",
        f"gendiff sample {out}/mine -n {number} -o {out}/mine.sdf --seed {seed}",
        f"gendiff evaluate {out}/mine.sdf --reference {examples}",
    ]
    seconds = {"training": trained, "sampling": sampled, "in all": total}
    demo_page(out / "index.html", model.modality, drawn.records, table, shares, seconds, out / "run", commands)
    say(f"trained in {trained:.0f} s, sampled in {sampled:.0f} s, {total:.0f} s in all; look at {out / 'index.html'}")
