"""Samplers against diffusers' schedulers: an exact mixture, 512 points in the plane, DDPM's schedule.

The network is exact on both sides and in float64, so what differs are the schedulers' float32 tables and the states
that some of them round to float32. Where they have a class of its own for a row of ours on another grid, the test says
so by the sampler it names: Euler is DDIM on the Karras grid, EulerAncestral is Ancestral.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun, UniPC, downward
from gendiff.schedule import Linear
from gendiff.space import Euclidean

pytest.importorskip("diffusers", reason="parity needs diffusers: pip install diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, with numpy 2

SCHEDULE = Linear()
MEANS = torch.tensor([[[-1.0], [0.5]], [[1.2], [-0.4]], [[0.3], [1.0]]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)[:, None, None]
DENOISER = AnalyticDenoiser(
    JointProcess({"x": GaussianProcess(SCHEDULE, Euclidean(2, "grid", [1]))}), [0.3, 0.5, 0.2], {"x": (MEANS, STDS)}
)
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def start():
    return torch.randn(512, 2, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def time_of(sigma):
    """When sigma / alpha has this value."""
    return SCHEDULE.time(-2 * torch.as_tensor(sigma, dtype=torch.float64).log())


def noise(x, t):
    """What a network for them puts out at our time t."""
    return DENOISER({"x": x}, torch.as_tensor(t, dtype=torch.float64).expand(len(x))).noise["x"]


class Shared:
    """Stands in for `Random`: torch's generator, in their order of draws."""

    def __init__(self, dtype=torch.float64):
        self.generator, self.indices, self.dtype = torch.Generator().manual_seed(7), torch.arange(512), dtype

    def normal(self, shape):
        return torch.randn(shape, generator=self.generator, dtype=self.dtype)


def ours(sampler, x, random=None, plan=None):
    return sampler(DENOISER, {"x": x}, random=random, plan=plan)["x"]


def theirs(scheduler, x, **options):
    """Their loop with states x, for schedulers with discrete times: k is our (k + 1) / 1000."""
    for k in scheduler.timesteps:
        x = scheduler.step(noise(x, (k + 1) / 1000), k, x, **options).prev_sample
    return x


def theirs_by_sigma(scheduler, x, scaled, steps=None, **options):
    """Their loop for schedulers that hold levels sigma / alpha; their states are x / alpha where `scaled`."""
    scheduler.is_scale_input_called = True  # the network is told alpha and sigma, and scales by itself
    for k, sigma in list(zip(scheduler.timesteps, scheduler.sigmas, strict=False))[:steps]:
        t = time_of(sigma)
        state = x * SCHEDULE.alpha(t) if scaled else x
        x = scheduler.step(noise(state, t), k, x, **options).prev_sample
    return x


@pytest.mark.parametrize(("eta", "tolerance"), [(0.0, 5.4e-6), (1.0, 9.5e-6)])
def test_ddim(eta, tolerance):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", **BETAS)
    scheduler.set_timesteps(50)
    expected = theirs(scheduler, start(), eta=eta, generator=torch.Generator().manual_seed(7))
    assert (ours(DDIM(50, eta=eta), start(), Shared()) - expected).abs().max() < tolerance


def test_ddpm():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(clip_sample=False, variance_type="fixed_small", **BETAS)
    scheduler.set_timesteps(1000)
    expected = theirs(scheduler, start(), generator=torch.Generator().manual_seed(7))
    assert (ours(Ancestral(1000), start(), Shared()) - expected).abs().max() < 2e-3


def test_euler_is_ddim_on_the_karras_grid():
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(use_karras_sigmas=True, **BETAS)
    scheduler.set_timesteps(20)
    assert scheduler.init_noise_sigma == pytest.approx(157.407, abs=1e-3)
    x = start() * scheduler.init_noise_sigma
    expected = theirs_by_sigma(scheduler, x, scaled=True)
    alpha = SCHEDULE.alpha(torch.ones((), dtype=torch.float64))
    assert (ours(DDIM(20, "karras"), alpha * x) - expected).abs().max() < 7.0e-6


def test_euler_ancestral_is_ancestral_at_its_times():
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(20)
    x = start() * scheduler.init_noise_sigma
    expected = theirs_by_sigma(scheduler, x, scaled=True, generator=torch.Generator().manual_seed(7))
    times = [*time_of(scheduler.sigmas[:-1]).tolist(), 0.0]
    alpha = SCHEDULE.alpha(torch.tensor(times[0], dtype=torch.float64))
    assert (ours(Ancestral(), alpha * x, Shared(), downward(times)) - expected).abs().max() < 8.6e-6


def test_heun():
    from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler

    scheduler = HeunDiscreteScheduler(use_karras_sigmas=True, **BETAS)
    scheduler.set_timesteps(20)
    x = start() * scheduler.init_noise_sigma
    levels = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]])
    times = [*time_of(levels[:-1]).tolist(), 0.0]
    expected = theirs_by_sigma(scheduler, x, scaled=True)
    alpha = SCHEDULE.alpha(torch.tensor(times[0], dtype=torch.float64))
    assert (ours(Heun(coordinate="karras"), alpha * x, plan=downward(times)) - expected).abs().max() < 1e-13
    assert (ours(Heun(20, "karras", "karras"), alpha * x) - expected).abs().max() < 7.0e-6


DPM = {"solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": True, "lower_order_final": False}


def test_dpm_solver():
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", euler_at_final=False, **DPM, **BETAS)
    scheduler.set_timesteps(20)
    expected = theirs_by_sigma(scheduler, start(), scaled=False)
    assert (ours(DPMSolver(20, "karras"), start()) - expected).abs().max() < 8.7e-6


def levels(sampler):
    """sigma / alpha along a sampler's plan, in float64: theirs are in float32, and so is what they make of them."""
    times = torch.tensor([t for t, _ in sampler.plan(DENOISER.process)], dtype=torch.float64)
    return torch.cat([SCHEDULE.sigma(times) / SCHEDULE.alpha(times), times.new_zeros(1)])


def test_dpm_solver_sde():
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", euler_at_final=False, **DPM, **BETAS)
    scheduler.set_timesteps(20)
    sampler = DPMSolver(20, "karras", eta=1.0)
    assert torch.allclose(scheduler.sigmas.double(), levels(sampler), rtol=1e-4)
    scheduler.sigmas = levels(sampler)
    expected = theirs_by_sigma(scheduler, start(), scaled=False, generator=torch.Generator().manual_seed(7))
    assert (ours(sampler, start(), Shared(torch.float32)) - expected).abs().max() < 1e-6  # their states are float32


UNIPC = {"use_karras_sigmas": True, "final_sigmas_type": "zero", "lower_order_final": True}


def test_unipc():
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    sampler = UniPC(20, "karras")
    for rounded, tolerance in ((True, 2e-6), (False, 1e-13)):
        scheduler = UniPCMultistepScheduler(solver_order=2, solver_type="bh2", **UNIPC, **BETAS)
        scheduler.set_timesteps(20)
        if not rounded:
            scheduler.sigmas = levels(sampler)
        expected = theirs_by_sigma(scheduler, start(), scaled=False)
        assert (ours(sampler, start()) - expected).abs().max() < tolerance


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_of_every_kind_as_far_as_they_go(p, variant):
    """Near clean data theirs lowers p = 3, and "bh1" ends in NaN."""
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    sampler = UniPC(20, "karras", predictor_order=p, variant=variant)
    scheduler = UniPCMultistepScheduler(solver_order=p, solver_type=variant, **UNIPC, **BETAS)
    scheduler.set_timesteps(20)
    scheduler.sigmas = levels(sampler)
    expected = theirs_by_sigma(scheduler, start(), scaled=False, steps=17)
    assert (ours(sampler, start(), plan=sampler.plan(DENOISER.process)[:17]) - expected).abs().max() < 1e-13
    if variant == "bh1":
        scheduler.set_timesteps(20)
        assert theirs_by_sigma(scheduler, start(), scaled=False).isnan().any()
        assert ours(sampler, start()).isfinite().all()


def test_the_benchmark_of_the_overhead_compares_equals(capsys):
    path = Path(__file__).parents[2] / "benchmarks" / "sampler_overhead.py"
    spec = importlib.util.spec_from_file_location("sampler_overhead", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    threads = str(torch.get_num_threads())
    ratios = benchmark.main(["--sizes", "100", "--repeats", "1", "--steps", "10", "--threads", threads])
    assert set(ratios) == {(u, kind, 100) for u in benchmark.UPDATES for kind in ("noise", "data")}
    rows = [line for line in capsys.readouterr().out.splitlines() if " 100 " in line]
    assert len(rows) == len(ratios)
    assert all(float(line.split()[-1]) < 1e-5 for line in rows)
