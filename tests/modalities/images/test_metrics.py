"""The metrics of images: closed forms, planted faults, and that what is worse scores worse."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from gendiff.files import UserError
from gendiff.modalities.images import metrics
from gendiff.modalities.images.metrics import inception as inception_room
from gendiff.modalities.images.metrics.features import turned
from gendiff.modalities.images.metrics.fit import seen, shifted, visible
from gendiff.modalities.images.metrics.scores import distances
from gendiff.modalities.images.records import ImageArrays

OPTIONS = {"n_resamples": 20, "seed": 0}
HALF = np.arange(1000)


def images(count=20, size=(6, 6), channels=3, seed=0, words=None):
    random = np.random.default_rng(seed)
    return ImageArrays(random.integers(0, 256, (count, *size, channels), dtype=np.uint8), words)


@pytest.fixture(scope="module")
def digits():
    """The 1,797 digits of scikit-learn, 8 × 8, shuffled."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return ImageArrays(np.rint(data.images * 255 / 16).astype(np.uint8)[order], data.target.astype(str)[order])


@pytest.fixture(scope="module")
def features(digits):
    return metrics.Features.fit(digits.select(HALF), steps=60, held_out=0)


@pytest.fixture(scope="module")
def unnamed(digits):
    """Features that were learnt without words."""
    return metrics.Features.fit(ImageArrays(digits.pixels[HALF]), steps=60)


# What the network sees


def test_small_images_are_enlarged_and_large_ones_averaged():
    small, large = images(2, (8, 8)), images(2, (128, 64), 1)
    np.testing.assert_array_equal(seen(small.pixels)[:, :, 1::2, ::2].movedim(1, -1).numpy() * 255, small.pixels)
    assert seen(small.pixels).shape == (2, 3, 16, 16)
    means = large.pixels.reshape(2, 64, 2, 32, 2).mean((2, 4)) / 255
    x = seen(large.pixels)[:, 0].numpy()
    assert x.shape == (2, 64, 64)
    np.testing.assert_allclose(x[:, :, 16:48], means, atol=1e-6)
    np.testing.assert_array_equal(x[:, :, :16], np.repeat(x[:, :, 16:17], 16, 2))  # edges are continued to a square
    np.testing.assert_array_equal(x[:, :, 48:], np.repeat(x[:, :, 47:48], 16, 2))


def test_images_between_are_seen_as_they_are():
    one = images(2, (28, 28), 1)
    x = seen(one.pixels)[:, 0].numpy() * 255
    assert x.shape == (2, 32, 32)
    np.testing.assert_allclose(x[:, 2:30, 2:30], one.pixels[..., 0], atol=1e-4)
    np.testing.assert_allclose(x, np.pad(one.pixels[..., 0], ((0, 0), (2, 2), (2, 2)), mode="edge"), atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4])
def test_colours_that_cannot_be_seen_do_not_count(channels):
    one = images(3, channels=channels)
    one.pixels[0, ..., -1], one.pixels[1, ..., -1], one.pixels[2, ..., -1] = 0, 255, 51
    other = ImageArrays(one.pixels.copy())
    other.pixels[0, ..., :-1] = 99
    np.testing.assert_array_equal(visible(one.pixels)[0], visible(other.pixels)[0])
    np.testing.assert_array_equal(visible(one.pixels)[1], one.pixels[1])
    np.testing.assert_array_equal(visible(one.pixels)[2, ..., :-1], np.rint(one.pixels[2, ..., :-1] / 5))
    assert metrics.psnr(one, other).tolist() == [math.inf] * 3
    assert metrics.nearest(one, other).tolist() == [0, 0, 0]


def test_turns_are_the_symmetries_of_the_square_each_once():
    one = images(1, (5, 5)).pixels
    found = {turned(one, np.array([turn])).tobytes() for turn in range(8)}
    square = [np.rot90(one, k, (1, 2)) for k in range(4)]
    assert found == {x.tobytes() for way in square for x in (way, way[:, ::-1])}
    flat = images(1, (3, 5)).pixels
    found = {turned(flat, np.array([turn])).tobytes() for turn in range(4)}
    assert found == {x.tobytes() for way in (flat, flat[:, ::-1]) for x in (way, way[:, :, ::-1])}
    many = images(50, (4, 4)).pixels
    turn = np.random.default_rng(0).integers(8, size=50)
    for i in range(50):
        np.testing.assert_array_equal(turned(many, turn)[i], turned(many[i : i + 1], turn[i : i + 1])[0])


def test_shifts_are_uniform_and_continue_the_edges():
    x = torch.arange(49.0).reshape(1, 1, 7, 7).expand(4000, 2, 7, 7)
    moved = shifted(x, 2, np.random.default_rng(0))
    padded = np.pad(x[0, 0].numpy(), 2, mode="edge")
    place = {padded[i : i + 7, j : j + 7].tobytes(): (i, j) for i in range(5) for j in range(5)}
    found = [place[one[0].numpy().tobytes()] for one in moved]
    assert torch.equal(moved[:, 0], moved[:, 1])
    counts = np.unique(found, axis=0, return_counts=True)[1]
    assert len(counts) == 25
    assert stats.chisquare(counts).pvalue > 1e-3


# The feature space


def test_equal_sets_are_nothing_apart(digits, features):
    some = digits.select(np.arange(1000, 1400))
    again = ImageArrays(some.pixels.copy(), some.words)
    assert features.frechet(some, again) == pytest.approx(0, abs=1e-9)
    assert features.distance(some, again).max() == 0
    x = features.describe(some)
    scores = distances(x, x, OPTIONS)
    assert scores["precision"].value == scores["recall"].value == scores["coverage"].value == 1
    assert features.describe(digits.select(HALF)).var(0).sum() == pytest.approx(100)


def test_digits_are_recognised_from_a_thousand(digits, features):
    assert features.held_out is None
    assert len(features.trained_on) == 1000
    found = features.accuracy(digits.select(np.arange(1000, 1797)))
    assert found.n == 797
    assert found.value > 0.97
    turns = metrics.Features.fit(digits.select(np.arange(500)), steps=60, held_out=0.5)
    assert turns.held_out.n == 250
    assert turns.held_out.value == turns.accuracy(digits.select(np.setdiff1d(np.arange(500), turns.trained_on))).value


def test_random_words_are_right_as_often_as_chance_has_it(digits, features):
    """Each of n images is right with probability 1/10, whatever the classifier sees: an exactly binomial number."""
    words = np.random.default_rng(0).integers(10, size=len(digits)).astype(str)
    found = features.accuracy(ImageArrays(digits.pixels, words))
    low, high = stats.binom.interval(0.999, len(digits), 0.1)
    assert low <= round(found.value * len(digits)) <= high
    wrong = ((digits.words.astype(int) + 1) % 10).astype(str)
    assert features.accuracy(ImageArrays(digits.pixels, wrong)).value < 0.02
    assert features.accuracy(ImageArrays(digits.pixels, np.full(len(digits), "never seen"))).value == 0
    assert features.accuracy(ImageArrays(digits.pixels)) is None


LADDER = {"noise": (0.1, 0.2, 0.4), "blur": (0.5, 0.8, 1.5), "holes": (0.4, 0.6, 0.8), "invert": (0.1, 0.4, 1.0)}


@pytest.mark.parametrize("space", ["features", "unnamed"])
@pytest.mark.parametrize("kind", LADDER)
def test_images_that_are_spoilt_more_lie_farther_away(digits, space, kind, request):
    network = request.getfixturevalue(space)
    one, other = digits.select(np.arange(1000, 1400)), digits.select(np.arange(1400, 1797))
    rungs = [one, *(metrics.spoil(one, kind, amount) for amount in LADDER[kind])]
    apart = [network.frechet(rung, other) for rung in rungs]
    pairs = [network.distance(one, rung).mean() for rung in rungs]
    dB = [metrics.psnr(one, rung).mean() for rung in rungs[1:]] if kind != "invert" else [3, 2, 1]
    assert apart == sorted(apart)
    assert apart[-1] > 10 * apart[0]
    assert pairs == sorted(pairs)
    assert dB == sorted(dB, reverse=True)


def test_one_real_image_is_as_far_from_another_as_the_unit_says(digits, features):
    some = digits.select(HALF)
    order = np.random.default_rng(0).permutation(1000)
    far = features.distance(some.select(order[:500]), some.select(order[500:]))
    assert np.sqrt((far**2).mean()) == pytest.approx(1, rel=0.03)


def test_missing_classes_cost_recall(digits, features):
    real, rest = digits.select(np.arange(1000, 1397)), digits.select(np.arange(1397, 1794))
    half = rest.select(rest.words < "5")
    truth = features.describe(real)
    whole, missing = (distances(features.describe(one), truth, OPTIONS) for one in (rest, half))
    assert missing["recall"].value < 0.7 < 0.8 < whole["recall"].value
    assert missing["coverage"].value < 0.7 < 0.8 < whole["coverage"].value
    assert missing["precision"].value > 0.8


def test_blur_costs_precision(digits):
    """By how much depends on the network that looks, and its training on the machine: bounds hold for four of them."""
    real, rest = digits.select(np.arange(1000, 1397)), digits.select(np.arange(1397, 1794))
    found = []
    for seed in range(4):
        network = metrics.Features.fit(digits.select(HALF), seed=seed, steps=200, held_out=0)
        truth = network.describe(real)
        whole, blurred = (
            distances(network.describe(one), truth, OPTIONS) for one in (rest, metrics.spoil(rest, "blur", 1.5))
        )
        assert blurred["precision"].value < whole["precision"].value
        assert whole["told_apart"].value < 0.6 < 0.9 < blurred["told_apart"].value
        found.append([of[name].value for name in ("precision", "density") for of in (whole, blurred)])
    precision, of_blurred, density, density_of_blurred = np.mean(found, 0)
    assert of_blurred < 0.5 < 0.8 < precision
    assert density_of_blurred < 0.5 * density


def test_one_seed_gives_the_same_digits_bit_for_bit(digits):
    some = digits.select(np.arange(300))
    one, again, other = (metrics.Features.fit(some, seed=seed, steps=5) for seed in (3, 3, 4))
    assert one.digest() == again.digest() != other.digest()
    np.testing.assert_array_equal(one.describe(some), again.describe(some))
    tables = [metrics.evaluate(some, digits.select(HALF), seed=1, steps=5, n_resamples=5).to_json() for _ in range(2)]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_mnist_is_recognised():
    folder = os.environ.get("GENDIFF_DATA")
    if not folder:
        pytest.skip("GENDIFF_DATA is not set")
    data = np.load(Path(folder) / "images" / "mnist.npz")
    arrays = ImageArrays(data["images"], data["labels"].astype(str))
    found = metrics.Features.fit(arrays)
    assert len(found.trained_on) == 20_000
    assert found.held_out.n == 5000
    assert found.accuracy(arrays.select(np.setdiff1d(np.arange(len(arrays)), found.trained_on))).value > 0.99


# Copies


def brute(a, b):
    difference = a.pixels[:, None].astype(float) - b.pixels[None]
    return np.sqrt((difference**2).reshape(len(a), len(b), -1).mean(2))


def test_the_nearest_is_that_of_all_pairs(digits):
    one, other = digits.select(np.arange(100)), digits.select(np.arange(100, 1200))
    np.testing.assert_allclose(metrics.nearest(one, other), brute(one, other).min(1), rtol=1e-12)
    within = brute(one, one)
    np.fill_diagonal(within, np.inf)
    np.testing.assert_allclose(metrics.nearest(one, one, np.arange(100)), within.min(1), rtol=1e-12)
    assert metrics.nearest(one.select([0]), one.select([0]), np.array([0])).tolist() == [math.inf]


def test_the_nearest_of_large_images_is_found_by_small_ones():
    """Smooth images of 50 × 40, as real ones are: each has its own copy with a little noise among many others."""
    random = np.random.default_rng(0)
    smooth = random.integers(0, 256, (300, 5, 4, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    noisy = metrics.spoil(ImageArrays(smooth[:100]), "noise", 0.05)
    own = np.sqrt(((noisy.pixels - smooth[:100].astype(float)) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(metrics.nearest(noisy, ImageArrays(smooth)), own, rtol=1e-12)


def test_planted_copies_are_found_each_one(digits):
    """40 of 160 are equal to a training image, 40 differ from one by a level here and there, 80 are others."""
    training, held_out = digits.select(np.arange(900)), digits.select(np.arange(900, 1797))
    pixels = np.concatenate([training.pixels[:80], held_out.pixels[:80]])
    near = pixels[40:80]
    pixels[40:80] = np.where(np.random.default_rng(0).random(near.shape) < 0.2, near ^ 1, near)
    suite = metrics.Suite(held_out.select(np.arange(80, 897)), training=training, steps=5)
    table = suite.evaluate(ImageArrays(pixels), n_resamples=5)
    assert table["equal"].generated.value == 40 / 160
    assert table["equal"].reference.value == 0
    assert 80 / 160 <= table["copies"].generated.value < 90 / 160
    assert table["copies"].reference.value < 0.05
    assert table["unique"].generated.value == 1
    again = suite.evaluate(ImageArrays(np.repeat(held_out.pixels[:2], 40, 0)), n_resamples=5)
    assert again["unique"].generated.value == 0
    assert again["equal"].generated.value == 0


# Pairs


def test_decibels_have_their_closed_form():
    one = ImageArrays(np.full((4, 5, 7, 3), 100, np.uint8))
    other = ImageArrays(one.pixels.copy())
    other.pixels[1] = 110
    other.pixels[2, 0, 0, 0] = 255
    other.pixels[3, ..., 1] = 97
    expected = [math.inf, 20 * math.log10(255 / 10), 10 * math.log10(255**2 * 105 / 155**2), 10 * math.log10(3 * 85**2)]
    np.testing.assert_allclose(metrics.psnr(one, other), expected, rtol=1e-14)
    np.testing.assert_array_equal(metrics.psnr(other, one), metrics.psnr(one, other))
    black, white = (ImageArrays(np.full((1, 2, 2), level, np.uint8)) for level in (0, 255))
    assert metrics.psnr(black, white).tolist() == [0]
    noise = metrics.spoil(ImageArrays(np.full((20, 64, 64), 128, np.uint8)), "noise", 10 / 255)
    clean = ImageArrays(np.full((20, 64, 64), 128, np.uint8))
    # The variance of the noise, and that of rounding to whole levels.
    assert metrics.psnr(clean, noise).mean() == pytest.approx(10 * math.log10(255**2 / (100 + 1 / 12)), abs=0.05)
    with pytest.raises(ValueError, match="pairs need two sets of one shape"):
        metrics.psnr(one, black)


def test_faults_are_what_they_say():
    one = images(200, (9, 12))
    for kind in LADDER:
        np.testing.assert_array_equal(metrics.spoil(one, kind, 0).pixels, one.pixels)
    negative = (metrics.spoil(one, "invert", 0.3).pixels == 255 - one.pixels).all((1, 2, 3))
    assert stats.binom.cdf(negative.sum(), 200, 0.3) == pytest.approx(0.5, abs=0.499)
    np.testing.assert_array_equal(metrics.spoil(one, "invert", 1).pixels, 255 - one.pixels)
    hole = (metrics.spoil(one, "holes", 0.5).pixels == np.rint(one.pixels.mean((1, 2), keepdims=True))).all(-1)
    assert (hole.sum((1, 2)) >= 16).all()  # a half of 9 is 4 pixels, to the nearest even
    assert np.median(hole.sum((1, 2))) == 16
    assert {(x.any(1).argmax(), x.any(0).argmax()) for x in hole} >= {(i, j) for i in (0, 5) for j in (0, 8)}
    flat = ImageArrays(np.full((2, 9, 9, 3), 77, np.uint8))
    np.testing.assert_array_equal(metrics.spoil(flat, "blur", 2).pixels, flat.pixels)
    with pytest.raises(ValueError, match="kind must be one of noise, blur, holes, invert"):
        metrics.spoil(one, "swirl", 0.1)
    with pytest.raises(ValueError, match="amount fit it"):
        metrics.spoil(one, "holes", 1.1)


# The table


def test_the_table_has_every_number_beside_its_floor(digits):
    table = metrics.evaluate(digits.select(np.arange(300)), digits.select(np.arange(300, 1797)), steps=60)
    assert [metric.name for metric in table.metrics] == [name for name in metrics.METRICS if name != "fid"]
    for metric in table.metrics:
        for value in (metric.generated, metric.reference):
            assert value.low <= value.value <= value.high, metric.name
    assert table["recognised"].generated.value > 0.9
    assert table["recognised"].reference.value > 0.9
    assert table["frechet"].generated.value < 3 * table["frechet"].reference.value
    assert table["kernel"].generated.low < 0 < table["kernel"].generated.high
    assert "trained on 10 words of 598 images" in table.facts["network"]


def test_without_words_there_is_nothing_to_recognise(digits):
    plain = ImageArrays(digits.pixels)
    table = metrics.evaluate(plain.select(np.arange(100)), plain.select(np.arange(100, 700)), steps=3, n_resamples=3)
    assert "recognised" not in table
    assert "entropy" not in table
    assert "how an image was turned, of 240 images" in table.facts["network"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9])
def test_small_references_have_a_table_too(digits, count):
    table = metrics.evaluate(digits.select(np.arange(50, 60)), digits.select(np.arange(count)), steps=2, n_resamples=2)
    assert table.lines()
    empty = digits.select([])
    table = metrics.evaluate(empty, digits.select(np.arange(count)), steps=2, n_resamples=2)
    assert all(metric.generated is None for metric in table.metrics)


def test_a_handful_of_images_has_no_distances_and_says_so(digits):
    real = digits.select(np.arange(100, 700))
    shown = {"frechet", "kernel", "precision", "told_apart"}
    for count in (49, 50):
        table = metrics.evaluate(digits.select(np.arange(count)), real, steps=2, n_resamples=2)
        names = {metric.name for metric in table.metrics}
        assert {"copies", "equal", "unique", "recognised"} <= names
        assert shown & names == (shown if count == 50 else set())
        assert ("; too few for distances, which take 50 of each at least" in table.facts["compared"]) == (count == 49)


@pytest.mark.parametrize("size", [(1, 1), (5, 17), (40, 20), (100, 30)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_size_and_channels_are_measured(monkeypatch, size, channels):
    monkeypatch.setattr("gendiff.metrics.paired.LEAST", 2)
    some = images(40, size, channels)
    table = metrics.evaluate(some.select(np.arange(12)), some.select(np.arange(12, 40)), steps=2, n_resamples=2)
    assert "frechet" in table
    assert "copies" in table


def test_sets_that_cannot_be_compared_are_named(digits, features):
    wide = ImageArrays(np.zeros((3, 9, 8, 3), np.uint8))
    with pytest.raises(UserError, match="generated images are 8 x 9 RGB, the reference 8 x 8 gray"):
        metrics.evaluate(wide, digits.select(HALF), steps=1)
    with pytest.raises(UserError, match="training images are 8 x 9 RGB"):
        metrics.Suite(digits, training=wide)
    with pytest.raises(ValueError, match="trained on images of 8 x 8 gray, not 8 x 9 RGB"):
        features.describe(wide)
    with pytest.raises(ValueError, match="no images to describe"):
        features.describe(digits.select([]))
    with pytest.raises(ValueError, match="two sets of one length"):
        features.distance(digits.select([0]), digits.select([0, 1]))
    with pytest.raises(ValueError, match="at least 2 images"):
        metrics.Features.fit(digits.select([0]))
    with pytest.raises(ValueError, match="nothing to recognise"):
        metrics.recognition(ImageArrays(digits.pixels), digits, steps=1)


# FID


def test_fid_is_not_measured_unless_it_can_be(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception_room, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="FID needs torch-fidelity; install it"):
        metrics.evaluate(digits, digits, steps=1, fid=True)
    monkeypatch.setattr(inception_room, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="FID needs the weights of Inception"):
        metrics.evaluate(digits, digits, steps=1, fid=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / Path(inception_room.URL).name).write_bytes(b"no weights")
    with pytest.raises(UserError, match="is damaged or another file"):
        metrics.evaluate(digits, digits, steps=1, fid=True)


def test_inception_sees_rgb_on_white():
    gray, alpha = images(2, channels=1).pixels, images(2, channels=4).pixels
    np.testing.assert_array_equal(inception_room.rgb(gray), gray.repeat(3, -1))
    alpha[0, ..., 3], alpha[1, ..., 3] = 0, 255
    np.testing.assert_array_equal(inception_room.rgb(alpha)[0], 255)
    np.testing.assert_array_equal(inception_room.rgb(alpha)[1], alpha[1, ..., :3])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
@pytest.mark.filterwarnings("ignore")
def test_fid_is_that_of_torchmetrics(monkeypatch, tmp_path):
    """With random weights: the number does not depend on what the weights are."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

    path = tmp_path / "checkpoints" / Path(inception_room.URL).name
    path.parent.mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
    weights = FeatureExtractorInceptionV3("x", ["2048"]).state_dict()
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception_room, "sha256", lambda path: "6726825d")
    torch.save(weights, path)
    monkeypatch.setattr("gendiff.metrics.paired.LEAST", 2)
    some = images(60, (16, 16))
    table = metrics.evaluate(some.select(np.arange(20)), some.select(np.arange(20, 60)), steps=1, fid=True)
    one = metrics.Suite(some.select(np.arange(20, 60)), steps=1, fid=True)
    network = NoTrainInceptionV3("x", ["2048"], str(path), antialias=False)
    network.num_features = 2048
    theirs = FrechetInceptionDistance(feature=network, normalize=False)
    rng = np.random.default_rng([0, 1])
    drawn = some.select(np.arange(20)).select(rng.permutation(20))
    real = one.reference.select(rng.permutation(one.unseen[0]))
    count = min(len(drawn), len(real))
    theirs.update(torch.from_numpy(real.pixels[:count]).movedim(-1, 1), real=True)
    theirs.update(torch.from_numpy(drawn.pixels[:count]).movedim(-1, 1), real=False)
    assert table["fid"].generated.value == pytest.approx(float(theirs.compute()), rel=1e-3)
