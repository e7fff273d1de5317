"""What the samplers of Gaussian fields share: a sample is its own, keeps its space, and categories are refused."""

import pytest
import torch

from gendiff.config import build, describe
from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, RK45, Langevin, PredictorCorrector, ReverseSDE
from gendiff.schedule import Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

SAMPLERS = {
    "langevin": Langevin(12),
    "predictor corrector": PredictorCorrector(12, "log_snr"),
    "any predictor": PredictorCorrector(12, "log_snr", DDIM(), 0.1, 2),
    "reverse sde": ReverseSDE(40, "log_snr"),
    "rk45": RK45(),
}
sampled = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def molecules(length):
    """Positions without a place, a charge for each node and a length for each pair."""
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass()),
            "charge": GaussianProcess(Polynomial(), Euclidean(1)),
            "bond": GaussianProcess(Polynomial(), Euclidean(1, "pair")),
        }
    )
    shapes = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1))[:, :length]
    law = {
        "position": (shapes, 0.3),
        "charge": (torch.tensor([-1.0, 0.0, 1.0])[:, None, None], 0.2),
        "bond": (torch.tensor([0.5, 0.0, -0.5])[:, None, None, None], 0.4),
    }
    return AnalyticDenoiser(process, [0.2, 0.5, 0.3], law)


def draw(sampler, sizes, indices, length=5):
    denoiser, mask, random = molecules(length), size_mask(torch.tensor(sizes), length), Random(3, torch.tensor(indices))
    start = denoiser.process.prior(denoiser.process.noise(mask, random), mask)
    return sampler(denoiser, start, mask, random=random), mask


@sampled
def test_a_sample_is_the_same_in_any_batch(sampler):
    whole, _ = draw(sampler, [5, 3, 4, 5], [10, 11, 12, 13])
    alone, _ = draw(sampler, [4], [12])
    order, _ = draw(sampler, [5, 4], [13, 12])
    for name, x in whole.items():
        assert torch.allclose(x[2:3], alone[name], atol=1e-5)
        assert torch.allclose(x[[3, 2]], order[name], atol=1e-5)
    assert not torch.allclose(whole["position"][0], whole["position"][3], atol=1e-2)


@sampled
def test_a_sample_is_the_same_with_less_padding_and_stays_in_its_space(sampler):
    whole, mask = draw(sampler, [5, 3, 1], [10, 11, 12])
    tight, _ = draw(sampler, [3], [11], 3)
    assert torch.allclose(whole["position"][1:2, :3], tight["position"], atol=1e-4)
    assert torch.allclose(whole["charge"][1:2, :3], tight["charge"], atol=1e-4)
    assert torch.allclose(whole["bond"][1:2, :3, :3], tight["bond"], atol=1e-4)
    for name, field in molecules(5).process.items():
        assert torch.allclose(whole[name], field.space.project(whole[name], mask), atol=1e-5)
        assert whole[name].isfinite().all()
    assert whole["position"][:, :, 0].sum(1).abs().max() < 1e-5
    assert not whole["position"][2].any()  # a single node has no freedom


@sampled
def test_categories_are_refused_by_name(sampler):
    process = JointProcess(
        {
            "x": GaussianProcess(Polynomial(), Euclidean(1)),
            "element": CategoricalProcess(Polynomial(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0), "element": torch.tensor([0.5, 0.5])})
    x, mask = {"x": torch.zeros(1, 1, 1), "element": torch.eye(2)[:1, None]}, torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"\w+ needs Gaussian fields and 'element' is categorical .* DDIM, Heun and DPM"
    ):
        sampler(denoiser, x, mask)


@sampled
def test_a_configuration_brings_them_back(sampler):
    again = build(describe(sampler))
    assert describe(again) == describe(sampler)
    assert type(again) is type(sampler)
