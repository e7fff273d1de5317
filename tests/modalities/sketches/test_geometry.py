"""Geometry of many sketches at once, against one sketch at a time."""

import numpy as np
import pytest
from scribbles import scribbles

from gendiff.files import UserError
from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.records import SketchArrays


def ramer(points, epsilon):
    """The textbook recursion, on one stroke."""
    if len(points) < 3:
        return list(range(len(points)))
    a, b = points[0], points[-1]
    chord = b - a
    share = np.clip((points - a) @ chord / max(chord @ chord, 1e-300), 0, 1)
    distance = np.linalg.norm(points - a - share[:, None] * chord, axis=1)
    middle = int(distance[1:-1].argmax()) + 1
    if distance[middle] <= epsilon:
        return [0, len(points) - 1]
    left, right = ramer(points[: middle + 1], epsilon), ramer(points[middle:], epsilon)
    return left + [middle + i for i in right[1:]]


@pytest.mark.parametrize("epsilon", [0.0, 2.0, 10.0, 40.0])
def test_simplifying_is_the_recursion_of_every_stroke(epsilon):
    sketches = scribbles()
    simple = geometry.simplify(sketches, epsilon)
    for before, after in zip(sketches, simple, strict=True):
        side = np.ptp(before.points, axis=0).max()
        kept = [s[ramer(s, epsilon * side / 255)] for s in before.strokes]
        assert [len(s) for s in after.strokes] == [len(s) for s in kept]
        np.testing.assert_array_equal(after.points, np.concatenate(kept))
        np.testing.assert_array_equal(after.times, before.times[np.isin(before.points[:, 0], after.points[:, 0])])
        assert after.word == before.word


def test_a_closed_stroke_keeps_its_far_point():
    """Its chord has no direction, so distances are to a point."""
    square = SketchArrays([5], [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]], [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(geometry.simplify(square, 2.0).points, square.points)


def test_points_on_a_line_go():
    line = SketchArrays([4, 3], [[0, 0], [1, 1], [2, 2], [9, 9], [0, 0], [5, 0], [9, 1]], [0, 0, 0, 1, 0, 0, 1])
    assert geometry.simplify(line, 1e-9).num_points.tolist() == [2, 3]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_resampling_puts_points_at_equal_lengths(dimensions):
    sketches = scribbles(dimensions=dimensions)
    even = geometry.resample(sketches, 10.0)
    assert even.num_strokes.tolist() == sketches.num_strokes.tolist()
    for before, after in zip(sketches, even, strict=True):
        spacing = 10.0 * np.ptp(before.points, axis=0).max() / 255
        for one, other in zip(before.strokes, after.strokes, strict=True):
            at = np.concatenate([[0], np.linalg.norm(np.diff(one, axis=0), axis=1).cumsum()])
            count = max(round(at[-1] / spacing), 1) + 1 if len(one) > 1 else 1
            wanted = np.stack([np.interp(np.linspace(0, at[-1], count), at, x) for x in one.T], 1)
            np.testing.assert_allclose(other, wanted, atol=1e-8)


@pytest.mark.parametrize("size", [1.0, 1e15])
def test_resampling_a_sketch_depends_on_no_neighbour(size):
    alone = scribbles(30)
    far = SketchArrays([3], [[0, 0], [size, size], [0, 0]], [0, 0, 1], times=[0, 1, 2])
    beside = geometry.resample(SketchArrays.concatenate([far, alone, far]), 10.0).select(np.arange(1, 31))
    np.testing.assert_allclose(beside.points, geometry.resample(alone, 10.0).points, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spacing", [1e-9, 1e-320])
def test_more_points_than_can_be_held_are_refused(spacing):
    with pytest.raises(UserError, match="would be over 134,217,728 numbers; take a larger one"):
        geometry.resample(scribbles(3), spacing)


def test_a_dot_stays_a_dot():
    dots = SketchArrays([2, 1], [[0, 0], [5, 5], [3, 3]], [1, 1, 1])
    assert geometry.resample(dots, 10.0).num_points.tolist() == [2, 1]
    assert geometry.simplify(dots, 10.0).num_points.tolist() == [2, 1]


def test_offsets_add_up_to_centred_points():
    sketches = scribbles()
    centre, side = geometry.boxes(sketches)
    for i, sketch in enumerate(sketches):
        low, high = sketch.points.min(0), sketch.points.max(0)
        np.testing.assert_allclose(centre[i], (low + high) / 2)
        assert side[i] == pytest.approx((high - low).max())
        rows = sketches.rows([i])
        np.testing.assert_allclose(geometry.offsets(sketches)[rows].cumsum(0), sketch.points - centre[i], atol=1e-9)


def test_boxes_of_boxed_sketches_are_255():
    dot = SketchArrays([1], [[7, 7]], [1])
    side = geometry.boxes(geometry.boxed(SketchArrays.concatenate([scribbles(8), *[dot_with_time(dot)]])))[1]
    np.testing.assert_allclose(side[:-1], 255)
    assert side[-1] == 0


@pytest.mark.parametrize("size", [1e-310, 1e-3, 1.0, 1e15])
def test_boxing_a_sketch_of_any_size_gives_the_same(size):
    shape = np.array([[0, 0], [1, 0.5], [0.25, 0.5]])
    boxed = geometry.boxed(SketchArrays([3], size * shape, [0, 0, 1]))
    np.testing.assert_allclose(boxed.points, 255 * (shape - [0.5, 0.25]), rtol=0, atol=1e-9)


def dot_with_time(dot):
    return SketchArrays(dot.num_points, dot.points, dot.pen, times=[0.0])


def test_nothing_in_nothing_out():
    nothing = SketchArrays.from_sketches([])
    for function in (lambda a: geometry.simplify(a, 2), lambda a: geometry.resample(a, 2), geometry.boxed):
        assert len(function(nothing)) == 0


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_tolerances_are_checked(value):
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        geometry.simplify(scribbles(2), value)
    with pytest.raises(ValueError, match="spacing must be positive"):
        geometry.resample(scribbles(2), value)
