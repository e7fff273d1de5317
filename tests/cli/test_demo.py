"""`gendiff demo`: what it leaves behind, that it can be repeated, and what it refuses."""

import json
import re
import shlex
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
from pages import check

from gendiff.catalog import builtin
from gendiff.cli import main
from gendiff.cli.demo import halves
from gendiff.metrics import Metric, Table, Value
from gendiff.modalities.sketches import draw
from gendiff.modalities.sketches.metrics import Features
from gendiff.modalities.sketches.modality import Sketches

FILES = {"examples.ndjson", "others.ndjson", "run", "sketches.ndjson", "sketches.json", "sketches.svg", "sketches.png",
         "pen.gif", "reverse.gif", "metrics.json", "index.html"}  # fmt: skip


def demo(folder):
    """The demo of sketches with a network that has learnt nothing, and what it gave to the judge and to the film.

    Judging trains networks for a minute; here it does not.
    """
    seen = SimpleNamespace(out=folder)

    def evaluate(generated, reference, **options):
        seen.generated, seen.reference, seen.training = generated, reference, options["training"]
        value, real = Value(0.25, 0.2, 0.3, 20), Value(0.75, 0.7, 0.8, 99)
        return Table([Metric("recognised", "recognised", value, real, "%")])

    def film(frames, path):
        seen.frames = frames
        gif(frames, path)

    gif = draw.film_gif
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sketches, "evaluate", evaluate)
        patch.setattr(draw, "film_gif", film)
        words = ["demo", "sketches", "--out", str(folder), "--steps", "2", "-n", "20", "--seed", "3"]
        assert main(words) == 0
    return seen


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "demo")


@pytest.fixture(scope="module")
def doodles():
    return Sketches.read([builtin("doodles")])[0]


def test_halves_share_nothing_and_depend_on_the_seed():
    one, other = halves(11, 0)
    assert (len(one), len(other)) == (5, 6)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(11))
    assert one.tolist() == sorted(one.tolist()) == halves(11, 0)[0].tolist() != halves(11, 1)[0].tolist()


def test_the_demo_of_sketches_leaves_what_it_promises(done, doodles):
    assert {path.name for path in done.out.iterdir()} == FILES
    assert (done.out / "pen.gif").read_bytes()[:3] == (done.out / "reverse.gif").read_bytes()[:3] == b"GIF"
    classes = sorted(set(doodles.words.tolist()))
    lines = (done.out / "sketches.ndjson").read_text().splitlines()
    assert [json.loads(line)["word"] for line in lines] == 2 * classes
    sheet, _ = Sketches.read([done.out / "sketches.svg"])
    assert sheet.words.tolist() == [word for word in classes for _ in range(2)]  # a class a row


def test_the_judge_sees_real_sketches_that_the_model_has_not_seen(done, doodles):
    assert done.generated.words.tolist() == 2 * sorted(set(doodles.words.tolist()))
    keys = [{fact["key_id"] for fact in part.facts} for part in (done.training, done.reference, doodles)]
    assert keys[0].isdisjoint(keys[1])
    assert keys[0] | keys[1] == keys[2]
    assert len(keys[0]) == len(keys[1]) == 2500
    examples, _ = Sketches.read([done.out / "examples.ndjson"])
    assert np.array_equal(examples.points, done.training.points)


def test_the_page_shows_the_sketches_the_share_and_commands_that_parse(done):
    page = (done.out / "index.html").read_text()
    assert page.count("<figure") >= 20 + 2  # the gallery, and both films
    assert "25.0 %</b><span>recognised as what was asked for" in page
    assert "75.0 %</b><span>the same of real ones" in page
    commands = [shlex.split(unescape(line)) for line in re.findall(r"gendiff (?:train|sample|evaluate) [^<\n]*", page)]
    assert [words[1] for words in commands] == ["train", "sample", "evaluate"]
    for words in commands:
        check(words)


def test_the_film_ends_in_the_samples(done):
    assert len(done.frames) > 8
    assert len(done.frames[-1]) == 10
    lines = (done.out / "sketches.ndjson").read_text().splitlines()
    for sketch, line in zip(done.frames[-1], lines[:10], strict=True):
        drawing = json.loads(line)
        assert sketch.word == drawing["word"]
        assert [len(stroke) for stroke in sketch.strokes] == [len(stroke[0]) for stroke in drawing["drawing"]]


def test_the_same_seed_draws_the_same(done, tmp_path):
    again = demo(tmp_path / "again")
    for file in ("examples.ndjson", "sketches.svg", "sketches.png", "pen.gif", "reverse.gif"):
        assert (again.out / file).read_bytes() == (done.out / file).read_bytes(), file


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("poems",), "no demo for 'poems'; there is one for: molecules, sketches, images"),
        (("sketches", "--steps", 0), "--steps and -n must be at least 1, got 0 and 200"),
        (("sketches", "-n", 0), "-n must be at least 1, got"),
    ],
)
def test_what_it_refuses(gendiff, tmp_path, words, error):
    result = gendiff("demo", *words, "--out", tmp_path / "demo")
    assert (result.status, result.out) == (2, "")
    assert error in result.err
    assert not (tmp_path / "demo").exists()


def test_it_writes_into_no_folder_that_holds_something(gendiff, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = gendiff("demo", "sketches", "--out", tmp_path)
    assert result.status == 1
    assert "already exists; choose another --out" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_the_doodles_are_recognised(gendiff, tmp_path):
    """The demo as users run it."""
    assert gendiff("demo", "sketches", "--out", tmp_path / "demo").status == 0
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    (recognised,) = [metric for metric in metrics["metrics"] if metric["name"] == "recognised"]
    assert recognised["generated"]["value"] >= 0.8
    assert recognised["reference"]["value"] >= 0.97


@pytest.mark.slow
def test_real_doodles_are_told_apart(doodles):
    assert Features.fit(doodles, held_out=0.5).held_out.value >= 0.97
