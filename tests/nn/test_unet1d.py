"""The one-dimensional U-Net: its convolutions, and padding at every length. More in test_sequence.py."""

import pytest
import torch

from gendiff.files import UserError
from gendiff.nn.unet1d import Convolution, UNet1d


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_the_convolution_is_torchs_over_real_points(stride, length):
    """What stands at padding counts as zero, and result i is centred on point i · stride."""
    torch.manual_seed(0)
    convolution = Convolution(3, 4, stride).double()
    h = torch.randn(2, 8, 3, dtype=torch.float64)
    mask = torch.arange(8) < torch.tensor([[length], [8]])
    kernel = convolution.linear.weight.unflatten(1, (3, 3)).transpose(1, 2)
    found = convolution(h, mask)
    assert found.shape == (2, 8 // stride, 4)
    for i, n in enumerate((length, 8)):
        alone = torch.nn.functional.conv1d(h[i, :n].T, kernel, convolution.linear.bias, stride, padding=1).T
        torch.testing.assert_close(found[i, : len(alone)], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_every_length_is_blind_to_padding_at_every_depth(depth):
    torch.manual_seed(0)
    network = UNet1d({"stroke": 2}, width=8, depth=depth).double()
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x, level = torch.randn(1, 40, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for n in range(1, 18):
        alone = network({"stroke": x[:, :n]}, level)["stroke"]
        for length in (n, n + 1, n + 2, 40):
            mask = torch.arange(length)[None] < n
            found = network({"stroke": x[:, :length]}, level, mask)["stroke"]
            torch.testing.assert_close(found[:, :n], alone, rtol=0, atol=1e-12)


def test_coarser_resolutions_reach_further():
    """Without attention a point hears of those within its blocks' reach, which doubles with every resolution."""
    torch.manual_seed(0)
    reach = []
    for depth in (1, 2, 3):
        network = UNet1d({"stroke": 2}, width=8, depth=depth, complement=None).double()
        for p in network.parameters():
            p.data += 0.1 * torch.randn_like(p)
        network.attention.output.weight.data.zero_()
        x = torch.randn(1, 101, 2, dtype=torch.float64, requires_grad=True)
        found = network({"stroke": x}, torch.zeros(1, 1, dtype=torch.float64))["stroke"][0, 50].sum()
        heard = torch.autograd.grad(found, x)[0][0].abs().amax(1).nonzero()
        reach.append(int(heard.max() - heard.min()) // 2)
    assert reach[0] == 4  # two blocks of two convolutions
    assert reach[1] > 2 * reach[0]
    assert reach[2] > 1.5 * reach[1]


def test_bad_sizes_are_one_line():
    with pytest.raises(UserError, match="got 6, 1, 1 and 4"):
        UNet1d({"stroke": 2}, width=6, depth=1)
    with pytest.raises(UserError, match="depth and heads positive"):
        UNet1d({"stroke": 2}, depth=0)
