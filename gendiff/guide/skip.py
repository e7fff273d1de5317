"""Skip guidance: away from what a network says without some of its blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from gendiff.config import Configurable
from gendiff.denoise import AnyDenoiser, Denoiser
from gendiff.guide.autoguidance import Autoguidance
from gendiff.guide.guidance import finite

M = TypeVar("M", bound=nn.Module)

SCALE = 1.5
"""Where none is asked for."""


class Skip(Configurable):
    r"""Guidance away from the model itself without some blocks of its network, so that no second model is needed.

    .. math:: \hat x_0 = \hat x_0^\mathrm{without} + w\, (\hat x_0 - \hat x_0^\mathrm{without})

    A network whose blocks add to what they get still gives estimates without a few of them: worse ones, of the same
    data. Both calls share their weights, and a step takes two evaluations. It is put around the denoiser itself, before
    other guidance.

    Arguments:
        blocks: Numbers of the blocks that are left out, from 0: those in the middle are a good start.
        scale: w (1.5); 1 is the plain model.

    Raises:
        ValueError: for no block, a number twice or below 0, or a scale that is not finite; of a denoiser, when its
            network has no list of blocks, or too few.

    References:
        | Guiding a diffusion model with a bad version of itself (Karras et al., 2024) | https://arxiv.org/abs/2406.02507
        | Spatiotemporal skip guidance for enhanced video diffusion sampling (Hyung et al., 2024) | https://arxiv.org/abs/2411.18664
    """

    def __init__(self, blocks: Sequence[int], scale: float = SCALE):
        self.blocks, self.scale = list(blocks), finite("scale", scale)
        if not self.blocks or len({*self.blocks}) < len(self.blocks) or not all(b >= 0 for b in self.blocks):
            raise ValueError(f"blocks must be different numbers from 0, at least one, got {self.blocks}")

    def __call__(self, denoiser: AnyDenoiser) -> AnyDenoiser:
        """Return the guided denoiser."""
        return Autoguidance(denoiser, without(denoiser, self.blocks), self.scale)


def without(denoiser: AnyDenoiser, blocks: Sequence[int]) -> Denoiser:
    """Return a denoiser with the same weights whose network lacks some blocks of its list `blocks`.

    Raises:
        ValueError: if there is no such list, or one without these, or with no others.
    """
    there = getattr(getattr(denoiser, "network", None), "blocks", None)
    if not isinstance(denoiser, Denoiser) or not isinstance(there, nn.ModuleList):
        kind = type(getattr(denoiser, "network", denoiser)).__name__
        raise ValueError(f"{kind} has no list of blocks of which some could be left out")
    kept = [block for number, block in enumerate(there) if number not in blocks]
    if len(kept) != len(there) - len(blocks) or not kept:
        raise ValueError(f"the network has blocks 0 to {len(there) - 1}; cannot leave out {sorted(blocks)}")
    return _sharing(denoiser, "network", _sharing(denoiser.network, "blocks", nn.ModuleList(kept)))


def _sharing(module: M, name: str, part: nn.Module) -> M:
    """Return a module like another, of the same parts and weights, but for one part; the other stays as it is."""
    like = copy.copy(module)
    like._modules = {**module._modules, name: part}
    return like
