"""Training with Lightning: :func:`train` from a file of examples to a model."""

import sys
from types import ModuleType

from gendiff.train.run import train

__all__ = ["train"]


class _Callable(ModuleType):
    """Python binds `gendiff.train` to this room once it is loaded; so the room is also the function of its name."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _Callable
