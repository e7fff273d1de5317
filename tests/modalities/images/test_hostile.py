"""Files that are broken or mean harm: one clear line that names the file, and the rest can be kept."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gendiff.files import UserError
from gendiff.modalities.images import read
from gendiff.modalities.images.read import digits, idx, read_images

HINT = "; leave such files out with --on-error skip"


def encode(array, form, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
GOOD = {form: encode(NOISE, form) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF")}


def head(width, height, depth=8, color=0):
    """A PNG that claims to be so large, and holds next to nothing."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def animation(form):
    frames = [PIL.Image.fromarray(NOISE), PIL.Image.fromarray(255 - NOISE)]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


def other(mode, form):
    file = io.BytesIO()
    PIL.Image.new(mode, (4, 4)).save(file, form)
    return file.getvalue()


PICTURES = {
    "half a PNG": (GOOD["PNG"][: len(GOOD["PNG"]) // 2], "is damaged: "),
    "half a JPEG": (GOOD["JPEG"][:-100], "is damaged: image file is truncated"),
    "half a WebP": (GOOD["WEBP"][: len(GOOD["WEBP"]) // 2], "is damaged: "),
    "half a BMP": (GOOD["BMP"][: len(GOOD["BMP"]) // 2], "is damaged: image file is truncated"),
    "half a GIF": (GOOD["GIF"][:-100], "is damaged: image file is truncated"),
    "changed bytes": (GOOD["PNG"][:60] + b"\0\0\0\0" + GOOD["PNG"][64:], "is damaged: "),
    "text": (b"hello\n" * 50, "is no picture: not of PNG, JPEG, WEBP, BMP, GIF"),
    "HTML": (b"<html><body>404 Not Found</body></html>", "is no picture"),
    "an empty file": (b"", "the file is empty"),
    "one byte": (b"\x89", "is no picture"),
    "a TIFF": (other("RGB", "TIFF"), "is no picture"),
    "a program": (b"\x7fELF" + bytes(range(256)), "is no picture"),
    "a bomb": (head(60_000, 60_000), "too many pixels: over 67,108,864"),
    "a smaller bomb": (head(8_193, 8_192), "too many pixels: 8,193 x 8,192, over 67,108,864"),
    "a long bomb": (head(1, 1 << 30), "too many pixels"),
    "no pixels": (head(0, 5), "is no picture"),
    "less than it claims": (head(8_000, 8_000), "is damaged: image file is truncated"),
    "an animated GIF": (animation("GIF"), "is an animation: only single pictures are read"),
    "an animated PNG": (animation("PNG"), "is an animation"),
    "an animated WebP": (animation("WEBP"), "is an animation"),
    "CMYK": (other("CMYK", "JPEG"), "is no picture of 8 bits in gray or RGB: CMYK; --channels rgb or gray converts it"),
    "16 bits": (other("I;16", "PNG"), "is no picture of 8 bits in gray or RGB: 16 bits; --channels rgb or gray"),
    "16 bits of RGB": (head(1, 1, 16, 2), "is no picture of 8 bits in gray or RGB: 16 bits"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_bad_picture_is_named_or_left_out_and_counted(tmp_path, name):
    content, reason = PICTURES[name]
    (tmp_path / "cat").mkdir()
    bad = tmp_path / "cat" / "2.png"
    bad.write_bytes(content)
    for path in (bad, tmp_path):
        with pytest.raises(UserError) as error:
            read_images(path)
        line = str(error.value)
        assert line.startswith(f"{bad}: {reason}")
        assert line.endswith(HINT)
        assert "\n" not in line
    with pytest.raises(UserError, match=r"no usable image in 1 files: ") as error:
        read_images(tmp_path, "skip")
    for good in ("1.png", "3.png"):
        (tmp_path / "cat" / good).write_bytes(GOOD["PNG"])
    arrays, report = read_images(tmp_path, "skip")
    assert arrays.names.tolist() == ["cat/1.png", "cat/3.png"]
    assert np.array_equal(arrays.pixels, [NOISE, NOISE])
    kind = reason.partition(":")[0]
    assert report.skipped == {kind: 1}
    assert report.lines()[1].startswith(f"left out 1 of 3 records: {kind} 1 (first: 2.png")
    assert (report.files[0]["records"], report.files[0]["kept"]) == (3, 2)


@pytest.mark.parametrize("form", GOOD)
def test_a_file_cut_anywhere_is_refused(tmp_path, form):
    content = GOOD[form]
    assert read_images(_write(tmp_path / "x.png", content))[0].size == (12, 10)
    for length in range(1, len(content) - 30, max(1, len(content) // 40)):
        with pytest.raises(UserError, match=r"x\.png: (is damaged|is no picture): "):
            read_images(_write(tmp_path / "x.png", content[:length]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 10_000), st.binary(min_size=1, max_size=6))
def test_changed_bytes_give_a_picture_or_one_line(tmp_path, form, place, change):
    content = bytearray(GOOD[form])
    place %= len(content)
    content[place : place + len(change)] = change
    line = ""
    try:
        read_images(_write(tmp_path / "x.png", bytes(content)))
    except UserError as error:
        line = str(error)
    assert not line or (line.startswith(f"{tmp_path / 'x.png'}: ") and "\n" not in line)


def test_a_folder_named_like_a_picture_and_links_in_circles(tmp_path):
    _write(tmp_path / "1.png", GOOD["PNG"])
    (tmp_path / "2.png").mkdir()
    with pytest.raises(UserError, match=r"2\.png: has no pictures \(\.png "):
        read_images(tmp_path / "2.png")
    _write(tmp_path / "2.png" / "a.bin", b"x")
    with pytest.raises(UserError, match=r"gif\); it has other files \(1 \.bin\): name those to read themselves"):
        read_images(tmp_path / "2.png")
    with pytest.raises(UserError, match=r"2\.png: a folder without pictures; leave"):
        read_images(tmp_path)
    os.symlink(tmp_path / "3.png", tmp_path / "3.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "4.png")
    os.symlink(tmp_path, tmp_path / "me")
    os.symlink("..", tmp_path / "up")
    arrays, report = read_images(tmp_path, "skip")
    assert arrays.names.tolist() == ["1.png"]
    assert report.skipped == {"no such file": 2, "a folder without pictures": 1, "a link to a folder around it": 2}
    with pytest.raises(UserError, match=r"3\.png: no such file"):
        read_images(tmp_path / "3.png")


def test_folders_in_folders_of_classes_are_not_passed_over_in_silence(tmp_path):
    for name in ("train/cat", "train/dog", "test"):
        (tmp_path / name).mkdir(parents=True)
    _write(tmp_path / "train" / "cat" / "1.png", GOOD["PNG"])
    _write(tmp_path / "test" / "2.png", GOOD["PNG"])
    message = r"train/cat: a folder in a folder of a class: name the folder of classes itself"
    with pytest.raises(UserError, match=message):
        read_images(tmp_path)
    arrays, report = read_images(tmp_path, "skip")
    assert arrays.names.tolist() == ["test/2.png"]
    assert report.skipped == {"a folder in a folder of a class": 1}
    (tmp_path / "test" / "2.png").unlink()
    with pytest.raises(UserError, match=rf"{tmp_path.name}: has no pictures .*{message.replace(': a', ' is a')}"):
        read_images(tmp_path)


def test_a_picture_that_may_not_be_read(tmp_path, monkeypatch):
    _write(tmp_path / "1.png", GOOD["PNG"])
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs tests in containers, may read everything
    with pytest.raises(UserError, match=r"1\.png: permission denied"):
        read_images(tmp_path)


def test_a_class_with_a_long_name(tmp_path):
    (tmp_path / ("x" * 101)).mkdir()
    _write(tmp_path / ("x" * 101) / "1.png", GOOD["PNG"])
    with pytest.raises(UserError, match="the class is too long: over 100 characters"):
        read_images(tmp_path)


def test_a_picture_too_long_and_narrow_to_resize(tmp_path):
    path = _write(tmp_path / "x.png", encode(np.zeros((40_000, 1), np.uint8), "PNG"))
    with pytest.raises(UserError, match=r"x\.png: too long and narrow to resize: 1 x 40,000"):
        read_images(path, resize=64)


def test_images_that_differ_are_both_named_with_a_remedy(tmp_path):
    for name, shape in (("a", (6, 8, 3)), ("b", (6, 8, 3)), ("c", (6, 8)), ("d", (5, 8, 3)), ("e", (6, 8, 4))):
        _write(tmp_path / f"{name}.png", encode(np.zeros(shape, np.uint8), "PNG"))
    a = tmp_path / "a.png"
    rest = ", or leave the rarer kind out with --on-error skip"
    for name, what, remedy in (
        ("c", "8 x 6 gray", "--channels rgb"),
        ("d", "8 x 5 RGB", "--resize 5"),
        ("e", "8 x 6 RGB with alpha", "--channels rgba"),
    ):
        with pytest.raises(UserError) as error:
            read_images([a, tmp_path / f"{name}.png"])
        path = tmp_path / f"{name}.png"
        assert str(error.value) == f"{path}: is {what}, and {a} is 8 x 6 RGB; make all alike with {remedy}{rest}"
    arrays, report = read_images(tmp_path, "skip")
    assert arrays.names.tolist() == ["a.png", "b.png"]
    kind = "is not of the most frequent size and channels"
    assert report.lines()[1] == f"left out 3 of 5 records: {kind} 3 (first: c.png: 8 x 6 gray)"
    arrays, report = read_images(tmp_path, resize=5, channels="rgb")
    assert arrays.pixels.shape == (5, 5, 5, 3)


def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        _write(tmp_path / f"{name}.png", GOOD["PNG"])
    monkeypatch.setattr(read, "_memory", lambda: 2 * NOISE.size)
    assert len(read_images([tmp_path / "a.png", tmp_path / "b.png"])[0]) == 2
    with pytest.raises(UserError, match=r"c\.png: here the images fill the memory; read fewer, or make them smaller"):
        read_images(tmp_path)


# Tables ---------------------------------------------------------------------------------------------------------------

TABLES = {
    "an unknown file": ("file,label\n1.png,a\n2.png,b\n3.png,c\n", "a row of no picture: line 4, '3.png' is none of"),
    "a missing file": ("file,label\n1.png,a\n", r"2.png: has no class: labels.csv does not name it"),
    "a file twice": ("file,label\n1.png,a\n2.png,b\n./1.png,c\n", "a file comes twice: line 4, './1.png'"),
    "a way out": ("file,label\n1.png,a\n2.png,b\n../../etc/passwd,c\n", "line 4, '../../etc/passwd' is none of"),
    "an absolute name": ("file,label\n1.png,a\n2.png,b\n/etc/passwd,c\n", "line 4, '/etc/passwd' is none of"),
    "a short row": ("file,label\n1.png,a\n2.png,b\n9.png\n", "a row of another length: line 4 has 1 of 2 cells"),
    "a long class": (f"file,label\n1.png,a\n2.png,b\n9.png,{'x' * 101}\n", "the class is too long: line 4, over 100"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_bad_table_of_classes(tmp_path, name):
    text, reason = TABLES[name]
    for file in ("1.png", "2.png"):
        _write(tmp_path / "data" / file, GOOD["PNG"])
    table = _write(tmp_path / "labels.csv", text.encode())
    with pytest.raises(UserError) as error:
        read_images(tmp_path / "data", labels=table)
    assert reason in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "data" / "2.png" if name == "a missing file" else table))
    arrays, report = read_images(tmp_path / "data", "skip", labels=table)
    assert arrays.words.tolist() == (["a"] if name == "a missing file" else ["a", "b"])
    assert report.skipped.total() == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff\xfe1.png", "is not UTF-8 text"),
        (b"1.png,cat\n", "the first line must name a column file and a column label, not 1.png, cat"),
        (b"\n", "the first line must name a column file and a column label, not nothing"),
        (b'file,label\n"1.png,cat\n', "line 2: is no table of commas"),
        (b'file,label\n"' + b"x" * 200_000 + b'",cat\n', "line 2: is no table of commas"),
    ],
)
def test_a_file_that_is_no_table_of_classes(tmp_path, content, message):
    _write(tmp_path / "1.png", GOOD["PNG"])
    table = _write(tmp_path / "labels.csv", content)
    for on_error in ("stop", "skip"):
        with pytest.raises(UserError) as error:
            read_images(tmp_path / "1.png", on_error, labels=table)
        assert str(error.value).startswith(str(table))
        assert message in str(error.value)


def test_a_table_is_for_pictures(tmp_path):
    np.savez(tmp_path / "x.npz", images=NOISE[None])
    with pytest.raises(UserError, match=r"l\.csv: gives classes to pictures; files of many images bring their own"):
        read_images(tmp_path / "x.npz", labels=tmp_path / "l.csv")


# Files of many --------------------------------------------------------------------------------------------------------


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape, descr="|u1"):
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


MARK = "gendiff-was-here"


class Bomb:
    def __reduce__(self):
        return os.mkdir, (MARK,)


IMAGES = np.zeros((2, 5, 6), np.uint8)
TEXT = np.array(["a", "b"])
OBJECTS = np.array([Bomb(), Bomb()], object)
ARRAYS = {
    "floats": (npz(images=IMAGES / 255.0), "'images': holds float64; images are bytes (uint8) from 0 to 255; of"),
    "NaN": (npz(images=IMAGES * np.nan), "holds float64"),
    "integers": (npz(images=IMAGES.astype(int)), "holds int64; images are bytes (uint8) from 0 to 255; if they lie"),
    "truth": (npz(images=IMAGES > 0), "holds bool; images are bytes (uint8) from 0 to 255; of black and white"),
    "text": (npz(images=TEXT), "holds <U1; images are bytes"),
    "objects": (archive(images=npy(OBJECTS)), "holds pickled objects, which are never loaded"),
    "objects as classes": (archive(images=npy(IMAGES), labels=npy(OBJECTS)), "holds pickled objects"),
    "a huge header": (archive(images=header((10**6, 10**4, 10**4))), "x.npz: "),
    "no images": (npz(data=IMAGES, more=IMAGES), "has no array of images, named images, pixels, x, x_train"),
    "nothing": (npz(), "has no array of images"),
    "no member": (archive(images=b"\x93NUMPY"), "x.npz: "),
    "one image": (npz(images=NOISE), "has shape (12, 10, 3); images are (M, H, W), (M, H, W, C) or (M, C, H, W); make"),
    "a row": (npz(images=IMAGES.reshape(2, 30)), "has shape (2, 30); images are"),
    "five axes": (npz(images=IMAGES[None, None]), "has shape (1, 1, 2, 5, 6)"),
    "many channels": (npz(images=np.zeros((2, 5, 6, 7), np.uint8)), "has shape (2, 5, 6, 7)"),
    "none": (npz(images=IMAGES[:0]), "has shape (0, 5, 6)"),
    "other numbers": (npz(images=IMAGES, labels=[1, 2, 3]), "must be whole numbers or texts, one an image, (2,)"),
    "classes of floats": (npz(images=IMAGES, labels=[0.5, 1.5]), "not float64 of shape (2,)"),
    "a class too many": (npz(images=IMAGES, labels=[0, 2], classes=TEXT), "the places of their names, not 0 to 2"),
    "a negative class": (npz(images=IMAGES, labels=[0, -1], classes=TEXT), "not -1 to 0"),
    "names that are none": (npz(images=IMAGES, labels=[0, 1], classes=[1, 2]), "`classes` must be texts of shape (K,)"),
    "a long name": (npz(images=IMAGES, labels=["x" * 101, "a"]), "the name of a class has over 100 characters"),
    "half an archive": (npz(images=IMAGES)[:200], "is not a readable .npz archive"),
    "no archive": (b"hello" * 20, "is not a readable .npz archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_a_bad_archive_is_one_line_and_may_be_left_out(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, reason = ARRAYS[name]
    path = _write(tmp_path / "x.npz", content)
    with pytest.raises(UserError) as error:
        read_images(path)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    np.savez(tmp_path / "good.npz", images=IMAGES)
    arrays, report = read_images([path, tmp_path / "good.npz"], "skip")
    assert arrays.names.tolist() == ["good-00000", "good-00001"]
    assert report.skipped == {"a file of many images": 1}
    assert report.lines()[1].startswith("left out 1 of 3 records: a file of many images 1 (first: x.npz: ")
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.array([Bomb()], object)), "holds pickled objects, which are never loaded"),
        (header((10**9, 10**3, 10**3)), "is not a readable .npy array"),
        (header((2, 5, 6)) + bytes(59), "is not a readable .npy array"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "is not a readable .npy array"),
        (pickle.dumps(IMAGES), "holds pickled objects, which are never loaded"),
        (npy(IMAGES.astype(np.float32)), "holds float32; images are bytes"),
    ],
)
def test_a_bad_array_is_one_line(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read_images(_write(tmp_path / "x.npy", content))
    assert str(error.value).startswith(f"{tmp_path / 'x.npy'}: {reason}")
    assert not (tmp_path / MARK).exists()


def mnist(*shape, kind=8, axes=None, data=None):
    size = int(np.prod(shape))
    head = bytes([0, 0, kind, len(shape) if axes is None else axes]) + struct.pack(f">{len(shape)}I", *shape)
    return head + (bytes(size) if data is None else data)


IDX = {
    "the wrong magic": (b"\1" + mnist(2, 3, 3)[1:], "in the format of MNIST; its first bytes are 01000803"),
    "floats": (mnist(2, 3, 3, kind=0x0D), "its first bytes are 00000d03"),
    "classes": (mnist(18), "its first bytes are 00000801"),
    "a picture": (GOOD["PNG"], "its first bytes are 89504e47"),
    "no header": (mnist(2, 3, 3)[:10], "ends inside of its header"),
    "one byte": (b"\0", "its first bytes are 00"),
    "too few": (mnist(2, 3, 3)[:-1], "must hold 18 bytes of values and has only 17"),
    "too many": (mnist(2, 3, 3) + b"\0", "must hold 18 bytes of values and has more"),
    "none": (mnist(0, 28, 28), "claims to hold 0 x 28 x 28 bytes, which is none or too many"),
    "a huge claim": (mnist(1 << 31, 1 << 12, 1 << 12, data=b""), "which is none or too many"),
    "a huge image": (mnist(1, 1 << 14, 1 << 13, data=b""), "which is none or too many"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", IDX)
def test_a_bad_file_of_mnist(tmp_path, name, packed):
    content, reason = IDX[name]
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' * packed}"
    _write(path, gzip.compress(content) if packed else content)
    with pytest.raises(UserError) as error:
        read_images(path)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)


def test_classes_of_mnist_that_do_not_fit(tmp_path):
    path = _write(tmp_path / "t-images-idx3-ubyte", mnist(2, 3, 3))
    labels = _write(tmp_path / "t-labels-idx1-ubyte", mnist(3))
    with pytest.raises(UserError, match=r"t-labels-idx1-ubyte: has 3 classes, and t-images-idx3-ubyte 2 images"):
        read_images(path)
    _write(labels, mnist(2, 1, 1))
    with pytest.raises(UserError, match="t-labels-idx1-ubyte: is no file of classes in the format of MNIST"):
        read_images(path)
    with pytest.raises(UserError, match="t-labels-idx1-ubyte: holds classes; name the file of the images, which finds"):
        read_images(labels)


def test_gzip_that_is_damaged_or_a_bomb(tmp_path, monkeypatch):
    path = tmp_path / "t-images-idx3-ubyte.gz"
    good = gzip.compress(mnist(50, 28, 28, data=os.urandom(50 * 28 * 28)))
    for content in (good[:-30], good[:200] + b"\xff\xff\xff" + good[203:], mnist(2, 3, 3)):
        with pytest.raises(UserError, match=r"idx3-ubyte\.gz: the gzip file is damaged"):
            read_images(_write(path, content))
    _write(path, gzip.compress(mnist(2, 3, 3) + bytes(50 << 20), 9))
    with pytest.raises(UserError, match="must hold 18 bytes of values and has more"):  # the rest is not unpacked
        read_images(path)
    monkeypatch.setattr(idx, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="claims to hold 20 x 28 x 28 bytes, which is none or too many"):
        read_images(_write(path, gzip.compress(mnist(20, 28, 28), 9)))


def test_files_of_cifar_that_are_none(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    row = bytes(3073)
    for content in (row[:-1], row + row[:2], b"\x0a" + row[1:], b"\0\x64" + row[1:]):
        with pytest.raises(UserError, match=r"data_batch_1\.bin: is no whole file of CIFAR's binary version, rows of"):
            read_images(_write(path, content))
    _write(path, row)
    _write(tmp_path / "batches.meta.txt", b"cat\ndog\n")
    with pytest.raises(UserError, match=r"batches\.meta\.txt: must have a line for each of 10 classes, and has 2"):
        read_images(path)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta", "train", "cifar.pkl"])
def test_pickles_are_not_touched(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path / name, pickle.dumps({b"data": Bomb()}))
    with pytest.raises(UserError) as error:
        read_images(path)
    assert str(error.value) == (
        f"{path}: is a pickle, which is never loaded; take CIFAR's binary version, cifar-10-binary.tar.gz, or"
        " gendiff data get cifar10"
    )
    assert not (tmp_path / MARK).exists()


def test_tables_of_digits_that_are_none(tmp_path, monkeypatch):
    row = ",".join(["0"] * 65)
    first = [row.replace("0", cell, 1) for cell in ("17", "x", "-1", "1.5", "300", "")]
    for content in (*first, row[:-2], row[:-1] + "10", row + "\n1,2", "\n"):
        with pytest.raises(UserError, match=r"x\.csv: is no table of digits"):
            read_images(_write(tmp_path / "x.csv", content.encode()))
    with pytest.raises(UserError, match=r"x\.csv\.gz: cannot be read"):
        read_images(_write(tmp_path / "x.csv.gz", row.encode()))
    monkeypatch.setattr(digits, "MAX_TABLE", 1000)
    with pytest.raises(UserError, match=r"x\.csv\.gz: is larger than 1,000 bytes"):
        read_images(_write(tmp_path / "x.csv.gz", gzip.compress(bytes(1001))))


def test_other_files_and_none(tmp_path):
    for name, message in (
        ("x.tif", r"x\.tif: unknown extension '\.tif'; images are read from folders of \.png .*idx3-ubyte"),
        ("cifar-10-binary.tar.gz", "is an archive; unpack it, and name the folder or the files in it"),
        ("x.zip", "is an archive"),
    ):
        with pytest.raises(UserError, match=message):
            read_images(_write(tmp_path / name, b"x"))
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        read_images(tmp_path / "gone.png", "skip")


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
