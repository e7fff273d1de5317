"""Networks are whole graphs for torch's compiler, few for all sizes, and say the same there; nothing stays of it."""

from __future__ import annotations

import copy
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from gendiff.catalog import builtin
from gendiff.data import batch_stream
from gendiff.denoise import Denoiser, compiled
from gendiff.files import UserError
from gendiff.modality import find_modality
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.schedule import Flow
from gendiff.space import Euclidean

DATA = {"molecules": "small-molecules", "sketches": "doodles", "images": "digits"}
QUICK = ("molecules", "transformer")

NETWORKS = [
    pytest.param(kind, network, marks=[] if (kind, network) == QUICK else pytest.mark.slow)
    for kind in DATA
    for network in find_modality(kind).networks
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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler looks at
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_networks_are_few_whole_graphs_for_all_sizes(data, name, network):
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
    with compiled(denoiser):
        graphs = losses()
    assert len(plain) == len(graphs)
    for a, b in zip(plain, graphs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    if network != "birnn":  # recurrent layers stay out of graphs
        assert 1 <= counters["stats"]["unique_graphs"] <= 3  # the first and the last block may be of their own kind
        assert not counters["graph_break"]


class Doubling(nn.Module):
    """Says twice what it sees."""

    def __init__(self, width=1):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 2.0))

    def forward(self, x, noise_level, mask, condition):
        return {"x": self.weight * x["x"]}


@pytest.fixture
def doubling():
    return Denoiser(Doubling(), JointProcess({"x": GaussianProcess(Flow(), Euclidean(1))}), "data")


def ask(denoiser, size):
    return denoiser({"x": torch.ones(3, size, 1)}, torch.full((3,), 0.5)).data["x"].flatten().tolist()


def test_nothing_stays_of_the_compiler(doubling):
    plain = ask(doubling, 4)
    with compiled(doubling):
        assert ask(doubling, 4) == plain
        assert copy.deepcopy(doubling).network._compiled_call_impl is None
        assert list(doubling.network.state_dict()) == ["weight"]
    assert counters["stats"]["unique_graphs"] == 1
    ask(doubling, 5)
    assert counters["stats"]["unique_graphs"] == 1


def test_many_models_are_compiled_one_after_the_other():
    for width in range(1, 13):
        process = JointProcess({"x": GaussianProcess(Flow(), Euclidean(width))})
        denoiser = Denoiser(Doubling(width), process, "data")
        with compiled(denoiser):
            denoiser({"x": torch.ones(3, 20, width)}, torch.full((3,), 0.5))
            assert counters["stats"]["unique_graphs"] == width


def test_nothing_is_compiled_where_nobody_wants_it(doubling):
    with compiled(doubling, wanted=False):
        ask(doubling, 4)
    assert not counters["stats"]


def test_a_missing_compiler_is_one_line(doubling, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    plain = ask(doubling, 4)
    monkeypatch.setattr(torch, "compile", partial(torch.compile.func, backend=broken))
    with pytest.raises(UserError, match=r"^--compile: .*No working C\+\+ compiler.*leave --compile out$"):
        with compiled(doubling):
            ask(doubling, 4)
    assert ask(doubling, 4) == plain
