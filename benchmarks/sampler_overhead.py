"""Time that a step of sampling takes outside the network, beside the same update by diffusers' scheduler.

    python benchmarks/sampler_overhead.py [--device cuda] [--threads 1] [--repeats 7] [--steps 50] [--sizes 1000 ...]

A network that returns the same tensor at every call stands on both sides; a call of it is timed alone and taken off.
Our clock holds all that `sampler(denoiser, x)` does: plan, table, and at every step the denoiser (scaled input, noise
level, its row of coefficients) and the update. Theirs holds `scale_model_input` and `step` only; `set_timesteps` is not
counted. Both walk DDPM's schedule down the same times from the same noise, once for a network of the noise and once for
one of the clean data; the largest difference of their states before the last step is printed, relative to the largest
number. The two take turns, so that a busy machine slows both; the table gives medians, and median and range of the
ratio of each turn. States are 10 samples, float32. Large states walk fewer steps.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor, nn

from gendiff.denoise import Denoiser
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, DPMSolver, Sampler, UniPC
from gendiff.schedule import Linear
from gendiff.space import Euclidean

SAMPLES = 10
NETWORKS = {"noise": "epsilon", "data": "sample"}
SPACING = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}


def ddim(prediction: str) -> DDIMScheduler:
    """Their DDIM without noise."""
    return DDIMScheduler(prediction_type=prediction, clip_sample=False, **SPACING)


def dpm_solver(prediction: str) -> DPMSolverMultistepScheduler:
    """Their DPM-Solver++(2M)."""
    return DPMSolverMultistepScheduler(prediction_type=prediction, final_sigmas_type="zero", **SPACING)


def unipc(prediction: str) -> UniPCMultistepScheduler:
    """Their UniPC-2."""
    return UniPCMultistepScheduler(prediction_type=prediction, final_sigmas_type="zero", **SPACING)


UPDATES: dict[str, tuple[Callable[[int], Sampler], Callable[[str], object]]] = {
    "DDIM, eta 0": (DDIM, ddim),
    "DPM-Solver++ 2M": (DPMSolver, dpm_solver),
    "UniPC-2": (UniPC, unipc),
}


class Fixed(nn.Module):
    """A network whose output is always the same tensor."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = {"x": output}

    def forward(self, *inputs: object) -> dict[str, Tensor]:
        """Return the tensor."""
        return self.output


class Contest:
    """Both sides of one update at one size."""

    def __init__(self, update: str, kind: str, size: int, steps: int, device: str):
        random = torch.Generator().manual_seed(0)
        shape = (SAMPLES, 1, size // SAMPLES)
        self.x, output = (torch.randn(shape, generator=random).to(device) for _ in range(2))
        make_ours, make_theirs = UPDATES[update]
        process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1, "grid", [size // SAMPLES]))})
        self.network, self.steps, self.device = Fixed(output), steps, device
        self.denoiser = Denoiser(self.network, process, kind)
        self.sampler, self.scheduler = make_ours(steps), make_theirs(NETWORKS[kind])

    def ours(self, stop: int | None = None) -> Tensor:
        """Sample with gendiff, all steps or to the one before `stop`."""
        plan = None if stop is None else self.sampler.plan(self.denoiser.process)[:stop]
        return self.sampler(self.denoiser, {"x": self.x}, plan=plan)["x"]

    @torch.no_grad()
    def theirs(self, stop: int | None = None) -> Tensor:
        """Sample with diffusers; :meth:`rewind` goes before."""
        x = self.x
        for t in self.scheduler.timesteps[:stop]:
            output = self.network(self.scheduler.scale_model_input(x, t), t)["x"]
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
        return x

    def rewind(self) -> None:
        """Make their scheduler forget the last run."""
        self.scheduler.set_timesteps(self.steps, device=self.device)

    def call(self) -> None:
        """Call the network as often as a run does."""
        for _ in range(self.steps):
            self.network(self.x, None, None, None)

    def turn(self, loops: int) -> tuple[float, float]:
        """Seconds per step of both sides, less the network's: the best of some runs, one side after the other."""
        free = min(clock(self.call, self.device) for _ in range(loops))
        ours = min(clock(self.ours, self.device) for _ in range(loops))
        times = []
        for _ in range(loops):
            self.rewind()
            times.append(clock(self.theirs, self.device))
        return (min(times) - free) / self.steps, (ours - free) / self.steps

    def difference(self) -> float:
        """Largest difference of the two states before the last step, relative to the largest number."""
        self.rewind()
        ours, theirs = self.ours(-1), self.theirs(-1)
        return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def clock(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def processor(device: str) -> str:
    """What the numbers were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7, help="turns; the table gives median and range")
    parser.add_argument("--steps", type=int, default=50, help="steps of a walk; fewer for large states")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**k for k in range(3, 8)], help="numbers in a state")
    options = parser.parse_args(arguments)
    if min(options.sizes) < SAMPLES or options.steps < 2 or options.repeats < 1:
        parser.error(f"sizes must be at least {SAMPLES}, steps at least 2 and repeats at least 1")
    return options


def main(arguments: list[str] | None = None) -> dict[tuple[str, str, int], float]:
    """Measure, print the table, and return the median ratios by update, network and size."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    print(f"{processor(options.device)}; {options.threads} threads; torch {torch.__version__}; float32")
    print(f"diffusers {diffusers.__version__}; {options.repeats} turns; microseconds per step outside the network\n")
    row = "{:16s} {:6s} {:>10s} {:>10s} {:>10s}  {:22s} {:>10s}".format
    print(row("update", "output", "numbers", "diffusers", "gendiff", "ratio (range)", "difference"))
    ratios = {}
    for update in UPDATES:
        for kind in NETWORKS:
            for size in options.sizes:
                steps = min(options.steps, max(10, 2 * 10**8 // size))
                contest = Contest(update, kind, size, steps, options.device)
                difference = contest.difference()  # warms up both, too
                turns = [contest.turn(max(1, min(5, 10**7 // (size * steps)))) for _ in range(options.repeats)]
                each = [ours / theirs for theirs, ours in turns]
                ratios[update, kind, size] = statistics.median(each)
                found = (f"{1e6 * statistics.median(column):.0f}" for column in zip(*turns, strict=True))
                spread = f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"
                print(row(update, kind, f"{size:,}", *found, spread, f"{difference:.0e}"), flush=True)
    print(f"\nlargest ratio {max(ratios.values()):.2f}")
    return ratios


if __name__ == "__main__":
    main()
