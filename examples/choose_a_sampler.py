"""Which sampler for how many network evaluations? Every sampler on a mixture whose denoiser is exact.

    python examples/choose_a_sampler.py --out choose_a_sampler.png

Nothing is trained, so all of the error is the sampler's. Left, samplers that follow the probability flow: the root mean
square distance of each sample to where the exact flow takes it. Right, all samplers: the sliced Wasserstein distance
between 32,768 samples and the mixture, beside that of two sets of exact samples, which no sampler can beat.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import (
    DDIM,
    RK45,
    Ancestral,
    DPMSolver,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseSDE,
    Sampler,
    UniPC,
)
from gendiff.schedule import VP
from gendiff.space import Euclidean

MEANS = torch.tensor([[-1.2, -0.6], [0.3, 1.2], [1.1, -0.9]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
STD = 0.15

FLOW: dict[str, Callable[[int], Sampler]] = {
    "DDIM": lambda n: DDIM(n, "log_snr"),
    "Heun": lambda n: Heun((n + 1) // 2, "log_snr"),
    "DPM-Solver++(2M)": lambda n: DPMSolver(n, "log_snr"),
    "DPM-Solver++(3M)": lambda n: DPMSolver(n, "log_snr", order=3),
    "UniPC": lambda n: UniPC(n, "log_snr"),
    "RK45": lambda n: RK45(rtol=n**-3.0, atol=n**-3.0),  # spends what its tolerance asks for
}
NOISY: dict[str, Callable[[int], Sampler]] = {
    "ancestral": lambda n: Ancestral(n, "log_snr"),
    "SDE-DPM-Solver++(2M)": lambda n: DPMSolver(n, "log_snr", eta=1.0),
    "reverse SDE": lambda n: ReverseSDE(n, "log_snr"),
    "predictor-corrector": lambda n: PredictorCorrector(n // 2, "log_snr"),
    "Heun with churn": lambda n: Heun((n + 1) // 2, "log_snr", churn=10.0),
    "annealed Langevin": lambda n: Langevin(max(n // 5, 1), "log_snr"),
}
EVALUATIONS = (6, 10, 16, 24, 40, 64, 100, 160)


class Counting:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: AnalyticDenoiser):
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, 0

    def __call__(self, *inputs: Any) -> Any:
        """Estimate, and count."""
        self.calls += 1
        return self.denoiser(*inputs)


def exact_samples(count: int, seed: int) -> Tensor:
    """Samples of the mixture, (count, 2)."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[which] + STD * torch.randn(count, 2, dtype=torch.float64, generator=generator)


def sliced_distance(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Root mean square over directions of the Wasserstein-2 distance between projections."""
    angle = torch.arange(directions, dtype=torch.float64) * torch.pi / directions
    unit = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ unit).sort(0).values - (b @ unit).sort(0).values).square().mean().sqrt())


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="choose_a_sampler.png", help="picture to write")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS, help="network evaluations to spend")
    parser.add_argument("--points", type=int, default=32_768, help="samples drawn each time")
    options = parser.parse_args()
    count = options.points
    process = JointProcess({"x": GaussianProcess(VP(), Euclidean(2))})
    denoiser = AnalyticDenoiser(process, WEIGHTS, {"x": (MEANS[:, None], STD)})
    mask = torch.ones(count, 1, dtype=torch.bool)
    prior = {name: x.double() for name, x in process.prior(process.noise(mask, Random(0, count))).items()}
    flow = RK45(rtol=1e-9, atol=1e-9)(denoiser, prior, mask)["x"]
    real = exact_samples(count, 0)
    floor = sliced_distance(real, exact_samples(count, 1))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    print(f"{'sampler':<22} evaluations   distance to the flow   sliced distance (exact samples: {floor:.4f})")
    for color, (name, make) in enumerate((FLOW | NOISY).items()):
        spent, paths, laws = [], [], []
        for n in options.evaluations:
            counting = Counting(denoiser)
            x = make(n)(counting, prior, mask, random=Random(1, count))["x"]
            spent.append(counting.calls)
            paths.append(float((x - flow).square().sum(-1).mean().sqrt()))
            laws.append(sliced_distance(x[:, 0], real))
            path = f"{paths[-1]:.2e}" if name in FLOW else "-"
            print(f"{name:<22} {spent[-1]:>11} {path:>22} {laws[-1]:>17.4f}")
        style = {"marker": "o", "markersize": 3, "label": name, "linestyle": "-" if name in FLOW else "--"}
        style["color"] = plt.get_cmap("tab20")(2 * color % 20 + color // 10)
        if name in FLOW:
            left.loglog(spent, paths, **style)
        right.loglog(spent, laws, **style)
    left.set(
        xlabel="network evaluations", ylabel="distance to the exact flow", title="samplers of the probability flow"
    )
    right.axhline(floor, color="black", linewidth=0.8, label="exact samples")
    right.set(
        xlim=(0.8 * min(options.evaluations), 1.2 * max(options.evaluations)),
        ylim=(floor / 2, 2),
        xlabel="network evaluations",
        ylabel="sliced Wasserstein distance",
        title="the law of the samples",
    )
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)
    print(f"look at {options.out}")


if __name__ == "__main__":
    main()
