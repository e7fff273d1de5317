"""The probability flow by a Runge-Kutta method that chooses its own steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gendiff.ops import Random, State, expand
from gendiff.process import JointProcess
from gendiff.sample.plan import Step
from gendiff.sample.sampler import Evaluate, Sampler
from gendiff.schedule import Schedule, coefficients
from gendiff.solve import rk45


class RK45(Sampler):
    r"""The pair of Dormand and Prince with adaptive steps, order 5, on the probability flow.

    With the coordinates of :class:`~gendiff.sample.Heun`, :math:`z = x / (\alpha + \sigma)` and :math:`u = \sigma /
    (\alpha + \sigma)` of each field, and u of the clock field as the time of all,

    .. math:: \frac{dz}{du} = \frac{z - \hat x_0}{u}

    in which the flow of every schedule is smooth. (A field whose schedule is not the clock's has the factor :math:`d
    \log u_\mathrm{field} / d \log u` too; where one of the two is a table of T steps, its kinks leave errors of some 1
    / T.) Between the times of the plan every sample walks by steps of its own, as many as the tolerance asks for, so it
    comes out as it would alone. Clean data is reached as in the other samplers, by one estimate: it is that at the
    least noise of the "log_snr" grid, to which the solver walks first.

    Arguments:
        steps: Pairs of the plan (2: from t = 1 to the least noise, and to clean data). More only give hooks more times
            to act at: each takes three steps of six evaluations at least.
        grid: Spacing of the times.
        rtol: Relative tolerance of a step (1e-5).
        atol: Absolute tolerance of a step (1e-5), in units of z.

    Raises:
        ValueError: for a categorical field, or where the solver cannot meet its tolerance.

    References:
        | Score-based generative modeling through stochastic differential equations (Song et al., 2020) | https://arxiv.org/abs/2011.13456
        | A family of embedded Runge-Kutta formulae (Dormand, Prince, 1980) | https://doi.org/10.1016/0771-050X(80)90013-3
    """

    order = 5
    no_categories = "a category has no score"

    def __init__(self, steps: int = 2, grid: str = "log_snr", rtol: float = 1e-5, atol: float = 1e-5):
        super().__init__(steps, grid)
        if rtol <= 0 or atol <= 0:
            raise ValueError(f"rtol and atol must be positive, got {rtol} and {atol}; 1e-5 is usual")
        self.rtol, self.atol = rtol, atol

    def step(
        self,
        evaluate: Evaluate,
        x: State,
        step: Step,
        process: JointProcess,
        mask: Tensor | None,
        random: Random,
        memory: dict[str, Any],
    ) -> State:
        """Solve the flow from t to s."""
        batch = len(x[process.clock])

        def scale(z: State, t: Tensor) -> State:
            return {name: sum(coefficients(field.schedule, t, z[name])) for name, field in process.items()}  # type: ignore[misc]

        def slope(z: State, u: Tensor) -> State:
            t = process.schedule.time(-2 * torch.logit(u))
            data = evaluate({name: value * z[name] for name, value in scale(z, t).items()}, t).data
            return {
                name: expand(_pace(field.schedule, process.schedule, t, u), z[name]) * (z[name] - data[name])
                for name, field in process.items()
            }

        start, end = step.t.expand(batch), step.s.expand(batch)
        if step.last:
            least = process.schedule.log_snr(torch.full_like(start, 1e-3)).clamp(max=12)
            end = torch.minimum(start, process.schedule.time(least))
        z = {name: x[name] / value for name, value in scale(x, start).items()}
        z = rk45(slope, z, _share(process.schedule, start), _share(process.schedule, end), self.rtol, self.atol)
        x = {name: value * z[name] for name, value in scale(z, end).items()}
        return evaluate(x, end).data if step.last else x


def _share(schedule: Schedule, t: Tensor) -> Tensor:
    """Return u = sigma / (alpha + sigma)."""
    sigma = schedule.sigma(t)
    return sigma / (schedule.alpha(t) + sigma)


def _pace(schedule: Schedule, clock: Schedule, t: Tensor, u: Tensor) -> Tensor:
    """Return d log u_field / du of a field's schedule, u that of the clock."""
    if schedule is clock:
        return 1 / u
    with torch.enable_grad():
        time = t.detach().requires_grad_()
        own, common = _share(schedule, time).log().sum(), _share(clock, time).sum()
        return torch.autograd.grad(own, time)[0] / torch.autograd.grad(common, time)[0]
