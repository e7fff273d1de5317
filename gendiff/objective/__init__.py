"""Training objectives, laws of the time, and what may stand between data and noise.

Every loss is called as `loss(denoiser, x_0, mask, condition, random)` and returns the loss of each sample, shape (B,),
with its parts by field. Losses are means over the real degrees of freedom of a sample, so padding never changes them,
nor do the other samples of a batch, but where a class says that it is about the batch (:class:`Antithetic`,
:class:`OptimalTransport`).
"""

from gendiff.objective.bound import Bound
from gendiff.objective.coupling import Coupling, NodeTransport, OptimalTransport
from gendiff.objective.hybrid import Hybrid
from gendiff.objective.loss import Loss, drop_condition
from gendiff.objective.score_matching import ImplicitScoreMatching, SlicedScoreMatching
from gendiff.objective.times import Antithetic, LogNormal, LossAware, Piecewise, Power, Times, Uniform
from gendiff.objective.uncertainty import Uncertainty
from gendiff.objective.weighted import WEIGHTINGS, Objective

__all__ = [
    "WEIGHTINGS",
    "Antithetic",
    "Bound",
    "Coupling",
    "Hybrid",
    "ImplicitScoreMatching",
    "LogNormal",
    "Loss",
    "LossAware",
    "NodeTransport",
    "Objective",
    "OptimalTransport",
    "Piecewise",
    "Power",
    "SlicedScoreMatching",
    "Times",
    "Uncertainty",
    "Uniform",
    "drop_condition",
]
