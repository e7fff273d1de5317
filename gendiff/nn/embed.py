"""Embeddings of what a network is told besides its state: noise levels and conditions."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gendiff.files import UserError


def waves(scalar: Tensor, frequencies: Tensor) -> Tensor:
    """Return the cosines and sines of a scalar (...) at K/2 angular frequencies, (..., K)."""
    angle = scalar.unsqueeze(-1) * frequencies.to(scalar.dtype)
    return torch.cat((angle.cos(), angle.sin()), -1)


class Fourier(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced frequencies.

    y_k = cos(2π s / period_k) and y_{K/2+k} = sin(2π s / period_k), with K/2 periods from `longest` to `shortest`.
    The frequencies are fixed, so nothing is learned and nothing is saved.

    Args:
        features: number K of features, even.
        longest: longest period, in units of the scalar. 80 spans a log-SNR clipped to ±20 within half a period;
            use 4 for a time in [0, 1].
        shortest: shortest period, in units of the scalar.

    Raises:
        UserError: if `features` is odd or not positive.
    """

    frequencies: Tensor

    def __init__(self, features: int = 32, longest: float = 80.0, shortest: float = 1.0):
        super().__init__()
        if features < 2 or features % 2:
            raise UserError(f"Fourier: features = {features} must be a positive even number")
        self.features, self.longest, self.shortest = features, longest, shortest
        periods = torch.logspace(math.log10(longest), math.log10(shortest), features // 2, dtype=torch.float64)
        self.register_buffer("frequencies", (2 * math.pi / periods).float(), persistent=False)

    def forward(self, scalar: Tensor) -> Tensor:
        """Embed `scalar` of any shape (...) as (..., features)."""
        return waves(scalar, self.frequencies)


class RandomFourier(nn.Module):
    r"""Cosines and sines of a scalar at random frequencies.

    .. math:: \cos(2\pi s w_k), \; \sin(2\pi s w_k), \qquad w_k \sim N(0, b^2)

    The frequencies are drawn once and saved with the weights; nothing is learned.

    Args:
        features: number of features, even.
        scale: b, in periods per unit of the scalar. NCSN++ takes 16 for log σ, which is 64 for a quarter of it.

    Raises:
        UserError: if `features` is odd or not positive, or for a scale that is not positive.

    References:
        | Fourier features let networks learn high frequency functions (Tancik et al., 2020) | https://arxiv.org/abs/2006.10739
        | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
    """

    frequencies: Tensor

    def __init__(self, features: int = 32, scale: float = 16.0):
        super().__init__()
        if features < 2 or features % 2 or not 0 < scale < math.inf:
            raise UserError(
                f"RandomFourier wants a positive even number of features and a positive scale, got {features}, {scale}"
            )
        self.features, self.scale = features, scale
        self.register_buffer("frequencies", scale * torch.randn(features // 2))

    def forward(self, scalar: Tensor) -> Tensor:
        """Embed `scalar` of any shape (...) as (..., features)."""
        return waves(2 * math.pi * scalar, self.frequencies)


class Radial(nn.Module):
    r"""Gaussians of a distance, :math:`y_k = \exp(-(d - \mu_k)^2 / 2w^2)`: centers evenly from 0, w their spacing.

    Args:
        features: number K of Gaussians, at least 2.
        largest: center of the last one, in units of the distance.

    Raises:
        UserError: if there are fewer than two, or `largest` is not positive.
    """

    def __init__(self, features: int = 16, largest: float = 5.0):
        super().__init__()
        if features < 2 or not largest > 0:
            raise UserError(f"Radial: needs at least 2 features and a positive range, got {features} and {largest}")
        self.features, self.largest = features, largest

    def forward(self, distance: Tensor) -> Tensor:
        """Embed distances of any shape (...) as (..., features)."""
        width = self.largest / (self.features - 1)
        steps = torch.arange(self.features, dtype=distance.dtype, device=distance.device)
        # cut at eight widths, 1e-14: beyond, exp gives subnormal numbers, which CPUs multiply a hundred times slower
        return torch.exp(-0.5 * (distance.unsqueeze(-1) / width - steps).clamp(-8, 8).square())


def _key(name: str) -> str:
    """Return a name as torch's dictionaries of modules take it: no dot, and none of their own attributes."""
    taken = hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name)
    return f"condition_{name.encode().hex()}" if taken or not name.isidentifier() else name


class Conditioning(nn.Module):
    """The sum of learned embeddings of the conditions of each sample, absent ones replaced by a learned null.

    A float condition c becomes W₂ silu(W₁ c + b₁) + b₂ and should be standardized; an integer one is looked up in a
    table; a set of points goes through :class:`gendiff.nn.points.PointSet`. A condition that is missing for one sample
    (NaN, or −1 for an integer) or for the whole batch (not in the dictionary) contributes its own learned null vector,
    which is what classifier-free guidance needs.

    Args:
        conditions: name → `"float"` for a real number, the number of classes of an integer condition, or
            `{"points": D}` for a set of points with D coordinates.
        width: number of features of the result.

    Raises:
        UserError: if a condition is none of these.
    """

    def __init__(self, conditions: Mapping[str, str | int | Mapping[str, int]], width: int):
        super().__init__()
        self.conditions, self.width = dict(conditions), width
        self.embeddings = nn.ModuleDict()
        self.keys = {name: _key(name) for name in sorted(conditions)}
        for name, kind in sorted(conditions.items()):
            if kind == "float":
                self.embeddings[_key(name)] = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
            elif isinstance(kind, int) and kind > 0:
                self.embeddings[_key(name)] = nn.Embedding(kind, width)
            elif isinstance(kind, Mapping) and list(kind) == ["points"]:
                from gendiff.nn.points import PointSet  # stands on the sines and cosines of this file

                self.embeddings[_key(name)] = PointSet(kind["points"], width)
            else:
                raise UserError(
                    f"condition {name!r}: {kind!r} is neither 'float', a positive number of classes, nor"
                    ' {"points": coordinates}'
                )
        self.null = nn.ParameterDict({key: nn.Parameter(torch.randn(width)) for key in self.keys.values()})

    def forward(self, condition: dict[str, Tensor] | None, batch: int) -> Tensor:
        """Embed the conditions, each (B,) or (B, 1), sets of points (B, K, D), of `batch` = B samples as (B, width).

        Raises:
            UserError: if `condition` has a name this network was not built with.
        """
        given = condition or {}
        if unknown := sorted(given.keys() - self.keys.keys()):
            raise UserError(f"condition {unknown[0]!r} is unknown to this model; it knows {sorted(self.keys)}")
        return torch.stack([self._embed(name, given.get(name), batch) for name in self.keys]).sum(0)

    def _embed(self, name: str, value: Tensor | None, batch: int) -> Tensor:
        null = self.null[self.keys[name]].expand(batch, self.width)
        if value is None:
            return null
        kind = self.conditions[name]
        if isinstance(kind, Mapping):
            missing = value.isnan().any(2).all(1)
            return torch.where(missing[:, None], null, self.embeddings[self.keys[name]](value.to(null.dtype)))
        value = value.reshape(batch)
        if kind == "float":
            missing = value.isnan()
            embedded = self.embeddings[self.keys[name]](value.nan_to_num().to(null.dtype).unsqueeze(-1))
        else:
            missing = value < 0
            embedded = self.embeddings[self.keys[name]](value.clamp(min=0))
        return torch.where(missing.unsqueeze(-1), null, embedded)
