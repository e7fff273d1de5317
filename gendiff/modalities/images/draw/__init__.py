"""Pictures of images: sheets, one image for a page, and the reverse process.

Every image is drawn a whole number of times as large, each pixel as a square, so what is seen is what there is: nothing
is blurred, and all colours are exact but for those of a moving GIF in colour. What is transparent shows chequers.
"""

from gendiff.modalities.images.draw.film import film_gif, film_strip_png
from gendiff.modalities.images.draw.page import show, svg
from gendiff.modalities.images.draw.sheet import sheet_png

__all__ = ["film_gif", "film_strip_png", "sheet_png", "show", "svg"]
