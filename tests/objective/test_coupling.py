"""Minibatch optimal transport: optimal by brute force, a permutation, and what it does to flow matching."""

from itertools import permutations

import numpy as np
import pytest
import torch
from expectation import At, Gain, Given, plain
from scipy.optimize import linear_sum_assignment

from gendiff.objective import Objective, OptimalTransport
from gendiff.objective.coupling import Coupling
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.schedule import Flow
from gendiff.space import Euclidean, ZeroCenterOfMass

PROCESS = JointProcess(
    {
        "position": GaussianProcess(Flow(), ZeroCenterOfMass()),
        "charge": GaussianProcess(Flow(), Euclidean(2)),
        "element": CategoricalProcess(Flow(), [0.5, 0.5], Euclidean(2)),
    }
)


def batch(sizes, seed=0):
    mask = size_mask(torch.tensor(sizes), max(sizes))
    x_0, noise = (PROCESS.noise(mask, Random(s, len(sizes))) for s in (seed, seed + 1000))
    return x_0, noise, mask


def cost(x_0, noise, order, fields):
    return sum(((x_0[name] - noise[name][list(order)]) ** 2).sum().item() for name in fields)


def used(x_0, noise, mask, **options):
    """Which noise each sample gets; that of every field is the same."""
    chosen = OptimalTransport(**options)(PROCESS, x_0, noise, mask, Random(0, len(mask)))
    orders = set()
    for name, value in chosen.items():
        equal = (value[:, None] == noise[name][None]).flatten(2).all(-1)
        assert (equal.sum(1) == 1).all()
        orders.add(tuple(equal.long().argmax(1).tolist()))
    (order,) = orders
    return order


@pytest.mark.parametrize("field", [None, "position", "charge"])
@pytest.mark.parametrize("seed", range(5))
def test_no_permutation_is_closer(field, seed):
    x_0, noise, mask = batch([3] * 6, seed)
    fields = ["position", "charge"] if field is None else [field]
    best = min(permutations(range(6)), key=lambda order: cost(x_0, noise, order, fields))
    assert used(x_0, noise, mask, field=field) == best


def test_samples_keep_noise_of_their_own_mask_and_each_noise_is_used_once():
    sizes = [3, 5, 3, 2, 5, 5, 3, 2, 5, 4]
    x_0, noise, mask = batch(sizes)
    order = used(x_0, noise, mask)
    assert sorted(order) == list(range(10))
    assert [sizes[i] for i in order] == sizes
    for size in set(sizes):  # each group as if it were alone
        members = [i for i, n in enumerate(sizes) if n == size]
        alone = [{name: value[members] for name, value in state.items()} for state in (x_0, noise)]
        inner = used(*alone, mask[members])
        assert [order[i] for i in members] == [members[i] for i in inner]
    moved = mask[[0, 2]].clone()
    moved[1] = moved[1].flip(0)  # as many elements, in other places
    assert used(*({n: v[[0, 2]] for n, v in s.items()} for s in (x_0, noise)), moved) == (0, 1)


def test_the_cost_is_that_of_scipy():
    x_0, noise, mask = batch([4] * 64)
    distance = torch.cdist(x_0["charge"].flatten(1).double(), noise["charge"].flatten(1).double()).numpy() ** 2
    rows, columns = linear_sum_assignment(distance)
    order = used(x_0, noise, mask, field="charge")
    assert cost(x_0, noise, order, ["charge"]) == pytest.approx(distance[rows, columns].sum(), rel=1e-6)
    assert distance[rows, columns].sum() < 0.8 * np.trace(distance)


def test_flow_matching_between_gaussians_has_no_variance_left():
    """In one dimension paths no longer cross, so the exact velocity of the transport map is learned without noise.

    For x_0 from N(0, v) the map is x_0 = sqrt(v) noise, and F = noise - x_0 = (1 - sqrt v) noise with x_t / noise =
    (1 - t) sqrt(v) + t. Independent noise leaves v / (v (1 - t)^2 + t^2), the variance of the target given x_t.
    """
    v, t, n = 4.0, 0.4, 1000
    scale = ((1 - t) ** 2 + t**2) ** 0.5  # of the network's input
    denoiser = plain(Flow(), "flow")
    x_0 = {"x": v**0.5 * torch.randn(n, 1, 1).double()}
    noise, mask = Given(torch.randn(n).double()), torch.ones(n, 1).bool()
    transported = (1 - v**0.5) / ((1 - t) * v**0.5 + t) * scale
    independent = (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2) * scale
    losses = {}
    for gain in (transported, independent):
        denoiser.network = Gain(gain)
        for coupling in (None, OptimalTransport()):
            loss, _ = Objective(times=At(t), coupling=coupling)(denoiser, x_0, mask, None, noise)
            losses[gain, coupling is not None] = loss.mean().item()
    floor = v / (v * (1 - t) ** 2 + t**2)
    assert losses[independent, False] == pytest.approx(floor, rel=4 * (2 / n) ** 0.5)
    assert losses[transported, True] < 0.02 * floor
    assert losses[transported, False] > losses[independent, False]


def test_what_cannot_be_coupled_is_refused():
    x_0, noise, mask = batch([3, 3])
    for field in ("element", "mass"):
        with pytest.raises(ValueError, match=f"wants a Gaussian field, one of .*'position', 'charge'.* got '{field}'"):
            OptimalTransport(field)(PROCESS, x_0, noise, mask, Random(0, 2))
    with pytest.raises(NotImplementedError, match="Coupling must define __call__"):
        Coupling()(PROCESS, x_0, noise, mask, Random(0, 2))
