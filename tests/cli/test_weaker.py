"""Guidance by a weaker model of the same data, from the command to the samples."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

import examples
from gendiff import UserError
from gendiff.cli.sample import read_sidecar
from gendiff.files import sha256
from gendiff.guide import Autoguidance
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model
from gendiff.model.weaker import away_from
from gendiff.schedule import VP


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    """The folder of another model of the same molecules."""
    folder = tmp_path_factory.mktemp("weak") / "model"
    examples.model(seed=1).save(folder)
    return folder


def positions(mols):
    return [mol.GetConformer().GetPositions() for mol in mols]


def test_samples_are_those_of_autoguidance(weak):
    model, other = examples.model(), examples.model(seed=1)
    expected = model.sample(4, guide=lambda denoiser: Autoguidance(denoiser, other.denoiser, 1.5))
    found = model.sample(4, guide=away_from(model, weak, 1.5))
    for ours, theirs in zip(positions(found), positions(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    itself, plain = model.sample(4, guide=away_from(model, weak, 1.0)), model.sample(4)
    for ours, theirs in zip(positions(itself), positions(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_command_draws_and_notes_it(gendiff, weak, tmp_path):
    examples.model().save(tmp_path / "model")
    path = tmp_path / "a.sdf"
    words = ("sample", tmp_path / "model", "-n", 3, "-o", path, "--weaker", weak)
    said = gendiff(*words, "--weaker-scale", 2)
    assert said.status == 0, said.err
    facts = {"folder": str(weak), "sha256": sha256(weak / "model.safetensors"), "scale": 2}
    assert read_sidecar(path)["weaker"] == facts
    model = examples.model()
    expected = positions(model.sample(3, guide=away_from(model, weak, 2.0)))
    for ours, theirs in zip(positions(Chem.SDMolSupplier(str(path), False, False)), expected, strict=True):
        assert np.abs(ours - theirs).max() < 1e-4


def test_what_is_no_weaker_model_is_one_line(gendiff, weak, tmp_path):
    model = examples.model()
    other = Molecules.fit(examples.arrays().select(slice(20)))
    Model(other, other.denoiser("tiny")).save(tmp_path / "fewer")
    with pytest.raises(UserError, match=r"--weaker .*fewer: learned other examples, or otherwise \(.*position_scale"):
        away_from(model, tmp_path / "fewer", 1.5)
    denoiser = model.modality.denoiser("tiny")
    denoiser.process["position"].schedule = VP()
    Model(model.modality, denoiser).save(tmp_path / "process")
    with pytest.raises(UserError, match="must share the process"):
        away_from(model, tmp_path / "process", 1.5)
    with pytest.raises(UserError, match="images-mnist: is a model of images, and not of molecules"):
        away_from(model, "images-mnist", 1.5)
    with pytest.raises(UserError, match="--weaker-scale must be a finite number"):
        away_from(model, weak, float("nan"))
    said = gendiff("sample", examples.run(), "-n", 1, "-o", tmp_path / "a.sdf", "--weaker", tmp_path / "none")
    assert (said.status, "none: no such model" in said.err, said.err.count("\n")) == (1, True, 1)
    said = gendiff("sample", examples.run(), "-n", 1, "-o", f"{tmp_path}/new/", "--weaker", weak)
    assert (said.status, "--weaker goes with a file of samples" in said.err) == (2, True)
    assert not (tmp_path / "a.sdf").exists()
