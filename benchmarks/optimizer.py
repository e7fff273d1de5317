"""What a step of the optimizer costs, beside the same step with torch's own Muon, which takes matrices one by one.

    python benchmarks/optimizer.py [--device cuda] [--threads 1] [--repeats 15] [--models molecules-qm9-heavy ...]

Both sides hold the weights of a model that comes with gendiff and take the same gradients, random ones: ours as
training does, theirs with `torch.optim.Muon` for the same matrices (kernels shown as such) and the same AdamW for the
rest. They take turns, so that a busy machine slows both; the table gives medians, and median and range of the ratio of
each turn. `apart` is how far the two first steps of the matrices are from each other, relative to theirs.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from egnn import clock, processor
from torch import Tensor, nn

from gendiff.model import load
from gendiff.train.optimizer import MuonAdamW

RATE = 5e-3
MODELS = ["molecules-qm9", "molecules-qm9-heavy", "sketches-digits", "images-mnist"]


class Contest:
    """Both optimizers on copies of the weights of one model."""

    def __init__(self, name: str, device: str):
        weights = [p.detach().to(device) for p in load(name).denoiser.parameters()]
        generator = torch.Generator().manual_seed(0)
        gradients = [torch.randn(w.shape, generator=generator).to(device) for w in weights]
        self.device, self.number = device, sum(w.numel() for w in weights)
        mine = [nn.Parameter(w.clone().contiguous()) for w in weights]
        self.ours = MuonAdamW(mine, RATE)
        places = {id(p): i for i, p in enumerate(mine)}
        groups = [[places[id(p)] for p in group["params"]] for group in self.ours.param_groups]
        self.matrices = [mine[i] for i in groups[0]]
        self.shown = [nn.Parameter(w.detach().clone().flatten(1)) for w in self.matrices]
        rest = [[nn.Parameter(weights[i].clone().contiguous()) for i in group] for group in groups[1:]]
        self.theirs = [
            torch.optim.Muon(self.shown, lr=RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{"params": group} for group in rest], lr=RATE, fused=True),
        ]
        for p, gradient in zip(mine, gradients, strict=True):
            p.grad = gradient
        for p, like in zip(self.shown, self.matrices, strict=True):
            p.grad = like.grad.flatten(1)  # type: ignore[union-attr]
        for group, indices in zip(rest, groups[1:], strict=True):
            for p, i in zip(group, indices, strict=True):
                p.grad = gradients[i]

    def difference(self) -> float:
        """Take the first step on both sides; how far apart the matrices then are, relative to their step."""
        before = flat(self.matrices)
        self.step_ours()
        self.step_theirs()
        ours, theirs = flat(self.matrices), flat(self.shown)
        return ((ours - theirs).norm() / (theirs - before).norm()).item()

    def step_ours(self) -> None:
        """Our step."""
        self.ours.step()

    def step_theirs(self) -> None:
        """Their step."""
        for optimizer in self.theirs:
            optimizer.step()

    def turn(self) -> tuple[float, float]:
        """Milliseconds of a step of ours and of theirs."""
        return 1e3 * clock(self.step_ours, self.device), 1e3 * clock(self.step_theirs, self.device)


def flat(weights: list[nn.Parameter]) -> Tensor:
    """All weights in one row."""
    return torch.cat([w.detach().flatten() for w in weights])


def bfloat16() -> str:
    """Whether the CPU computes in bfloat16, where it can be known."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.exists() else ""
    return "with bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "without bfloat16"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--repeats", type=int, default=15, help="turns (15)")
    parser.add_argument(
        "--models", nargs="+", default=MODELS, help=f"models that come with gendiff ({' '.join(MODELS)})"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    kind = f", {bfloat16()}" if options.device == "cpu" else ""
    print(f"{processor(options.device)}{kind}, {options.threads} thread(s), torch {torch.__version__}\n")
    print(f"{'weights of':<20} {'number':>10} {'matrices':>8} {'apart':>7} {'gendiff':>9} {'torch':>9}   ratio (range)")
    for name in options.models:
        contest = Contest(name, options.device)
        apart = contest.difference()
        ours, theirs = zip(*(contest.turn() for _ in range(options.repeats)), strict=True)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        sizes = f"{contest.number:>10,} {len(contest.matrices):>8}"
        times = " ".join(f"{statistics.median(each):>6.1f} ms" for each in (ours, theirs))
        print(f"{name:<20} {sizes} {apart:>7.4f} {times}   {ratio}", flush=True)


if __name__ == "__main__":
    main()
