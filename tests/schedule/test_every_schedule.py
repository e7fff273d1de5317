"""What holds for every schedule: inverse, derivatives, digits near the data, a place in a configuration."""

import json
import math

import pytest
import torch

from gendiff.config import build, describe
from gendiff.schedule import (
    VE,
    VP,
    Cosine,
    Flow,
    Harmonic,
    Karras,
    Learned,
    Linear,
    Polynomial,
    Schedule,
    SubVP,
    VariancePreserving,
    ZeroTerminalSNR,
    coefficients,
)

PRESERVING = {
    "linear": Linear(),
    "short linear": Linear(20, 0.005, 0.6),
    "quadratic": Linear(1000, 8.5e-4, 0.012, "quadratic"),
    "sigmoid": Linear(1000, 1e-4, 0.02, "sigmoid"),
    "cosine": Cosine(),
    "polynomial": Polynomial(),
    "polynomial 3": Polynomial(500, 3, 1e-4),
    "harmonic": Harmonic(),
    "vp": VP(),
    "constant vp": VP(8.0, 8.0),
    "learned": Learned(features=64),
    "learned ends": Learned(-10.0, 6.0, 8, learn_ends=True),
    "zero terminal linear": ZeroTerminalSNR(Linear(1000, 8.5e-4, 0.012, "quadratic")),
    "zero terminal polynomial": ZeroTerminalSNR(Polynomial()),
    "zero terminal vp": ZeroTerminalSNR(VP()),
    "zero terminal learned": ZeroTerminalSNR(Learned(features=16)),
}
SCHEDULES = PRESERVING | {
    "subvp": SubVP(),
    "ve": VE(),
    "karras": Karras(),
    "flow": Flow(),
}
each = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
preserving = pytest.mark.parametrize("schedule", PRESERVING.values(), ids=PRESERVING)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@preserving
def test_variance_is_preserved(schedule):
    t = torch.linspace(0, 1, 1237, dtype=torch.float64)
    assert (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 - 1).abs().max() < 1e-14


@each
def test_noise_only_grows(schedule):
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    assert (schedule.alpha(t).diff() <= 0).all()
    assert (schedule.sigma(t).diff() >= 0).all()
    assert (schedule.log_snr(t).diff() < 0).all()
    assert schedule.sigma(t)[0] < 0.02
    assert schedule.alpha(t)[0] > 0.999


@each
def test_log_snr_is_of_the_squares(schedule):
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert torch.allclose(schedule.log_snr(t).exp(), (schedule.alpha(t) / schedule.sigma(t)) ** 2, rtol=1e-10)
    assert torch.allclose(Schedule.log_snr(schedule, t), schedule.log_snr(t), rtol=1e-10, atol=1e-12)


@each
def test_time_inverts_log_snr(schedule):
    t = torch.cat([torch.logspace(-5, -2, 50), torch.linspace(0.01, 1, 500)]).double().clamp(max=1)
    assert (schedule.time(schedule.log_snr(t)) - t).abs().max() < 1e-9
    single = t.float()
    assert (schedule.time(schedule.log_snr(single)) - single).abs().max() < 5e-4
    ends = schedule.time(f64([math.inf, 80.0, -80.0, -math.inf]))
    assert ends.tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-12)
    levels = torch.linspace(-20, 20, 2001, dtype=torch.float64)
    assert (schedule.time(levels).diff() <= 0).all()


@each
def test_derivatives(schedule):
    t = torch.linspace(0.0123, 0.9877, 57, dtype=torch.float64).requires_grad_()
    h = 1e-6
    for function, derivative in zip((schedule.alpha, schedule.sigma), schedule.derivatives(t.detach()), strict=True):
        value = function(t).sum()
        gradient = torch.autograd.grad(value, t)[0] if value.requires_grad else torch.zeros_like(t)  # alpha = 1
        assert torch.allclose(derivative, gradient, rtol=1e-12)
        difference = (function(t + h) - function(t - h)) / (2 * h)
        inside = ((t - h) * 1000).floor() == ((t + h) * 1000).floor()  # the kinks of the tables are at k / T
        assert inside.sum() > 50
        assert torch.allclose(derivative[inside], difference[inside], rtol=1e-6, atol=1e-8)


@each
def test_float32_keeps_its_digits_near_the_data(schedule):
    """The naive sqrt(1 - alpha^2) has no correct digit at the smallest of these times."""
    t = torch.logspace(-6, -0.5, 200)
    assert t.dtype == torch.float32
    assert torch.allclose(schedule.sigma(t).double(), schedule.sigma(t.double()), rtol=1e-5, atol=0)
    assert torch.allclose(schedule.log_snr(t).double(), schedule.log_snr(t.double()), rtol=1e-5, atol=1e-5)


@each
def test_shape_and_dtype_are_those_of_the_times(schedule):
    for t in (torch.tensor(0.4), torch.full((3, 2), 0.4).double(), torch.tensor(0.4).expand(5)):
        for value in (
            schedule.alpha(t),
            schedule.sigma(t),
            schedule.log_snr(t),
            schedule.time(t),
            *schedule.derivatives(t),
        ):
            assert (value.shape, value.dtype) == (t.shape, t.dtype)
    assert bool(schedule.state_dict()) == ("learned" in repr(schedule).lower())  # a fixed one adds nothing


@pytest.mark.gpu
@each
def test_device_is_that_of_the_times(schedule):
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    for here, there in (
        (schedule.alpha(t), schedule.alpha(t.cuda())),
        (schedule.sigma(t), schedule.sigma(t.cuda())),
        (schedule.time(schedule.log_snr(t)), schedule.time(schedule.log_snr(t.cuda()))),
    ):
        assert there.is_cuda
        assert torch.allclose(here, there.cpu(), rtol=1e-12)


@each
def test_a_configuration_can_name_it(schedule):
    text = json.dumps(describe(schedule), allow_nan=False)
    again = build(json.loads(text))
    assert type(again) is type(schedule)
    assert json.dumps(describe(again)) == text
    again.load_state_dict(schedule.state_dict())
    t = torch.linspace(0, 1, 11)
    assert torch.equal(again.log_snr(t), schedule.log_snr(t))


@pytest.mark.parametrize("name", ["Linear", "Cosine", "Polynomial", "Flow"])
def test_names_of_saved_models_still_work(name):
    """Models were saved when all schedules were in one file, and Linear had no shape."""
    arguments = {"Linear": {"steps": 10, "start": 0.1, "end": 0.2}, "Flow": {}}.get(name, {"steps": 10})
    schedule = build({"class": f"gendiff.schedule.{name}", **arguments})
    assert type(schedule).__name__ == name
    if name == "Linear":
        assert schedule.alpha(f64(0.1)).square().item() == pytest.approx(0.9, rel=1e-12)


def test_coefficients_multiply_a_batch():
    t, like = f64([0.25, 0.5]), torch.zeros(2, 3, 4)
    alpha, sigma = coefficients(Flow(), t, like)
    assert alpha.shape == sigma.shape == (2, 1, 1)
    assert alpha.flatten().tolist() == [0.75, 0.5]


@pytest.mark.parametrize("method", ["alpha", "sigma", "time"])
def test_the_interface_names_what_is_missing(method):
    with pytest.raises(NotImplementedError, match=f"Schedule must define {method}"):
        getattr(Schedule(), method)(torch.ones(1))
    with pytest.raises(NotImplementedError, match="VariancePreserving must define log_alpha_squared"):
        VariancePreserving().alpha(torch.ones(1))
