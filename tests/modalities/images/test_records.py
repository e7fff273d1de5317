"""Images, alone and many in one array."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gendiff.modalities.images.records import MAX_NAME, Image, ImageArrays, folder_name, kind


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_images_come_out_as_they_went_in():
    made = [Image(pixels(3, 5, 4, seed=i), f"class {i % 2}", name=f"n{i}") for i in range(6)]
    arrays = ImageArrays.from_images(made)
    assert (len(arrays), arrays.size, arrays.channels) == (6, (3, 5), 4)
    for image, again in zip(made, arrays, strict=True):
        assert np.array_equal(image.pixels, again.pixels)
        assert (image.word, image.name) == (again.word, again.name)
    assert np.array_equal(arrays[-1].pixels, made[-1].pixels)
    with pytest.raises(IndexError):
        arrays[6]


def test_gray_needs_no_axis_of_channels():
    image, arrays = Image(pixels(3, 5)), ImageArrays(pixels(2, 3, 5))
    assert (image.pixels.shape, image.size, image.channels) == ((3, 5, 1), (3, 5), 1)
    assert (arrays.pixels.shape, arrays.size, arrays.channels) == ((2, 3, 5, 1), (3, 5), 1)
    assert image.word == image.name == ""
    assert arrays.words.tolist() == arrays.names.tolist() == ["", ""]


def test_selections_by_numbers_and_by_a_mask():
    arrays = ImageArrays(pixels(5, 2, 2, 3), list("abcde"), list("vwxyz"))
    for index, places in (([3, 0, 0], [3, 0, 0]), (np.array([0, 1, 0, 0, 1], bool), [1, 4]), ([], [])):
        part = arrays.select(index)
        assert np.array_equal(part.pixels, arrays.pixels[places])
        assert part.words.tolist() == [arrays.words[i] for i in places]
        assert part.names.tolist() == [arrays.names[i] for i in places]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3)), r"must be bytes \(uint8\) from 0 to 255, got float64"),
        (np.zeros((4, 4, 5), np.uint8), r"of 1 to 4 channels, got \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), "must be"),
    ],
)
def test_what_is_no_image_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        Image(array)
    with pytest.raises(ValueError, match=message):
        ImageArrays(array[None])


def test_arrays_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"words must be \(2,\), got \(1,\)"):
        ImageArrays(pixels(2, 3, 3), ["a"])
    with pytest.raises(ValueError, match=r"names must be \(2,\), got \(3,\)"):
        ImageArrays(pixels(2, 3, 3), None, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"one size and number of channels, got \[\(2, 3, 1\), \(3, 2, 1\)\]"):
        ImageArrays.from_images([Image(pixels(3, 2)), Image(pixels(2, 3))])
    with pytest.raises(ValueError, match="got none"):
        ImageArrays.from_images([])


def test_an_image_shows_itself_in_a_notebook_and_a_small_one_enlarged():
    small = Image(pixels(8, 5, 3))
    with PIL.Image.open(io.BytesIO(small._repr_png_())) as shown:
        assert shown.size == (5 * 16, 8 * 16)
        assert np.array_equal(np.asarray(shown)[::16, ::16], small.pixels)
        assert np.array_equal(np.asarray(shown)[15::16, 15::16], small.pixels)
    with PIL.Image.open(io.BytesIO(Image(pixels(200, 90))._repr_png_())) as shown:
        assert shown.size == (90, 200)


def test_people_are_told_width_before_height():
    assert kind((7, 32, 48, 3)) == "48 x 32 RGB"
    assert kind((32, 48, 2)) == "48 x 32 gray with alpha"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("cat", "cat"), ("ice cream", "ice cream"), ("猫", "猫"), ("a/b\\c", "a_b_c"), ("..", "_"),
        (".hidden", "hidden"), ("T-shirt/top", "T-shirt_top"), ("con", "con_"), ("NUL.txt", "NUL.txt_"),
        ("end. ", "end"), ("a\nb", "a_b"), ("C:", "C_"), ("猫" * 100, "猫" * 66),
    ],
)  # fmt: skip
def test_names_of_class_folders(word, name):
    assert folder_name(word) == name


@given(st.text(max_size=300))
def test_every_word_gives_a_name_that_stays_in_its_folder(word):
    name = folder_name(word)
    assert 0 < len(name.encode("utf-8", "surrogateescape")) <= MAX_NAME + 1
    assert name not in (".", "..")
    assert not set(name) & set("/\\\0")
    assert not name.startswith(".")
    assert folder_name(name) == name
