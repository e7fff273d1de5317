"""`gendiff demo images`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gendiff.cli.demo import halves
from gendiff.cli.parsing import say, step_bar
from gendiff.cli.sample import write_samples
from gendiff.files import write_json

DATA = "digits"

GUIDANCE = 1.25
"""How strongly classes are asked for: a quarter more than the model has learnt. More costs variety."""

FRAMES = 11
"""States of the reverse process that its film shows."""


def run(out: Path, steps: int, number: int, seed: int) -> None:
    """Train on a random half of the digits, draw `number`, each class in turn, judge them and write the page."""
    begin = time.monotonic()
    from gendiff.catalog import builtin
    from gendiff.modalities.images import draw
    from gendiff.modalities.images.modality import Images
    from gendiff.report.html import Picture
    from gendiff.report.pages import demo_page
    from gendiff.train import train

    records, _ = Images.read([builtin(DATA)])
    training, others = (records.select(half.numpy()) for half in halves(len(records), seed))
    examples, held_out = out / "examples.npz", out / "others.npz"
    out.mkdir(parents=True, exist_ok=True)
    Images.write_examples(training, examples)
    Images.write_examples(others, held_out)
    say(f"a random half of {DATA}: {len(training):,} of {len(records):,} images, in {examples}; the others beside it")
    model = train(
        "images",
        [examples],
        out / "run",
        steps=steps,
        seed=seed,
        preset="tiny",
        previews=0,
        trainer={"accelerator": "cpu"},
        say=say,
    )
    trained = time.monotonic() - begin
    asked: dict[str, Any] = {"class": list(model.modality.classes)}
    drawn = model.draw(number, seed=seed, condition=asked, guidance=GUIDANCE, progress=step_bar("sampling"))
    sampled = time.monotonic() - begin - trained
    write_samples(
        model,
        drawn,
        out / "images.npz",
        out / "run",
        seed=seed,
        sampler=model.sampler,
        seconds=sampled,
        condition=asked,
        guidance=GUIDANCE,
    )
    by_class = sorted(drawn.records, key=lambda image: image.word)
    draw.sheet_png(by_class, out / "images.png", columns=-(-number // len(asked["class"])), captions=[], scale=5)
    first = drawn.records[: len(asked["class"])]
    frames = model.film(len(first), FRAMES, seed=seed, condition=asked, guidance=GUIDANCE)
    draw.film_gif(frames, out / "reverse.gif")
    draw.film_strip_png(frames, out / "reverse.png", scale=8)
    table: Any = Images.evaluate(Images.read([out / "images.npz"])[0], others, training=training, seed=seed)
    for line in table.lines():
        say(line)
    write_json(out / "metrics.json", table.to_json())
    total = time.monotonic() - begin
    (real, _), (recognised, _) = table["recognised"].texts()
    commands = [
        f"gendiff train images {examples} --out {out}/mine --preset tiny --previews 0 --steps {steps} --seed {seed}",
        f"gendiff sample {out}/mine -n {number} --class {','.join(asked['class'])} --guidance {GUIDANCE:g}"
        f" -o {out}/mine.npz --film {out}/mine.gif --seed {seed}",
        f"gendiff evaluate {out}/mine.npz --reference {held_out} --training {examples}",
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
        [
            Picture((out / "images.png").read_bytes(), "a class a row", photo=True),
            Picture((out / "reverse.png").read_bytes(), "out of noise", photo=True),
        ],
        "real images that neither the model nor the classifier has seen",
    )
    say(f"{recognised} % are recognised as what was asked for, of real images that nothing was trained on {real} %")
    say(f"trained in {trained:.0f} s, sampled in {sampled:.0f} s, {total:.0f} s in all; look at {out / 'index.html'}")
