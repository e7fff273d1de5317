"""Encoding: deterministic samplers walked upwards, from data to noise."""

import math

import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser, Denoiser
from gendiff.ops import size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, RK45, Ancestral, DPMSolver, Heun, Langevin, PredictorCorrector, ReverseSDE, downward
from gendiff.schedule import VE, VP, Cosine, Flow, Karras, Linear
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "flow": Flow(), "vp": VP(), "ve": VE(), "karras": Karras()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


MEAN, STD = f64(0.5, -0.3)[:, None], f64(0.4, 1.5)[:, None]
WEIGHTS, MEANS, STDS = f64(0.3, 0.5, 0.2), f64([[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]), f64(0.3, 0.5, 0.4)


def two(schedule):
    return JointProcess({"x": GaussianProcess(schedule, Euclidean(2, "grid", [1]))})


def gaussian(schedule):
    return AnalyticDenoiser(two(schedule), [1.0], {"x": (MEAN, STD)})


def mixture(schedule):
    return AnalyticDenoiser(two(schedule), WEIGHTS, {"x": (MEANS, STDS[:, None, None])})


def data(n):
    """Draws of the mixture."""
    component = torch.multinomial(WEIGHTS, n, replacement=True)
    return {"x": MEANS[component] + STDS[component, None, None] * torch.randn(n, 2, 1).double()}


def gaussian_flow(schedule, x, t, s):
    """Where the probability flow of N(MEAN, STD^2) takes x from time t to s; time 0 is clean data."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (schedule.alpha(f64(u)), schedule.sigma(f64(u))) if u else (f64(1.0), f64(0.0)) for u in (t, s)
    )
    stretch = (((alpha_s * STD) ** 2 + sigma_s**2) / ((alpha_t * STD) ** 2 + sigma_t**2)).sqrt()
    return alpha_s * MEAN + stretch * (x - alpha_t * MEAN)


def round_trip(sampler, denoiser, x):
    """Root mean square of what encoding and sampling again change."""
    return (sampler(denoiser, sampler.encode(denoiser, x))["x"] - x["x"]).square().mean().sqrt().item()


@pytest.mark.parametrize("walk", ["decode", "encode"])
def test_the_map_of_ddim(walk):
    """On N(0, v): x_0 = x_T sqrt((abar_0 v + 1 - abar_0) / (abar_T v + 1 - abar_T)) up to O(1 / S), abar_0 = 1."""
    v, x, schedule = 0.3, torch.randn(20, 1, 1).double(), Linear()
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})
    denoiser, abar = AnalyticDenoiser(process, [1.0], {"x": (0.0, v**0.5)}), schedule.alpha(f64(1.0)) ** 2
    scale, errors = (v / (abar * v + 1 - abar)).sqrt(), []
    for steps in (250, 1000):
        if walk == "decode":
            errors.append((DDIM(steps)(denoiser, {"x": x})["x"] - scale * x).abs().max().item())
        else:
            errors.append((DDIM(steps).encode(denoiser, {"x": scale * x})["x"] - x).abs().max().item())
    assert errors[1] < 10 / 1000
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolver])
@scheduled
def test_codes_converge_with_the_order_of_the_sampler(schedule, make):
    """From a noisy time, so that nothing but the sampler errs."""
    denoiser, errors = gaussian(schedule), []
    low, high = schedule.time(f64(5.0, -5.0)).tolist()
    x = gaussian_flow(schedule, MEAN + STD * torch.randn(8, 2, 1).double(), 0.0, low)
    for steps in (40, 80):
        times = schedule.time(torch.linspace(5, -5, steps + 1, dtype=torch.float64)).tolist()
        code = make().encode(denoiser, {"x": x}, plan=downward(times))["x"]
        errors.append((code - gaussian_flow(schedule, x, low, high)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(make().order, abs=0.3)


@pytest.mark.parametrize("grid", ["uniform", "log_snr"])
@pytest.mark.parametrize("law", [gaussian, mixture])
@pytest.mark.parametrize("schedule", [Linear(), Flow(), VE()], ids=["linear", "flow", "ve"])
def test_encoding_and_sampling_return_the_data(schedule, law, grid):
    """Twice the steps halve the error of DDIM; that of Heun falls four times, and more where its errors cancel."""
    denoiser = law(schedule)
    x = data(20) if law is mixture else {"x": MEAN + STD * torch.randn(20, 2, 1).double()}
    coarse, fine = (round_trip(DDIM(steps, grid), denoiser, x) for steps in (50, 100))
    assert coarse / fine == pytest.approx(2, abs=0.25)
    coarse, fine = (round_trip(Heun(steps, grid), denoiser, x) for steps in (20, 40))
    assert coarse / fine > 4
    assert fine < 2e-3
    assert round_trip(DPMSolver(50, grid), denoiser, x) < 1e-2


@scheduled
def test_an_adaptive_solver_returns_the_data(schedule):
    sampler, denoiser, x = RK45(rtol=1e-6, atol=1e-6), mixture(schedule), data(50)
    back = sampler(denoiser, sampler.encode(denoiser, x))["x"]
    assert (back - x["x"]).abs().max() < 1e-4


@scheduled
def test_codes_of_gaussian_data_are_those_of_the_flow(schedule):
    x = MEAN + STD * torch.randn(20, 2, 1).double()
    code = RK45().encode(gaussian(schedule), {"x": x})["x"]
    assert torch.allclose(code, gaussian_flow(schedule, x, 0.0, 1.0), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolver, RK45])
def test_the_first_step_takes_the_estimate_at_the_first_noisy_time(make):
    denoiser, x, t = mixture(Cosine()), data(5), f64(RK45().plan(two(Cosine()))[0][1])
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
    noise = denoiser({"x": alpha * x["x"]}, t.expand(5)).noise["x"]
    code = make().encode(denoiser, x, plan=[(0.0, t.item())])["x"]
    assert torch.allclose(code, alpha * x["x"] + sigma * noise, rtol=1e-9)
    back = make()(denoiser, {"x": code}, plan=[(t.item(), 0.0)])["x"]
    assert (back - x["x"]).abs().max() < 20 * sigma**4  # the estimate undoes it, where one at the data errs by sigma^2


def test_plans_of_ones_own():
    denoiser, x = mixture(Flow()), data(5)
    whole = Heun().encode(denoiser, x, plan=[(0.0, 0.1), (0.1, 0.4), (0.4, 0.9)])
    half = Heun().encode(denoiser, x, plan=[(0.0, 0.1), (0.1, 0.4)])
    assert torch.equal(whole["x"], Heun().encode(denoiser, half, plan=[(0.4, 0.9)])["x"])
    given = DDIM(4).encode(denoiser, x, plan=[(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)])
    assert torch.equal(given["x"], DDIM(4).encode(denoiser, x)["x"])  # the default is the plan of sampling, backwards


def test_each_sample_is_its_own_and_stays_in_its_space():
    process = JointProcess(
        {
            "position": GaussianProcess(Linear(), ZeroCenterOfMass()),
            "charge": GaussianProcess(Linear(), Euclidean(1)),
            "bond": GaussianProcess(Linear(), Euclidean(1, "pair")),
        }
    )
    shapes = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    law = {"position": (shapes, 0.3), "charge": (f64(-1.0, 1.0)[:, None, None], 0.2), "bond": (0.0, 1.0)}
    denoiser, mask = AnalyticDenoiser(process, [0.4, 0.6], law), size_mask(torch.tensor([5, 3]))
    x = {name: field.space.project(torch.randn(field.space.shape(2, mask)), mask) for name, field in process.items()}
    tight = AnalyticDenoiser(process, [0.4, 0.6], {**law, "position": (shapes[:, :3], 0.3)})
    part = {"position": x["position"][1:, :3], "charge": x["charge"][1:, :3], "bond": x["bond"][1:, :3, :3]}
    for sampler in (DDIM(5), Heun(5), DPMSolver(5), RK45(rtol=1e-4, atol=1e-4)):
        code = sampler.encode(denoiser, x, mask)
        alone = sampler.encode(tight, part, mask[1:, :3])
        for name, field in process.items():
            assert torch.allclose(code[name], field.space.project(code[name], mask), atol=1e-5)
        assert torch.allclose(code["position"][1:, :3], alone["position"], atol=2e-4)
        assert torch.allclose(code["bond"][1:, :3, :3], alone["bond"], atol=2e-4)


def test_self_conditioning_looks_at_the_last_estimate():
    seen = []

    class Net(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            seen.append(x["x_previous"])
            return {"x": x["x"]}

    denoiser = Denoiser(Net(), two(Linear()), "data", self_condition=True)
    DDIM(3).encode(denoiser, {"x": torch.randn(4, 2, 1)})
    assert len(seen) == 3
    assert not seen[0].any()
    assert seen[1].any()


@pytest.mark.parametrize(
    "sampler",
    [
        Ancestral(5),
        DDIM(5, eta=0.5),
        DPMSolver(5, eta=1.0),
        Langevin(5),
        PredictorCorrector(5),
        PredictorCorrector(5, predictor=DDIM()),
        ReverseSDE(5),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_that_draw_are_refused(sampler):
    with pytest.raises(
        ValueError, match=r"encode needs a deterministic sampler and \w+ draws noise; take DDIM with eta"
    ):
        sampler.encode(mixture(Linear()), data(3))


@pytest.mark.parametrize(
    ("sampler", "schedule", "plan", "message"),
    [
        (
            DDIM(),
            Linear(),
            [(0.0, 0.5), (0.5, 0.2)],
            r"encode walks up, and pair 1 of its plan is \(0.5, 0.2\); give incr",
        ),
        (DDIM(), Linear(), [], "the plan is empty"),
        (DDIM(), Linear(), [(0.0, 0.5), (0.6, 0.7)], "a plan walks connected, distinct times"),
        (ReverseSDE(5, noise=0.0), Flow(), None, "cannot stand where alpha = 0"),
    ],
)
def test_impossible_walks_are_refused(sampler, schedule, plan, message):
    with pytest.raises(ValueError, match=message):
        sampler.encode(mixture(schedule), data(3), plan=plan)


def test_a_code_that_is_not_finite_is_refused():
    class Broken:
        process = two(Linear())

        def __call__(self, *arguments):
            estimate = mixture(Linear())(*arguments[:2])
            estimate.data["x"] = estimate.data["x"] / 0
            return estimate

    with pytest.raises(
        ValueError, match=r"DDIM.encode reached no finite code; if alpha is 0 at the end of the plan, end"
    ):
        DDIM(3).encode(Broken(), data(3))


def test_categories_have_no_code():
    process = JointProcess(
        {
            "x": GaussianProcess(Linear(), Euclidean(1)),
            "element": CategoricalProcess(Linear(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0), "element": f64(0.5, 0.5)})
    x = {"x": torch.zeros(1, 1, 1), "element": torch.eye(2)[:1, None]}
    with pytest.raises(ValueError, match=r"encode needs Gaussian fields and 'element' is categorical \(a categorical"):
        DDIM().encode(denoiser, x, torch.ones(1, 1, dtype=torch.bool))
