"""Pictures of images: every pixel is a square of its own colour, and no text breaks a page."""

from __future__ import annotations

import base64
import io
import math
import time

import numpy as np
import pytest
from defusedxml import ElementTree
from PIL import Image as pillow

from gendiff.files import UserError
from gendiff.modalities.images import draw
from gendiff.modalities.images.draw.film import HOLD, few_colours
from gendiff.modalities.images.draw.sheet import CAPTION, DARK, GAP, LIGHT, SQUARE, layout, opaque
from gendiff.modalities.images.records import Image, ImageArrays

SVG = "{http://www.w3.org/2000/svg}"
ATTACK = "</title><script>alert('x')</script>\"&' \x00\ud800\n\tend"


def some(count=7, size=(6, 9), channels=3, seed=0, word="word {}"):
    random = np.random.default_rng(seed)
    return [Image(random.integers(0, 256, (*size, channels), dtype=np.uint8), word.format(i % 3)) for i in range(count)]


def pixels(path, frame=0):
    with pillow.open(path) as image:
        image.seek(frame)
        return np.asarray(image.convert("RGB"))


def cells(path, sheet):
    """The pixels of each cell of a sheet, and those that belong to none."""
    page = pixels(path) if not isinstance(path, np.ndarray) else path
    assert page.shape[:2] == sheet.size
    rest = np.ones(page.shape[:2], bool)
    found = []
    for index in range(sheet.cells):
        top, left = sheet.corner(index)
        where = np.s_[top : top + sheet.height, left : left + sheet.width]
        found.append(page[where])
        rest[where] = False
    return found, page[rest]


def enlarged(image, scale):
    """What an image without alpha should look like, pixel by pixel."""
    height, width = image.size
    rows, columns = np.arange(height * scale) // scale, np.arange(width * scale) // scale
    return np.broadcast_to(image.pixels[rows][:, columns], (height * scale, width * scale, 3))


# Sheets


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 4])
def test_every_pixel_is_a_square_of_its_colour(tmp_path, channels, scale):
    images = some(7, channels=channels)
    draw.sheet_png(images, tmp_path / "a.png", columns=3, captions=[], scale=scale)
    found, rest = cells(tmp_path / "a.png", layout(images, 3, scale=scale))
    assert len(found) == 7
    for cell, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(cell, enlarged(image, scale))
    assert (rest == 255).all()
    with pillow.open(tmp_path / "a.png") as file:
        assert file.mode == {1: "L", 3: "RGB"}[channels]


@pytest.mark.parametrize("channels", [2, 4])
def test_chequers_show_through_what_is_transparent(tmp_path, channels):
    (image,) = some(1, channels=channels)
    image.pixels[:, :3, -1], image.pixels[:, 3:6, -1], image.pixels[:, 6:, -1] = 0, 255, 51
    draw.sheet_png(image, tmp_path / "a.png", captions=[], scale=5)
    ((cell,), _) = cells(tmp_path / "a.png", layout([image], scale=5))
    row, column = (index // SQUARE % 2 for index in np.indices(cell.shape[:2]))
    board = np.where(row == column, LIGHT, DARK)[..., None]
    colour = enlarged(Image(image.pixels[..., :-1].copy()), 5)
    np.testing.assert_array_equal(cell[:, :15], np.broadcast_to(board, cell.shape)[:, :15])
    np.testing.assert_array_equal(cell[:, 15:30], colour[:, 15:30])
    mixed = np.rint(0.2 * colour + 0.8 * board)
    np.testing.assert_array_equal(cell[:, 30:], mixed[:, 30:])


def test_images_of_unlike_size_are_drawn_as_large_as_whole_pixels_let_them_be(tmp_path):
    low, high, gray = some(1, (4, 4))[0], some(1, (16, 8))[0], some(1, (5, 5), 1)[0]
    draw.sheet_png([low, high, gray], tmp_path / "a.png", columns=3, captions=[], scale=2)
    found, _ = cells(tmp_path / "a.png", layout([low, high, gray], 3, scale=2))
    np.testing.assert_array_equal(found[0][8:24], enlarged(low, 4))
    np.testing.assert_array_equal(found[1], enlarged(high, 2))
    np.testing.assert_array_equal(found[2][8:23, :15], enlarged(gray, 3))
    assert (found[0][:8] == 255).all()
    assert (found[0][24:] == 255).all()


def test_captions_stand_below_their_images(tmp_path):
    images = some(3)
    images[1].word = ""
    draw.sheet_png(images, tmp_path / "a.png", columns=3, scale=6)
    sheet = layout(images, 3, ["a"], 6)
    page = pixels(tmp_path / "a.png")
    assert page.shape[0] == sheet.size[0] == GAP + 36 + CAPTION + GAP
    text = page[GAP + 36 : -GAP].min(-1)
    dark = [bool((text[:, sheet.corner(k)[1] :][:, :54] < 128).any()) for k in range(3)]
    assert dark == [True, False, True]
    found, _ = cells(tmp_path / "a.png", sheet)
    for cell, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(cell, enlarged(image, 6))


def test_sheets_are_about_as_wide_as_a_page():
    for count in (1, 2, 3, 10, 24, 200, 1000, 5000):
        for size in ((28, 28), (8, 8), (64, 48), (16, 64)):
            sheet = layout(some(1, size) * count)
            height, width = sheet.size
            assert sheet.columns * -(-count // sheet.columns) >= count
            assert len({sheet.corner(i) for i in range(count)}) == count
            assert max(sheet.corner(i)[0] for i in range(count)) + sheet.height + GAP == height
            assert max(sheet.corner(i)[1] for i in range(count)) + sheet.width + GAP == width
            assert sheet.height % size[0] == sheet.width % size[1] == 0
            if 24 <= count <= 1000:
                assert 0.9 < width / height < 3
                assert width <= 2404


def test_a_thousand_images_take_less_than_a_second(tmp_path):
    images = list(ImageArrays(np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), dtype=np.uint8)))
    begin = time.process_time()
    draw.sheet_png(images, tmp_path / "a.png")
    assert time.process_time() - begin < 1


def test_no_image_at_all_is_an_empty_sheet(tmp_path):
    draw.sheet_png([], tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 255).all()


# One image


def embedded(text):
    """The element of an SVG and the image inside it."""
    root = ElementTree.fromstring(text, forbid_dtd=True)
    (element,) = root.iter(f"{SVG}image")
    start, data = element.get("href").split(",")
    assert start == "data:image/png;base64"
    return root, element, np.asarray(pillow.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_svg_holds_the_pixels_themselves(channels):
    (image,) = some(1, (28, 20), channels)
    root, element, inside = embedded(draw.svg(image, size=200))
    np.testing.assert_array_equal(inside.reshape(image.pixels.shape), image.pixels)
    assert root.get("viewBox") == "0 0 20 28"
    assert (root.get("width"), root.get("height")) == ("140", "196")
    assert (element.get("width"), element.get("height")) == ("20", "28")
    assert element.get("style") == "image-rendering:pixelated"
    assert root.findtext(f"{SVG}title") == "word 0"
    assert bool(list(root.iter(f"{SVG}pattern"))) == (channels in (2, 4))


def test_a_large_image_is_scaled_down_smoothly():
    root, element, _ = embedded(draw.svg(some(1, (100, 400))[0], size=200))
    assert (root.get("width"), root.get("height")) == ("200", "50")
    assert element.get("style") is None


def test_no_word_breaks_a_page(tmp_path):
    images = some(2, word=ATTACK)
    root, _, _ = embedded(draw.svg(images[0]))
    assert root.findtext(f"{SVG}title") == ATTACK.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert "<script" not in draw.svg(images[0])
    images[1].word = "\U0001f431 ネコ" + "x" * 500
    draw.sheet_png(images, tmp_path / "a.png")
    draw.film_gif([images, images], tmp_path / "a.gif")


def test_notebooks_show_many_images():
    images = some(5, channels=4)
    shown = draw.show(images, columns=2, captions=[], scale=3)
    page = np.asarray(pillow.open(io.BytesIO(shown._repr_png_())))
    found, _ = cells(page, layout(images, 2, scale=3))
    np.testing.assert_array_equal(found[3], opaque(images[3].pixels, 3))
    assert len(repr(shown)) < 60
    arrays = ImageArrays.from_images(images)
    assert draw.show(arrays)._repr_png_() == draw.show(images)._repr_png_()


# The reverse process


def condensing(count=4, steps=5, channels=3):
    """Images that come out of noise."""
    random = np.random.default_rng(1)
    last = some(count, channels=channels)
    rows = []
    for step in range(1, steps):
        noise = random.integers(0, 256, (count, *last[0].pixels.shape))
        mixed = ((noise * (steps - step) + np.stack([image.pixels for image in last]) * step) / steps).astype(np.uint8)
        rows.append([Image(each, image.word) for each, image in zip(mixed, last, strict=True)])
    return [*rows, last]


def test_a_film_of_grays_is_exact(tmp_path):
    frames = condensing(channels=1)
    draw.film_gif(frames, tmp_path / "a.gif", columns=2, scale=3, seconds=1)
    sheet = layout(frames[-1], 2, ["a"], 3)
    with pillow.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 5
        assert film.info["loop"] == 0
    for number, row in enumerate(frames):
        found, _ = cells(pixels(tmp_path / "a.gif", number), sheet)
        for cell, image in zip(found, row, strict=True):
            np.testing.assert_array_equal(cell, enlarged(image, 3))


def test_frames_last_as_long_as_is_asked(tmp_path):
    draw.film_gif(condensing(), tmp_path / "a.gif", seconds=1)
    durations = []
    with pillow.open(tmp_path / "a.gif") as film:
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
    assert durations == [200] * 4 + [1000 * HOLD]


def test_a_film_in_few_colours_is_exact_and_else_near(tmp_path):
    """Of up to 240 colours none changes; of more, every pixel is a square of one that is near."""
    palette = np.random.default_rng(2).integers(0, 256, (40, 3), dtype=np.uint8)
    few = [
        [Image(palette[np.random.default_rng([i, k]).integers(40, size=(6, 9))], "a") for k in range(4)]
        for i in range(3)
    ]
    draw.film_gif(few, tmp_path / "a.gif", columns=2, scale=3)
    for number, row in enumerate(few):
        found, rest = cells(pixels(tmp_path / "a.gif", number), layout(row, 2, ["a"], 3))
        for cell, image in zip(found, row, strict=True):
            np.testing.assert_array_equal(cell, enlarged(image, 3))
        assert rest.max() == 255
        assert rest.min() < 128
    smooth = np.stack(np.meshgrid(*[np.linspace(0, 255, 40).astype(np.uint8)] * 2), -1)
    image = Image(np.dstack([smooth, 255 - smooth[..., :1]]))
    draw.film_gif([[image], [image]], tmp_path / "b.gif", scale=3)
    ((cell,), rest) = cells(pixels(tmp_path / "b.gif"), layout([image], scale=3))
    np.testing.assert_array_equal(cell, enlarged(Image(cell[::3, ::3].copy()), 3))
    error = cell.astype(float) - enlarged(image, 3)
    assert 0 < np.sqrt((error**2).mean()) < 12  # 1,600 colours on a square in 240 patches, each about 16 wide
    assert (rest == 255).all()


def test_colours_that_are_chosen_are_no_more_than_asked_for():
    images = [image.pixels for image in (*some(3, (20, 20)), *some(2, (7, 5), 1))]
    few = few_colours(images, 100)
    assert [one.shape for one in few] == [(20, 20, 3)] * 3 + [(7, 5, 3)] * 2
    assert len(np.unique(np.concatenate([one.reshape(-1, 3) for one in few]), axis=0)) <= 100


def test_a_strip_has_a_row_for_each_sample_and_a_column_for_each_time(tmp_path):
    frames = condensing(3, 5)
    draw.film_strip_png(frames, tmp_path / "a.png", scale=2)
    found, rest = cells(tmp_path / "a.png", layout([image for row in frames for image in row], 5, scale=2))
    assert (rest == 255).all()
    for sample in range(3):
        for stage in range(5):
            np.testing.assert_array_equal(found[sample * 5 + stage], enlarged(frames[stage][sample], 2))


# All of them

WRITERS = {
    "a.png": lambda path: draw.sheet_png(some(), path),
    "b.gif": lambda path: draw.film_gif(condensing(), path),
    "c.png": lambda path: draw.film_strip_png(condensing(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_equal_images_are_equal_bytes_and_a_failure_leaves_nothing(name, tmp_path):
    paths = [tmp_path / part / name for part in ("one", "two")]
    for path in paths:
        WRITERS[name](path)
        assert [p.name for p in path.parent.iterdir()] == [name]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        WRITERS[name](tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: draw.sheet_png(some(1), path, columns=0), "columns must be at least 1, got 0"),
        (lambda path: draw.sheet_png(some(1), path, scale=0), "scale must be a whole number of at least 1, got 0"),
        (lambda path: draw.sheet_png(some(1), path, captions=["a", "b"]), "one for each of the 1 images"),
        (lambda path: draw.film_gif([], path), "frames must all have the same samples"),
        (lambda path: draw.film_gif([[]], path), "there is no image to draw"),
        (lambda path: draw.film_gif([some(1), some(2)], path), r"the same samples, got \[1, 2\]"),
        (lambda path: draw.film_gif([some(1)], path, seconds=math.nan), "seconds must be between 0.1 and 60, got nan"),
        (lambda path: draw.film_strip_png([some(1)], path, scale=-1), "scale must be a whole number"),
        (lambda path: draw.film_strip_png([], path), "frames must all have the same samples"),
    ],
)
def test_mistakes_are_named_and_leave_no_file(call, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        call(tmp_path / "a")
    assert not list(tmp_path.iterdir())
