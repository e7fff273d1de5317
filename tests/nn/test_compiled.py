"""Every network is one graph for torch's compiler at every size, and says the same there; nothing stays of it."""

from __future__ import annotations

import copy
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from gendiff.data import batch_stream, builtin
from gendiff.files import UserError
from gendiff.modality import find_modality
from gendiff.nn.compiled import compiled
from gendiff.ops import Random

DATA = {"molecules": "small-molecules", "sketches": "doodles", "images": "digits"}
QUICK = ("molecules", "transformer")

NETWORKS = [
    pytest.param(kind, network, marks=[] if (kind, network) == QUICK else pytest.mark.slow)
    for kind in DATA
    for network in find_modality(kind).networks
    if network != "birnn"  # recurrent layers stay out of graphs
]


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """The compiler's first half, which turns code into graphs; the second, which makes C++ of them, takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def data():
    """By modality: an adapter and its encoded examples."""
    made = {}
    for name, built_in in DATA.items():
        kind = find_modality(name)
        records, _ = kind.read([builtin(built_in)])
        records = records.select(np.arange(60))
        adapter = kind.fit(records)
        made[name] = adapter, adapter.encode(records)
    return made


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_every_network_is_one_graph_for_all_sizes(data, name, network):
    adapter, examples = data[name]
    torch.manual_seed(0)
    denoiser = adapter.denoiser("tiny", network).double()
    # a dozen batches hold several sizes; whole ones alone, whose 9 samples are no size
    batches = [examples.batch(rows) for rows in islice(batch_stream(examples.sizes, 9, 0), 12) if len(rows) == 9][:4]
    shapes = [value.shape for batch in batches for value in list(batch.state.values())[:1]]
    assert name == "images" or (len(set(shapes)) > 1 and all(9 not in shape[1:] for shape in shapes))

    def losses():
        found = []
        for batch in batches:
            state = {
                field: value.double() if value.is_floating_point() else value for field, value in batch.state.items()
            }
            each, _ = adapter.objective()(denoiser, state, batch.mask, batch.condition or None, Random(0, batch.index))
            each.mean().backward()
            found.append(each.detach())
        gradients = [p.grad.clone() for p in denoiser.parameters() if p.grad is not None]
        denoiser.zero_grad()
        return [*found, *gradients]

    plain = losses()
    with compiled(denoiser.network, dynamic=True):
        graphs = losses()
    assert len(plain) == len(graphs)
    for a, b in zip(plain, graphs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


class Doubling(nn.Module):
    """Counts how often its own code runs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.weight * x


def test_nothing_stays_of_the_compiler():
    network = Doubling()
    with compiled(network):
        assert network(torch.ones(3)).tolist() == [2, 2, 2]
        assert copy.deepcopy(network)._compiled_call_impl is None
        assert list(network.state_dict()) == ["weight"]
    assert counters["stats"]["unique_graphs"] == 1
    network(torch.ones(4))
    assert counters["stats"]["unique_graphs"] == 1


def test_nothing_is_compiled_where_nobody_wants_it():
    network = Doubling()
    with compiled(network, wanted=False):
        network(torch.ones(3))
    assert not counters["stats"]


def test_a_missing_compiler_is_one_line(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile.func, backend=broken))
    network = Doubling()
    with pytest.raises(UserError, match=r"--compile: .*No working C\+\+ compiler.*leave --compile out"):
        with compiled(network):
            network(torch.ones(3))
    assert network(torch.ones(3)).tolist() == [2, 2, 2]
