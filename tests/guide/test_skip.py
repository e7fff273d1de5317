"""Skip guidance: the estimates, whose weights they are, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

from gendiff.config import build, describe
from gendiff.denoise import Denoiser
from gendiff.guide import Autoguidance, ClassifierFree, Skip
from gendiff.guide.skip import without
from gendiff.nn.egnn import EGNN
from gendiff.nn.equivariant import EquivariantTransformer
from gendiff.nn.sequence import SequenceTransformer
from gendiff.ops import Random, size_mask
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM
from gendiff.schedule import Flow
from gendiff.space import Euclidean


class Adders(nn.Module):
    """Adds x to x, times each number of its blocks, whatever the noise."""

    def __init__(self, *numbers):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(1, 1, bias=False).double() for _ in numbers)
        for block, number in zip(self.blocks, numbers, strict=True):
            nn.init.constant_(block.weight, number)

    def forward(self, x, noise_level, mask, condition):
        return {"x": x["x"] + sum(block(x["x"]) for block in self.blocks)}


def denoiser(network):
    process = JointProcess({"x": GaussianProcess(Flow(), Euclidean(1))})
    return Denoiser(network, process, "data")


def inputs(n=4):
    mask = size_mask(torch.tensor([2, 1] * (n // 2)), 2)
    x = torch.randn(n, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"x": x * mask[..., None]}, torch.linspace(0.1, 0.9, n, dtype=torch.float64), mask


@pytest.mark.parametrize("blocks", [(1,), (2, 0)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_estimates_lie_on_the_line_through_those_with_and_without_the_blocks(blocks, scale):
    numbers = (0.5, -2.0, 3.0)
    x, t, mask = inputs()
    whole = denoiser(Adders(*numbers))
    left = denoiser(Adders(*(number for k, number in enumerate(numbers) if k not in blocks)))
    strong, weak = whole(x, t, mask).data["x"], left(x, t, mask).data["x"]
    guided = Skip(blocks, scale)(whole)(x, t, mask).data["x"]
    assert torch.allclose(guided, weak + scale * (strong - weak), rtol=1e-12)
    assert (strong - weak).abs().max() > 0.1


def test_the_weaker_one_is_a_part_of_the_model_which_stays_as_it_is():
    whole = denoiser(Adders(0.5, -2.0, 3.0))
    names, (x, t, mask) = list(whole.state_dict()), inputs()
    weak = without(whole, [1])
    assert list(whole.state_dict()) == names
    assert (len(whole.network.blocks), len(weak.network.blocks)) == (3, 2)
    before = weak(x, t, mask).data["x"]
    with torch.no_grad():
        whole.network.blocks[2].weight.add_(1.0)
    assert torch.allclose(weak(x, t, mask).data["x"] - before, denoiser(Adders())(x, t, mask).data["x"])


@pytest.mark.parametrize("kind", [EGNN, EquivariantTransformer, SequenceTransformer])
def test_networks_of_blocks_go_on_without_one(kind):
    torch.manual_seed(0)
    name = "x" if kind is SequenceTransformer else "position"
    options = {"fields": {"x": 3}, "complement": None} if name == "x" else {"features": {}}
    network = kind(width=16, layers=3, **options)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    whole = Denoiser(network, JointProcess({name: GaussianProcess(Flow(), Euclidean(3))}), "flow")
    shorter = copy.deepcopy(whole)
    del shorter.network.blocks[1]
    x, t, mask = {name: torch.randn(4, 5, 3)}, torch.linspace(0.1, 0.9, 4), torch.ones(4, 5, dtype=torch.bool)
    with torch.no_grad():
        guided, expected = Skip([1], 1.5)(whole), Autoguidance(whole, shorter, 1.5)
        assert torch.equal(guided(x, t, mask).data[name], expected(x, t, mask).data[name])
        assert not torch.allclose(guided(x, t, mask).data[name], whole(x, t, mask).data[name], rtol=1e-2)
        walks = [DDIM(4)(d, x, mask, random=Random(0, 4))[name] for d in (guided, expected)]
    assert torch.equal(*walks)


def test_it_can_be_described():
    skip = build(describe(Skip((2, 3), 1.75)))
    assert (skip.blocks, skip.scale) == ([2, 3], 1.75)


@pytest.mark.parametrize(
    ("blocks", "scale", "message"),
    [
        ((), 1.5, r"different numbers from 0, at least one, got \[\]"),
        ((1, 1), 1.5, "different numbers from 0"),
        ((-1,), 1.5, "different numbers from 0"),
        ((1,), math.inf, "scale must be a finite number, got inf"),
        ((3,), 1.5, r"the network has blocks 0 to 2; cannot leave out \[3\]"),
        ((0, 1, 2), 1.5, "cannot leave out"),
    ],
)
def test_bad_arguments_are_refused(blocks, scale, message):
    with pytest.raises(ValueError, match=message):
        Skip(blocks, scale)(denoiser(Adders(0.5, -2.0, 3.0)))


def test_what_has_no_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has no list of blocks"):
        Skip([0])(denoiser(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="ClassifierFree has no list of blocks"):
        Skip([0])(ClassifierFree(denoiser(Adders(1.0)), 2.0))
