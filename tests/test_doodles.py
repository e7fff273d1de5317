"""The built-in doodles are what their script draws and what the manifest says."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from gendiff.catalog import builtin, dataset_folder, manifest
from gendiff.files import sha256

WORDS = "cup envelope face fish flower house snail star sun tree".split()


@pytest.fixture(scope="module")
def lines() -> list[str]:
    with gzip.open(builtin("doodles"), "rt", encoding="utf-8") as file:
        return file.read().splitlines()


@pytest.fixture(scope="module")
def records(lines) -> list[dict]:
    return [json.loads(line) for line in lines]


def test_the_file_is_as_the_manifest_says(records):
    entry, path = manifest()["doodles"], builtin("doodles")
    assert (path.stat().st_size, sha256(path)) == (entry["size"], entry["sha256"])
    assert len(records) == entry["sketches"] == 5000
    assert (path.parent / "LICENSE").read_text().startswith("Creative Commons Legal Code\n\nCC0 1.0 Universal")


def test_the_script_draws_the_first_lines_again(tmp_path, lines):
    """Each drawing has random numbers of its own, so 120 of them stand for all."""
    command = [
        sys.executable,
        "-B",
        dataset_folder() / "doodles" / "build.py",
        "--count",
        "120",
        "--out",
        tmp_path / "a.gz",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with gzip.open(tmp_path / "a.gz", "rt", encoding="utf-8") as file:
        assert file.read().splitlines() == lines[:120]


def test_drawings_have_the_simplified_form_of_quickdraw(records):
    assert [record["word"] for record in records[:20]] == 2 * WORDS
    assert Counter(record["word"] for record in records) == dict.fromkeys(WORDS, 500)
    assert len({record["key_id"] for record in records}) == len(records)
    for record in records:
        assert record.keys() == {"word", "countrycode", "timestamp", "recognized", "key_id", "drawing"}
        assert record["recognized"] is True
        points = np.concatenate([np.array(stroke).T for stroke in record["drawing"]])
        assert points.dtype.kind == "i"
        assert points.min(0).tolist() == [0, 0]
        assert points.max() == 255
        for x, y in record["drawing"]:
            assert len(x) == len(y) == len(list(groupby(zip(x, y, strict=True))))  # no point twice in a row


def test_no_two_drawings_are_alike_and_things_are_drawn_in_several_ways(records):
    assert len({json.dumps(record["drawing"]) for record in records}) == len(records)
    for word in WORDS:
        drawings = [record["drawing"] for record in records if record["word"] == word]
        sizes = [sum(len(stroke[0]) for stroke in drawing) for drawing in drawings]
        assert np.std(sizes) > 3
        assert len({len(drawing) for drawing in drawings}) >= 2
    points = [sum(len(stroke[0]) for stroke in record["drawing"]) for record in records]
    assert 15 <= np.median(points) <= 35


def test_the_reader_takes_them_and_they_are_simplified_already(records):
    """What is kept to within 2 is kept again to within 0.5: rounding moves points and chords by less than 0.71 each."""
    from gendiff.modalities.sketches.geometry import simplify
    from gendiff.modalities.sketches.modality import Sketches

    sketches, _ = Sketches.read([builtin("doodles")])
    assert len(sketches) == len(records)
    assert sketches.words.tolist() == [record["word"] for record in records]
    assert sketches.num_strokes.tolist() == [len(record["drawing"]) for record in records]
    assert np.array_equal(sketches[7].strokes[0], np.array(records[7]["drawing"][0], float).T)
    points = len(sketches.points)
    assert len(simplify(sketches, 0.5).points) > 0.999 * points
    assert len(simplify(sketches, 4.0).points) < 0.9 * points
