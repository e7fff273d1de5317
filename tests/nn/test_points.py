"""The encoder of point sets: no order, no padding, no batch changes it, and what is missing is a learned null."""

from __future__ import annotations

import math

import pytest
import torch

from gendiff.files import UserError
from gendiff.nn.embed import Conditioning
from gendiff.nn.points import PointSet

ABSENT = [math.nan, math.nan]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PointSet(2, 16).double()


@pytest.fixture
def clouds():
    return torch.randn(3, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_order_of_the_points_changes_nothing(encoder, clouds):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(encoder(clouds[:, order]), encoder(clouds), rtol=0, atol=1e-13)


def test_absent_points_change_nothing_wherever_they_are(encoder, clouds):
    away = torch.tensor(ABSENT, dtype=torch.float64).expand(3, 2, 2)
    for padded in (torch.cat([clouds, away], 1), torch.cat([clouds[:, :4], away, clouds[:, 4:]], 1)):
        torch.testing.assert_close(encoder(padded), encoder(clouds), rtol=0, atol=1e-13)
    half = clouds.clone()
    half[1, 5:, 0] = math.nan  # one number that is missing takes its point with it
    torch.testing.assert_close(encoder(half)[1:2], encoder(clouds[1:2, :5]), rtol=0, atol=1e-13)
    torch.testing.assert_close(encoder(half)[::2], encoder(clouds)[::2], rtol=0, atol=1e-13)


def test_every_point_counts_and_so_does_its_place(encoder, clouds):
    before = encoder(clouds)
    for i in range(9):
        moved = clouds.clone()
        moved[:, i] += 0.1
        assert (encoder(moved) - before).norm(dim=1).min() > 1e-4
    # a mean of the coordinates alone could not tell these apart
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    turned = cross @ torch.tensor([[1.0, 1], [-1, 1]], dtype=torch.float64) / math.sqrt(2)
    assert (encoder(cross[None]) - encoder(turned[None])).norm() > 1e-2


def test_a_cloud_can_be_told_among_other_conditions_and_its_absence_is_a_null():
    torch.manual_seed(0)
    conditioning = Conditioning({"cloud": {"points": 2}, "kind": 3}, 8)
    cloud = torch.randn(4, 5, 2)
    cloud[1, 3:] = math.nan
    cloud[2] = math.nan
    kind = torch.tensor([0, 1, 2, -1])
    out = conditioning({"cloud": cloud, "kind": kind}, 4)
    of_cloud, of_kind, null = conditioning.embeddings["cloud"], conditioning.embeddings["kind"], conditioning.null
    torch.testing.assert_close(out[0], of_cloud(cloud[:1])[0] + of_kind.weight[0])
    torch.testing.assert_close(out[1], of_cloud(cloud[1:2, :3])[0] + of_kind.weight[1])
    torch.testing.assert_close(out[2], null["cloud"] + of_kind.weight[2])
    torch.testing.assert_close(out[3], of_cloud(cloud[3:])[0] + null["kind"])
    torch.testing.assert_close(conditioning({"kind": kind}, 4)[0], null["cloud"] + of_kind.weight[0])
    out.square().sum().backward()
    for name, parameter in conditioning.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("sizes", [(0, 8), (2, 0), (2, 10), (2, 8, 0), (2, 8, 4, 0)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(UserError, match="PointSet: sizes must be positive and width a multiple of heads"):
        PointSet(*sizes)


@pytest.mark.parametrize("kind", [{}, {"point": 2}, {"points": 2, "more": 1}])
def test_other_kinds_of_conditions_are_refused(kind):
    with pytest.raises(UserError, match="'cloud'"):
        Conditioning({"cloud": kind}, 8)
