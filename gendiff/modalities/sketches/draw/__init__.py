"""Pictures of sketches: SVG that can be read back, PNG, the pen in motion, and the reverse process.

Drawings come in dark ink on white, as large as their cell, with the same unit on both axes. Sequences of another
dimension than two are plotted: a line for each coordinate against the index, all in one unit, the first in blue, and a
pale line at 0.
"""

from gendiff.modalities.sketches.draw.bitmap import png, sheet_png
from gendiff.modalities.sketches.draw.motion import (
    film_gif,
    film_strip_png,
    film_svg,
    pen_gif,
    pen_svg,
)
from gendiff.modalities.sketches.draw.vector import sheet_svg, show, svg

__all__ = [
    "film_gif",
    "film_strip_png",
    "film_svg",
    "pen_gif",
    "pen_svg",
    "png",
    "sheet_png",
    "sheet_svg",
    "show",
    "svg",
]
