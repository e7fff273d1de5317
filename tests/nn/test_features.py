import numpy as np
import pytest
import torch

from gendiff.nn.features import RasterNetwork, SequenceNetwork


@pytest.fixture
def sequences():
    torch.manual_seed(0)
    network = SequenceNetwork(5, 3, width=8).eval()
    size = torch.tensor([4, 7, 1])
    mask = torch.arange(7) < size[:, None]
    return network, torch.randn(3, 7, 5) * mask[..., None], mask, size


def test_padding_and_the_rest_of_the_batch_change_nothing(sequences):
    network, x, mask, size = sequences
    noise = torch.where(mask[..., None], x, torch.full_like(x, 9.0))
    padded = torch.cat([noise, torch.full((3, 4, 5), -7.0)], 1)
    longer = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
    labels = torch.tensor([0, 2, 1])
    assert torch.allclose(network.describe(padded, longer), network.describe(x, mask), atol=1e-6)
    assert torch.allclose(network.loss(padded, longer, labels), network.loss(x, mask, labels), atol=1e-6)
    for i, n in enumerate(size.tolist()):
        alone = network.describe(x[i : i + 1, :n], mask[i : i + 1, :n])
        assert torch.allclose(alone[0], network.describe(x, mask)[i], atol=1e-6)


def test_both_directions_are_those_of_torchs_bidirectional_gru(sequences):
    """An independent implementation, packed sequences, with the same weights."""
    network, x, mask, size = sequences
    both = torch.nn.GRU(5, 8, batch_first=True, bidirectional=True)
    weights = dict(both.named_parameters())
    for name, weight in network.forwards.named_parameters():
        weights[name].data.copy_(weight)
    for name, weight in network.backwards.named_parameters():
        weights[f"{name}_reverse"].data.copy_(weight)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, size, batch_first=True, enforce_sorted=False)
    expected = torch.nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)[0]
    assert torch.allclose(network.describe(x, mask), expected.sum(1) / size[:, None], atol=1e-6)


def test_guesses_do_not_see_what_they_guess(sequences):
    """The guess of an element is a function of those on one side: elements at and beyond it do not matter."""
    network, x, mask, _ = sequences
    changed = x.clone()
    changed[1, 4] += 1.0
    (ahead, back), (ahead_then, back_then) = network._states(x, mask), network._states(changed, mask)
    same = torch.isclose(ahead, ahead_then, atol=0).all(-1)[1]
    assert same.tolist() == [True] * 4 + [False] * 3  # element 4 is guessed from the state of 3
    same = torch.isclose(back, back_then, atol=0).all(-1)[1]
    assert same.tolist() == [False] * 5 + [True] * 2  # and from that of 5


def test_the_loss_of_perfect_guesses_is_that_of_the_classes(sequences):
    network, x, mask, _ = sequences
    constant = torch.ones_like(x) * mask[..., None]
    for guess in (network.guess_next, network.guess_last):
        torch.nn.init.zeros_(guess.weight)
        torch.nn.init.ones_(guess.bias)
    labels = torch.tensor([0, 2, 1])
    expected = torch.nn.functional.cross_entropy(network(constant, mask), labels)
    assert torch.allclose(network.loss(constant, mask, labels), expected)
    off = torch.nn.functional.cross_entropy(network(3 * constant, mask), labels) + 2 * 1.5
    assert torch.allclose(network.loss(3 * constant, mask, labels), off)  # Huber of 2 is 1.5, twice, each a mean


def test_single_elements_have_nothing_to_guess():
    network = SequenceNetwork(3, 2, width=4)
    x, mask, labels = torch.randn(5, 1, 3), torch.ones(5, 1, dtype=torch.bool), torch.zeros(5, dtype=torch.long)
    assert torch.allclose(network.loss(x, mask, labels), torch.nn.functional.cross_entropy(network(x, mask), labels))


def test_pictures_are_described_and_learnt():
    """Bars lying and standing, in noise: a few steps tell them apart; the description is what the decision reads."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(2, size=256))
    pictures = torch.zeros(256, 1, 32, 32)
    for picture, label, at in zip(pictures, labels, rng.integers(4, 28, 256), strict=True):
        picture[0].copy_(torch.zeros(32, 32).index_fill_(int(label), torch.tensor([at]), 1.0))
    pictures += 0.2 * torch.rand(pictures.shape)
    network = RasterNetwork(2, width=32, features=16)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(pictures[:192]), labels[:192]).backward()
        optimizer.step()
    network.eval()
    assert (network(pictures[192:]).argmax(1) == labels[192:]).float().mean() > 0.9
    features = network.describe(pictures)
    assert features.shape == (256, 16)
    assert torch.equal(network.decide(features), network(pictures))
    alone = network.describe(pictures[:1])  # statistics of the batch play no role any more
    assert torch.allclose(alone, features[:1], atol=1e-6)


def test_sizes_of_the_networks():
    count = sum(p.numel() for p in RasterNetwork(10).parameters())
    assert 1e5 < count < 3e5
    assert RasterNetwork(3, size=64, channels=3).describe(torch.zeros(2, 3, 64, 64)).shape == (2, 128)
    with pytest.raises(ValueError, match="multiple of 16, got 28"):
        RasterNetwork(10, size=28)
