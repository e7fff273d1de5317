"""ILVR: the coarse structure of a reference, the details of the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gendiff.guide.constraint import Step, at_step, fitting, offset
from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.space import Space

LowPass = Callable[[Tensor, Tensor | None], Tensor]
"""(field, mask) to a field of the same shape: a linear projector."""


class ILVR:
    r"""After each step to a time s >= `until`, give the state the low frequencies of a noised reference.

    .. math:: x_s \leftarrow x_s + \phi(y_s - x_s), \qquad y_s \sim q(x_s | y)

    with :math:`\phi` the mean over blocks of a grid, spread over the block again, or a linear projector of the caller's
    for other fields. The reference is noised to the level of the new state, so with `until` = 0 the sample has
    :math:`\phi(x_0) = \phi(y)`. It comes back in the frame of the reference (its centre of mass). A step that adds
    noise leaves the state alone.

    Arguments:
        reference: y, the Gaussian fields to follow; others go free.
        factor: Side of a block in entries of the grid; must divide its size.
        until: Where to stop, a time in [0, 1] (0, follow to the end); the rest of the way is the model's.
        low_pass: :math:`\phi`, from (field, mask) to a field of the same shape, in the place of `factor`.
        bounds: With `factor`: the interval to which clean data will be clipped, as pixels are to bytes. In the last
            step the number that is added to a block is the one with which it has the mean when it is clipped.

    Raises:
        ValueError: unless exactly one of `factor` >= 1 and `low_pass` is given, or if `until` lies outside [0, 1], or
            for bounds without a `factor` or in the wrong order.

    References: | ILVR (Choi et al., 2021) | https://arxiv.org/abs/2108.02938
    """

    def __init__(
        self,
        reference: State,
        factor: int | None = None,
        until: float = 0.0,
        low_pass: LowPass | None = None,
        bounds: tuple[float, float] | None = None,
    ):
        if (factor is None) == (low_pass is None) or (factor is not None and factor < 1):
            raise ValueError(f"give ILVR either a factor >= 1 or a low_pass, got {factor} and {low_pass}")
        if not 0 <= until <= 1:
            raise ValueError(f"until must be a time in [0, 1] (0 follows the reference to the end), got {until}")
        if bounds is not None and (factor is None or bounds[0] >= bounds[1]):
            raise ValueError(f"bounds are the ends of an interval, with a factor, got {bounds} and {factor}")
        self.reference, self.factor, self.until, self.low_pass = reference, factor, until, low_pass
        self.bounds = bounds

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Return the state at time s with the low frequencies of the reference at time s.

        Raises:
            ValueError: for a categorical field, or a block mean of a field that is no grid of whole blocks.
        """
        if step.up:
            return x
        result = dict(x)
        for name, reference in self.reference.items():
            field = process[name]
            if field.categorical:
                raise ValueError(f"field {name!r} is categorical and has no low frequencies; use Replacement for it")
            centred = field.space.project(fitting(name, reference, x[name]), mask)
            target = at_step(name, centred, step, process, mask, random)
            low = self._low(name, target - x[name], field.space, mask)
            if self.bounds is not None and step.last:
                low = clipped_shift(x[name], block_mean(target, self.factor or 1), self.factor or 1, self.bounds)
            moved = x[name] + field.space.project(low, mask)
            result[name] = torch.where(step.s >= self.until, moved, x[name])
        return result

    def _low(self, name: str, x: Tensor, space: Space, mask: Tensor | None) -> Tensor:
        if self.low_pass is not None:
            return self.low_pass(x, mask)
        factor = self.factor or 1
        if space.kind != "grid" or any(side % factor for side in x.shape[2:]):
            raise ValueError(
                f"blocks of side {factor} do not tile field {name!r}, a {space.kind} of shape {tuple(x.shape[1:])};"
                " give another factor, or a low_pass"
            )
        return block_mean(x, factor)

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:
        """Return the sample in the frame of the reference."""
        return {**x, **{n: x[n] + offset(process[n].space, y, mask) for n, y in self.reference.items()}}


def block_mean(x: Tensor, factor: int) -> Tensor:
    """Return the mean over blocks of `factor` along each axis of a grid (B, D, *size), at every place of the block."""
    for axis in range(2, x.dim()):
        blocks = x.unflatten(axis, (-1, factor))
        x = blocks.mean(axis + 1, keepdim=True).expand_as(blocks).flatten(axis, axis + 1)
    return x


def clipped_shift(x: Tensor, mean: Tensor, factor: int, bounds: tuple[float, float]) -> Tensor:
    r"""Return the number c of each block of a grid for which mean(clip(x + c)) = mean, found by halving.

    Arguments:
        x: The grid, (B, D, *size).
        mean: What the means of its blocks are to be, at every place of the block, within the bounds.
        factor: Side of a block.
        bounds: Where values are clipped.
    """
    low, high = bounds
    rest = tuple(range(1, x.dim()))  # of each sample alone: none depends on the others of its batch
    less, more = ((end - x_end).expand_as(x) for end, x_end in ((low, x.amax(rest, True)), (high, x.amin(rest, True))))
    for _ in range(40):
        middle = (less + more) / 2
        short = block_mean((x + middle).clamp(low, high), factor) < mean
        less, more = torch.where(short, middle, less), torch.where(short, more, middle)
    return (less + more) / 2
