r"""The discretised decoder: probabilities of data that are bytes, by which papers of images state bits per dimension.

The last step of the chain gives probabilities of bytes, not a density: what a normal law has between the middles to
the next bytes, and all that lies beyond for 0 and 255 (DDPM, section 3.3),

.. math:: p(x_0 | x_t) = \prod_i \int_{x_i - 1 / 255}^{x_i + 1 / 255} N(x; \hat x_i, (\sigma_t / \alpha_t)^2)\, dx,
    \qquad t = 1 / T

so nothing is added to the numbers, as it is where a density is bounded (:meth:`gendiff.model.Model.log_prob`). A byte
p is the number p / 127.5 - 1 of a state.

References: | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import log_ndtr

from gendiff.denoise import AnyDenoiser
from gendiff.likelihood import variational_bound
from gendiff.ops import Random, State, sum_rest
from gendiff.schedule import coefficients, time_grid

HALF = 1 / 255
"""Half of the distance of two bytes, in the units of states."""


def byte_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log-probability of each byte `x` under a discretised normal law, in float64; shapes broadcast."""
    x, mean, std = x.double(), mean.double(), std.double()
    low, high = (x - HALF - mean) / std, (x + HALF - mean) / std
    low = torch.where(x < -1 + HALF, -math.inf, low)
    high = torch.where(x > 1 - HALF, math.inf, high)
    # Of two numbers near 1 the difference has no digits; those of the other tail have.
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    more, less = log_ndtr(high), log_ndtr(low)
    return more + torch.log1p(-(less - more).exp())


@torch.no_grad()
def byte_bound(
    denoiser: AnyDenoiser,
    x_0: State,
    condition: State | None = None,
    random: Random | None = None,
    steps: int = 1000,
    terms: int | None = None,
    grid: str = "uniform",
) -> dict[str, Tensor]:
    """Return an upper bound of -log p of each sample in nats and its parts, (B,), in float64.

    Arguments:
        denoiser: The model, of one Gaussian field.
        x_0: The field, of bytes, for example {"pixel": (B, C, H, W)}.
        condition: What the samples are known to be, or None.
        random: One stream per sample (seed 0).
        steps: T, the number of steps of the chain (1000).
        terms: Evaluate this many random terms for each sample in the place of all T; unbiased.
        grid: Spacing of its times, see :func:`gendiff.schedule.time_grid`. "uniform" is the chain k / T of DDPM.

    Returns:
        "prior", "diffusion", "reconstruction" and their sum "total".
    """
    process, name = denoiser.process, denoiser.process.clock
    x = x_0[name]
    random = random or Random(0, len(x), x.device)
    parts = variational_bound(denoiser, x_0, None, condition, random, steps, terms, grid)
    t = torch.full((len(x),), time_grid(steps, grid, process.schedule)[-2], dtype=x.dtype, device=x.device)
    estimate = denoiser(process.corrupt(x_0, t, process.noise(None, random)), t, None, condition)
    alpha, sigma = coefficients(process[name].schedule, t, x)
    bound = {part: parts[part].double() for part in ("prior", "diffusion")}
    bound["reconstruction"] = -sum_rest(byte_log_prob(x, estimate.data[name], sigma / alpha))
    return bound | {"total": torch.stack(list(bound.values())).sum(0)}
