r"""How molecules are learned: five choices, each of which an ablation changes alone. The first of each is the default.

==============  ====================================================================================================
choice          words
==============  ====================================================================================================
target          what the network estimates of positions: residual (their move), data, flow (noise - data), v, or noise
atom types      how elements and charges are learned: cross-entropy (Gaussian noise, probabilities as estimates),
                squared-error (Gaussian noise, numbers as estimates), categorical (they jump to the frequencies of the
                training data, and are drawn), or given (elements are those of a training molecule's formula, told from
                the start; charges as under cross-entropy)
coupling        which noise goes with which molecule: none (independent), permute, or align (permuted, then turned)
self-condition  whether the network sees its last estimate
times           where in time training looks: power (u^1.5), uniform, or logit-normal
==============  ====================================================================================================

All targets but `noise` lie on straight paths and are trained with one weight, the :math:`1/t^2` of flow matching, so
they differ in what the network has to put out: near the data `residual` asks for a small move, `data` for the whole
molecule, `flow` and `v` for the noise that is left. (The first two bound the weight, by 2500.) `noise` is EDM: the
polynomial schedule, uniform times, the simple loss, and with them its likelihood, which
:func:`gendiff.likelihood.variational_bound` gives on the uniform grid of 1000 steps (EDM takes one more, to the noise
that is left at t = 0). Coupled noise is no longer independent of the data, so it goes with straight paths and a
deterministic sampler.

References:
    | Equivariant diffusion for molecule generation in 3D (Hoogeboom et al., 2022): EDM | https://arxiv.org/abs/2203.17003
    | Flow matching for generative modeling (Lipman et al., 2022) | https://arxiv.org/abs/2210.02747
    | Progressive distillation (Salimans, Ho, 2022): v | https://arxiv.org/abs/2202.00512
    | Equivariant flow matching (Klein et al., 2023) | https://arxiv.org/abs/2306.15030
    | Analog bits (Chen et al., 2022): self-conditioning | https://arxiv.org/abs/2208.04202
    | Scaling rectified flow transformers (Esser et al., 2024): logit-normal times | https://arxiv.org/abs/2403.03206
    | Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021) | https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendiff.denoise import Denoiser, own_row
from gendiff.modalities.molecules.formulas import Composition
from gendiff.objective import Coupling, LogNormal, NodeTransport, Objective, Power, Times, Uniform
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess, Process
from gendiff.sample import DDIM, Ancestral, Sampler
from gendiff.schedule import Flow, Polynomial, Schedule
from gendiff.space import Euclidean, ZeroCenterOfMass


@dataclass(frozen=True)
class Target:
    """What a network estimates of positions, under the name of its row of the parameterizations.

    Attributes:
        schedule: Of all fields.
        weighting: Of the loss of Gaussian fields.
        max_weight: Its largest weight.
        times: Default law of the times.
        grid: Of the sampler's times.
    """

    schedule: Callable[[], Schedule] = Flow
    weighting: str = "velocity"
    max_weight: float | None = None
    times: str = "power"
    grid: str = "quadratic"


TARGETS: dict[str, Target] = {
    "residual": Target(max_weight=2500.0),
    "data": Target(max_weight=2500.0),
    "flow": Target(),
    "v": Target(),
    # The first of 100 even steps of time would make an error of the noise six times as large.
    "noise": Target(Polynomial, "network", times="uniform", grid="log_snr"),
}

ATOM_TYPES = ("cross-entropy", "squared-error", "categorical", "given")

COUPLINGS: dict[str, Callable[[], Coupling | None]] = {
    "none": lambda: None,
    "permute": lambda: NodeTransport("position"),
    "align": lambda: NodeTransport("position", rotate=True),
}

TIMES: dict[str, Callable[[], Times]] = {
    "power": lambda: Power(1.5),
    "uniform": Uniform,
    "logit-normal": lambda: LogNormal(0.0, 1.0),  # the logarithm of noise to signal is the logit of t on straight paths
}


class OneHot(GaussianProcess):
    r"""Gaussian diffusion of one-hot numbers, which reconstructs categories, so that its bound is one of a probability.

    .. math:: p(x_0 = k | x_t) \propto \Phi\left(\frac{3/2 - \hat x_k}{s}\right)
        - \Phi\left(\frac{1/2 - \hat x_k}{s}\right), \qquad s = \sigma / \alpha

    EDM's window around 1, at the estimate of the clean numbers.

    Arguments:
        schedule: As :class:`gendiff.process.GaussianProcess`.
        space: As there.
    """

    def __init__(self, schedule: Schedule, space: Euclidean):
        super().__init__(schedule, space)

    def reconstruction(self, x_0: Tensor, data: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        std = (-self.schedule.log_snr(t) / 2).exp()[:, None, None]
        # Of the same sign, so that no digits are lost: Phi(b) - Phi(a) = Phi(-a) - Phi(-b).
        low, high = (0.5 - data) / std, (1.5 - data) / std
        flip = low + high > 0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        window = log_high + torch.log1p(-(log_low - log_high).exp().clamp(max=1 - 1e-7))
        return -self.space.sum(x_0 * window.log_softmax(-1), mask)


@dataclass(frozen=True)
class Recipe:
    """One word of every choice; see the table above."""

    target: str = "residual"
    atom_types: str = "cross-entropy"
    coupling: str = "none"
    self_condition: bool = False
    times: str | None = None
    """None: the default of the target."""

    def unfit(self) -> str:
        """Return why it cannot be had, "" if it can."""
        for option, word, known in (
            ("--target", self.target, TARGETS),
            ("--atom-types", self.atom_types, ATOM_TYPES),
            ("--coupling", self.coupling, COUPLINGS),
            ("--times", self.times or "power", TIMES),
        ):
            if word not in known:
                return f"{option} must be one of {', '.join(known)}, got {word!r}"
        if self.coupling != "none" and self.atom_types == "given":
            return (
                f"--coupling {self.coupling} gives atoms noise by their places, and --atom-types given tells them apart"
                " before there are any; leave one of them out"
            )
        if self.coupling != "none" and self.target == "noise":
            return (
                f"--coupling {self.coupling} wants straight paths, and --target noise has none; leave one of them out"
            )
        return ""

    def process(
        self,
        frequencies: Mapping[str, Sequence[float]],
        elements: Sequence[int] = (),
        formulas: Mapping[str, int] | None = None,
    ) -> JointProcess:
        """Return the forward process of positions, and of fields of categories that have these frequencies.

        Arguments:
            frequencies: By field one number a category.
            elements: Atomic numbers of the categories of the field "element".
            formulas: How often each occurs, where elements are given.
        """
        schedule = TARGETS[self.target].schedule
        fields: dict[str, Process] = {"position": GaussianProcess(schedule(), ZeroCenterOfMass(3))}
        for name, law in frequencies.items():
            space = Euclidean(len(law))
            if self.atom_types == "given" and name == "element":
                fields[name] = Composition(schedule(), space, elements, formulas or {})
            elif self.atom_types == "categorical":
                fields[name] = CategoricalProcess(schedule(), law, space)
            else:
                fields[name] = (OneHot if self.atom_types == "squared-error" else GaussianProcess)(schedule(), space)
        return JointProcess(fields, clock="position")

    def denoiser(self, network: nn.Module, process: JointProcess, scale: float) -> Denoiser:
        """Return the denoiser around a network; `scale` is the standard deviation of the one-hot elements."""
        categories = {name: field for name, field in process.items() if name != "position"}
        row = self.target if self.atom_types == "squared-error" else "logits"
        rows = {"position": self.target, **{name: own_row(field) or row for name, field in categories.items()}}
        scales = {name: scale for name, field in categories.items() if not field.categorical}
        return Denoiser(network, process, rows, scales, self_condition=self.self_condition)

    def objective(self) -> Objective:
        """Return the training loss."""
        target = TARGETS[self.target]
        return Objective(
            target.weighting,
            {"element": 0.5, "charge": 0.5},
            times=TIMES[self.times or target.times](),
            max_weight=target.max_weight,
            coupling=COUPLINGS[self.coupling](),
        )

    def sampler(self) -> Sampler:
        """Return the sampler: 100 steps, ancestral where noise and data are independent, else those of the flow."""
        return (Ancestral if self.coupling == "none" else DDIM)(100, TARGETS[self.target].grid)
