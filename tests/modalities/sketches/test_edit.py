"""Edits of drawings: what stays is the input's own numbers, the rest stands beside it, at its place and scale."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scribbles import scribbles
from torch import nn

from gendiff.denoise import AnalyticDenoiser
from gendiff.files import UserError
from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.edit import TASKS, Drawing, parts, read_parts, trust
from gendiff.modalities.sketches.modality import Sketches
from gendiff.modalities.sketches.points import box, cloud, condition, read_ink, thin
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.model import Model
from gendiff.sample import Ancestral

FAST = {"steps": 3, "resamples": 2}


def drawing(*strokes, word=""):
    """A drawing of strokes, each a list of points."""
    points = np.concatenate([np.array(stroke, float) for stroke in strokes])
    pen = np.zeros(len(points), bool)
    pen[np.cumsum([len(stroke) for stroke in strokes]) - 1] = True
    return Sketch(points, pen, word)


@pytest.fixture(scope="module")
def examples():
    return geometry.boxed(scribbles(80))


def untrained(examples, **options):
    """A model with weights at random, which puts out something that depends on all it is told."""
    torch.manual_seed(0)
    adapter = Sketches.fit(examples, **options)
    model = Model(adapter, adapter.denoiser("tiny"))
    for p in model.denoiser.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model


@pytest.fixture(scope="module")
def model(examples):
    return untrained(examples, conditions=["points"])


@pytest.fixture
def half():
    """Two strokes of odd numbers, of the size of a piece, far from the origin."""
    random = np.random.default_rng(5)
    return drawing(*(random.normal(size=(n, 2)).cumsum(0) * 25 + [1e4 + 1 / 3, -7e3] for n in (4, 3)), word="w1")


def scaled(sketch, factor, shift=0.0):
    return Sketch(sketch.points * factor + shift, sketch.pen, sketch.word, None, {}, sketch.has_pen)


# Completion


KINDS = [(kind, pen, 37.7) for kind in ("offset", "absolute", "both") for pen in ("logits", "gaussian", "categorical")]


@pytest.mark.parametrize(
    ("representation", "pen", "factor"),
    [*KINDS, *((kind, "logits", factor) for kind, *_ in KINDS[::3] for factor in (1.0, 1e-3))],
)
def test_strokes_that_stay_are_the_inputs_own_numbers(examples, half, representation, pen, factor):
    model, given = untrained(examples, representation=representation, pen=pen), scaled(half, factor)
    if pen == "categorical":
        model.sampler = Ancestral(3)
    made = model.edit([given], "complete", 6, **FAST).records
    for sketch in made:
        assert np.array_equal(sketch.points[:7], given.points)
        assert np.array_equal(sketch.pen[:7], given.pen)
        assert len(sketch) > 7
        assert sketch.pen[-1]
        assert sketch.facts["kept"] == 7
        # the rest goes on from the last point, at the scale of the input
        unit = max(1.0, factor) if factor == 1 else box(given.points)[1] / (12**0.5 * model.modality.position_scale)
        scale = model.modality.position_scale if representation == "absolute" else model.modality.scale
        steps = np.linalg.norm(np.diff(sketch.points[6:], axis=0), axis=1) / (unit * scale)
        assert 0.02 < np.median(steps) < 20
    assert len({len(sketch) for sketch in made}) > 1
    assert len({sketch.points[7:].tobytes() for sketch in made}) == 6


def test_they_stay_from_file_to_file(model, half, tmp_path):
    for ending in (".ndjson", ".npz", ".csv", ".ndjson.gz"):
        model.write([half], tmp_path / f"in{ending}")
        records, _ = model.modality.read_parts([tmp_path / f"in{ending}"], "complete")
        drawn = model.edit(records, "complete", 4, seed=2, **FAST)
        model.modality.annotate(drawn.records, seed=2, index=0)
        model.write(drawn.records, tmp_path / f"out{ending}")
        again, _ = Sketches.read([tmp_path / f"out{ending}"])
        assert len(again) == 4
        for sketch, before in zip(again, drawn.records, strict=True):
            assert np.array_equal(sketch.points[:7], half.points)
            assert np.array_equal(sketch.points, before.points)
            assert np.array_equal(sketch.pen[:7], half.pen)


def test_the_place_of_the_first_point_is_free_and_the_pen_is_known(model, half):
    (part,) = model.modality.parts([half], "complete")
    assert part.known["stroke"].tolist() == [False] + [True] * 6
    assert set(part.known) == {"stroke"}
    steps = np.diff(half.points, axis=0) / model.modality.scale
    assert torch.allclose(part.state["stroke"][1:], torch.from_numpy(steps).float(), atol=1e-4)
    assert part.state["pen"].argmax(1).tolist() == half.pen.tolist()
    assert part.adrift == ()
    (goes_on,) = model.modality.parts([half], "continue")
    assert goes_on.known["pen"].tolist() == [True] * 6 + [False]
    (places,) = untrained(scribbles(20), representation="absolute").modality.parts([half], "complete")
    assert places.known == {}
    assert places.adrift == ("stroke",)  # all of it is known, but not where it stands in the whole
    (both,) = untrained(scribbles(20), representation="both").modality.parts([half], "complete")
    assert set(both.known) == {"stroke"}
    assert both.adrift == ("position",)


def test_completions_are_one_drawing_in_the_eyes_of_the_model(model, half):
    """Seen again, the finished drawing has the state that was drawn, its first offset included."""
    seen = []
    decode = model.modality.decode
    model.modality.decode = lambda x, mask, told=None: (seen.append((x, mask)), decode(x, mask, told))[1]
    try:
        made = model.edit([half], "complete", 1, **FAST).records
    finally:
        del model.modality.decode
    (x, mask) = seen[0]
    again = geometry.offsets(SketchArrays.from_sketches(made))[1:] / model.modality.scale
    assert np.allclose(x["stroke"][0][mask[0]][1:].numpy(), again, atol=1e-3)


def test_numbers_are_those_of_strokes(model):
    given = drawing([[0, 0], [90, 0]], [[0, 90], [10, 80], [20, 90]], [[90, 90], [60, 70]])
    for keep, rows in (([1, 3], [0, 1, 5, 6]), ([3, 2], [2, 3, 4, 5, 6]), ([2], [2, 3, 4])):
        (made,) = model.edit([given], "complete", 1, keep=keep, **FAST).records
        assert np.array_equal(made.points[: len(rows)], given.points[rows])
        assert np.array_equal(made.pen[: len(rows)], given.pen[rows])


def test_the_model_sees_a_piece_with_the_tolerances_of_the_whole(examples):
    """Points that the whole would not keep are not seen, and are there again in what comes of it."""
    adapter = untrained(examples, simplify=8.0).modality
    line = np.stack([np.linspace(0, 60, 30), 3 * np.sin(np.arange(30))], 1)  # 3 of 255 is below the tolerance
    given = drawing(line, [[0, 30], [60, 90]])
    (part,) = adapter.parts([given], "complete")
    assert len(part) == 4
    model = Model(adapter, adapter.denoiser("tiny"))
    (made,) = model.edit([given], "complete", 1, **FAST).records
    assert np.array_equal(made.points[:32], given.points)
    assert len(made) > 32


def test_sample_i_depends_on_the_seed_and_i_alone(model, half):
    for task, more in (
        ("complete", FAST),
        ("continue", FAST),
        ("vary", {"steps": 3}),
        ("heal", {"steps": 3}),
        ("trace", {"steps": 3}),
    ):
        many = model.edit([half], task, 6, seed=4, **more).records
        few = model.edit([half], task, 4, seed=4, batch_size=2, **more).records
        other = model.edit([half], task, 4, seed=5, **more).records
        for a, b, c in zip(many, few, other, strict=False):
            assert a.points.shape == b.points.shape
            assert np.allclose(a.points, b.points, atol=0.05)
            assert a.points.shape != c.points.shape or not np.allclose(a.points, c.points, atol=0.05)


def test_lengths_are_those_of_the_class_above_what_stays(examples, half):
    lengths = {"w0": {40: 1000}, "w1": {9: 1000, 12: 1000}}
    adapter = Sketches(lengths, ["w0", "w1"], scale=30.0, position_scale=70.0, boxed=True)
    model = Model(adapter, adapter.denoiser("tiny"))
    for word, low, high in ((None, 8, 13), ("w1", 8, 13), ("w0", 39, 40)):
        wish = {} if word is None else {"condition": {"class": word}}
        sizes = [len(s) for s in model.edit([half], "complete", 40, steps=1, resamples=1, **wish).records]
        assert np.mean([low <= size <= high for size in sizes]) > 0.5
        assert min(sizes) > 7
    asked = model.edit([half], "complete", 5, steps=1, resamples=1, sizes=(20, 22)).records
    assert {len(s) for s in asked} <= {20, 21, 22}


def test_the_inputs_class_is_asked_for_unless_users_ask_for_another(model, half):
    drawn = model.edit([half], "complete", 4, **FAST)
    assert {s.word for s in drawn.records} == {"w1"}
    assert "class w1 as the input has it" in drawn.remark
    other = model.edit([half], "complete", 4, condition={"class": "w2"}, **FAST)
    assert {s.word for s in other.records} == {"w2"}
    assert other.remark == ""
    assert not np.allclose(other.records[0].points[-1], drawn.records[0].points[-1])
    unknown = model.edit([Sketch(half.points, half.pen, "unicorn")], "complete", 4, **FAST)
    assert {s.word for s in unknown.records} == {"unicorn"}
    assert unknown.remark == ""
    strong = model.edit([half], "complete", 4, guidance=3.0, **FAST)
    assert not np.allclose(strong.records[0].points[-1], drawn.records[0].points[-1])


def test_sequences_without_a_pen_go_on(tmp_path):
    random = np.random.default_rng(0)
    walks = SketchArrays(np.full(30, 12), random.normal(size=(360, 3)).cumsum(0))
    model = untrained(walks)
    given = Sketch(walks[0].points[:5] + 1 / 3, walks[0].pen[:5], has_pen=False)
    for walk in model.edit([given], "complete", 3, **FAST).records:
        assert np.array_equal(walk.points[:5], given.points)
        assert walk.pen.tolist() == [False] * 11 + [True]


# Scale


def test_a_drawing_of_your_own_may_have_any_size(model, half):
    """Taken for a whole one if it is too large or too small for a piece, unless the side of the whole is given."""
    typical = 12**0.5 * model.modality.position_scale if not model.modality.boxed else 255
    own = box(half.points)[1]
    for factor, unit in ((1.0, 1.0), (0.4, 1.0), (20.0, 20 * own / typical), (0.01, 0.01 * own / typical)):
        (part,) = model.modality.parts([scaled(half, factor)], "complete")
        assert part.unit == pytest.approx(unit)
        assert ("the larger side of the input is " in part.note) == ("; --side N says" in part.note) == (unit != 1)
        assert part.remark([Sketch(half.points, half.pen, "w2")]) == part.note
    (part,) = model.modality.parts([scaled(half, 20)], "complete", side=40 * own)
    assert part.unit == pytest.approx(40 * own / typical)
    assert part.remark([Sketch(half.points, half.pen, "w2")]) == ""
    (piece,) = model.modality.parts([scaled(half, 20)], "complete", side=40 * own)
    (same,) = model.modality.parts([scaled(half, 20 * 7, 300)], "complete", side=40 * own * 7)
    assert torch.allclose(piece.state["stroke"][1:], same.state["stroke"][1:], atol=1e-5)


@pytest.mark.parametrize("task", ["heal", "vary", "trace"])
def test_results_stand_where_the_input_stands(model, half, task):
    """At any scale: the same drawing, moved and scaled like the input."""
    near, far = (
        model.edit([given], task, 3, steps=3, side=side).records
        for given, side in ((half, 300.0), (scaled(half, 8, 5000), 2400.0))
    )
    for a, b in zip(near, far, strict=True):
        assert np.allclose(a.points * 8 + 5000, b.points, atol=1)
        if task != "heal":  # that lies over the input, point by point
            assert np.abs(box(a.points)[0] - box(half.points)[0]).max() < 1e-6 * 1e4


# Whole drawings


def test_at_strength_0_a_drawing_is_itself(model, half):
    for task in ("vary", "heal"):
        (made,) = model.edit([half], task, 1, strength=0.0).records
        assert np.allclose(made.points, half.points, atol=2e-3)
        assert np.array_equal(made.pen, half.pen)
        assert made.word == "w1"
        assert made.facts["strength"] == "0"
        assert "kept" not in made.facts


class Exact(AnalyticDenoiser):
    """The exact denoiser; a model asks its weights where they are."""

    def __init__(self, *args):
        super().__init__(*args)
        self.place = nn.Parameter(torch.zeros(1))


def shapes(count=12, length=9, **options):
    """The exact model of some drawings of one length, each with little noise."""
    random = np.random.default_rng(3)
    points = random.normal(size=(count, length, 2)).cumsum(1) * 30
    pen = np.zeros((count, length), bool)
    pen[:, [3, -1]] = True
    arrays = SketchArrays(np.full(count, length), points.reshape(-1, 2), pen.ravel())
    adapter = Sketches.fit(arrays, **options)
    data = adapter.encode(arrays)
    law = {name: (value.reshape(count, length, -1), 0.03) for name, value in data.fields.items()}
    return Model(adapter, Exact(adapter.process(), [1 / count] * count, law), Ancestral(40)), arrays


def chamfer(a, b):
    return (cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean()) / 2


def test_healing_undoes_jitter():
    """Of eight rough drawings the mean; one may become another shape, and lie further away."""
    model, arrays = shapes()
    clean, left = arrays[4], []
    for seed in range(8):
        jitter = np.random.default_rng(seed).normal(size=clean.points.shape) * 6
        healed = model.edit([Sketch(clean.points + jitter, clean.pen)], "heal", 8, seed=seed).records
        assert all(len(s) == len(clean) and np.array_equal(s.pen, clean.pen) for s in healed)
        before = chamfer(clean.points + jitter, clean.points)
        left.append(np.mean([chamfer(s.points, clean.points) for s in healed]) / before)
    assert left[0] < 0.6
    assert np.mean(left) < 0.75


@pytest.mark.parametrize(
    ("place", "step", "expected"), [(3.0, 1.0, 9.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.5), (1.0, 0.0, 50.0)]
)
def test_trust_is_the_ratio_of_the_variances_of_the_errors(place, step, expected):
    random = np.random.default_rng(0)
    true = random.normal(size=(20000, 2)).cumsum(0)
    places = true + place * random.normal(size=true.shape)
    steps = np.diff(true, axis=0, prepend=0) + step * random.normal(size=true.shape)
    assert trust(steps, places) == pytest.approx(expected, rel=0.15)
    assert trust(steps[:1], places[:1]) == 0.5


def test_what_is_healed_lies_over_the_rough_drawing(examples):
    """The steps are the model's and the places the input's, also where steps alone would lead far away."""
    model, given = untrained(examples), examples[2]
    (part,) = model.modality.parts([given], "heal")
    steps = np.diff(given.points, axis=0) / part.unit + 3
    record = Sketch(np.concatenate([np.zeros((1, 2)), steps.cumsum(0)]), given.pen)
    part.place([record])
    away = (record.points - given.points) / part.unit
    assert np.abs(away).max() < 10
    assert np.abs(3 * np.arange(len(given))).max() > 60
    record = Sketch(part.rough + 1e4, given.pen)
    part.place([record])
    assert np.allclose(record.points, given.points, atol=1e-6)


@pytest.mark.parametrize("representation", ["offset", "absolute", "both"])
def test_a_completion_is_the_drawing_that_begins_so(representation):
    """One drawing in twelve, wherever it stands. Without guidance a quarter settles on another while all is noise."""
    model, arrays = shapes(representation=representation)
    whole = arrays[7]
    begun = Sketch(whole.points[:4] + 1234.5, whole.pen[:4])
    made = model.edit([begun], "complete", 24).records
    assert all(np.array_equal(s.points[:4], begun.points) and np.array_equal(s.pen, whole.pen) for s in made)
    right = [np.abs(s.points - whole.points - 1234.5).max() < 15 for s in made]
    assert np.mean(right) > 0.85


def test_the_last_stroke_may_go_on():
    """Cut within a stroke it goes on, and ends where the drawing ends it; points that are known do not move."""
    model, arrays = shapes()
    whole = arrays[2]
    for count, goes_on in ((6, True), (4, False)):
        pen = whole.pen[:count].copy()
        pen[-1] = True
        begun = Sketch(whole.points[:count] - 77.7, pen)
        drawn = model.edit([begun], "continue", 6)
        assert all(np.array_equal(s.points[:count], begun.points) for s in drawn.records)
        assert all(np.array_equal(s.pen, whole.pen) for s in drawn.records)
        assert drawn.remark == f"the last stroke goes on in {6 * goes_on} of 6"
    ended = model.edit([Sketch(whole.points[:6], pen6(whole))], "complete", 3).records
    assert all(s.pen[5] for s in ended)


def pen6(sketch):
    """The pen of its first six points, lifted after the last."""
    return np.append(sketch.pen[:5], True)


def test_ways_lead_from_one_drawing_to_the_other():
    model, arrays = shapes()
    pair = [scaled(arrays[2], 1.0, 700.0), arrays[5]]
    made = model.edit(pair, "interpolate", 5).records
    centred = [s.points - box(s.points)[0] for s in pair]
    assert np.allclose(made[0].points, pair[0].points, atol=3)
    assert np.allclose(made[-1].points - box(made[-1].points)[0], centred[1], atol=3)
    assert np.allclose(box(made[-1].points)[0], box(pair[0].points)[0], atol=3)
    assert [s.facts["interpolation"] for s in made] == ["0", "0.25", "0.5", "0.75", "1"]


def test_points_of_unlike_numbers_are_matched_evenly_in_order(model):
    few, many = drawing([[0, 0], [10, 0], [20, 9]]), drawing(np.random.default_rng(0).normal(size=(9, 2)) * 50)
    for pair in ([few, many], [many, few]):
        a, b = model.modality.parts(pair, "interpolate")
        for part in a.match(b):
            order = part.order.tolist()
            assert sorted(order) == list(range(len(part)))
            if len(part) == 9:
                assert order[:3] == [0, 4, 8]
                assert {x < 4 for x in order[3:5]} == {True, False}  # they come in here and there
            else:
                assert order == [0, 1, 2]


def test_ways_between_unlike_lengths_begin_and_end_at_the_inputs(examples):
    """Encoding and back, by the network of a model; the pen comes back where it was."""
    model = untrained(examples)
    pair = [examples[1], examples[2]]
    assert len(pair[0]) != len(pair[1])
    made = model.edit(pair, "interpolate", 4, steps=60).records
    assert [len(made[0]), len(made[-1])] == [len(s) for s in pair]
    for sketch, given in zip((made[0], made[-1]), pair, strict=True):
        assert np.abs((sketch.points - box(sketch.points)[0]) - (given.points - box(given.points)[0])).max() < 5


# Clouds and pictures


def test_a_cloud_lies_evenly_on_the_strokes():
    """Along a square and a long line: as many points on each stroke as it is long, one in each piece of its length."""
    square = drawing([[0, 0], [30, 0], [30, 30], [0, 30], [0, 0]], [[0, 50], [120, 50]])
    points = cloud(SketchArrays.from_sketches([square]), 80)[0] + box(square.points)[0]
    line = points[np.isclose(points[:, 1], 50)]
    assert len(line) == 40
    assert np.array_equal(np.sort(line[:, 0] // 3), np.arange(40))
    rest = points[~np.isclose(points[:, 1], 50)]
    assert (np.isclose(rest, 0) | np.isclose(rest, 30)).any(1).all()
    assert np.bincount((rest[np.isclose(rest[:, 1], 0)][:, 0] // 3).astype(int), minlength=10).tolist() == [1] * 10


def test_clouds_of_many_are_those_of_each_and_have_no_order():
    many = scribbles(12)
    centred = geometry.moved(many, geometry.centred(many))
    for points, sketch in zip(cloud(many, 50), centred, strict=True):
        dense = geometry.resample(SketchArrays.from_sketches([sketch]), 0.5).points
        assert cKDTree(dense).query(points)[0].max() < 0.5 * box(sketch.points)[1] / 255 + 1e-9
        assert cKDTree(points).query(sketch.points)[0].max() < 0.2 * box(sketch.points)[1] + 1e-9
    assert np.array_equal(cloud(many, 50, seed=1), cloud(many, 50, seed=1))
    assert not np.allclose(cloud(many, 50, seed=1), cloud(many, 50, seed=2))
    straight = SketchArrays([2], [[0, 0], [64, 0]], [False, True])
    x = cloud(straight, 64)[0, :, 0]
    assert not np.array_equal(x, np.sort(x))
    assert (np.sort(x) + 32).astype(int).tolist() == list(range(64))


def test_dots_are_in_a_cloud_too():
    dots = SketchArrays([2, 1, 3], [[0, 0], [9, 9], [5, 5], [0, 0], [80, 0], [40, 30]], [1, 1, 1, 0, 1, 1])
    two, one, third = cloud(dots, 16)
    assert {tuple(x) for x in two} == {(-4.5, -4.5), (4.5, 4.5)}
    assert np.array_equal(one, np.zeros((16, 2)))
    assert (third == [0, 15]).all(1).sum() in (1, 2)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        cloud(dots, 0)
    assert cloud(dots.select([]), 8).shape == (0, 8, 2)


def test_many_points_are_thinned_to_even_ones():
    points = np.random.default_rng(0).uniform(size=(5000, 2)) * [4, 1]
    few = thin(points, 64)
    gaps = cKDTree(few).query(few, 2)[0][:, 1]
    assert len(few) == 64
    assert gaps.min() > 0.5 * gaps.max()
    assert np.array_equal(thin(points, 64, 3), thin(points, 64, 3))
    assert sorted(map(tuple, thin(points[:40], 64))) == sorted(map(tuple, points[:40]))
    told = condition(points[:40] + 7, 64)
    assert told.shape == (64, 2)
    assert np.isnan(told[40:]).all()
    assert np.abs(told[:40].max(0) + told[:40].min(0)).max() < 1e-12


@pytest.fixture
def picture(tmp_path):
    """Pictures of two bars, 3 and 9 pixels broad, in ink of one grey on paper of another."""
    from PIL import Image

    def make(name, ink=20, paper=250, mode="L", size=(100, 80)):
        pixels = np.full(size[::-1], paper, np.uint8)
        pixels[20:23, 10:90] = ink
        pixels[40:75, 50:59] = ink
        image = Image.fromarray(pixels).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.fromarray(np.where(pixels == ink, 255, 0).astype(np.uint8)))
        image.save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("b.png", {"ink": 255, "paper": 0}),
        ("c.png", {"mode": "RGBA", "ink": 0, "paper": 1}),
        ("d.jpg", {"mode": "RGB"}),
        ("e.png", {"ink": 130, "paper": 200, "mode": "P"}),
    ],
)
def test_the_ink_of_a_picture_is_its_middle_line(picture, name, options):
    points = read_ink(picture(name, **options))
    thin_bar, broad = points[points[:, 1] < 30], points[points[:, 1] > 30]
    assert set(thin_bar[:, 1]) == {21}
    assert {*range(13, 87)} <= set(thin_bar[:, 0])
    assert set(broad[5:-5, 0]) <= {53, 54, 55}


def test_a_picture_is_traced(model, picture, tmp_path):
    records, report = read_parts([picture("a.png")], "trace")
    assert report.lines() is not None
    (part,) = parts(model.modality, records, "trace")
    assert len(part) == 0
    told = part.condition["points"]
    assert told.shape == (1, 64, 2)
    assert told.isfinite().all()
    assert told.abs().amax((0, 1)).tolist() == pytest.approx(
        (np.array([40, 27]) / part.unit / model.modality.position_scale).tolist(), rel=0.1
    )
    made = model.edit(records, "trace", 3, steps=3).records
    middle = box(records.points)[0]  # thinning takes the ends of a broad bar
    assert np.abs(middle - [49.5, 47.5]).max() <= 2
    assert all(np.abs(box(s.points)[0] - middle).max() < 1e-9 for s in made)


def test_a_cloud_is_told_as_in_training(model, examples):
    """A drawing to be traced becomes the condition that the adapter gives it as an example."""
    known = model.modality.encode(examples.select([6])).condition["points"]
    (part,) = model.modality.parts(examples.select([6]), "trace")
    assert torch.allclose(part.condition["points"], known, atol=1e-5)
    assert part.condition["class"].tolist() == [0]
    bare = SketchArrays([40], np.random.default_rng(0).normal(size=(40, 2)) * 80)
    (part,) = model.modality.parts(bare, "trace")
    assert part.condition["points"].isnan().all(2).sum() == 24
    assert "class" not in part.condition


# Refusals


def test_every_task_has_a_kind_and_a_line():
    assert list(TASKS) == ["complete", "continue", "heal", "vary", "interpolate", "trace"]
    assert [task.kind for task in TASKS.values()] == ["keep", "keep", "noise", "noise", "path", "ask"]


@pytest.mark.parametrize(
    ("task", "count", "options", "message"),
    [
        ("grow", 1, {}, "--task must be one of complete, continue, heal, vary, interpolate, trace for sketches, got"),
        ("interpolate", 1, {}, "interpolate takes 2 drawings, got 1"),
        ("complete", 2, {}, "complete takes 1 drawing, got 2; --which says which of them"),
        ("trace", 2, {}, "trace takes 1 drawing, got 2"),
        ("vary", 0, {}, "vary takes 1 drawing, got 0"),
        ("complete", 1, {"keep": [3]}, "--keep names stroke 3, and the input has strokes 1 to 2"),
        ("complete", 1, {"keep": []}, "--keep names no stroke"),
        ("complete", 1, {"side": 20.0}, "--side 20 is too small: the larger side of the input itself is"),
        ("complete", 1, {"side": -1.0}, "--side must be a positive number, got -1"),
        ("complete", 1, {"side": float("nan")}, "--side must be a positive number, got nan"),
        ("complete", 1, {"sizes": (None, 7)}, "--size allows 7 at most, and 7 stay; allow 8 or more, or keep fewer"),
        ("complete", 1, {"sizes": (90, 99)}, "no size between 90 and 99"),
        (
            "complete",
            1,
            {"condition": {"class": "cat"}},
            "class 'cat' cannot be asked of this model; it knows 'w0', 'w1'",
        ),
        ("continue", 1, {"keep": [3]}, "--keep names stroke 3, and the input has strokes 1 to 2"),
        ("vary", 1, {"keep": [1]}, "--keep belongs to complete and continue; vary may change every element"),
        ("heal", 1, {"sizes": (3, 9)}, "--size belongs to complete and continue and trace; heal takes its sizes from"),
        ("trace", 1, {"keep": [1]}, "--keep belongs to complete"),
        ("vary", 1, {"guidance": 2.0, "word": ""}, "--guidance 2 strengthens a condition, and none is given"),
    ],
)
def test_what_does_not_fit_is_one_line(model, half, task, count, options, message):
    given = Sketch(half.points, half.pen, options.pop("word", "w1"))
    with pytest.raises(UserError, match=message):
        model.edit([given] * count, task, 2, **options)


def test_a_model_that_cannot_says_so(examples, half):
    with pytest.raises(UserError, match="trace needs a model that was told clouds of points; train with --condition"):
        untrained(examples).edit([half], "trace", 1)
    with pytest.raises(UserError, match="'pen' is categorical"):
        untrained(examples, pen="categorical").edit([half, half], "interpolate", 3)
    with pytest.raises(UserError, match="the input has no pen; this model knows drawings"):
        untrained(examples).edit([Sketch(half.points, half.pen, has_pen=False)], "complete", 1)
    solid = Sketch(np.zeros((4, 3)), half.pen[:4])
    with pytest.raises(UserError, match="points of 3 coordinates; this model knows 2"):
        untrained(examples, conditions=["points"]).edit([solid], "trace", 1)


def test_no_length_is_left_for_more(half):
    adapter = Sketches({"": {7: 3, 5: 2}}, scale=30.0, position_scale=70.0)
    model = Model(adapter, adapter.denoiser("tiny"))
    with pytest.raises(
        UserError, match="the input has 7 points, and the model knows drawings of at most 7, the rest incl"
    ):
        model.edit([half], "complete", 1)
    long = drawing(half.points, [[1e4, -7e3], [1e4 + 9, -7e3 + 9]])
    with pytest.raises(
        UserError, match="the input has 9 points, and the model knows drawings of at most 7; simplify it"
    ):
        model.edit([long], "vary", 1)
    assert len(model.edit([half], "vary", 1, steps=2).records[0]) == 7


def png(width, height):
    """A file of a few bytes that says that it is a picture of this size."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_files_that_are_no_pictures_are_refused(picture, tmp_path, half):
    from PIL import Image

    cases = {
        "text.png": b"not a picture",
        "cut.png": picture("a.png").read_bytes()[:120],
        "empty.jpg": b"",
        "gif.png": b"GIF89a" + bytes(20),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: (is not a readable PNG or JPEG|the file is empty)"):
            read_parts([tmp_path / name], "trace")
    Image.new("L", (60, 60), 200).save(tmp_path / "blank.png")
    with pytest.raises(UserError, match=r"blank\.png: shows no ink"):
        read_parts([tmp_path / "blank.png"], "trace")
    (tmp_path / "bomb.png").write_bytes(png(20000, 20000))  # 1.6 GB of pixels, if anyone unpacked them
    with pytest.raises(UserError, match=r"bomb\.png: has far more pixels than the limit of 16,777,216"):
        read_parts([tmp_path / "bomb.png"], "trace")
    with pytest.raises(UserError, match="unknown extension"):
        read_parts([picture("a.png")], "complete")
    with pytest.raises(UserError, match="one picture or one drawing at a time"):
        read_parts([picture("a.png"), tmp_path / "half.svg"], "trace")
    (tmp_path / "nothing.ndjson").write_text("")
    with pytest.raises(UserError, match=r"nothing\.ndjson: the file is empty"):
        read_parts([tmp_path / "nothing.ndjson"], "complete")


def test_a_bad_record_is_named_without_advice_that_does_not_fit(tmp_path):
    (tmp_path / "bad.ndjson").write_text('{"drawing": [[[1, 2], [3]]]}\n')
    with pytest.raises(UserError, match=r"bad\.ndjson, line 1.*") as caught:
        read_parts([tmp_path / "bad.ndjson"], "vary")
    assert "--on-error" not in str(caught.value)


def test_parts_know_their_inputs(model, half):
    assert all(isinstance(part, Drawing) for part in model.modality.parts([half, half], "interpolate"))


def test_the_default_task_is_the_first_of_the_modality(model, half):
    made = model.edit([half], n=2, seed=1, **FAST).records
    assert [sketch.facts["edit"] for sketch in made] == ["complete", "complete"]
