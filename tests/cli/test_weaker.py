"""Guidance by a weaker model of the same data, or by a part of the model, from the command to the samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from rdkit import Chem

import examples
from gendiff import UserError
from gendiff.cli.sample import read_sidecar
from gendiff.config import describe
from gendiff.files import sha256
from gendiff.guide import Autoguidance, ClassifierFree, Skip
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model, load
from gendiff.model.model import guided
from gendiff.model.weaker import away_from
from gendiff.schedule import VP
from gendiff.train import train


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
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)  # but for the logarithms of probabilities


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


@pytest.fixture(scope="module")
def skipping(tmp_path_factory):
    """The folder of a model that skips a block of its own accord: far, for with random weights a block does little."""
    folder = tmp_path_factory.mktemp("skipping") / "model"
    model = examples.model()
    model.skip = Skip([1], 30)
    model.save(folder)
    return folder


def test_a_model_may_be_guided_by_itself_without_a_block(gendiff, skipping, tmp_path):
    model, plain = load(skipping), examples.model()
    assert (model.skip.blocks, model.skip.scale, plain.skip) == ([1], 30, None)
    drawn, expected = positions(model.sample(3)), positions(plain.sample(3, guide=Skip([1], 30)))
    for ours, theirs in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(drawn, positions(plain.sample(3)), strict=True))
    plain.save(tmp_path / "plain")
    for number, words in enumerate([(skipping,), (tmp_path / "plain", "--skip", 1, "--skip-scale", 30)]):
        path = tmp_path / f"{number}.sdf"
        said = gendiff("sample", *words, "-n", 3, "-o", path)
        assert said.status == 0, said.err
        facts = read_sidecar(path)["skip"]
        assert (facts["blocks"], facts["scale"]) == ([1], 30)
        for ours, theirs in zip(positions(Chem.SDMolSupplier(str(path), False, False)), drawn, strict=True):
            assert np.abs(ours - theirs).max() < 1e-4


def test_skip_guidance_can_be_changed_and_left_out(gendiff, skipping, tmp_path):
    (tmp_path / "options.yaml").write_text("skip: 1\nskip_scale: 9\n")
    for number, (words, changed) in enumerate(
        [
            (("--skip", "none"), None),
            (("--skip-scale", 9), Skip([1], 9)),
            (("--skip", "0, 1"), Skip([0, 1], 30)),
            (("--config", tmp_path / "options.yaml"), Skip([1], 9)),
        ]
    ):
        model = load(skipping)
        model.skip = changed
        path = tmp_path / f"{number}.sdf"
        assert gendiff("sample", skipping, "-n", 2, "-o", path, *words).status == 0
        assert read_sidecar(path).get("skip") == (changed and describe(changed))
        found = positions(Chem.SDMolSupplier(str(path), False, False))
        for ours, theirs in zip(found, positions(model.sample(2)), strict=True):
            assert np.abs(ours - theirs).max() < 1e-4


def test_shards_edits_and_conditions_are_guided_too(gendiff, skipping, tmp_path):
    model = load(skipping)
    shards = tmp_path / "shards"
    assert gendiff("sample", skipping, "-n", 2, "-o", f"{shards}/", "--shard-size", 2).status == 0
    found = positions(Chem.SDMolSupplier(str(next(shards.glob("*.sdf"))), False, False))
    for ours, theirs in zip(found, positions(model.sample(2)), strict=True):
        assert np.abs(ours - theirs).max() < 1e-4
    again = gendiff("sample", skipping, "-n", 4, "-o", f"{shards}/", "--shard-size", 2, "--resume", "--skip", "none")
    assert again.status == 1, "other samples are in the way"

    records = examples.molecules()[0]
    ways = [None, Skip([1], 30), Skip([1], 90)]
    places = []
    for model.skip in ways:
        places.append(positions(model.edit([records], "vary", 2, strength=0.5).records)[0][:2])  # the heavy atoms
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(places))

    asked = {"logP": torch.zeros(1)}
    denoiser = guided(model, 2.0, asked)
    assert isinstance(denoiser, ClassifierFree)
    assert isinstance(denoiser.denoiser, Autoguidance)
    assert guided(model, None, {}, skip=False) is model.denoiser


def test_a_path_is_walked_back_without_guidance(skipping):
    """Codes are those of the model as it is, and so must be the way back."""
    model = load(skipping)
    ends = [list(examples.molecules())[k] for k in (0, 0)]
    path = model.edit(ends, "interpolate", 2, steps=20).records
    model.skip = None
    for ours, theirs in zip(
        positions(path), positions(model.edit(ends, "interpolate", 2, steps=20).records), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_adapted_models_go_on_with_it(skipping, tmp_path):
    examples.write(tmp_path / "examples.sdf")
    adapted = train("molecules", [tmp_path / "examples.sdf"], tmp_path / "run", steps=1, parent=skipping, say=None)
    assert adapted.skip.blocks == load(tmp_path / "run").skip.blocks == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--skip", "two"), "--skip two: write the numbers of blocks, counting from 0"),
        (("--skip", "9"), "--skip: the network has blocks 0 to"),
        (("--skip-scale", "2"), "--skip-scale 2 scales what --skip leaves out, and that is nothing; add --skip 2"),
    ],
)
def test_what_cannot_be_skipped_is_one_line(gendiff, tmp_path, words, message):
    for command in (("sample", examples.run()), ("edit", examples.run(), tmp_path / "examples.sdf")):
        examples.write(tmp_path / "examples.sdf", 1)
        said = gendiff(*command, "-n", 1, "-o", tmp_path / "a.sdf", *words)
        assert (said.status, message in said.err, said.err.count("\n")) == (1, True, 1), said.err
    assert not (tmp_path / "a.sdf").exists()


def test_images_have_no_blocks_to_skip(gendiff, tmp_path):
    said = gendiff("sample", "images-mnist", "-n", 1, "-o", tmp_path / "a.npz", "--skip", "1")
    assert (said.status, "--skip: UNet has no list of blocks" in said.err) == (1, True), said.err
