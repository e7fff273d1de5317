"""Edits against exact denoisers: what is kept stays, the rest has the right law, and ways between samples are arcs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import dots
import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser
from gendiff.files import UserError
from gendiff.modality import Part, Task
from gendiff.model import Model
from gendiff.model.edit import slerp
from gendiff.model.keep import Framed, adrift, agreement, guided_plan
from gendiff.model.tasks import chosen, find_task, sampler_of
from gendiff.ops import Random
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import Ancestral, Heun, Table
from gendiff.schedule import VE, Cosine, Flow
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


class Question(Part):
    """The number of a component of the mixture."""

    state: ClassVar = {}

    def __init__(self, component):
        self.condition = {"component": torch.tensor([component])}

    def match(self, other):
        raise NotImplementedError

    def place(self, records, **facts):
        pass


@dataclass(frozen=True)
class Steered(Task):
    """With levels and guidance of its own."""

    levels: int = 5
    agreement: float = 1.0


class Plane(dots.Dots):
    """Dots that can be edited, with records that are changed in place."""

    tasks: ClassVar = {
        "grow": Task("keep", "points stay"),
        "link": Task("keep", "points stay"),
        "steer": Steered("keep", "points stay and draw the others to them"),
        "vary": Task("noise", "all may move"),
        "shake": Task("noise", "all may move far", strength=0.9),
        "interpolate": Task("path", "from one to another"),
        "ask": Task("ask", "points of the component that the input names"),
    }

    def condition(self, wanted):
        return {name: torch.as_tensor(value).reshape(-1) for name, value in wanted.items()}

    def decode(self, state, mask, condition=None):
        return [x[m].clone() for x, m in zip(state["position"].cpu(), mask.cpu(), strict=True)]

    def parts(self, records, task, keep=None):
        if task in ("grow", "link", "steer"):
            points = records[0] if keep is None else records[0][[number - 1 for number in keep]]
            return [Points(points, len(points))]
        if task == "ask":
            return [Question(records[0])]
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


class Steps(Points):
    """Ways from point to point, of which the first is not known; nothing has a place."""

    def __init__(self, points):
        super().__init__(points)
        self.state, self.known = {"position": points}, {"position": torch.arange(len(points)) > 0}

    def place(self, records, **facts):
        pass


def test_an_entry_of_a_kept_element_may_be_free_and_follows_from_what_is_known():
    """Two laws of three steps. The second step says how likely each is, the first is free, the third is to come."""
    m, spread, n = 0.5, 0.6, 400
    law = (torch.tensor([-m, m])[:, None, None].expand(2, 3, 2), spread)
    process = JointProcess({"position": GaussianProcess(Flow(), Euclidean(2))})
    wide = Model(Plane({3: 1}), Exact(process, [0.5, 0.5], {"position": law}), Ancestral(30))
    given = torch.tensor([[77.0, 77.0], [0.4, 0.2]])
    wide.modality.parts = lambda *_: [Steps(given)]
    made = torch.stack(wide.edit([], "grow", n, steps=16, resamples=12).records)
    assert torch.equal(made[:, 1], given[1].expand(n, 2))
    mean = m * math.tanh(m * given[1].sum() / spread**2)
    free = made[:, [0, 2]]
    assert free.mean((0, 2)).tolist() == pytest.approx([mean] * 2, abs=0.1)  # one walk gives 0.1 instead of 0.34
    variance = spread**2 + m**2 - mean**2
    assert 0.65 * variance < free.var((0, 2)).min() < free.var((0, 2)).max() < 1.1 * variance  # coarse steps take some


class Adrift(Points):
    """Points of which it is known how they lie to each other, not where, in a space where everything has its place."""

    adrift = ("position",)

    def place(self, records, **facts):
        pass


def stood(places, spread=SPREAD):
    """The exact model of the two shapes, each at a place of its own."""
    process = JointProcess({"position": GaussianProcess(Flow(), Euclidean(2))})
    law = {"position": (SHAPES + torch.tensor(places)[:, None], spread)}
    return Model(Plane({4: 1}), Exact(process, [0.5, 0.5], law), Ancestral(30))


@pytest.mark.parametrize("apart", [1.2, 1.9])
def test_what_is_known_but_for_its_place_says_which_shape_it_is_and_the_shape_says_where(apart):
    """The weights are those of :func:`test_the_rest_has_the_law_that_what_stays_gives_it`. Given the shape the mean of
    both points is normal around that of the shape, with half the variance of a point."""
    known, n = torch.tensor([[-apart / 2 + 9, 5.0], [apart / 2 + 9, 5.0]]), 400
    places = [[0.05, 0.0], [-0.05, 0.05]]
    wide = stood(places)
    wide.modality.parts = lambda *_: [Adrift(known)]
    made = torch.stack(wide.edit([], "grow", n, steps=16, resamples=16).records)
    assert torch.allclose(made[:, 1] - made[:, 0], (known[1] - known[0]).expand(n, 2), atol=1e-5)
    away = torch.tensor([apart - 1.2, apart - 2.0])
    exact = torch.softmax(-(away**2) / (4 * SPREAD**2), 0)
    shape, likely = nearest(list(made)), int(exact.argmax())
    assert abs((shape == 1).double().mean().item() - exact[1].item()) < 3.5 * math.sqrt(0.25 / n)
    middle = made[:, :2].mean(1)[shape == likely] - torch.tensor(places)[likely]
    assert middle.mean(0).abs().max() < 4 * SPREAD * math.sqrt(0.5 / len(middle))
    assert 0.7 < (middle.std() / (SPREAD * math.sqrt(0.5))).item() < 1.1  # coarse steps take some


def test_where_nothing_has_a_place_differences_are_replaced_and_the_mean_stays():
    """At every level: the differences of known elements are those of q(x_s | x_0), their mean is that of the state."""
    process = JointProcess({"position": GaussianProcess(Cosine(), Euclidean(2))})
    mask, random = torch.ones(500, 5, dtype=torch.bool), Random(0, 500)
    known = random.normal((500, 5, 2)) * 0 + torch.arange(10.0).reshape(5, 2) * torch.tensor([1.0, -0.3])
    keep = {"position": torch.tensor([[True, True, True, False, False]]).expand(500, 5)}
    hook = Framed({"position": known}, keep, adrift(process, ["position"]), ["position"])
    x = {"position": random.normal((500, 5, 2)) + 7}
    step = next(iter(Table(process, [(0.6, 0.4)], x)))
    alpha, sigma = step.to["position"].numbers[:2]
    moved = hook.after(x, step, process, mask, random)["position"]
    assert torch.equal(moved[:, 3:], x["position"][:, 3:])
    assert torch.allclose(moved[:, :3].mean(1), x["position"][:, :3].mean(1), atol=1e-5)
    rest = moved[:, 1:3] - moved[:, :2] - alpha * (known[:, 1:3] - known[:, :2])
    assert (rest.mean(0).abs() < 4 * sigma * math.sqrt(2 / 500)).all()
    covariance = torch.einsum("bid,bjd->ij", rest, rest) / 1000
    expected = sigma**2 * torch.tensor([[2.0, -1.0], [-1.0, 2.0]])
    assert torch.allclose(covariance, expected, atol=5 * sigma**2 * math.sqrt(8 / 1000))
    done = hook.finish({"position": moved}, process, mask)["position"]
    assert torch.allclose(done[:, :3] - done[:, :1], known[:, :3] - known[:, :1], atol=1e-5)
    assert torch.allclose(done[:, :3].mean(1), moved[:, :3].mean(1), atol=1e-5)


def test_agreement_is_the_log_probability_of_what_is_known_of_normal_data():
    """Of independent entries of variance 1 given x_t: normal around the estimate, with the posterior variance."""
    process = JointProcess({"position": GaussianProcess(Cosine(), Euclidean(2))})
    exact, mask = Exact(process, [1.0], {"position": (0.0, 1.0)}), torch.ones(2, 3, dtype=torch.bool)
    random = Random(0, 2)
    x_t, t = {"position": random.normal((2, 3, 2))}, torch.tensor([0.3, 0.8])
    estimate = exact(x_t, t, mask)
    keep = {"position": torch.tensor([[True, False, True]]).expand(2, 3)}
    (alpha, sigma) = (
        value[:, None, None] for value in (process["position"].schedule.alpha(t), process["position"].schedule.sigma(t))
    )
    law = torch.distributions.Normal(alpha * x_t["position"], sigma)  # alpha² + sigma² = 1
    values = []
    for known in random.normal((2, 2, 3, 2)).unbind(1):
        log_prob = agreement({"position": known}, keep, process)
        values.append(log_prob(estimate.data, t, mask) - law.log_prob(known)[:, [0, 2]].sum((1, 2)))
    assert torch.allclose(values[0], values[1], atol=1e-5)


def test_guided_walks_cost_as_much_as_they_say():
    """A guided walk costs three: each level is walked a third as often as asked for, in however much noise."""
    wide = shapes()
    sampler = sampler_of(wide, "steer")
    assert sampler.steps == 5
    plan = guided_plan(wide, sampler, 8)
    assert sum(t > s for t, s in plan) == 1 + 5 * 8 + 4
    levels = Flow().log_snr(torch.tensor([t for t, s in plan if t > s], dtype=torch.float64)).unique()
    assert torch.allclose(levels[1:6].diff(), torch.tensor(7 / 5, dtype=torch.float64))  # even, from -5 to 2
    calls = []
    forward = wide.denoiser.forward
    wide.denoiser.forward = lambda *args, **kwargs: (calls.append(1), forward(*args, **kwargs))[1]
    wide.edit([SHAPES[0, :2]], "steer", 1, resamples=24)
    assert len(calls) == 45


def test_what_is_asked_for_is_the_parts_own_or_the_users():
    asked = shapes()
    assert nearest(asked.edit([1], "ask", 12).records).tolist() == [1] * 12
    assert nearest(asked.edit([1], "ask", 12, condition={"component": 0}).records).tolist() == [0] * 12
    both = asked.edit([1], "ask", 12, condition={"component": [0, 1]}, batch_size=5).records
    assert nearest(both).tolist() == [0, 1] * 6
    assert {len(x) for x in model([1.0], (0.0, 1.0), sizes={3: 1, 6: 1}).edit([0], "ask", 9, sizes=(4, 9)).records} == {
        6
    }
    known = torch.tensor([[-0.6, 0.0], [0.6, 0.0]])  # of the first shape, by all that can be seen
    for task, given, more in (("grow", known, {"resamples": 2}), ("vary", SHAPES[0], {"strength": 1.0})):
        made = asked.edit([given], task, 12, steps=12, condition={"component": 1}, **more).records
        assert torch.stack(made)[:, 2:].sub(torch.stack(made)[:, :2].mean(1, keepdim=True)).norm(dim=-1).mean() > 1.8
    told = asked.edit([SHAPES[0], SHAPES[0]], "interpolate", 3, steps=20, condition={"component": 0}).records
    assert torch.allclose(told[0], SHAPES[0], atol=2e-2)
    with pytest.raises(UserError, match="'component' cannot be asked of this model"):
        asked.modality.condition = lambda wanted: dots.Dots.condition(asked.modality, wanted)
        asked.edit([SHAPES[0]], "vary", 1, condition={"component": 0})


def test_guidance_is_classifier_free():
    """Of a mixture the guided estimate lies beyond that of the component, away from the other."""
    asked = shapes()
    plain, guided = (
        torch.stack(asked.edit([1], "ask", 40, guidance=w).records).sub(0).norm(dim=-1)[:, 2:].mean()
        for w in (1.0, 3.0)
    )
    assert guided > plain + 0.05


def test_a_task_has_a_strength_of_its_own():
    asked = shapes()
    near, far, same = (
        torch.stack(asked.edit([SHAPES[0]], task, 30, **more).records)
        for task, more in (("vary", {}), ("shake", {}), ("vary", {"strength": 0.9}))
    )
    assert torch.equal(far, same)
    assert not torch.equal(near, far)
    assert asked.edit([SHAPES[0, :2]], None, 1, resamples=1).records[0].shape == (4, 2)  # the first task is the default


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


class Ordered(Points):
    """Two sequences, elements 0, 1 of the shorter answering to 0, 3 of the longer; 2, 1 come in, in this order."""

    def match(self, other):
        self.order, other.order = (torch.tensor([0, 1] if len(x) == 2 else [0, 3, 2, 1]) for x in (self, other))
        return self, other


@pytest.mark.parametrize("turned", [False, True])
def test_what_comes_in_takes_its_place_in_the_order(turned):
    s, n = 0.7, 5
    process = JointProcess({"position": GaussianProcess(Flow(), Euclidean(2))})
    normal = Model(Plane({2: 1, 4: 1}), Exact(process, [1.0], {"position": (0.0, s)}), Ancestral(30))
    generator = torch.Generator().manual_seed(2)
    short, long = (torch.randn(k, 2, generator=generator) * s for k in (2, 4))
    pair = [Ordered(long), Ordered(short)] if turned else [Ordered(short), Ordered(long)]
    for part in pair:
        part.state = {"position": part.points}
        part.place = lambda *_, **__: None
    normal.modality.parts = lambda *_: pair
    made = normal.edit([], "interpolate", n, seed=3, steps=40).records
    made = made[::-1] if turned else made
    assert [len(x) for x in made] == [2, 3, 3, 4, 4]
    noise = Random(3, 1).normal((1, 4, 2))[0]
    ends = torch.cat([short / s, noise[2:]]), long[[0, 3, 2, 1]] / s
    arc = slerp(*ends, torch.linspace(0, 1, n)) * s
    rows = {2: [0, 1], 3: [0, 2, 1], 4: [0, 3, 2, 1]}
    for x, frame in zip(made, arc, strict=True):
        assert torch.allclose(x, frame[rows[len(x)]], atol=2e-2)
    assert torch.allclose(made[-1], long, atol=2e-2)


def test_which_records_are_edited():
    """By their numbers, in their order; of a list or of what has a `select`."""
    assert chosen([5, 6, 7], None) == [5, 6, 7]
    assert chosen([5, 6, 7], 2) == [6]
    assert chosen([5, 6, 7], [3, 1, 1]) == [7, 5, 5]
    assert shapes().edit([SHAPES[0], SHAPES[1, :2]], "grow", 1, which=2, steps=2).records[0].shape == (4, 2)
    for number in (0, 4):
        with pytest.raises(UserError, match=f"--which names number {number}, and the input has 3"):
            chosen([5, 6, 7], [1, number])


def test_of_several_parts_sample_i_is_made_of_number_i_modulo_their_count():
    wide = shapes()
    given = [SHAPES[0], SHAPES[1] + 50, SHAPES[0, :3] - 9]
    made = wide.edit(given, "vary", 7, strength=0.0, batch_size=3).records
    for number, record in enumerate(made):
        assert torch.allclose(record, given[number % 3], atol=1e-5)
    assert len(wide.edit(given, "vary", strength=0.0).records) == 3
    alone = wide.edit(given[1:2], "vary", 5, strength=0.5).records
    both = wide.edit(given[:2], "vary", 5, strength=0.5).records
    assert torch.allclose(both[3], alone[3], atol=1e-5)  # by the seed and its number


def test_a_modality_may_say_which_task_an_input_asks_for():
    plane = Plane({4: 1})
    assert find_task(plane, None, [1])[0] == "grow"
    plane.usual_task = lambda records, options: "ask" if "side" in options else "vary"
    assert find_task(plane, None, [1])[0] == "vary"
    assert find_task(plane, None, [1], {"side": 3})[0] == "ask"
    assert find_task(plane, "link", [1])[0] == "link"
    assert find_task(plane)[0] == "grow"


def test_guided_walks_begin_where_the_noise_does():
    """A variance-exploding process of a largest deviation of 4 has a log-SNR of -2 log 4 at t = 1, not -5."""
    process = JointProcess({"position": GaussianProcess(VE(0.01, 4.0), Euclidean(2))})
    exploding = Model(Plane({4: 1}), Exact(process, [1.0], {"position": (0.0, 1.0)}), Ancestral(30))
    plan = guided_plan(exploding, Ancestral(5), 1)
    levels = VE(0.01, 4.0).log_snr(torch.tensor([t for t, _ in plan[:6]], dtype=torch.float64))
    assert torch.allclose(levels, torch.linspace(-2 * math.log(4), 2, 6, dtype=torch.float64), atol=1e-6)
    assert plan[0][0] == 1


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
        (
            "shrink",
            {},
            r"--task must be one of grow, link, steer, vary, shake, interpolate, ask for dots, got 'shrink'",
        ),
        ("grow", {"resamples": 0}, "--resamples must be at least 1, got 0"),
        ("grow", {"steps": 0}, "--steps must be at least 1, got 0"),
        ("grow", {"sizes": (None, 2)}, r"--size allows 2 at most, and 2 stay; allow 3 or more, or keep fewer"),
        ("grow", {"sizes": (9, 12)}, "no size between 9 and 12"),
        ("grow", {"only": ["new"]}, "--only new is not known here"),
        ("grow", {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ("vary", {"strength": -0.1}, r"--strength must lie in \[0, 1\]"),
        ("vary", {"strength": math.nan}, r"--strength must lie in \[0, 1\]"),
        ("vary", {"keep": [1]}, "--keep belongs to grow and link and steer; vary may change every element"),
        (
            "vary",
            {"sizes": (3, 3)},
            "--size belongs to grow and link and steer and ask; vary takes its sizes from the input",
        ),
        ("vary", {"guidance": 2.0}, "--guidance 2 strengthens a condition, and none is given"),
        ("vary", {"guidance": math.nan}, "--guidance must be a finite number, got nan"),
        ("interpolate", {"n": 1}, "-n must be at least 2 for a path"),
        ("interpolate", {"only": ["valid"]}, "--only draws until there are enough"),
        ("interpolate", {"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ("vary", {"mask": 1}, "--mask belongs to other modalities or models; vary has no use for it"),
    ],
)
def test_bad_numbers_are_one_line(task, options, message):
    given = [SHAPES[0, :2]] * (2 if task == "interpolate" else 1)
    with pytest.raises(UserError, match=message):
        shapes().edit(given, task, **({"n": 2} | options))


def test_the_work_begins_when_all_is_checked():
    begun = []
    made = shapes().edit([SHAPES[0, :2]], "grow", 2, steps=2, resamples=1, begin=begun.append).records
    assert len(made) == 2
    assert [len(part) for (part,) in begun] == [2]
    for options in ({"n": 0}, {"sizes": (9, 12)}, {"guidance": 2.0}, {"resamples": 0}, {"only": ["new"]}):
        with pytest.raises(UserError):
            shapes().edit([SHAPES[0, :2]], "grow", **({"n": 2} | options), begin=begun.append)
    with pytest.raises(UserError, match="-n 1 makes fewer than the 2"):
        shapes().edit([SHAPES[0, :2]] * 2, "vary", 1, begin=begun.append)
    assert len(begun) == 1


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
