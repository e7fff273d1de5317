"""Files: nothing half-written, nothing executed, every mistake one line that names the file."""

import errno
import hashlib
import io
import json
import os
import pickle
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gendiff.files import (
    UserError,
    atomic_write,
    cache_folder,
    check_target,
    ending,
    load_npz,
    new_folder,
    opened,
    read_json,
    read_text,
    sha256,
    write_json,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def content(folder):
    """All that lies under a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Atomic writes


@pytest.mark.parametrize(("mode", "value"), [("w", "ångström\n"), ("wb", b"\r\n\0")])
def test_a_whole_file_takes_the_place_of_the_old_one(tmp_path, mode, value):
    path = tmp_path / "new" / "folder" / "a.txt"
    for previous in (None, "old"):
        with atomic_write(path, mode) as file:
            file.write(value)
            assert path.exists() == (previous is not None)
    assert path.read_bytes() == (value if mode == "wb" else value.encode())
    assert content(tmp_path) == ["new", "new/folder", "new/folder/a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), FULL, UserError("bad record")])
@pytest.mark.parametrize("old", [True, False])
def test_a_failed_block_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "made" / "a.txt"
    if old:
        path.parent.mkdir()
        path.write_text("old")
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)) as caught, atomic_write(path) as file:
        file.write("half")
        file.flush()
        raise error
    assert not isinstance(error, OSError) or str(caught.value) == f"{path}: no space left on device"
    assert content(tmp_path) == (["made", "made/a.txt"] if old else [])
    if old:
        assert path.read_text() == "old"


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """The kernel's own full device stands in for the temporary file."""
    ghost = tmp_path / "ghost.part"

    def full(**options):
        ghost.touch()
        return os.open("/dev/full", os.O_WRONLY), str(ghost)

    monkeypatch.setattr(tempfile, "mkstemp", full)
    path = tmp_path / "deep" / "a.txt"
    with pytest.raises(UserError, match=rf"\A{path}: no space left on device\Z"), atomic_write(path) as file:
        file.write("x" * 100_000)
    assert content(tmp_path) == []


@pytest.mark.parametrize("write", [atomic_write, new_folder])
def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch, write):
    def denied(**options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    path = tmp_path / "deep" / "a"
    with pytest.raises(UserError, match=rf"\A{path}: permission denied\Z"), write(path):
        pass
    assert content(tmp_path) == []


@pytest.mark.parametrize("write", [atomic_write, new_folder])
def test_a_file_where_a_folder_should_be(tmp_path, write):
    (tmp_path / "a").write_text("file")
    path = tmp_path / "a" / "b"
    with pytest.raises(UserError, match=rf"\A{path}: (not a directory|file exists)\Z"), write(path):
        pass
    assert content(tmp_path) == ["a"]


def test_a_directory_in_the_way(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(UserError, match="is a directory"), atomic_write(tmp_path / "a"):
        pass
    assert content(tmp_path) == ["a", "a/b"]


def test_folders_made_stay_if_another_uses_them(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with pytest.raises(RuntimeError), atomic_write(path):
        (tmp_path / "deep" / "other").touch()
        raise RuntimeError
    assert content(tmp_path) == ["deep", "deep/other"]


def test_lines_end_the_same_everywhere(tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write("a\nb\n")
    assert (tmp_path / "a").read_bytes() == b"a\nb\n"


def test_a_target_is_checked_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.sdf").mkdir()
    good = tmp_path / "new" / "deep" / "a.SDF"
    assert check_target(str(good), [".sdf", ".xyz"]) == good
    for path, message in (
        (tmp_path / "a.txt", rf"{tmp_path}/a.txt: cannot write .txt; choose from .sdf, .xyz"),
        (tmp_path / "a", rf"{tmp_path}/a: cannot write a file without an ending; choose from .sdf, .xyz"),
        (tmp_path / "folder.sdf", rf"{tmp_path}/folder.sdf: is a directory; name a file"),
        (tmp_path / "file" / "a.sdf", rf"{tmp_path}/file: is a file, and {tmp_path}/file/a.sdf would lie in it"),
    ):
        with pytest.raises(UserError, match=rf"\A{message}\Z"):
            check_target(path, [".sdf", ".xyz"])
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(UserError, match=rf"\A{tmp_path}: permission denied; choose another place for a.SDF\Z"):
        check_target(good, [".sdf"])
    assert content(tmp_path) == ["file", "folder.sdf"]  # asking makes nothing


# Folders


def test_new_folder_appears_whole(tmp_path):
    path = tmp_path / "runs" / "mine"
    with new_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("1")
        assert not path.exists()
    assert content(tmp_path) == ["runs", "runs/mine", "runs/mine/sub", "runs/mine/sub/x"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), FULL, UserError("bad record")])
def test_a_failed_folder_leaves_nothing(tmp_path, error):
    path = tmp_path / "runs" / "mine"
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)), new_folder(path) as folder:
        (folder / "x").write_text("half")
        raise error
    assert content(tmp_path) == []


def test_an_existing_folder_is_refused_or_replaced_whole(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(UserError, match=rf"\A{path}: already exists"), new_folder(path):
        raise AssertionError("the block must not run")
    with pytest.raises(RuntimeError), new_folder(path, replace=True) as folder:
        (folder / "new").write_text("new")
        raise RuntimeError
    assert content(tmp_path) == ["mine", "mine/old"]
    with new_folder(path, replace=True) as folder:
        (folder / "new").write_text("new")
    assert content(tmp_path) == ["mine", "mine/new"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    with pytest.raises(UserError, match="already exists"), new_folder(path, replace=True):
        pass
    assert path.read_text() == "years of work"


# Reading


@pytest.mark.parametrize("read", [read_text, read_json, load_npz])
def test_what_cannot_be_read_is_one_line(tmp_path, read):
    empty, large = tmp_path / "empty", tmp_path / "large"
    empty.touch()
    large.write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "missing", "no such file"),
        (tmp_path, "is a directory"),
        (empty, "the file is empty"),
        (tmp_path / "pipe", "is not a regular file"),
        (large, "11 bytes, more than the limit of 10"),
    ):
        with pytest.raises(UserError, match=rf"\A{path}: {words}[^\n]*\Z"):
            read(path, max_bytes=10)


def test_no_permission_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("x")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(UserError, match="permission denied"):
        read_text(path)


def test_text_is_utf8(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfCO\xc3\xa9")
    assert read_text(path) == "COé"
    path.write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=rf"\A{path}: is not UTF-8 text \(byte 3\)\Z"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1,\n "b": }', ", line 2"),
        ("[" * 100_000, ""),
        ("1" * 5000, ""),
        ("{'a': 1}", ", line 1"),
        ("{", ", line 1"),
    ],
)
def test_bad_json_is_one_line(tmp_path, text, where):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"\A{path}{where}: is not valid JSON\Z"):
        read_json(path)


def test_json_round_trip_is_strict_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, float("nan")], "b": {"c": -float("inf"), 3: None}, "é": (True, "x")})
    expected = {"a": [1, 2.5, None], "b": {"c": None, "3": None}, "é": [True, "x"]}
    assert read_json(path) == expected

    def never(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=never) == expected
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == expected


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


# Archives


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_arrays_round_trip(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(6.0).reshape(2, 3), names=np.array(["a", "bé"]))
    arrays = load_npz(path)
    assert arrays["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["names"].tolist() == ["a", "bé"]


def test_pickles_are_never_loaded(tmp_path):
    path, victim = tmp_path / "a.npz", tmp_path / "victim"
    trap = np.empty(1, object)
    trap[0] = Trap(victim)
    np.savez(path, good=np.zeros(2), bad=trap)
    with pytest.raises(UserError, match=rf"\A{path}: holds pickled objects, which are never loaded\Z"):
        load_npz(path)
    path.write_bytes(pickle.dumps(Trap(victim)))
    with pytest.raises(UserError, match=rf"\A{path}: is not a readable .npz archive \(BadZipFile\)\Z"):
        load_npz(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())
    assert victim.exists()  # the trap was live


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(10_000_000, np.uint8))
    assert path.stat().st_size < 50_000
    with pytest.raises(UserError, match=rf"\A{path}: unpacks to 10,000,128 bytes, more than the limit of 1,000,000\Z"):
        load_npz(path, max_bytes=1_000_000)


def archive(path, name, data):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, data)


def npy(header):
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624,), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10,), }") + bytes(16),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        npy("__import__('os').system('touch victim')"),
        npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }"),
        b"\x93NUMPY\x01",
        b"just text",
    ],
    ids=["huge shape", "short data", "negative shape", "code", "type", "short header", "text"],
)
def test_a_hostile_member_is_one_line(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    archive(path, "x.npy", data)
    with pytest.raises(UserError, match=rf"\A{path}: [^\n]+\Z"):
        load_npz(path)
    assert content(tmp_path) == ["a.npz"]


def test_damaged_archives_are_one_line(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(1000))
    whole = buffer.getvalue()
    path = tmp_path / "a.npz"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    random = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    for data in (whole[: len(whole) // 2], whole[:-10], whole[100:], bytes(flipped), random, b"PK\x03\x04" + random):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"\A{path}: [^\n]+\Z"):
            load_npz(path)


# Endings and the cache


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.sdf", ".sdf"),
        ("A.SDF.GZ", ".sdf.gz"),
        ("my.data.sdf", ".sdf"),
        ("my.data.sdf.gz", ".sdf.gz"),
        ("folder.sdf/a", ""),
        (".hidden", ""),
        ("a.gz", ".gz"),
        ("a", ""),
    ],
)
def test_ending(tmp_path, name, expected):
    assert ending(name) == ending(tmp_path / name) == expected
    if expected:
        assert check_target(tmp_path / name, [expected]) == tmp_path / name
        with pytest.raises(UserError, match=f"cannot write {expected}; choose from .xyz"):
            check_target(tmp_path / name, [".xyz"])


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GENDIFF_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "gendiff"
    monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other"


def test_a_folder_stands_for_the_files_in_it_that_end_so(tmp_path):
    for name in ("b.sdf", "a.SDF.gz", "notes.md", ".hidden.sdf", "deep/er/c.mol", ".cache/d.sdf"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text("x")
    (tmp_path / "set" / "deep" / "circle").symlink_to(tmp_path / "set")
    alone, endings = tmp_path / "alone.xyz", (".sdf", ".sdf.gz", ".mol")
    found = opened([alone, str(tmp_path / "set")], endings)
    assert found == [alone, *(tmp_path / "set" / name for name in ("a.SDF.gz", "b.sdf", "deep/er/c.mol"))]
    assert opened(alone, endings) == [alone]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no file that ends in one of \.sdf \.mol$"):
        opened(tmp_path / "empty", endings)
