"""How good are edits of sketches? A trained model completes, heals, interpolates and traces sketches that it never saw.

    python benchmarks/sketch_edit.py MODEL --data held_out.npz --training train.npz --out RUN
    python benchmarks/sketch_edit.py MODEL --data held_out.npz --training train.npz --out RUN --tasks complete -n 50

Held-out sketches, simplified as the model knows them, are the truth. Recognised is what a classifier says that was
trained on the training file alone (its accuracy on the whole, unmasked sketches is the ceiling); chamfer distances are
between 128 points evenly along the ink, in units of the longer side of the true sketch, in its place.

complete     30 or 50 % of the points, or of the strokes, are hidden. Beside the model stand the context alone, and the
             nearest neighbour: the training sketch whose beginning (32 points along it, moved onto the known ones) is
             nearest to what is known gives the rest. Best of: the nearest of all completions of a sketch to the truth.
             Diversity: the mean distance of its completions from each other.
heal         Normal noise on each coordinate, then back from a strength.
interpolate  Nine steps from a sketch to another of another word. Uneven: the longest step over their mean, 1 for even
             ones. On the way: frames that are recognised as one of both words.
trace        Clouds of points along the ink become strokes again (models of --condition points only).

The class is not told, so what comes of a sketch is the model's reading of it, unless there is --told; nor is its number
of points, unless --lengths true. Every sketch that
is done stays in --out, and a run that was killed goes on with the same command. Intervals are 95 %, by resampling
sketches.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gendiff
from gendiff.catalog import resolve
from gendiff.files import UserError, sha256
from gendiff.metrics import Value, bootstrap, share
from gendiff.modalities.sketches.geometry import boxes
from gendiff.modalities.sketches.metrics import Features, chamfer
from gendiff.modalities.sketches.modality import Sketches
from gendiff.modalities.sketches.points import cloud
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.model import Model

TASKS = ("complete", "heal", "interpolate", "trace")
HIDDEN = (("points", 0.3), ("points", 0.5), ("strokes", 0.3), ("strokes", 0.5))
JITTERS, STRENGTHS = (0.02, 0.05), (0.1, 0.2, 0.3, 0.4)
FRAMES, INK, ALONG = 9, 128, 32

Numbers = dict[str, Any]


def prefix(sketch: Sketch, of: str, hidden: float) -> int:
    """How many points stay if a share of the points or the strokes is hidden; 0 if there is no such part."""
    if of == "points":
        return min(max(round((1 - hidden) * len(sketch)), 2), len(sketch) - 1) if len(sketch) > 2 else 0
    ends = np.flatnonzero(sketch.pen) + 1
    return int(ends[min(max(round((1 - hidden) * len(ends)), 1), len(ends) - 1) - 1]) if len(ends) > 1 else 0


def begun(sketch: Sketch, count: int) -> Sketch:
    """The first points of a sketch."""
    pen = sketch.pen[:count].copy()
    pen[-1] = True
    return Sketch(sketch.points[:count], pen, sketch.word)


class Nearest:
    """Completions by the training sketches."""

    def __init__(self, training: SketchArrays):
        self.training = training

    def __call__(self, known: Sketch, of: str) -> Sketch | None:
        """The known points, then the rest of the training sketch that begins most alike; None if none is longer."""
        training = self.training
        if of == "points":
            ends = np.full(len(training), len(known) - 1)
        else:
            strokes = np.cumsum(training.ends)
            before = strokes[training.first] - training.ends[training.first]
            wanted = before + int(known.pen.sum())
            ends = np.searchsorted(strokes, wanted) - training.first
        rows = np.flatnonzero(ends < training.num_points - 1)
        if not len(rows):
            return None
        there = along(training.points, training.first[rows], ends[rows])
        here = along(known.points, np.zeros(1, int), np.array([len(known) - 1]))[0]
        away = there.mean(1) - here.mean(0)
        best = int(((there - away[:, None] - here) ** 2).sum((1, 2)).argmin())
        other = training[int(rows[best])]
        cut = int(ends[rows[best]]) + 1
        return Sketch(
            np.concatenate([known.points, other.points[cut:] - away[best]]),
            np.concatenate([known.pen[:-1], other.pen[cut - 1 :]]),
            known.word,
        )


def along(points: NDArray[Any], first: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
    """Points at even numbers from the first one of each sketch to number `last` after it, (M, 32, 2)."""
    at = first[:, None] + last[:, None] * np.linspace(0, 1, ALONG)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, first[:, None] + last[:, None])
    return points[low] + (at - low)[..., None] * (points[high] - points[low])


def ink(sketches: list[Sketch]) -> NDArray[Any]:
    """Points evenly along the ink of each sketch, (M, 128, 2), in its place."""
    arrays = SketchArrays.from_sketches(sketches)
    return cloud(arrays, INK) + boxes(arrays)[0][:, None]


def distances(sketches: list[Sketch], truth: Sketch) -> NDArray[Any]:
    """Chamfer distance of each sketch to the truth, in units of its longer side."""
    there = np.repeat(ink([truth]), len(sketches), 0)
    return chamfer(ink(sketches), there) / max(float(np.ptp(truth.points, axis=0).max()), 1e-12)


def spread(sketches: list[Sketch], truth: Sketch) -> float:
    """Mean chamfer distance of sketches from each other, in units of the longer side of the truth."""
    points = ink(sketches)
    a, b = np.triu_indices(len(sketches), 1)
    return float(chamfer(points[a], points[b]).mean() / max(float(np.ptp(truth.points, axis=0).max()), 1e-12))


class Bench:
    """One model, one set of sketches, one file of results."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.model: Model = gendiff.load(options.model)
        adapter: Any = self.model.modality
        if not isinstance(adapter, Sketches) or not adapter.has_pen or adapter.dimensions != 2:
            raise UserError(f"{options.model}: is no model of drawings")
        data, training = ((Sketches.read(resolve(files))[0]) for files in (options.data, options.training))
        random = np.random.default_rng(options.seed)
        known = [not reason for reason in adapter.unknown(data)]
        data = data.select(np.flatnonzero(known))
        data = data.select(random.permutation(len(data)))
        data, self.training = adapter.preprocess(data), adapter.preprocess(training)
        self.features = Features.fit(self.training, steps=options.feature_steps)
        self.words = (data.words != "").any() and bool(self.features.words)
        self.truth = data.select(np.flatnonzero((data.num_points > 3) & (data.num_points <= adapter.sizes.high)))
        some = self.training.select(random.permutation(len(self.training))[: options.neighbours])
        self.nearest = Nearest(some)
        self.done: dict[str, Numbers] = {}
        self.file = options.out / "results.jsonl"
        self._open()

    def _open(self) -> None:
        """Take what an earlier run of the same settings has left."""
        weights = hashlib.sha256()
        for value in self.model.denoiser.state_dict().values():
            weights.update(value.cpu().numpy().tobytes())
        names = ("seed", "copies", "told", "lengths", "steps", "resamples", "neighbours")
        settings = {name: getattr(self.options, name) for name in names}
        files = [sha256(path) for path in [*resolve(self.options.data), *resolve(self.options.training)]]
        settings |= {"model": weights.hexdigest(), "features": self.features.digest(), "files": files}
        self.options.out.mkdir(parents=True, exist_ok=True)
        if self.file.is_file():
            lines = self.file.read_text(encoding="utf-8").splitlines()
            if not lines or json.loads(lines[0]) != settings:
                raise UserError(f"{self.file}: is of a run with other settings; name another --out")
            for line in lines[1:]:
                with contextlib.suppress(ValueError):  # a killed run may have left half a line
                    self.done |= json.loads(line)
        self.file.write_text(
            "".join(json.dumps(line) + "\n" for line in [settings, *({k: v} for k, v in self.done.items())]),
            encoding="utf-8",
        )

    def each(self, name: str, count: int, make: Callable[[int], Numbers | None]) -> list[Numbers]:
        """What `make` says of the first inputs that there is something to say of, made or kept."""
        found: list[Numbers] = []
        for index in range(len(self.truth)):
            if len(found) == count:
                break
            key = f"{name} {index}"
            if key not in self.done:
                self.done[key] = make(index) or {}
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({key: self.done[key]}) + "\n")
            if self.done[key]:
                found.append(self.done[key])
        return found

    def edit(self, sketches: list[Sketch], task: str, number: int, index: int, **more: Any) -> list[Sketch]:
        """What the model makes of sketches, told their word or not."""
        given = [Sketch(s.points, s.pen, s.word if self.options.told else "") for s in sketches]
        steps = {} if self.options.steps is None else {"steps": self.options.steps}
        made = self.model.edit(given, task, number, seed=self.options.seed + index, **steps, **more).records
        return [Sketch(one.points, one.pen, sketches[0].word) for one in made]

    def right(self, sketches: list[Sketch], word: str | None = None) -> list[int]:
        """Whether each sketch is recognised as its word, or as another one."""
        if not self.words:
            return []
        guess = self.features.probabilities(SketchArrays.from_sketches(sketches)).argmax(1)
        return [int(self.features.words[g] == (word or s.word)) for g, s in zip(guess, sketches, strict=True)]

    # The tasks

    def complete(self) -> None:
        """Completion, with the ceiling and the baselines."""
        head = ("hidden", "n", "recognised %", "of ceiling", "context %", "nearest %", "chamfer", "best of",
                "context", "nearest", "diversity")  # fmt: skip
        table(*head)
        for of, hidden in HIDDEN:

            def one(index: int, of: str = of, hidden: float = hidden) -> Numbers | None:
                truth = self.truth[index]
                count = prefix(truth, of, hidden)
                other = self.nearest(begun(truth, count), of) if count else None
                if other is None:
                    return None
                known, copies = begun(truth, count), self.options.copies
                task = "continue" if of == "points" else "complete"
                sizes = (len(truth),) * 2 if self.options.lengths == "true" else (None, None)
                made = self.edit([known], task, copies, index, resamples=self.options.resamples, sizes=sizes)
                every = [*made, truth, known, other]
                return {"right": self.right(every), "chamfer": distances(every, truth).tolist(),
                        "diversity": spread(made, truth) if copies > 1 else 0.0}  # fmt: skip

            rows = self.each(f"complete {of} {hidden}", self.options.number, one)
            k = self.options.copies
            right = np.array([row["right"] for row in rows]) if self.words else np.zeros((len(rows), 0))
            way = np.array([row["chamfer"] for row in rows])
            cells = ["-"] * 4
            if self.words:
                ceiling = right[:, k].mean()
                recognised = share(right[:, :k].sum(1), np.full(len(rows), k))
                part = f"{100 * right[:, :k].mean() / ceiling:.0f} %" if ceiling else "-"
                cells = [percent(recognised), part,
                         percent(share(right[:, k + 1])), percent(share(right[:, k + 2]))]  # fmt: skip
            table(
                f"{100 * hidden:.0f} % of the {of}", str(len(rows)), *cells,
                number(bootstrap(way[:, :k].mean(1))), number(bootstrap(way[:, :k].min(1))),
                number(bootstrap(way[:, k + 1])), number(bootstrap(way[:, k + 2])),
                number(bootstrap([row["diversity"] for row in rows])),
            )  # fmt: skip
            if self.words:
                print(f"{'':<20} unmasked, the ceiling: {percent(share(right[:, k]))} %", flush=True)

    def heal(self) -> None:
        """Healing of jitter."""
        table("jitter, strength", "n", "chamfer before", "after", "recognised before", "after")
        for jitter in JITTERS:
            for strength in STRENGTHS:

                def one(index: int, jitter: float = jitter, strength: float = strength) -> Numbers:
                    truth = self.truth[index]
                    noise = np.random.default_rng([self.options.seed, index]).normal(size=truth.points.shape)
                    rough = truth.points + jitter * np.ptp(truth.points, axis=0).max() * noise
                    before = Sketch(rough, truth.pen, truth.word)
                    pair = [before, *self.edit([before], "heal", 1, index, strength=strength)]
                    return {"right": self.right(pair), "chamfer": distances(pair, truth).tolist()}

                rows = self.each(f"heal {jitter} {strength}", self.options.number, one)
                right, way = (np.array([row[key] for row in rows]) for key in ("right", "chamfer"))
                recognised = [percent(share(right[:, i])) if self.words else "-" for i in range(2)]
                table(f"{jitter:g}, {strength:g}", str(len(rows)), *(number(bootstrap(way[:, i])) for i in range(2)),
                      *recognised)  # fmt: skip

    def interpolate(self) -> None:
        """Ways between sketches."""

        def one(index: int) -> Numbers | None:
            first = self.truth[index]
            later = range(index + 1, len(self.truth))
            second = next((self.truth[i] for i in later if not self.words or self.truth.words[i] != first.word), None)
            if second is None:
                return None
            made = self.edit([first, second], "interpolate", FRAMES, index)
            points = ink(made)
            steps = chamfer(points[1:], points[:-1])
            words = {first.word, second.word}
            between = [max(pair) for pair in zip(*(self.right(made[1:-1], word) for word in words), strict=True)]
            moved = boxes(SketchArrays.from_sketches([first, second]))[0]
            end = Sketch(made[-1].points - moved[0] + moved[1], made[-1].pen)
            return {
                "right": self.right(made[:1], first.word) + self.right(made[-1:], second.word),
                "ends": [float(distances([made[0]], first)[0]), float(distances([end], second)[0])],
                "uneven": float(steps.max() / max(steps.mean(), 1e-12)), "between": between,
            }  # fmt: skip

        rows = self.each("interpolate", self.options.number, one)
        table("", "n", "ends recognised %", "chamfer of ends", "uneven", "on the way %")
        ends, n = np.array([row["ends"] for row in rows]), np.full(len(rows), 2)
        recognised, between = "-", "-"
        if self.words:
            recognised = percent(share([sum(row["right"]) for row in rows], n))
            between = percent(share([sum(row["between"]) for row in rows], np.full(len(rows), FRAMES - 2)))
        table("interpolate", str(len(rows)), recognised, number(bootstrap(ends.mean(1))),
              number(bootstrap([row["uneven"] for row in rows])), between)  # fmt: skip

    def trace(self) -> None:
        """Clouds to strokes."""
        if not self.model.modality.points:  # type: ignore[attr-defined]
            print("trace: this model was not told clouds of points (--condition points)")
            return

        def one(index: int) -> Numbers:
            truth = self.truth[index]
            made = self.edit([truth], "trace", self.options.copies, index)
            return {"right": self.right(made), "chamfer": distances(made, truth).tolist()}

        rows = self.each("trace", self.options.number, one)
        way = np.array([row["chamfer"] for row in rows])
        recognised = "-"
        if self.words:
            recognised = percent(share([sum(row["right"]) for row in rows], np.full(len(rows), self.options.copies)))
        table("", "n", "chamfer", "best of", "recognised %")
        table("trace", str(len(rows)), number(bootstrap(way.mean(1))), number(bootstrap(way.min(1))), recognised)


def table(first: str, *cells: str) -> None:
    """Print a line of a table."""
    print(f"{first:<20}" + "".join(f" {cell:>19}" for cell in cells), flush=True)


def percent(value: Value | None) -> str:
    """A share in percent with its interval."""
    return "-" if value is None else f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"


def number(value: Value | None) -> str:
    """A number with its interval."""
    return "-" if value is None else f"{value.value:.4f} ({value.low:.4f}-{value.high:.4f})"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run or model folder of sketches, or the name of a model that comes with gendiff")
    parser.add_argument("--data", nargs="+", required=True, help="sketches that the model never saw")
    parser.add_argument("--training", nargs="+", required=True, help="sketches that it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder of results; goes on with it")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="what to measure (all)")
    parser.add_argument("-n", "--number", type=int, default=100, help="sketches of each line (100)")
    parser.add_argument("--copies", type=int, default=5, help="completions, or drawings of a cloud, of each (5)")
    parser.add_argument("--told", action="store_true", help="tell the model the class of the input")
    parser.add_argument(
        "--lengths", choices=("drawn", "true"), default="drawn", help="points of a completion: drawn, or as the truth's"
    )
    parser.add_argument("--steps", type=int, default=None, help="steps or levels of each edit (the task's)")
    parser.add_argument("--resamples", type=int, default=24, help="walks of each level (24; see gendiff edit)")
    parser.add_argument("--neighbours", type=int, default=10_000, help="training sketches to complete with (10000)")
    parser.add_argument("--feature-steps", type=int, default=400, help="steps of training of the classifier (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of sketches, the noise and the samples (0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(arguments)
    if min(options.number, options.copies, options.neighbours, options.feature_steps) < 1:
        parser.error("--number, --copies, --neighbours and --feature-steps must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    adapter: Any = bench.model.modality
    told, held_out = "told" if options.told else "not told", bench.features.held_out
    print(f"{options.model}: {type(bench.model.denoiser.network).__name__}, {adapter.representation}, class {told},")
    print(f"lengths {options.lengths}")
    print(f"{len(bench.truth):,} unseen sketches in an order drawn with seed {options.seed}, of which each line takes")
    print(f"{options.number} at most; {options.copies} copies of each")
    right = f", {percent(held_out)} % right on what was held out of the training file" if held_out else ""
    print(f"classifier {bench.features.digest()}{right}")
    print(f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}")
    for task in options.tasks:
        print()
        begin = time.perf_counter()
        getattr(bench, task)()
        print(f"{task}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
