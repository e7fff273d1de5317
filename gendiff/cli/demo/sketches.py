"""`gendiff demo sketches`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gendiff.cli.demo import halves
from gendiff.cli.parsing import say, step_bar
from gendiff.cli.sample import write_samples
from gendiff.files import write_json

DATA = "doodles"

NETWORK, REPRESENTATION, GUIDANCE = "transformer", "absolute", 2.0
"""What learns fastest on these: positions by a transformer, asked for twice as strongly as it has learnt."""

FRAMES = 25
"""States of the reverse process that its film shows."""


def run(out: Path, steps: int, number: int, seed: int) -> None:
    """Train on a random half of the doodles, draw `number`, each class in turn, judge them and write the page."""
    begin = time.monotonic()
    from gendiff.catalog import builtin
    from gendiff.modalities.sketches import draw
    from gendiff.modalities.sketches.modality import Sketches
    from gendiff.report.html import Picture
    from gendiff.report.pages import demo_page
    from gendiff.train import train

    records, _ = Sketches.read([builtin(DATA)])
    training, others = (records.select(half.numpy()) for half in halves(len(records), seed))
    examples, held_out = out / "examples.ndjson", out / "others.ndjson"
    out.mkdir(parents=True, exist_ok=True)
    Sketches.write_examples(training, examples)
    Sketches.write_examples(others, held_out)
    say(f"a random half of {DATA}: {len(training):,} of {len(records):,} sketches, in {examples}; the others beside it")
    model = train(
        "sketches",
        [examples],
        out / "run",
        steps=steps,
        seed=seed,
        preset="tiny",
        network=NETWORK,
        previews=0,
        fitting={"representation": REPRESENTATION},
        trainer={"accelerator": "cpu"},
        say=say,
    )
    trained = time.monotonic() - begin
    adapter: Any = model.modality
    asked: dict[str, Any] = {"class": list(adapter.classes)}
    drawn = model.draw(number, seed=seed, condition=asked, guidance=GUIDANCE, progress=step_bar("sampling"))
    sampled = time.monotonic() - begin - trained
    write_samples(
        model,
        drawn,
        out / "sketches.ndjson",
        out / "run",
        seed=seed,
        sampler=model.sampler,
        seconds=sampled,
        condition=asked,
        guidance=GUIDANCE,
    )
    by_class = sorted(drawn.records, key=lambda sketch: sketch.word)
    columns = -(-number // len(asked["class"]))
    draw.sheet_svg(by_class, out / "sketches.svg", columns=columns, captions=[])
    draw.sheet_png(by_class, out / "sketches.png", columns=columns, captions=[])
    first = drawn.records[: len(asked["class"])]
    frames = model.film(len(first), FRAMES, seed=seed, condition=asked, guidance=GUIDANCE)
    draw.film_gif(frames, out / "reverse.gif")
    draw.pen_gif(first, out / "pen.gif")
    table: Any = Sketches.evaluate(
        Sketches.read([out / "sketches.ndjson"])[0], others, training=training, seed=seed, **model.modality.protocol()
    )
    for line in table.lines():
        say(line)
    write_json(out / "metrics.json", table.to_json())
    total = time.monotonic() - begin
    (real, _), (recognised, _) = table["recognised"].texts()
    commands = [
        f"gendiff train sketches {examples} --out {out}/mine --preset tiny --network {NETWORK}"
        f" --representation {REPRESENTATION} --previews 0 --steps {steps} --seed {seed}",
        f"gendiff sample {out}/mine -n {number} --class {','.join(asked['class'])} --guidance {GUIDANCE:g}"
        f" -o {out}/mine.ndjson --seed {seed}",
        f"gendiff evaluate {out}/mine.ndjson --reference {held_out} --training {examples}",
    ]
    demo_page(
        out / "index.html",
        model.modality,
        drawn.records,
        table,
        {"recognised as what was asked for": f"{recognised} %", "the same of real ones": f"{real} %"},
        {"training": trained, "sampling": sampled, "in all": total},
        out / "run",
        commands,
        [Picture(draw.film_svg(frames), "out of noise"), Picture(draw.pen_svg(first), "by the pen")],
        "real sketches that neither the model nor the classifier has seen",
    )
    say(f"{recognised} % are recognised as what was asked for, of real sketches that nothing was trained on {real} %")
    say(f"trained in {trained:.0f} s, sampled in {sampled:.0f} s, {total:.0f} s in all; look at {out / 'index.html'}")
