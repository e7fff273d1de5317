"""The networks of sequences: blind to padding and batch, aware of order, noise and class; and they learn."""

import json

import pytest
import torch

from gendiff.config import build, describe
from gendiff.files import UserError
from gendiff.nn.birnn import BiRNN
from gendiff.nn.frame import SequenceFrame
from gendiff.nn.sequence import Attention, SequenceTransformer, rotation, turn
from gendiff.nn.unet1d import UNet1d
from gendiff.ops import size_mask

FIELDS = {"stroke": 2, "pen": 1}
SIZES = torch.tensor([5, 12, 1, 2, 7])
CLASSES = torch.tensor([0, 2, -1, 1, 2])
NETWORKS = pytest.mark.parametrize("kind", [BiRNN, SequenceTransformer, UNet1d])


def make(kind, trained=True, dtype=torch.float64, **options):
    """A network, by default moved off its start so that it puts something out."""
    torch.manual_seed(0)
    network = kind(FIELDS, width=16, layers=2, levels=2, conditions={"class": 3}, **options).to(dtype)
    for p in network.parameters() if trained else []:
        p.data += 0.1 * torch.randn_like(p)
    return network


def data(dtype=torch.float64, length=12):
    """States of every size with noise at padding, levels and a mask."""
    random = torch.Generator().manual_seed(1)
    x = {
        n: torch.randn(len(SIZES), length, k, generator=random, dtype=torch.float64).to(dtype)
        for n, k in FIELDS.items()
    }
    return x, torch.randn(len(SIZES), 2, generator=random, dtype=torch.float64).to(dtype), size_mask(SIZES, length)


def distance(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in FIELDS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in (BiRNN, SequenceTransformer, UNet1d)),
        *(
            (BiRNN, {"cell": cell, "expansion": expansion})
            for cell, expansion in (("lstm", 2), ("lstm", 0), ("gru", 0))
        ),
    ],
)
@pytest.mark.parametrize("length", [12, 13, 16, 31])
def test_a_sequence_is_answered_alone_as_in_any_padded_batch(kind, options, length):
    """Whatever stands at padding, however much there is of it, and whoever is in the batch."""
    network = make(kind, **options)
    x, level, mask = data(length=length)
    found = network(x, level, mask, {"class": CLASSES})
    for i, n in enumerate(SIZES.tolist()):
        alone = network(
            {k: v[i : i + 1, :n] for k, v in x.items()}, level[i : i + 1], None, {"class": CLASSES[i : i + 1]}
        )
        for name in FIELDS:
            assert alone[name].abs().max() > 1e-3
            torch.testing.assert_close(found[name][i : i + 1, :n], alone[name], rtol=0, atol=1e-12)
            assert (found[name][i, n:] == 0).all()


@NETWORKS
def test_order_matters(kind):
    """Neither does the answer turn round with the sequence, nor is that to a point blind to the order of the others."""
    network = make(kind, complement=None)
    x, level, _ = data()
    found = network(x, level)
    turned = network({k: v.flip(1) for k, v in x.items()}, level)
    assert distance(found, {k: v.flip(1) for k, v in turned.items()}) > 1e-2
    order = torch.tensor([0, 1, 2, 4, 3, *range(5, 12)])
    swapped = network({k: v[:, order] for k, v in x.items()}, level)
    assert all((swapped[n] - found[n])[:, [2, 5]].abs().amax((1, 2)).min() > 1e-4 for n in FIELDS)


@NETWORKS
def test_every_point_hears_of_every_other(kind):
    network = make(kind, complement=None)
    x, level, mask = data()
    x = {name: value[1:2].requires_grad_() for name, value in x.items()}
    for out, at in ((0, 11), (11, 0)):
        found = network(x, level[1:2], mask[1:2])["stroke"][0, out].sum()
        (gradient,) = torch.autograd.grad(found, x["stroke"], retain_graph=True)
        assert gradient[0, at].abs().max() > 1e-9


@NETWORKS
def test_levels_and_classes_matter_and_an_unknown_class_is_none(kind):
    network = make(kind)
    x, level, mask = data()
    base = network(x, level, mask, {"class": CLASSES})
    for column in (0, 1):
        other = level.clone()
        other[:, column] += 0.5
        found = network(x, other, mask, {"class": CLASSES})
        assert (found["stroke"] - base["stroke"]).abs().amax((1, 2)).min() > 1e-4
    found = network(x, level, mask, {"class": (CLASSES + 1) % 3})
    assert (found["stroke"] - base["stroke"]).abs().amax((1, 2)).min() > 1e-4
    missing = network(x, level, mask, {"class": torch.full_like(CLASSES, -1)})
    assert distance(missing, network(x, level, mask)) == 0
    with pytest.raises(UserError, match="'size' is unknown to this model"):
        network(x, level, mask, {"size": CLASSES})


@NETWORKS
def test_it_starts_at_zero_and_everything_learns(kind):
    x, level, mask = data()
    start = make(kind, trained=False)(x, level, mask, {"class": CLASSES})
    assert all((value == 0).all() for value in start.values())
    network = make(kind)
    found = network(x, level, mask, {"class": CLASSES})
    sum(value.square().sum() for value in found.values()).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


@NETWORKS
def test_in_half_precision_it_says_nearly_the_same(kind):
    network = make(kind, dtype=torch.float32)
    x, level, mask = data(torch.float32)
    whole = network(x, level, mask, {"class": CLASSES})
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, level, mask, {"class": CLASSES})
    for name in FIELDS:
        assert half[name].isfinite().all()
        assert (half[name] - whole[name]).abs().max() < 0.05 * whole[name].abs().max()


@NETWORKS
def test_it_comes_back_from_its_description(kind):
    network = make(kind, complement="difference")
    again = build(json.loads(json.dumps(describe(network)))).double()
    again.load_state_dict(network.state_dict())
    x, level, mask = data()
    assert distance(network(x, level, mask), again(x, level, mask)) == 0


@NETWORKS
def test_it_learns_what_its_neighbours_are_also_in_longer_sequences(kind):
    """Asked for the step before minus the step after, from sequences of 2 to 12 points; then in ones of 24."""
    torch.manual_seed(0)
    network = kind({"stroke": 2}, width=24, layers=1 if kind is UNet1d else 2, complement=None)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=True)
    level = torch.zeros(64, 1)

    def error(sizes):
        mask = size_mask(sizes)
        x = torch.randn(64, mask.shape[1], 2) * mask[..., None]
        wide = torch.nn.functional.pad(x, (0, 0, 1, 1))
        found = network({"stroke": x}, level, mask)["stroke"]
        return ((found - wide[:, :-2] + wide[:, 2:]).square().mean(2) * mask).sum() / mask.sum()

    first = error(torch.full((64,), 24)).item()
    for k in range(100):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - k / 100)
        optimizer.zero_grad()
        error(torch.randint(2, 13, (64,))).backward()
        optimizer.step()
    assert first > 1.5

    assert error(torch.full((64,), 12)) < 0.15
    assert error(torch.full((64,), 24)) < 0.3


def test_the_frame_reads_sums_differences_and_earlier_estimates():
    """Its first layer, of the identity, shows what networks are given."""
    x = {"stroke": torch.tensor([[[1.0], [2.0], [4.0]]]), "pen": torch.tensor([[[7.0], [8.0], [9.0]]])}
    level = torch.zeros(1, 1)
    for complement, expected in (("sum", [0.25, 0.75, 1.75]), ("difference", [1.0, 1.0, 2.0])):
        frame = SequenceFrame({"stroke": 1, "pen": 1}, 3, complement=complement)
        frame.embedding.weight.data, frame.embedding.bias.data = torch.eye(3), torch.zeros(3)
        h, _ = frame.enter(x, level, None, None)
        assert torch.equal(h, torch.stack((x["pen"], x["stroke"], torch.tensor(expected)[None, :, None]), 2)[..., 0])
    frame = SequenceFrame({"stroke": 1, "pen": 1}, 4, complement=None, self_condition=True)
    frame.embedding.weight.data, frame.embedding.bias.data = torch.eye(4), torch.zeros(4)
    h, _ = frame.enter({**x, "pen_previous": x["pen"] + 1}, level, None, None)
    assert torch.equal(h, torch.cat((x["pen"], x["stroke"], x["pen"] + 1, torch.zeros(1, 3, 1)), -1))


def test_bad_arguments_are_one_line():
    for options, words in (
        ({"fields": {}, "complement": None}, "at least one field"),
        ({"fields": {"stroke": 0}}, "stroke = 0 must be positive"),
        ({"fields": {"pen": 2}}, "there must be a field 'stroke'"),
        ({"fields": FIELDS, "complement": "product"}, "complement = 'product'"),
        ({"fields": FIELDS, "levels": 0}, "levels = 0"),
        ({"fields": FIELDS, "width": 20}, "must be a multiple of 2 heads"),
        ({"fields": FIELDS, "layers": 0}, "layers, heads and expansion positive"),
    ):
        with pytest.raises(UserError, match=words):
            SequenceTransformer(**options)


def test_attention_is_its_formula():
    """Softmax over real points of products that depend on features and on j − i."""
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    n, mask = torch.randn(1, 5, 8, dtype=torch.float64), torch.tensor([[True, True, True, True, False]])
    q, k, v = (part.unflatten(-1, (2, 4))[0] for part in attention.inputs(n).chunk(3, -1))
    heads = []
    for head in range(2):
        a, b = (torch.complex(z[:, head, :2], z[:, head, 2:]) for z in (q, k))
        phase = torch.polar(torch.ones(2).double(), torch.tensor([1.0, 1000**-0.5], dtype=torch.float64))
        away = torch.arange(4)[None] - torch.arange(5)[:, None]
        score = (a.conj()[:, None] * b[None, :4] * phase ** away[..., None]).real.sum(-1) / 4**0.5
        heads.append(score.softmax(1) @ v[:4, head])
    torch.testing.assert_close(attention(n, mask)[0], attention.output(torch.cat(heads, -1)), rtol=0, atol=1e-12)


def test_rotations_depend_on_the_distance_alone_at_any_length():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).expand(2, 1, 1, 500, 16)
    cos, sin = rotation(500, 16, q)
    product = (turn(q, cos, sin) @ turn(k, cos, sin).transpose(2, 3))[0, 0]
    for away in (-3, 0, 1, 200):
        diagonal = product.diagonal(away)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-11)
    assert (product.diagonal(1)[0] - product.diagonal(-1)[0]).abs() > 1e-3
