"""The manifest, and the files that names of data sets stand for."""

from __future__ import annotations

import tomllib

import pytest

from gendiff import catalog
from gendiff.catalog import builtin, dataset_folder, locate, manifest, resolve
from gendiff.files import UserError, sha256


def test_every_built_in_set_is_the_one_of_the_manifest():
    files = [name for name, entry in manifest().items() if entry.get("file")]
    assert "small-molecules" in files
    for name in files:
        assert sha256(builtin(name)) == manifest()[name]["sha256"]


def test_manifest_says_what_people_must_know():
    with (dataset_folder() / "manifest.toml").open("rb") as file:
        assert tomllib.load(file) == manifest()
    for entry in manifest().values():
        assert {"title", "licence"} <= entry.keys()
        assert "file" in entry or entry["url"].startswith("https://")  # an empty file name: it comes with a dependency


def test_a_set_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"no built-in data set 'nope'; there are: .*small-molecules"):
        builtin("nope")


def test_data_of_an_installed_package_come_first(tmp_path, monkeypatch):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "manifest.toml").write_text('[mine]\ntitle = "t"\nlicence = "l"\nfile = "mine/a.npz"\n')
    monkeypatch.setattr(catalog.resources, "files", lambda package: tmp_path)
    assert builtin("mine") == tmp_path / "datasets" / "mine" / "a.npz"


def test_a_set_of_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "loud_package").mkdir()
    (tmp_path / "loud_package" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalog, "manifest", lambda: {"mine": {"package": "loud_package", "file": "a/b.csv"}})
    assert builtin("mine") == tmp_path / "loud_package" / "a" / "b.csv"


def test_the_digits_come_with_scikit_learn():
    path = builtin("digits")
    assert path.parts[-4:] == ("sklearn", "datasets", "data", "digits.csv.gz")
    assert locate("digits") == resolve(["digits"]) == resolve("digits") == [path]
    assert resolve(path) == [path]


def test_a_set_of_a_package_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(catalog, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="digits comes with sklearn, which is not installed; gendiff doctor says more"):
        builtin("digits")


def test_checksums_of_the_manifest_are_checksums():
    for entry in manifest().values():
        for item in [entry, *entry.get("sources", [])]:
            for algorithm, digits in (("sha256", 64), ("md5", 32)):
                if algorithm in item:
                    assert len(item[algorithm]) == digits
                    assert int(item[algorithm], 16) > 0
