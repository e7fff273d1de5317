"""From publishers' files to files that the reader takes: what each `loader` of the manifest does.

Every preparation takes the publisher's files by name and an empty folder, and returns the files of each part and how
many images they hold. The parts are the publisher's: train and test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gendiff.download import read_tar, unpacking
from gendiff.files import UserError
from gendiff.modalities.images.read.cifar import parse_names, parse_rows
from gendiff.modalities.images.read.idx import read_idx

DIGITS = tuple("0123456789")

CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

PARTS = {"train": 60_000, "test": 10_000}
"""Images of MNIST and its like."""

BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
"""Files of CIFAR-10, of 10,000 images each."""

BATCH = 10_000


def prepare_mnist(sources: Mapping[str, Path], folder: Path, classes: tuple[str, ...] = DIGITS) -> dict[str, Any]:
    """Write train.npz and test.npz of the four files of MNIST, or of a set in its form.

    Raises:
        UserError: if a file is missing or damaged, or does not have the 60,000 or 10,000 images or classes.
    """
    for part, count in PARTS.items():
        stem = {"train": "train", "test": "t10k"}[part]
        images, labels = (
            _column(sources, f"{stem}-{name}-ubyte.gz", axes, count)
            for name, axes in (("images-idx3", 3), ("labels-idx1", 1))
        )
        _save(folder / f"{part}.npz", images, labels, classes)
    return _made(PARTS)


def _column(sources: Mapping[str, Path], name: str, axes: int, count: int) -> NDArray[np.uint8]:
    """The array of one of the publisher's files."""
    if name not in sources:
        raise UserError(f"a data set of this kind has a file {name}")
    array = read_idx(sources[name], axes)
    if len(array) != count:
        raise UserError(f"{sources[name]}: holds {len(array):,} records; the set has {count:,}")
    return array


def prepare_fashion_mnist(sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write train.npz and test.npz of the four files of Fashion-MNIST; as :func:`prepare_mnist`."""
    return prepare_mnist(sources, folder, CLOTHES)


def prepare_cifar10(sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write train.npz and test.npz of the archive of CIFAR-10's binary version.

    Raises:
        UserError: if it is damaged, or does not hold the six batches of 10,000 images and the names of the classes.
    """
    ((_, archive),) = sources.items()
    wanted = {name for names in BATCHES.values() for name in names} | {"batches.meta.txt"}
    found: dict[str, bytes] = {}
    with unpacking(archive):
        for member, stream in read_tar(archive, max_members=20, max_bytes=1 << 25):
            name = PurePosixPath(member).name
            if name in wanted:
                found[name] = stream.read()
    if missing := sorted(wanted - found.keys()):
        raise UserError(f"{archive}: has no {missing[0]}; it is not CIFAR-10's binary version")
    classes = parse_names(found["batches.meta.txt"].decode(errors="replace"), 10, f"{archive}, batches.meta.txt")
    for part, names in BATCHES.items():
        rows = [parse_rows(found[name], 10) for name in names]
        for name, batch in zip(names, rows, strict=True):
            if batch is None or len(batch[0]) != BATCH:
                raise UserError(f"{archive}, {name}: is no batch of {BATCH:,} images of ten classes")
        images, labels = (np.concatenate(column) for column in zip(*(row for row in rows if row), strict=True))
        _save(folder / f"{part}.npz", images, labels, classes)
    return _made({part: BATCH * len(names) for part, names in BATCHES.items()})


def _save(path: Path, images: NDArray[Any], labels: NDArray[Any], classes: Any) -> None:
    if labels.max() >= len(classes):
        raise UserError(f"{path.name}: a class is {labels.max()}; there are {len(classes)}")
    np.savez_compressed(path, images=images, labels=labels, classes=np.array(classes))


def _made(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"parts": {part: [f"{part}.npz"] for part in counts}, "records": dict(counts)}


LOADERS: dict[str, Callable[[Mapping[str, Path], Path], dict[str, Any]]] = {
    "mnist": prepare_mnist,
    "fashion-mnist": prepare_fashion_mnist,
    "cifar10": prepare_cifar10,
}
