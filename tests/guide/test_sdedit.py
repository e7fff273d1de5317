"""SDEdit, on laws where the mean of the variation is known."""

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.guide import Replacement, sdedit
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

MEAN, STD = 0.5, 0.7


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


class Still(Random):
    """Noise at its mean, zero: what comes of an affine map then is its mean."""

    def normal(self, shape):
        return torch.zeros(shape)


def gaussian(schedule):
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1, "grid", [1]))})
    return AnalyticDenoiser(process, [1.0], {"x": (MEAN, STD)})


def levels(schedule, t):
    return (f(f64(t)).item() for f in (schedule.alpha, schedule.sigma))


@pytest.mark.parametrize("start", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_the_mean_of_the_variations_of_a_guide_is_known(schedule, start):
    """Along the flow, m + alpha s (g - m) / sqrt(alpha^2 s^2 + sigma^2); by ancestral steps, that ratio squared."""
    guide = {"x": f64(-1.0, 0.0, 3.0).reshape(3, 1, 1)}
    alpha, sigma = levels(schedule, start)
    ratio = alpha * STD / (alpha**2 * STD**2 + sigma**2) ** 0.5

    def mean(sampler, **options):
        return sdedit(sampler, gaussian(schedule), guide, start, random=Still(0, 3), **options)["x"]

    assert torch.allclose(mean(Heun(40, "log_snr")), MEAN + ratio * (guide["x"] - MEAN), atol=5e-4)
    assert torch.allclose(mean(Ancestral(10)), MEAN + ratio**2 * (guide["x"] - MEAN), atol=1e-12)
    assert torch.allclose(mean(Ancestral(10), repeats=2), MEAN + ratio**4 * (guide["x"] - MEAN), atol=1e-12)


def test_the_correlation_with_the_guide_falls_with_the_start():
    """alpha s / sqrt(alpha^2 s^2 + sigma^2) for guides of deviation s."""
    n, found = 4000, []
    guide = {"x": MEAN + 0.4 * torch.randn(n, 1, 1).double()}
    for start in (0.1, 0.3, 0.5, 0.7, 0.9):
        end = sdedit(DDIM(30, "log_snr"), gaussian(Linear()), guide, start, random=Random(0, n))["x"]
        found.append(torch.corrcoef(torch.stack([guide["x"].flatten(), end.flatten()]))[0, 1].item())
        alpha, sigma = levels(Linear(), start)
        exact = 0.4 * alpha / ((0.4 * alpha) ** 2 + sigma**2) ** 0.5
        assert found[-1] == pytest.approx(exact, abs=4 * (1 - exact**2) / n**0.5)
    assert found == sorted(found, reverse=True)


def molecule(length=4):
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass(2)),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )
    std = torch.tensor([0.2, 0.8])[:, None, None]
    law = {"position": (torch.randn(2, length, 2), std), "element": torch.randn(2, length, 3).softmax(-1)}
    mask = size_mask(torch.tensor([4, 3, 4]), length)
    guide = process.prior(process.noise(mask, Random(9, 3)), mask)
    guide = {"position": (guide["position"] + 20) * mask[..., None], "element": guide["element"]}
    return AnalyticDenoiser(process, [0.5, 0.5], law), guide, mask


def test_from_no_noise_the_guide_comes_back_to_the_last_bit():
    denoiser, guide, mask = molecule()
    end = sdedit(DDIM(), denoiser, guide, 0.0, mask)
    assert all(torch.equal(end[name], guide[name]) for name in guide)
    assert end is not guide


@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_with_replacement_the_known_region_stays_to_the_last_bit(make):
    denoiser, guide, mask = molecule()
    keep = torch.tensor([[True, False, True, False]]).expand(3, 4)
    hook = Replacement(guide, {"position": keep, "element": keep})
    end = sdedit(make(12), denoiser, guide, 0.7, mask, random=Random(0, 3), hooks=[hook], repeats=2)
    for name, value in guide.items():
        assert torch.equal(end[name][keep], value[keep])
    assert not torch.isclose(end["position"][:, 1], guide["position"][:, 1], atol=1e-3).any()
    assert not end["position"][~mask].any()


def test_the_result_stands_where_the_guide_stands():
    denoiser, guide, mask = molecule()
    end = sdedit(DDIM(12), denoiser, guide, 0.4, mask, random=Random(0, 3))
    moved = {**guide, "position": (guide["position"] - 20) * mask[..., None]}
    elsewhere = sdedit(DDIM(12), denoiser, moved, 0.4, mask, random=Random(0, 3))
    assert torch.allclose(end["position"].sum(1), guide["position"].sum(1), rtol=1e-5)
    assert torch.allclose((end["position"] - 20) * mask[..., None], elsewhere["position"], atol=1e-4)
    assert torch.equal(end["element"], elsewhere["element"])
    assert not end["position"][~mask].any()


def test_a_sample_is_its_own():
    denoiser, guide, mask = molecule()
    whole = sdedit(Ancestral(12), denoiser, guide, 0.6, mask, random=Random(0, 3))
    alone = {name: value[1:2] for name, value in guide.items()}
    one = sdedit(Ancestral(12), denoiser, alone, 0.6, mask[1:2], random=Random(0, torch.tensor([1])))
    assert torch.allclose(whole["position"][1], one["position"][0], atol=1e-4)
    assert torch.equal(whole["element"][1], one["element"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -0.1}, r"start must be a time in \[0, 1\] \(0 is the guide, 1 a fresh sample\), got -0.1"),
        ({"start": 500}, "start must be a time .* got 500"),
        ({"start": 0.5, "repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    denoiser, guide, mask = molecule()
    with pytest.raises(ValueError, match=message):
        sdedit(DDIM(), denoiser, guide, mask=mask, **options)
