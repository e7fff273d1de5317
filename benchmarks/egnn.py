"""Speed and memory of gendiff's EGNN against EDM's network written plainly, on molecules of QM9's sizes.

    python benchmarks/egnn.py [--data qm9.npz] [--device cuda] [--width 256] [--layers 9] [--batch 64]

Both networks have the same weights, which is checked, and the same threads. The plain one (tests/nn/egnn_oracle.py)
works as EDM does: index lists of all pairs, cached; training batches of random molecules padded to the largest;
sampling padded to 29 atoms. gendiff's batches hold molecules of one size. A pass trains and samples on a few batches,
gendiff's at evenly spaced quantiles of the sizes, and the two take turns so that a busy machine slows both. A training
step is forward, backward and AdamW; a sampling step is one evaluation without gradients. Peak memory is that of one
training step, above network and optimizer, in a process of its own. Sizes are the `num_atoms` (hydrogens included) of
QM9: doi 10.1038/sdata.2014.22, files at https://doi.org/10.6084/m9.figshare.c.978904; any .npz with this array will do.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gendiff.nn.egnn import EGNN

FEATURES = {"charge": 1, "element": 5}
LARGEST = 29
TARGETS = {"training": 3.0, "sampling": 4.0}


def load_plain() -> type[torch.nn.Module]:
    """The plain transcription, from the tests of this checkout."""
    path = Path(__file__).parents[1] / "tests" / "nn" / "egnn_oracle.py"
    spec = importlib.util.spec_from_file_location("egnn_oracle", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"{path}: not found; run this benchmark from a checkout of the repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load_plain()


def read_sizes(path: Path | None) -> tuple[np.ndarray, str]:
    """Number of atoms of every molecule, and a line that says where it comes from."""
    if path is None:
        sizes = np.random.default_rng(0).normal(18.0, 2.95, 100_000).round().clip(3, LARGEST).astype(int)
        return sizes, "no --data: sizes drawn from a normal law with QM9's mean and variance, 18.0 ± 2.95"
    with np.load(path, allow_pickle=False) as archive:
        sizes = archive["num_atoms"].astype(int)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return sizes, f"{path.name}, sha256 {digest}"


def plan(sizes: np.ndarray, batch: int, batches: int) -> dict[str, list[list[int]]]:
    """Sizes of the molecules in every batch of a pass."""
    random = np.random.default_rng(0)
    quantiles = np.quantile(sizes, (np.arange(batches) + 0.5) / batches).round().astype(int)
    return {
        "plain": [random.choice(sizes, batch).tolist() for _ in range(batches)],
        "gendiff": [[int(size)] * batch for size in quantiles],
    }


class Contender:
    """One of the two networks with its optimizer and its way to fill a batch."""

    def __init__(self, name: str, options: argparse.Namespace):
        torch.manual_seed(0)
        plain = oracle.PlainEGNN(sum(FEATURES.values()), width=options.width, layers=options.layers)
        ours = EGNN(FEATURES, width=options.width, layers=options.layers)
        oracle.copy_weights(plain, ours)
        self.name, self.device = name, options.device
        self.network = (plain if name == "plain" else ours).to(options.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-5, fused=True)

    def inputs(self, sizes: list[int], padded: int) -> tuple[torch.Tensor, ...]:
        """Random positions (B, N, 3), scalars (B, N, 6), levels (B, 1), and the mask (B, N) for `sizes`."""
        random = torch.Generator().manual_seed(0)
        mask = torch.arange(padded) < torch.tensor(sizes).unsqueeze(1)
        position, scalars = (2 * torch.randn(*mask.shape, d, generator=random) * mask.unsqueeze(2) for d in (3, 6))
        level = torch.rand(len(sizes), 1, generator=random)
        return tuple(v.to(self.device) for v in (position, scalars, level, mask))

    def evaluate(self, position: torch.Tensor, scalars: torch.Tensor, level: torch.Tensor, mask: torch.Tensor) -> tuple:
        """Displacement and scalars."""
        if self.name == "plain":
            return self.network(position, scalars, level, mask)
        charge, element = scalars.split([1, 5], -1)
        out = self.network({"position": position, "charge": charge, "element": element}, level, None)
        return out["position"], torch.cat((out["charge"], out["element"]), -1)

    def train(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """One optimizer step."""
        displacement, scalars = self.evaluate(*inputs)
        loss = (displacement - inputs[0]).square().mean() + (scalars - inputs[1]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def sample(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """One evaluation without gradients."""
        self.evaluate(*inputs)

    def seconds(self, job: str, batches: list[list[int]], largest: int = LARGEST) -> float:
        """Seconds per molecule of `job` over the batches of a pass; `largest` is what EDM pads to when sampling."""
        spent = 0.0
        for sizes in batches:
            padded = largest if self.name == "plain" and job == "sampling" else max(sizes)
            inputs = self.inputs(sizes, padded)
            spent += clock(lambda i=inputs: (self.train if job == "training" else self.sample)(i), self.device)
        return spent / sum(map(len, batches))

    def flops(self, job: str, batches: list[list[int]], width: int, layers: int) -> float:
        """Floating point operations per molecule in this network's own matrix products; backward counts twice."""
        total = 0.0
        for sizes in batches:
            size = LARGEST if self.name == "plain" and job == "sampling" else max(sizes)
            pair = 2 * (2 * width + 2 + width) * width if self.name == "plain" else 2 * (3 + width) * width
            node = 2 * 3 * width * width + (0 if self.name == "plain" else 2 * 2 * 2 * width * width)
            total += len(sizes) * layers * (2 * size * size * pair + size * node)
        return total * (3 if job == "training" else 1) / sum(map(len, batches))


def clock(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_rate(width: int, rows: int, device: str) -> float:
    """FLOP/s of a (rows, width) by (width, width) product: the best of 20."""
    a, b = torch.randn(rows, width, device=device), torch.randn(width, width, device=device)
    torch.mm(a, b)
    return 2 * rows * width * width / min(clock(lambda: torch.mm(a, b), device) for _ in range(20))


def resident(peak: bool) -> int:
    """Bytes of memory this process holds now, or held at most."""
    status = Path("/proc/self/status")
    if status.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def peak_memory(name: str, sizes: list[int], options: argparse.Namespace) -> int:
    """Bytes one training step needs beyond the network and its optimizer: run in a process of its own on a CPU."""
    contender = Contender(name, options)
    contender.train(contender.inputs([2], 2))
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.train(contender.inputs(sizes, max(sizes)))
        return torch.cuda.max_memory_allocated() - before
    inputs = contender.inputs(sizes, max(sizes))
    before = resident(peak=False)
    contender.train(inputs)
    return resident(peak=True) - before


def ask_child(name: str, sizes: list[int], options: argparse.Namespace) -> int:
    """`peak_memory` in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, "--sizes", json.dumps(sizes)]
    for option in ("width", "layers", "threads", "device"):
        command += [f"--{option}", str(getattr(options, option))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def agreement(options: argparse.Namespace) -> float:
    """Largest difference of the two networks' results on one padded batch, relative to the largest result."""
    plain, ours = Contender("plain", options), Contender("gendiff", options)
    position, scalars, level, mask = plain.inputs([9, 17, 19], 19)
    with torch.no_grad():
        expected = plain.network(position, scalars, level, mask)
        charge, element = scalars.split([1, 5], -1)
        found = ours.network({"position": position, "charge": charge, "element": element}, level, mask)
    found = (found["position"], torch.cat((found["charge"], found["element"]), -1))
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(expected, found, strict=True))


def processor(device: str) -> str:
    """What the numbers were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def spread(values: list[float], scale: float = 1.0) -> str:
    """Median and range."""
    found = (scale * f(values) for f in (statistics.median, min, max))
    return "{} ({}-{})".format(*(f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in found))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("GENDIFF_DATA", os.devnull), "molecules", "qm9.npz")
    parser.add_argument("--data", type=Path, default=default if default.exists() else None, help="qm9.npz")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64, help="molecules in a batch")
    parser.add_argument("--batches", type=int, default=2, help="batches of each kind in a pass")
    parser.add_argument("--repeats", type=int, default=3, help="passes; the table gives median and range")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.data and not options.data.is_file():
        parser.error(f"{options.data}: no such file")
    return options


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure, print the table, and return the median ratios."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(peak_memory(options.memory_of, options.sizes, options))
        return {}
    sizes, source = read_sizes(options.data)
    batches = plan(sizes, options.batch, options.batches)
    print(f"{processor(options.device)}; {options.threads} threads; torch {torch.__version__}; float32")
    print(f"{source}: {len(sizes):,} molecules, mean N {sizes.mean():.2f}, mean N² {(sizes**2.0).mean():.1f}")
    print(f"width {options.width}, layers {options.layers}, batch {options.batch}", end="; ")
    print(f"{options.repeats} passes of {options.batches} batches")
    print(f"plain pads to {[max(b) for b in batches['plain']]}; gendiff's sizes {[b[0] for b in batches['gendiff']]}")
    print(f"same weights, largest relative difference of results {agreement(options):.1e}\n")

    contenders = [Contender(name, options) for name in batches]
    for contender in contenders:  # warm up
        contender.train(contender.inputs([5] * 4, 5))
    times: dict[tuple[str, str], list[float]] = {(job, name): [] for job in TARGETS for name in batches}
    rates = []
    for _ in range(options.repeats):
        rates.append(matmul_rate(options.width, 64 * 18 * 18, options.device))
        for job in TARGETS:
            for contender in contenders:
                times[job, contender.name].append(contender.seconds(job, batches[contender.name]))
    memory = {}
    for name, each in batches.items():
        largest = max(each, key=max)
        measure = peak_memory if options.device == "cuda" else ask_child
        memory[name] = measure(name, largest, options)

    row = "{:34s} {:>22s} {:>22s} {:>20s} {:>8s}".format
    print(row("median (range)", "plain, EDM's batches", "gendiff, one size", "ratio", "target"))
    ratios = {}
    for job, target in TARGETS.items():
        plain, ours = times[job, "plain"], times[job, "gendiff"]
        each = [a / b for a, b in zip(plain, ours, strict=True)]
        ratios[job] = statistics.median(each)
        print(row(f"{job} step, ms per molecule", spread(plain, 1e3), spread(ours, 1e3), spread(each), f"≥ {target:g}"))
    for job in TARGETS:
        speed = {
            c.name: [c.flops(job, batches[c.name], options.width, options.layers) / t for t in times[job, c.name]]
            for c in contenders
        }
        print(row(f"{job} step, GFLOP/s", spread(speed["plain"], 1e-9), spread(speed["gendiff"], 1e-9), "", ""))
    ratios["memory"] = memory["plain"] / max(memory["gendiff"], 1)
    peak = (f"{memory[name] / 2**20:.0f}" for name in ("plain", "gendiff"))
    print(row("peak of a training step, MiB", *peak, f"{ratios['memory']:.3g}", ""))
    print(f"matrix product of the same width in this run: {spread(rates, 1e-9)} GFLOP/s")
    print("FLOP/s count each network's own matrix products, padding included, the backward pass twice.")
    return ratios


if __name__ == "__main__":
    main()
