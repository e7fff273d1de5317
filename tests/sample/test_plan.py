"""The tables that plans become."""

import pytest
import torch

from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import Table
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.space import Euclidean

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(), "flow": Flow()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def joint(schedule):
    return JointProcess(
        {
            "x": GaussianProcess(schedule, Euclidean(2)),
            "c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2)),
        }
    )


@scheduled
def test_the_table_holds_the_levels_of_every_field(schedule):
    plan = [(1.0, 0.6), (0.6, 0.8), (0.8, 0.3), (0.3, 0.0)]
    like = {"x": torch.zeros(2, 3, 2).double(), "c": torch.zeros(2, 3, 2)}
    table = Table(joint(schedule), plan, like)
    steps = list(table)
    assert len(table) == len(steps) == 4
    assert [(step.number, step.t.item(), step.s.item()) for step in steps] == [
        (i, *pair) for i, pair in enumerate(plan)
    ]
    assert [step.up for step in steps] == [False, True, False, False]
    assert [step.last for step in steps] == [False, False, False, True]
    for step in steps:
        for time, levels in ((step.t, step.at), (step.s, step.to)):
            for name, field in joint(schedule).items():
                alpha, sigma = field.schedule.alpha(time), field.schedule.sigma(time)
                if time == 0:
                    alpha, sigma = torch.tensor(1.0), torch.tensor(0.0)  # clean data, whatever the schedule says
                level = levels[name]
                assert level.alpha.dtype == level.sigma.dtype == level.log_ratio.dtype == torch.float64
                assert level.numbers == tuple(value.item() for value in level[:3])
                assert level.alpha.item() == pytest.approx(alpha.item(), rel=1e-6)
                assert level.sigma.item() == pytest.approx(sigma.item(), rel=1e-6)
                assert level.log_ratio.item() == pytest.approx((alpha.log() - sigma.log()).item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([], "the plan is empty"),
        ([(1.0, 1.2)], r"connected, distinct times in \[0, 1\]; pair 0 is \(1.0, 1.2\)"),
        ([(0.5, -0.1)], r"pair 0 is \(0.5, -0.1\)"),
        ([(1.0, 0.5), (0.5, 0.5)], r"pair 1 is \(0.5, 0.5\)"),
        ([(1.0, 0.5), (0.4, 0.0)], r"pair 1 is \(0.4, 0.0\)"),
        ([(1.0, float("nan"))], "pair 0"),
    ],
)
def test_impossible_plans_are_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        Table(joint(Linear()), plan, {"x": torch.zeros(1, 1, 2), "c": torch.zeros(1, 1, 2)})
