"""Spaces: projections are orthogonal projectors, noise has their covariance, and freedom is counted right."""

import pytest
import torch

from gendiff.ops import Random, size_mask
from gendiff.space import Euclidean, Space, ZeroCenterOfMass

N = 5
SPACES = {
    "node": (Euclidean(2), 3 * 2),
    "pair": (Euclidean(2, "pair"), 3 * 2),  # 3 nodes, 3 pairs
    "grid": (Euclidean(2, "grid", [2, 3]), 2 * 6),
    "centred": (ZeroCenterOfMass(3), (3 - 1) * 3),
}
each = pytest.mark.parametrize(("space", "dim"), SPACES.values(), ids=SPACES)
each_graph = pytest.mark.parametrize("space", [SPACES[name][0] for name in ("node", "pair", "centred")])


def mask_of(space, size, batch):
    return None if space.kind == "grid" else size_mask(torch.full((batch,), size), N)


class Basis:
    """Stands in for `Random`: sample i gets the i-th unit vector of the raw noise, so noise becomes a matrix."""

    def __init__(self, batch):
        self.indices = torch.arange(batch)

    def normal(self, shape):
        return torch.eye(shape[0], dtype=torch.float64).reshape(shape)


def numel(space):
    mask = mask_of(space, 3, 1)
    return torch.zeros(space.shape(1, mask)).numel()


def projector(space):
    """The matrix of `project`."""
    size = numel(space)
    mask = mask_of(space, 3, size)
    return space.project(torch.eye(size, dtype=torch.float64).reshape(space.shape(size, mask)), mask).flatten(1).T


@each
def test_projection_is_an_orthogonal_projector_on_the_free_directions(space, dim):
    p = projector(space)
    assert torch.allclose(p @ p, p, atol=1e-15)
    assert torch.allclose(p, p.T, atol=1e-15)
    assert torch.linalg.matrix_rank(p) == dim
    x = torch.zeros(space.shape(1, mask_of(space, 3, 1)))
    assert space.dim(mask_of(space, 3, 1), x).tolist() == [dim]


@each
def test_projection_is_idempotent_in_float32(space, dim):
    mask = mask_of(space, 3, 4)
    once = space.project(torch.randn(space.shape(4, mask)), mask)
    assert torch.allclose(space.project(once, mask), once, atol=1e-7)


@each
def test_noise_is_standard_normal_on_the_space(space, dim):
    """Its covariance is the projector; a pair stands twice in a field and counts once, so there it is twice that."""
    size = numel(space)
    a = space.noise(mask_of(space, 3, size), Basis(size)).flatten(1).T
    twice = 2 if space.kind == "pair" else 1
    assert torch.allclose(a @ a.T, twice * projector(space), atol=1e-15)
    square = space.sum(space.noise(mask_of(space, 3, 4000), Random(0, 4000)) ** 2, mask_of(space, 3, 4000))
    assert abs(square.mean() - dim) < 4 * (2 * dim / 4000) ** 0.5  # chi-squared with dim degrees of freedom
    assert square.var() == pytest.approx(2 * dim, rel=0.15)


@each_graph
def test_noise_of_a_sample_knows_nothing_of_padding_or_batch(space):
    for kind in ("normal", "gumbel"):
        alone = space.noise(size_mask(torch.tensor([3]), 3), Random(0, torch.tensor([6])), kind)
        among = space.noise(size_mask(torch.tensor([5, 3, 1]), N), Random(0, torch.tensor([2, 6, 0])), kind)
        inside = among[1, :3, :3] if space.kind == "pair" else among[1, :3]
        assert torch.allclose(alone[0], inside, atol=1e-6)
        among[1, :3] = 0
        assert not among[1].any()


@each_graph
def test_projection_does_not_care_for_the_order_of_nodes(space):
    x, order = torch.randn(1, *space.shape(1, mask_of(space, N, 1))[1:]), torch.tensor([3, 0, 4, 1, 2])
    mask = torch.tensor([[True, False, True, True, True]])
    permuted = x[:, order][:, :, order] if space.kind == "pair" else x[:, order]
    result = space.project(x, mask)
    expected = result[:, order][:, :, order] if space.kind == "pair" else result[:, order]
    assert torch.allclose(space.project(permuted, mask[:, order]), expected, atol=1e-6)


def test_pairs_are_counted_once_and_symmetric():
    space, mask = Euclidean(1, "pair"), size_mask(torch.tensor([4, 2, 1, 0]), 4)
    x = space.noise(mask, Random(0, 4))
    assert torch.equal(x, x.transpose(1, 2))
    assert not torch.diagonal(x, dim1=1, dim2=2).any()
    assert space.count(mask, x).tolist() == [6, 1, 0, 0]
    i, j = torch.triu_indices(4, 4, 1)
    assert torch.allclose(space.sum(x, mask), x[:, i, j, 0].sum(1))
    assert torch.equal(space.project(torch.ones(1, 4, 4, 1)), (1 - torch.eye(4))[None, ..., None])
    assert space.count(None, x).tolist() == [6] * 4


def test_sums_and_counts_are_over_what_is_real():
    x = torch.ones(3, 4, 2)
    mask = size_mask(torch.tensor([4, 2, 0]), 4)
    assert Euclidean(2).sum(x, mask).tolist() == [8, 4, 0]
    assert Euclidean(2).count(mask, x).tolist() == [4, 2, 0]
    assert Euclidean(2).dim(mask, x).tolist() == [8, 4, 0]
    assert Euclidean(2).dim(None, x).tolist() == [8] * 3
    assert ZeroCenterOfMass(2).dim(mask, x).tolist() == [6, 2, 0]
    assert ZeroCenterOfMass(2).dim(None, x).tolist() == [6] * 3
    grid = Euclidean(3, "grid", [4, 5])
    assert grid.count(None, torch.zeros(2, 3, 4, 5)).tolist() == [20, 20]
    assert grid.dim(None, torch.zeros(2, 3, 4, 5)).tolist() == [60, 60]


def test_centring_takes_the_mean_of_real_nodes_only():
    mask = size_mask(torch.tensor([3, 1, 0, 4]), 4)
    x = ZeroCenterOfMass().project(torch.randn(4, 4, 3) + 100, mask)
    assert x.sum(1).abs().max() < 1e-4
    assert not x[~mask].any()
    assert not x[1].any()  # one node has nowhere to go
    free = torch.randn(2, 5, 3).double()
    assert torch.allclose(ZeroCenterOfMass().project(free), ZeroCenterOfMass().project(free, torch.ones(2, 5).bool()))


def test_known_entries_enter_a_centred_state_and_come_back_exactly():
    space, mask = ZeroCenterOfMass(), size_mask(torch.tensor([5, 4]), 6)
    keep = torch.zeros(2, 6, 1, dtype=torch.bool)
    keep[0, [0, 2]] = keep[1, [1, 2, 3]] = True
    known = torch.randn(2, 6, 3).double() * keep + 7.3 * keep
    x = space.project(torch.randn(2, 6, 3).double(), mask)
    inside = space.impose(x, known, keep)
    assert torch.allclose(inside, space.project(inside, mask), atol=1e-14)  # it has not left the space
    assert torch.equal(inside[~keep.expand_as(x)], x[~keep.expand_as(x)])
    assert torch.allclose(inside[0, 0] - inside[0, 2], known[0, 0] - known[0, 2])  # and moved as one piece
    outside = space.restore(inside, known, keep)
    assert torch.equal(outside[keep.expand_as(x)], known[keep.expand_as(x)])
    shift = (outside - inside)[mask].reshape(-1, 3)
    assert torch.allclose(shift[:5], shift[0].expand(5, 3))
    assert torch.allclose(shift[5:], shift[5].expand(4, 3))


def test_known_entries_of_a_free_space_are_copied():
    space = Euclidean(2)
    x, known, keep = torch.randn(2, 3, 2), torch.randn(2, 3, 2), torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()[..., None]
    for result in (space.impose(x, known, keep), space.restore(x, known, keep)):
        assert torch.equal(result, known * keep + x * ~keep)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Space(1, "cube"), "kind must be one of .* got 'cube'"),
        (lambda: Space(0), "wants features >= 1"),
        (lambda: Space(1, "grid"), "a size only for grids"),
        (lambda: Space(1, "node", [3]), "a size only for grids"),
        (lambda: Space(1).noise(None, Random(0, 2)), "needs a mask to know how many elements"),
    ],
)
def test_impossible_spaces_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
