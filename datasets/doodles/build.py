"""Build `doodles.ndjson.gz`: drawings of ten things by a hand that is never twice the same.

1. A thing (`things.py`) is a function from random numbers to strokes, lines and curves on a page about one unit wide.
   Each thing has several ways to be drawn, with parts that may be left out, in more than one order.
2. The hand draws them: loops that do not close or go round too far, corners cut short, strokes too long, misplaced or
   drawn backwards, a slow wobble and a fast tremor, and over all a slant, a turn, an aspect and a gentle warp.
3. The drawing is put into the simplified form of QuickDraw: points 1 apart where the larger side is 255,
   Ramer-Douglas-Peucker to within 2, the top left corner at 0, whole numbers.

Drawing i has random numbers of its own, seeded by i, so any part of the file can be built alone. Run
`python datasets/doodles/build.py`: 15 seconds on one core. It prints the checksum of the file it wrote; the same
numpy and zlib write the same bytes.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.random import Generator
from things import THINGS, Stroke

HERE = Path(__file__).resolve().parent
SEED = 11
COUNT = 5000
SIDE = 255
EPSILON = 2.0

# The hand


def resample(stroke: Stroke, spacing: float) -> Stroke:
    """Points at equal distances along a polyline, both ends kept."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    places = np.linspace(0, along[-1], max(2, round(along[-1] / spacing) + 1))
    return np.stack([np.interp(places, along, stroke[:, axis]) for axis in (0, 1)], 1)


def smooth(path: Stroke, width: float) -> Stroke:
    """A running mean with Gaussian weights; the ends stay where they are."""
    reach = int(3 * width)
    if width < 0.3 or len(path) < 4:
        return path
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(path, ((reach, reach), (0, 0)), "reflect", reflect_type="odd")  # mirrored in the ends
    return np.stack([np.convolve(padded[:, axis], kernel / kernel.sum(), "valid") for axis in (0, 1)], 1)


def draw(r: Generator, strokes: list[Stroke]) -> list[Stroke]:
    """Draw the strokes of a thing as a hand does, in units in which it is about 1 wide."""
    care = r.lognormal(0.0, 0.35)  # small: a careful hand
    rounding, wobble, tremor = r.uniform(0.2, 2.5), 0.011 * care, 0.0032 * care
    backwards = r.random() < 0.12
    points = np.concatenate(strokes)
    size = np.ptp(points, 0).max()
    done = []
    for stroke in strokes:
        path = resample(stroke / size, 0.01)
        length = 0.01 * len(path)
        if length < 0.5 and len(done) > 1 and r.random() < 0.03:  # a detail is forgotten
            continue
        centre, turn = path.mean(0), r.normal(0, 0.03 * care)
        cos, sin = np.cos(turn), np.sin(turn)
        path = (path - centre) @ np.array([[cos, sin], [-sin, cos]]) * (1 + r.normal(0, 0.03 * care, 2))
        path += centre + r.normal(0, 0.008 * care, 2)
        path = smooth(path, rounding * min(1.0, 2 * length))
        place = np.linspace(0, 1, len(path))
        for wave in range(1, 5):  # slower waves are larger
            phase = r.uniform(0, 2 * np.pi, 2)
            reach = wobble * min(1.0, length) / wave**0.5
            path += r.normal(0, reach, 2) * np.sin(np.pi * wave * max(1.0, length) * place[:, None] + phase)
        path += smooth(r.normal(0, 1, path.shape), 2.0) * tremor
        if length > 0.15:  # a little too long, at either end
            for end in (0, -1):
                if r.random() < 0.25:
                    step = path[end] - path[4 if end == 0 else -5]
                    more = path[end] + step * r.uniform(0, 0.8)
                    path = np.concatenate([more[None], path]) if end == 0 else np.concatenate([path, more[None]])
        if backwards or r.random() < 0.05:
            path = path[::-1]
        done.append(path)
    points = np.concatenate(done)
    centre = (points.max(0) + points.min(0)) / 2
    turn, slant, aspect = r.normal(0, 0.06), r.normal(0, 0.09), np.exp(r.normal(0, 0.08))
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    whole = turned @ np.array([[aspect, 0], [slant, 1 / aspect]])
    warp, phase = r.normal(0, 0.03, (2, 2)), r.uniform(0, 2 * np.pi, (2, 2))

    def page(path: Stroke) -> Stroke:
        path = (path - centre) @ whole
        return path + sum(warp[k] * np.sin(2.5 * path[:, [k]] + phase[k]) for k in (0, 1))

    return [page(path) for path in done]


# QuickDraw's simplified form


def simplify(path: Stroke, epsilon: float) -> Stroke:
    """Ramer, Douglas and Peucker: the fewest of the points that recursion finds, all others within epsilon of them."""
    keep = np.zeros(len(path), bool)
    keep[[0, -1]] = True
    spans = [(0, len(path) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        chord, inner = path[last] - path[first], path[first + 1 : last] - path[first]
        square = chord @ chord
        part = np.clip(inner @ chord / square, 0, 1) if square > 0 else np.zeros(len(inner))
        distance = np.hypot(*(inner - part[:, None] * chord).T)
        worst = int(distance.argmax())
        if distance[worst] > epsilon:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return path[keep]


def fit(strokes: list[Stroke]) -> list[Stroke]:
    """Move and scale to a box with its top left corner at 0 and a larger side of 255."""
    points = np.concatenate(strokes)
    low = points.min(0)
    return [(stroke - low) * (SIDE / np.ptp(points, 0).max()) for stroke in strokes]


def quickdraw(strokes: list[Stroke]) -> list[list[list[int]]]:
    """Whole coordinates [[x …], [y …]] of each stroke."""
    strokes = fit([simplify(resample(stroke, 1.0), EPSILON) for stroke in fit(strokes)])
    drawing = []
    for path in (np.round(stroke).astype(int) for stroke in strokes):
        new = np.concatenate([[True], (np.diff(path, axis=0) != 0).any(1)])
        drawing.append(path[new].T.tolist())
    return drawing


def doodle(index: int) -> str:
    """One line of the file."""
    word = list(THINGS)[index % len(THINGS)]
    r = np.random.default_rng([SEED, index])
    drawing = quickdraw(draw(r, THINGS[word](r)))
    record = {"word": word, "countrycode": "", "timestamp": "2026-01-01 00:00:00.00000 UTC", "recognized": True}
    return json.dumps(record | {"key_id": f"{index:016d}", "drawing": drawing}, separators=(",", ":"))


def main() -> None:
    """Draw all of them and write the file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "doodles.ndjson.gz", help="file to write")
    parser.add_argument("--count", type=int, default=COUNT, help="drawings, the classes in turn")
    options = parser.parse_args()
    lines = [doodle(index) for index in range(options.count)]
    text = "".join(f"{line}\n" for line in lines)
    data = gzip.compress(text.encode(), 9, mtime=0)
    options.out.write_bytes(data)
    drawings = [json.loads(line)["drawing"] for line in lines]
    points = [sum(len(stroke[0]) for stroke in drawing) for drawing in drawings]
    strokes = collections.Counter(len(drawing) for drawing in drawings)
    spread = ", ".join(f"{value:g}" for value in np.percentile(points, [0, 5, 50, 95, 100]))
    print(f"{len(lines)} drawings; points: {spread} (least, 5 %, median, 95 %, most)")
    print(f"drawings by number of strokes: {dict(sorted(strokes.items()))}")
    print(f"{options.out}: {len(data)} bytes ({len(text)} as text), sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
