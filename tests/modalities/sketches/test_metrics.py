"""The metrics of sketches: each number against a closed form, an enumeration or a fault that was put in on purpose."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from scribbles import scribbles

from gendiff.catalog import builtin
from gendiff.metrics import cubic_kernel, gauss_kernel, kernel_distance, median_distance
from gendiff.modalities.sketches import geometry, metrics
from gendiff.modalities.sketches.metrics.copies import ink
from gendiff.modalities.sketches.metrics.scores import View, copies, distances
from gendiff.modalities.sketches.modality import Sketches
from gendiff.modalities.sketches.records import SketchArrays

FEW = {"n_resamples": 2, "seed": 0}


@pytest.fixture(scope="module")
def doodles():
    every = Sketches.read([builtin("doodles")])[0]
    return every.select(np.random.default_rng(0).permutation(len(every))[:660])


@pytest.fixture(scope="module")
def suite(doodles):
    return metrics.Suite(doodles.select(np.arange(500)), steps=40)


@pytest.fixture(scope="module")
def features(suite):
    return suite.features


@pytest.fixture(scope="module")
def held(doodles):
    """Sketches that the suite knows nothing of."""
    return doodles.select(np.arange(500, 660))


@pytest.mark.parametrize("words", [("",), ("cat", "dog")])
def test_networks_that_would_measure_nothing_are_not_trained(held, monkeypatch, words):
    """Half a minute for no number: of few sketches only the recognition of words is left to them."""
    trained = []
    monkeypatch.setattr(metrics.Features, "fit", lambda *args: trained.append(args))
    few = replace(held.select(np.arange(80)), words=np.resize(words, 80))
    table = metrics.Suite(few, steps=1).evaluate(few.select(np.arange(30)), n_resamples=2)
    assert len(trained) == len(words) - 1
    assert table.facts["networks"].startswith("none: too few sketches")


# Feature spaces


@pytest.mark.parametrize(("kind", "amounts"), [("jitter", (0.05, 0.2)), ("drop", (0.2, 0.6)), ("flip", (0.05, 0.3))])
def test_sketches_that_are_spoilt_more_lie_farther_away(suite, features, held, kind, amounts):
    other = suite.reference.select(suite.unseen[0])
    rungs = [held, *(metrics.spoil(held, kind, amount) for amount in amounts)]
    raster = [features.raster_frechet(rung, other) for rung in rungs]
    sequence = [features.sequence_frechet(rung, other) for rung in rungs]
    assert raster[0] < raster[2]
    assert raster[1] < raster[2]
    assert sequence[0] < sequence[1] < sequence[2]


def test_place_and_size_do_not_matter(features, held):
    moved = geometry.moved(held, held.points * 3.5 + 1000)
    assert features.raster_frechet(held, moved) < 0.02
    assert features.accuracy(held).value == features.accuracy(moved).value
    for name, distance in features.stroke_statistics(held, moved).items():
        assert distance == pytest.approx(0, abs=1e-6), name


def test_words_are_recognised_by_real_drawings_alone(features, held):
    assert features.accuracy(held).value > 0.7
    assert features.accuracy(nameless(held)).value < 0.3


# Kernel distances


def null_spread(pairs):
    """Standard deviation of the kernel distance of two halves of a pool, over all ways to halve it.

    With labels of 1 and -1 the distance is a constant and c times the sum of K_ij l_i l_j over i other than j; the mean
    of two labels is -1 / (N - 1), that of four 3 / ((N - 1)(N - 3)).
    """
    total, n = len(pairs), len(pairs) // 2
    k = pairs - np.diag(np.diag(pairs))
    square, both = (k**2).sum(), (k.sum(1) ** 2).sum() - (k**2).sum()
    apart = k.sum() ** 2 - 2 * square - 4 * both
    mean = -k.sum() / (total - 1)
    second = 2 * square - 4 * both / (total - 1) + 3 * apart / ((total - 1) * (total - 3))
    return (1 / (n * (n - 1)) + 1 / n**2) / 2 * np.sqrt(second - mean**2)


@pytest.mark.parametrize("kernel", [cubic_kernel, gauss_kernel(1.5)])
def test_the_kernel_distance_of_two_halves_is_zero_on_average(kernel):
    """Over all 70 halvings of eight samples: unbiased to the last digits, with the spread that is used below."""
    pool = np.random.default_rng(0).normal(size=(8, 3))
    halves = [np.isin(np.arange(8), some) for some in combinations(range(8), 4)]
    values = np.array([kernel_distance(pool[half], pool[~half], kernel) for half in halves])
    assert values.mean() == pytest.approx(0, abs=1e-12 * np.abs(values).max())
    assert values.std() == pytest.approx(null_spread(kernel(pool, pool)), rel=1e-9)
    assert (values < 0).any()


def test_kernel_distances_of_one_law_are_zero_within_their_spread_and_others_are_not(features, held):
    one, other = (View(held.select(np.arange(k, 160, 2)), features) for k in (0, 1))
    bent = View(metrics.spoil(other.arrays, "jitter", 0.3), features)
    same, far = distances(one, other, FEW), distances(bent, one, FEW)
    spread = other.vectors.std(0)
    vectors = np.concatenate([one.vectors, other.vectors]) / np.where(spread > 0, spread, 1)
    scale = median_distance(vectors[80:])
    pictures = np.concatenate([one.spaces["raster"], other.spaces["raster"]])
    for name, pairs in (
        ("raster_kernel", cubic_kernel(pictures, pictures)),
        ("stroke_kernel", gauss_kernel(scale)(vectors, vectors)),
    ):
        assert abs(same[name].value) < 3.5 * null_spread(pairs), name
        assert far[name].value > 6 * null_spread(pairs), name


# Telling apart


def triangles(count):
    """The same corner again and again, which no doodle is."""
    return SketchArrays([3] * count, [[0, 0], [90, 5], [40, 60]] * count, [False, False, True] * count)


def test_two_halves_of_one_law_are_told_apart_by_chance_alone_and_two_laws_always(features, held):
    one, other = (View(held.select(np.arange(k, 160, 2)), features) for k in (0, 1))
    chance = distances(one, other, FEW)["told_apart"]
    assert chance.n == 160
    assert abs(chance.value - 0.5) < 3.5 * np.sqrt(0.25 / 160)
    itself = distances(one, one, FEW)["told_apart"].value
    assert itself < 0.5 + 3.5 * np.sqrt(0.25 / 160)  # its twin, of the other side, is learnt from
    disjoint = View(triangles(80), features)
    assert distances(disjoint, one, FEW)["told_apart"].value == 1


# Copies


def test_planted_copies_are_counted(held, doodles):
    """Twenty of a hundred: moved, scaled and drawn anew by a trembling hand. Of the rest about one in a hundred."""
    training, real = doodles.select(np.arange(200)), doodles.select(np.arange(200, 400))
    planted = metrics.spoil(training.select(np.arange(20)), "jitter", 0.002)
    planted = geometry.moved(planted, planted.points * 7 - 300)
    mixed = SketchArrays.concatenate([planted, held.select(np.arange(80))])
    found, floor = copies(mixed, real, training, None, FEW)
    assert 0.2 <= found["copies"].value <= 0.24
    assert floor["copies"].value <= 0.04
    clean, _ = copies(held.select(np.arange(80)), real, training, None, FEW)
    assert clean["copies"].value <= 0.05
    assert clean["nearest"].value == pytest.approx(floor["nearest"].value, rel=0.25)


def test_a_training_set_is_all_copies_unless_each_is_left_out(doodles):
    training = doodles.select(np.arange(120))
    found, floor = copies(training, training, training, np.arange(120), FEW)
    assert found["copies"].value == 1
    assert found["nearest"].value < 1e-6
    assert floor["copies"].value < 0.1


def test_what_is_drawn_twice_is_not_unique(held, doodles):
    training, some = doodles.select(np.arange(200)), held.select(np.arange(40))
    twice = SketchArrays.concatenate([some, geometry.moved(some, some.points * 2 + 5)])
    for made, unique in ((some, 1.0), (twice, 0.0)):
        found, _ = copies(made, doodles.select(np.arange(200, 400)), training, None, FEW)
        assert found["unique"].value == unique


def test_ink_is_even_along_strokes_and_dots_are_ink():
    """Two lines of 3 and 1 with a jump between them, and the same with a dot, which counts as a piece of them."""
    lines = [[0, 0], [3, 0], [3, 3], [3, 2]]
    points = ink(SketchArrays([4], lines, [0, 1, 0, 1]), 8)[0] * 3 + 1.5
    expected = [[(k + 0.5) / 2, 0] for k in range(6)] + [[3, 3 - (k + 0.5) / 2] for k in range(2)]
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-9)
    dotted = ink(SketchArrays([5], [*lines, [0, 3]], [0, 1, 0, 1, 1]), 8)[0] * 3 + 1.5
    at = (np.arange(8) + 0.5) / 8 * 4.5  # of 3 and 1 and 4 / 8
    expected = [[s, 0] if s < 3 else [3, 6 - s] if s < 4 else [0, 3] for s in at]
    np.testing.assert_allclose(dotted, expected, rtol=0, atol=1e-9)
    dots = ink(SketchArrays([3], [[0, 0], [3, 0], [0, 3]], [1, 1, 1]), 6)[0] * 3 + 1.5
    np.testing.assert_allclose(dots, [[0, 0]] * 2 + [[3, 0]] * 2 + [[0, 3]] * 2, rtol=0, atol=1e-9)


# Strokes


def plain_values(sketch):
    """The statistics of one sketch, point by point."""
    points = sketch.points - (sketch.points.min(0) + sketch.points.max(0)) / 2
    points = points / np.ptp(sketch.points, axis=0).max()
    strokes = np.split(points, np.flatnonzero(sketch.pen)[:-1] + 1)
    found = {"points": [len(points)], "strokes": [len(strokes)], "turning": [], "step_length": []}
    found["jump_length"] = [float(np.hypot(*(b[0] - a[-1]))) for a, b in pairwise(strokes)]
    found["stroke_length"] = []
    for stroke in strokes:
        steps = [b - a for a, b in pairwise(stroke)]
        found["step_length"] += [float(np.hypot(*step)) for step in steps]
        found["stroke_length"].append(sum(np.hypot(*step) for step in steps))
        angles = [np.arctan2(*step[::-1]) for step in steps]
        found["turning"] += [(b - a + np.pi) % (2 * np.pi) - np.pi for a, b in pairwise(angles)]
    width, height = (max(float(side), 0.01) for side in np.ptp(points, axis=0))
    found["aspect"] = [np.log(height / width)]
    return found


def test_stroke_statistics_are_those_that_a_loop_finds():
    drawn = scribbles(30)
    drawn = drawn.select(geometry.boxes(drawn)[1] > 0)
    plain = [plain_values(sketch) for sketch in drawn]
    for name, (values, which) in metrics.stroke_values(drawn).items():
        for row, expected in enumerate(plain):
            assert np.sort(values[which == row]) == pytest.approx(np.sort(expected[name]), abs=1e-9), name


def test_distances_of_stroke_statistics_are_wasserstein_in_standard_deviations():
    one, other = (scribbles(25, seed=k) for k in (0, 1))
    one, other = (x.select(geometry.boxes(x)[1] > 0) for x in (one, other))
    new, old = metrics.stroke_values(one), metrics.stroke_values(other)
    for name, value in metrics.stroke_distances(one, other, **FEW).items():
        a, b = new[name][0], old[name][0]
        assert value.value == pytest.approx(wasserstein_distance(a, b) / b.std(), rel=1e-9), name


# The table


def stretched(sketches):
    return geometry.moved(sketches, sketches.points * [1, 2])


def half_of_the_words(sketches):
    return sketches.select(np.isin(sketches.words, np.unique(sketches.words)[:5]))


def one_over_and_over(sketches):
    """The first sketch of each word in the place of all of that word."""
    first = {word: row for row, word in reversed(list(enumerate(sketches.words.tolist())))}
    return sketches.select(np.array([first[word] for word in sketches.words.tolist()]))


def halved(sketches):
    """A point more in the middle of every line."""
    inner = ~sketches.ends
    rows = np.repeat(np.arange(len(sketches.points)), 1 + inner)
    between = np.concatenate([[False], rows[1:] == rows[:-1]])
    follow = np.minimum(rows + 1, len(sketches.points) - 1)
    points = np.where(between[:, None], (sketches.points[rows] + sketches.points[follow]) / 2, sketches.points[rows])
    sizes = np.bincount(sketches.sketch_of_point[rows], minlength=len(sketches))
    return SketchArrays(sizes, points, sketches.ends[rows] & (between | ~inner[rows]), sketches.words)


def nameless(sketches):
    return SketchArrays(sketches.num_points, sketches.points, sketches.pen, np.roll(sketches.words, 7))


def corners(sketches):
    return replace(triangles(len(sketches)), words=sketches.words)


def jittered(sketches):
    return metrics.spoil(sketches, "jitter", 0.3)


def flipped(sketches):
    return metrics.spoil(sketches, "flip", 0.2)


FAULTS = {
    corners: "density",
    jittered: "raster_frechet raster_kernel precision sequence_frechet turning stroke_kernel told_apart",
    one_over_and_over: "recall coverage unique",
    half_of_the_words: "entropy",
    flipped: "strokes stroke_length jump_length",
    lambda sketches: nameless(stretched(halved(sketches))): "recognised points step_length aspect told_apart",
}
"""Faults, and the rows that must show each."""


@pytest.fixture(scope="module")
def clean(suite, held):
    return suite.evaluate(held, n_resamples=2)


def test_faults_are_known_of_every_row_that_has_no_test_of_its_own():
    shown = {name for rows in FAULTS.values() for name in rows.split()}
    assert shown | {"copies", "nearest"} == set(metrics.METRICS)


@pytest.mark.parametrize("fault", FAULTS, ids=FAULTS.values())
def test_each_row_shows_its_fault(suite, clean, held, fault):
    """Farther from what real sketches have than unspoilt ones are, and on the side that the table calls worse."""
    spoilt = suite.evaluate(fault(held), n_resamples=2)
    for name in FAULTS[fault].split():
        row, before = spoilt[name], clean[name]
        real, good, bad = before.reference.value, before.generated.value, row.generated.value
        assert abs(bad - real) > 1.5 * abs(good - real), name
        if row.better == "higher":
            assert bad < good, name
        elif row.better == "lower":
            assert bad > good, name


def test_points_along_lines_are_seen_by_the_sequences_alone(features, held):
    one, other = held.select(np.arange(80)), held.select(np.arange(80, 160))
    more = halved(one)
    assert more.num_points.sum() > 1.7 * one.num_points.sum()
    assert features.raster_frechet(more, other) == pytest.approx(features.raster_frechet(one, other), rel=0.01)
    assert features.sequence_frechet(more, other) > 3 * features.sequence_frechet(one, other)


@pytest.mark.parametrize("count", [49, 50])
def test_a_handful_of_sketches_has_no_distances_and_says_so(suite, held, count):
    few = replace(held.select(np.arange(count)), words=np.full(count, ""))
    table = suite.evaluate(few, n_resamples=2)
    shown, names = {"raster_kernel", "sequence_frechet", "points", "told_apart"}, {row.name for row in table.metrics}
    assert {"copies", "nearest", "unique", "entropy"} <= names
    assert shown & names == (shown if count == 50 else set())
    assert ("; too few for distances, which take 50 of each at least" in table.facts["compared"]) == (count == 49)


def test_the_table_has_every_row_and_says_what_it_rests_on(clean, suite):
    assert [metric.name for metric in clean.metrics] == list(metrics.METRICS)
    assert suite.features.digest() in clean.facts["networks"]
    assert "these are few" in clean.facts["compared"]
