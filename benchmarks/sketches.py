"""gendiff's recipe for sketches beside the setting of ChiroDiff: equal data, parameters, steps and averages.

    python benchmarks/sketches.py --data mnist_strokes.npz --out RUN
    python benchmarks/sketches.py --data mnist_strokes.npz --out RUN --variants pen representation network

The setting of ChiroDiff is its published configuration, written here as a configuration of gendiff: the noise is
predicted, 35 steps of linear betas scaled to that number, a bidirectional GRU of 3 layers of 96 without norms or
residuals, the time as 8 random Fourier features beside its inputs and before its head, positions and offsets as inputs
that complement each other, the pen as a channel of 0 and 1 that is read at 0.8, coordinates ten times the largest
distance from the first point (on average), times k / 35, AdamW with weight decay 0.01, gradients clipped at 0.1,
ancestral sampling of all 35 steps with 0.75 of the noise, lengths drawn from the data. It is given what its code leaves
open: the better of positions and offsets, the best of several learning rates and of the two variances of the reverse
chain (all by the raster Fréchet distance with the first seed), sequences flipped within their lengths, which is faster
than packing them, and the averages of gendiff's recipe in place of its own.

The recipe of gendiff is what its adapter gives, with networks made to have as many parameters. All are trained on the
same sketches, simplified alike, without classes (with --classes gendiff's networks know and are asked for them), and
compared with sketches that nobody was trained on. Feature networks are trained on the training part. Each run keeps its
weights and numbers in --out, and a run that was killed goes on with the same command. Speed is measured in the end, by
turns, so that a busy machine slows all alike.

The data of the published numbers is `mnist_strokes.npz`: MNIST digits as pen strokes by Edwin de Jong (CC BY-SA 3.0,
github.com/edwin-de-jong/mnist-digits-stroke-sequence-data), the training part in its order, as arrays `points` (dx, dy,
end of stroke, end of digit), `offsets` and `labels`. Any file that `gendiff train sketches` reads does too.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from gendiff.config import build, describe
from gendiff.data import Ragged, batch_stream
from gendiff.denoise import Denoiser
from gendiff.files import UserError, atomic_write, read_json, sha256, write_json
from gendiff.modalities.sketches.geometry import boxed, simplify
from gendiff.modalities.sketches.metrics import Features
from gendiff.modalities.sketches.modality import Sketches
from gendiff.modalities.sketches.networks import NETWORKS
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.model import Model
from gendiff.nn.birnn import flip_index
from gendiff.objective import Objective
from gendiff.objective.times import Times
from gendiff.ops import Random, State
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import Ancestral
from gendiff.schedule import Linear
from gendiff.sizes import SizeModel
from gendiff.space import Euclidean
from gendiff.train.optimizer import MuonAdamW

PARAMETERS = 416_859
"""Of the setting of ChiroDiff; the other networks have nearly as many."""

FEW = (4, 6, 8, 12)
"""Numbers of steps at which the default is judged too, besides its own: the fewest that match the baseline count."""

DRAW, TURNS = 256, 5
"""Sketches drawn in one turn, and turns, when speed is measured."""

T = 35


class StackedGRU(nn.Module):
    """The network of the setting: a stacked bidirectional GRU that is told the time by concatenation.

    Arguments:
        differences: Whether `stroke` holds positions, complemented by their differences, and not the reverse.
        width: Features of each direction.
        layers: Layers.
    """

    frequencies: Tensor

    def __init__(self, differences: bool, width: int = 96, layers: int = 3):
        super().__init__()
        self.differences = differences
        self.register_buffer("frequencies", 4 * torch.randn(4))
        inputs = [5 + 8, *[2 * width] * (layers - 1)]
        self.forth = nn.ModuleList(nn.GRU(size, width, batch_first=True) for size in inputs)
        self.back = nn.ModuleList(nn.GRU(size, width, batch_first=True) for size in inputs)
        self.hidden, self.head = nn.Linear(2 * width, width), nn.Linear(width + 8, 3)

    def forward(
        self, x: State, noise_level: Tensor, mask: Tensor | None = None, condition: State | None = None
    ) -> State:
        """Map the fields `stroke` (B, N, 2) and `pen` (B, N, 1), the time (B, fields) and a mask to fields."""
        stroke = x["stroke"]
        other = stroke.diff(dim=1, prepend=torch.zeros_like(stroke[:, :1])) if self.differences else stroke.cumsum(1)
        angle = 2 * math.pi * noise_level[:, :1] * self.frequencies
        told = torch.cat((angle.cos(), angle.sin()), 1)[:, None].expand(-1, stroke.shape[1], -1)
        h = torch.cat((stroke, other, x["pen"], told), 2)
        turned = flip_index(mask, h)
        for forth, back in zip(self.forth, self.back, strict=True):
            reverse = back(h.gather(1, turned.expand_as(h)))[0]
            h = torch.cat((forth(h)[0], reverse.gather(1, turned.expand_as(reverse))), 2)
        out = self.head(torch.cat((self.hidden(h), told), 2))
        out = out if mask is None else out * mask[..., None]
        return {"stroke": out[..., :2], "pen": out[..., 2:]}


class Steps(Times):
    """The times k / T, all as likely."""

    def draw(self, random: Random, process: JointProcess) -> Tensor:  # noqa: D102
        return (random.uniform((len(random.indices),)) * T).ceil() / T


class ChiroDiff(Sketches):
    """The adapter of the setting; sketches begin at the origin, and that point is not a part of the state."""

    @classmethod
    def fit(cls, records: SketchArrays, representation: str = "offset", **options: Any) -> ChiroDiff:  # noqa: D102
        self = super().fit(records, representation=representation, pen="gaussian", **options)
        away = np.linalg.norm(from_first(records), axis=1)
        self.scale = float(np.maximum.reduceat(away, records.first).mean() / 10)
        return self

    def encode(self, records: SketchArrays) -> Ragged:  # noqa: D102
        place = from_first(records) / self.scale
        stroke = np.diff(place, axis=0, prepend=0) if self.representation == "offset" else place
        rest = np.ones(len(place), bool)
        rest[records.first] = False
        fields = {"stroke": torch.from_numpy(stroke[rest]).float(), "pen": torch.from_numpy(records.ends[rest, None])}
        return Ragged(torch.from_numpy(records.num_points - 1), {name: value.float() for name, value in fields.items()})

    def decode(self, state: State, mask: Tensor, condition: State | None = None) -> list[Sketch]:  # noqa: D102
        places = state["stroke"].cumsum(1) if self.representation == "offset" else state["stroke"]
        places = F.pad(self.scale * places, (0, 0, 1, 0)).double().cpu().numpy()
        ends = F.pad(state["pen"][..., 0] > 0.8, (1, 0)).cpu().numpy()
        sizes = (mask.sum(1) + 1).tolist()
        ends[np.arange(len(sizes)), np.array(sizes) - 1] = True
        return [Sketch(place[:n], end[:n]) for n, place, end in zip(sizes, places, ends, strict=True)]

    def draw_sizes(self, random: Random, *bounds: Any) -> Tensor:  # noqa: D102
        return SizeModel(self.lengths[""]).sample(random) - 1

    def process(self) -> JointProcess:  # noqa: D102
        schedule = {"steps": T, "start": 1e-4 * 1000 / T, "end": 0.02 * 1000 / T}
        fields = {"stroke": 2, "pen": 1}
        return JointProcess({n: GaussianProcess(Linear(**schedule), Euclidean(k)) for n, k in fields.items()}, "stroke")

    def denoiser(self, preset: str = "small", network: str | None = None) -> Denoiser:  # noqa: D102
        net = StackedGRU(self.representation == "absolute")
        return Denoiser(net, self.process(), "noise", noise_level="time")

    def objective(self) -> Objective:  # noqa: D102
        return Objective("network", {"stroke": 2 / 3, "pen": 1 / 3}, times=Steps())


def from_first(records: SketchArrays) -> np.ndarray:
    """Return all points, (P, 2), from the first of their sketch."""
    return records.points - records.points[records.first][records.sketch_of_point]


def matched(adapter: Sketches, kind: str) -> nn.Module:
    """Return the network of a kind with nearly the parameters of the setting: of another width, or more layers too."""
    described = describe(adapter.network("tiny", kind))

    def excess(shape: dict[str, int]) -> float:
        try:
            with torch.device("meta"):
                return abs(count(build({**described, **shape})) / PARAMETERS - 1)
        except UserError:  # heads that do not divide the width, or a network without heads
            return math.inf

    plain = count(build(described))
    for more, heads in itertools.product(range(4), ({}, {"heads": 3})):
        layers = described["layers"] + more
        middle = described["width"] * math.sqrt(PARAMETERS / plain * described["layers"] / layers)
        widths = range(2 * round(0.4 * middle), 2 * round(0.6 * middle), 2)
        shapes = [{"width": width, "layers": layers, **heads} for width in widths]
        best = min(shapes, key=excess)
        if excess(best) < 0.02:
            return build({**described, **best})
    raise UserError(f"no {kind} has {PARAMETERS:,} parameters within 2 %")


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"pen={pen}": {"pen": pen} for pen in ("logits", "gaussian", "categorical")},
    **{f"representation={kind}": {"representation": kind} for kind in ("offset", "absolute", "both")},
    **{f"network={kind}": {"network": kind} for kind in NETWORKS},
}
"""What each variant changes of the default of `Sketches`."""

GROUPS = {
    group: [name for name in VARIANTS if name.startswith(f"{group}=")] for group in ("pen", "representation", "network")
}


class Job:
    """One training: a variant, or the setting of ChiroDiff with a representation and a rate, and a seed."""

    def __init__(self, name: str, seed: int, training: SketchArrays, options: argparse.Namespace):
        self.name, self.seed, self.options = name, seed, options
        torch.manual_seed(seed)
        self.rate, self.clip = 5e-3, 1.0
        if name.startswith("chirodiff"):
            _, representation, rate = name.split(" ")
            self.adapter: Sketches = ChiroDiff.fit(training, representation)
            self.rate, self.clip = float(rate), 0.1
            self.denoiser = self.adapter.denoiser()
        else:
            changes = dict(VARIANTS[name])
            network = changes.pop("network", NETWORKS[0])
            self.adapter = Sketches.fit(training, **changes)
            self.denoiser = self.adapter.denoiser("tiny")
            self.denoiser.network = matched(self.adapter, network)
        self.denoiser.to(options.device)
        stem = f"{name.replace(' ', '-')}-seed{seed}"
        self.facts, self.weights = options.out / f"{stem}.json", options.out / f"{stem}.safetensors"

    @property
    def baseline(self) -> bool:
        """Whether this is the setting of ChiroDiff."""
        return isinstance(self.adapter, ChiroDiff)

    def train(self, training: SketchArrays) -> float:
        """Train; put the averaged weights in place and return the median of the milliseconds of a step."""
        data, objective = self.adapter.encode(training), self.adapter.objective()
        learned: Any = self.denoiser.parameters()
        make = torch.optim.AdamW if self.baseline else MuonAdamW
        optimizer = make(learned, lr=self.rate, weight_decay=0.01, fused=True)
        average = copy.deepcopy(self.denoiser).requires_grad_(False)
        stream, times, steps = batch_stream(data.sizes, self.options.batch, self.seed), [], self.options.steps
        for k in range(steps):
            begin = self._now()
            for group in optimizer.param_groups:
                warm, fall = min(1, (k + 1) / 100), 0.5 * (1 + math.cos(math.pi * k / steps))
                epoch = k * self.options.batch // len(data)
                group["lr"] = self.rate * (0.9995**epoch if self.baseline else warm * fall)
            batch = data.batch(next(stream)).to(self.options.device)
            random = Random(self.seed * 1_000_003 + k, batch.index, batch.index.device)
            state = self.adapter.augmented(batch.state, batch.mask, Random(~random.seed, batch.index))
            losses, _ = objective(self.denoiser, state, batch.mask, batch.condition or None, random)
            losses.mean().backward()
            nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.clip)
            optimizer.step()
            optimizer.zero_grad()
            weight = 1 - min(0.999, (1 + k) / (10 + k))
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in self.denoiser.parameters()], weight)
            times.append(self._now() - begin)
        self.denoiser = average
        return float(np.median(times)) * 1e3

    def samplers(self) -> Iterator[tuple[str, Any]]:
        """Yield the ways in which this is judged, its own first."""
        if self.baseline:
            for variance in ("small", "large"):
                yield variance, Ancestral(T, variance=variance, temperature=0.75)
            return
        model = Model(self.adapter, self.denoiser)
        yield f"{model.sampler.steps} steps", model.sampler
        for steps in FEW if self.name == "default" else ():
            yield f"{steps} steps", model.tuned(steps)

    def draw(self, number: int, sampler: Any, seed: int) -> list[Sketch]:
        """Draw sketches."""
        return Model(self.adapter, self.denoiser, sampler).sample(number, seed=seed)

    def result(self, training: SketchArrays, reference: SketchArrays, features: Features) -> dict[str, Any]:
        """Return the numbers of this job: those that are kept, or new ones."""
        facts, space = self._kept(), features.digest()
        if not facts:
            facts = {"settings": settings(self.options), "ms a step": self.train(training)}
            facts["parameters"] = count(self.denoiser)
            with atomic_write(self.weights, "wb") as file:
                file.write(save(self.denoiser.state_dict()))
            write_json(self.facts, facts)
        else:
            self.denoiser.load_state_dict(load_file(self.weights))
        if facts.get("space") != space:
            facts |= {"space": space, "judged": {}}
            for way, sampler in self.samplers():
                drawn = SketchArrays.from_sketches(self.draw(self.options.samples, sampler, self.seed))
                facts["judged"][way] = judge(drawn, reference, features)
            write_json(self.facts, facts)
        judged = facts["judged"]
        facts["own"] = min(judged, key=lambda way: judged[way]["raster"]) if self.baseline else next(iter(judged))
        own = judged[facts["own"]]
        print(f"{self.name}, seed {self.seed}: raster {own['raster']:.2f}, sequence {own['sequence']:.2f}", flush=True)
        return facts

    def _kept(self) -> dict[str, Any]:
        if not self.facts.is_file():
            return {}
        facts = read_json(self.facts)
        if facts["settings"] != settings(self.options):
            raise UserError(f"{self.facts}: is of a run with other settings; name another --out")
        return facts

    def _now(self) -> float:
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, sampler: Any) -> float:
        """Return the seconds that a turn of drawing takes."""
        begin = self._now()
        self.draw(DRAW, sampler, 0)
        return self._now() - begin


def judge(drawn: SketchArrays, reference: SketchArrays, features: Features) -> dict[str, Any]:
    """Return how far a set is from the reference, and how often it is what was asked for."""
    accuracy = features.accuracy(drawn) if features.words and (drawn.words != "").any() else None
    return {
        "raster": features.raster_frechet(drawn, reference),
        "sequence": features.sequence_frechet(drawn, reference),
        "strokes": features.stroke_statistics(drawn, reference),
        "accuracy": None if accuracy is None else accuracy.value,
    }


def unseen(named: SketchArrays, features: Features, number: int) -> SketchArrays:
    """Return sketches, at most so many, that the networks were not trained on, of those that they were fitted to."""
    rows = np.setdiff1d(np.arange(len(named)), features.trained_on)
    return named.select(np.random.default_rng(0).permutation(rows)[:number])


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What numbers that are compared must share."""
    names = ("digest", "simplify", "steps", "batch", "samples", "classes", "device")
    return {name: getattr(options, name) for name in names}


def speeds(jobs: dict[str, tuple[Job, list[str]]]) -> dict[tuple[str, str], float]:
    """Return sketches per second of every job in some of its ways to sample, measured by turns."""
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(TURNS + 1):
        for name, (job, ways) in jobs.items():
            for way, sampler in job.samplers():
                if way in ways:
                    took = job.seconds(sampler)
                    if turn:  # the first warms up
                        found.setdefault((name, way), []).append(DRAW / took)
    return {key: float(np.median(values)) for key, values in found.items()}


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and range."""
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def plain(values: list[Any], scale: float = 1.0) -> str:
    """Mean, or a dash where one is missing."""
    return "-" if None in values else f"{scale * np.mean(values):.3f}"


def mean(found: list[dict[str, Any]], key: str, way: str | None = None) -> float:
    """Mean over the seeds of a distance, with the own way to sample by default."""
    return float(np.mean([facts["judged"][way or facts["own"]][key] for facts in found]))


def machine(device: str) -> str:
    """What the numbers were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("GENDIFF_DATA", ".")) / "sketches" / "mnist_strokes.npz"
    parser.add_argument("--data", type=Path, default=data, help="file of sketches ($GENDIFF_DATA's MNIST strokes)")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and numbers; goes on with it")
    choices = ["chirodiff", *VARIANTS, *GROUPS]
    parser.add_argument(
        "--variants", nargs="+", choices=choices, default=["chirodiff", "default"], metavar="NAME",
        help=f"what to run (chirodiff default), of {', '.join(choices)}",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=3000, help="training steps (3000)")
    parser.add_argument("--batch", type=int, default=64, help="sketches in a batch (64)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training and samples (0 1 2)")
    parser.add_argument("--samples", type=int, default=5000, help="sketches drawn, and held out to compare (5000)")
    parser.add_argument(
        "--rates", nargs="+", default=["5e-4", "1e-3", "2e-3", "4e-3"],
        help="learning rates of which chirodiff gets the best (5e-4 1e-3 2e-3 4e-3)",
    )  # fmt: skip
    parser.add_argument("--classes", action="store_true", help="teach gendiff's networks the classes and ask for them")
    parser.add_argument("--simplify", type=float, default=8.0, help="tolerance of the simplification (8; a box is 255)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(arguments)
    if not options.data.is_file():
        parser.error(f"{options.data}: no such file")
    if min(options.steps, options.batch) < 1 or options.samples < 2:
        parser.error("--steps and --batch must be at least 1, --samples at least 2")
    options.variants = [name for given in options.variants for name in GROUPS.get(given, [given])]
    options.digest = sha256(options.data)
    return options


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Train what is missing, print the tables, and return the numbers of each variant, one entry a seed."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    records, _ = Sketches.read([options.data])
    if len(records) < 2 * options.samples:
        raise UserError(f"{options.data}: {len(records)} sketches are too few to hold out {options.samples}")
    ready = simplify(boxed(records) if Sketches.fit(records).boxed else records, options.simplify)
    ready = ready.select(ready.num_points > 1)
    named, reference = ready.select(np.arange(len(ready) - options.samples)), ready.select(
        np.arange(len(ready) - options.samples, len(ready))
    )  # fmt: skip
    nameless = SketchArrays(named.num_points, named.points, named.pen)
    print(f"{machine(options.device)}; {options.threads} thread(s); torch {torch.__version__}; float32")
    print(f"{options.data.name}, sha256 {options.digest}: {len(named):,} sketches to train, {len(reference):,} held")
    print(f"out, simplified by {options.simplify:g} of 255: {ready.num_points.mean():.1f} points on average")
    print(f"{options.steps:,} steps of {options.batch}, seeds {options.seeds}, {options.samples:,} sketches drawn each")
    features = Features.fit(named, seed=0)
    floor = judge(unseen(named, features, options.samples), reference, features)
    print(f"feature networks {features.digest()}; held-out accuracy {features.held_out}\n", flush=True)

    found: dict[str, list[dict[str, Any]]] = {}
    jobs: dict[str, tuple[Job, list[str]]] = {}
    for name in dict.fromkeys(options.variants):
        full = name
        if name == "chirodiff":
            tried = [f"chirodiff {kind} {rate}" for kind in ("offset", "absolute") for rate in options.rates]
            judged = {}
            for one in tried:
                facts = Job(one, options.seeds[0], nameless, options).result(nameless, reference, features)
                judged[one] = facts["judged"][facts["own"]]["raster"]
            full = min(judged, key=judged.__getitem__)
        training = named if options.classes and name != "chirodiff" else nameless
        every = [Job(full, seed, training, options) for seed in options.seeds]
        found[full] = [job.result(training, reference, features) for job in every]
        for facts in found[full]:
            facts["own"] = found[full][0]["own"]
        jobs[full] = every[0], [found[full][0]["own"], *(f"{k} steps" for k in FEW if name == "default")]
    rates = speeds(jobs)

    row = "{:<28} {:>11} {:>8} {:>10} {:>22} {:>22} {:>10} {:>10}".format
    heads = ("parameters", "ms/step", "sampler", "raster Fréchet", "sequence Fréchet", "class %", "sketches/s")
    print("\n" + row("", *heads))
    values = [f"{floor['raster']:.2f}", f"{floor['sequence']:.2f}", plain([floor["accuracy"]], 100)]
    print(row("real, not drawn", "", "", "", *values, ""))
    for name, each in found.items():
        for way in jobs[name][1]:
            values = {key: spread([facts["judged"][way][key] for facts in each]) for key in ("raster", "sequence")}
            shown = [f"{each[0]['parameters']:,}", f"{np.mean([facts['ms a step'] for facts in each]):.1f}"]
            right = plain([facts["judged"][way]["accuracy"] for facts in each], 100)
            print(row(name, *shown, way, values["raster"], values["sequence"], right, f"{rates[name, way]:.1f}"))
    print("\nWasserstein distances of strokes, in standard deviations of the real ones")
    names = list(floor["strokes"])
    row = ("{:<28}" + " {:>13}" * len(names)).format
    print(row("", *names))
    print(row("real, not drawn", *(plain([floor["strokes"][key]]) for key in names)))
    for name, each in found.items():
        strokes = [facts["judged"][facts["own"]]["strokes"] for facts in each]
        print(row(name, *(plain([part[key] for part in strokes]) for key in names)))
    baseline = next((name for name in found if name.startswith("chirodiff")), None)
    if baseline and "default" in found:
        compare(found, rates, baseline)
    return found


def compare(found: dict[str, list[dict[str, Any]]], rates: dict[tuple[str, str], float], baseline: str) -> None:
    """Print the ratios that are the goal."""
    ours, theirs = found["default"], found[baseline]
    print(f"\ndefault to {baseline}:")
    for key in ("raster", "sequence"):
        ratio = mean(ours, key) / mean(theirs, key)
        print(f"  {key} Fréchet distance {ratio:.3f} x (goal: at most 0.7)")
    base = rates[baseline, theirs[0]["own"]]
    print(f"  sketches per second, each with its own sampler: {rates['default', ours[0]['own']] / base:.2f} x")
    ways = [f"{steps} steps" for steps in sorted({*FEW, int(ours[0]["own"].split()[0])})]
    enough = next((way for way in ways if mean(ours, "raster", way) <= mean(theirs, "raster")), None)
    if enough is None:
        print("  its quality is not reached")
    else:
        print(
            f"  sketches per second at its quality: {rates['default', enough] / base:.2f} x, {enough} (goal: 3 or more)"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
