"""Two moons and a swiss roll: a diffusion model of points in the plane, from the data to one picture.

    python examples/two_dimensions.py --out two_dimensions.png

Shows what the library is made of: a space, a schedule, a process, a network, a loss, and samplers that may be swapped
after training. Each set takes less than half a minute on one CPU core.
"""

from __future__ import annotations

import argparse
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons, make_swiss_roll
from torch import Tensor, nn

from gendiff.denoise import Denoiser
from gendiff.objective import Objective
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, RK45, Ancestral, DPMSolver, Heun, PredictorCorrector, ReverseSDE, UniPC
from gendiff.schedule import VP
from gendiff.space import Euclidean

SAMPLERS = {
    "DDIM(50)": DDIM(50, "log_snr"),
    "Ancestral(200)": Ancestral(200, "log_snr"),
    "Heun(25)": Heun(25, "log_snr"),
    "DPMSolver(15)": DPMSolver(15, "log_snr"),
    "UniPC(12)": UniPC(12, "log_snr"),
    "RK45()": RK45(rtol=1e-3, atol=1e-3),
    "ReverseSDE(200)": ReverseSDE(200, "log_snr"),
    "PredictorCorrector(100)": PredictorCorrector(100, "log_snr"),
}


class Net(nn.Module):
    """A plain perceptron; it sees the point and the noise level, and knows nothing of diffusion."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: dict, noise_level: Tensor, mask: Tensor | None, condition: dict | None) -> dict:
        """Map points (B, 1, 2) and levels (B, 1) to points."""
        return {"point": self.layers(torch.cat([x["point"], noise_level[:, None]], -1))}


def data(name: str, count: int = 8192) -> Tensor:
    """Points (count, 1, 2) of unit variance."""
    if name == "two moons":
        points = make_moons(count, noise=0.05, random_state=0)[0]
    else:
        points = make_swiss_roll(count, noise=0.25, random_state=0)[0][:, [0, 2]]
    x = torch.tensor(points).float()
    return ((x - x.mean(0)) / x.std())[:, None]


def train(x_0: Tensor, steps: int, batch: int = 512) -> Denoiser:
    """The whole training loop."""
    process = JointProcess({"point": GaussianProcess(VP(), Euclidean(2))})
    torch.manual_seed(0)
    denoiser = Denoiser(Net(), process, "karras")
    objective = Objective()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mask = torch.ones(batch, 1, dtype=torch.bool)
    for k in range(steps):
        index = torch.randint(len(x_0), (batch,), generator=torch.Generator().manual_seed(k))
        losses, _ = objective(denoiser, {"point": x_0[index]}, mask, None, Random(k, index))
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    return denoiser.eval()


def show(axis: plt.Axes, x: Tensor, title: str, color: str) -> None:
    """A cloud of points."""
    axis.scatter(*x[:, 0].T, s=1, c=color, linewidths=0, alpha=0.6)
    axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
    axis.set_title(title, fontsize=8)


def main() -> None:
    """Train, sample and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="two_dimensions.png", help="picture to write")
    parser.add_argument("--steps", type=int, default=4000, help="training steps for each set")
    parser.add_argument("--points", type=int, default=2000, help="points drawn with each sampler")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figure, axes = plt.subplots(6, 8, figsize=(13, 10))
    for row, name in enumerate(("two moons", "swiss roll")):
        begin = time.perf_counter()
        x_0 = data(name)
        denoiser = train(x_0, options.steps)
        print(f"{name}: trained in {time.perf_counter() - begin:.0f} s")
        forward, reverse, score = axes[3 * row : 3 * row + 3]
        some, process = x_0[: options.points], denoiser.process
        mask, random = torch.ones(len(some), 1, dtype=torch.bool), Random(1, len(some))
        noise = process.noise(mask, random)
        for axis, t in zip(forward, torch.linspace(0, 1, 8) ** 2, strict=True):
            x_t = process.corrupt({"point": some}, t.expand(len(some)), noise)["point"]
            show(axis, x_t, f"data at t = {t:.2f}", "tab:gray")
        for axis, (label, sampler) in zip(reverse, SAMPLERS.items(), strict=True):
            begin = time.perf_counter()
            x = sampler(denoiser, process.prior(noise), mask, random=Random(2, len(some)))["point"]
            print(f"  {label:<24} {time.perf_counter() - begin:.2f} s")
            show(axis, x, label, "tab:blue")
        grid = torch.cartesian_prod(torch.linspace(-2.8, 2.8, 22), torch.linspace(-2.8, 2.8, 22))[:, None]
        for axis, t in zip(score, torch.linspace(0.1, 0.6, 8) ** 2, strict=True):
            with torch.no_grad():
                field = denoiser({"point": grid}, t.expand(len(grid))).score["point"][:, 0]
            show(axis, some[:500], f"learned score at t = {t:.2f}", "tab:orange")
            length = field.norm(dim=1, keepdim=True)
            axis.quiver(*grid[:, 0].T, *(field / length * length.log1p()).T, width=0.004)
        forward[0].set_ylabel(name)
    figure.tight_layout(pad=0.4)
    figure.savefig(options.out, dpi=110)
    print(f"look at {options.out}")


if __name__ == "__main__":
    main()
