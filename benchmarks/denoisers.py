"""Which network learns most in a given time? The networks of the molecule modality at equal training time.

    python benchmarks/denoisers.py --minutes 5 --seeds 0 1 [--preset tiny] [--data FILE] [--device cuda]

Every network trains on the same random half of the molecules (the built-in ones by default), with the objective,
optimizer, rate and batches of `gendiff train`, until it has had its minutes; a network that needs less for a step does
more of them. Networks take turns of ten steps, and turns of drawing molecules, so that a busy machine slows all alike,
and only their own turns count. All molecules drawn are counted; nothing is repaired. The table gives median
and 10th to 90th percentile of the milliseconds of a step, milliseconds of a molecule drawn with the default sampler
(bonds included), and, pooled over the seeds, validity and the median MMFF94s strain of the valid ones with 95 %
bootstrap intervals.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gendiff.catalog import builtin
from gendiff.data import batch_stream
from gendiff.metrics import Value, bootstrap, share
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.networks import NETWORKS
from gendiff.modality import PRESETS
from gendiff.model import Model
from gendiff.ops import Random
from gendiff.train.optimizer import MuonAdamW

TURN, DRAW = 10, 50
"""Training steps, and molecules drawn, in one turn."""


class Contender:
    """One network in training: its own optimizer, averages and clock."""

    def __init__(self, name: str, adapter: Molecules, data: Any, seed: int, options: argparse.Namespace):
        torch.manual_seed(seed)
        self.name, self.adapter, self.data, self.seed, self.options = name, adapter, data, seed, options
        self.denoiser = adapter.denoiser(options.preset, name).to(options.device)
        self.objective = adapter.objective()
        self.optimizer = MuonAdamW(self.denoiser.parameters(), lr=options.rate)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.stream, self.steps, self.turns = batch_stream(data.sizes, options.batch, seed), 0, list[float]()
        self.drawn, self.drawing = [], list[float]()

    @property
    def progress(self) -> float:
        """The share of the time that is spent."""
        return sum(self.turns) / (60 * self.options.minutes)

    def train(self) -> None:
        """Take a turn: `TURN` steps, as `gendiff train` takes them."""
        begin, before = self._now(), self.progress
        for _ in range(TURN):
            rate = self.options.rate * min(1, (self.steps + 1) / 100) * 0.5 * (1 + math.cos(math.pi * min(1, before)))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = self.data.batch(next(self.stream)).to(self.options.device)
            random = Random(self.seed * 1_000_003 + self.steps, batch.index, batch.index.device)
            losses, _ = self.objective(self.denoiser, batch.state, batch.mask, None, random)
            losses.mean().backward()
            nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            decay = min(0.999, (1 + self.steps) / (10 + self.steps))
            learned = [p.detach() for p in self.denoiser.parameters()]
            torch._foreach_lerp_(list(self.average.parameters()), learned, 1 - decay)
            self.steps += 1
        self.turns.append(self._now() - begin)

    def draw(self) -> None:
        """Take a turn: draw `DRAW` molecules, or what is missing."""
        number = min(DRAW, self.options.samples - len(self.drawn))
        model, begin = Model(self.adapter, self.average), self._now()
        self.drawn += model.sample(number, seed=self.seed * 1_000_003 + len(self.drawn))
        self.drawing.append((self._now() - begin) / number)

    def _now(self) -> float:
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def compete(records: Any, seed: int, options: argparse.Namespace) -> list[Contender]:
    """Train all networks on one half of the molecules and draw from each."""
    chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[: len(records) // 2]
    training = records.select(chosen.sort().values.numpy())
    adapter = Molecules.fit(training)
    data = adapter.encode(training)
    contenders = [Contender(name, adapter, data, seed, options) for name in options.networks]
    for contender in contenders:  # warm up on a copy, whose time is nobody's
        Contender(contender.name, adapter, data, seed, options).train()
    while (last := min(contenders, key=lambda c: c.progress)).progress < 1:
        last.train()
    while (fewest := min(contenders, key=lambda c: len(c.drawn))) and len(fewest.drawn) < options.samples:
        fewest.draw()
    return contenders


def machine(device: str) -> str:
    """What the numbers were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def interval(value: Value | None, scale: float = 1.0) -> str:
    """A number with its interval."""
    return (
        "-"
        if value is None
        else "{:.1f} ({:.1f}-{:.1f})".format(*(scale * v for v in (value.value, value.low, value.high)))
    )


def middle(values: list[float], scale: float) -> str:
    """Median, 10th and 90th percentile."""
    return "{:.1f} ({:.1f}-{:.1f})".format(*(scale * np.quantile(values, (0.5, 0.1, 0.9))))


def summary(contenders: list[Contender]) -> dict[str, Any]:
    """The figures of one network over all seeds; texts for the table and the numbers that ratios need."""
    steps = [turn / TURN for c in contenders for turn in c.turns]
    draws = [each for c in contenders for each in c.drawing]
    mols = [mol for c in contenders for mol in c.drawn]
    verdicts = metrics.judge(mols)
    strains = [metrics.strain_energy(m)[0] for m, v in zip(mols, verdicts, strict=True) if v["valid"]]
    strains = [energy for energy in strains if not math.isnan(energy)]
    strain = bootstrap(strains, np.median)
    each = {
        "ms a step": float(np.median(steps)) * 1e3,
        "ms a molecule": float(np.median(draws)) * 1e3,
        "strain": strain.value if strain else math.nan,
    }
    columns = (
        f"{sum(p.numel() for p in contenders[0].denoiser.network.parameters()):,}",
        f"{np.mean([c.steps for c in contenders]):,.0f}",
        middle(steps, 1e3),
        middle(draws, 1e3),
        interval(share([v["valid"] for v in verdicts]), 100),
        interval(share([v["valid"] and v["connected"] for v in verdicts]), 100),
        interval(strain),
    )
    return {"columns": columns, **each}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="file of molecules (the built-in small molecules)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="what competes (all)")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="size of each network (tiny)")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each network and seed (4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of half, training and samples (0)")
    parser.add_argument("--samples", type=int, default=400, help="molecules drawn for each network and seed (400)")
    parser.add_argument("--batch", type=int, default=64, help="molecules in a batch (64)")
    parser.add_argument("--rate", type=float, default=5e-3, help="peak learning rate (5e-3)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(arguments)
    if options.data and not options.data.is_file():
        parser.error(f"{options.data}: no such file")
    if options.minutes <= 0 or options.samples < 1:
        parser.error("--minutes and --samples must be positive")
    return options


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Measure, print the table, and return each network's numbers."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    path = options.data or builtin("small-molecules")
    records, _ = Molecules.read([path])
    adapter = Molecules.fit(records)
    real = adapter.redraw(records.select(np.linspace(0, len(records) - 1, min(len(records), 300)).astype(int)))
    own = np.nanmedian([metrics.strain_energy(mol)[0] for mol in real])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{machine(options.device)}; {options.threads} thread(s); torch {torch.__version__}; float32")
    print(f"{path.name}, sha256 {digest}: {len(records):,} molecules, hydrogens {adapter.hydrogens}")
    print(
        f"preset {options.preset}, {options.minutes:g} minutes each, seeds {options.seeds}, batches of {options.batch};"
    )
    print(f"{options.samples} molecules each; median strain of the set {own:.1f} kcal/mol\n")
    runs = [compete(records, seed, options) for seed in options.seeds]
    found = {c[0].name: summary(list(c)) for c in zip(*runs, strict=True)}

    row = "{:<12} {:>10} {:>7} {:>19} {:>19} {:>18} {:>22} {:>18}".format
    print(
        row(
            "network", "parameters", "steps", "ms a step", "ms a molecule", "valid %", "valid and connected %", "strain"
        )
    )
    for name, facts in found.items():
        print(row(name, *facts["columns"]))
    first = next(iter(found))
    for name, facts in found.items():
        if name != first:
            ratios = (f"{key} {facts[key] / found[first][key]:.2f}" for key in ("ms a step", "ms a molecule", "strain"))
            print(f"{name}: ratio to {first}: {', '.join(ratios)}")
    return found


if __name__ == "__main__":
    main()
