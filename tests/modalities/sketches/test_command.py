"""Options of sketches on the command line, from files to what is trained on and compared with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scribbles import scribbles

from gendiff import load
from gendiff.cli import main
from gendiff.files import read_json
from gendiff.metrics import Table
from gendiff.modalities.sketches import geometry
from gendiff.modalities.sketches.modality import Sketches
from gendiff.modalities.sketches.records import SketchArrays
from gendiff.modalities.sketches.write import EXTENSIONS
from gendiff.model import Model
from gendiff.train import train

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
        (("--max-points", 1), "no usable sketch in 40 records: more than 1 point "),
        (("--simplify", -3), "--simplify must be at least 0, got -3"),
        (("--resample", -1), "--resample must be at least 0, got -1"),
        (("--augment", 2), "--augment must be from 0 to below 1, got 2"),
        (("--resample", 1e-9), "would be over 134,217,728 numbers; take a larger one"),
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


def test_what_can_be_asked_for_is_counted_in_sketches(trained, tmp_path):
    said = []
    options = {"preset": "tiny", "previews": 0, "trainer": {"accelerator": "cpu"}}
    train(
        "sketches",
        [trained.folder / "all.npz"],
        tmp_path / "run",
        steps=1,
        conditions=["points"],
        say=said.append,
        **options,
    )
    assert [line for line in said if "can be asked for" in line] == [
        f"{name} can be asked for: 40 of 40 sketches have it" for name in ("class", "points")
    ]


def test_a_class_with_a_comma_is_asked_for_as_it_is(trained, tmp_path):
    words = np.array(["a", "a,b", "b"])[np.arange(40) % 3]
    examples = replace(trained.examples, words=words)
    adapter = Sketches.fit(examples)
    Model(adapter, adapter.denoiser("tiny")).save(tmp_path / "model")
    for asked, found in (("a,b", ["a,b"] * 4), ("b,a", ["b", "a"] * 2), ("a, b", ["a", "b"] * 2)):
        path = tmp_path / "new.npz"
        assert run("sample", tmp_path / "model", "-n", 4, "--steps", 1, "--class", asked, "-o", path) == 0
        assert Sketches.read([path])[0].words.tolist() == found


def test_a_temperature_is_taken_by_all_ways_of_sampling_and_noted(trained, tmp_path):
    """DPM-Solver++ takes no noise in: the one file, the shards and Python start from scaled noise alike."""
    words = ["sample", trained.run, "-n", 5, "--seed", 3, "--steps", 4, "--temperature", 0.5]
    assert run(*words, "-o", tmp_path / "one.npz") == 0
    assert run(*words, "-o", f"{tmp_path}/shards/", "--format", "npz", "--shard-size", 2) == 0
    assert run(*words[:-1], 1, "-o", tmp_path / "warm.npz") == 0
    one, warm = (Sketches.read([tmp_path / f"{name}.npz"])[0] for name in ("one", "warm"))
    parts = [Sketches.read([path])[0] for path in sorted((tmp_path / "shards").glob("*.npz"))]
    np.testing.assert_allclose(np.concatenate([part.points for part in parts]), one.points, atol=1e-3)
    assert one.num_points.tolist() == warm.num_points.tolist()
    assert np.ptp(one.points) < 0.8 * np.ptp(warm.points)
    assert [read_json(tmp_path / f"{name}.json")["prior_scale"] for name in ("one", "warm")] == [0.5, 1]
    assert read_json(tmp_path / "shards" / "manifest.json")["prior_scale"] == 0.5
    drawn = load(trained.run).draw(5, seed=3, steps=4, temperature=0.5).records
    np.testing.assert_allclose(np.concatenate([sketch.points for sketch in drawn]), one.points, atol=1e-3)


def test_a_file_of_several_modalities_that_was_taken_for_another_one_says_so(trained, tmp_path, capsys):
    shutil.copy(trained.folder / "all.npz", tmp_path / "mine.npz")
    for words in (("evaluate", "--reference", trained.folder / "all.npz"), ("report", "-o", tmp_path / "page.html")):
        assert run(words[0], tmp_path / "mine.npz", *words[1:]) == 1
        err = capsys.readouterr().err
        assert "the file was taken for molecules: if it holds images or sketches, say --modality\n" in err
        assert err.count("\n") == 1
    assert run("report", tmp_path / "gone.npz") == 1
    assert "--modality" not in capsys.readouterr().err
    assert run("report", tmp_path / "mine.npz", "--modality", "sketches", "-o", tmp_path / "page.html") == 0
    (tmp_path / "mine.json").write_text('{"made": "samples", "modality": "sketches", "file": "mine.npz"}')
    assert run("report", tmp_path / "mine.npz", "-o", tmp_path / "page.html") == 0


def test_how_large_a_drawing_is_taken_to_be_is_said_before_the_work(trained, tmp_path, capsys):
    small = SketchArrays([3], np.array([[0, 0], [1, 2.55], [2, 0]]), [False, False, True], ["w0"])
    Sketches.write_examples(small, tmp_path / "small.csv")
    words = ("edit", trained.run, tmp_path / "small.csv", "-n", 2, "--steps", 2, "--resamples", 1)
    assert run(*words, "-o", tmp_path / "new.ndjson") == 0
    said = capsys.readouterr().out
    assert said.count("the larger side of the input is 2.55 units of its file, and that of drawings the model") == 1
    assert said.index("the larger side of the input") < said.index("2 sketches in ")
    assert run(*words, "--side", 5, "-o", tmp_path / "new.ndjson") == 0
    assert "the larger side" not in capsys.readouterr().out
