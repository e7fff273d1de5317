r"""Squared errors under a weight of the time.

Nearly all losses of the field are one squared error of the clean data under a weight that depends on t only:

==========  =========================================  =============================================================
weighting   w(t), with :math:`w \|x_0 - \hat x_0\|^2`  also known as
==========  =========================================  =============================================================
`network`   :math:`1 / c_\mathrm{out}^2`               the error of the network's own output: L_simple of DDPM
                                                       ("noise"), v, flow matching ("flow"), EDM ("karras")
`data`      1                                          x_0 loss
`noise`     SNR                                        L_simple, whatever the parameterization; denoising score
                                                       matching: :math:`\sigma^2 \|s - \nabla \log q(x_t | x_0)\|^2`
`velocity`  :math:`(\alpha' - \sigma'\alpha/\sigma)^2`  flow matching, on any schedule
`min_snr`   min(SNR, gamma)                            min-SNR-gamma
`karras`    SNR + 1 / D^2, D the scale of the data     EDM, whatever the parameterization:
                                                       :math:`(\tau^2 + D^2)/(\tau D)^2, \tau = \sigma / \alpha`
==========  =========================================  =============================================================

Fields of logits take the cross-entropy; of given ones there is nothing to learn.

References:
    | Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    | A connection between score matching and denoising autoencoders (Vincent, 2011) | https://doi.org/10.1162/NECO_a_00142
    | Flow matching for generative modeling (Lipman et al., 2022) | https://arxiv.org/abs/2210.02747
    | Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    | Efficient diffusion training via min-SNR weighting (Hang et al., 2023) | https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gendiff.denoise import Denoiser, Estimate
from gendiff.objective.coupling import Coupling
from gendiff.objective.loss import Loss, idle
from gendiff.objective.times import Times
from gendiff.objective.uncertainty import Uncertainty
from gendiff.ops import Random, State

WEIGHTINGS = ("network", "data", "noise", "velocity", "min_snr", "karras")


class Objective(Loss):
    """Squared error under a weighting, cross-entropy for fields of logits.

    Arguments:
        weighting: Row of the table above, for all Gaussian fields or by field.
        scale: Factor of each field in the sum (1).
        times: Law of the times (uniform).
        max_weight: Largest weight relative to an error of the clean data; bounds 1/sigma^2 near t = 0. None: no bound.
        condition_dropout: Probability with which a sample loses its condition, for classifier-free guidance (0.1).
        self_condition: Probability with which a batch sees the network's first estimate (0.5), if the denoiser takes
            one.
        gamma: Of the weighting min_snr (5).
        coupling: Chooses which noise a sample of a batch gets (independent).
        uncertainty: Learned weight of the loss at each time (none).

    Raises:
        ValueError: for an unknown weighting, a gamma that is not positive, or a probability outside [0, 1].
    """

    def __init__(
        self,
        weighting: str | Mapping[str, str] = "network",
        scale: Mapping[str, float] | None = None,
        times: Times | None = None,
        max_weight: float | None = None,
        condition_dropout: float = 0.1,
        self_condition: float = 0.5,
        gamma: float = 5.0,
        coupling: Coupling | None = None,
        uncertainty: Uncertainty | None = None,
    ):
        super().__init__(scale, times, condition_dropout, self_condition, coupling, uncertainty)
        names = [weighting] if isinstance(weighting, str) else list(weighting.values())
        for name in names:
            if name not in WEIGHTINGS:
                raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {name!r}")
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        self.weighting = weighting if isinstance(weighting, str) else dict(weighting)
        self.max_weight, self.gamma = max_weight, gamma

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
        estimate = self.estimate(denoiser, x_t, t, mask, condition, random)
        return {
            name: self.error(name, denoiser, estimate, x_0[name], noise[name], mask)
            for name, _ in denoiser.process.items()
        }

    def error(
        self, name: str, denoiser: Denoiser, estimate: Estimate, x_0: Tensor, noise: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the loss of one field, shape (B,)."""
        space, t = denoiser.process[name].space, estimate.t
        if denoiser.parameterization[name] == "given":
            return idle(estimate, name, mask)
        if denoiser.parameterization[name] == "logits":
            surprise = -(x_0 * estimate.logits[name].log_softmax(-1)).sum(-1, keepdim=True)
            return space.sum(surprise, mask) / space.count(mask, x_0).clamp(min=1)
        # In the network's own units x_0 = c_skip x_t + c_out F the target is an exact mix of x_0 and noise: no digits
        # are lost near t = 0.
        alpha, sigma, skip, out = denoiser.row(name, t, x_0)
        target = (1 - skip * alpha) / out * x_0 - skip * sigma / out * noise
        output = space.project(estimate.output[name].to(x_0.dtype), mask)
        weight = self.weight(denoiser, name, t) * out.flatten(1)[:, 0] ** 2
        return weight * space.sum((output - target) ** 2, mask) / space.dim(mask, x_0).clamp(min=1)

    def weight(self, denoiser: Denoiser, name: str, t: Tensor) -> Tensor:
        """Return w(t) of a field: the weight of a squared error of its clean data, shape (B,)."""
        schedule = denoiser.process[name].schedule
        kind = self.weighting if isinstance(self.weighting, str) else self.weighting.get(name, "network")
        if kind == "data":
            weight = torch.ones_like(t)
        elif kind == "network":
            out = denoiser.row(name, t, t)[3].expand_as(t)
            weight = 1 / out**2
        elif kind == "velocity":
            (alpha, sigma), (d_alpha, d_sigma) = (schedule.alpha(t), schedule.sigma(t)), schedule.derivatives(t)
            weight = (d_alpha - d_sigma * alpha / sigma) ** 2
        else:
            snr = schedule.log_snr(t).exp()
            if kind == "karras":
                weight = snr + 1 / denoiser.data_scale[name] ** 2
            else:
                weight = snr.clamp(max=self.gamma) if kind == "min_snr" else snr
        return weight if self.max_weight is None else weight.clamp(max=self.max_weight)
