r"""Restoration: one conditional model that enlarges, fills in, continues, colours or repairs images.

A model is told up to two pictures, each (B, C, H, W) in the units of states, -1 to 1, and NaN where nothing is known:

========  =============================================================================================================
`known`   pixels that are exact and stay. What is NaN is to be drawn: a hole (inpainting), what lies outside of the
          picture (uncropping), all of it in the other tasks.
`image`   what the result looks like: an enlarged small picture, a gray one, one that JPEG has damaged.
========  =============================================================================================================

What a task does not have is left out, or NaN everywhere. Training makes both out of the data (:data:`DEGRADATIONS`);
users ask by the same two, through :func:`enlarge`, :func:`gray` and :func:`hide`.

References:
    | Image super-resolution via iterative refinement (Saharia et al., 2021): SR3 | https://arxiv.org/abs/2104.07636
    | Palette: image-to-image diffusion models (Saharia et al., 2021) | https://arxiv.org/abs/2111.05826
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gendiff.denoise import Denoiser
from gendiff.objective import Loss, Times
from gendiff.ops import Random, State, expand, sum_rest

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a colour (ITU-R BT.601, as JPEG has it)."""

QUALITIES = (5, 30)
"""Qualities of the JPEGs of training, both ends included; those of Palette."""

BRUSH = 4
"""Straight pieces of the stroke of a free-form hole."""


def as_bytes(x: Tensor) -> Tensor:
    """Return the nearest values that bytes have."""
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def shrink(x: Tensor, factor: int) -> Tensor:
    """Return the means of blocks of factor x factor pixels, as bytes: (B, C, H, W) to (B, C, H / f, W / f)."""
    return as_bytes(F.avg_pool2d(x, factor))


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Return a small picture at `factor` times its size, by Pillow's bicubic filter: the condition `image` of SR3."""
    return F.interpolate(x, scale_factor=float(factor), mode="bicubic", antialias=True).clamp(-1, 1)


def gray(x: Tensor) -> Tensor:
    """Return the brightness of colours (B, 3 or 4, H, W) in the place of each of them, as bytes; alpha stays.

    The condition `image` of colourisation.
    """
    luma = as_bytes(torch.einsum("bchw,c->bhw", x[:, :3], x.new_tensor(LUMA)).unsqueeze(1))
    return torch.cat((luma.expand(-1, 3, -1, -1), x[:, 3:]), 1)


def hide(x: Tensor, free: Tensor) -> Tensor:
    """Return the condition `known` of a picture (B, C, H, W) of which `free`, (B, 1, H, W) bool, is to be drawn."""
    return torch.where(free, math.nan, x)


# -- what is hidden of a picture in training -------------------------------------------------------------------------


def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far down, (1, 1, H, 1), and to the right, (1, 1, 1, W), the middles of pixels lie, 0 to 1."""
    height, width = x.shape[2:]
    down = (torch.arange(height, device=x.device) + 0.5) / height
    right = (torch.arange(width, device=x.device) + 0.5) / width
    return down.view(1, 1, -1, 1), right.view(1, 1, 1, -1)


def rectangle(x: Tensor, random: Random) -> Tensor:
    """Return a rectangle of a quarter to three quarters of each side, anywhere within the picture: (B, 1, H, W)."""
    down, right = _places(x)
    tall, wide, top, left = random.uniform((len(x), 4))[..., None, None, None].unbind(1)
    tall, wide = 0.25 + tall / 2, 0.25 + wide / 2
    top, left = top * (1 - tall), left * (1 - wide)
    return (down >= top) & (down < top + tall) & (right >= left) & (right < left + wide)


def stroke(x: Tensor, random: Random) -> Tensor:
    """Return a broad stroke of :data:`BRUSH` straight pieces from place to place of the picture: (B, 1, H, W).

    The radius is 5 % to 15 % of the shorter side, and half a pixel.
    """
    down, right = _places(x)
    height, width = x.shape[2:]
    short = min(height, width)
    scale = x.new_tensor([height, width]) / short
    points = random.uniform((len(x), BRUSH + 1, 2)) * scale
    radius = expand(0.05 + 0.1 * random.uniform((len(x),)), x) + 0.5 / short
    y, x_ = down * scale[0], right * scale[1]
    nearest = torch.full((), math.inf, device=x.device)
    for piece in range(BRUSH):
        (from_y, from_x), (to_y, to_x) = (points[:, end][..., None, None, None].unbind(1) for end in (piece, piece + 1))
        step_y, step_x = to_y - from_y, to_x - from_x
        share = ((y - from_y) * step_y + (x_ - from_x) * step_x) / (step_y**2 + step_x**2).clamp(min=1e-12)
        share = share.clamp(0, 1)
        nearest = torch.minimum(nearest, (y - from_y - share * step_y) ** 2 + (x_ - from_x - share * step_x) ** 2)
    return nearest < radius**2


def margin(x: Tensor, random: Random) -> Tensor:
    """Return half of the picture, (B, 1, H, W): that on one of its four sides, or a frame all around."""
    down, right = _places(x)
    side = expand((random.uniform((len(x),)) * 5).floor(), x)
    halves = [down < 0.5, down >= 0.5, right < 0.5, right >= 0.5]
    inner = math.sqrt(0.5) / 2
    frame = ((down - 0.5).abs() >= inner) | ((right - 0.5).abs() >= inner)
    free = torch.zeros_like(x[:, :1], dtype=torch.bool)
    for number, half in enumerate((*halves, frame)):
        free = torch.where(side == number, half, free)
    return free


# -- JPEG -------------------------------------------------------------------------------------------------------------

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Steps of the two tables of JPEG at quality 50 (ITU-T T.81, annex K)."""

YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Red, green and blue to brightness, and the differences of blue and red from it."""

TIE = 1e-4
"""What makes a half of a step one in floating point, too."""


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    r"""Return what JPEG leaves of pictures (B, C, H, W), as bytes; alpha stays.

    Blocks of 8 x 8 pixels become :math:`D B D^T`, with D the orthonormal cosine transform, and each coefficient is
    rounded to a multiple of its step in the table, halves away from zero. Brightness and colour have tables of their
    own; colours keep their resolution (4:4:4). Sides are filled up to multiples of 8 with their last pixels.

    Arguments:
        x: States.
        quality: 1 to 100 of each, (B,), whole numbers. The steps are those of libjpeg.
    """
    colours = 3 if x.shape[1] >= 3 else 1
    bytes_ = (x[:, :colours] + 1) * 127.5
    centre = x.new_tensor([128.0, 0, 0][:colours]).view(1, -1, 1, 1)
    if colours == 3:
        bytes_ = torch.einsum("dc,bchw->bdhw", x.new_tensor(YCC), bytes_)
    height, width = x.shape[2:]
    planes = F.pad((bytes_ - centre).round(), (0, -width % 8, 0, -height % 8), mode="replicate")
    k = torch.arange(8, device=x.device, dtype=x.dtype)
    cosines = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = x.new_tensor([LUMINANCE, CHROMINANCE, CHROMINANCE][:colours])
    steps = ((tables * expand(scale, tables[None]) + 50) / 100).floor().clamp(1, 255)[:, :, None, :, None, :]
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # (B, C, rows, 8, columns, 8)
    coefficients = torch.einsum("ui,bcriqj,vj->bcruqv", cosines, blocks, cosines)
    kept = (coefficients / steps + coefficients.sign() * (0.5 + TIE)).trunc() * steps
    planes = torch.einsum("ui,bcruqv,vj->bcriqj", cosines, kept, cosines).flatten(4, 5).flatten(2, 3)
    planes = planes[..., :height, :width] + centre
    if colours == 3:
        planes = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(x.new_tensor(YCC)), planes.round())
    return torch.cat((as_bytes(planes / 127.5 - 1), x[:, colours:]), 1)


# -- conditions out of data -------------------------------------------------------------------------------------------


def _enlarge(x: Tensor, random: Random, factor: int) -> State:
    return {"image": enlarge(shrink(x, factor), factor)}


def _inpaint(x: Tensor, random: Random, factor: int) -> State:
    free = torch.where(expand(random.uniform((len(x),)) < 0.5, x), rectangle(x, random), stroke(x, random))
    return {"known": hide(x, free)}


def _uncrop(x: Tensor, random: Random, factor: int) -> State:
    return {"known": hide(x, margin(x, random))}


def _colourise(x: Tensor, random: Random, factor: int) -> State:
    return {"image": gray(x)}


def _repair(x: Tensor, random: Random, factor: int) -> State:
    low, high = QUALITIES
    return {"image": jpeg(x, low + (random.uniform((len(x),)) * (high - low + 1)).floor().clamp(max=high - low))}


DEGRADATIONS: dict[str, Callable[[Tensor, Random, int], State]] = {
    "enlarge": _enlarge,
    "inpaint": _inpaint,
    "uncrop": _uncrop,
    "colourise": _colourise,
    "repair": _repair,
}
"""By task, (clean pictures, streams, factor) to the conditions that a model is told of them."""


def degrade(x: Tensor, tasks: Sequence[str], random: Random, factor: int = 4) -> State:
    """Return the conditions `image` and `known` of clean pictures (B, C, H, W), each by one of `tasks` at random.

    Both are there if there are several tasks, NaN where a task does not say it. A sample depends on its own stream.

    Arguments:
        x: Clean states.
        tasks: Words of :data:`DEGRADATIONS`.
        random: One stream per sample.
        factor: Of "enlarge": how many times smaller the small picture is, along each side.
    """
    with torch.autocast(x.device.type, enabled=False):  # which would take products in half precision
        found = [DEGRADATIONS[task](x, random, factor) for task in tasks]
    chosen = (random.uniform((len(x),)) * len(tasks)).long().clamp(max=len(tasks) - 1)
    absent = torch.full_like(x, math.nan)
    rows = torch.arange(len(x), device=x.device)
    return {
        name: torch.stack([part.get(name, absent) for part in found])[chosen, rows]
        for name in sorted(set().union(*found))
    }


class Restoration(Loss):
    r"""The loss of a conditional model of images whose conditions are made out of the data.

    .. math:: L = \frac{1}{|\mathrm{free}|} \sum_{i\,\mathrm{free}} |F_i - F^*_i|^p

    F is the network's output and F* what it should be, in its own units (the noise, for the row "noise"). Known pixels
    are left out: the gradient there is exactly 0.

    Arguments:
        tasks: What to train, words of :data:`DEGRADATIONS`; each sample gets one of them at random.
        factor: Of "enlarge" (4).
        power: p: 2, or 1, which draws fewer details of its own and was the choice of SR3.
        times: Law of the times (uniform).
        condition_dropout: Probability with which a sample is told nothing and all of it is drawn (0.1), so that the
            model can also draw images of its own, and be guided; of several conditions each also goes missing on its
            own, as often.

    Raises:
        ValueError: for an unknown task or none, another power, or a factor below 2.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        factor: int = 4,
        power: int = 2,
        times: Times | None = None,
        condition_dropout: float = 0.1,
    ):
        super().__init__(times=times, condition_dropout=condition_dropout)
        if not tasks or not {*tasks} <= DEGRADATIONS.keys():
            raise ValueError(f"tasks must be some of {list(DEGRADATIONS)}, got {list(tasks)}")
        if power not in (1, 2) or factor < 2:
            raise ValueError(f"power must be 1 or 2 and factor at least 2, got {power} and {factor}")
        self.tasks, self.factor, self.power = list(tasks), factor, power

    def forward(
        self, denoiser: Any, x_0: State, mask: Tensor | None, condition: State | None, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each sample; as :meth:`gendiff.objective.Loss.forward`."""
        told = degrade(x_0["pixel"], self.tasks, random, self.factor)
        return super().forward(denoiser, x_0, mask, {**(condition or {}), **told}, random)

    def errors(  # noqa: D102
        self,
        denoiser: Denoiser,
        x_0: State,
        x_t: State,
        noise: State,
        t: Tensor,
        mask: Tensor | None,
        condition: State | None,
        random: Random,
    ) -> dict[str, Tensor]:
        x = x_0["pixel"]
        output = self.estimate(denoiser, x_t, t, mask, condition, random).output["pixel"].to(x.dtype)
        alpha, sigma, skip, out = denoiser.row("pixel", t, x)
        target = (1 - skip * alpha) / out * x - skip * sigma / out * noise["pixel"]
        known = (condition or {}).get("known")
        free = torch.ones_like(x) if known is None else known.isnan().to(x.dtype)
        error = sum_rest(((output - target) * free).abs() ** self.power)
        return {"pixel": error / sum_rest(free).clamp(min=1)}
