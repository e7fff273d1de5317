"""Files of one picture: PNG, JPEG, WebP, BMP and GIF, decoded by Pillow and changed in no way that was not asked for.

What a file holds says its first bytes, not its name. Pixels come as they are: gray stays gray and alpha stays. Fewer
bits than 8, palettes and a transparent colour become gray or RGB, with alpha if need be, without loss; the orientation
of a camera (EXIF) is applied; colour profiles are not. 16 bits, CMYK and animations are refused. If asked for,

- `channels` converts: to gray by luma (ITU-R 601-2), from alpha over white, of 16 bits the upper eight, CMYK by
  Pillow's formula;
- `resize` makes all pictures of one size as ADM does [1]: halved by averages while twice too large, the shorter side
  scaled by bicubic interpolation with antialiasing, the middle cut out.

References:
    | [1] Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021)
    | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gendiff.modalities.images.read.raw import MAX_PIXELS, Unusable, clean

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What Pillow may decode: its other decoders read no training data and widen what a hostile file can reach."""

MODES = {"gray": "L", "rgb": "RGB", "rgba": "RGBA"}
"""What `channels` can be, in Pillow's words."""

ORIENTATION, DESCRIPTION, SOFTWARE = 0x0112, 0x010E, 0x0131
"""Tags of EXIF; the description of what gendiff writes is the class."""

_PLAIN = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
_OPAQUE = {"L": "LA", "RGB": "RGBA"}
_TURNS = {  # by the orientation in EXIF
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip


def decode(
    content: bytes, channels: str | None = None, resize: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], str]:
    """Return the pixels (H, W, C) of the bytes of a file, and the class that gendiff wrote into it, "" if none.

    Raises:
        Unusable: if they are no picture, damaged, too large, or of a kind that needs a conversion nobody asked for.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes, which are checked here
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                return _pixels(picture, channels, resize), _word(picture)
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise Unusable(f"is no picture: not of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise Unusable(f"too many pixels: over {MAX_PIXELS:,}") from None
    except MemoryError:
        raise Unusable("too many pixels: more than fit into memory") from None
    except Exception as error:  # Pillow and its decoders each raise their own kinds on damaged bytes
        raise Unusable(f"is damaged: {clean(str(error), 100) or type(error).__name__}") from None


def convert(
    pixels: NDArray[np.uint8], channels: str | None = None, resize: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return pixels (M, H, W, C) converted and resized as :func:`decode` does, if asked for."""
    from PIL import Image

    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    same = channels is None or MODES[channels] == modes[pixels.shape[3]]
    if same and resize in (None, pixels.shape[1:3]):
        return pixels
    squeezed = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    made = (_asked(Image.fromarray(image), channels, resize) for image in np.ascontiguousarray(squeezed))
    return np.stack([_array(picture) for picture in made])


def _pixels(file: ImageFile, channels: str | None, resize: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image

    if file.width * file.height > MAX_PIXELS:
        raise Unusable(f"too many pixels: {file.width:,} x {file.height:,}, over {MAX_PIXELS:,}")
    if getattr(file, "is_animated", False):
        raise Unusable("is an animation: only single pictures are read")
    stored = str(file.tile) if file.format == "PNG" else ""  # Pillow calls 16 bits of RGB just RGB
    deep, clear = ";16" in stored, file.info.get("transparency")
    if deep and clear is not None:
        raise Unusable("is no picture of 8 bits in gray or RGB: 16 bits with a transparent colour")
    if channels is None and (deep or file.mode not in _PLAIN):
        kind = "16 bits" if deep else file.mode
        raise Unusable(f"is no picture of 8 bits in gray or RGB: {kind}; --channels rgb or gray converts it")
    for bits in (2, 4):
        if f"L;{bits}" in stored and clear is not None:  # grays are spread over 0 to 255, and this one must follow
            file.info["transparency"] = clear * 255 // (2**bits - 1)
    file.load()
    turn = _exif(file, ORIENTATION)
    picture: Picture = file
    if deep and picture.mode not in _PLAIN:  # gray; of colours Pillow has kept the upper byte
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    mode = _PLAIN.get(picture.mode, "RGB")
    if picture.has_transparency_data:
        mode = _OPAQUE.get(mode, mode)
    if picture.mode != mode:
        picture = picture.convert(mode)
    if turn in _TURNS:
        picture = picture.transpose(Image.Transpose[_TURNS[turn]])
    return _array(_asked(picture, channels, resize))


def _asked(picture: Picture, channels: str | None, resize: tuple[int, int] | None) -> Picture:
    from PIL import Image

    if channels is not None and picture.mode != MODES[channels]:
        if picture.mode in ("LA", "RGBA") and channels != "rgba":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        picture = picture.convert(MODES[channels])
    return picture if resize is None else fit(picture, *resize)


def fit(picture: Picture, height: int, width: int) -> Picture:
    """Return the middle of a picture at this size, as ADM does."""
    from PIL.Image import Resampling

    while picture.width >= 2 * width and picture.height >= 2 * height:
        picture = picture.resize((picture.width // 2, picture.height // 2), Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    scaled = round(picture.width * scale), round(picture.height * scale)
    if scaled[0] * scaled[1] > MAX_PIXELS:
        raise Unusable(f"too long and narrow to resize: {picture.width:,} x {picture.height:,}")
    picture = picture.resize(scaled, Resampling.BICUBIC)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _array(picture: Picture) -> NDArray[np.uint8]:
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _exif(picture: Picture, tag: int) -> Any:
    """A value of the EXIF, None if it is not there or the EXIF is damaged, which the pixels are not."""
    try:
        return picture.getexif().get(tag)
    except Exception:  # Pillow raises many kinds at damaged bytes
        return None


def _word(picture: Picture) -> str:
    """The class in the text of a PNG, or in the EXIF of another, if gendiff has written it."""
    software, word = picture.info.get("Software"), picture.info.get("word")
    if picture.format in ("JPEG", "WEBP"):
        software, word = _exif(picture, SOFTWARE), _exif(picture, DESCRIPTION)
        word = word.encode("latin-1").decode(errors="replace") if isinstance(word, str) else word
    ours = isinstance(software, str) and software.startswith("gendiff ") and isinstance(word, str)
    return clean(str(word)) if ours else ""
