r"""Training losses.

Nearly all losses of the field are one squared error of the clean data under a weight that depends on t only:

==========  =========================================  =============================================================
weighting   w(t), with :math:`w \|x_0 - \hat x_0\|^2`  also known as
==========  =========================================  =============================================================
`network`   :math:`1 / c_\mathrm{out}^2`               the error of the network's own output: L_simple of DDPM
                                                       ("noise"), v, flow matching ("flow"), EDM ("karras")
`data`      1                                          x_0 loss
`noise`     SNR                                        L_simple, whatever the parameterization
`velocity`  :math:`(\alpha' - \sigma'\alpha/\sigma)^2`  flow matching, on any schedule
`min_snr`   min(SNR, 5)                                min-SNR-gamma
==========  =========================================  =============================================================

Fields of logits take the cross-entropy. :class:`Bound` is the variational bound itself. Every loss is a mean over the
real degrees of freedom of a sample, so padding and the other samples of a batch never change it.

References:
    | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    | Flow matching for generative modeling (Lipman et al., 2022) | https://arxiv.org/abs/2210.02747
    | Efficient diffusion training via min-SNR weighting (Hang et al., 2023) | https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gendiff.config import Configurable
from gendiff.denoise import Denoiser, null_condition
from gendiff.ops import Random, State, expand

WEIGHTINGS = ("network", "data", "noise", "velocity", "min_snr")


class Uniform(Configurable):
    """Times drawn uniformly from (0, 1], independently for every sample."""

    def __call__(self, random: Random) -> Tensor:
        """Return times, shape (B,)."""
        return random.uniform((len(random.indices),))


class Power(Configurable):
    """Times u^power, u uniform: power > 1 looks more often near the data (Beta(1/power, 1)).

    Arguments:
        power: Exponent (1.5).
    """

    def __init__(self, power: float = 1.5):
        if power <= 0:
            raise ValueError(f"power must be positive, got {power}")
        self.power = power

    def __call__(self, random: Random) -> Tensor:
        """Return times, shape (B,)."""
        return random.uniform((len(random.indices),)) ** self.power


def drop_condition(condition: State, probability: float, random: Random) -> State:
    """Return `condition` with all values of a sample missing, with this probability (classifier-free guidance)."""
    dropped = random.uniform((len(random.indices),)) < probability
    null = null_condition(condition)
    return {name: torch.where(expand(dropped, value), null[name], value) for name, value in condition.items()}


class Objective(Configurable):
    """Squared error under a weighting, cross-entropy for fields of logits.

    Arguments:
        weighting: Row of the table above, for all Gaussian fields or by field.
        scale: Factor of each field in the sum (1).
        times: Law of the times.
        max_weight: Largest weight relative to an error of the clean data; bounds 1/sigma^2 near t = 0. None: no bound.
        condition_dropout: Probability with which a sample loses its condition, for classifier-free guidance (0.1).
        self_condition: Probability with which a batch sees the network's first estimate (0.5), if the denoiser takes
            one.
    """

    def __init__(
        self,
        weighting: str | Mapping[str, str] = "network",
        scale: Mapping[str, float] | None = None,
        times: Uniform | Power | None = None,
        max_weight: float | None = None,
        condition_dropout: float = 0.1,
        self_condition: float = 0.5,
    ):
        names = [weighting] if isinstance(weighting, str) else list(weighting.values())
        for name in names:
            if name not in WEIGHTINGS:
                raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {name!r}")
        if not 0 <= condition_dropout <= 1 or not 0 <= self_condition <= 1:
            raise ValueError(f"probabilities must lie in [0, 1], got {condition_dropout} and {self_condition}")
        self.weighting = weighting if isinstance(weighting, str) else dict(weighting)
        self.scale, self.times, self.max_weight = dict(scale or {}), times or Uniform(), max_weight
        self.condition_dropout, self.self_condition = condition_dropout, self_condition

    def __call__(
        self, denoiser: Denoiser, x_0: State, mask: Tensor | None, condition: State | None, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each sample, shape (B,), and its parts by field, before their factors.

        Arguments:
            denoiser: What is trained.
            x_0: Clean state.
            mask: (B, N) or None.
            condition: Condition of each sample or None.
            random: One stream per sample.
        """
        t = self.times(random)
        noise = denoiser.process.noise(mask, random)
        x_t = denoiser.process.corrupt(x_0, t, noise, mask)
        if condition:
            condition = drop_condition(condition, self.condition_dropout, random)
        previous = None
        if denoiser.self_condition and random.shared_uniform() < self.self_condition:
            with torch.no_grad():
                previous = denoiser(x_t, t, mask, condition).data
        estimate = denoiser(x_t, t, mask, condition, previous)
        parts = {}
        for name, process in denoiser.process.items():
            space, x = process.space, x_0[name]
            if denoiser.parameterization[name] == "logits":
                error = -(x * estimate.logits[name].log_softmax(-1)).sum(-1, keepdim=True)
                parts[name] = space.sum(error, mask) / space.count(mask, x).clamp(min=1)
                continue
            # In the network's own units x_0 = c_skip x_t + c_out F the target is an exact mix of x_0 and noise: no
            # digits are lost near t = 0.
            alpha, sigma, skip, out = denoiser.row(name, t, x)
            target = (1 - skip * alpha) / out * x - skip * sigma / out * noise[name]
            output = space.project(estimate.output[name].to(x.dtype), mask)
            weight = self.weight(denoiser, name, t) * out.flatten(1)[:, 0] ** 2
            parts[name] = weight * space.sum((output - target) ** 2, mask) / space.dim(mask, x).clamp(min=1)
        total = torch.stack([self.scale.get(name, 1.0) * part for name, part in parts.items()]).sum(0)
        return total, parts

    def weight(self, denoiser: Denoiser, name: str, t: Tensor) -> Tensor:
        """Return w(t) of a field: the weight of a squared error of its clean data, shape (B,)."""
        schedule = denoiser.process[name].schedule
        kind = self.weighting if isinstance(self.weighting, str) else self.weighting.get(name, "network")
        if kind == "data":
            weight = torch.ones_like(t)
        elif kind == "network":
            out = denoiser.row(name, t, t)[3].expand_as(t)
            weight = 1 / out**2
        elif kind == "velocity":
            (alpha, sigma), (d_alpha, d_sigma) = (schedule.alpha(t), schedule.sigma(t)), schedule.derivatives(t)
            weight = (d_alpha - d_sigma * alpha / sigma) ** 2
        else:
            snr = schedule.log_snr(t).exp()
            weight = snr.clamp(max=5.0) if kind == "min_snr" else snr
        return weight if self.max_weight is None else weight.clamp(max=self.max_weight)


class Bound(Configurable):
    """One random term of the T of :func:`gendiff.likelihood.variational_bound`, times T: an unbiased estimate of it.

    Arguments:
        steps: T, the number of steps of the discrete chain (1000).

    References: | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def __init__(self, steps: int = 1000):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps = steps

    def __call__(
        self, denoiser: Denoiser, x_0: State, mask: Tensor | None, condition: State | None, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the bound in nats per degree of freedom, shape (B,), and its parts by field (nats).

        Arguments as :class:`Objective`.
        """
        k = (random.uniform((len(random.indices),)) * self.steps).long().clamp(max=self.steps - 1)
        k = k.to(x_0[denoiser.process.clock])
        t, s = (k + 1) / self.steps, k / self.steps
        x_t = denoiser.process.corrupt(x_0, t, denoiser.process.noise(mask, random), mask)
        estimate = denoiser(x_t, t, mask, condition)
        terms = denoiser.process.bound_term(x_0, x_t, estimate.data, t, s, mask, estimate.logits.keys())
        parts = {}
        for name, process in denoiser.process.items():
            parts[name] = self.steps * terms[name] + process.prior_kl(x_0[name], mask)
        size = torch.stack([p.space.dim(mask, x_0[n]).clamp(min=1) for n, p in denoiser.process.items()]).sum(0)
        return torch.stack(list(parts.values())).sum(0) / size, parts
