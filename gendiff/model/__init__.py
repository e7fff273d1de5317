"""The model that users hold, and its folder."""

from gendiff.model.drawn import Drawn
from gendiff.model.folder import FORMAT, shipped
from gendiff.model.model import Model, load

__all__ = ["FORMAT", "Drawn", "Model", "load", "shipped"]
