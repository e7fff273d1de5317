"""Molecules with the properties one asks for: logP and polar surface area, and a wish of one's own.

    python examples/molecules/properties.py --out properties

Trains on a random half of the built-in molecules with their logP and TPSA (RDKit), asks for the pairs (logP, TPSA) of
molecules of the other half, and compares what was asked with what RDKit says of the molecules that came: the rank
correlation over the valid ones, beside that of molecules for which only the size was chosen as if the pair had been
asked for. Then the same model draws compact and stretched molecules, guided by the gradient of a function of positions
that it has never seen. `--out` gets the run, the molecules as SDF, and two pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from scipy.stats import spearmanr

from gendiff import Gradient, load, train
from gendiff.catalog import builtin
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.properties import column, compute
from gendiff.modalities.molecules.write import is_valid

NAMES = ("logP", "TPSA")


def realised(molecules: list[Any], name: str) -> np.ndarray:
    """What RDKit says of each molecule, NaN for one that is not valid."""
    return np.array([compute(mol, name) if is_valid(mol) else np.nan for mol in molecules])


def rank_correlation(asked: np.ndarray, found: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Spearman's correlation over the valid, with a 95 % bootstrap interval."""
    good = np.flatnonzero(np.isfinite(found))
    if len(good) < 3:
        return np.nan, np.nan, np.nan
    draws = np.random.default_rng(seed).choice(good, (1000, len(good)))
    values = [spearmanr(asked[rows], found[rows]).statistic for rows in draws]
    return spearmanr(asked[good], found[good]).statistic, *np.quantile(values, [0.025, 0.975])


def radius_of_gyration(positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square distance of the heavy atoms from their centre, in Å, (B,)."""
    return (positions.square().sum((1, 2)) / mask.sum(1)).sqrt()


def main() -> None:
    """Run the example."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("properties"))
    p.add_argument("--steps", type=int, default=3800)
    p.add_argument("--samples", type=int, default=400)
    p.add_argument("--sampling-steps", type=int, default=100)
    p.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    records, _ = Molecules.read([builtin("small-molecules")])
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(args.seed)).numpy()
    half = len(order) // 2
    examples, run = args.out / "examples.npz", args.out / "run"
    records.select(np.sort(order[:half])).save_npz(examples)
    if not run.exists():
        train("molecules", [examples], run, steps=args.steps, seed=args.seed, preset="tiny", previews=0,
              conditions=NAMES, fitting={"hydrogens": "implicit"}, trainer={"accelerator": "cpu"})  # fmt: skip
    model = load(run)

    others = records.select(order[half : half + args.samples])
    asked = {name: np.asarray(column(others, name)) for name in NAMES}
    results = {}
    for w in (0.0, *args.guidance):  # at 0 the pair chooses the size alone, by p(N | pair); the network is told nothing
        label = f"guidance {w:g}" if w else "size alone"
        results[label] = model.sample(
            len(others), steps=args.sampling_steps, seed=args.seed, condition=asked, guidance=w
        )
    print(f"{'':>14} {'valid':>7} " + " ".join(f"{'Spearman ' + name:>26}" for name in NAMES))
    found = {}
    for label, molecules in results.items():
        found[label] = {name: realised(molecules, name) for name in NAMES}
        valid = np.isfinite(found[label]["logP"]).mean()
        scores = [rank_correlation(asked[name], found[label][name]) for name in NAMES]
        print(f"{label:>14} {100 * valid:6.1f}% " + " ".join(f"{a:10.3f} [{b:.3f}, {c:.3f}]" for a, b, c in scores))
    best = f"guidance {args.guidance[-1]:g}"
    model.write(results[best], args.out / "asked.sdf")
    scatter(asked, found[best], args.out / "asked.png", best)

    # A wish of one's own: any differentiable function of what is drawn, here of the positions in Å.
    scale = model.modality.position_scale
    print(f"{'asked for, Å':>14} {'valid':>7} {'radius of gyration, Å: median [5 %, 95 %]':>44}")
    for target in (None, 1.3, 1.9):

        def wish(state: dict[str, torch.Tensor], t: torch.Tensor, mask: torch.Tensor, target: Any = target) -> Any:
            """A normal law of the radius of gyration, 0.1 Å wide."""
            return -0.5 * ((radius_of_gyration(scale * state["position"], mask) - target) / 0.1).square()

        guide = None if target is None else (lambda d, wish=wish: Gradient(d, wish, at="data"))
        count = max(10, args.samples // 4)
        molecules = model.sample(count, steps=args.sampling_steps, seed=args.seed, sizes=(6, 7), guide=guide)
        heavy = [mol.GetConformer().GetPositions()[: mol.GetNumHeavyAtoms()] for mol in molecules if is_valid(mol)]
        radii = [float(np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())) for x in heavy]
        low, median, high = np.quantile(radii, [0.05, 0.5, 0.95]) if radii else [np.nan] * 3
        label = "nothing" if target is None else f"{target:g}"
        print(f"{label:>14} {100 * len(heavy) / len(molecules):>6.1f}% {median:>30.2f} [{low:.2f}, {high:.2f}]")


def scatter(asked: dict[str, np.ndarray], found: dict[str, np.ndarray], path: Path, title: str) -> None:
    """Draw asked against realised values."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for ax, (name, unit) in zip(axes, (("logP", ""), ("TPSA", " (Å²)")), strict=True):
        ax.plot(asked[name], found[name], "o", ms=4, alpha=0.5, mew=0)
        ends = [np.nanmin(asked[name]), np.nanmax(asked[name])]
        ax.plot(ends, ends, "k-", lw=0.8)
        rho = rank_correlation(asked[name], found[name])[0]
        ax.set(xlabel=f"{name} asked for{unit}", ylabel=f"{name} of what was drawn{unit}", title=f"Spearman {rho:.2f}")
    figure.suptitle(f"{np.isfinite(found['logP']).sum()} valid of {len(asked['logP'])} molecules, {title}")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
