"""The contract of a modality: another package brings one, and everything above works with it unchanged."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import EntryPoint, entry_points

import dots
import pytest
import torch

import gendiff
from gendiff import config, modality
from gendiff.cli import main
from gendiff.files import UserError
from gendiff.modality import Modality, find_modality, modalities


@pytest.fixture
def installed(monkeypatch):
    """The adapter of another package, as if it were installed."""
    mine = EntryPoint("dots", "dots:Dots", config.GROUP)
    for place in (config, modality):
        monkeypatch.setattr(place, "entry_points", lambda group: [*entry_points(group=group), mine])
    config.trusted_packages.cache_clear()
    yield
    config.trusted_packages.cache_clear()


def test_molecules_are_installed():
    found = modalities()
    assert found["molecules"] is find_modality("molecules")
    assert issubclass(found["molecules"], Modality)
    assert {kind.name for kind in found.values()} == set(found)


def test_every_adapter_keeps_the_contract():
    for kind in modalities().values():
        assert not inspect.isabstract(kind)
        assert kind.name
        assert all(extension.startswith(".") or extension == "/" for extension in kind.extensions)  # "/": a folder
        for name in Modality.__abstractmethods__:
            theirs = inspect.signature(getattr(Modality, name)).parameters.values()
            wanted = [p.name for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert list(inspect.signature(getattr(kind, name)).parameters)[: len(wanted)] == wanted, name


@pytest.mark.parametrize("name", ["atoms", "", "Molecules", "os"])
def test_an_unknown_modality_is_one_line(name):
    with pytest.raises(UserError, match=rf"^unknown modality {name!r}; installed: .*molecules"):
        find_modality(name)


@pytest.mark.usefixtures("installed")
def test_another_package_brings_a_modality(tmp_path):
    assert find_modality("dots") is dots.Dots
    generator = torch.Generator().manual_seed(0)
    sets = [
        torch.rand(int(n), 2, generator=generator).tolist() for n in torch.randint(2, 5, (30,), generator=generator)
    ]
    (tmp_path / "a.dots").write_text("\n".join(map(json.dumps, sets)))
    said = []
    model = gendiff.train("dots", [tmp_path / "a.dots"], tmp_path / "run", steps=4, batch_size=8, say=said.append)
    assert said[0] == "read 30 sets of dots"
    again = gendiff.load(tmp_path / "run")
    assert isinstance(again.modality, dots.Dots)
    assert again.modality.sizes == model.modality.sizes == {n: sum(len(s) == n for s in sets) for n in (2, 3, 4)}
    drawn = again.sample(5, seed=1)
    assert all(map(torch.equal, drawn, model.sample(5, seed=1)))
    assert main(["sample", str(tmp_path / "run"), "-n", "5", "--seed", "1", "-o", str(tmp_path / "b.dots")]) == 0
    read, _ = dots.Dots.read([tmp_path / "b.dots"])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(read, drawn, strict=True))


@pytest.mark.usefixtures("installed")
def test_the_command_speaks_of_the_modality_of_another_package(capsys, tmp_path):
    assert main(["sample", "--help"]) == main(["train", "--help"]) == 0
    helps = [" ".join(text.split()) for text in capsys.readouterr().out.split("usage: ")[1:]]
    for text in helps:
        assert "dots .dots; " in text
        assert all(kind.name in text and kind.extensions[0] in text for kind in modalities().values())
    assert "one of dots, images, molecules, sketches" in helps[1]
    assert "sketches birnn, transformer, unet" in helps[1]
    assert "molecules --hydrogens, --rule" in helps[1]
    assert ".sdf[.gz], .mol*," in helps[0]
    assert main(["train", "molecules", "--help"]) == 0
    assert "dots" not in capsys.readouterr().out.replace("one of dots", "")


@pytest.mark.usefixtures("installed")
def test_a_condition_that_an_adapter_does_not_know_is_refused(tmp_path):
    (tmp_path / "a.dots").write_text("\n".join(["[[0, 0], [1, 1]]", "[[0, 1], [1, 0]]"]))
    with pytest.raises(UserError, match=r"^--condition colour: dots of these files can be asked for nothing; leave"):
        gendiff.train("dots", [tmp_path / "a.dots"], tmp_path / "run", conditions=["colour"], say=None)
    assert not (tmp_path / "run").exists()


def test_the_same_model_is_refused_where_its_package_is_not_installed(tmp_path, monkeypatch):
    config.trusted_packages.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(config, "trusted_packages", lambda: {"gendiff", "dots"})  # where it was made it is
        gendiff.Model(dots.Dots({3: 1}), dots.Dots({3: 1}).denoiser()).save(tmp_path / "m")
    with pytest.raises(UserError, match=r"names 'dots\.Dots'; only classes of gendiff or of an installed adapter"):
        gendiff.load(tmp_path / "m")
