"""Schedules: published numbers, inverses, derivatives, and digits near the data."""

import math

import numpy as np
import pytest
import torch

from gendiff.schedule import Cosine, Flow, Linear, Polynomial, Schedule, coefficients

SCHEDULES = {
    "linear": Linear(),
    "short linear": Linear(20, 0.005, 0.6),
    "cosine": Cosine(),
    "polynomial": Polynomial(),
    "polynomial 3": Polynomial(500, 3, 1e-4),
    "flow": Flow(),
}
each = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
preserving = pytest.mark.parametrize(
    "schedule", [s for name, s in SCHEDULES.items() if name != "flow"], ids=[n for n in SCHEDULES if n != "flow"]
)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def test_polynomial_is_that_of_edm():
    golden = {
        0: -11.512915, 1: -11.330595, 100: -3.896443, 250: -1.982042, 500: -0.251309,
        750: 1.440859, 900: 3.284428, 990: 7.808746, 999: 11.176731, 1000: 11.512516,
    }  # fmt: skip
    gamma = -Polynomial().log_snr(f64(list(golden)) / 1000)
    assert gamma.tolist() == pytest.approx(list(golden.values()), abs=1e-6)


def test_linear_is_that_of_ddpm():
    schedule, t = Linear(), f64([0.5, 1.0])
    assert schedule.alpha(t).square().tolist() == pytest.approx(
        [0.07858724288177824, 4.0358297653756754e-05], rel=1e-12
    )
    assert (schedule.sigma(t) / schedule.alpha(t))[1].item() == pytest.approx(157.40728, abs=1e-5)
    betas = np.linspace(1e-4, 0.02, 1000)
    assert schedule.alpha(torch.arange(1, 1001).double() / 1000).square().numpy() == pytest.approx(
        np.cumprod(1 - betas), rel=1e-12
    )


def test_cosine_is_that_of_improved_ddpm():
    square = Cosine().alpha(torch.arange(1001).double() / 1000) ** 2
    assert square[1].item() == pytest.approx(0.999958715775178, rel=1e-12)
    assert square[500].item() == pytest.approx(0.4938435904406382, rel=1e-12)
    assert square[1000].item() == pytest.approx(2.4287669e-09, rel=1e-7)
    betas = 1 - square[1:] / square[:-1]
    assert betas[0].item() == pytest.approx(4.128422482196914e-05, rel=1e-9)
    assert int((betas > 0.999 - 1e-9).sum()) == 1
    assert betas[-1].item() == pytest.approx(0.999, rel=1e-12)


def test_flow_is_a_straight_line():
    t = torch.linspace(0, 1, 11).double()
    assert torch.equal(Flow().alpha(t), 1 - t)
    assert torch.equal(Flow().sigma(t), t)
    assert [d.unique().tolist() for d in Flow().derivatives(t)] == [[-1.0], [1.0]]


@preserving
def test_variance_is_preserved(schedule):
    t = torch.linspace(0, 1, 1237).double()
    assert (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 - 1).abs().max() < 1e-14


@each
def test_noise_only_grows(schedule):
    t = torch.linspace(0, 1, 4001).double()
    assert (schedule.alpha(t).diff() <= 0).all()
    assert (schedule.sigma(t).diff() >= 0).all()
    assert (schedule.log_snr(t).diff() < 0).all()
    assert schedule.sigma(t)[0] < 0.02
    assert schedule.alpha(t)[0] > 0.999


@each
def test_log_snr_is_of_the_squares(schedule):
    t = torch.linspace(0.01, 0.99, 99).double()
    assert torch.allclose(schedule.log_snr(t).exp(), (schedule.alpha(t) / schedule.sigma(t)) ** 2, rtol=1e-10)
    assert torch.allclose(Schedule.log_snr(schedule, t), schedule.log_snr(t), rtol=1e-10, atol=1e-12)


@each
def test_time_inverts_log_snr(schedule):
    t = torch.cat([torch.logspace(-5, -2, 50), torch.linspace(0.01, 1 - 1e-4, 500)]).double()
    assert (schedule.time(schedule.log_snr(t)) - t).abs().max() < 1e-9
    single = t.float()
    assert (schedule.time(schedule.log_snr(single)) - single).abs().max() < 5e-4
    ends = schedule.time(f64([math.inf, 60.0, -60.0, -math.inf]))
    assert ends.tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-12)


def test_time_is_finite_where_a_table_is_flat():
    schedule = Polynomial(power=8)
    assert schedule.time(schedule.log_snr(f64([0.0, 0.001, 0.002, 0.5]))).isfinite().all()


@each
def test_derivatives(schedule):
    t = torch.linspace(0.0123, 0.9877, 57).double().requires_grad_()
    h = 1e-6
    for function, derivative in zip((schedule.alpha, schedule.sigma), schedule.derivatives(t.detach()), strict=True):
        assert torch.allclose(derivative, torch.autograd.grad(function(t).sum(), t)[0], rtol=1e-12)
        difference = (function(t + h) - function(t - h)) / (2 * h)
        inside = ((t - h) * 1000).floor() == ((t + h) * 1000).floor()  # the kinks of the tables are at k / T
        assert torch.allclose(derivative[inside], difference[inside], rtol=1e-6, atol=1e-8)


@preserving
def test_times_between_steps_lie_on_a_line_of_log_alpha(schedule):
    n = len(schedule._table) - 1
    k = torch.arange(n).double()
    left, middle, right = (schedule.alpha((k + shift) / n).log() for shift in (0.0, 0.3, 1.0))
    assert torch.allclose(middle, 0.7 * left + 0.3 * right, rtol=1e-9, atol=1e-15)


@each
def test_float32_keeps_its_digits_near_the_data(schedule):
    """The naive sqrt(1 - alpha^2) has no correct digit at the smallest of these times."""
    t = torch.logspace(-6, -0.5, 200)
    assert t.dtype == torch.float32
    assert torch.allclose(schedule.sigma(t).double(), schedule.sigma(t.double()), rtol=1e-5, atol=0)
    assert torch.allclose(schedule.log_snr(t).double(), schedule.log_snr(t.double()), rtol=1e-5, atol=1e-5)


@each
def test_shape_and_dtype_are_those_of_the_times(schedule):
    for t in (torch.tensor(0.4), torch.full((3, 2), 0.4).double()):
        for value in (
            schedule.alpha(t),
            schedule.sigma(t),
            schedule.log_snr(t),
            schedule.time(t),
            *schedule.derivatives(t),
        ):
            assert (value.shape, value.dtype) == (t.shape, t.dtype)
    assert not schedule.state_dict()  # a fixed schedule adds nothing to a checkpoint


def test_coefficients_multiply_a_batch():
    t, like = f64([0.25, 0.5]), torch.zeros(2, 3, 4)
    alpha, sigma = coefficients(Flow(), t, like)
    assert alpha.shape == sigma.shape == (2, 1, 1)
    assert alpha.flatten().tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(0), lambda: Linear(10, 0.1, 0.05), lambda: Linear(10, 0, 0.1), lambda: Linear(10, 0.1, 1),
        lambda: Cosine(0), lambda: Cosine(10, -1),
        lambda: Polynomial(0), lambda: Polynomial(10, 0), lambda: Polynomial(10, 2, 0.5), lambda: Polynomial(1, 2, -1),
    ],
)  # fmt: skip
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"(Linear|Cosine|Polynomial) wants .*, got "):
        make()


@pytest.mark.parametrize("method", ["alpha", "sigma", "time"])
def test_the_interface_names_what_is_missing(method):
    with pytest.raises(NotImplementedError, match=f"Schedule must define {method}"):
        getattr(Schedule(), method)(torch.ones(1))
