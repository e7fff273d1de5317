"""A modality in a package of its own: it is installed, and everything works with it through the same commands."""

from __future__ import annotations

import csv
import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pages
import pytest
import torch
from PIL import Image

import gendiff
from gendiff import Model, Random, UserError, config
from gendiff.cli import main
from gendiff.modality import Modality, find_modality, installed

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "adapters" / "pointcloud"
PAGE = "docs/extend.md"
SECTION = (ROOT / PAGE).read_text(encoding="utf-8").split("## A modality\n")[1]
ROUNDING = 1e-5  # of float32 in another order of operations


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which pip has installed the package, from a copy of it."""
    folder = tmp_path_factory.mktemp("pointcloud")
    source = shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", ".*"))
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def package(site):
    """The installed package, for the tests of this file."""
    assert "pointclouds" not in installed()
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    config.trusted_packages.cache_clear()
    yield importlib.import_module("gendiff_pointcloud")
    sys.path.remove(str(site))
    del sys.modules["gendiff_pointcloud"]
    config.trusted_packages.cache_clear()


@pytest.fixture
def model(package):
    """Clouds of two words and unlike sizes, by a network with random weights that are not at their start."""
    adapter = package.PointClouds({"cone": {3: 200, 4: 300}, "torus": {7: 400, 8: 100}}, scale=0.5)
    model = Model(adapter, adapter.denoiser("tiny"))
    for p in model.denoiser.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model


# the package


def test_it_is_fewer_than_150_formatted_lines(tmp_path):
    files = list(SOURCE.rglob("*.py"))
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 150
    assert "line-length = 100" in (SOURCE / "pyproject.toml").read_text(encoding="utf-8")
    for words in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout


def test_it_is_found_where_it_is_installed(package, site):
    kind = find_modality("pointclouds")
    assert kind is package.PointClouds
    assert Path(package.__file__).parent == site
    assert issubclass(kind, Modality)


def test_the_page_shows_what_the_package_holds():
    source = (SOURCE / "gendiff_pointcloud.py").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    assert len(shown) > 3
    for block in shown:
        assert any(textwrap.indent(block, depth * " ") in source for depth in (0, 4, 8)), block
    assert re.search(r"```toml\n(.*?)```", SECTION, re.S)[1] in (SOURCE / "pyproject.toml").read_text(encoding="utf-8")


def test_the_page_names_what_has_to_be_written_and_what_need_not():
    first, second = SECTION.split("\n| --- | --- |\n")[1], SECTION.split("\n| --- | --- | --- |\n")[1]
    names = [set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", t, re.M)))) for t in (first, second)]
    assert names[0] - names[1] - {"method"} == Modality.__abstractmethods__
    assert all(hasattr(Modality, name) for name in names[1])
    assert not names[1] & Modality.__abstractmethods__


def test_pages_tell_the_truth():
    readme = "examples/adapters/pointcloud/README.md"
    assert len(pages.commands(readme)) > 3
    assert all(words in pages.commands(PAGE) for words in pages.commands(readme))
    assert pages.missing(PAGE) == pages.missing(readme) == []


# the commands


@pytest.mark.usefixtures("package")
def test_the_commands_of_the_page_run(site, tmp_path, monkeypatch, capsys):
    """The whole of it, with few steps; training and sampling in processes that know of the package by its place."""
    monkeypatch.chdir(tmp_path)
    make = re.search(r'python -c "(.*?)"', SECTION)[1].replace("'clouds.npz'", "'clouds.npz', count=40")
    exec(make.replace("count=400", "count=40"), {})
    fewer = {
        "train": ["--steps", "3", "--previews", "0", "--trainer.accelerator", "cpu"],
        "sample": ["-n", "10", "--steps", "2"],
        "logprob": ["--steps", "2"],
        "encode": ["--steps", "2"],
    }
    for _, command, *words in pages.commands(PAGE):
        argv = [command, *words, *fewer.get(command, [])]
        if command == "train" or (command == "sample" and "new.npz" in words):
            code = "import sys; from gendiff.cli import main; sys.exit(main())"
            known = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
            call = [sys.executable, "-c", code, *argv]
            done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False, env=known)
            assert done.returncode == 0, done.stderr
            print(done.stdout)
        else:
            assert main(argv) == 0
    said, _ = capsys.readouterr()
    assert "read 40 point clouds" in said
    assert "class can be asked for: 40 of 40 pointclouds have it" in said
    tori, _ = find_modality("pointclouds").read(["tori.npz"])
    assert [cloud.word for cloud in tori] == ["torus"] * 10
    assert {64, 96} >= {min(64, *(len(c.points) for c in tori)), max(96, *(len(c.points) for c in tori))}
    assert all(trait in said for trait in ("radius", "distance", "height", "told apart", "recognised"))
    with Image.open("tori.gif") as film:
        assert film.n_frames == 3
    assert "data:image/svg+xml" in Path("tori.html").read_text(encoding="utf-8")
    others, _ = find_modality("pointclouds").read(["others.npz"])
    with Path("likely.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [cloud.word for cloud in others]
    assert [float(row["dim"]) for row in rows] == [3 * (len(cloud.points) - 1) for cloud in others]
    with np.load("codes.npz") as codes:
        assert codes["sizes"].tolist() == [len(cloud.points) for cloud in others]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sample", "m", "--class", "cube", "-o", "a.npz"],
            "class 'cube' cannot be asked of this model; it knows 'cone'",
        ),
        (
            ["sample", "m", "--condition", "logP=1", "-o", "a.npz"],
            "'logP' cannot be asked of this model, .* with class",
        ),
        (["sample", "m", "-o", "a.sdf"], "cannot write .sdf; choose from .npz"),
        (["sample", "m", "--size", "20-", "-o", "a.npz"], "no size between 20"),
        (["sample", "m", "--only", "connected", "-o", "a.npz"], "--only knows valid and new, not 'connected'"),
        (["edit", "m", "c.npz", "-o", "a.npz"], "pointclouds cannot be edited yet"),
        (["evaluate", "c.npz", "--modality", "pointclouds", "--reference", "c.npz"], "at least 10 pointclouds"),
    ],
)
def test_a_refusal_is_one_line(model, package, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    package.make("c.npz", count=4)
    model.save("m")
    before = sorted(tmp_path.iterdir())
    assert main(words) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert sorted(tmp_path.iterdir()) == before


# the mathematics


@pytest.mark.parametrize("training", [True, False])
def test_permuted_points_permute_the_estimate(model, training):
    denoiser = model.denoiser.double().train(training)
    sizes = torch.tensor([8, 5, 3])
    mask = torch.arange(8) < sizes[:, None]
    x = {"position": denoiser.process["position"].noise(mask, Random(0, 3)).double()}
    t, told = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), {"class": torch.tensor([1, 0, -1])}
    order = torch.stack([torch.cat([torch.randperm(n), torch.arange(n, 8)]) for n in sizes.tolist()])
    rows = torch.arange(3)[:, None]
    with torch.set_grad_enabled(training):
        plain = denoiser(x, t, mask, told).data["position"]
        permuted = denoiser({"position": x["position"][rows, order]}, t, mask, told).data["position"]
    torch.testing.assert_close(permuted, plain[rows, order], rtol=0, atol=1e-12)
    assert (permuted - plain).abs().max() > 0.01
    assert not plain[~mask].any()
    assert plain.sum(1).abs().max() < 1e-12  # the centre stays where it is


def test_a_sample_depends_on_nothing_but_its_number(model):
    together = model.sample(9, steps=4, seed=2)
    apart = model.sample(9, steps=4, seed=2, batch_size=2)
    assert len({len(cloud.points) for cloud in together}) > 2
    for a, b in zip(together, apart, strict=True):
        assert a.word == b.word
        np.testing.assert_allclose(a.points, b.points, rtol=0, atol=ROUNDING)


def test_sizes_and_words_follow_their_law(model):
    adapter, n = model.modality, 20_000
    words = adapter.complete({}, Random(0, n))["class"]
    assert words.double().mean() == pytest.approx(0.5, abs=0.015)
    sizes = adapter.draw_sizes(Random(1, n), condition={"class": torch.ones(n, dtype=torch.long)})
    # sizes 3 to 8 mixed with their neighbours by 1/4, 1/2, 1/4, reflected at the ends, and ten samples of any word
    cone, torus = np.array([225, 200, 75, 0, 0, 0]), np.array([0, 0, 0, 100, 225, 175])
    law = torus + 10 * (torus + cone) / (torus + cone).sum()
    found = np.bincount(sizes.numpy() - 3, minlength=6) / n
    np.testing.assert_allclose(found, law / law.sum(), rtol=0, atol=0.015)
    drawn = model.sample(40, steps=1, seed=1, condition={"class": "torus"})
    assert [len(cloud.points) for cloud in drawn] == sizes[:40].tolist()


def test_likelihoods_change_with_the_unit_as_densities_do(model, package):
    rng = np.random.default_rng(0)
    clouds = [package.Cloud(rng.normal(size=(n, 3))) for n in (3, 8, 5)]
    large = [package.Cloud(10 * cloud.points + 7) for cloud in clouds]
    other = Model(package.PointClouds(model.modality.counts, 10 * model.modality.scale), model.denoiser)
    before, after = model.log_prob(clouds, steps=3), other.log_prob(large, steps=3)
    free = torch.tensor([2, 7, 4]) * 3
    torch.testing.assert_close(after["log_prob"], before["log_prob"] - free * np.log(10), rtol=1e-5, atol=0)
    assert before["dim"].tolist() == free.tolist()
    every = model.modality.log_size(torch.arange(1, 12))
    assert every.exp().sum() == pytest.approx(1)
    assert before["size"].tolist() == [every[n - 1] for n in (3, 8, 5)]


@pytest.mark.parametrize(
    ("word", "equation"),
    [
        ("sphere", lambda r, a, h, p: r**2 + h**2 - 1),
        ("torus", lambda r, a, h, p: (r - 1) ** 2 + h**2 - p**2),
        ("cone", lambda r, a, h, p: r - (1 - h / (2 * p)) / 2),
        ("helix", lambda r, a, h, p: np.abs(r - 2 * p) + np.abs(a - a[0] - 3 * np.pi * (h - h[0]))),
    ],
)
def test_points_lie_on_their_shape(package, word, equation):
    rng = np.random.default_rng(0)
    angle, height = rng.uniform(0, 6, 50), rng.uniform(-1, 1, 50)
    np.testing.assert_allclose(equation(*package.SHAPES[word](angle, height, 0.3), 0.3), 0, atol=1e-12)


def test_what_it_makes_is_the_same_for_a_seed(package, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        package.make(tmp_path / f"{name}.npz", count=400, seed=seed)
    a, b, c = ((tmp_path / f"{name}.npz").read_bytes() for name in "abc")
    assert a == b != c
    clouds, _ = package.PointClouds.read([tmp_path / "a.npz"])
    assert [cloud.word for cloud in clouds] == ["cone", "helix", "sphere", "torus"] * 100
    assert {len(cloud.points) for cloud in clouds} == set(range(64, 97))
    balls = np.concatenate([cloud.points for cloud in clouds if cloud.word == "sphere"])
    assert (np.linalg.norm(balls, axis=1) - 1).std() == pytest.approx(0.02, rel=0.03)


# records and files


def test_files_and_states_come_back_as_they_were(package, tmp_path):
    rng = np.random.default_rng(0)
    clouds = [package.Cloud(rng.normal(5, 2, (n, 3)), word) for n, word in ((4, "a-b"), (2, "c/d"), (9, ""))]
    adapter = package.PointClouds.fit(clouds)
    assert adapter.write(clouds, tmp_path / "a.npz") == 3
    again, report = package.PointClouds.read([tmp_path / "a.npz"])
    assert report.lines() == ["read 3 point clouds"]
    for a, b in zip(clouds, again, strict=True):
        assert a.word == b.word
        np.testing.assert_array_equal(a.points, b.points)
    data = adapter.encode(clouds)
    assert data.condition["class"].tolist() == [0, 1, -1]
    assert data.fields["position"].square().mean() == pytest.approx(1, abs=1e-5)
    batch = data.batch(torch.arange(3))
    for a, b in zip(clouds, adapter.decode(batch.state, batch.mask, batch.condition), strict=True):
        assert a.word == b.word
        np.testing.assert_allclose(b.points, a.points - a.points.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [np.zeros(3), np.zeros((1, 3)), np.zeros((4, 2)), np.float64(1), np.full((4, 3), np.nan), np.full((4, 3), "a")],
    ids=["flat", "one point", "plane", "number", "nan", "text"],
)
def test_a_bad_record_is_named_or_counted(package, tmp_path, bad):
    np.savez(tmp_path / "a.npz", **{"cone-1": np.eye(3), "cone-2": bad})
    with pytest.raises(UserError, match=r"a\.npz, cone-2: is no \(N, 3\) of finite numbers.*--on-error skip$"):
        package.PointClouds.read([tmp_path / "a.npz"])
    clouds, report = package.PointClouds.read([tmp_path / "a.npz"], on_error="skip")
    assert len(clouds) == 1
    assert report.to_json()["refused"] == [report.lines()[1].split("the first: ")[1]]
    np.savez(tmp_path / "b.npz", bad)
    with pytest.raises(UserError, match=r"no usable point clouds: .*b\.npz, arr_0"):
        package.PointClouds.read([tmp_path / "b.npz"], on_error="skip")


def test_pickles_are_refused(package, tmp_path):
    np.savez(tmp_path / "a.npz", **{"cone-1": np.array([{}], object)})
    with pytest.raises(UserError, match="holds pickled objects, which are never loaded"):
        package.PointClouds.read([tmp_path / "a.npz"], on_error="skip")


def test_clouds_of_one_word_have_no_classes(package):
    adapter = package.PointClouds.fit([package.Cloud(np.eye(3), "cone")] * 3)
    assert (adapter.classes, adapter.counts) == ([], {"": {3: 3}})
    drawn = Model(adapter, adapter.denoiser("tiny")).sample(2, steps=1)
    assert [(cloud.word, len(cloud.points)) for cloud in drawn] == [("", 3)] * 2


# what the contract gives an adapter that says nothing itself


def test_metrics_have_the_values_of_their_definition(package):
    rng = np.random.default_rng(0)
    shape, other = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) * [5, 1, 1]
    reference = [package.Cloud(shape, "a"), package.Cloud(other, "b")] * 20
    right = [package.Cloud(2 * shape, "a")] * 15
    table = package.PointClouds.evaluate(right, reference[::2], seed=3)
    for name, (x, *_) in package.PointClouds.features([package.Cloud(shape)]).items():
        assert table[name].generated.value == pytest.approx(np.abs(x).mean())  # quantiles of 2 x are twice those of x
        assert table[name].reference.value == 0
    assert table["told_apart"].generated.value == 1
    assert "recognised" not in table
    for words, share in (("ab", 1), ("ba", 0)):
        generated = [package.Cloud(x, word) for x, word in zip((shape, other), words, strict=True)] * 10
        table = package.PointClouds.evaluate(generated, reference, seed=3)
        assert table["recognised"].generated.value == share
        assert table["recognised"].reference.value == 1
        assert table.facts["compared"] == "20 of 20 with 20 of 40"


def test_pictures_and_films_follow_from_draw(model, package, tmp_path):
    adapter = model.modality
    frames = model.film(3, frames=3, steps=4)
    adapter.film(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3
        times = []
        for number in range(3):
            film.seek(number)
            times.append(film.info["duration"])
    assert times == [150, 150, 2000]
    with pytest.raises(UserError, match=r"a\.mp4: pointclouds are filmed as \.gif$"):
        adapter.film(frames, tmp_path / "a.mp4")
    svg, caption, flag = adapter.picture(package.Cloud(np.eye(3), "$<x>&"))
    assert "<svg" in svg
    assert "<x>" not in svg
    assert (caption, flag) == ("$<x>&", "")


def test_networks_that_there_are_not_are_refused(model):
    with pytest.raises(UserError, match=r"^unknown preset 'huge'; choose from tiny, small, base$"):
        model.modality.denoiser("huge")
    with pytest.raises(UserError, match=r"^unknown network 'egnn'; leave --network out$"):
        model.modality.denoiser("tiny", "egnn")


def test_records_are_noted_and_kept(model, package):
    clouds = [package.Cloud(np.eye(3)), package.Cloud(np.eye(3))]
    model.modality.annotate(clouds, seed=4, index=7, targets=None)
    assert [cloud.facts for cloud in clouds] == [{"seed": 4, "index": 7}, {"seed": 4, "index": 8}]
    assert model.modality.keep(clouds, ["valid"], set()) == [True, True]
    with pytest.raises(UserError, match="pointclouds have no identity, so 'new' cannot be asked for"):
        model.modality.known(clouds)


def test_a_model_loads_where_the_package_is_installed_and_only_there(model, package, site, tmp_path):
    model.save(tmp_path / "m")
    assert isinstance(gendiff.load(tmp_path / "m").denoiser.network, package.SetTransformer)
    sys.path.remove(str(site))
    config.trusted_packages.cache_clear()
    try:
        with pytest.raises(
            UserError, match=r"names 'gendiff_pointcloud\.\w+'; only classes of gendiff or of an instal"
        ):
            gendiff.load(tmp_path / "m")
    finally:
        sys.path.insert(0, str(site))
        config.trusted_packages.cache_clear()
