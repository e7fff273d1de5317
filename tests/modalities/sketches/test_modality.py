"""The sketch adapter."""

from collections import Counter

import numpy as np
import pytest
import torch
from scribbles import scribbles

from gendiff.config import build, describe
from gendiff.files import UserError
from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.encode import PENS, REPRESENTATIONS
from gendiff.modalities.sketches.modality import Sketches, identity
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.model import Model, load
from gendiff.ops import Random


@pytest.fixture(scope="module")
def sketches():
    return geometry.boxed(scribbles(60))


@pytest.fixture(scope="module")
def adapter(sketches):
    return Sketches.fit(sketches)


def test_fit_measures_the_examples(sketches, adapter):
    assert adapter.classes == ["w0", "w1", "w2"]
    for k, word in enumerate(adapter.classes):
        assert adapter.lengths[word] == dict(sorted(Counter(sketches.num_points[k::3].tolist()).items()))
    assert adapter.scale == pytest.approx(np.sqrt((geometry.offsets(sketches) ** 2).mean()), abs=1e-6)
    assert adapter.position_scale == pytest.approx(np.sqrt((geometry.centred(sketches) ** 2).mean()), abs=1e-6)
    assert adapter.pen_share == pytest.approx(sketches.ends.mean(), abs=1e-6)


@pytest.mark.parametrize("unit", [1e-9, 1e-7, 1e-4, 1.0])
def test_states_have_unit_scale_in_any_unit(sketches, unit):
    adapter = Sketches.fit(geometry.moved(sketches, sketches.points * unit))
    state = adapter.encode(geometry.moved(sketches, sketches.points * unit)).fields["stroke"]
    assert state.square().mean() == pytest.approx(1, abs=1e-4)


def test_states_have_unit_scale_and_classes(sketches, adapter):
    data = adapter.encode(sketches)
    assert data.fields["stroke"].square().mean() == pytest.approx(1, abs=1e-5)
    assert data.condition["class"].tolist() == [i % 3 for i in range(60)]
    strange = adapter.encode(SketchArrays([2], [[0, 0], [1, 1]], [0, 1], ["dog"]))
    assert strange.condition["class"].tolist() == [-1]


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("pen", PENS)
def test_every_kind_can_be_trained_saved_and_drawn(sketches, representation, pen, tmp_path):
    adapter = Sketches.fit(sketches, representation=representation, pen=pen, conditions=["points"])
    assert describe(build(describe(adapter))) == describe(adapter)
    model = Model(adapter, adapter.denoiser("tiny"))
    for p in model.denoiser.parameters():  # away from an output of zeros, through which nothing is learned but itself
        p.data += 0.05 * torch.randn_like(p)
    batch = adapter.encode(sketches).batch(torch.arange(8))
    losses, parts = adapter.objective()(model.denoiser, batch.state, batch.mask, batch.condition, Random(0, 8))
    losses.mean().backward()
    assert set(parts) == set(adapter.fields())
    assert all(p.grad is not None and p.grad.any() for p in model.denoiser.parameters())
    drawn = model.sample(6, steps=3, condition={"class": ["w1", "w0"]})
    assert [sketch.word for sketch in drawn] == ["w1", "w0"] * 3
    assert all(sketch.pen[-1] and np.isfinite(sketch.points).all() for sketch in drawn)


def test_a_model_remembers_how_strongly_it_is_asked(sketches, adapter, tmp_path):
    denoiser = adapter.denoiser("tiny")
    for p in denoiser.parameters():
        p.data += 0.05 * torch.randn_like(p)
    Model(adapter, denoiser, guidance=3).save(tmp_path / "m")
    model, wanted = load(tmp_path / "m"), {"class": "w1"}
    points = {
        guidance: np.concatenate([s.points for s in model.sample(4, steps=2, condition=wanted, guidance=guidance)])
        for guidance in (None, 1, 3)
    }
    np.testing.assert_array_equal(points[None], points[3])
    assert not np.allclose(points[None], points[1])
    free = Sketches.fit(sketches.select(np.arange(0, 60, 3)))  # one class: there is nothing to ask for
    assert len(Model(free, free.denoiser("tiny"), guidance=3).sample(2, steps=2)) == 2


def test_sketches_of_one_word_have_no_classes(sketches):
    adapter = Sketches.fit(sketches.select(np.arange(0, 60, 3)))
    assert (adapter.classes, list(adapter.lengths), adapter.encode(sketches).condition) == ([], [""], {})
    with pytest.raises(UserError, match="trained with no condition"):
        adapter.condition({"class": "w0"})


def test_classes_that_are_not_asked_for_come_as_often_as_in_the_data(adapter):
    classes = adapter.complete({}, Random(0, 3000))["class"]
    share = torch.tensor([sum(lengths.values()) for lengths in adapter.lengths.values()]) / 60
    torch.testing.assert_close(classes.bincount(minlength=3) / 3000, share, rtol=0, atol=0.03)
    asked = {"class": torch.tensor([1, 1])}
    assert adapter.complete(asked, Random(0, 2)) is asked


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"class": "dog"}, "class 'dog' cannot be asked of this model; it knows 'w0', 'w1', 'w2'"),
        ({"class": ["w0", "dog"]}, "'dog'"),
        ({"logP": 1.0}, "'logP' cannot be asked of this model, which was trained with class"),
        ({"points": np.zeros((3, 2))}, "'points' cannot be asked"),
    ],
)
def test_wishes_that_cannot_be_met(adapter, wanted, message):
    with pytest.raises(UserError, match=message):
        adapter.condition(wanted)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (SketchArrays([1], [[0.0, 0, 0]], [True]), "points of 3 coordinates; this model knows 2"),
        (SketchArrays([1], [[0.0, 0]]), "has no pen"),
    ],
)
def test_other_sequences_are_refused(adapter, records, message):
    with pytest.raises(UserError, match=f"sketch 1: .*{message}"):
        adapter.encode(records)


def test_what_the_model_sees_is_simplified_and_boxed_if_sizes_differ_a_lot():
    small, large = geometry.boxed(scribbles(20)), scribbles(20, seed=1)
    large = geometry.moved(large, large.points * 50)
    adapter = Sketches.fit(SketchArrays.concatenate([small, large]), simplify=5.0)
    assert adapter.boxed
    ready = adapter.preprocess(large)
    side = geometry.boxes(ready)[1]
    np.testing.assert_allclose(side[side > 0], 255)
    np.testing.assert_array_equal(ready.num_points, geometry.simplify(geometry.boxed(large), 5.0).num_points)
    assert not Sketches.fit(small).boxed


def test_lengths_and_volumes(adapter, sketches):
    sizes = sketches.num_points
    data = adapter.encode(sketches)
    torch.testing.assert_close(adapter.log_volume(data.sizes), torch.from_numpy(sizes * 2 * np.log(adapter.scale)))
    every = torch.arange(1, int(sizes.max()) + 5)
    assert adapter.log_size(every).exp().sum() == pytest.approx(1)
    drawn = adapter.draw_sizes(Random(0, 2000), 5, 9)
    assert set(drawn.unique().tolist()) == {5, 6, 7, 8, 9}


def test_augmentation_scales_each_axis_of_each_sketch(sketches):
    adapter = Sketches.fit(sketches, augment=0.2)
    batch = adapter.encode(sketches).batch(torch.arange(20))
    changed = adapter.augmented(batch.state, batch.mask, Random(0, batch.index))
    ratio = (changed["stroke"] / batch.state["stroke"])[batch.mask & (batch.state["stroke"] != 0).all(-1)]
    assert 0.8 <= ratio.min() < 0.85 < 1.15 < ratio.max() <= 1.2
    first = changed["stroke"][0] / batch.state["stroke"][0]
    assert (first[batch.mask[0]].std(0) < 1e-5).all()
    assert changed["pen"] is batch.state["pen"]
    assert Sketches.fit(sketches).augmented(batch.state, batch.mask, Random(0, 20)) is batch.state


def test_what_is_kept(adapter, sketches):
    dot = Sketch(np.zeros((2, 2)), np.array([False, True]))
    records = [sketches[0], dot]
    known = adapter.known(sketches)
    assert adapter.keep(records, ["valid"], set()) == [True, False]
    assert adapter.keep(records, ["new"], known) == [False, False]
    assert adapter.keep([sketches[0]], ["new"], set()) == [True]
    moved = Sketch(sketches[0].points * 3 + 7, sketches[0].pen)
    assert identity(moved) == identity(sketches[0]) != identity(sketches[1])
    with pytest.raises(UserError, match="valid and new"):
        adapter.keep([], ["connected"], set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"representation": "x"}, "representation must be"),
        ({"pen": "x"}, "pen of"),
        ({"dimensions": 0}, "positive"),
        ({"scale": 0}, "positive"),
        ({"augment": 1.0}, "augment"),
        ({"classes": ["a", "b"]}, "lengths must be of the classes"),
        ({"lengths": {}}, "at least one class"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sketches(**{"lengths": {"": {3: 1}}, **options})


def test_fit_refuses_what_it_cannot_use(sketches):
    with pytest.raises(UserError, match="knows points here"):
        Sketches.fit(sketches, conditions=["logP"])
    with pytest.raises(UserError, match="no sketch has two distinct points"):
        Sketches.fit(SketchArrays([1], [[0, 0]], [True]))
    with pytest.raises(UserError, match="at least two classes"):
        Sketches.fit(SketchArrays([2], [[0, 0], [1, 1]], [0, 1]), conditions=["class"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": 2}, "--augment must be from 0 to below 1, got 2"),
        ({"augment": float("nan")}, "--augment must be from 0 to below 1, got nan"),
        ({"augment": 0.1, "conditions": ["points"]}, "--augment scales strokes, and the points"),
    ],
)
def test_a_range_of_scales_that_cannot_be_is_one_line(sketches, options, message):
    with pytest.raises(UserError, match=message):
        Sketches.fit(sketches, **options)


def test_sets_of_unlike_kinds_are_not_compared(sketches):
    bare = SketchArrays(sketches.num_points, sketches.points)
    for sets in ({"reference": bare}, {"reference": sketches, "training": bare}):
        with pytest.raises(UserError, match="not 2 coordinates with a pen and 2 coordinates without a pen"):
            Sketches.evaluate(sketches, **sets)


def test_captions_count_in_words():
    caption = Sketches.picture(Sketches.fit(scribbles(2)), Sketch(np.zeros((1, 2)), np.array([True]), "cat"))[1]
    assert caption == "cat · 1 point, 1 stroke"


def test_the_card_speaks_of_sketches(adapter):
    card = Model(adapter, adapter.denoiser("tiny")).card()
    assert all(f"- {line}" in card for line in Sketches.limits)
    assert "element" not in card
