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
`score`     1 / alpha                            sigma^2 / alpha                        the score of x_t
`mean`      -A / B                               1 / B                                  E[x_s | x_t] = A x_t + B x_0
`logits`    0                                    1                                      logits: x_0 = softmax(F)
`given`     1                                    0                                      nothing: x_t is x_0
==========  ===================================  =====================================  ===========================

with v = alpha noise - sigma x_0; `mean` is the posterior mean at the step before, s = t - 1 / T. `residual` suits a
network that moves its input, such as EGNN: near the data a small noise asks it for a small move, where the other rows
ask for one of unit size. Every estimate but those of `score` and `mean` is a function of x_t / sigma and the
signal-to-noise ratio, so a schedule may be changed after training.

References:
    | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    | Progressive distillation for fast sampling (Salimans, Ho, 2022) | https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gendiff.denoise.estimate import Estimate
from gendiff.ops import State
from gendiff.process import GivenProcess, JointProcess, Process
from gendiff.schedule import coefficients

Row = Callable[[Any, Any, float], tuple[Tensor | float, Tensor | float]]

Numbers = tuple[float, float, float]
"""alpha, sigma and log(alpha / sigma) of a field at one time."""

PARAMETERIZATIONS: dict[str, Row] = {
    "noise": lambda a, s, d: (1 / a, -s / a),
    "data": lambda a, s, d: (0.0, 1.0),
    "v": lambda a, s, d: (a / (a**2 + s**2), -s / (a**2 + s**2) ** 0.5),
    "flow": lambda a, s, d: (1 / (a + s), -s / (a + s)),
    "karras": lambda a, s, d: (a * d**2 / (s**2 + (a * d) ** 2), s * d / (s**2 + (a * d) ** 2) ** 0.5),
    "residual": lambda a, s, d: (d / ((a * d) ** 2 + s**2) ** 0.5, d),
    "score": lambda a, s, d: (1 / a, s**2 / a),
    "logits": lambda a, s, d: (0.0, 1.0),
}
"""(alpha, sigma, data scale) to (c_skip, c_out); `mean`, which looks at two times, is in :meth:`Denoiser.row`, and
of `given` there is nothing to compute."""

ROWS = {*PARAMETERIZATIONS, "mean"}

LEAST_SIGNAL = 1e-3
"""Alpha below which a state says nothing of its data: what is divided by it is error."""

NOISE_LEVELS = ("log_snr", "time", "alpha", "log_sigma")


def own_row(process: Process) -> str | None:
    """Return the only row that fields of a process can have; None for Gaussian ones, which have a choice."""
    return "given" if isinstance(process, GivenProcess) else "logits" if process.categorical else None


class Network(Protocol):
    """What a denoiser wraps: fields and a noise level (B, F) in, the same fields out."""

    def __call__(self, x: State, noise_level: Tensor, mask: Tensor | None, condition: State | None) -> State: ...  # noqa: D102


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
        steps: T of the row "mean" (1000).

    A network may also put out `<field>_fraction`, shaped like the field: the learned variance of Improved DDPM, -1 for
    the small one and 1 for the large one.

    Raises:
        ValueError: for an unknown name, or "logits" and a categorical field apart, or "given" and a given one.

    References:
        | Analog bits (Chen et al., 2022): self-conditioning | https://arxiv.org/abs/2208.04202
        | Improved denoising diffusion probabilistic models (Nichol, Dhariwal, 2021): learned variance | https://arxiv.org/abs/2102.09672
    """

    takes_levels = True
    """Samplers tell :meth:`forward` the levels of a step."""

    def __init__(
        self,
        network: nn.Module,
        process: JointProcess,
        parameterization: str | Mapping[str, str] = "karras",
        data_scale: Mapping[str, float] | None = None,
        noise_level: str = "log_snr",
        self_condition: bool = False,
        steps: int = 1000,
    ):
        super().__init__()
        rows = dict(parameterization) if not isinstance(parameterization, str) else {
            name: own_row(p) or parameterization for name, p in process.items()
        }  # fmt: skip
        for name, p in process.items():
            row, own = rows.get(name), own_row(p)
            if row is None or row not in {*ROWS, own}:
                raise ValueError(f"field {name!r} wants a parameterization of {sorted(ROWS)}, got {row!r}")
            if own and row != own:
                kind = "given" if own == "given" else "categorical"
                raise ValueError(f"field {name!r} is {kind}: its parameterization is {own!r}, got {row!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if noise_level not in NOISE_LEVELS:
            raise ValueError(f"noise_level must be one of {NOISE_LEVELS}, got {noise_level!r}")
        self.network, self.process, self.steps = network, process, steps
        self.parameterization, self.noise_level, self.self_condition = rows, noise_level, self_condition
        self.data_scale = {name: float((data_scale or {}).get(name, 1.0)) for name, _ in process.items()}

    @property
    def start(self) -> float:
        r"""First time of samplers' own plans: 1, or where alpha is :data:`LEAST_SIGNAL` if a row divides by less.

        The rows "noise" and "score" make of an error of the network one of the data that is :math:`\sigma / \alpha` as
        large. Where alpha is 0 at t = 1 they are refused.
        """
        one, times = torch.ones(1, dtype=torch.float64), [1.0]
        for name, process in self.process.items():
            schedule = process.schedule
            if self.parameterization[name] in ("noise", "score") and 0 < float(schedule.alpha(one)) < LEAST_SIGNAL:
                times.append(float(schedule.time(2 * math.log(LEAST_SIGNAL) * one)))
        return min(times)

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

    def _level(self, t: Tensor, levels: Mapping[str, Numbers]) -> Tensor:
        """Return the same for one time, of numbers that are known."""
        columns = []
        for name, _ in self.process.items():
            value, sigma, log_ratio = levels[name]  # alpha first
            if self.noise_level == "log_snr":
                value = min(max(log_ratio / 2, -5.0), 5.0)
            elif self.noise_level == "log_sigma":
                value = math.log(max(sigma, 1e-9)) / 4
            columns.append(t if self.noise_level == "time" else torch.full_like(t, value))
        return torch.stack(columns, 1)

    def _row(self, name: str, numbers: Numbers) -> tuple[float, float, float, float]:
        """Return alpha, sigma, c_skip, c_out of a field at one time."""
        (alpha, sigma, _), row = numbers, self.parameterization[name]
        if alpha == 0 and row in ("noise", "score"):
            raise ValueError(
                f"row {row!r} of field {name!r} divides by alpha, which is 0 here: start the plan below, or train 'v', "
                "'data', 'flow' or 'karras'"
            )
        skip, out = PARAMETERIZATIONS[row](alpha, sigma, self.data_scale[name])
        return alpha, sigma, float(skip), float(out)

    def row(self, name: str, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha, sigma, c_skip, c_out of a field, shaped to multiply `like`."""
        process: Any = self.process[name]
        row = self.parameterization[name]
        alpha, sigma = coefficients(process.schedule, t, like)
        if row == "mean":
            of_x_t, of_data, _, _ = process.reverse_coefficients(like, t, (t - 1 / self.steps).clamp(min=0))
            skip, out = -of_x_t / of_data, 1 / of_data
        else:
            skip, out = PARAMETERIZATIONS[row](alpha, sigma, self.data_scale[name])
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
        levels: Mapping[str, Numbers] | None = None,
    ) -> Estimate:
        """Estimate the clean data.

        Arguments:
            x_t: Noisy state, fields (B, ...).
            t: Times in [0, 1], shape (B,).
            mask: (B, N), True where a sample really has an element; None if everywhere.
            condition: Tensors (B, ...); NaN (float) or -1 (integer) where a sample has none.
            previous: Last estimate of the clean data, for self-conditioning.
            noise: A further input for networks that take one.
            levels: For one time t for all, what the schedules say there, if the caller knows: spares asking them.
        """
        if t.dim() != 1 or not t.is_floating_point():
            raise ValueError(f"t are times in [0, 1], one per sample: floats (B,); got {t.dtype} {tuple(t.shape)}")
        rows: dict[str, tuple[Any, Any, Any, Any]] = {}
        for name, _ in self.process.items():
            if (row := self.parameterization[name]) == "given":
                continue
            known = levels is not None and row != "mean"
            rows[name] = self._row(name, levels[name]) if known else self.row(name, t, x_t[name])  # type: ignore[index]
        inputs: dict[str, Any] = {}
        for name, process in self.process.items():
            inputs[name] = x_t[name]
            if not process.categorical:
                alpha, sigma, _, _ = rows[name]
                inputs[name] = x_t[name] / ((alpha * self.data_scale[name]) ** 2 + sigma**2) ** 0.5
            if self.self_condition:
                last = torch.zeros_like(x_t[name]) if previous is None else previous[name]
                inputs[f"{name}_previous"] = last / self.data_scale[name]
        if noise is not None:
            inputs["noise"] = noise
        told = self.level(t) if levels is None else self._level(t, levels)
        output = self.network(inputs, told, mask, condition)
        data, logits, fraction = {}, {}, {}
        for name, process in self.process.items():
            if self.parameterization[name] == "given":
                data[name] = x_t[name]
                continue
            _check_output(output, name, x_t[name])
            if f"{name}_fraction" in output:
                _check_output(output, f"{name}_fraction", x_t[name])
            if self.parameterization[name] == "logits":
                logits[name] = (
                    output[name].float() if output[name].dtype in (torch.bfloat16, torch.float16) else output[name]
                )
                data[name] = logits[name].softmax(-1)
            else:
                _, _, skip, out = rows[name]
                data[name] = skip * x_t[name]
                if isinstance(out, float):
                    data[name].add_(output[name], alpha=out)
                else:
                    data[name] = data[name] + out * output[name]
            data[name] = process.space.project(data[name], mask)
            if f"{name}_fraction" in output:
                fraction[name] = (output[f"{name}_fraction"] + 1) / 2
        return Estimate(self.process, x_t, t, data, logits, output, fraction)


def _check_output(output: Any, name: str, x: Tensor) -> None:
    """Refuse what a network has put out where it does not fit a field; a wrong shape would be spread in silence."""
    if not isinstance(output, Mapping) or name not in output:
        there = f"{sorted(output)}" if isinstance(output, Mapping) else type(output).__name__
        raise ValueError(f"a network returns a tensor for each field by name; for {name!r} there is none in {there}")
    if output[name].shape != x.shape:
        raise ValueError(
            f"the network returned shape {tuple(output[name].shape)} for field {name!r} of shape {tuple(x.shape)}"
        )


def first_time(denoiser: Any) -> float:
    """Return where plans for a denoiser begin, under whatever guidance: its `start`, or t = 1 if it has none."""
    inner: Any = denoiser
    while not hasattr(inner, "start") and hasattr(inner, "denoiser"):
        inner = inner.denoiser
    return getattr(inner, "start", 1.0)


def null_condition(condition: State) -> State:
    """Return the same condition with every value missing: NaN for floats, -1 for integers."""
    return {
        name: torch.full_like(value, float("nan") if value.is_floating_point() else -1)
        for name, value in condition.items()
    }
