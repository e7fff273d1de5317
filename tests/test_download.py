"""Downloads from a server that is slow, breaks off, lies or changes its mind; archives that want out."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import urllib.request

import pytest
from loopback import serve

from gendiff import download
from gendiff.download import ChecksumError, Source, alone, fetch, human_size, need_space, read_tar, unpacking, verify
from gendiff.files import UserError

BODY = random.Random(0).randbytes(300_000)
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as site:
        site.files["/data"] = BODY
        yield site


def get(site, path, checksums=None, size=None, **options):
    options = {"pause": 0.001, "timeout": 5, "attempts": 3, **options}
    return fetch(Source(site.url + "/data", size, {"md5": MD5} if checksums is None else checksums), path, **options)


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_a_file_comes_whole_and_is_verified(site, tmp_path):
    seen = []
    facts = get(site, tmp_path / "a", size=len(BODY), progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a").read_bytes() == BODY
    assert facts == json.loads((tmp_path / "a.json").read_text())
    assert {key: facts[key] for key in ("bytes", "sha256", "verified")} == {
        "bytes": len(BODY), "sha256": SHA256, "verified": ["md5"],
    }  # fmt: skip
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert names(tmp_path) == ["a", "a.json"]


def test_a_file_that_is_there_is_verified_and_not_fetched(site, tmp_path):
    first = get(site, tmp_path / "a")
    assert get(site, tmp_path / "a") == first
    assert len(site.requests) == 1


def test_a_file_that_was_put_there_by_hand_is_taken(site, tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    assert get(site, tmp_path / "a")["sha256"] == SHA256
    assert site.requests == []
    assert (tmp_path / "a.json").exists()


def test_a_file_damaged_on_the_disk_is_fetched_again(site, tmp_path):
    get(site, tmp_path / "a", checksums={})
    (tmp_path / "a").write_bytes(BODY[:-1] + b"?")
    assert get(site, tmp_path / "a", checksums={})["sha256"] == SHA256
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("checksums", [{}, {"md5": MD5}], ids=["no checksum", "md5"])
def test_a_broken_connection_is_resumed_and_nothing_comes_twice(site, tmp_path, checksums):
    site.tricks = [("break", 100_000), ("break", 50_000)]
    get(site, tmp_path / "a", checksums)
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.requests == [
        ("/data", None, None), ("/data", "bytes=100000-", '"one"'), ("/data", "bytes=150000-", '"one"'),
    ]  # fmt: skip
    assert site.sent == len(BODY)


def test_a_download_that_gives_up_is_resumed_by_the_next_command(site, tmp_path):
    site.tricks = [("break", 100_000), 503, 503, 503]
    with pytest.raises(UserError, match=r"answers 503 .*3 attempts.*100,000 bytes stay in .*a\.part.* goes on"):
        get(site, tmp_path / "a")
    assert names(tmp_path) == ["a.part", "a.part.json"]
    get(site, tmp_path / "a")
    assert site.requests[-1] == ("/data", "bytes=100000-", '"one"')
    assert names(tmp_path) == ["a", "a.json"]
    assert (tmp_path / "a").read_bytes() == BODY


def test_an_interrupt_leaves_the_part(site, tmp_path):
    def stop(done, total):
        if done > 150_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path / "a", progress=stop)
    arrived = (tmp_path / "a.part").stat().st_size
    assert arrived > 150_000
    get(site, tmp_path / "a")
    assert site.requests[-1][1] == f"bytes={arrived}-"
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_whole_part_is_verified_without_a_request(site, tmp_path):
    """Killed between the last byte and the renaming."""
    (tmp_path / "a.part").write_bytes(BODY)
    state = {"url": site.url + "/data", "total": len(BODY), "validator": '"one"'}
    (tmp_path / "a.part.json").write_text(json.dumps(state))
    get(site, tmp_path / "a")
    assert site.requests == []
    assert names(tmp_path) == ["a", "a.json"]


def test_a_silent_server_is_a_broken_connection(site, tmp_path):
    site.tricks = [("pause", 0.8)] * 2
    with pytest.raises(UserError, match=r"the server is silent \(2 attempts\)"):
        get(site, tmp_path / "a", attempts=2, timeout=0.25)
    site.tricks = [("pause", 0.8)]
    get(site, tmp_path / "a", timeout=0.25)
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_troubles_pass(site, tmp_path, status):
    site.tricks = [status, status]
    get(site, tmp_path / "a")
    assert len(site.requests) == 3


@pytest.mark.parametrize("status", [202, 204, 401, 403, 404, 410])
def test_refusals_are_final_and_say_how_else(site, tmp_path, status):
    """202 is what a wall against robots answers, with an empty body."""
    site.tricks = [status]
    with pytest.raises(UserError, match=rf"/data: the server answers {status} .* save it as .*a and repeat") as caught:
        get(site, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert len(site.requests) == 1
    assert names(tmp_path) == []


def test_attempts_count_only_without_progress(site, tmp_path):
    site.tricks = [("break", 30_000)] * 9
    get(site, tmp_path / "a", attempts=2)
    assert len(site.requests) == 10
    assert site.sent == len(BODY)


def test_pauses_double(site, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    site.tricks = [503] * 4
    get(site, tmp_path / "a", attempts=5, pause=1.0)
    assert pauses == [1, 2, 4, 8]


def test_a_server_that_cannot_resume_starts_over(site, tmp_path):
    site.ranges, site.tricks = False, [("break", 100_000)]
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.sent == len(BODY) + 100_000


def test_a_server_that_cannot_resume_and_breaks_off_is_given_up(site, tmp_path):
    site.ranges, site.tricks = False, [("break", 100_000)] * 9
    with pytest.raises(UserError, match="broke off after 100,000 bytes"):
        get(site, tmp_path / "a")
    assert len(site.requests) == 4


def test_a_changed_file_is_not_glued_to_the_old_one(site, tmp_path):
    site.tricks = [("break", 100_000), 403]
    with pytest.raises(UserError):
        get(site, tmp_path / "a", checksums={})
    other = BODY[::-1]
    site.files["/data"], site.etag = other, '"two"'
    assert get(site, tmp_path / "a", checksums={})["sha256"] == hashlib.sha256(other).hexdigest()
    assert site.requests[-1] == ("/data", "bytes=100000-", '"one"')


def test_a_server_that_ignores_if_range_is_found_out(site, tmp_path, monkeypatch):
    """It sends the rest of another file: the ETag of the answer tells."""
    site.tricks = [("break", 100_000)]
    with pytest.raises(UserError, match="broke off"):
        get(site, tmp_path / "a", checksums={}, attempts=0)
    site.files["/data"], site.etag = BODY[::-1], '"two"'
    asked = urllib.request.Request.__init__

    def without(self, url, *args, headers=None, **options):
        asked(self, url, *args, headers={k: v for k, v in (headers or {}).items() if k != "If-Range"}, **options)

    monkeypatch.setattr(urllib.request.Request, "__init__", without)
    get(site, tmp_path / "a", checksums={})
    assert [request[1] for request in site.requests] == [None, "bytes=100000-", None]
    assert (tmp_path / "a").read_bytes() == BODY[::-1]


def test_another_piece_than_asked_for_is_not_joined(site, tmp_path):
    site.tricks = [("break", 100_000), ("shift", 7)]
    get(site, tmp_path / "a")
    assert [request[1] for request in site.requests] == [None, "bytes=100000-", None]
    assert (tmp_path / "a").read_bytes() == BODY


def test_without_any_validator_pieces_are_joined_only_under_a_checksum(site, tmp_path):
    site.etag, site.tricks = None, [("break", 100_000)]
    get(site, tmp_path / "a", checksums={})
    assert [request[1] for request in site.requests] == [None, None]
    site.requests, site.tricks = [], [("break", 100_000)]
    get(site, tmp_path / "b")
    assert [request[1] for request in site.requests] == [None, "bytes=100000-"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == BODY


def test_a_part_of_another_address_is_not_used(site, tmp_path):
    (tmp_path / "a.part").write_bytes(b"?" * 1000)
    (tmp_path / "a.part.json").write_text('{"url": "https://elsewhere/x", "total": 9, "validator": "\\"one\\""}')
    get(site, tmp_path / "a")
    assert site.requests == [("/data", None, None)]


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    (tmp_path / "a.part").write_bytes(BODY + b"?")
    (tmp_path / "a.part.json").write_text(json.dumps({"url": site.url + "/data", "total": None, "validator": '"one"'}))
    get(site, tmp_path / "a")
    assert [request[1] for request in site.requests] == [f"bytes={len(BODY) + 1}-", None]
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_corrupted_bytes_are_deleted_and_named(site, tmp_path, algorithm):
    site.tricks = [("corrupt",)]
    right = hashlib.new(algorithm, BODY).hexdigest()
    wrong = bytearray(BODY)
    wrong[len(BODY) // 2] ^= 1
    got = hashlib.new(algorithm, wrong).hexdigest()
    with pytest.raises(ChecksumError, match=rf"/data: .* {algorithm} expected {right}, got {got}; it was deleted"):
        get(site, tmp_path / "a", {algorithm: right})
    assert names(tmp_path) == []
    assert get(site, tmp_path / "a", {algorithm: right})["verified"] == [algorithm]


def test_the_first_download_is_the_measure_of_the_next(site, tmp_path):
    """The publisher states no checksum; the file is deleted here, and another one comes."""
    get(site, tmp_path / "a", checksums={})
    (tmp_path / "a").unlink()
    site.files["/data"] = BODY[::-1]
    with pytest.raises(ChecksumError, match=rf"sha256 expected {SHA256}, as it was on \d{{4}}-.*delete .*a\.json"):
        get(site, tmp_path / "a", checksums={})
    (tmp_path / "a.json").unlink()
    get(site, tmp_path / "a", checksums={})
    assert (tmp_path / "a").read_bytes() == BODY[::-1]


def test_a_false_length_is_a_broken_connection(site, tmp_path):
    site.tricks = [("length", len(BODY) + 5)] * 9
    with pytest.raises(UserError, match="the server has nothing after 300,000 bytes"):
        get(site, tmp_path / "a", attempts=1)


def test_a_length_that_is_too_short_is_found_by_the_checksum(site, tmp_path):
    site.tricks = [("length", 1000)]
    with pytest.raises(UserError, match="md5 expected"):
        get(site, tmp_path / "a")


def test_another_size_than_the_manifest_says_is_refused_before_the_body(site, tmp_path):
    with pytest.raises(
        UserError, match="offers 300,000 bytes and should have 299,999; the publisher's file has changed"
    ):
        get(site, tmp_path / "a", size=len(BODY) - 1)
    assert names(tmp_path) == []


def test_chunks_without_a_length(site, tmp_path, monkeypatch):
    site.tricks = [("chunked-break", 1000), ("chunked",)]
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    site.tricks = [("chunked",)]
    with pytest.raises(UserError, match="sends more than 1,000 bytes"):
        get(site, tmp_path / "b")


def test_a_redirect_is_followed_with_the_range(site, tmp_path):
    site.files["/other"] = BODY
    site.tricks = [("redirect", "/other"), ("break", 100_000), ("redirect", "/other")]
    get(site, tmp_path / "a")
    assert site.requests == [
        ("/data", None, None), ("/other", None, None), ("/data", "bytes=100000-", '"one"'),
        ("/other", "bytes=100000-", '"one"'),
    ]  # fmt: skip
    assert (tmp_path / "a").read_bytes() == BODY


def test_redirects_in_a_circle_end(site, tmp_path):
    site.tricks = [("redirect", "/data")] * 50
    with pytest.raises(UserError, match="answers a redirect that leads nowhere") as caught:
        get(site, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert len(site.requests) < 20


@pytest.mark.parametrize("url", ["http://example.invalid/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_redirects_out_of_https_are_refused(site, tmp_path, url):
    site.tricks = [("redirect", url)]
    with pytest.raises(UserError, match=r"redirects to .*(needs a checksum|by https)|a redirect that leads nowhere"):
        get(site, tmp_path / "a", checksums={})
    assert names(tmp_path) == []


@pytest.mark.parametrize("checked", [True, False])
def test_https_never_becomes_http(checked):
    request = urllib.request.Request("https://publisher.example/a")
    with pytest.raises(UserError, match="from https to http is not followed"):
        download._Redirects(checked).redirect_request(request, None, 302, "", {}, "http://127.0.0.1/a")
    follow = download._Redirects(checked).redirect_request(request, None, 302, "", {}, "https://mirror.example/a")
    assert follow.full_url == "https://mirror.example/a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("http://example.org/a",), "by http needs a checksum"),
        (("ftp://example.org/a",), "downloads are by https"),
        (("/etc/passwd",), "downloads are by https"),
        (("https://example.org/a", None, {"crc32": "00000000"}), "sha256, sha1 or md5"),
        (("https://example.org/a", None, {"md5": MD5[:-1]}), "sha256, sha1 or md5"),
        (("https://example.org/a", None, {"md5": MD5.upper()}), "lower-case"),
    ],
)
def test_sources_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Source(*arguments)
    assert Source("http://example.org/a", None, {"md5": MD5}).size is None


def test_a_full_disk_is_noticed_before_the_body(site, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)._replace(free=200_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="has 200 kB free and 300 kB are needed; make room"):
        get(site, tmp_path / "a")
    with pytest.raises(UserError, match=r"nowhere.*1\.0 GB are needed"):
        need_space(tmp_path / "nowhere" / "b", 10**9)


def test_no_network_is_one_line(tmp_path, site):
    url = site.url.rsplit(":", 1)[0] + ":9/data"  # the port of "discard", where nobody listens
    with pytest.raises(
        UserError, match=r"the connection failed \(Connection refused\) \(2 attempts\); .* save it as .*/a and repeat"
    ):
        fetch(Source(url), tmp_path / "a", attempts=2, pause=0.001)
    assert names(tmp_path) == []


def test_verify_knows_another_file(tmp_path):
    (tmp_path / "a").write_bytes(b"other")
    with pytest.raises(ChecksumError, match="size expected 300000, got 5"):
        verify(Source("https://example.org/a", len(BODY)), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_two_processes_do_not_write_one_file(tmp_path):
    with alone(tmp_path / "x" / ".lock"):
        with pytest.raises(UserError, match="another process is at work there"), alone(tmp_path / "x" / ".lock"):
            pass
    with alone(tmp_path / "x" / ".lock"):
        pass


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (86_144_227, "86.1 MB"), (999_499, "999 kB"),
        (999_600, "1.0 MB"), (42_687_717_910, "42.7 GB"), (4.2e12, "4200 GB"),
    ],
)  # fmt: skip
def test_sizes_have_units(size, text):
    assert human_size(size) == text


# Archives


def archive(path, members, mode="w:bz2"):
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content[0], "/etc/passwd"
                tar.addfile(member)
    return path


def read(path, max_members=20, max_bytes=1000):
    with unpacking(path):
        return [(name, stream.read()) for name, stream in read_tar(path, max_members, max_bytes)]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_read_in_its_order(tmp_path, mode):
    members = [("b/", [tarfile.DIRTYPE]), ("b/one", b"1" * 1000), ("a", b""), ("./c", b"3")]
    assert read(archive(tmp_path / "x", members, mode)) == [(n, c) for n, c in members if isinstance(c, bytes)]
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("/etc/cron.d/x", b"x")], "leads out of the archive"),
        ([("a/../../x", b"x")], "leads out of the archive"),
        ([("..\\x", b"x")], "leads out of the archive"),
        ([("x", [tarfile.SYMTYPE])], "link or a device"),
        ([("x", [tarfile.LNKTYPE])], "link or a device"),
        ([("x", [tarfile.FIFOTYPE])], "link or a device"),
        ([("x", [tarfile.CHRTYPE])], "link or a device"),
        ([("x", b"x" * 1001)], "has 1,001 bytes, more than 1,000"),
        ([(str(i), b"") for i in range(21)], "more than 20 entries"),
    ],
)
def test_hostile_archives_are_refused(tmp_path, members, message):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "x", members))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("field", ["name", "linkname"])
def test_names_of_megabytes_are_refused_unread(tmp_path, form, field):
    """They would be read into memory whole: a small archive becomes gigabytes."""
    with tarfile.open(tmp_path / "x", "w:gz", format=form) as tar:
        member = tarfile.TarInfo("a")
        setattr(member, field, "a" * (download.MAX_HEADER + 1))
        tar.addfile(member)
    with pytest.raises(UserError, match=r"has a header of 1,0\d\d,\d{3} bytes, more than 1,048,576"):
        read(tmp_path / "x")


def test_long_names_are_read(tmp_path):
    members = [("a" * 3000, b"1")]
    assert read(archive(tmp_path / "x", members)) == members


def test_sparse_files_are_refused(tmp_path):
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "9"}
    with tarfile.open(tmp_path / "x", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("x")
        member.pax_headers, member.size = pax, 512
        tar.addfile(member, io.BytesIO(b"1\n0\n9\n".ljust(512, b"\0")))
    with pytest.raises(UserError, match="has a sparse file"):
        read(tmp_path / "x")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.85])
def test_damaged_archives_are_one_line(tmp_path, mode, cut):
    path = archive(tmp_path / "x", [(str(i), random.Random(i).randbytes(900)) for i in range(13)], mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with pytest.raises(UserError, match=r"x: is damaged or no archive \(.*\); delete it"):
        read(path)
    path.write_bytes(whole[:200] + bytes(100) + whole[300:])
    with pytest.raises(UserError, match="is damaged or no archive"):
        read(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_the_checksum_at_the_end_of_an_archive_counts(tmp_path, mode):
    path = archive(tmp_path / "x", [("a", b"1" * 900)], mode)
    whole = path.read_bytes()
    path.write_bytes(whole[:-6] + b"?" + whole[-5:])
    with pytest.raises(UserError, match="is damaged or no archive"):
        read(path)


def test_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone")
