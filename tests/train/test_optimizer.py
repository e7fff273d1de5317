"""Muon and AdamW as one optimizer: each parameter moves as its own would move it, and the state comes back whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gendiff.files import UserError
from gendiff.train.muon import Muon, orthogonal
from gendiff.train.optimizer import MuonAdamW


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 2))


def walk(net, optimizer, steps, first=0):
    for k in range(first, first + steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(k))
        optimizer.zero_grad()
        (net(x) - x[:, :2] ** 2).square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + k)
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_the_iteration_changes_singular_values_alone():
    """U S V^T becomes U p(p(p(p(p(S / |S|))))) V^T with the polynomial of Jordan et al."""
    x = torch.randn(5, 6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert ((values > 0.6) & (values < 1.3)).all()  # they end near 1
    expected = u @ (values.unsqueeze(2) * v)
    torch.testing.assert_close(orthogonal(x), expected, rtol=1e-9, atol=1e-9)


def test_a_matrix_moves_along_the_nearest_orthogonal_one():
    """The first step of Muon on a gradient U S V^T is lr 0.2 sqrt(max side) U V^T, up to its five iterations."""
    weight = nn.Parameter(torch.zeros(16, 12))
    gradient = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))
    optimizer = MuonAdamW([weight], lr=0.1, weight_decay=0.0)
    weight.grad = gradient.clone()
    optimizer.step()
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    step = -weight.detach() / (0.1 * 0.2 * 4)
    values = torch.linalg.svdvals(step)
    assert ((values > 0.6) & (values < 1.3)).all()  # the iterations end there, not at 1
    assert (step * (u @ v)).sum() / (step.norm() * (u @ v).norm()) > 0.97


SHAPES = ((12, 9), (9, 12), (16, 16), (9, 12), (9, 9), (2, 12), (12,), (16,))
"""Matrices of one shape, also turned, and what is AdamW's."""


def test_each_moves_as_by_its_own_optimizer_alone():
    """Matrices as by torch's Muon, up to its 8 bits, though in stacks; the rest exactly as by AdamW."""
    torch.manual_seed(0)
    mine = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    plain, start = copy.deepcopy(mine), copy.deepcopy(mine)
    optimizers = [
        MuonAdamW(mine, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(plain[:5], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(plain[5:6], lr=0.01, weight_decay=0.1, fused=True),
        torch.optim.AdamW(plain[6:], lr=0.01, weight_decay=0.0, fused=True),
    ]
    for _ in range(5):
        for a, b in zip(mine, plain, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, old in zip(mine[:5], plain, start, strict=False):
        assert (a - b).norm() < 2e-2 * (b - old).norm()
    for a, b in zip(mine[5:], plain[5:], strict=True):
        assert torch.equal(a, b)


def test_the_state_comes_back_whole():
    """Ten steps are five, a state in a dictionary, and five more; a rate set after the return is obeyed."""
    whole, first = network(), network()
    expected = walk(whole, MuonAdamW(whole.parameters()), 10)
    optimizer = MuonAdamW(first.parameters())
    walk(first, optimizer, 5)
    second, state = copy.deepcopy(first), copy.deepcopy(optimizer.state_dict())
    again = MuonAdamW(second.parameters())
    again.load_state_dict(state)
    for a, b in zip(walk(second, again, 5, first=5), expected, strict=True):
        assert torch.equal(a, b)


def test_a_closure_is_called_once_with_gradients():
    net, calls = network(), []
    optimizer = MuonAdamW(net.parameters())

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = net(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).isfinite()
    assert calls == [True]


def test_networks_without_matrices_or_without_vectors():
    for parameters in ([nn.Parameter(torch.ones(3))], [nn.Parameter(torch.ones(9, 9))]):
        optimizer = MuonAdamW(parameters, lr=0.1, weight_decay=0.0)
        parameters[0].grad = torch.ones_like(parameters[0])
        optimizer.step()
        assert (parameters[0] < 1).all()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_moves_as_the_matrix_of_its_weights(memory):
    """Of each output channel one row; in which order the columns come does not matter, nor does memory."""
    torch.manual_seed(0)
    net = nn.Conv2d(8, 12, 3).to(memory_format=memory)
    start = net.weight.detach().flatten(1).clone()
    rows = nn.Parameter(start.clone())
    kernel, plain = MuonAdamW(net.parameters(), weight_decay=0.1), torch.optim.Muon(
        [rows], lr=5e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )  # fmt: skip
    for k in range(4):
        for group in (*kernel.param_groups, *plain.param_groups):
            group["lr"] = 5e-3 / (1 + k)
        kernel.zero_grad()
        net(torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(k))).square().sum().backward()
        rows.grad = net.weight.grad.detach().contiguous().flatten(1)
        kernel.step()
        plain.step()
    apart, moved = (other - net.weight.detach().flatten(1) for other in (rows.detach(), start))
    assert apart.norm() < 1e-2 * moved.norm()  # theirs is in bfloat16


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_memory_does_not_matter(memory):
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(12, 8, 3, 3).to(memory_format=memory))
    rows = nn.Parameter(kernel.detach().contiguous().flatten(1).clone())
    optimizers = [Muon([kernel], weight_decay=0.1), Muon([rows], weight_decay=0.1)]
    for _ in range(4):
        rows.grad = torch.randn(12, 72)
        kernel.grad = rows.grad.view(12, 8, 3, 3).clone(memory_format=memory)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(kernel.detach().flatten(1), rows.detach(), rtol=1e-5, atol=1e-6)
    assert kernel.is_contiguous(memory_format=memory)


def test_what_muon_cannot_take_is_refused():
    with pytest.raises(ValueError, match=r"matrices and kernels, got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.ones(3))])
    kernel = nn.Parameter(torch.ones(8, 8, 3, 3))
    kernel.grad = torch.ones_like(kernel)
    optimizer = Muon([kernel])
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = state["state"][0]["momentum_buffer"].flatten(1)
    with pytest.raises(UserError, match="another version of gendiff; start a new run"):
        Muon([kernel]).load_state_dict(state)


def test_others_see_kernels_as_they_are():
    """Clipping and zeroing gradients go by the groups; few channels are AdamW's; the state of kernels comes back."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3))
    optimizer = MuonAdamW(net.parameters())
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    first, middle, last = ([id(p) for p in layer.parameters()] for layer in net)
    assert groups == [middle[:1], [first[0], last[0]], [first[1], middle[1], last[1]]]
    net(torch.ones(1, 3, 9, 9)).sum().backward()
    optimizer.step()
    state, before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net)
    again = MuonAdamW(before.parameters())
    again.load_state_dict(state)
    for each, mine in ((net, optimizer), (before, again)):
        mine.zero_grad()
        assert all(p.grad is None for p in each.parameters())
        each(torch.ones(1, 3, 9, 9)).square().sum().backward()
        mine.step()
    for a, b in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)
