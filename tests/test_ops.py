"""Random streams: their law, their independence, and that a sample's numbers are its own."""

import itertools

import pytest
import torch
from scipy import stats

from gendiff.ops import _GOLDEN, Random, _mix, expand, size_mask, sum_rest

LAWS = {"normal": stats.norm.cdf, "uniform": stats.uniform.cdf, "gumbel": stats.gumbel_r.cdf}


def test_hash_is_splitmix64():
    """The first three outputs of SplitMix64 from seed 0, as published with the algorithm."""
    outputs = _mix(torch.arange(1, 4) * _GOLDEN)
    assert [int(x) % (1 << 64) for x in outputs] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("kind", LAWS)
def test_law(kind):
    x = getattr(Random(3, 1000), kind)((1000, 20, 5)).double().flatten()
    assert stats.kstest(x.numpy(), LAWS[kind]).pvalue > 0.01
    mean, std = (x.mean(), x.std()) if kind != "gumbel" else ((x - 0.5772156649).mean(), x.std())
    assert abs(mean - (0.5 if kind == "uniform" else 0.0)) < 4 * std / len(x) ** 0.5


def test_moments_of_the_normal():
    x = Random(5, 500).normal((500, 400)).double()
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5
    assert abs((x**2).mean() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5


def _neighbours():
    """Pairs of tensors that must be independent, by what tells them apart."""
    x = Random(0, 401).normal((401, 17, 15))
    again = Random(0, 401)
    again.normal((401, 17, 15))
    yield "samples", x[:-1], x[1:]
    yield "draws", x, again.normal((401, 17, 15))
    yield "rows", x[:, :-1], x[:, 1:]
    yield "columns", x[..., :-1], x[..., 1:]
    yield "transposed", x[:, :15], x[:, :15].transpose(1, 2).contiguous().roll(1, 2)
    yield "seeds", x, Random(1, 401).normal((401, 17, 15))
    yield "sample and draw", x[1:], Random(0, 401).normal((401, 18, 15))[:-1, 1:]


@pytest.mark.parametrize("index", range(7))
def test_independence(index):
    name, a, b = next(itertools.islice(_neighbours(), index, None))
    a, b = a.double().flatten(), b.double().flatten()
    for f, g in ((a, b), (a**2 - 1, b**2 - 1), (a**2 - 1, b)):
        assert abs((f * g).mean()) < 4.5 * (f.std() * g.std()) / len(a) ** 0.5, name
    cells = torch.histogramdd(
        torch.stack([torch.special.ndtr(a), torch.special.ndtr(b)], 1), [8, 8], range=[0, 1, 0, 1]
    )
    assert stats.chisquare(cells.hist.flatten()).pvalue > 1e-3, name


@pytest.mark.parametrize("kind", LAWS)
def test_a_sample_is_the_same_in_any_batch_order_and_padding(kind):
    def draw(indices, shape):
        random = Random(7, torch.tensor(indices))
        getattr(random, kind)((len(indices), 2))
        return getattr(random, kind)((len(indices), *shape))

    whole = draw(range(10), (4, 3))
    assert torch.equal(draw([5], (4, 3))[0], whole[5])
    assert torch.equal(draw([8, 2, 5], (4, 3)), whole[[8, 2, 5]])
    assert torch.equal(draw(range(10), (9, 6))[:, :4, :3], whole)
    assert not torch.equal(draw(range(10, 20), (4, 3)), whole)


def test_every_entry_has_its_own_number():
    """Also along four axes, and where one is long."""
    assert len(Random(0, 2)._bits((2, 40, 3, 2, 5)).unique()) == 2400
    assert len(Random(0, 2)._bits((2, 2, 1 << 17)).unique()) == 1 << 19


def test_select_goes_on_where_the_streams_are():
    random = Random(1, 6)
    random.normal((6, 2))
    part = random.select(torch.tensor([4, 1]))
    assert torch.equal(part.normal((2, 3)), random.normal((6, 3))[[4, 1]])


@pytest.mark.parametrize("bits", [0, -1, (1 << 63) - 1, -(1 << 63)])
def test_open_interval(bits, monkeypatch):
    """Not even the extreme hashes give 0, 1 or an infinity."""
    monkeypatch.setattr(Random, "_bits", lambda self, shape: torch.full(shape, bits))
    random = Random(0, 1)
    assert 0 < random.uniform((1,)) < 1
    assert random.gumbel((1,)).isfinite().all()
    assert random.normal((1,)).abs() < 7


def test_gumbel_maximum_draws_categories():
    p = torch.tensor([0.1, 0.25, 0.6, 0.05])
    choice = (p.log() + Random(2, 20000).gumbel((20000, 4))).argmax(1)
    assert stats.chisquare(torch.bincount(choice, minlength=4), 20000 * p).pvalue > 0.01


def test_shared_uniform_is_one_coin_for_all_and_keeps_streams_in_step():
    a, b = Random(4, 3), Random(4, torch.tensor([100, 7]))
    coins = [a.shared_uniform() for _ in range(2000)]
    assert coins == [b.shared_uniform() for _ in range(2000)]
    assert stats.kstest(coins, stats.uniform.cdf).pvalue > 0.01
    assert 0 < min(coins) < max(coins) < 1
    plain = Random(4, 3, draws=2000)
    assert torch.equal(a.normal((3, 2)), plain.normal((3, 2)))
    assert Random(5, 3).shared_uniform() != coins[0]


def test_any_integer_is_a_seed():
    numbers = [Random(seed, 1).normal((1, 4)) for seed in (0, 1, -1, 1 << 63, 1 << 64, 5 - (1 << 80), 123456789)]
    for a, b in itertools.combinations(numbers[:4] + numbers[5:], 2):
        assert not torch.equal(a, b)
    assert torch.equal(numbers[0], numbers[4])  # seeds count modulo 2^64


def test_torchs_own_generator_is_left_alone():
    before = torch.random.get_rng_state()
    Random(0, 3).normal((3, 5))
    assert torch.equal(before, torch.random.get_rng_state())


def test_wrong_batch_is_refused():
    with pytest.raises(ValueError, match="wants 4 samples, this stream has 3"):
        Random(0, 3).normal((4, 2))


def test_broadcasting_and_masks():
    a, x = torch.tensor([1.0, 2.0]), torch.ones(2, 3, 4)
    assert torch.equal(expand(a, x) * x, torch.stack([torch.ones(3, 4), 2 * torch.ones(3, 4)]))
    assert torch.equal(sum_rest(expand(a, x) * x), torch.tensor([12.0, 24.0]))
    assert size_mask(torch.tensor([2, 0, 3])).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert size_mask(torch.tensor([1]), 2).tolist() == [[True, False]]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", LAWS)
def test_the_same_numbers_on_the_gpu(kind):
    cpu, gpu = (getattr(Random(3, 100, device), kind)((100, 50)) for device in ("cpu", "cuda"))
    assert gpu.device.type == "cuda"
    assert torch.allclose(cpu, gpu.cpu(), rtol=1e-6, atol=1e-6)
