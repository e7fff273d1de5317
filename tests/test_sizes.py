"""Models of sizes: p(N), p(N | class) and p(N | properties)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from gendiff.config import build, describe
from gendiff.files import UserError
from gendiff.ops import Random
from gendiff.sizes import ClassSizes, PropertySizes, SizeModel


def test_sizes_follow_their_law():
    model, n = SizeModel({"5": 1, "3": 6, 9: 3}), 20_000
    sizes = model.sample(Random(0, n))
    for size, probability in ((3, 0.6), (5, 0.1), (9, 0.3)):
        share = (sizes == size).double().mean().item()
        assert share == pytest.approx(probability, abs=4.5 * (probability * (1 - probability) / n) ** 0.5)
    assert set(sizes.tolist()) == {3, 5, 9}


def test_sizes_within_bounds_follow_the_conditional_law():
    model, n = SizeModel({3: 6, 5: 1, 9: 3}), 20_000
    sizes = model.sample(Random(1, n), low=4, high=9)
    assert set(sizes.tolist()) == {5, 9}
    assert (sizes == 9).double().mean().item() == pytest.approx(0.75, abs=4.5 * (0.1875 / n) ** 0.5)
    assert set(model.sample(Random(1, 100), low=9).tolist()) == {9}
    assert set(model.sample(Random(1, 100), high=3).tolist()) == {3}
    assert set(model.sample(Random(1, 100), low=5, high=5).tolist()) == {5}


def test_a_size_depends_on_the_sample_alone():
    model = SizeModel({3: 6, 5: 1, 9: 3})
    whole = model.sample(Random(4, 50))
    assert torch.equal(model.sample(Random(4, torch.tensor([40, 7]))), whole[[40, 7]])


@pytest.mark.parametrize(("low", "high"), [(10, None), (None, 2), (6, 8), (9, 3)])
def test_sizes_that_never_occurred_are_refused(low, high):
    with pytest.raises(UserError, match=r"no size between \d+ and \d+ in the training data, which has 3 to 9"):
        SizeModel({3: 6, 5: 1, 9: 3}).sample(Random(0, 2), low, high)


def test_log_probability_of_sizes():
    model = SizeModel({3: 6, 5: 1, 9: 3})
    expected = [math.log(0.6), -math.inf, math.log(0.1), -math.inf, math.log(0.3), -math.inf]
    assert model.log_prob(torch.tensor([3, 4, 5, 1, 9, 500])).tolist() == pytest.approx(expected, rel=1e-12)
    assert model.log_prob(torch.arange(1, 10)).exp().sum().item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("counts", [{}, {0: 3}, {-1: 3}, {3: 0}, {3: 1, 4: -1}])
def test_a_size_model_wants_positive_counts_of_positive_sizes(counts):
    with pytest.raises(ValueError, match="sizes of at least 1 with positive counts"):
        SizeModel(counts)


def test_counts_keep_their_order_whatever_json_made_of_them():
    model = SizeModel({"10": 1, "9": 2, "2": 3})
    assert list(model.counts.items()) == [(2, 3), (9, 2), (10, 1)]
    assert Counter(SizeModel(model.counts).sample(Random(3, 500)).tolist()) == Counter(
        model.sample(Random(3, 500)).tolist()
    )


def law():
    """Two properties, correlated, whose mean moves with the size; another spread at each size."""
    covariances = {4: [[0.2, 0.1], [0.1, 0.3]], 6: [[0.5, -0.2], [-0.2, 0.4]], 7: [[0.3, 0.0], [0.0, 0.1]]}
    return PropertySizes(["a", "b"], {4: 2, 6: 5, 7: 3}, {4: [-1, 0.5], 6: [0, 0], 7: [1, -0.5]}, covariances)


def test_sizes_given_properties_follow_bayes_rule():
    sizes, log_prob = law().log_prob({"b": torch.tensor([0.3]), "a": torch.tensor([-0.4])})
    joint = []
    for n in (4, 6, 7):
        normal = torch.distributions.MultivariateNormal(
            torch.tensor(law().means[n]), torch.tensor(law().covariances[n])
        )
        joint.append(math.log(law().counts[n] / 10) + normal.log_prob(torch.tensor([-0.4, 0.3])).item())
    expected = torch.tensor(joint).log_softmax(0)
    assert sizes.tolist() == [4, 6, 7]
    assert torch.allclose(log_prob[0].float(), expected, atol=1e-5)


def test_a_property_that_is_not_given_is_integrated_out():
    alone = PropertySizes(
        ["b"], law().counts, {n: [m[1]] for n, m in law().means.items()},
        {n: [[c[1][1]]] for n, c in law().covariances.items()},
    )  # fmt: skip
    value = {"b": torch.tensor([0.7, -2.0])}
    assert torch.allclose(law().log_prob(value)[1], alone.log_prob(value)[1], atol=1e-12)


def test_sizes_given_properties_are_drawn_by_their_law():
    n = 20_000
    values = {"a": torch.full((n,), 0.4), "b": torch.full((n,), -0.1)}
    drawn = law().sample(Random(3, n), values)
    for size, log_p in zip(
        *(x.tolist() for x in (law().log_prob(values)[0], law().log_prob(values)[1][0])), strict=True
    ):
        p = math.exp(log_p)
        assert (drawn == size).float().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert set(law().sample(Random(3, n), values, low=5, high=6).tolist()) == {6}


def test_the_size_of_a_sample_depends_on_its_own_properties_alone():
    values = {"a": torch.linspace(-2, 2, 50), "b": torch.linspace(1, -1, 50)}
    whole = law().sample(Random(4, 50), values)
    part = law().sample(Random(4, torch.tensor([40, 7])), {name: value[[40, 7]] for name, value in values.items()})
    assert torch.equal(part, whole[[40, 7]])


def test_fitted_sizes_find_the_law_they_were_drawn_from():
    generator = torch.Generator().manual_seed(0)
    sizes, values = [], []
    for n, count in ((4, 2000), (6, 5000), (7, 3000)):
        factor = torch.linalg.cholesky(torch.tensor(law().covariances[n], dtype=torch.float64))
        z = torch.randn(count, 2, dtype=torch.float64, generator=generator)
        sizes.append(torch.full((count,), n))
        values.append(torch.tensor(law().means[n], dtype=torch.float64) + z @ factor.T)
    table = torch.cat(values)
    table[::50, 0] = torch.nan  # samples without a property are left out
    fitted = PropertySizes.fit(torch.cat(sizes), {"a": table[:, 0], "b": table[:, 1]})
    assert sum(fitted.counts.values()) == 9800
    for n in (4, 6, 7):
        assert fitted.means[n] == pytest.approx(law().means[n], abs=0.06)
        assert torch.allclose(torch.tensor(fitted.covariances[n]), torch.tensor(law().covariances[n]), atol=0.06)


def test_a_size_that_occurred_once_takes_the_common_spread():
    table = torch.cat(
        [torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.ones(1)]
    )
    fitted = PropertySizes.fit(torch.tensor([5] * 500 + [9]), {"a": table})
    assert fitted.covariances[9][0][0] == pytest.approx(fitted.covariances[5][0][0] * 10 / 11, rel=0.02)
    assert PropertySizes.fit(torch.tensor([5]), {"a": torch.tensor([torch.nan])}) is None


def test_sizes_of_properties_come_back_from_json():
    again = build(describe(law()))
    value = {"a": torch.tensor([0.7])}
    assert torch.equal(again.log_prob(value)[1], law().log_prob(value)[1])


@pytest.mark.parametrize(
    ("means", "covariances"), [({3: [0]}, {}), ({3: [0, 0]}, {3: [[1]]}), ({3: [0]}, {3: [[1, 0]]})]
)
def test_sizes_of_properties_want_every_number(means, covariances):
    with pytest.raises(ValueError, match=r"means and covariances (need one entry|must be of)"):
        PropertySizes(["a"], {3: 1}, means, covariances)


def test_properties_fixed_by_the_size_or_by_one_another_can_be_asked_for():
    sizes = torch.tensor([3] * 400 + [5] * 400)
    count = sizes.double()
    z = torch.randn(800, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for values in ({"n": count}, {"a": z, "b": z}, {"a": z, "n": count, "twice": 2 * z}):
        scaled = {name: (value - value.mean()) / value.std() for name, value in values.items()}
        fitted = PropertySizes.fit(sizes, scaled)
        asked = {name: value[[0, -1]] for name, value in scaled.items()}
        found, log_prob = fitted.log_prob(asked)
        assert log_prob.isfinite().all()
        if "n" in values:
            assert found[log_prob.argmax(1)].tolist() == [3, 5]


class TestClassSizes:
    """p(class) and p(N | class): smoothed histograms, drawn towards that of all classes."""

    counts = {"a": {2: 30, 5: 10}, "b": {8: 60}}  # noqa: RUF012

    def law(self, name):
        table = {n: np.array([self.counts[n].get(k, 0) for k in range(2, 9)], float) for n in self.counts}
        smooth = {n: (np.r_[t[0], t[:-1]] + 2 * t + np.r_[t[1:], t[-1]]) / 4 for n, t in table.items()}
        everyone = sum(smooth.values()) / 100
        row = smooth[name] + 10 * everyone if name else everyone
        return row / row.sum()

    @pytest.mark.parametrize(("number", "name"), [(0, "a"), (1, "b"), (-1, "")])
    def test_sizes_of_a_class(self, number, name):
        model = ClassSizes(self.counts)
        classes = torch.full((20_000,), number)
        drawn = model.sample(Random(0, 20_000), classes)
        found = drawn.bincount(minlength=9)[2:].numpy() / 20_000
        np.testing.assert_allclose(found, self.law(name), atol=0.012)
        np.testing.assert_allclose(
            model.log_prob(torch.arange(0, 12), torch.full((12,), number)).exp()[2:9], self.law(name), atol=1e-12
        )
        assert model.log_prob(torch.tensor([1, 9])).tolist() == [-torch.inf] * 2

    def test_classes(self):
        drawn = ClassSizes(self.counts).sample_class(Random(1, 20_000))
        assert drawn.float().mean() == pytest.approx(0.6, abs=0.015)

    def test_bounds(self):
        model = ClassSizes(self.counts)
        drawn = model.sample(Random(0, 5000), None, 3, 5)
        law = self.law("")[1:4]
        np.testing.assert_allclose(drawn.bincount(minlength=6)[3:].numpy() / 5000, law / law.sum(), atol=0.03)
        assert model.sample(Random(0, 4), None, 7, 7).tolist() == [7] * 4
        with pytest.raises(UserError, match="no size between 9 and 12 in the training data, which has 2 to 8"):
            model.sample(Random(0, 4), None, 9, 12)

    @pytest.mark.parametrize("counts", [{}, {"a": {}}, {"a": {0: 1}}, {"a": {1: 0}}])
    def test_bad_counts(self, counts):
        with pytest.raises(ValueError, match="size model needs"):
            ClassSizes(counts)
