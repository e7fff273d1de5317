"""Sketches for tests."""

import numpy as np

from gendiff.modalities.sketches.records import Sketch, SketchArrays


def scribbles(count=40, seed=0, dimensions=2):
    """Random sketches of one to four strokes of one to twelve points, with times."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        sizes = rng.integers(1, 13, rng.integers(1, 5))
        pen = np.zeros(sizes.sum(), bool)
        pen[sizes.cumsum() - 1] = True
        points = rng.normal(size=(sizes.sum(), dimensions)).cumsum(0) * 30
        made.append(Sketch(points, pen, f"w{len(made) % 3}", np.arange(len(pen)) * 10.0))
    return SketchArrays.from_sketches(made)


def same(a, b):
    """Whether two sketches are equal in every bit."""
    times = (a.times is None) == (b.times is None) and (a.times is None or np.array_equal(a.times, b.times))
    return (
        np.array_equal(a.points, b.points)
        and np.array_equal(a.pen, b.pen)
        and (a.word, a.facts, a.has_pen) == (b.word, b.facts, b.has_pen)
        and times
    )
