"""Networks by name: each has its sizes, trains, samples and comes back from its folder."""

from __future__ import annotations

import pytest
import torch

import examples
from gendiff.files import UserError
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.networks import CHIRAL, NETWORKS, SHAPES, build_network
from gendiff.modality import PRESETS
from gendiff.model import load

MILLIONS = {"egnn": (0.14, 0.99, 5.6), "transformer": (0.19, 1.03, 5.2), "steerable": (0.11, 0.51, 2.4)}


def test_every_network_has_every_preset():
    assert list(SHAPES) == list(NETWORKS) == list(MILLIONS)
    assert all(tuple(shapes) == PRESETS for shapes in SHAPES.values())


@pytest.mark.parametrize("kind", NETWORKS)
def test_presets_have_the_sizes_that_are_stated(kind):
    for preset, millions in zip(PRESETS, MILLIONS[kind], strict=True):
        network = build_network(kind, preset, {"element": 4}, {})
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_turns_with_the_molecule_and_hears_what_is_asked(kind):
    """Rotated, the molecule gets a rotated estimate, and a condition that is asked for changes it."""
    adapter = Molecules.fit(examples.arrays(), hydrogens="implicit", conditions=["logP"])
    torch.manual_seed(0)
    denoiser = adapter.denoiser("tiny", kind).double().eval()
    for p in denoiser.parameters():  # from a start that moves nothing
        p.data += 0.05 * torch.randn_like(p)
    data = adapter.encode(examples.arrays()).batch(torch.tensor([6, 9, 12]))
    x = {name: value.double() for name, value in data.state.items()}
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    asked = {"logP": data.condition["logP"].double()}
    here = denoiser(x, t, data.mask, asked).data
    there = denoiser({**x, "position": x["position"] @ turn}, t, data.mask, asked).data
    assert torch.allclose(here["position"] @ turn, there["position"], atol=1e-9)
    assert torch.allclose(here["element"], there["element"], atol=1e-9)
    other = denoiser(x, t, data.mask, {"logP": asked["logP"] + 1}).data
    assert (other["position"] - here["position"]).abs().amax((1, 2)).min() > 1e-6


@pytest.mark.parametrize("kind", NETWORKS + CHIRAL)
def test_only_chiral_networks_tell_mirror_images_apart(kind):
    adapter = Molecules.fit(examples.arrays(), hydrogens="implicit")
    torch.manual_seed(0)
    denoiser = adapter.denoiser("tiny", kind).double().eval()
    for p in denoiser.parameters():
        p.data += 0.1 * torch.randn_like(p)
    mask = torch.ones(4, 5, dtype=torch.bool)
    x = {"position": torch.randn(4, 5, 3).double(), "element": torch.rand(4, 5, len(adapter.elements)).double()}
    t, mirror = torch.full((4,), 0.5).double(), torch.tensor([1.0, 1.0, -1.0]).double()
    here = denoiser(x, t, mask).data["position"] * mirror
    there = denoiser({**x, "position": x["position"] * mirror}, t, mask).data["position"]
    apart = (here - there).abs().max().item()
    assert apart > 1e-5 if kind in CHIRAL else apart < 1e-10


@pytest.mark.parametrize("kind", NETWORKS[1:])
def test_a_network_trains_from_the_command(kind, tmp_path, capsys):
    from gendiff.cli import main

    path = examples.write(tmp_path / "mine.sdf")
    words = ["train", "molecules", str(path), "--out", str(tmp_path / "run"), "--network", kind, "--steps", "3"]
    assert main([*words, "--preset", "tiny", "--previews", "0", "--condition", "logP"]) == 0
    model = load(tmp_path / "run")
    assert f"training {type(model.denoiser.network).__name__} (tiny" in capsys.readouterr().out
    assert type(model.denoiser.network) is type(build_network(kind, "tiny", {"element": 4}, {}))
    assert len(model.sample(3, steps=3, condition={"logP": 1.0})) == 3


def test_a_network_that_there_is_not_is_one_line():
    with pytest.raises(UserError, match="unknown network 'gnn'; choose from egnn, transformer, steerable, chiral"):
        build_network("gnn", "tiny", {}, {})
    with pytest.raises(UserError, match="unknown preset 'huge'"):
        build_network("egnn", "huge", {}, {})
