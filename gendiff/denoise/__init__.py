"""From a network to the denoiser E[x_0 | x_t]; the exact denoiser of known laws; the variance around it."""

from gendiff.denoise.analytic import AnalyticDenoiser
from gendiff.denoise.compiled import compiled
from gendiff.denoise.denoiser import (
    LEAST_SIGNAL,
    NOISE_LEVELS,
    PARAMETERIZATIONS,
    Denoiser,
    Network,
    first_time,
    null_condition,
    own_row,
)
from gendiff.denoise.estimate import AnyDenoiser, Estimate
from gendiff.denoise.variance import AnalyticVariance

__all__ = [
    "LEAST_SIGNAL",
    "NOISE_LEVELS",
    "PARAMETERIZATIONS",
    "AnalyticDenoiser",
    "AnalyticVariance",
    "AnyDenoiser",
    "Denoiser",
    "Estimate",
    "Network",
    "compiled",
    "first_time",
    "null_condition",
    "own_row",
]
