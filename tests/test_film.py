"""A film shows the states that the sampler passed, in the order of the samples, and ends at the samples themselves."""

from itertools import pairwise

import pytest
import torch
from dots import Dots
from rdkit import Chem

import examples
from gendiff import DDIM, Ancestral, UserError
from gendiff.model import Model
from gendiff.model.film import _Recorder, film, stages
from gendiff.ops import Random
from gendiff.sample import Sampler
from gendiff.sample.plan import Table

ROUNDING = 1e-5  # of float32 in another order of operations


@pytest.fixture
def model():
    """Sets of 2 to 5 dots, by a network with random weights."""
    modality = Dots({2: 3, 3: 5, 5: 4}, scale=1.5)
    return Model(modality, modality.denoiser())


def same(these, those, tolerance=0.0):
    assert [len(x) for x in these] == [len(x) for x in those]
    for x, y in zip(these, those, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"steps": 7}, {"sampler": Ancestral(9)}, {"batch_size": 2}, {"sizes": (3, 3)}])
def test_the_last_frame_is_what_the_model_draws(model, options):
    frames = film(model, 11, frames=4, seed=5, **options)
    assert [len(frame) for frame in frames] == [11] * 4
    same(frames[-1], model.draw(11, seed=5, **options).records)
    assert all(not torch.equal(x, y) for x, y in zip(frames[-2], frames[-1], strict=True))


class Spied(Sampler):
    """Ancestral steps one by one, by a loop of our own that notes every state of every sample."""

    def __init__(self, steps):
        self.inner, self.seen = Ancestral(steps), {}

    def __call__(self, denoiser, x_t, mask, condition, random, hooks=(), plan=None, progress=None):
        plan = self.inner.plan(denoiser.process)
        table = Table(denoiser.process, plan, x_t)
        walk = [x_t]
        for step in table:
            walk.append(
                self.inner.step(
                    lambda x, t: denoiser(x, t.expand(len(mask)), mask, condition),
                    walk[-1],
                    step,
                    denoiser.process,
                    mask,
                    random,
                    {},
                )
            )
        for row, index in enumerate(random.indices.tolist()):
            self.seen[index] = [x["position"][row, mask[row]] * 1.5 for x in walk]
        return walk[-1]


@pytest.mark.parametrize(
    ("frames", "shown"), [(2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, range(7)), (50, range(7))]
)
def test_frames_are_the_states_after_evenly_many_steps(model, frames, shown):
    spy = Spied(6)
    last = model.draw_at(torch.arange(9), 3, spy, batch_size=4)
    found = film(model, 9, frames=frames, seed=3, sampler=Ancestral(6), batch_size=4)
    assert len(found) == len(shown)
    for frame, number in zip(found, shown, strict=True):
        same(frame, [spy.seen[i][number] for i in range(9)], ROUNDING)
    same(found[-1], last, ROUNDING)


def test_the_first_frame_is_noise_and_the_last_is_not_it(model):
    """Standard normal positions without their centre of mass: (n - 1) / n of the variance, in units of 1.5."""
    first = film(model, 4000, frames=2, steps=1, sizes=(5, 5))[0]
    assert float(torch.stack(first).var()) == pytest.approx(1.5**2 * 4 / 5, rel=0.03)


def test_what_others_are_drawn_beside_changes_nothing(model):
    alone = film(model, 3, frames=5, seed=2, steps=4, batch_size=1)
    among = film(model, 20, frames=5, seed=2, steps=4)
    for frame, more in zip(alone, among, strict=True):
        same(frame, more[:3], ROUNDING)


class Writes(DDIM):
    """Steps that are written into the state they are given."""

    def step(self, evaluate, x, step, *rest):
        for value in x.values():
            value.mul_(0.5)
        return x


def test_states_are_kept_as_they_were(model):
    frames = film(model, 6, frames=4, sampler=Writes(3))
    for frame, later in pairwise(frames):
        same([x / 2 for x in frame], later)


class Zero:
    """A hook that leaves nothing."""

    def after(self, x, step, process, mask, random):
        return {name: 0 * value for name, value in x.items()}

    def finish(self, x, process, mask):
        return x


class Halved(DDIM):
    """A sampler with a hook of its own, which acts before the film looks."""

    def __call__(self, denoiser, x_t, mask, condition, random, hooks=(), plan=None, progress=None):
        return super().__call__(denoiser, x_t, mask, condition, random, (self, *hooks), plan, progress)

    def after(self, x, step, process, mask, random):
        return {name: value / 2 for name, value in x.items()}

    def finish(self, x, process, mask):
        return x


def test_a_film_shows_what_hooks_leave(model):
    free, halved = (film(model, 4, 3, sampler=kind(2)) for kind in (DDIM, Halved))
    same(halved[0], free[0])
    same(halved[1], [x / 2 for x in free[1]])
    same(halved[2], model.draw(4, sampler=Halved(2)).records)
    mask, random = torch.ones(2, 3, dtype=torch.bool), Random(0, 2)
    recorder = _Recorder(DDIM(2), 3, model.modality.decode)
    recorder(model.denoiser, {"position": torch.ones(2, 3, 2)}, mask, None, random, hooks=(Zero(),))
    assert [float(recorder.records[1][k].abs().max()) for k in (0, 1)] == [1.5, 0]


def test_a_film_of_molecules_with_guidance_by_name():
    model = examples.model()
    frames = film(model, 5, frames=3, seed=1, steps=4, guide=lambda denoiser: denoiser)
    assert [Chem.MolToMolBlock(mol) for mol in frames[-1]] == [
        Chem.MolToMolBlock(mol) for mol in model.draw(5, steps=4, seed=1).records
    ]
    assert all(isinstance(mol, Chem.Mol) for frame in frames for mol in frame)


def test_stages_are_even_and_distinct():
    for steps in range(1, 40):
        for frames in range(2, 60):
            found = [*stages(steps, frames), steps]
            gaps = torch.tensor(found).diff()
            assert found[0] == 0
            assert len(found) == min(frames, steps + 1)
            assert 0 < gaps.min()
            assert gaps.max() - gaps.min() <= 1


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match="frames must be at least 2, noise and data, got 1"):
        film(model, 3, frames=1)
    with pytest.raises(UserError, match="-n must be at least 1, got 0"):
        film(model, 0)
    with pytest.raises(UserError, match="--steps must be at least 1"):
        film(model, 1, steps=0)
