r"""A steerable network: features of nodes are tensors of degree 0, 1, 2, ..., messages their products with directions.

A node has scalars :math:`f^0`, vectors :math:`f^1` and tensors :math:`f^2` that turn with the coordinates,
:math:`f^l(R x) = D^l(R)\, f^l(x)`. The product of two of them has parts of every degree that the Clebsch-Gordan
coefficients C allow, and a block sums those of its neighbours' features with the spherical harmonics Y of their
directions, channel by channel,

.. math::
    m_i^{l} = \frac1s \sum_{j \ne i} w_{ij} \odot (f_j^{l_1} \otimes_C Y^{l_2}(u_{ij})), \qquad
    u_{ij} = \frac{x_i - x_j}{\sqrt{d_{ij}^2 + 0.01}},

once for every path :math:`(l_1, l_2) \to l`. The weights are an edge network's, of the invariants of the pair:
:math:`w_{ij} = W\, \mathrm{silu}(A f_i^0 + B f_j^0 + E\, e_{ij} + b)`, where :math:`e_{ij}` are Gaussians of the
distance and the tensors of both ends along the direction, :math:`f_i^l \cdot Y^l(u_{ij})` and
:math:`f_j^l \cdot Y^l(u_{ji})`. The product is linear in Y, so C meets Y before the channels do, and what is left is a
batched matrix product over neighbours: there are no index lists, and no pair's tensor product is ever written down.

Harmonics and coefficients are e3nn's; so are the order and the normalization of components, with channels last.

Thomas, Smidt, Kearnes, Yang, Li, Kohlhoff, Riley: Tensor field networks (2018). Batzner, Musaelian, Sun, Geiger,
Mailoa, Kornbluth, Molinari, Smidt, Kozinsky: E(3)-equivariant graph neural networks for data-efficient and accurate
interatomic potentials (2022). Geiger, Smidt: e3nn: Euclidean neural networks (2022).
"""

from __future__ import annotations

from itertools import pairwise, product

import torch
from e3nn import o3
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier, Radial
from gendiff.nn.graph import add_condition, centred, check_shape, previous
from gendiff.ops import State

Path = tuple[int, int, int]
"""Degrees of a feature, of the harmonics it is multiplied with, and of the result."""

ALONG = 8
"""Channels of every degree above 0 that a pair sees along its direction."""


def tensor_paths(inputs: int, outputs: int, degree: int, chirality: bool) -> list[Path]:
    """Return the paths from features up to degree `inputs` by harmonics up to `degree` to results up to `outputs`.

    Degrees obey the triangle rule. If features of degree l have the parity (-1)^l of the harmonics, those of a path
    sum to an even number; `chirality` forgets the parities, and the cross product (1, 1, 1) is a path too.
    """
    every = product(range(inputs + 1), range(degree + 1), range(outputs + 1))
    return [(a, b, c) for a, b, c in every if abs(a - b) <= c <= a + b and (chirality or (a + b + c) % 2 == 0)]


class Convolution(nn.Module):
    r"""Sums over neighbours of tensor products: :math:`m_i^l = \sum_j w_{ij} \odot (f_j^{l_1} \otimes_C Y_{ij}^{l_2})`.

    Products are normalized as e3nn's `o3.TensorProduct` with `irrep_normalization="component"`: by
    :math:`\sqrt{2l+1}` times the Wigner 3j symbol.

    Args:
        channels: channels of the features, by degree.
        degree: largest degree L of the harmonics.
        outputs: largest degree of the results.
        chirality: see :func:`tensor_paths`.
    """

    high: Tensor
    low: Tensor

    def __init__(self, channels: list[int], degree: int, outputs: int, chirality: bool):
        super().__init__()
        self.paths = tensor_paths(len(channels) - 1, outputs, degree, chirality)
        self.weights = [channels[a] for a, _, _ in self.paths]
        self.columns = [(2 * a + 1) * (2 * c + 1) for a, _, c in self.paths]
        self.results = [sum(channels[a] for a, _, c in self.paths if c == k) for k in range(outputs + 1)]
        table = torch.zeros((degree + 1) ** 2, sum(self.columns), dtype=torch.float64)
        for (a, b, c), part in zip(self.paths, table.split(self.columns, 1), strict=True):
            symbol = (2 * c + 1) ** 0.5 * o3.wigner_3j(a, b, c, dtype=torch.float64)
            part[b**2 : (b + 1) ** 2] = symbol.transpose(0, 1).flatten(1)
        # in two parts, so that a network that is made in float32 has all digits in float64
        self.register_buffer("high", table.float(), persistent=False)
        self.register_buffer("low", (table - table.float()).float(), persistent=False)

    def forward(self, features: list[Tensor], harmonics: Tensor, weights: Tensor) -> list[Tensor]:
        """Map features (B, N, 2l+1, channels), harmonics (B, N, N, (L+1)²), weights (B, N, N, W) to results by degree.

        Channels of a result, (B, N, 2l+1, channels), follow one another in the order of `paths`.
        """
        dtype = harmonics.dtype
        products = (harmonics @ (self.high.to(dtype) + self.low.to(dtype))).split(self.columns, -1)
        results: list[list[Tensor]] = [[] for _ in self.results]
        for (a, _, c), weight, y in zip(self.paths, weights.split(self.weights, -1), products, strict=True):
            sent = (weight.unsqueeze(3) * features[a].unsqueeze(1)).flatten(2, 3)  # (B, N, N (2a+1), channels)
            y = y.unflatten(-1, (2 * a + 1, 2 * c + 1)).flatten(2, 3)
            results[c].append(y.transpose(2, 3) @ sent)
        return [torch.cat(parts, -1) for parts in results]


class Norm(nn.Module):
    r"""Features of unit size, scaled and shifted by what the sample is told.

    Scalars are :math:`\mathrm{LayerNorm}(f^0)(1 + a) + b`; other degrees :math:`f^l (1 + a^l) / \sqrt{|f^l|^2 + 0.01}`,
    with the mean square over components and channels. a and b are linear in the embedding of the sample.
    """

    def __init__(self, channels: list[int], told: int):
        super().__init__()
        self.channels = channels
        self.modulation = nn.Linear(told, channels[0] + sum(channels))

    def forward(self, features: list[Tensor], told: Tensor) -> list[Tensor]:
        """Map features (B, N, 2l+1, channels) by an embedding (B, told)."""
        shift, *scales = self.modulation(told)[:, None, None].split([self.channels[0], *self.channels], -1)
        scalars = nn.functional.layer_norm(features[0], features[0].shape[-1:]) * (1 + scales[0]) + shift
        sizes = [f.square().mean((-2, -1), keepdim=True) for f in features[1:]]
        return [scalars] + [
            f * (1 + a) * (size + 0.01).rsqrt() for f, a, size in zip(features[1:], scales[1:], sizes, strict=True)
        ]


class Block(nn.Module):
    """A convolution, a gated update of every degree by its sums and itself, and a step of the coordinates.

    Scalars are updated by an MLP of scalars and of inner products of two linear maps of each other degree; its further
    outputs are the gates of these degrees. Every degree has a matrix of its own, as an optimizer of matrices wants it.
    """

    def __init__(
        self,
        inputs: list[int],
        outputs: list[int],
        degree: int,
        pair_features: int,
        chirality: bool,
        normalization: float,
    ):
        super().__init__()
        width, self.outputs, self.normalization = inputs[0], outputs, normalization
        self.norm = Norm(inputs, width)
        self.convolution = Convolution(inputs, degree, len(outputs) - 1, chirality)
        self.nodes = nn.Linear(width, 2 * width, bias=False)
        self.along = nn.ModuleList(nn.Linear(channels, ALONG, bias=False) for channels in inputs[1:])
        self.pair = nn.Linear(pair_features + 2 * ALONG * len(self.along), width)
        self.weights = nn.Linear(width, sum(self.convolution.weights))
        own = [*inputs, *[0] * len(outputs)]
        self.mix = nn.ModuleList(
            nn.Linear(self.convolution.results[k] + own[k], 2 * outputs[k], bias=False) for k in range(1, len(outputs))
        )
        self.scalars = nn.Sequential(
            nn.Linear(self.convolution.results[0] + width + sum(outputs[1:]), 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, sum(outputs)),
        )
        self.move = nn.Linear(width, outputs[1])
        nn.init.xavier_uniform_(self.move.weight, gain=0.01)  # networks start by leaving everything where it is
        nn.init.zeros_(self.move.bias)

    def forward(
        self, features: list[Tensor], told: Tensor, pairs: Tensor, harmonics: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Map features (B, N, 2l+1, channels) to new ones and a step (B, N, 3).

        Args:
            features: features of the nodes, by degree.
            told: embedding of what the samples are told, (B, width).
            pairs: features of the pairs, (B, N, N, K).
            harmonics: harmonics of the pairs, 0 on the diagonal and for padding, (B, N, N, (L+1)²).
        """
        f = self.norm(features, told)
        full = torch.autocast(harmonics.device.type, enabled=False)  # rounded tensors would not turn with the molecule
        with full:
            parts = [harmonics[..., k * k : (k + 1) ** 2] @ along(f[k]) for k, along in enumerate(self.along, 1)]
        receiver, sender = self.nodes(f[0].squeeze(2)).chunk(2, -1)
        hidden = self.pair(torch.cat((pairs, *parts, *[part.transpose(1, 2) for part in parts]), -1))
        hidden = hidden + receiver.unsqueeze(2) + sender.unsqueeze(1)
        weights = self.weights(nn.functional.silu(hidden)).to(harmonics.dtype)
        with full:
            sums = [m / self.normalization for m in self.convolution(f, harmonics, weights)]
            sums = [torch.cat((m, *f[k : k + 1]), -1) for k, m in enumerate(sums)]
            mixed = [mix(m).chunk(2, -1) for mix, m in zip(self.mix, sums[1:], strict=True)]
        invariants = [(p * q).mean(2, keepdim=True) for p, q in mixed]
        update, *gates = self.scalars(torch.cat((sums[0], *invariants), -1)).split(self.outputs, -1)
        new = [features[0] + update]
        for k, ((p, _), gate) in enumerate(zip(mixed, gates, strict=True), 1):
            change = gate.sigmoid() * p
            new.append(features[k] + change if k < len(features) else change)
        # by the root of the channels, so that wide networks do not start with steps that training has to take back
        return new, (new[1] * self.move(new[0])).sum(-1) * self.outputs[1] ** -0.5


class SteerableDenoiser(nn.Module):
    r"""E(3)-equivariant in the field `position`, invariant in all others; a plain network that knows nothing of noise.

    Scalars of a node start as a linear map of the other fields in alphabetical order and of the noise levels. Results
    are, for `position`, the sum of the steps :math:`\sum_{c \le C} g_c(f^0) f^1_c / \sqrt{C}` of all blocks without its
    mean over the real nodes, and for every other field a linear map of the last scalars. Every block looks at the moved
    coordinates, and its features are scaled and shifted by what the sample is told: noise levels and conditions.

    Args:
        features: number of channels of every field but `position`.
        levels: number F of noise levels of a sample.
        width: number of scalars of a node; degree l has width / 2^l channels.
        layers: number of blocks.
        degree: largest degree L of features and harmonics, at least 1. In one sum over neighbours, degree 1 sees
            whether they lie to one side, degree 2 also whether they lie in a plane.
        chirality: whether mirror images may get different results. Parities are then forgotten, so that cross products
            are among the paths, and only rotations remain symmetries.
        normalization: s, what sums over neighbours are divided by; about the mean number of nodes.
        self_condition: whether `<field>_previous`, an earlier estimate of every field, is read: scalars as further
            inputs, positions as distances and as each node's way to its own. Those that are not given count as zero.
        conditions: conditions of a sample, see :class:`~gendiff.nn.embed.Conditioning`.
        level_features: number of Fourier features of a noise level.
        level_range: length of the interval in which levels lie; 10 for a quarter of a log-SNR within ±20, 1 for a time.
        distance_features: number of Gaussians of a distance.
        distance_range: center of the last of these, in units of the position; beyond it only the logarithm of
            :math:`1 + d^2` speaks.

    Raises:
        UserError: for sizes that are not positive, a width below 2^degree, or if `position` is among the features.
    """

    def __init__(
        self,
        features: dict[str, int],
        levels: int = 1,
        width: int = 64,
        layers: int = 4,
        degree: int = 2,
        chirality: bool = False,
        normalization: float = 8.0,
        self_condition: bool = False,
        conditions: dict[str, str | int] | None = None,
        level_features: int = 32,
        level_range: float = 10.0,
        distance_features: int = 32,
        distance_range: float = 4.0,
    ):
        super().__init__()
        sizes = {"levels": levels, "layers": layers, "degree": degree, "normalization": normalization}
        self.features = check_shape("SteerableDenoiser", features, **sizes)
        if width < 2**degree:
            raise UserError(f"SteerableDenoiser: width = {width} must be at least 2^degree = {2**degree}")
        self.levels, self.width, self.layers, self.degree = levels, width, layers, degree
        self.chirality, self.normalization, self.self_condition = chirality, normalization, self_condition
        self.conditions = dict(conditions or {})
        self.level_features, self.level_range = level_features, level_range
        self.distance_features, self.distance_range = distance_features, distance_range

        scalars, told = sum(features.values()), levels * level_features
        channels = [width >> k for k in range(degree + 1)]
        self.fourier = Fourier(level_features, 2 * level_range, level_range / 40)
        self.radial = Radial(distance_features, distance_range)
        self.told = nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width))
        self.conditioning = Conditioning(self.conditions, width) if self.conditions else None
        self.embedding = nn.Linear(scalars * (1 + self_condition) + told, width)
        self.way = nn.Parameter(torch.randn(channels[1])) if self_condition else None
        first = channels[: 1 + self_condition]
        pair_features = (distance_features + 1) * (1 + self_condition)
        ends = [first, *[channels] * (layers - 1), channels[:2]]
        self.blocks = nn.ModuleList(
            Block(inputs, outputs, degree, pair_features, chirality, normalization)
            for inputs, outputs in pairwise(ends)
        )
        self.output = nn.Linear(width, scalars) if scalars else None

    def forward(
        self, x: State, noise_level: Tensor, mask: Tensor | None = None, condition: dict[str, Tensor] | None = None
    ) -> State:
        """Map a state, noise levels (B, F), a mask (B, N) and conditions of the samples to a state.

        Args:
            x: `position` (B, N, 3) and the fields of `features` (B, N, channels).
            noise_level: levels of every sample.
            mask: True for real nodes; None if all are.
            condition: see :class:`~gendiff.nn.embed.Conditioning`.

        Raises:
            UserError: for a condition that is not one of `conditions`.
        """
        position = x["position"]
        batch, size, _ = position.shape
        dtype = position.dtype
        real = torch.ones_like(position[..., :1]) if mask is None else mask.unsqueeze(2).to(dtype)
        apart = 1 - torch.eye(size, dtype=dtype, device=position.device).unsqueeze(-1)
        pairs = real.unsqueeze(1) * real.unsqueeze(2) * apart

        level = self.fourier(noise_level.to(dtype)).flatten(1)
        told = nn.functional.silu(add_condition(self.told(level), self.conditioning, condition))

        scalars = [x[name] for name in self.features]
        fixed: list[Tensor] = []
        f: list[Tensor] = []
        if self.way is not None:
            scalars += [previous(x, name) for name in self.features]
            before = previous(x, "position")
            fixed = [self._pair_features(_directions(before)[1])]
            f = [centred(before - position, mask).unsqueeze(-1) * self.way]
        h = self.embedding(torch.cat((*scalars, level.unsqueeze(1).expand(batch, size, -1)), -1))
        f = [h.unsqueeze(2).to(dtype), *f]

        change = torch.zeros_like(position)
        for block in self.blocks:
            direction, squared = _directions(position + change)
            harmonics = o3.spherical_harmonics(list(range(self.degree + 1)), direction, False, "component")
            features = torch.cat((self._pair_features(squared), *fixed), -1)
            f, step = block(f, told, features, harmonics * pairs)
            change = change + step
        result = {"position": centred(change, mask)}
        if self.output is not None:
            fields = (real * self.output(f[0].squeeze(2))).split(list(self.features.values()), -1)
            result |= dict(zip(self.features, fields, strict=True))
        return result

    def _pair_features(self, squared: Tensor) -> Tensor:
        return torch.cat((self.radial((squared + 1e-8).sqrt().squeeze(-1)), squared.log1p()), -1)


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (x_i - x_j) / sqrt(d² + 0.01), which is smooth where nodes meet, and d² of all pairs, (B, N, N, 3 | 1)."""
    difference = x.unsqueeze(2) - x.unsqueeze(1)
    squared = difference.square().sum(-1, keepdim=True)
    return difference * (squared + 0.01).rsqrt(), squared
