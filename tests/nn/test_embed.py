"""Fourier features and embeddings of conditions."""

import math

import pytest
import torch

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning, Fourier, RandomFourier


def test_fourier_features_are_cosines_and_sines_of_geometric_periods():
    embed = Fourier(6, longest=8.0, shortest=2.0)
    value = torch.tensor([[0.3, -1.7]], dtype=torch.float64)
    angle = 2 * math.pi * value.unsqueeze(-1) / torch.tensor([8.0, 4.0, 2.0])
    torch.testing.assert_close(embed(value), torch.cat((angle.cos(), angle.sin()), -1), rtol=0, atol=1e-6)
    assert embed(value).dtype == torch.float64
    assert not list(embed.parameters())
    assert not embed.state_dict()


def test_fourier_features_tell_levels_apart():
    levels = torch.linspace(-20, 20, 401)
    points = Fourier(32)(levels)
    assert torch.cdist(points, points).fill_diagonal_(9).min() > 0.1


@pytest.mark.parametrize("features", [0, -2, 3])
def test_odd_fourier_features_are_refused(features):
    with pytest.raises(UserError, match="even"):
        Fourier(features)


@pytest.fixture
def conditioning():
    torch.manual_seed(0)
    return Conditioning({"gap": "float", "kind": 3}, width=8)


def test_conditions_are_embedded_per_sample(conditioning):
    gap, kind = torch.tensor([0.5, -2.0, 0.5]), torch.tensor([0, 2, 0])
    out = conditioning({"gap": gap, "kind": kind}, 3)
    assert out.shape == (3, 8)
    torch.testing.assert_close(out[0], out[2])
    assert not torch.allclose(out[0], out[1])
    expected = conditioning.embeddings["gap"](gap[:, None]) + conditioning.embeddings["kind"](kind)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(conditioning({"gap": gap[:, None], "kind": kind[:, None]}, 3), out)


def test_a_missing_condition_becomes_its_null(conditioning):
    null = conditioning.null
    both = (null["gap"] + null["kind"]).expand(2, -1)
    missing = {"gap": torch.tensor([math.nan, math.nan]), "kind": torch.tensor([-1, -1])}
    for condition in (None, {}, missing):
        torch.testing.assert_close(conditioning(condition, 2), both)
    mixed = conditioning({"gap": torch.tensor([1.0, math.nan]), "kind": torch.tensor([-1, 1])}, 2)
    torch.testing.assert_close(mixed[1], null["gap"] + conditioning.embeddings["kind"].weight[1])
    torch.testing.assert_close(mixed[0], conditioning.embeddings["gap"](torch.ones(1)) + null["kind"])


def test_gradients_reach_nulls_and_stay_finite(conditioning):
    conditioning({"gap": torch.tensor([math.nan, 1.0]), "kind": torch.tensor([1, -1])}, 2).square().sum().backward()
    for name, parameter in conditioning.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_mistakes_in_conditions_are_named(conditioning):
    with pytest.raises(UserError, match=r"'gapp' is unknown.*gap.*kind"):
        conditioning({"gapp": torch.zeros(1)}, 1)
    for kind in ("real", 0, -3):
        with pytest.raises(UserError, match="'gap'"):
            Conditioning({"gap": kind}, 4)


def test_random_features_make_the_kernel_of_their_law():
    """The mean of cos(2 pi w d) over w from N(0, b²) is exp(-2 pi² b² d²)."""
    torch.manual_seed(0)
    embed, s = RandomFourier(20_000, 3.0), torch.linspace(-0.5, 0.5, 21)
    y = embed(s)
    expected = torch.exp(-2 * torch.pi**2 * 9 * (s[:, None] - s) ** 2)
    assert torch.allclose(y @ y.T / 10_000, expected, atol=0.03)
    assert expected.min() < 1e-6 < 0.5 < expected[0, 1]


@pytest.mark.parametrize(("features", "scale"), [(3, 16.0), (0, 16.0), (4, 0.0), (4, float("inf"))])
def test_random_features_that_there_cannot_be(features, scale):
    with pytest.raises(UserError, match="RandomFourier wants a positive even number of features"):
        RandomFourier(features, scale)
