"""What each part of the default recipe for molecules brings: training from scratch with one part changed at a time.

    python benchmarks/recipe.py --steps 4500 --seeds 0 1 --variants default adamw distances uniform-times

Every run trains on a random half of the built-in molecules for the same number of steps, draws the same number of
molecules and counts all of them; nothing is repaired. The table gives, for each variant, the mean over the
seeds and the range: validity, the median MMFF94s strain beside that of the set, and milliseconds per step.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from gendiff.catalog import builtin
from gendiff.data import batch_stream
from gendiff.denoise import Denoiser
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.model import Model
from gendiff.nn.egnn import EGNN
from gendiff.objective import Objective, Power
from gendiff.ops import Random
from gendiff.train.optimizer import MuonAdamW

NETWORK: dict[str, Any] = {"width": 64, "layers": 3, "distance_features": 32, "vector_channels": 8}


def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """AdamW at the rate that served it best, 2e-3."""
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, fused=True)


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "adamw": {"optimizer": adamw},
    "distances": {"network": {"vector_channels": 0}},
    "squared-distances": {"network": {"vector_channels": 0, "distance_features": 0}},
    "two-layers": {"network": {"layers": 2}},
    "five-layers": {"network": {"layers": 5}},
    "uniform-times": {"power": 1.0},
    "quadratic-times": {"power": 2.0},
    "karras": {"row": "karras"},
    "flow": {"row": "flow"},
}
"""What each variant changes; the rest is the default of `Molecules` for the preset "tiny"."""


def halves(seed: int) -> MoleculeArrays:
    """A random half of the built-in molecules."""
    records, _ = Molecules.read([builtin("small-molecules")])
    chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[: len(records) // 2]
    return records.select(chosen.sort().values.numpy())


def train(variant: dict[str, Any], training: MoleculeArrays, steps: int, seed: int) -> tuple[Model, float]:
    """Train as `gendiff train` does, without its checkpoints; return the model and milliseconds per step."""
    adapter = Molecules.fit(training, hydrogens="implicit")
    data = adapter.encode(training)
    torch.manual_seed(seed)
    network = EGNN(
        {"element": len(adapter.elements)},
        levels=2,
        normalization=8.0,
        distance_range=4.0,
        **{**NETWORK, **variant.get("network", {})},
    )
    rows = {"position": variant.get("row", "residual"), "element": "logits"}
    denoiser = Denoiser(network, adapter.process(), rows, {"element": adapter.element_scale})
    weighting = "velocity" if rows["position"] == "residual" else {"position": "network", "element": "network"}
    objective = Objective(weighting, {"element": 0.5}, times=Power(variant.get("power", 1.5)), max_weight=2500.0)
    make: Callable[..., torch.optim.Optimizer] = variant.get("optimizer", MuonAdamW)
    optimizer = make(denoiser.parameters(), lr=5e-3)
    peak = optimizer.param_groups[0]["lr"]
    average: nn.Module = copy.deepcopy(denoiser).requires_grad_(False)
    stream, begin = batch_stream(data.sizes, 64, seed), time.perf_counter()
    for k in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (k + 1) / 100) * 0.5 * (1 + math.cos(math.pi * k / steps))
        batch = data.batch(next(stream))
        losses, _ = objective(denoiser, batch.state, batch.mask, None, Random(seed * 1_000_003 + k, batch.index))
        losses.mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate = 1 - min(0.999, (1 + k) / (10 + k))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in denoiser.parameters()], rate)
    each = (time.perf_counter() - begin) / steps * 1e3
    return Model(adapter, average), each


def judge(model: Model, number: int, seed: int) -> tuple[float, float]:
    """The share of valid and connected samples, and the median strain of the valid ones."""
    mols = model.sample(number, seed=seed)
    verdicts = metrics.judge(mols)
    good = [verdict["valid"] and verdict["connected"] for verdict in verdicts]
    strains = [metrics.strain_energy(m)[0] for m, v in zip(mols, verdicts, strict=True) if v["valid"]]
    strains = [energy for energy in strains if not math.isnan(energy)]
    return float(np.mean(good)), float(np.median(strains)) if strains else math.nan


def spread(values: list[float], digits: int) -> str:
    """Mean and range."""
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main(argv: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to run (all)")
    parser.add_argument("--steps", type=int, default=4500, help="training steps of 64 molecules (4500)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of split, training and samples (0)")
    parser.add_argument("--number", type=int, default=400, help="molecules drawn for each run (400)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    training = halves(options.seeds[0])
    real = Molecules.fit(training, hydrogens="implicit").redraw(training.select(np.arange(0, len(training), 5)))
    own = np.nanmedian([metrics.strain_energy(mol)[0] for mol in real])
    print(f"{options.steps:,} steps, {options.threads} thread(s), torch {torch.__version__}, {options.number} samples,")
    print(f"seeds {options.seeds}: mean (range); median strain of the training set {own:.1f} kcal/mol\n")
    print(f"{'variant':<18} {'valid and connected %':>22} {'strain kcal/mol':>20} {'ms a step':>18}")
    for name in options.variants:
        found = []
        for seed in options.seeds:
            model, each = train(VARIANTS[name], halves(seed), options.steps, seed)
            found.append((*judge(model, options.number, seed), each))
        valid, strain, each = (list(column) for column in zip(*found, strict=True))
        valid = [100 * v for v in valid]
        print(f"{name:<18} {spread(valid, 1):>22} {spread(strain, 1):>20} {spread(each, 1):>18}", flush=True)


if __name__ == "__main__":
    main()
