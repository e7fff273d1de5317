"""Written images are read back bit for bit, with their classes, and nothing half-written is left."""

import errno
import io
import os
import zipfile

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL.PngImagePlugin import PngInfo

from gendiff.files import NothingFits, UserError
from gendiff.modalities.images.read import read_images
from gendiff.modalities.images.records import Image
from gendiff.modalities.images.write import EXTENSIONS, encoded, png, write_images

WORDS = ["", "cat", "ice cream", "T-shirt/top", "猫", "..", "naïve"]


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images(count, *shape):
    return [Image(pixels(*shape, seed=i), WORDS[i % len(WORDS)]) for i in range(count)]


def same(made, read):
    """Whether the same images come in any order."""
    key = sorted((image.word, image.pixels.shape, image.pixels.tobytes()) for image in made)
    return key == sorted((image.word, image.pixels.shape, image.pixels.tobytes()) for image in read)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("suffix", "channels"), [(".png", 1), (".png", 2), (".png", 3), (".png", 4), (".webp", 3), (".webp", 4)]
)
def test_one_image_is_read_back_bit_for_bit(tmp_path, suffix, channels, word):
    image = Image(pixels(7, 5, channels), word)
    path = tmp_path / f"x{suffix}"
    assert write_images([image], path) == 1
    read, _ = read_images(path)
    assert same([image], read)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["x.npz", "folder", "folder.v2/"])
def test_many_images_are_read_back_bit_for_bit(tmp_path, name, channels):
    made = images(20, 6, 9, channels)
    assert write_images(made, f"{tmp_path}/{name}") == 20
    read, report = read_images(tmp_path / name)
    assert same(made, read)
    assert report.classes.total() == 20 - 3  # three have no class
    assert report.skipped.total() == report.others.total() == 0


def test_an_archive_keeps_the_order_and_holds_no_pickle(tmp_path):
    made = images(9, 4, 4, 3)
    write_images(made, tmp_path / "x.npz")
    read, _ = read_images(tmp_path / "x.npz")
    assert read.words.tolist() == [image.word for image in made]
    assert np.array_equal(read.pixels, [image.pixels for image in made])
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert {name: (array.shape, array.dtype.kind) for name, array in found.items()} == {
            "images": ((9, 4, 4, 3), "u"),
            "labels": ((9,), "i"),
            "classes": ((7,), "U"),
        }
    first = (tmp_path / "x.npz").read_bytes()
    write_images(made, tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == first  # no dates
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.testzip() is None


def test_a_folder_has_a_folder_for_each_class_and_numbers_all_images(tmp_path):
    words = ["3", "", "8", "3", "a/b"]
    write_images([Image(pixels(2, 2, seed=i), word) for i, word in enumerate(words)], tmp_path / "out")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert found == ["00001.png", "3/00000.png", "3/00003.png", "8/00002.png", "a_b/00004.png"]


def test_a_picture_moved_to_another_class_is_of_that_class(tmp_path):
    write_images([Image(pixels(2, 2), "a/b"), Image(pixels(2, 2), "3")], tmp_path / "out")
    (tmp_path / "out" / "3" / "00001.png").rename(tmp_path / "out" / "a_b" / "00001.png")
    (tmp_path / "out" / "3").rmdir()
    assert read_images(tmp_path / "out")[0].words.tolist() == ["a/b", "a_b"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=4)),
    st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]), max_size=20),
)
def test_any_image_and_any_word_survive(tmp_path, array, word):
    made = [Image(array, word)]
    for suffix in (".png", ".npz"):
        write_images(made, tmp_path / f"x{suffix}")
        assert same(made, read_images(tmp_path / f"x{suffix}")[0])


def test_the_text_of_a_png_says_where_it_comes_from():
    image = Image(pixels(3, 3), "cat", {"model": "m", "seed": 3, "index": 7, "targets": {"a": 1.5}, "nothing": None})
    with PIL.Image.open(io.BytesIO(png(image))) as picture:
        text = dict(picture.text)
    assert text.pop("Software").startswith("gendiff ")
    assert text == {"word": "cat", "model": "m", "seed": "3", "index": "7", "targets": '{"a": 1.5}'}


def test_the_word_of_another_program_is_not_a_class(tmp_path):
    text = PngInfo()
    text.add_text("word", "cat")
    PIL.Image.fromarray(pixels(3, 3)).save(tmp_path / "x.png", pnginfo=text)
    assert read_images(tmp_path / "x.png")[0].words.tolist() == [""]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_near_and_keeps_channels_and_class(tmp_path, suffix, channels):
    ramp = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32, 1).repeat(channels, 2)
    write_images([Image(ramp, "naïve 猫")], tmp_path / f"x{suffix}")
    read, _ = read_images(tmp_path / f"x{suffix}")
    assert read.words.tolist() == ["naïve 猫"]
    assert read.pixels.shape == (1, 32, 32, channels)
    assert np.abs(read.pixels[0].astype(int) - ramp).max() <= 3


@pytest.mark.parametrize(
    ("suffix", "shape", "message"),
    [
        (".jpg", (2, 2, 2), r"x\.jpg: \.jpg cannot hold gray with alpha; write \.png"),
        (".jpeg", (2, 2, 4), r"\.jpeg cannot hold RGB with alpha"),
        (".webp", (2, 2, 1), r"\.webp cannot hold gray; write \.png"),
        (".webp", (1, 16_384, 3), r"\.webp cannot hold 16384 x 1 RGB"),
    ],
)
def test_what_a_format_cannot_hold_is_not_converted(tmp_path, suffix, shape, message):
    with pytest.raises(NothingFits, match=message):
        write_images([Image(np.zeros(shape, np.uint8))], tmp_path / f"x{suffix}")
    with pytest.raises(NothingFits):
        encoded(Image(np.zeros(shape, np.uint8)), suffix)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    two = images(2, 3, 3, 1)
    for made, name, message in (
        (two, "x.png", r"x\.png: holds one image, and there are 2; write \.npz or a folder"),
        (two, "x.tif", r"x\.tif: unknown extension '\.tif'; images are written as \.npz \.png .*, or into a folder"),
        ([], "x.npz", r"there is no image to write"),
        ([*two, Image(pixels(4, 3))], "x.npz", r"holds images of one size, not 3 x 3 gray and 3 x 4 gray"),
    ):
        with pytest.raises(UserError, match=message):
            write_images(made, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    assert set(EXTENSIONS) == {".npz", ".png", ".webp", ".jpg", ".jpeg"}


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="out: already exists"):
        write_images(images(2, 3, 3, 1), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_images_of_unlike_size_go_into_a_folder(tmp_path):
    made = [Image(pixels(3, 3), "a"), Image(pixels(4, 5, 3), "b")]
    write_images(made, tmp_path / "out")
    with pytest.raises(UserError, match=r"is 5 x 4 RGB, and .* is 3 x 3 gray"):
        read_images(tmp_path / "out")


@pytest.mark.parametrize("name", ["x.png", "x.npz", "out"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, name):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="no space left on device"):
        write_images(images(1, 3, 3, 1), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
