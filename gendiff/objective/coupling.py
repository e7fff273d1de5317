"""Couplings: which noise goes with which data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gendiff.config import Configurable
from gendiff.ops import Random, State
from gendiff.process import JointProcess


class Coupling(Configurable):
    """Interface of a coupling: data and noise of a batch in, the noise to use out."""

    def __call__(self, process: JointProcess, x_0: State, noise: State, mask: Tensor | None, random: Random) -> State:
        """Return the noise of each sample, a law of (data, noise) whose two marginals are unchanged."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


class OptimalTransport(Coupling):
    r"""Minibatch optimal transport: the permutation of a batch's noise that lies closest to its data.

    .. math:: \min_\pi \sum_i \|x_0^{(i)} - \epsilon^{(\pi(i))}\|^2

    exactly, over the permutations that give a sample noise of its own mask; all fields of the noise move together.
    Paths cross less, so flow matching has a loss of smaller variance and flows that are straighter. The noise of a
    sample then depends on its batch. With a condition the noise is no longer independent of it, and samples from
    independent noise are biased; leave the coupling out there.

    Arguments:
        field: The Gaussian field whose distances count; None for all Gaussian fields.

    Raises:
        ValueError: at the call, if there is no Gaussian field of this name.

    References:
        | Improving and generalizing flow-based generative models (Tong et al., 2023) | https://arxiv.org/abs/2302.00482
        | Multisample flow matching (Pooladian et al., 2023) | https://arxiv.org/abs/2304.14772
    """

    def __init__(self, field: str | None = None):
        self.field = field

    def __call__(  # noqa: D102
        self, process: JointProcess, x_0: State, noise: State, mask: Tensor | None, random: Random
    ) -> State:
        from scipy.optimize import linear_sum_assignment  # here, so that `import gendiff` does not load scipy

        gaussian = [name for name, p in process.items() if not p.categorical]
        fields = [name for name in gaussian if self.field in (None, name)]
        if not fields:
            raise ValueError(f"OptimalTransport wants a Gaussian field, one of {gaussian}, got {self.field!r}")
        cost = torch.stack([_squared_distances(x_0[name], noise[name]) for name in fields]).sum(0)
        if mask is not None:
            other = (mask[:, None] != mask[None]).any(-1)
            cost = cost.masked_fill(other, torch.inf)
        _, chosen = linear_sum_assignment(cost.cpu().numpy())
        order = torch.as_tensor(chosen, device=cost.device)
        return {name: value[order] for name, value in noise.items()}


class NodeTransport(Coupling):
    r"""Equivariant optimal transport: the noise of a sample, permuted and turned to lie close to its own data.

    .. math:: \min_\pi \sum_i \|x_i - \epsilon_{\pi(i)}\|^2, \qquad\text{then}\qquad
        \min_{R \in SO(d)} \sum_i \|x_i - R\, \epsilon_{\pi(i)}\|^2

    over the permutations of its real nodes (linear assignment, exact) and over rotations (Kabsch), one after the other;
    neither ever raises the cost. Atoms no longer trade places on the way from noise to data, nor does the whole turn,
    so paths are shorter and flows straighter.

    The noise keeps its law: what is chosen from are the copies of a normal noise, permuted and turned, and over data in
    all orders and poses, which is what an equivariant network learns from, every copy is chosen equally often. That
    also holds given a condition, and the noise of a sample depends on no other sample. Permuted data get the permuted
    noise; data and noise that are turned together get the turned one. Other fields keep their noise.

    It is for deterministic samplers (DDIM, Heun, RK45). Samplers that draw fresh noise, and the variational bound, take
    the estimate of the noise for a score, which it is only where noise and data are independent. The assignment runs on
    the CPU, in a loop over samples.

    Arguments:
        field: The Gaussian field of nodes (B, N, d) to couple ("position").
        rotate: Whether the noise is turned too, after it was permuted.
        permute: Whether it is permuted.

    Raises:
        ValueError: if there is nothing to do; at the call, if there is no Gaussian field of nodes of this name.

    References:
        | Equivariant flow matching (Klein et al., 2023) | https://arxiv.org/abs/2306.15030
        | Equivariant flow matching with hybrid probability transport (Song et al., 2023) | https://arxiv.org/abs/2312.07168
        | A solution for the best rotation to relate two sets of vectors (Kabsch, 1976) | https://doi.org/10.1107/S0567739476001873
    """

    def __init__(self, field: str = "position", rotate: bool = False, permute: bool = True):
        if not (rotate or permute):
            raise ValueError("NodeTransport wants to rotate or to permute, or both")
        self.field, self.rotate, self.permute = field, rotate, permute

    def __call__(  # noqa: D102
        self, process: JointProcess, x_0: State, noise: State, mask: Tensor | None, random: Random
    ) -> State:
        nodes = [name for name, p in process.items() if not p.categorical and p.space.kind == "node"]
        if self.field not in nodes:
            raise ValueError(f"NodeTransport wants a Gaussian field of nodes, one of {nodes}, got {self.field!r}")
        # In float64 no autocast touches a product, and on the CPU the assignment has to run anyway.
        x, y = (state[self.field].detach().cpu().double() for state in (x_0, noise))
        if self.permute:
            order = assignment(x, y, None if mask is None else mask.cpu())
            y = y.gather(1, order[..., None].expand_as(y))
        if self.rotate:
            y = y @ rotation(y, x)
        return {**noise, self.field: y.to(noise[self.field])}


def assignment(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return for every node of x the node of y that goes with it, (B, N): the permutation of least squared distance.

    Arguments:
        x: Nodes (B, N, d), on the CPU.
        y: Nodes (B, N, d), zero at padding.
        mask: (B, N) or None; real nodes go with real ones.
    """
    from scipy.optimize import linear_sum_assignment  # here, so that `import gendiff` does not load scipy

    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    if mask is not None:
        cost = cost.masked_fill(mask[:, :, None] != mask[:, None], torch.inf)
    return torch.from_numpy(np.stack([linear_sum_assignment(each)[1] for each in cost.numpy()]))


def rotation(y: Tensor, x: Tensor) -> Tensor:
    r"""Return the proper rotations R (B, d, d) that bring y R closest to x, both (B, N, d): Kabsch's.

    With :math:`y^T x = U S V^T` they are :math:`U\, \mathrm{diag}(1, \dots, 1, \det U V^T)\, V^T`.
    """
    u, _, v = torch.linalg.svd(y.mT @ x)
    u[..., -1] *= torch.linalg.det(u @ v)[..., None].sign()
    return u @ v


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distance of every sample of `x` to every one of `y`, shape (B, B)."""
    x, y = x.detach().flatten(1), y.detach().flatten(1)
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()  # keeps the digits of float32
