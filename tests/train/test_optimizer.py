"""Muon and AdamW as one optimizer: each parameter moves as its own would move it, and the state comes back whole."""

from __future__ import annotations

import copy

import torch
from torch import nn

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


def test_the_rest_moves_as_by_adamw():
    mine, plain = network(), network()
    ours = MuonAdamW(mine.parameters(), lr=0.01, weight_decay=0.1)
    theirs = [
        torch.optim.Muon([plain[2].weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([plain[0].weight, plain[4].weight], lr=0.01, weight_decay=0.1, fused=True),
        torch.optim.AdamW([plain[k].bias for k in (0, 2, 4)], lr=0.01, weight_decay=0.0, fused=True),
    ]
    for _ in range(5):
        for net, optimizers in ((mine, [ours]), (plain, theirs)):
            net.zero_grad()
            net(torch.ones(2, 3)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
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
