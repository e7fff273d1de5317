"""Steppers against differential equations with known solutions."""

import math

import pytest
import torch

from gendiff.solve import add, euler, heun, rk45

A = torch.tensor([[-0.5, 3.0], [-3.0, -0.2]], dtype=torch.float64)
Y_0 = torch.tensor([1.0, 0.5], dtype=torch.float64)


class Problem:
    """dx/dt = slope(x, t) with x(t) = exact(t)."""

    def __init__(self, slope, exact):
        self.slope, self.exact = slope, exact


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


PROBLEMS = {
    "exponential": Problem(lambda x, t: {"a": -2 * x["a"]}, lambda t: {"a": f64(3 * math.exp(-2 * t))}),
    "time only": Problem(lambda x, t: {"a": f64(math.cos(3 * t))}, lambda t: {"a": f64(math.sin(3 * t) / 3)}),
    "logistic": Problem(lambda x, t: {"a": x["a"] * (1 - x["a"])}, lambda t: {"a": f64(1 / (1 + 4 * math.exp(-t)))}),
    "linear": Problem(lambda x, t: {"a": A @ x["a"]}, lambda t: {"a": torch.linalg.matrix_exp(A * t) @ Y_0}),
    "two fields": Problem(
        lambda x, t: {"q": x["p"], "p": -x["q"]}, lambda t: {"q": f64(math.sin(t)), "p": f64(math.cos(t))}
    ),
}


def error(x, y):
    return max(float((x[name] - y[name]).abs().max()) for name in y)


def slope_of(errors, sizes):
    """Mean slope of log error over log step, of the last two refinements."""
    return math.log(errors[-3] / errors[-1]) / math.log(sizes[-3] / sizes[-1])


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize(("step", "order"), [(euler, 1), (heun, 2)])
def test_order(problem, step, order):
    sizes, errors = [0.5**k for k in range(4, 9)], []
    for h in sizes:
        x = problem.exact(0.3)
        for i in range(round(1 / h)):
            x = step(problem.slope, x, 0.3 + i * h, h)
        errors.append(error(x, problem.exact(1.3)))
    assert slope_of(errors, sizes) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_order_of_rk45(problem):
    """With a tolerance that accepts everything its three steps scale with the interval: a local error of order 6."""
    sizes = [0.8 * 0.7**k for k in range(5)]
    errors = [
        error(rk45(problem.slope, problem.exact(0.3), 0.3, 0.3 + h, 1e9, 1e9), problem.exact(0.3 + h)) for h in sizes
    ]
    assert slope_of(errors, sizes) == pytest.approx(6, abs=0.35)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (2.0, 0.0)])
def test_rk45_keeps_its_tolerance_in_both_directions(problem, start, end):
    for tolerance in (1e-4, 1e-7, 1e-10):
        x = rk45(problem.slope, problem.exact(start), start, end, rtol=tolerance, atol=tolerance)
        assert error(x, problem.exact(end)) < 60 * tolerance


def test_rk45_steps_grow_with_the_tolerance():
    calls = []

    def slope(x, t):
        calls.append(t)
        return PROBLEMS["linear"].slope(x, t)

    counts = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        calls.clear()
        rk45(slope, {"a": Y_0}, 0.0, 2.0, rtol=tolerance, atol=tolerance)
        counts.append(len(calls))
    assert 60 < counts[0] < counts[1] < counts[2] < 600
    assert rk45(slope, {"a": Y_0}, 1.0, 1.0)["a"] is Y_0


def test_a_sample_has_its_accuracy_whatever_stands_beside_it():
    """A thousand quiet neighbours, or zeros of padding, neither loosen nor change the steps that one number needs."""

    def slope(x, t):
        speed = torch.where(torch.arange(x["q"].numel()) == 0, 20.0, 0.0).double()
        return {"q": speed * x["p"], "p": -speed * x["q"]}

    def run(size):
        first = torch.zeros(size, dtype=torch.float64)
        first[0] = 1
        return rk45(slope, {"q": torch.zeros(size, dtype=torch.float64), "p": first}, 0.0, 1.0, rtol=1e-6, atol=1e-6)

    alone, among = run(1), run(1000)
    assert abs(alone["q"][0] - math.sin(20)) < 2e-5
    assert torch.equal(alone["q"][0], among["q"][0])


def test_samples_with_times_of_their_own_walk_as_if_alone():
    """dx/dt = i speed x in the plane, each sample at a speed and between times of its own, one of them backwards."""
    speed, start, end = f64(0.1, 3.0, 20.0, 5.0, 1.0), f64(0.0, 0.5, 0.0, 1.0, 0.7), f64(1.0, 2.0, 1.0, 0.0, 0.7)
    calls = []

    def run(rows):
        calls.clear()

        def slope(x, t):
            calls.append(t)
            return {"q": speed[rows, None] * x["p"], "p": -speed[rows, None] * x["q"], "age": torch.ones_like(t)}

        zero = torch.zeros(len(rows), 1, dtype=torch.float64)
        x = {"q": zero, "p": zero + 1, "age": zero[:, 0]}
        return rk45(slope, x, start[rows], end[rows], rtol=1e-8, atol=1e-8), len(calls)

    whole, count = run([0, 1, 2, 3, 4])
    assert torch.allclose(whole["q"][:, 0], (speed * (end - start)).sin(), atol=1e-6)
    assert torch.allclose(whole["age"], end - start, rtol=1e-12)
    counts = []
    for i in range(5):
        alone, calls_alone = run([i])
        counts.append(calls_alone)
        for name, value in alone.items():
            assert torch.allclose(whole[name][[i]], value, rtol=1e-12, atol=1e-14)
    assert counts[4] == 0
    assert 5 * counts[0] < counts[2] == count  # a slow sample alone is quick, and a batch costs what its slowest does


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_precision_is_enough_for_its_own_tolerance(dtype):
    x = rk45(lambda x, t: {"a": -2 * x["a"]}, {"a": torch.ones(3, dtype=dtype)}, 0.0, 3.0)["a"]
    assert x.dtype == dtype
    assert torch.allclose(x, torch.full((3,), math.exp(-6), dtype=dtype), atol=1e-5)


@pytest.mark.parametrize(
    ("slope", "options"),
    [
        (lambda x, t: {"a": x["a"] * math.nan}, {}),
        (lambda x, t: {"a": x["a"] ** 2}, {}),  # 1 / (1 - t) explodes at t = 1
        (lambda x, t: {"a": -x["a"]}, {"max_steps": 3}),
    ],
    ids=["nan", "explosion", "too few steps"],
)
def test_failure_says_where_and_what_to_do(slope, options):
    calls = []

    def counted(x, t):
        calls.append(t)
        return slope(x, t)

    with pytest.raises(ValueError, match=r"rk45 stopped at t = [\d.]+, not 2.0 .*loosen rtol = 1e-05 or atol = 1e-05"):
        rk45(counted, {"a": f64(1.0)}, 0.0, 2.0, **options)
    assert len(calls) < 2000  # it does not try for long


def test_failure_names_the_sample_that_is_late():
    def slope(x, t):
        return {"a": torch.stack([x["a"][0] * 0, x["a"][1] ** 2])}

    with pytest.raises(ValueError, match=r"rk45 stopped at t = 1, not 2.0"):
        rk45(slope, {"a": f64(1.0, 1.0)}, f64(0.0, 0.0), f64(3.0, 2.0))


def test_add():
    total = add({"a": f64(1.0), "b": f64(2.0)}, [{"a": f64(3.0), "b": f64(4.0), "c": f64(9.0)}], [0.5])
    assert {name: value.item() for name, value in total.items()} == {"a": 2.5, "b": 4.0}
