"""Bits per dimension: probabilities of bytes, and the bound of laws that are known."""

import math

import pytest
import torch

from gendiff.decoder import byte_bound, byte_log_prob
from gendiff.denoise import AnalyticDenoiser
from gendiff.likelihood import bits_per_dim
from gendiff.modalities.images.systems import SYSTEMS
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.schedule import Learned
from gendiff.space import Euclidean

BYTES = torch.arange(256, dtype=torch.float64) / 127.5 - 1


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("mean", [-1.2, -1.0, -0.0039, 0.4, 1.0, 3.0])
def test_the_probabilities_of_all_bytes_sum_to_one(mean, std):
    found = byte_log_prob(BYTES, torch.tensor(mean), torch.tensor(std))
    assert float(found.logsumexp(0)) == pytest.approx(0, abs=1e-12)


def test_a_byte_has_what_lies_nearer_to_it_than_to_others():
    law = torch.distributions.Normal(torch.tensor(0.1, dtype=torch.float64), 0.02)
    edges = BYTES[:-1] + 1 / 255
    naive = torch.cat([law.cdf(edges), torch.ones(1)]) - torch.cat([torch.zeros(1), law.cdf(edges)])
    near = (BYTES - 0.1).abs() < 0.1
    found = byte_log_prob(BYTES, law.mean, law.stddev)
    torch.testing.assert_close(found[near].exp(), naive[near], rtol=1e-9, atol=1e-15)
    # Far away it is the density of the nearest edge: finite where a difference of probabilities is 0.
    assert found.isfinite().all()
    far = byte_log_prob(BYTES[[40, 230]], torch.tensor(0.1), torch.tensor(0.005))
    nearest = torch.stack([BYTES[40] + 1 / 255, BYTES[230] - 1 / 255])
    mills = ((nearest - 0.1) / 0.005).abs()
    torch.testing.assert_close(far, -(mills**2) / 2 - (mills * math.sqrt(2 * math.pi)).log(), rtol=0, atol=1e-3)


def bits(denoiser, x, **options):
    return bits_per_dim(byte_bound(denoiser, x, **options)["total"], x["pixel"][0].numel())


def law(grays, process, std=1e-5):
    """The exact denoiser of pictures of one gray each, all as likely."""
    middles = torch.as_tensor(grays, dtype=torch.float32).view(-1, 1, 1, 1)
    return AnalyticDenoiser(process, torch.ones(len(middles)) / len(middles), {"pixel": (middles, std)})


@pytest.mark.parametrize(("grays", "wanted"), [([20, 90, 160, 255], 2), (list(range(0, 256, 17)), 4)])
def test_a_model_that_knows_its_law_needs_as_many_bits_as_it_has(grays, wanted):
    """The schedule of VDM ends far below a byte, so nothing is lost in the last step."""
    process = JointProcess({"pixel": GaussianProcess(Learned(features=4), Euclidean(1, "grid", [1, 1]))})
    size = 256
    x = {"pixel": BYTES[torch.tensor(grays * (size // len(grays)))].float().view(-1, 1, 1, 1)}
    exact = law(BYTES[grays], process)
    found = bits(exact, x, random=Random(0, size), steps=200)
    error = 4 * float(found.std()) / size**0.5
    assert wanted - error < float(found.mean()) < 1.05 * wanted + error  # a chain of finite steps loses a little
    some = bits(exact, x, random=Random(1, size), steps=200, terms=50)
    assert float(some.mean()) == pytest.approx(float(found.mean()), abs=error + 4 * float(some.std()) / size**0.5)
    assert float(some.std()) > float(found.std())  # it is the noisier estimate


def test_the_last_step_of_ddpm_has_the_price_of_its_noise():
    """Of a picture that is known before it is seen, bits remain: the decoder has the deviation sigma / alpha."""
    process = SYSTEMS["ddpm"].process(1, (2, 2))
    x = {"pixel": torch.full((3, 1, 2, 2), float(BYTES[90]))}
    found = bits(law(BYTES[[90]], process, 1e-7), x, steps=1000, terms=2)
    deviation = math.sqrt(1e-4 / (1 - 1e-4))  # the first beta is 1e-4
    prior = process["pixel"].prior_kl(x["pixel"]).double() / 4 / math.log(2)
    wanted = prior - math.log2(math.erf(1 / 255 / deviation / math.sqrt(2)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)
