"""The task: its loss falls, its learning rate follows its law, and Lightning around it does what a plain loop does."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import examples
from gendiff.data import batch_stream
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import load
from gendiff.ops import Random
from gendiff.train import train
from gendiff.train.muon import Muon
from gendiff.train.task import DiffusionTask


def task(hydrogens="implicit", **options):
    model = examples.model(hydrogens)
    result = DiffusionTask(model.denoiser, model.modality.objective(), **options)
    result._trainer = SimpleNamespace(precision="32-true")
    return result


def rates(task, batches):
    """The learning rate of each batch, as Lightning would meet it."""
    optimizer = task.configure_optimizers()
    task.optimizers = lambda: optimizer
    seen = []
    for _ in range(batches):
        task.on_train_batch_start(None, 0)
        seen.append({group["lr"] for group in optimizer.param_groups})
        task.batch_number += 1
    assert all(len(rate) == 1 for rate in seen)
    return [rate.pop() for rate in seen]


def test_learning_rate_rises_linearly_then_falls_by_half_a_cosine():
    expected = [3e-3 * min(1, (k + 1) / 20) * (1 + math.cos(math.pi * k / 80)) / 2 for k in range(80)]
    assert rates(task(learning_rate=3e-3, warmup=20, steps=80), 80) == pytest.approx(expected, rel=1e-12)
    assert expected[-1] < 1e-5  # the law ends near zero


def test_learning_rate_without_bounds_stays():
    assert rates(task(learning_rate=3e-3, warmup=2), 50)[2:] == [3e-3] * 48


def test_learning_rate_follows_the_bound_that_comes_first(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gendiff.train.task.time.monotonic", lambda: now[0])
    timed = task(learning_rate=1.0, warmup=1, seconds=40.0, steps=1000)
    timed.on_fit_start()
    for elapsed, batch in ((0, 0), (10, 1), (20, 600), (39, 700), (50, 800)):
        now[0], timed.batch_number = 100 + elapsed, batch
        part = min(1, max(elapsed / 40, batch / 1000))
        assert rates(timed, 1) == pytest.approx([0.5 * (1 + math.cos(math.pi * part))], abs=1e-12)


def test_time_goes_on_where_a_checkpoint_left_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("gendiff.train.task.time.monotonic", lambda: now[0])
    first, second, saved = task(seconds=40.0), task(seconds=40.0), {}
    first.on_fit_start()
    first.batch_number, first.samples_seen, now[0] = 7, 99, 30.0
    first.on_save_checkpoint(saved)
    now[0] = 1000.0
    second.on_load_checkpoint(saved)
    second.on_fit_start()
    assert (second.batch_number, second.samples_seen) == (7, 99)
    assert second.progress() == pytest.approx(0.75)


def test_only_matrices_decay():
    mine = task(weight_decay=0.25)
    groups = mine.configure_optimizers().param_groups
    for group in groups:
        assert all((p.dim() > 1) == (group["weight_decay"] == 0.25) for p in group["params"])
    assert {group["weight_decay"] for group in groups} == {0.25, 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(mine.denoiser.parameters()))


def test_a_batch_is_learned_by_heart():
    """Of molecules with hydrogens: an equivariant network cannot leave the plane of three atoms, noise does."""
    mine = task("explicit")
    batch = examples.model("explicit").modality.encode(examples.arrays()).batch(torch.arange(6, 14))
    optimizer, losses = mine.configure_optimizers(), []
    for k in range(160):
        mine.batch_number = 6  # the same noise and times every time
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - k / 160)
        optimizer.zero_grad()
        loss = mine.training_step(batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_noise_of_a_batch_is_that_of_its_number_and_of_its_samples():
    mine, data = task(seed=3), examples.model().modality.encode(examples.arrays())

    def loss(number, index):
        mine.batch_number = number
        return mine.training_step(data.batch(torch.tensor(index)), 0).item()

    whole = loss(4, [0, 1, 2, 3])
    assert whole == pytest.approx(
        (loss(4, [0, 1]) + loss(4, [2, 3])) / 2, rel=1e-4
    )  # a batch may be split over devices
    assert whole != loss(5, [0, 1, 2, 3])
    assert mine.batch_number == 6
    assert mine.samples_seen == 12


def plain_training(records, *, steps, batch_size, seed, peak, decay, accumulate=1, clip=1.0):
    """What `gendiff train` does, in plain torch: the averaged weights after `steps`, and the last loss."""
    adapter = Molecules.fit(records)
    torch.manual_seed(seed)
    denoiser = adapter.denoiser("tiny")
    data, objective = adapter.encode(records), adapter.objective()
    large = [p for p in denoiser.parameters() if p.dim() == 2 and min(p.shape) >= 8]
    small = [p for p in denoiser.parameters() if p.dim() == 2 and min(p.shape) < 8]
    vectors = [p for p in denoiser.parameters() if p.dim() == 1]
    optimizers = [
        Muon(large, weight_decay=0.01),
        torch.optim.AdamW(
            [{"params": small, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], fused=True
        ),
    ]
    order, averages = batch_stream(data.sizes, batch_size, seed), None
    for k in range(steps * accumulate):
        batch = data.batch(next(order))
        random = Random(seed * 1_000_003 + k, batch.index)
        losses, _ = objective(denoiser, batch.state, batch.mask, None, random)
        (losses.mean() / accumulate).backward()
        if (k + 1) % accumulate:
            continue
        # The norm in the order of Lightning, to the last digit
        ordered = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(ordered, clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1, (k + 1) / 100) * 0.5 * (1 + math.cos(math.pi * k / (steps * accumulate)))
            optimizer.step()
            optimizer.zero_grad()
        weights = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
        n = k // accumulate  # averages taken so far
        d = min(decay, (1 + n) / (10 + n))
        averages = {name: w if n == 0 else d * averages[name] + (1 - d) * w for name, w in weights.items()}
    return averages


@pytest.mark.parametrize(
    ("accumulate", "trainer"), [(1, {}), (3, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05})]
)
def test_training_is_the_plain_loop(tmp_path, accumulate, trainer):
    path = examples.write(tmp_path / "a.sdf")
    options = {"steps": 8, "batch_size": 8, "seed": 5, "average": 0.6, "learning_rate": 5e-3}
    model = train("molecules", [path], tmp_path / "run", say=None, previews=0, trainer=trainer, **options)
    records, _ = Molecules.read([path])
    expected = plain_training(
        records,
        steps=8,
        batch_size=8,
        seed=5,
        peak=5e-3,
        decay=0.6,
        accumulate=accumulate,
        clip=trainer.get("gradient_clip_val", 1.0),
    )
    weights, start = (
        dict(model.denoiser.named_parameters()),
        dict(Molecules.fit(records).denoiser("tiny").named_parameters()),
    )
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=2e-6)
    assert any((weights[name] - start[name]).abs().max() > 1e-3 for name in start)
    assert all(torch.equal(p, weights[n]) for n, p in load(tmp_path / "run").denoiser.named_parameters())


def test_batches_move_to_the_device():
    batch = examples.model().modality.encode(examples.arrays()).batch(torch.arange(2))
    moved = task().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {value.device.type for value in moved.state.values()} == {"meta"}


def test_each_process_takes_its_share_of_a_batch(monkeypatch):
    from gendiff.train.loader import Stream

    mine, data = task(), examples.model().modality.encode(examples.arrays())
    whole = [batch.index for batch, _ in zip(Stream(data, 7, 0, mine), range(8), strict=False)]
    shares = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
        shares.append([batch.index for batch, _ in zip(Stream(data, 7, 0, mine), range(8), strict=False)])
    for index, *parts in zip(whole, *shares, strict=True):
        assert set(torch.cat(parts).tolist()) == set(index.tolist())
        assert all(len(part) for part in parts)  # an empty share would hang the others


def test_workers_are_refused(monkeypatch):
    from gendiff.train.loader import Stream

    monkeypatch.setattr("gendiff.train.loader.get_worker_info", lambda: SimpleNamespace(id=0))
    with pytest.raises(RuntimeError, match="num_workers = 0"):
        next(iter(Stream(examples.model().modality.encode(examples.arrays()), 4, 0, task())))


def test_dropout_is_a_function_of_the_seed_and_the_batch_alone():
    """So a run goes on exactly where it was, and the random numbers of whoever trains stay what they were."""

    class Dropped(torch.nn.Module):
        def forward(self, x, noise_level, mask=None, condition=None):
            return {name: torch.nn.functional.dropout(value, 0.5) for name, value in x.items()}

    def loss(seed, number):
        mine = task(seed=seed)
        mine.denoiser.network, mine.batch_number = Dropped(), number
        return mine.training_step(batch, 0)

    model = examples.model()
    batch = model.modality.encode(examples.arrays()).batch(torch.arange(4))
    seen = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        seen.append(loss(0, 3))
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(*seen)
