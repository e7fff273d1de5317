"""Edits against exact denoisers: what is kept stays, the rest has the right law, and ways between samples are arcs."""

from __future__ import annotations

import math

import dots
import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser
from gendiff.files import UserError
from gendiff.modality import Part
from gendiff.model import Model
from gendiff.model.edit import TASKS, sampler_of, slerp
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import Ancestral, Heun
from gendiff.schedule import Cosine, Flow
from gendiff.space import Euclidean, ZeroCenterOfMass

# Four points: how far the first two lie apart decides where the others are.
SHAPES = torch.tensor(
    [[[-0.6, 0.0], [0.6, 0.0], [0.0, 1.5], [0.0, -1.5]], [[-1.0, 0.0], [1.0, 0.0], [0.0, 2.1], [0.0, -2.1]]]
)
SPREAD = 0.25


class Points(Part):
    """Points of the plane; those of `kept` stay."""

    def __init__(self, points, kept=0, sizes=(None, None)):
        self.points, self.kept, self.sizes = points, kept, sizes
        self.centre = points.mean(0)
        self.state = {"position": points - self.centre}

    def match(self, other):
        """The other one stands five units to the right."""
        moved = Points(other.points)
        moved.state = other.state | {"position": other.state["position"] + torch.tensor([5.0, 0.0])}
        return self, moved

    def place(self, records, **facts):
        for record in records:
            record += self.centre
            record[: self.kept] = self.points[: self.kept]


class Plane(dots.Dots):
    """Dots that can be edited, with records that are changed in place."""

    def decode(self, state, mask):
        return [x[m].clone() for x, m in zip(state["position"].cpu(), mask.cpu(), strict=True)]

    def parts(self, records, task, keep=None):
        if task in ("grow", "link"):
            points = records[0] if keep is None else records[0][[number - 1 for number in keep]]
            return [Points(points, len(points))]
        return [Points(points) for points in records]


class Exact(AnalyticDenoiser):
    """The exact denoiser; a model asks its weights where they are."""

    def __init__(self, *args):
        super().__init__(*args)
        self.place = nn.Parameter(torch.zeros(1))


def model(weights, law, schedule=None, sizes=None, sampler=None):
    process = JointProcess({"position": GaussianProcess(schedule or Flow(), ZeroCenterOfMass(2))})
    return Model(Plane(sizes or {4: 1}), Exact(process, weights, {"position": law}), sampler or Ancestral(30))


def shapes():
    return model([0.5, 0.5], (SHAPES, SPREAD))


def nearest(records):
    """Which shape each record is."""
    x = torch.stack(records)
    x = x - x.mean(1, keepdim=True)
    return (x[:, None] - (SHAPES - SHAPES.mean(1, keepdim=True))).square().sum((2, 3)).argmin(1)


def test_what_stays_is_copied_exactly_wherever_it_is():
    known = torch.tensor([[501.25, -77.5], [502.5, -77.375]])
    made = shapes().edit([known], "grow", 8).records
    assert all(record.shape == (4, 2) and torch.equal(record[:2], known) for record in made)
    rest = torch.stack([record[2:] for record in made])
    assert (rest - known.mean(0)).norm(dim=-1).max() < 4
    assert rest.std(0).min() > 0.05


@pytest.mark.parametrize("apart", [1.2, 1.9])
def test_the_rest_has_the_law_that_what_stays_gives_it(apart):
    """Given two points, shape k has the weight N(their difference; that in the shape, 2 s²). One walk is biased."""
    known, n = torch.tensor([[-apart / 2, 0.0], [apart / 2, 0.0]]), 300
    away = torch.tensor([apart - 1.2, apart - 2.0])
    exact = torch.softmax(-(away**2) / (4 * SPREAD**2), 0)[1].item()
    once, often = (
        nearest(shapes().edit([known], "grow", n, steps=16, resamples=walks).records).double().mean().item()
        for walks in (1, 16)
    )
    assert abs(often - exact) < 3 * math.sqrt(0.25 / n)
    assert abs(once - exact) > 3 * math.sqrt(0.25 / n)


def test_only_some_elements_may_be_kept():
    given = torch.tensor([[9.0, 9.0], [-1.0, 0.0], [5.0, 5.0], [1.0, 0.0]])
    made = shapes().edit([given], "grow", 20, keep=[2, 4]).records
    assert all(torch.equal(record[:2], given[[1, 3]]) for record in made)
    assert nearest(made).double().mean() > 0.75  # two units apart: the larger shape


def test_sizes_are_those_of_the_model_above_what_stays():
    wide = model([1.0], (0.0, 1.0), sizes={2: 50, 3: 10, 4: 20, 6: 20})
    known = torch.zeros(3, 2) + torch.arange(3)[:, None]
    sizes = torch.tensor([len(record) for record in wide.edit([known], "grow", 300, resamples=1, steps=2).records])
    assert set(sizes.tolist()) == {4, 6}
    assert (sizes == 4).double().mean() == pytest.approx(0.5, abs=0.12)
    asked = wide.edit([known], "grow", 20, sizes=(5, None), resamples=1, steps=2).records
    assert {len(record) for record in asked} == {6}


@pytest.mark.parametrize("task", ["grow", "vary"])
def test_sample_i_depends_on_the_seed_and_i_alone(task):
    wide = model([1.0], (0.0, 1.0), sizes={3: 10, 4: 20, 6: 20})
    known = [torch.tensor([[3.0, 1.0], [4.0, 1.5]])]
    some = {"seed": 5, "steps": 6} | ({"resamples": 3} if task == "grow" else {})
    many = wide.edit(known, task, 20, **some).records
    few = wide.edit(known, task, 7, batch_size=2, **some).records
    other = wide.edit(known, task, 7, **(some | {"seed": 6})).records
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(many, few, strict=False))
    assert not any(a.shape == b.shape and torch.allclose(a, b, atol=1e-3) for a, b in zip(many, other, strict=False))


def test_variations_go_further_away_as_the_strength_grows():
    """An exact mixture of eight shapes: nothing changes at 0, and at 1 every shape is as likely as another."""
    centres = torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(1)) * 2
    centres -= centres.mean(1, keepdim=True)
    mixed = model([1 / 8] * 8, (centres, 0.1))
    given, n = centres[3] + torch.tensor([30.0, -4.0]), 200
    moves, same = [], []
    for strength in (0.0, 0.1, 0.3, 0.5, 0.7, 1.0):
        made = torch.stack(mixed.edit([given], "vary", n, strength=strength, steps=20).records)
        assert (made.mean(1) - given.mean(0)).abs().max() < 1e-4  # where the input stands
        moves.append((made - given).square().sum(-1).mean(1).sqrt().mean().item())
        shape = made - made.mean(1, keepdim=True)
        same.append((shape[:, None] - centres).square().sum((2, 3)).argmin(1).eq(3).double().mean().item())
    assert moves[0] < 1e-5
    assert moves == sorted(moves)
    assert moves[2] < 0.5 * moves[-1]
    assert same[1] == 1
    assert same[-1] == pytest.approx(1 / 8, abs=4 * math.sqrt(1 / 8 * 7 / 8 / n))


def test_an_arc_has_even_steps_of_angle_and_its_ends():
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    b = b / b.norm() * a.norm()
    arc = slerp(a, b, torch.linspace(0, 1, 5))
    assert torch.allclose(arc[0], a, atol=1e-6)
    assert torch.allclose(arc[-1], b, atol=1e-6)
    assert torch.allclose(arc.flatten(1).norm(dim=1), a.norm().expand(5), atol=1e-5)
    unit = arc.flatten(1) / a.norm()
    steps = (unit[1:] * unit[:-1]).sum(1)
    assert torch.allclose(steps, steps[:1].expand(4), atol=1e-5)
    assert torch.allclose(slerp(a, a, torch.tensor([0.3]))[0], a, atol=1e-6)


@pytest.mark.parametrize("schedule", [Flow(), Cosine()])
@pytest.mark.parametrize("counts", [(5, 5), (3, 6), (6, 3)])
def test_between_normal_samples_the_way_is_the_arc_itself(schedule, counts):
    """The flow of N(0, s²) is linear, so codes are samples over s. Each frame of the way stands between both inputs."""
    s, n = 0.7, 7
    normal = model([1.0], (0.0, s), schedule, sizes={3: 1, 5: 1, 6: 1})
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(k, 2, generator=generator) * s + 50 for k in counts)
    made = normal.edit([a, b], "interpolate", n, steps=40)
    assert [len(record) for record in made.records] == [
        round(counts[0] + (counts[1] - counts[0]) * i / (n - 1) + 1e-9) for i in range(n)
    ]
    assert torch.allclose(made.records[0], a, atol=2e-2)
    assert torch.allclose(made.records[-1], b - b.mean(0) + a.mean(0) + torch.tensor([5.0, 0.0]), atol=2e-2)
    if counts[0] == counts[1]:
        arcs = slerp(a - a.mean(0), b - b.mean(0), torch.linspace(0, 1, n))
        for arc, record in zip(arcs, made.records, strict=True):
            assert torch.allclose(record - record.mean(0), arc, atol=2e-2)
    assert made.indices == list(range(n))


def test_the_training_mode_comes_back_even_after_an_error():
    wide = shapes()
    wide.denoiser.train()
    wide.edit([SHAPES[0]], "vary", 1, steps=2)
    with pytest.raises(UserError):
        wide.edit([SHAPES[0]], "vary", 1, strength=2.0)
    assert wide.denoiser.training


def test_samplers_of_the_tasks():
    wide = shapes()
    assert sampler_of(wide, "vary") is wide.sampler
    assert sampler_of(wide, "vary", 7).steps == sampler_of(wide, "grow", 7).steps == 7
    assert isinstance(sampler_of(wide, "interpolate", 9), Heun)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("shrink", {}, r"--task must be one of grow, link, vary, interpolate, got 'shrink'"),
        ("grow", {"resamples": 0}, "--resamples must be at least 1, got 0"),
        ("grow", {"steps": 0}, "--steps must be at least 1, got 0"),
        ("grow", {"sizes": (None, 2)}, r"--atoms allows 2 at most, and 2 stay; allow 3 or more, or keep fewer"),
        ("grow", {"sizes": (9, 12)}, "no size between 9 and 12"),
        ("grow", {"only": ["new"]}, "--only knows valid and connected here"),
        ("grow", {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ("vary", {"strength": -0.1}, r"--strength must lie in \[0, 1\]"),
        ("vary", {"strength": math.nan}, r"--strength must lie in \[0, 1\]"),
        ("vary", {"keep": [1]}, "--keep belongs to grow and link; vary may change every element"),
        ("vary", {"sizes": (3, 3)}, "--atoms belongs to grow and link; vary takes its sizes from the input"),
        ("interpolate", {"n": 1}, "-n must be at least 2 for interpolate"),
        ("interpolate", {"only": ["valid"]}, "--only draws until there are enough"),
        ("interpolate", {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
    ],
)
def test_bad_numbers_are_one_line(task, options, message):
    given = [SHAPES[0, :2]] * (2 if task == "interpolate" else 1)
    with pytest.raises(UserError, match=message):
        shapes().edit(given, task, **({"n": 2} | options))


def test_categories_have_no_codes_to_walk_between():
    process = JointProcess(
        {
            "position": GaussianProcess(Flow(), ZeroCenterOfMass(2)),
            "element": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser = Exact(process, [1.0], {"position": (0.0, 1.0), "element": torch.tensor([0.5, 0.5])})
    wide = Model(Plane({4: 1}), denoiser, Ancestral(4))
    part = Points(SHAPES[0])
    part.state["element"] = torch.eye(2)[[0, 1, 0, 1]]
    wide.modality.parts = lambda *_: [part, part]
    with pytest.raises(UserError, match="'element' is categorical"):
        wide.edit([], "interpolate", 3)


def test_a_modality_without_parts_says_so():
    wide = shapes()
    wide.modality = dots.Dots({4: 1})
    with pytest.raises(UserError, match="dots cannot be edited yet"):
        wide.edit([SHAPES[0]], "grow", 2)


def test_the_command_knows_the_same_tasks():
    from gendiff.cli import edit

    assert edit.TASKS == TASKS
