"""Static and dynamic thresholding."""

import pytest
import torch

from gendiff.denoise import Estimate
from gendiff.guide import Threshold
from gendiff.ops import size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM
from gendiff.schedule import Cosine
from gendiff.space import Euclidean, ZeroCenterOfMass


class Fixed:
    """Says the same of every state."""

    def __init__(self, data, spaces):
        self.process = JointProcess(
            {
                name: CategoricalProcess(Cosine(), [0.5, 0.5], space)
                if name == "c"
                else GaussianProcess(Cosine(), space)
                for name, space in spaces.items()
            }
        )
        self.data = data

    def __call__(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        return Estimate(self.process, x_t, t, dict(self.data), {"c": torch.ones(1)}, fraction={"x": torch.ones(1)})


HALF = torch.tensor([0.5, 0.5])
SPACES = {"x": Euclidean(3), "p": Euclidean(2, "grid", [4, 4]), "c": Euclidean(2)}


def estimates(scale=3.0):
    mask = size_mask(torch.tensor([5, 2, 4]), 5)
    x = scale * torch.randn(3, 5, 3).double() * mask[..., None]
    return {"x": x, "p": scale * torch.randn(3, 2, 4, 4).double(), "c": HALF.double().expand(3, 5, 2)}, mask


def test_the_static_one_clamps_the_gaussian_fields_and_nothing_else():
    data, mask = estimates()
    result = Threshold(Fixed(data, SPACES), 1.5)(data, torch.full((3,), 0.5), mask)
    for name in ("x", "p"):
        assert torch.equal(result.data[name], data[name].clamp(-1.5, 1.5))
        assert (data[name].abs() > 1.5).any()
    assert result.data["c"] is data["c"]
    assert (result.logits["c"], result.fraction["x"]) == (1, 1)
    only = Threshold(Fixed(data, SPACES), 1.5, fields=["p"])(data, torch.full((3,), 0.5), mask).data
    assert torch.equal(only["x"], data["x"])
    assert torch.equal(only["p"], result.data["p"])


@pytest.mark.parametrize("percentile", [0.5, 0.83, 0.995, 1.0])
@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_the_dynamic_one_divides_by_the_quantile_of_the_real_entries(percentile, bound):
    data, mask = estimates()
    data["x"][2] *= 0.01  # within the bound: nothing to do
    result = Threshold(Fixed(data, SPACES), bound, percentile)(data, torch.full((3,), 0.5), mask).data
    for name in ("x", "p"):
        for i in range(3):
            x = data[name][i][mask[i]] if name == "x" else data[name][i]
            s = max(torch.quantile(x.abs().flatten(), percentile).item(), bound)
            y = result[name][i][mask[i]] if name == "x" else result[name][i]
            assert torch.allclose(y, x.clamp(-s, s) * bound / s, rtol=1e-12)
            assert y.abs().max() <= bound * (1 + 1e-12)
    assert torch.equal(result["x"][2], data["x"][2])
    assert not result["x"][~mask].any()


def test_padding_changes_nothing():
    data, mask = estimates()
    pad = {name: value if name == "p" else torch.nn.functional.pad(value, (0, 0, 0, 3)) for name, value in data.items()}
    plain = Threshold(Fixed(data, SPACES), 1.0, 0.9)(data, torch.full((3,), 0.5), mask).data["x"]
    padded = Threshold(Fixed(pad, SPACES), 1.0, 0.9)(pad, torch.full((3,), 0.5), size_mask(mask.sum(1), 8)).data["x"]
    assert torch.equal(padded[:, :5], plain)
    assert not padded[:, 5:].any()


@pytest.mark.parametrize("percentile", [None, 0.7])
def test_the_estimate_stays_in_its_space(percentile):
    data, mask = estimates()
    space = ZeroCenterOfMass(3)
    data = {"x": space.project(data["x"], mask)}
    result = Threshold(Fixed(data, {"x": space}), 1.0, percentile)(data, torch.full((3,), 0.5), mask).data["x"]
    assert torch.allclose(result, space.project(result, mask), atol=1e-14)
    assert result.abs().max() < 0.6 * data["x"].abs().max()


def test_a_sample_is_within_the_bound():
    data, mask = estimates()
    start = {"x": torch.randn(3, 5, 3).double() * mask[..., None], "p": torch.randn(3, 2, 4, 4).double()}
    for denoiser, size in ((Fixed(data, SPACES), 3.0), (Threshold(Fixed(data, SPACES)), 1.0)):
        end = DDIM(5)(denoiser, {**start, "c": HALF.double().expand(3, 5, 2)}, mask)
        assert (end["x"].abs().max() > 1) == (size > 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": 0.0}, "bound must be positive, got 0.0"),
        ({"bound": float("nan")}, "bound must be positive"),
        ({"percentile": 99.5}, r"percentile must lie in \(0, 1\], for example 0.995, got 99.5"),
        ({"percentile": 0.0}, "percentile must lie in"),
        ({"fields": ["c"]}, r"only Gaussian fields, \['x', 'p'\], can be thresholded, got \['c'\]"),
        ({"fields": ["y"]}, r"got \['y'\]"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    data, _ = estimates()
    with pytest.raises(ValueError, match=message):
        Threshold(Fixed(data, SPACES), **options)
