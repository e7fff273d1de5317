"""Score matching without a target: closed forms for Gaussian data, and one expectation with the denoising loss."""

import pytest
import torch
from expectation import At, Gain, plain, quadrature
from torch import nn

from gendiff.denoise import AnalyticDenoiser, Denoiser
from gendiff.objective import ImplicitScoreMatching, Objective, SlicedScoreMatching
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.schedule import VE, Cosine, Flow, Linear
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "flow": Flow(), "ve": VE()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
LOSSES = {
    "implicit": ImplicitScoreMatching,
    "rademacher": SlicedScoreMatching,
    "normal": lambda **options: SlicedScoreMatching(direction="normal", **options),
}


@pytest.mark.parametrize("kind", ["implicit", "rademacher"])
@scheduled
def test_the_linear_score_of_gaussian_data_is_the_minimum(schedule, kind):
    """s = -g x has the loss sigma^2 (g^2 V / 2 - g) with V the variance of x_t: least at 1 / V, -sigma^2 / 2V there."""
    v = 0.6
    for t in (0.01, 0.3, 0.9):
        time = torch.tensor([t], dtype=torch.float64)
        alpha, sigma = schedule.alpha(time).item(), schedule.sigma(time).item()
        variance, scale = alpha**2 * v + sigma**2, (alpha**2 + sigma**2) ** 0.5
        for g in (1 / variance, 0.5 / variance, 2.0):
            denoiser = plain(schedule, "score", network=Gain(-g * scale))
            x_0, mask, random = quadrature(v)
            loss = LOSSES[kind](times=At(t))(denoiser, x_0, mask, None, random)[0].mean()
            assert loss.item() == pytest.approx(sigma**2 * (g**2 * variance / 2 - g), rel=1e-6)
            slope = torch.autograd.grad(loss, denoiser.network.gain)[0].item()
            assert slope == pytest.approx(-(sigma**2) * (g * variance - 1) / scale, rel=1e-5, abs=1e-7)


class Curved(nn.Module):
    """Two fields that see each other and have a curved score; equivariant enough to be projected."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))

    def forward(self, x, noise_level, mask, condition):
        real = mask[..., None].to(x["a"])
        total = (x["a"] * real).sum((1, 2), keepdim=True)
        return {
            "a": torch.tanh(x["a"] * self.w[0] + x["b"][..., :1] + 0.3 * total) * real,
            "b": torch.sin(x["b"] * self.w[1] + x["a"].sum(-1, keepdim=True)) * real,
        }


def curved(space=None):
    process = JointProcess(
        {"a": GaussianProcess(Linear(), space or ZeroCenterOfMass(2)), "b": GaussianProcess(Cosine(), Euclidean(3))}
    )
    return Denoiser(Curved(), process, "noise")


def clean(denoiser, sizes, copies=1):
    mask = size_mask(torch.tensor(sizes), 3).repeat(copies, 1)
    state = {name: v.double() for name, v in denoiser.process.noise(mask[: len(sizes)], Random(5, len(sizes))).items()}
    return {name: value.repeat(copies, 1, 1) for name, value in state.items()}, mask


def jacobian_trace(denoiser, name, x_t, t, mask):
    """tr of the score's Jacobian along an orthonormal basis of the space of a field, of one sample."""
    space = denoiser.process[name].space
    size = x_t[name].numel()
    units = torch.eye(size).double().view(size, *x_t[name].shape[1:])
    projector = torch.stack([space.project(unit[None], mask).flatten() for unit in units])
    basis = torch.linalg.svd(projector).U[:, : round(projector.trace().item())]

    def score(x):
        return denoiser({**x_t, name: x.view_as(x_t[name])}, t, mask).score[name].flatten()

    jacobian = torch.autograd.functional.jacobian(score, x_t[name].flatten())
    return (basis.T @ jacobian @ basis).trace()


@pytest.mark.parametrize("space", [ZeroCenterOfMass(2), Euclidean(2)], ids=["no center", "euclidean"])
def test_the_trace_is_that_of_the_space(space):
    """With padding, for molecules on their subspace, and for one field among two."""
    denoiser = curved(space)
    x_0, mask = clean(denoiser, [2, 3])
    seen = []
    denoiser.register_forward_hook(lambda module, inputs, estimate: seen.append(estimate))
    loss, parts = ImplicitScoreMatching({"b": 0.5}, At(0.3))(denoiser, x_0, mask, None, Random(0, 2))
    assert torch.allclose(loss, parts["a"] + 0.5 * parts["b"])
    estimate = seen[0]
    for name, process in denoiser.process.items():
        sigma = process.schedule.sigma(torch.tensor(0.3).double())
        for i in range(2):
            x_t = {n: v[i : i + 1].detach() for n, v in estimate.x_t.items()}
            score = process.space.project(estimate.score[name][i : i + 1].detach(), mask[i : i + 1])
            trace = jacobian_trace(denoiser, name, x_t, torch.tensor([0.3]).double(), mask[i : i + 1])
            exact = sigma**2 * (0.5 * (score**2).sum() + trace)
            free = process.space.dim(mask[i : i + 1], x_t[name])[0]
            assert parts[name][i].item() == pytest.approx((exact / free).item(), rel=1e-6)


@pytest.mark.parametrize("direction", ["rademacher", "normal"])
def test_slices_have_the_implicit_loss_as_their_mean(direction):
    denoiser = curved()
    x_0, mask = clean(denoiser, [2, 3])
    n = 4000
    many, wide = clean(denoiser, [2, 3], n)
    fixed = {name: value.double() for name, value in denoiser.process.noise(mask, Random(1, 2)).items()}
    denoiser.process.noise = lambda *args: {name: v.repeat(len(args[0]) // 2, 1, 1) for name, v in fixed.items()}
    exact, _ = ImplicitScoreMatching(times=At(0.3))(denoiser, x_0, mask, None, Random(0, 2))
    for slices in (1, 4):
        loss, _ = SlicedScoreMatching(slices, direction, times=At(0.3))(denoiser, many, wide, None, Random(0, 2 * n))
        values = loss.detach().view(n, 2)
        error = values.std(0) / n**0.5
        assert ((values.mean(0) - exact).abs() < 4 * error).all()
        assert (error > 1e-3 * exact.abs()).all()
        if slices == 1:
            single = error
    assert torch.allclose(single / error, torch.full((2,), 2.0).double(), rtol=0.1)


def test_signs_are_exact_where_the_jacobian_is_diagonal():
    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(2))})
    exact = AnalyticDenoiser(process, [1.0], {"x": (0.3, 0.7)})
    x_0, mask = {"x": torch.randn(50, 4, 2).double()}, torch.ones(50, 4).bool()
    losses = [make(times=At(0.4))(exact, x_0, mask, None, Random(0, 50))[0] for make in LOSSES.values()]
    assert torch.allclose(losses[0], losses[1], rtol=1e-10)
    assert not torch.allclose(losses[0], losses[2], rtol=1e-2)


@scheduled
def test_the_expectation_is_half_the_denoising_loss_minus_a_half(schedule):
    """Whatever the network: integration by parts. Over a mixture, by samples that both losses share."""

    class Odd(nn.Module):
        def forward(self, x, noise_level, mask, condition):
            return {"x": torch.tanh(2 * x["x"]) + 0.1 * x["x"] ** 2}

    denoiser = plain(schedule, "v", network=Odd())
    n = 100_000
    x_0 = {"x": torch.where(torch.rand(n, 1, 1) < 0.3, -1.0, 0.5).double()}
    mask = torch.ones(n, 1).bool()
    implicit, _ = ImplicitScoreMatching(times=At(0.5))(denoiser, x_0, mask, None, Random(0, n))
    denoising, _ = Objective("noise", times=At(0.5))(denoiser, x_0, mask, None, Random(0, n))
    difference = (implicit - (denoising - 1) / 2).detach()
    assert abs(difference.mean()) < 4 * difference.std() / n**0.5
    assert difference.std() / n**0.5 < 0.02


def test_score_matching_trains_and_takes_no_categories():
    denoiser = curved()
    x_0, mask = clean(denoiser, [2, 3])
    for make in LOSSES.values():
        loss, _ = make(times=At(0.3))(denoiser, x_0, mask, None, Random(0, 2))
        assert torch.autograd.grad(loss.sum(), denoiser.network.w)[0].all()
        with torch.no_grad():
            same, _ = make(times=At(0.3))(denoiser, x_0, mask, None, Random(0, 2))
        assert torch.equal(same, loss)
    process = JointProcess({"c": CategoricalProcess(Linear(), [0.5, 0.5], Euclidean(2))})
    bits = AnalyticDenoiser(process, [1.0], {"c": [0.5, 0.5]})
    with pytest.raises(ValueError, match="wants Gaussian fields and 'c' is categorical; use Objective"):
        ImplicitScoreMatching()(bits, {"c": torch.eye(2)[:, None]}, torch.ones(2, 1).bool(), None, Random(0, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 0}, "slices must be at least 1, got 0"),
        ({"direction": "east"}, "'rademacher' or 'normal', got 'east'"),
    ],
)
def test_impossible_slices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SlicedScoreMatching(**options)
