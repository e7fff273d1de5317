"""What a model says of records: log p in their own units, and codes from which they come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import examples
from gendiff import DDIM, Ancestral, Heun, UserError
from gendiff.data import Ragged
from gendiff.denoise import AnalyticDenoiser
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model

MOLECULES = examples.arrays()


class Gaussian(torch.nn.Module):
    """The exact denoiser of standard normal fields, as a model holds one."""

    def __init__(self, process, scale):
        super().__init__()
        self.exact = AnalyticDenoiser(process, [1.0], {name: (0.0, s) for name, s in scale.items()})
        self.process = process
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, *inputs):
        return self.exact(*inputs)


def gaussian(scale, position_scale=1.5):
    """A model that believes in N(0, scale^2) for every number of its states."""
    adapter = Molecules.fit(MOLECULES, hydrogens="implicit")
    adapter.position_scale = position_scale
    return Model(adapter, Gaussian(adapter.process(), scale), Ancestral(8))


SCALE = {"position": 0.8, "element": 0.6}


def closed_form(model):
    """log p(N) + log N(z; 0, s^2) over all degrees of freedom - (n - 1) 3 log(Å per unit), molecule by molecule."""
    data, result = model.modality.encode(MOLECULES), []
    for i, n in enumerate(data.sizes.tolist()):
        batch, total = data.batch(torch.tensor([i])), 0.0
        for name, free in (("position", 3 * (n - 1)), ("element", n * len(model.modality.elements))):
            x, s = batch.state[name].double(), SCALE[name]
            total += -0.5 * (x.square().sum().item() / s**2 + free * math.log(2 * math.pi * s**2))
        size = math.log(model.modality.sizes[n] / sum(model.modality.sizes.values()))
        result.append(total + size - 3 * (n - 1) * math.log(model.modality.position_scale))
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("position_scale", [1.0, 1.5])
def test_the_flow_gives_the_density_in_the_units_of_the_data(position_scale):
    model = gaussian(SCALE, position_scale)
    found = model.log_prob(MOLECULES, "flow")
    torch.testing.assert_close(found["log_prob"], closed_form(model), rtol=0, atol=0.02)


def test_the_bound_lies_below_and_rises_with_its_steps():
    model = gaussian(SCALE)
    exact, gaps = closed_form(model), []
    for steps in (50, 200, 800):
        found = model.log_prob(MOLECULES, steps=steps)
        parts = found["prior"] + found["diffusion"] + found["reconstruction"]
        torch.testing.assert_close(found["log_prob"], found["size"] - found["volume"] - parts.double())
        gaps.append((exact - found["log_prob"]).mean().item() / found["dim"].mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.1  # nats for each degree of freedom; 22 of log SNR in 800 steps cost 0.08


def test_log_prob_depends_on_the_record_and_the_seed_alone():
    model = examples.model()
    whole = model.log_prob(MOLECULES, steps=5)["log_prob"]
    torch.testing.assert_close(
        model.log_prob(MOLECULES, steps=5, batch_size=3)["log_prob"], whole, rtol=1e-4, atol=1e-3
    )
    assert not torch.allclose(model.log_prob(MOLECULES, steps=5, seed=1)["log_prob"], whole)
    assert len(whole) == len(MOLECULES)


def test_a_size_that_never_was_has_no_probability():
    model = gaussian(SCALE)
    del model.modality.sizes[4]
    found = model.log_prob(MOLECULES, steps=2)
    sizes = model.modality.encode(MOLECULES).sizes
    assert ((found["log_prob"] == -torch.inf) == (sizes == 4)).all()


@pytest.mark.parametrize("sampler", [None, DDIM(400), Heun(60)])
def test_codes_give_their_records_back(sampler):
    """Of a standard normal law the flow is a scaling: codes are the data divided by its deviation."""
    model = gaussian(SCALE)
    codes, data = model.encode(MOLECULES, sampler, steps=60), model.modality.encode(MOLECULES)
    assert torch.equal(codes.sizes, data.sizes)
    for name, s in SCALE.items():
        torch.testing.assert_close(codes.fields[name], data.fields[name] / s, rtol=0, atol=0.02)
    again = model.decode(codes, sampler, steps=60)
    for mol, (numbers, positions, _) in zip(again, MOLECULES.remove_hydrogens().centred().split(), strict=True):
        heavy = mol.GetConformer().GetPositions()[: len(numbers)]
        assert [mol.GetAtomWithIdx(i).GetAtomicNum() for i in range(len(numbers))] == numbers.tolist()
        assert np.abs(heavy - positions).max() < 0.05


def test_codes_do_not_depend_on_the_batch():
    model = examples.model()
    whole, some = model.encode(MOLECULES, steps=3), model.encode(MOLECULES, steps=3, batch_size=2)
    assert isinstance(whole, Ragged)
    for name, value in whole.fields.items():
        torch.testing.assert_close(some.fields[name], value, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_judged_or_encoded_is_refused():
    model = examples.model()
    with pytest.raises(UserError, match="--method must be bound, flow or bytes, got 'exact'"):
        model.log_prob(MOLECULES, "exact")
    with pytest.raises(UserError, match="--method bytes is for data that are bytes, as images are, and not for molec"):
        model.log_prob(MOLECULES, "bytes")
    with pytest.raises(UserError, match="--steps must be at least 1, got 0"):
        model.log_prob(MOLECULES, steps=0)
    with pytest.raises(UserError, match="--steps must be at least 1, got 0"):
        model.encode(MOLECULES, steps=0)
    with pytest.raises(UserError, match="Ancestral"):
        model.encode(MOLECULES, Ancestral(5))
