"""Ragged samples, batches of one size, and the law of sizes."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff.data import Batch, Grids, Lazy, Ragged, batch_stream, size_batches

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=60)


def ragged(sizes):
    """Samples whose every entry says which sample and which element it is."""
    sizes = torch.tensor(sizes)
    sample = torch.arange(len(sizes)).repeat_interleave(sizes)
    element = torch.cat([torch.arange(int(n)) for n in sizes])
    fields = {"place": torch.stack([sample, element], 1) + 1, "half": (sample + element / 16)[:, None] + 0.5}
    return Ragged(sizes, fields, {"label": torch.arange(len(sizes)) * 10.0})


@given(SIZES, st.integers(1, 20), st.integers(-5, 10**12), st.integers(0, 100))
def test_an_epoch_holds_each_sample_once_in_batches_of_nearly_one_size(sizes, batch_size, seed, epoch):
    sizes = torch.tensor(sizes)
    batches = size_batches(sizes, batch_size, seed, epoch)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(sizes)))
    assert len(batches) == math.ceil(len(sizes) / batch_size)
    lengths = sorted(map(len, batches))
    assert lengths[1:] == [batch_size] * (len(batches) - 1)
    assert 1 <= lengths[0] <= batch_size
    # Sorted by size, the batches overlap at their ends only: so all of them together hold one size too many per cut.
    spans = sorted((int(sizes[b].min()), int(sizes[b].max())) for b in batches)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
    assert sum(len(set(sizes[b].tolist())) - 1 for b in batches) <= len(set(sizes.tolist())) - 1
    again = size_batches(sizes, batch_size, seed, epoch)
    assert all(map(torch.equal, batches, again))


def test_a_batch_that_fits_into_one_size_has_one_size():
    batches = size_batches(torch.tensor([3] * 8 + [5] * 8 + [4] * 8), 4, 0, 0)
    assert [len(b) for b in batches] == [4] * 6
    assert len({(int(b.min()) // 8) for b in batches}) == 3
    assert all(len(set((b // 8).tolist())) == 1 for b in batches)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    sizes = torch.randint(2, 6, (200,))
    flat = {(s, e): torch.cat(size_batches(sizes, 8, s, e)).tolist() for s in (0, 1, 2) for e in (0, 1, 2)}
    assert len({tuple(order) for order in flat.values()}) == 9
    torch.manual_seed(99)
    assert torch.cat(size_batches(sizes, 8, 1, 2)).tolist() == flat[1, 2]


def test_small_and_large_samples_are_mixed_over_an_epoch():
    """The batches come shuffled: their sizes do not rise or fall through the epoch."""
    sizes = torch.arange(1, 401)
    means = torch.stack([sizes[b].double().mean() for b in size_batches(sizes, 4, 0, 0)])
    correlation = torch.corrcoef(torch.stack([means, torch.arange(100).double()]))[0, 1]
    assert abs(correlation) < 0.35  # 3.5 standard errors


@settings(max_examples=50)
@given(SIZES, st.integers(1, 20), st.integers(0, 5), st.integers(0, 200))
def test_a_stream_goes_on_where_it_was_left(sizes, batch_size, seed, start):
    sizes = torch.tensor(sizes)
    whole = list(itertools.islice(batch_stream(sizes, batch_size, seed), start + 15))
    rest = list(itertools.islice(batch_stream(sizes, batch_size, seed, start), 15))
    assert all(map(torch.equal, whole[start:], rest))
    per_epoch = math.ceil(len(sizes) / batch_size)
    assert all(map(torch.equal, whole[:per_epoch], size_batches(sizes, batch_size, seed, 0)))


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        size_batches(torch.tensor([3]), 0, 0, 0)


@given(SIZES, st.data())
def test_a_batch_gathers_the_right_rows_and_zero_padding(sizes, draw):
    samples = ragged(sizes)
    index = torch.tensor(draw.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=12)))
    batch = samples.batch(index)
    assert isinstance(batch, Batch)
    assert len(batch) == len(index)
    assert batch.mask.shape == (len(index), max(sizes[i] for i in index))
    assert torch.equal(batch.index, index)
    assert torch.equal(batch.condition["label"], index * 10.0)
    for row, i in enumerate(index.tolist()):
        assert batch.mask[row].tolist() == [k < sizes[i] for k in range(batch.mask.shape[1])]
        for k in range(batch.mask.shape[1]):
            real = k < sizes[i]
            assert batch.state["place"][row, k].tolist() == ([i + 1, k + 1] if real else [0, 0])
            assert batch.state["half"][row, k].item() == (i + k / 16 + 0.5 if real else 0)


@given(SIZES, st.data())
def test_selected_samples_are_the_same_samples(sizes, draw):
    samples = ragged(sizes)
    index = torch.tensor(draw.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=12)))
    part = samples.select(index)
    assert len(part) == len(index)
    mine, theirs = part.batch(torch.arange(len(index))), samples.batch(index)
    assert torch.equal(mine.mask, theirs.mask)
    assert torch.equal(mine.condition["label"], theirs.condition["label"])
    assert all(torch.equal(mine.state[name], theirs.state[name]) for name in samples.fields)


@given(SIZES, st.data())
def test_lazy_samples_make_the_same_batches(sizes, draw):
    samples = ragged(sizes)
    asked = []

    def gather(index):
        asked.append(index.tolist())
        part = samples.select(index)
        return Ragged(part.sizes, part.fields)

    lazy = Lazy(samples.sizes, gather, samples.condition)
    assert len(lazy) == len(sizes)
    assert torch.equal(lazy.sizes, samples.sizes)
    assert asked == []
    index = torch.tensor(draw.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=12)))
    for mine, theirs in (
        (lazy.batch(index), samples.batch(index)),
        (lazy.select(index).batch(torch.arange(len(index))), samples.select(index).batch(torch.arange(len(index)))),
    ):
        assert torch.equal(mine.mask, theirs.mask)
        assert torch.equal(mine.index, theirs.index)
        assert mine.state.keys() == theirs.state.keys()
        assert mine.condition.keys() == theirs.condition.keys()
        assert all(torch.equal(mine.state[name], theirs.state[name]) for name in theirs.state)
        assert torch.equal(mine.condition["label"], theirs.condition["label"])
    assert asked == [index.tolist()] * 2  # what was asked for, and nothing else


def test_a_batch_moves_whole():
    batch = ragged([2, 3]).batch(torch.tensor([1, 0])).to("meta")
    tensors = [*batch.state.values(), batch.mask, *batch.condition.values(), batch.index]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert Batch({"x": torch.zeros(1)}, None, {}, torch.zeros(1)).to("meta").mask is None


def test_grids_are_bytes_in_memory_and_floats_in_a_batch():
    every = torch.arange(256, dtype=torch.uint8).reshape(4, 2, 4, 8)
    samples = Grids({"pixel": every}, {"label": torch.arange(4) * 10.0})
    assert len(samples) == 4
    assert samples.sizes.tolist() == [1, 1, 1, 1]
    assert samples.fields["pixel"].dtype == torch.uint8
    index = torch.tensor([3, 0, 3])
    batch = samples.batch(index)
    assert batch.mask is None
    assert torch.equal(batch.index, index)
    assert batch.condition["label"].tolist() == [30, 0, 30]
    assert batch.state["pixel"].dtype == torch.float32
    assert torch.equal(batch.state["pixel"], every[index].float() / 127.5 - 1)
    assert batch.state["pixel"].min() == -1
    assert batch.state["pixel"].max() == 1


def test_selected_grids_are_the_same_samples():
    samples = Grids({"pixel": torch.randint(0, 256, (5, 3, 4, 2)).to(torch.uint8)}, {"label": torch.arange(5)})
    index = torch.tensor([4, 1, 4])
    part = samples.select(index)
    mine, theirs = part.batch(torch.tensor([2, 1])), samples.batch(index[[2, 1]])
    assert isinstance(part, Grids)
    assert len(part) == 3
    assert torch.equal(mine.state["pixel"], theirs.state["pixel"])
    assert torch.equal(mine.condition["label"], theirs.condition["label"])
    assert mine.index.tolist() == [2, 1]


def test_grids_of_floats_such_as_codes_are_taken_as_they_are():
    codes = torch.randn(3, 4, 2, 2)
    samples = dataclasses.replace(Grids({"code": codes}), condition={"label": torch.arange(3)})
    batch = samples.batch(torch.tensor([1, 2]))
    assert torch.equal(batch.state["code"], codes[1:])
    assert batch.condition["label"].tolist() == [1, 2]


def test_grids_are_gathered_into_plain_memory():
    """Channels first, whatever the layout of the whole set, which is that of pictures in files."""
    last = torch.randint(0, 256, (6, 4, 5, 3)).to(torch.uint8)
    batch = Grids({"pixel": last.permute(0, 3, 1, 2)}).batch(torch.tensor([5, 0]))
    assert batch.state["pixel"].is_contiguous()
    assert torch.equal(batch.state["pixel"], last[[5, 0]].permute(0, 3, 1, 2).float() / 127.5 - 1)


def test_grids_make_batches_like_other_samples():
    samples = Grids({"pixel": torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)})
    batches = [samples.batch(index) for index in itertools.islice(batch_stream(samples.sizes, 4, 0), 3)]
    values = torch.cat([batch.state["pixel"].flatten() for batch in batches])
    assert ((values + 1) * 127.5).round().sort().values.tolist() == list(range(10))
