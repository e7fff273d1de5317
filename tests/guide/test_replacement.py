"""Replacement of known entries."""

import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser
from gendiff.guide import Replacement
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun, downward
from gendiff.schedule import Cosine, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

samplers = pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


# Four nodes: the first two are near or far from one another, and that decides all the rest.
NEAR = [[-0.5, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, -1.0]]
FAR = [[-5.0, 0.0], [5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
SHAPES = f64(NEAR, FAR)
CLASSES = f64([[0.9, 0.05, 0.05]] * 4, [[0.05, 0.05, 0.9]] * 4)


def shapes(length=4):
    process = JointProcess(
        {
            "position": GaussianProcess(Polynomial(), ZeroCenterOfMass(2)),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        }
    )
    pad = (0, 0, 0, length - 4)
    law = {"position": (nn.functional.pad(SHAPES, pad), 0.15), "element": nn.functional.pad(CLASSES, pad, value=1 / 3)}
    return AnalyticDenoiser(process, [0.5, 0.5], law)


def complete(make, n=200, length=4, steps=40, shift=20.0, plan=None, indices=None):
    """Give the first two nodes of one shape or the other, anywhere in the plane, and let the sampler do the rest."""
    mask = size_mask(torch.full((n,), 4), length)
    wanted = torch.arange(n) % 2 if indices is None else indices % 2
    random = Random(0, torch.arange(n) if indices is None else indices)
    known = nn.functional.pad(SHAPES[wanted], (0, 0, 0, length - 4)) + shift * (1 + wanted[:, None, None])
    keep = torch.zeros(n, length, dtype=torch.bool)
    keep[:, :2] = True
    hook = Replacement({"position": known * keep[..., None]}, {"position": keep})
    denoiser = shapes(length)
    start = {k: v.double() for k, v in denoiser.process.prior(denoiser.process.noise(mask, random), mask).items()}
    end = make(steps)(denoiser, start, mask, random=random, hooks=[hook], plan=plan)
    return end, known, wanted, mask


@samplers
def test_known_nodes_are_copied_exactly_wherever_they_are(make):
    end, known, _, _ = complete(make, n=20)
    assert torch.equal(end["position"][:, :2], known[:, :2])
    assert not torch.allclose(end["position"][:, 2:], known[:, 2:], atol=1e-3)


@samplers
def test_the_rest_follows_from_what_is_known(make):
    """The distance of the known pair decides the shape: the free nodes and the classes come out as it says."""
    end, _, wanted, _ = complete(make)
    relative = end["position"] - end["position"].mean(1, keepdim=True)
    distance = (relative[:, None] - (SHAPES - SHAPES.mean(1, keepdim=True))).square().sum((2, 3))
    right = distance.argmin(1) == wanted
    assert right.double().mean() >= 0.95
    assert distance.amin(1).mean() < 1.0
    majority = (end["element"].argmax(-1) == 2 * wanted[:, None]).double().mean()
    assert majority == pytest.approx(0.9, abs=0.04)


def test_without_the_hook_the_shape_is_a_coin():
    denoiser, n = shapes(), 200
    mask, random = torch.ones(n, 4, dtype=torch.bool), Random(0, n)
    start = denoiser.process.prior(denoiser.process.noise(mask, random), mask)
    x = DDIM(40)(denoiser, start, mask, random=random)["position"].double()
    share = ((x[:, 0] - x[:, 1]).norm(dim=-1) > 5).double().mean()
    assert 0.35 < share < 0.65


@samplers
def test_where_the_caller_stands_and_padding_do_not_matter(make):
    indices = torch.tensor([3, 4])
    end, known, _, _ = complete(make, 2, indices=indices)
    elsewhere, other, _, _ = complete(make, 2, shift=-55.0, indices=indices)
    assert torch.allclose(end["position"] - known[:, :1], elsewhere["position"] - other[:, :1], atol=1e-6)
    assert torch.equal(end["element"], elsewhere["element"])
    padded, _, _, mask = complete(make, 2, length=6, indices=indices)
    assert torch.allclose(padded["position"][:, :4], end["position"], atol=1e-4)
    assert torch.equal(padded["element"][:, :4], end["element"])
    assert not padded["element"][~mask].any()
    assert not padded["position"][~mask].any()


def test_along_the_way_the_state_stays_in_its_space_and_the_known_part_has_the_right_noise():
    """After each step the known nodes, relative to one another, are q(x_s | x_0)."""
    n, s = 4000, 0.4
    denoiser = shapes()
    process, mask = denoiser.process, torch.ones(n, 4, dtype=torch.bool)
    keep = torch.tensor([[True, True, True, False]]).expand(n, 4)
    known = (SHAPES[1] + 7.0).expand(n, 4, 2) * keep[..., None]
    seen = []

    class Spy(Replacement):
        def after(self, x, step, *rest):
            seen.append(super().after(x, step, *rest)["position"])
            return {**x, "position": seen[-1]}

    random = Random(1, n)
    start = {k: v.double() for k, v in process.prior(process.noise(mask, random), mask).items()}
    hook = Spy({"position": known}, {"position": keep})
    DDIM()(denoiser, start, mask, random=random, hooks=[hook], plan=[(1.0, s), (s, 0.0)])
    assert seen[0].mean(1).abs().max() < 1e-6  # noise is drawn in float32
    alpha, sigma = (f(f64(s)).item() for f in (Polynomial().alpha, Polynomial().sigma))
    relative = seen[0][:, :2] - seen[0][:, 2:3]
    error = relative - alpha * (SHAPES[1, :2] - SHAPES[1, 2])
    assert error.mean(0).abs().max() < 4 * (2 * sigma**2 / n) ** 0.5
    assert torch.allclose(error.var(0), torch.full((2, 2), 2 * sigma**2).double(), rtol=0.1)
    clean = seen[1][:, :2] - seen[1][:, 2:3]
    assert torch.allclose(clean, (SHAPES[1, :2] - SHAPES[1, 2]).expand(n, 2, 2), atol=1e-12)  # no noise at the end


def test_a_step_that_adds_noise_adds_it_to_known_and_free_entries_alike():
    """The state is then that of q(x_t | x_s) in all of its fields, to the last bit; known entries keep their noise."""
    denoiser, n = shapes(), 6
    process, mask, seen = denoiser.process, size_mask(torch.tensor([4, 3] * 3), 4), []
    keep = torch.tensor([[True, True, False, False]]).expand(n, 4)

    class Spy(Replacement):
        def after(self, x, step, *rest):
            seen.append(super().after(x, step, *rest))
            return seen[-1]

    random = Random(1, n)
    start = {k: v.double() for k, v in process.prior(process.noise(mask, random), mask).items()}
    known = {"position": SHAPES[1].expand(n, 4, 2) * mask[..., None], "element": CLASSES[1].round().expand(n, 4, 3)}
    known["element"] = known["element"] * mask[..., None]
    hook = Spy(known, {"position": keep, "element": keep})
    DDIM()(denoiser, start, mask, random=random, hooks=[hook], plan=[(1.0, 0.3), (0.3, 0.6), (0.6, 0.2), (0.2, 0.0)])
    random = Random(1, n, draws=2 + 1 + 2)  # the start; classes of the first step, and known entries after it
    t, s = f64(*[0.6] * n), f64(*[0.3] * n)
    again = process.renoise(seen[0], s, t, process.noise(mask, random), mask)
    for name, value in again.items():
        assert torch.equal(seen[1][name], value)
    assert not torch.equal(seen[1]["position"], seen[0]["position"])


def test_classes_and_plain_fields_are_replaced_too():
    process = JointProcess(
        {
            "x": GaussianProcess(Linear(), Euclidean(2)),
            "c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
            "b": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2, "pair")),
        }
    )
    denoiser = AnalyticDenoiser(process, [1.0], {"x": (0.0, 1.0), "c": f64(0.5, 0.5), "b": f64(0.5, 0.5)})
    n, mask = 4, size_mask(torch.tensor([3, 2, 3, 1]), 3)
    random = Random(0, n)
    start = process.prior(process.noise(mask, random), mask)
    known = {name: p.prior(p.noise(mask, Random(9, n)), mask) for name, p in process.items()}
    first = torch.zeros(n, 3, dtype=torch.bool)
    first[:, 0] = True
    pair = torch.zeros(n, 3, 3, 1, dtype=torch.bool)
    pair[:, 0, 1] = pair[:, 1, 0] = True
    keep = {"x": first[..., None].expand(n, 3, 2) & torch.tensor([True, False]), "c": first, "b": pair}
    end = DDIM(20)(denoiser, start, mask, random=random, hooks=[Replacement(known, keep)])
    assert torch.equal(end["x"][:, 0, 0], known["x"][:, 0, 0])
    assert not torch.isclose(end["x"][:, 0, 1], known["x"][:, 0, 1]).any()
    assert torch.equal(end["c"][:, 0], known["c"][:, 0])
    assert torch.equal(end["b"][:, 0, 1], known["b"][:, 0, 1])
    for name, p in process.items():
        assert torch.equal(end[name], p.space.project(end[name], mask))
    free = torch.stack([end["c"][:, 1:], known["c"][:, 1:]])[:, mask[:, 1:]]
    assert not torch.equal(free[0], free[1])


def test_resampling_brings_the_rest_closer_to_the_conditional_law():
    """On a correlated pair replacement alone is biased; walking up and down again (RePaint) mends it."""
    process = JointProcess({"x": GaussianProcess(Cosine(), Euclidean(1))})
    means = torch.linspace(-2, 2, 9, dtype=torch.float64)
    denoiser = AnalyticDenoiser(process, [1 / 9] * 9, {"x": (means[:, None, None].expand(9, 2, 1), 0.3)})
    n = 500
    mask, keep = torch.ones(n, 2, dtype=torch.bool), torch.tensor([[True, False]]).expand(n, 2)
    hook = Replacement({"x": torch.full((n, 2, 1), 1.2).double()}, {"x": keep})
    weights = torch.softmax(-0.5 * ((1.2 - means) / 0.3) ** 2, 0)
    exact, errors = (weights @ means).item(), []
    grid = [k / 30 for k in range(30, -1, -1)]
    for repeats in (1, 6):
        plan = []
        for t, s in downward(grid):
            plan += [(t, s), (s, t)] * (repeats - 1 if s > 0 else 0) + [(t, s)]
        random = Random(0, n)
        start = process.prior(process.noise(mask, random), mask)
        end = Ancestral()(denoiser, {"x": start["x"].double()}, mask, random=random, hooks=[hook], plan=plan)["x"]
        errors.append(abs(end[:, 1].mean().item() - exact))
    assert errors[0] > 0.1
    assert errors[1] < 0.5 * errors[0]


def test_a_plan_that_ends_in_noise_is_not_finished():
    """Clean known values have no place in a noisy state: they come in where the walk is taken to its end."""
    noisy, known, _, _ = complete(DDIM, n=20, plan=[(1.0, 0.7), (0.7, 0.5)])
    assert noisy["position"].mean(1).abs().max() < 1e-6  # still in the space (to float32 noise), not where `known` is
    assert (noisy["position"][:, :2] - known[:, :2]).abs().min() > 1


def test_known_values_must_have_the_shape_of_the_state():
    denoiser, mask = shapes(), torch.ones(2, 4, dtype=torch.bool)
    start = denoiser.process.prior(denoiser.process.noise(mask, Random(0, 2)), mask)
    hook = Replacement({"position": SHAPES[:1]}, {"position": mask})
    with pytest.raises(ValueError, match=r"'position' was given in shape \(1, 4, 2\) and is \(2, 4, 2\) in the state"):
        DDIM(3)(denoiser, start, mask, hooks=[hook])


def test_fields_must_match():
    with pytest.raises(ValueError, match=r"known and keep must name the same fields, got \['x'\] and \['y'\]"):
        Replacement({"x": torch.zeros(1, 1, 1)}, {"y": torch.zeros(1, 1).bool()})
