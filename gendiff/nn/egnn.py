r"""The E(n)-equivariant graph network of EDM, on dense pairs and without its waste.

One block takes the scalars :math:`h_i` and the coordinates :math:`x_i` of every node to

.. math::
    m_{ij} &= \mathrm{silu}(W_2\, \mathrm{silu}(W_1 [h_i, h_j, d_{ij}^2, d_{ij}^2(\text{start})] + b_1) + b_2),
    \qquad d_{ij} = \lVert x_i - x_j \rVert \\
    h_i &\leftarrow h_i + \mathrm{node}\Bigl(\bigl[h_i, \tfrac1s \textstyle\sum_{j \ne i} \mathrm{sigmoid}(a \cdot m_{ij} + c)\, m_{ij}\bigr]\Bigr) \\
    x_i &\leftarrow x_i + \tfrac1s \textstyle\sum_{j \ne i} \frac{x_i - x_j}{d_{ij} + 1}\, r \tanh(w \cdot m'_{ij})

where m' is a second edge network that reads the new h. What makes it fast: the first edge layer is a sum over nodes,
:math:`W_1 [h_i, h_j, f] = A h_i + B h_j + C f`, so its node part is computed N and not N² times; the gate, the mask and the diagonal are the
weights of one batched product, so there are no index lists; and edges are walked in pieces that stay in the cache, forward and
backward. Of every edge network one tensor is kept for the backward pass, which is written by hand.

Satorras, Hoogeboom, Welling: E(n) equivariant graph neural networks (2021). Hoogeboom, Satorras, Vignac, Welling: Equivariant
diffusion for molecule generation in 3D (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier
from gendiff.ops import State

CHUNK = {"cpu": 2**17, "other": 2**28}
"""Entries of one edge tensor handled at a time: half a megabyte stays in a core's cache; elsewhere only memory is a limit."""
_silu_backward = torch.ops.aten.silu_backward.grad_input


class EdgeWeights(NamedTuple):
    """Parameters of one edge network behind the node part of its first layer."""

    features: Tensor
    """C with the bias b₁ as its last row, (K, D)."""
    hidden: Tensor
    """W₂ transposed, (D, D)."""
    bias: Tensor
    """b₂, (D)."""
    scalar: Tensor
    """a or w, (D)."""
    gate: Tensor | None
    """c, (1)."""


def edge_network(nodes: Tensor, features: Tensor, pairs: Tensor | None, *weights: Tensor | None) -> Tensor:
    """Messages summed over j, or scalars of all pairs, written plainly: the meaning of :class:`EdgeNetwork`.

    Args:
        nodes: [A h_i, B h_j] of every node, (B, N, 2D).
        features: f_ij, the last of them 1, (B, N, N, K).
        pairs: weight of every pair in the sum, 0 on the diagonal and for padded nodes, (B, N, N); None asks for the scalars w·m_ij.
        weights: see :class:`EdgeWeights`; the messages are gated if `gate` is given.

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
    """:func:`edge_network`, piece by piece and with its backward pass written out."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, features: Tensor, pairs: Tensor | None, *weights: Tensor | None) -> Tensor:
        w = EdgeWeights(*weights)
        batch, size, width = nodes.shape[0], nodes.shape[1], nodes.shape[2] // 2
        second = nodes.new_empty(batch, size, size, width)
        result = nodes.new_empty(batch, size, size if pairs is None else width)
        for part in _parts(nodes):
            active = F.silu(_first_layer(nodes[part], features[part], w), inplace=True)
            hidden = torch.mm(active, w.hidden, out=second[part].flatten(0, 2)).add_(w.bias)
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
        *inputs, second = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(edge_network, inputs, ctx.needs_input_grad, gradient)
        nodes, features, pairs, *weights = inputs
        w = EdgeWeights(*weights)
        size, width = nodes.shape[1], nodes.shape[2] // 2
        d_nodes, d_features = torch.empty_like(nodes), torch.empty_like(features)
        d = EdgeWeights(*(None if v is None else torch.zeros_like(v) for v in weights))
        gradient = gradient.contiguous()
        for part in _parts(nodes):
            first = _first_layer(nodes[part], features[part], w)
            hidden = second[part].flatten(0, 2)
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
            if pairs is None or w.gate is not None:
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
    """Slices of the batch, of nearly one length, whose edge tensors are small enough."""
    batch, size, width = nodes.shape
    fitting = max(1, CHUNK.get(nodes.device.type, CHUNK["other"]) // (size * size * width // 2))
    step = -(-batch // -(-batch // fitting))
    return [slice(start, start + step) for start in range(0, batch, step)]


def _first_layer(nodes: Tensor, features: Tensor, w: EdgeWeights) -> Tensor:
    receiver, sender = nodes.chunk(2, -1)
    return (receiver.unsqueeze(2) + sender.unsqueeze(1)).flatten(0, 2).addmm_(features.flatten(0, 2), w.features)


def _gate(message: Tensor, w: EdgeWeights) -> Tensor:
    return torch.mv(message, w.scalar).add_(w.gate).sigmoid_()


def _differentiable(plain: Callable, inputs: list, needed: tuple[bool, ...], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, from the plain formula."""
    with torch.enable_grad():
        wanted = [v for v, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(plain(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


def squared_distances(x: Tensor) -> Tensor:
    """‖x_i − x_j‖² of all pairs, (B, N, 3) to (B, N, N)."""
    x = x.transpose(1, 2)
    return (x.unsqueeze(3) - x.unsqueeze(2)).square().sum(1)


class SquaredDistances(torch.autograd.Function):
    """:func:`squared_distances` with its backward pass written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return squared_distances(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        both = gradient + gradient.transpose(1, 2)
        return (2 * (x * both.sum(2, keepdim=True) - both @ x),)


def move(x: Tensor, scalar: Tensor, squared: Tensor, reach: Tensor, tanh: bool) -> Tensor:
    """x_i + Σ_j reach_ij (x_i − x_j) / (d_ij + 1) · tanh(scalar_ij), (B, N, 3), with d² = `squared`."""
    step = (scalar.tanh() if tanh else scalar) * reach / ((squared + 1e-8).sqrt() + 1)
    return x + x * step.sum(2, keepdim=True) - step @ x


class Move(torch.autograd.Function):
    """:func:`move` with its backward pass written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalar: Tensor, squared: Tensor, reach: Tensor, tanh: bool) -> Tensor:
        distance = squared.add(1e-8).sqrt_()
        value = scalar.tanh() if tanh else scalar
        unit = reach / (distance + 1)
        ctx.save_for_backward(x, scalar, squared, reach, distance, value, unit)
        ctx.tanh = tanh
        step = value * unit
        return torch.baddbmm(x.addcmul(x, step.sum(2, keepdim=True)), step, x, alpha=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, distance, value, unit = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(move, [*inputs, ctx.tanh], ctx.needs_input_grad, gradient)
        x = inputs[0]
        step = value * unit
        d_x = torch.baddbmm(gradient.addcmul(gradient, step.sum(2, keepdim=True)), step.transpose(1, 2), gradient, alpha=-1)
        d_step = torch.baddbmm((gradient * x).sum(2, keepdim=True), gradient, x.transpose(1, 2), alpha=-1)
        d_squared = (d_step * step).div_(distance.add(1).mul_(distance)).mul_(-0.5)
        d_scalar = d_step.mul_(unit)
        return d_x, d_scalar.addcmul_(d_scalar, value.square(), value=-1) if ctx.tanh else d_scalar, d_squared, None, None


def _fused(function: type[torch.autograd.Function], plain: Callable) -> Callable[..., Tensor]:
    """`function`, or under `torch.func` (jvp, vmap, ...) the plain formula, which every transformation can see through."""

    def call(*args: Any) -> Tensor:
        return plain(*args) if torch._C._are_functorch_transforms_active() else function.apply(*args)

    return call


_edge_network = _fused(EdgeNetwork, edge_network)
_squared_distances = _fused(SquaredDistances, squared_distances)
_move = _fused(Move, move)


class Edge(nn.Module):
    """Parameters of one edge network, initialized like those of linear layers of the concatenated inputs.

    Args:
        width: number D of scalars of a node.
        features: number of features of a pair.
        gain: of the Xavier initialization of the last layer, which then has no bias; None makes an ordinary gate.
    """

    def __init__(self, width: int, features: int, gain: float | None = None, gate: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(2 * width + features)
        self.nodes = nn.Parameter(torch.empty(2 * width, width).uniform_(-bound, bound))
        self.features = nn.Parameter(torch.empty(features + 1, width).uniform_(-bound, bound))
        self.hidden = nn.Linear(width, width)
        self.scalar = nn.Linear(width, 1, bias=gain is None)
        if gain is not None:
            nn.init.xavier_uniform_(self.scalar.weight, gain)

    def forward(self, h: Tensor, features: Tensor, pairs: Tensor | None = None) -> Tensor:
        nodes = F.linear(h, self.nodes)
        return _edge_network(nodes, features, pairs, self.features, self.hidden.weight.t(), self.hidden.bias, self.scalar.weight.view(-1), self.scalar.bias)


class Block(nn.Module):
    """`sublayers` message updates of the scalars, then one update of the coordinates."""

    def __init__(self, width: int, features: int, sublayers: int, attention: bool, tanh: bool):
        super().__init__()
        self.message = nn.ModuleList(Edge(width, features) for _ in range(sublayers))
        self.node = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(sublayers)
        )
        self.coordinate = Edge(width, features, gain=1e-3)
        self.tanh = tanh

    def forward(self, h: Tensor, x: Tensor, static: list[Tensor], pairs: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        squared = _squared_distances(x)
        features = torch.stack((squared, *static), -1)
        for edge, node in zip(self.message, self.node, strict=True):
            h = h + node(torch.cat((h, edge(h, features, pairs)), -1))
        return h, _move(x, self.coordinate(h, features), squared, reach, self.tanh)


class EGNN(nn.Module):
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
    ):
        super().__init__()
        self.features, self.levels, self.width, self.layers = dict(features), levels, width, layers
        self.attention, self.coordinate_range, self.normalization, self.tanh = attention, coordinate_range, normalization, tanh
        self.sublayers, self.self_condition, self.level_features = sublayers, self_condition, level_features
        self.conditions = dict(conditions or {})
        scalars = sum(features.values())
        self.level = Fourier(level_features) if level_features else None
        inputs = scalars * (2 if self_condition else 1) + levels * (level_features or 1)
        self.embedding = nn.Linear(inputs, width)
        self.conditioning = Conditioning(self.conditions, width) if self.conditions else None
        self.blocks = nn.ModuleList(Block(width, 3 if self_condition else 2, sublayers, attention, tanh) for _ in range(layers))
        self.output = nn.Linear(width, scalars + levels)

    def forward(self, x: State, noise_level: Tensor, mask: Tensor | None = None, condition: dict[str, Tensor] | None = None) -> State:
        position = x["position"]
        batch, size, _ = position.shape
        names = sorted(self.features)
        level = noise_level.to(position.dtype)
        if self.level is not None:
            level = self.level(level).flatten(1)
        previous = [x[f"{name}_previous"] for name in names] if self.self_condition else []
        h = self.embedding(torch.cat((*(x[n] for n in names), *previous, level.unsqueeze(1).expand(batch, size, -1)), -1))
        if self.conditioning is not None:
            h = h + self.conditioning(condition, batch).unsqueeze(1)
        pairs = ~torch.eye(size, dtype=torch.bool, device=h.device)
        if mask is not None:
            pairs = pairs & mask.unsqueeze(1) & mask.unsqueeze(2)
        pairs = (pairs.to(position.dtype) / self.normalization).expand(batch, size, size).contiguous()
        reach = pairs * self.coordinate_range
        static = [_squared_distances(position)]
        if self.self_condition:
            static.append(_squared_distances(x["position_previous"]))
        static.append(torch.ones_like(static[0]))
        end = position
        for block in self.blocks:
            h, end = block(h, end, static, pairs, reach)
        change, scalars = end - position, self.output(h)
        if mask is None:
            change = change - change.mean(1, keepdim=True)
        else:
            real = mask.unsqueeze(-1).to(change.dtype)
            change = (change - (change * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)) * real
            scalars = scalars * real
        return {"position": change, **dict(zip(names, scalars.split([*(self.features[n] for n in names), self.levels], -1)))}
