"""`gendiff data get` of public sets: from a publisher's server to files that every command takes by the set's name."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from loopback import serve

from gendiff import __version__, catalog, download
from gendiff.catalog import locate, manifest, resolve
from gendiff.cli import data as command
from gendiff.download import alone
from gendiff.files import UserError
from gendiff.modalities.images.prepare import LOADERS as IMAGES
from gendiff.modalities.molecules.prepare import LOADERS, qm9
from gendiff.modalities.molecules.read import read_molecules

HYDROGEN_FLUORIDE = (
    "2\ngdb {} 0. 1. 1. 1.8 5. -0.3 0.1 0.4 2. 9.*^-3 -100.1 -100. -100. -100.2 5.\n"
    "F 0. 0. 0. -0.1\nH 0. 0. 9.2*^-1 0.1\n4000.\nF\tF\nInChI\tInChI\n"
)


def tarball(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A QM9 of 50 molecules, 5 of them left out, and a table without a checksum, on a server of this machine."""
    for name, value in (("TOTAL", 50), ("UNCHARACTERIZED", 5), ("TRAIN", 36)):
        monkeypatch.setattr(qm9, name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    archive = tarball([(f"dsgdb9nsd_{i:06d}.xyz", HYDROGEN_FLUORIDE.format(i).encode()) for i in range(1, 51)])
    table = b"smiles,solubility\nCCO,1.1\nCCC,-1.3\n"
    with serve() as site:
        site.files = {
            "/1": archive, "/2": b"a list\n" + b"".join(b"%d C\n" % i for i in range(1, 6)), "/3": table,
        }  # fmt: skip
        common = {"title": "T", "licence": "CC-PROOF", "citation": "A. Author, 2014", "modality": "molecules"}
        sources = [
            {
                "file": "x.tar.bz2",
                "url": site.url + "/1",
                "size": len(archive),
                "md5": hashlib.md5(archive).hexdigest(),
            },
            {"file": "left.txt", "url": site.url + "/2"},
        ]
        sets = {
            "qm9": {**common, "loader": "qm9", "url": "https://publisher.example/qm9", "sources": sources},
            "table": {
                **common, "loader": "file", "url": "https://publisher.example/t",
                "sources": [{"file": "t.csv", "url": site.url + "/3"}],
            },
            "small-molecules": manifest()["small-molecules"],
        }  # fmt: skip
        monkeypatch.setattr(catalog, "manifest", lambda: sets)
        site.sets, site.cache = sets, tmp_path / "cache"
        yield site


def everything(folder):
    """Return the files below a folder, but for lock files, which are empty and stay."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def test_get_shows_fetches_prepares_and_describes(gendiff, publisher):
    result = gendiff("data", "get", "qm9")
    assert result.status == 0, result.err
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[1:3] == ["licence: CC-PROOF", "please cite: A. Author, 2014"]
    assert lines[3].startswith("source: https://publisher.example/qm9 (")
    assert "agrees with the publisher's md5" in lines[4]
    assert hashlib.sha256(publisher.files["/2"]).hexdigest() in lines[5]  # the publisher states none: shown, and kept
    assert lines[-3:] == [
        "  train: train.npz (36 molecules)", "  valid: valid.npz (5 molecules)", "  test: test.npz (4 molecules)",
    ]  # fmt: skip
    folder = publisher.cache / "data" / "qm9"
    assert everything(folder) == ["dataset.json", "test.npz", "train.npz", "valid.npz"]
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["sources"]["x.tar.bz2"]["sha256"] == hashlib.sha256(publisher.files["/1"]).hexdigest()
    assert facts["files"]["train.npz"]["sha256"] == hashlib.sha256((folder / "train.npz").read_bytes()).hexdigest()
    assert facts["records"] == {"train": 36, "valid": 5, "test": 4}
    assert (facts["name"], facts["licence"], facts["gendiff"]) == ("qm9", "CC-PROOF", __version__)


def test_the_second_get_verifies_and_asks_nobody(gendiff, publisher):
    gendiff("data", "get", "qm9")
    publisher.requests.clear()
    result = gendiff("data", "get", "qm9")
    assert result.status == 0
    assert "qm9 is here and in order: " in result.out
    assert publisher.requests == []


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_files_are_prepared_again_from_what_is_here(gendiff, publisher, damage):
    gendiff("data", "get", "qm9")
    path = publisher.cache / "data" / "qm9" / "valid.npz"
    good = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(good[:-1] + b"?")
    publisher.requests.clear()
    result = gendiff("data", "get", "qm9")
    assert result.status == 0
    assert "valid.npz: is damaged or gone; preparing the set again" in result.out
    assert path.read_bytes() == good
    assert publisher.requests == []


def test_a_broken_download_goes_on_with_the_same_command(gendiff, publisher):
    publisher.tricks = [("break", 300), *[503] * 9]
    first = gendiff("data", "get", "qm9")
    assert first.status == 1
    assert len(first.err.splitlines()) == 1
    assert "300 bytes stay in" in first.err
    assert everything(publisher.cache) == ["sources/qm9/x.tar.bz2.part", "sources/qm9/x.tar.bz2.part.json"]
    publisher.tricks, publisher.requests = [], []
    assert gendiff("data", "get", "qm9").status == 0
    assert publisher.requests[0] == ("/1", "bytes=300-", '"one"')
    assert len(locate("qm9")) == 1


def test_ctrl_c_says_what_is_kept(gendiff, publisher, monkeypatch):
    publisher.tricks = [("break", 300)]
    monkeypatch.setattr(download.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    result = gendiff("data", "get", "qm9")
    assert result.status == 130
    assert "x.tar.bz2: 300 bytes are kept; the same command goes on from there" in result.out
    assert result.err == "gendiff: error: interrupted\n"


def test_a_wrong_checksum_is_one_line_and_leaves_nothing(gendiff, publisher):
    publisher.tricks = [("corrupt",)]
    result = gendiff("data", "get", "qm9")
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    assert publisher.url + "/1: is not the file it should be: md5 expected " in result.err
    assert everything(publisher.cache) == []


def test_a_publisher_that_changes_its_mind_is_noticed(gendiff, publisher):
    """No checksum is stated: that of the first download is."""
    gendiff("data", "get", "table")
    for path in (publisher.cache / "sources" / "table" / "t.csv", publisher.cache / "data" / "table" / "t.csv"):
        path.unlink()
    publisher.files["/3"] = publisher.files["/3"].replace(b"1.1", b"1.2")
    result = gendiff("data", "get", "table")
    assert result.status == 1
    assert "sha256 expected" in result.err


def test_a_failed_preparation_leaves_no_half_set(gendiff, publisher):
    publisher.sets["qm9"]["sources"][0] |= {"size": None}
    bad = tarball([("dsgdb9nsd_000001.xyz", b"2\nnonsense\n")])
    publisher.files["/1"] = bad
    publisher.sets["qm9"]["sources"][0] = {"file": "x.tar.bz2", "url": publisher.url + "/1"}
    result = gendiff("data", "get", "qm9")
    assert result.status == 1
    assert "x.tar.bz2, dsgdb9nsd_000001.xyz: is not a record of QM9" in result.err
    assert not (publisher.cache / "data").exists()


def test_what_a_killed_process_left_is_swept(gendiff, publisher):
    left = publisher.cache / "data" / ".qm9.abc.part"
    left.mkdir(parents=True)
    (left / "train.npz").write_bytes(b"half")
    assert gendiff("data", "get", "qm9").status == 0
    assert [path.name for path in (publisher.cache / "data").iterdir()] == ["qm9"]


def test_two_gets_at_once(gendiff, publisher):
    with alone(publisher.cache / "sources" / "qm9" / ".lock"):
        result = gendiff("data", "get", "qm9")
    assert result.status == 1
    assert "another process is at work there" in result.err


def test_room_is_made_sure_of_before_the_first_byte(gendiff, publisher, monkeypatch):
    publisher.sets["qm9"]["disk"] = 10**18
    result = gendiff("data", "get", "qm9")
    assert result.status == 1
    assert "are needed; make room or choose another place" in result.err
    assert publisher.requests == []


def test_a_missing_library_is_noticed_before_the_first_byte(gendiff, publisher):
    publisher.sets["qm9"]["needs"] = "no_such_library"
    result = gendiff("data", "get", "qm9")
    assert result.status == 1
    assert "qm9 needs a library to be prepared; install it first: pip install no_such_library" in result.err
    assert publisher.requests == []


def test_names_of_sets_stand_for_files(gendiff, publisher, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="qm9 is not here yet; gendiff data get qm9 fetches it"):
        locate("qm9")
    gendiff("data", "get", "qm9")
    gendiff("data", "get", "table")
    folder = publisher.cache / "data"
    assert locate("qm9") == locate("qm9/train") == [folder / "qm9" / "train.npz"]
    assert locate("qm9/test") == [folder / "qm9" / "test.npz"]
    assert locate("table") == [folder / "table" / "t.csv"]
    assert locate("small-molecules") == [catalog.builtin("small-molecules")]
    with pytest.raises(UserError, match="qm9 has no part 'exam'; there are: train, valid, test"):
        locate("qm9/exam")
    with pytest.raises(UserError, match="small-molecules has no part 'test'; small-molecules alone is all of it"):
        locate("small-molecules/test")
    with pytest.raises(UserError, match="no data set 'qm99'; there are: qm9, table, small-molecules"):
        locate("qm99")
    monkeypatch.chdir(tmp_path)
    assert resolve(["a.sdf", "qm9/valid", "table"]) == [
        tmp_path.__class__("a.sdf"), folder / "qm9" / "valid.npz", folder / "table" / "t.csv",
    ]  # fmt: skip
    (folder / "qm9" / "train.npz").unlink()
    with pytest.raises(UserError, match=r"train\.npz: is gone; gendiff data get qm9 prepares it again"):
        locate("qm9")


def test_a_name_that_is_also_a_file_here_is_refused_and_either_can_be_said(gendiff, publisher, tmp_path, monkeypatch):
    """Else what a command learns from would change with the folder that it runs in."""
    gendiff("data", "get", "table")
    gendiff("data", "get", "qm9")
    sets, path = publisher.cache / "data", tmp_path.__class__
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table").write_text("a file of the user")
    (tmp_path / "qm9" / "test").mkdir(parents=True)
    (tmp_path / "qm9" / "mine.sdf").write_text("a file of the user")
    for word, here in (("table", "file"), ("qm9", "folder"), ("qm9/test", "folder")):
        with pytest.raises(UserError) as caught:
            resolve([word])
        assert str(caught.value) == f"{word}: is a data set, and a {here} here; write data:{word} or ./{word}"
    assert resolve(["data:table", "data:qm9", "data:qm9/test", "qm9/valid"]) == [
        sets / "table" / "t.csv", sets / "qm9" / "train.npz", sets / "qm9" / "test.npz", sets / "qm9" / "valid.npz",
    ]  # fmt: skip
    assert resolve(["./table", path("table"), "./qm9", "qm9/", "./qm9/test", tmp_path / "qm9", "qm9/mine.sdf"]) == [
        path("table"), path("table"), path("qm9"), path("qm9"), path("qm9/test"), tmp_path / "qm9", path("qm9/mine.sdf")
    ]  # fmt: skip
    assert resolve([path("small-molecules")]) == [path("small-molecules")]  # a Path is a path, there or not
    with pytest.raises(UserError, match="no data set 'qm99'"):
        resolve(["data:qm99"])


def test_a_folder_that_holds_the_very_set_may_have_its_name(gendiff, publisher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gendiff("data", "get", "qm9", "-o", "qm9")
    assert resolve(["qm9"]) == [tmp_path.__class__("qm9/train.npz")]
    gendiff("data", "get", "table", "-o", "small-molecules")
    with pytest.raises(UserError, match=r"write data:small-molecules or \./small-molecules"):
        resolve(["small-molecules"])
    assert resolve(["./small-molecules"]) == [tmp_path.__class__("small-molecules/t.csv")]


def test_training_on_a_name_that_is_also_a_folder_is_one_line(gendiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    result = gendiff("train", "images", "digits", "--out", "run")
    assert (result.status, result.out) == (1, "")
    assert result.err == ("gendiff: error: digits: is a data set, and a folder here; write data:digits or ./digits\n")
    assert [item.name for item in tmp_path.iterdir()] == ["digits"]


def test_list_and_info_know_what_is_here(gendiff, publisher):
    before = gendiff("data", "list").out.splitlines()
    size = download.human_size(len(publisher.files["/1"]))
    assert before[0].split()[:3] == ["qm9", "to", "fetch"]
    assert "unknown size" in before[0]
    assert "653 kB" in before[2]
    gendiff("data", "get", "qm9")
    assert gendiff("data", "list").out.splitlines()[0].split()[:2] == ["qm9", "here"]
    info = gendiff("data", "info", "qm9").out
    assert f"x.tar.bz2 ({size}, md5 " in info
    assert "left.txt (no checksum stated; that of the first download is kept)" in info
    assert "licence: CC-PROOF" in info
    assert "train: train.npz (36 molecules); valid: valid.npz (5 molecules)" in info
    assert "size: 653 kB (652,932 bytes)" in gendiff("data", "info", "small-molecules").out


def test_a_folder_or_a_file_of_the_user(gendiff, publisher, tmp_path):
    result = gendiff("data", "get", "qm9", "-o", tmp_path / "mine")
    assert result.status == 0, result.err
    assert everything(tmp_path / "mine") == ["dataset.json", "test.npz", "train.npz", "valid.npz"]
    assert "in order" in gendiff("data", "get", "qm9", "-o", tmp_path / "mine").out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    result = gendiff("data", "get", "qm9", "-o", tmp_path / "other")
    assert result.status == 1
    assert "is there and is not a data set of gendiff; choose another name" in result.err
    assert everything(tmp_path / "other") == ["thesis.tex"]

    result = gendiff("data", "get", "qm9", "-o", tmp_path / "all.xyz")
    assert result.status == 0, result.err
    assert "45 molecules: " in result.out
    assert (tmp_path / "all.xyz").read_text().count("F ") == 45
    assert gendiff("data", "get", "qm9", "-o", tmp_path / "all.npz").status == 0
    with np.load(tmp_path / "all.npz", allow_pickle=False) as arrays:
        assert arrays["num_atoms"].tolist() == [2] * 45
    result = gendiff("data", "get", "qm9", "-o", tmp_path / "all.docx")
    assert "cannot write .docx" in result.err


@pytest.mark.parametrize("suffix", [".csv", ".sdf", ".npz"])
def test_one_file_keeps_the_properties(gendiff, publisher, tmp_path, suffix):
    result = gendiff("data", "get", "table", "-o", tmp_path / f"all{suffix}")
    assert result.status == 0, result.err
    records, _ = read_molecules(tmp_path / f"all{suffix}")
    assert {name: values.tolist() for name, values in records.properties.items()} == {"solubility": [1.1, -1.3]}


def test_a_folder_of_another_set_is_refused(gendiff, publisher, tmp_path):
    gendiff("data", "get", "table", "-o", tmp_path / "mine")
    before = everything(tmp_path)
    result = gendiff("data", "get", "qm9", "-o", tmp_path / "mine")
    assert result.status == 1
    assert result.err.splitlines() == [
        f"gendiff: error: {tmp_path / 'mine'}: holds another data set, table; choose another name"
    ]
    assert everything(tmp_path) == before


@pytest.mark.parametrize("mine", [True, False])
def test_files_of_the_user_survive_a_damaged_set(gendiff, publisher, tmp_path, mine):
    folder = tmp_path / "mine" if mine else publisher.cache / "data" / "qm9"
    words = ("data", "get", "qm9", *(("-o", folder) if mine else ()))
    gendiff(*words)
    (folder / "thesis.tex").write_text("years of work")
    (folder / "valid.npz").write_bytes(b"?")
    result = gendiff(*words)
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    assert f"{folder / 'thesis.tex'}: is not of the data set and would be lost" in result.err
    (folder / "thesis.tex").rename(tmp_path / "thesis.tex")
    assert gendiff(*words).status == 0
    assert everything(folder) == ["dataset.json", "test.npz", "train.npz", "valid.npz"]


DAMAGED = ["[]", "{}", '{"parts": {}}', "{", '{"parts": []}', '{"parts": {"train": ["../../x"]}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_description_is_made_again(gendiff, publisher, tmp_path, text):
    gendiff("data", "get", "qm9")
    path = publisher.cache / "data" / "qm9" / "dataset.json"
    good = path.read_text()
    path.write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: is damaged; gendiff data get qm9 prepares the set again"):
        locate("qm9")
    assert gendiff("data", "list").out.splitlines()[0].split()[:3] == ["qm9", "to", "fetch"]
    assert gendiff("data", "info", "qm9").status == 0
    assert gendiff("data", "get", "qm9").status == 0
    assert path.read_text() == good
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset.json").write_text(text)
    result = gendiff("data", "get", "qm9", "-o", tmp_path / "mine")
    assert "is there and is not a data set of gendiff" in result.err


@pytest.mark.parametrize("damage", [{"parts": {"train": ["../x"]}}, {"records": []}, {"files": {"a": {}}}, {"name": 1}])
def test_one_wrong_entry_is_a_damaged_description(gendiff, publisher, damage):
    gendiff("data", "get", "qm9")
    path = publisher.cache / "data" / "qm9" / "dataset.json"
    assert catalog.prepared(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert catalog.prepared(path.parent) == {}


def test_a_prepared_folder_stands_for_its_training_part(gendiff, publisher, tmp_path):
    gendiff("data", "get", "qm9", "-o", tmp_path / "mine")
    assert resolve([tmp_path / "mine", f"{tmp_path}/mine/"]) == [tmp_path / "mine" / "train.npz"] * 2
    (tmp_path / "mine" / "dataset.json").write_text("[]")
    with pytest.raises(
        UserError, match=r"is damaged; move the folder away, and gendiff data get NAME -o .*mine prepares the set again"
    ):
        resolve([tmp_path / "mine"])


def test_large_sets_do_not_become_one_file(gendiff, publisher, tmp_path):
    gendiff("data", "get", "qm9")
    path = publisher.cache / "data" / "qm9" / "dataset.json"
    facts = json.loads(path.read_text())
    facts["parts"]["train"] *= 2
    path.write_text(json.dumps(facts))
    result = gendiff("data", "get", "qm9", "-o", tmp_path / "all.xyz")
    assert result.status == 1
    assert "qm9 is too large for one file; its files are in" in result.err


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("GENDIFF_CACHE", "~/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("GENDIFF_CACHE")
    assert catalog.cache_folder() == tmp_path / ".cache" / "gendiff"


PUBLIC = {name: entry for name, entry in manifest().items() if "sources" in entry}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_manifest_is_whole(name):
    entry = PUBLIC[name]
    assert {"title", "licence", "citation", "url", "modality", "loader", "description"} <= entry.keys()
    assert entry["loader"] in {"file", *LOADERS, *IMAGES}
    files = [item["file"] for item in entry["sources"]]
    assert len(set(files)) == len(files)
    for item in entry["sources"]:
        source = command._source(item)  # which refuses http without a checksum
        assert "/" not in item["file"]
        assert source.size or not source.checksums
        assert item.keys() <= {"file", "url", "size", "md5", "sha1", "sha256"}


def test_the_sets_that_people_ask_for_are_there():
    assert {"qm9", "geom-drugs", "geom-qm9", "pcqm4mv2"} <= PUBLIC.keys()
