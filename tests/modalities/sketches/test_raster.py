import numpy as np
import pytest

from gendiff.modalities.sketches.geometry import normalised
from gendiff.modalities.sketches.raster import rasterise
from gendiff.modalities.sketches.records import Sketch, SketchArrays


def sketch(*strokes):
    strokes = [np.array(stroke, float).reshape(-1, 2) for stroke in strokes]
    pen = np.zeros(sum(map(len, strokes)), bool)
    pen[np.cumsum([len(stroke) for stroke in strokes]) - 1] = True
    return Sketch(np.concatenate(strokes), pen)


def raster(*sketches, **options):
    return rasterise(SketchArrays.from_sketches(sketches), **options)


SQUARE = sketch([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
ELL = sketch([(0, 0), (0, 2)], [(0, 2), (1, 2)])


def test_a_square_is_drawn_where_it_should_be():
    (picture,) = raster(SQUARE, size=40, width=0.1, margin=0.05)
    assert picture.dtype == np.uint8
    # Strokes are 4 pixels wide about 4.0 and 36.0: columns 2 to 5 are ink, as are 34 to 37; nothing lies beyond.
    row = picture[20].astype(int)
    assert (row[3:5] == 255).all()
    assert (row[35:37] == 255).all()
    assert row.sum() / 255 == pytest.approx(8, abs=0.6)
    assert row[7:33].sum() == 0
    assert picture[:2].sum() == picture[-1:].sum() == picture[:, :1].sum() == 0


def test_without_a_margin_strokes_reach_the_edges():
    """Of 2 pixels of width, 8 cells, those in the middle of a side are all ink."""
    (picture,) = raster(SQUARE, size=40, width=0.05, margin=0)
    assert [picture[20, column] for column in (0, 1, 38)] == [255, 255, 255]
    assert picture[20, 39] >= 127
    assert picture[20, 3:37].sum() == 0
    ordinary = raster(SQUARE, size=40, width=0.05, margin=0.03)
    assert ordinary[0, :1].sum() == 0


def test_equal_aspect_and_the_middle_of_the_box():
    (picture,) = raster(ELL, size=32, width=1 / 16, margin=1 / 16)
    ys, xs = np.nonzero(picture > 127)
    assert ys.min() == 2
    assert ys.max() == 29
    pen = 2  # pixels of a stroke across, which the height has as well as the width
    assert xs.max() - xs.min() == pytest.approx((ys.max() - ys.min() - pen) / 2 + pen, abs=1.1)
    assert xs.min() + xs.max() == pytest.approx(31, abs=1)
    assert picture[3:20, xs.min() + 1].mean() > 200  # y runs down: the foot of the L is below
    assert picture[29, xs.min() : xs.max()].mean() > 100


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 0.0), (3.7, 1e5), (1.0, -4e3)])
def test_place_and_size_of_a_sketch_change_nothing(scale, shift):
    moved = [Sketch(one.points * scale + shift, one.pen) for one in (SQUARE, ELL)]
    difference = raster(*moved).astype(int) - raster(SQUARE, ELL)
    assert np.abs(difference).max() <= 64  # a rounding moves the edge by a cell, a quarter of a pixel, at most


def test_ink_is_length_times_width():
    """The covered area of thin strokes, for a slanted line and for several strokes."""
    size, width, margin = 128, 0.03, 0.03
    line = sketch([(0, 0), (1, 0.4)])
    side = size * (1 - 2 * margin - width)
    length, thick = side * np.hypot(1, 0.4), size * width
    (picture,) = raster(line, size=size, width=width, margin=margin)
    assert picture.sum() / 255 == pytest.approx(length * thick + np.pi * thick**2 / 4, rel=0.08)


def test_pen_up_leaves_no_ink():
    """Two bars, one or two strokes: only the way between them differs, and it is empty with the pen up."""
    bars = [(0, 0), (0, 1)], [(1, 0), (1, 1)]
    two, one = raster(sketch(*bars), sketch([*bars[0], *bars[1]]), size=32)
    assert two[:, 8:24].sum() == 0
    assert one[:, 8:24].sum() > 0
    assert (one >= two).all()


def test_dots_are_visible():
    dot, pair = raster(sketch([(5, 5)]), sketch([(0, 0)], [(1, 0)]), size=32, width=0.1).astype(int)
    assert dot.sum() / 255 == pytest.approx(np.pi * 1.6**2, rel=0.2)
    assert pair.sum() == pytest.approx(2 * dot.sum(), rel=0.1)
    assert dot[15:17, 15:17].min() == 255


def test_grey_edges():
    (picture,) = raster(sketch([(0, 0), (1, 0.31)]), size=32)
    assert len(np.unique(picture)) > 5


def test_pieces_are_drawn_alike(monkeypatch):
    many = [SQUARE, ELL, sketch([(0, 0), (3, 1), (2, 5)])] * 5
    whole = raster(*many)
    monkeypatch.setattr("gendiff.modalities.sketches.raster.CHUNK", 1)
    assert np.array_equal(raster(*many), whole)
    assert np.array_equal(raster(many[2])[0], whole[2])


def test_coordinates_at_the_edge_of_precision_stay_in_the_picture():
    near = Sketch(np.array([[1.0, 1.0], [1.0 + 2**-52, 1.0], [1.0, 1.0 + 2**-52]]), np.array([False, False, True]))
    assert np.abs(normalised(SketchArrays.from_sketches([near]))).max() <= 0.5
    ink = raster(near, SQUARE)
    assert ink[0].sum() > 0
    assert np.array_equal(ink[1], raster(SQUARE)[0])


def test_sequences_without_a_pen_and_no_sketches():
    line = SketchArrays(np.array([3]), np.array([[0.0, 0], [1, 0], [1, 1]]))
    assert np.array_equal(rasterise(line), raster(sketch([(0, 0), (1, 0), (1, 1)])))
    assert rasterise(SketchArrays.from_sketches([])).shape == (0, 32, 32)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"two coordinates .*, got 3"):
        rasterise(SketchArrays(np.array([2]), np.zeros((2, 3))))
    for options in ({"size": 0}, {"width": 0.0}, {"margin": 0.5}):
        with pytest.raises(ValueError, match="no room"):
            raster(SQUARE, **options)
