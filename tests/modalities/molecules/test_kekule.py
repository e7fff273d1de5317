"""Kekulé structures: the matching against enumeration of all structures."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gendiff.modalities.molecules.kekule import _Graph, kekulize


def graph(seed: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Elements of up to eight atoms, and bonds: a random tree with a few more edges, some of them too long."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    edges = {(int(rng.integers(k)), k) for k in range(1, n)}
    edges |= {tuple(sorted(rng.choice(n, 2, replace=False).tolist())) for _ in range(int(rng.integers(3)))}
    i, j = np.array(sorted(edges)).T
    slack = rng.uniform(0.1, 9, len(i)) * (rng.random(len(i)) < 0.9)
    return rng.choice([6, 6, 6, 7, 8], n), (i, j, slack)


@pytest.mark.parametrize("seed", range(200))
def test_matching_is_the_best_of_all_structures(seed: int) -> None:
    """As many electron pairs as any choice of orders has, and of these choices the shortest bonds."""
    numbers, (i, j, slack) = graph(seed)
    valence = np.select([numbers == 6, numbers == 7], [4, 3], 2)
    neighbours = np.bincount(np.r_[i, j], minlength=len(numbers))
    wanted = valence - neighbours
    zero = np.zeros(len(numbers), int)
    state = _Graph.of(numbers, (i, j, slack)).match(zero, zero)
    more, missing = state.more, state.missing
    taken = np.bincount(i, more, len(numbers)) + np.bincount(j, more, len(numbers))
    assert np.array_equal(missing, wanted - taken)
    assert (taken <= np.clip(wanted, 0, 2)).all()
    assert not more[slack == 0].any()
    best = (0, 0.0)
    for orders in product(*(range(3 if weight else 1) for weight in slack)):
        shared = np.bincount(i, orders, len(numbers)) + np.bincount(j, orders, len(numbers))
        if (shared <= np.clip(wanted, 0, 2)).all():
            best = max(best, (sum(orders), float(slack @ orders)))
    assert (more.sum(), float(slack @ more)) == pytest.approx(best)


def test_valences_grow_with_neighbours() -> None:
    """The table that sums of orders aim at, by hand."""
    wanted = {
        (16, 1): 1, (16, 2): 0, (16, 3): 1, (16, 4): 2, (15, 1): 2, (15, 3): 0, (15, 4): 1, (6, 2): 2, (6, 4): 0,
        (6, 5): -1, (7, 4): -1, (17, 1): 0, (17, 2): -1, (53, 2): 1, (53, 3): 0, (1, 1): 0, (2, 1): -1,
    }  # fmt: skip
    for (number, neighbours), missing in wanted.items():
        star = np.zeros(neighbours, int), np.arange(1, neighbours + 1), np.zeros(neighbours)
        zero = np.zeros(neighbours + 1, int)
        left = _Graph.of(np.array([number] + [1] * neighbours), star).match(zero, zero).missing
        assert left[0] == missing
        assert not left[1:].any()


def test_charges_need_a_reason() -> None:
    """Of CH3-NH-OH all valences are filled; of CH3-N(=O)-O., as of no other pair, those of N and O are not."""
    hydroxylamine = np.array([6, 1, 1, 1, 7, 1, 8, 1])
    single = np.array([0, 0, 0, 0, 4, 4, 6]), np.array([1, 2, 3, 4, 5, 6, 7]), np.full(7, 1.0)
    orders, formal = kekulize(hydroxylamine, single)
    assert (orders == 1).all()
    assert not formal.any()
    nitro = np.array([6, 1, 1, 1, 7, 8, 8])
    bonds = np.array([0, 0, 0, 0, 4, 4]), np.array([1, 2, 3, 4, 5, 6]), np.array([0, 0, 0, 0, 2.0, 3.0])
    orders, formal = kekulize(nitro, bonds)
    assert orders.tolist() == [1, 1, 1, 1, 1, 2]  # the shorter bond is the double one
    assert formal.tolist() == [0, 0, 0, 0, 1, -1, 0]
    graph = _Graph.of(nitro, bonds)
    state = graph.match(np.zeros(7, int), np.zeros(7, int))
    assert state.missing.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert sorted(graph.pairs(state)) == [(4, 5), (4, 6)]


def test_a_wreck_costs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty nitrogens of two neighbours each, too far apart to share more: nothing is tried, and all stay radicals."""
    monkeypatch.setattr(_Graph, "pairs", lambda *_: pytest.fail("it was searched"))
    numbers = np.full(60, 7)
    ring = np.arange(60), np.roll(np.arange(60), -1), np.zeros(60)
    orders, formal = kekulize(numbers, ring)
    assert (orders == 1).all()
    assert not formal.any()


def test_given_charges_stay() -> None:
    """A model that draws charges has said which: nitrogen of four neighbours is charged, or invalid."""
    ammonium = np.array([7, 1, 1, 1, 1, 17])
    bonds = np.zeros(4, int), np.arange(1, 5), np.zeros(4)
    given = np.array([1, 0, 0, 0, 0, -1])
    orders, formal = kekulize(ammonium, bonds, given)
    assert (orders == 1).all()
    assert np.array_equal(formal, given)
