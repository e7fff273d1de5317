"""Log-probabilities to guide by, for :class:`gendiff.guide.Gradient`: (state, t, mask) to shape (B,).

Their networks are called as `network(state, t, mask)`: with noisy states at `at="x_t"`, with estimates of the clean
data at `at="data"`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gendiff.guide.constraint import fitting, spread
from gendiff.guide.gradient import LogProb
from gendiff.ops import State
from gendiff.process import TINY, JointProcess


def classifier(network: LogProb, label: Tensor) -> LogProb:
    r"""Return the log-probability of a class, :math:`\log\mathrm{softmax}(f(x))_y`.

    Arguments:
        network: f, to logits (B, K).
        label: y, integers (B,); -1 where a sample has none and goes free.

    References: | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021) | https://arxiv.org/abs/2105.05233
    """

    def log_prob(x: State, t: Tensor, mask: Tensor | None) -> Tensor:
        chosen = network(x, t, mask).log_softmax(-1).gather(1, label.clamp(min=0)[:, None])[:, 0]
        return chosen * (label >= 0)

    return log_prob


def regressor(network: LogProb, value: Tensor, std: float) -> LogProb:
    r"""Return the log-density of properties that a network predicts, :math:`-\|f(x) - y\|^2 / 2s^2`.

    Arguments:
        network: f, to shape (B,) or (B, D).
        value: y, shape of what f returns.
        std: s > 0, the error of the network, or how close is close enough.

    Raises:
        ValueError: for std <= 0.
    """
    if not std > 0:
        raise ValueError(f"std, how far a property may lie from its value, must be positive, got {std}")

    def log_prob(x: State, t: Tensor, mask: Tensor | None) -> Tensor:
        error = (network(x, t, mask) - value) / std
        return -0.5 * error.reshape(len(t), -1).square().sum(1)

    return log_prob


def similarity(embed: LogProb, target: Tensor, scale: float = 100.0) -> LogProb:
    r"""Return the log-probability of an embedding by CLIP, :math:`k \cos(f(x), g)`.

    Arguments:
        embed: f, to shape (B, D).
        target: g, shape (B, D), for example of a text; need not have unit length.
        scale: k, the logit scale (100, where that of CLIP ends up).

    References:
        | Learning transferable visual models from natural language supervision (Radford et al., 2021) | https://arxiv.org/abs/2103.00020
        | GLIDE (Nichol et al., 2021): CLIP guidance | https://arxiv.org/abs/2112.10741
    """

    def log_prob(x: State, t: Tensor, mask: Tensor | None) -> Tensor:
        return scale * nn.functional.cosine_similarity(embed(x, t, mask), target, dim=-1)

    return log_prob


def reconstruction(known: State, keep: dict[str, Tensor], process: JointProcess) -> LogProb:
    r"""Return how well the estimate agrees with known entries a, for `at="data"`: reconstruction guidance.

    .. math:: \log p(x_a | x_t) \approx -\frac{\alpha^2}{2\sigma^2} \|x_a - \hat x_a(x_t)\|^2

    so that `Gradient(scale=w)` is the rule of video diffusion, :math:`\hat x_0 \leftarrow \hat x_0 - \frac{w\alpha}2
    \nabla_{x_t} \|x_a - \hat x_a\|^2`. Categorical fields take :math:`\log \hat p(x_a)`. Together with
    :class:`~gendiff.guide.Replacement` the free entries follow the known ones better than by replacement alone. Known
    entries of a space that has no place (zero centre of mass) are compared where they fit best.

    Arguments:
        known: Clean values of some fields.
        keep: Which entries are known: bool (B, N) for node fields, or anything broadcastable to the field.
        process: The forward process, `denoiser.process`.

    Raises:
        ValueError: if the fields of `known` and `keep` differ, or are not in the process.

    References: | Video diffusion models (Ho et al., 2022) | https://arxiv.org/abs/2204.03458
    """
    keep = spread(known, keep)
    fields = dict(process.items())
    if not known.keys() <= fields.keys():
        raise ValueError(f"known must name fields of the process, {sorted(fields)}, got {sorted(known)}")

    def log_prob(x: State, t: Tensor, mask: Tensor | None) -> Tensor:
        total = torch.zeros_like(t)
        for name, value in known.items():
            space, estimate, value = fields[name].space, x[name], fitting(name, value, x[name])
            if fields[name].categorical:
                total = total + space.sum(value * keep[name] * estimate.clamp(min=TINY).log(), mask)
            else:
                snr = fields[name].schedule.log_snr(t).clamp(max=20).exp()  # finite at clean data
                error = space.impose(estimate, value, keep[name]) - estimate
                total = total - 0.5 * snr * space.sum(error**2, mask)
        return total

    return log_prob
