"""Guidance by the gradient of a log-probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gendiff.denoise import LEAST_SIGNAL, AnyDenoiser, Estimate
from gendiff.guide.guidance import Guidance, finite
from gendiff.ops import State
from gendiff.process import TINY, GivenProcess
from gendiff.schedule import coefficients
from gendiff.space import Space

LogProb = Callable[[State, Tensor, Tensor | None], Tensor]
"""(state, t, mask) to log p(y | state) of each sample up to a constant, shape (B,)."""


class Gradient(Guidance):
    r"""Guidance towards what a differentiable log-probability asks for.

    .. math::
        \nabla\log p(x_t | y) = \nabla\log p(x_t) + \nabla\log p(y | x_t) \quad\Leftrightarrow\quad
        \hat x_0 \leftarrow \hat x_0 + w\, \frac{\sigma^2}{\alpha} \nabla_{x_t} \log p(y | x_t)

    `at="x_t"` asks a model of noisy states. `at="data"` asks one of clean states at the estimate,
    :math:`\log p(y | \hat x_0(x_t))`, and differentiates through the denoiser. Where :math:`\alpha < 10^{-3}` the
    state says nothing of the data and is not guided: there the gradient of a network is its error.

    Categorical fields go by Taylor's first order: the log-probabilities of the clean data shift by the gradient,
    :math:`p(x_0) \leftarrow p(x_0)\, e^{w \langle\nabla, x_0\rangle}`, renormalised, with respect to :math:`x_t`, or to
    the estimated probabilities for `at="data"` (there exact if the log-probability is linear in the data). Gradients
    are those in the space of the field: without its centre of mass, or one number for both places of a pair.

    Small :math:`\alpha` multiplies the gradient of a learned classifier, and its errors; :class:`Threshold` around this
    guidance bounds what comes of it.

    Arguments:
        denoiser: What is guided; conditional or not.
        log_prob: (state, t, mask) to shape (B,), up to a constant; see :mod:`gendiff.guide.log_prob` for ready ones.
        scale: w (1, the exact conditional law if all models are exact).
        at: "x_t" or "data".

    Raises:
        ValueError: for an unknown `at` or a scale that is not finite.

    References:
        | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021): classifiers | https://arxiv.org/abs/2105.05233
        | Diffusion posterior sampling (Chung et al., 2022): at the data | https://arxiv.org/abs/2209.14687
        | DiGress (Vignac et al., 2022): categories | https://arxiv.org/abs/2209.14734
    """

    def __init__(self, denoiser: AnyDenoiser, log_prob: LogProb, scale: float = 1.0, at: str = "x_t"):
        super().__init__(denoiser)
        if at not in ("x_t", "data"):
            raise ValueError(f"at must be 'x_t' or 'data', got {at!r}")
        self.log_prob, self.scale, self.at = log_prob, finite("scale", scale), at

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the guided estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`.

        Raises:
            ValueError: if the log-probability is not one number per sample, or does not depend on the state.
        """
        tracked = torch.is_grad_enabled()  # then the result is differentiable too
        with torch.enable_grad():
            x = {name: v if v.requires_grad else v.detach().requires_grad_() for name, v in x_t.items()}
            variables = {name: x[name] for name, _ in self.process.items()}
            if self.at == "x_t":
                log_prob = self.log_prob(x, t, mask)
            else:
                estimate = self.denoiser(x, t, mask, condition, previous, noise)
                data = dict(estimate.data)
                for name, field in self.process.items():
                    if field.categorical:
                        variables[name] = torch.zeros_like(data[name], requires_grad=True)
                        data[name] = data[name] + variables[name]
                log_prob = self.log_prob(data, t, mask)
            if log_prob.shape != t.shape:
                raise ValueError(
                    f"log_prob must return one number per sample, shape {tuple(t.shape)}, got {tuple(log_prob.shape)}"
                )
            wanted = list(variables.values()) if log_prob.requires_grad else []
            gradients = wanted and torch.autograd.grad(log_prob.sum(), wanted, create_graph=tracked, allow_unused=True)
            if all(gradient is None for gradient in gradients):
                raise ValueError("log_prob does not depend on the state; compute it from the state, without detaching")
        if self.at == "x_t":
            estimate = self.denoiser(x_t, t, mask, condition, previous, noise)
        data = {name: value if tracked else value.detach() for name, value in estimate.data.items()}
        logits = {name: value if tracked else value.detach() for name, value in estimate.logits.items()}
        for (name, field), gradient in zip(self.process.items(), gradients, strict=True):
            if gradient is None or isinstance(field, GivenProcess):  # it is not looked at, or nothing can lead it
                continue
            shift = self.scale * _in_space(gradient, field.space, mask)
            if field.categorical:
                logits[name] = data[name].clamp(min=TINY).log() + shift
                data[name] = field.space.project(logits[name].softmax(-1), mask)
            else:
                alpha, sigma = coefficients(field.schedule, t, shift)
                data[name] = data[name] + torch.where(alpha >= LEAST_SIGNAL, sigma**2 / alpha, 0.0) * shift
                logits.pop(name, None)
        return replace(estimate, x_t=x_t, data=data, logits=logits)


def _in_space(partial: Tensor, space: Space, mask: Tensor | None) -> Tensor:
    """Return the gradient in a space from partial derivatives: one number of a pair stands at two places."""
    return space.project(partial + partial.transpose(1, 2) if space.kind == "pair" else partial, mask)
