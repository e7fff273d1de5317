"""Images on a CUDA device: trains in fp32 and bf16, samples, and agrees with the CPU. Run with `pytest -m gpu`."""

import pytest
import torch

import gendiff
from gendiff.catalog import builtin
from gendiff.ops import Random

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains_and_samples(tmp_path, precision):
    options = {"accelerator": "gpu", "precision": precision}
    model = gendiff.train(
        "images",
        [builtin("digits")],
        tmp_path / "run",
        steps=20,
        preset="tiny",
        previews=0,
        trainer=options,
        say=None,
    )
    images = model.to("cuda").sample(16, steps=10, condition={"class": "3"}, guidance=2.0)
    assert [(image.word, image.pixels.shape) for image in images] == [("3", (8, 8, 1))] * 16


def test_agrees_with_the_cpu(tmp_path):
    model = gendiff.train("images", [builtin("digits")], tmp_path / "run", steps=5, preset="tiny", previews=0, say=None)
    x = model.denoiser.process.noise(None, Random(0, 8))
    t, condition = torch.linspace(0.1, 1, 8), {"class": torch.arange(8) - 1}
    with torch.no_grad():
        here = model.denoiser(x, t, None, condition).data["pixel"]
        model.to("cuda")
        there = model.denoiser({"pixel": x["pixel"].cuda()}, t.cuda(), None, {"class": condition["class"].cuda()}).data[
            "pixel"
        ]
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)
