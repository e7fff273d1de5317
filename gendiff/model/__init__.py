"""The model that users hold, and its folder."""

from gendiff.model.folder import FORMAT
from gendiff.model.model import Drawn, Model, load

__all__ = ["FORMAT", "Drawn", "Model", "load"]
