"""Images in numpy's files, `.npz` and `.npy`.

The images are uint8, (M, H, W), (M, H, W, C) or, if the last axis cannot be one of 1 to 4 channels, (M, C, H, W). In an
archive they are the array of one of these names, with the class of each beside them:

| images         | classes (also `labels`, `y`) |
| -------------- | ---------------------------- |
| `images`       | `labels`                     |
| `pixels`       | `labels`                     |
| `x`            | `y`                          |
| `x_train`      | `y_train`                    |
| `train_images` | `train_labels`               |
| `arr_0`        | `arr_1`                      |

or, if the archive has no other, its only array. Classes are text, or whole numbers, which are the places of their names
in `classes` or `words` (K,), or else their own names; `words` alone is a text an image. Nothing pickled is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.files import MAX_BYTES, UserError, check_file, ending, load_npz
from gendiff.modalities.images.read.raw import MAX_PIXELS, MAX_WORD, Raw, clean, numbered

PAIRS = {
    "images": "labels", "pixels": "labels", "x": "y", "x_train": "y_train", "train_images": "train_labels",
    "arr_0": "arr_1",
}  # fmt: skip


def parse_arrays(path: Path) -> Raw:
    """Return the images of a file.

    Raises:
        UserError: if it is damaged, or holds something else.
    """
    stem = path.name[: -len(ending(path))]
    if ending(path) == ".npy":
        pixels = _pixels(f"{path}", _load_npy(path))
        return Raw(pixels, None, numbered(stem, len(pixels)))
    arrays = load_npz(path)
    found = [name for name in PAIRS if name in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not found:
        names = ", ".join(clean(name, 40) for name in list(arrays)[:10])
        raise UserError(f"{path}: has no array of images, named {', '.join(PAIRS)}; there are: {names or 'none'}")
    name = found[0]
    pixels = _pixels(f"{path}, array {clean(name, 60)!r}", arrays[name])
    labels = [arrays[key] for key in (PAIRS.get(name, ""), "labels", "y") if key in arrays]
    classes = [arrays[key] for key in ("classes", "words") if key in arrays]
    words = _words(path, labels[0] if labels else None, classes[0] if classes else None, len(pixels))
    return Raw(pixels, words, numbered(stem, len(pixels)))


def _load_npy(path: Path) -> NDArray[Any]:
    check_file(path, MAX_BYTES)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # a header that claims more than is there is refused
    except Exception as error:  # numpy's parser of headers raises whatever its tokenizer does
        text = str(error).lower()
        reason = "holds pickled objects, which are never loaded" if "object" in text or "pickle" in text else ""
        raise UserError(f"{path}: {reason or 'is not a readable .npy array'}") from None


def _pixels(where: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Check an array of images; return it as (M, H, W, C)."""
    shape = array.shape
    if array.dtype != np.uint8:
        hint = ""
        if array.dtype.kind == "f":
            hint = "; of values from 0 to 1 make np.round(255 * x).astype('uint8')"
        elif array.dtype.kind in "iu":
            hint = "; if they lie there, .astype('uint8') makes them so"
        elif array.dtype.kind == "b":
            hint = "; of black and white make 255 * x.astype('uint8')"
        raise UserError(f"{where}: holds {clean(str(array.dtype), 40)}; images are bytes (uint8) from 0 to 255{hint}")
    if len(shape) == 3 and shape[2] > 4:
        array = array[..., None]
    elif len(shape) == 4 and shape[3] > 4 and 1 <= shape[1] <= 4:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or not 1 <= array.shape[3] <= 4 or 0 in array.shape:
        sides, hint = ", ".join(map(str, shape)), ""
        if len(shape) == 3 and 0 not in shape:
            hint = f"; make one image (1, {sides}), gray ones ({sides}, 1)"
        raise UserError(f"{where}: has shape {shape}; images are (M, H, W), (M, H, W, C) or (M, C, H, W){hint}")
    if array.shape[1] * array.shape[2] > MAX_PIXELS:
        raise UserError(f"{where}: has images of over {MAX_PIXELS:,} pixels")
    return array


def _words(path: Path, labels: NDArray[Any] | None, classes: NDArray[Any] | None, count: int) -> list[str] | None:
    """The class of each image."""
    if labels is None and classes is None:
        return None
    if classes is not None and (classes.dtype.kind not in "US" or classes.ndim != 1):
        raise UserError(f"{path}: `classes` must be texts of shape (K,)")
    if labels is None:
        labels, classes = classes, None
    assert labels is not None  # noqa: S101  # one of both is there
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iuUS":
        raise UserError(
            f"{path}: the classes must be whole numbers or texts, one an image, ({count:,},), not"
            f" {clean(str(labels.dtype), 40)} of shape {labels.shape}"
        )
    labels = labels.reshape(count)
    if classes is None or labels.dtype.kind in "US":
        return _texts(path, labels)
    names = _texts(path, classes)
    if labels.min() < 0 or labels.max() >= len(names):
        raise UserError(
            f"{path}: the classes must be whole numbers from 0 to {len(names) - 1:,}, the places of their names,"
            f" not {labels.min()} to {labels.max()}"
        )
    return [names[label] for label in labels.tolist()]


def _texts(path: Path, array: NDArray[Any]) -> list[str]:
    """Names of classes, of numbers or texts."""
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    distinct, place = np.unique(array, return_inverse=True)
    texts = [str(text) for text in distinct.tolist()]
    if max(map(len, texts)) > MAX_WORD:
        raise UserError(f"{path}: the name of a class has over {MAX_WORD} characters")
    texts = [clean(text) for text in texts]
    return [texts[i] for i in place.tolist()]
