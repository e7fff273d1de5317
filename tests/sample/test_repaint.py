"""The plan of RePaint: its counts, and that it brings free entries to their conditional law."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser, Estimate
from gendiff.guide import Replacement
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun, downward, repaint_plan, time_grid
from gendiff.schedule import Cosine, Flow, Linear
from gendiff.space import Euclidean, ZeroCenterOfMass


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_defaults_make_the_steps_of_the_paper():
    """2,410 down and 2,160 up, each one step of 250; 24 places of 9 jumps; from noise to clean data."""
    plan, times = repaint_plan(), time_grid(250)
    index = {time: i for i, time in enumerate(times)}
    moves = [index[s] - index[t] for t, s in plan]
    assert Counter(moves) == {1: 2410, -1: 2160}
    assert all(a[1] == b[0] for a, b in pairwise(plan))
    assert (plan[0][0], plan[-1][1]) == (1.0, 0.0)
    levels = [250] + [250 - index[s] for _, s in plan]
    turns = Counter(b for a, b, c in zip(levels, levels[1:], levels[2:], strict=False) if a > b < c)
    assert turns == dict.fromkeys(range(1, 241, 10), 9)


def test_a_small_plan_written_out():
    grid = [1.0, 0.6, 0.3, 0.1, 0.0]
    names = "".join("abcde"[grid.index(s)] for _, s in repaint_plan(grid, 2, 2))
    assert names == "bcd" + "cb" + "cd" + "e"
    names = "".join("abcde"[grid.index(s)] for _, s in repaint_plan(grid, 1, 3))
    assert names == "b" + "ab" + "ab" + "c" + "bc" + "bc" + "d" + "cd" + "cd" + "e"


def test_one_walk_is_the_plain_plan():
    assert repaint_plan(20, resamples=1) == downward(time_grid(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jump_length": 0}, "jump_length and resamples must be at least 1, got 0 and 10"),
        ({"resamples": 0}, "must be at least 1, got 10 and 0"),
        ({"grid": 10}, "a jump of 10 steps needs a grid of more steps, got 10"),
        ({"grid": [1.0, 0.2, 0.5, 0.0]}, r"the times of a grid must decrease, got \[1.0, 0.2, 0.5, 0.0\]"),
        ({"grid": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        repaint_plan(**options)


class Pair:
    """Two numbers with the law N(MEAN, COVARIANCE), on two nodes."""

    MEAN, COVARIANCE = f64(0.5, -0.3), f64([1.0, 0.9], [0.9, 1.2])

    def __init__(self, schedule):
        self.process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1))})

    def __call__(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        alpha, sigma = (f(t)[:, None, None] for f in (self.process.schedule.alpha, self.process.schedule.sigma))
        gain = alpha * self.COVARIANCE @ torch.linalg.inv(alpha**2 * self.COVARIANCE + sigma**2 * torch.eye(2))
        mean = self.MEAN[:, None]
        return Estimate(self.process, x_t, t, {"x": mean + gain @ (x_t["x"] - alpha * mean)})


class Still(Random):
    """Noise at its mean, zero: what comes of affine steps then is its mean, without an error."""

    def normal(self, shape):
        return torch.zeros(shape)


MASK, KEEP, KNOWN = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, False]]), f64([[2.0], [0.0]])


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Flow()], ids=["linear", "cosine", "flow"])
@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_resampling_brings_the_mean_of_the_free_number_to_the_conditional_one(make, schedule):
    denoiser, c = Pair(schedule), Pair.COVARIANCE
    exact, errors = (Pair.MEAN[1] + c[1, 0] / c[0, 0] * (2.0 - Pair.MEAN[0])).item(), []
    for resamples in (1, 2, 4, 10):
        start, hook = {"x": torch.zeros(1, 2, 1).double()}, Replacement({"x": KNOWN}, {"x": KEEP})
        plan = repaint_plan(40, 5, resamples)
        end = make()(denoiser, start, MASK, random=Still(0, 1), hooks=[hook], plan=plan)["x"].flatten()
        assert end[0] == 2.0
        errors.append(abs(end[1].item() - exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.2
    assert errors[-1] < 0.3 * errors[0]


@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_fields_of_every_kind_walk_it_with_their_known_entries_untouched(make):
    """Classes too, and positions that stand elsewhere; padding changes nothing."""
    process = JointProcess(
        {
            "position": GaussianProcess(Linear(), ZeroCenterOfMass(2)),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )
    ends = []
    for length in (4, 6):
        mask = size_mask(torch.tensor([4, 3, 4]), length)
        denoiser = AnalyticDenoiser(process, [1.0], {"position": (0.0, 0.5), "element": f64(0.5, 0.3, 0.2)})
        known = {k: v.double() for k, v in process.prior(process.noise(mask, Random(9, 3)), mask).items()}
        known["position"] = known["position"] + 20 * mask[..., None]
        keep = torch.zeros(3, length, dtype=torch.bool)
        keep[:, :2] = True
        start = {k: v.double() for k, v in process.prior(process.noise(mask, Random(0, 3)), mask).items()}
        hook, plan = Replacement(known, {"position": keep, "element": keep}), repaint_plan(12, 3, 3)
        end = make()(denoiser, start, mask, random=Random(1, 3), hooks=[hook], plan=plan)
        for name, value in known.items():
            assert torch.equal(end[name][keep], value[keep])
            assert not end[name][~mask].any()
        ends.append(end)
    assert torch.allclose(ends[0]["position"], ends[1]["position"][:, :4], atol=1e-4)
    assert torch.equal(ends[0]["element"], ends[1]["element"][:, :4])
