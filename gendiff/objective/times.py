r"""Laws of the time at which a sample is trained.

A law is called as `times(random, process)` and returns times t in (0, 1], shape (B,), and the factor of each sample's
loss, shape (B,). The factor is 1 where the law itself is meant as the weighting; it is 1/p(t) where a law of density p
only lowers the variance, so that the mean loss stays that of uniform times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gendiff.config import Configurable
from gendiff.ops import Random
from gendiff.process import JointProcess


class Times(Configurable):
    """Interface of a law of the time: a subclass writes :meth:`draw`.

    Attributes:
        unbiased: Whether the mean loss, with its factors, is that of uniform times.
    """

    unbiased = False

    @torch.no_grad()
    def __call__(self, random: Random, process: JointProcess) -> tuple[Tensor, Tensor]:
        """Return times in (0, 1] and the factor of the loss at each, both (B,).

        Arguments:
            random: One stream per sample.
            process: The forward process, for laws that are told in its signal-to-noise ratio.
        """
        t = self.draw(random, process)
        return t, torch.ones_like(t)

    def draw(self, random: Random, process: JointProcess) -> Tensor:
        """Return times in (0, 1], shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(random, process)")

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Learn from the losses (B,) at times (B,). Only laws that adapt do."""


class Uniform(Times):
    """Times drawn uniformly from (0, 1], independently for every sample."""

    unbiased = True

    def draw(self, random: Random, process: JointProcess) -> Tensor:  # noqa: D102
        return random.uniform((len(random.indices),))


class Power(Times):
    """Times u^power, u uniform: power > 1 looks more often near the data (Beta(1/power, 1)).

    Arguments:
        power: Exponent (1.5).
    """

    def __init__(self, power: float = 1.5):
        if power <= 0:
            raise ValueError(f"power must be positive, got {power}")
        self.power = power

    def draw(self, random: Random, process: JointProcess) -> Tensor:  # noqa: D102
        return random.uniform((len(random.indices),)) ** self.power


class Antithetic(Times):
    r"""Uniform times spread evenly over the batch, :math:`t_i = 1 - (u + i / n) \bmod 1` for one uniform u.

    Each t is uniform, and their mean loss varies less than that of independent times. The time of a sample depends on
    its place in the batch and on the batch's first sample, so a sample alone does not have the loss it has in a batch.

    References: | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    unbiased = True

    def draw(self, random: Random, process: JointProcess) -> Tensor:  # noqa: D102
        u = random.uniform((len(random.indices),))
        return 1 - (u[:1] + torch.arange(len(u), device=u.device) / len(u)) % 1


class LogNormal(Times):
    r"""Log-normal noise, :math:`\log(\sigma_t / \alpha_t) \sim N(\mathrm{mean}, \mathrm{std}^2)` of the clock field.

    What lies beyond the ends of the schedule is put at its ends.

    Arguments:
        mean: Of the logarithm (-1.2).
        std: Of the logarithm (1.2).

    References: | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2):
        if std <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean, self.std = mean, std

    def draw(self, random: Random, process: JointProcess) -> Tensor:  # noqa: D102
        return process.schedule.time(-2 * (self.mean + self.std * random.normal((len(random.indices),))))


class Piecewise(Times):
    r"""Signal :math:`\gamma = \alpha^2 / (\alpha^2 + \sigma^2)` uniform within one of T equal intervals of time.

    :math:`\gamma \sim U(\gamma_{k/T}, \gamma_{(k-1)/T})` with k uniform on 1 .. T, of the clock field; alpha^2 itself
    where variance is preserved. SR3 tells its network the square root of gamma: `noise_level="alpha"`.

    Arguments:
        steps: T (2000).

    References: | Image super-resolution via iterative refinement (Saharia et al., 2021) | https://arxiv.org/abs/2104.07636
    """

    def __init__(self, steps: int = 2000):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps = steps

    def draw(self, random: Random, process: JointProcess) -> Tensor:  # noqa: D102
        u, place = random.uniform((len(random.indices),)), random.uniform((len(random.indices),))
        k = (u * self.steps).floor().clamp(max=self.steps - 1)
        low, high = (process.schedule.log_snr(time) for time in ((k + 1) / self.steps, k / self.steps))
        # Both gamma and 1 - gamma are mixed: each would lose its digits in the other near an end.
        gamma, rest = (
            (place * (sign * high).sigmoid() + (1 - place) * (sign * low).sigmoid()).log() for sign in (1, -1)
        )
        return process.schedule.time(gamma - rest)


class LossAware(Times, nn.Module):
    r"""Times drawn where losses are large (second-moment importance), with a factor that keeps the mean loss.

    Time is cut into bins b; each remembers its last losses L, and

    .. math:: p_b = (1 - q) \frac{\sqrt{E_b L^2}}{\sum_c \sqrt{E_c L^2}} + \frac{q}{\mathrm{bins}},
        \qquad \mathrm{factor} = \frac{1}{\mathrm{bins}\; p_b},

    uniform within a bin, and over all bins until each has all its losses. It helps a loss whose size varies much over
    time, such as the variational bound. What it remembers are buffers, so they are in a checkpoint; each process
    learns from its own samples.

    Arguments:
        bins: How many bins (1000).
        history: How many losses a bin remembers (10).
        uniform: q, the share of uniform times (0.001).

    References: | Improved denoising diffusion probabilistic models (Nichol, Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    unbiased = True
    losses: Tensor
    counts: Tensor

    def __init__(self, bins: int = 1000, history: int = 10, uniform: float = 0.001):
        super().__init__()
        if bins < 1 or history < 1:
            raise ValueError(f"bins and history must be at least 1, got {bins} and {history}")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform must lie in (0, 1], so that no time is left out, got {uniform}")
        self.bins, self.history, self.uniform = bins, history, uniform
        self.register_buffer("losses", torch.zeros(bins, history))
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.long))

    def probabilities(self) -> Tensor:
        """Return p of each bin, shape (bins,)."""
        size = self.losses.square().mean(1).sqrt()
        p = (1 - self.uniform) * size / size.sum().clamp(min=1e-30) + self.uniform / self.bins
        ready = (self.counts.min() >= self.history) & (size.sum() > 0)
        return torch.where(ready, p, torch.full_like(p, 1 / self.bins))

    @torch.no_grad()
    def __call__(self, random: Random, process: JointProcess) -> tuple[Tensor, Tensor]:
        """Return times in (0, 1] and their factors, both (B,)."""
        n, p = len(random.indices), self.probabilities()
        share, place = random.uniform((n,)), random.uniform((n,))
        chosen = torch.searchsorted(p.cumsum(0), share.to(p)).clamp(max=self.bins - 1)
        return (chosen + place) / self.bins, (1 / (self.bins * p[chosen])).to(place)

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Remember the losses (B,) at times (B,), the later of a batch over the earlier."""
        # A discrete time k / T stands at the upper end of its bin, give or take a rounding.
        chosen = (t * self.bins - 1e-3).long()
        order = chosen.argsort(stable=True)
        chosen, loss = chosen[order], loss[order].to(self.losses)
        added = torch.zeros_like(self.counts).index_add_(0, chosen, torch.ones_like(chosen))
        first = added.cumsum(0) - added
        rank = torch.arange(len(chosen), device=chosen.device) - first[chosen]
        kept = rank >= added[chosen] - self.history  # a slot is written once
        slot = (self.counts[chosen] + rank) % self.history
        self.losses[chosen[kept], slot[kept]] = loss[kept]
        self.counts += added
