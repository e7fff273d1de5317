"""The log-probabilities that have a name, and their gradients in closed form."""

import math

import pytest
import torch
from torch import nn

from gendiff.denoise import AnalyticDenoiser, Estimate
from gendiff.guide import Gradient, Replacement, classifier, reconstruction, regressor, similarity
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun
from gendiff.schedule import Cosine, Flow, Linear
from gendiff.space import Euclidean, ZeroCenterOfMass


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


T = f64(0.2, 0.5, 0.8)


def test_a_classifier_gives_the_log_probability_of_the_label_and_none_of_a_missing_one():
    logits = torch.randn(3, 4).double()
    log_prob = classifier(lambda x, t, mask: logits + x["x"], torch.tensor([2, -1, 0]))
    x = torch.randn(3, 4).double().requires_grad_()
    value = log_prob({"x": x}, T, None)
    p = (logits + x).softmax(-1)
    assert torch.allclose(value, torch.stack([p[0, 2].log(), f64(0.0)[0], p[2, 0].log()]))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    one_hot = nn.functional.one_hot(torch.tensor([2, 0, 0]), 4)
    assert torch.allclose(gradient, (one_hot - p) * f64([1.0], [0.0], [1.0]))


@pytest.mark.parametrize("wide", [False, True], ids=["number", "vector"])
def test_a_regressor_is_a_normal_law_around_the_prediction(wide):
    x = torch.randn(3, 2).double()
    value = f64(0.5, -1.0, 2.0)
    value = value[:, None].expand(3, 2) if wide else value
    found = regressor(lambda x, t, mask: x["x"] if wide else x["x"].sum(1), value, 0.4)({"x": x}, T, None)
    law = torch.distributions.Normal(x if wide else x.sum(1), 0.4)
    exact = (law.log_prob(value) - law.log_prob(law.mean)).reshape(3, -1).sum(1)
    assert torch.allclose(found, exact)
    with pytest.raises(ValueError, match="std, how far a property may lie from its value, must be positive, got 0"):
        regressor(lambda x, t, mask: x["x"], value, 0)


def test_similarity_is_the_scaled_cosine_and_its_gradient_turns_without_stretching():
    """d cos(f, g) / df = (g/|g| - cos f/|f|) / |f|, orthogonal to f; parallel embeddings reach the scale."""
    f, g = torch.randn(3, 5).double().requires_grad_(), torch.randn(3, 5).double()
    value = similarity(lambda x, t, mask: x["f"], g, 20.0)({"f": f}, T, None)
    unit_f, unit_g = (v / v.norm(dim=1, keepdim=True) for v in (f.detach(), g))
    cosine = (unit_f * unit_g).sum(1, keepdim=True)
    assert torch.allclose(value, 20 * cosine[:, 0])
    (gradient,) = torch.autograd.grad(value.sum(), f)
    assert torch.allclose(gradient, 20 * (unit_g - cosine * unit_f) / f.detach().norm(dim=1, keepdim=True))
    assert torch.allclose(similarity(lambda x, t, mask: 3 * g, g)({"f": g}, T, None), f64(100.0, 100.0, 100.0))


class Correlated:
    """Numbers on three nodes with a joint Gaussian law, N(MEAN, COVARIANCE)."""

    MEAN, COVARIANCE = f64(0.5, -0.3, 0.1), f64([1.0, 0.8, 0.3], [0.8, 1.2, 0.5], [0.3, 0.5, 0.7])

    def __init__(self, schedule):
        self.process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1))})

    def gain(self, t):
        alpha, sigma = (f(t)[:, None, None] for f in (self.process.schedule.alpha, self.process.schedule.sigma))
        return alpha * self.COVARIANCE @ torch.linalg.inv(alpha**2 * self.COVARIANCE + sigma**2 * torch.eye(3))

    def __call__(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        rest = x_t["x"][..., 0] - self.process.schedule.alpha(t)[:, None] * self.MEAN
        return Estimate(self.process, x_t, t, {"x": (self.MEAN + (self.gain(t) @ rest[..., None])[..., 0])[..., None]})


KEEP = torch.tensor([[True, False, False]])


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_reconstruction_guides_a_joint_gaussian_by_its_analytic_gradient(schedule):
    """x_0 - w alpha / 2 grad |x_a - x_a^|^2 = x_0 + w alpha gain_a^T (x_a - x_a^)."""
    denoiser, x = Correlated(schedule), {"x": torch.randn(3, 3, 1).double()}
    known, keep = {"x": f64(1.5, 0.0, 0.0).expand(3, 3)[..., None]}, {"x": KEEP.expand(3, 3)}
    guide = Gradient(denoiser, reconstruction(known, keep, denoiser.process), 2.0, at="data")
    plain = denoiser(x, T).data["x"][..., 0]
    wanted = plain + 2 * schedule.alpha(T)[:, None] * denoiser.gain(T)[:, 0] * (1.5 - plain[:, :1])
    assert torch.allclose(guide(x, T, torch.ones(3, 3).bool()).data["x"][..., 0], wanted, rtol=1e-10)


class Still(Random):
    """Noise at its mean, zero: what comes of an affine map then is its mean."""

    def normal(self, shape):
        return torch.zeros(shape)


@pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])
def test_reconstruction_mends_the_bias_of_replacement(make):
    """The more the weight, the nearer the mean of the free numbers to E[x_b | x_a]; the known one is copied."""
    denoiser, mask = Correlated(Cosine()), torch.ones(1, 3, dtype=torch.bool)
    known, keep = {"x": f64(2.5, 0.0, 0.0)[None, :, None]}, {"x": KEEP}
    c, mean = denoiser.COVARIANCE, denoiser.MEAN
    exact, errors = mean[1:] + c[1:, 0] / c[0, 0] * (2.5 - mean[0]), []
    for weight in (0.0, 1.0, 2.0, 3.0):
        guided = Gradient(denoiser, reconstruction(known, keep, denoiser.process), weight, at="data")
        start = {"x": torch.zeros(1, 3, 1).double()}
        end = make(60)(guided, start, mask, random=Still(0, 1), hooks=[Replacement(known, keep)])["x"][0, :, 0]
        assert end[0] == 2.5
        errors.append((end[1:] - exact).norm().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_reconstruction_is_a_log_density_of_every_kind_of_field():
    """Of the kept entries only; positions where they fit best; pairs once; classes by their probability."""
    process = JointProcess(
        {
            "position": GaussianProcess(Linear(), ZeroCenterOfMass(2)),
            "bond": GaussianProcess(Flow(), Euclidean(1, "pair")),
            "element": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    mask = size_mask(torch.tensor([4, 3, 4]), 4)
    x = {name: torch.randn(p.space.shape(3, mask)).double() for name, p in process.items()}
    x["element"] = x["element"].softmax(-1)
    x = {name: p.space.project(x[name], mask) for name, p in process.items()}
    nodes = torch.tensor([True, True, False, False]).expand(3, 4)
    pairs = (nodes[:, :, None] & nodes[:, None])[..., None]
    keep = {"position": nodes, "bond": pairs, "element": nodes}
    elsewhere = f64(7.0, -3.0)
    known = {
        "position": x["position"] + elsewhere,
        "bond": torch.full((3, 4, 4, 1), 0.3).double(),
        "element": f64(1.0, 0.0).expand(3, 4, 2),
    }
    found = reconstruction(known, keep, process)(x, T, mask)
    bond = (x["bond"][:, 0, 1, 0] - 0.3) ** 2 * -0.5 * ((1 - T) / T) ** 2
    element = x["element"][:, :2, 0].log().sum(1)
    assert torch.allclose(found, bond + element)  # positions agree but for where they stand
    stretched = reconstruction({"position": 2 * known["position"]}, {"position": nodes}, process)(x, T, mask)
    pair = x["position"][:, 0] - x["position"][:, 1]
    exact = -0.5 * Linear().log_snr(T).exp() * 0.5 * pair.square().sum(1)  # both ends are half the distance off
    assert torch.allclose(stretched, exact)
    assert math.isfinite(reconstruction(known, keep, process)(x, 0 * T, mask).sum())


def test_classes_that_are_known_become_likely():
    process = JointProcess({"c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2))})
    denoiser, mask = AnalyticDenoiser(process, [1.0], {"c": f64(0.5, 0.5)}), torch.ones(3, 2, dtype=torch.bool)
    x = {"c": f64([0.0, 1.0], [0.0, 1.0]).expand(3, 2, 2)}
    log_prob = reconstruction({"c": 1 - x["c"]}, {"c": torch.tensor([[True, False]]).expand(3, 2)}, process)
    free, guided = (d(x, T, mask).data["c"] for d in (denoiser, Gradient(denoiser, log_prob, at="data")))
    assert torch.allclose(guided[:, 1], free[:, 1])
    assert torch.allclose(torch.logit(guided[:, 0, 0]) - torch.logit(free[:, 0, 0]), 1 / free[:, 0, 0])


@pytest.mark.parametrize(
    ("known", "keep", "message"),
    [
        ("x", "y", r"known and keep must name the same fields, got \['x'\] and \['y'\]"),
        ("y", "y", r"known must name fields of the process, \['x'\], got \['y'\]"),
    ],
)
def test_fields_must_match(known, keep, message):
    with pytest.raises(ValueError, match=message):
        reconstruction({known: torch.zeros(1, 1, 1)}, {keep: KEEP}, Correlated(Linear()).process)
