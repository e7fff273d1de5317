"""Preparation of public sets, on small files in their publishers' forms."""

import gzip
import io
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gendiff.catalog import manifest
from gendiff.download import Source
from gendiff.files import UserError
from gendiff.modalities.images import prepare
from gendiff.modalities.images.prepare import LOADERS, prepare_cifar10, prepare_fashion_mnist, prepare_mnist
from gendiff.modalities.images.read import read_images

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """The four files of an MNIST of 20 and 10 images, an empty folder, and what is in the files."""
    monkeypatch.setattr(prepare, "PARTS", {"train": 20, "test": 10})
    sources, found = {}, {}
    for stem, count, part in (("train", 20, "train"), ("t10k", 10, "test")):
        images, labels = pixels(count, 28, 28, seed=count), np.arange(count, dtype=np.uint8) * 7 % 10
        for name, array in ((f"{stem}-images-idx3-ubyte.gz", images), (f"{stem}-labels-idx1-ubyte.gz", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            sources[name] = tmp_path / name
            sources[name].write_bytes(gzip.compress(head + array.tobytes()))
        found[part] = images, labels
    (tmp_path / "out").mkdir()
    return sources, tmp_path / "out", found


@pytest.mark.parametrize(
    ("make", "classes"), [(prepare_mnist, prepare.DIGITS), (prepare_fashion_mnist, prepare.CLOTHES)]
)
def test_mnist_and_its_like_are_prepared_for_the_reader(mnist, make, classes):
    sources, out, found = mnist
    assert make(sources, out) == {
        "parts": {"train": ["train.npz"], "test": ["test.npz"]},
        "records": {"train": 20, "test": 10},
    }
    for part, (images, labels) in found.items():
        read, _ = read_images(out / f"{part}.npz")
        assert np.array_equal(read.pixels[..., 0], images)
        assert read.words.tolist() == [classes[label] for label in labels]
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    make(sources, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_files_of_mnist_that_are_not_what_they_should_be(mnist):
    sources, out, _ = mnist
    one, two = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
    for changed, message in (
        ({name: path for name, path in sources.items() if name != two}, f"a data set of this kind has a file {two}"),
        (sources | {one: sources["t10k-images-idx3-ubyte.gz"]}, r"holds 10 records; the set has 20"),
        (sources | {one: sources[two]}, "is no file of images in the format of MNIST"),
    ):
        with pytest.raises(UserError, match=message):
            prepare_mnist(changed, out)
    sources[two].write_bytes(gzip.compress(b"\0\0\x08\1" + struct.pack(">I", 20) + bytes([10] * 20)))
    with pytest.raises(UserError, match=r"train\.npz: a class is 10; there are 10"):
        prepare_mnist(sources, out)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """The members of an archive of CIFAR-10 with batches of three images, and what is in them."""
    monkeypatch.setattr(prepare, "BATCH", 3)
    batches = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    found = {name: (pixels(3, 3, 32, 32, seed=i), [i, 9, 0]) for i, name in enumerate(batches)}
    members = {
        name: b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))
        for name, (images, labels) in found.items()
    }
    (tmp_path / "out").mkdir()
    return members | {"batches.meta.txt": "\n".join([*NAMES, ""]).encode(), "readme.html": b"<html>"}, found


def pack(folder, members, prefix="cifar-10-batches-bin/"):
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {path.name: path}


def test_cifar10_is_prepared_for_the_reader(tmp_path, cifar):
    members, found = cifar
    backwards = dict(reversed(members.items()))  # the order in the archive is no matter
    made = prepare_cifar10(pack(tmp_path, backwards), tmp_path / "out")
    assert made == {
        "parts": {"train": ["train.npz"], "test": ["test.npz"]},
        "records": {"train": 15, "test": 3},
    }
    for part, names in prepare.BATCHES.items():
        read, _ = read_images(tmp_path / "out" / f"{part}.npz")
        assert np.array_equal(read.pixels, np.concatenate([found[name][0] for name in names]).transpose(0, 2, 3, 1))
        assert read.words.tolist() == [NAMES[label] for name in names for label in found[name][1]]


def test_archives_that_are_not_cifar10(tmp_path, cifar):
    members, _ = cifar
    out = tmp_path / "out"
    without = {name: content for name, content in members.items() if name != "data_batch_3.bin"}
    for changed, message in (
        (without, r"tar\.gz: has no data_batch_3\.bin; it is not CIFAR-10's binary version"),
        (members | {"test_batch.bin": members["test_batch.bin"][:-1]}, r"test_batch\.bin: is no batch of 3 images"),
        (members | {"test_batch.bin": members["test_batch.bin"][3073:]}, r"test_batch\.bin: is no batch of 3 images"),
        (members | {"test_batch.bin": b"\x0a" + bytes(3073 * 3 - 1)}, r"is no batch of 3 images of ten classes"),
        (members | {"batches.meta.txt": b"cat\n"}, r"batches\.meta\.txt: must have a line for each of 10 classes"),
        (members | {"../out/x": b"x"}, "leads out of the archive"),
    ):
        with pytest.raises(UserError, match=message):
            prepare_cifar10(pack(tmp_path, changed), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-binary.tar.gz", "out"]  # nothing unpacked
    path = Path(tmp_path / "cifar-10-binary.tar.gz")
    content = pack(tmp_path, members)[path.name].read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged or no archive"):
        prepare_cifar10({path.name: path}, out)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_the_manifest_knows_the_public_sets(name):
    entry = manifest()[name]
    assert entry["loader"] in LOADERS
    assert entry["modality"] == "images"
    for item in entry["sources"]:
        assert {"size", "md5", "sha256"} <= item.keys()
        assert item["url"].endswith("/" + item["file"])
        Source(item["url"], item["size"], {kind: item[kind] for kind in ("md5", "sha256")})


@pytest.mark.skipif("GENDIFF_DATA" not in os.environ, reason="$GENDIFF_DATA, real data for development, is not set")
def test_real_images_are_read():
    folder = Path(os.environ["GENDIFF_DATA"]) / "images"
    digits, _ = read_images(folder / "mnist.npz")
    assert digits.pixels.shape == (60_000, 28, 28, 1)
    assert digits.words[:6].tolist() == ["5", "0", "4", "1", "9", "2"]
    assert digits.pixels.mean() == pytest.approx(33.3184, abs=1e-4)
    photographs, _ = read_images(folder / "cifar10_10k.npz")
    assert photographs.pixels.shape == (10_000, 32, 32, 3)
    assert sorted(set(photographs.words.tolist())) == NAMES
