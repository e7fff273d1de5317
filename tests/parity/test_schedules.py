"""Schedules and grids against diffusers, whose tables are float32: their error is the tolerance."""

import numpy as np
import pytest
import torch

from gendiff.schedule import Cosine, Karras, Linear, ZeroTerminalSNR, time_grid

pytest.importorskip("diffusers", reason="parity needs diffusers: pip install diffusers")


def retained(schedule):
    return schedule.alpha(torch.arange(1, 1001).double() / 1000).square().numpy()


@pytest.mark.parametrize(
    ("schedule", "settings", "tolerance"),
    [
        (Linear(), {"beta_schedule": "linear"}, 2.5e-7),
        (Linear(1000, 1e-4, 0.02, "quadratic"), {"beta_schedule": "scaled_linear"}, 5e-7),
        (
            Linear(1000, 8.5e-4, 0.012, "quadratic"),
            {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
            5e-7,
        ),
        (Linear(1000, 1e-4, 0.02, "sigmoid"), {"beta_schedule": "sigmoid"}, 5e-7),
        (Cosine(), {"beta_schedule": "squaredcos_cap_v2"}, 5e-7),
    ],
    ids=["linear", "quadratic", "scaled linear", "sigmoid", "cosine"],
)
def test_tables(schedule, settings, tolerance):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=1000, **settings)
    product = (1 - theirs.betas.double()).cumprod(0).numpy()
    assert np.abs(retained(schedule) - product).max() < 1e-7  # their betas are rounded
    assert np.abs(retained(schedule) - theirs.alphas_cumprod.double().numpy()).max() < tolerance  # and so is each step


@pytest.mark.parametrize("inside", [Linear(), Linear(1000, 8.5e-4, 0.012, "quadratic")], ids=["linear", "quadratic"])
def test_zero_terminal_snr(inside):
    from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

    square = retained(inside)
    betas = 1 - square / np.concatenate([[1.0], square[:-1]])
    theirs = (1 - rescale_zero_terminal_snr(torch.from_numpy(betas))).cumprod(0).numpy()
    assert retained(ZeroTerminalSNR(inside)) == pytest.approx(theirs, rel=1e-9, abs=1e-13)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
def test_levels_of_the_karras_grid():
    from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    euler = EulerDiscreteScheduler(use_karras_sigmas=True, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    edm = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    for theirs, schedule, tolerance in ((euler, Linear(), 1e-4), (edm, Karras(), 1e-6)):
        theirs.set_timesteps(20)
        t = torch.tensor(time_grid(20, "karras", schedule), dtype=torch.float64)[:-1]
        ours = (schedule.sigma(t) / schedule.alpha(t)).numpy()
        assert ours == pytest.approx(theirs.sigmas[:-1].double().numpy(), rel=tolerance)
