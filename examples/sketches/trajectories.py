"""Sequences that are no drawings: the path of an arm in space, three coordinates at a time and no pen.

    python examples/sketches/trajectories.py --out trajectories

Makes 2,000 swings of a hanging arm, 32 to 64 samples of (x, y, z) each: a damped pendulum whose plane turns, with a
frequency, a damping and a start of its own. Trains the same model as for sketches on half of them, a minute on a CPU,
draws as many new ones as the other half holds, and compares both with that half: distances of what one can measure of
a swing, and spectra. The second column says what is left between two sets of real ones. `--out` gets the run, the
swings as .npz, and a picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from scipy.stats import wasserstein_distance

from gendiff import load, train
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.modalities.sketches.write import write_sketches

RATE = 16.0
"""Samples a second."""


def swing(rng: np.random.Generator) -> Sketch:
    """One swing of an arm of 1 m, in metres."""
    t = np.arange(rng.integers(32, 65)) / RATE
    frequency, damping, turn = rng.normal(0.5, 0.05), rng.uniform(0.1, 0.4), rng.normal(0, 0.15)
    reach, phase, plane = rng.uniform(0.3, 0.8), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    angle = reach * np.exp(-damping * t) * np.cos(2 * np.pi * frequency * t + phase)
    side = rng.uniform(0, 0.3) * reach * np.exp(-damping * t) * np.sin(2 * np.pi * frequency * t + phase)
    a = plane + 2 * np.pi * turn * t
    x, y = np.sin(angle) * np.cos(a) - side * np.sin(a), np.sin(angle) * np.sin(a) + side * np.cos(a)
    points = np.stack([x, y, np.sqrt(1 - x**2 - y**2)], 1) + rng.normal(0, 0.002, (len(t), 3))
    return Sketch(points, np.arange(len(t)) == len(t) - 1, has_pen=False)


def measures(swings: SketchArrays) -> dict[str, np.ndarray]:
    """What one can measure of each swing."""
    rows: dict[str, list[float]] = {}
    for sketch in swings:
        x = sketch.points - sketch.points.mean(0)
        steps = np.linalg.norm(np.diff(x, axis=0), axis=1)
        spectrum = np.abs(np.fft.rfft(x[:, :2] * np.hanning(len(x))[:, None], 256, axis=0)) ** 2
        half = len(x) // 2
        row = {
            "samples": len(x),
            "reach across, m": float(np.ptp(x[:, :2], axis=0).max()),
            "reach up and down, m": float(np.ptp(x[:, 2])),
            "mean speed, m/s": RATE * float(steps.mean()),
            "frequency, Hz": RATE / 256 * int(spectrum.sum(1).argmax()),
            "second half by first": float(steps[half:].mean() / steps[:half].mean()),
            "jerk, m/s³": RATE**3 * float(np.linalg.norm(np.diff(x, 3, axis=0), axis=1).mean()),
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in rows.items()}


def power(swings: SketchArrays) -> np.ndarray:
    """Mean spectrum of the three coordinates of the first 32 samples, (17, 3)."""
    windows = np.stack([sketch.points[:32] - sketch.points[:32].mean(0) for sketch in swings])
    return (np.abs(np.fft.rfft(windows * np.hanning(32)[:, None], axis=1)) ** 2).mean(0)


def main() -> None:
    """Run the example."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("trajectories"))
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--count", type=int, default=2000, help="swings to make")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    real = SketchArrays.from_sketches([swing(rng) for _ in range(args.count)], dimensions=3)
    training, others = real.select(np.arange(0, args.count, 2)), real.select(np.arange(1, args.count, 2))
    examples, run = args.out / "examples.npz", args.out / "run"
    args.out.mkdir(parents=True, exist_ok=True)
    write_sketches(list(training), examples)
    if not run.exists():
        train("sketches", [examples], run, steps=args.steps, seed=args.seed, preset="tiny", previews=0,
              trainer={"accelerator": "cpu"})  # fmt: skip
    model = load(run)
    new = SketchArrays.from_sketches(model.sample(len(others), seed=args.seed), dimensions=3)
    write_sketches(list(new), args.out / "new.npz")

    print(f"{'Wasserstein distance, standard deviations':>42} {'new':>8} {'real':>8}")
    wanted, floor, found = measures(others), measures(training), measures(new)
    for name, values in wanted.items():
        distances = [wasserstein_distance(values, other[name]) / values.std() for other in (found, floor)]
        print(f"{name:>42} {distances[0]:8.3f} {distances[1]:8.3f}")
    ratio = [float(np.abs(np.log(power(other) / power(others))).mean()) for other in (new, training)]
    print(f"{'mean |log ratio| of the spectra':>42} {ratio[0]:8.3f} {ratio[1]:8.3f}")
    picture(others, new, args.out / "trajectories.png")


def picture(real: SketchArrays, new: SketchArrays, path: Path) -> None:
    """Draw some of both from above, and their spectra."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(13, 5.2), layout="constrained")
    for row, (swings, label) in zip(axes, ((real, "real"), (new, "new")), strict=True):
        for ax, sketch in zip(row[:4], swings, strict=False):
            x = sketch.points - sketch.points.mean(0)
            ax.plot(x[:, 0], x[:, 1], "-", lw=0.8, color="tab:blue")
            ax.scatter(x[:, 0], x[:, 1], s=9, c=x[:, 2], zorder=3)
            ax.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), aspect="equal", title=f"{label}, from above (colour: height)")
    for ax, axis, name in zip(axes[:, 4], (0, 2), ("across", "up and down"), strict=True):
        hertz = RATE * np.arange(17) / 32
        for swings, style in ((real, "k-"), (new, "r--")):
            ax.semilogy(hertz, power(swings)[:, axis], style, label="real" if swings is real else "new")
        ax.set(xlabel="Hz", title=f"mean spectrum, {name}")
        ax.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
