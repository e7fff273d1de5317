"""From a folder of your own SVG drawings to new ones, and to drawings that finish what you begin.

    python examples/sketches/own_drawings.py mine/*.svg --out own
    python examples/sketches/own_drawings.py --out own

Without files it first draws 1,000 kites as a program would save them, one SVG each: a frame, its cross, a tail. Paths
of any kind are read and flattened; one `<path>` is one stroke, in the order of the file. `--out` gets the run, a sheet
of new drawings, and eight ways to go on from the first stroke of the first drawing, which stays as it is.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from gendiff import load, train
from gendiff.modalities.sketches.draw import sheet_svg
from gendiff.modalities.sketches.modality import Sketches


def kite(rng: np.random.Generator) -> str:
    """One SVG: straight lines for frame and cross, Bézier curves for the tail, all a little off."""
    w, h, low = rng.uniform(25, 45), rng.uniform(25, 40), rng.uniform(50, 90)
    top, right, bottom, left = np.array([(0, -h), (w, 0), (0, low), (-w, 0)]) + rng.normal(0, 2.5, (4, 2))

    def text(points: np.ndarray) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in np.atleast_2d(points) + rng.normal(0, 1, (1, 2)))

    paths = [f"M{text(top)} L{text(np.stack([right, bottom, left]))} Z", f"M{text(top)} L{text(bottom)}"]
    paths += [f"M{text(left)} L{text(right)}"]
    ends = np.cumsum([bottom, *rng.normal((0, 22), 5, (rng.integers(2, 4), 2))], 0)
    curves = []
    for a, b in pairwise(ends):
        swing = rng.choice([-1, 1]) * rng.uniform(10, 25)
        curves.append(f"C{text(a * 0.7 + b * 0.3 + [swing, 0])} {text(a * 0.3 + b * 0.7 - [swing, 0])} {text(b)}")
    paths.append(f"M{text(bottom)} " + " ".join(curves))
    body = "".join(f'<path d="{path}"/>' for path in paths)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-100 -100 200 300"><g fill="none">{body}</g></svg>'


def main() -> None:
    """Run the example."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", type=Path, help="SVG files")
    p.add_argument("--out", type=Path, default=Path("own"))
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--count", type=int, default=1000, help="kites to draw, if there are no files")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    files = args.files
    if not files:
        rng = np.random.default_rng(args.seed)
        folder = args.out / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"kite-{index:04d}.svg" for index in range(args.count)]
        for file in files:
            file.write_text(kite(rng))
    run = args.out / "run"
    if not run.exists():
        # Curves come as many points, of which most are not needed to be within 2/255 of the drawing's size.
        train("sketches", files, run, steps=args.steps, seed=args.seed, preset="tiny", previews=0,
              fitting={"simplify": 2.0}, trainer={"accelerator": "cpu"})  # fmt: skip
    model = load(run)
    new = model.sample(40, seed=args.seed)
    sheet_svg(new, args.out / "new.svg", columns=10)

    first, _ = Sketches.read(files[:1])
    finished = model.edit(first, "complete", n=8, keep=[1], seed=args.seed).records
    same = all(np.array_equal(sketch.strokes[0], first[0].strokes[0]) for sketch in finished)
    sheet_svg([first[0], *finished], args.out / "completed.svg", columns=9)
    model.write(finished, args.out / "completed.ndjson")
    points, strokes = (np.median([len(part) for part in parts]) for parts in (new, [sketch.strokes for sketch in new]))
    print(f"{len(new)} new drawings, median {points:g} points in {strokes:g} strokes: {args.out / 'new.svg'}")
    print(f"the first stroke stayed as it was in all {len(finished)}: {same}; {args.out / 'completed.svg'}")


if __name__ == "__main__":
    main()
