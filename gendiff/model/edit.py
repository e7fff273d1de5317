r"""New samples made from given ones, by any model whose modality names tasks.

A modality has words of its own for them (:attr:`gendiff.modality.Modality.tasks`); there are four kinds:

=======  =============================================================================================================
kind     what it does
=======  =============================================================================================================
"keep"   known elements stay as they are and the rest is drawn around them: replacement, with steps walked down and up
         again `resamples` times (RePaint), so that what is known and what is drawn come to agree; a task may ask for
         guidance towards this besides (:mod:`gendiff.model.keep`)
"noise"  noise the input to time `strength` and take it back (SDEdit); all of it may change, its size does not
"path"   the way from one sample to another through their latent codes
"ask"    nothing stays; the input becomes a condition, by which samples are drawn
=======  =============================================================================================================

References:
    | DiffLinker (Igashov et al., 2022), the task | https://arxiv.org/abs/2210.05274
    | SDEdit (Meng et al., 2021) | https://arxiv.org/abs/2108.01073
    | Denoising diffusion implicit models (Song et al., 2020): interpolation | https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.files import UserError
from gendiff.guide import Gradient, sdedit
from gendiff.guide.constraint import offset
from gendiff.modality import Modality, Part, Task
from gendiff.model.batches import cut_batches
from gendiff.model.drawn import Drawn, collect
from gendiff.model.keep import GRADIENT, GROW_STEPS, RESAMPLES, Framed, adrift, agreement, guided_plan, resampled_plan
from gendiff.model.model import Model, guided
from gendiff.ops import Random, State, expand, size_mask
from gendiff.sample import Heun, Sampler

PATH_STEPS = 50

Progress = Callable[[int, int], Any]
Make = Callable[[Tensor, Random, State | None, Progress | None], list[Any]]
"""Sizes (B,), their streams and what the network is told, to records."""


@torch.no_grad()
def edit(
    model: Model,
    records: Any,
    task: str | None = None,
    n: int = 40,
    *,
    seed: int = 0,
    keep: Sequence[int] | None = None,
    side: float | None = None,
    sizes: tuple[int | None, int | None] = (None, None),
    strength: float | None = None,
    steps: int | None = None,
    resamples: int = RESAMPLES,
    condition: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    only: Sequence[str] | str = (),
    batch_size: int = 256,
    max_draws: int | None = None,
    progress: Progress | None = None,
) -> Drawn:
    """Return `n` new records made from given ones.

    Sample i depends on the input, `seed` and i alone. Those of a path are numbered along the way: 0 is the first input
    and n - 1 the second.

    Arguments:
        model: The model.
        records: What the modality's `read_parts` returned: one input, or two for a path.
        task: A word of the modality (its first): molecules "grow", "link", "vary", "interpolate"; sketches "complete",
            "continue", "heal", "vary", "interpolate", "trace".
        n: How many to return; of a path the steps of the way, both ends included.
        seed: Seed.
        keep: Of the kind "keep": numbers, from 1, of what stays (all): atoms, strokes.
        side: How large the finished sample is to be in the input's unit, for data that come in any unit (sketches).
        sizes: Of the kinds "keep" and "ask": smallest and largest number of elements of the result. By default p(N) of
            the model, with at least one element more than stays, or as the modality proposes.
        strength: Of the kind "noise": from 0, the input itself, to 1, a fresh sample (as the task has it, 0.3).
        steps: Steps of the time grid: by default 16 of the kind "keep", or as the task has it (to complete a sketch
            7), 50 of Heun's method for a path, else those of the model.
        resamples: Of the kind "keep": how often each step is walked (24), a third as often where walks are guided, each
            of which costs three; 1 is plain replacement.
        condition: What is asked for, as :meth:`Model.draw` takes it; it comes before what the input itself says.
        guidance: Scale of classifier-free guidance, 1 for the conditional model as it is (the model's own).
        only: Keep only records that meet these words of the modality ("valid", "connected"), and draw on until there
            are n. Not for a path.
        batch_size: Samples computed together.
        max_draws: Give up after this many draws (100 n with `only`).
        progress: Called with (steps done, steps in all) for the first round of draws.

    Raises:
        UserError: for an input that does not fit the task or the model, bad numbers, or when `only` keeps (nearly)
            nothing.
    """
    task, todo = find_task(model.modality, task)
    only = only.replace(",", " ").split() if isinstance(only, str) else only
    if "new" in only:
        raise UserError("--only new is not known here; gendiff evaluate says what is new")
    model.modality.keep([], only, set())  # an unknown word is refused before the work
    if keep is not None and todo.kind != "keep":
        raise UserError(f"--keep belongs to {_words(model.modality, 'keep')}; {task} may change every element")
    if todo.kind in ("noise", "path") and sizes != (None, None):
        raise UserError(
            f"--size belongs to {_words(model.modality, 'keep', 'ask')}; {task} takes its sizes from the input"
        )
    parts = model.modality.parts(records, task, keep, **({} if side is None else {"side": side}))
    if todo.kind == "path" and only:
        raise UserError(f"--only draws until there are enough, and the steps of {task} are fixed; leave it out")
    wish = Wish.of(model, parts, todo, condition, guidance)
    walker = sampler_of(model, task, steps)
    with model.evaluating():
        if todo.kind == "path":
            return _path(model, parts[0], parts[1], n, seed, walker, wish, batch_size, progress)
        if todo.kind == "noise":
            make, bounds = _noise(model, parts[0], todo.strength if strength is None else strength, walker, wish), None
        else:
            weight = getattr(todo, "agreement", 0.0)
            draw_all = _keep(model, parts[0], walker, resamples, wish, weight) if todo.kind == "keep" else None
            make, bounds = draw_all or _ask(model, parts[0], walker, wish), _bounds(parts[0], sizes)
            try:
                model.modality.draw_sizes(Random(seed, 1), *bounds, wish(torch.zeros(1, dtype=torch.long)))
            except UserError as error:
                hint = f"{parts[0].hint}; " if parts[0].hint else ""
                raise UserError(f"{error}; {hint}--size bounds the size of the result") from None

        def draw(indices: Tensor) -> list[Any]:
            random, told = Random(seed, indices), wish(indices)
            fixed = torch.full((len(indices),), len(parts[0]))
            numbers = model.modality.draw_sizes(random, *bounds, told) if bounds else fixed
            return _batched(model, make, numbers, random, told, batch_size, progress if not int(indices[0]) else None)

        def good(records: list[Any]) -> list[bool]:
            return model.modality.keep(records, only, set()) if only else [True] * len(records)

        result = collect(n, draw, good, only, batch_size, max_draws)
        result.remark = parts[0].remark(result.records)
        return result


def find_task(modality: Modality, word: str | None = None) -> tuple[str, Task]:
    """Return a task of a modality under its name; by default the first.

    Raises:
        UserError: if there is no such task, or none at all.
    """
    if not modality.tasks:
        raise UserError(f"{modality.name} cannot be edited yet")
    word = next(iter(modality.tasks)) if word is None else word
    if word not in modality.tasks:
        raise UserError(f"--task must be one of {', '.join(modality.tasks)} for {modality.name}, got {word!r}")
    return word, modality.tasks[word]


def _words(modality: Modality, *kinds: str) -> str:
    """Return the words of the tasks of some kinds: "grow and link"."""
    return " and ".join(word for word, task in modality.tasks.items() if task.kind in kinds) or "other modalities"


@dataclass
class Wish:
    """What is asked for: a denoiser, guided or not, and the condition of each sample.

    Attributes:
        denoiser: Takes the condition.
        asked: By name (k, ...): sample i takes number i modulo k. {} if nothing is asked for.
    """

    denoiser: Any
    asked: State

    @classmethod
    def of(
        cls,
        model: Model,
        parts: Sequence[Part],
        todo: Task,
        condition: Mapping[str, Any] | None,
        guidance: float | None,
    ) -> Wish:
        """Return what users ask for and, but for a path, what the part says itself; arguments as :func:`edit`.

        Raises:
            UserError: for a condition that the model does not know, or a guidance without any.
        """
        own = {} if todo.kind == "path" else dict(parts[0].condition)
        asked = {**own, **model.modality.condition(condition or {})}
        return cls(guided(model, guidance, asked), asked)

    def __call__(self, indices: Tensor) -> State | None:
        """Return what the network is told of samples of these numbers, (M, ...) each; None if nothing."""
        return {name: value[indices % len(value)] for name, value in self.asked.items()} or None


def _batched(
    model: Model,
    make: Make,
    sizes: Tensor,
    random: Random,
    told: State | None,
    batch_size: int,
    progress: Progress | None,
) -> list[Any]:
    """Return what `make` says of all samples, in batches of nearly one size."""
    records: list[Any] = [None] * len(sizes)
    batches = cut_batches(sizes, batch_size)
    for k, rows in enumerate(batches):
        stream = random.select(rows)
        stream = Random(stream.seed, stream.indices, model.device, stream.draws)
        some = None if told is None else _on(model, {name: value[rows] for name, value in told.items()})
        tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
        for row, record in zip(rows.tolist(), make(sizes[rows], stream, some, tick), strict=True):
            records[row] = record
    return records


def sampler_of(model: Model, task: str | None, steps: int | None = None) -> Sampler:
    """Return the sampler of a task; arguments as :func:`edit`.

    Raises:
        UserError: for steps < 1, or no such task.
    """
    _, todo = find_task(model.modality, task)
    if steps is not None and steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    if todo.kind == "path":
        return Heun(steps or PATH_STEPS)
    return model.tuned(steps or getattr(todo, "levels", GROW_STEPS) if todo.kind == "keep" else steps)


def _bounds(part: Part, sizes: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    """Return the bounds that were asked for, or the part's own, with at least one element more than stays."""
    low, high = part.sizes if sizes == (None, None) else sizes
    least = len(part) + 1
    if high is not None and high < least:
        raise UserError(f"--size allows {high} at most, and {len(part)} stay; allow {least} or more, or keep fewer")
    return max(low or least, least), high


def _keep(model: Model, part: Part, sampler: Sampler, resamples: int, wish: Wish, weight: float = 0.0) -> Make:
    """Return how to draw samples of which a part is known; walks are guided to agree with it if there is a `weight`.

    The known elements come first. Where their place in the frame of the state is not known before the rest is, it moves
    with the state (:meth:`gendiff.space.ZeroCenterOfMass.impose`), or the entries that it decides are free.
    """
    if resamples < 1:
        raise UserError(f"--resamples must be at least 1, got {resamples}")
    process = model.denoiser.process
    plan = (
        guided_plan(model, sampler, -(-resamples // GRADIENT)) if weight else resampled_plan(model, sampler, resamples)
    )
    moving = getattr(part, "adrift", ())
    frame = adrift(process, moving)

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask = size_mask(sizes).to(model.device)
        known = _padded(part, mask)
        first = size_mask(torch.full_like(sizes, len(part)), mask.shape[1])
        keep = {name: first.clone() for name in known}
        for name, entries in part.known.items():
            keep[name][:, : len(part)] = entries
        keep = {name: entries.to(model.device) for name, entries in keep.items()}
        denoiser = wish.denoiser
        if weight:
            denoiser = Gradient(denoiser, agreement(known, keep, frame), weight, at="data")
        x = process.prior(process.noise(mask, random), mask)
        # cuDNN has no gradients of recurrent networks that evaluate
        with torch.backends.cudnn.flags(enabled=False) if weight else nullcontext():
            x = sampler(denoiser, x, mask, told, random, [Framed(known, keep, frame, moving)], plan, tick)
        records = model.modality.decode(x, mask, told)
        part.place(records)
        return records

    return make


def _noise(model: Model, part: Part, strength: float, sampler: Sampler, wish: Wish) -> Make:
    """Return how to draw variations of a part."""
    if not 0 <= strength <= 1:
        raise UserError(f"--strength must lie in [0, 1] (0 the input itself, 1 a fresh sample), got {strength:g}")

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask = size_mask(sizes).to(model.device)
        x = sdedit(sampler, wish.denoiser, _padded(part, mask), strength, mask, told, random)
        records = model.modality.decode(x, mask, told)
        part.place(records, strength=f"{strength:g}")
        return records

    return make


def _ask(model: Model, part: Part, sampler: Sampler, wish: Wish) -> Make:
    """Return how to draw samples by the condition that a part is."""
    process = model.denoiser.process

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask = size_mask(sizes).to(model.device)
        x = process.prior(process.noise(mask, random), mask)
        records = model.modality.decode(sampler(wish.denoiser, x, mask, told, random, progress=tick), mask, told)
        part.place(records)
        return records

    return make


def _path(
    model: Model,
    first: Part,
    second: Part,
    n: int,
    seed: int,
    walker: Sampler,
    wish: Wish,
    batch_size: int,
    progress: Progress | None,
) -> Drawn:
    r"""Return n samples on the way from one part to another.

    .. math::
        x_u = \mathrm{decode}\left(\frac{\sin((1 - u)\theta)}{\sin\theta} z_1 + \frac{\sin(u\theta)}{\sin\theta} z_2
        \right), \qquad \cos\theta = \frac{\langle z_1, z_2\rangle}{\|z_1\| \|z_2\|}

    z are the latent codes of Heun's method. Elements are matched first, and the second sample is turned onto the first.
    Of unlike sizes, the smaller code is filled up with noise, and the number of elements goes linearly from one to the
    other: what has no partner comes out of the noise, or goes into it, one element after another, in its place among
    the rows (:attr:`gendiff.modality.Part.order`).
    """
    if n < 2:
        raise UserError(f"-n must be at least 2 for a path, both ends included, got {n}")
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
        codes = walker.encode(wish.denoiser, centred, mask, _on(model, wish(torch.tensor([0, n - 1]))))
    except ValueError as error:
        raise UserError(str(error)) from None
    full = torch.ones_like(mask[:1])
    noise = process.prior(process.noise(full, Random(seed, 1, model.device)), full)
    orders = torch.stack([_order(part, mask.shape[1]) for part in parts])
    rank = orders[lengths.argmax()].to(model.device)
    ends = {name: torch.where(mask[..., None], code, noise[name]) for name, code in codes.items()}
    ends = {name: torch.stack([x[rows] for x, rows in zip(end, orders, strict=True)]) for name, end in ends.items()}
    u = torch.linspace(0, 1, n)
    sizes = (lengths[0] + u * (lengths[1] - lengths[0]) + 0.5).floor().long()
    result = Drawn([None] * n, list(range(n)), n)
    batches = cut_batches(sizes, batch_size)
    for k, rows in enumerate(batches):
        mask, share = size_mask(sizes[rows]).to(model.device), u[rows].to(model.device)
        place = (rank[: mask.shape[1]] + ~mask * len(rank)).argsort(1)  # back to the rows of the larger one
        between = {name: slerp(code[0], code[1], share) for name, code in ends.items()}
        x = {
            name: process[name].space.project(torch.take_along_dim(code, place[..., None], 1), mask)
            for name, code in between.items()
        }
        told = _on(model, wish(rows))
        tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
        x = walker(wish.denoiser, x, mask, told, progress=tick)
        for name, (here, there) in places.items():
            x[name] = x[name] + torch.lerp(here, there, expand(share, x[name])) * mask[..., None]
        for row, record in zip(rows.tolist(), model.modality.decode(x, mask, told), strict=True):
            first.place([record], interpolation=f"{float(u[row]):.4g}")
            result.records[row] = record
    result.remark = first.remark(result.records)
    return result


def _order(part: Part, length: int) -> Tensor:
    """Return the order of a part's elements, (length,): those that it has not come last."""
    own = torch.arange(len(part)) if part.order is None else part.order
    return torch.cat([own, torch.arange(len(part), length)])


def _on(model: Model, told: State | None) -> State | None:
    return None if told is None else {name: value.to(model.device) for name, value in told.items()}


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
