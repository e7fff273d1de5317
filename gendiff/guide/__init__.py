"""Guidance (a denoiser in, a denoiser out) and constraints (a state in, a state out)."""

from gendiff.guide.classifier_free import ClassifierFree
from gendiff.guide.replacement import Replacement

__all__ = ["ClassifierFree", "Replacement"]
