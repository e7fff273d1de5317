r"""Likelihoods: the variational bound and the density of the probability flow, in nats per sample.

Both respect the degrees of freedom of each field's space, so a molecule of n atoms has a density on (n - 1) 3
directions.

References:
    | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gendiff.denoise import AnyDenoiser
from gendiff.ops import Random, State, expand
from gendiff.process import TINY, GivenProcess, Normal, Process
from gendiff.schedule import time_grid
from gendiff.solve import rk45

JUST_AFTER_ZERO = 1e-12
"""A time as noisy as 0, where 0 itself stands for clean data."""


@torch.no_grad()
def variational_bound(
    denoiser: AnyDenoiser,
    x_0: State,
    mask: Tensor | None = None,
    condition: State | None = None,
    random: Random | None = None,
    steps: int = 1000,
    terms: int | None = None,
    grid: str = "uniform",
    noise_at_zero: bool = False,
) -> dict[str, Tensor]:
    r"""Return an upper bound of :math:`-\log p(x_0)` in nats, shape (B,), and its parts.

    .. math:: -\log p(x_0) \le KL(q(x_1 | x_0) \| p(x_1)) + \sum_{k=1}^{T-1} KL_k - E \log p(x_0 | x_{t_1})

    over the chain of times :math:`0 = t_0 < t_1 < \dots < t_T = 1`. Where a Gaussian field has logits (one-hot
    categories with cross-entropy) its reconstruction is a probability, so the bound is that of a probability there.

    Arguments:
        denoiser: The model.
        x_0: Clean state.
        mask: (B, N) or None.
        condition: Condition or None.
        random: One stream per sample (seed 0).
        steps: T, the number of steps of the chain (1000).
        terms: Evaluate this many random terms for each sample instead of all T; unbiased.
        grid: Spacing of the times, see :func:`gendiff.schedule.time_grid`. "uniform" is the chain k / T of the papers.
            A schedule without noise at t = 0 (Flow) wants "log_snr": with equal steps of time the first one, from the
            data to t = 1 / T, alone keeps the bound well above :math:`-\log p`.
        noise_at_zero: Whether the chain goes on to t = 0, for schedules that have noise there, and x_0 is reconstructed
            from that state: T + 1 noise levels and one more term. With the uniform grid of 1000 steps it is the chain
            of VDM and of EDM for molecules, whose published values are of this bound.

    Returns:
        "prior", "diffusion", "reconstruction" and their sum "total".

    Raises:
        ValueError: for noise at zero of a schedule that has none there, or a state that is none of the process.
    """
    denoiser.process.check(x_0)
    mask = denoiser.process.everywhere(x_0) if mask is None else mask
    first = x_0[denoiser.process.clock]
    random = random or Random(0, len(first), first.device)
    zero = torch.zeros_like(first.flatten(1)[:, 0])
    prior = sum((p.prior_kl(x_0[name], mask) for name, p in denoiser.process.items()), zero)

    ascending = time_grid(steps, grid, denoiser.process.schedule)[::-1]
    if noise_at_zero:
        if not all(p.schedule.sigma(first.new_zeros(1)) > 0 for _, p in denoiser.process.items()):
            raise ValueError("noise_at_zero needs schedules with noise at t = 0; these have none there")
        ascending.insert(1, JUST_AFTER_ZERO)
        steps += 1
    times = torch.tensor(ascending, dtype=torch.float64).to(first)

    def term(k: Tensor) -> Tensor:
        t, s = times[k + 1], times[k]
        x_t = denoiser.process.corrupt(x_0, t, denoiser.process.noise(mask, random), mask)
        return sum(denoiser(x_t, t, mask, condition).bound_term(x_0, s, mask).values(), zero)

    reconstruction = term(zero.long())
    diffusion, count = zero, steps - 1 if terms is None else min(terms, steps - 1)
    for i in range(count):
        if terms is None:
            k = torch.full_like(zero, i + 1).long()
        else:
            k = 1 + (random.uniform((len(first),)) * (steps - 1)).long().clamp(max=steps - 2)
        diffusion = diffusion + term(k)
    diffusion = diffusion * ((steps - 1) / max(count, 1))
    return {
        "prior": prior,
        "diffusion": diffusion,
        "reconstruction": reconstruction,
        "total": prior + diffusion + reconstruction,
    }


def log_density(
    denoiser: AnyDenoiser,
    x_0: State,
    mask: Tensor | None = None,
    condition: State | None = None,
    random: Random | None = None,
    probes: int | None = 1,
    start: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    directions: str = "rademacher",
) -> Tensor:
    r"""Return the log-density of the probability flow in nats, shape (B,).

    .. math::
        \log p(x_0) = \log p_1(x_1) + \int_{t_0}^1 \nabla \cdot u(x_t, t)\, dt + \dim \log\alpha_{t_0},
        \qquad dx_t/dt = u

    with the divergence by Hutchinson's estimator (random directions in the space of the field) or exactly. At the start
    the data stands for the mean :math:`x_{t_0} = \alpha_{t_0} x_0`, whose Jacobian is the last term. The solver walks
    along the share of noise :math:`\sigma / (\alpha + \sigma)` of the clock field, in which the flow of every schedule
    is smooth, and not along t, in which a table has a kink at each of its steps.

    Arguments:
        denoiser: The model; its fields must be Gaussian or given. Of what is given, log p of its process counts.
        x_0: Clean state.
        mask: (B, N) or None.
        condition: Condition or None.
        random: One stream per sample (seed 0).
        probes: How many random probes (1); None for the exact trace, one backward pass per number of a sample.
        start: t_0, the first time (1e-3).
        rtol: Relative tolerance of the solver.
        atol: Absolute tolerance of the solver.
        directions: "rademacher", random signs, whose trace is exact where the Jacobian is diagonal; or "gaussian",
            normal directions scaled to their mean length, whose trace is exact where the flow is isotropic on the space
            (the better choice on zero centre of mass, where a projection mixes the signs).

    Raises:
        ValueError: if a field is categorical, or for other directions or fewer than one probe.
    """
    if directions not in DIRECTIONS:
        raise ValueError(f"directions must be one of {sorted(DIRECTIONS)}, got {directions!r}")
    if probes is not None and probes < 1:
        raise ValueError(f"probes must be at least 1, or None for the exact trace, got {probes}")
    fields = dict(denoiser.process.items())
    given = [name for name, process in fields.items() if isinstance(process, GivenProcess)]
    told, known = {name: x_0[name] for name in given}, [fields.pop(name).prior_kl(x_0[name], mask) for name in given]
    for name, process in fields.items():
        if process.categorical:
            raise ValueError(f"log_density needs Gaussian fields and {name!r} is categorical; use variational_bound")
    x_0 = {name: x_0[name] for name in fields}
    first = x_0[denoiser.process.clock]
    batch = len(first)
    random = random or Random(0, batch, first.device)
    if probes is None:
        probe = _basis(fields, x_0, mask)
    else:
        draw = DIRECTIONS[directions]
        probe = [{name: draw(p, x_0[name], mask, random) for name, p in fields.items()} for _ in range(probes)]
    scale = 1.0 if probes is None else 1 / len(probe)

    schedule = denoiser.process.schedule

    def share(t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma / (alpha + sigma)

    def slope(y: State, u: Tensor) -> State:
        t = schedule.time(-2 * torch.logit(u))
        rate = torch.func.jvp(share, (t,), (torch.ones_like(t),))[1]
        with torch.enable_grad():
            x = {name: y[name].detach().requires_grad_() for name in x_0}
            velocity = denoiser(x | told, t, mask, condition).velocity
            velocity = {name: p.space.project(velocity[name], mask) for name, p in fields.items()}
            divergence = first.new_zeros(batch)
            for direction in probe:
                inner = torch.stack([(velocity[name] * direction[name]).sum() for name in x_0]).sum()
                gradients = torch.autograd.grad(inner, list(x.values()), retain_graph=True)
                for g, name in zip(gradients, x, strict=True):
                    divergence = divergence + scale * (g * direction[name]).flatten(1).sum(1)
        along_t = {**velocity, "divergence": divergence}
        return {name: value.detach() / expand(rate, value) for name, value in along_t.items()}

    t_0 = first.new_full((batch,), start)
    y, jacobian = {"divergence": first.new_zeros(batch)}, first.new_zeros(batch)
    for name, process in fields.items():
        alpha = process.schedule.alpha(t_0)
        y[name] = expand(alpha, x_0[name]) * x_0[name]
        jacobian = jacobian + process.space.dim(mask, x_0[name]) * alpha.log()
    low, high = share(first.new_tensor([start, 1.0]).double()).to(first).unbind()
    end = rk45(slope, y, low.expand(batch), high.expand(batch), rtol, atol)  # steps of its own for each sample
    prior = -sum(known, first.new_zeros(batch))
    for name, process in fields.items():
        unit = process.prior(torch.ones_like(x_0[name]), None)
        law = Normal(torch.zeros_like(x_0[name]), expand(unit.flatten(1)[:, 0], unit), process.space, mask)
        prior = prior + law.log_prob(end[name])
    return prior + end["divergence"] + jacobian


def _rademacher(process: Process, x: Tensor, mask: Tensor | None, random: Random) -> Tensor:
    sign = (random.uniform(tuple(x.shape)) < 0.5).to(x.dtype) * 2 - 1
    if process.space.kind == "pair":
        sign = torch.triu(sign.movedim(-1, 1), 1)
        sign = (sign + sign.transpose(-1, -2)).movedim(1, -1) / math.sqrt(2)
    return process.space.project(sign, mask)


def _gaussian(process: Process, x: Tensor, mask: Tensor | None, random: Random) -> Tensor:
    v = process.noise(mask, random).to(x)
    square = v.flatten(1).square().sum(1).clamp(min=TINY)
    return v * expand((process.space.dim(mask, v) / square).sqrt(), v)


DIRECTIONS = {"rademacher": _rademacher, "gaussian": _gaussian}


def _basis(fields: Mapping[str, Process], x: State, mask: Tensor | None) -> list[State]:
    """Return the unit vectors of all fields, projected: tr(P J P) is the trace over the space."""
    result = []
    for name, process in fields.items():
        size = x[name][0].numel()
        for i in range(size):
            unit = torch.zeros_like(x[name]).flatten(1)
            unit[:, i] = 1
            state = {other: torch.zeros_like(value) for other, value in x.items()}
            state[name] = process.space.project(unit.reshape(x[name].shape), mask)
            result.append(state)
    return result


def bits_per_dim(nats: Tensor, dim: Tensor | float, scale: float = 1.0) -> Tensor:
    """Return a negative log-density in nats as bits per dimension of data quantised with bins of width `scale`.

    Arguments:
        nats: -log p(x_0), shape (B,).
        dim: Numbers of each sample.
        scale: Width of one level of the data in the model's units, for example 2 / 256 for 8-bit images on [-1, 1].
    """
    return nats / (dim * math.log(2)) - math.log2(scale)
