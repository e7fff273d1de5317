"""Couplings: which noise of a batch goes with which data of it."""

from __future__ import annotations

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


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distance of every sample of `x` to every one of `y`, shape (B, B)."""
    x, y = x.detach().flatten(1), y.detach().flatten(1)
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()  # keeps the digits of float32
