"""The learned weight of the loss at each time."""

import torch
from expectation import At, Gain, plain, quadrature

from gendiff.objective import LossAware, Objective, Uncertainty
from gendiff.schedule import Linear

TIMES = torch.tensor([0.002, 0.1, 0.35, 0.7, 1.0], dtype=torch.float64)


def noise_error(v, t, gain):
    """The mean of SNR (x_0 - gain c_in x_t)^2 in plain numbers; the schedule preserves variance, so c_in = 1."""
    alpha, sigma = Linear().alpha(t), Linear().sigma(t)
    return (alpha / sigma) ** 2 * ((1 - gain * alpha) ** 2 * v + (gain * sigma) ** 2)


def test_it_starts_as_the_plain_loss():
    x_0, mask, random = quadrature(0.7, 5)
    law = At(TIMES.repeat_interleave(4))
    losses = [
        Objective("noise", times=law, uncertainty=u)(plain(Linear(), "data"), x_0, mask, None, random)
        for u in (None, Uncertainty())
    ]
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1]["x"], losses[1][1]["x"])


def test_its_optimum_is_the_logarithm_of_the_expected_loss():
    """Trained on exact expectations at five times, where losses span five orders of magnitude."""
    v, gain = 0.7, 0.3
    denoiser = plain(Linear(), "data", network=Gain(gain)).requires_grad_(False)
    objective = Objective("noise", times=At(TIMES.repeat_interleave(4)), uncertainty=Uncertainty(64)).double()
    x_0, mask, random = quadrature(v, 5)
    optimizer = torch.optim.LBFGS(
        objective.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = objective(denoiser, x_0, mask, None, random)[0].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    exact = noise_error(v, TIMES, gain)
    assert exact.max() / exact.min() > 1e5
    u = objective.uncertainty(TIMES, denoiser.process)
    assert torch.allclose(u, exact.log(), atol=1e-4)
    by_time = objective(denoiser, x_0, mask, None, random)[0].unflatten(0, (5, 4)).mean(1)
    assert torch.allclose(by_time, 1 + exact.log(), atol=1e-4)  # each L e^-u is 1: all times pull alike


def test_laws_and_parts_see_the_loss_without_it():
    law = LossAware(2, 1)
    uncertainty = Uncertainty(8)
    uncertainty.linear.bias.data.fill_(2.0)
    x_0, mask, random = quadrature(1.0)
    loss, parts = Objective("data", times=law, uncertainty=uncertainty)(
        plain(Linear(), "data"), x_0, mask, None, random
    )
    assert torch.allclose(parts["x"], torch.ones(4).double())
    assert torch.allclose(loss, parts["x"] * torch.tensor(-2.0).exp() + 2)
    assert law.losses.max() == 1
