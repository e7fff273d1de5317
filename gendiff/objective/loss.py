"""What all training losses of a noisy state share: time, noise, condition, estimate, sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.denoise import Estimate, null_condition
from gendiff.objective.coupling import Coupling
from gendiff.objective.times import Times, Uniform
from gendiff.objective.uncertainty import Uncertainty
from gendiff.ops import Random, State, expand
from gendiff.process import JointProcess


def drop_condition(condition: State, probability: float, random: Random) -> State:
    """Return `condition` with all values of a sample missing, with this probability (classifier-free guidance).

    Of several conditions each also goes missing on its own, as often, so that any of them can be asked for alone.
    """
    batch, null = len(random.indices), null_condition(condition)
    dropped = (random.uniform((batch,)) < probability)[:, None].expand(batch, len(condition))
    if len(condition) > 1:
        dropped = dropped | (random.uniform((batch, len(condition))) < probability)
    return {
        name: torch.where(expand(dropped[:, k], condition[name]), null[name], condition[name])
        for k, name in enumerate(sorted(condition))
    }


def idle(estimate: Estimate, name: str, mask: Tensor | None) -> Tensor:
    """Return the loss of a field that is given, (B,): zero.

    It hangs on what the network puts out of the field, if anything: several processes that train together wait for a
    gradient of every weight.
    """
    zero = torch.zeros_like(estimate.t)
    output = estimate.output.get(name)
    return zero if output is None else zero + 0 * estimate.process[name].space.sum(output, mask)


class Loss(nn.Module):
    """Interface of a loss at one random time per sample; a subclass writes :meth:`errors`.

    A loss is a module, so that what it learns (:class:`Uncertainty`) and remembers (:class:`LossAware`) is trained and
    stored beside the denoiser.

    Arguments:
        scale: Factor of each field in the sum (1).
        times: Law of the times (uniform).
        condition_dropout: Probability with which a sample loses its condition, for classifier-free guidance (0.1); of
            several conditions each also goes missing on its own, as often.
        self_condition: Probability with which a batch sees the network's first estimate (0.5), if the denoiser takes
            one.
        coupling: Chooses which noise a sample of a batch gets (independent).
        uncertainty: Learned weight of the loss at each time (none).

    Raises:
        ValueError: for a probability outside [0, 1].
    """

    def __init__(
        self,
        scale: Mapping[str, float] | None = None,
        times: Times | None = None,
        condition_dropout: float = 0.1,
        self_condition: float = 0.5,
        coupling: Coupling | None = None,
        uncertainty: Uncertainty | None = None,
    ):
        super().__init__()
        if not 0 <= condition_dropout <= 1 or not 0 <= self_condition <= 1:
            raise ValueError(f"probabilities must lie in [0, 1], got {condition_dropout} and {self_condition}")
        self.scale, self.times = dict(scale or {}), times or Uniform()
        self.condition_dropout, self.self_condition = condition_dropout, self_condition
        self.coupling, self.uncertainty = coupling, uncertainty

    def forward(
        self, denoiser: Any, x_0: State, mask: Tensor | None, condition: State | None, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each sample, shape (B,), and its parts by field, before the factors of the fields.

        Arguments:
            denoiser: What is trained, a :class:`gendiff.denoise.Denoiser`.
            x_0: Clean state.
            mask: (B, N), True where a sample really has an element; None if everywhere.
            condition: Condition of each sample or None.
            random: One stream per sample.

        Raises:
            ValueError: if the state has other fields than the process, or one has another shape than its space.
        """
        process = denoiser.process
        process.check(x_0)
        mask = process.everywhere(x_0) if mask is None else mask
        t, factor = self.draw(random, process)
        noise = process.noise(mask, random)
        if self.coupling is not None:
            noise = self.coupling(process, x_0, noise, mask, random)
        x_t = process.corrupt(x_0, t, noise, mask)
        if condition:
            condition = drop_condition(condition, self.condition_dropout, random)
        parts = self.errors(denoiser, x_0, x_t, noise, t, mask, condition, random)
        total = torch.stack([self.scale.get(name, 1.0) * part for name, part in parts.items()]).sum(0)
        if self.training:
            self.times.update(t, total.detach())
        if self.uncertainty is not None:
            u = self.uncertainty(t, process)
            total = total * (-u).exp() + u
        return factor * total, {name: factor * part for name, part in parts.items()}

    def draw(self, random: Random, process: JointProcess) -> tuple[Tensor, Tensor]:
        """Return the time of each sample and the factor of its loss, both (B,)."""
        return self.times(random, process)

    def errors(
        self,
        denoiser: Any,
        x_0: State,
        x_t: State,
        noise: State,
        t: Tensor,
        mask: Tensor | None,
        condition: State | None,
        random: Random,
    ) -> dict[str, Tensor]:
        """Return the loss of each field, per degree of freedom, shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define errors")

    def estimate(
        self, denoiser: Any, x_t: State, t: Tensor, mask: Tensor | None, condition: State | None, random: Random
    ) -> Estimate:
        """Return what the denoiser says of `x_t`; some batches see a first estimate (self-conditioning)."""
        previous = None
        if getattr(denoiser, "self_condition", False) and random.shared_uniform() < self.self_condition:
            with torch.no_grad():
                previous = denoiser(x_t, t, mask, condition).data
        return denoiser(x_t, t, mask, condition, previous)
