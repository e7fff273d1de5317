r"""The E(n)-equivariant graph network of EDM, on dense pairs and without its waste.

One block takes the scalars :math:`h_i` and the coordinates :math:`x_i` of every node to

.. math::
    m_{ij} &= \mathrm{silu}(W_2\, \mathrm{silu}(W_1 [h_i, h_j, f_{ij}] + b_1) + b_2) \\
    h_i &\leftarrow h_i + \mathrm{node}[h_i, \tfrac1s \sum_{j \ne i} \sigma(a \cdot m_{ij} + c)\, m_{ij}] \\
    x_i &\leftarrow x_i + \tfrac1s \sum_{j \ne i} \frac{x_i - x_j}{d_{ij} + 1}\, r \tanh(w \cdot m'_{ij})

with :math:`d_{ij} = \lVert x_i - x_j \rVert` and :math:`f_{ij}` its square, now and at the start; m' comes from a
second edge network that reads the new h. What makes it fast: the first edge layer is a sum over nodes,
:math:`W_1 [h_i, h_j, f] = A h_i + B h_j + C f`, so its node part is computed N, not N², times; gate, mask and diagonal
are the weights of one batched product, so there are no index lists; edges are walked in pieces that stay in the cache;
and the backward pass is written by hand, so that of each edge network a single edge tensor is kept for it.

Satorras, Hoogeboom, Welling: E(n) equivariant graph neural networks (2021). Hoogeboom, Satorras, Vignac, Welling:
Equivariant diffusion for molecule generation in 3D (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier, Radial
from gendiff.nn.graph import add_condition, centred, check_shape, previous
from gendiff.ops import State

CHUNK = {"cpu": 2**18, "other": 2**26}
"""Entries of an edge tensor handled at a time: a megabyte stays in a CPU core's cache; elsewhere only memory counts."""

_silu_backward = torch.ops.aten.silu_backward.grad_input


class EdgeWeights(NamedTuple):
    """Parameters of an edge network behind the node part of its first layer: width D, K features of a pair."""

    features: Tensor  # C, its last row b₁: (K, D)
    hidden: Tensor  # W₂ transposed: (D, D)
    bias: Tensor  # b₂: (D)
    scalar: Any  # a or w: (D), or None
    gate: Any  # c: (1), or None


def edge_network(nodes: Tensor, features: Tensor, pairs: Tensor | None, *weights: Tensor | None) -> Tensor:
    """Messages summed over j, or a scalar of every pair: the formula that :class:`EdgeNetwork` computes.

    Args:
        nodes: [A h_i, B h_j] of every node, (B, N, 2D).
        features: f_ij, the last of them 1, (B, N, N, K).
        pairs: weight of every pair in the sum, 0 on the diagonal and for padding, (B, N, N); None asks for scalars.
        weights: those of :class:`EdgeWeights`; messages are gated if `gate` is there.

    Returns:
        Σ_j pairs_ij · sigmoid(a·m_ij + c) · m_ij, (B, N, D); or w·m_ij, (B, N, N).
    """
    w = EdgeWeights(*weights)  # type: ignore[arg-type]
    receiver, sender = nodes.chunk(2, -1)
    first = receiver.unsqueeze(2) + sender.unsqueeze(1) + features @ w.features
    message = F.silu(F.silu(first) @ w.hidden + w.bias)
    if pairs is None:
        return message @ w.scalar
    if w.gate is not None:
        pairs = pairs * (message @ w.scalar + w.gate).sigmoid()
    return (pairs.unsqueeze(2) @ message).squeeze(2)


class EdgeNetwork(torch.autograd.Function):
    """:func:`edge_network`, in pieces and with its derivative written out."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, features: Tensor, pairs: Tensor | None, *weights: Tensor | None) -> Tensor:
        """Compute sums or scalars; keeps only the input of the second silu."""
        w = EdgeWeights(*weights)  # type: ignore[arg-type]
        batch, size, width = nodes.shape[0], nodes.shape[1], nodes.shape[2] // 2
        second = nodes.new_empty(batch, size, size, width)
        result = nodes.new_empty(batch, size, size if pairs is None else width)
        for part in _parts(nodes):
            active = F.silu(_first_layer(nodes[part], features[part], w), inplace=True)
            hidden = torch.mm(active, w.hidden, out=second[part].view(-1, width)).add_(w.bias)
            message = torch.ops.aten.silu.out(hidden, out=active)
            if pairs is None:
                torch.mv(message, w.scalar, out=result[part].view(-1))
            else:
                weight = pairs[part] if w.gate is None else pairs[part] * _gate(message, w).view_as(pairs[part])
                message = message.view(-1, size, width)
                torch.bmm(weight.view(-1, 1, size), message, out=result[part].view(-1, 1, width))
        ctx.save_for_backward(nodes, features, pairs, *weights, second)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate by everything but `pairs`."""
        *inputs, second = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(edge_network, inputs, ctx.needs_input_grad, gradient)
        nodes, features, pairs, *weights = inputs
        w = EdgeWeights(*weights)
        size, width = nodes.shape[1], nodes.shape[2] // 2
        gradient = gradient.contiguous()
        d_nodes, d_features = torch.empty_like(nodes), torch.empty_like(features)
        d = EdgeWeights(*[None if v is None else torch.zeros_like(v) for v in weights])  # type: ignore[arg-type]
        for part in _parts(nodes):
            first = _first_layer(nodes[part], features[part], w)
            hidden = second[part].view(-1, width)
            message = F.silu(hidden)
            if pairs is None:
                d_scalar = gradient[part].view(-1, 1)
                d_edge = d_scalar * w.scalar
            else:
                weight, received = pairs[part], gradient[part].unsqueeze(2)
                if w.gate is not None:
                    gate = _gate(message, w).view_as(weight)
                    weight = weight * gate
                    d_weight = torch.bmm(message.view(-1, size, width), received.reshape(-1, width, 1)).view_as(weight)
                    d_scalar = d_weight.mul_(weight).mul_(1 - gate).view(-1, 1)
                    d.gate.add_(d_scalar.sum())
                d_edge = (weight.unsqueeze(-1) * received).view(-1, width)
                if w.gate is not None:
                    d_edge.addmm_(d_scalar, w.scalar.unsqueeze(0))
            if w.scalar is not None:
                d.scalar.unsqueeze(0).addmm_(d_scalar.t(), message)
            _silu_backward(d_edge, hidden, grad_input=d_edge)
            d.bias.add_(d_edge.sum(0))
            d.hidden.addmm_(F.silu(first).t(), d_edge)
            d_edge = torch.mm(d_edge, w.hidden.t(), out=message)
            _silu_backward(d_edge, first, grad_input=d_edge)
            d.features.addmm_(features[part].flatten(0, 2).t(), d_edge)
            torch.mm(d_edge, w.features.t(), out=d_features[part].view(-1, features.shape[-1]))
            d_edge = d_edge.view(-1, size, size, width)
            torch.sum(d_edge, 2, out=d_nodes[part][..., :width])
            torch.sum(d_edge, 1, out=d_nodes[part][..., width:])
        return d_nodes, d_features, None, *d


def _parts(nodes: Tensor) -> list[slice]:
    """Slices of the batch, of nearly one length, whose edge tensors have at most `CHUNK` entries."""
    batch, size, width = nodes.shape
    fitting = max(1, CHUNK.get(nodes.device.type, CHUNK["other"]) // (size * size * width // 2))
    step = -(-batch // -(-batch // fitting))
    return [slice(start, start + step) for start in range(0, batch, step)]


def _first_layer(nodes: Tensor, features: Tensor, w: EdgeWeights) -> Tensor:
    receiver, sender = nodes.chunk(2, -1)
    return (receiver.unsqueeze(2) + sender.unsqueeze(1)).flatten(0, 2).addmm_(features.flatten(0, 2), w.features)


def _gate(message: Tensor, w: EdgeWeights) -> Tensor:
    return torch.mv(message, w.scalar).add_(w.gate).sigmoid_()


def differences(x: Tensor) -> Tensor:
    """x_i − x_j of all pairs, coordinates first: (B, N, 3) to (B, 3, N, N)."""
    x = x.transpose(1, 2)
    return x.unsqueeze(3) - x.unsqueeze(2)


def squared_distances(x: Tensor) -> Tensor:
    """‖x_i − x_j‖² of all pairs, (B, N, 3) to (B, N, N); |x_i|² + |x_j|² − 2 x_i·x_j would lose digits."""
    return differences(x).square().sum(1)


class SquaredDistances(torch.autograd.Function):
    """:func:`squared_distances` with its derivative written out, 2 Σ_j (g_ij + g_ji)(x_i − x_j)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute the squared distances."""
        ctx.save_for_backward(x)
        return squared_distances(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Differentiate; the result can be differentiated again."""
        (x,) = ctx.saved_tensors
        both = 2 * (gradient + gradient.transpose(1, 2))
        return (differences(x) * both.unsqueeze(1)).sum(3).transpose(1, 2)


def move(x: Tensor, scalar: Tensor, squared: Tensor, reach: Tensor, tanh: bool) -> Tensor:
    """x_i + Σ_j reach_ij (x_i − x_j) / (d_ij + 1) · tanh(scalar_ij), (B, N, 3), where d² = `squared`."""
    step = (scalar.tanh() if tanh else scalar) * reach / ((squared + 1e-8).sqrt() + 1)
    return x + (differences(x) * step.unsqueeze(1)).sum(3).transpose(1, 2)


class Move(torch.autograd.Function):
    """:func:`move` with its derivative written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalar: Tensor, squared: Tensor, reach: Tensor, tanh: bool) -> Tensor:
        """Compute the new coordinates."""
        distance = squared.add(1e-8).sqrt_()
        unit = reach / (distance + 1)
        value = scalar.tanh() if tanh else scalar
        step = value * unit
        ctx.tanh = tanh
        ctx.save_for_backward(x, scalar, squared, reach, distance, unit, value, step)
        return differences(x).mul_(step.unsqueeze(1)).sum(3).transpose(1, 2).add(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate by (x, scalar, squared)."""
        x, scalar, squared, reach, distance, unit, value, step = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(move, [x, scalar, squared, reach, ctx.tanh], ctx.needs_input_grad, gradient)
        d_x = gradient.addcmul(gradient, step.sum(2, keepdim=True)) - step.transpose(1, 2) @ gradient
        d_step = differences(x).mul_(gradient.transpose(1, 2).unsqueeze(3)).sum(1)
        d_squared = (d_step * step).div_((distance + 1).mul_(distance)).mul_(-0.5)
        d_scalar = d_step.mul_(unit)
        if ctx.tanh:
            d_scalar.addcmul_(d_scalar, value.square(), value=-1)
        return d_x, d_scalar, d_squared, None, None


def _differentiable(
    plain: Callable, inputs: list, needed: tuple[bool, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again: those of the plain formula."""
    with torch.enable_grad():
        wanted = [value for value, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(plain(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


def _fast(function: type[torch.autograd.Function], plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` in the precision of its inputs; `plain` where `torch.func` or a compiler must see through it."""

    def call(*inputs: Any) -> Tensor:
        device = inputs[0].device.type
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        run = plain if transformed else function.apply
        if not torch.is_autocast_enabled(device):
            return run(*inputs)
        with torch.autocast(device, enabled=False):
            return run(*inputs)

    return call


_edge_network = _fast(EdgeNetwork, edge_network)
_squared_distances = _fast(SquaredDistances, squared_distances)
_move = _fast(Move, move)


class Edge(nn.Module):
    """An edge network: messages summed over the neighbours of every node, or a scalar of every pair.

    Its first layer is kept in parts, `nodes` = [A; B] and `features` = [C; b₁], and initialized like one linear layer.

    Args:
        width: number D of scalars of a node.
        features: number of features of a pair.
        head: `"gate"` for gated messages, `"sum"` for plain ones, `"scalar"` for small scalars without bias.
    """

    def __init__(self, width: int, features: int, head: Literal["gate", "sum", "scalar"]):
        super().__init__()
        bound = 1 / math.sqrt(2 * width + features)
        self.nodes = nn.Parameter(torch.empty(2 * width, width).uniform_(-bound, bound))
        self.features = nn.Parameter(torch.empty(features + 1, width).uniform_(-bound, bound))
        self.hidden = nn.Linear(width, width)
        self.scalar = None if head == "sum" else nn.Linear(width, 1, bias=head == "gate")
        if self.scalar is not None and head == "scalar":
            nn.init.xavier_uniform_(self.scalar.weight, gain=0.001)

    def forward(self, h: Tensor, features: Tensor, pairs: Tensor | None = None) -> Tensor:
        """Map h (B, N, D) and features (B, N, N, K) to sums (B, N, D) over pairs (B, N, N), or to scalars (B, N, N)."""
        nodes = F.linear(h, self.nodes)
        weights: list[Tensor | None] = [self.features, self.hidden.weight.t(), self.hidden.bias]
        weights += [None, None] if self.scalar is None else [self.scalar.weight.view(-1), self.scalar.bias]
        if nodes.dtype != features.dtype:  # mixed precision: distances as high and low part, so that no digit is lost
            high = features.to(nodes.dtype)
            features = torch.cat((high, (features - high).to(nodes.dtype)), -1)
            weights[0] = torch.cat((self.features, self.features))
            weights = [None if w is None else w.to(nodes.dtype) for w in weights]
            pairs = None if pairs is None else pairs.to(nodes.dtype)
        return _edge_network(nodes, features, pairs, *weights)


class Angles(nn.Module):
    r"""What a pair sees of the directions in which the other neighbours of its nodes lie.

    .. math::
        v_i^c = \sum_{j \ne i} (1 + (S h_j)_c)\, (R\, \mathrm{radial}(d_{ij}))_c\, u_{ij}, \qquad
        u_{ij} = \frac{x_i - x_j}{\sqrt{d_{ij}^2 + 0.01}}

    gives each pair :math:`v_i^c \cdot u_{ij}`, :math:`v_j^c \cdot u_{ji}` and :math:`v_i^c \cdot v_j^c`: sums of
    cosines of the angles at its nodes and across it. From distances alone a network needs two layers to see an angle.

    Schütt, Unke, Gastegger: Equivariant message passing for the prediction of tensorial properties (2021).

    Args:
        width: number of scalars of a node.
        radial: number of radial features of a pair.
        channels: number C of vectors of a node.
    """

    def __init__(self, width: int, radial: int, channels: int):
        super().__init__()
        self.sender = nn.Linear(width, channels, bias=False)
        self.radial = nn.Linear(radial, channels, bias=False)

    def forward(self, h: Tensor, x: Tensor, squared: Tensor, radial: Tensor, pairs: Tensor) -> Tensor:
        """Map h (B, N, D), x (B, N, 3) and pairs (B, N, N, ...) to features of pairs (B, N, N, 3C)."""
        direction = (differences(x) / (squared + 0.01).sqrt().unsqueeze(1)).unsqueeze(-1)  # (B, 3, N, N, 1)
        weight = self.radial(radial) * (1 + self.sender(h)).unsqueeze(1) * (pairs > 0).unsqueeze(-1)
        vector = (direction * weight.unsqueeze(1)).sum(3)  # (B, 3, N, C)
        inside = (vector.unsqueeze(3) * direction).sum(1)
        across = (vector.unsqueeze(3) * vector.unsqueeze(2)).sum(1)
        return torch.cat((inside, inside.transpose(1, 2), across), -1)


class Block(nn.Module):
    """`sublayers` updates of the scalars by messages, then one of the coordinates."""

    def __init__(self, width: int, fixed: int, radial: int, channels: int, sublayers: int, attention: bool, tanh: bool):
        super().__init__()
        self.tanh = tanh
        self.angles = Angles(width, radial, channels) if channels else None
        features = 1 + fixed + radial + 3 * channels
        self.message = nn.ModuleList(Edge(width, features, "gate" if attention else "sum") for _ in range(sublayers))
        self.node = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(sublayers)
        )
        self.coordinate = Edge(width, features, "scalar")

    def forward(
        self, h: Tensor, x: Tensor, fixed: list[Tensor], pairs: Tensor, reach: Tensor, radial: nn.Module | None
    ) -> tuple[Tensor, Tensor]:
        """Update h (B, N, D) and x (B, N, 3); `fixed` features of pairs, (B, N, N) each, change in no block."""
        squared = _squared_distances(x)
        features = torch.stack((squared, *fixed), -1)
        if radial is not None:
            near = radial((squared + 1e-8).sqrt())
            angles = [] if self.angles is None else [self.angles(h, x, squared, near, pairs)]
            features = torch.cat((near, *angles, features), -1)
        for message, node in zip(self.message, self.node, strict=True):
            h = h + node(torch.cat((h, message(h, features, pairs)), -1))
        return h, _move(x, self.coordinate(h, features).to(x.dtype), squared, reach, self.tanh)


class EGNN(nn.Module):
    r"""EDM's network: E(3)-equivariant in the field `position`, invariant in all others.

    Scalars of a node are the other fields in alphabetical order, then the noise levels. Results are, for `position`,
    the displacement :math:`x_\text{end} - x_\text{start}` without its mean over the real nodes, and for every other
    field a linear map of the last h. The defaults are EDM's: 5,339,920 parameters with `{"charge": 1, "element": 5}`.
    Reflections are symmetries too, so chirality is not learned.

    Args:
        features: number of channels of every field but `position`.
        levels: number F of noise levels of a sample.
        width: number of scalars h of a node.
        layers: number of blocks.
        attention: whether a gate in (0, 1) weighs every message.
        coordinate_range: r, the largest step along one normalized difference in one block, in units of the position.
        normalization: s, what sums over neighbours are divided by; about the mean number of nodes trains most stably.
        tanh: whether steps are bounded by ±r; if not, they are multiplied by r.
        sublayers: message updates in each block.
        self_condition: whether `<field>_previous`, an earlier estimate of every field, is read: scalars as further
            inputs, positions as squared distances. Those that are not given count as zero.
        conditions: conditions of a sample, see :class:`~gendiff.nn.embed.Conditioning`; added to the first h.
        level_features: number of Fourier features of a noise level; 0 appends the level itself, as EDM does its time.
        level_range: length of the interval in which levels lie; 40 for a log-SNR within ±20, 1 for a time.
        distance_features: number of Gaussians of the current distance that pairs see beside its square, which alone
            tells lengths of bonds apart only slowly; EDM has none.
        distance_range: center of the last of these, in units of the position; beyond it only the square speaks.
        vector_channels: number of vectors of a node from which pairs see angles, see :class:`Angles`; EDM has none.

    Raises:
        UserError: for sizes that are not positive, if `position` is among the features, or for vectors without
            Gaussians of the distance to weigh them.
    """

    def __init__(
        self,
        features: dict[str, int],
        levels: int = 1,
        width: int = 256,
        layers: int = 9,
        attention: bool = True,
        coordinate_range: float = 15.0,
        normalization: float = 1.0,
        tanh: bool = True,
        sublayers: int = 1,
        self_condition: bool = False,
        conditions: dict[str, str | int] | None = None,
        level_features: int = 0,
        level_range: float = 40.0,
        distance_features: int = 0,
        distance_range: float = 5.0,
        vector_channels: int = 0,
    ):
        super().__init__()
        self.features = check_shape(
            "EGNN", features, width=width, layers=layers, sublayers=sublayers, normalization=normalization
        )
        if vector_channels and not distance_features:
            raise UserError(f"EGNN: vector_channels = {vector_channels} need distance_features, which are 0")
        self.levels, self.width, self.layers, self.sublayers = levels, width, layers, sublayers
        self.attention, self.tanh, self.self_condition = attention, tanh, self_condition
        self.coordinate_range, self.normalization = coordinate_range, normalization
        self.conditions = dict(conditions or {})
        self.level_features, self.level_range = level_features, level_range
        self.distance_features, self.distance_range = distance_features, distance_range
        self.vector_channels = vector_channels

        scalars = sum(features.values())
        self.fourier = Fourier(level_features, 2 * level_range, level_range / 40) if level_features else None
        self.embedding = nn.Linear(scalars * (1 + self_condition) + levels * (level_features or 1), width)
        self.conditioning = Conditioning(self.conditions, width) if self.conditions else None
        self.radial = Radial(distance_features, distance_range) if distance_features else None
        self.blocks = nn.ModuleList(
            Block(width, 1 + self_condition, distance_features, vector_channels, sublayers, attention, tanh)
            for _ in range(layers)
        )
        self.output = nn.Linear(width, scalars + levels)  # EDM's layer; what it says of the noise levels is left out

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
        level = noise_level.to(position.dtype)
        level = level if self.fourier is None else self.fourier(level).flatten(1)
        scalars = [x[name] for name in self.features]
        if self.self_condition:
            scalars += [previous(x, name) for name in self.features]
        h = self.embedding(torch.cat((*scalars, level.unsqueeze(1).expand(batch, size, -1)), -1)).to(position.dtype)
        h = add_condition(h, self.conditioning, condition)

        fixed = [_squared_distances(position)]
        if self.self_condition:
            fixed.append(_squared_distances(previous(x, "position")))
        fixed.append(torch.ones_like(fixed[0]))
        pairs = ~torch.eye(size, dtype=torch.bool, device=position.device).expand(batch, size, size)
        if mask is not None:
            pairs = pairs & mask.unsqueeze(1) & mask.unsqueeze(2)
        pairs = pairs.to(position.dtype) / self.normalization
        reach = pairs * self.coordinate_range
        end = position
        for block in self.blocks:
            h, end = block(h, end, fixed, pairs, reach, self.radial)

        scalar = self.output(h)
        if mask is not None:
            scalar = mask.unsqueeze(2).to(position.dtype) * scalar
        fields = scalar.split((*self.features.values(), self.levels), -1)
        return {"position": centred(end - position, mask), **dict(zip(self.features, fields, strict=False))}
