"""Schedules in closed form: the SDEs and the chains that they are, published numbers, ends."""

import math

import numpy as np
import pytest
import torch

from gendiff.schedule import VE, VP, Flow, Harmonic, Karras, Linear, SubVP

T = torch.linspace(0.01, 1, 100, dtype=torch.float64)


def sde(schedule, t):
    """Drift f and squared diffusion g^2 of dx = f x dt + g dw, from alpha, sigma and their derivatives."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    d_alpha, d_sigma = schedule.derivatives(t)
    drift = d_alpha / alpha
    return drift, 2 * sigma * (d_sigma - drift * sigma)


def test_flow_is_a_straight_line():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(Flow().alpha(t), 1 - t)
    assert torch.equal(Flow().sigma(t), t)
    assert [d.unique().tolist() for d in Flow().derivatives(t)] == [[-1.0], [1.0]]


def test_vp_is_its_sde():
    rate = 0.1 + 19.9 * T
    drift, diffusion = sde(VP(), T)
    assert torch.allclose(drift, -rate / 2, rtol=1e-12)
    assert torch.allclose(diffusion, rate, rtol=1e-10)
    assert VP().alpha(T[-1:]).log().item() == pytest.approx(-5.025, rel=1e-14)


def test_subvp_is_its_sde():
    rate, integral = 0.1 + 19.9 * T, 0.1 * T + 19.9 * T**2 / 2
    drift, diffusion = sde(SubVP(), T)
    assert torch.allclose(drift, -rate / 2, rtol=1e-12)
    assert torch.allclose(diffusion, rate * (1 - torch.exp(-2 * integral)), rtol=1e-10)
    assert torch.allclose(SubVP().sigma(T), VP().sigma(T) ** 2, rtol=1e-14)


def test_ve_is_its_sde():
    drift, diffusion = sde(VE(), T)
    assert (drift == 0).all()
    assert torch.allclose(diffusion.sqrt(), VE().sigma(T) * math.sqrt(2 * math.log(5000)), rtol=1e-12)


def test_vp_is_the_limit_of_ddpm():
    """The chain with betas beta(t) / T comes to the SDE as 1 / T; Ho et al.'s is the one of a thousand steps."""
    t = torch.tensor([0.25, 0.5, 0.75]).double()
    errors = [
        (Linear(n, 0.1 / n, 20 / n).log_alpha_squared(t) - VP().log_alpha_squared(t)).abs().max().item()
        for n in (1000, 2000, 4000)
    ]
    assert errors[0] < 0.05
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([2, 2], abs=0.01)


def test_ve_is_the_ladder_of_ncsnv2():
    levels = VE().sigma(torch.linspace(1, 0, 232, dtype=torch.float64))
    assert levels.numpy() == pytest.approx(np.geomspace(50, 0.01, 232), rel=1e-12)


def test_uniform_times_of_karras_are_the_levels_of_edm():
    levels = Karras().sigma(torch.linspace(1, 0, 18, dtype=torch.float64))[[0, 1, 8, 16, 17]]
    assert levels.tolist() == pytest.approx([80, 57.58598472, 3.25682152, 0.00752802, 0.002], abs=5e-9)


@pytest.mark.parametrize("steps", [1, 7, 40, 2000])
def test_harmonic_is_the_product_of_its_betas(steps):
    k = np.arange(1, steps + 1)
    product = np.cumprod(1 - 1 / (steps - k + 1))
    square = Harmonic().alpha(torch.arange(1, steps + 1).double() / steps) ** 2
    assert square.numpy() == pytest.approx(product, abs=1e-13)
    assert square[-1] == 0


@pytest.mark.parametrize("schedule", [VE(0.3, 7.0), Karras(0.3, 7.0, 3.0)], ids=["ve", "karras"])
def test_noise_lies_between_its_ends(schedule):
    ends = schedule.sigma(torch.tensor([0.0, 1.0]).double())
    assert ends.tolist() == pytest.approx([0.3, 7.0], rel=1e-14)
    assert (schedule.alpha(T) == 1).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(0), lambda: VP(2, 1), lambda: SubVP(-1), lambda: SubVP(1, math.inf),
        lambda: VE(0), lambda: VE(1, 1), lambda: VE(1, math.nan), lambda: Karras(0), lambda: Karras(2, 1),
        lambda: Karras(rho=0), lambda: Karras(rho=math.inf),
    ],
)  # fmt: skip
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"(VP|SubVP|VE|Karras) wants .*, got "):
        make()
