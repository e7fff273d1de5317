r"""Noise schedules: how much signal and noise is left at time t.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1]

t = 0 is data, t = 1 is noise. :math:`\sigma` is a standard deviation. The log signal-to-noise ratio is that of the
*squares*, :math:`\log \mathrm{SNR} = 2(\log\alpha - \log\sigma)`. A schedule of T discrete steps is the same thing with
times k / T.

=============  ====================================================  =======================
class          definition                                            kind
=============  ====================================================  =======================
`Linear`       :math:`\beta_k` linear in k (DDPM)                    variance preserving
`Cosine`       squared cosine, :math:`\beta_k \le 0.999`             variance preserving
`Polynomial`   :math:`(1 - 2s)(1 - t^p)^2 + s` (EDM for molecules)   variance preserving
`Flow`         :math:`\alpha = 1 - t, \sigma = t`                    flow matching
=============  ====================================================  =======================
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gendiff.ops import expand


class Schedule(nn.Module):
    """Interface of a noise schedule. All methods map a tensor of times to a tensor of the same shape and dtype."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the scale of the signal."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha(t)")

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise."""
        raise NotImplementedError(f"{type(self).__name__} must define sigma(t)")

    def log_snr(self, t: Tensor) -> Tensor:
        r"""Return :math:`2(\log\alpha_t - \log\sigma_t)`: +inf where there is no noise, -inf where no signal."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor) -> Tensor:
        """Return the time at which the log signal-to-noise ratio has this value (beyond the range, the nearest end)."""
        raise NotImplementedError(f"{type(self).__name__} must define time(log_snr)")

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`d\alpha/dt` and :math:`d\sigma/dt`, by forward-mode differentiation."""
        one = torch.ones_like(t)
        return torch.func.jvp(self.alpha, (t,), (one,))[1], torch.func.jvp(self.sigma, (t,), (one,))[1]


class Flow(Schedule):
    r"""Straight paths of flow matching, :math:`\alpha = 1 - t, \sigma = t`.

    References: | Flow matching for generative modeling (Lipman et al., 2022) | https://arxiv.org/abs/2210.02747
    """

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return t

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(-log_snr / 2)


class Table(Schedule):
    r"""A variance-preserving schedule given by :math:`\log\alpha^2` at the times k / T, linear in between.

    The table is float64 and stays on the CPU until a tensor of times asks for it;
    :math:`\sigma^2 = -\mathrm{expm1}(\log\alpha^2)` keeps its digits near t = 0 in float32 too.
    """

    def __init__(self, log_alpha_squared: Tensor):
        super().__init__()
        self._table = log_alpha_squared.double()
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def _values(self, like: Tensor) -> Tensor:
        key = (like.device, like.dtype)
        if key not in self._copies:
            self._copies[key] = self._table.to(like)
        return self._copies[key]

    def log_alpha_squared(self, t: Tensor) -> Tensor:
        r"""Return :math:`\log\alpha_t^2`."""
        table = self._values(t)
        place = t * (len(table) - 1)
        left = place.detach().floor().clamp(0, len(table) - 2).long()
        return table[left] + (place - left) * (table[left + 1] - table[left])

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return (self.log_alpha_squared(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return (-torch.expm1(self.log_alpha_squared(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:  # noqa: D102
        value = self.log_alpha_squared(t)
        return value - torch.log(-torch.expm1(value))

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        table = self._values(log_snr)
        value = torch.nn.functional.logsigmoid(log_snr).clamp(table[-1], table[0])
        right = torch.searchsorted(-table, -value.contiguous()).clamp(1, len(table) - 1)
        slope = (table[right - 1] - table[right]).clamp(min=1e-30)  # a table may be flat where beta underflows
        return (right - 1 + (table[right - 1] - value) / slope) / (len(table) - 1)


def _from_betas(betas: Tensor) -> Tensor:
    return torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])


class Linear(Table):
    r"""The linear schedule of DDPM: :math:`\alpha^2_{k/T} = \prod_{j \le k}(1 - \beta_j)`, `start` <= beta <= `end`.

    Arguments:
        steps: T, the number of discrete steps (1000). For another T, `start` and `end` are usually scaled by 1000 / T.
        start: First beta (1e-4).
        end: Last beta (0.02).

    References: | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def __init__(self, steps: int = 1000, start: float = 1e-4, end: float = 0.02):
        if steps < 1 or not 0 < start <= end < 1:
            raise ValueError(f"Linear wants steps >= 1 and 0 < start <= end < 1, got {steps}, {start}, {end}")
        super().__init__(_from_betas(torch.linspace(start, end, steps, dtype=torch.float64)))
        self.steps, self.start, self.end = steps, start, end


class Cosine(Table):
    r"""The squared-cosine schedule, :math:`\beta_k = \min(1 - f_k / f_{k-1}, 0.999)`.

    With :math:`f_k = \cos^2\left(\frac{k/T + s}{1 + s}\frac{\pi}{2}\right)`.

    Arguments:
        steps: T (1000).
        offset: s (0.008), keeps the first betas from vanishing.

    References: | Improved denoising diffusion probabilistic models (Nichol, Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    def __init__(self, steps: int = 1000, offset: float = 0.008):
        if steps < 1 or offset < 0:
            raise ValueError(f"Cosine wants steps >= 1 and offset >= 0, got {steps}, {offset}")
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((t + offset) / (1 + offset) * torch.pi / 2) ** 2
        super().__init__(_from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999)))
        self.steps, self.offset = steps, offset


class Polynomial(Table):
    r"""The polynomial schedule of EDM for molecules.

    :math:`\alpha^2` starts as :math:`(1 - (k / T)^p)^2` for k = 0 .. T; each ratio of neighbours is kept in [0.001, 1];
    then :math:`\alpha^2 \leftarrow (1 - 2s)\alpha^2 + s`. Even t = 0 has some noise: :math:`\sigma_0 = \sqrt{s}`.

    Arguments:
        steps: T (1000).
        power: p (2).
        precision: s (1e-5).

    References: | Equivariant diffusion for molecule generation in 3D (Hoogeboom et al., 2022) | https://arxiv.org/abs/2203.17003
    """

    def __init__(self, steps: int = 1000, power: float = 2.0, precision: float = 1e-5):
        if steps < 1 or power <= 0 or not 0 <= precision < 0.5:
            raise ValueError(
                f"Polynomial wants steps >= 1, power > 0, 0 <= precision < 0.5, got {steps}, {power}, {precision}"
            )
        x = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        square = (1 - x**power) ** 2
        ratios = torch.cat([square[:1], square[1:] / square[:-1]]).clamp(0.001, 1)
        super().__init__(((1 - 2 * precision) * ratios.cumprod(0) + precision).log())
        self.steps, self.power, self.precision = steps, power, precision


def coefficients(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha(t) and sigma(t) of times (B,), shaped to multiply `like` of shape (B, ...)."""
    return expand(schedule.alpha(t), like), expand(schedule.sigma(t), like)


GRIDS = ("uniform", "log_snr", "quadratic")


def time_grid(steps: int, kind: str = "uniform", schedule: Schedule | None = None, start: float = 1.0) -> list[float]:
    """Return `steps` + 1 decreasing times from `start` to 0.

    Arguments:
        steps: How many steps down.
        kind: "uniform" in time; "quadratic", time (1 - i/steps)^2, denser near the data; "log_snr", even steps of the
            log signal-to-noise ratio of `schedule`, from its value at `start` (at least -10) to that at start / 1000
            (at most 12), then one step to 0.
        schedule: Needed for "log_snr".
        start: First time; below 1 to start from noised data (SDEdit).

    Raises:
        ValueError: for steps < 1, an unknown kind, or `start` outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < start <= 1:
        raise ValueError(f"start must lie in (0, 1], got {start}")
    if kind not in GRIDS:
        raise ValueError(f"grid must be one of {GRIDS}, got {kind!r}")
    if kind == "log_snr":
        if schedule is None:
            raise ValueError("a log_snr grid needs the schedule")
        low, high = schedule.log_snr(torch.tensor([start, 1e-3 * start], dtype=torch.float64)).clamp(-10, 12).tolist()
        inner = schedule.time(torch.linspace(low, high, steps, dtype=torch.float64)).tolist()
        return [start, *inner[1:], 0.0]
    fractions = [1 - i / steps for i in range(steps + 1)]
    return [start * (f * f if kind == "quadratic" else f) for f in fractions]
