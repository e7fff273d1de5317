"""gendiff: diffusion models for graphs, sequences and images. One core, any data type.

Public names are loaded when they are first used, so `import gendiff` costs little more than torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "gendiff.model",
    "train": "gendiff.train",
    "Model": "gendiff.model",
    "UserError": "gendiff.files",
    "Random": "gendiff.ops",
    "Linear": "gendiff.schedule",
    "Cosine": "gendiff.schedule",
    "Polynomial": "gendiff.schedule",
    "Flow": "gendiff.schedule",
    "Euclidean": "gendiff.space",
    "ZeroCenterOfMass": "gendiff.space",
    "GaussianProcess": "gendiff.process",
    "CategoricalProcess": "gendiff.process",
    "GivenProcess": "gendiff.process",
    "JointProcess": "gendiff.process",
    "Denoiser": "gendiff.denoise",
    "AnalyticDenoiser": "gendiff.denoise",
    "Estimate": "gendiff.denoise",
    "Objective": "gendiff.objective",
    "Bound": "gendiff.objective",
    "DDIM": "gendiff.sample",
    "Ancestral": "gendiff.sample",
    "Heun": "gendiff.sample",
    "DPMSolver": "gendiff.sample",
    "ClassifierFree": "gendiff.guide",
    "Replacement": "gendiff.guide",
    "Skip": "gendiff.guide",
    "Harmonic": "gendiff.schedule",
    "VP": "gendiff.schedule",
    "SubVP": "gendiff.schedule",
    "VE": "gendiff.schedule",
    "Karras": "gendiff.schedule",
    "Learned": "gendiff.schedule",
    "ZeroTerminalSNR": "gendiff.schedule",
    "AnalyticVariance": "gendiff.denoise",
    "UniPC": "gendiff.sample",
    "RK45": "gendiff.sample",
    "ReverseSDE": "gendiff.sample",
    "Langevin": "gendiff.sample",
    "PredictorCorrector": "gendiff.sample",
    "repaint_plan": "gendiff.sample",
    "Autoguidance": "gendiff.guide",
    "Gradient": "gendiff.guide",
    "Guidance": "gendiff.guide",
    "ILVR": "gendiff.guide",
    "Threshold": "gendiff.guide",
    "classifier": "gendiff.guide",
    "reconstruction": "gendiff.guide",
    "regressor": "gendiff.guide",
    "sdedit": "gendiff.guide",
    "similarity": "gendiff.guide",
    "Antithetic": "gendiff.objective",
    "Hybrid": "gendiff.objective",
    "ImplicitScoreMatching": "gendiff.objective",
    "LogNormal": "gendiff.objective",
    "LossAware": "gendiff.objective",
    "NodeTransport": "gendiff.objective",
    "OptimalTransport": "gendiff.objective",
    "Piecewise": "gendiff.objective",
    "Power": "gendiff.objective",
    "SlicedScoreMatching": "gendiff.objective",
    "Uncertainty": "gendiff.objective",
    "Uniform": "gendiff.objective",
    "variational_bound": "gendiff.likelihood",
    "log_density": "gendiff.likelihood",
    "Modality": "gendiff.modality",
}

if TYPE_CHECKING:
    from gendiff.denoise import AnalyticDenoiser, AnalyticVariance, Denoiser, Estimate
    from gendiff.files import UserError
    from gendiff.guide import (
        ILVR,
        Autoguidance,
        ClassifierFree,
        Gradient,
        Guidance,
        Replacement,
        Skip,
        Threshold,
        classifier,
        reconstruction,
        regressor,
        sdedit,
        similarity,
    )
    from gendiff.likelihood import log_density, variational_bound
    from gendiff.modality import Modality
    from gendiff.model import Model, load
    from gendiff.objective import (
        Antithetic,
        Bound,
        Hybrid,
        ImplicitScoreMatching,
        LogNormal,
        LossAware,
        NodeTransport,
        Objective,
        OptimalTransport,
        Piecewise,
        Power,
        SlicedScoreMatching,
        Uncertainty,
        Uniform,
    )
    from gendiff.ops import Random
    from gendiff.process import CategoricalProcess, GaussianProcess, GivenProcess, JointProcess
    from gendiff.sample import (
        DDIM,
        RK45,
        Ancestral,
        DPMSolver,
        Heun,
        Langevin,
        PredictorCorrector,
        ReverseSDE,
        UniPC,
        repaint_plan,
    )
    from gendiff.schedule import (
        VE,
        VP,
        Cosine,
        Flow,
        Harmonic,
        Karras,
        Learned,
        Linear,
        Polynomial,
        SubVP,
        ZeroTerminalSNR,
    )
    from gendiff.space import Euclidean, ZeroCenterOfMass
    from gendiff.train import train

__all__ = [
    "DDIM",
    "ILVR",
    "RK45",
    "VE",
    "VP",
    "AnalyticDenoiser",
    "AnalyticVariance",
    "Ancestral",
    "Antithetic",
    "Autoguidance",
    "Bound",
    "CategoricalProcess",
    "ClassifierFree",
    "Cosine",
    "DPMSolver",
    "Denoiser",
    "Estimate",
    "Euclidean",
    "Flow",
    "GaussianProcess",
    "GivenProcess",
    "Gradient",
    "Guidance",
    "Harmonic",
    "Heun",
    "Hybrid",
    "ImplicitScoreMatching",
    "JointProcess",
    "Karras",
    "Langevin",
    "Learned",
    "Linear",
    "LogNormal",
    "LossAware",
    "Modality",
    "Model",
    "NodeTransport",
    "Objective",
    "OptimalTransport",
    "Piecewise",
    "Polynomial",
    "Power",
    "PredictorCorrector",
    "Random",
    "Replacement",
    "ReverseSDE",
    "Skip",
    "SlicedScoreMatching",
    "SubVP",
    "Threshold",
    "Uncertainty",
    "UniPC",
    "Uniform",
    "UserError",
    "ZeroCenterOfMass",
    "ZeroTerminalSNR",
    "__version__",
    "classifier",
    "load",
    "log_density",
    "reconstruction",
    "regressor",
    "repaint_plan",
    "sdedit",
    "similarity",
    "train",
    "variational_bound",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gendiff' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"gendiff.{name}" else getattr(module, name)  # gendiff.train is called itself


def __dir__() -> list[str]:
    return __all__
