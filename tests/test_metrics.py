import json
import math

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from gendiff.files import UserError
from gendiff.metrics import (
    Metric,
    Table,
    Value,
    bootstrap,
    bootstrap_totals,
    compare,
    ratio,
    sets,
    share,
    total_variation,
    wasserstein,
    wasserstein_counts,
)
from gendiff.metrics.fit import descend
from gendiff.metrics.sets import matched

LAWS = {
    "share": (lambda rng: rng.random(150) < 0.3, lambda x, seed: share(x, n_resamples=300, seed=seed), 0.3),
    "mean": (lambda rng: rng.gamma(4.0, 0.5, 200), lambda x, seed: bootstrap(x, n_resamples=300, seed=seed), 2.0),
    "median": (
        lambda rng: rng.normal(1.0, 3.0, 200),
        lambda x, seed: bootstrap(x, np.median, n_resamples=300, seed=seed),
        1.0,
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_intervals_cover_the_truth_as_often_as_they_say(law):
    draw, estimate, truth = LAWS[law]
    values = [estimate(draw(np.random.default_rng(10_000 + i)), i) for i in range(600)]
    covered = np.mean([value.low <= truth <= value.high for value in values])
    assert 0.92 < covered < 0.975  # 0.95 ± 3 standard errors, a little less for finite samples
    assert np.mean([value.value for value in values]) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_the_interval_of_a_mean_is_the_normal_one(level):
    x = np.random.default_rng(0).normal(5.0, 2.0, 2000)
    value = ratio(x, n_resamples=20_000, level=level)
    half = stats.norm.ppf((1 + level) / 2) * x.std() / math.sqrt(len(x))
    assert value.value == pytest.approx(x.mean())
    assert (value.low, value.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.04 * half + 0.001)


def test_a_ratio_keeps_samples_whole():
    """Molecules of 25 atoms, all good or all bad: the interval is five times as wide as if atoms were drawn."""
    good = np.random.default_rng(0).random(400) < 0.8
    atoms = np.full(400, 25)
    whole, loose = share(good * atoms, atoms), share(np.repeat(good, 25))
    assert whole.value == pytest.approx(loose.value)
    assert (whole.high - whole.low) / (loose.high - loose.low) == pytest.approx(5, rel=0.15)


def test_a_ratio_weighs_by_its_denominator():
    assert ratio([1, 2, 9], [2, 2, 6]).value == pytest.approx(1.2)
    assert ratio([3, 3, 3]) == Value(3.0, 3.0, 3.0, 3)


@pytest.mark.parametrize("n", [1, 7, 200])
def test_shares_of_none_and_all_have_the_exact_binomial_bound(n):
    none, every = share(np.zeros(n)), share(np.ones(n))
    assert none.low == none.value == 0
    assert every.high == every.value == 1
    assert none.high == pytest.approx(stats.binomtest(0, n).proportion_ci().high)
    assert every.low == pytest.approx(stats.binomtest(n, n).proportion_ci().low)


def test_distinct_and_repeated_values_are_resampled_alike():
    """Repeated values take the multinomial path, distinct ones that of counted draws; the law is the same."""
    x = np.repeat(np.arange(50.0), 8)
    repeated = ratio(x, n_resamples=20_000)
    distinct = ratio(x + 1e-9 * np.arange(len(x)), n_resamples=20_000)
    assert (repeated.low, repeated.high) == pytest.approx((distinct.low, distinct.high), abs=0.06)


def test_wasserstein_equals_scipy():
    rng = np.random.default_rng(0)
    for n, m in [(1, 1), (5, 9), (400, 37)]:
        a, b = rng.normal(size=n), rng.exponential(size=m).round(1)
        assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)
    assert wasserstein(a, a[::-1]) == 0
    assert wasserstein(a, a + 0.25) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="at least one"):
        wasserstein([], a)


def test_distances_of_histograms_equal_those_of_samples():
    rng = np.random.default_rng(0)
    support = np.cumsum(rng.random(12))
    a, b = rng.integers(0, 9, (2, 5, 12))
    exact = [stats.wasserstein_distance(support, support, x, y) for x, y in zip(a, b, strict=True)]
    assert wasserstein_counts(a, b, support) == pytest.approx(np.array(exact))
    assert wasserstein_counts(a, 3 * a, support) == pytest.approx(0)
    assert total_variation([2, 1, 1], [0, 0, 5]) == pytest.approx(0.75)
    assert total_variation(a, 7 * a) == pytest.approx(0)
    assert total_variation([1, 0], [0, 4]) == 1
    for empty, other in ([0, 0], [1, 2]), ([0], [4]), ([], []):
        assert np.isnan(total_variation(empty, other))
        assert np.isnan(wasserstein_counts(other, empty, np.arange(len(empty))))


def histograms(a, b):
    return np.stack([total_variation(a, b), wasserstein_counts(a, b, np.arange(a.shape[-1]))], 1)


def one_hot(x, bins=12):
    return np.eye(bins)[x]


def test_totals_give_the_same_distance_and_spread_as_resampled_data():
    rng = np.random.default_rng(0)
    a, b = rng.binomial(11, 0.3, 300), rng.binomial(11, 0.6, 500)
    slow = compare(wasserstein, a, b)
    variation, fast = bootstrap_totals(histograms, one_hot(a), sparse.csr_array(one_hot(b)))
    assert fast.value == pytest.approx(slow.value)
    assert fast.n == slow.n == 300
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.03)
    assert variation.low < variation.value < variation.high
    assert bootstrap_totals(histograms, one_hot(a), one_hot(b)) == [variation, fast]  # dense or sparse, same seed


def test_intervals_of_distances_cover_the_truth():
    """Two laws that lie 3 apart without overlap: the Wasserstein distance is the difference of means."""
    covered = []
    for i in range(200):
        rng = np.random.default_rng(10_000 + i)
        a, b = rng.binomial(4, 0.5, 100), 6 + rng.binomial(5, 0.6, 100)
        value = bootstrap_totals(histograms, one_hot(a), one_hot(b), n_resamples=300, seed=i)[1]
        covered.append(value.low <= 7 <= value.high)
    assert 0.90 < np.mean(covered) < 0.99


def test_equal_samples_have_distance_zero_and_an_interval_that_says_so():
    x = np.random.default_rng(0).binomial(11, 0.3, 300)
    for value in bootstrap_totals(histograms, one_hot(x), one_hot(x)):
        assert value.value == value.low == 0
        assert 0 < value.high < 0.2


def test_results_depend_on_the_seed_only(monkeypatch):
    x = np.random.default_rng(0).random(500)
    assert bootstrap(x, np.median) == bootstrap(x, np.median)
    assert bootstrap(x, np.median) != bootstrap(x, np.median, seed=1)
    assert share(x < 0.3) == share(x < 0.3)
    whole = bootstrap_totals(histograms, one_hot(np.arange(500) % 12), one_hot(np.arange(90) % 7))
    monkeypatch.setattr("gendiff.metrics.values.CHUNK", 10_000)  # many small pieces instead of few large ones
    assert bootstrap_totals(histograms, one_hot(np.arange(500) % 12), one_hot(np.arange(90) % 7)) == whole


def test_nothing_gives_none():
    empty = np.zeros((0, 3))
    assert share([]) is None
    assert ratio([0.0], [0.0]) is None
    assert bootstrap([]) is None
    assert bootstrap([], np.median) is None
    assert compare(wasserstein, [], [1.0]) is None
    assert bootstrap_totals(histograms, empty, np.ones((2, 3))) == [None, None]
    assert bootstrap_totals(histograms, np.zeros((2, 3)), np.ones((2, 3))) == [None, None]


def table():
    return Table(
        [
            Metric(
                "valid", "valid", Value(0.82, 0.812, 0.8284, 10_000), Value(0.977, 0.974, 0.98, 9), "%", "higher", "a"
            ),
            Metric(
                "length", "bond | length", Value(0.0286, 0.02, 0.031, 5), Value(0.0022, 0.001, 0.0033, 5), "Å", "lower"
            ),
            Metric("new", "new <b>", Value(1.0, 0.98, 1.0, 8), None, "%"),
            Metric("strain", "strain", Value(330.0, 133.0, 2318.0, 5), Value(38.0, 36.0, 40.2, 5), "kcal/mol", "lower"),
            Metric("small", "small", Value(4.045, 3.249, 4.852, 5), Value(6e-6, -5e-6, 7e-6, 5), "Å"),
            Metric("zero", "zero", Value(0.0, 0.0, 0.0, 5), Value(0.0, 0.0, 0.0, 5)),
        ],
        {"seed": 0, "bonds": "lookup"},
        "A title",
    )


def test_lines_are_aligned_with_the_reference_first():
    lines = table().lines()
    head, rows = lines[4], lines[5:11]
    assert lines[:3] == ["A title", "  seed   0", "  bonds  lookup"]
    assert head.index("reference") < head.index("generated")
    assert rows[0].split() == "valid % 97.7 [97.4, 98.0] 82.0 [81.2, 82.8] ↑".split()
    assert rows[1].split()[3:] == "Å 0.0022 [0.0010, 0.0033] 0.0286 [0.0200, 0.0310] ↓".split()
    assert rows[2].split()[2:] == "% – 100.0 [98.0, 100.0]".split()
    assert rows[3].split()[2:] == "38 [36, 40] 330 [133, 2318] ↓".split()
    assert rows[4].split()[2:] == "0.000 [0.000, 0.000] 4.045 [3.249, 4.852]".split()
    assert rows[5].split()[1:] == "0.00 [0.00, 0.00] 0.00 [0.00, 0.00]".split()
    assert {row.index("[", 30) for row in rows if row.count("[") == 2} == {rows[0].index("[", 30)}
    assert all(line == line.rstrip() for line in lines)


def test_markdown_holds_its_columns():
    lines = table().markdown().splitlines()
    assert lines[2] == "| valid ↑ | % | 97.7 [97.4, 98.0] | 82.0 [81.2, 82.8] |"
    assert lines[3].startswith("| bond \\| length ↓ |")
    assert "<b>" not in "".join(lines)


def test_tables_survive_json():
    again = Table.from_json(json.loads(json.dumps(table().to_json())))
    assert again == table()
    assert again["valid"].generated.n == 10_000
    assert "valid" in again
    assert "nonsense" not in again
    with pytest.raises(KeyError, match="valid, length"):
        again["nonsense"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        "text",
        {"metrics": 3, "facts": {}, "title": ""},
        {"metrics": [{"name": "a"}], "facts": {}, "title": ""},
        {
            "metrics": [{"name": "a", "title": "a", "generated": {"value": "x"}, "reference": None}],
            "facts": {},
            "title": "",
        },
        {
            "metrics": [
                {
                    "name": "a",
                    "title": "a",
                    "generated": {"value": None, "low": 0.0, "high": 0.0, "n": 1},
                    "reference": None,
                }
            ],
            "facts": {},
            "title": "",
        },
    ],
)
def test_what_is_not_a_table_is_refused(content):
    with pytest.raises(UserError, match="not a table"):
        Table.from_json(content)


def test_an_empty_table_has_lines():
    assert Table([]).lines()[0] == "Metrics"
    assert Table([]).markdown()


def test_sets_are_matched_by_their_words():
    words = [np.array(list(text)) for text in ("aabbbc", "bbcaaad", "abbbb")]
    rows = matched(words, 100)
    assert ["".join(word[row]) for word, row in zip(words, rows, strict=True)] == ["abb", "bba", "abb"]
    assert [row.tolist() for row in rows] == [[0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert [len(row) for row in matched(words, 2)] == [2, 2, 2]


@pytest.mark.parametrize("itself", [None, "same"])
def test_the_nearest_of_many_is_found_by_a_rough_search(monkeypatch, itself):
    """The rough distance errs by up to 0.01; among the 24 best of it the nearest is measured exactly."""
    monkeypatch.setattr(sets, "CHUNK", 70)
    rng = np.random.default_rng(0)
    others = rng.random(500)
    records = others[:90] if itself else rng.random(90)
    error = rng.uniform(-0.01, 0.01, (90, 500))

    def rough(rows):
        return np.abs(records[:, None] - others[rows]) + error[:, rows]

    def exact(some, which):
        return np.abs(records[some] - others[which])

    numbers = np.arange(90) if itself else None
    way = np.abs(records[:, None] - others)
    if itself:
        way[numbers, numbers] = np.inf
    np.testing.assert_array_equal(sets.search(rough, exact, 90, 500, numbers), way.min(1))
    assert np.isinf(sets.search(rough, exact, 90, 0)).all()


def test_classes_that_are_recognised():
    """Of four with a word three are taken for it; the entropy is that of the shares 3, 1 and 1 of five."""
    guess, words = np.array([0, 0, 1, 2, 0]), np.array(["a", "a", "b", "b", ""])
    found = sets.classes(guess, words, ["a", "b", "c"], {"n_resamples": 10, "seed": 0})
    assert (found["recognised"].value, found["recognised"].n) == (0.75, 4)
    assert found["entropy"].value == pytest.approx(stats.entropy([3, 1, 1]))
    nothing = sets.classes(guess[:0], words[:0], ["a"], {"n_resamples": 10, "seed": 0})
    assert nothing == {"recognised": None, "entropy": None}


def test_a_network_is_trained_to_the_least_of_a_loss_and_frozen():
    line = torch.nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 20)[:, None]
    descend(line, lambda: (line(x) - (2 * x + 1)).square().mean(), 400, 0.1)
    assert line.weight.item() == pytest.approx(2, abs=0.01)
    assert line.bias.item() == pytest.approx(1, abs=0.01)
    assert not line.training
    assert not line.weight.requires_grad
