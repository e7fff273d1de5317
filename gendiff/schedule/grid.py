"""Grids of times: where a sampler stops on its way from noise to data."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.schedule.base import Schedule

GRIDS = ("uniform", "log_snr", "quadratic", "karras")

RHO = 7
PURE_NOISE = 0.005
"""Signal below which "karras" no longer follows the ratio of noise to signal, which may be infinite at t = 1."""


def time_grid(steps: int, kind: str = "uniform", schedule: Schedule | None = None, start: float = 1.0) -> list[float]:
    r"""Return `steps` + 1 decreasing times from `start` to 0.

    ===========  ======================================================================================================
    "uniform"    even steps of time
    "quadratic"  time :math:`(1 - i/\mathrm{steps})^2`, denser near the data
    "log_snr"    even steps of the log signal-to-noise ratio of `schedule`, from its value at `start` (at least -10) to
                 that at `start` / 1000 (at most 12, unless above that at `start`), then one step to 0
    "karras"     even steps of :math:`(\sigma/\alpha)^{1/7}` of `schedule`, from its value at `start` (for alpha >=
                 0.005) to that at 0, or at `start` / 1000 where there is no noise at 0; then one step to 0
    ===========  ======================================================================================================

    0 stands for clean data. Where a schedule has noise at 0 (Karras, VE), the time before the last of "karras" is as
    good as 0, so `time_grid(18, "karras", Karras())` walks the 18 levels 80 ... 0.002 of EDM and then to clean data.

    Arguments:
        steps: How many steps down.
        kind: A row of the table.
        schedule: Needed for "log_snr" and "karras".
        start: First time; below 1 to start from noised data (SDEdit).

    Raises:
        ValueError: for steps < 1, an unknown kind, or `start` outside (0, 1].

    References: | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < start <= 1:
        raise ValueError(f"start must lie in (0, 1], got {start}; 1 starts from noise, less from noised data")
    if kind not in GRIDS:
        raise ValueError(f"grid must be one of {GRIDS}, got {kind!r}")
    if kind in ("log_snr", "karras"):
        if schedule is None:
            raise ValueError(f"a {kind} grid needs the schedule, got none; pass schedule=")
        inner = (_log_snr if kind == "log_snr" else _karras)(steps, schedule, start)
        return [start, *inner[1:].tolist(), 0.0]
    fractions = [1 - i / steps for i in range(steps + 1)]
    return [start * (f * f if kind == "quadratic" else f) for f in fractions]


def _log_snr(steps: int, schedule: Schedule, start: float) -> Tensor:
    low, high = schedule.log_snr(torch.tensor([start, 1e-3 * start], dtype=torch.float64)).tolist()
    low, high = max(low, -10.0), high if low >= 12 else min(high, 12.0)
    return schedule.time(torch.linspace(low, high, steps, dtype=torch.float64))


def _karras(steps: int, schedule: Schedule, start: float) -> Tensor:
    t = torch.tensor([start, 0.0, 1e-3 * start], dtype=torch.float64)
    high, at_0, early = (schedule.sigma(t) / schedule.alpha(t).clamp(min=PURE_NOISE)).tolist()
    low = at_0 or early
    levels = torch.linspace(high ** (1 / RHO), low ** (1 / RHO), steps, dtype=torch.float64) ** RHO
    return schedule.time(-2 * levels.log()).clamp(min=1e-12 * start)
