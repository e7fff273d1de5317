"""Edits of pictures: pixels that stay are the bytes of the input, the rest has the law that they give it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from gendiff.cli import main
from gendiff.denoise import AnalyticDenoiser, Estimate
from gendiff.files import UserError
from gendiff.modalities.images.edit import DRAWN, RESTORED, TASKS, blocks, read_parts, usual, without_loss
from gendiff.modalities.images.encode import from_state, to_state
from gendiff.modalities.images.modality import Images
from gendiff.modalities.images.records import Image, ImageArrays
from gendiff.modalities.images.restore import DEGRADATIONS, enlarge, gray, hide, jpeg
from gendiff.modalities.images.systems import SYSTEMS
from gendiff.modalities.images.write import write_images
from gendiff.model import Model
from gendiff.model.edit import slerp
from gendiff.model.tasks import find_task, sampler_of
from gendiff.sample import Ancestral, DPMSolver

FREE = [name for name, system in SYSTEMS.items() if not system.tasks]


class Exact(AnalyticDenoiser):
    """The exact denoiser; a model asks its weights where they are."""

    def __init__(self, *args):
        super().__init__(*args)
        self.place = nn.Parameter(torch.zeros(1))


def exact(weights, law, size=(4, 4), channels=1, sampler=None, **fitting):
    """The model of a mixture of pictures."""
    adapter = Images(size, channels, **fitting)
    return Model(adapter, Exact(adapter.process(), weights, {"pixel": law}), sampler)


def pictures(count=1, size=(4, 4), channels=1, seed=0):
    """Pictures of all bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *size, channels), dtype=np.uint8)
    return [Image(each, name=f"p{number}") for number, each in enumerate(pixels)]


def half(size=(4, 4)):
    """The right half of a picture."""
    return np.tile(np.arange(size[1]) >= size[1] // 2, (size[0], 1))


def stacked(records):
    return np.stack([record.pixels for record in records])


# What stays


@pytest.mark.parametrize("system", FREE)
@pytest.mark.parametrize("task", ["inpaint", "uncrop"])
def test_what_stays_is_the_inputs_own_bytes_and_the_rest_is_new(system, task):
    sampler = Ancestral(8) if SYSTEMS[system].learn_variance else None
    model = exact([1.0], (0.0, 0.5), system=system, sampler=sampler)
    (given,) = pictures(size=(4, 2) if task == "uncrop" else (4, 4))
    free = half() if task == "inpaint" else np.tile([True, False, False, True], (4, 1))
    options = {"mask": half()} if task == "inpaint" else {}
    made = stacked(model.edit([given], task, 5, steps=8, resamples=2, **options).records)
    kept = given.pixels[:, :2] if task == "inpaint" else given.pixels
    assert np.array_equal(made[:, ~free].reshape(5, 4, 2, 1), np.broadcast_to(kept, (5, 4, 2, 1)))
    assert made[:, free].std(0).min() > 10


@pytest.mark.parametrize(("system", "sampler"), [("cfg", DPMSolver(20)), ("ddpm", Ancestral(100))])
def test_of_two_pictures_that_which_agrees_is_drawn(system, sampler):
    """One column of four is known, which is little in the noise in which it is decided which of both it will be."""
    law, n = 0.8 * to_state(stacked(pictures(2, seed=5))), 30
    model = exact([0.5, 0.5], (law, 0.1), system=system, sampler=sampler)
    free = np.tile([False, True, True, True], (4, 1))
    for number, pixels in enumerate(from_state(law)[0]):
        made = to_state(stacked(model.edit([Image(pixels)], "inpaint", n, mask=free).records))[:, :, free]
        away = (made - law[:, :, free][:, None]).square().mean((2, 3)).sqrt()  # 48 numbers of deviation 0.1
        assert (away[number] < 0.2).all()
        assert (away[1 - number] > 0.4).all()


def test_walks_are_guided_and_as_many_as_the_task_has():
    model = exact([1.0], (0.0, 0.5), sampler=Ancestral(200))
    assert sampler_of(model, "inpaint").steps == 20
    assert sampler_of(model, "inpaint", 80).steps == 80
    calls = []
    forward = model.denoiser.forward
    model.denoiser.forward = lambda *args, **kwargs: (calls.append(1), forward(*args, **kwargs))[1]
    model.edit(pictures(), "inpaint", 1, mask=half())
    assert len(calls) == 1 + 20 * 3 + 4


# What may change


def test_samples_depend_on_the_seed_and_their_number_alone():
    model = exact([0.5, 0.5], (torch.tensor([-0.4, 0.4])[:, None, None, None], 0.3), sampler=DPMSolver(6))
    for task, options in (("inpaint", {"mask": half()}), ("vary", {}), ("like", {"factor": 2})):
        whole = model.edit(pictures(), task, 7, seed=3, **options)
        part = model.edit(pictures(), task, 3, seed=3, batch_size=2, **options)
        assert np.array_equal(stacked(whole.records)[:3], stacked(part.records))
        other = model.edit(pictures(), task, 3, seed=4, **options)
        assert not np.array_equal(stacked(other.records), stacked(part.records))
    assert whole.indices == list(range(7))


def test_variations_go_from_the_picture_itself_to_fresh_ones():
    model, (given,) = exact([1.0], (0.0, 0.5), sampler=DPMSolver(6)), pictures()
    assert np.array_equal(stacked(model.edit([given], "vary", 2, strength=0).records), [given.pixels] * 2)
    away = [
        np.square(
            stacked(model.edit([given], "vary", 20, strength=strength).records) - given.pixels.astype(float)
        ).mean()
        for strength in (0.2, 0.5, 1.0)
    ]
    assert away == sorted(away)
    fresh, beside = (
        stacked(model.edit(pictures(seed=seed), "vary", 4, strength=1.0).records).astype(int) for seed in (0, 1)
    )
    assert np.abs(fresh - beside).max() <= 2  # the noise of t = 1 is what both come from


@pytest.mark.parametrize("spread", [0.4, 1.5])
@pytest.mark.parametrize("far", [True, False], ids=["far from where bytes end", "up to black and white"])
def test_what_is_like_a_picture_has_the_means_of_its_blocks(spread, far):
    """Blocks of 2 x 2; bytes are rounded, by half a byte at most."""
    model, (given,) = exact([1.0], (0.0, spread), sampler=DPMSolver(6)), pictures()
    given.pixels[:] = 96 + given.pixels // 4 if far else 255 * (given.pixels > 100)
    made = stacked(model.edit([given], "like", 8, factor=2).records).astype(float)

    def means(pixels):
        return pixels.reshape(-1, 2, 2, 2, 2).mean((2, 4))

    assert np.abs(means(made) - means(given.pixels.astype(float))).max() <= 0.5
    assert made.std(0).mean() > 20


def test_between_normal_pictures_the_way_is_the_arc():
    """The flow of N(0, s²) is linear, so that codes are pictures over s."""
    model, pair = exact([1.0], (0.0, 0.5)), pictures(2)
    made = stacked(model.edit(pair, "interpolate", 5, steps=40, batch_size=2).records).astype(float)
    first, second = to_state(stacked(pair))
    arc = from_state(slerp(first, second, torch.linspace(0, 1, 5)))[0]
    assert np.abs(made - arc).max() <= 2
    turned = model.edit(pair, "interpolate", 5, which=[2, 1], steps=40).records
    assert np.abs(stacked(turned)[::-1] - made).max() <= 2


# Models that restore


class Copies(nn.Module):
    """A denoiser that takes what it is told for the data."""

    def __init__(self, process):
        super().__init__()
        self.process, self.place, self.told = process, nn.Parameter(torch.zeros(1)), []

    def forward(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        self.told.append(condition)
        ((_, value),) = condition.items()
        return Estimate(self.process, x_t, t, {"pixel": value.nan_to_num(nan=0.25)})


def restorer(system="palette", size=(8, 8), channels=3, **fitting):
    adapter = Images(size, channels, system=system, **fitting)
    return Model(adapter, Copies(adapter.process()), Ancestral(3))


def test_what_a_model_restores_it_is_told_as_in_training():
    pair = pictures(2, (8, 8), 3)
    x = to_state(stacked(pair))
    sr3, small = restorer("sr3", factor=4), pictures(1, (2, 2), 3)
    wanted = {
        "enlarge": (sr3, small, {"image": enlarge(to_state(stacked(small)), 4)}, {}),
        "colourise": (restorer(), pair, {"image": gray(x)}, {}),
        "repair": (restorer(), pair, {"image": x}, {}),
        "inpaint": (restorer(), pair, {"known": hide(x, torch.from_numpy(half((8, 8))))}, {"mask": half((8, 8))}),
    }
    for task, (model, given, told, options) in wanted.items():
        done = model.edit(given, task, None if len(given) > 1 else 1, **options)
        assert len(done.records) == len(given)  # one of each
        ((name, value),) = told.items()
        for seen in model.denoiser.told:
            torch.testing.assert_close(seen[name], value, rtol=0, atol=0, equal_nan=True)
        assert np.array_equal(stacked(done.records), from_state(value.nan_to_num(nan=0.25))[0])
        assert [record.facts["edit"] for record in done.records] == [task] * len(given)
        assert [record.facts["input"] for record in done.records] == [image.name for image in given]


def test_a_damaged_picture_is_told_as_it_is_and_a_gray_one_in_colours():
    (given,) = pictures(1, (8, 8), 1)
    model = restorer()
    model.edit([given], "colourise", 1)
    assert torch.equal(model.denoiser.told[0]["image"], to_state(given.pixels[None]).expand(-1, 3, -1, -1))
    bad = from_state(jpeg(to_state(pictures(1, (8, 8), 3)[0].pixels[None]), torch.tensor([10.0])))[0][0]
    assert np.array_equal(model.edit([Image(bad)], "repair", 1).records[0].pixels, bad)


def test_an_untrained_model_keeps_what_is_known():
    adapter = Images([8, 8], 3, system="palette")
    torch.manual_seed(0)
    model = Model(adapter, adapter.denoiser("tiny"))
    for p in model.denoiser.parameters():
        p.data += 0.05 * torch.randn_like(p)
    given, masks = pictures(3, (8, 8), 3), np.random.default_rng(1).random((3, 8, 8)) < 0.4
    made = model.edit(given, "inpaint", 6, steps=2, mask=masks).records
    for number, record in enumerate(made):
        own, hole = given[number % 3], masks[number % 3]
        assert np.array_equal(record.pixels[~hole], own.pixels[~hole])
        assert (record.pixels[hole] != own.pixels[hole]).any()


def test_models_do_what_they_were_trained_for():
    assert {*RESTORED} == {*DEGRADATIONS}
    assert {*TASKS} == {*DRAWN, *RESTORED} == {*Images.tasks}
    assert Images([8, 8]).tasks == DRAWN
    assert list(Images([8, 8], system="sr3").tasks) == ["enlarge"]
    assert set(Images([8, 8], 3, system="palette").tasks) == {"inpaint", "uncrop", "repair", "colourise"}
    assert "colourise" not in Images([8, 8], 1, system="palette").tasks
    assert {task.kind for task in Images([8, 8], 3, system="palette").tasks.values()} == {"ask"}
    with pytest.raises(UserError, match="--task must be one of enlarge for images, got 'vary'"):
        find_task(Images([8, 8], system="sr3"), "vary")


# What is to be drawn


def free_of(model, image, task="inpaint", **options):
    """What is drawn of a picture, and how the model sees it."""
    (part,) = model.modality.parts([image], task, **options)
    return part.free, part.image.pixels


def test_what_is_to_be_drawn_is_white_or_in_the_box_or_transparent(tmp_path):
    model, (given,) = exact([1.0], (0.0, 0.5)), pictures()
    shades = np.array([[0, 127, 128, 255]] * 4, np.uint8)
    white = shades >= 128
    clear = np.tile(np.array([[255], [255], [255], [0]], np.uint8), (1, 4))
    kinds = {
        "gray.png": (shades[..., None], white),
        "rgb.png": (np.repeat(shades[..., None], 3, 2), white),
        "clear.png": (np.stack([shades, clear], 2), white & (clear > 0)),  # what is transparent is no white
        "many.npz": (shades[None, ..., None], white),
    }
    for name, (pixels, wanted) in kinds.items():
        write_images([Image(pixels[0] if pixels.ndim == 4 else pixels)], tmp_path / name)
        free, _ = free_of(model, given, mask=tmp_path / name)
        assert np.array_equal(free, wanted), name
    boxed = np.zeros((4, 4), bool)
    boxed[0:3, 1:3] = True
    assert np.array_equal(free_of(model, given, box="1,0,2,3")[0], boxed)
    assert np.array_equal(free_of(model, given, box=(1, 0, 2, 3), mask=half())[0], boxed | half())
    alpha = np.where(half(), 127, 255).astype(np.uint8)[..., None]
    ghost = Image(np.concatenate([given.pixels, alpha], 2))
    free, seen = free_of(model, ghost)
    assert np.array_equal(free, half())
    assert np.array_equal(seen, given.pixels)
    assert np.array_equal(free_of(model, ghost, box="0,0,1,1")[0][:, :2], np.eye(4, 2, dtype=bool) & ([[1, 0]] * 4))
    both = exact([1.0], (0.0, 0.5), channels=2)  # knows transparency, which is a channel of the picture
    free, seen = free_of(both, ghost, box="0,0,1,1")
    assert free.sum() == 1
    assert np.array_equal(seen, ghost.pixels)


def test_what_is_around_a_picture_is_drawn():
    model = exact([1.0], (0.0, 0.5), (6, 9))
    (given,) = pictures(size=(3, 4))
    free, seen = free_of(model, given, "uncrop")
    inside = np.zeros((6, 9), bool)
    inside[1:4, 2:6] = True
    assert np.array_equal(~free, inside)
    assert np.array_equal(seen[1:4, 2:6], given.pixels)
    free, _ = free_of(model, given, "uncrop", box="0,0,1,1")
    assert free.sum() == 54 - 12 + 1
    assert free[1, 2]
    flat = Image(np.full((12, 18, 1), 77, np.uint8))
    free, seen = free_of(model, flat, "uncrop", side=27)  # a third: 4 x 6 of 6 x 9
    assert np.array_equal(np.argwhere(~free)[[0, -1]], [[1, 1], [4, 6]])
    assert (seen[~free] == 77).all()
    free, _ = free_of(model, flat, "uncrop", side=27, box="9,0,9,12")
    assert np.array_equal(np.argwhere(~free)[[0, -1]], [[1, 1], [4, 3]])


def test_a_mask_follows_a_picture_that_is_brought_to_the_size_of_the_model():
    model = exact([1.0], (0.0, 0.5), (4, 4), reading={"resize": "4", "channels": "gray"})
    given = Image(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    (part,) = model.modality.parts([given], "inpaint", mask=half((8, 8)))
    assert np.array_equal(part.free, half())
    assert part.note == "the input was brought to 4 x 4 gray pixels, as the training data were"
    made = model.edit([given], "inpaint", 2, steps=2, mask=half((8, 8)))
    assert np.array_equal(stacked(made.records)[:, :, :2], np.stack([part.image.pixels[:, :2]] * 2))
    assert made.remark == part.note


def test_channels_are_converted_where_nothing_is_lost():
    shade = np.random.default_rng(0).integers(0, 256, (2, 3, 1), dtype=np.uint8)
    kinds = {channels: without_loss(shade, channels) for channels in (1, 2, 3, 4)}
    for channels, pixels in kinds.items():
        assert pixels.shape == (2, 3, channels)
        assert (pixels[..., : channels - 1 + channels % 2] == shade).all()
        assert channels % 2 or (pixels[..., -1] == 255).all()
        for other in kinds:
            assert np.array_equal(without_loss(pixels, other), kinds[other])
    coloured, clear = kinds[3].copy(), kinds[4].copy()
    coloured[0, 0, 1] ^= 1
    clear[0, 0, 3] = 254
    assert without_loss(coloured, 1) is without_loss(coloured, 2) is without_loss(clear, 3) is None
    assert without_loss(clear, 2)[0, 0, 1] == 254


def test_blocks_are_the_largest_of_which_four_lie_along_each_side():
    assert [blocks((size, size)) for size in (8, 28, 32, 64, 6)] == [2, 7, 8, 16, 2]
    assert blocks((12, 32)) == 2
    assert blocks((32, 32), 16) == 16


def test_the_usual_task_is_what_input_and_options_ask_for():
    free, palette, sr3 = Images([8, 8], 3), Images([8, 8], 3, system="palette"), Images([8, 8], 3, system="sr3")
    (colour,), (plain,), (small,) = pictures(1, (8, 8), 3), pictures(1, (8, 8), 1), pictures(1, (8, 5), 3)
    (clear,) = pictures(1, (8, 8), 4)
    wanted = [
        (free, colour, {}, "vary"),
        (free, plain, {}, "vary"),
        (free, colour, {"mask": "m.png"}, "inpaint"),
        (free, clear, {}, "inpaint"),
        (free, small, {}, "uncrop"),
        (free, small, {"box": "1,1,1,1"}, "uncrop"),
        (free, colour, {"side": 12}, "uncrop"),
        (free, colour, {"factor": 2}, "like"),
        (Images([8, 8], 3, reading={"resize": "8"}), small, {}, "vary"),
        (palette, colour, {}, "repair"),
        (palette, plain, {}, "colourise"),
        (palette, colour, {"box": "1,1,1,1"}, "inpaint"),
        (palette, small, {}, "uncrop"),
        (sr3, small, {}, "enlarge"),
        (sr3, colour, {"mask": "m.png"}, "enlarge"),
    ]
    for adapter, image, options, task in wanted:
        assert usual(adapter, [image], options) == find_task(adapter, None, [image], options)[0] == task


def test_a_model_that_knows_classes_is_told_that_of_the_input():
    adapter = Images([4, 4], counts={"cat": 3, "dog": 1})
    cat, none = pictures(2, channels=3)
    cat.word = "cat"
    told = [part.condition for part in adapter.parts([cat, none], "vary")]
    assert [each["class"].tolist() for each in told] == [[0], [-1]]
    assert adapter.parts([none], "vary")[0].condition == {}
    assert "class" not in adapter.parts([none, none], "inpaint", box="0,0,1,1")[0].condition
    torch.manual_seed(0)
    model = Model(adapter, adapter.denoiser("tiny"), DPMSolver(2))
    made = model.edit([cat], "vary", 2)
    assert [record.word for record in made.records] == ["cat", "cat"]
    assert made.remark == "class cat as the input has it; --class asks for another"
    assert [r.word for r in model.edit([cat], "vary", 2, condition={"class": ["dog", "cat"]}).records] == ["dog", "cat"]
    assert [r.word for r in model.edit([cat, none], "interpolate", 3, steps=2).records] == ["", "", ""]


def test_each_of_several_pictures_is_edited_in_turn():
    model, three = exact([1.0], (0.0, 0.5), sampler=DPMSolver(3)), pictures(3)
    arrays = ImageArrays.from_images(three)
    assert [r.facts["input"] for r in model.edit(arrays, "vary").records] == ["p0", "p1", "p2"]
    made = model.edit(three, "vary", 5, strength=0.0, batch_size=2).records
    assert np.array_equal(stacked(made), stacked([three[i] for i in (0, 1, 2, 0, 1)]))
    assert len(model.edit(three, "vary", which=2, strength=0.0).records) == 40
    assert np.array_equal(model.edit(arrays, "vary", 1, which=[3], strength=0.0).records[0].pixels, three[2].pixels)
    with pytest.raises(UserError, match=r"-n 2 makes fewer than the 3 that are given; --which 1"):
        model.edit(three, "vary", 2)
    with pytest.raises(UserError, match="--which names number 4, and the input has 3"):
        model.edit(three, "vary", 2, which=[1, 4])


# Mistakes


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("inpaint", {}, "p0: nothing is to be drawn; --mask or --box says what, or transparency$"),
        ("inpaint", {"mask": np.zeros((4, 4))}, "p0: nothing is to be drawn"),
        ("inpaint", {"mask": np.ones((4, 4))}, "p0: no pixel stays; gendiff sample draws whole images"),
        ("inpaint", {"mask": np.ones((3, 4))}, "mask: is 4 x 3, and p0 4 x 4; a mask is as large as its picture"),
        (
            "inpaint",
            {"mask": np.ones((2, 4, 4))},
            "mask: holds 2 masks, and there are 1 pictures; give one, or one each",
        ),
        ("inpaint", {"mask": np.ones(4)}, "mask: holds 4 masks"),
        ("inpaint", {"mask": "nowhere.png"}, "nowhere.png: "),
        (
            "inpaint",
            {"box": "1,2,3"},
            "--box 1,2,3 is no rectangle; write x,y,width,height in pixels from the top left",
        ),
        ("inpaint", {"box": "1,2,0,1"}, "--box 1,2,0,1 is no rectangle"),
        ("inpaint", {"box": (-1, 2, 1, 1)}, "--box -1,2,1,1 is no rectangle"),
        ("inpaint", {"box": "3,0,2,1"}, "--box 3,0,2,1 reaches beyond p0 of 4 x 4 pixels"),
        ("inpaint", {"box": "0,0,1,1", "side": 8}, "--side belongs to uncrop"),
        (
            "inpaint",
            {"box": "0,0,1,1", "sizes": (1, 2)},
            "--size: what comes of inpaint is as large as the model has it",
        ),
        ("inpaint", {"box": "0,0,1,1", "keep": [1]}, "--keep names elements, and pixels have no numbers"),
        ("inpaint", {"box": "0,0,1,1", "resamples": 0}, "--resamples must be at least 1, got 0"),
        ("uncrop", {}, "p0: nothing is to be drawn; .*; --side is the larger side of the finished picture"),
        ("uncrop", {"side": 3}, "--side 3 is too small: the larger side of p0 itself is 4"),
        ("uncrop", {"side": math.nan}, "--side nan is too small"),
        ("vary", {"mask": np.ones((4, 4))}, "--mask belongs to inpaint and uncrop; vary has no use for it"),
        ("vary", {"factor": 2}, "--factor belongs to like; vary has no use for it"),
        ("vary", {"strength": 2.0}, r"--strength must lie in \[0, 1\]"),
        ("vary", {"keep": [1]}, "--keep belongs to inpaint and uncrop; vary may change every element"),
        ("vary", {"sizes": (1, 2)}, "--size belongs to inpaint and uncrop; vary takes its sizes from the input"),
        ("vary", {"condition": {"class": "cat"}}, "'class' cannot be asked of this model"),
        ("like", {"factor": 3}, "--factor 3 does not tile images of 4 x 4 pixels; take 2 or 4"),
        ("like", {"factor": 1}, "--factor 1 does not tile"),
        ("interpolate", {}, "interpolate takes two pictures, got 1; --which says which"),
        ("enlarge", {}, "--task must be one of inpaint, uncrop, vary, like, interpolate for images, got 'enlarge'"),
    ],
)
def test_what_does_not_fit_is_one_line(task, options, message):
    model = exact([1.0], (0.0, 0.5), sampler=DPMSolver(2))
    with pytest.raises(UserError, match=message) as error:
        model.edit(pictures(), task, 2, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "image", "task", "message"),
    [
        ({}, (8, 8, 1), "vary", "p0: has 8 x 8 gray pixels; this model takes 4 x 4 gray$"),
        ({}, (4, 4, 3), "vary", "p0: has 4 x 4 RGB pixels; this model takes 4 x 4 gray$"),
        ({}, (4, 3, 1), "vary", "takes 4 x 4 gray; --task uncrop draws what is around a smaller one"),
        ({}, (4, 4, 2), "vary", "takes 4 x 4 gray; --task inpaint draws what is transparent"),
        ({}, (5, 4, 1), "uncrop", "p0: has 4 x 5 gray pixels, more than the 4 x 4 of this model; --side is the larger"),
        ({"system": "sr3"}, (4, 4, 1), "enlarge", r"this model takes 1 x 1 gray \(to enlarge them 4 times\)"),
        ({"system": "sr3", "reading": {"resize": "4"}}, (4, 4, 1), "enlarge", "this model takes 1 x 1 gray"),
        ({"system": "palette"}, (8, 8, 1), "repair", "has 8 x 8 gray pixels; this model takes 4 x 4 gray"),
    ],
)
def test_pictures_of_another_kind_are_one_line(model, image, task, message):
    with pytest.raises(UserError, match=message):
        Images((4, 4), 1, **model).parts(pictures(1, image[:2], image[2]), task)


def test_no_picture_is_one_line():
    with pytest.raises(UserError, match="inpaint takes a picture, got 0"):
        exact([1.0], (0.0, 0.5)).edit([])


def test_a_picture_of_a_prime_side_has_no_blocks():
    with pytest.raises(UserError, match="--factor 2 does not tile images of 7 x 5 pixels; no other does"):
        blocks((5, 7))


# Files and the command


def test_pictures_of_one_edit_may_differ(tmp_path):
    for name, size in (("a.png", (4, 4)), ("b.png", (3, 2))):
        write_images(pictures(1, size), tmp_path / name)
    records, report = read_parts([tmp_path / "a.png", tmp_path / "b.png"], "uncrop")
    assert [image.pixels.shape for image in records] == [(4, 4, 1), (3, 2, 1)]
    assert len(report.lines()) == 2
    assert len(report.to_json()["files"]) == 2
    for bad in ("text", "nothing"):
        (tmp_path / "bad.png").write_text("no picture" if bad == "text" else "")
        with pytest.raises(UserError, match=r"bad\.png") as error:
            read_parts([tmp_path / "bad.png"], "vary")
        assert "--" not in str(error.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained model of two classes."""
    folder = tmp_path_factory.mktemp("run")
    adapter = Images([8, 8], counts={"cat": 3, "dog": 1})
    torch.manual_seed(0)
    Model(adapter, adapter.denoiser("tiny"), DPMSolver(2)).save(folder / "model")
    return folder


def edit(*words):
    return main(["edit", *map(str, words)])


def test_the_command_fills_a_hole_and_keeps_the_rest(run, tmp_path, capsys):
    (given,) = pictures(1, (8, 8), 4)
    given.pixels[..., 3] = np.where(half((8, 8)), 0, 255)
    write_images([given], tmp_path / "hole.png")
    assert edit(run, tmp_path / "hole.png", "-o", tmp_path / "one.png", "--steps", 3) == 0
    (one,), _ = read_parts([tmp_path / "one.png"], "vary")
    assert np.array_equal(one.pixels[:, :4], given.pixels[:, :4, :3])
    assert "1 image in" in capsys.readouterr().out
    facts = json.loads((tmp_path / "one.json").read_text())
    assert (facts["task"], facts["number"], facts["resamples"], facts["which"]) == ("inpaint", 1, 9, None)
    write_images([Image(half((8, 8)).astype(np.uint8) * 255)], tmp_path / "mask.png")
    write_images([Image(given.pixels[..., :3])], tmp_path / "whole.png")
    words = (run, tmp_path / "whole.png", "--mask", tmp_path / "mask.png", "--steps", 3, "--resamples", 3)
    assert edit(*words, "-n", 3, "--class", "dog", "-o", tmp_path / "many.npz") == 0
    many, _ = read_parts([tmp_path / "many.npz"], "vary")
    assert np.array_equal(many.pixels[:, :, :4], [given.pixels[:, :4, :3]] * 3)
    assert many.words.tolist() == ["dog"] * 3
    facts = json.loads((tmp_path / "many.json").read_text())
    assert facts["mask"]["file"] == str(tmp_path / "mask.png")
    assert len(facts["mask"]["sha256"]) == 64


def test_the_command_takes_all_pictures_or_those_that_are_named(run, tmp_path, capsys):
    write_images(pictures(4, (8, 8), 3), tmp_path / "in")
    write_images(pictures(4, (8, 8), 3), tmp_path / "in.npz")
    same = ("--task", "vary", "--strength", 0)
    assert edit(run, tmp_path / "in", *same, "-o", tmp_path / "all.npz") == 0
    given, _ = read_parts([tmp_path / "in.npz"], "vary")
    found, _ = read_parts([tmp_path / "all.npz"], "vary")
    assert np.array_equal(found.pixels, given.pixels)
    assert edit(run, tmp_path / "in.npz", *same, "--which", "3", "-o", tmp_path / "third.png") == 0
    assert np.array_equal(read_parts([tmp_path / "third.png"], "vary")[0].pixels, given.pixels[[2]])
    assert json.loads((tmp_path / "third.json").read_text())["which"] == [3]
    words = ("--task", "interpolate", "--which", "4,2", "-n", 3, "--steps", 8)
    assert edit(run, tmp_path / "in.npz", *words, "-o", tmp_path / "way") == 0
    assert len(list((tmp_path / "way").glob("*.png"))) == 3
    for more, status, message in (
        (("-o", tmp_path / "x.png"), 1, "-n 1 makes fewer than the 4 that are given; --which 1 takes the first alone"),
        (("-o", tmp_path / "x.npz", "--which", "9"), 1, "--which names number 9, and the input has 4"),
        (("-o", tmp_path / "x.npz", "--which", "x"), 2, "--which 'x' is no list of numbers; write 1,2,5-8"),
        (("-o", tmp_path / "x.npz", "--mask", tmp_path / "no.png"), 1, "no.png"),
        (("-o", tmp_path / "x.npz", "--task", "grow"), 1, "--task must be one of inpaint, uncrop, vary"),
    ):
        capsys.readouterr()
        assert edit(run, tmp_path / "in.npz", *more) == status
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert not (tmp_path / "x.npz").exists()


def test_the_command_enlarges_each_picture_of_a_folder(tmp_path):
    adapter = Images([8, 8], 1, system="sr3", factor=4)
    torch.manual_seed(0)
    Model(adapter, adapter.denoiser("tiny")).save(tmp_path / "run" / "model")
    write_images(pictures(3, (2, 2)), tmp_path / "small")
    assert edit(tmp_path / "run", tmp_path / "small", "--steps", 2, "-o", tmp_path / "large.npz") == 0
    assert read_parts([tmp_path / "large.npz"], "vary")[0].pixels.shape == (3, 8, 8, 1)
    assert json.loads((tmp_path / "large.json").read_text())["task"] == "enlarge"


def test_the_help_names_the_tasks_of_images(capsys):
    assert main(["edit", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {word}: " in text for word in TASKS)
    assert all(option in text for option in ("--mask", "--box", "--factor", "--which"))
