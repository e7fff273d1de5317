"""Molecules on a CUDA device: trains in fp32 and bf16, samples, and agrees with the CPU. Run with `pytest -m gpu`;
needs no RDKit files of its own."""

import pytest
import torch

import gendiff
from gendiff.catalog import builtin
from gendiff.ops import Random, size_mask

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains_and_samples(tmp_path, precision):
    options = {"accelerator": "gpu", "precision": precision}
    model = gendiff.train(
        "molecules",
        [builtin("small-molecules")],
        tmp_path / "run",
        steps=20,
        preset="tiny",
        previews=0,
        trainer=options,
        say=None,
    )
    molecules = model.to("cuda").sample(16, steps=10, seed=0)
    assert len(molecules) == 16


def test_agrees_with_the_cpu(tmp_path):
    model = gendiff.train(
        "molecules", [builtin("small-molecules")], tmp_path / "run", steps=5, preset="tiny", previews=0, say=None
    )
    random = Random(0, 8)
    mask = size_mask(model.modality.draw_sizes(random))
    process = model.denoiser.process
    x = process.prior(process.noise(mask, random), mask)
    t = torch.linspace(0.1, 1, 8)
    with torch.no_grad():
        here = model.denoiser(x, t, mask).data
        model.to("cuda")
        there = model.denoiser({k: v.cuda() for k, v in x.items()}, t.cuda(), mask.cuda()).data
    for name, value in here.items():
        torch.testing.assert_close(there[name].cpu(), value, rtol=1e-3, atol=1e-4)
