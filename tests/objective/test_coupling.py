"""Optimal transport in a batch and inside a sample: optimal by brute force, laws kept, and what flow matching gains."""

from itertools import permutations

import numpy as np
import pytest
import torch
from expectation import At, Gain, Given, plain
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest
from torch import nn

from gendiff.config import build, describe
from gendiff.denoise import Denoiser
from gendiff.objective import NodeTransport, Objective, OptimalTransport
from gendiff.objective.coupling import Coupling, rotation
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


MODES = [{"rotate": False}, {"rotate": True}, {"rotate": True, "permute": False}]
SIZES = [4, 1, 3, 2, 4]


def turns(count, seed=0):
    """Proper rotations drawn evenly, (count, 3, 3)."""
    z = torch.randn(count, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(z)
    q = q * torch.diagonal(r, dim1=1, dim2=2).sign()[:, None]
    q[:, :, 0] *= torch.linalg.det(q)[:, None]
    return q


def coupled(x_0, noise, mask, **mode):
    return NodeTransport(**mode)(PROCESS, x_0, noise, mask, Random(0, len(mask)))


def gap(x, y):
    return ((x - y) ** 2).sum((1, 2))


def test_the_permutation_of_nodes_is_the_best_of_all():
    x_0, noise, mask = batch([5] * 6)
    x, y = x_0["position"], noise["position"]
    orders = [list(order) for order in permutations(range(5))]
    best = torch.stack([gap(x, y[:, order]) for order in orders])
    chosen = torch.stack([y[i, orders[k]] for i, k in enumerate(best.argmin(0).tolist())])
    assert torch.equal(coupled(x_0, noise, mask)["position"], chosen)


def test_the_rotation_is_the_best_of_all():
    """A turn that was made is found, and no turn near the one that is found, or far from it, is closer."""
    x_0, noise, mask = batch([5] * 4)
    x, y = x_0["position"].double(), noise["position"].double()
    turn = turns(4)
    torch.testing.assert_close(rotation(x @ turn.mT, x), turn, atol=1e-12, rtol=0)
    found = coupled({"position": x}, {"position": y}, mask, rotate=True, permute=False)["position"]
    for seed in range(40):
        other = turns(4, seed)
        for small in (other, rotation(other + 10 * torch.eye(3).double(), torch.eye(3).double().expand(4, 3, 3))):
            assert (gap(x, found @ small) >= gap(x, found) - 1e-12).all()


def test_mirror_images_stay_mirror_images():
    """Only proper rotations are applied, so that a network with a sense of handedness sees unbiased noise."""
    x_0, noise, mask = batch([4] * 50)
    after = coupled(x_0, noise, mask, rotate=True, permute=False)["position"]
    volumes = [torch.linalg.det(y[:, :3].double()) for y in (noise["position"], after)]
    torch.testing.assert_close(*volumes, atol=1e-5, rtol=1e-5)
    assert (volumes[0] > 0).any()
    assert (volumes[0] < 0).any()


@pytest.mark.parametrize("mode", MODES)
def test_the_cost_never_rises_and_noise_stays_on_its_orbit(mode):
    x_0, noise, mask = batch(SIZES * 20)
    after = coupled(x_0, noise, mask, **mode)
    x, y, z = x_0["position"], noise["position"], after["position"]
    assert (gap(x, z) <= gap(x, y) + 1e-5).all()
    assert gap(x, z).mean() < 0.9 * gap(x, y).mean()
    if mode == {"rotate": True}:
        assert (gap(x, z) <= gap(x, coupled(x_0, noise, mask)["position"]) + 1e-5).all()
    lengths = [value.norm(dim=-1).sort(1).values for value in (y, z)]
    torch.testing.assert_close(*lengths, atol=1e-5, rtol=1e-5)
    grams = [torch.linalg.eigvalsh(value @ value.mT) for value in (y, z)]  # of all that turning and sorting leave alone
    torch.testing.assert_close(*grams, atol=2e-5, rtol=1e-4)
    assert all(after[name] is noise[name] for name in ("charge", "element"))


@pytest.mark.parametrize("mode", MODES)
def test_the_noise_follows_its_data(mode):
    """Permuted data get the permuted noise (with that of the same nodes); all turned together, the turned noise."""
    x_0, noise, mask = batch([5] * 8)
    x, y = x_0["position"].double(), noise["position"].double()

    def after(x, y):
        return coupled({"position": x}, {"position": y}, mask, **mode)["position"]

    order, turn = torch.tensor([3, 0, 4, 1, 2]), turns(8, 5)
    moved = y if mode.get("permute", True) else y[:, order]
    torch.testing.assert_close(after(x[:, order], moved), after(x, y)[:, order], atol=1e-12, rtol=0)
    torch.testing.assert_close(after(x @ turn, y @ turn), after(x, y) @ turn, atol=1e-12, rtol=0)
    if not mode.get("permute", True):  # the one that is exact: also where the data alone turn
        torch.testing.assert_close(after(x @ turn, y), after(x, y) @ turn, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_padding_and_the_other_samples_change_nothing(mode):
    x_0, noise, mask = batch(SIZES)
    after = coupled(x_0, noise, mask, **mode)["position"]
    assert not after[~mask].any()
    for i, n in enumerate(SIZES):
        alone = coupled(
            *({"position": s["position"][i : i + 1, :n]} for s in (x_0, noise)), mask[i : i + 1, :n], **mode
        )
        torch.testing.assert_close(after[i : i + 1, :n], alone["position"], atol=1e-6, rtol=0)
    back = [{"position": s["position"].flip(1)} for s in (x_0, noise)]  # real nodes need not come first
    torch.testing.assert_close(coupled(*back, mask.flip(1), **mode)["position"], after.flip(1), atol=1e-6, rtol=0)
    whole = [{"position": s["position"][[0, 4]]} for s in (x_0, noise)]
    all_real = NodeTransport(**mode)(PROCESS, *whole, None, Random(0, 2))["position"]
    torch.testing.assert_close(all_real, after[[0, 4]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_noise_stays_standard_normal_over_data_in_all_poses_and_orders(mode):
    n, count = 3, 4000
    molecule = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3], [0.0, -0.7, -0.3]]).double()
    noise = PROCESS.noise(torch.ones(count, n).bool(), Random(3, count))
    order = torch.rand(count, n, generator=torch.Generator().manual_seed(1)).argsort(1)
    everywhere = molecule[order] @ turns(count, 2)
    for posed, normal in ((everywhere, True), (molecule.expand(count, n, 3), False)):
        z = coupled({"position": posed}, noise, torch.ones(count, n).bool(), **mode)["position"].flatten(1).double()
        p = min(kstest(z[:, k] / (1 - 1 / n) ** 0.5, "norm").pvalue for k in range(3 * n))
        if not normal:  # in one pose the noise leans to the data: this test can tell
            assert p < 1e-12
            continue
        assert p > 1e-3
        wanted = torch.kron(torch.eye(n).double() - 1 / n, torch.eye(3).double())
        torch.testing.assert_close(z.T @ z / count, wanted, atol=5 * (2 / count) ** 0.5, rtol=0)
        assert z.mean(0).abs().max() < 5 / count**0.5


class Ahead(nn.Module):
    """Estimates that the clean sample lies in the direction of the noisy one, at a known length."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def forward(self, x, noise_level, mask, condition):
        return {"position": self.length * x["position"] / x["position"].norm(dim=(1, 2), keepdim=True)}


def test_flow_matching_of_pairs_at_one_distance_has_no_variance_left():
    """Noise of two nodes, permuted and turned onto the data, points where they do: x_t tells x_0 exactly."""
    length, count = 2.0, 200
    x_0 = {"position": torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]]) * length / 2**0.5}
    x_0 = {"position": (x_0["position"].double() @ turns(count)).float()}
    denoiser = Denoiser(Ahead(length), JointProcess({"position": PROCESS["position"]}), "data")
    mask, losses = torch.ones(count, 2).bool(), []
    for coupling in (NodeTransport(rotate=True), NodeTransport(rotate=True, permute=False), NodeTransport(), None):
        loss, _ = Objective("data", coupling=coupling)(denoiser, x_0, mask, None, Random(0, count))
        losses.append(loss.mean().item())
    assert losses[0] < 1e-10
    assert losses[1] < 1e-10  # a turn by 180 degrees is as good as a permutation of two
    assert losses[3] > losses[2] > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_mixed_precision_does_not_reach_the_noise(mode):
    x_0, noise, mask = batch(SIZES)
    plain = coupled(x_0, noise, mask, **mode)["position"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(coupled(x_0, noise, mask, **mode)["position"], plain)


def test_a_coupling_of_nodes_is_described_and_refused_in_words():
    assert describe(build(describe(NodeTransport("x", True)))) == {
        "class": "gendiff.objective.coupling.NodeTransport",
        "field": "x",
        "rotate": True,
        "permute": True,
    }
    x_0, noise, mask = batch([3, 3])
    for field in ("element", "mass"):
        words = f"wants a Gaussian field of nodes, one of .*'position', 'charge'.* got '{field}'"
        with pytest.raises(ValueError, match=words):
            NodeTransport(field)(PROCESS, x_0, noise, mask, Random(0, 2))
    with pytest.raises(ValueError, match="wants to rotate or to permute"):
        NodeTransport(permute=False)
