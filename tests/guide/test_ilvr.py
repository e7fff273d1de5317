"""ILVR: low frequencies of a reference, the rest of the model."""

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.guide import ILVR
from gendiff.guide.ilvr import block_mean
from gendiff.ops import Random, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun
from gendiff.schedule import Cosine, Flow, Linear
from gendiff.space import Euclidean, ZeroCenterOfMass

samplers = pytest.mark.parametrize("make", [DDIM, Ancestral, Heun, DPMSolver])


def images(schedule=None, size=(8, 12)):
    process = JointProcess({"x": GaussianProcess(schedule or Cosine(), Euclidean(2, "grid", size))})
    return AnalyticDenoiser(process, [1.0], {"x": (0.3, 0.5)})


def test_the_block_mean_is_a_projector_onto_images_of_blocks():
    x = torch.randn(2, 3, 8, 12).double()
    low = block_mean(x, 4)
    for i in range(0, 8, 4):
        for j in range(0, 12, 4):
            block = x[:, :, i : i + 4, j : j + 4].mean((2, 3), keepdim=True)
            assert torch.allclose(low[:, :, i : i + 4, j : j + 4], block.expand(2, 3, 4, 4))
    assert torch.allclose(block_mean(low, 4), low)
    assert torch.equal(block_mean(x, 1), x)
    assert torch.allclose(block_mean(x[..., 0], 2), x[..., 0].unflatten(2, (4, 2)).mean(3).repeat_interleave(2, 2))


@pytest.mark.parametrize("schedule", [Cosine(), Flow()], ids=["cosine", "flow"])
@samplers
def test_the_sample_has_the_low_frequencies_of_the_reference(make, schedule):
    """To 1e-6 in float32: the reference has the level of the new state, which is clean at the end."""
    denoiser, reference = images(schedule), {"x": torch.randn(4, 2, 8, 12)}
    start = {"x": denoiser.process["x"].noise(None, Random(0, 4))}
    end = make(12)(denoiser, start, random=Random(1, 4), hooks=[ILVR(reference, 4)])["x"]
    assert (block_mean(end, 4) - block_mean(reference["x"], 4)).abs().max() < 1e-6
    free = make(12)(denoiser, start, random=Random(1, 4))["x"]
    assert (block_mean(free, 4) - block_mean(reference["x"], 4)).abs().max() > 0.3


@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolver])
def test_the_details_are_those_of_the_model(make):
    """Where all directions are independent, those of high frequency go exactly as without a reference."""
    denoiser, reference = images(), {"x": torch.randn(4, 2, 8, 12).double()}
    start = {"x": denoiser.process["x"].noise(None, Random(0, 4)).double()}
    free, end = (make(12)(denoiser, start, hooks=hooks)["x"] for hooks in ([], [ILVR(reference, 4)]))
    assert torch.allclose(end - block_mean(end, 4), free - block_mean(free, 4), atol=1e-12)


def test_on_the_way_the_low_frequencies_have_the_law_of_the_noised_reference():
    n, s = 3000, 0.5
    denoiser, reference = images(size=(2, 2)), {"x": torch.full((n, 2, 2, 2), 1.5).double()}
    start = {"x": denoiser.process["x"].noise(None, Random(0, n)).double()}
    x = DDIM()(denoiser, start, random=Random(1, n), hooks=[ILVR(reference, 2)], plan=[(1.0, s)])["x"]
    alpha, sigma = (f(torch.tensor(s).double()).item() for f in (Cosine().alpha, Cosine().sigma))
    low = x.mean((2, 3))
    assert low.mean().item() == pytest.approx(1.5 * alpha, abs=4 * sigma / 2 / (2 * n) ** 0.5)
    assert low.std().item() == pytest.approx(sigma / 2, rel=0.05)


def test_after_a_time_the_rest_of_the_way_is_the_models():
    """The hook acts at times s >= until: the last state it made goes on freely."""
    denoiser, reference = images(), {"x": torch.randn(4, 2, 8, 12).double()}
    start, plan = {"x": denoiser.process["x"].noise(None, Random(0, 4)).double()}, DDIM(10).plan(images().process)
    end = DDIM()(denoiser, start, random=Random(1, 4), hooks=[ILVR(reference, 4, 0.3)], plan=plan)["x"]
    half = DDIM()(denoiser, start, random=Random(1, 4), hooks=[ILVR(reference, 4)], plan=plan[:7])
    assert plan[6][1] == pytest.approx(0.3)
    assert torch.allclose(end, DDIM()(denoiser, half, plan=plan[7:])["x"], atol=1e-12)
    assert (block_mean(end, 4) - block_mean(reference["x"], 4)).abs().max() > 1e-2


def test_blocks_that_are_clipped_keep_their_means():
    """Bounds that half of the values would leave; of a block that is as low as can be, all are."""
    denoiser, reference = images(), {"x": torch.randn(4, 2, 8, 12).double().clamp(-0.2, 0.2)}
    reference["x"][:, :, :4, :4] = -0.2
    start = {"x": denoiser.process["x"].noise(None, Random(0, 4)).double()}
    ends = [
        DDIM()(denoiser, start, random=Random(1, 4), hooks=[ILVR(reference, 4, bounds=bounds)])["x"]
        for bounds in ((-0.2, 0.2), (-9.0, 9.0), None)
    ]
    clipped, wide, free = (end.clamp(-0.2, 0.2) if k == 0 else end for k, end in enumerate(ends))
    assert torch.allclose(block_mean(clipped, 4), block_mean(reference["x"], 4), atol=1e-9)
    assert (ends[0].abs() > 0.2).double().mean() > 0.2
    assert torch.equal(clipped[:, :, :4, :4], reference["x"][:, :, :4, :4])
    assert torch.allclose(wide, free, atol=1e-9)
    assert (block_mean(free.clamp(-0.2, 0.2), 4) - block_mean(reference["x"], 4)).abs().max() > 0.01


def test_a_step_that_adds_noise_leaves_the_state_alone():
    denoiser, reference = images(), {"x": torch.randn(4, 2, 8, 12).double()}
    x = {"x": torch.randn(4, 2, 8, 12).double()}
    hook = ILVR(reference, 4)
    up = DDIM()(denoiser, x, random=Random(3, 4), hooks=[hook], plan=[(0.2, 0.6)])["x"]
    process, random = denoiser.process, Random(3, 4)
    t, s = torch.full((4,), 0.6).double(), torch.full((4,), 0.2).double()
    assert torch.allclose(up, process["x"].renoise(x["x"], s, t, process["x"].noise(None, random)), atol=1e-6)
    assert random.draws == 1


def mean_of_halves(x, mask):
    """The mean of the first two nodes at both, and of the other real ones."""
    halves = torch.zeros_like(mask)
    halves[:, :2] = True
    result = torch.zeros_like(x)
    for half in (halves & mask, ~halves & mask):
        m = half[..., None].to(x)
        result = result + m * (x * m).sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)
    return result


@samplers
def test_any_linear_low_pass_serves_other_fields_with_masks_and_frames(make):
    """Positions without a place: the sample comes back where the reference stands, padding and all."""
    process = JointProcess(
        {
            "position": GaussianProcess(Linear(), ZeroCenterOfMass(2)),
            "c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser = AnalyticDenoiser(process, [1.0], {"position": (0.0, 0.5), "c": torch.tensor([0.5, 0.5])})
    mask = size_mask(torch.tensor([5, 3, 4]), 5)
    reference = {"position": 20 + torch.randn(3, 5, 2).double()}  # padding is not zero: nobody looks at it
    start = {k: v.double() for k, v in process.prior(process.noise(mask, Random(0, 3)), mask).items()}
    hook = ILVR(reference, low_pass=mean_of_halves)
    end = make(12)(denoiser, start, mask, random=Random(1, 3), hooks=[hook])["position"]
    wanted = reference["position"] * mask[..., None]
    assert torch.allclose(mean_of_halves(end, mask), mean_of_halves(wanted, mask), atol=1e-6)
    assert not torch.allclose(end, wanted, atol=0.1)
    assert not end[~mask].any()


def test_a_low_pass_that_forgets_the_mask_spoils_nothing():
    """It sees zeros at padding, whatever the reference has there, and what it writes there is dropped."""
    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(2))})
    denoiser, mask = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.5)}), size_mask(torch.tensor([5, 3, 4]), 5)
    start, clean = process["x"].noise(mask, Random(0, 3)).double(), torch.randn(3, 5, 2).double()
    ends = []
    for padding in (0.0, 99.0):
        reference = torch.where(mask[..., None], clean, padding)
        hook = ILVR({"x": reference}, low_pass=lambda x, mask: x.mean(1, keepdim=True).expand_as(x))
        ends.append(DDIM(6)(denoiser, {"x": start}, mask, random=Random(1, 3), hooks=[hook])["x"])
    assert torch.equal(*ends)
    assert not ends[0][~mask].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give ILVR either a factor >= 1 or a low_pass, got None and None"),
        ({"factor": 0}, "factor >= 1"),
        ({"factor": 2, "low_pass": mean_of_halves}, "either a factor"),
        ({"factor": 2, "bounds": (1.0, -1.0)}, r"bounds are the ends of an interval, .* got \(1.0, -1.0\)"),
        ({"low_pass": mean_of_halves, "bounds": (-1.0, 1.0)}, "with a factor"),
        ({"factor": 2, "until": 1.5}, r"until must be a time in \[0, 1\] .* got 1.5"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ILVR({"x": torch.zeros(1, 1, 4, 4)}, **options)


@pytest.mark.parametrize(
    ("name", "factor", "message"),
    [
        ("g", 3, r"blocks of side 3 do not tile field 'g', a grid of shape \(1, 4, 6\); give another factor"),
        ("x", 2, r"blocks of side 2 do not tile field 'x', a node of shape \(2, 1\)"),
        ("c", 2, "field 'c' is categorical and has no low frequencies; use Replacement"),
    ],
)
def test_fields_without_blocks_are_refused(name, factor, message):
    process = JointProcess(
        {
            "g": GaussianProcess(Linear(), Euclidean(1, "grid", [4, 6])),
            "x": GaussianProcess(Linear(), Euclidean(1)),
            "c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )
    denoiser = AnalyticDenoiser(process, [1.0], {"g": (0.0, 1.0), "x": (0.0, 1.0), "c": torch.tensor([0.5, 0.5])})
    mask = torch.ones(2, 2, dtype=torch.bool)
    start = process.prior(process.noise(mask, Random(0, 2)), mask)
    with pytest.raises(ValueError, match=message):
        DDIM(3)(denoiser, start, mask, hooks=[ILVR({name: start[name]}, factor)])
