"""The metrics of sketches: what is worse scores worse, and what cannot matter does not."""

import numpy as np
import pytest

from gendiff.data import builtin
from gendiff.modalities.sketches import geometry, metrics
from gendiff.modalities.sketches.modality import Sketches


@pytest.fixture(scope="module")
def doodles():
    return Sketches.read([builtin("doodles")])[0].select(np.arange(0, 5000, 5))


@pytest.fixture(scope="module")
def features(doodles):
    return metrics.Features.fit(doodles.select(np.arange(600)), steps=60)


@pytest.mark.parametrize(("kind", "amounts"), [("jitter", (0.03, 0.15)), ("drop", (0.2, 0.6)), ("flip", (0.05, 0.3))])
def test_sketches_that_are_spoilt_more_lie_farther_away(doodles, features, kind, amounts):
    one, other = doodles.select(np.arange(600, 800)), doodles.select(np.arange(800, 1000))
    rungs = [one, *(metrics.spoil(one, kind, amount) for amount in amounts)]
    raster = [features.raster_frechet(rung, other) for rung in rungs]
    sequence = [features.sequence_frechet(rung, other) for rung in rungs]
    assert raster[0] < raster[2]
    assert raster[1] < raster[2]
    assert sequence[0] < sequence[1] < sequence[2]


def test_place_and_size_do_not_matter(doodles, features):
    some = doodles.select(np.arange(600, 700))
    moved = geometry.moved(some, some.points * 3.5 + 1000)
    assert features.raster_frechet(some, moved) < 0.02
    assert features.accuracy(some).value == features.accuracy(moved).value
    for name, distance in features.stroke_statistics(some, moved).items():
        assert distance == pytest.approx(0, abs=1e-6), name


def test_words_are_recognised_by_real_drawings_alone(doodles, features):
    some = doodles.select(np.arange(600, 900))
    assert features.accuracy(some).value > 0.7
    wrong = geometry.moved(some, some.points)
    wrong.words[:] = np.roll(wrong.words, 7)
    assert features.accuracy(wrong).value < 0.3


@pytest.mark.slow
def test_the_table_names_every_number(doodles):
    table = metrics.evaluate(doodles.select(np.arange(300)), doodles.select(np.arange(300, 1000)), steps=60)
    assert {metric.name for metric in table.metrics} <= set(metrics.METRICS)
    assert len(table.metrics) > 15
