"""`gendiff demo images`: what it leaves behind, that it can be repeated, and, slowly, that it works."""

import json
import re
import shlex
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
from pages import check
from PIL import Image as pillow

from gendiff.catalog import builtin
from gendiff.cli import main
from gendiff.metrics import Metric, Table, Value
from gendiff.modalities.images import draw
from gendiff.modalities.images.modality import Images

FILES = {"examples.npz", "others.npz", "run", "images.npz", "images.json", "images.png", "reverse.gif", "reverse.png",
         "metrics.json", "index.html"}  # fmt: skip


def demo(folder):
    """The demo with a network that has learnt nothing, and what it gave to the judge and to the film.

    Judging trains a network for a minute; here it does not.
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
        patch.setattr(Images, "evaluate", evaluate)
        patch.setattr(draw, "film_gif", film)
        words = ["demo", "images", "--out", str(folder), "--steps", "2", "-n", "20", "--seed", "3"]
        assert main(words) == 0
    return seen


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "demo")


@pytest.fixture(scope="module")
def digits():
    return Images.read([builtin("digits")])[0]


def test_it_leaves_what_it_promises(done):
    assert {path.name for path in done.out.iterdir()} == FILES
    images, _ = Images.read([done.out / "images.npz"])
    assert images.words.tolist() == 2 * list("0123456789")
    assert (done.out / "reverse.gif").read_bytes()[:3] == b"GIF"
    with pillow.open(done.out / "images.png") as sheet:
        assert sheet.size == (2 * 44 + 4, 10 * 44 + 4)  # a class a row, cells of 40 pixels and gaps of 4


def test_the_judge_sees_real_images_that_the_model_has_not_seen(done, digits):
    assert done.generated.words.tolist() == 2 * list("0123456789")
    parts = [one.pixels.reshape(len(one), -1) for one in (done.training, done.reference, digits)]
    assert [len(part) for part in parts] == [898, 899, 1797]
    assert np.array_equal(np.sort(np.concatenate(parts[:2]), 0), np.sort(parts[2], 0))
    examples, _ = Images.read([done.out / "examples.npz"])
    assert np.array_equal(examples.pixels, done.training.pixels)
    assert np.array_equal(examples.words, done.training.words)


def test_the_page_shows_the_images_the_share_and_commands_that_parse(done):
    page = (done.out / "index.html").read_text()
    assert page.count("<figure") >= 20 + 2  # the gallery, the sheet and the film
    assert "25.0 %</b><span>recognised as what was asked for" in page
    assert "75.0 %</b><span>the same of real ones" in page
    commands = [shlex.split(unescape(line)) for line in re.findall(r"gendiff (?:train|sample|evaluate) [^<\n]*", page)]
    assert [words[1] for words in commands] == ["train", "sample", "evaluate"]
    for words in commands:
        check(words)


def test_the_film_ends_in_the_samples(done):
    assert len(done.frames) == 11
    images, _ = Images.read([done.out / "images.npz"])
    assert np.array_equal(np.stack([image.pixels for image in done.frames[-1]]), images.pixels[:10])


def test_the_same_seed_draws_the_same(done, tmp_path):
    again = demo(tmp_path / "again")
    for file in ("examples.npz", "images.png", "reverse.gif", "reverse.png"):
        assert (again.out / file).read_bytes() == (done.out / file).read_bytes(), file


@pytest.mark.slow
def test_the_digits_are_recognised(gendiff, tmp_path):
    """The demo as users run it."""
    assert gendiff("demo", "images", "--out", tmp_path / "demo").status == 0
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    (recognised,) = [metric for metric in metrics["metrics"] if metric["name"] == "recognised"]
    assert recognised["generated"]["value"] >= 0.9
    assert recognised["reference"]["value"] >= 0.93
