"""Training with Lightning: :func:`train` from a file of examples to a model."""

from gendiff.train.run import train

__all__ = ["train"]
