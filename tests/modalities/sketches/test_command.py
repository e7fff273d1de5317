"""Options of sketches on the command line, from files to what is trained on and compared with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scribbles import scribbles

from gendiff.cli import main
from gendiff.files import read_json
from gendiff.metrics import Table
from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.modality import Sketches
from gendiff.modalities.sketches.write import EXTENSIONS

LONGEST = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on what is short enough once it is simplified."""
    folder = tmp_path_factory.mktemp("run")
    examples = geometry.boxed(scribbles(40))
    Sketches.write_examples(examples, folder / "all.npz")
    words = [
        "train",
        "sketches",
        folder / "all.npz",
        "--out",
        folder / "run",
        "--simplify",
        20,
        "--max-points",
        LONGEST,
    ]
    options = ["--preset", "tiny", "--steps", 2, "--batch-size", 4, "--previews", 0, "--trainer.accelerator", "cpu"]
    assert main([str(word) for word in (*words, *options)]) == 0
    return SimpleNamespace(folder=folder, run=folder / "run", examples=examples)


@pytest.fixture
def judged(monkeypatch):
    """What is given to the metrics; they are not computed."""
    seen = SimpleNamespace()

    def evaluate(generated, reference, *, training=None, **options):
        seen.generated, seen.reference, seen.training = generated, reference, training
        return Table([], {"reference": "some"})

    monkeypatch.setattr("gendiff.modalities.sketches.metrics.evaluate", evaluate)
    return seen


def run(*words):
    return main([str(word) for word in words])


def test_longer_sketches_than_asked_for_are_left_out_as_the_model_sees_them(trained, capsys):
    points = geometry.simplify(trained.examples, 20.0).num_points
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert config["reading"]["max_points"] == config["fitting"]["max_points"] == LONGEST
    lengths = read_json(trained.run / "model" / "config.json")["modality"]["lengths"]
    assert sum(sum(counts.values()) for counts in lengths.values()) == (points <= LONGEST).sum() < 40
    assert (trained.examples.num_points > LONGEST).sum() > (points > LONGEST).sum()  # before it, more are too long
    _, report = Sketches.read([trained.folder / "all.npz"], max_points=LONGEST, simplify=20.0)
    first = int(np.flatnonzero(points > LONGEST)[0])
    left = f"more than 12 points {(points > LONGEST).sum()} (first: all.npz, record {first + 1}: {points[first]})"
    assert left in report.lines()[-1]
    assert report.files[0]["kept"] == report.kept == (points <= LONGEST).sum()


def test_what_a_model_is_compared_with_is_left_out_alike(trained, judged, tmp_path, capsys):
    assert run("sample", trained.run, "-n", 3, "--steps", 2, "-o", tmp_path / "new.ndjson.gz") == 0
    words = ("evaluate", tmp_path / "new.ndjson.gz", "--reference", trained.folder / "all.npz")
    assert run(*words) == 0
    short = int((geometry.simplify(trained.examples, 20.0).num_points <= LONGEST).sum())
    assert len(judged.reference) == short
    assert f"left out   {40 - short} of 40 of the reference, of more than 12 points" in capsys.readouterr().out
    assert run(*words, "--max-points", 8, "--training", trained.folder / "all.npz") == 0
    assert len(judged.reference) == len(judged.training) < short
    assert judged.reference.num_points.max() <= 8


def test_the_reference_may_be_another_part_of_an_archive_of_sketch_rnn(judged, tmp_path):
    """What the model was trained on is the training part all the same."""
    parts = {name: scribbles(count, seed=count) for name, count in (("train", 9), ("valid", 4), ("test", 5))}
    rows = {name: np.empty(len(part), object) for name, part in parts.items()}
    for name, part in parts.items():
        for i, sketch in enumerate(part):
            moves = np.diff(sketch.points, axis=0, prepend=0).round().astype(np.int16)
            rows[name][i] = np.column_stack([moves, sketch.pen]).astype(np.int16)
    np.savez(tmp_path / "cat.npz", **rows)
    Sketches.write_examples(parts["test"], tmp_path / "new.ndjson")
    words = ("evaluate", tmp_path / "new.ndjson", "--modality", "sketches", "--reference", tmp_path / "cat.npz")
    for more, count in (((), 9), (("--split", "valid"), 4), (("--split", "all"), 18)):
        assert run(*words, "--training", tmp_path / "cat.npz", *more) == 0
        assert (len(judged.reference), len(judged.training)) == (count, 9)


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_samples_are_written_with_every_ending_that_the_writer_knows(trained, tmp_path, ending):
    path = tmp_path / f"new{ending}"
    assert run("sample", trained.run, "-n", 2, "--steps", 1, "-o", path) == 0
    if ending not in (".png", ".gif"):
        assert len(Sketches.read([path])[0]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-points", 0), "--max-points must be at least 1, got 0"),
        (("--max-points", 1), "no usable sketch in 40 records: more than 1 points"),
        (("--simplify", -3), "--simplify must be at least 0, got -3"),
        (("--resample", -1), "--resample must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_one_line(trained, tmp_path, capsys, words, message):
    assert run("train", "sketches", trained.folder / "all.npz", "--out", tmp_path / "run", *words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_adapter_refuses_what_it_was_not_fitted_to(trained):
    adapter = Sketches.fit(trained.examples, max_points=LONGEST)
    with pytest.raises(Exception, match=r"sketch \d+: has \d+ points; this model knows 12 at most"):
        adapter.encode(trained.examples)
