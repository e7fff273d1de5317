"""Samplers on exact denoisers: their order, their law, and that a sample is its own."""

import functools
import itertools
import math

import pytest
import torch
from scipy import stats
from torch import nn

from gendiff.denoise import AnalyticDenoiser, Denoiser
from gendiff.guide import Autoguidance, sdedit
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun, Sampler, UniPC, downward
from gendiff.schedule import Cosine, Flow, Karras, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
FLOWS = {"ddim": DDIM, "heun": Heun, "heun karras": lambda *a: Heun(*a, coordinate="karras"), "dpm": DPMSolver}
SOLVERS = {
    **FLOWS,
    "dpm 3": lambda *a: DPMSolver(*a, order=3),
    **{
        f"unipc {p} {v}": lambda *a, p=p, v=v: UniPC(*a, predictor_order=p, variant=v)
        for p in (1, 2, 3)
        for v in ("bh1", "bh2")
    },
}
ALL = {
    **FLOWS,
    "dpm 3": SOLVERS["dpm 3"],
    "dpm sde": lambda *a: DPMSolver(*a, eta=1.0),
    "heun churn": lambda *a: Heun(*a, churn=0.2 * a[0]),
    "ddim half": lambda *a: DDIM(*a, eta=0.5),
    "ancestral": Ancestral,
    "ancestral large": lambda *a: Ancestral(*a, variance="large"),
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def scalars(schedule):
    """One number a sample."""
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})


class Erring(nn.Module):
    """The exact noise of a normal law of this standard deviation, but for 0.003; told the time."""

    STD = 0.5

    def forward(self, x, level, mask, condition):
        alpha, sigma = (f(level[:, :1, None]) for f in (Cosine().alpha, Cosine().sigma))
        return {"x": 0.003 + sigma * x["x"] / (alpha**2 * self.STD**2 + sigma**2)}


@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolver, UniPC])
def test_noise_that_is_a_little_wrong_makes_samples_that_are_a_little_wrong(make):
    """The schedule of Improved DDPM ends at an alpha of 5e-5: there an error of 0.003 is one of 60 in the data."""
    denoiser = Denoiser(Erring(), scalars(Cosine()), "noise", noise_level="time")
    x = {"x": torch.randn(4000, 1, 1)}
    guided = Autoguidance(denoiser, denoiser, 1.0)  # the start is found under guidance
    for one in (denoiser, guided):
        end = make(20)(one, x)["x"]
        assert abs(float(end.mean())) < 0.2
        assert float(end.std()) == pytest.approx(Erring.STD, abs=0.1)
    fresh = sdedit(make(20), denoiser, x, 1.0)["x"]
    assert abs(float(fresh.mean())) < 0.2
    far = make(20)(denoiser, x, plan=make(20).plan(denoiser.process))["x"]
    assert abs(float(far.mean())) > 1


# Convergence

MEAN, STD = f64(0.5, -0.3)[:, None], f64(0.4, 1.5)[:, None]


def two(schedule):
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})


def gaussian_flow(schedule, x, t, s):
    """Where the probability flow of N(MEAN, STD^2) takes x from time t to s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((schedule.alpha(f64(u)), schedule.sigma(f64(u))) for u in (t, s))
    stretch = (((alpha_s * STD) ** 2 + sigma_s**2) / ((alpha_t * STD) ** 2 + sigma_t**2)).sqrt()
    return alpha_s * MEAN + stretch * (x - alpha_t * MEAN)


def inner_plan(schedule, steps, spacing):
    """From log-SNR -5 to 5 in even steps of it, or of time."""
    if spacing == "log_snr":
        return downward(schedule.time(torch.linspace(-5, 5, steps + 1, dtype=torch.float64)).tolist())
    first, last = schedule.time(f64(-5.0, 5.0)).tolist()
    return downward(torch.linspace(first, last, steps + 1, dtype=torch.float64).tolist())


def order_of(errors):
    """Slope of the log error over log steps, of the last two doublings."""
    return math.log2(errors[-3] / errors[-1]) / 2


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
@pytest.mark.parametrize(
    ("schedule", "spacing"),
    [(Cosine(), "log_snr"), (Polynomial(), "log_snr"), (Linear(), "time"), (Flow(), "time")],
    ids=["cosine", "polynomial", "linear time", "flow time"],
)
def test_order_on_gaussian_data(schedule, spacing, make):
    denoiser, x = AnalyticDenoiser(two(schedule), [1.0], {"x": (MEAN, STD)}), torch.randn(20, 2, 1).double()
    errors = []
    for steps in (40, 80, 160):
        plan = inner_plan(schedule, steps, spacing)
        end = make()(denoiser, {"x": x}, plan=plan)["x"]
        errors.append((end - gaussian_flow(schedule, x, plan[0][0], plan[-1][1])).abs().max().item())
    assert order_of(errors) == pytest.approx(make().order, abs=0.3)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolver])
@scheduled
def test_order_from_noise_to_clean_data(schedule, make):
    """On the log-SNR grid of the library itself, its first and last step included."""
    denoiser, x = AnalyticDenoiser(two(schedule), [1.0], {"x": (MEAN, STD)}), torch.randn(20, 2, 1).double()
    start = f64(1.0)
    alpha, sigma = schedule.alpha(start), schedule.sigma(start)
    exact = MEAN + STD * (x - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2).sqrt()
    errors = [(make(n, "log_snr")(denoiser, {"x": x})["x"] - exact).abs().max().item() for n in (20, 40, 80)]
    assert order_of(errors) == pytest.approx(make().order, abs=0.3)


def mixture(schedule):
    means, stds = f64([[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]), f64(0.3, 0.5, 0.4)[:, None, None]
    return AnalyticDenoiser(two(schedule), [0.3, 0.5, 0.2], {"x": (means, stds)})


WEIGHT, CENTRE, WIDTH = f64(0.3, 0.5, 0.2), f64(-1.0, 1.2, 0.3), f64(0.3, 0.5, 0.4)
PROBABILITIES = torch.linspace(0.02, 0.98, 20, dtype=torch.float64)


@functools.cache
def quantiles(schedule, t):
    """Those of x_t for data from the mixture: in one dimension the probability flow keeps them, and so is known."""
    alpha, sigma = (f(f64(t)) for f in (schedule.alpha, schedule.sigma))
    low, high = torch.full_like(PROBABILITIES, -1e3), torch.full_like(PROBABILITIES, 1e3)
    for _ in range(70):
        middle = (low + high) / 2
        z = (middle[:, None] - alpha * CENTRE) / ((alpha * WIDTH) ** 2 + sigma**2).sqrt()
        below = (WEIGHT * torch.special.ndtr(z)).sum(1) < PROBABILITIES
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high[:, None, None]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("schedule", [Linear(), Karras(), Flow()], ids=["linear", "karras", "flow"])
def test_order_on_a_mixture(schedule, name):
    """From noise (alpha = 0 with Flow) to the last noisy time; to clean data no estimate is left to err."""
    law = {"x": (CENTRE[:, None, None], WIDTH[:, None, None])}
    denoiser, errors = AnalyticDenoiser(scalars(schedule), WEIGHT, law), []
    start = 1.0
    if isinstance(schedule, Flow) and name in ("heun karras", "dpm 3"):
        start = 0.99  # one cannot divide by alpha = 0; the other's first step from there is Euler's and would show
    for steps in (40, 80, 160):
        sampler = SOLVERS[name](steps, "karras")
        plan = sampler.plan(denoiser.process, start)[:-1]
        end = sampler(denoiser, {"x": quantiles(schedule, start)}, plan=plan)["x"]
        errors.append((end - quantiles(schedule, plan[-1][1])).abs().max().item())
    assert order_of(errors) == pytest.approx(sampler.order, abs=0.3)
    assert errors[-1] < 0.04


@pytest.mark.parametrize(
    ("name", "evaluations"), [("ddim", 7), ("dpm", 7), ("dpm 3", 7), ("unipc 3 bh2", 7), ("heun", 13)]
)
def test_evaluations_of_seven_steps(name, evaluations):
    times, denoiser = [], mixture(Linear())
    denoiser.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1]))
    SOLVERS[name](7)(denoiser, {"x": torch.randn(2, 2, 1)})
    assert len(times) == evaluations


def test_euler_is_ddim():
    """In z = x / alpha over u = sigma / alpha one Euler step is one step of DDIM."""
    schedule = Linear()
    denoiser, x = mixture(schedule), torch.randn(10, 2, 1).double()
    t, s = f64(0.7), f64(0.6)
    estimate = denoiser({"x": x}, t.expand(10))
    u = [schedule.sigma(v) / schedule.alpha(v) for v in (t, s)]
    euler = schedule.alpha(s) * (x / schedule.alpha(t) + (u[1] - u[0]) * estimate.noise["x"])
    assert torch.allclose(DDIM()(denoiser, {"x": x}, plan=[(0.7, 0.6)])["x"], euler, rtol=1e-12)


# Random samplers


class Probe:
    """Stands in for `Random`: draw d is one for sample d and zero for all others, so outputs are coefficients."""

    def __init__(self, batch):
        self.indices, self.draws = torch.arange(batch), 0

    def normal(self, shape):
        unit = torch.zeros(shape, dtype=torch.float64)
        unit[self.draws] = 1
        self.draws += 1
        return unit


def variance_of(sampler, v, hooks=(), plan=None, schedule=None):
    """The exact variance of what a sampler makes of N(0, v): it is linear in its noise."""
    denoiser = AnalyticDenoiser(scalars(schedule or Linear()), [1.0], {"x": (0.0, v**0.5)})
    random = Probe(sampler.steps + 2)
    x = {"x": random.normal((sampler.steps + 2, 1, 1))}
    return sampler(denoiser, x, random=random, hooks=hooks, plan=plan)["x"].square().sum().item()


@pytest.mark.parametrize(
    ("variance", "steps", "expected"),
    [
        *zip(["small"] * 5, [2, 5, 10, 50, 1000], [0.0051, 0.0617, 0.1112, 0.1972, 0.2461], strict=True),
        *zip(["large"] * 5, [2, 5, 10, 50, 1000], [0.0055, 0.1296, 0.2439, 0.2619, 0.2508], strict=True),
    ],
)
def test_ancestral_variances_are_the_published_ones(variance, steps, expected):
    """N(0, 1/4) under DDPM's schedule, even steps, no noise at the last."""
    assert variance_of(Ancestral(steps, variance=variance), 0.25) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_temperature_scales_the_noise_taken_in(temperature):
    """On N(0, v) a step is x_s = A x_t + tau c z, so the variance obeys V <- A^2 V + tau^2 c^2 from V = 1."""
    v, steps, variance = 0.25, 20, 1.0
    for k in range(steps, 0, -1):
        (alpha, sigma), (low, s) = (
            (Linear().alpha(t), Linear().sigma(t)) for t in (at(k / steps), at((k - 1) / steps))
        )
        low, s = (at(1.0), at(0.0)) if k == 1 else (low, s)
        gain = alpha * v / (alpha**2 * v + sigma**2)  # E[x_0 | x_t] = gain x_t
        c = (sigma**2 - (alpha / low * s) ** 2).sqrt() * s / sigma
        slope = low * gain + (s**2 - c**2).clamp(min=0).sqrt() * (1 - alpha * gain) / sigma
        variance = slope**2 * variance + (temperature * c) ** 2
    assert variance_of(Ancestral(steps, temperature=temperature), v) == pytest.approx(float(variance), rel=1e-6)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("name", ["ddim half", "ancestral", "ancestral large"])
def test_order_of_the_law_of_random_samplers(name):
    errors = [abs(variance_of(ALL[name](steps, "log_snr"), 0.25) - 0.25) for steps in (100, 200, 400)]
    assert order_of(errors) == pytest.approx(ALL[name]().order, abs=0.3)


@pytest.mark.parametrize("make", [Ancestral, lambda: DDIM(eta=1.0)], ids=["ancestral", "ddim"])
@scheduled
def test_an_ancestral_step_is_a_draw_of_the_posterior(schedule, make):
    process, x, noise = two(schedule), torch.randn(10, 2, 1).double(), torch.randn(10, 2, 1).double()

    class Given:
        indices = torch.arange(10)

        def normal(self, shape):
            return noise

    denoiser, plan = mixture(schedule), [(0.7, 0.5)]
    ours = make()(denoiser, {"x": x}, random=Given(), plan=plan)["x"]
    t, s = f64(0.7).expand(10), f64(0.5).expand(10)
    posterior = process["x"].posterior(x, denoiser({"x": x}, t).data["x"], t, s)
    assert torch.allclose(ours, posterior.sample(noise), rtol=1e-9, atol=1e-12)
    large = Ancestral(variance="large")(denoiser, {"x": x}, random=Given(), plan=plan)["x"]
    wide = process["x"].transition(x, s, t)
    assert torch.allclose(large, posterior.mean + wide.std * noise, rtol=1e-9, atol=1e-12)


def test_ancestral_is_ddim_with_full_noise():
    denoiser, x = mixture(Cosine()), {"x": torch.randn(5, 2, 1)}
    a, b = (sampler(denoiser, x, random=Random(1, 5)) for sampler in (Ancestral(30), DDIM(30, eta=1.0)))
    assert torch.equal(a["x"], b["x"])
    assert not torch.allclose(a["x"], DDIM(30, eta=0.5)(denoiser, x, random=Random(1, 5))["x"])


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_step_is_that_of_the_ddim_paper(variance, eta):
    """In its own notation, alpha bar the squared scale of the signal; the large variance is eta^2 beta."""
    denoiser, x = mixture(Linear()), torch.randn(10, 2, 1).double()
    bar_t, bar_s = Linear().alpha(f64(0.7)) ** 2, Linear().alpha(f64(0.5)) ** 2
    c_1 = eta * ((1 - bar_t / bar_s) * (1 - bar_s) / (1 - bar_t)).sqrt()
    data = denoiser({"x": x}, f64(0.7).expand(10)).data["x"]
    noise = (x - bar_t.sqrt() * data) / (1 - bar_t).sqrt()
    expected = bar_s.sqrt() * data + (1 - bar_s - c_1**2).sqrt() * noise
    fresh = c_1 if variance == "small" else eta * (1 - bar_t / bar_s).sqrt()
    z = denoiser.process["x"].noise(None, Random(0, 10))
    ours = DDIM(eta=eta, variance=variance)(denoiser, {"x": x}, random=Random(0, 10), plan=[(0.7, 0.5)])["x"]
    assert torch.allclose(ours, expected + fresh * z, atol=1e-6)  # the noise is in float32


def test_temperature_scales_the_fresh_noise_only():
    denoiser, x = mixture(Linear()), {"x": torch.randn(10, 2, 1).double()}
    for variance in ("small", "large"):
        cold, cool, warm = (
            Ancestral(variance=variance, temperature=tau)(denoiser, x, random=Random(0, 10), plan=[(0.7, 0.5)])["x"]
            for tau in (0.0, 0.3, 1.0)
        )
        assert torch.allclose(cool - cold, 0.3 * (warm - cold), atol=1e-6)
        assert (warm - cold).abs().mean() > 0.1
    mean = denoiser.process["x"].posterior(
        x["x"], denoiser(x, f64(0.7).expand(10)).data["x"], f64(0.7).expand(10), f64(0.5).expand(10)
    )
    assert torch.allclose(cold, mean.mean)
    assert variance_of(Ancestral(50, temperature=0.9), 0.25) < variance_of(Ancestral(50), 0.25)


def test_a_ddim_chain_conserves_the_marginal_for_any_noise():
    """The coefficients of its noise add up to sigma_s^2: for data in one point every state is exactly q(x_s | x_0)."""
    for eta in (0.0, 0.3, 1.0):
        seen = Seen()
        variance_of(DDIM(8, eta=eta), 0.0, [seen])
        for t, x in zip(seen.times[:-1], seen.states[:-1], strict=True):
            assert x["x"].square().sum().item() == pytest.approx(Linear().sigma(f64(t)).item() ** 2, rel=1e-3)


class Seen:
    """A hook that keeps the states it sees."""

    def __init__(self):
        self.times, self.states = [], []

    def after(self, x, step, process, mask, random):
        self.times.append(step.s.item())
        self.states.append(x)
        return x

    def finish(self, x, process, mask):
        return x


# Categories

WEIGHTS, MEANS, SPREAD = f64(0.3, 0.7), f64(-2.0, 1.0), 0.5
CLASSES = f64([0.9, 0.1], [0.2, 0.8])


def coupled(schedule):
    process = JointProcess(
        {
            "x": GaussianProcess(schedule, Euclidean(1)),
            "c": CategoricalProcess(schedule, [0.5, 0.5], Euclidean(2)),
        }
    )
    return AnalyticDenoiser(process, WEIGHTS, {"x": (MEANS[:, None, None], SPREAD), "c": CLASSES[:, None]})


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_the_joint_law_of_a_number_and_a_class(make):
    """Every sampler gives the right share of each (component, class), and in each the right numbers."""
    denoiser, n = coupled(Cosine()), 2000
    mask, random = torch.ones(n, 1, dtype=torch.bool), Random(5, n)
    start = denoiser.process.prior(denoiser.process.noise(mask, random), mask)
    end = make(100, "log_snr")(denoiser, start, mask, random=random, plan=None)
    x, c = end["x"].flatten().double(), end["c"].argmax(-1).flatten()
    component = (x > -0.5).long()  # they are six deviations apart
    counts = torch.bincount(2 * component + c, minlength=4)
    assert stats.chisquare(counts, n * (WEIGHTS[:, None] * CLASSES).flatten()).pvalue > 0.005
    for k, j in itertools.product(range(2), range(2)):
        part = x[(component == k) & (c == j)]
        assert abs(part.mean() - MEANS[k]) < 4 * SPREAD / len(part) ** 0.5
        assert part.std().item() == pytest.approx(SPREAD, abs=4 * SPREAD / (2 * len(part)) ** 0.5 + 0.01)
    assert torch.equal(end["c"].sum(-1), torch.ones(n, 1))


TOKENS = f64([0.9, 0.1], [0.2, 0.8])
STATES = torch.eye(2).double()[torch.tensor(list(itertools.product([0, 1], repeat=2)))]


def two_tokens(schedule):
    process = JointProcess({"c": CategoricalProcess(schedule, [0.5, 0.5], Euclidean(2))})
    p = torch.stack([WEIGHTS[k] * (STATES * TOKENS[k]).sum(-1).prod(1) for k in range(2)]).sum(0)
    return AnalyticDenoiser(process, WEIGHTS, {"c": TOKENS[:, None]}), p


def enumerated_law(denoiser, steps):
    """The law of the reverse chain over the four states, by its transition matrices."""
    field, law = denoiser.process["c"], f64(0.25, 0.25, 0.25, 0.25)
    for k in range(steps, 0, -1):
        t, s = (torch.full((4,), value / steps, dtype=torch.float64) for value in (k, k - 1))
        data = denoiser({"c": STATES}, t).data["c"]
        p = data if k == 1 else field.posterior(STATES, data, t, s).probabilities
        law = law @ torch.einsum("aik,bik->abi", p, STATES).prod(-1)
    return law


def test_the_chain_of_categories_tends_to_the_exact_law():
    denoiser, p = two_tokens(Flow())
    distances = [0.5 * (enumerated_law(denoiser, steps) - p).abs().sum().item() for steps in (10, 20, 40, 80)]
    assert distances[0] > 0.01
    for coarse, fine in itertools.pairwise(distances):
        assert coarse / fine == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("make", [DDIM, DPMSolver, Heun])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_draws_of_categories_are_those_of_the_enumerated_chain(make, steps):
    denoiser, n = two_tokens(Flow())[0], 20_000
    mask, random = torch.ones(n, 2, dtype=torch.bool), Random(2, n)
    start = denoiser.process.prior(denoiser.process.noise(mask, random).copy(), mask)
    end = make(steps)(denoiser, start, mask, random=random)["c"].argmax(-1)
    counts = torch.bincount(2 * end[:, 0] + end[:, 1], minlength=4)
    assert stats.chisquare(counts, n * enumerated_law(denoiser, steps)).pvalue > 0.01


@pytest.mark.parametrize("law", [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]], ids=["marginal", "absorbing"])
def test_one_token_is_exact_in_any_number_of_steps(law):
    n, p = 20_000, f64(0.6, 0.3, 0.1) if law[0] else f64(0.7, 0.3, 0.0)
    process = JointProcess({"c": CategoricalProcess(Flow(), law, Euclidean(3))})
    denoiser, mask = AnalyticDenoiser(process, [1.0], {"c": p}), torch.ones(n, 1, dtype=torch.bool)
    for steps in (1, 3, 10):
        random = Random(steps, n)
        start = process.prior(process.noise(mask, random), mask)
        counts = DDIM(steps)(denoiser, start, mask, random=random)["c"].sum((0, 1))
        assert counts[p > 0].sum() == n
        assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 0.01


# Plans


def test_an_upward_pair_adds_the_noise_of_the_process():
    plan = [(1.0, 0.5), (0.5, 0.8), (0.8, 0.2), (0.2, 0.0)]
    for make in (DDIM, Ancestral, Heun, DPMSolver):
        seen = Seen()
        variance_of(make(8), 0.25, [seen], plan)
        low, high = (seen.states[i]["x"].square().sum().item() for i in (0, 1))
        (a, b), (c, d) = ((f(f64(0.5)).item(), f(f64(0.8)).item()) for f in (Linear().alpha, Linear().sigma))
        assert high == pytest.approx((b / a) ** 2 * low + d**2 - (b / a * c) ** 2, rel=1e-9)
        assert seen.times == [0.5, 0.8, 0.2, 0.0]


def test_renoising_walks_repair_the_law():
    """Up and down again and again is a Markov chain whose law is the marginal, whatever it starts from."""
    schedule, v = Cosine(), 0.25
    fine = torch.linspace(0.8, 0.3, 60, dtype=torch.float64).tolist()
    plan = ([*downward(fine), (0.3, 0.8)] * 4)[:-1]
    sampler = DDIM()
    sampler.steps = len(plan)
    wrong = variance_of(sampler, v, plan=downward(fine), schedule=schedule)
    right = variance_of(sampler, v, plan=plan, schedule=schedule)
    true = (schedule.alpha(f64(0.3)) ** 2 * v + schedule.sigma(f64(0.3)) ** 2).item()
    assert abs(wrong - true) > 0.02
    assert abs(right - true) < 0.2 * abs(wrong - true)


def test_a_multistep_method_forgets_when_noise_is_added():
    denoiser, seen = mixture(Linear()), Seen()
    x = {"x": torch.randn(4, 2, 1).double()}
    DPMSolver()(denoiser, x, hooks=[seen], plan=[(0.9, 0.7), (0.7, 0.5), (0.5, 0.8), (0.8, 0.6), (0.6, 0.4)])
    after = DDIM()(denoiser, seen.states[2], plan=[(0.8, 0.6)])["x"]
    assert torch.allclose(seen.states[3]["x"], after, rtol=1e-10)  # first order: nothing is remembered
    second = DDIM()(denoiser, seen.states[3], plan=[(0.6, 0.4)])["x"]
    assert not torch.allclose(seen.states[4]["x"], second, rtol=1e-4)  # and then second order again


def test_self_conditioning_along_a_plan():
    """The first evaluation, and the first after noise was added, has no last estimate; every other has the last one."""
    process, seen, given = two(Linear()), [], []

    class Net(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            seen.append(x["x_previous"])
            return {"x": x["x"]}

    class Spy(Denoiser):
        def forward(self, *arguments, **options):
            estimate = super().forward(*arguments, **options)
            given.append(estimate.data["x"])
            return estimate

    denoiser = Spy(Net(), process, "data", self_condition=True)
    DDIM()(denoiser, {"x": torch.randn(4, 2, 1)}, plan=[(1.0, 0.6), (0.6, 0.3), (0.3, 0.7), (0.7, 0.4), (0.4, 0.0)])
    assert len(seen) == 4
    assert not seen[0].any()
    assert torch.equal(seen[1], given[0])
    assert not seen[2].any()
    assert torch.equal(seen[3], given[2])


def test_a_start_in_the_middle():
    """SDEdit: a noised guide is denoised; for Gaussian data the flow says where it ends."""
    for sampler in (DDIM(20, "log_snr"), Heun(20, "log_snr"), Heun(20)):
        plan = sampler.plan(two(Cosine()), 0.4)
        assert (plan[0][0], plan[-1][1], len(plan)) == (0.4, 0.0, 20)
    denoiser = AnalyticDenoiser(two(Cosine()), [1.0], {"x": (MEAN, STD)})
    guide, noise = torch.randn(2, 2, 1).double(), torch.randn(2, 2, 1).double()
    x = {"x": denoiser.process["x"].corrupt(guide, f64(0.4, 0.4), noise)}
    sampler = Heun(100, "log_snr")
    end = sampler(denoiser, x, plan=sampler.plan(denoiser.process, 0.4))["x"]
    alpha, sigma = Cosine().alpha(f64(0.4)), Cosine().sigma(f64(0.4))
    exact = MEAN + STD * (x["x"] - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2).sqrt()
    assert torch.allclose(end, exact, atol=1e-3)


def test_a_clean_start_that_goes_nowhere_comes_back():
    """Up a little and down a little in one step of no noise to speak of: the input, nearly."""
    denoiser, x = mixture(Flow()), {"x": torch.randn(3, 2, 1).double()}
    end = DDIM()(denoiser, x, plan=[(0.0, 1e-6), (1e-6, 0.0)])["x"]
    assert torch.allclose(end, x["x"], atol=1e-4)


# A sample is its own


def molecules():
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass()),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
            "bond": CategoricalProcess(Cosine(), [0.9, 0.1], Euclidean(2, "pair")),
        }
    )
    shapes = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1))
    elements = torch.softmax(3 * torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(2)), -1)
    bonds = f64(0.7, 0.3).float()
    return AnalyticDenoiser(process, [0.2, 0.5, 0.3], {"position": (shapes, 0.3), "element": elements, "bond": bonds})


def draw(make, sizes, indices, length=5, steps=12):
    denoiser, mask, random = molecules(), size_mask(torch.tensor(sizes), length), Random(3, torch.tensor(indices))
    denoiser.law = {
        name: tuple(v[:, :length] if isinstance(v, torch.Tensor) else v for v in law) if name == "position" else
        (law[:, :length] if name == "element" else law)
        for name, law in denoiser.law.items()
    }  # fmt: skip
    start = denoiser.process.prior(denoiser.process.noise(mask, random), mask)
    return make(steps)(denoiser, start, mask, random=random), mask


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_sample_is_the_same_in_any_batch(make):
    """To the last bit: alone, in another order, and among others."""
    whole, _ = draw(make, [5, 3, 4, 5], [10, 11, 12, 13])
    again, _ = draw(make, [5, 3, 4, 5], [10, 11, 12, 13])
    alone, _ = draw(make, [4], [12])
    order, _ = draw(make, [5, 4], [13, 12])
    for name, x in whole.items():
        assert torch.equal(x, again[name])
        assert torch.equal(x[2:3], alone[name])
        assert torch.equal(x[[3, 2]], order[name])
    assert not torch.allclose(whole["position"][0], whole["position"][3], atol=1e-2)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_sample_is_the_same_with_less_padding_and_stays_in_its_space(make):
    whole, mask = draw(make, [5, 3], [10, 11])
    tight, _ = draw(make, [3], [11], 3)
    assert torch.allclose(whole["position"][1:, :3], tight["position"], atol=1e-5)
    assert torch.equal(whole["element"][1:, :3], tight["element"])
    assert torch.equal(whole["bond"][1:, :3, :3], tight["bond"])
    space = ZeroCenterOfMass()
    assert torch.allclose(whole["position"], space.project(whole["position"], mask), atol=1e-6)
    for name in ("element", "bond"):
        field = molecules().process[name].space
        assert torch.equal(whole[name], field.project(whole[name], mask))
        assert torch.equal(field.sum(whole[name], mask), field.count(mask, whole[name]))


# The loop


def test_hooks_act_after_every_step_and_progress_is_told():
    calls, told = [], []

    class Hook:
        def after(self, x, step, process, mask, random):
            calls.append(step.number)
            return {"x": x["x"] + 1}

        def finish(self, x, process, mask):
            return {"x": x["x"] * 0 + 7}

    denoiser = mixture(Linear())
    end = DDIM(4)(denoiser, {"x": torch.randn(2, 2, 1)}, hooks=[Hook(), Hook()], progress=lambda *a: told.append(a))
    assert calls == [0, 0, 1, 1, 2, 2, 3, 3]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert end["x"].unique().tolist() == [7]


def test_guidance_may_use_gradients_inside_a_sampler():
    denoiser = mixture(Linear())

    class Pulled:
        process = denoiser.process

        def __call__(self, x_t, t, mask=None, condition=None, previous=None):
            with torch.enable_grad():
                x = x_t["x"].detach().requires_grad_()
                (gradient,) = torch.autograd.grad(-((x - 3) ** 2).sum(), x)
            estimate = denoiser(x_t, t, mask)
            estimate.data["x"] = estimate.data["x"] + 0.1 * gradient
            return estimate

    x = {"x": torch.randn(50, 2, 1)}
    free, pulled = DDIM(10)(denoiser, x)["x"], DDIM(10)(Pulled(), x)["x"]
    assert not pulled.requires_grad
    assert not pulled.is_inference()
    assert (pulled - 3).abs().mean() < (free - 3).abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
def test_states_keep_their_precision(make, dtype):
    denoiser, x = mixture(Linear()), torch.randn(5, 2, 1, dtype=torch.float64)
    end = make(20)(denoiser, {"x": x.to(dtype)})["x"]
    assert end.dtype == dtype
    assert torch.allclose(end.double(), make(20)(denoiser, {"x": x})["x"], atol=2e-3)


def test_more_steps_than_the_schedule_has():
    denoiser, x = mixture(Linear(50, 0.002, 0.3)), {"x": torch.randn(5, 2, 1)}
    assert torch.allclose(Heun(100)(denoiser, x)["x"], Heun(400)(denoiser, x)["x"], atol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(0), "steps must be at least 1, got 0"),
        (lambda: Heun(10, "cubic"), "grid must be one of .* got 'cubic'"),
        (lambda: DDIM(eta=1.5), r"eta must lie in \[0, 1\]"),
        (lambda: Ancestral(temperature=1.2), r"temperature must lie in \[0, 1\], got 1.2"),
        (lambda: DDIM(variance="huge"), "variance must be one of .*, got 'huge'"),
        (lambda: Heun(coordinate="time"), "coordinate must be 'flow' or 'karras', got 'time'"),
        (lambda: Heun(4, coordinate="karras")(mixture(Flow()), {"x": torch.randn(2, 2, 1)}), "take coordinate 'flow'"),
        (lambda: DDIM()(mixture(Flow()), {"x": torch.randn(2, 2, 1)}, plan=[]), "the plan is empty"),
    ],
)
def test_impossible_samplers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_interface_names_what_is_missing():
    with pytest.raises(NotImplementedError, match="Sampler must define step"):
        Sampler()(mixture(Flow()), {"x": torch.randn(2, 2, 1)})
