"""Degradations of images, the loss that makes conditions out of data, and what is known stays known."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gendiff.modalities.images.denoiser import PixelDenoiser
from gendiff.modalities.images.restore import (
    DEGRADATIONS,
    Restoration,
    as_bytes,
    degrade,
    enlarge,
    gray,
    hide,
    jpeg,
    margin,
    rectangle,
    shrink,
    stroke,
)
from gendiff.objective import Objective, Times
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import Ancestral, DPMSolver, Heun
from gendiff.schedule import Linear
from gendiff.space import Euclidean


def pictures(batch=4, channels=3, size=(16, 16), seed=0):
    """Smooth random pictures, as bytes."""
    low = torch.tensor(np.random.default_rng(seed).uniform(-1, 1, (batch, channels, 4, 4)), dtype=torch.float32)
    return as_bytes(nn.functional.interpolate(low, size=size, mode="bicubic", align_corners=False))


def levels(x):
    """States as bytes, (B, H, W, C)."""
    return ((x + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


def process(channels=1, size=(4, 4)):
    return JointProcess({"pixel": GaussianProcess(Linear(2000, 1e-6, 0.01), Euclidean(channels, "grid", size))})


class Linear1(nn.Module):
    """A network linear in pixels, condition and, of a second condition, what is known of it."""

    def __init__(self, channels, size, names=("image",)):
        super().__init__()
        self.names, count = names, channels * math.prod(size)
        self.map = nn.Linear(count * (1 + len(names)), count)

    def forward(self, x, noise_level, mask=None, condition=None):
        parts = [x["pixel"], *(condition[name].nan_to_num() for name in self.names)]
        return {"pixel": self.map(torch.cat([part.flatten(1) for part in parts], 1)).view_as(x["pixel"])}


class Fixed(Times):
    """One time for all."""

    def __init__(self, time):
        self.time = time

    def draw(self, random, process):
        return torch.full((len(random.indices),), self.time)


# -- degradations -----------------------------------------------------------------------------------------------------


def test_small_pictures_are_the_means_of_their_blocks_and_come_back_where_they_were():
    x = torch.tensor([[[[-1.0, 1], [1, 1]]]])
    assert (float(shrink(x, 2)) + 1) * 127.5 == pytest.approx(191, abs=1e-4)  # 191.25
    picture = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 7)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(picture).resize((21, 15), Image.Resampling.BICUBIC))
    torch.testing.assert_close(enlarge(torch.from_numpy(picture)[None, None], 3)[0, 0], torch.tensor(theirs))
    assert enlarge(torch.tensor([[[[-1.0, 1, -1, 1]] * 4]]), 4).abs().max() == 1  # what overshoots is clipped


def test_gray_has_the_brightness_that_pillow_gives_it():
    x = pictures(channels=4)
    ours = levels(gray(x))
    theirs = np.stack([np.asarray(Image.fromarray(one[..., :3]).convert("L")) for one in levels(x)])
    assert np.abs(ours[..., 0].astype(int) - theirs).max() <= 1  # Pillow cuts where we round
    assert (ours[..., 0] == ours[..., 1]).all()
    assert (ours[..., 0] == ours[..., 2]).all()
    assert torch.equal(gray(x)[:, 3], x[:, 3])


def libjpeg(x, quality):
    """What Pillow reads of what it wrote, (B, H, W, C)."""
    result = []
    for one in levels(x):
        file = io.BytesIO()
        Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one).save(file, "JPEG", quality=quality, subsampling=0)
        result.append(np.asarray(Image.open(file)).reshape(one.shape).astype(int))
    return np.stack(result)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 30, 50, 92])
def test_jpeg_leaves_what_libjpeg_leaves(channels, quality):
    x = pictures(16, channels, (13, 18))
    ours, theirs = levels(jpeg(x, torch.full((16,), float(quality)))).astype(int), libjpeg(x, quality)
    # Its cosine transform is one of integers, so now and then a coefficient falls on the other side of a half, and a
    # block of its plane differs.
    assert np.mean(np.abs(ours - theirs) <= 2) > (0.98 if channels == 1 else 0.95)
    assert 4 * np.abs(ours - theirs).mean() < np.abs(levels(x).astype(int) - theirs).mean()


@pytest.mark.parametrize("quality", [1, 20, 50, 75, 100])
def test_jpeg_rounds_to_the_steps_of_the_table(quality):
    """One gray is one coefficient, 8 (gray - 128), whose step is 16 at quality 50."""
    x = (torch.arange(256) / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, -1, 8, 8)
    ours = levels(jpeg(x, torch.full((256,), float(quality))))
    assert (ours == libjpeg(x, quality)).all()
    if quality == 50:
        assert ours[[128, 129, 130, 131, 255], 0, 0, 0].tolist() == [128, 130, 130, 132, 255]


def test_alpha_is_not_touched_by_jpeg():
    x = pictures(channels=4)
    assert torch.equal(jpeg(x, torch.full((4,), 5.0))[:, 3], x[:, 3])
    gray_alpha = pictures(channels=2)
    assert torch.equal(jpeg(gray_alpha, torch.full((4,), 5.0))[:, 1], gray_alpha[:, 1])


def test_holes_are_where_and_as_large_as_they_say():
    x = torch.zeros(500, 1, 32, 24)
    holes = rectangle(x, Random(0, 500))
    rows, columns = holes.any(3).sum(2), holes.any(2).sum(2)
    assert (holes.sum((2, 3)) == rows * columns).all()  # a rectangle and nothing else
    assert 7 <= rows.min()
    assert rows.max() <= 25
    assert 5 <= columns.min()
    assert columns.max() <= 19
    assert holes.any(3).float().mean(0).min() > 0
    assert holes.any(2).float().mean(0).min() > 0
    halves = margin(x, Random(1, 500))
    top, left = torch.zeros(32, 24, dtype=torch.bool), torch.zeros(32, 24, dtype=torch.bool)
    top[:16], left[:, :12] = True, True
    kinds = [top, ~top, left, ~left]
    frame = torch.ones(32, 24, dtype=torch.bool)
    frame[5:27, 4:20] = False  # 1 / sqrt 2 of each side stays
    shares = [(halves[:, 0] == kind).all((1, 2)).float().mean() for kind in (*kinds, frame)]
    assert sum(shares) == 1
    assert min(shares) > 0.12


def test_a_stroke_is_what_lies_near_straight_lines_through_its_points():
    x = torch.zeros(3, 1, 20, 30)
    random = Random(5, 3)
    holes = stroke(x, random)
    again = Random(5, 3)
    points = again.uniform((3, 5, 2)).double() * torch.tensor([1.0, 1.5])
    radius = 0.05 + 0.1 * again.uniform((3,)).double() + 0.5 / 20
    share = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None]
    for hole, corners, r in zip(holes[:, 0], points, radius, strict=True):
        line = (corners[:-1] + share * (corners[1:] - corners[:-1])).reshape(-1, 2)
        grid = torch.cartesian_prod((torch.arange(20) + 0.5) / 20, (torch.arange(30) + 0.5) / 20).double()
        nearest = torch.cdist(grid, line).min(1).values.view(20, 30)
        sure = (nearest - r).abs() > 1e-3
        assert torch.equal(hole[sure], (nearest < r)[sure])
        assert 0 < hole.sum() < 600


@pytest.mark.parametrize("tasks", [["enlarge"], ["inpaint", "uncrop", "repair"], list(DEGRADATIONS)])
def test_what_a_sample_is_told_depends_on_it_alone(tasks):
    x = pictures(6)
    told = degrade(x, tasks, Random(3, 6), 2)
    some = torch.tensor([4, 1])
    alone = degrade(x[some], tasks, Random(3, some), 2)
    for name, value in told.items():
        torch.testing.assert_close(alone[name], value[some], rtol=0, atol=1e-6, equal_nan=True)


def test_training_in_half_precision_degrades_in_full():
    x = pictures(4)
    with torch.autocast("cpu", torch.bfloat16):
        half = degrade(x, ["colourise", "repair"], Random(3, 4))
    torch.testing.assert_close(half, degrade(x, ["colourise", "repair"], Random(3, 4)), rtol=0, atol=0)


def test_a_sample_is_told_one_task():
    x = pictures(300)
    told = degrade(x, list(DEGRADATIONS), Random(0, 300), 2)
    image, known = told["image"], told["known"]
    shown, kept = ~image.isnan().flatten(1).all(1), ~known.isnan().flatten(1).all(1)
    assert (shown ^ kept).all()  # a picture to go by, or pixels that stay
    assert not image[shown].isnan().any()
    assert torch.equal(torch.where(known.isnan(), x, known), x)  # what is known is exact
    assert 0.3 < kept.float().mean() < 0.5  # two of five
    coloured = (image[shown][:, 0] == image[shown][:, 1]).flatten(1).all(1)
    assert 0.2 < coloured.float().mean() < 0.46  # one of three


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_gradients_of_known_pixels_are_exactly_zero_and_only_free_ones_count():
    network = Linear1(1, (4, 4), ("known",))
    denoiser = PixelDenoiser(network, process(), "noise", noise_level="alpha")
    loss = Restoration(["inpaint"], condition_dropout=0.0)
    x, random = pictures(5, 1, (4, 4)), Random(2, 5)
    seen = {}

    def catch(module, inputs, output):
        output["pixel"].retain_grad()
        seen.update(input=inputs, output=output["pixel"])

    network.register_forward_hook(catch)
    value, _ = loss(denoiser, {"pixel": x}, None, None, random)
    value.sum().backward()
    state, _, _, condition = seen["input"]
    free = condition["known"].isnan()
    gradient = seen["output"].grad
    assert (gradient[~free] == 0).all()
    assert (gradient[free] != 0).all()
    # The network sees what is known without noise, over (alpha^2 + sigma^2)^(1/2): 1 but for the rounding of a CPU.
    torch.testing.assert_close(state["pixel"][~free], x[~free], rtol=1e-6, atol=0)
    assert not torch.isclose(state["pixel"][free], x[free]).any()
    again = Random(2, 5)
    degrade(x, ["inpaint"], again)
    again.uniform((5,))  # the times
    noise = process().noise(None, again)["pixel"]
    error = (seen["output"] - noise) ** 2 * free
    torch.testing.assert_close(value, error.flatten(1).sum(1) / free.flatten(1).sum(1))


def test_without_known_pixels_it_is_the_simple_loss_or_that_of_absolute_errors():
    network = Linear1(1, (4, 4), ())
    denoiser = PixelDenoiser(network, process(), "noise", noise_level="alpha")
    x, random = {"pixel": pictures(5, 1, (4, 4))}, Random(2, 5)
    squared, _ = Restoration(["enlarge"], 2)(denoiser, x, None, None, random)
    again = Random(2, 5)
    degrade(x["pixel"], ["enlarge"], again, 2)
    simple, _ = Objective("noise")(denoiser, x, None, None, again)
    torch.testing.assert_close(squared, simple)
    seen = {}
    network.register_forward_hook(lambda m, i, output: seen.update(output=output["pixel"]))
    absolute, _ = Restoration(["enlarge"], 2, power=1)(denoiser, x, None, None, Random(2, 5))
    again = Random(2, 5)
    degrade(x["pixel"], ["enlarge"], again, 2)
    again.uniform((5,))
    noise = process().noise(None, again)["pixel"]
    torch.testing.assert_close(absolute, (seen["output"] - noise).abs().flatten(1).mean(1))


def test_on_gaussian_pairs_the_trained_linear_denoiser_is_the_regression():
    torch.manual_seed(0)
    count, t = 2048, 0.15
    root = torch.randn(16, 16) / 12
    x = (torch.randn(count, 16) @ root.T).view(-1, 1, 4, 4)
    denoiser = PixelDenoiser(Linear1(1, (4, 4)), process(), "noise", noise_level="alpha").double()
    loss = Restoration(["enlarge"], 2, times=Fixed(t), condition_dropout=0.0)
    state = {"pixel": x.double()}
    optimizer = torch.optim.LBFGS(
        denoiser.parameters(), max_iter=60, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(denoiser, state, None, None, Random(0, count))[0].mean()
        value.backward()
        return value

    optimizer.step(closure)
    # The regression of the same noise on the same noisy picture and its small version is unique.
    random = Random(0, count)
    small = degrade(state["pixel"], ["enlarge"], random, 2)["image"]
    schedule = denoiser.process.schedule
    alpha, sigma = (law(torch.tensor([t], dtype=torch.float64)) for law in (schedule.alpha, schedule.sigma))
    noise = process().noise(None, random)["pixel"].double()
    x_t = alpha * state["pixel"] + sigma * noise
    inputs = torch.cat([x_t.flatten(1), small.flatten(1)], 1)
    found = denoiser.network.map(inputs).detach()
    design = torch.cat([inputs, torch.ones(count, 1, dtype=torch.float64)], 1)
    fitted = design @ torch.linalg.lstsq(design, noise.flatten(1), driver="gelsd").solution
    assert float((found - fitted).square().mean()) < 1e-5 * float(fitted.square().mean())
    # Of the law it is E[noise | x_t, mean of blocks], up to bytes and to a finite sample.
    blocks = torch.zeros(4, 16, dtype=torch.float64)
    for place in range(16):
        blocks[place // 8 * 2 + place % 4 // 2, place] = 0.25
    law = (root @ root.T).double()
    looks = torch.cat([alpha * torch.eye(16, dtype=torch.float64), blocks])
    covariance = looks @ law @ looks.T
    covariance[:16, :16] += sigma**2 * torch.eye(16, dtype=torch.float64)
    gain = torch.cat([sigma * torch.eye(16, dtype=torch.float64), torch.zeros(16, 4, dtype=torch.float64)], 1)
    told = torch.cat([x_t.flatten(1), shrink(state["pixel"], 2).flatten(1)], 1)
    exact = torch.linalg.solve(covariance, told.T).T @ gain.T
    assert float((found - exact).square().mean()) < 0.02 * float(exact.square().mean())


@pytest.mark.parametrize("wrong", [{"tasks": []}, {"tasks": ["fly"]}, {"power": 3}, {"factor": 1}])
def test_what_cannot_be_trained_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Restoration(**{"tasks": ["inpaint"], **wrong})


# -- the denoiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Ancestral(5), Ancestral(5, variance="large"), DPMSolver(5), Heun(4)])
def test_known_pixels_come_out_bit_by_bit_by_any_sampler(sampler):
    torch.manual_seed(0)
    denoiser = PixelDenoiser(Linear1(3, (4, 4), ("known",)), process(3), "noise", noise_level="alpha").eval()
    x = pictures(3, 3, (4, 4))
    known = hide(x, rectangle(x, Random(0, 3)))
    stays = ~known.isnan()
    assert stays.any()
    assert not stays.all()
    random = Random(1, 3)
    noise = denoiser.process.noise(None, random)
    result = sampler(denoiser, denoiser.process.prior(noise), None, {"known": known}, random)["pixel"]
    assert torch.equal(result[stays], x[stays])
    assert (result[~stays] != x[~stays]).all()
    assert result.abs().max() <= 1


def test_estimates_are_clipped_where_they_are_not_trained():
    network = Linear1(1, (4, 4), ())
    nn.init.constant_(network.map.bias, 9.0)
    denoiser, x_t, t = (
        PixelDenoiser(network, process(), "noise"),
        {"pixel": torch.zeros(2, 1, 4, 4)},
        torch.full((2,), 0.5),
    )
    inside = denoiser(x_t, t).data["pixel"]
    assert inside.max() < -1
    outside = denoiser.eval()(x_t, t)
    assert (outside.data["pixel"] == -1).all()
    assert outside.x_t is x_t
    free = PixelDenoiser(network, process(), "noise", clip=False).eval()
    torch.testing.assert_close(free(x_t, t).data["pixel"], inside)
