"""Forward processes: every law against enumeration, Bayes' rule or a closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from gendiff.ops import Random, size_mask
from gendiff.process import Categorical, CategoricalProcess, GaussianProcess, JointProcess, Normal, Process
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
LAWS = {
    "uniform": [0.25, 0.25, 0.25, 0.25],
    "marginal": [0.1, 0.2, 0.3, 0.4],
    "absorbing": [0.0, 0.0, 0.0, 1.0],
    "binomial": [0.5, 0.5],
}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
stationary = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
S, T = 0.35, 0.6


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def times(value, batch):
    return torch.full((batch,), value, dtype=torch.float64)


def one(*values):
    """A field of one node with one feature for each value."""
    return f64(*values)[:, None, None]


# Gaussian


@scheduled
def test_gaussian_steps_compose(schedule):
    """Chapman and Kolmogorov: q(x_t | x_s) after q(x_s | x_0) is q(x_t | x_0), also where s = 0 and t = 1."""
    process, x_0 = GaussianProcess(schedule, Euclidean(1)), one(1.7)
    for s, t in ((S, T), (0.0, T), (S, 1.0), (0.001, 0.002)):
        first, whole = process.marginal(x_0, times(s, 1)), process.marginal(x_0, times(t, 1))
        second = process.transition(first.mean, times(s, 1), times(t, 1))
        gain = process.transition(one(1.0), times(s, 1), times(t, 1)).mean
        assert torch.allclose(second.mean, whole.mean, rtol=1e-12)
        assert torch.allclose((gain * first.std) ** 2 + second.std**2, whole.std**2, rtol=1e-10)


@scheduled
def test_gaussian_samples_have_those_laws(schedule):
    """`corrupt` and `renoise` are linear: their coefficients are the whole law."""
    process, (s, t) = GaussianProcess(schedule, Euclidean(1)), (times(S, 1), times(T, 1))

    def walk(x_0, first, second):
        return process.renoise(process.corrupt(x_0, s, first), s, t, second)

    zero, unit = one(0.0), one(1.0)
    assert not walk(zero, zero, zero).any()
    assert torch.allclose(walk(unit, zero, zero).flatten(), schedule.alpha(t))
    variance = walk(zero, unit, zero) ** 2 + walk(zero, zero, unit) ** 2
    assert torch.allclose(variance.flatten().sqrt(), schedule.sigma(t))
    assert walk(zero, zero, unit) > 0.1


@scheduled
def test_gaussian_posterior_is_bayes_rule(schedule):
    """log q(x_s | x_t, x_0) - log q(x_t | x_s) - log q(x_s | x_0) is the same at every x_s."""
    process, grid = GaussianProcess(schedule, Euclidean(1)), torch.linspace(-3, 3, 41).double()
    n = len(grid)
    x_s, x_0, x_t = grid[:, None, None], one(0.8).expand(n, 1, 1), one(-0.3).expand(n, 1, 1)
    s, t = times(S, n), times(T, n)
    gap = process.posterior(x_t, x_0, t, s).log_prob(x_s)
    gap = gap - process.transition(x_s, s, t).log_prob(x_t) - process.marginal(x_0, s).log_prob(x_s)
    assert torch.allclose(gap, gap[:1].expand(n), atol=1e-10)
    assert torch.allclose(gap[0], -process.marginal(x_0, t).log_prob(x_t)[0], atol=1e-10)


@scheduled
def test_gaussian_kl_is_that_of_the_two_posteriors(schedule):
    process, n = GaussianProcess(schedule, Euclidean(3)), 4
    x_0, data, x_t = (torch.randn(n, 5, 3).double() for _ in range(3))
    mask = size_mask(torch.tensor([5, 3, 1, 0]))
    x_0, data, x_t = (process.space.project(x, mask) for x in (x_0, data, x_t))
    s, t = times(S, n), times(T, n)
    exact, model = (process.posterior(x_t, x, t, s, mask) for x in (x_0, data))
    kl = process.kl(x_0, x_t, data, t, s, mask)
    assert torch.allclose(kl, exact.kl(model), rtol=1e-9)
    torchs = kl_divergence(*(torch.distributions.Normal(q.mean, q.std.expand_as(q.mean)) for q in (exact, model)))
    assert torch.allclose(kl, (torchs * mask[..., None]).sum((1, 2)), rtol=1e-9)
    assert kl[3] == 0
    assert not process.kl(x_0, x_t, x_0, t, s, mask).any()


def test_normal_kl_by_monte_carlo():
    space = ZeroCenterOfMass(2)
    mask = size_mask(torch.tensor([4, 2]), 4)
    p, q = (
        Normal(space.project(torch.randn(2, 4, 2), mask).double(), torch.full((2, 1, 1), std).double(), space, mask)
        for std in (0.8, 1.1)
    )
    total, n = torch.zeros(2, dtype=torch.float64), 20_000
    x = p.sample(space.noise(mask.repeat(n, 1), Random(0, 2 * n)).double().unflatten(0, (n, 2)))
    ratios = torch.stack([p.log_prob(x[i]) - q.log_prob(x[i]) for i in range(0, n, 20)])
    error = ratios.std(0) / len(ratios) ** 0.5
    total = ratios.mean(0)
    assert ((total - p.kl(q)).abs() < 4 * error).all()
    assert (error < 0.1 * p.kl(q)).all()


def test_normal_density_on_the_centred_space_has_n_minus_1_times_d_dimensions():
    """In an orthonormal basis of the subspace it is the density of plain independent normals."""
    n, d = 4, 3
    space = ZeroCenterOfMass(d)
    basis = torch.linalg.qr(torch.eye(n).double() - 1 / n).Q[:, : n - 1]
    assert torch.allclose(basis.sum(0), torch.zeros(n - 1).double(), atol=1e-12)
    y, mean = torch.randn(2, n - 1, d).double(), torch.randn(2, n - 1, d).double()
    std = f64(0.4, 1.7)[:, None, None]
    plain = torch.distributions.Normal(mean, std).log_prob(y).sum((1, 2))
    padded = [torch.nn.functional.pad(basis @ v, (0, 0, 0, 2)) for v in (mean, y)]
    mask = size_mask(torch.tensor([n, n]), n + 2)
    assert torch.allclose(Normal(padded[0], std, space, mask).log_prob(padded[1]), plain)


def test_normal_density_of_pairs_counts_each_once():
    space, x = Euclidean(1, "pair"), torch.randn(2, 4, 4, 1).double()
    x = space.project(x)
    i, j = torch.triu_indices(4, 4, 1)
    law = Normal(torch.zeros_like(x), f64(0.5, 2.0)[:, None, None, None], space)
    plain = torch.distributions.Normal(0.0, f64(0.5, 2.0)[:, None]).log_prob(x[:, i, j, 0]).sum(1)
    assert torch.allclose(law.log_prob(x), plain)


def test_gaussian_prior():
    for schedule, variance in ((Linear(), 1.0), (Flow(), 1.0), (Cosine(), 1.0)):
        process = GaussianProcess(schedule, Euclidean(1))
        assert process.prior(one(2.0)).item() == pytest.approx(2 * variance**0.5)
    unit = GaussianProcess(Linear(), Euclidean(1)).prior_kl(one(1.0))
    assert unit.item() == pytest.approx(2.018e-5, rel=1e-4)  # nats per dimension of unit-variance data, DDPM
    assert GaussianProcess(Flow(), Euclidean(1)).prior_kl(one(3.0)).item() == 0
    schedule = Linear(8, 0.1, 0.3)
    law = torch.distributions.Normal(3 * schedule.alpha(f64(1.0)), schedule.sigma(f64(1.0)))
    expected = kl_divergence(law, torch.distributions.Normal(f64(0.0), f64(1.0)))
    assert GaussianProcess(schedule, Euclidean(1)).prior_kl(one(3.0)).item() == pytest.approx(expected.item(), rel=1e-9)


@scheduled
def test_gaussian_reconstruction(schedule):
    process, x_0, data = (
        GaussianProcess(schedule, Euclidean(2)),
        torch.randn(3, 4, 2).double(),
        torch.randn(3, 4, 2).double(),
    )
    t = f64(0.001, 0.01, 0.5)
    std = (schedule.sigma(t) / schedule.alpha(t))[:, None, None]
    expected = -torch.distributions.Normal(data, std).log_prob(x_0).sum((1, 2))
    assert torch.allclose(process.reconstruction(x_0, data, t), expected)


# Categorical


def eye(k):
    """All K states of one node, (K, 1, K)."""
    return torch.eye(k, dtype=torch.float64)[:, None]


def matrices(process, k):
    """q(x_s | x_0), q(x_t | x_s), q(x_t | x_0) as row-stochastic matrices."""
    s, t = times(S, k), times(T, k)
    laws = process.marginal(eye(k), s), process.transition(eye(k), s, t), process.marginal(eye(k), t)
    return [law.probabilities[:, 0] for law in laws]


@stationary
@scheduled
def test_categorical_steps_compose(schedule, law):
    process = CategoricalProcess(schedule, law, Euclidean(len(law)))
    first, second, whole = matrices(process, len(law))
    assert torch.allclose(first @ second, whole, atol=1e-14)
    assert torch.allclose(whole.sum(1), f64(*[1.0] * len(law)))
    assert torch.allclose(f64(*law) @ second, f64(*law))  # the law is stationary
    a = schedule.alpha(f64(T)) ** 2
    assert torch.allclose(whole, a * torch.eye(len(law)).double() + (1 - a) * f64(*law))


def bayes(process, k):
    """q(x_s = j | x_t = i, x_0 = k) by enumeration, [k, i, j], and where q(x_t = i | x_0 = k) > 0."""
    first, second, whole = matrices(process, k)
    joint = first[:, None, :] * second.T[None]
    return joint / joint.sum(-1, keepdim=True).clamp(min=1e-300), whole > 0


@stationary
@scheduled
def test_categorical_posterior_of_data_is_bayes_rule(schedule, law):
    k = len(law)
    process = CategoricalProcess(schedule, law, Euclidean(k))
    expected, possible = bayes(process, k)
    for x_0 in range(k):
        data = eye(k)[x_0].expand(k, 1, k)
        q = process.posterior(eye(k), data, times(T, k), times(S, k)).probabilities[:, 0]
        assert torch.allclose(q[possible[x_0]], expected[x_0][possible[x_0]], atol=1e-12)


@stationary
@scheduled
def test_categorical_posterior_of_an_estimate_is_the_mixture(schedule, law):
    k = len(law)
    process = CategoricalProcess(schedule, law, Euclidean(k))
    expected, possible = bayes(process, k)
    estimate = torch.rand(k, k).double() * possible.T  # p(x_0 | x_t = i), none where x_t cannot come from x_0
    estimate = estimate / estimate.sum(1, keepdim=True)
    mixture = torch.einsum("ik,kij->ij", estimate, expected)
    q = process.posterior(eye(k), estimate[:, None], times(T, k), times(S, k)).probabilities[:, 0]
    assert torch.allclose(q, mixture, atol=1e-12)
    if law == LAWS["marginal"]:  # the shortcut, q with the mean plugged in, is another law
        first, second, _ = matrices(process, k)
        shortcut = (estimate @ first) * second.T
        shortcut = shortcut / shortcut.sum(1, keepdim=True)
        assert (shortcut - mixture).abs().max() > 0.02


@stationary
def test_an_impossible_estimate_still_gives_a_law(law):
    """A network may believe in a class that cannot lead to x_t: what is left is renormalised, and never NaN."""
    k = len(law)
    process = CategoricalProcess(Linear(), law, Euclidean(k))
    estimate = torch.full((k, 1, k), 1 / k).double()
    q = process.posterior(eye(k), estimate, times(T, k), times(S, k)).probabilities
    assert torch.allclose(q.sum(-1), torch.ones(k, 1).double())


@stationary
@scheduled
def test_categorical_kl_by_enumeration(schedule, law):
    k = len(law)
    process = CategoricalProcess(schedule, law, Euclidean(k))
    expected, possible = bayes(process, k)
    estimate = torch.softmax(torch.randn(k, k), 1).double() * possible.T
    estimate = estimate / estimate.sum(1, keepdim=True)
    model = torch.einsum("ik,kij->ij", estimate, expected)
    for x_0 in range(k):
        p = expected[x_0]
        kl = torch.special.xlogy(p, p) - torch.special.xlogy(p, model)
        data = eye(k)[x_0].expand(k, 1, k)
        ours = process.kl(data, eye(k), estimate[:, None], times(T, k), times(S, k))
        assert torch.allclose(ours[possible[x_0]], kl.sum(-1)[possible[x_0]], atol=1e-11)
        exact = process.kl(data, eye(k), data, times(T, k), times(S, k))
        assert exact[possible[x_0]].abs().max() < 1e-14


@stationary
def test_categorical_prior_kl_by_enumeration(law):
    k, schedule = len(law), Linear(3, 0.1, 0.3)
    process = CategoricalProcess(schedule, law, Euclidean(k))
    a, pi = schedule.alpha(f64(1.0)) ** 2, f64(*law)
    for x_0 in range(k):
        q = a * eye(k)[x_0, 0] + (1 - a) * pi
        kl = (torch.special.xlogy(q, q) - torch.special.xlogy(q, pi.clamp(min=1e-30))).sum()
        assert process.prior_kl(eye(k)[x_0 : x_0 + 1]).item() == pytest.approx(kl.item(), abs=1e-12)
    flow = CategoricalProcess(Flow(), law, Euclidean(k))
    assert flow.prior_kl(eye(k)).abs().max() < 1e-12


@stationary
def test_categorical_draws_have_their_law(law):
    k, n = len(law), 20_000
    process = CategoricalProcess(Linear(), law, Euclidean(k))
    mask, t = torch.ones(n, 1, dtype=torch.bool), times(T, n)
    x_0 = eye(k)[:1].expand(n, 1, k)
    random = Random(0, n)
    x_s = process.corrupt(x_0, times(S, n), process.noise(mask, random), mask)
    walked = process.renoise(x_s, times(S, n), t, process.noise(mask, random), mask)
    prior = process.prior(process.noise(mask, random).double(), mask)
    for x, p in ((walked, process.marginal(x_0, t).probabilities[0, 0]), (prior, f64(*law))):
        counts, possible = x.sum((0, 1)), p > 0
        assert counts[possible].sum() == n
        assert x.sum(-1).unique().tolist() == [1.0]
        assert possible.sum() == 1 or stats.chisquare(counts[possible], n * p[possible]).pvalue > 0.01


def test_categorical_states_are_zero_at_padding_and_symmetric_for_pairs():
    mask = size_mask(torch.tensor([4, 2]), 4)
    for space in (Euclidean(3), Euclidean(3, "pair")):
        process = CategoricalProcess(Linear(), [0.2, 0.3, 0.5], space)
        noise = process.noise(mask, Random(0, 2))
        prior = process.prior(noise, mask)
        state = process.corrupt(prior, times(T, 2).float(), noise, mask)
        law = process.posterior(state, prior, times(T, 2).float(), times(S, 2).float(), mask)
        for x in (prior, state, law.sample(noise)):
            assert torch.equal(x, space.project(x, mask))
            assert sorted(x.unique().tolist()) == [0, 1]
            assert torch.equal(x.sum(-1).flatten(1).sum(1) / (2 if space.kind == "pair" else 1), space.count(mask, x))


def test_categorical_log_prob_is_over_what_is_real():
    p = torch.softmax(torch.randn(2, 3, 4), -1).double()
    mask = size_mask(torch.tensor([3, 1]))
    x = Categorical(p, Euclidean(4), mask).sample(torch.zeros(2, 3, 4))
    expected = (p.max(-1).values.log() * mask).sum(1)
    assert torch.allclose(Categorical(p, Euclidean(4), mask).log_prob(x), expected)
    process = CategoricalProcess(Linear(), [0.25] * 4, Euclidean(4))
    assert torch.allclose(process.reconstruction(x, p, times(0.01, 2), mask), -expected)


WALK = [[0.5, 0.5, 0.0, 0.0], [0.2, 0.5, 0.3, 0.0], [0.0, 0.3, 0.5, 0.2], [0.0, 0.0, 0.5, 0.5]]  # between neighbours
CYCLE = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]  # periodic, not symmetric, complex eigenvalues
FALL = [[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1]]  # ends in the first category
matrix = pytest.mark.parametrize("rows", [WALK, CYCLE, FALL], ids=["walk", "cycle", "fall"])


@matrix
@scheduled
def test_jumps_by_a_matrix_compose_and_have_their_rates(schedule, rows):
    """P_a P_b = P_ab, and d P_a / d log a at a = 1 is I - R."""
    k = len(rows)
    process = CategoricalProcess(schedule, rows, Euclidean(k))
    first, second, whole = matrices(process, k)
    assert torch.allclose(first @ second, whole, atol=1e-13)
    a = schedule.alpha(f64(T)) ** 2
    jumps = torch.distributions.Poisson(-a.log()).log_prob(torch.arange(200).double()).exp()
    power, expected = torch.eye(k).double(), torch.zeros(k, k).double()
    for p in jumps:  # as often as it takes: a Poisson number of jumps by the rows of R
        expected, power = expected + p * power, power @ f64(*rows)
    assert torch.allclose(whole, expected, atol=1e-12)
    pi = process.law(whole)
    assert torch.allclose(pi @ f64(*rows), pi, atol=1e-12)
    assert torch.allclose(process.marginal(eye(k), times(1.0, k)).probabilities[:, 0].sum(1), torch.ones(k).double())


@matrix
def test_a_matrix_at_the_end_of_a_flow_is_its_stationary_law(rows):
    process = CategoricalProcess(Flow(), rows, Euclidean(len(rows)))
    assert process.prior_kl(eye(len(rows))).abs().max() < 1e-9


def test_a_matrix_of_equal_rows_is_a_law():
    x, data = eye(4), torch.softmax(torch.randn(4, 1, 4), -1).double()
    law = CategoricalProcess(Cosine(), LAWS["marginal"], Euclidean(4))
    rows = CategoricalProcess(Cosine(), [LAWS["marginal"]] * 4, Euclidean(4))
    for name, arguments in (
        ("marginal", (x, times(T, 4))),
        ("transition", (x, times(S, 4), times(T, 4))),
        ("posterior", (x, data, times(T, 4), times(S, 4))),
    ):
        a, b = (getattr(process, name)(*arguments).probabilities for process in (law, rows))
        assert torch.allclose(a, b, atol=1e-12), name


@matrix
@scheduled
def test_posteriors_of_jumps_by_a_matrix_are_bayes_rule(schedule, rows):
    k = len(rows)
    process = CategoricalProcess(schedule, rows, Euclidean(k))
    expected, whole = bayes(process, k)
    possible = whole & (matrices(process, k)[2] > 1e-9)
    estimate = torch.rand(k, k).double() * possible.T
    estimate = estimate / estimate.sum(1, keepdim=True)
    mixture = torch.einsum("ik,kij->ij", estimate, expected)
    q = process.posterior(eye(k), estimate[:, None], times(T, k), times(S, k)).probabilities[:, 0]
    assert torch.allclose(q, mixture, atol=1e-9)


@pytest.mark.parametrize(
    ("law", "space", "message"),
    [
        ([0.5, 0.6], Euclidean(2), "2 probabilities that sum to 1"),
        ([1.5, -0.5], Euclidean(2), "2 probabilities that sum to 1"),
        ([0.5, 0.5], Euclidean(3), "3 probabilities that sum to 1"),
        ([[0.5, 0.5], [0.5, 0.6]], Euclidean(2), "2 probabilities that sum to 1"),
        ([[0.5, 0.5]], Euclidean(2), "or as many rows of them"),
        ([[1.0, 0.0], [0.0, 1.0]], Euclidean(2), "several stationary laws"),
        ([0.2, 0.3, 0.5], ZeroCenterOfMass(3), "no centre of mass"),
        ([0.5, 0.5], Euclidean(2, "grid", [4, 4]), "channels first"),
    ],
)
def test_impossible_categories_are_refused(law, space, message):
    with pytest.raises(ValueError, match=message):
        CategoricalProcess(Linear(), law, space)


# Joint


def joint(**options):
    return JointProcess(
        {
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
            "position": GaussianProcess(Linear(), ZeroCenterOfMass()),
            "charge": GaussianProcess(Polynomial(), Euclidean(1)),
            "bond": CategoricalProcess(Cosine(), [0.9, 0.1], Euclidean(2, "pair")),
        },
        **options,
    )


def test_each_field_has_its_own_process():
    process, mask = joint(), size_mask(torch.tensor([4, 3]))
    random = Random(0, 2)
    noise = process.noise(mask, random)
    prior = process.prior(noise, mask)
    state = process.corrupt(prior, times(T, 2), noise, mask)
    again = process.renoise(state, times(S, 2), times(T, 2), noise, mask)
    assert list(noise) == list(prior) == list(state) == list(again) == ["element", "position", "charge", "bond"]
    assert len(process) == 4
    for name, p in process.items():
        assert torch.equal(state[name], p.corrupt(prior[name], times(T, 2), noise[name], mask))
        assert torch.equal(again[name], p.renoise(state[name], times(S, 2), times(T, 2), noise[name], mask))
        assert p is process[name]


def test_the_clock():
    assert joint().clock == "position"
    assert joint(clock="charge").clock == "charge"
    assert joint(clock="charge").schedule is joint()["charge"].schedule or isinstance(
        joint(clock="charge").schedule, Polynomial
    )
    only = JointProcess({"c": CategoricalProcess(Linear(), [1.0], Euclidean(1))})
    assert only.clock == "c"
    with pytest.raises(ValueError, match="clock 'time' is not one of the fields"):
        joint(clock="time")
    with pytest.raises(ValueError, match="at least one field"):
        JointProcess({})


def test_terms_of_the_bound():
    process, mask = joint(), size_mask(torch.tensor([4, 3, 4]))
    noise = process.noise(mask, Random(0, 3))
    x_0 = {name: value.double() for name, value in process.prior(noise, mask).items()}
    t, s = f64(0.1, 0.7, 1.0), f64(0.0, 0.6, 0.9)
    x_t = process.corrupt(x_0, t, noise, mask)
    data = {}
    for name, p in process.items():
        value = torch.softmax(torch.randn_like(x_0[name]), -1) if p.categorical else torch.randn_like(x_0[name])
        data[name] = p.space.project(value, mask).requires_grad_()
    terms = process.bound_term(x_0, x_t, data, t, s, mask)
    for name, p in process.items():
        assert torch.allclose(terms[name][0], p.reconstruction(x_0[name], data[name], t, mask)[0], rtol=1e-12)
        assert torch.allclose(terms[name][1:], p.kl(x_0[name], x_t[name], data[name], t, s, mask)[1:], rtol=1e-9)
        assert terms[name].dtype == torch.float64
        gradient = torch.autograd.grad(terms[name].sum(), data[name])[0]
        assert gradient.isfinite().all()
        assert gradient[0].any()


def test_the_interface_names_what_is_missing():
    process = Process(Linear(), Euclidean(1))
    for name in ("prior", "marginal", "transition", "posterior", "kl", "prior_kl", "reconstruction"):
        with pytest.raises(NotImplementedError, match=f"must define {name}"):
            getattr(process, name)(
                *[None]
                * SimpleNamespace(
                    prior=1, prior_kl=1, marginal=2, transition=3, reconstruction=3, posterior=4, kl=5
                ).__dict__[name]
            )


def test_entropy_of_the_stationary_law_is_the_end_of_the_chain():
    """At t = 1 of a flow nothing of the data is left."""
    process = CategoricalProcess(Flow(), LAWS["marginal"], Euclidean(4))
    law = process.marginal(eye(4), times(1.0, 4)).probabilities
    assert torch.allclose(law, f64(*LAWS["marginal"]).expand_as(law))
    entropy = -sum(p * math.log(p) for p in LAWS["marginal"])
    assert -(law * law.log()).sum(-1).mean().item() == pytest.approx(entropy)
