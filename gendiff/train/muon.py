r"""Muon: momentum whose matrices are made orthogonal, all matrices of a shape at once.

torch's own (`torch.optim.Muon`, which this one agrees with up to rounding) takes matrices one by one and computes in
bfloat16, which CPUs without it emulate: there its step takes many times as long, as `benchmarks/optimizer.py` shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.files import UserError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the polynomial a s + b s³ + c s⁵ of Jordan et al.: after five iterations singular values s from 0.003 to 1
lie between 0.68 and 1.21."""

ITERATIONS = 5


def orthogonal(x: Tensor) -> Tensor:
    r"""Return nearly :math:`U V^T` for each matrix :math:`U S V^T` of a stack (K, m, n); best with m <= n.

    .. math:: X \leftarrow a X + (b A + c A^2) X, \qquad A = X X^T

    five times, from X of Frobenius norm 1: the Newton-Schulz iteration, which changes singular values alone.
    """
    a, b, c = COEFFICIENTS
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    r"""Muon with Nesterov's momentum, at the root mean square of AdamW's steps.

    .. math::
        M &\leftarrow \mu M + (1 - \mu) G \\
        W &\leftarrow (1 - \eta \lambda) W - 0.2 \eta \sqrt{\max(m, n)}\;
            \mathrm{orthogonal}(\mu M + (1 - \mu) G)

    for a matrix W (m, n) with the gradient G. The kernel of a convolution, (O, I, H, W), counts as the matrix (O, I H
    W). Orthogonal matrices are found in the precision of the parameters on a CPU, and in bfloat16 on other devices.

    Arguments:
        parameters: Matrices and kernels.
        lr: Learning rate η (5e-3).
        weight_decay: Decoupled weight decay λ (0.01).
        momentum: μ (0.95).

    Raises:
        ValueError: for a parameter that is neither.

    References:
        | Muon: an optimizer for hidden layers in neural networks (Jordan et al., 2024) | https://kellerjordan.github.io/posts/muon
        | Muon is scalable for LLM training (Liu et al., 2025): the common learning rate | https://arxiv.org/abs/2502.16982
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 5e-3, weight_decay: float = 0.01, momentum: float = 0.95
    ):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.dim() < 2:
                raise ValueError(f"Muon takes matrices and kernels, got a parameter of shape {tuple(p.shape)}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states of :meth:`state_dict`.

        Raises:
            UserError: if they are of other shapes: of torch's Muon, to which kernels were shown as matrices.
        """
        super().load_state_dict(state_dict)
        if any(state["momentum_buffer"].shape != p.shape for p, state in self.state.items()):
            raise UserError("the state of the optimizer is that of another version of gendiff; start a new run")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns the value of `closure`, which recomputes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = defaultdict(list)  # of one shape, or of that of the transpose
            for p in group["params"]:
                if p.grad is not None:
                    rows, columns = len(p), p[0].numel()
                    alike[min(rows, columns), max(rows, columns), p.device, p.dtype].append(p)
            for (_, longer, *_), weights in alike.items():
                self._step(weights, group["lr"], group["weight_decay"], group["momentum"], 0.2 * longer**0.5)
        return loss

    def _step(self, weights: list[Tensor], lr: float, decay: float, momentum: float, scale: float) -> None:
        """Move parameters whose matrices are of one shape, or of that of the transpose."""
        for p in weights:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients = [p.grad for p in weights if p.grad is not None]
        averages = [self.state[p]["momentum_buffer"] for p in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        matrices = [g.flatten(1) for g in torch._foreach_lerp(gradients, averages, momentum)]
        turned = [len(x) > x.shape[1] for x in matrices]
        stack = torch.stack([x.mT if turn else x for x, turn in zip(matrices, turned, strict=True)])
        steps = orthogonal(stack if stack.is_cpu else stack.bfloat16()).to(stack.dtype)
        moves = [(x.mT if turn else x).reshape(p.shape) for x, turn, p in zip(steps, turned, weights, strict=True)]
        torch._foreach_mul_(weights, 1 - lr * decay)
        torch._foreach_add_(weights, moves, alpha=-lr * scale)
