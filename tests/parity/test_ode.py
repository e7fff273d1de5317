"""The adaptive solver beside that of torchdiffeq."""

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import RK45
from gendiff.schedule import VP, Cosine, Flow, SubVP
from gendiff.solve import rk45
from gendiff.space import Euclidean

torchdiffeq = pytest.importorskip("torchdiffeq")


def mixture(schedule):
    means = torch.tensor([[[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]], dtype=torch.float64)
    stds = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)[:, None, None]
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})
    return AnalyticDenoiser(process, [0.3, 0.5, 0.2], {"x": (means, stds)})


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Flow()], ids=["vp", "sub-vp", "flow"])
@pytest.mark.parametrize("ends", [(1.0, 0.01), (0.01, 1.0)], ids=["down", "up"])
def test_the_flow_in_time(schedule, ends):
    """dx/dt = alpha' data + sigma' noise by their dopri5 along t, and ours along the share of noise."""
    denoiser, x = mixture(schedule), torch.randn(64, 2, 1).double()

    def velocity(t, x):
        t = t.clamp(0.01, 1.0)  # theirs looks beyond the end
        return denoiser({"x": x}, t.expand(64)).velocity["x"]

    times = torch.tensor(ends, dtype=torch.float64)
    theirs = torchdiffeq.odeint(velocity, x, times, method="dopri5", rtol=1e-8, atol=1e-8)[-1]
    sampler = RK45(rtol=1e-8, atol=1e-8)
    ours = (
        sampler(denoiser, {"x": x}, plan=[ends])
        if ends[0] > ends[1]
        else sampler.encode(denoiser, {"x": x}, plan=[ends])
    )
    assert (ours["x"] - theirs).abs().max() < 1e-5


def test_the_solver_itself():
    """The same equation in the same coordinate."""
    schedule, denoiser, z = Cosine(), mixture(Cosine()), torch.randn(64, 2, 1).double()

    def slope(u, z):
        u = u.clamp(0.02, 0.99)  # theirs looks beyond the end
        t = schedule.time(-2 * torch.logit(u)).expand(64)
        data = denoiser({"x": (schedule.alpha(t) + schedule.sigma(t))[:, None, None] * z}, t).data["x"]
        return (z - data) / u

    times = torch.tensor([0.99, 0.02], dtype=torch.float64)
    theirs = torchdiffeq.odeint(slope, z, times, method="dopri5", rtol=1e-8, atol=1e-8)[-1]
    ours = rk45(lambda z, u: {"x": slope(u, z["x"])}, {"x": z}, 0.99, 0.02, rtol=1e-8, atol=1e-8)["x"]
    assert (ours - theirs).abs().max() < 1e-5
