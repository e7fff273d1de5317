"""Files that are broken or mean harm: one clear line that names file and record, and nothing of them is run."""

import gzip
import json
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff.files import UserError
from gendiff.modalities.sketches.read import npz, read_sketches, unpickle

GOOD = '{"word":"cat","drawing":[[[0,1],[2,3]]]}'
SQUARE = '<g class="sketch" data-word="cat"><path d="M0 0L1 1"/></g>'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path, on_error="stop", **options):
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as error:
        read_sketches(path, on_error, **options)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 600
    assert str(path) in line
    return line


def drawing(value):
    return json.dumps({"word": "cat", "key_id": "7", "drawing": value})


# NDJSON --------------------------------------------------------------------------------------------------------------

LINES = {
    "cut": ('{"word":"cat","drawing":[[[0,1', "truncated record: the file ends inside it"),
    "cut inside": ('{"word":"cat"\n' + GOOD, "not JSON: Expecting"),
    "NaN": ('{"drawing":[[[0,NaN],[1,2]]]}', "a number is NaN or infinite: NaN"),
    "minus infinity": ('{"drawing":[[[0,-Infinity],[1,2]]]}', "a number is NaN or infinite: -Infinity"),
    "1e400": ('{"drawing":[[[0,1e400],[1,2]]]}', "a coordinate is NaN or infinite"),
    "a number of 400 digits": ('{"drawing":[[[0,%s],[1,2]]]}' % ("9" * 400), "a coordinate is NaN or infinite"),
    "a number of 5,000 digits": ('{"drawing":[[[0,%s],[1,2]]]}' % ("9" * 5000), "a number has thousands of digits"),
    "far away": (drawing([[[0, 1e16], [1, 2]]]), "a coordinate is beyond 1e+15"),
    "no strokes": (drawing([]), "no points"),
    "an empty stroke": (drawing([[[1], [2]], [[], []]]), "an empty stroke: stroke 2"),
    "unlike lengths": (drawing([[[1, 2, 3], [1, 2]]]), "coordinates of unlike number: stroke 1 has 3 x, 2 y"),
    "unlike times": (drawing([[[1, 2], [1, 2], [0]]]), "coordinates of unlike number: stroke 1 has 2 x, 2 y, 1 t"),
    "times of some": (drawing([[[1], [2]], [[1], [2], [3]]]), "some strokes have times and some have none"),
    "a time of infinity": (drawing([[[1], [2], [3]]]).replace("[3]", "[1e999]"), "a time is infinite"),
    "text": (drawing([[["1"], [2]]]), "stroke 1 holds something that is no number"),
    "true": (drawing([[[True], [2]]]), "stroke 1 holds something that is no number"),
    "null": (drawing([[[None], [2]]]), "stroke 1 holds something that is no number"),
    "too flat": (drawing([[1, 2], [3, 4]]), "stroke 1 holds something that is no number"),
    "four lists": (drawing([[[1], [2], [3], [4]]]), "stroke 1 is not [[x...], [y...]]"),
    "an object for a stroke": (drawing([{"x": 1}]), "stroke 1 is not [[x...], [y...]]"),
    "no drawing": ('{"word":"cat"}', 'a line must be an object with a list "drawing"'),
    "a list": ("[1,2]", 'a line must be an object with a list "drawing"'),
    "a word of number": ('{"word":5,"drawing":[[[1],[2]]]}', "the class is no text"),
    "a long word": (json.dumps({"word": "x" * 101, "drawing": [[[1], [2]]]}), "the class is too long: over 100"),
    "deep": ("[" * 100_000, "not a drawing: too deeply nested"),
    "deep in a fact": (f'{{"a":{"[" * 50_000}1{"]" * 50_000},"drawing":[]}}', "not a drawing: too deeply nested"),
    "a million points": (
        drawing([[[0] * 1_000_000, [0] * 1_000_000]]),
        "too many points: 1,000,000, over the bound of",
    ),
    "no JSON": ("hello", "not JSON: Expecting value, column 1"),
    "no text": (b"\xff\xfe{}", "not JSON: not UTF-8 text"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_named_or_left_out_and_counted(tmp_path, name):
    text, reason = LINES[name]
    text = text.encode() if isinstance(text, str) else text
    path = write(tmp_path / "x.ndjson", GOOD.encode() + b"\n" + text)
    line = refusal(path)
    assert re.search(r"x\.ndjson, line 2( \(key_id 7\))?: ", line)
    assert reason in line
    assert line.endswith("leave such records out with --on-error skip")
    arrays, report = read_sketches(path, "skip")
    assert len(arrays) == 1 + text.count(GOOD.encode())
    assert report.skipped.total() == 1
    (kind,) = report.skipped
    assert reason.startswith(kind) or kind in line
    assert report.examples[kind].startswith("x.ndjson, line 2")
    assert report.lines()[1].startswith(f"left out 1 of {report.records} records: {kind} 1 (first: x.ndjson, line 2")


def test_good_ones_between_bad_ones_keep_their_order(tmp_path):
    lines = [drawing([[[i], [i]]]) if i % 3 else "{" for i in range(30)]
    arrays, report = read_sketches(write(tmp_path / "x.ndjson", "\n".join(lines)), "skip")
    assert arrays.points[:, 0].tolist() == [i for i in range(30) if i % 3]
    assert report.lines()[1] == (
        "left out 10 of 30 records: not JSON 10 (first: x.ndjson, line 1: "
        "Expecting property name enclosed in double quotes, column 2)"
    )


def test_a_larger_bound_admits_longer_sketches(tmp_path):
    path = write(tmp_path / "x.ndjson", drawing([[[0] * 12_000, [0] * 12_000]]))
    assert "over the bound of 10,000 (max_points)" in refusal(path)
    assert len(read_sketches(path, max_points=12_000)[0].points) == 12_000


@pytest.mark.parametrize("name", ["x.ndjson", "x.csv", "x.svg", "x.npz", "x.npy"])
def test_files_that_are_something_else(tmp_path, name):
    path = tmp_path / name
    assert refusal(path).endswith("no such file")
    assert refusal(write(path, b"")).endswith("the file is empty")
    for content in (b"\x7fELF\0\0\0" + bytes(range(256)) * 40, b"\x89PNG\r\n\x1a\n\0", b"GIF89a" + b"\xf3" * 9000):
        for on_error in ("stop", "skip"):
            refusal(write(path, content), on_error)
    path.unlink()
    path.mkdir()
    assert refusal(path) == f"{path}: holds no file that ends in one of .ndjson .csv .tsv .npz .npy .svg"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "x.ndjson", GOOD)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs tests in containers, may read everything
    assert "permission denied; make it readable" in refusal(path)


def test_unknown_extensions_and_no_files(tmp_path):
    assert "unknown extension '.bin'; sketches are read from .ndjson" in refusal(write(tmp_path / "cat.bin", "x"))
    with pytest.raises(UserError, match="no file of sketches given"):
        read_sketches([])


def test_packed_files_that_are_damaged(tmp_path):
    packed = gzip.compress((GOOD + "\n").encode() * 2000)
    assert "ends too early" in refusal(write(tmp_path / "a.ndjson.gz", packed[:-20]))
    assert "is not packed by gzip" in refusal(write(tmp_path / "b.ndjson.gz", GOOD))
    assert "is damaged" in refusal(write(tmp_path / "c.ndjson.gz", packed[:60] + b"\xff" * 20 + packed[80:]))


def test_many_files_together_are_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr("gendiff.modalities.sketches.read.MAX_NUMBERS", 10)
    files = [write(tmp_path / f"{i}.ndjson", GOOD) for i in range(3)]
    assert len(read_sketches(files[:2])[0]) == 2
    with pytest.raises(UserError, match=r"2\.ndjson: over 10 coordinates in all; read fewer files at once"):
        read_sketches(files)


def test_a_bomb_of_one_line_stops_at_the_bound(tmp_path):
    path = write(tmp_path / "x.ndjson.gz", gzip.compress(b"1," * (20 << 20), 9))
    assert path.stat().st_size < 100_000
    assert "a line has over 33,554,432 bytes" in refusal(path)


# pickles -------------------------------------------------------------------------------------------------------------


def npy(data: bytes, shape=(1,)) -> bytes:
    head = str({"descr": "|O", "fortran_order": False, "shape": shape}).encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


def archive(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train.npy", npy(data))
    return path


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def holding(item) -> bytes:
    """A pickled object array of one item."""
    array = np.empty(1, object)
    array[0] = item
    return pickle.dumps(array, 4)


MARK = "/tmp/gendiff-was-here"
BOMBS = {
    "os.system": (holding(Bomb(os.system, f"touch {MARK}")), r"asks for (posix|nt)\.system"),
    "eval": (holding(Bomb(eval, f"open({MARK!r}, 'w')")), r"asks for builtins\.eval"),
    "bare": (f"cposix\nsystem\n(S'touch {MARK}'\ntR.".encode(), r"asks for posix\.system"),
    "python 2": (b"c__builtin__\neval\n(U\x10open('/tmp/x','w')tR.", r"asks for __builtin__\.eval"),
    "getattr of numpy": (b"cnumpy\nsave\n.", r"asks for numpy\.save"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__subclass__\x93.", r"asks for numpy\.ndarray\.__subclass__"),
    "instance": (b"(iposix\nsystem\n.", "an instruction that no array of numbers needs"),
    "object": (b"(cnumpy\nndarray\no.", "an instruction that no array of numbers needs"),
    "extension": (b"\x80\x02\x82\x01.", "an instruction that no array of numbers needs"),
    "persistent": (b"Pabc\n.", "an instruction that no array of numbers needs"),
    "a dictionary": (holding({"a": 1}), "an instruction that no array of numbers needs"),
    "text": (holding("hello"), "holds something else than arrays of numbers"),
    "an object array inside": (holding(np.array([None, 1], object)), "holds something else than arrays of numbers"),
    "texts inside": (holding(np.array(["a"])), "holds arrays of 'U1', not of plain numbers"),
    "records inside": (holding(np.zeros(2, "i4,f8")), "not of plain numbers"),
    "dates inside": (holding(np.zeros(2, "M8[s]")), "not of plain numbers"),
    "flat arrays inside": (holding(np.zeros(3)), r"must hold arrays \(L, columns\)"),
    "a number": (pickle.dumps(5), "is not an array of arrays"),
    "nothing": (b"", "is a damaged pickle"),
    "cut": (holding(np.zeros((3, 3)))[:-30], "is a damaged pickle"),
    "memory for the memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "is not an array of arrays"),
    "a long text": (b"\x80\x04X\xff\xff\xff\xffabc.", "is a damaged pickle"),
    "a long array of bytes": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "an instruction that no"),
    "a large array by call": (
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86tR.",
        "is a damaged pickle",
    ),
    "a deep tuple": (b"\x80\x02N" + b"\x85" * 20_000 + b".", "is not an array of arrays"),
    "a deep tuple as a type": (b"\x80\x02cnumpy\ndtype\nN" + b"\x85" * 20_000 + b"\x85R.", "(damaged|not of plain)"),
    "a codec": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "an unknown encoding"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_runs_nothing(tmp_path, name):
    data, reason = BOMBS[name]
    Path(MARK).unlink(missing_ok=True)
    for path in (archive(tmp_path / "x.npz", data), write(tmp_path / "x.npy", npy(data))):
        for on_error in ("stop", "skip"):
            assert re.search(reason, refusal(path, on_error))
    assert not Path(MARK).exists()


def test_numpy_itself_would_have_run_it(tmp_path):
    path = archive(tmp_path / "x.npz", holding(Bomb(Path(tmp_path / "ran").touch)))
    with np.load(path, allow_pickle=True) as file:
        file["train"]
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    refusal(path)
    assert not (tmp_path / "ran").exists()


def test_one_text_in_many_arrays_is_not_many_texts():
    """A megabyte that 2,000 arrays share would be 2 GB: it is refused before it is there."""
    item = np.zeros((1 << 17, 3), np.int16)
    array = np.empty(2000, object)
    array[:] = [item] * 2000
    data = pickle.dumps(array, 4)
    assert len(data) < 1 << 20
    with pytest.raises(ValueError, match="holds over 134,217,728 numbers"):
        unpickle.unpickle(data)


def test_a_pickle_takes_a_bounded_number_of_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_INSTRUCTIONS", 100)
    assert "takes over 100 instructions" in refusal(archive(tmp_path / "x.npz", b"\x80\x02" + b"N" * 200 + b"."))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 400), st.binary(max_size=3))
def test_no_damage_of_a_pickle_gets_past_an_error_of_ours(tail, place, patch):
    data = bytearray(holding(np.array([[1, 2, 0], [3, 4, 1]], np.int16)))
    place %= len(data)
    data[place : place + len(patch)] = patch
    try:
        rows = unpickle.unpickle(bytes(data) + tail)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        assert rows.flat.shape == (int(rows.sizes.sum()), rows.flat.shape[1])
    assert "\n" not in message


# archives ------------------------------------------------------------------------------------------------------------


def test_a_bomb_of_zeros_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_UNPACKED", 1 << 20)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, points=np.zeros((400_000, 3), np.int8), offsets=[0, 400_000])
    assert path.stat().st_size < 10_000
    assert "bytes, more than the limit of 1,048,576" in refusal(path)


def header(shape: str, descr: str = "'<i2'") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("(1000000000000, 3)"), "is damaged: 0 bytes for shape (1000000000000, 3)"),
        (header("(-1, 3)") + bytes(6), "is damaged"),
        (header("(" * 300), "is not a readable .npy array"),
        (header("__import__('os').system('true')"), "is not a readable .npy array"),
        (header("(1, 3)", "[('a', '<i2')]") + bytes(6), "neither numbers nor text"),
        (header("(1, 3)", "[('a', 'O')]") + bytes(6), "neither numbers nor text"),
        (header("(1, 3)", "'<M8[s]'") + bytes(24), "neither numbers nor text"),
        (b"\x93NUMPY\x09\x00", "is not a readable .npy array"),
        (header("(6,)") + bytes(12), "has shape (6,); sketches are (L, columns) or (M, L, columns)"),
        (header("(1, 1, 1, 6)") + bytes(12), "has shape (1, 1, 1, 6)"),
        (header("(3,)", "'<U1'") + bytes(12), "holds text, not sketches"),
    ],
)
def test_arrays_that_lie(tmp_path, content, reason):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a\nb.npy", content)
    assert reason in refusal(path)
    assert reason in refusal(write(tmp_path / "x.npy", content))


def test_archives_that_are_damaged(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", points=np.arange(3000).reshape(-1, 3) % 7, offsets=[0, 1000])
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for broken in (content[:-40], content[: len(content) // 2], content[:200] + b"\xff" * 40 + content[240:]):
        assert "is not a readable .npz archive" in refusal(write(tmp_path / "y.npz", bytes(broken)))
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
        file.writestr("../../evil.txt", "x")
    assert "is not an array; an .npz archive holds arrays only" in refusal(tmp_path / "z.npz")
    with zipfile.ZipFile(tmp_path / "w.npz", "w"):
        pass
    assert "has no arrays" in refusal(tmp_path / "w.npz")


ROWS = np.array([[0, 0, 0], [1, 1, 1], [5, 5, 0], [1, 1, 1.0]])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"points": ROWS, "offsets": [0, 2]}, "`offsets` must rise from 0 to the number of points, 4"),
        ({"points": ROWS, "offsets": [0, 3, 2, 4]}, "`offsets` must rise"),
        ({"points": ROWS, "offsets": [-1, 4]}, "`offsets` must rise"),
        ({"points": ROWS, "offsets": np.array([0, 2**64 - 1], np.uint64)}, "`offsets` must rise"),
        ({"points": ROWS, "offsets": [0.0, 4.0]}, "`offsets` must be whole numbers"),
        ({"points": ROWS[:, 0], "offsets": [0, 4]}, "`points` must be numbers of shape (P, columns)"),
        ({"points": ROWS.astype(str), "offsets": [0, 4]}, "`points` must be numbers"),
        ({"points": ROWS, "offsets": [0, 4], "labels": [1, 2]}, "`labels` must be one a sketch"),
        (
            {"points": ROWS, "offsets": [0, 4], "labels": [3], "words": ["a"]},
            "`labels` must be whole numbers from 0 to 0",
        ),
        ({"points": ROWS, "offsets": [0, 4], "labels": [-1], "words": ["a"]}, "`labels` must be whole numbers from 0"),
        ({"points": ROWS, "offsets": [0, 4], "words": ["a", "b"]}, "2 words for 1 sketches"),
        ({"points": ROWS, "offsets": [0, 4], "labels": [0], "words": ["a" * 101]}, "a text of over 100 characters"),
        ({"points": ROWS, "offsets": [0, 4], "times": [1.0]}, "`times` must be numbers of shape (4,)"),
        ({"points": ROWS, "offsets": [0, 4], "facts": "[1]"}, "`facts` must be the JSON of a list of 1 objects"),
        ({"points": ROWS, "offsets": [0, 4], "facts": "[" * 99_999}, "`facts` must be the JSON"),
        ({"points": ROWS, "offsets": [0, 4], "pen": [True] * 4}, "`pen` must be True or False"),
        ({"points": ROWS, "offsets": [0, 4], "coordinates": ROWS}, "`coordinates` must be floats of shape (4, 2)"),
        ({"valid": ROWS}, "has no part 'train'; --split can be valid or all"),
        ({"a": ROWS, "b": ROWS[:, :2]}, "its arrays have unlike numbers of columns"),
    ],
)
def test_containers_that_do_not_fit_together(tmp_path, arrays, reason):
    np.savez(tmp_path / "x.npz", **arrays)
    assert reason in refusal(tmp_path / "x.npz")


def test_a_part_that_is_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", points=ROWS, offsets=[0, 4])
    assert "has no parts to choose from; leave out --split" in refusal(tmp_path / "x.npz", split="valid")


def test_bad_sketches_of_an_archive_are_named_or_left_out(tmp_path):
    parts = [ROWS, ROWS[:0], ROWS * [np.nan, 1, 1], ROWS * [1, 1e300, 1], ROWS * [1, 1, np.nan], np.repeat(ROWS, 5, 0)]
    offsets = np.cumsum([0] + [len(part) for part in parts])
    np.savez(tmp_path / "x.npz", points=np.concatenate([*parts, ROWS]), offsets=[*offsets, offsets[-1] + 4])
    assert "x.npz, record 2: no points; leave such" in refusal(tmp_path / "x.npz", max_points=10)
    arrays, report = read_sketches(tmp_path / "x.npz", "skip", max_points=10)
    assert arrays.points.tolist() == [[0, 0], [1, 1], [6, 6], [7, 7]] * 2
    assert report.skipped == {
        "no points": 1,
        "a coordinate is NaN or infinite": 2,
        "a coordinate is beyond 1e+15": 1,
        "too many points": 1,
    }


# tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,pen\n1,0\n", "has no columns of coordinates, such as x and y, but id, pen"),
        ("1,2\n3,4\n", "the first line must name the columns"),
        ("x,,y\n1,2,3\n", "the first line must name the columns"),
        ("x,y\n", "has no rows below the names of the columns"),
        ("x,x\n1,2\n", "several columns for the same: x and x"),
        ("id,sketch,x\n1,2,3\n", "several columns for the same: id and sketch"),
        ("x,y\n1,two\n", "record 1: a cell is no number: line 2, y = 'two'"),
        ("x,y\n1,\n", "record 1: a cell is no number: line 2, y = ''"),
        ("x,y\n1,2\n3\n", "record 1: a row of another length: line 3 has 1 of 2"),
        ("x,y,pen\n1,2,0.5\n", "the pen is neither 0 nor 1: line 2, pen = '0.5'"),
        ("x,y\n1,nan\n", "a coordinate is NaN or infinite"),
        ("x,y\n1,1e999\n", "a coordinate is NaN or infinite"),
        ("x,y,t\n1,2,3\n1,2,\n", "a time is NaN or missing"),
        ("x,y\n1," + "9" * 200_000 + "\n", "line 2: field larger than field limit"),
        (",".join(f"x{i}" for i in range(1001)) + "\n", "has 1,001 columns, more than the limit of 1,000"),
        ("word,x\n" + "y" * 101 + ",1\n", "the class is too long"),
        ("x\n" + "0\n" * 10_001, "too many points: 10,001"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, reason):
    assert reason in refusal(write(tmp_path / "x.csv", text))


def test_a_table_in_another_encoding_is_refused_by_its_line(tmp_path):
    """Else the classes café and cafè would be one."""
    text = "x,y,word\n1,2,caf\u00e9\n3,4,caf\u00e8\n"
    assert len(read_sketches(write(tmp_path / "x.csv", text.encode()))[0]) == 1
    path = write(tmp_path / "x.csv", text.encode("latin-1"))
    for on_error in ("stop", "skip"):
        assert "x.csv: line 2 is not UTF-8 text; save the table as UTF-8" in refusal(path, on_error)


def test_bad_records_of_a_table_are_left_out(tmp_path):
    rows = ["id,x,y", "a,1,2", "b,1,z", "b,2,2", "a,3,4", "c,1", "d,5,6", "e,nan,0"]
    path = write(tmp_path / "x.csv", "\n".join(rows))
    assert "x.csv, record 2 (id b): a cell is no number: line 3, y = 'z'" in refusal(path)
    arrays, report = read_sketches(path, "skip")
    assert arrays.points.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert report.skipped.total() == 3
    assert report.examples["a row of another length"] == "x.csv, record 3 (id c): line 6 has 2 of 3"


# SVG -----------------------------------------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
DOCUMENTS = {
    "an external entity": (
        '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><path d="&x;"/></svg>',
        "an XML entity is defined: files with entities are refused",
    ),
    "an external entity by parameter": (
        '<!DOCTYPE svg [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd">%x;]><svg/>',
        "an XML entity is defined",
    ),
    "a billion laughs": (
        f'<!DOCTYPE svg [<!ENTITY a0 "ha">{LAUGHS}]><svg><text>&a9;</text></svg>',
        "an XML entity is defined",
    ),
    "large defaults of attributes": (
        f'<!DOCTYPE svg [<!ATTLIST g a CDATA "{"x" * 5000}">]><svg>{"<g/>" * 99}</svg>',
        "attributes with defaults of over 4,096 characters",
    ),
    "no XML": ("<svg><path", "not XML: "),
    "no SVG": ("<html><path d='M0 0L1 1'/></html>", "not SVG: the document is <html>"),
    "an unknown encoding": ('<?xml version="1.0" encoding="x-none"?><svg/>', "not XML: "),
    "nothing drawn": ("<svg><script>alert(1)</script><text>hi</text></svg>", "no points"),
    "deep": ("<svg>" + "<g>" * 300 + "</g>" * 300 + "</svg>", "nested over 256 deep"),
    "deep aside": ("<svg><defs>" + "<g>" * 300 + "</g>" * 300 + "</defs></svg>", "nested over 256 deep"),
    "1e400": ('<svg><path d="M0 0L1e400 0"/></svg>', "a coordinate is NaN or infinite"),
    "a scale of 1e300": (
        '<svg transform="scale(1e300)"><path d="M0 0L1e300 1"/></svg>',
        "a coordinate is NaN or infinite",
    ),
    "an absurd curve": ('<svg><path d="M0 0C1e308 0 -1e308 1e308 9 9"/></svg>', "a coordinate is beyond 1e+15"),
    "an absurd arc": ('<svg><path d="M0 0A1e308 1e-308 1e99 0 1 1e200 3"/></svg>', "a coordinate is beyond 1e+15"),
    "an arc of numbers beyond all": (
        '<svg><path d="M1.5e308 1.5e308A1 1 0 0 0 1 1"/></svg>',
        "a coordinate is beyond 1e+15",
    ),
    "a length of digits": ('<svg><line x1="' + "1" * 100_000 + 'x"/></svg>', "a length is no number: x1='111"),
    "words in a path": ('<svg><path d="M0 0L1 one"/></svg>', "bad path data: at character 7, 'one'"),
    "a path cut short": ('<svg><path d="M0 0L1"/></svg>', "bad path data: cut short"),
    "a path without M": ('<svg><path d="L1 1"/></svg>', "bad path data: a path begins with M"),
    "an unknown command": ('<svg><path d="M0 0B1 1"/></svg>', "bad path data: at character 5, 'B1 1'"),
    "odd points": ('<svg><polyline points="1 2 3"/></svg>', "bad points: a <polyline> has an odd number"),
    "percentages": ('<svg><line x1="5%"/></svg>', "a length is no number: x1='5%'"),
    "an unknown transform": ('<svg><path transform="turn(1)" d="M0 0L1 1"/></svg>', "an unknown transform: turn(1)"),
    "a half transform": ('<svg><path transform="scale(1" d="M0 0L1 1"/></svg>', "an unknown transform: scale(1"),
    "a long path": ('<svg><path d="M0 0' + "h1" * 20_000 + '"/></svg>', "too many points: over the bound of 10,000"),
    "many paths": ("<svg>" + '<path d="M0 0h1"/>' * 20_000 + "</svg>", "too many points"),
    "a long polyline": (f'<svg><polyline points="{"1 " * 100_000}"/></svg>', "too many points"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_that_cannot_be_read(tmp_path, name):
    text, reason = DOCUMENTS[name]
    path = write(tmp_path / "x.svg", text)
    line = refusal(path)
    assert "x.svg, record 1: " in line
    assert reason in line
    good = write(tmp_path / "good.svg", f"<svg>{SQUARE}</svg>")
    arrays, report = read_sketches([path, good], "skip")
    assert arrays.words.tolist() == ["cat"]
    assert report.skipped.total() == 1


def test_flattening_is_bounded_however_small_the_tolerance(tmp_path):
    curve = "C9e14 0 0 9e14 1 1" * 9_000
    path = write(tmp_path / "x.svg", f'<svg><path d="M0 0{curve}"/></svg>')
    assert "too many points" in refusal(path, tolerance=1e-4)


def test_scripts_and_links_are_not_followed(tmp_path):
    body = (
        '<script href="http://127.0.0.1:9/x.js">evil()</script><image href="file:///etc/passwd"/>'
        '<?xml-stylesheet href="http://127.0.0.1:9/x.css"?><use href="#a"/><path onclick="evil()" d="M0 0L1 1"/>'
    )
    head = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.0//EN" "http://127.0.0.1:9/svg10.dtd" [<!ATTLIST g a CDATA "b">]>'
    arrays, _ = read_sketches(write(tmp_path / "x.svg", f"{head}<svg>{body}</svg>"))
    assert arrays.points.tolist() == [[0, 0], [1, 1]]


def test_bad_sketches_of_a_sheet_are_left_out_and_a_cut_sheet_keeps_the_whole_ones(tmp_path):
    bad = '<g class="sketch" data-word="x"><path d="M0 0L1"/></g>'
    path = write(tmp_path / "x.svg", f"<svg>{SQUARE}{bad}{SQUARE}</svg>")
    assert "x.svg, record 2 (x): bad path data: cut short" in refusal(path)
    assert len(read_sketches(path, "skip")[0]) == 2
    cut = f"<svg>{SQUARE}{SQUARE}<g class='sketch'><path d='M0 0L1 1'/><path d='M"
    arrays, report = read_sketches(write(path, cut), "skip")
    assert len(arrays) == 2
    assert report.examples["not XML"].startswith("x.svg, record 3: ")


# all -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.ndjson", "x.npz", "x.npy", "x.csv", "x.svg", "x.ndjson.gz"])
def test_damaged_bytes_meet_an_error_of_ours_or_read(tmp_path, name):
    from gendiff.modalities.sketches.write import write_sketches

    good = tmp_path / name
    if name.endswith(".npy"):
        np.save(good, ROWS)
    else:
        source = write(tmp_path / "good.ndjson", f"{GOOD}\n{drawing([[[0.5, 7], [1, 2]], [[3], [4]]])}")
        write_sketches(list(read_sketches(source)[0]), good)
    content = good.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(content)
        for place in rng.integers(0, len(broken), rng.integers(1, 4)):
            broken[place] = rng.integers(256)
        if rng.random() < 0.3:
            broken = broken[: rng.integers(1, len(broken))]
        try:
            arrays, _ = read_sketches(write(tmp_path / f"broken{name[1:]}", bytes(broken)), "skip")
        except UserError as error:
            message = str(error)
        else:
            message = ""
            assert np.isfinite(arrays.points).all()
        assert "\n" not in message
