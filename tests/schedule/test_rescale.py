"""Zero terminal signal-to-noise ratio: nothing of the data is left at t = 1, and nothing moves at the first step."""

import numpy as np
import pytest
import torch

from gendiff.process import GaussianProcess
from gendiff.schedule import VE, VP, Cosine, Flow, Harmonic, Learned, Linear, Polynomial, SubVP, ZeroTerminalSNR
from gendiff.space import Euclidean

LATENT = Linear(1000, 8.5e-4, 0.012, "quadratic")
INSIDE = {"latent": LATENT, "cosine": Cosine(), "polynomial": Polynomial(), "vp": VP(), "learned": Learned(features=8)}
each = pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def test_it_is_the_algorithm_of_the_paper():
    root = np.sqrt(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha = ZeroTerminalSNR(LATENT).alpha(torch.arange(1, 1001).double() / 1000)
    assert alpha.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert LATENT.alpha(f64(1.0)) > 0.06  # what is left of the data without it


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_left_at_the_end(inside, dtype):
    schedule = ZeroTerminalSNR(inside)
    for t in (torch.tensor(1.0), torch.ones(3), torch.ones(17), torch.tensor(1.0).expand(9)):
        t = t.to(dtype)
        assert (schedule.alpha(t) == 0).all()
        assert (schedule.sigma(t) == 1).all()
        assert (schedule.log_snr(t) == -torch.inf).all()
    late = torch.linspace(0.99, 1, 500).to(dtype)
    assert (schedule.alpha(late) >= 0).all()


def test_a_last_digit_makes_no_negative_signal():
    class Trembling(VP):
        calls = 0

        def log_alpha_squared(self, t):
            self.calls += 1
            return super().log_alpha_squared(t) * (1 + 1e-15 * (-1) ** self.calls)

    schedule, one = ZeroTerminalSNR(Trembling()), f64([1.0])
    for first in (0, 1):  # the last digit too high, too low
        schedule.schedule.calls = first
        assert schedule.alpha(one) >= 0
        assert not schedule.log_snr(one).isnan()


@each
def test_nothing_moves_up_to_the_first_step(inside):
    t = f64([0.0, 1e-9, 3e-4, 1e-3]) if hasattr(inside, "steps") else f64([0.0])
    schedule = ZeroTerminalSNR(inside)
    assert torch.equal(schedule.alpha(t), inside.alpha(t))
    assert torch.allclose(schedule.sigma(t), inside.sigma(t), rtol=1e-12, atol=0)
    later = t[-1:] + 1e-9
    assert torch.allclose(schedule.sigma(later), inside.sigma(later), rtol=0, atol=1e-7)  # and nothing jumps there


@each
def test_the_derivative_at_the_end_is_not_lost(inside):
    one, h = f64([1.0]), 1e-8
    schedule = ZeroTerminalSNR(inside)
    slope = schedule.derivatives(one)[0]
    assert slope.item() == pytest.approx(-schedule.alpha(one - h).item() / h, rel=1e-3)
    t = one.clone().requires_grad_()
    assert torch.autograd.grad(schedule.alpha(t).sum(), t)[0].item() == pytest.approx(slope.item(), rel=1e-12)


def test_the_state_at_the_end_is_the_noise():
    x_0, one = torch.full((4, 3, 2), 5.0), torch.ones(4)
    noise = torch.randn(4, 3, 2)
    process = GaussianProcess(ZeroTerminalSNR(LATENT), Euclidean(2))
    assert torch.equal(process.corrupt(x_0, one, noise), noise)
    assert process.prior_kl(x_0).abs().max() == 0
    assert GaussianProcess(LATENT, Euclidean(2)).prior_kl(x_0).min() > 0.3


@pytest.mark.parametrize("schedule", [Flow(), SubVP(), VE(), Harmonic(), ZeroTerminalSNR(VP())])
def test_other_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match=f"wants a variance-preserving schedule .*, got {type(schedule).__name__}"):
        ZeroTerminalSNR(schedule)
