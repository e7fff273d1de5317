"""Training with Lightning: :func:`train` from a file of examples to a model, :func:`distill` to one of few steps."""

import sys
from types import ModuleType

from gendiff.train.run import train
from gendiff.train.students import distill

__all__ = ["distill", "train"]


class _Callable(ModuleType):
    """Python binds `gendiff.train` to this room once it is loaded; so the room is also the function of its name."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _Callable
