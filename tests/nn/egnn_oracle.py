"""EDM's graph network written plainly from the published equations: oracle of the tests, rival in the benchmark.

Satorras, Hoogeboom, Welling, "E(n) Equivariant Graph Neural Networks" (2021), equations 3-6, with the choices of
Hoogeboom et al., "Equivariant Diffusion for Molecule Generation in 3D" (2022), appendix B: all pairs of a batch padded
to one size as two index lists, features of both ends of a pair gathered and joined, results added to the receiver.
"""

import torch
from torch import Tensor, nn


def pair_indices(batch: int, size: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Receiving and sending node of every ordered pair, (i, i) too, in each of `batch` molecules of `size` atoms."""
    first = torch.arange(batch, device=device).view(-1, 1, 1) * size
    atom = torch.arange(size, device=device)
    receiver = (first + atom.view(1, -1, 1)).expand(batch, size, size)
    sender = (first + atom.view(1, 1, -1)).expand(batch, size, size)
    return receiver.reshape(-1), sender.reshape(-1)


def scatter_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sum rows of `values` that have one index."""
    return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)


def geometry(x: Tensor, receiver: Tensor, sender: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (E, 1) and normalized difference (E, 3), (x_i - x_j) / (d_ij + 1), of every pair."""
    difference = x[receiver] - x[sender]
    squared = difference.pow(2).sum(1, keepdim=True)
    return squared, difference / ((squared + 1e-8).sqrt() + 1)


def two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())


class PlainLayer(nn.Module):
    """Update of the scalars: messages, gate, sum over neighbours, residual."""

    def __init__(self, width: int, edge_features: int, attention: bool, normalization: float):
        super().__init__()
        self.normalization = normalization
        self.edge = two_layers(2 * width + edge_features, width)
        self.gate = nn.Sequential(nn.Linear(width, 1), nn.Sigmoid()) if attention else None
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, receiver: Tensor, sender: Tensor, features: Tensor, edge_mask: Tensor) -> Tensor:
        message = self.edge(torch.cat((h[receiver], h[sender], features), 1))
        if self.gate is not None:
            message = message * self.gate(message)
        total = scatter_sum(message * edge_mask, receiver, h.shape[0]) / self.normalization
        return h + self.node(torch.cat((h, total), 1))


class PlainCoordinates(nn.Module):
    """Update of the coordinates along the differences."""

    def __init__(self, width: int, edge_features: int, tanh: bool, coordinate_range: float, normalization: float):
        super().__init__()
        self.tanh, self.coordinate_range, self.normalization = tanh, coordinate_range, normalization
        self.edge = two_layers(2 * width + edge_features, width)
        self.scalar = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.scalar.weight, gain=0.001)

    def forward(
        self, h: Tensor, x: Tensor, receiver: Tensor, sender: Tensor, unit: Tensor, features: Tensor, edge_mask: Tensor
    ) -> Tensor:
        scalar = self.scalar(self.edge(torch.cat((h[receiver], h[sender], features), 1)))
        scalar = (scalar.tanh() if self.tanh else scalar) * self.coordinate_range
        return x + scatter_sum(unit * scalar * edge_mask, receiver, x.shape[0]) / self.normalization


class PlainAngles(nn.Module):
    """Vectors of the nodes, weighted sums of the directions of their neighbours; products of those of a pair."""

    def __init__(self, width: int, gaussians: int, channels: int):
        super().__init__()
        self.sender = nn.Linear(width, channels, bias=False)
        self.radial = nn.Linear(gaussians, channels, bias=False)

    def forward(
        self, h: Tensor, x: Tensor, receiver: Tensor, sender: Tensor, gaussians: Tensor, edge_mask: Tensor
    ) -> Tensor:
        difference = x[receiver] - x[sender]
        direction = difference / (difference.pow(2).sum(1, keepdim=True) + 0.01).sqrt()
        weight = self.radial(gaussians) * (1 + self.sender(h[sender])) * edge_mask
        parts = direction.unsqueeze(2) * weight.unsqueeze(1)
        vector = scatter_sum(parts.flatten(1), receiver, h.shape[0]).view(h.shape[0], 3, -1)
        first = (vector[receiver] * direction.unsqueeze(2)).sum(1)
        second = (vector[sender] * -direction.unsqueeze(2)).sum(1)
        return torch.cat((first, second, (vector[receiver] * vector[sender]).sum(1)), 1)


class PlainBlock(nn.Module):
    def __init__(
        self,
        width: int,
        edge_features: int,
        sublayers: int,
        attention: bool,
        tanh: bool,
        coordinate_range: float,
        normalization: float,
        gaussians: int,
        largest: float,
        channels: int,
    ):
        super().__init__()
        self.gaussians, self.largest = gaussians, largest
        self.angles = PlainAngles(width, gaussians, channels) if channels else None
        self.layers = nn.ModuleList(
            PlainLayer(width, edge_features, attention, normalization) for _ in range(sublayers)
        )
        self.coordinates = PlainCoordinates(width, edge_features, tanh, coordinate_range, normalization)

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        receiver: Tensor,
        sender: Tensor,
        features: Tensor,
        node_mask: Tensor,
        edge_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        squared, unit = geometry(x, receiver, sender)
        features = torch.cat((squared, features), 1)
        if self.gaussians:
            spacing = self.largest / (self.gaussians - 1)
            centers = torch.arange(self.gaussians, dtype=squared.dtype) * spacing
            gaussians = torch.exp(-(((squared + 1e-8).sqrt() - centers) ** 2) / (2 * spacing**2))
            near = [gaussians]
            if self.angles is not None:
                near.append(self.angles(h, x, receiver, sender, gaussians, edge_mask))
            features = torch.cat((*near, features), 1)
        for layer in self.layers:
            h = layer(h, receiver, sender, features, edge_mask) * node_mask
        x = self.coordinates(h, x, receiver, sender, unit, features, edge_mask) * node_mask
        return h, x


class PlainEGNN(nn.Module):
    """EDM's network on a padded batch.

    `scalars` node features and `levels` noise levels go in together; the displacement of the coordinates without its
    mean and the scalars come out. `previous` adds squared distances and scalars of an earlier estimate to the inputs,
    `gaussians` > 0 so many Gaussians of the current distance with centers from 0 to `largest`, `channels` > 0 so many
    vectors of every node, from which pairs see angles.
    """

    def __init__(
        self,
        scalars: int,
        levels: int = 1,
        width: int = 256,
        layers: int = 9,
        sublayers: int = 1,
        attention: bool = True,
        tanh: bool = True,
        coordinate_range: float = 15.0,
        normalization: float = 1.0,
        previous: bool = False,
        gaussians: int = 0,
        largest: float = 5.0,
        channels: int = 0,
    ):
        super().__init__()
        self.scalars = scalars
        self.embedding = nn.Linear(scalars * (1 + previous) + levels, width)
        self.blocks = nn.ModuleList(
            PlainBlock(
                width,
                2 + previous + gaussians + 3 * channels,
                sublayers,
                attention,
                tanh,
                coordinate_range,
                normalization,
                gaussians,
                largest,
                channels,
            )
            for _ in range(layers)
        )
        self.output = nn.Linear(width, scalars + levels)
        self.cache: dict[tuple[int, int, str], tuple[Tensor, Tensor]] = {}

    def forward(
        self,
        position: Tensor,
        scalars: Tensor,
        level: Tensor,
        mask: Tensor,
        previous: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map (B, N, 3), (B, N, S), (B, F) and the mask (B, N) to the displacement (B, N, 3) and the scalars (B, N, S).

        `previous` is an earlier estimate of the position (B, N, 3) and of the scalars (B, N, S).
        """
        batch, size, _ = position.shape
        key = (batch, size, str(position.device))
        if key not in self.cache:
            self.cache[key] = pair_indices(batch, size, position.device)
        receiver, sender = self.cache[key]
        node_mask = mask.reshape(-1, 1).to(position.dtype)
        real_pair = mask.unsqueeze(1) & mask.unsqueeze(2) & ~torch.eye(size, dtype=torch.bool, device=mask.device)
        edge_mask = real_pair.reshape(-1, 1).to(position.dtype)

        start = position.reshape(-1, 3)
        nodes = [scalars] if previous is None else [scalars, previous[1]]
        h = torch.cat((*nodes, level.unsqueeze(1).expand(batch, size, -1)), -1).reshape(batch * size, -1)
        h = self.embedding(h)
        features = geometry(start, receiver, sender)[0]
        if previous is not None:
            features = torch.cat((features, geometry(previous[0].reshape(-1, 3), receiver, sender)[0]), 1)
        x = start
        for block in self.blocks:
            h, x = block(h, x, receiver, sender, features, node_mask, edge_mask)
        out = (self.output(h) * node_mask).view(batch, size, -1)[..., : self.scalars]
        change = ((x - start) * node_mask).view(batch, size, 3)
        mean = change.sum(1, keepdim=True) / mask.sum(1).view(-1, 1, 1)
        return (change - mean) * mask.unsqueeze(-1), out


def copy_weights(plain: PlainEGNN, ours: nn.Module) -> None:
    """Give gendiff's EGNN the weights of `plain`."""
    with torch.no_grad():
        for theirs, mine in weight_pairs(plain, ours):
            mine.copy_(theirs)


def weight_pairs(plain: PlainEGNN, ours: nn.Module, gradient: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Parameters (or their gradients) of both networks as pairs of one shape.

    gendiff keeps the first edge layer W₁ [h_i, h_j, f] + b₁ as the parts that act on the nodes and on the pairs.
    """

    def get(parameter: Tensor) -> Tensor:
        return parameter.grad if gradient else parameter

    def linear(a: nn.Linear, b: nn.Linear) -> list[tuple[Tensor, Tensor]]:
        return [(get(a.weight), get(b.weight))] + ([] if a.bias is None else [(get(a.bias), get(b.bias))])

    def edge(a: nn.Sequential, b: nn.Module) -> list[tuple[Tensor, Tensor]]:
        first, nodes, features = get(a[0].weight), get(b.nodes), get(b.features)
        width = nodes.shape[1]
        return [
            (first[:, :width], nodes[:width]),
            (first[:, width : 2 * width], nodes[width:]),
            (first[:, 2 * width :].t(), features[:-1]),
            (get(a[0].bias), features[-1]),
            *linear(a[2], b.hidden),
        ]

    pairs = linear(plain.embedding, ours.embedding) + linear(plain.output, ours.output)
    for a, b in zip(plain.blocks, ours.blocks, strict=True):
        for layer, message, node in zip(a.layers, b.message, b.node, strict=True):
            pairs += edge(layer.edge, message)
            if layer.gate is not None:
                pairs += linear(layer.gate[0], message.scalar)
            pairs += linear(layer.node[0], node[0]) + linear(layer.node[2], node[2])
        if a.angles is not None:
            pairs += linear(a.angles.sender, b.angles.sender) + linear(a.angles.radial, b.angles.radial)
        pairs += edge(a.coordinates.edge, b.coordinate) + linear(a.coordinates.scalar, b.coordinate.scalar)
    return pairs
