"""Laws of the time: their distributions, and the means that their factors keep."""

import pytest
import torch
from expectation import At, Gain, Given, gauss_legendre, plain, quadrature
from scipy import stats

from gendiff.denoise import AnalyticDenoiser
from gendiff.objective import (
    Antithetic,
    Bound,
    Hybrid,
    LogNormal,
    LossAware,
    Objective,
    Piecewise,
    Power,
    Times,
    Uniform,
)
from gendiff.ops import Random
from gendiff.schedule import Cosine, Flow, Karras, Linear, Polynomial

PROCESS = plain(Linear(), "noise").process


@pytest.mark.parametrize(("times", "power"), [(Uniform(), 1.0), (Power(), 1.5), (Power(3.0), 3.0)])
def test_powers(times, power):
    t, factor = times(Random(0, 20_000), PROCESS)
    assert stats.kstest(t.numpy(), lambda x: x ** (1 / power)).pvalue > 0.01
    assert t.shape == (20_000,)
    assert t.min() > 0
    assert torch.equal(factor, torch.ones(20_000))


def test_antithetic_times_are_even_over_the_batch_and_each_is_uniform():
    drawn = torch.stack([Antithetic()(Random(seed, 7), PROCESS)[0] for seed in range(2000)])
    spaces = drawn.sort(1).values.diff(dim=1)
    assert torch.allclose(spaces, torch.full_like(spaces, 1 / 7), atol=1e-6)
    for place in range(7):
        assert stats.kstest(drawn[:, place].numpy(), "uniform").pvalue > 0.01
    assert Antithetic()(Given(torch.zeros(2), 0.5), PROCESS)[0].tolist() == [
        0.5,
        1.0,
    ]  # never 0, where there is no noise


def test_antithetic_times_lower_the_variance_of_the_mean():
    """Of a smooth function of the time: from 1/n to nothing but the square of a step."""
    means = [
        [times(Random(seed, 64), PROCESS)[0].square().mean().item() for seed in range(200)]
        for times in (Uniform(), Antithetic())
    ]
    assert torch.tensor(means).mean(1).tolist() == pytest.approx([1 / 3, 1 / 3], abs=5e-3)
    assert torch.tensor(means[1]).std() < 0.15 * torch.tensor(means[0]).std()


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Flow(), Karras()], ids=lambda s: type(s).__name__)
def test_log_normal_noise(schedule):
    t, factor = LogNormal()(Random(0, 20_000), plain(schedule, "noise").process)
    log_ratio = -schedule.log_snr(t.double()) / 2
    assert stats.kstest(log_ratio.numpy(), stats.norm(-1.2, 1.2).cdf).pvalue > 0.01
    assert torch.equal(factor, torch.ones(20_000))


def test_noise_beyond_the_schedule_is_put_at_its_end():
    """Even t = 0 has some noise in this schedule, log(sigma / alpha) = -5.76, and no time has less."""
    t, _ = LogNormal(-5.76, 0.1)(Random(0, 1000), plain(Polynomial(), "noise").process)
    assert 400 < (t == 0).sum() < 600


def test_signal_is_uniform_within_each_interval_of_time():
    """The distribution of alpha^2 is linear between its values at k / T, of which each interval has one T-th."""
    schedule, steps = Linear(), 5
    t, _ = Piecewise(steps)(Random(0, 20_000), PROCESS)
    edges = schedule.alpha(torch.linspace(1, 0, steps + 1, dtype=torch.float64)) ** 2
    signal = schedule.alpha(t.double()) ** 2

    def share(x):
        place = torch.searchsorted(edges, torch.as_tensor(x)).clamp(1, steps)
        low, high = edges[place - 1], edges[place]
        return ((place - 1 + (torch.as_tensor(x) - low) / (high - low)) / steps).numpy()

    assert stats.kstest(signal.numpy(), share).pvalue > 0.01
    assert stats.kstest(t.numpy(), "uniform").pvalue < 1e-6  # within an interval t itself is not
    fine, _ = Piecewise()(Random(0, 20_000), PROCESS)
    assert stats.kstest(fine.numpy(), "uniform").pvalue > 0.01


class Uniforms(Given):
    """Hands out given uniform numbers, one draw after the other."""

    def __init__(self, normal, draws):
        super().__init__(normal)
        self.draws = list(draws)

    def uniform(self, shape):
        return self.draws.pop(0)


def test_signal_keeps_its_digits_near_the_data():
    """In the first of many intervals 1 - alpha^2 is as small as 1e-7 and still uniform."""
    schedule = Linear(1000, 1e-7, 0.02)
    random = Uniforms(torch.zeros(999), [torch.zeros(999), torch.arange(1, 1000) / 1000])
    t = Piecewise(1000).draw(random, plain(schedule, "noise").process)
    noise = schedule.sigma(t.double()) ** 2
    assert torch.allclose(noise, (1 - torch.arange(1, 1000).double() / 1000) * 1e-7, rtol=1e-4)


# Loss-aware times


def filled(losses, **options):
    """A law whose bins remember the given losses (bins, history)."""
    losses = torch.as_tensor(losses, dtype=torch.float32)
    times = LossAware(*losses.shape, **options)
    t = (torch.arange(len(losses)) + 0.5) / len(losses)
    for column in losses.T:
        times.update(t, column)
    return times


def test_probabilities_follow_the_second_moment():
    times = filled([[3.0, 4.0], [0.0, 0.0], [1.0, 7.0]], uniform=0.1)
    sizes = torch.tensor([12.5**0.5, 0.0, 5.0])
    assert torch.allclose(times.probabilities(), 0.9 * sizes / sizes.sum() + 0.1 / 3)
    t, factor = times(Random(0, 30_000), PROCESS)
    bins, counts = (t * 3).long().unique(return_counts=True)
    assert bins.tolist() == [0, 1, 2]
    assert stats.chisquare(counts, 30_000 * times.probabilities().double() / times.probabilities().sum()).pvalue > 0.01
    assert torch.allclose(factor, 1 / (3 * times.probabilities()[(t * 3).long()]))
    assert stats.kstest((t * 3 % 1).numpy(), "uniform").pvalue > 0.01


def test_times_are_uniform_until_every_bin_is_full():
    times = LossAware(4, 3)
    t = (torch.arange(4) + 0.5) / 4
    for _ in range(2):
        times.update(t, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    times.update(t[:3], torch.ones(3))
    assert torch.equal(times.probabilities(), torch.full((4,), 0.25))
    times.update(t[3:], torch.ones(1))
    assert times.probabilities()[3] > times.probabilities()[0]
    silent = filled(torch.zeros(3, 2))
    assert torch.equal(silent.probabilities(), torch.full((3,), 1 / 3))


def test_the_last_losses_are_remembered_whatever_the_batches():
    """As a plain list of each bin does, with several losses of one bin in a batch, more even than it remembers."""
    torch.manual_seed(1)
    times, plain_lists = LossAware(3, 4), [[], [], []]
    for size in (1, 2, 30, 3, 5, 1, 8):
        t, loss = torch.rand(size), torch.rand(size)
        times.update(t, loss)
        for place, value in zip((t * 3).long().tolist(), loss.tolist(), strict=True):
            plain_lists[place].append(value)
    for row, expected in zip(times.losses.tolist(), plain_lists, strict=True):
        assert sorted(row) == pytest.approx(sorted(expected[-4:]))
    assert times.counts.tolist() == [len(values) for values in plain_lists]


@pytest.mark.parametrize("bins", [10, 1000])
def test_discrete_times_belong_to_the_bin_below_them(bins):
    times = LossAware(bins, 1)
    t = torch.arange(1, bins + 1) / bins
    times.update(t, torch.arange(bins).float())
    assert torch.equal(times.losses[:, 0], torch.arange(bins).float())


def enumerate_bins(times, nodes):
    """All bins with Gauss-Legendre nodes within: the uniform numbers that draw them, and their probabilities."""
    p = times.probabilities().double()
    inner, weights = gauss_legendre(nodes)
    middle = (p.cumsum(0) - p / 2).repeat_interleave(nodes)
    return middle, inner.repeat(len(p)), (p[:, None] * weights).flatten()


def test_the_factor_keeps_the_mean_of_uniform_times():
    """Of Objective and of the continuous bound, exactly: summed over bins and integrated within."""
    times = filled([[0.1], [5.0], [1.0], [0.3]], uniform=0.01)
    assert times.probabilities().max() / times.probabilities().min() > 20
    exact = AnalyticDenoiser(plain(Cosine(), "data").process, [1.0], {"x": (0.0, 0.6**0.5)})
    half = plain(Flow(), "data", network=Gain(0.5))
    for make, denoiser in (
        (lambda law: Objective("data", times=law), half),
        (lambda law: Bound(None, 0.01, law), exact),
    ):
        means = []
        for law in (filled([[1.0]]), times):
            bins = law.bins
            pick, place, weights = enumerate_bins(law, 160 // bins)
            x_0, mask, random = quadrature(0.6, len(pick))
            draws = [pick.repeat_interleave(4), place.repeat_interleave(4)]
            loss, _ = make(law)(denoiser, x_0, mask, None, Uniforms(random.n, draws))
            means.append((weights * loss.unflatten(0, (-1, 4)).mean(1)).sum().item())
        assert means[1] == pytest.approx(means[0], rel=1e-6)


def test_losses_teach_the_law_through_an_objective():
    """The error of an idle data network is x_0 at every time: each bin remembers it, before factors."""
    denoiser = plain(Flow(), "data")
    x_0 = {"x": torch.arange(1.0, 9).view(8, 1, 1).double()}
    t = (torch.arange(8) // 2 + 0.5) / 4

    class Fixed(LossAware):
        def __call__(self, random, process):
            return t, torch.full((8,), 100.0)

    law = Fixed(4, 2)
    loss, parts = Objective("data", {"x": 2.0}, law)(denoiser, x_0, torch.ones(8, 1).bool(), None, Given(torch.ones(8)))
    assert torch.equal(law.losses, 2 * torch.arange(1.0, 9).view(4, 2) ** 2)
    assert torch.allclose(loss, 200 * torch.arange(1.0, 9).double() ** 2)
    assert torch.allclose(parts["x"], 100 * torch.arange(1.0, 9).double() ** 2)


def test_evaluation_teaches_nothing():
    x_0, mask, random = quadrature(1.0)
    for objective in (Objective(times=LossAware(2, 1)), Bound(5, times=LossAware(2, 1))):
        for training, count in ((False, 0), (True, 4)):
            objective.train(training)(plain(Linear(), "noise"), x_0, mask, None, random)
            assert objective.times.counts.sum() == count


def test_what_a_law_remembers_is_in_a_state():
    objective = Objective(times=filled([[1.0, 2.0], [3.0, 4.0]]))
    again = Objective(times=LossAware(2, 2))
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.times.probabilities(), objective.times.probabilities())
    assert Hybrid(times=LossAware(2, 2)).state_dict().keys() == objective.state_dict().keys()
    assert not Objective().state_dict()


def test_a_law_of_ones_own_needs_only_to_draw():
    t, factor = At(0.25)(Random(0, 3), PROCESS)
    assert t.tolist() == [0.25] * 3
    assert factor.tolist() == [1.0] * 3
    with pytest.raises(NotImplementedError, match="Times must define draw"):
        Times()(Random(0, 3), PROCESS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Power(0), "power must be positive, got 0"),
        (lambda: LogNormal(std=0), "std must be positive, got 0"),
        (lambda: Piecewise(0), "steps must be at least 1, got 0"),
        (lambda: LossAware(0), "bins and history must be at least 1, got 0 and 10"),
        (lambda: LossAware(history=0), "bins and history must be at least 1, got 1000 and 0"),
        (lambda: LossAware(uniform=0.0), r"uniform must lie in \(0, 1\], .* got 0.0"),
        (lambda: LossAware(uniform=1.5), r"uniform must lie in \(0, 1\], .* got 1.5"),
    ],
)
def test_impossible_laws_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
