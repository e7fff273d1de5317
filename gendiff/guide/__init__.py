"""Guidance (a denoiser in, a denoiser out) and constraints (a state in, a state out)."""

from gendiff.guide.autoguidance import Autoguidance
from gendiff.guide.classifier_free import ClassifierFree
from gendiff.guide.gradient import Gradient
from gendiff.guide.guidance import Guidance
from gendiff.guide.ilvr import ILVR
from gendiff.guide.log_prob import classifier, reconstruction, regressor, similarity
from gendiff.guide.replacement import Replacement
from gendiff.guide.sdedit import sdedit
from gendiff.guide.skip import Skip
from gendiff.guide.threshold import Threshold

__all__ = [
    "ILVR",
    "Autoguidance",
    "ClassifierFree",
    "Gradient",
    "Guidance",
    "Replacement",
    "Skip",
    "Threshold",
    "classifier",
    "reconstruction",
    "regressor",
    "sdedit",
    "similarity",
]
