"""The hybrid loss: its two parts by closed forms, what each of them trains, and its optimum."""

import math

import pytest
import torch
from expectation import At, Gain, Given, optimal, plain, quadrature
from torch import nn

from gendiff.objective import Bound, Hybrid, LossAware, Objective
from gendiff.ops import Random
from gendiff.schedule import Cosine, Linear

STEPS = 50
SCHEDULES = {"linear": Linear(), "cosine": Cosine()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


class Spread(Gain):
    """A linear network that also puts out one number for its variance, -1 to 1."""

    def __init__(self, gain=0.0, spread=0.0):
        super().__init__(gain)
        self.spread = nn.Parameter(torch.tensor(float(spread), dtype=torch.float64))

    def forward(self, x, noise_level, mask, condition):
        return {**super().forward(x, noise_level, mask, condition), "x_fraction": self.spread.expand_as(x["x"])}


def reverse(schedule, k):
    """B of the posterior mean, and its small and large variance, at the step from k / T, in plain numbers."""
    t, s = (torch.tensor(i / STEPS, dtype=torch.float64) for i in (k, k - 1))
    alpha = schedule.alpha(t).item() / schedule.alpha(s).item()
    sigma_t, sigma_s = schedule.sigma(t).item() ** 2, schedule.sigma(s).item() ** 2
    beta = sigma_t - alpha**2 * sigma_s
    return schedule.alpha(s).item() * beta / sigma_t, beta * sigma_s / sigma_t, beta


def exact(schedule, v, t):
    """A denoiser that is exact for N(0, v) at t, with a variance, and its mean squared error."""
    denoiser = plain(schedule, "noise")
    denoiser.network = Spread(optimal(v, denoiser, t).gain.item())
    return denoiser, v / (1 + v * schedule.log_snr(torch.tensor(t, dtype=torch.float64)).exp().item())


@pytest.mark.parametrize("spread", [-1.0, 0.3, 1.0])
@scheduled
def test_the_two_parts_are_their_closed_forms(schedule, spread):
    """A fraction of -1 is the small variance of the posterior, 1 the large one, and between them logarithms mix."""
    v = 0.8
    for k in (2, 17, STEPS):
        denoiser, error = exact(schedule, v, k / STEPS)
        denoiser.network.spread.data.fill_(spread)
        of_data, small, large = reverse(schedule, k)
        variance = {-1.0: small, 0.3: large**0.65 * small**0.35, 1.0: large}[spread]
        kl = 0.5 * ((small + of_data**2 * error) / variance - 1 - math.log(small / variance))
        x_0, mask, random = quadrature(v)
        simple, _ = Objective("noise", times=At(k / STEPS))(denoiser, x_0, mask, None, random)
        hybrid, parts = Hybrid(0.01, STEPS, times=At(k / STEPS))(denoiser, x_0, mask, None, random)
        assert (hybrid - simple).mean().item() == pytest.approx(0.01 * STEPS * kl, rel=1e-8)
        assert torch.equal(hybrid, parts["x"])


@scheduled
def test_the_best_fraction_is_that_of_the_true_reverse_variance(schedule):
    """small + B^2 Var(x_0 | x_t): there, and only there, the gradient of the fraction vanishes."""
    v = 0.3
    for k in (2, 17, 40):
        denoiser, error = exact(schedule, v, k / STEPS)
        of_data, small, large = reverse(schedule, k)
        best = math.log1p(of_data**2 * error / small) / math.log(large / small)
        assert 0 < best < 1
        slopes = []
        for fraction in (best - 1e-3, best, best + 1e-3):
            denoiser.network.spread.data.fill_(2 * fraction - 1)
            x_0, mask, random = quadrature(v)
            loss, _ = Hybrid(1.0, STEPS, times=At(k / STEPS))(denoiser, x_0, mask, None, random)
            slopes.append(torch.autograd.grad(loss.mean(), denoiser.network.spread)[0].item())
        assert slopes[0] < 0 < slopes[2]
        assert abs(slopes[1]) < 1e-6 * slopes[2]


def test_the_whole_bound_has_the_learned_variance_too():
    """One term of Bound is T times the same divergence, and the prior; here the mean is trained along."""
    schedule, v = Cosine(), 0.3
    for k in (1, 2, 17):
        denoiser, error = exact(schedule, v, k / STEPS)
        of_data, small, large = reverse(schedule, k)
        values = []
        for fraction in (0.0, 0.4, 1.0):
            denoiser.network.spread.data.fill_(2 * fraction - 1)
            x_0, mask, random = quadrature(v, uniform=(k - 0.5) / STEPS)
            loss, _ = Bound(STEPS)(denoiser, x_0, mask, None, random)
            prior = denoiser.process["x"].prior_kl(x_0["x"], mask)
            values.append((loss - prior).mean().item() / STEPS)
            assert (torch.autograd.grad(loss.mean(), denoiser.network.spread)[0] == 0) == (k == 1)
        if k == 1:
            assert values[0] == values[1] == values[2]
            continue
        variances = [small, large**0.4 * small**0.6, large]
        kl = [0.5 * ((small + of_data**2 * error) / w - 1 - math.log(small / w)) for w in variances]
        assert values == pytest.approx(kl, rel=1e-8)


def test_each_part_trains_its_own():
    """The mean has the gradient of the simple loss to the last bit, and the fraction that of the bound alone."""
    x_0, noise = {"x": torch.randn(6, 1, 1).double()}, torch.randn(6, 1, 1).double()
    mask, random = torch.ones(6, 1).bool(), Given(noise)
    denoiser = plain(Linear(), "noise", network=Spread(0.4, 0.2))
    gain, spread = denoiser.network.gain, denoiser.network.spread

    def gradients(objective):
        loss, _ = objective(denoiser, x_0, mask, None, random)
        return torch.autograd.grad(loss.mean(), [gain, spread], allow_unused=True)

    simple = gradients(Objective("noise", times=At(0.5)))
    assert simple[1] is None
    one, ten = gradients(Hybrid(0.1, STEPS, times=At(0.5))), gradients(Hybrid(1.0, STEPS, times=At(0.5)))
    assert torch.equal(one[0], simple[0])
    assert torch.equal(ten[0], simple[0])
    assert one[1] != 0
    assert ten[1].item() == pytest.approx(10 * one[1].item(), rel=1e-12)


def test_the_step_into_the_data_has_no_variance_to_learn():
    x_0, mask, random = quadrature(1.0)
    denoiser = plain(Linear(), "noise", network=Spread(0.4, 0.2))
    hybrid, _ = Hybrid(1.0, STEPS, times=At(1 / STEPS))(denoiser, x_0, mask, None, random)
    simple, _ = Objective("noise", times=At(1 / STEPS))(denoiser, x_0, mask, None, random)
    assert torch.equal(hybrid, simple)
    gradient = torch.autograd.grad(hybrid.mean(), denoiser.network.spread)[0]
    assert gradient == 0


def test_times_stand_on_the_chain_and_teach_their_own_bin():
    seen = []

    class Spy(Spread):
        def forward(self, x, noise_level, mask, condition):
            seen.append(noise_level[:, 0])
            return super().forward(x, noise_level, mask, condition)

    denoiser = plain(Linear(), "noise", network=Spy())
    denoiser.noise_level = "time"
    x_0, mask = {"x": torch.randn(400, 1, 1)}, torch.ones(400, 1).bool()
    law = LossAware(4, 1000)
    Hybrid(steps=4, times=law)(denoiser, x_0, mask, None, Random(0, 400))
    times, counts = seen[0].unique(return_counts=True)
    assert times.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert law.counts.tolist() == counts.tolist()


def test_what_cannot_be_hybrid_is_refused():
    x_0, mask, random = quadrature(1.0)
    with pytest.raises(ValueError, match="the network puts out no fraction; use Objective"):
        Hybrid()(plain(Linear(), "noise"), x_0, mask, None, random)
    for options in ({"bound": -1}, {"steps": 1}):
        with pytest.raises(ValueError, match="Hybrid wants bound >= 0 and steps >= 2"):
            Hybrid(**options)
