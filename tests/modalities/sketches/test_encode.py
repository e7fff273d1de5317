"""Sketches to states and back: nothing is lost, whatever a point is and however the pen is modelled."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scribbles import scribbles

from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.encode import PENS, REPRESENTATIONS, agree, from_state, to_ragged
from gendiff.modalities.sketches.records import SketchArrays
from gendiff.ops import size_mask


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("pen", PENS)
def test_a_round_trip_keeps_all_but_the_place(representation, pen):
    sketches = scribbles(20)
    ragged = to_ragged(sketches, 12.0, 40.0, representation, pen)
    batch = ragged.batch(torch.arange(20))
    points, ends = from_state(batch.state, batch.mask, 12.0, 40.0, representation)
    np.testing.assert_allclose(np.concatenate(points), geometry.centred(sketches), atol=2e-3)
    np.testing.assert_array_equal(np.concatenate(ends), sketches.ends)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_sequences_without_a_pen(dimensions):
    arrays = SketchArrays([4, 2], np.random.default_rng(0).normal(size=(6, dimensions)))
    ragged = to_ragged(arrays, 1.0, 1.0, "offset", "logits")
    assert set(ragged.fields) == {"stroke"}
    batch = ragged.batch(torch.arange(2))
    points, ends = from_state(batch.state, batch.mask, 1.0, 1.0, "offset")
    np.testing.assert_allclose(np.concatenate(points), geometry.centred(arrays), atol=1e-5)
    assert [e.tolist() for e in ends] == [[False, False, False, True], [False, True]]


def test_a_sketch_always_ends():
    state = {"stroke": torch.ones(1, 3, 2), "pen": torch.tensor([[[1.0, 0], [1, 0], [1, 0]]])}
    assert from_state(state, size_mask(torch.tensor([3])), 1.0, 1.0, "offset")[1][0].tolist() == [False, False, True]


def test_one_point_lies_between_its_offset_and_its_position():
    """The minimum of (x - 1)^2 + 3 (x - 5)^2 is 4."""
    assert agree(np.array([[5.0]]), np.array([[1.0]]), 3.0).tolist() == [[4.0]]


def test_offsets_and_positions_agree_by_least_squares():
    """What is decoded is the minimum that a general optimizer finds."""
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(1, 6, 2, generator=generator, dtype=torch.float64) for name in ("stroke", "position")}
    scale, wide = 2.0, 5.0
    found = from_state(state, size_mask(torch.tensor([6])), scale, wide, "both")[0][0]
    steps, places = state["stroke"][0].numpy() * scale, state["position"][0].numpy() * wide

    def energy(flat):
        x = flat.reshape(6, 2)
        return ((x - places) ** 2).sum() / wide**2 + ((np.diff(x, axis=0, prepend=0) - steps) ** 2).sum() / scale**2

    best = minimize(energy, np.zeros(12), tol=1e-14).x.reshape(6, 2)
    np.testing.assert_allclose(found, best - (best.min(0) + best.max(0)) / 2, atol=1e-5)
