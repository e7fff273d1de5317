"""Writing sketches: reading what was written gives the same bits, and QuickDraw's records come back as they were."""

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff.files import NothingFits, UserError
from gendiff.modalities.sketches.read import read_sketches
from gendiff.modalities.sketches.records import Sketch, SketchArrays
from gendiff.modalities.sketches.write import EXTENSIONS, simplified, write_sketches

TEXT = [".ndjson", ".ndjson.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz"]


def sketch(points, ends=(), **known):
    points = np.array(points, float)
    pen = np.zeros(len(points), bool)
    pen[[*ends, -1]] = True
    return Sketch(points, pen, **known)


def check_same(a, b, facts=True, times=True):
    """Compare two sketches to the last bit."""
    assert a.points.shape == b.points.shape
    assert a.points.tobytes() == b.points.tobytes()
    assert a.pen.tolist() == b.pen.tolist()
    assert (a.word, a.has_pen) == (b.word, b.has_pen)
    if times:
        assert (a.times is None) == (b.times is None)
        assert a.times is None or a.times.tobytes() == b.times.tobytes()
    if facts:
        assert a.facts == b.facts
        assert json.dumps(a.facts) == json.dumps(b.facts)  # also the types


WORDS = st.text("aé猫 =+-@',\"\t<&", max_size=6).map(str.strip)
NUMBERS = st.one_of(
    st.floats(-1e15, 1e15), st.integers(-300, 300).map(float), st.sampled_from([0.1, -0.0, 5e-324, 1e15])
)
FACTS = st.dictionaries(
    st.text("abc_", min_size=1, max_size=4),
    st.one_of(st.booleans(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False), st.lists(st.integers())),
    max_size=3,
)


@st.composite
def sets(draw, dimensions=None, finite_facts=True):
    """A few sketches of one kind."""
    size = dimensions or draw(st.integers(1, 5))
    has_pen = draw(st.booleans()) or dimensions is not None
    made = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 6))
        row = st.lists(NUMBERS, min_size=size, max_size=size)
        points = draw(st.lists(row, min_size=length, max_size=length))
        ends = draw(st.lists(st.integers(0, length - 1), max_size=3)) if has_pen else ()
        times = draw(st.none() | st.lists(st.floats(0, 1e9), min_size=length, max_size=length).map(np.array))
        facts = {
            name: value for name, value in draw(FACTS).items() if not (value != value or value in (math.inf, -math.inf))
        }
        made.append(
            sketch(points, ends, word=draw(WORDS).replace("\t", " "), times=times, facts=facts, has_pen=has_pen)
        )
    return made


@settings(max_examples=30, deadline=None)
@given(sets())
def test_archives_keep_every_bit(tmp_path_factory, made):
    path = tmp_path_factory.getbasetemp() / "x.npz"
    assert write_sketches(made, path) == len(made)
    back, _ = read_sketches(path)
    for one, other in zip(made, back, strict=True):
        check_same(one, other)


@settings(max_examples=30, deadline=None)
@given(sets(), st.sampled_from([".csv", ".tsv"]))
def test_tables_keep_every_bit_of_points_times_and_words(tmp_path_factory, made, kind):
    path = tmp_path_factory.getbasetemp() / f"x{kind}"
    write_sketches(made, path)
    for one, other in zip(made, read_sketches(path)[0], strict=True):
        check_same(one, other, facts=False)


@settings(max_examples=30, deadline=None)
@given(sets(dimensions=2))
def test_ndjson_keeps_every_bit(tmp_path_factory, made):
    path = tmp_path_factory.getbasetemp() / "x.ndjson"
    write_sketches(made, path)
    for one, other in zip(made, read_sketches(path)[0], strict=True):
        check_same(one, other)
    before = path.read_bytes()
    write_sketches(list(read_sketches(path)[0]), path)
    assert path.read_bytes() == before


@settings(max_examples=30, deadline=None)
@given(sets(dimensions=2))
def test_svg_keeps_every_digit_of_points_and_words(tmp_path_factory, made):
    path = tmp_path_factory.getbasetemp() / "x.svg"
    write_sketches(made, path)
    for one, other in zip(made, read_sketches(path)[0], strict=True):
        assert np.array_equal(one.points, other.points)
        assert one.pen.tolist() == other.pen.tolist()
        assert one.word == other.word


@pytest.mark.parametrize("kind", [*TEXT, ".npz", ".svg"])
def test_sequences_and_drawings_come_back_as_what_they_were(tmp_path, kind):
    drawing = [sketch([[0.1, 0.2], [1, 2], [3, 4]], [0], word="猫"), sketch([[5, 5]])]
    path = tmp_path / f"x{kind}"
    write_sketches(drawing, path)
    for one, other in zip(drawing, read_sketches(path)[0], strict=True):
        check_same(one, other, times=False)
    if not kind.startswith(".ndjson"):  # it knows drawings only
        sequence = [sketch([[0.1, 0.2], [1, 2]], has_pen=False)]
        write_sketches(sequence, path)
        check_same(sequence[0], read_sketches(path)[0][0])


def test_an_archive_is_the_canonical_container(tmp_path):
    made = [sketch([[3, 4], [4, 4], [4, 6], [0, 7]], [2], word="cat"), sketch([[-1, 2], [4, 7]], word="ant")]
    write_sketches(made, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["labels", "offsets", "pen", "points", "words"]
        assert file["points"].tolist() == [[3, 4, 0], [1, 0, 0], [0, 2, 1], [-4, 1, 1], [-1, 2, 0], [5, 5, 1]]
        assert file["offsets"].tolist() == [0, 4, 6]
        assert file["words"][file["labels"]].tolist() == ["cat", "ant"]


def test_absolute_coordinates_are_added_only_where_sums_would_not_give_them(tmp_path):
    write_sketches([sketch([[1e9, 0.1], [0.1, 0.7], [0.7, 0.2]])], tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert "coordinates" in file.files
        assert np.cumsum(file["points"][:, :2], 0) == pytest.approx(file["coordinates"])


# QuickDraw -----------------------------------------------------------------------------------------------------------


def test_quickdraws_lines_come_back_as_they_were(tmp_path):
    lines = [
        '{"word":"cat","countrycode":"US","timestamp":"2017 é","recognized":true,"key_id":"5","drawing":'
        "[[[0,183.1234567890123,-4],[255,1e-07,0.1],[0,20,1466.5]],[[7],[8],[9]]]}",
        '{"word":"dog","key_id":"6","other":{"a":[1,null]},"drawing":[[[0,255],[3,4]]]}',
    ]
    path = tmp_path / "x.ndjson"
    path.write_text("\n".join(lines) + "\n")
    arrays, _ = read_sketches(path)
    write_sketches(list(arrays), tmp_path / "y.ndjson")
    assert (tmp_path / "y.ndjson").read_text() == path.read_text()


def test_a_models_sketch_becomes_a_simplified_drawing(tmp_path):
    facts = {"model": "digits", "seed": np.int64(3), "index": 7, "score": math.nan}
    made = sketch([[-1.5, -2], [0.5, 0], [0.25, 2]], [1], word="3", facts=facts)
    path = tmp_path / "x.ndjson"
    write_sketches([made], path)
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record == {
        "word": "3",
        "model": "digits",
        "seed": 3,
        "index": 7,
        "score": None,
        "drawing": [[[0, 128], [0, 128]], [[112], [255]]],
    }
    assert all(type(value) is int for stroke in record["drawing"] for axis in stroke for value in axis)
    first = path.read_bytes()
    write_sketches(list(read_sketches(path)[0]), path)  # it is one already
    assert path.read_bytes() == first
    write_sketches([made], tmp_path / "x.npz")  # elsewhere nothing is rounded
    assert read_sketches(tmp_path / "x.npz")[0].points.tolist() == made.points.tolist()


def test_what_a_model_made_of_a_given_drawing_stays_in_its_place(tmp_path):
    made = sketch([[10.5, 20], [11, 21.25]], facts={"seed": 1, "edit": "complete"})
    write_sketches([made], tmp_path / "x.ndjson")
    check_same(made, read_sketches(tmp_path / "x.ndjson")[0][0])


def test_a_models_sketch_with_times_and_a_single_point_stay_sound(tmp_path):
    made = sketch([[0.25, 0.5], [7, 1]], times=np.array([0.0, 5]), facts={"seed": 1})
    write_sketches([made, sketch([[3.5, 4.5]], facts={"seed": 1})], tmp_path / "x.ndjson")
    arrays, _ = read_sketches(tmp_path / "x.ndjson")
    assert arrays.points.tolist() == [[0.25, 0.5], [7, 1], [0, 0]]


@pytest.mark.parametrize("scale", [1e-3, 1, 1e6])
def test_simplified_drawings_fill_the_square(scale):
    points = simplified(np.random.default_rng(0).normal(size=(50, 2)) * [scale, scale / 3] + 7 * scale)
    assert points.min(0).tolist() == [0, 0]
    assert points.max(0)[0] == 255
    assert 50 < points.max(0)[1] < 120
    assert simplified(points).tolist() == points.tolist()


# files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_every_extension_is_written(tmp_path, kind):
    path = tmp_path / f"x{kind}"
    assert write_sketches([sketch([[0, 0], [3, 4]], word="a"), sketch([[0, 0], [1, 1], [2, 0]])], path) == 2
    head = path.read_bytes()[:8]
    magic = {".npz": b"PK", ".png": b"\x89PNG", ".gif": b"GIF8", ".svg": b"<svg"}
    expected = b"\x1f\x8b" if kind.endswith(".gz") else magic.get(kind, b"{" if "ndjson" in kind else b"sketch")
    assert head.startswith(expected)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_equal_sketches_are_equal_bytes(tmp_path):
    made = [sketch([[0, 0], [3, 4]])]
    for kind in (".ndjson.gz", ".csv.gz"):
        for name in ("a", "b"):
            write_sketches(made, tmp_path / f"{name}{kind}")
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == b"sketch,word,x,y,pen\n0,,0,0,0\n0,,3,4,1\n"


def test_words_that_spreadsheets_would_run_are_text(tmp_path):
    words = ["=1+1", "'=x", "@a", "-5", "'a", "''+"]
    write_sketches([sketch([[0, 0]], word=word) for word in words], tmp_path / "x.csv")
    cells = [line.split(",")[1] for line in (tmp_path / "x.csv").read_text().splitlines()[1:]]
    assert not any(cell.startswith(("=", "@", "-", "+")) for cell in cells)
    assert read_sketches(tmp_path / "x.csv")[0].words.tolist() == words


@pytest.mark.parametrize(
    ("made", "name", "message"),
    [
        ([sketch([[0, 0]])], "x.jpg", "unknown extension '.jpg'; sketches are written as .ndjson"),
        ([sketch([[0, 0]])], "folder.ndjson", "is a directory"),
        ([sketch([[0, 0]]), sketch([[0, 0, 0]])], "x.npz", "2 and 3 coordinates"),
        ([sketch([[0, 0]]), sketch([[0, 0]], has_pen=False)], "x.npz", "without a pen"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, made, name, message):
    (tmp_path / "folder.ndjson").mkdir()
    with pytest.raises(UserError, match=message) as error:
        write_sketches(made, tmp_path / name)
    assert "\n" not in str(error.value)
    assert [item.name for item in tmp_path.iterdir()] == ["folder.ndjson"]


def test_a_plot_of_sequences_is_a_picture_and_no_sketch(tmp_path):
    write_sketches([sketch(np.eye(3), has_pen=False)], tmp_path / "x.svg")
    with pytest.raises(UserError, match=r"x\.svg, record 1: no points"):
        read_sketches(tmp_path / "x.svg")


def test_nothing_to_write_and_no_drawings_are_told_apart(tmp_path):
    with pytest.raises(NothingFits, match="no sketch to write"):
        write_sketches([], tmp_path / "x.svg")
    with pytest.raises(NothingFits, match=r"sequences of 3 coordinates are no drawings; write .npz or .csv"):
        write_sketches([sketch([[0, 0, 0]], has_pen=False)], tmp_path / "x.ndjson")
    with pytest.raises(NothingFits, match=r"sequences without a pen are no drawings; write .npz or .csv"):
        write_sketches([sketch([[0, 0]], has_pen=False)], tmp_path / "x.ndjson.gz")
    assert not list(tmp_path.iterdir())


def test_a_failure_halfway_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.ndjson"
    write_sketches([sketch([[0, 0]])], path)
    before = path.read_bytes()
    broken = sketch([[0, 0]])
    broken.points = None
    with pytest.raises(AttributeError):
        write_sketches([sketch([[1, 1]]), broken], path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["x.ndjson"]


# real data -----------------------------------------------------------------------------------------------------------

DATA = Path(os.environ.get("GENDIFF_DATA", "")) / "sketches"


@pytest.mark.skipif(not os.environ.get("GENDIFF_DATA"), reason="GENDIFF_DATA is not set")
def test_real_files_survive_every_format(tmp_path):
    for path in sorted(DATA.glob("ndjson_*/*.ndjson")):
        arrays, _ = read_sketches(path)
        write_sketches(list(arrays), tmp_path / "x.ndjson")
        assert (tmp_path / "x.ndjson").read_text().rstrip() == path.read_text().rstrip()
    for files in ("kanji_valid.npz", "kanjivg_svg/*.svg", "ndjson_raw/cat.ndjson"):
        arrays = read_sketches(sorted(DATA.glob(files))[:20])[0].select(np.arange(20))
        for kind in (*TEXT, ".npz", ".svg"):
            write_sketches(list(arrays), tmp_path / f"x{kind}")
            back, _ = read_sketches(tmp_path / f"x{kind}")
            for one, other in zip(arrays, back, strict=True):
                check_same(one, other, "npz" in kind or "ndjson" in kind, kind != ".svg")


def test_a_set_of_arrays_writes_as_the_list_of_its_sketches(tmp_path):
    made = [sketch([[0, 0], [1, 1]], word="a"), sketch([[2, 2]], word="b")]
    write_sketches(SketchArrays.from_sketches(made), tmp_path / "x.csv")
    assert read_sketches(tmp_path / "x.csv")[0].words.tolist() == ["a", "b"]
