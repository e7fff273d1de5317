"""The learned schedule: monotone whatever its weights, pinned ends, gradients, a bound that knows its ends only."""

import math

import numpy as np
import pytest
import torch

from gendiff.schedule import VP, Learned


def scrambled(features=32, **options):
    """A schedule as training may leave it: weights of any sign and size."""
    schedule = Learned(features=features, **options)
    with torch.no_grad():
        schedule.hidden.copy_(20 * torch.randn(features))
        schedule.bias.copy_(3 * torch.randn(features))
        schedule.out.copy_(torch.randn(features))
        schedule.linear.fill_(-0.8)
    return schedule


def test_it_starts_as_a_line():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    gamma = -Learned().log_snr(t)
    assert gamma[[0, -1]].tolist() == pytest.approx([-13.3, 5.0], abs=1e-12)
    assert (gamma - (-13.3 + 18.3 * t)).abs().max() < 0.05 * 18.3


@pytest.mark.parametrize("learn_ends", [False, True])
def test_it_is_monotone_between_its_ends_whatever_its_weights(learn_ends):
    schedule = scrambled(learn_ends=learn_ends)
    low, high = -13.3, 5.0
    if learn_ends:
        with torch.no_grad():
            schedule.low.fill_(-7.0)
            schedule.log_span.fill_(math.log(9.0))
        low, high = -7.0, 2.0
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    gamma = -schedule.log_snr(t)
    assert (gamma.diff() > 0).all()
    assert gamma[[0, -1]].tolist() == pytest.approx([low, high], abs=1e-6 if learn_ends else 1e-12)
    assert (gamma - (low + (high - low) * t)).abs().max() > 1  # far from where it started
    assert (schedule.time(-gamma) - t).abs().max() < 1e-12


def test_it_is_the_formula_of_the_paper():
    schedule = scrambled(3)
    linear, hidden, bias, out = (
        p.detach().double().numpy() for p in (schedule.linear, schedule.hidden, schedule.bias, schedule.out)
    )

    def shape(t):
        l_1 = abs(linear) * t
        return l_1 + sum(abs(out[j]) / (1 + np.exp(-(abs(hidden[j]) * l_1 + bias[j]))) for j in range(3))

    for t in (0.1, 0.5, 0.8):
        expected = -13.3 + 18.3 * (shape(t) - shape(0)) / (shape(1) - shape(0))
        assert -schedule.log_snr(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_reach_its_parameters():
    """By central differences, through alpha, sigma, the log signal-to-noise ratio and the derivatives."""
    schedule = scrambled(4, learn_ends=True).double()
    t = torch.tensor([0.2, 0.7]).double()
    for function in (
        schedule.alpha,
        schedule.sigma,
        schedule.log_snr,
        lambda t: schedule.derivatives(t)[0],
        lambda t: schedule.derivatives(t)[1],
    ):
        names, parameters = zip(*schedule.named_parameters(), strict=True)
        gradients = torch.autograd.grad(function(t).sum(), parameters)
        for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
            assert gradient.abs().sum() > 0, name
            flat, h = parameter.data.view(-1), 1e-6
            flat[0] += h
            up = function(t).sum()
            flat[0] -= 2 * h
            down = function(t).sum()
            flat[0] += h
            assert gradient.reshape(-1)[0].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-5, abs=1e-8)


def test_it_learns_a_shape():
    schedule = Learned(features=64)
    t = torch.linspace(0, 1, 64)
    target = -13.3 + 18.3 * t**3
    optimizer = torch.optim.Adam(schedule.parameters(), 0.03)
    errors = []
    for _ in range(300):
        loss = (schedule.log_snr(t) + target).square().mean()
        errors.append(loss.item() ** 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert errors[0] > 5
    assert errors[-1] < 0.3


@pytest.mark.parametrize("v", [0.2, 1.0, 9.0])
def test_the_continuous_bound_depends_on_the_ends_only(v):
    r"""For N(0, v) data :math:`\frac12\int \mathrm{mmse}\, d\mathrm{SNR} = \frac12 \log\frac{1 + v S_0}{1 + v S_1}`."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t, weights = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    ends = torch.tensor([1e-3, 1.0]).double()
    for schedule in (Learned(features=16), scrambled(6), VP()):
        s = ends[0] + (1 - ends[0]) * t
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        d_alpha, d_sigma = schedule.derivatives(s)
        snr = (alpha / sigma) ** 2
        rate = -2 * snr * (d_alpha / alpha - d_sigma / sigma)
        bound = 0.5 * (weights * rate * v / (1 + v * snr)).sum() * (1 - ends[0])
        first, last = (1 + v * schedule.log_snr(ends).exp()).log().tolist()
        assert bound.item() == pytest.approx((first - last) / 2, rel=1e-6)


def test_it_is_saved():
    schedule = scrambled(learn_ends=True)
    again = Learned(features=32, learn_ends=True)
    again.load_state_dict(schedule.state_dict())
    t = torch.linspace(0, 1, 11)
    assert torch.equal(again.log_snr(t), schedule.log_snr(t))
    assert sum(p.numel() for p in Learned().parameters()) == 3 * 1024 + 1


@pytest.mark.parametrize(
    "make", [lambda: Learned(1.0, 0.0), lambda: Learned(features=0), lambda: Learned(-math.inf), lambda: Learned(2, 2)]
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match="Learned wants gamma_min < gamma_max and features >= 1, got "):
        make()
