r"""The systems of the field: whole recipes that papers made famous, each one row of a table.

A system says how noise is added, what the network estimates and is told, how it is trained and how it is sampled. All
of it is the core's; a row of :data:`SYSTEMS` puts it together with the defaults of its paper. `gendiff train images
... --system NAME` trains one, and its model remembers the name.

=========  =========================  =========  =======  ==========================  =======================
name       noise                      estimates  is told  loss                        sampler
=========  =========================  =========  =======  ==========================  =======================
cfg        cosine                     v          log-SNR  of v                        DPM-Solver++, 20 steps
ddpm       linear, T = 1000           noise      time     simple                      ancestral, 1000
iddpm      cosine, T = 4000           noise      time     hybrid                      of learned variance, 100
adm        linear, T = 1000           noise      time     hybrid                      of learned variance, 250
vdm        learned                    noise      log-SNR  bound of infinitely many T  ancestral, 1000
edm        sigma of 0.002 to 80       "karras"   log σ    its own, log-normal times   Heun, 18
ncsn       sigma of 0.02 to 2 √D      noise      log σ    simple                      annealed Langevin
score-sde  the same, continuous       noise      log σ    simple                      predictor-corrector
sr3        linear, T = 2000           noise      alpha    L1, signal piecewise        ancestral, 100
palette    the same                   noise      alpha    L2 of what is not known     ancestral, 1000
=========  =========================  =========  =======  ==========================  =======================

What differs from the papers: networks are the U-Net of the preset (ADM has its own blocks and attention); times are
continuous where a paper counts steps; SR3 and Palette also learn to draw images that they are told nothing of, in a
tenth of the training. VDM draws times evenly in log(1 + SNR), so that neither the bound nor its variance depends on the
schedule between its ends, and the ends alone learn; bytes are spread over their bins, where the paper has a softmax
over all 256. The learned variances of Improved DDPM and ADM have no term for the last step, which has no variance. The
corrector of score SDE takes its length from the noise level, and not from the norms of a batch, so that no sample
depends on the others. Every system can be sampled by any other sampler, too.

References:
    | Classifier-free diffusion guidance (Ho, Salimans, 2022) | https://arxiv.org/abs/2207.12598
    | Progressive distillation (Salimans, Ho, 2022): v | https://arxiv.org/abs/2202.00512
    | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    | Improved denoising diffusion probabilistic models (Nichol, Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021): ADM | https://arxiv.org/abs/2105.05233
    | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    | Elucidating the design space of diffusion-based generative models (Karras et al., 2022): EDM | https://arxiv.org/abs/2206.00364
    | Generative modeling by estimating gradients of the data distribution (Song, Ermon, 2019): NCSN | https://arxiv.org/abs/1907.05600
    | Improved techniques for training score-based generative models (Song, Ermon, 2020): NCSNv2 | https://arxiv.org/abs/2006.09011
    | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    | Image super-resolution via iterative refinement (Saharia et al., 2021): SR3 | https://arxiv.org/abs/2104.07636
    | Palette: image-to-image diffusion models (Saharia et al., 2021) | https://arxiv.org/abs/2111.05826
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gendiff.denoise import Denoiser
from gendiff.modalities.images.denoiser import PixelDenoiser
from gendiff.modalities.images.restore import Restoration
from gendiff.objective import Antithetic, Bound, Hybrid, LogNormal, Objective, Piecewise
from gendiff.ops import Random, State
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import Ancestral, DPMSolver, Heun, Langevin, PredictorCorrector, ReverseSDE, Sampler
from gendiff.schedule import VE, Cosine, Karras, Learned, Linear, Schedule
from gendiff.space import Euclidean

TIME = {"periods": (62.832, 0.0062832)}
"""Periods of the sines of a time that is 1 after 1000 steps, those of DDPM."""

ALPHA = {"periods": (4.0, 0.02)}
"""Periods of the sines of alpha, 0 to 1."""

FAINT = 0.02
"""The last noise of NCSNv2 and of the variance-exploding SDE: 0.01 where pixels go from 0 to 1."""


@dataclass(frozen=True)
class System:
    """A recipe for images with D numbers each.

    Attributes:
        help: What it is, in one line.
        schedule: Of D.
        objective: Of the tasks and the factor of restoration, which most do not look at.
        sampler: Of D.
        parameterization: What the network estimates.
        noise_level: What it is told.
        scaled: Whether the denoiser knows the standard deviation of the data; else it is taken to be 1.
        clipped: Whether estimates are clipped to where pixels lie, see :class:`PixelDenoiser`.
        classes: Whether the model is told classes, where there are some.
        learn_variance: Whether the variance of the reverse process is learned.
        tasks: What it restores, words of :data:`gendiff.modalities.images.restore.DEGRADATIONS`.
        colour: What else of images with colours.
        network: Arguments of the network that are not those of the preset; "kind" is another default network.
    """

    help: str
    schedule: Callable[[int], Schedule]
    objective: Callable[[Sequence[str], int], Any]
    sampler: Callable[[int], Sampler]
    parameterization: str = "noise"
    noise_level: str = "log_snr"
    scaled: bool = False
    clipped: bool = True
    classes: bool = False
    learn_variance: bool = False
    tasks: tuple[str, ...] = ()
    colour: tuple[str, ...] = ()
    network: dict[str, Any] = field(default_factory=dict)

    def loss(self, channels: int, factor: int) -> Any:
        """Return the training loss; `factor` is that of images to be enlarged."""
        return self.objective(self.tasks + (self.colour if channels >= 3 else ()), factor)

    def conditions(self, channels: int) -> dict[str, Any]:
        """Return the pictures that a network is told: by name {"grid": C}."""
        names = {"image"} if self.tasks == ("enlarge",) else {"image", "known"} if self.tasks else ()
        return {name: {"grid": channels} for name in sorted(names)}

    def process(self, channels: int, size: Sequence[int]) -> JointProcess:
        """Return the forward process of images."""
        schedule = self.schedule(channels * math.prod(size))
        return JointProcess({"pixel": GaussianProcess(schedule, Euclidean(channels, "grid", size))}, "pixel")

    def denoiser(self, network: nn.Module, process: JointProcess, scale: float) -> Denoiser:
        """Return the denoiser around a network, for data of a standard deviation of `scale`."""
        kind = PixelDenoiser if self.clipped else Denoiser
        data_scale = {"pixel": scale if self.scaled else 1.0}
        return kind(network, process, self.parameterization, data_scale, self.noise_level)


class Dequantized(Bound):
    """The bound for bytes, each at a random place of its bin of width 1 / 127.5: the density of a number has a bound.

    Arguments as :class:`gendiff.objective.Bound`.
    """

    def forward(
        self, denoiser: Any, x_0: State, mask: Tensor | None, condition: State | None, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the bound in nats per degree of freedom, shape (B,), and its part by field."""
        spread = {name: x + (random.uniform(tuple(x.shape)) - 0.5) / 127.5 for name, x in x_0.items()}
        return super().forward(denoiser, spread, mask, condition, random)


def farthest(dimensions: int) -> float:
    r"""Return the largest distance of two images, :math:`2 \sqrt D`: where NCSNv2 lets the noise begin."""
    return 2 * math.sqrt(dimensions)


def ladder(dimensions: int, sigma_min: float = FAINT, corrections: int = 5) -> Langevin:
    r"""Return annealed Langevin dynamics with the ladder and the steps that NCSNv2 derives from the dimension D.

    Neighbours of the ladder have the ratio :math:`\gamma` at which half of the noise of the smaller level is as long as
    noise of the larger one may be, give or take three deviations: :math:`\sqrt{2 D} (\gamma - 1) = 3 \gamma`
    (technique 2; at most 2, where D is small). Of all steps :math:`\rho \sigma^2` those are best after whose :math:`k`
    the variance of noise alone, in units of the level and :math:`\gamma^2` at first, is closest to 1 (technique 4):

    .. math:: v = (1 - \rho)^{2 k} \left(\gamma^2 - \frac{2}{2 - \rho}\right) + \frac{2}{2 - \rho}

    For CIFAR-10 that is a ratio of 1.040 and :math:`\rho` = 0.065; the paper has 1.038 and 0.062.

    Arguments:
        dimensions: D.
        sigma_min: The last level.
        corrections: k, steps at each level.
    """
    root = math.sqrt(2 * dimensions)
    ratio = min(2.0, root / (root - 3)) if root > 3 else 2.0
    levels = 1 + math.ceil(math.log(farthest(dimensions) / sigma_min) / math.log(ratio))

    def excess(rho: float) -> float:
        settled = 2 / (2 - rho)
        return abs((1 - rho) ** (2 * corrections) * (ratio**2 - settled) + settled - 1)

    return Langevin(levels, corrections=corrections, step_size=min((k / 1000 for k in range(1, 1000)), key=excess))


SYSTEMS: dict[str, System] = {
    "cfg": System(
        "v on the cosine schedule, class-conditional with classifier-free guidance",
        lambda _: Cosine(),
        lambda *_: Objective("network"),
        lambda _: DPMSolver(20),
        "v",
        scaled=True,
        clipped=False,
        classes=True,
    ),
    "ddpm": System(
        "DDPM: the noise, on the linear schedule, unconditional",
        lambda _: Linear(),
        lambda *_: Objective("network"),
        lambda _: Ancestral(1000, variance="large"),
        noise_level="time",
        network=TIME,
    ),
    "iddpm": System(
        "Improved DDPM: cosine schedule and learned variance, unconditional",
        lambda _: Cosine(4000),
        lambda *_: Hybrid(steps=4000),
        lambda _: Ancestral(100, variance="learned"),
        noise_level="time",
        learn_variance=True,
        network=TIME,
    ),
    "adm": System(
        "ADM: class-conditional, to be guided by a classifier",
        lambda _: Linear(),
        lambda *_: Hybrid(condition_dropout=0.0),
        lambda _: Ancestral(250, variance="learned"),
        noise_level="time",
        classes=True,
        learn_variance=True,
        network={**TIME, "kind": "adm"},
    ),
    "vdm": System(
        "VDM: the variational bound of infinitely many steps, with a learned schedule, unconditional",
        lambda _: Learned(learn_ends=True),
        lambda *_: Dequantized(None, start=0.0, times=Antithetic()),
        lambda _: Ancestral(1000),
        clipped=False,
    ),
    "edm": System(
        "EDM: preconditioned, log-normal noise levels, Heun's method",
        lambda _: Karras(),
        lambda *_: Objective("network", times=LogNormal()),
        lambda _: Heun(18, "karras", coordinate="karras"),
        "karras",
        noise_level="log_sigma",
        scaled=True,
        clipped=False,
        classes=True,
    ),
    "ncsn": System(
        "NCSNv2: a ladder of noise levels and annealed Langevin dynamics, unconditional",
        lambda dimensions: VE(FAINT, farthest(dimensions)),
        lambda *_: Objective("network"),
        ladder,
        noise_level="log_sigma",
        clipped=False,
    ),
    "score-sde": System(
        "Score SDE: the variance-exploding SDE with predictor and corrector, unconditional",
        lambda dimensions: VE(FAINT, farthest(dimensions)),
        lambda *_: Objective("network"),
        lambda _: PredictorCorrector(1000, predictor=ReverseSDE()),
        noise_level="log_sigma",
        clipped=False,
    ),
    "sr3": System(
        "SR3: enlarges images",
        lambda _: Linear(2000, 1e-6, 0.01),
        lambda tasks, factor: Restoration(tasks, factor, power=1, times=Piecewise(2000)),
        lambda _: Ancestral(100, variance="large"),
        noise_level="alpha",
        tasks=("enlarge",),
        network=ALPHA,
    ),
    "palette": System(
        "Palette: fills in, continues, colours and repairs images, all by one model",
        lambda _: Linear(2000, 1e-6, 0.01),
        lambda tasks, factor: Restoration(tasks, factor, times=Piecewise(2000)),
        lambda _: Ancestral(1000),
        noise_level="alpha",
        tasks=("inpaint", "uncrop", "repair"),
        colour=("colourise",),
        network=ALPHA,
    ),
}
"""By name; the first is the default."""
