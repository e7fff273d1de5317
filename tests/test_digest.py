"""What examples are known by: the content of a file, or of all files of a folder."""

import hashlib
import subprocess

from gendiff.model.digest import digest


def test_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_of_a_folder_is_that_of_what_sha256sum_prints(tmp_path):
    for name in ("b/2.png", "b/10.png", "a.png", "c/d/e.png", "B.png", "b-1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert digest(tmp_path) == printed.split()[0]


def test_hidden_files_do_not_count_and_renaming_does(tmp_path):
    (tmp_path / "a.png").write_text("a")
    before = digest(tmp_path)
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "b.png").write_text("b")
    assert digest(tmp_path) == before
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert digest(tmp_path) != before


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "real" / "cats").mkdir(parents=True)
    (tmp_path / "real" / "cats" / "1.png").write_text("1")
    plain = digest(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "cats").symlink_to(tmp_path / "real" / "cats")
    assert digest(tmp_path / "linked") == plain
    (tmp_path / "linked" / "around").symlink_to(tmp_path / "linked")
    assert digest(tmp_path / "linked") == plain
