r"""The forward process q, field by field, and the terms of its variational bound.

A Gaussian field becomes noise by :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`; a categorical one keeps its value with
probability :math:`a_t = \alpha_t^2` and is otherwise drawn anew. Every method is a pure function of the noise it is
given, so couplings may choose it. In all of them `t` and `s` are (B,), `s < t`, a field is (B, ...), and `mask` is (B,
N) or None.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendiff.ops import Random, State, expand
from gendiff.schedule import Schedule, coefficients
from gendiff.space import Space, ZeroCenterOfMass

TINY = 1e-30


@dataclass
class Normal:
    r"""A normal law :math:`N(\mathrm{mean}, \mathrm{std}^2 I)` on a space; `std` broadcasts over `mean`."""

    mean: Tensor
    std: Tensor
    space: Space
    mask: Tensor | None = None

    def sample(self, noise: Tensor) -> Tensor:
        """Return mean + std noise."""
        return self.mean + self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats over the degrees of freedom of the space, shape (B,)."""
        square = self.space.sum(((x - self.mean) / self.std) ** 2, self.mask)
        log_volume = self.space.trace((self.std.log() + 0.5 * math.log(2 * math.pi)).expand_as(x), self.mask)
        return -0.5 * square - log_volume

    def kl(self, other: Normal) -> Tensor:
        r"""Return KL(self || other) in nats, shape (B,)."""
        ratio = (self.std / other.std).expand_as(self.mean)
        square = self.space.sum(((self.mean - other.mean) / other.std) ** 2, self.mask)
        return 0.5 * square + self.space.trace(0.5 * (ratio**2 - 1) - ratio.log(), self.mask)


@dataclass
class Categorical:
    """Independent categories with probabilities (..., K); states are one-hot."""

    probabilities: Tensor
    space: Space
    mask: Tensor | None = None

    def sample(self, noise: Tensor) -> Tensor:
        """Return the one-hot category of largest log p + noise, for Gumbel noise a draw of the law."""
        choice = (self.probabilities.clamp(min=TINY).log() + noise).argmax(-1)
        x = torch.nn.functional.one_hot(choice, self.probabilities.shape[-1]).to(self.probabilities.dtype)
        return self.space.project(x, self.mask)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-probability of one-hot `x` in nats, shape (B,)."""
        return self.space.sum(x * self.probabilities.clamp(min=TINY).log(), self.mask)

    def kl(self, other: Categorical) -> Tensor:
        """Return KL(self || other) in nats, shape (B,)."""
        p = self.probabilities
        return self.space.sum(p * (p.clamp(min=TINY).log() - other.probabilities.clamp(min=TINY).log()), self.mask)


class Process(nn.Module):
    """Interface of the forward process of one field: a schedule and a space."""

    categorical = False

    def __init__(self, schedule: Schedule, space: Space):
        super().__init__()
        self.schedule, self.space = schedule, space

    def noise(self, mask: Tensor | None, random: Random) -> Tensor:
        """Return the noise that the other methods take."""
        return self.space.noise(mask, random, "gumbel" if self.categorical else "normal")

    def prior(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return a state of the stationary law at t = 1."""
        raise NotImplementedError(f"{type(self).__name__} must define prior")

    def prior_given(self, noise: Tensor, mask: Tensor | None, known: Tensor, keep: Tensor) -> Tensor:
        """Return a state of the law at t = 1 of samples of which some entries are known.

        By default that is :meth:`prior`: noise knows nothing of the data.

        Arguments:
            noise: As :meth:`prior`.
            mask: (B, N) or None.
            known: Clean data, shaped like the field.
            keep: Which entries of it are known, bool, broadcastable to the field; (B, N) of nodes will do.
        """
        return self.prior(noise, mask)

    def marginal(self, x_0: Tensor, t: Tensor, mask: Tensor | None = None) -> Normal | Categorical:
        """Return q(x_t | x_0)."""
        raise NotImplementedError(f"{type(self).__name__} must define marginal")

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor, mask: Tensor | None = None) -> Normal | Categorical:
        """Return q(x_t | x_s)."""
        raise NotImplementedError(f"{type(self).__name__} must define transition")

    def posterior(
        self, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None
    ) -> Normal | Categorical:
        """Return q(x_s | x_t) for clean data, or for an estimate of it (see the class)."""
        raise NotImplementedError(f"{type(self).__name__} must define posterior")

    def corrupt(self, x_0: Tensor, t: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return x_t from q(x_t | x_0)."""
        return self.marginal(x_0, t, mask).sample(noise)

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return x_t from q(x_t | x_s)."""
        return self.transition(x_s, s, t, mask).sample(noise)

    def kl(self, x_0: Tensor, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return KL(q(x_s | x_t, x_0) || q(x_s | x_t, estimate)) in nats, shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define kl")

    def prior_kl(self, x_0: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return KL(q(x_1 | x_0) || prior) in nats, shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define prior_kl")

    def reconstruction(self, x_0: Tensor, data: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x_0 | x_t) in nats, shape (B,), at the first noisy time t."""
        raise NotImplementedError(f"{type(self).__name__} must define reconstruction")


class GaussianProcess(Process):
    r"""Gaussian diffusion of a field.

    .. math::
        q(x_t | x_0) &= N(\alpha_t x_0, \sigma_t^2) \\
        q(x_t | x_s) &= N(\alpha_{ts} x_s, \sigma_{ts}^2), \quad
            \alpha_{ts} = \alpha_t / \alpha_s, \quad \sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2 \\
        q(x_s | x_t, x_0) &= N\left(\frac{\alpha_{ts} \sigma_s^2}{\sigma_t^2} x_t
            + \frac{\alpha_s \sigma_{ts}^2}{\sigma_t^2} x_0, \frac{\sigma_{ts}^2 \sigma_s^2}{\sigma_t^2}\right)

    The prior is :math:`N(0, \alpha_1^2 + \sigma_1^2)`, the marginal at t = 1 of unit-variance data. An estimate enters
    the posterior in the place of :math:`x_0`; the KL of the two is
    :math:`\frac12 (\mathrm{SNR}_s - \mathrm{SNR}_t) \|x_0 - \hat x_0\|^2`.

    Arguments:
        schedule: alpha(t) and sigma(t).
        space: Where the field lives; noise and means stay in it.

    References: | Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def _prior_std(self, like: Tensor) -> Tensor:
        one = like.new_ones(like.shape[:1])
        return expand((self.schedule.alpha(one) ** 2 + self.schedule.sigma(one) ** 2).sqrt(), like)

    def prior(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return self._prior_std(noise) * noise

    def marginal(self, x_0: Tensor, t: Tensor, mask: Tensor | None = None) -> Normal:  # noqa: D102
        alpha, sigma = coefficients(self.schedule, t, x_0)
        return Normal(alpha * x_0, sigma, self.space, mask)

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor, mask: Tensor | None = None) -> Normal:  # noqa: D102
        alpha_ts, sigma_ts = self._between(x_s, s, t)
        return Normal(alpha_ts * x_s, sigma_ts, self.space, mask)

    def _between(self, like: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (
            coefficients(self.schedule, s, like),
            coefficients(self.schedule, t, like),
        )
        alpha_ts = alpha_t / alpha_s
        return alpha_ts, (sigma_t**2 - (alpha_ts * sigma_s) ** 2).clamp(min=0).sqrt()

    def reverse_coefficients(self, like: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Return what q(x_s | x_t, x_0) is made of, shaped to multiply `like`.

        Those are A and B of its mean :math:`A x_t + B x_0`, its standard deviation ("small", right for data without
        spread), and that for data of unit variance, :math:`\sigma_{ts}` ("large").
        """
        (alpha_s, sigma_s), (_, sigma_t) = coefficients(self.schedule, s, like), coefficients(self.schedule, t, like)
        alpha_ts, sigma_ts = self._between(like, s, t)
        of_x_t, of_data = alpha_ts * sigma_s**2 / sigma_t**2, alpha_s * sigma_ts**2 / sigma_t**2
        return of_x_t, of_data, sigma_ts * sigma_s / sigma_t, sigma_ts

    def posterior(
        self,
        x_t: Tensor,
        data: Tensor,
        t: Tensor,
        s: Tensor,
        mask: Tensor | None = None,
        fraction: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> Normal:
        r"""Return q(x_s | x_t) for clean data, or p(x_s | x_t) for an estimate of it.

        Arguments:
            x_t: Noisy field.
            data: Clean field, or its estimate.
            t: Times (B,).
            s: Earlier times (B,).
            mask: (B, N) or None.
            fraction: f, the learned variance :math:`\mathrm{large}^f\, \mathrm{small}^{1 - f}`.
            variance: v, the variance of the data around the estimate; adds :math:`B^2 v`.
        """
        of_x_t, of_data, small, large = self.reverse_coefficients(x_t, t, s)
        std = small
        if fraction is not None:
            std = torch.exp(fraction * large.log() + (1 - fraction) * small.log())
        elif variance is not None:
            std = (small**2 + of_data**2 * variance).sqrt()
        return Normal(of_x_t * x_t + of_data * data, std, self.space, mask)

    def kl(self, x_0: Tensor, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        snr_s, snr_t = self.schedule.log_snr(s).exp(), self.schedule.log_snr(t).exp()
        return 0.5 * (snr_s - snr_t) * self.space.sum((x_0 - data) ** 2, mask)

    def prior_kl(self, x_0: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        prior = Normal(torch.zeros_like(x_0), self._prior_std(x_0), self.space, mask)
        return self.marginal(x_0, x_0.new_ones(x_0.shape[:1]), mask).kl(prior)

    def reconstruction(self, x_0: Tensor, data: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        alpha, sigma = coefficients(self.schedule, t, x_0)
        return -Normal(data, sigma / alpha, self.space, mask).log_prob(x_0)


class CategoricalProcess(Process):
    r"""Diffusion of one-hot categories towards a stationary law.

    A category that is not kept, :math:`a_t = \alpha_t^2`, is drawn anew from :math:`\pi`, or jumps by the rows of a
    stochastic matrix R as often as it takes. Both are semigroups, :math:`P_{a b} = P_a P_b`, of which the first is the
    second with :math:`R = 1 \pi^T`:

    .. math::
        q(x_t | x_0) = x_0^T P_{a_t}, \quad q(x_t | x_s) = x_s^T P_{a_t / a_s}, \qquad
        P_a = a I + (1 - a)\, 1 \pi^T \quad\mathrm{or}\quad P_a = \exp(\log a\, (I - R))

    For an estimate p of the clean probabilities the posterior is the mixture of the exact ones,
    :math:`\sum_k p_k\, q(x_s | x_t, x_0 = k)`:

    .. math::
        q(x_s = j | x_t) = (P_{a_t / a_s} x_t)_j\, \left(\frac{p}{P_{a_t} x_t}^T P_{a_s}\right)_j

    Arguments:
        schedule: alpha(t); sigma is not used.
        stationary: The K probabilities of :math:`\pi`: uniform (with K = 2: binomial diffusion), the marginal of the
            data, or one-hot on an absorbing category, in O(K); or the K rows of R, with one stationary law, in O(K^2).
        space: Where the field lives, with K features.

    Raises:
        ValueError: for probabilities that are none, a matrix with several stationary laws, or a space that cannot hold
            categories.

    References:
        | Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021) | https://arxiv.org/abs/2107.03006
        | Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al., 2015) | https://arxiv.org/abs/1503.03585
    """

    categorical = True

    def __init__(self, schedule: Schedule, stationary: Sequence[float] | Sequence[Sequence[float]], space: Space):
        super().__init__(schedule, space)
        given = torch.tensor(stationary, dtype=torch.float64)
        self.stationary = given.tolist()
        rows = given if given.dim() == 2 else given[None]
        fits = given.shape in ((space.features,), (space.features, space.features))
        if not fits or not (rows >= 0).all() or ((rows.sum(1) - 1).abs() > 1e-6).any():
            raise ValueError(
                f"stationary must hold {space.features} probabilities that sum to 1, or as many rows of them,"
                f" got {self.stationary}"
            )
        if isinstance(space, ZeroCenterOfMass):
            raise ValueError("categories have no centre of mass; give a categorical field a Euclidean space")
        if space.kind == "grid":
            raise ValueError("categories lie along the last axis and a grid has its channels first; use a node space")
        law = given
        if given.dim() == 2:
            generator = torch.eye(len(given), dtype=torch.float64) - given
            singular = torch.linalg.svd(generator.T)
            if (singular.S < 1e-9).sum() != 1:
                raise ValueError(
                    "stationary is a matrix with several stationary laws; every category must reach one set"
                )
            law = singular.Vh[-1] / singular.Vh[-1].sum()
            self.register_buffer("_generator", generator, persistent=False)
        self.register_buffer("_law", law.clamp(min=0), persistent=False)

    def law(self, like: Tensor) -> Tensor:
        """Return the K stationary probabilities, with device and dtype of `like`."""
        return self.get_buffer("_law").to(like)

    def _keep(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(t) ** 2

    def _matrix(self, a: Tensor) -> Tensor:
        """P_a of each sample, (B, K, K); an a below 1e-30 is as good as 0."""
        power = a.double().clamp(min=TINY).log()[:, None, None] * self.get_buffer("_generator").to(a.device)
        return torch.linalg.matrix_exp(power).clamp(min=0).to(a)

    def _forward(self, y: Tensor, a: Tensor) -> Tensor:
        """Return y^T P_a along the last axis of y (B, ..., K), a (B,)."""
        if hasattr(self, "_generator"):
            return (y.flatten(1, -2) @ self._matrix(a)).view_as(y)
        a = expand(a, y)
        return a * y + (1 - a) * y.sum(-1, keepdim=True) * self.law(y)

    def _backward(self, x: Tensor, a: Tensor) -> Tensor:
        """Return P_a x along the last axis of x (B, ..., K), a (B,)."""
        if hasattr(self, "_generator"):
            return (x.flatten(1, -2) @ self._matrix(a).transpose(1, 2)).view_as(x)
        a = expand(a, x)
        return a * x + (1 - a) * (x * self.law(x)).sum(-1, keepdim=True)

    def prior(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return Categorical(self.law(noise).expand_as(noise), self.space, mask).sample(noise)

    def marginal(self, x_0: Tensor, t: Tensor, mask: Tensor | None = None) -> Categorical:  # noqa: D102
        return Categorical(self._forward(x_0, self._keep(t)), self.space, mask)

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor, mask: Tensor | None = None) -> Categorical:  # noqa: D102
        return Categorical(self._forward(x_s, self._keep(t) / self._keep(s)), self.space, mask)

    def likelihood(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return q(x_t | x_0 = k) for every k, shape (..., K)."""
        return self._backward(x_t, self._keep(t))

    def posterior(self, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None) -> Categorical:  # noqa: D102
        a_t, a_s = self._keep(t), self._keep(s)
        ratio = data / self._backward(x_t, a_t).clamp(min=TINY)
        p = self._backward(x_t, a_t / a_s) * self._forward(ratio, a_s)
        return Categorical(p / p.sum(-1, keepdim=True).clamp(min=TINY), self.space, mask)

    def kl(self, x_0: Tensor, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return self.posterior(x_t, x_0, t, s, mask).kl(self.posterior(x_t, data, t, s, mask))

    def prior_kl(self, x_0: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        prior = Categorical(self.law(x_0).expand_as(x_0), self.space, mask)
        return self.marginal(x_0, x_0.new_ones(x_0.shape[:1]), mask).kl(prior)

    def reconstruction(self, x_0: Tensor, data: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return -Categorical(data, self.space, mask).log_prob(x_0)


class GivenProcess(Process):
    r"""A field that no noise touches: a network is told it, and estimates nothing of it.

    .. math:: q(x_t | x_0) = \delta(x_t - x_0)

    What is given is drawn at the start, from a law that a subclass writes (`prior`, and :math:`-\log p(x_0)` as
    `prior_kl`), and stays. Its values are one-hot categories, and its parameterization is "given".

    Arguments:
        schedule: Says nothing here; a network is told its noise level as that of any field.
        space: Where the field lives.
    """

    categorical = True

    def marginal(self, x_0: Tensor, t: Tensor, mask: Tensor | None = None) -> Categorical:  # noqa: D102
        return Categorical(x_0, self.space, mask)

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor, mask: Tensor | None = None) -> Categorical:  # noqa: D102
        return Categorical(x_s, self.space, mask)

    def posterior(self, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None) -> Categorical:  # noqa: D102
        return Categorical(x_t, self.space, mask)

    def kl(self, x_0: Tensor, x_t: Tensor, data: Tensor, t: Tensor, s: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return torch.zeros_like(t)

    def reconstruction(self, x_0: Tensor, data: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return torch.zeros_like(t)


class JointProcess(nn.Module):
    """The processes of several fields under one time: x_t = {field: process(x_0[field])}.

    Arguments:
        fields: Process of each field; the order of the fields is theirs.
        clock: The Gaussian field whose log signal-to-noise ratio spaces time grids; by default the first Gaussian one.

    Raises:
        ValueError: if there is no field, or `clock` names none of them.
    """

    def __init__(self, fields: Mapping[str, Process], clock: str | None = None):
        super().__init__()
        if not fields:
            raise ValueError("a joint process needs at least one field")
        if clock is not None and clock not in fields:
            raise ValueError(f"clock {clock!r} is not one of the fields {sorted(fields)}")
        self.fields = nn.ModuleDict(fields)
        gaussian = [name for name, process in fields.items() if not process.categorical]
        self.clock = clock or (gaussian or list(fields))[0]

    def items(self) -> Iterator[tuple[str, Process]]:
        """Iterate over (field, process)."""
        return iter(self.fields.items())  # type: ignore[arg-type]

    def __getitem__(self, field: str) -> Process:
        return self.fields[field]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the clock field."""
        return self[self.clock].schedule

    def check(self, x: State) -> None:
        """Check that a state has the fields of this process, in shapes of their spaces.

        Raises:
            ValueError: naming the field, the shape it should have and the one it has.
        """
        if x.keys() != self.fields.keys():
            raise ValueError(f"the state has the fields {sorted(x)}; those of the process are {sorted(self.fields)}")
        for name, process in self.items():
            if not process.space.fits(x[name]):
                raise ValueError(
                    f"field {name!r} has shape {tuple(x[name].shape)}; it should be {process.space.form}, B samples"
                )

    def everywhere(self, x: State) -> Tensor | None:
        """Return the mask (B, N) by which all elements of a state are there, None where its fields are grids."""
        found = [x[name] for name, process in self.items() if process.space.kind != "grid"]
        return torch.ones(found[0].shape[:2], dtype=torch.bool, device=found[0].device) if found else None

    def noise(self, mask: Tensor | None, random: Random) -> State:
        """Return the noise of every field."""
        return {name: process.noise(mask, random) for name, process in self.items()}

    def prior(self, noise: State, mask: Tensor | None = None) -> State:
        """Return a state of the stationary law at t = 1."""
        return {name: process.prior(noise[name], mask) for name, process in self.items()}

    def prior_given(self, noise: State, mask: Tensor | None, known: State, keep: State) -> State:
        """Return the same of samples of which some fields have known entries; see :meth:`Process.prior_given`."""
        return {
            name: process.prior_given(noise[name], mask, known[name], keep[name])
            if name in known
            else process.prior(noise[name], mask)
            for name, process in self.items()
        }

    def corrupt(self, x_0: State, t: Tensor, noise: State, mask: Tensor | None = None) -> State:
        """Return x_t from q(x_t | x_0)."""
        return {name: process.corrupt(x_0[name], t, noise[name], mask) for name, process in self.items()}

    def renoise(self, x_s: State, s: Tensor, t: Tensor, noise: State, mask: Tensor | None = None) -> State:
        """Return x_t from q(x_t | x_s), s < t."""
        return {name: process.renoise(x_s[name], s, t, noise[name], mask) for name, process in self.items()}

    def bound_term(
        self,
        x_0: State,
        x_t: State,
        data: State,
        t: Tensor,
        s: Tensor,
        mask: Tensor | None = None,
        discrete: Collection[str] = (),
    ) -> dict[str, Tensor]:
        r"""Return the term of the variational bound for the step from t to s, in nats, shape (B,), by field.

        For s = 0 that is the reconstruction :math:`-\log p(x_0 | x_t)`, else :math:`KL(q(x_s | x_t, x_0) \| q(x_s |
        x_t, \hat x_0))`.

        Arguments:
            x_0: Clean state.
            x_t: Noisy state.
            data: The estimate of the clean state made from it.
            t: Times (B,) at which `x_t` stands.
            s: Times (B,) it goes to, 0 <= s < t.
            mask: (B, N) or None.
            discrete: Gaussian fields whose clean data are one-hot and whose estimates are probabilities (those with
                logits): they are reconstructed as categories, so the bound is one of a probability, not of a density.
        """
        terms = {}
        for name, process in self.items():
            if name in discrete:
                reconstruction = -Categorical(data[name], process.space, mask).log_prob(x_0[name])
            else:
                reconstruction = process.reconstruction(x_0[name], data[name], t, mask)
            # At s = 0 there is no KL; t/2 there keeps the unused branch finite, and so its gradient.
            kl = process.kl(x_0[name], x_t[name], data[name], t, torch.where(s == 0, t / 2, s), mask)
            terms[name] = torch.where(s == 0, reconstruction, kl)
        return terms
