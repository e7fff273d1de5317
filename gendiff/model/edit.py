r"""New samples made from given ones, by any model whose modality knows parts.

===============  =====================================================================================================
task             what it does
===============  =====================================================================================================
"grow"           given elements stay as they are and the rest is drawn around them: replacement, with steps walked down
                 and up again `resamples` times (RePaint), so that what is given and what is drawn come to agree
"link"           the same, with as many new elements as it takes to join the pieces of the input
"vary"           noise the input to time `strength` and take it back (SDEdit); all of it may change, its size does not
"interpolate"    the way from one sample to another through their latent codes
===============  =====================================================================================================

References:
    | RePaint (Lugmayr et al., 2022) | https://arxiv.org/abs/2201.09865
    | DiffLinker (Igashov et al., 2022), the task | https://arxiv.org/abs/2210.05274
    | SDEdit (Meng et al., 2021) | https://arxiv.org/abs/2108.01073
    | Denoising diffusion implicit models (Song et al., 2020): interpolation | https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gendiff.files import UserError
from gendiff.guide import Replacement, sdedit
from gendiff.guide.constraint import offset
from gendiff.modality import Part
from gendiff.model.batches import cut_batches
from gendiff.model.drawn import Drawn, collect
from gendiff.model.model import Model
from gendiff.ops import Random, State, expand, size_mask
from gendiff.sample import Heun, Plan, Sampler, Table, downward
from gendiff.schedule import time_grid

TASKS = ("grow", "link", "vary", "interpolate")

GROW_STEPS, RESAMPLES, LAST_STEPS = 16, 24, 4
"""Levels of noise, walks of each, and steps of the last level, for "grow" and "link": a compromise that
`benchmarks/edit.py` measures."""
INTERPOLATE_STEPS = 50

Progress = Callable[[int, int], Any]
Make = Callable[[Tensor, Random, Progress | None], list[Any]]
"""Sizes (B,) and their streams to records."""


@torch.no_grad()
def edit(
    model: Model,
    records: Any,
    task: str = "grow",
    n: int = 40,
    *,
    seed: int = 0,
    keep: Sequence[int] | None = None,
    sizes: tuple[int | None, int | None] = (None, None),
    strength: float = 0.3,
    steps: int | None = None,
    resamples: int = RESAMPLES,
    only: Sequence[str] | str = (),
    batch_size: int = 256,
    max_draws: int | None = None,
    progress: Progress | None = None,
) -> Drawn:
    """Return `n` new records made from given ones.

    Sample i depends on the input, `seed` and i alone. Interpolations are numbered along the way: 0 is the first input
    and n - 1 the second.

    Arguments:
        model: The model.
        records: What the modality's `read_parts` returned: one input, or two for "interpolate".
        task: "grow", "link", "vary" or "interpolate"; see :mod:`gendiff.model.edit`.
        n: How many to return; for "interpolate" the steps of the way, both ends included.
        seed: Seed.
        keep: For "grow" and "link": numbers, from 1, of the elements that stay (all).
        sizes: For "grow" and "link": smallest and largest number of elements of the result. By default p(N) of the
            model, with at least one element more than stays; for "link" as the modality proposes.
        strength: For "vary": from 0, the input itself, to 1, a fresh sample (0.3).
        steps: Steps of the time grid: by default 16 for "grow" and "link", those of the model for "vary", 50 of Heun's
            method for "interpolate".
        resamples: For "grow" and "link": how often each step is walked (24); 1 is plain replacement.
        only: Keep only records that meet these words of the modality ("valid", "connected"), and draw on until there
            are n. Not for "interpolate".
        batch_size: Samples computed together.
        max_draws: Give up after this many draws (100 n with `only`).
        progress: Called with (steps done, steps in all) for the first round of draws.

    Raises:
        UserError: for an input that does not fit the task or the model, bad numbers, or when `only` keeps (nearly)
            nothing.
    """
    if task not in TASKS:
        raise UserError(f"--task must be one of {', '.join(TASKS)}, got {task!r}")
    only = only.replace(",", " ").split() if isinstance(only, str) else only
    if "new" in only:
        raise UserError("--only knows valid and connected here; gendiff evaluate says what is new")
    model.modality.keep([], only, set())  # an unknown word is refused before the work
    if keep is not None and task not in ("grow", "link"):
        raise UserError(f"--keep belongs to grow and link; {task} may change every element")
    if task not in ("grow", "link") and sizes != (None, None):
        raise UserError(f"--atoms belongs to grow and link; {task} takes its sizes from the input")
    parts = model.modality.parts(records, task, keep)
    if task == "interpolate" and only:
        raise UserError(
            "--only draws until there are enough, and the steps of an interpolation are fixed; leave it out"
        )
    walker = sampler_of(model, task, steps)
    with model.evaluating():
        if task == "interpolate":
            return _interpolate(model, parts[0], parts[1], n, seed, walker, batch_size, progress)
        if task == "vary":
            make, bounds = _vary(model, parts[0], strength, walker), None
        else:
            make, bounds = _grow(model, parts[0], walker, resamples), _bounds(parts[0], sizes)
            try:
                model.modality.draw_sizes(Random(seed, 1), *bounds)
            except UserError as error:
                why = "pieces that lie far apart need many elements between them; " if task == "link" else ""
                raise UserError(f"{error}; {why}--atoms bounds the size of the result") from None

        def draw(indices: Tensor) -> list[Any]:
            random = Random(seed, indices)
            fixed = torch.full((len(indices),), len(parts[0]))
            numbers = model.modality.draw_sizes(random, *bounds) if bounds else fixed
            return _batched(model, make, numbers, random, batch_size, progress if not int(indices[0]) else None)

        def good(records: list[Any]) -> list[bool]:
            return model.modality.keep(records, only, set()) if only else [True] * len(records)

        result = collect(n, draw, good, only, batch_size, max_draws)
        result.remark = parts[0].remark(result.records)
        return result


def _batched(
    model: Model, make: Make, sizes: Tensor, random: Random, batch_size: int, progress: Progress | None
) -> list[Any]:
    """Return what `make` says of all samples, in batches of nearly one size."""
    records: list[Any] = [None] * len(sizes)
    batches = cut_batches(sizes, batch_size)
    for k, rows in enumerate(batches):
        stream = random.select(rows)
        stream = Random(stream.seed, stream.indices, model.device, stream.draws)
        tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
        for row, record in zip(rows.tolist(), make(sizes[rows], stream, tick), strict=True):
            records[row] = record
    return records


def sampler_of(model: Model, task: str, steps: int | None = None) -> Sampler:
    """Return the sampler of a task; steps as :func:`edit`.

    Raises:
        UserError: for steps < 1.
    """
    if steps is not None and steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    if task == "interpolate":
        return Heun(steps or INTERPOLATE_STEPS)
    return model.tuned(steps if task == "vary" else steps or GROW_STEPS)


def _bounds(part: Part, sizes: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    """Return the bounds that were asked for, or the part's own, with at least one element more than stays."""
    low, high = part.sizes if sizes == (None, None) else sizes
    least = len(part) + 1
    if high is not None and high < least:
        raise UserError(f"--atoms allows {high} at most, and {len(part)} stay; allow {least} or more, or keep fewer")
    return max(low or least, least), high


def _grow(model: Model, part: Part, sampler: Sampler, resamples: int) -> Make:
    """Return how to draw samples of which a part is known.

    The known elements come first. Their place in the frame of the state, which has its centre of mass at the origin, is
    not known before the rest is: it moves with the state (:meth:`gendiff.space.ZeroCenterOfMass.impose`).
    """
    if resamples < 1:
        raise UserError(f"--resamples must be at least 1, got {resamples}")
    process = model.denoiser.process
    plan = resampled_plan(model, sampler, resamples)

    def make(sizes: Tensor, random: Random, tick: Progress | None) -> list[Any]:
        mask = size_mask(sizes).to(model.device)
        known = _padded(part, mask)
        keep = size_mask(torch.full_like(sizes, len(part)), mask.shape[1]).to(model.device)
        x = process.prior(process.noise(mask, random), mask)
        hook = Replacement(known, dict.fromkeys(known, keep))
        x = sampler(model.denoiser, x, mask, None, random, [hook], plan, tick)
        records = model.modality.decode(x, mask)
        part.place(records)
        return records

    return make


def resampled_plan(model: Model, sampler: Sampler, resamples: int) -> Plan:
    """Return a plan of even steps, of which those that end with more signal than noise are walked `resamples` times.

    In more noise than that there is nothing yet to agree on. The last step into data is taken by a few steps of the
    sampler's own grid.
    """
    process, times = model.denoiser.process, time_grid(sampler.steps)
    down = downward(times[:-1]) if sampler.steps > 1 else []
    plan: Plan = []
    for (t, s), step in zip(down, Table(process, down, {"": torch.zeros(())}) if down else (), strict=True):
        clear = step.to[process.clock].numbers[2] >= 0
        plan += [(t, s)] + [(s, t), (t, s)] * (resamples - 1 if clear else 0)
    return plan + model.tuned(LAST_STEPS).plan(process, times[-2])


def _vary(model: Model, part: Part, strength: float, sampler: Sampler) -> Make:
    """Return how to draw variations of a part."""
    if not 0 <= strength <= 1:
        raise UserError(f"--strength must lie in [0, 1] (0 the input itself, 1 a fresh sample), got {strength:g}")

    def make(sizes: Tensor, random: Random, tick: Progress | None) -> list[Any]:
        mask = size_mask(sizes).to(model.device)
        x = sdedit(sampler, model.denoiser, _padded(part, mask), strength, mask, None, random)
        records = model.modality.decode(x, mask)
        part.place(records, strength=f"{strength:g}")
        return records

    return make


def _interpolate(
    model: Model,
    first: Part,
    second: Part,
    n: int,
    seed: int,
    walker: Sampler,
    batch_size: int,
    progress: Progress | None,
) -> Drawn:
    r"""Return n samples on the way from one part to another.

    .. math::
        x_u = \mathrm{decode}\left(\frac{\sin((1 - u)\theta)}{\sin\theta} z_1 + \frac{\sin(u\theta)}{\sin\theta} z_2
        \right), \qquad \cos\theta = \frac{\langle z_1, z_2\rangle}{\|z_1\| \|z_2\|}

    z are the latent codes of Heun's method. Elements are matched first, and the second sample is turned onto the first.
    Of unlike sizes, the smaller code is filled up with noise, and the number of elements goes linearly from one to the
    other: what has no partner comes out of the noise, or goes into it, one element after another.
    """
    if n < 2:
        raise UserError(f"-n must be at least 2 for interpolate, both ends included, got {n}")
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    process = model.denoiser.process
    parts = first.match(second)
    lengths = torch.tensor([len(part) for part in parts])
    mask = size_mask(lengths).to(model.device)
    whole = {name: torch.cat([_padded(part, mask[:1])[name] for part in parts]) for name in first.state}
    centred = {name: process[name].space.project(value, mask) for name, value in whole.items()}
    places = {name: offset(process[name].space, value, mask)[:, :1] for name, value in whole.items()}
    try:
        codes = walker.encode(model.denoiser, centred, mask)
    except ValueError as error:
        raise UserError(str(error)) from None
    full = torch.ones_like(mask[:1])
    noise = process.prior(process.noise(full, Random(seed, 1, model.device)), full)
    ends = {name: torch.where(mask[..., None], code, noise[name]) for name, code in codes.items()}
    u = torch.linspace(0, 1, n)
    sizes = (lengths[0] + u * (lengths[1] - lengths[0]) + 0.5).floor().long()
    result = Drawn([None] * n, list(range(n)), n)
    batches = cut_batches(sizes, batch_size)
    for k, rows in enumerate(batches):
        mask, share = size_mask(sizes[rows]).to(model.device), u[rows].to(model.device)
        x = {
            name: process[name].space.project(slerp(code[0], code[1], share)[:, : mask.shape[1]], mask)
            for name, code in ends.items()
        }
        tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
        x = walker(model.denoiser, x, mask, progress=tick)
        for name, (here, there) in places.items():
            x[name] = x[name] + torch.lerp(here, there, expand(share, x[name])) * mask[..., None]
        for row, record in zip(rows.tolist(), model.modality.decode(x, mask), strict=True):
            first.place([record], interpolation=f"{float(u[row]):.4g}")
            result.records[row] = record
    return result


def slerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return the points of an arc, (B, ...), at the shares (B,) of the way from one tensor to another of its shape."""
    cosine = (first * second).sum().double() / (first.norm() * second.norm()).double().clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos().clamp(1e-4, torch.pi - 1e-4)  # nearly a straight line below
    u = expand(share.double(), first[None])
    weights = [((1 - u) * angle).sin() / angle.sin(), (u * angle).sin() / angle.sin()]
    return weights[0].to(first) * first + weights[1].to(first) * second


def _padded(part: Part, mask: Tensor) -> State:
    """Return the part's fields, padded with zeros, once for each sample of `mask`."""
    length = mask.shape[1] - len(part)
    return {
        name: torch.nn.functional.pad(value, (0, 0, 0, length)).to(mask.device).expand(len(mask), -1, -1)
        for name, value in part.state.items()
    }
