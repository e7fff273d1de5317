"""Exact expectations of losses without sampling.

A squared error is quadratic in the data and the noise, so its mean over x_0 = +-sqrt(v) and noise = +-1 is its exact
expectation; a mean over a uniform number is a Gauss-Legendre sum.
"""

import math

import numpy as np
import torch
from torch import nn

from gendiff.denoise import Denoiser
from gendiff.objective import Times
from gendiff.process import GaussianProcess, JointProcess
from gendiff.space import Euclidean

SIGNS = torch.cartesian_prod(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0])).double()


class At(Times):
    """A law of times: always t, one number or one for each sample."""

    unbiased = True

    def __init__(self, t, dtype=torch.float64):
        self.t = torch.as_tensor(t, dtype=dtype)

    def draw(self, random, process):
        return self.t.expand(len(random.indices)).clone()


class Given:
    """Stands in for `Random`: hands out the same numbers at every draw, or the next of a list of Gumbel noises."""

    def __init__(self, normal, uniform=0.5, gumbel=()):
        self.n, self.u, self.g, self.indices = normal, uniform, list(gumbel), torch.arange(len(normal))

    def normal(self, shape):
        return self.n.reshape(shape)

    def uniform(self, shape):
        return torch.as_tensor(self.u, dtype=torch.float64).expand(shape)

    def gumbel(self, shape):
        return self.g.pop(0).reshape(shape)

    def shared_uniform(self):
        return 0.5


class Gain(nn.Module):
    """F(y) = gain y: idle at first, exact for N(0, v) at one time with the right gain."""

    def __init__(self, gain=0.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(gain), dtype=torch.float64))

    def forward(self, x, noise_level, mask, condition):
        return {"x": self.gain * x["x"]}


def optimal(v, denoiser, t):
    """The linear network whose denoiser is exact for N(0, v) at time t."""
    time = torch.tensor([t], dtype=torch.float64)
    alpha, sigma, skip, out = (float(c) for c in denoiser.row("x", time, time))
    exact, scale = alpha * v / (alpha**2 * v + sigma**2), denoiser.data_scale["x"]
    return Gain((exact - skip) / out * math.sqrt((alpha * scale) ** 2 + sigma**2))


def plain(schedule, row, scale=1.0, network=None):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1))})
    return Denoiser(network or Gain(), process, row, {"x": scale})


def quadrature(v, copies=1, **random):
    """x_0, mask and noise of the four points whose mean is the expectation over N(0, v) and N(0, 1), in `copies`."""
    x_0, noise = SIGNS[:, :1, None] * v**0.5, SIGNS[:, 1]
    mask = torch.ones(4 * copies, 1, dtype=torch.bool)
    return {"x": x_0.repeat(copies, 1, 1)}, mask, Given(noise.repeat(copies), **random)


def gauss_legendre(n):
    """Nodes and weights of an integral over (0, 1), float64."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
