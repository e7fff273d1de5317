"""What a denoiser says of a noisy state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from gendiff.ops import State, expand
from gendiff.process import Categorical, GaussianProcess, JointProcess, Normal
from gendiff.schedule import coefficients


@dataclass
class Estimate:
    """What a denoiser says of x_t, by field.

    Attributes:
        data: E[x_0 | x_t] of Gaussian fields, probabilities of categorical ones.
        logits: Log-probabilities up to a constant, of the fields that have them.
        output: What the network put out (training only).
        fraction: Learned variance of Gaussian fields, where the network has one: 0 to 1 between the small and the large
            variance of the reverse law, for each entry. See :meth:`reverse`.
        variance: E Var(x_0 | x_t) of each degree of freedom of Gaussian fields, where it is known
            (:class:`~gendiff.denoise.AnalyticVariance`); broadcasts over the field.
    """

    process: JointProcess
    x_t: State
    t: Tensor
    data: State
    logits: State = field(default_factory=dict)
    output: State = field(default_factory=dict)
    fraction: State = field(default_factory=dict)
    variance: State = field(default_factory=dict)

    def _gaussian(self, formula: Callable[[str, Tensor, Tensor], Tensor]) -> State:
        result = {}
        for name, process in self.process.items():
            if not process.categorical:
                result[name] = formula(name, *coefficients(process.schedule, self.t, self.x_t[name]))
        return result

    @property
    def noise(self) -> State:
        """E[noise | x_t] = (x_t - alpha x_0) / sigma, of Gaussian fields."""
        return self._gaussian(lambda name, a, s: (self.x_t[name] - a * self.data[name]) / s)

    @property
    def score(self) -> State:
        """The gradient of log p(x_t), -E[noise | x_t] / sigma, of Gaussian fields."""
        return self._gaussian(lambda name, a, s: (a * self.data[name] - self.x_t[name]) / s**2)

    @property
    def v(self) -> State:
        """Alpha E[noise | x_t] - sigma E[x_0 | x_t], of Gaussian fields."""
        return self._gaussian(lambda name, a, s: a * (self.x_t[name] - a * self.data[name]) / s - s * self.data[name])

    @property
    def velocity(self) -> State:
        """The probability-flow dx_t/dt = alpha' E[x_0 | x_t] + sigma' E[noise | x_t], of Gaussian fields."""
        noise = self.noise
        result = {}
        for name in noise:
            alpha, sigma = (expand(d, self.x_t[name]) for d in self.process[name].schedule.derivatives(self.t))
            result[name] = alpha * self.data[name] + sigma * noise[name]
        return result

    def reverse(self, name: str, s: Tensor, mask: Tensor | None = None) -> Normal | Categorical:
        """Return p(x_s | x_t) of a field at times s < t, shape (B,): the posterior with this estimate of the data.

        Its variance is the learned or the analytic one where the estimate has it, else the small one; see
        :meth:`gendiff.process.GaussianProcess.posterior`.
        """
        process, x_t, data = self.process[name], self.x_t[name], self.data[name]
        if isinstance(process, GaussianProcess):
            return process.posterior(x_t, data, self.t, s, mask, self.fraction.get(name), self.variance.get(name))
        return process.posterior(x_t, data, self.t, s, mask)

    def kl(self, name: str, x_0: Tensor, s: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Return KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of a field in nats, shape (B,), p as in :meth:`reverse`.

        It is 0 for s = 0, a step that has none.
        """
        process: Any = self.process[name]
        inner = torch.where(s == 0, self.t / 2, s)  # keeps the unused branch finite, and so its gradient
        kl: Tensor = process.posterior(self.x_t[name], x_0, self.t, inner, mask).kl(self.reverse(name, inner, mask))
        return torch.where(s == 0, torch.zeros_like(kl), kl)

    def bound_term(self, x_0: State, s: Tensor, mask: Tensor | None = None) -> State:
        """Return the term of the variational bound for the step to s, in nats, shape (B,), by field.

        It is that of :meth:`gendiff.process.JointProcess.bound_term`; where the variance of the reverse law is learned
        or analytic, the divergence has it. Fields with logits are reconstructed as categories.
        """
        terms = self.process.bound_term(x_0, self.x_t, self.data, self.t, s, mask, self.logits.keys())
        for name in {*self.fraction, *self.variance}:
            terms[name] = torch.where(s == 0, terms[name], self.kl(name, x_0[name], s, mask))
        return terms


class AnyDenoiser(Protocol):
    """A denoiser, exact or learned, guided or not.

    One that has `takes_levels` is given `levels` too, alpha, sigma and log(alpha / sigma) of each field as numbers,
    where the plan knows them.
    """

    process: JointProcess

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the estimate of the clean data; see :meth:`gendiff.denoise.Denoiser.forward`."""
