"""The U-Net: published sizes, its start at zero, conditions that are absent, odd sides."""

import pytest
import torch

from gendiff.nn.unet import UNet
from gendiff.nn.unet.network import PUBLISHED


def count(name, **more):
    with torch.device("meta"):
        network = UNet({"pixel": 3}, **PUBLISHED[name], **more)
    return sum(p.numel() for p in network.parameters())


def test_the_network_of_ddpm_has_its_published_size():
    assert count("ddpm-32") == 35_746_307


@pytest.mark.parametrize(("name", "millions"), [("adm-64", 296), ("adm-128", 422), ("adm-256", 554), ("adm-512", 559)])
def test_the_networks_of_adm_have_their_published_sizes(name, millions):
    assert round(count(name, conditions={"class": 1000}) / 1e6) == millions


def small(**options):
    return UNet({"pixel": 1}, width=8, multipliers=(1, 2), blocks=1, attention=(), size=(7, 10), groups=4, **options)


def stirred(network):
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    return network.eval()


def test_a_new_network_puts_out_exactly_zero():
    x = {"pixel": torch.randn(2, 1, 7, 10)}
    out = small(learned_variance=True)(x, torch.randn(2, 1))
    assert {name: value.shape for name, value in out.items()} == dict.fromkeys(
        ("pixel", "pixel_fraction"), (2, 1, 7, 10)
    )
    assert not any(value.any() for value in out.values())


def test_what_is_absent_is_the_same_as_what_is_left_out():
    network = stirred(small(conditions={"class": 3, "image": {"grid": 2}, "text": {"tokens": 4}}))
    x, level = {"pixel": torch.randn(2, 1, 7, 10)}, torch.randn(2, 1)
    absent = {
        "class": torch.tensor([-1, -1]),
        "image": torch.full((2, 2, 7, 10), torch.nan),
        "text": torch.full((2, 5, 4), torch.nan),
    }
    given = {"class": torch.tensor([1, 2]), "image": torch.randn(2, 2, 7, 10), "text": torch.randn(2, 5, 4)}
    with torch.no_grad():
        left_out = network(x, level)["pixel"]
        torch.testing.assert_close(network(x, level, None, absent)["pixel"], left_out)
        for name, value in given.items():
            assert not torch.allclose(network(x, level, None, {name: value})["pixel"], left_out), name


def test_a_sample_does_not_depend_on_the_others():
    network = stirred(small(conditions={"class": 3}))
    x, level, words = torch.randn(3, 1, 7, 10), torch.randn(3, 1), torch.tensor([0, 2, -1])
    with torch.no_grad():
        together = network({"pixel": x}, level, None, {"class": words})["pixel"]
        for i in range(3):
            rows = slice(i, i + 1)
            alone = network({"pixel": x[rows]}, level[rows], None, {"class": words[rows]})["pixel"]
            torch.testing.assert_close(alone, together[rows], rtol=1e-4, atol=1e-5)


def test_checkpoints_change_no_gradient():
    torch.manual_seed(0)
    network, x, level = stirred(small()), {"pixel": torch.randn(2, 1, 7, 10)}, torch.randn(2, 1)
    again = small(checkpoint=True).eval()
    again.load_state_dict(network.state_dict())
    for one in (network, again):
        one(x, level)["pixel"].square().sum().backward()
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
