r"""From a network to the denoiser :math:`E[x_0 | x_t]`.

A network F is dumb: it sees unit-variance inputs and a noise level. A :class:`Denoiser` owns the forward process and
turns F into an estimate of the clean data. Every parameterization is one row of coefficients, with D the scale of the
data (`data_scale`):

.. math::
    \hat x_0 = c_\mathrm{skip} x_t + c_\mathrm{out} F(c_\mathrm{in} x_t),
    \qquad c_\mathrm{in} = 1 / \sqrt{\alpha^2 D^2 + \sigma^2}

==========  ===================================  =====================================  ===========================
row         c_skip                               c_out                                  F is an estimate of
==========  ===================================  =====================================  ===========================
`noise`     1 / alpha                            -sigma / alpha                         the noise
`data`      0                                    1                                      the clean data
`v`         alpha / (alpha^2 + sigma^2)          -sigma / sqrt(alpha^2 + sigma^2)       v / sqrt(alpha^2 + sigma^2)
`flow`      1 / (alpha + sigma)                  -sigma / (alpha + sigma)               noise - x_0
`karras`    alpha D^2 / (sigma^2 + alpha^2 D^2)  sigma D / sqrt(sigma^2 + alpha^2 D^2)  the rest, at unit variance
`residual`  D / sqrt(alpha^2 D^2 + sigma^2)      D                                      x_0 / D - c_in x_t
`logits`    0                                    1                                      logits: x_0 = softmax(F)
==========  ===================================  =====================================  ===========================

with v = alpha noise - sigma x_0. `residual` suits a network that moves its input, such as EGNN: near the data a small
noise asks it for a small move, where the other rows ask for one of unit size. Every estimate is a function of x_t /
sigma and the signal-to-noise ratio, so a schedule may be changed after training.

References:
    | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    | Progressive distillation for fast sampling (Salimans, Ho, 2022) | https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gendiff.ops import State, expand
from gendiff.process import TINY, CategoricalProcess, GaussianProcess, JointProcess
from gendiff.schedule import coefficients

Row = Callable[[Tensor, Tensor, float], tuple[Tensor | float, Tensor | float]]

PARAMETERIZATIONS: dict[str, Row] = {
    "noise": lambda a, s, d: (1 / a, -s / a),
    "data": lambda a, s, d: (0.0, 1.0),
    "v": lambda a, s, d: (a / (a**2 + s**2), -s / (a**2 + s**2) ** 0.5),
    "flow": lambda a, s, d: (1 / (a + s), -s / (a + s)),
    "karras": lambda a, s, d: (a * d**2 / (s**2 + (a * d) ** 2), s * d / (s**2 + (a * d) ** 2).sqrt()),
    "residual": lambda a, s, d: (d / ((a * d) ** 2 + s**2) ** 0.5, d),
    "logits": lambda a, s, d: (0.0, 1.0),
}
"""(alpha, sigma, data scale) to (c_skip, c_out)."""

NOISE_LEVELS = ("log_snr", "time", "alpha", "log_sigma")


class Network(Protocol):
    """What a denoiser wraps: fields and a noise level (B, F) in, the same fields out."""

    def __call__(self, x: State, noise_level: Tensor, mask: Tensor | None, condition: State | None) -> State: ...  # noqa: D102


@dataclass
class Estimate:
    """What a denoiser says of x_t, by field.

    Attributes:
        data: E[x_0 | x_t] of Gaussian fields, probabilities of categorical ones.
        logits: Log-probabilities up to a constant, of the fields that have them.
        output: What the network put out (training only).
    """

    process: JointProcess
    x_t: State
    t: Tensor
    data: State
    logits: State = field(default_factory=dict)
    output: State = field(default_factory=dict)

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


class Denoiser(nn.Module):
    """A network made into an estimate of the clean data.

    Arguments:
        network: See :class:`Network`.
        process: The forward process, one per field. It is a part of the denoiser, so a learned schedule is trained and
            saved with it.
        parameterization: Row of the table above for every field, or one name for all Gaussian fields (categorical ones
            then take "logits").
        data_scale: D of each Gaussian field, its standard deviation in the training data (1).
        noise_level: What the network is told, for each field: "log_snr" (clipped to +-20 and divided by 4, so that a
            schedule can be changed after training), "time", "alpha", or "log_sigma" (a quarter of log sigma).
        self_condition: Give the network its last estimate too, as entries `<field>_previous` (zero when there is none).

    Raises:
        ValueError: for an unknown name, or "logits" and a categorical field apart.

    References: | Analog bits (Chen et al., 2022): self-conditioning | https://arxiv.org/abs/2208.04202
    """

    def __init__(
        self,
        network: nn.Module,
        process: JointProcess,
        parameterization: str | Mapping[str, str] = "karras",
        data_scale: Mapping[str, float] | None = None,
        noise_level: str = "log_snr",
        self_condition: bool = False,
    ):
        super().__init__()
        rows = dict(parameterization) if not isinstance(parameterization, str) else {
            name: "logits" if p.categorical else parameterization for name, p in process.items()
        }  # fmt: skip
        for name, p in process.items():
            row = rows.get(name)
            if row not in PARAMETERIZATIONS:
                raise ValueError(f"field {name!r} wants a parameterization of {sorted(PARAMETERIZATIONS)}, got {row!r}")
            if p.categorical and row != "logits":
                raise ValueError(f"field {name!r} is categorical: its parameterization is 'logits', got {row!r}")
        if noise_level not in NOISE_LEVELS:
            raise ValueError(f"noise_level must be one of {NOISE_LEVELS}, got {noise_level!r}")
        self.network, self.process = network, process
        self.parameterization, self.noise_level, self.self_condition = rows, noise_level, self_condition
        self.data_scale = {name: float((data_scale or {}).get(name, 1.0)) for name, _ in process.items()}

    def level(self, t: Tensor) -> Tensor:
        """Return what the network is told of the noise at times (B,): shape (B, fields)."""
        columns = []
        for _, process in self.process.items():
            schedule = process.schedule
            if self.noise_level == "log_snr":
                columns.append(schedule.log_snr(t).clamp(-20, 20) / 4)
            elif self.noise_level == "log_sigma":
                columns.append(schedule.sigma(t).clamp(min=1e-9).log() / 4)
            else:
                columns.append(t if self.noise_level == "time" else schedule.alpha(t))
        return torch.stack(columns, 1)

    def row(self, name: str, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha, sigma, c_skip, c_out of a field, shaped to multiply `like`."""
        alpha, sigma = coefficients(self.process[name].schedule, t, like)
        skip, out = PARAMETERIZATIONS[self.parameterization[name]](alpha, sigma, self.data_scale[name])
        zero = torch.zeros_like(alpha, dtype=like.dtype)
        return alpha, sigma, zero + skip, zero + out

    def forward(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Estimate the clean data.

        Arguments:
            x_t: Noisy state, fields (B, ...).
            t: Times in [0, 1], shape (B,).
            mask: (B, N), True where a sample really has an element; None if everywhere.
            condition: Tensors (B, ...); NaN (float) or -1 (integer) where a sample has none.
            previous: Last estimate of the clean data, for self-conditioning.
            noise: A further input for networks that take one.
        """
        rows = {name: self.row(name, t, x_t[name]) for name, _ in self.process.items()}
        inputs: dict[str, Any] = {}
        for name, process in self.process.items():
            alpha, sigma, _, _ = rows[name]
            inputs[name] = x_t[name]
            if not process.categorical:
                inputs[name] = x_t[name] / ((alpha * self.data_scale[name]) ** 2 + sigma**2).sqrt()
            if self.self_condition:
                last = torch.zeros_like(x_t[name]) if previous is None else previous[name]
                inputs[f"{name}_previous"] = last / self.data_scale[name]
        if noise is not None:
            inputs["noise"] = noise
        output = self.network(inputs, self.level(t), mask, condition)
        data, logits = {}, {}
        for name, process in self.process.items():
            _, _, skip, out = rows[name]
            if self.parameterization[name] == "logits":
                logits[name] = (
                    output[name].float() if output[name].dtype in (torch.bfloat16, torch.float16) else output[name]
                )
                data[name] = logits[name].softmax(-1)
            else:
                data[name] = skip * x_t[name] + out * output[name]
            data[name] = process.space.project(data[name], mask)
        return Estimate(self.process, x_t, t, data, logits, output)


def null_condition(condition: State) -> State:
    """Return the same condition with every value missing: NaN for floats, -1 for integers."""
    return {
        name: torch.full_like(value, float("nan") if value.is_floating_point() else -1)
        for name, value in condition.items()
    }


class AnalyticDenoiser(nn.Module):
    r"""The exact denoiser of a finite mixture, with no network: the yardstick under the tests of the core.

    Component k has weight :math:`w_k`; given it, all entries of all fields are independent: Gaussian fields are
    :math:`N(\mu_k, s_k^2)` (on their space), categorical ones have probabilities :math:`p_k`. Then

    .. math::
        E[x_0 | x_t] = \sum_k r_k E[x_0 | x_t, k], \qquad r_k \propto w_k \prod_\mathrm{fields} q(x_t | k),

    with :math:`E[x_0 | x_t, k] = \mu_k + \frac{\alpha s_k^2}{\alpha^2 s_k^2 + \sigma^2}(x_t - \alpha\mu_k)` for
    Gaussian fields and :math:`\propto p_k q(x_t | x_0)` for categorical ones.

    Arguments:
        process: The forward process.
        weights: Weight of each of the K components.
        law: For a Gaussian field (means, deviations), both broadcastable to (K, *shape of one sample); for a
            categorical one its probabilities, broadcastable to (K, *shape of one sample). An integer condition
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
                # The determinant, over the free directions of the space: where not all are, deviations must be alike.
                free = process.space.dim(wide_mask, wide)
                log_det = process.space.sum(variance.log().expand_as(wide), wide_mask)
                log_det = log_det * free / (process.space.count(wide_mask, wide) * process.space.features).clamp(min=1)
                log_q = -0.5 * (square + log_det + free * math.log(2 * math.pi))
            elif isinstance(process, CategoricalProcess):
                joint = _spread(self.law[name], count, x) * process.likelihood(wide, time)
                evidence = joint.sum(-1, keepdim=True).clamp(min=TINY)  # zero at padding
                estimate = joint / evidence
                log_q = process.space.sum(evidence.log(), wide_mask)
            else:
                raise ValueError(f"AnalyticDenoiser knows Gaussian and categorical fields, not {type(process)}")
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
        logits = {name: data[name].clamp(min=TINY).log() for name, p in self.process.items() if p.categorical}
        return Estimate(self.process, x_t, t, data, logits)


def _spread(value: Any, count: int, like: Tensor) -> Tensor:
    """Return `value`, broadcastable to (K, *sample), once for each sample of `like`: shape (B K, *sample)."""
    wide = torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(count, *like.shape[1:])
    return wide.repeat(len(like), *[1] * (like.dim() - 1))
