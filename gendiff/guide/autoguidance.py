"""Autoguidance."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.config import describe
from gendiff.denoise import AnyDenoiser, Estimate
from gendiff.guide.guidance import Guidance, extrapolate, finite
from gendiff.ops import State


class Autoguidance(Guidance):
    r"""Guidance away from the mistakes of a weaker model of the same data: smaller, or less trained.

    .. math:: \hat x_0 = \hat x_0^\mathrm{weak} + w\, (\hat x_0 - \hat x_0^\mathrm{weak})

    w = 1 is the plain model. Categorical fields mix log-probabilities, renormalised. Needs no condition; both models
    get the one there is.

    Arguments:
        denoiser: The model.
        weaker: The weaker one, with the same process. A denoiser's schedule may be changed after training, so that of
            the model can be given to a weaker one that was trained with another.
        scale: w.

    Raises:
        ValueError: if the processes differ, or for a scale that is not finite.

    References: | Guiding a diffusion model with a bad version of itself (Karras et al., 2024) | https://arxiv.org/abs/2406.02507
    """

    def __init__(self, denoiser: AnyDenoiser, weaker: AnyDenoiser, scale: float):
        super().__init__(denoiser)
        ours, theirs = ({name: describe(field) for name, field in p.items()} for p in (self.process, weaker.process))
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if differing:
            raise ValueError(
                f"the weaker model must share the process of the model, and fields {differing} differ;"
                " give its network a denoiser with that process"
            )
        self.weaker, self.scale = weaker, finite("scale", scale)

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the guided estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`."""
        strong = self.denoiser(x_t, t, mask, condition, previous, noise)
        if self.scale == 1:
            return strong
        weak = self.weaker(x_t, t, mask, condition, previous, noise)
        return extrapolate(strong, weak, torch.full_like(t, self.scale), mask)
