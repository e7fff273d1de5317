"""The reverse process as records: how samples come out of noise.

Sampling is left as it is. :func:`film` hands `Model.draw_at` the sampler inside another one, which the model calls once
for each batch of nearly one size; it adds itself as the last hook, keeps some of the states, and has them decoded when
the batch is done. So the samples are those of `Model.draw`, whatever the modality, the sampler or the guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gendiff.denoise import AnyDenoiser
from gendiff.files import UserError
from gendiff.model.model import Model, prior_scale
from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample import Sampler
from gendiff.sample.plan import Plan, Step
from gendiff.sample.sampler import Hook

Decode = Callable[[State, Tensor, State | None], list[Any]]
"""States, (B, N) and what the network was told, to records."""


class _Recorder(Sampler):
    """A sampler that walks as another one does and keeps states on the way; it changes none and waits for no device.

    Arguments:
        sampler: The sampler that walks.
        frames: How many states of each walk to keep.
        decode: Turns them into records.
    """

    def __init__(self, sampler: Sampler, frames: int, decode: Decode):
        self.sampler, self.frames, self.decode = sampler, frames, decode
        self.records: dict[int, list[Any]] = {}
        """By number of the sample: its records at the states kept, but for the last."""
        self._wanted: list[int] = []
        self._states: list[State] = []

    def plan(self, process: JointProcess, start: float = 1.0) -> Plan:
        """Return the plan of the other sampler."""
        return self.sampler.plan(process, start)

    def __call__(
        self,
        denoiser: AnyDenoiser,
        x_t: State,
        mask: Tensor | None = None,
        condition: State | None = None,
        random: Random | None = None,
        hooks: Sequence[Hook] = (),
        plan: Plan | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> State:
        """Walk as the other sampler does; arguments as :class:`Sampler`, with the mask and the streams of a batch."""
        if mask is None or random is None:
            raise ValueError(
                "a film is recorded by Model.draw_at, which gives the mask and the random streams of a batch"
            )
        walked = self.plan(denoiser.process) if plan is None else plan
        self._wanted = stages(len(walked), self.frames)
        self._states = [_copy(x_t)]
        x = self.sampler(denoiser, x_t, mask, condition, random, (*hooks, self), plan, progress)
        decoded = [self.decode(state, mask, condition) for state in self._states]
        for row, index in enumerate(random.indices.tolist()):
            self.records[index] = [records[row] for records in decoded]
        return x

    def after(self, x: State, step: Step, process: JointProcess, mask: Tensor | None, random: Random) -> State:
        """Keep the state, if it is one of those wanted."""
        if step.number + 1 in self._wanted:
            self._states.append(_copy(x))
        return x

    def finish(self, x: State, process: JointProcess, mask: Tensor | None) -> State:
        """Return the finished sample as it is."""
        return x


def film(
    model: Model,
    n: int,
    frames: int = 12,
    seed: int = 0,
    steps: int | None = None,
    temperature: float | None = None,
    sampler: Sampler | str | None = None,
    **options: Any,
) -> list[list[Any]]:
    """Return how the first `n` samples of a seed come out of noise.

    Arguments:
        model: The model.
        n: How many samples.
        frames: At how many stages, evenly spaced in steps of the sampler, the pure noise and the sample among them. A
            sampler of fewer than `frames` - 1 steps gives one for each state that it passes.
        seed: Seed.
        steps: Steps of the sampler (its default).
        temperature: As :meth:`gendiff.model.Model.draw`.
        sampler: Another sampler, or the name of one, as :meth:`gendiff.model.Model.tuned`.
        options: `sizes`, `condition`, `guidance`, `guide`, `batch_size`, `progress`, and whatever else
            :meth:`gendiff.model.Model.draw_at` takes.

    Returns:
        By stage, from noise to data, the records of all samples: :math:`x_t` itself decoded, as if it were clean. The
        last are those of :meth:`gendiff.model.Model.draw` with the same arguments.

    Raises:
        ValueError: for frames < 2.
        UserError: for n < 1, and as :meth:`gendiff.model.Model.draw`.
    """
    if n < 1:
        raise UserError(f"-n must be at least 1, got {n}")
    if frames < 2:
        raise ValueError(f"frames must be at least 2, noise and data, got {frames}")
    chosen = model.tuned(steps, temperature, sampler)
    recorder = _Recorder(chosen, frames, model.modality.decode)
    last = model.draw_at(torch.arange(n), seed, recorder, prior_scale=prior_scale(chosen, temperature), **options)
    before = [recorder.records[index] for index in range(n)]
    return [*(list(stage) for stage in zip(*before, strict=True)), last]


def stages(steps: int, frames: int) -> list[int]:
    """Return after how many of `steps` steps to look, `frames` times from 0 to `steps` but without the last look."""
    frames = min(frames, steps + 1)
    return [round(k * steps / (frames - 1)) for k in range(frames - 1)]


def _copy(x: State) -> State:
    """A sampler may go on to write into its state."""
    return {name: value.clone() for name, value in x.items()}
