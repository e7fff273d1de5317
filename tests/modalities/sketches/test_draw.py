"""Pictures of sketches: what is drawn is the sketch, it can be read back, and no text breaks a page."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from defusedxml import ElementTree
from PIL import Image

from gendiff.files import UserError
from gendiff.modalities.sketches import draw
from gendiff.modalities.sketches.draw.bitmap import cell
from gendiff.modalities.sketches.draw.motion import FILM_MARGIN, HOLD
from gendiff.modalities.sketches.draw.scene import CAPTION, COORDINATES, GAP, INK, ORDER, STROKE, ramp, scene, sheet
from gendiff.modalities.sketches.draw.vector import MARGIN
from gendiff.modalities.sketches.read import read_sketches
from gendiff.modalities.sketches.records import Sketch, SketchArrays

SVG = "{http://www.w3.org/2000/svg}"
ATTACK = "</title><script>alert('x')</script>\"&' \x00\ud800\n\tend"


def sketch(*strokes, word="", has_pen=True):
    points = np.concatenate([np.asarray(stroke, float).reshape(-1, np.shape(stroke)[-1]) for stroke in strokes])
    pen = np.zeros(len(points), bool)
    pen[np.cumsum([len(stroke) for stroke in strokes]) - 1] = True
    return Sketch(points, pen, word, has_pen=has_pen)


def some(count=7, seed=0):
    """Sketches of one to four strokes, dots among them, with coordinates that need all their digits."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        sizes = random.integers(1, 9, random.integers(1, 5))
        unit = 10.0 ** random.integers(-6, 5)
        found.append(sketch(*(random.normal(size=(n, 2)) * unit for n in sizes), word=f"word {i % 3}"))
    return found


SQUARE = sketch([[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]], word="square")


def elements(text, kind):
    root = ElementTree.fromstring(text, forbid_dtd=True)
    assert root.tag == f"{SVG}svg"
    return list(root.iter(f"{SVG}{kind}"))


def groups(text, kind="sketch"):
    return [group for group in elements(text, "g") if group.get("class") == kind]


def points_of(path):
    """The points of a path of M and L only."""
    data = path.get("d")
    assert re.fullmatch(r"(M[^MLa-df-zA-DF-Z]+(L[^MLa-df-zA-DF-Z]+)*)+", data)
    x = np.array([[float(n) for n in pair.split()] for pair in re.findall(r"[ML]([^ML]+)", data)])
    return x[:1] if path.get("class") == "dot" else x


def read_back(group):
    strokes = [points_of(path) for path in group.iter(f"{SVG}path")]
    return sketch(*strokes, word=group.get("data-word"))


def placed(group):
    """The points of a sketch on the page, and the factor from its own unit to that of the page."""
    (x, y), scale, (dx, dy) = (
        [float(n) for n in numbers.split()] for numbers in re.findall(r"\(([^)]*)\)", group.get("transform"))
    )
    return (read_back(group).points + np.array([dx, dy])) * scale[0] + np.array([x, y]), scale[0]


def pixels(path, frame=None):
    with Image.open(path) as image:
        if frame is not None:
            image.seek(frame)
        return np.asarray(image.convert("RGB")).astype(int)


def ink(picture):
    """Darkness, 0 to 1."""
    return 1 - picture.mean(-1) / 255


# SVG


@pytest.mark.parametrize("by_order", [False, True])
def test_a_sheet_holds_every_sketch_to_the_last_digit(tmp_path, by_order):
    sketches = [*some(20), sketch([[-0.0, 1e-300], [1 / 3, 123456789.123456789]]), sketch([[3, 4]])]
    text = draw.sheet_svg(sketches, tmp_path / "a.svg", by_order=by_order)
    assert (tmp_path / "a.svg").read_text() == text
    found = groups(text)
    assert len(found) == len(sketches)
    for group, one in zip(found, sketches, strict=True):
        again = read_back(group)
        np.testing.assert_array_equal(again.points, one.points)
        np.testing.assert_array_equal(again.pen, one.pen)
        assert again.word == one.word
    assert read_back(groups(draw.svg(sketches[3]))[0]).points.tolist() == sketches[3].points.tolist()


def test_what_reads_files_finds_the_same_sketches(tmp_path):
    from gendiff.modalities.sketches.read import read_sketches

    sketches = [*some(9), sketch([[3, 4]], [[5, 6], [5, 6]], word='a "b" <c>')]
    for write in (draw.sheet_svg, draw.pen_svg):
        write(sketches, tmp_path / "a.svg")
        arrays, _ = read_sketches([tmp_path / "a.svg"])
        wanted = SketchArrays.from_sketches(sketches)
        for name in ("num_points", "points", "pen", "words"):
            np.testing.assert_array_equal(getattr(arrays, name), getattr(wanted, name))
    path = sketch([[0, 0], [1, 2], [3, 3]], has_pen=False)
    draw.sheet_svg(path, tmp_path / "path.svg")
    assert not read_sketches([tmp_path / "path.svg"])[0].has_pen


def test_each_sketch_fills_its_cell():
    sketches, side, columns = some(11), 60, 4
    text = draw.sheet_svg(sketches, columns=columns, size=side)
    size = elements(text, "svg")[0].get("viewBox").split()[2:]
    assert [float(n) for n in size] == [4 * (60 + GAP) + GAP, 3 * (60 + CAPTION + GAP) + GAP]
    for i, group in enumerate(groups(text)):
        x, scale = placed(group)
        corner = np.array([GAP + i % columns * (side + GAP), GAP + i // columns * (side + CAPTION + GAP)])
        np.testing.assert_allclose((x.min(0) + x.max(0)) / 2, corner + side / 2, atol=1e-3)
        if len(x) > 1:
            assert (x.max(0) - x.min(0)).max() == pytest.approx((1 - 2 * MARGIN) * side, rel=1e-5)
        assert float(group.get("stroke-width")) * scale == pytest.approx(STROKE * side, rel=1e-3)


@pytest.mark.parametrize(
    "strokes", [[[[0, 0], [30, 5]]], [[[-5, 0], [-4, 90]], [[2, 3]]], [[[7, 7]]], [[[0, 0], [9, 9]]]]
)
def test_one_sketch_stands_in_its_box_with_a_margin(strokes):
    one = sketch(*strokes)
    picture = elements(draw.svg(one, size=150), "svg")[0]
    left, top, width, height = map(float, picture.get("viewBox").split())
    low, high = one.points.min(0), one.points.max(0)
    side = float((high - low).max()) or 1.0
    margin = MARGIN / (1 - 2 * MARGIN) * side
    for start, length, a, b in ((left, width, *(low[0], high[0])), (top, height, *(low[1], high[1]))):
        assert start <= a - margin + 1e-9
        assert start + length >= b + margin - 1e-9
        assert start + length / 2 == pytest.approx((a + b) / 2)
    assert width / height == pytest.approx(float(picture.get("width")) / float(picture.get("height")), rel=1e-4)
    assert max(float(picture.get("width")), float(picture.get("height"))) == pytest.approx(150)
    assert float(groups(draw.svg(one))[0].get("stroke-width")) > 0


def test_no_word_breaks_a_page(tmp_path):
    sketches = [sketch([[0, 0], [1, 1]], word=ATTACK), sketch([[0, 0], [1, 1]], word="\U0001f431 ネコ" + "x" * 500)]
    clean = ATTACK.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    for text in (
        draw.svg(sketches[0]),
        draw.sheet_svg(sketches, tmp_path / "a.svg"),
        draw.sheet_svg(sketches, captions=[ATTACK, ATTACK]),
        draw.pen_svg(sketches, tmp_path / "b.svg"),
        draw.film_svg([sketches, sketches]),
        draw.show(sketches)._repr_svg_(),
    ):
        assert "<script" not in text
        assert {group.get("data-word") for group in groups(text)} <= {clean, sketches[1].word}
        text.encode()
    assert groups(draw.svg(sketches[0]))[0].findtext(f"{SVG}title") == clean
    draw.sheet_png(sketches, tmp_path / "a.png", captions=[ATTACK, ATTACK])
    draw.pen_gif(sketches, tmp_path / "a.gif", seconds=0.2)


def test_strokes_are_coloured_from_first_to_last():
    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255]
        return linear @ np.array([0.2126, 0.7152, 0.0722])

    for color in (*ramp(300), *COORDINATES, INK):
        assert 1.05 / (luminance(color) + 0.05) > 3, f"{color} is not legible on white"
    assert (ramp(5)[0], ramp(5)[-1]) == (ORDER[0], ORDER[-1])
    assert len(set(ramp(300))) <= 24
    strokes = [[[i, 0], [i, 1]] for i in range(6)]
    paths = elements(draw.svg(sketch(*strokes), by_order=True), "path")
    assert [path.get("stroke") for path in paths] == ["#{:02x}{:02x}{:02x}".format(*c) for c in ramp(6)]
    assert all(path.get("stroke") is None for path in elements(draw.svg(sketch(*strokes)), "path"))


# Pixels


def distance(x, one):
    """Of every pixel's centre, (H, W), from the strokes of a sketch whose points are on the page."""
    best = np.full(x.shape[:2], np.inf)
    for stroke in one.strokes:
        for a, b in pairwise(stroke) if len(stroke) > 1 else [(stroke[0], stroke[0])]:
            t = np.clip(((x - a) @ (b - a)) / max((b - a) @ (b - a), 1e-12), 0, 1)
            best = np.minimum(best, np.linalg.norm(x - a - t[..., None] * (b - a), axis=-1))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_pixels_are_dark_where_the_pen_has_been(tmp_path, seed):
    """A pixel's ink is the share of it within half a width of a stroke, round ends, joins and dots included."""
    one, side = some(1, seed)[0], 240
    draw.png(one, tmp_path / "a.png", side)
    low, high = one.points.min(0), one.points.max(0)
    scale = (1 - 2 * MARGIN) * side / ((high - low).max() or 1)
    on_page = Sketch((one.points - (low + high) / 2) * scale + side / 2, one.pen)
    grid = np.stack(np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5), -1)
    wanted = np.clip(STROKE * side / 2 + 0.5 - distance(grid, on_page), 0, 1) * ink(np.array(INK))
    found = ink(pixels(tmp_path / "a.png"))
    assert found.sum() == pytest.approx(wanted.sum(), rel=0.08)
    assert np.abs(found - wanted).max() < 0.5  # a quarter of a pixel to each side
    assert np.abs(found - wanted)[wanted == 0].max() < 0.35


def test_a_sheet_of_pixels_has_each_sketch_in_its_cell(tmp_path):
    sketches = [SQUARE, sketch([[5, 5]]), SQUARE, SQUARE, SQUARE]
    draw.sheet_png(sketches, tmp_path / "a.png", columns=3, captions=[], size=50, scale=2)
    picture = pixels(tmp_path / "a.png")
    assert picture.shape == (2 * (2 * 56 + 6), 2 * (3 * 56 + 6), 3)
    cells = np.zeros(picture.shape[:2], bool)
    for i, one in enumerate(sketches):
        top, left = 2 * (6 + i // 3 * 56), 2 * (6 + i % 3 * 56)
        where = np.s_[top : top + 100, left : left + 100]
        np.testing.assert_array_equal(picture[where], np.asarray(cell(scene(one), 100)))
        cells[where] = True
    assert (picture[~cells] == 255).all()
    draw.sheet_png(sketches, tmp_path / "b.png", columns=3, size=50)
    text = pixels(tmp_path / "b.png")[2 * 56 : 2 * (56 + CAPTION)]
    assert [bool((text[:, 2 * (6 + k * 56) :][:, :100] < 128).any()) for k in range(3)] == [True, False, True]


def test_sheets_are_about_as_wide_as_a_page():
    for count in (1, 2, 3, 10, 24, 200, 1000, 10_000):
        grid = sheet(count)
        width, height = grid.size
        assert grid.columns * -(-count // grid.columns) >= count
        assert 0.7 < width / height < 3
        assert width < 4000
        places = {grid.corner(i) for i in range(count)}
        assert len(places) == count
        assert max(x for x, _ in places) + grid.side + GAP == width
        assert max(y for _, y in places) + grid.side + GAP == height


# Sequences that are no drawings


@pytest.mark.parametrize("dimensions", [1, 3, 11])
def test_other_sequences_are_plotted(dimensions):
    x = np.random.default_rng(0).normal(size=(20, dimensions))
    text = draw.svg(Sketch(x, np.arange(20) == 19, "series", has_pen=False))
    assert not groups(text)
    (plot,) = groups(text, "plot")
    axis, *lines = [points_of(path) for path in plot.iter(f"{SVG}path")]
    assert len(lines) == dimensions
    assert axis[:, 1].tolist() == [0, 0]
    for line, values in zip(lines, x.T, strict=True):
        np.testing.assert_array_equal(line[:, 1], -values)
        np.testing.assert_allclose(np.diff(line[:, 0]), 4 / 3 * np.ptp(x) / 19)
    assert len({path.get("stroke") for path in plot.iter(f"{SVG}path")}) == min(dimensions, 8) + 1


def test_values_that_are_all_positive_have_no_line_at_zero():
    assert len(elements(draw.svg(Sketch(np.arange(1.0, 6)[:, None], np.arange(5) == 4)), "path")) == 1


ODD = {
    "nothing": Sketch(np.zeros((0, 2)), np.zeros(0, bool)),
    "no value": Sketch(np.zeros((0, 1)), np.zeros(0, bool)),
    "a dot": sketch([[3, 4]]),
    "a value": sketch([[3]]),
    "one place": sketch([[3, 4]] * 5),
    "a constant": sketch([[3]] * 5),
    "NaN": sketch([[0, 0], [math.nan, 1], [2, 2]], [[math.nan, math.nan]]),
    "nothing but NaN": sketch([[math.nan] * 2] * 2),
    "infinite": sketch([[0, 0], [math.inf, -math.inf]]),
    "NaN of 3": sketch([[0, 0, 0], [math.nan, 1, 1]]),
    "huge": sketch([[0, 0], [1e200, -1e308]]),
    "tiny": sketch([[0, 0], [1e-300, 0]]),
    "huge values": sketch([[0], [1e308], [-1e308]]),
    "far": sketch([[1e12, 1e12], [1e12 + 1, 1e12]]),
    "one stroke a point": sketch(*([[i, i]] for i in range(5))),
}


@pytest.mark.parametrize("name", ODD)
def test_anything_can_be_drawn(name, tmp_path):
    one = ODD[name]
    for by_order in (False, True):
        elements(draw.svg(one, by_order=by_order), "svg")
        draw.png(one, tmp_path / "a.png", 32, by_order)
    for text in (draw.sheet_svg(one), draw.pen_svg([one, one]), draw.film_svg([[one], [one]])):
        assert "nan" not in text.lower()
        assert "inf" not in text.lower().replace("indefinite", "")
        elements(text, "svg")
    draw.pen_gif(one, tmp_path / "a.gif", size=32, seconds=0.2)
    draw.film_gif([[one], [SQUARE], [one]], tmp_path / "a.gif", size=32)
    draw.film_gif([[one], [SQUARE]], tmp_path / "a.gif", size=32)
    draw.film_strip_png([[one], [one]], tmp_path / "a.png", size=32)


# The pen


def length(strokes):
    return sum(np.linalg.norm(np.diff(stroke, axis=0), axis=1).sum() for stroke in strokes)


def test_the_pen_is_where_a_constant_speed_brings_it():
    one = sketch([[0, 0], [4, 0], [4, 3]], [[0, 10], [0, 8]], [[9, 9]], [[0, 0], [0, 5]])
    lines = scene(one).lines
    pause, total = 0.15 * 10, 7 + 2 + 5 + 3 * 0.15 * 10
    for time in np.linspace(0, 1, 101):
        gone = time * total
        wanted = 0.0
        for part in (7, 2, 0, 5):  # what is left of the way is spent on the strokes, with a pause after each
            wanted += min(max(gone, 0), part)
            gone -= part + pause
        assert length([line.until(time) for line in lines if len(line.until(time))]) == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_array_equal(lines[0].until(5.5 / total)[-1], [4, 1.5])
    assert [line.until(0)[-1:].tolist() for line in lines] == [[[0, 0]], [], [], []]
    assert [len(line.until(1)) for line in lines] == [3, 2, 1, 2]
    assert [len(line.until(8.4 / total)) for line in lines] == [3, 0, 0, 0]
    assert [len(line.until(8.6 / total)) for line in lines] == [3, 2, 0, 0]


def test_coordinates_of_a_sequence_are_drawn_together():
    x = np.stack([np.arange(11.0), 100 * np.sin(np.arange(11.0)), np.zeros(11)], 1)
    for line in scene(Sketch(x, np.arange(11) == 10)).lines[1:]:
        assert line.until(0.55)[-1, 0] == pytest.approx(0.55 * line.points[-1, 0])


def gif(path):
    with Image.open(path) as image:
        frames, durations = [], []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
            durations.append(image.info["duration"])
        return frames, durations, image.info.get("loop")


def test_a_gif_draws_the_strokes_in_order(tmp_path):
    one = sketch([[0, 0], [0, 10]], [[10, 0], [10, 10]])
    draw.pen_gif(one, tmp_path / "a.gif", size=96, seconds=2)
    frames, durations, loop = gif(tmp_path / "a.gif")
    assert loop == 0
    assert sum(durations) / 1000 == pytest.approx(2 + HOLD, abs=0.15)
    grid = sheet(1, None, 96)
    left, right = np.s_[:, : grid.size[0] // 2], np.s_[:, grid.size[0] // 2 :]
    dark = [[int((frame[half].max(-1) < 128).sum()) for half in (left, right)] for frame in frames]  # the tip is red
    assert all(b > a - 15 for before, after in pairwise(dark) for a, b in zip(before, after, strict=True))
    begun = [bool((frame[right] < 255).any()) for frame in frames]
    assert [a for (a, _), also in zip(dark, begun, strict=True) if also] == [dark[-1][0]] * sum(begun)
    waited = sum(duration for duration, also in zip(durations, begun, strict=True) if not also) / 1000
    assert waited == pytest.approx(2 * 11.5 / 21.5, abs=0.09)  # a stroke and a pause, of two strokes and a pause
    assert any(0 < b < 0.5 * dark[-1][1] for _, b in dark)
    page = np.full((108, 108, 3), 255)
    page[GAP:-GAP, GAP:-GAP] = np.asarray(cell(scene(one), 96))
    assert np.abs(frames[-1] - page).max() <= 255 / 8  # the nearest of eight shades
    reds = [(frame[..., 0] - frame[..., 1] > 100).any() for frame in frames]
    assert all(reds[: len(reds) // 3])
    assert not reds[-1]


@pytest.mark.parametrize("by_order", [False, True])
def test_an_svg_draws_the_strokes_in_order(by_order):
    one = sketch([[0, 0], [4, 0], [4, 3]], [[0, 10], [0, 8]], [[9, 9]], [[0, 0], [0, 5]])
    text = draw.pen_svg([one, one], by_order=by_order, seconds=3)
    share = 3 / (3 + HOLD)
    for group in groups(text):
        keys = []
        for path, line in zip(group.iter(f"{SVG}path"), scene(one).lines, strict=True):
            (animate,) = path.iter(f"{SVG}animate")
            assert (animate.get("dur"), animate.get("repeatCount")) == ("4.5s", "indefinite")
            times = [float(t) for t in animate.get("keyTimes").split(";")]
            values = [float(v) for v in animate.get("values").split(";")]
            assert len(times) == len(values)
            assert path.get("stroke-dashoffset") is path.get("opacity") is None  # a still picture shows everything
            if len(line.points) == 1:
                assert (animate.get("attributeName"), values) == ("opacity", [0, 1])
                assert times == [0, pytest.approx(line.times[0] * share, abs=1e-4)]
            else:
                assert animate.get("attributeName") == "stroke-dashoffset"
                assert (path.get("pathLength"), path.get("stroke-dasharray")) == ("1", "1 3")
                assert values[0] == values[1] > 1  # the dash ends before the path begins
                assert values[2] == values[3] == 0
                wanted = [0, line.times[0] * share, line.times[-1] * share, 1]
                np.testing.assert_allclose(times, wanted, atol=1e-4)
            keys += times[1:3]
        assert keys == sorted(keys)


# The reverse process


def condensing(count=3, times=5):
    """A square, and noise around it that goes away: far beyond the cell at first."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(count, *SQUARE.points.shape)) * 30
    return [[Sketch(SQUARE.points + a * e, SQUARE.pen, "a") for e in noise] for a in np.linspace(1, 0, times)]


def test_states_are_drawn_where_the_last_one_stands():
    frames = [[sketch([[20, -20], [13, 7]])], [sketch([[0, 0]], [[5, 5], [10, 0]])], [SQUARE]]
    paths = elements(draw.film_svg(frames, size=80), "path")
    scale = (1 - 2 * FILM_MARGIN) * 80 / 10
    for path, (state,) in zip(paths, frames, strict=True):
        x = np.concatenate([s.repeat(2, 0) if len(s) == 1 else s for s in state.strokes])
        np.testing.assert_allclose(points_of(path), (x - 5) * scale + 40, atol=0.051)
        assert path.get("d").count("M") == len(state.strokes)


def test_pixels_of_a_state_stand_beside_those_of_the_last_one(tmp_path):
    """Six tenths of a cell of 50 are ten units of the square: two units to the right are six pixels."""
    moved = Sketch(SQUARE.points + np.array([2, 0]), SQUARE.pen)
    draw.film_strip_png([[moved], [SQUARE]], tmp_path / "a.png", size=50, scale=1)
    page = pixels(tmp_path / "a.png")
    before, after = (page[6:56, left : left + 50] for left in (6, 62))
    np.testing.assert_array_equal(before, np.roll(after, 6, 1))
    rows, columns = np.nonzero((after < 128).any(-1))
    assert abs(np.array([rows.min(), columns.min(), 49 - rows.max(), 49 - columns.max()]) - 10).max() <= 1


def test_noise_stays_in_its_cell(tmp_path):
    frames = [[row[0], sketch([[0, 0]])] for row in condensing()]
    assert [text.text for text in elements(draw.film_svg(frames), "text")] == ["a"]
    for row in frames:
        row[0].word = ""
    draw.film_gif(frames, tmp_path / "a.gif", columns=2, size=60)
    pages, durations, _ = gif(tmp_path / "a.gif")
    assert len(pages) == 5
    assert sum(durations) / 1000 == pytest.approx(3 * 4 / 5 + HOLD, abs=0.06)
    for page, row in zip(pages, frames, strict=True):
        assert page.shape == (72, 138, 3)
        mask = np.ones(page.shape[:2], bool)
        mask[6:66, 6:66] = False
        mask[33:39, 99:105] = False  # the dot in the middle of the other cell
        assert (page[mask] == 255).all()
        assert (page[6:66, 6:66] < 128).any()
        inside = cell(scene(row[0]), 60, scene(SQUARE).box, FILM_MARGIN)
        assert np.abs(page[6:66, 6:66] - np.asarray(inside)).max() <= 255 / 8
    assert (np.abs(np.diff(np.array(pages), axis=0)).max((1, 2, 3)) > 128).all()
    text = draw.film_svg(frames, size=60)
    (clip,) = elements(text, "clipPath")
    assert [(r.get("width"), r.get("height"), r.get("x")) for r in clip] == [("60", "60", None)]
    for path_group in [g for g in elements(text, "g") if any(child.tag == f"{SVG}path" for child in g)]:
        assert path_group.get("clip-path") == f"url(#{clip.get('id')})"


@pytest.mark.parametrize("times", [1, 2, 6])
def test_an_svg_shows_one_state_at_a_time(times):
    text = draw.film_svg(condensing(times=times), seconds=3)
    states = [g for g in elements(text, "g") if any(child.tag == f"{SVG}animate" for child in g)]
    assert [g.get("visibility") for g in states] == ["hidden"] * (times - 1) + [None]  # a still picture is the last one
    seen = []
    for moment in np.linspace(0, 1, 200, endpoint=False):
        shown = []
        for number, state in enumerate(states):
            (animate,) = state.findall(f"{SVG}animate")
            assert animate.get("calcMode") == "discrete"
            assert animate.get("dur") == "4.5s"
            keys = [float(k) for k in animate.get("keyTimes").split(";")]
            assert keys[0] == 0
            now = animate.get("values").split(";")[int(np.searchsorted(keys, moment, side="right")) - 1]
            shown += [number] * (now == "visible")
        assert len(shown) == 1
        seen += shown
    assert seen == sorted(seen)
    assert set(seen) == set(range(times))
    assert seen.count(times - 1) / 200 == pytest.approx(1 - 3 * (times - 1) / times / 4.5, abs=0.02)


def test_a_film_is_not_read_as_a_sketch(tmp_path):
    draw.film_svg(condensing(), tmp_path / "a.svg")
    with pytest.raises(UserError, match=r"a\.svg, record 1: a film of how sketches come about: read the file of the"):
        read_sketches(tmp_path / "a.svg")


def test_a_strip_has_a_row_for_each_sample_and_a_column_for_each_time(tmp_path):
    frames = condensing(3, 4)
    draw.film_strip_png(frames, tmp_path / "a.png", size=40, scale=1)
    page = pixels(tmp_path / "a.png")
    assert page.shape == (3 * 46 + 6, 4 * 46 + 6, 3)
    for column, row in enumerate(frames):
        for k, state in enumerate(row):
            found = page[6 + 46 * k : 46 + 46 * k, 6 + 46 * column : 46 + 46 * column]
            np.testing.assert_array_equal(found, np.asarray(cell(scene(state), 40, scene(SQUARE).box, FILM_MARGIN)))


def test_plots_of_a_film_keep_the_scale_of_the_last():
    random = np.random.default_rng(0)
    rows = [Sketch(random.normal(size=(9, 1)) * a, np.arange(9) == 8, has_pen=False) for a in (9, 4, 1)]
    spread = np.ptp(rows[-1].points)
    paths = elements(draw.film_svg([[row] for row in rows], size=80), "path")
    scale = (1 - 2 * FILM_MARGIN) * 80 / (4 / 3 * spread)
    lines = [points_of(p) for p in paths if p.get("stroke") == "#{:02x}{:02x}{:02x}".format(*COORDINATES[0])]
    for line, row in zip(lines, rows, strict=True):
        np.testing.assert_allclose(np.diff(line[:, 1]), -np.diff(row.points[:, 0]) * scale, atol=0.11)
        np.testing.assert_allclose(np.diff(line[:, 0]), 4 / 3 * spread / 8 * scale, atol=0.11)


# All of them

WRITERS = {
    "a.svg": lambda path: draw.sheet_svg(some(), path),
    "a.png": lambda path: draw.sheet_png(some(), path),
    "b.png": lambda path: draw.png(SQUARE, path),
    "a.gif": lambda path: draw.pen_gif(some(), path, by_order=True, seconds=0.5),
    "b.svg": lambda path: draw.pen_svg(some(), path),
    "b.gif": lambda path: draw.film_gif(condensing(), path),
    "c.svg": lambda path: draw.film_svg(condensing(), path),
    "c.png": lambda path: draw.film_strip_png(condensing(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_equal_sketches_are_equal_bytes_and_a_failure_leaves_nothing(name, tmp_path):
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
        (lambda path: draw.sheet_svg([SQUARE], path, columns=0), "columns must be at least 1, got 0"),
        (lambda path: draw.sheet_png([SQUARE], path, columns=-1), "columns must be at least 1, got -1"),
        (lambda path: draw.sheet_png([SQUARE], path, size=4), "size must be at least 16, got 4"),
        (lambda path: draw.sheet_png([SQUARE], path, scale=0), "scale must be at least 1, got 0"),
        (lambda path: draw.png(SQUARE, path, 3), "size must be at least 16, got 3"),
        (lambda path: draw.sheet_svg([SQUARE], path, captions=["a", "b"]), "one for each of the 1 sketches"),
        (lambda path: draw.pen_gif([], path), "there is no sketch to draw"),
        (lambda path: draw.pen_svg([], path), "there is no sketch to draw"),
        (lambda path: draw.pen_gif(SQUARE, path, seconds=0), "seconds must be between 0.1 and 60, got 0"),
        (lambda path: draw.pen_svg(SQUARE, path, seconds=math.nan), "seconds must be between 0.1 and 60, got nan"),
        (lambda path: draw.film_gif([], path), "frames must all have the same samples"),
        (lambda path: draw.film_gif([[]], path), "there is no sketch to draw"),
        (lambda path: draw.film_svg([[SQUARE], [SQUARE] * 2], path), r"the same samples, got \[1, 2\]"),
        (lambda path: draw.film_svg([[SQUARE]], path, seconds=61), "seconds"),
        (lambda path: draw.film_strip_png([[SQUARE]], path, scale=0), "scale must be at least 1"),
    ],
)
def test_mistakes_are_named_and_leave_no_file(call, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        call(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_no_sketch_at_all_is_an_empty_sheet(tmp_path):
    assert not groups(draw.sheet_svg([]))
    draw.sheet_png([], tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 255).all()


def test_notebooks_show_one_sketch_and_many():
    assert SQUARE._repr_svg_() == draw.svg(SQUARE)
    shown = draw.show(some(5), columns=2, by_order=True)
    assert shown._repr_svg_() == draw.sheet_svg(some(5), columns=2, by_order=True)
    assert len(repr(shown)) < 60
    arrays = SketchArrays.from_sketches(some(5))
    assert draw.show(arrays)._repr_svg_() == draw.show(some(5))._repr_svg_()


def test_animations_stay_small(tmp_path):
    """Of 24 sketches of 40 points, noise included, a megabyte is far away."""
    random = np.random.default_rng(0)
    drawn = [Sketch(random.normal(size=(40, 2)).cumsum(0), random.random(40) < 0.2, "a") for _ in range(24)]
    for one in drawn:
        one.pen[-1] = True
    draw.pen_gif(drawn, tmp_path / "a.gif", seconds=2)
    draw.film_gif([[Sketch(s.points * a, s.pen) for s in drawn] for a in np.linspace(3, 1, 12)], tmp_path / "b.gif")
    assert (tmp_path / "a.gif").stat().st_size < 600_000
    assert (tmp_path / "b.gif").stat().st_size < 600_000
