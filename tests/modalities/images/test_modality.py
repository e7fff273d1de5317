"""The image adapter: what it learns of examples, what it makes of states, and what a model says of images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gendiff import UserError
from gendiff.catalog import builtin
from gendiff.decoder import byte_log_prob
from gendiff.denoise import AnalyticDenoiser
from gendiff.modalities.images.modality import Images, sides
from gendiff.modalities.images.networks import build_network
from gendiff.modalities.images.records import Image, ImageArrays
from gendiff.model import Model, load
from gendiff.model.batches import PIXELS_PER_BATCH, affordable
from gendiff.model.model import spread
from gendiff.objective import Hybrid
from gendiff.ops import Random
from gendiff.sample import DPMSolver


@pytest.fixture(scope="module")
def digits():
    return Images.read([builtin("digits")])[0]


@pytest.fixture(scope="module")
def model(digits):
    """A model of digits whose weights, also those that begin at zero, are random."""
    torch.manual_seed(0)
    adapter = Images.fit(digits)
    denoiser = adapter.denoiser("tiny")
    for weights in denoiser.parameters():
        weights.data += 0.02 * torch.randn_like(weights)
    return Model(adapter, denoiser, DPMSolver(4))


def noise(count, size=(4, 6), channels=3, words=None):
    """Images of random bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, channels), np.uint8)
    return ImageArrays(pixels, np.array(words) if words else None)


def pixels(images):
    return np.stack([image.pixels for image in images])


# What it learns of examples


def test_what_it_learns_of_the_digits(digits):
    adapter = Images.fit(digits)
    assert (adapter.size, adapter.channels) == ([8, 8], 1)
    assert adapter.counts == {word: int((digits.words == word).sum()) for word in sorted(set(digits.words))}
    states = adapter.encode(digits).batch(torch.arange(len(digits))).state["pixel"]
    assert adapter.scale == pytest.approx(float(states.double().square().mean().sqrt()), abs=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_byte_comes_back(channels):
    images = ImageArrays(np.arange(256, dtype=np.uint8).repeat(2 * channels).reshape(2, 16, 16, channels))
    adapter = Images.fit(images)
    batch = adapter.encode(images).batch(torch.tensor([1, 0]))
    assert batch.state["pixel"].shape == (2, channels, 16, 16)
    assert float(batch.state["pixel"].abs().max()) == 1
    assert np.array_equal(pixels(adapter.decode(batch.state, torch.ones(2, 1, dtype=torch.bool))), images.pixels[::-1])


def test_values_beyond_a_byte_are_clipped_and_what_is_no_number_is_flagged():
    adapter = Images((1, 3), 1)
    state = {"pixel": torch.tensor([[-1.5, 0.0, 1.5], [0.0, math.nan, 0.0]]).view(2, 1, 1, 3)}
    first, second = adapter.decode(state, torch.ones(2, 1, dtype=torch.bool))
    assert first.pixels.ravel().tolist() == [0, 128, 255]
    assert adapter.keep([first, second], ["valid"], set()) == [True, False]


def test_classes_are_drawn_as_often_as_they_occur_and_those_without_are_told_none():
    images = noise(8, words=["b", "a", "", "b", "b", "", "a", "b"])
    adapter = Images.fit(images)
    assert adapter.classes == ["a", "b"]
    assert adapter.encode(images).condition["class"].tolist() == [1, 0, -1, 1, 1, -1, 0, 1]
    drawn = adapter.complete({}, Random(0, 3000))["class"]
    share = (drawn == 1).double().mean().item()
    assert abs(share - 4 / 6) < 4 * math.sqrt(2 / 9 / 3000)  # four deviations of that many draws
    asked = adapter.condition({"class": ["a", "b", "b"]})
    assert adapter.complete(asked, Random(0, 3)) is asked
    assert asked["class"].tolist() == [0, 1, 1]


def test_one_word_is_no_class():
    adapter = Images.fit(noise(3, words=["a", "a", ""]))
    assert (adapter.classes, adapter.counts) == ([], {"": 3})
    assert adapter.complete({}, Random(0, 3)) == {}
    with pytest.raises(UserError, match="at least two classes"):
        Images.fit(noise(2), conditions=["class"])
    with pytest.raises(UserError, match="not 'logP'"):
        Images.fit(noise(2, words=["a", "b"]), conditions=["class", "logP"])


def test_images_of_another_size_or_depth_are_refused(digits):
    adapter = Images.fit(digits)
    with pytest.raises(UserError, match="image 1: has 6 x 4 RGB pixels; this model knows 8 x 8 gray"):
        adapter.encode(noise(1))
    with pytest.raises(UserError, match="cannot say what is new"):
        adapter.known(noise(1, (8, 8), 3))
    with pytest.raises(UserError, match="all images of this model are 8 x 8 gray; leave it out"):
        adapter.draw_sizes(Random(0, 3), 12, None)
    assert adapter.draw_sizes(Random(0, 3)).tolist() == [1, 1, 1]


def test_what_was_done_to_the_training_data_is_done_to_others():
    """But no more than that: of what was left as it was, others are refused."""
    small = Images.fit(noise(2, (4, 4), 1), reading={"resize": "4", "channels": None, "labels": "classes.csv"})
    assert small.reading == small.protocol() == {"resize": "4"}
    squares = noise(2, (4, 4), 1)
    large = ImageArrays(squares.pixels.repeat(2, 1).repeat(2, 2))  # whose halves, by averages, are exact
    assert torch.equal(small.encode(large).fields["pixel"], small.encode(squares).fields["pixel"])
    with pytest.raises(UserError, match="has 8 x 8 RGB pixels; this model knows 4 x 4 gray"):
        small.encode(noise(2, (8, 8), 3))
    gray = Images.fit(noise(2, (4, 4), 1), reading={"channels": "gray"})
    assert gray.unknown(noise(1, (4, 4), 3)) == [""]
    assert gray.encode(noise(1, (4, 4), 3)).fields["pixel"].shape == (1, 1, 4, 4)
    assert gray.unknown(noise(1, (8, 8), 3)) == [
        "8 x 8 RGB pixels; this model knows 4 x 4 gray"
    ]  # as they are in the file


def test_what_is_new_is_told_by_the_bytes():
    images = noise(3, (2, 2), 1)
    adapter = Images.fit(images)
    same, other = images[0], Image(images[0].pixels ^ np.uint8(1))
    assert adapter.keep([same, other], ["new"], adapter.known(images)) == [False, True]


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), (64, (64, 64)), ("64", (64, 64)), (" 64x48 ", (48, 64)), ("64 × 48", (48, 64))]
)
def test_sizes_are_width_by_height(text, size):
    assert sides(text) == size


@pytest.mark.parametrize("text", ["", "x", "64x", "0", "64x0", "-3", "6.5", "64x48x3", "1234567"])
def test_no_size(text):
    with pytest.raises(UserError, match="is no size; write 64, or 64x48"):
        sides(text)


def test_impossible_arguments():
    for arguments in ((8,), 1), ((0, 8), 1), ((8, 8), 5), ((8, 8), 1, {"a": 1}, 0.0), ((8, 8), 1, {"a": 0}):
        with pytest.raises(ValueError, match=r"images have|positive counts"):
            Images(*arguments)


# Training


def test_half_of_the_images_are_mirrored_each_by_its_own_stream():
    images = noise(400, (3, 5), 2)
    adapter = Images.fit(images, flip=True)
    batch = adapter.encode(images).batch(torch.arange(400))
    x = batch.state["pixel"]
    y = adapter.augmented(batch.state, None, Random(1, batch.index))["pixel"]
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(y, torch.where(mirrored[:, None, None, None], x.flip(-1), x))
    assert abs(int(mirrored.sum()) - 200) < 4 * 10  # four deviations
    alone = adapter.augmented({"pixel": x[7:8]}, None, Random(1, torch.tensor([7])))["pixel"]
    assert torch.equal(alone, y[7:8])
    assert Images.fit(images).augmented(batch.state, None, Random(1, batch.index)) is batch.state


def test_a_learned_variance_lies_between_the_small_and_the_large(digits):
    """Its loss is the plain one and the bound, and a network that says nothing of it says the middle."""
    adapter = Images.fit(digits, learn_variance=True)
    denoiser, plain = adapter.denoiser("tiny"), Images.fit(digits)
    batch = adapter.encode(digits).batch(torch.arange(4))
    t = torch.full((4,), 0.5)
    assert torch.equal(denoiser(batch.state, t).fraction["pixel"], torch.full((4, 1, 8, 8), 0.5))
    objective = adapter.objective()
    assert isinstance(objective, Hybrid)
    random = [Random(0, 4) for _ in range(2)]
    loss, _ = objective(denoiser, batch.state, None, None, random[0])
    simple = Hybrid(bound=0.0, weighting="network")(denoiser, batch.state, None, None, random[1])[0]
    assert ((loss - simple) > 0).all()
    assert len(Model(adapter, denoiser, adapter.sampler()).sample(2, steps=2)) == 2
    assert not plain.denoiser("tiny")(batch.state, t).fraction


# Networks


def test_base_is_the_network_of_ddpm_for_cifar():
    network = build_network(None, "base", (32, 32), {"pixel": 3}, {})
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


@pytest.mark.parametrize(
    ("size", "multipliers", "attention", "patch"),
    [
        ((8, 8), [1, 2], [8], 1),
        ((28, 28), [1, 2], [7], 2),
        ((32, 48), [1, 1, 2], [8], 2),
        ((64, 64), [1, 1, 2], [8], 4),
        ((33, 28), [1, 1, 2], [7], 1),
        ((3, 5), [2], [3], 1),
    ],
)
def test_resolutions_follow_the_size(size, multipliers, attention, patch):
    network = build_network(None, "tiny", size, {"pixel": 1}, {})
    assert (network.multipliers, network.attention, network.patch) == (multipliers, attention, patch)
    y = network({"pixel": torch.zeros(1, 1, *size)}, torch.zeros(1, 1))["pixel"]
    assert y.shape == (1, 1, *size)


def test_unknown_networks():
    with pytest.raises(UserError, match="unknown preset 'huge'; choose from tiny, small, base"):
        Images((8, 8), 1).denoiser("huge")
    with pytest.raises(UserError, match="unknown network 'egnn'; choose from unet"):
        Images((8, 8), 1).denoiser("tiny", "egnn")


# Drawing


def test_a_sample_depends_on_the_seed_and_its_number_alone(model):
    """Sums of convolutions come in another order in batches of another size, and a rounding may turn over by one."""
    whole = model.draw(20, seed=3, condition={"class": ["7", "2", "0"]}).records
    assert [image.word for image in whole] == (["7", "2", "0"] * 7)[:20]
    parts = model.draw(20, seed=3, condition={"class": ["7", "2", "0"]}, batch_size=3).records
    apart = np.abs(pixels(whole).astype(int) - pixels(parts))
    assert apart.max() <= 1
    assert apart.mean() < 0.01
    assert np.abs(pixels(whole).astype(int) - pixels(model.sample(20, seed=4))).mean() > 10


def test_the_class_is_told(model):
    """The same noise under two classes becomes two images."""
    seven, two = (pixels(model.sample(4, condition={"class": word})) for word in ("7", "2"))
    assert not np.array_equal(seven, two)
    with pytest.raises(UserError, match="class 'x' cannot be asked of this model; it knows '0', '1', '2'"):
        model.sample(1, condition={"class": "x"})


def test_a_loaded_model_draws_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config() == model.config()
    assert np.array_equal(pixels(again.sample(5, seed=1)), pixels(model.sample(5, seed=1)))
    assert [image.word for image in again.sample(5, seed=1)] == [image.word for image in model.sample(5, seed=1)]


def test_a_film_begins_with_noise_and_ends_with_the_samples(model):
    frames = model.film(3, 3, seed=2)
    assert len(frames) == 3
    assert np.array_equal(pixels(frames[-1]), pixels(model.sample(3, seed=2)))
    random = Random(2, 3)
    state = model.modality.process().noise(None, Random(2, torch.arange(3), draws=random.draws + 1))
    assert np.array_equal(pixels(frames[0]), pixels(model.modality.decode(state, torch.ones(3, 1, dtype=torch.bool))))


def test_batches_of_large_images_are_small():
    small, large = (Images((side, side), 3).process() for side in (28, 512))
    assert affordable(256, small) == 256
    assert affordable(256, large) == PIXELS_PER_BATCH // 512**2 == 4
    assert affordable(256, Images((4096, 4096), 3).process()) == 1


# Likelihoods, of a model that believes in N(mean, std^2) for every pixel

MEAN, STD = -0.2, 0.3


class Gaussian(torch.nn.Module):
    """The exact denoiser of that, as a model holds one."""

    def __init__(self, process):
        super().__init__()
        self.exact = AnalyticDenoiser(process, [1.0], {"pixel": (MEAN, STD)})
        self.process = process
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, *inputs):
        return self.exact(*inputs)


def gaussian(count, size, channels):
    """Such a model, and images of its law, which hardly ever leave 0 to 255."""
    adapter = Images(size, channels)
    x = np.random.default_rng(1).normal(MEAN, STD, (count, *size, channels))
    images = ImageArrays(np.rint(127.5 * (x + 1)).clip(0, 255).astype(np.uint8))
    return Model(adapter, Gaussian(adapter.process())), images


def density(model, images, seed=0):
    """Log-density of the images where `log_prob` looks, in units of a byte: the sum of that of each number."""
    index = torch.arange(len(images))
    x = spread(model.modality.encode(images).batch(index).state["pixel"], Random(seed, index)).double()
    each = -0.5 * ((x - MEAN) / STD) ** 2 - math.log(STD * math.sqrt(2 * math.pi)) - math.log(127.5)
    return each.flatten(1).sum(1)


def test_the_flow_gives_the_density_of_bytes():
    model, images = gaussian(2, (4, 6), 3)
    found = model.log_prob(images, "flow", seed=1)
    assert found["dim"].tolist() == [72.0] * 2
    assert found["volume"].tolist() == pytest.approx([72 * math.log(127.5)] * 2)
    torch.testing.assert_close(found["log_prob"], density(model, images, seed=1), rtol=0, atol=0.02)
    assert not torch.equal(
        model.log_prob(images, steps=9)["log_prob"], model.log_prob(images, steps=9, seed=1)["log_prob"]
    )


def test_the_bound_lies_below_and_rises_with_its_steps():
    model, images = gaussian(6, (4, 6), 3)
    exact = density(model, images)
    gaps = [float((exact - model.log_prob(images, steps=steps)["log_prob"]).mean() / 72) for steps in (20, 60, 180)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.4  # nats a number


def test_bytes_have_a_probability_that_is_bounded_from_below():
    """Of a normal law it is known; the bound rises to it with its steps, and its parts add up to it."""
    model, images = gaussian(6, (4, 6), 3)
    x = model.modality.encode(images).batch(torch.arange(6)).state["pixel"]
    exact = byte_log_prob(x, torch.tensor(MEAN), torch.tensor(STD)).flatten(1).sum(1)
    found = [model.log_prob(images, "bytes", steps) for steps in (20, 60, 180)]
    gaps = [float((exact - each["log_prob"]).mean() / 72) for each in found]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.4  # nats a number
    parts = sum(found[2][part] for part in ("prior", "diffusion", "reconstruction"))
    torch.testing.assert_close(found[2]["log_prob"], -parts)
    assert found[2]["volume"].tolist() == [0.0] * 6


def test_bits_per_dimension_of_a_normal_law():
    """They are its entropy in bytes, log2(127.5 std sqrt(2 pi e)); the spread within a bin costs next to nothing."""
    model, images = gaussian(8, (32, 32), 1)
    bits = -model.log_prob(images, "flow")["log_prob"] / (1024 * math.log(2))
    entropy = math.log2(127.5 * STD * math.sqrt(2 * math.pi * math.e))
    deviation = 1 / (math.sqrt(2) * math.log(2)) / math.sqrt(8 * 1024)  # of a mean of chi-squares
    assert abs(float(bits.mean()) - entropy) < 4 * deviation


def test_the_spread_within_a_bin_is_even():
    x = spread(torch.zeros(1, 1, 100, 100), Random(0, 1))
    assert float(x.abs().max()) <= 0.5 / 127.5
    assert float(x.std()) * 127.5 == pytest.approx(1 / math.sqrt(12), rel=0.03)


def test_codes_are_the_standardized_images_and_give_them_back():
    """On the way to noise the flow of a normal law keeps every number at its quantile."""
    model, images = gaussian(3, (4, 6), 3)
    codes = model.encode(images, steps=200, batch_size=2)
    state = model.modality.encode(images).batch(torch.arange(3)).state["pixel"]
    torch.testing.assert_close(codes.fields["pixel"], (state - MEAN) / STD, rtol=0, atol=0.01)
    back = model.decode(codes, batch_size=2)
    assert np.abs(pixels(back).astype(int) - images.pixels).max() <= 1


@pytest.mark.parametrize("name", ["out.npz", "folder"])
def test_samples_are_read_back_with_their_classes(model, tmp_path, name):
    records = model.draw(6, condition={"class": ["3", "4"]}).records
    model.write(records, tmp_path / name)
    again, _ = Images.read([tmp_path / name])
    order = np.argsort(again.words, kind="stable")
    assert again.words[order].tolist() == ["3"] * 3 + ["4"] * 3
    assert np.array_equal(again.pixels[order], pixels(sorted(records, key=lambda image: image.word)))
