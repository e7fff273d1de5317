"""Tables of betas: published numbers."""

import numpy as np
import pytest
import torch

from gendiff.process import GaussianProcess
from gendiff.schedule import Cosine, Linear, Polynomial
from gendiff.space import Euclidean


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def retained(schedule):
    """alpha^2 after each of the steps."""
    return schedule.alpha(torch.arange(1, schedule.steps + 1).double() / schedule.steps).square()


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
    unit = torch.tensor([[[1.0], [-1.0]]]).double()
    prior_kl = GaussianProcess(schedule, Euclidean(1)).prior_kl(unit) / 2
    assert prior_kl.item() == pytest.approx(2.018e-5, abs=5e-9)


@pytest.mark.parametrize("steps", [1, 2, 10, 250, 1000, 4000])
def test_linear_of_any_length_is_the_product_of_its_betas(steps):
    start, end = min(0.1 / steps, 0.1), min(20 / steps, 0.9)
    betas = np.linspace(start, end, steps)
    assert retained(Linear(steps, start, end)).numpy() == pytest.approx(np.cumprod(1 - betas), rel=1e-11)


def test_quadratic_is_that_of_latent_diffusion():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    square = retained(Linear(1000, 0.00085, 0.012, "quadratic"))
    assert square.numpy() == pytest.approx(np.cumprod(1 - betas), rel=1e-12)
    ratio = ((1 - square) / square).sqrt()  # the known range of noise of Stable Diffusion
    assert [ratio[0].item(), ratio[-1].item()] == pytest.approx([0.0292, 14.6146], abs=5e-5)


def test_sigmoid_is_that_of_geodiff():
    square = retained(Linear(1000, 1e-7, 2e-3, "sigmoid"))
    betas = 1e-7 + (2e-3 - 1e-7) / (1 + np.exp(-np.linspace(-6, 6, 1000)))
    assert square.numpy() == pytest.approx(np.cumprod(1 - betas), rel=1e-12)
    symmetric = torch.cat([square[:1], square[1:] / square[:-1]])
    assert torch.allclose(symmetric + symmetric.flip(0), f64([2 - (1e-7 + 2e-3)]), rtol=1e-12)


def test_cosine_is_that_of_improved_ddpm():
    square = Cosine().alpha(torch.arange(1001).double() / 1000) ** 2
    assert square[1].item() == pytest.approx(0.999958715775178, rel=1e-12)
    assert square[500].item() == pytest.approx(0.4938435904406382, rel=1e-12)
    assert square[1000].item() == pytest.approx(2.4287669e-09, rel=1e-7)
    betas = 1 - square[1:] / square[:-1]
    assert betas[0].item() == pytest.approx(4.128422482196914e-05, rel=1e-9)
    assert int((betas > 0.999 - 1e-9).sum()) == 1
    assert betas[-1].item() == pytest.approx(0.999, rel=1e-12)


@pytest.mark.parametrize("schedule", [Linear(), Linear(20, 0.005, 0.6), Cosine(), Polynomial()])
def test_times_between_steps_lie_on_a_line_of_log_alpha(schedule):
    n = schedule.steps
    k = torch.arange(n).double()
    left, middle, right = (schedule.alpha((k + shift) / n).log() for shift in (0.0, 0.3, 1.0))
    assert torch.allclose(middle, 0.7 * left + 0.3 * right, rtol=1e-9, atol=1e-15)


def test_time_is_finite_where_a_table_is_flat():
    schedule = Polynomial(power=8)
    assert schedule.time(schedule.log_snr(f64([0.0, 0.001, 0.002, 0.5]))).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(0), lambda: Linear(10, 0.1, 0.05), lambda: Linear(10, 0, 0.1), lambda: Linear(10, 0.1, 1),
        lambda: Linear(10, 0.1, float("nan")), lambda: Linear(shape="cubic"),
        lambda: Cosine(0), lambda: Cosine(10, -1),
        lambda: Polynomial(0), lambda: Polynomial(10, 0), lambda: Polynomial(10, 2, 0.5), lambda: Polynomial(1, 2, -1),
    ],
)  # fmt: skip
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"(Linear|Cosine|Polynomial) wants .*, got "):
        make()
