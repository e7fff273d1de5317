"""The exact denoiser of laws that are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.denoise.estimate import Estimate
from gendiff.ops import State, expand
from gendiff.process import TINY, CategoricalProcess, GaussianProcess, GivenProcess, JointProcess
from gendiff.schedule import coefficients


class AnalyticDenoiser(nn.Module):
    r"""The exact denoiser of a finite mixture, with no network: the yardstick under the tests of the core.

    Component k has weight :math:`w_k`; given it, all entries of all fields are independent: Gaussian fields are
    :math:`N(\mu_k, s_k^2)` (on their space), categorical ones have probabilities :math:`p_k`. Then

    .. math::
        E[x_0 | x_t] = \sum_k r_k E[x_0 | x_t, k], \qquad r_k \propto w_k \prod_\mathrm{fields} q(x_t | k),

    with :math:`E[x_0 | x_t, k] = \mu_k + \frac{\alpha s_k^2}{\alpha^2 s_k^2 + \sigma^2}(x_t - \alpha\mu_k)` for
    Gaussian fields, :math:`\propto p_k q(x_t | x_0)` for categorical ones, and x_t itself for given ones.

    Arguments:
        process: The forward process.
        weights: Weight of each of the K components.
        law: For a Gaussian field (means, deviations), both broadcastable to (K, *shape of one sample); for a
            categorical or given one its probabilities, broadcastable to (K, *shape of one sample). An integer condition
            "component" restricts the mixture to one component.
    """

    def __init__(self, process: JointProcess, weights: Sequence[float] | Tensor, law: Mapping[str, Any]):
        super().__init__()
        self.process = process
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.law = dict(law)

    def components(self, x_t: State, t: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return log q(x_t, k), shape (B, K), and E[x_0 | x_t, k] of each field, (B, K, ...)."""
        count = len(self.weights)
        log_joint = self.weights.to(x_t[self.process.clock]).log()[None]
        means = {}
        for name, process in self.process.items():
            x = x_t[name]
            wide, time = x.repeat_interleave(count, 0), t.repeat_interleave(count)
            wide_mask = None if mask is None else mask.repeat_interleave(count, 0)
            if isinstance(process, GaussianProcess):
                mean, std = (_spread(value, count, x) for value in self.law[name])
                alpha, sigma = coefficients(process.schedule, time, wide)
                variance = (alpha * std) ** 2 + sigma**2
                mean = process.space.project(mean, wide_mask)
                estimate = mean + alpha * std**2 / variance * (wide - alpha * mean)
                square = process.space.sum((wide - alpha * mean) ** 2 / variance, wide_mask)
                log_det = process.space.trace(variance.log().expand_as(wide), wide_mask)
                log_q = -0.5 * (square + log_det + process.space.dim(wide_mask, wide) * math.log(2 * math.pi))
            elif isinstance(process, CategoricalProcess):
                joint = _spread(self.law[name], count, x) * process.likelihood(wide, time)
                evidence = joint.sum(-1, keepdim=True).clamp(min=TINY)  # zero at padding
                estimate = joint / evidence
                log_q = process.space.sum(evidence.log(), wide_mask)
            elif isinstance(process, GivenProcess):
                estimate = wide
                log_q = process.space.sum(wide * _spread(self.law[name], count, x).clamp(min=TINY).log(), wide_mask)
            else:
                raise ValueError(f"AnalyticDenoiser knows Gaussian, categorical and given fields, not {type(process)}")
            means[name] = estimate.unflatten(0, (len(x), count))
            log_joint = log_joint + log_q.unflatten(0, (len(x), count))
        return log_joint, means

    def forward(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the exact estimate; arguments as :meth:`Denoiser.forward`."""
        log_joint, means = self.components(x_t, t, mask)
        if condition is not None:
            wanted = condition["component"][:, None]
            other = torch.arange(len(self.weights), device=wanted.device)[None] != wanted
            log_joint = log_joint.masked_fill(other & (wanted >= 0), -torch.inf)
        r = log_joint.softmax(1)
        data = {name: (expand(r, mean) * mean).sum(1) for name, mean in means.items()}
        data = {name: process.space.project(data[name], mask) for name, process in self.process.items()}
        categories = [name for name, p in self.process.items() if isinstance(p, CategoricalProcess)]
        logits = {name: data[name].clamp(min=TINY).log() for name in categories}
        return Estimate(self.process, x_t, t, data, logits)


def _spread(value: Any, count: int, like: Tensor) -> Tensor:
    """Return `value`, broadcastable to (K, *sample), once for each sample of `like`: shape (B K, *sample)."""
    wide = torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(count, *like.shape[1:])
    return wide.repeat(len(like), *[1] * (like.dim() - 1))
