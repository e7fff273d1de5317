"""Many sketches in flat arrays."""

import numpy as np
import pytest
from scribbles import same, scribbles

from gendiff.modalities.sketches.records import Sketch, SketchArrays


def test_sketches_come_out_as_they_went_in():
    made = list(scribbles(12))
    made[3].facts["key_id"] = "7"
    made[5].times = None
    arrays = SketchArrays.from_sketches(made)
    assert all(same(a, b) for a, b in zip(made, arrays, strict=True))
    assert same(arrays[-1], made[-1])
    assert arrays.num_strokes.tolist() == [len(sketch.strokes) for sketch in made]


def test_selections_and_their_sum():
    arrays = scribbles(10)
    picked = arrays.select([7, 2, 2])
    assert all(same(picked[k], arrays[i]) for k, i in enumerate([7, 2, 2]))
    mask = np.arange(10) % 2 == 0
    both = SketchArrays.concatenate([arrays.select(mask), arrays.select(~mask)])
    assert all(same(both[k], arrays[i]) for k, i in enumerate([*range(0, 10, 2), *range(1, 10, 2)]))
    with pytest.raises(IndexError):
        arrays[10]


def test_sequences_without_a_pen_are_one_stroke():
    arrays = SketchArrays([3, 2], np.arange(15).reshape(5, 3))
    assert not arrays.has_pen
    assert arrays.num_strokes.tolist() == [1, 1]
    assert [len(s.strokes) for s in arrays] == [1, 1]
    assert not SketchArrays.from_sketches(list(arrays)).has_pen
    with pytest.raises(ValueError, match="all a pen or none"):
        SketchArrays.concatenate([arrays, SketchArrays([1], np.zeros((1, 3)), [True])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2], [[0, 0]]), "points must be"),
        (([0], np.zeros((0, 2))), "at least one point"),
        (([1], [[0, np.nan]]), "finite"),
        (([2], [[0, 0], [1, 1]], [True, False]), "last point"),
        (([1], [[0, 0]], None, ["a", "b"]), "words"),
        (([1], [[0, 0]], None, None, [1, 2]), "times"),
        (([1], [[0, 0]], None, None, None, []), "facts"),
    ],
)
def test_arrays_that_disagree_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SketchArrays(*arguments)


def test_a_sketch_shows_itself_in_a_notebook():
    assert Sketch(np.array([[0, 0], [3, 4.0]]), np.array([False, True]))._repr_svg_().startswith("<svg")
