"""How good are drawn sketches?"""

from gendiff.modalities.sketches.metrics.features import Features

__all__ = ["Features"]
