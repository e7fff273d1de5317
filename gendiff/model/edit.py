r"""New samples made from given ones, by any model whose modality names tasks.

A modality has words of its own for them (:attr:`gendiff.modality.Modality.tasks`); there are six kinds:

========  ==============================================================================================================
kind      what it does
========  ==============================================================================================================
"keep"    known elements, or entries of a whole, stay as they are and the rest is drawn around them: replacement, with
          steps walked down and up again `resamples` times (RePaint), so that what is known and what is drawn come to
          agree; a task may ask for guidance towards this besides (:mod:`gendiff.model.keep`)
"fix"     known fields stay as they are, those of all elements, and the other fields are drawn: replacement
"noise"   noise the input to time `strength` and take it back (SDEdit); all of it may change, its size does not
"follow"  the means of the blocks of a grid stay, all else is drawn (ILVR)
"path"    the way from one sample to another through their latent codes
"ask"     nothing stays; the input becomes a condition, by which samples are drawn
========  ==============================================================================================================

References:
    | DiffLinker (Igashov et al., 2022), the task | https://arxiv.org/abs/2210.05274
    | SDEdit (Meng et al., 2021) | https://arxiv.org/abs/2108.01073
    | RePaint (Lugmayr et al., 2022) | https://arxiv.org/abs/2201.09865
    | ILVR (Choi et al., 2021) | https://arxiv.org/abs/2108.02938
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
from gendiff.guide import ILVR, Gradient, Replacement, sdedit
from gendiff.guide.constraint import offset
from gendiff.modality import Part, Task
from gendiff.model.batches import affordable, cut_batches
from gendiff.model.drawn import Drawn, collect
from gendiff.model.keep import GRADIENT, Framed, adrift, agreement, guided_plan, resampled_plan
from gendiff.model.model import Model, guided
from gendiff.model.tasks import INTACT, SIZED, check, chosen, find_task, sampler_of, walks
from gendiff.ops import Random, State, expand, size_mask
from gendiff.sample import Sampler
from gendiff.sizes import SizeModel

NUMBER = 40
"""How many samples are made of one input, by default."""

Progress = Callable[[int, int], Any]
Make = Callable[[Tensor, Random, State | None, Progress | None], list[Any]]
"""Sizes (B,), their streams and what the network is told, to records."""


@torch.no_grad()
def edit(
    model: Model,
    records: Any,
    task: str | None = None,
    n: int | None = None,
    *,
    seed: int = 0,
    which: Sequence[int] | int | None = None,
    keep: Sequence[int] | None = None,
    side: float | None = None,
    sizes: tuple[int | None, int | None] = (None, None),
    strength: float | None = None,
    steps: int | None = None,
    resamples: int | None = None,
    condition: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    only: Sequence[str] | str = (),
    batch_size: int = 256,
    max_draws: int | None = None,
    begin: Callable[[list[Part]], Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Drawn:
    """Return `n` new records made from given ones.

    Sample i depends on the input, `seed` and i alone. Those of a path are numbered along the way: 0 is the first input
    and n - 1 the second. Where a modality takes several inputs at once (images), sample i is made of number i modulo
    their number.

    Arguments:
        model: The model.
        records: What the modality's `read_parts` returned, or a list of records: one input, or two for a path; of
            images any number.
        task: A word of the modality (its first, or the one that fits input and options): molecules "grow", "link",
            "vary", "isomers", "interpolate"; sketches "complete", "continue", "heal", "vary", "interpolate", "trace";
            images "inpaint", "uncrop", "vary", "like", "interpolate", or, by a model that restores, what it was trained
            for of "enlarge", "colourise", "repair", "inpaint", "uncrop".
        n: How many to return (40, or one for each of several inputs); of a path the steps of the way, both ends
            included.
        seed: Seed.
        which: Numbers, from 1, of the records to take (all).
        keep: Of the kind "keep": numbers, from 1, of what stays (all): atoms, strokes.
        side: How large the finished sample is to be in the input's unit, for data that come in any unit (sketches;
            images that are continued beyond their edges, in pixels of the input).
        sizes: Of the kinds "keep" and "ask": smallest and largest number of elements of the result. By default p(N) of
            the model, with at least one element more than stays, or as the modality proposes.
        strength: Of the kind "noise": from 0, the input itself, to 1, a fresh sample (as the task has it, 0.3).
        steps: Steps of the time grid: by default 16 of the kind "keep", or as the task has it (to complete a sketch
            7, to fill in an image 20), 50 of Heun's method for a path, else those of the model.
        resamples: Of the kind "keep": how often each step is walked (24, of images 9), a third as often where walks are
            guided, each of which costs three; 1 is plain replacement.
        condition: What is asked for, as :meth:`Model.draw` takes it; it comes before what the input itself says.
        guidance: Scale of classifier-free guidance, 1 for the conditional model as it is (the model's own).
        only: Keep only records that meet these words of the modality ("valid", "connected") and, with "intact", are
            what was to stay as it is (:meth:`gendiff.modality.Part.intact`: molecules with the bonds of the input among
            the atoms that were kept, or isomers of the input); draw on until there are n. Not for a path.
        batch_size: Samples computed together.
        max_draws: Give up after this many draws (100 n with `only`).
        begin: Called with what the edit starts from, once all is checked and before the work.
        progress: Called with (steps done, steps in all) in each round of draws.
        options: What else the task takes. Of images "inpaint" and "uncrop" take `mask`, what is to be drawn: booleans
            (H, W), or (k, H, W) for k inputs, or the file of a picture in which it is white, and `box`, a rectangle (x,
            y, width, height) that is to be drawn; "like" takes `factor`, the side of its blocks in pixels.

    Raises:
        UserError: for an input that does not fit the task or the model, bad numbers, or when `only` keeps (nearly)
            nothing.
    """
    records = chosen(records, which)
    options = {name: value for name, value in {"side": side, **options}.items() if value is not None}
    task, todo = find_task(model.modality, task, records, options)
    only = only.replace(",", " ").split() if isinstance(only, str) else only
    numbers: dict[str, Any] = {"strength": strength, "steps": steps, "resamples": resamples, "batch_size": batch_size}
    check(model, task, n, keep=keep, sizes=sizes, condition=condition, only=only, **numbers, **options)
    parts = model.modality.parts(records, task, keep, **options)
    if INTACT in only:
        parts[0].intact([])  # refuses what it cannot say
    whole = parts[0].whole
    if whole and sizes != (None, None):
        raise UserError(f"--size: what comes of {task} is as large as the model has it; leave it out")
    n = (len(parts) if todo.kind != "path" and len(parts) > 1 else NUMBER) if n is None else n
    if todo.kind != "path" and n < len(parts):
        raise UserError(f"-n {n} makes fewer than the {len(parts):,} that are given; --which 1 takes the first alone")
    wish = Wish.of(model, parts, todo, condition, guidance)
    walker = sampler_of(model, task, steps)
    bounds = None if whole or todo.kind in SIZED else _bounds(model, parts[0], sizes, wish)
    if begin is not None:
        begin(parts)
    with model.evaluating():
        if todo.kind == "path":
            return _path(model, parts[0], parts[1], n, seed, walker, wish, batch_size, progress)
        if todo.kind == "noise":
            make = _noise(model, parts, todo.strength if strength is None else strength, walker, wish)
        elif todo.kind == "keep":
            make = _keep(model, parts, walker, todo, walks(todo, resamples), wish)
        elif todo.kind == "fix":
            make = _fix(model, parts, walker, wish)
        else:
            make = _ask(model, parts, walker, wish, todo.kind == "follow")

        def draw(indices: Tensor) -> list[Any]:
            random, told = Random(seed, indices), wish(indices)
            fixed = torch.tensor([len(part) for part in parts])[indices % len(parts)]
            numbers = _sizes(model, parts[0], random, bounds, told) if bounds else fixed
            return _batched(model, make, numbers, random, told, batch_size, progress)

        words = [word for word in only if word != INTACT]

        def good(records: list[Any]) -> list[bool]:
            met = model.modality.keep(records, words, set()) if words else [True] * len(records)
            stays = parts[0].intact(records) if INTACT in only else met
            return [a and b for a, b in zip(met, stays, strict=True)]

        result = collect(n, draw, good, only, batch_size, max_draws)
        result.remark = parts[0].remark(result.records)
        return result


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
        names = () if todo.kind == "path" else parts[0].condition
        own = {name: torch.cat([part.condition[name] for part in parts]) for name in names}
        asked = {**own, **model.modality.condition(condition or {})}
        return cls(guided(model, guidance, asked, skip=todo.kind != "path"), asked)

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
    batches = cut_batches(sizes, affordable(batch_size, model.denoiser.process), model.device)
    for k, rows in enumerate(batches):
        stream = random.select(rows)
        stream = Random(stream.seed, stream.indices, model.device, stream.draws)
        some = None if told is None else _on(model, {name: value[rows] for name, value in told.items()})
        tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
        for row, record in zip(rows.tolist(), make(sizes[rows], stream, some, tick), strict=True):
            records[row] = record
    return records


def _sizes(
    model: Model, part: Part, random: Random, bounds: tuple[int | None, int | None], told: State | None
) -> Tensor:
    """Draw how many elements each sample has, (B,): by what the part says of sizes, else as the model does."""
    if part.counts is not None:
        return SizeModel(dict(part.counts)).sample(random, *bounds)
    return model.modality.draw_sizes(random, *bounds, told)


def _bounds(
    model: Model, part: Part, sizes: tuple[int | None, int | None], wish: Wish
) -> tuple[int | None, int | None]:
    """Return the bounds that were asked for, or the part's own, with at least one element more than stays.

    Raises:
        UserError: if they leave no size that the model knows.
    """
    low, high = part.sizes if sizes == (None, None) else sizes
    least = len(part) + 1
    if high is not None and high < least:
        raise UserError(f"--size allows {high} at most, and {len(part)} stay; allow {least} or more, or keep fewer")
    bounds = max(low or least, least), high
    try:
        _sizes(model, part, Random(0, 1), bounds, wish(torch.zeros(1, dtype=torch.long)))
    except UserError as error:
        hint = f"{part.hint}; " if part.hint else ""
        raise UserError(f"{error}; {hint}--size bounds the size of the result") from None
    return bounds


def _keep(model: Model, parts: Sequence[Part], sampler: Sampler, todo: Task, resamples: int, wish: Wish) -> Make:
    """Return how to draw samples of which a part is known; walks are guided to agree with it if the task says so.

    The known elements come first. Where their place in the frame of the state is not known before the rest is, it moves
    with the state (:meth:`gendiff.space.ZeroCenterOfMass.impose`), or the entries that it decides are free.
    """
    process, weight = model.denoiser.process, todo.agreement
    plan = (
        guided_plan(model, sampler, -(-resamples // GRADIENT)) if weight else resampled_plan(model, sampler, resamples)
    )
    moving = parts[0].adrift
    frame = adrift(process, moving)

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask, own = size_mask(sizes).to(model.device), _own(parts, random)
        known = _padded(own, mask)
        keep = {name: _stacked(own, [_known(part, name) for part in own], mask, 0) for name in known}
        denoiser = wish.denoiser
        if weight:
            denoiser = Gradient(denoiser, agreement(known, keep, frame), weight, at="data")
        x = process.prior_given(process.noise(mask, random), mask, known, keep)
        # cuDNN has no gradients of recurrent networks that evaluate
        with torch.backends.cudnn.flags(enabled=False) if weight else nullcontext():
            x = sampler(denoiser, x, mask, told, random, [Framed(known, keep, frame, moving)], plan, tick)
        return _placed(own, model.modality.decode(x, mask, told))

    return make


def _fix(model: Model, parts: Sequence[Part], sampler: Sampler, wish: Wish) -> Make:
    """Return how to draw samples that share some fields with a part."""
    process = model.denoiser.process

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask, own = size_mask(sizes).to(model.device), _own(parts, random)
        known = _padded(own, mask)
        keep = dict.fromkeys(known, mask)
        x = process.prior_given(process.noise(mask, random), mask, known, keep)
        x = sampler(wish.denoiser, x, mask, told, random, [Replacement(known, keep)], progress=tick)
        return _placed(own, model.modality.decode(x, mask, told))

    return make


def _noise(model: Model, parts: Sequence[Part], strength: float, sampler: Sampler, wish: Wish) -> Make:
    """Return how to draw variations of a part."""

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask, own = size_mask(sizes).to(model.device), _own(parts, random)
        x = sdedit(sampler, wish.denoiser, _padded(own, mask), strength, mask, told, random)
        return _placed(own, model.modality.decode(x, mask, told), strength=f"{strength:g}")

    return make


def _ask(model: Model, parts: Sequence[Part], sampler: Sampler, wish: Wish, follow: bool = False) -> Make:
    """Return how to draw samples by the condition that a part is, and by the means of its blocks if they `follow`."""
    process = model.denoiser.process

    def make(sizes: Tensor, random: Random, told: State | None, tick: Progress | None) -> list[Any]:
        mask, own = size_mask(sizes).to(model.device), _own(parts, random)
        hooks = [ILVR(_padded(own, mask), parts[0].factor, bounds=parts[0].bounds)] if follow else []
        x = process.prior(process.noise(mask, random), mask)
        x = sampler(wish.denoiser, x, mask, told, random, hooks, progress=tick)
        return _placed(own, model.modality.decode(x, mask, told))

    return make


def _known(part: Part, name: str) -> Tensor:
    """Return which elements of a field are known, (K,), or which entries of a whole."""
    return part.known.get(name, torch.ones(len(part), dtype=torch.bool))


def _own(parts: Sequence[Part], random: Random) -> list[Part]:
    """Return the part that each sample is made of."""
    return [parts[number % len(parts)] for number in random.indices.tolist()]


def _placed(parts: Sequence[Part], records: list[Any], **facts: Any) -> list[Any]:
    """Return records, each moved to where the input that it was made of stands."""
    for part, record in zip(parts, records, strict=True):
        part.place([record], **facts)
    return records


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
    the rows (:attr:`gendiff.modality.Part.order`). Wholes, as images are, have nothing to match.
    """
    process = model.denoiser.process
    parts = first.match(second)
    lengths = torch.tensor([len(part) for part in parts])
    mask = size_mask(lengths).to(model.device)
    given, whole = _padded(parts, mask), first.whole
    centred = {name: process[name].space.project(value, mask) for name, value in given.items()}
    places = {name: offset(process[name].space, value, mask)[:, :1] for name, value in given.items()}
    try:
        codes = walker.encode(wish.denoiser, centred, mask, _on(model, wish(torch.tensor([0, n - 1]))))
    except ValueError as error:
        raise UserError(str(error)) from None
    ends = codes
    if not whole:
        full = torch.ones_like(mask[:1])
        noise = process.prior(process.noise(full, Random(seed, 1, model.device)), full)
        orders = torch.stack([_order(part, mask.shape[1]) for part in parts])
        rank = orders[lengths.argmax()].to(model.device)
        ends = {name: torch.where(mask[..., None], code, noise[name]) for name, code in codes.items()}
        ends = {name: torch.stack([x[rows] for x, rows in zip(end, orders, strict=True)]) for name, end in ends.items()}
    u = torch.linspace(0, 1, n)
    sizes = (lengths[0] + u * (lengths[1] - lengths[0]) + 0.5).floor().long()
    result = Drawn([None] * n, list(range(n)), n)
    batches = cut_batches(sizes, affordable(batch_size, process), model.device)
    for k, rows in enumerate(batches):
        mask, share = size_mask(sizes[rows]).to(model.device), u[rows].to(model.device)
        x = {name: slerp(code[0], code[1], share) for name, code in ends.items()}
        if not whole:
            place = (rank[: mask.shape[1]] + ~mask * len(rank)).argsort(1)  # back to the rows of the larger one
            x = {name: torch.take_along_dim(code, place[..., None], 1) for name, code in x.items()}
        x = {name: process[name].space.project(code, mask) for name, code in x.items()}
        told = _on(model, wish(rows))
        tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
        x = walker(wish.denoiser, x, mask, told, progress=tick)
        for name, (here, there) in places.items():
            x[name] = x[name] + torch.lerp(here, there, expand(share, x[name])) * expand(mask, x[name])
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


def _padded(parts: Sequence[Part], mask: Tensor) -> State:
    """Return the fields of the part of each sample, padded with zeros to the length of `mask`."""
    return {name: _stacked(parts, [part.state[name] for part in parts], mask, 1) for name in parts[0].state}


def _stacked(parts: Sequence[Part], values: Sequence[Tensor], mask: Tensor, features: int) -> Tensor:
    """Return a tensor a part as one batch, the axis of elements, before those of `features`, as long as `mask`.

    A whole on a grid has no such axis; samples of it are one element, and nothing is padded.
    """
    padded = [
        torch.nn.functional.pad(value, (0, 0) * features + (0, mask.shape[1] - len(part)))
        for part, value in zip(parts, values, strict=True)
    ]
    return torch.stack(padded).to(mask.device)
