"""What images of every form become: the same bytes, with their classes."""

import gzip
import hashlib
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from PIL import ImageOps

from gendiff.catalog import builtin
from gendiff.files import UserError
from gendiff.modalities.images.read import picture, read_images


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array[..., 0] if array.shape[-1:] == (1,) else array).save(path, **options)
    return path


def png(width, height, depth, color, rows, *chunks):
    """A PNG by its bytes: Pillow writes few of those that it reads."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*each) for each in chunks) + data + chunk(b"IEND", b"")


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".webp"])
def test_a_picture_keeps_its_bytes(tmp_path, suffix):
    array = pixels(7, 5, 3)
    read, _ = read_images(save(tmp_path / f"x{suffix}", array, **({"lossless": True} if suffix == ".webp" else {})))
    assert np.array_equal(read.pixels, array[None])
    assert (read.words.tolist(), read.names.tolist()) == ([""], [f"x{suffix}"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_gray_and_alpha_stay(tmp_path, channels):
    array = pixels(7, 5, channels)
    assert np.array_equal(read_images(save(tmp_path / "x.png", array))[0].pixels, array[None])


GRAYS = {
    "one bit": (png(8, 1, 1, 0, [b"\xa5"]), [[255], [0], [255], [0], [0], [255], [0], [255]]),
    "two bits": (png(4, 1, 2, 0, [b"\x1b"]), [[0], [85], [170], [255]]),
    "four bits": (png(2, 1, 4, 0, [b"\x5a"]), [[85], [170]]),
    "one bit, 1 is clear": (png(2, 1, 1, 0, [b"\x40"], (b"tRNS", b"\0\1")), [[0, 255], [255, 0]]),
    "two bits, 2 is clear": (
        png(4, 1, 2, 0, [b"\x1b"], (b"tRNS", b"\0\2")),
        [[0, 255], [85, 255], [170, 0], [255, 255]],
    ),
    "four bits, 5 is clear": (png(2, 1, 4, 0, [b"\x5a"], (b"tRNS", b"\0\5")), [[85, 0], [170, 255]]),
    "eight bits, 5 is clear": (png(2, 1, 8, 0, [b"\5\6"], (b"tRNS", b"\0\5")), [[5, 0], [6, 255]]),
    "RGB, one is clear": (
        png(2, 1, 8, 2, [bytes([5, 6, 7, 1, 2, 3])], (b"tRNS", bytes([0, 5, 0, 6, 0, 7]))),
        [[5, 6, 7, 0], [1, 2, 3, 255]],
    ),
    "a palette": (
        png(4, 1, 2, 3, [b"\x1b"], (b"PLTE", bytes(range(12)))),
        [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
    ),
    "a palette with alpha": (
        png(4, 1, 2, 3, [b"\x1b"], (b"PLTE", bytes(range(12))), (b"tRNS", b"\0\x80")),
        [[0, 1, 2, 0], [3, 4, 5, 128], [6, 7, 8, 255], [9, 10, 11, 255]],
    ),
}


@pytest.mark.parametrize("name", GRAYS)
def test_few_bits_and_palettes_lose_nothing(tmp_path, name):
    content, expected = GRAYS[name]
    (tmp_path / "x.png").write_bytes(content)
    assert read_images(tmp_path / "x.png")[0].pixels[0, 0].tolist() == expected


def test_a_still_gif_is_its_palette(tmp_path):
    array = np.array([[[255, 0, 0], [0, 0, 255]], [[1, 2, 3], [255, 0, 0]]], np.uint8)
    assert np.array_equal(read_images(save(tmp_path / "x.gif", array))[0].pixels, array[None])


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_orientation_of_a_camera_is_applied(tmp_path, suffix, turn):
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    array = pixels(2, 3, 3)
    path = save(tmp_path / f"x{suffix}", array, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    with PIL.Image.open(path) as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    assert upright.shape == ((2, 3, 3) if turn < 5 else (3, 2, 3))
    assert np.array_equal(read_images(path)[0].pixels[0], upright)


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    (tmp_path / "x.png").write_bytes(png(2, 1, 8, 0, [b"\5\6"], (b"eXIf", b"garbage" * 3)))
    assert read_images(tmp_path / "x.png")[0].pixels.ravel().tolist() == [5, 6]


def test_the_first_bytes_say_what_a_file_is(tmp_path):
    array = pixels(4, 4, 3)
    save(tmp_path / "x.bmp", array).rename(tmp_path / "x.png")
    assert np.array_equal(read_images(tmp_path / "x.png")[0].pixels, array[None])


# Conversions that were asked for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "channels", "expected"),
    [
        ([[10]], "rgb", [10, 10, 10]),
        ([[10]], "rgba", [10, 10, 10, 255]),
        ([[[10, 20, 30]]], "gray", [round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)]),
        ([[[7, 7, 7]]], "gray", [7]),
        ([[[10, 20, 30, 255]]], "rgb", [10, 20, 30]),
        ([[[10, 20, 30, 0]]], "rgb", [255, 255, 255]),
        ([[[0, 100, 200, 51]]], "rgb", [204, 224, 244]),  # a fifth of it, on white
        ([[[10, 0]]], "gray", [255]),
        ([[[10, 20]]], "rgba", [10, 10, 10, 20]),
    ],
)
def test_channels_are_converted_if_asked(tmp_path, array, channels, expected):
    path = save(tmp_path / "x.png", np.array(array, np.uint8))
    np.savez(tmp_path / "x.npz", images=np.array(array, np.uint8)[None].reshape(1, 1, 1, -1))
    for file in (path, tmp_path / "x.npz"):
        assert read_images(file, channels=channels)[0].pixels.ravel().tolist() == expected


def test_sixteen_bits_and_cmyk_are_converted_if_asked(tmp_path):
    for content, expected in (
        (png(2, 1, 16, 0, [b"\x12\x34\xff\xfe"]), [0x12, 0xFF]),
        (png(1, 1, 16, 2, [bytes([1, 255, 2, 255, 3, 0])]), [2]),
        (png(1, 1, 16, 4, [b"\x12\x34\xff\xff"]), [0x12]),
    ):
        (tmp_path / "x.png").write_bytes(content)
        assert read_images(tmp_path / "x.png", channels="gray")[0].pixels.ravel().tolist() == expected
    PIL.Image.new("CMYK", (2, 2)).save(tmp_path / "x.jpg")
    assert (read_images(tmp_path / "x.jpg", channels="rgb")[0].pixels == 255).all()


def test_resizing_halves_by_averages_and_cuts_the_middle(tmp_path):
    """Sizes that halving alone reaches: the averages of blocks, along the rows first, each rounded to a byte."""

    def halved(x):
        rows = (x[:, ::2] + x[:, 1::2] + 1) // 2
        return (rows[::2] + rows[1::2] + 1) // 2

    array = pixels(32, 48, 1)
    path = save(tmp_path / "x.png", array)
    half = halved(array[..., 0].astype(int))
    quarter = halved(half)
    assert np.array_equal(read_images(path, resize=16)[0].pixels[0, ..., 0], half[:, 4:20])
    assert np.array_equal(read_images(path, resize=(8, 12))[0].pixels[0, ..., 0], quarter)
    assert np.array_equal(read_images(path, resize=(32, 10))[0].pixels[0, ..., 0], array[:, 19:29, 0])
    assert np.array_equal(read_images(path, resize=(32, 48))[0].pixels[0], array)


@pytest.mark.parametrize(("shape", "size"), [((37, 53), 16), ((53, 37), 16), ((100, 20), 20), ((9, 7), 24)])
def test_resizing_is_that_of_adm(tmp_path, shape, size):
    """Steps as Dhariwal and Nichol give them for squares."""
    array = pixels(*shape, 3)
    image = PIL.Image.fromarray(array)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), PIL.Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), PIL.Image.Resampling.BICUBIC)
    top, left = (image.height - size) // 2, (image.width - size) // 2
    expected = np.asarray(image)[top : top + size, left : left + size]
    assert np.array_equal(read_images(save(tmp_path / "x.png", array), resize=size)[0].pixels[0], expected)
    np.savez(tmp_path / "x.npz", images=array[None])
    assert np.array_equal(read_images(tmp_path / "x.npz", resize=size)[0].pixels[0], expected)


def test_resizing_keeps_a_plain_picture_plain(tmp_path):
    path = save(tmp_path / "x.png", np.full((45, 33, 4), (10, 20, 30, 128), np.uint8))
    small = read_images(path, resize=(16, 13))[0].pixels
    assert small.shape == (1, 16, 13, 4)
    assert np.abs(small.astype(int) - (10, 20, 30, 128)).max() <= 1  # colours are weighted by alpha, in bytes


# Folders --------------------------------------------------------------------------------------------------------------


def test_folders_are_classes_and_names_are_the_order(tmp_path):
    for i, name in enumerate(["dog/2.png", "cat/10.jpg", "cat/1.bmp", "plain.png", ".hidden.png", ".git/x.png"]):
        save(tmp_path / name, np.full((2, 2, 3), 10 * i, np.uint8))
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "cat" / "Thumbs.db").write_text("x")
    read, report = read_images(tmp_path)
    assert read.names.tolist() == ["plain.png", "cat/1.bmp", "cat/10.jpg", "dog/2.png"]
    assert read.words.tolist() == ["", "cat", "cat", "dog"]
    assert read.pixels[:, 0, 0, 0].tolist() == [30, 20, 10, 0]
    assert report.lines() == [
        f"read 4 images from {tmp_path.name}; 2 x 2 RGB; values 0-30; 2 classes: cat 2, dog 1; 1 without a class",
        "left alone 2 files that are no images: .txt 1, .db 1",
    ]
    facts = report.to_json()
    assert facts["classes"] == {"cat": 2, "dog": 1}
    assert (facts["size"], facts["channels"], facts["records"], facts["kept"]) == ([2, 2], 3, 4, 4)
    listing = "".join(
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(read.names.tolist())
    )
    assert facts["files"] == [
        {
            "path": str(tmp_path),
            "bytes": sum((tmp_path / name).stat().st_size for name in read.names.tolist()),
            "sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "records": 4,
            "kept": 4,
        }
    ]


def test_several_paths_come_one_after_another(tmp_path):
    save(tmp_path / "a" / "x.png", np.full((2, 2, 1), 1, np.uint8))
    save(tmp_path / "b.png", np.full((2, 2, 1), 2, np.uint8))
    np.savez(tmp_path / "c.npz", images=np.full((2, 2, 2, 1), 3, np.uint8), labels=["u", "v"])
    read, report = read_images([tmp_path / "c.npz", tmp_path / "a", tmp_path / "b.png"])
    assert read.pixels[:, 0, 0, 0].tolist() == [3, 3, 1, 2]
    assert read.names.tolist() == ["c-00000", "c-00001", "x.png", "b.png"]
    assert read.words.tolist() == ["u", "v", "", ""]
    assert [facts["kept"] for facts in report.files] == [2, 1, 1]
    assert report.lines()[0].startswith("read 4 images from 3 files; 2 x 2 gray")


def test_a_table_gives_classes(tmp_path):
    for name in ("a/1.png", "a/2.png", "3.png"):
        save(tmp_path / "data" / name, pixels(2, 2, 1))
    table = tmp_path / "labels.csv"
    table.write_text('file,label,note\ndata/a/1.png,cat,x\n"a/2.png","a dog, small",x\n./3.png,,x\n')
    read, report = read_images(tmp_path / "data", labels=table)
    assert dict(zip(read.names.tolist(), read.words.tolist(), strict=True)) == {
        "3.png": "",
        "a/1.png": "cat",
        "a/2.png": "a dog, small",
    }
    assert report.classes == {"cat": 1, "a dog, small": 1}
    table.write_text("class,Image\n7,3.png\n")
    assert read_images(tmp_path / "data" / "3.png", labels=table)[0].words.tolist() == ["7"]


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("images", "labels"), ("pixels", "labels"), ("x", "y"), ("x_train", "y_train"),
                                   ("arr_0", "arr_1"), ("train_images", "train_labels"), ("images", "y")])  # fmt: skip
def test_archives_by_the_names_that_people_use(tmp_path, names):
    array = pixels(3, 5, 6, 3)
    np.savez(tmp_path / "x.npz", **{names[0]: array, names[1]: np.array([2, 0, 1]), "x_test": array[:1]})
    read, _ = read_images(tmp_path / "x.npz")
    assert np.array_equal(read.pixels, array)
    assert read.words.tolist() == ["2", "0", "1"]
    assert read.names.tolist() == ["x-00000", "x-00001", "x-00002"]


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 5, 6, 1), (3, 5, 6, 2), (3, 5, 6, 4), (3, 1, 5, 6), (3, 4, 5, 6),
                                   (3, 3, 3, 3), (3, 2, 2, 4)])  # fmt: skip
def test_axes_of_arrays(tmp_path, shape):
    array = pixels(*shape)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", only=array)
    expected = array[..., None] if array.ndim == 3 else array if shape[3] <= 4 else np.moveaxis(array, 1, 3)
    for name in ("x.npy", "x.npz"):
        assert np.array_equal(read_images(tmp_path / name)[0].pixels, expected)


def test_classes_of_arrays(tmp_path):
    array = pixels(3, 5, 6)
    for beside, words in (
        ({}, ["", "", ""]),
        ({"labels": [2, 0, 1], "classes": ["a", "b", "c"]}, ["c", "a", "b"]),
        ({"labels": np.array([[2], [0], [1]], np.uint8), "words": np.array([b"a", b"b", b"c"])}, ["c", "a", "b"]),
        ({"labels": ["x", "y", ""]}, ["x", "y", ""]),
        ({"words": ["x", "y", "x"]}, ["x", "y", "x"]),
        ({"labels": ["x", "y", "x"], "classes": ["x", "y"]}, ["x", "y", "x"]),
    ):
        np.savez(tmp_path / "x.npz", images=array, **beside)
        assert read_images(tmp_path / "x.npz")[0].words.tolist() == words


# MNIST, CIFAR, digits -------------------------------------------------------------------------------------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("join", ["-", "."])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_the_format_of_mnist(tmp_path, join, packed):
    array, labels = pixels(4, 5, 6), np.array([7, 0, 9, 7], np.uint8)
    pack = gzip.compress if packed else bytes
    path = tmp_path / f"train-images{join}idx3-ubyte{packed}"
    path.write_bytes(pack(idx(array)))
    assert read_images(path)[0].words.tolist() == [""] * 4
    (tmp_path / f"train-labels{join}idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / f"t10k-labels{join}idx1-ubyte").write_bytes(idx(labels[:2]))
    read, _ = read_images(path)
    assert np.array_equal(read.pixels, array[..., None])
    assert read.words.tolist() == ["7", "0", "9", "7"]
    assert read.names[0] == "train-images-00000"


def test_cifar(tmp_path):
    array = pixels(3, 3, 32, 32)
    rows = b"".join(bytes([label]) + image.tobytes() for label, image in zip([9, 0, 4], array, strict=True))
    (tmp_path / "data_batch_1.bin").write_bytes(rows)
    read, _ = read_images(tmp_path / "data_batch_1.bin")
    assert np.array_equal(read.pixels, array.transpose(0, 2, 3, 1))
    assert read.words.tolist() == ["9", "0", "4"]
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert read_images(tmp_path / "data_batch_1.bin")[0].words.tolist() == ["truck", "airplane", "deer"]
    fine = b"".join(bytes([0, label]) + image.tobytes() for label, image in zip([99, 0, 40], array, strict=True))
    (tmp_path / "train.bin").write_bytes(fine)
    read, _ = read_images(tmp_path / "train.bin")
    assert np.array_equal(read.pixels, array.transpose(0, 2, 3, 1))
    assert read.words.tolist() == ["99", "0", "40"]
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"class {i}" for i in range(100)))
    assert read_images(tmp_path / "train.bin")[0].words.tolist() == ["class 99", "class 0", "class 40"]


def test_the_built_in_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    read, report = read_images(builtin("digits"))
    digits = load_digits()
    assert read.pixels.shape == (1797, 8, 8, 1)
    assert read.pixels.ravel().tolist() == [round(k * 255 / 16) for k in digits.images.ravel().tolist()]
    assert read.words.tolist() == [str(digit) for digit in digits.target]
    assert report.lines()[0].startswith("read 1,797 images from digits.csv.gz; 8 x 8 gray; values 0-255; 10 classes: ")


def test_the_files_of_uci_are_read_too(tmp_path):
    (tmp_path / "optdigits.tra").write_text("\n".join([",".join(["0", "16"] * 32 + ["7"]), ""]))
    read, _ = read_images(tmp_path / "optdigits.tra")
    assert read.pixels[0, :, :, 0].tolist() == [[0, 255] * 4] * 8
    assert read.words.tolist() == ["7"]


# Options --------------------------------------------------------------------------------------------------------------


def test_options_that_do_not_exist(tmp_path):
    for options, message in (
        ({"on_error": "warn"}, "`on_error` must be 'stop' or 'skip', got 'warn'"),
        ({"channels": "bgr"}, "`channels` must be one of gray, rgb, rgba, got 'bgr'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_images(tmp_path, **options)
    for size in (0, (4, 0), 10_000, (1, 1 << 27)):
        with pytest.raises(UserError, match="--resize wants a size of 1 to 67,108,864 pixels"):
            read_images(tmp_path, resize=size)
    with pytest.raises(UserError, match="no file of images given"):
        read_images([])


def test_pillow_is_told_which_decoders_it_may_use(tmp_path):
    """A file that is TIFF by its bytes is none, though Pillow could read it."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels(4, 4, 3)).save(file, "TIFF")
    with pytest.raises(ValueError, match="is no picture: not of PNG, JPEG, WEBP, BMP, GIF"):
        picture.decode(file.getvalue())
