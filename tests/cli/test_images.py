"""Images on the command line: trained, drawn into files and folders, judged, and read back."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest
import yaml
from PIL import Image as pillow

from gendiff.guide import Autoguidance
from gendiff.metrics import Table
from gendiff.modalities.images.modality import Images
from gendiff.model import Model, load
from gendiff.model.digest import digest

QUICK = ("--steps", 2, "--preset", "tiny", "--previews", 0, "--trainer.accelerator", "cpu")
DRAW = ("--steps", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on ten pictures of 8 x 8 in two folders, which are classes, read at half their size."""
    from gendiff.cli import main

    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(10):
        path = folder / "pictures" / ("cat" if i < 6 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    words = ("train", "images", folder / "pictures", "--out", folder / "run", "--resize", "4", "--flip", *QUICK)
    assert main([str(word) for word in words]) == 0
    return folder / "run"


def test_a_run_remembers_how_it_was_read_and_what_it_read(run):
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["reading"]["resize"], settings["fitting"]["flip"]) == ("4", True)
    pictures = run.parent / "pictures"
    assert settings["sha256"] == {str(pictures): digest(pictures)}
    adapter = load(run).modality
    assert (adapter.size, adapter.channels, adapter.classes, adapter.flip) == ([4, 4], 1, ["cat", "dog"], True)


def test_samples_as_an_array(gendiff, run, tmp_path):
    result = gendiff("sample", run, "-n", 5, "-o", tmp_path / "new.npz", "--class", "dog,cat", *DRAW)
    assert result.status == 0, result.err
    images, _ = Images.read([tmp_path / "new.npz"])
    assert images.words.tolist() == ["dog", "cat", "dog", "cat", "dog"]
    facts = json.loads((tmp_path / "new.json").read_text())
    assert (facts["modality"], facts["condition"]) == ("images", {"class": ["dog", "cat"]})
    assert facts["sha256"] == digest(tmp_path / "new.npz")


@pytest.mark.parametrize("name", ["new/", "new"])
def test_samples_as_a_folder_of_pictures(gendiff, run, tmp_path, name):
    """With or without the slash; training reads it back with its classes, and it is not written over."""
    words = ("sample", run, "-n", 5, "-o", f"{tmp_path}/{name}", "--class", "dog,cat", *DRAW)
    assert gendiff(*words).status == 0
    names = sorted(path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.png"))
    assert names == ["cat/00001.png", "cat/00003.png", "dog/00000.png", "dog/00002.png", "dog/00004.png"]
    drawn = load(run).draw(5, steps=2, condition={"class": ["dog", "cat"]}).records
    for name, i in zip(names, (1, 3, 0, 2, 4), strict=True):
        with pillow.open(tmp_path / "new" / name) as picture:
            assert np.array_equal(np.asarray(picture), drawn[i].pixels[..., 0])
            assert (picture.text["word"], picture.text["index"]) == (drawn[i].word, str(i))
    assert json.loads((tmp_path / "new.json").read_text())["sha256"] == digest(tmp_path / "new")
    again = gendiff(*words)
    assert again.status == 1
    assert "already exists; choose another -o" in again.err
    trained = gendiff("train", "images", tmp_path / "new", "--out", tmp_path / "run", *QUICK)
    assert trained.status == 0, trained.err
    assert "read 5 images from new; 4 x 4 gray" in trained.out
    assert "2 classes: dog 3, cat 2" in trained.out


@pytest.mark.parametrize("option", [("--format", "npz"), ("--shard-size", 3)])
def test_options_of_shards_make_shards(gendiff, run, tmp_path, option):
    result = gendiff("sample", run, "-n", 4, "-o", f"{tmp_path}/new/", *option, *DRAW)
    assert result.status == 0, result.err
    assert (tmp_path / "new" / "manifest.json").is_file()
    assert {path.suffix for path in (tmp_path / "new").glob("shard-*")} == {".npz", ".json"}


def test_one_picture(gendiff, run, tmp_path):
    assert gendiff("sample", run, "-n", 1, "-o", tmp_path / "new.png", *DRAW).status == 0
    with pillow.open(tmp_path / "new.png") as picture:
        assert (picture.size, picture.mode) == ((4, 4), "L")
    two = gendiff("sample", run, "-n", 2, "-o", tmp_path / "two.png", *DRAW)
    assert (two.status, "holds one record" in two.err) == (1, True)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("new.tiff", "cannot write .tiff; choose from .npz"),
        ("new.v2/", "cannot write .v2"),
        ("file/new", "is a file, and"),
    ],
)
def test_targets_that_are_none_are_refused_before_the_work(gendiff, run, tmp_path, name, error):
    (tmp_path / "file").write_text("")
    result = gendiff("sample", run, "-n", 2, "-o", f"{tmp_path}/{name}", *DRAW)
    assert result.status == 1
    assert error in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_new_is_judged_at_the_size_of_the_model(gendiff, run, tmp_path):
    words = ("sample", run, "-n", 3, "-o", tmp_path / "new.npz", "--only", "new", *DRAW)
    for more in ((), ("--reference", run.parent / "pictures")):
        result = gendiff(*words, *more)
        assert result.status == 0, result.err
        assert "100.0 % of 3 drawn are new" in result.out
    pillow.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    other = gendiff(*words, "--reference", tmp_path / "colour.png")
    assert other.status == 1
    assert "have 4 x 4 RGB pixels; this model knows 4 x 4 gray, so they cannot say what is new" in other.err


def test_a_film_shows_what_guides_do(gendiff, run, tmp_path, monkeypatch):
    film, filmed = Model.film, []
    monkeypatch.setattr(Model, "film", lambda *args, **options: filmed.append(options) or film(*args, **options))
    words = ("-n", 2, "-o", tmp_path / "a.npz", "--film", tmp_path / "a.gif", "--weaker", run, *DRAW)
    result = gendiff("sample", run, *words)
    assert result.status == 0, result.err
    assert isinstance(filmed[0]["guide"](load(run).denoiser), Autoguidance)


def test_a_film(gendiff, run, tmp_path):
    result = gendiff("sample", run, "-n", 2, "-o", tmp_path / "a.npz", "--film", tmp_path / "a.gif", *DRAW)
    assert result.status == 0, result.err
    assert (tmp_path / "a.gif").read_bytes()[:3] == b"GIF"


def test_log_probabilities_are_in_bits_of_a_byte(gendiff, run, tmp_path):
    assert gendiff("sample", run, "-n", 3, "-o", tmp_path / "a", "--class", "cat", *DRAW).status == 0
    result = gendiff("logprob", run, tmp_path / "a", "-o", tmp_path / "a.csv", "--steps", 5, "--device", "cpu")
    assert result.status == 0, result.err
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["cat"] * 3
    for row in rows:
        assert float(row["dim"]) == 16
        assert float(row["volume"]) == pytest.approx(16 * math.log(127.5), rel=1e-5)
        assert float(row["bits_per_dim"]) == pytest.approx(-float(row["log_prob"]) / 16 / math.log(2), rel=1e-4)
    result = gendiff("logprob", run, tmp_path / "a", "-o", tmp_path / "b.csv", "--steps", 5, "--method", "bytes")
    assert result.status == 0, result.err
    rows = list(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))
    assert [float(row["volume"]) for row in rows] == [0.0] * 3
    mean = sum(float(row["bits_per_dim"]) for row in rows) / 3
    said = re.search(r"nats, ([\d.]+) bits/dim over 3 records", result.out)
    assert said is not None
    assert float(said[1]) == pytest.approx(mean, rel=1e-3)


def test_what_is_judged_is_brought_to_the_size_of_the_model(gendiff, run, tmp_path, monkeypatch):
    """As the training data were: the same numbers come of them and of what they were resized to."""
    small, _ = Images.read([run.parent / "pictures"], resize=4)
    Images.write_examples(small, tmp_path / "small.npz")
    found = []
    for source in (run.parent / "pictures", tmp_path / "small.npz"):
        words = ("logprob", run, source, "-o", tmp_path / "a.csv", "--steps", 3, "--device", "cpu")
        assert gendiff(*words).status == 0
        found.append((tmp_path / "a.csv").read_text())
    assert found[0] == found[1]
    seen = {}

    def evaluate(generated, reference, training=None, **options):
        seen.update(reference=reference, training=training)
        return Table([])

    monkeypatch.setattr("gendiff.modalities.images.metrics.evaluate", evaluate)
    assert gendiff("sample", run, "-n", 3, "-o", tmp_path / "new.npz", *DRAW).status == 0
    pictures = run.parent / "pictures"
    result = gendiff("evaluate", tmp_path / "new.npz", "--reference", pictures, "--training", pictures)
    assert result.status == 0, result.err
    assert np.array_equal(seen["reference"].pixels, small.pixels)
    assert np.array_equal(seen["training"].pixels, small.pixels)


def test_codes(gendiff, run, tmp_path):
    assert gendiff("sample", run, "-n", 3, "-o", tmp_path / "a.npz", *DRAW).status == 0
    words = ("encode", run, tmp_path / "a.npz", "-o", tmp_path / "codes.npz", "--steps", 2, "--device", "cpu")
    assert gendiff(*words).status == 0
    with np.load(tmp_path / "codes.npz") as codes:
        assert codes["pixel"].shape == (3, 1, 4, 4)


def test_a_run_goes_on_unless_a_picture_or_its_class_has_changed(gendiff, run, tmp_path):
    """The table of classes is named from anywhere, and watched as the pictures are."""
    pictures, table = tmp_path / "pictures", tmp_path / "classes.csv"
    pictures.mkdir()
    for i in range(4):
        pillow.fromarray(np.full((4, 4), 50 * i, np.uint8)).save(pictures / f"{i}.png")
    table.write_text("file,label\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n")
    words = ("train", "images", pictures, "--labels", table, "--out", tmp_path / "run", *QUICK)
    assert gendiff(*words).status == 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["reading"]["labels"] == str(table)
    assert settings["sha256"] == {str(pictures): digest(pictures), str(table): digest(table)}
    resume = ("train", "images", "--out", tmp_path / "run", "--resume")
    assert gendiff(*resume).status == 0
    table.write_text(table.read_text() + "\n")
    changed = gendiff(*resume)
    assert changed.status == 1
    assert f"{table}: is gone or has changed" in changed.err
    (pictures / "0.png").unlink()
    assert f"{pictures}: is gone or has changed" in gendiff(*resume).err


@pytest.mark.parametrize("name", ["new.npz", "new"])
def test_pages_of_samples_and_of_the_run(gendiff, run, tmp_path, name):
    assert gendiff("sample", run, "-n", 3, "-o", tmp_path / name, *DRAW).status == 0
    result = gendiff("report", tmp_path / name)
    assert result.status == 0, result.err
    page = (tmp_path / "new.html").read_text()
    assert page.count("<figure") == 3
    assert "image/svg+xml" in page
    if name == "new":
        assert gendiff("report", run, "-o", tmp_path / "run.html").status == 0


def test_a_classifier_is_trained_and_leads_to_a_class(gendiff, run, tmp_path):
    """A large enough power of the classifier changes samples; a model without classes is led as well."""
    free = tmp_path / "free"
    words = ("train", "images", run.parent / "pictures", "--out", free, "--resize", "4", "--system", "ddpm", *QUICK)
    assert gendiff(*words).status == 0
    folder = tmp_path / "classifier"
    result = gendiff("classifier", run, run.parent / "pictures", "--out", folder, "--steps", 20, "--device", "cpu")
    assert result.status == 0, result.err
    assert "a classifier of cat, dog" in result.out
    for model, word in ((run, None), (free, "dog")):
        drawn = {}
        for scale in (0, 200):
            path = tmp_path / f"{model.name}{scale}.npz"
            led = ("--classifier", folder, "--classifier-scale", scale, "--class", "dog")
            result = gendiff("sample", model, "-n", 4, "-o", path, *led, *DRAW)
            assert result.status == 0, result.err
            drawn[scale] = Images.read([path])[0].pixels
            facts = json.loads(path.with_suffix(".json").read_text())["classifier"]
            weights = digest(folder / "model.safetensors")
            assert facts == {"folder": str(folder), "sha256": weights, "scale": scale, "class": word}
        assert (drawn[0] != drawn[200]).any()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("classifier", "{run}", "{run}/../pictures/cat", "--out", "{tmp}/c"), "at least two classes"),
        (("classifier", "{run}", "{run}/../pictures", "--out", "{run}"), "already exists"),
        (
            ("classifier", "{run}", "{run}/../pictures", "--out", "{tmp}/c", "--steps", "0"),
            "--steps must be at least 1",
        ),
        (("classifier", "sketches-digits", "doodles", "--out", "{tmp}/c"), "there is no classifier of sketches yet"),
        (("sample", "{run}", "-o", "{tmp}/a.npz", "--classifier", "{tmp}"), "config.json"),
        (("sample", "images-mnist", "-o", "{tmp}/a/", "--format", "npz", "--classifier", "c"), "folder of shards"),
        (("sample", "images-mnist", "-o", "{tmp}/a/", "--format", "npz", "--weaker", "c"), "folder of shards"),
    ],
)
def test_what_no_classifier_comes_of_is_one_line(gendiff, run, tmp_path, words, line):
    result = gendiff(*(word.format(run=run, tmp=tmp_path) for word in words))
    assert result.status != 0
    assert line in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
