"""Read images from files of many formats, and say what was read.

| files                              | hold                                                                        |
| ---------------------------------- | --------------------------------------------------------------------------- |
| .png .jpg .jpeg .webp .bmp .gif    | a picture each (:mod:`.picture`)                                            |
| a folder                           | pictures; those in a folder of their own are of the class that it is named  |
|                                    | after (:mod:`.folder`)                                                      |
| .npz .npy                          | arrays, with classes if need be (:mod:`.arrays`)                            |
| …-images-idx3-ubyte, .gz or not    | the format of MNIST; classes from …-labels-idx1-ubyte beside it (:mod:`.idx`) |
| .bin                               | the binary version of CIFAR-10 and CIFAR-100 (:mod:`.cifar`)                |
| .csv .csv.gz .tra .tes             | the table of 8 x 8 digits of UCI and scikit-learn (:mod:`.digits`)          |

Images are bytes, and stay what they are: nothing is resized, converted or clipped unless asked for. All that are read
together have one size and as many channels.

An image that cannot be used, or a file of many, stops the reading with its name and the reason, or is left out and
counted. A picture that gendiff has written keeps its class, unless it was moved into the folder of another.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gendiff.files import UserError, check_file, ending, read_bytes, sha256
from gendiff.modalities.images.read.arrays import parse_arrays
from gendiff.modalities.images.read.cifar import parse_cifar
from gendiff.modalities.images.read.digits import parse_digits
from gendiff.modalities.images.read.folder import PICTURES, Labels, list_folder
from gendiff.modalities.images.read.idx import IMAGES, LABELS, parse_idx
from gendiff.modalities.images.read.picture import MODES, convert, decode
from gendiff.modalities.images.read.raw import MAX_PIXELS, MAX_WORD, Raw, Unusable, clean
from gendiff.modalities.images.read.report import ReadReport
from gendiff.modalities.images.records import ImageArrays, folder_name, kind

__all__ = ["ReadReport", "read_images"]

MAX_FILE = 1 << 29
"""Largest file of one picture: 512 MiB."""

CONTAINERS: dict[str, Callable[[Path], Raw]] = {
    **dict.fromkeys((".npz", ".npy"), parse_arrays),
    ".bin": parse_cifar,
    **dict.fromkeys((".csv", ".csv.gz", ".tra", ".tes"), parse_digits),
}
"""How files of many images are read, by their ending; those of MNIST have none."""


def read_images(
    paths: str | Path | Iterable[str | Path],
    on_error: Literal["stop", "skip"] = "stop",
    labels: str | Path | None = None,
    resize: int | Sequence[int] | None = None,
    channels: Literal["gray", "rgb", "rgba"] | None = None,
) -> tuple[ImageArrays, ReadReport]:
    """Read the images of files and folders.

    Arguments:
        paths: Files and folders.
        on_error: "stop" at the first image or file that cannot be used, or "skip" such and count them; of images that
            differ in size or channels, "skip" keeps the most frequent kind.
        labels: A table, `.csv` with the columns `file` and `label`, of the classes of pictures. By default the name of
            a picture's own folder is its class.
        resize: Height and width to bring every image to, one number for both: scaled, and cut to its middle. As they
            are by default.
        channels: Channels to convert every image to: "gray", "rgb" or "rgba". As they are by default.

    Returns:
        The images, in the order of the paths, in folders by name, and the report.

    Raises:
        UserError: for a path that is not there or of no known format, an image or file that cannot be used
            (`on_error="stop"`), images of unlike size or channels, or if no usable image is left.
        ValueError: for an option that does not exist.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"`on_error` must be 'stop' or 'skip', got {on_error!r}")
    if channels not in (None, *MODES):
        raise ValueError(f"`channels` must be one of {', '.join(MODES)}, got {channels!r}")
    places = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not places:
        raise UserError("no file of images given; name at least one")
    forms = [_form(path) for path in places]
    if labels is not None and any(callable(form) for form in forms):
        raise UserError(f"{labels}: gives classes to pictures; files of many images bring their own")
    reader = _Reader(on_error, _size(resize), channels, Labels(Path(labels)) if labels is not None else None)
    for path, form in zip(places, forms, strict=True):
        reader.read(path, form)
    return reader.finish()


def _size(resize: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of what `resize` says."""
    if resize is None:
        return None
    height, width = (resize, resize) if isinstance(resize, int) else resize
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise UserError(f"--resize wants a size of 1 to {MAX_PIXELS:,} pixels, got {width:,} x {height:,}")
    return height, width


def _form(path: Path) -> str | Callable[[Path], Raw]:
    """What a path is: a "folder", a "picture", or a file of many images that a function reads."""
    if path.is_dir():
        return "folder"
    if not path.exists():
        check_file(path)
    suffix, name = ending(path), path.name.lower()
    if suffix in PICTURES:
        return "picture"
    if suffix in CONTAINERS:
        return CONTAINERS[suffix]
    if IMAGES.search(name):
        return parse_idx
    if LABELS.search(name):
        raise UserError(f"{path}: holds classes; name the file of the images, which finds it")
    if _is_pickle(path):
        raise UserError(
            f"{path}: is a pickle, which is never loaded; take CIFAR's binary version, cifar-10-binary.tar.gz, or"
            " gendiff data get cifar10"
        )
    if {".tar", ".tgz", ".zip"} & {part.lower() for part in path.suffixes}:
        raise UserError(f"{path}: is an archive; unpack it, and name the folder or the files in it")
    raise UserError(
        f"{path}: unknown extension {suffix!r}; images are read from folders of {' '.join(PICTURES)}, and from"
        f" {' '.join(CONTAINERS)} and idx3-ubyte"
    )


def _is_pickle(path: Path) -> bool:
    """Whether a file of no known ending begins like a pickle, as those of CIFAR's python version do."""
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError:
        return False
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


@dataclass
class _Shelf:
    """Images of one shape: bytes, that grow in place, and beside them classes, names, and the path each is of."""

    first: str
    data: bytearray = field(default_factory=bytearray)
    words: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class _Reader:
    """Reads paths with one set of options."""

    def __init__(self, on_error: str, resize: tuple[int, int] | None, channels: str | None, labels: Labels | None):
        self.on_error, self.resize, self.channels, self.labels = on_error, resize, channels, labels
        self.report = ReadReport()
        self.shelves: dict[tuple[int, ...], _Shelf] = {}
        self.bytes, self.memory = 0, _memory()

    def read(self, path: Path, form: str | Callable[[Path], Raw]) -> None:
        """Read a path into the shelves."""
        before = self.report.records
        if callable(form):
            facts = self._container(path, form)
        elif form == "picture":
            content = self._picture(path, path.name, None)
            facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        else:
            facts = self._folder(path)
        self.report.files.append({"path": str(path), **facts, "records": self.report.records - before})

    def _folder(self, folder: Path) -> dict[str, Any]:
        listing, size, digests = list_folder(folder), 0, {}
        if not listing.pictures:
            why = "".join(f"; {path} is {reason}" for path, reason in listing.unread[:1])
            if listing.others:
                kinds = ", ".join(f"{count:,} {name}" for name, count in listing.others.most_common(3))
                why += f"; it has other files ({kinds}): name those to read themselves"
            raise UserError(f"{folder}: has no pictures ({' '.join(PICTURES)}){why}")
        self.report.others += listing.others
        for path, reason in listing.unread:
            self._refuse(path, reason)
        for path, word in listing.pictures:
            name = path.relative_to(folder).as_posix()
            content = self._picture(path, name, word)
            size += len(content)
            digests[name] = hashlib.sha256(content).hexdigest()
        lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        return {"bytes": size, "sha256": hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()}

    def _picture(self, path: Path, name: str, folder: str | None) -> bytes:
        """Put one picture on its shelf; return its bytes."""
        content = b""
        try:
            content = read_bytes(path, MAX_FILE)
            pixels, word = decode(content, self.channels, self.resize)
            if self.labels is not None:
                word = self.labels.take(path, name)
            elif folder is not None and folder_name(word) != folder:
                word = clean(folder, len(folder))
            if len(word) > MAX_WORD:
                raise Unusable(f"the class is too long: over {MAX_WORD} characters")
        except Unusable as error:
            self._refuse(path, str(error))
        except UserError as error:
            self._refuse(path, str(error).removeprefix(f"{path}: "))
        else:
            self.report.records += 1
            self._put(path, Raw(pixels[None], [word], [clean(name, 200)]))
        return content

    def _container(self, path: Path, parse: Callable[[Path], Raw]) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        try:
            facts = {"bytes": check_file(path).stat().st_size, "sha256": sha256(path)}
            raw = parse(path)
            raw.pixels = convert(raw.pixels, self.channels, self.resize)
        except Unusable as error:
            self._refuse(path, str(error))
        except UserError as error:
            if self.on_error == "stop":
                raise
            self._refuse(path, f"a file of many images: {str(error).removeprefix(str(path)).lstrip(':, ')}")
        else:
            self.report.records += len(raw.pixels)
            self._put(path, raw)
        return facts

    def _put(self, path: Path, raw: Raw) -> None:
        shape = raw.pixels.shape[1:]
        if self.on_error == "stop" and self.shelves and shape not in self.shelves:
            ((other, shelf),) = self.shelves.items()
            raise UserError(f"{path}: is {kind(shape)}, and {shelf.first} is {kind(other)}; {_remedy(shape, other)}")
        self.bytes += raw.pixels.size
        if self.bytes > self.memory:
            raise UserError(f"{path}: here the images fill the memory; read fewer, or make them smaller with --resize")
        shelf = self.shelves.setdefault(shape, _Shelf(str(path)))
        shelf.data += np.ascontiguousarray(raw.pixels).data.cast("B")
        shelf.words += [""] * len(raw.pixels) if raw.words is None else raw.words
        shelf.names += raw.names
        shelf.places += [len(self.report.files)] * len(raw.pixels)

    def _refuse(self, path: Path, reason: str) -> None:
        """Stop at, or count, what cannot be used."""
        reason = clean(reason, 200)
        if self.on_error == "stop":
            raise UserError(f"{path}: {reason}; leave such files out with --on-error skip")
        what, _, detail = reason.partition(": ")
        self.report.records += 1
        self.report.skipped[what] += 1
        self.report.examples.setdefault(what, clean(path.name, 100) + (f": {detail}" if detail else ""))

    def finish(self) -> tuple[ImageArrays, ReadReport]:
        """The images of the most frequent kind, and the report."""
        report = self.report
        if self.labels is not None:
            for reason in self.labels.left():
                self._refuse(self.labels.path, reason)
        if not self.shelves:
            where = report.files[0]["path"] if len(report.files) == 1 else f"{len(report.files)} paths"
            raise UserError(f"{where}: no usable image in {report.records:,} files: {report.reasons()}")
        shape, shelf = max(self.shelves.items(), key=lambda item: len(item[1].words))
        unlike = "is not of the most frequent size and channels"
        for other, rest in self.shelves.items():
            if other != shape:
                report.skipped[unlike] += len(rest.words)
                report.examples.setdefault(unlike, f"{clean(rest.names[0], 100)}: {kind(other)}")
        kept = np.bincount(shelf.places, minlength=len(report.files)).tolist()
        for facts, count in zip(report.files, kept, strict=True):
            facts["kept"] = count
        pixels = np.frombuffer(shelf.data, np.uint8).reshape(-1, *shape)
        arrays = ImageArrays(pixels, np.array(shelf.words), np.array(shelf.names))
        report.count(arrays)
        return arrays, report


def _remedy(shape: Sequence[int], other: Sequence[int]) -> str:
    """What makes images of two shapes alike."""
    wanted = []
    if shape[:2] != other[:2]:
        wanted.append(f"--resize {min(*shape[:2], *other[:2])}")
    if shape[2] != other[2]:
        wanted.append(f"--channels {'rgba' if {shape[2], other[2]} & {2, 4} else 'rgb'}")
    return f"make all alike with {' '.join(wanted)}, or leave the rarer kind out with --on-error skip"


def _memory() -> int:
    """Bytes of memory of this machine; 64 GiB where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 36
