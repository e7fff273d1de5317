r"""Schedules of T discrete steps: tables of :math:`\log\alpha^2` made from their betas."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.schedule.base import VariancePreserving


class Table(VariancePreserving):
    r"""A variance-preserving schedule given by :math:`\log\alpha^2` at the times k / T, linear in between.

    The table is float64 and stays on the CPU until a tensor of times asks for it.

    Arguments:
        log_alpha_squared: T + 1 falling values, at the times 0, 1 / T, ..., 1.
    """

    def __init__(self, log_alpha_squared: Tensor):
        super().__init__()
        self.steps = len(log_alpha_squared) - 1
        self._table = log_alpha_squared.double()
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def _values(self, like: Tensor) -> Tensor:
        key = (like.device, like.dtype)
        if key not in self._copies:
            self._copies[key] = self._table.to(like)
        return self._copies[key]

    def log_alpha_squared(self, t: Tensor) -> Tensor:  # noqa: D102
        table = self._values(t)
        place = t * self.steps
        left = place.detach().floor().clamp(0, self.steps - 1).long()
        return table[left] + (place - left) * (table[left + 1] - table[left])

    def time(self, log_snr: Tensor) -> Tensor:  # noqa: D102
        table = self._values(log_snr)
        value = torch.nn.functional.logsigmoid(log_snr).clamp(table[-1], table[0])
        right = torch.searchsorted(-table, -value.contiguous()).clamp(1, self.steps)
        slope = (table[right - 1] - table[right]).clamp(min=1e-30)  # a table may be flat where beta underflows
        return (right - 1 + (table[right - 1] - value) / slope) / self.steps


def _from_betas(betas: Tensor) -> Tensor:
    return torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])


SHAPES = ("linear", "quadratic", "sigmoid")


class Linear(Table):
    r"""Betas that rise from `start` to `end`: :math:`\alpha^2_{k/T} = \prod_{j \le k}(1 - \beta_j)`.

    With :math:`u_k = (k - 1) / (T - 1)`, from 0 at the first step to 1 at the last, `shape` is

    ============  =======================================================  ===========================================
    "linear"      :math:`b_0 + (b_1 - b_0) u`                              DDPM
    "quadratic"   :math:`(\sqrt{b_0} + (\sqrt{b_1} - \sqrt{b_0}) u)^2`     DDPM's "quad" with the default ends; latent
                                                                           diffusion's "scaled linear" with others
                                                                           (0.0015 to 0.0195, 8.5e-4 to 0.012)
    "sigmoid"     :math:`b_0 + (b_1 - b_0)\,\mathrm{sigmoid}(12 u - 6)`    GeoDiff (not the sigmoid of
                                                                           :math:`\alpha^2` of later papers)
    ============  =======================================================  ===========================================

    Arguments:
        steps: T, the number of discrete steps (1000). For another T, `start` and `end` are usually scaled by 1000 / T.
        start: First beta, b_0 (1e-4).
        end: Last beta, b_1 (0.02).
        shape: "linear", "quadratic" or "sigmoid".

    References:
        | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
        | High-resolution image synthesis with latent diffusion models (Rombach et al., 2021) | https://arxiv.org/abs/2112.10752
        | GeoDiff (Xu et al., 2022) | https://arxiv.org/abs/2203.02923
    """

    def __init__(self, steps: int = 1000, start: float = 1e-4, end: float = 0.02, shape: str = "linear"):
        if steps < 1 or not 0 < start <= end < 1:
            raise ValueError(f"Linear wants steps >= 1 and 0 < start <= end < 1, got {steps}, {start}, {end}")
        if shape not in SHAPES:
            raise ValueError(f"Linear wants a shape of {SHAPES}, got {shape!r}")
        if shape == "linear":
            betas = torch.linspace(start, end, steps, dtype=torch.float64)
        elif shape == "quadratic":
            betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        else:
            betas = start + (end - start) * torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
        super().__init__(_from_betas(betas))
        self.start, self.end, self.shape = start, end, shape


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
        self.offset = offset


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
        self.power, self.precision = power, precision
