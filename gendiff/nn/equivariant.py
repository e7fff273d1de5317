r"""An equivariant transformer: attention over messages of pairs, at a width of their own, with vectors of the nodes.

Each node has scalars :math:`h_i`, vectors :math:`v_i^c` and a position :math:`x_i`, each pair a message
:math:`m_{ij}`. With :math:`n_i`, the layer norm of :math:`h_i` scaled and shifted by what is known of the whole sample,
and :math:`u_{ij} = (x_i - x_j) / \sqrt{d_{ij}^2 + 0.01}` at the present distances :math:`d_{ij}`, a block computes

.. math::
    v_i^c &\leftarrow v_i^c + \sum_{j \ne i} (1 + S n_j)_c\, (R\, \mathrm{radial}(d_{ij}))_c\, u_{ij} \\
    f_{ij} &= [\mathrm{radial}(d_{ij}),\; w_i \cdot u_{ij},\; w_j \cdot u_{ji},\; w_i \cdot w_j,\; m_{ij}],
        \qquad w_i = P v_i \\
    [m_{ij}, l_{ij}] &= W_2\, \mathrm{silu}(A n_i + B n_j + C f_{ij}), \qquad m_{ij} \leftarrow \mathrm{silu}(m_{ij}) \\
    a_{ij} &= \mathrm{softmax}_{j \ne i}(l_{ij}) \Big/ \sqrt{\textstyle\sum_k \mathrm{softmax}_{k \ne i}(l_{ik})^2} \\
    h_i &\leftarrow h_i + g\, W \sum_{j \ne i} a_{ij} m_{ij}, \qquad
    v_i \leftarrow v_i + V \sum_{j \ne i} a_{ij} m_{ij} u_{ij}

and then, node by node, with two linear maps y, z of the vectors,

.. math::
    [\delta, \gamma, s] &= \mathrm{MLP}[n_i,\; y_i^c \cdot z_i^c], \qquad
    h_i \leftarrow h_i + g' \delta, \qquad
    v_i^c \leftarrow \mathrm{norm}(v_i^c + \gamma_c z_i^c), \qquad
    x_i \leftarrow x_i + \textstyle\sum_c s_c v_i^c .

Scale, shift and the gates g are linear in an embedding of noise levels and conditions. Weights of unit length, not of
unit sum, let the sums tell how many neighbours there are. Pairs cost N² times the square of the message width, which
may be far below that of the nodes.

Schütt, Unke, Gastegger: Equivariant message passing for the prediction of tensorial properties (2021): vectors.
Peebles, Xie: Scalable diffusion models with transformers (2023): the embedding as scales, shifts and gates.
Irwin, Tibo, Janet, Olsson: SemlaFlow (2025): latent messages and attention weights of unit length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier, Radial
from gendiff.nn.graph import add_condition, centred, check_shape, previous
from gendiff.ops import State


class Pairs:
    """Geometry of all pairs at the present positions.

    Args:
        x: positions (B, N, 3).
        radial: embeds distances.
    """

    def __init__(self, x: Tensor, radial: Radial):
        difference = x.unsqueeze(2) - x.unsqueeze(1)
        squared = difference.square().sum(-1, keepdim=True)
        self.direction = difference / (squared + 0.01).sqrt()  # (B, N, N, 3)
        self.radial = radial((squared + 1e-8).sqrt().squeeze(-1))  # (B, N, N, K)

    def look(self, v: Tensor) -> Tensor:
        """v_i · u_ij, from vectors (B, N, 3, C) to (B, N, N, C)."""
        return (self.direction.flatten(0, 1) @ v.flatten(0, 1)).unflatten(0, v.shape[:2])

    def gather(self, weight: Tensor, scalars: bool = False) -> Tensor:
        """Σ_j weight_ij u_ij, (B, N, N, C) to (B, N, 3, C); with `scalars` Σ_j weight_ij before it, (B, N, 4, C)."""
        factors = self.direction
        if scalars:
            factors = torch.cat((torch.ones_like(factors[..., :1]), factors), -1)
        return (factors.transpose(2, 3).flatten(0, 1) @ weight.flatten(0, 1)).unflatten(0, weight.shape[:2])


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The layer norm of h, scaled by 1 + `scale` and shifted."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), 1 + scale)


def shorten(v: Tensor) -> Tensor:
    """Vectors (B, N, 3, C) of a node divided by √(1 + their mean square), so that none grow from block to block."""
    return v * (v.square().sum(2, keepdim=True).mean(3, keepdim=True) + 1).rsqrt()


class Block(nn.Module):
    """One block of :class:`EquivariantTransformer`, see the formulas above.

    Args:
        width: number of scalars of a node.
        message: number of channels of a message, and of the embedding of the sample.
        heads: number of attention weights of a pair, each for message / heads channels.
        vectors: number of vectors of a node; half as many are looked at by pairs.
        radial: number of radial features.
        chirality: whether vectors may be multiplied with each other.
    """

    def __init__(self, width: int, message: int, heads: int, vectors: int, radial: int, chirality: bool):
        super().__init__()
        self.message_width, self.heads, self.vectors, self.chirality = message, heads, vectors, chirality
        looked = (vectors + 1) // 2
        self.modulation = nn.Linear(message, 6 * width)
        self.nodes = nn.Linear(width, 2 * message + vectors, bias=False)
        self.density = nn.Linear(radial, vectors, bias=False)
        self.look = nn.Linear(vectors, looked, bias=False)
        self.pair = nn.Linear(radial + 3 * looked + message, message)
        self.message = nn.Linear(message, message + heads, bias=False)  # a softmax feels no bias
        self.scalars = nn.Linear(message, width, bias=False)
        self.directions = nn.Linear(message, vectors, bias=False)
        self.mix = nn.Linear(vectors, 2 * vectors, bias=False)
        self.first = nn.Linear(width + vectors * (1 + chirality), 2 * width)
        self.second = nn.Linear(2 * width, width + vectors * (2 + chirality))
        with torch.no_grad():  # a start close to no conditioning and no motion
            self.modulation.weight.mul_(0.1)
            self.modulation.bias.zero_()
            self.second.weight[width:].mul_(0.1)
            self.second.bias[width:].zero_()

    def forward(
        self, h: Tensor, v: Tensor, x: Tensor, m: Tensor, sample: Tensor, neighbours: Tensor, radial: Radial
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Update h (B, N, D), v (B, N, 3, C), x (B, N, 3) and m (B, N, N, M).

        Args:
            h: scalars.
            v: vectors.
            x: positions.
            m: messages of the block before.
            sample: embedding of every sample, (B, 1, M).
            neighbours: which pairs see each other, (B, N, N, 1), 1 or 0.
            radial: embeds distances.
        """
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(sample).chunk(6, -1)
        pairs, width = Pairs(x, radial), self.message_width

        receiver, sender, source = self.nodes(modulated(h, shift, scale)).split((width, width, self.vectors), -1)
        density = self.density(pairs.radial) * ((1 + source).unsqueeze(1) * neighbours)
        v = v + pairs.gather(density)
        w = self.look(v)
        inside, across = pairs.look(w), (w.unsqueeze(2) * w.unsqueeze(1)).sum(3)
        features = torch.cat((pairs.radial, inside, inside.transpose(1, 2), across, m), -1)
        hidden = F.silu(self.pair(features) + receiver.unsqueeze(2) + sender.unsqueeze(1))
        m, logits = self.message(hidden).split((width, self.heads), -1)
        m = F.silu(m)
        attention = logits.masked_fill(neighbours == 0, torch.finfo(logits.dtype).min).softmax(2) * neighbours
        attention = attention * (attention.square().sum(2, keepdim=True) + 1e-9).rsqrt()
        attended = (m.unflatten(-1, (self.heads, -1)) * attention.unsqueeze(-1)).flatten(-2)
        total, first = pairs.gather(attended, scalars=True).split((1, 3), 2)
        h = h + (1 + gate) * self.scalars(total.squeeze(2))
        v = v + self.directions(first)

        y, z = self.mix(v).chunk(2, -1)
        products = [(y * z).sum(2)]
        if self.chirality:
            axial = torch.linalg.cross(y, z, dim=2)
            products.append((axial * v).sum(2))
        change = self.second(F.silu(self.first(torch.cat((modulated(h, shift_2, scale_2), *products), -1))))
        delta, *gains, step = change.split((h.shape[-1], *[self.vectors] * (2 + self.chirality)), -1)
        h = h + (1 + gate_2) * delta
        v = v + gains[0].unsqueeze(2) * z
        if self.chirality:
            v = v + gains[1].unsqueeze(2) * axial
        v = shorten(v)
        return h, v, x + (v * step.unsqueeze(2)).sum(3), m


class EquivariantTransformer(nn.Module):
    r"""Attention over latent messages of pairs; E(3)-equivariant in `position`, invariant in all other fields.

    The formulas are at the top of :mod:`gendiff.nn.equivariant`. Results are, for `position`, the displacement
    :math:`x_\text{end} - x_\text{start}` without its mean over the real nodes, and for every other field a linear map
    of the last h. A node alone has no neighbours to move from, and its displacement is zero.

    Args:
        features: number of channels of every field but `position`.
        levels: number F of noise levels of a sample.
        width: number of scalars of a node.
        layers: number of blocks.
        message: number of channels of the message of a pair, and of the embedding of levels and conditions.
        heads: number of attention weights of a pair; divides `message`.
        vectors: number of vectors of a node.
        chirality: if True, cross and triple products of vectors are added, and the network is SE(3)-equivariant: it
            tells mirror images apart. If False, reflections are symmetries too, and chirality is not learned.
        self_condition: whether `<field>_previous`, an earlier estimate of every field, is read: scalars as further
            inputs, positions as distances. Those that are not given count as zero.
        conditions: conditions of a sample, see :class:`~gendiff.nn.embed.Conditioning`.
        distance_features: number of Gaussians of a distance.
        distance_range: center of the last of these, in units of the position.
        level_features: number of Fourier features of a noise level, even.
        level_range: length of the interval in which levels lie: 10 for a quarter of a log-SNR within ±20, 1 for a time.

    Raises:
        UserError: for sizes that are not positive, heads that do not divide `message`, or if `position` is among the
            features.
    """

    def __init__(
        self,
        features: dict[str, int],
        levels: int = 1,
        width: int = 256,
        layers: int = 9,
        message: int = 64,
        heads: int = 8,
        vectors: int = 16,
        chirality: bool = False,
        self_condition: bool = False,
        conditions: dict[str, str | int] | None = None,
        distance_features: int = 32,
        distance_range: float = 4.0,
        level_features: int = 32,
        level_range: float = 10.0,
    ):
        super().__init__()
        sizes = {"width": width, "layers": layers, "message": message, "heads": heads, "vectors": vectors}
        self.features = check_shape("EquivariantTransformer", features, **sizes)
        if message % heads:
            raise UserError(f"EquivariantTransformer: heads = {heads} must divide message = {message}")
        self.levels, self.width, self.layers, self.message = levels, width, layers, message
        self.heads, self.vectors, self.chirality = heads, vectors, chirality
        self.self_condition, self.conditions = self_condition, dict(conditions or {})
        self.distance_features, self.distance_range = distance_features, distance_range
        self.level_features, self.level_range = level_features, level_range

        scalars, copies = sum(features.values()), 1 + self_condition
        self.fourier = Fourier(level_features, 2 * level_range, level_range / 20)
        self.level = nn.Sequential(nn.Linear(levels * level_features, message), nn.SiLU(), nn.Linear(message, message))
        self.conditioning = Conditioning(self.conditions, message) if self.conditions else None
        self.embedding = nn.Linear(scalars * copies + 1, width, bias=False)  # its last column is the bias
        self.radial = Radial(distance_features, distance_range)
        self.pairs = nn.Linear(distance_features * copies, message)
        self.blocks = nn.ModuleList(
            Block(width, message, heads, vectors, distance_features, chirality) for _ in range(layers)
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
        sample = self.level(self.fourier(noise_level.to(position.dtype)).flatten(1))
        sample = F.silu(add_condition(sample, self.conditioning, condition)).unsqueeze(1)

        scalars, places = [x[name] for name in self.features], [position]
        if self.self_condition:
            scalars += [previous(x, name) for name in self.features]
            places.append(previous(x, "position"))
        h = self.embedding(torch.cat((*scalars, position.new_ones(batch, size, 1)), -1))
        m = self.pairs(torch.cat([Pairs(place, self.radial).radial for place in places], -1))
        v = position.new_zeros(batch, size, 3, self.vectors)
        neighbours = ~torch.eye(size, dtype=torch.bool, device=position.device).expand(batch, size, size)
        if mask is not None:
            neighbours = neighbours & mask.unsqueeze(1) & mask.unsqueeze(2)
        neighbours = neighbours.unsqueeze(-1).to(position.dtype)
        end = position
        for block in self.blocks:
            h, v, end, m = block(h, v, end, m, sample, neighbours, self.radial)

        fields = [] if self.output is None else self.output(h).split(tuple(self.features.values()), -1)
        if mask is not None:
            fields = [mask.unsqueeze(2).to(field.dtype) * field for field in fields]
        return {"position": centred(end - position, mask), **dict(zip(self.features, fields, strict=True))}
