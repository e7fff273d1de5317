r"""Noise schedules: how much signal and noise is left at time t.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1]

t = 0 is data, t = 1 is noise. :math:`\sigma` is a standard deviation. The log signal-to-noise ratio is that of the
*squares*, :math:`\log \mathrm{SNR} = 2(\log\alpha - \log\sigma)`. A schedule of T discrete steps is the same thing with
times k / T.

=================  =======================================================  =======================
class              definition                                               kind
=================  =======================================================  =======================
`Linear`           :math:`\beta_k` rising linearly (DDPM), as a square      variance preserving
                   (latent diffusion) or a sigmoid (GeoDiff)
`Cosine`           squared cosine, :math:`\beta_k \le 0.999`                variance preserving
`Polynomial`       :math:`(1 - 2s)(1 - t^p)^2 + s` (EDM for molecules)      variance preserving
`Harmonic`         :math:`\alpha^2 = 1 - t`, :math:`\beta_k = 1/(T-k+1)`    variance preserving
`VP`               :math:`\beta(t)` linear, continuous time                 variance preserving
`SubVP`            alpha of `VP`, :math:`\sigma = 1 - \alpha^2`             sub-variance preserving
`VE`               :math:`\sigma` geometric, :math:`\alpha = 1`             variance exploding
`Karras`           :math:`\sigma^{1/7}` linear, :math:`\alpha = 1`          variance exploding
`Flow`             :math:`\alpha = 1 - t, \sigma = t`                       flow matching
`Learned`          a monotone network                                       variance preserving
`ZeroTerminalSNR`  another one, rescaled to :math:`\alpha_1 = 0`            variance preserving
=================  =======================================================  =======================
"""

from gendiff.schedule.base import Schedule, VariancePreserving, coefficients
from gendiff.schedule.continuous import VE, VP, Flow, Harmonic, Karras, SubVP
from gendiff.schedule.discrete import Cosine, Linear, Polynomial, Table
from gendiff.schedule.grid import GRIDS, time_grid
from gendiff.schedule.learned import Learned
from gendiff.schedule.rescale import ZeroTerminalSNR

__all__ = [
    "GRIDS",
    "VE",
    "VP",
    "Cosine",
    "Flow",
    "Harmonic",
    "Karras",
    "Learned",
    "Linear",
    "Polynomial",
    "Schedule",
    "SubVP",
    "Table",
    "VariancePreserving",
    "ZeroTerminalSNR",
    "coefficients",
    "time_grid",
]
