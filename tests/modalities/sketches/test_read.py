"""Reading sketches: every format gives the same absolute points, strokes, classes and times."""

import gzip
import json
import math
import os
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from gendiff.files import UserError
from gendiff.modalities.sketches.read import class_of, read_sketches

# two strokes of three points and one, from the origin (stroke-3), and the same in absolute coordinates
STROKE3 = np.array([[3, 4, 0], [1, 0, 0], [0, 2, 1], [-4, 1, 1]])
POINTS = [[3, 4], [4, 4], [4, 6], [0, 7]]
PEN = [False, False, True, True]
SECOND3, SECOND = np.array([[-1, 2, 0], [5, 5, 1]]), [[-1, 2], [4, 7]]


def two(arrays):
    """Check that these are the two sketches above."""
    assert arrays.num_points.tolist() == [4, 2]
    assert arrays.points.tolist() == POINTS + SECOND
    assert arrays.pen.tolist() == [*PEN, False, True]
    return arrays


def objects(*items):
    """An object array, as sketch-rnn's files have them."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_svg(tmp_path, body, head="", **options):
    path = write(tmp_path / "a.svg", f'{head}<svg xmlns="http://www.w3.org/2000/svg">{body}</svg>')
    return read_sketches(path, **options)[0]


def strokes(arrays, index=0):
    return [stroke.tolist() for stroke in arrays[index].strokes]


# QuickDraw ---------------------------------------------------------------------------------------------------------


RAW = {
    "word": "cat",
    "countrycode": "US",
    "timestamp": "2017-03-08 21:12:07.26604 UTC",
    "recognized": True,
    "key_id": "5152802093400064",
    "drawing": [[[3, 4, 4], [4, 4.25, 6], [0, 20, 34]], [[0], [7], [301.5]]],
}


def test_quickdraw_raw_brings_strokes_times_word_and_facts(tmp_path):
    path = write(tmp_path / "x.ndjson", json.dumps(RAW) + "\n\n" + json.dumps({"word": "dog", "drawing": [[[1], [2]]]}))
    arrays, report = read_sketches(path)
    first, second = arrays
    assert strokes(arrays) == [[[3, 4], [4, 4.25], [4, 6]], [[0, 7]]]
    assert first.times.tolist() == [0, 20, 34, 301.5]
    assert (first.word, second.word) == ("cat", "dog")
    assert list(first.facts) == ["countrycode", "timestamp", "recognized", "key_id"]
    assert first.facts["recognized"] is True
    assert second.times is None
    assert second.facts == {}
    assert report.to_json()["timed"] == 1


def test_packed_and_marked_text_reads_the_same(tmp_path):
    line = json.dumps(RAW).encode()
    packed = write(tmp_path / "x.ndjson.gz", gzip.compress(line))
    marked = write(tmp_path / "y.ndjson", b"\xef\xbb\xbf" + line)
    for path in (packed, marked):
        assert read_sketches(path)[0].points.tolist() == [[3, 4], [4, 4.25], [4, 6], [0, 7]]


def test_a_line_without_a_word_is_named_after_the_file_and_an_empty_word_is_none(tmp_path):
    lines = [{"drawing": [[[1], [2]]]}, {"word": "", "drawing": [[[1], [2]]]}, {"word": "owl", "drawing": [[[1], [2]]]}]
    arrays, _ = read_sketches(write(tmp_path / "full_simplified_cat.ndjson", "\n".join(map(json.dumps, lines))))
    assert arrays.words.tolist() == ["cat", "", "owl"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cat.npz", "cat"),
        ("sketchrnn_cat.full.npz", "cat"),
        ("cat_train.npz", "cat"),
        ("alarm clock.csv.gz", "alarm clock"),
        ("full_raw_cat.ndjson", "cat"),
        ("train.npz", "train"),
        ("rawhide.npz", "rawhide"),
    ],
)
def test_the_class_of_a_file_is_its_name_without_what_is_not_its_own(name, word):
    assert class_of(Path("full") / name, Path("full") / name) == word


def test_drawings_of_a_folder_of_folders_are_named_after_the_inner_one(tmp_path):
    drawing = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0 L{} 1"/></svg>'
    named = drawing.replace("<path", '<g class="sketch" data-word="owl"><path').replace("/></svg>", "/></g></svg>")
    folder = tmp_path / "birds"
    for name, text in {"cat/1.svg": drawing, "cat/2.svg": named, "dog/1.svg": drawing, "0.svg": drawing}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, text.format(1))
    arrays, report = read_sketches(folder)
    assert arrays.words.tolist() == ["", "cat", "owl", "dog"]
    assert [Path(file["path"]).relative_to(folder).as_posix() for file in report.files] == [
        "0.svg", "cat/1.svg", "cat/2.svg", "dog/1.svg",
    ]  # fmt: skip
    assert read_sketches([folder / "cat/1.svg", folder / "cat/1.svg"])[0].words.tolist() == ["", ""]


# numpy ---------------------------------------------------------------------------------------------------------------


def test_a_container_is_stroke_3_with_labels_words_facts_and_times(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(
        path,
        points=np.concatenate([STROKE3, SECOND3]).astype(np.int16),
        offsets=[0, 4, 6],
        labels=np.array([1, 0], np.int8),
        words=np.array(["cat", "dog"]),
        recognized=np.array([True, False]),
        times=[0.0, 1, 2, 3, np.nan, np.nan],
    )
    arrays = two(read_sketches(path)[0])
    assert arrays.words.tolist() == ["dog", "cat"]
    assert [sketch.facts for sketch in arrays] == [{"recognized": True}, {"recognized": False}]
    assert arrays[0].times.tolist() == [0, 1, 2, 3]
    assert arrays[1].times is None


def test_labels_alone_are_classes_and_a_file_without_any_is_its_own(tmp_path):
    points = np.concatenate([STROKE3, SECOND3])
    np.savez(tmp_path / "x.npz", points=points, offsets=[0, 4, 6], labels=[7, 3])
    np.savez(tmp_path / "kanji_valid.npz", points=points, offsets=[0, 4, 6])
    assert read_sketches(tmp_path / "x.npz")[0].words.tolist() == ["7", "3"]
    assert read_sketches(tmp_path / "kanji_valid.npz")[0].words.tolist() == ["kanji", "kanji"]


def test_marker_rows_end_the_stroke_before_them_and_are_no_points(tmp_path):
    first = [[3, 4, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [-4, 1, 0, 0], [0, 0, 1, 1]]
    second = [[-1, 2, 0, 0], [5, 5, 0, 0], [0, 0, 1, 1]]
    np.savez(tmp_path / "x.npz", points=np.array(first + second, np.int8), offsets=[0, 6, 9], times=np.arange(9.0))
    arrays = two(read_sketches(tmp_path / "x.npz")[0])
    assert arrays.times.tolist() == [0, 1, 2, 4, 6, 7]


@pytest.mark.parametrize("length", [4, 6])
def test_stroke_5_ends_where_its_padding_begins(tmp_path, length):
    padded = np.zeros((2, length, 5))
    padded[..., 4] = 1
    for row, stroke3 in enumerate((STROKE3, SECOND3)):
        padded[row, : len(stroke3)] = [[x, y, 1 - pen, pen, 0] for x, y, pen in stroke3]
    padded[1, -1, :2] = 9  # what stands in the padding does not matter
    np.savez(tmp_path / "x.npz", padded)
    two(read_sketches(tmp_path / "x.npz")[0])
    np.save(tmp_path / "x.npy", padded)
    two(read_sketches(tmp_path / "x.npy")[0])


def test_every_array_of_an_archive_is_a_sketch(tmp_path):
    np.savez(tmp_path / "x.npz", one=STROKE3, two=SECOND3)
    two(read_sketches(tmp_path / "x.npz")[0])


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, ">i2"])
def test_sketch_rnn_reads_the_training_part_unless_asked_for_another(tmp_path, dtype):
    path = tmp_path / "sketchrnn_cat.npz"
    first, second = STROKE3.astype(dtype), SECOND3.astype(dtype)
    np.savez(path, train=objects(first, second), valid=objects(second), test=objects(first, second, first))
    arrays, report = read_sketches(path)
    two(arrays)
    assert report.classes == {"cat": 2}
    assert [len(read_sketches(path, split=split)[0]) for split in ("train", "valid", "test", "all")] == [2, 1, 3, 6]


class Python2(pickle._Pickler):
    """Writes bytes and ASCII names as Python 2 wrote its strings, and numpy's old names."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        size = len(data)
        self.write(b"U" + bytes([size]) + data if size < 256 else b"T" + size.to_bytes(4, "little") + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def test_pickles_of_python_2_read_the_same(tmp_path):
    import io

    long = np.concatenate([STROKE3] * 40).astype(np.int16)
    file = io.BytesIO()
    Python2(file, 2).dump(objects(STROKE3.astype(np.int16), SECOND3.astype(np.int16), long))
    data = file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"cnumpy.core.multiarray\n_reconstruct" in data
    head = str({"descr": "|O", "fortran_order": False, "shape": (3,)}).replace("(3,)", "(3L,)").encode()
    head += b" " * (-(len(head) + 11) % 16) + b"\n"
    write(tmp_path / "x.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data)
    arrays, _ = read_sketches(tmp_path / "x.npy")
    two(arrays.select([0, 1]))
    assert arrays[2].points.tolist() == np.cumsum(long[:, :2], 0).tolist()


def test_arrays_of_other_orders_and_protocols_read_the_same(tmp_path):
    for protocol in (2, 3, 4):  # numpy has written 2, 3 and 4
        data = pickle.dumps(objects(np.asfortranarray(STROKE3), SECOND3), protocol)
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"
        write(tmp_path / "x.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data)
        two(read_sketches(tmp_path / "x.npy")[0])


def test_sequences_without_a_pen_keep_their_coordinates_and_number_of_them(tmp_path):
    waves = np.random.default_rng(0).normal(size=(5, 7, 4))
    np.savez(tmp_path / "x.npz", waves=waves, labels=np.array(list("abcde")))
    arrays, report = read_sketches(tmp_path / "x.npz")
    assert not arrays.has_pen
    assert arrays.dimensions == 4
    assert np.array_equal(arrays.points.reshape(5, 7, 4), waves)
    assert arrays.words.tolist() == list("abcde")
    assert report.lines()[0].startswith("read 5 sequences from x.npz; 7 points; 4 coordinates; 5 classes")
    np.savez(tmp_path / "y.npz", points=waves.reshape(-1, 4), offsets=[0, 30, 35])
    assert read_sketches(tmp_path / "y.npz")[0].num_points.tolist() == [30, 5]


def test_flags_are_a_pen_unless_the_user_or_the_file_says_no(tmp_path):
    np.savez(tmp_path / "x.npz", STROKE3)
    np.savez(tmp_path / "y.npz", points=STROKE3, offsets=[0, 4], pen=False)
    np.savez(tmp_path / "z.npz", points=STROKE3 + np.array([0, 0, 2]), offsets=[0, 4], pen=True)
    assert read_sketches(tmp_path / "x.npz")[0].has_pen
    for arrays in (read_sketches(tmp_path / "x.npz", pen="none")[0], read_sketches(tmp_path / "y.npz")[0]):
        assert not arrays.has_pen
        assert arrays.points.tolist() == STROKE3.tolist()
    assert read_sketches(tmp_path / "z.npz")[0].pen.all()


def test_sums_of_a_sketch_do_not_depend_on_what_is_beside_it(tmp_path):
    rng = np.random.default_rng(1)
    parts = [np.column_stack([rng.normal(size=(n, 2)), np.arange(n) == n - 1]) for n in (70, 3, 500, 1, 41)]
    offsets = np.cumsum([0] + [len(part) for part in parts])
    np.savez(tmp_path / "x.npz", points=np.concatenate(parts), offsets=offsets)
    for sketch, part in zip(read_sketches(tmp_path / "x.npz")[0], parts, strict=True):
        assert sketch.points.tobytes() == np.cumsum(part[:, :2], 0).tobytes()


# tables --------------------------------------------------------------------------------------------------------------


def test_tables_tell_strokes_by_pen_or_by_number(tmp_path):
    pen = "id,x,y,pen,t,word\n" + "".join(
        f"{name},{x},{y},{int(end)},{time},{word}\n"
        for name, word, points, ends in (("a", "cat", POINTS, PEN), ("b", "dog", SECOND, [0, 0]))
        for time, ((x, y), end) in enumerate(zip(points, ends, strict=True))
    )
    arrays = two(read_sketches(write(tmp_path / "x.csv", pen))[0])
    assert arrays.words.tolist() == ["cat", "dog"]
    assert arrays[0].times.tolist() == [0, 1, 2, 3]
    rows = ["3 4 one a", "4 4 one a", "-1 2 one b", "4 6 one a", "4 7 one b", "0 7 two a"]  # interleaved records
    tsv = "\n".join("\t".join(row.split()) for row in ["X Y Stroke Sketch", *rows])
    arrays = two(read_sketches(write(tmp_path / "owl.tsv.gz", gzip.compress(tsv.encode())))[0])
    assert arrays.words.tolist() == ["owl", "owl"]


def test_a_table_without_pen_or_id_is_one_sequence_of_any_dimension(tmp_path):
    arrays, _ = read_sketches(write(tmp_path / "x.csv", "time,ax,ay,az\n0,1,2,3\n5,4,5e-1,6\n9,7,8,9\n"))
    assert not arrays.has_pen
    assert arrays.points.tolist() == [[1, 2, 3], [4, 0.5, 6], [7, 8, 9]]
    assert arrays.times.tolist() == [0, 5, 9]


def test_missing_times_of_a_whole_record_are_unknown(tmp_path):
    text = "id,t,x\n1,5,1\n1,6,2\n2,,3\n2,,4\n"
    arrays, _ = read_sketches(write(tmp_path / "x.csv", text))
    assert not arrays.has_pen
    assert arrays.points.tolist() == [[1], [2], [3], [4]]
    assert arrays[0].times.tolist() == [5, 6]
    assert arrays[1].times is None


# SVG -----------------------------------------------------------------------------------------------------------------


def test_lines_of_paths_relative_and_absolute(tmp_path):
    body = '<path d="M1,2L3-4.5.5e1.5H7v-1ZM0 0l1 1 1,0h-1V5z"/><path d="m10 10 5 5zl1 0"/>'
    expected = [
        [[1, 2], [3, -4.5], [5, 0.5], [7, 0.5], [7, -0.5], [1, 2]],
        [[0, 0], [1, 1], [2, 1], [1, 1], [1, 5], [0, 0]],
        [[10, 10], [15, 15], [10, 10]],
        [[10, 10], [11, 10]],
    ]
    assert strokes(read_svg(tmp_path, body)) == expected


def test_shapes_are_strokes_and_backgrounds_are_not(tmp_path):
    body = (
        '<rect width="100%" height="100%" fill="white"/><line x1="1" y1="2" x2="3" y2="4px"/>'
        '<polyline points="0,0 1,1 2 0"/><polygon points="0,0 1,1 2 0"/>'
        '<rect x="1" y="1" width="2" height="3" stroke="red"/><g style="stroke: #000"><rect width="1" height="1"/></g>'
    )
    assert strokes(read_svg(tmp_path, body)) == [
        [[1, 2], [3, 4]],
        [[0, 0], [1, 1], [2, 0]],
        [[0, 0], [1, 1], [2, 0], [0, 0]],
        [[1, 1], [3, 1], [3, 4], [1, 4], [1, 1]],
        [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]],
    ]


def bezier(p, t):
    """A Bézier curve of any order, by de Casteljau."""
    p = np.repeat(np.array(p, float)[:, None], len(t), 1)
    while len(p) > 1:
        p = p[:-1] + t[:, None] * (p[1:] - p[:-1])
    return p[0]


def off(curve, points):
    """How far a curve (n, 2) is at most from a polyline."""
    a, b = np.array(points[:-1]), np.array(points[1:])
    d, r = b - a, curve[:, None] - a
    t = np.clip((r * d).sum(-1) / np.maximum((d * d).sum(-1), 1e-30), 0, 1)
    return np.sqrt(((r - t[..., None] * d) ** 2).sum(-1)).min(1).max()


CURVES = {
    "M0 0C10 40 60 -30 100 50": [[[0, 0], [10, 40], [60, -30], [100, 50]]],
    "M100 50c-40-80-60 30-100-50s20 80 50 40": [
        [[100, 50], [60, -30], [40, 80], [0, 0]],
        [[0, 0], [-40, -80], [20, 80], [50, 40]],
    ],
    "M0 0Q50 100 100 0T200 0": [[[0, 0], [50, 100], [100, 0]], [[100, 0], [150, -100], [200, 0]]],
    "M5 5q10 20 20 0t20 5": [[[5, 5], [15, 25], [25, 5]], [[25, 5], [35, -15], [45, 10]]],
    # without a curve of the same kind before, the first control point is the current point
    "M0 0L10 10S30 40 50 0": [[[0, 0], [10, 10]], [[10, 10], [10, 10], [30, 40], [50, 0]]],
    "M0 0C0 9 9 9 9 0T30 0": [[[0, 0], [0, 9], [9, 9], [9, 0]], [[9, 0], [9, 0], [30, 0]]],
}


@pytest.mark.parametrize("data", CURVES)
@pytest.mark.parametrize("tolerance", [0.02, 0.002, 0.0002])
def test_curves_keep_the_tolerance_with_points_on_them(tmp_path, data, tolerance):
    sketch = read_svg(tmp_path, f'<path d="{data}"/>', tolerance=tolerance)[0]
    curve = np.concatenate([bezier(part, np.linspace(0, 1, 2001)) for part in CURVES[data]])
    cubic = np.concatenate(CURVES[data])  # quadratic control points reach farther than those of the same cubic
    side = np.ptp(cubic, 0).max()
    assert off(curve, sketch.points) <= tolerance * side
    assert off(sketch.points, curve) < 1e-5 * side
    ends = [part[-1] for part in CURVES[data]]
    assert all((np.abs(sketch.points - end).sum(1) < 1e-9).any() for end in ends)


def test_a_smaller_tolerance_takes_more_points_and_scale_changes_nothing(tmp_path):
    data = "M0 0C10 40 60 -30 100 50"
    counts = [len(read_svg(tmp_path, f'<path d="{data}"/>', tolerance=t)[0]) for t in (0.02, 0.005, 0.00125)]
    assert counts[0] < counts[1] < counts[2] <= 4 * counts[0]  # n goes as the root of 1 / tolerance
    one, large = (read_svg(tmp_path, f'<path transform="scale({s})" d="{data}"/>')[0].points for s in (1, 1000))
    assert np.allclose(one * 1000, large, rtol=1e-12)


@pytest.mark.parametrize("large", [0, 1])
@pytest.mark.parametrize("clockwise", [0, 1])
def test_arcs_are_the_one_of_four_that_the_flags_say(tmp_path, large, clockwise):
    """Circles of radius 5 through (0, 0) and (8, 0) have their middles at (4, -3) and (4, 3)."""
    for data in (f"M0 0A5 5 0 {large} {clockwise} 8 0", f"M0 0a5 5 77 {large}{clockwise}8 0"):
        points = read_svg(tmp_path, f'<path d="{data}"/>', tolerance=0.001)[0].points
        middle = np.array([4, 3 if large != clockwise else -3])
        assert np.abs(np.hypot(*(points - middle).T) - 5).max() < 0.002
        angle = np.unwrap(np.arctan2(*(points - middle).T[::-1]))
        turned = (angle[-1] - angle[0]) * (1 if clockwise else -1)  # y points down: clockwise is positive
        assert turned == pytest.approx(2 * math.pi - 2 * math.asin(0.8) if large else 2 * math.asin(0.8), abs=1e-6)
        assert points[-1].tolist() == [8, 0]


def test_arcs_of_tilted_ellipses_and_too_small_ones(tmp_path):
    points = read_svg(tmp_path, '<path d="M0 0A6 2 30 1 0 1 3"/>', tolerance=0.0005)[0].points
    # all points lie on one ellipse of these axes: find its middle from the ends, see that it fits every point
    turn = np.array([[math.cos(math.pi / 6), math.sin(math.pi / 6)], [-0.5, math.cos(math.pi / 6)]])
    unit = (points @ turn.T) / [6, 2]
    system = np.column_stack([2 * unit, np.ones(len(unit))])
    x, y, c = np.linalg.lstsq(system, (unit**2).sum(1), rcond=None)[0]
    assert math.sqrt(c + x * x + y * y) == pytest.approx(1, abs=1e-3)
    assert np.abs(np.hypot(*(unit - [x, y]).T) - 1).max() < 1e-3
    grown = read_svg(tmp_path, '<path d="M0 0A1 1 0 0 1 8 0"/>', tolerance=0.001)[
        0
    ].points  # a half circle about (4, 0)
    assert np.abs(np.hypot(*(grown - [4, 0]).T) - 4).max() < 0.002
    assert strokes(read_svg(tmp_path, '<path d="M0 0A0 5 0 0 1 8 0"/>')) == [[[0, 0], [8, 0]]]


def test_circles_and_ellipses_close(tmp_path):
    arrays = read_svg(tmp_path, '<circle cx="3" cy="4" r="5"/><ellipse cx="1" cy="1" rx="4" ry="2"/>', tolerance=0.001)
    circle, ellipse = arrays[0].strokes
    assert np.abs(np.hypot(*(circle - [3, 4]).T) - 5).max() < 0.002
    assert np.abs(np.hypot(*((ellipse - [1, 1]) / [4, 2]).T) - 1).max() < 1e-3
    for points in (circle, ellipse):
        assert points[0] == pytest.approx(points[-1])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("translate(10)", [12, 3]),
        ("translate(10,-5)", [12, -2]),
        ("scale(2)", [4, 6]),
        ("scale(2 -1)", [4, -3]),
        ("rotate(90)", [-3, 2]),
        ("rotate(90, 2, 0)", [-1, 0]),
        ("skewX(45)", [5, 3]),
        ("skewY(45)", [2, 5]),
        ("matrix(1 2 3 4 5 6)", [16, 22]),
        ("translate(10) scale(2)", [14, 6]),
        ("scale(2),translate(10)", [24, 6]),
        ("rotate(30) rotate(60)", [-3, 2]),
        ("matrix(1 2 3 4 5 6) matrix(2 1 -1 3 7 -2)", [40, 58]),
    ],
)
def test_transforms(tmp_path, transform, expected):
    arrays = read_svg(tmp_path, f'<path transform="{transform}" d="M2 3L0 0"/>')
    assert arrays.points[0] == pytest.approx(expected)


def test_transforms_of_groups_nest(tmp_path):
    body = '<g transform="translate(10)"><g transform="scale(2)"><path transform="rotate(90)" d="M2 3L0 0"/></g></g>'
    assert read_svg(tmp_path, body).points[0] == pytest.approx([10 - 6, 4])
    flat = '<path transform="translate(10) scale(2) rotate(90)" d="M2 3L0 0"/>'
    assert read_svg(tmp_path, flat).points[0] == pytest.approx([4, 4])


def test_groups_of_sketches_are_read_in_their_own_coordinates(tmp_path):
    body = (
        '<rect width="9" height="9" stroke="red"/><g transform="scale(9)">'
        '<g class="sketch" data-word="a &amp; b" transform="translate(5 5)"><title>t</title><path d="M1 2L3 4"/>'
        '<g transform="scale(2)"><path d="M1 2L3 4"/></g><path class="dot" d="M5 5L5 5"/></g></g>'
        '<path d="M0 0L1 1"/><g class="other sketch"><path d="M7 7L8 8"/></g>'
    )
    arrays = read_svg(tmp_path, body)
    assert strokes(arrays) == [[[1, 2], [3, 4]], [[2, 4], [6, 8]], [[5, 5]]]
    assert strokes(arrays, 1) == [[[7, 7], [8, 8]]]
    assert arrays.words.tolist() == ["a & b", ""]


def test_what_is_no_drawing_is_left_aside(tmp_path):
    kept = '<path d="M0 0L1 1"/>'
    aside = "".join(
        f"<{tag}><path d='M5 5L6 6'/></{tag.split()[0]}>"
        for tag in ("defs", "clipPath", "symbol", "text", "script", 'g display="none"', 'g style="display : none"')
    )
    assert strokes(read_svg(tmp_path, aside + kept + aside)) == [[[0, 0], [1, 1]]]


def test_what_is_hidden_is_left_aside_and_what_is_shown_inside_is_not(tmp_path):
    lines = [f'd="M{k} 0L{k} 1"/>' for k in range(6)]
    body = (
        f'<path visibility="hidden" {lines[0]}<path style="visibility : collapse" {lines[1]}'
        f'<g visibility="hidden"><g><path visibility="inherit" {lines[2]}<path visibility="visible" {lines[3]}</g></g>'
        f'<g visibility="visible"><path {lines[4]}</g><path opacity="0.5" {lines[5]}'
    )
    assert strokes(read_svg(tmp_path, body)) == [[[k, 0], [k, 1]] for k in (3, 4, 5)]
    sketches = "".join(f'<g class="sketch" visibility="{v}"><path {lines[0]}</g>' for v in ("hidden", "visible"))
    assert len(read_svg(tmp_path, sketches)) == 1


def test_outer_spaces_are_no_part_of_a_class_and_no_class_is_empty(tmp_path):
    lines = [json.dumps({**RAW, "word": word}) for word in ("cat", "cat ", " cat", "\u00a0cat\t", " ", "")]
    arrays, report = read_sketches(write(tmp_path / "x.ndjson", "\n".join(lines)))
    assert arrays.words.tolist() == ["cat"] * 4 + [""] * 2
    assert report.classes == {"cat": 4}


def test_one_of_a_kind_is_counted_in_the_singular(tmp_path):
    _, report = read_sketches(write(tmp_path / "x.csv", "x,y,pen\n1,2,1\n"))
    assert report.lines() == ["read 1 sketch from x.csv; 1 point; 1 stroke; 1 class: x 1"]


# options -------------------------------------------------------------------------------------------------------------


def test_files_of_many_kinds_read_in_order_and_the_report_counts(tmp_path):
    np.savez(tmp_path / "dog.npz", STROKE3)
    write(tmp_path / "x.ndjson", json.dumps(RAW))
    write(tmp_path / "y.svg", '<svg><path d="M0 0L1 1"/></svg>')
    arrays, report = read_sketches([tmp_path / "dog.npz", tmp_path / "x.ndjson", tmp_path / "y.svg"])
    assert arrays.words.tolist() == ["dog", "cat", ""]
    assert report.lines() == [
        "read 3 sketches from 3 files; 2-4 (median 4) points; 1-2 (median 2) strokes; 1 with times; "
        "2 classes: cat 1, dog 1; 1 without a class"
    ]
    facts = report.to_json()
    assert json.loads(json.dumps(facts)) == facts
    assert [file["kept"] for file in facts["files"]] == [1, 1, 1]
    assert facts["total_points"] == 10


def test_drawings_and_sequences_do_not_mix(tmp_path):
    np.savez(tmp_path / "a.npz", STROKE3)
    np.savez(tmp_path / "b.npz", np.zeros((2, 5, 2)))
    np.savez(tmp_path / "c.npz", np.full((2, 5, 3), 0.5))
    with pytest.raises(UserError, match=r"b.npz holds sequences without a pen of 2 coordinates.*read them apart"):
        read_sketches([tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(UserError, match=r"c.npz holds .* of 3 coordinates"):
        read_sketches([tmp_path / "b.npz", tmp_path / "c.npz"])


@pytest.mark.parametrize(
    "options", [{"on_error": "x"}, {"split": "dev"}, {"pen": "yes"}, {"max_points": 0}, {"tolerance": 0}]
)
def test_an_option_that_does_not_exist_is_named(tmp_path, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        read_sketches(tmp_path / "a.npz", **options)


# real data -----------------------------------------------------------------------------------------------------------

DATA = Path(os.environ.get("GENDIFF_DATA", "")) / "sketches"
needs_data = pytest.mark.skipif(not os.environ.get("GENDIFF_DATA"), reason="GENDIFF_DATA is not set")


@needs_data
@pytest.mark.parametrize(
    ("files", "count", "rows", "median", "strokes", "classes"),
    [
        ("quickdraw345.npz", 9_317, 394_587, 37, 5.0, 345),
        ("omniglot_train.npz", 30_000, 933_430, 29, 2.4, 1),
        ("omniglot_valid.npz", 1_000, 31_719, 29, 2.4, 1),
        ("kanji_train.npz", 10_358, 388_350, 37, 12.6, 1),
        ("kanji_valid.npz", 600, 22_672, 38, 12.6, 1),
        ("kanjivg_svg/*.svg", 150, None, 138, 12.7, 0),
    ],
)
def test_the_data_sets_read_whole(files, count, rows, median, strokes, classes):
    arrays, report = read_sketches(sorted(DATA.glob(files)))
    assert len(arrays) == count
    assert rows is None or len(arrays.points) == rows
    assert report.points[1] == median
    assert arrays.num_strokes.mean() == pytest.approx(strokes, abs=0.1)
    assert len(report.classes) == classes


@needs_data
@pytest.mark.parametrize(("kind", "counts"), [("raw", [23, 26, 25, 31, 37]), ("simplified", [25] * 5)])
def test_quickdraws_files_read_whole(kind, counts):
    files = sorted(DATA.glob(f"ndjson_{kind}/*.ndjson"))
    arrays, report = read_sketches(files)
    records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert dict(report.classes) == dict(zip(["airplane", "bicycle", "cat", "face", "house"], counts, strict=True))
    assert (arrays.times is not None) == (kind == "raw")
    for sketch, record in zip(arrays, records, strict=True):
        assert [stroke.T.tolist() for stroke in sketch.strokes] == [stroke[:2] for stroke in record["drawing"]]


@needs_data
def test_digits_are_labelled_and_drawn_as_in_the_file():
    with np.load(DATA / "mnist_strokes.npz") as file:
        rows, offsets, labels = file["points"], file["offsets"], file["labels"]
    arrays, report = read_sketches(DATA / "mnist_strokes.npz")
    assert len(arrays.points) == 2_396_725 - 92_986  # without the marker rows
    assert arrays.num_strokes.mean() == pytest.approx(92_986 / 60_000)
    assert report.points == (12, 39, 106)
    assert arrays.words.tolist() == [str(label) for label in labels]
    for index in (0, 3, 777, 59_999):
        part = rows[offsets[index] : offsets[index + 1]].tolist()
        points, pen = [], []
        place = (0, 0)
        for x, y, end_of_stroke, end_of_sketch in part:
            if end_of_stroke or end_of_sketch:
                pen[-1] = True
            else:
                place = place[0] + x, place[1] + y
                points.append(list(place))
                pen.append(False)
        assert arrays[index].points.tolist() == points
        assert arrays[index].pen.tolist() == pen


@needs_data
def test_kanji_fit_their_box_and_have_a_stroke_a_path():
    for path in sorted(DATA.glob("kanjivg_svg/*.svg"))[:40]:
        arrays, _ = read_sketches(path)
        assert arrays.num_strokes[0] == path.read_text().count("<path")
        assert arrays.points.min() > -1
        assert arrays.points.max() < 110
