"""`gendiff demo molecules`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff.cli.demo import halves
from gendiff.cli.parsing import say, step_bar
from gendiff.cli.sample import write_samples
from gendiff.files import write_json

if TYPE_CHECKING:
    from gendiff.metrics import Table

DATA = "small-molecules"

START = "molecules-qm9-heavy"
"""The model that comes with gendiff and goes on with the examples."""

SAME: dict[str, Any] = {"preset": "small", "network": "transformer", "fitting": {"hydrogens": "implicit"}}
"""Its own options: those of the model that learns from the examples alone."""

ROWS = ("validity", "valid_connected", "novelty", "strain")
"""What is compared of the two."""


def run(out: Path, steps: int, number: int, seed: int) -> None:
    """Adapt a trained model to a random half of the small molecules, draw `number`, judge them and write the page.

    Another model of the same kind learns from the same examples alone, for as many steps: what the start brings.
    """
    begin = time.monotonic()
    from gendiff.catalog import builtin
    from gendiff.modalities.molecules.metrics import Suite
    from gendiff.modalities.molecules.modality import Molecules
    from gendiff.report.html import Facts
    from gendiff.report.pages import demo_page
    from gendiff.train import train

    records, _ = Molecules.read([builtin(DATA)])
    training = records.select(halves(len(records), seed)[0].numpy())
    examples = out / "examples.npz"
    training.save_npz(examples)
    say(f"a random half of {DATA}: {len(training):,} of {len(records):,} molecules, in {examples}")
    suite = Suite(training, hydrogens="implicit", seed=seed)
    common: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "previews": 0,
        "trainer": {"accelerator": "cpu"},
        "say": say,
    }
    learning = time.monotonic()
    model = train("molecules", [examples], out / "run", parent=START, **common)
    trained = time.monotonic() - learning
    drawn = model.draw(number, seed=seed, progress=step_bar("sampling"))
    sampled = time.monotonic() - learning - trained
    write_samples(model, drawn, out / "molecules.sdf", out / "run", seed=seed, sampler=model.sampler, seconds=sampled)
    model.modality.draw(drawn.records, out / "molecules.png", columns=10)
    say(f"the same without {START}, for comparison:")
    scratch = train("molecules", [examples], out / "scratch", **SAME, **common)
    others = scratch.draw(number, seed=seed, sampler=model.sampler, progress=step_bar("sampling"))
    scratch.write(others.records, out / "scratch.sdf")
    table, beside = (
        suite.evaluate(Molecules.read([file], strict=False, embed=False, fragments="keep")[0])
        for file in (out / "molecules.sdf", out / "scratch.sdf")
    )
    for line in table.lines():
        say(line)
    gain = compared({f"from {START}": table, "from scratch": beside})
    say(f"\nWhat {START} brings, after {steps:,} steps of training each:")
    for what, values in gain.items():
        say(f"  {what:<{max(map(len, gain))}}  {values}")
    write_json(out / "metrics.json", table.to_json())
    write_json(out / "scratch.json", beside.to_json())
    total = time.monotonic() - begin
    labels = {"valid_connected": "valid and connected", "novelty": "new, of the valid"}
    shares = {label: f"{table[name].texts()[1][0]} %" for name, label in labels.items() if name in table}
    commands = [
        f"gendiff train molecules {examples} --from {START} --out {out}/mine --previews 0"
        f" --steps {steps} --seed {seed}",
        f"gendiff sample {out}/mine -n {number} -o {out}/mine.sdf --seed {seed}",
        f"gendiff evaluate {out}/mine.sdf --reference {examples}",
    ]
    seconds = {"training": trained, "sampling": sampled, "in all, with the comparison": total}
    demo_page(
        out / "index.html",
        model.modality,
        drawn.records,
        table,
        shares,
        seconds,
        out / "run",
        commands,
        made=f"The model {START}, which comes with gendiff, trained on with a random half of the built-in molecules, "
        "then sampled.",
        more=[Facts(f"What {START} brings, after {steps:,} steps of training each", gain)],
    )
    say(f"trained in {trained:.0f} s, sampled in {sampled:.0f} s, {total:.0f} s in all; look at {out / 'index.html'}")


def compared(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return what tables say of the generated molecules, in one line for each row."""
    first = next(iter(tables.values()))
    return {
        first[name].title: ", ".join(
            " ".join((f"{source}:", *table[name].texts()[1], table[name].unit)) for source, table in tables.items()
        )
        for name in ROWS
        if name in first
    }
