"""Bad input: one line that names file and record, a status that is not 0, no traceback, and nothing left behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from rdkit import Chem

import examples
from gendiff import load

BAD = 3
"""The record of five that is bad."""


def blocks():
    return [Chem.MolToMolBlock(mol) + "$$$$\n" for mol in examples.molecules()[6:11]]


def frames():
    return [Chem.MolToXYZBlock(mol) for mol in examples.molecules()[6:11]]


def atoms(text, change):
    """A record of an SDF or XYZ file whose second atom is changed: `change` takes its symbol and coordinates."""
    lines = text.splitlines(keepends=True)
    sdf = "$$$$" in text
    row = 5 if sdf else 3
    words = lines[row].split()
    symbol, x = (words[3], words[:3]) if sdf else (words[0], words[1:])
    symbol, x = change(symbol, [float(value) for value in x])
    if sdf:
        lines[row] = "".join(f"{value:10.4f}" for value in x) + f" {symbol:<3}" + lines[row][34:]
    else:
        lines[row] = f"{symbol} " + " ".join(f"{value:.4f}" for value in x) + "\n"
    return "".join(lines)


def first_atom(text):
    words = text.splitlines()[4 if "$$$$" in text else 2].split()
    return [float(value) for value in (words[:3] if "$$$$" in text else words[1:])]


RECORDS = {
    "nan": (lambda text: atoms(text, lambda s, x: (s, [float("nan"), *x[1:]])), "NaN or infinite coordinate"),
    "infinite": (lambda text: atoms(text, lambda s, x: (s, [x[0], float("inf"), x[2]])), "NaN or infinite coordinate"),
    "huge": (lambda text: atoms(text, lambda s, x: (s, [99999.5, *x[1:]])), "coordinate beyond 1,000 Å"),
    "one place": (lambda text: atoms(text, lambda s, x: (s, first_atom(text))), "two atoms at one place"),
    "element": (lambda text: atoms(text, lambda s, x: ("Xx", x)), "unknown element: Xx"),
    "no number": (lambda text: re.sub(r"\d\.\d{4}", "a.bcde", text, count=1), "unreadable"),
}


def arrays():
    return dict(examples.arrays().select(slice(6, 11)).to_arrays())


def changed(values, at, value):
    values = values.copy()
    values[at] = value
    return values


def of_record(values):
    """Rows of the atoms of the bad record."""
    stop = np.cumsum(values["num_atoms"].astype(int))
    return int(stop[BAD - 2])


ROWS = {
    "nan": (
        lambda a: a.update(positions=changed(a["positions"], (of_record(a), 1), np.nan)),
        "NaN or infinite coordinate",
    ),
    "huge": (
        lambda a: a.update(positions=changed(a["positions"], (of_record(a), 1), 1e30)),
        "coordinate beyond 1,000 Å",
    ),
    "one place": (
        lambda a: a.update(positions=changed(a["positions"], of_record(a), a["positions"][of_record(a) + 1])),
        "two atoms at one place",
    ),
    "element": (lambda a: a.update(atomic_numbers=changed(a["atomic_numbers"], of_record(a), 200)), "unknown element"),
    "dummy": (lambda a: a.update(atomic_numbers=changed(a["atomic_numbers"], of_record(a), 0)), "dummy or query atom"),
    "bonds": (
        lambda a: a.update(bonds=changed(a["bonds"], (int(a["num_bonds"][: BAD - 1].astype(int).sum()), 1), 99)),
        "bond table that does not fit",
    ),
}


def bad_record(folder, suffix, kind):
    """A file of five records, the third of them bad; and why."""
    path = folder / f"bad{suffix}"
    if suffix == ".npz":
        values = arrays()
        change, reason = ROWS[kind]
        change(values)
        np.savez(path, **values)
    elif suffix == ".smi":
        lines = [*examples.SMILES[6:8], kind, *examples.SMILES[8:10]]
        path.write_text("\n".join(lines))
        reason = {"C1CC": "unreadable SMILES", "CO(C)C": "chemistry RDKit rejects", "*C": "dummy or query atom"}[kind]
    else:
        change, reason = RECORDS[kind]
        texts = blocks() if suffix == ".sdf" else frames()
        texts[BAD - 1] = change(texts[BAD - 1])
        path.write_text("".join(texts))
    return path, reason


BAD_RECORDS = [
    *[(suffix, kind) for suffix in (".sdf", ".xyz") for kind in RECORDS],
    *[(".npz", kind) for kind in ROWS],
    *[(".smi", kind) for kind in ("C1CC", "CO(C)C", "*C")],
]

NOISE = random.Random(7).randbytes(3000)


def save_objects(path):
    values = arrays()
    values["positions"] = values["positions"].astype(object)
    np.savez(path, **values)


def save(path, **change):
    np.savez(path, **{name: value for name, value in {**arrays(), **change}.items() if value is not None})


FILES = {
    "missing.sdf": (lambda path: None, "no such file"),
    "folder.sdf": (lambda path: path.mkdir(), "holds no file that ends in one of .sdf"),
    "empty.sdf": (lambda path: path.write_bytes(b""), "the file is empty"),
    "empty.smi": (lambda path: path.write_bytes(b""), "the file is empty"),
    "empty.xyz": (lambda path: path.write_bytes(b""), "the file is empty"),
    "empty.npz": (lambda path: path.write_bytes(b""), "the file is empty"),
    "blank.smi": (lambda path: path.write_text("\n\n# nothing\n"), "no usable molecule in 0 records"),
    "blank.sdf": (lambda path: path.write_text("\n\n\n"), "no usable molecule in 0 records"),
    "noise.sdf": (lambda path: path.write_bytes(NOISE), "is not a text file"),
    "noise.smi": (lambda path: path.write_bytes(NOISE), "is not a text file"),
    "noise.xyz": (lambda path: path.write_bytes(NOISE), "is not a text file"),
    "noise.npz": (lambda path: path.write_bytes(NOISE), "npz"),
    "words.sdf": (lambda path: path.write_bytes(NOISE.replace(b"\0", b"x")), "record 1"),
    "words.smi": (lambda path: path.write_bytes(NOISE.replace(b"\0", b"x")), "record 1"),
    "words.xyz": (lambda path: path.write_bytes(NOISE.replace(b"\0", b"x")), "record 1"),
    "cut.sdf": (lambda path: path.write_text("".join(blocks())[:-60]), "record 5 .*truncated record"),
    "cut.xyz": (
        lambda path: path.write_text("".join(frames())[:-60]),
        r"record 5 .*truncated record: \d+ of \d+ atoms",
    ),
    "cut.npz": (lambda path: [save(path), path.write_bytes(path.read_bytes()[:-300])], "npz"),
    "short.npz": (lambda path: save(path, positions=arrays()["positions"][:-1]), "truncated or inconsistent"),
    "less.npz": (lambda path: save(path, atomic_numbers=None), "lacks the array `atomic_numbers`"),
    "text.npz": (lambda path: save(path, num_atoms=np.array(["a", "b"])), "inconsistent"),
    "objects.npz": (save_objects, "holds pickled objects, which are never loaded"),
    "table.csv": (lambda path: path.write_text("a,b"), "its columns are a, b: no column of SMILES"),
    "noise.mol2": (lambda path: path.write_bytes(NOISE), "is not a text file"),
    "noise.pdb": (lambda path: path.write_bytes(NOISE), "is not a text file"),
    "plain.sdf.gz": (lambda path: path.write_text("".join(blocks())), "is not packed by gzip"),
    "cut.sdf.gz": (
        lambda path: path.write_bytes(gzip.compress("".join(blocks()).encode())[:-20]),
        "the gzip file ends too early",
    ),
    "table.docx": (lambda path: path.write_text("a,b"), r"unknown extension '\.docx'"),
    "model.pkl": (lambda path: path.write_bytes(b"\x80\x04."), r"unknown extension '\.pkl'"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, with good examples."""
    examples.run()  # before anything is made to fail
    examples.write(tmp_path / "good.sdf", 12)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def refused(gendiff, here):
    """Call the command and check everything that is so of every refusal; the one line is returned."""

    def call(*words, status=(1, 2)):
        before = tree(here)
        result = gendiff(*words)
        assert result.status in status
        assert re.fullmatch(r"gendiff: error: [^\n]+\n", result.err), result.err
        assert "Traceback" not in result.out
        assert "unexpected" not in result.err
        assert tree(here) == before
        return result.err

    return call


TRAIN = ("--out", "deep/run", "--steps", 2, "--batch-size", 4, "--previews", 0)


# Files of examples


@pytest.mark.parametrize(("suffix", "kind"), BAD_RECORDS)
def test_a_bad_record_stops_training(refused, here, suffix, kind):
    path, reason = bad_record(here, suffix, kind)
    line = refused("train", "molecules", path, *TRAIN, status=[1])
    assert f"{path}, record {BAD}" in line
    assert reason in line
    assert "--on-error skip" in line


@pytest.mark.parametrize(("suffix", "kind"), BAD_RECORDS)
def test_a_bad_record_is_skipped_and_counted(gendiff, here, suffix, kind):
    path, reason = bad_record(here, suffix, kind)
    result = gendiff("evaluate", "good.sdf", "--reference", path, "--no-strain", "--on-error", "skip")
    assert (result.status, result.err) == (0, "")
    assert "read 4 molecules" in result.out
    kinds = rf"left out 1 of 5 records: {reason.split(':')[0]}[^;]* 1 \(first: {path.name}, record {BAD}"
    assert re.search(kinds, result.out)


def test_a_report_counts_the_samples_it_cannot_read(gendiff, here):
    path, _ = bad_record(here, ".sdf", "nan")
    result = gendiff("report", path, "-o", "page.html")
    assert (result.status, result.err) == (0, "")
    for text in (result.out, (here / "page.html").read_text()):
        assert "left out 1 of 5 records: NaN or infinite coordinate 1" in text


def test_training_goes_on_without_the_bad_records(gendiff, here):
    texts, kinds = blocks(), ("nan", "one place", "one place")
    for k, kind in enumerate(kinds):
        texts[k] = RECORDS[kind][0](texts[k])
    (here / "some.sdf").write_text("".join(texts) + blocks()[0][:90])
    result = gendiff("train", "molecules", "some.sdf", *TRAIN, "--on-error", "skip")
    assert result.status == 0, result.err
    assert "read 2 molecules" in result.out
    line = "left out 4 of 6 records: two atoms at one place 2 (first: some.sdf, record 2"
    for text in (result.out, (here / "deep" / "run" / "model" / "README.md").read_text()):
        assert line in text
        assert "NaN or infinite coordinate 1 (first: some.sdf, record 1" in text
        assert "truncated record 1 (first: some.sdf, record 6" in text


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_stops_training(refused, here, name):
    make, reason = FILES[name]
    make(here / name)
    files = [name] if name.startswith("blank") else ["good.sdf", name]
    line = refused("train", "molecules", *files, *TRAIN, status=[1])
    assert name in line
    assert re.search(reason, line)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("role", ["generated", "reference", "training"])
def test_a_bad_file_stops_an_evaluation(refused, here, name, role):
    make, _ = FILES[name]
    make(here / name)
    files = {"generated": "good.sdf", "reference": "good.sdf", "training": "good.sdf"} | {role: name}
    words = (files["generated"], "--reference", files["reference"], "--training", files["training"])
    assert name in refused("evaluate", *words, "--no-strain", "--json", "table.json", status=[1])


@pytest.mark.parametrize(("suffix", "kind"), [(".sdf", "nan"), (".xyz", "huge"), (".npz", "element"), (".smi", "C1CC")])
def test_a_bad_record_stops_an_evaluation(refused, here, suffix, kind):
    path, _ = bad_record(here, suffix, kind)
    line = refused("evaluate", "good.sdf", "--reference", path, "--no-strain", status=[1])
    assert f"{path}, record {BAD}" in line


def test_nothing_usable_is_left(refused, gendiff, here):
    texts = blocks()[:3]
    changes = [RECORDS[kind][0] for kind in ("nan", "one place", "element")]
    (here / "all.sdf").write_text("".join(change(text) for change, text in zip(changes, texts, strict=True)))
    line = refused("train", "molecules", "all.sdf", *TRAIN, "--on-error", "skip", status=[1])
    assert "all.sdf: no usable molecule in 3 records: " in line
    for reason in ("NaN or infinite coordinate 1", "two atoms at one place 1", "unknown element 1"):
        assert reason in line


class Bomb:
    def __reduce__(self):
        return open, ("sentinel", "w")


@pytest.mark.parametrize("name", ["num_atoms", "positions", "smiles", "extra"])
def test_a_hostile_archive_executes_nothing(refused, here, name):
    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    np.savez(here / "bomb.npz", **{**arrays(), name: bomb})
    for words in (("train", "molecules", "bomb.npz", *TRAIN), ("evaluate", "bomb.npz", "--reference", "good.sdf")):
        assert "pickled objects" in refused(*words, "--on-error", "skip", status=[1])
    assert not (here / "sentinel").exists()


# Places


def test_no_permission_to_read(refused, monkeypatch):
    monkeypatch.setattr("gendiff.files.os.access", lambda path, mode: mode != os.R_OK)  # the tests may run as root
    for words in (("train", "molecules", "good.sdf", *TRAIN), ("evaluate", "good.sdf", "--reference", "good.sdf")):
        assert "good.sdf: permission denied" in refused(*words, status=[1])


def test_no_permission_to_open(refused, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "good.sdf")

    monkeypatch.setattr("gendiff.modalities.molecules.read.text.open", denied, raising=False)
    assert "good.sdf: permission denied" in refused("train", "molecules", "good.sdf", *TRAIN, status=[1])


def test_no_permission_to_write(refused, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    assert "config.yaml: permission denied" in refused("train", "molecules", "good.sdf", *TRAIN, status=[1])
    words = ("sample", examples.run(), "-n", 20, "--steps", 9, "--temperature", 1, "-o")
    for name in ("new.sdf", "new.npz", "deep/new.xyz", "new.smi"):
        assert f"{name}: permission denied" in refused(*words, name, status=[1])
    monkeypatch.setattr("gendiff.files.os.access", lambda path, mode: not mode & os.W_OK)
    monkeypatch.setattr("gendiff.model.Model.draw", lambda *args, **options: pytest.fail("it began to draw"))
    assert "permission denied" in refused(*words, "deep/new.sdf", status=[1])


@pytest.mark.parametrize("name", ["new.sdf", "new.npz", "deep/new.xyz", "new.smi"])
def test_a_full_disk_under_samples(refused, monkeypatch, name):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    line = refused("sample", examples.run(), "-n", 20, "--steps", 9, "--temperature", 1, "-o", name, status=[1])
    assert f"{name}: no space left on device" in line


def test_an_old_file_survives_a_full_disk(gendiff, here, monkeypatch):
    (here / "new.sdf").write_text("old")
    monkeypatch.setattr(
        os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    assert gendiff("sample", examples.run(), "-n", 2, "--steps", 1, "-o", "new.sdf").status == 1
    assert (here / "new.sdf").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder.sdf", "is a directory"),
        ("new.docx", "cannot write .docx; choose from .sdf"),
        ("new", "cannot write a file without an ending"),
        ("good.sdf/new.sdf", "is a file"),
    ],
)
def test_a_place_for_samples_that_is_none(refused, here, monkeypatch, name, words):
    (here / "folder.sdf").mkdir()
    monkeypatch.setattr("gendiff.model.Model.draw", lambda *args, **options: pytest.fail("it began to draw"))
    assert words in refused("sample", examples.run(), "-n", 2, "-o", name, status=[1])


def test_a_place_for_a_run_that_is_none(refused, here):
    (here / "taken").mkdir()
    (here / "taken" / "letter.txt").write_text("dear")
    (here / "file").write_text("x")
    for out in ("taken", "file"):
        line = refused("train", "molecules", "good.sdf", "--out", out, "--steps", 1, status=[1])
        assert f"{out}: already exists; add --resume to go on with it, or choose another --out" in line
    assert "file" in refused("train", "molecules", "good.sdf", "--out", "file/run", "--steps", 1, status=[1])


# Models


def config(change):
    def do(folder):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return do


MODELS = {
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()], "it has no config.json"),
    "version": (config(lambda c: c.update(format=99)), "written in model format 99; this gendiff .* reads format 1"),
    "hostile": (
        config(lambda c: c.update(sampler={"class": "os.system", "command": "touch sentinel"})),
        "names 'os.system'",
    ),
    "weights": (lambda folder: (folder / "model.safetensors").write_bytes(NOISE), "does not hold the weights"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json, line 1: is not valid JSON"),
    "bytes": (lambda folder: (folder / "config.json").write_bytes(NOISE), r"config\.json: is not UTF-8 text"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_bad_model(refused, here, kind):
    change, words = MODELS[kind]
    load(examples.run()).save(here / "model")
    change(here / "model")
    line = refused("sample", "model", "-n", 2, "-o", "new.sdf", status=[1])
    assert re.search(words, line)
    assert "model" in line
    assert not (here / "sentinel").exists()


def test_no_model(refused, here):
    assert "nowhere: no such model" in refused("sample", "nowhere", "-o", "new.sdf", status=[1])
    assert "good.sdf: no such model" in refused("sample", "good.sdf", "-o", "new.sdf", status=[1])
    line = refused("train", "molecules", "--out", "nowhere", "--resume", status=[1])
    assert "nowhere: holds no run to resume" in line


# Words on the command line and in YAML


RUN = "RUN"
WORDS = {
    ("nonsense",): "unknown command 'nonsense'; there are: ",
    ("train", "molecules", "good.sdf"): "--out is missing; see gendiff train --help",
    ("train", "--out", "run"): "modality and FILE are missing",
    ("train", "--out", "run", "--resume"): "run: holds no run to resume",
    ("train", "--out", "--resume"): "argument --out: expected one argument",
    ("train", "molecules", "good.sdf", "--out", "run", "--conf", "options.yaml"): "unrecognized arguments: --conf",
    ("train", "molecules", "--out", "run"): "no file of examples",
    ("train", "atoms", "good.sdf", "--out", "run"): "unknown modality 'atoms'; installed: images, molecules",
    ("train", "molecules", "good.sdf", "--out", "run", "--steps", "0"): "--steps must be at least 1, got 0",
    ("train", "molecules", "good.sdf", "--out", "run", "--steps", "many"): "--steps: 'many' is not a whole number; see",
    ("train", "molecules", "good.sdf", "--out", "run", "--steps", "a"): "--steps: 'a' is not a whole number; see",
    ("train", "molecules", "good.sdf", "--out", "run", "--steps", "1.5"): "--steps: '1.5' is not a whole number; see",
    (
        "train",
        "molecules",
        "good.sdf",
        "--out",
        "run",
        "--learning-rate",
        "low",
    ): "--learning-rate: 'low' is not a number;",
    ("train", "molecules", "good.sdf", "--out", "run", "--network", "unet"): "unknown network 'unet'; choose from egnn",
    ("train", "molecules", "good.sdf", "--out", "run", "--no-such-option", "1"): "no-such-option",
    ("train", "molecules", "good.sdf", "--out", "run", "--max-time", "soon"): "--max-time 'soon' is no time",
    ("train", "molecules", "good.sdf", "--out", "run", "--preset", "huge"): "unknown preset 'huge'",
    ("train", "molecules", "good.sdf", "--out", "run", "--on-error", "cry"): "on-error",
    ("train", "molecules", "good.sdf", "--out", "run", "--hydrogens", "some"): "hydrogens",
    ("train", "molecules", "good.sdf", "--out", "run", "--rule", "guess"): "rule",
    ("train", "molecules", "good.sdf", "--out", "run", "--rule", "rdkit"): "explicit",
    ("train", "molecules", "good.sdf", "--out", "run", "--fragments", "all"): "fragments",
    ("train", "molecules", "good.sdf", "--out", "run", "--split", "test"): "split",
    ("train", "molecules", "good.sdf", "--out", "run", "--trainer.max_epochs", "0"): "max_epochs must be at least 1",
    ("train", "molecules", "good.sdf", "--out", "run", "--trainer.max_epochs", "x"): "max_epochs",
    ("train", "molecules", "good.sdf", "--out", "run", "--trainer.nope", "1"): "nope",
    ("train", "molecules", "good.sdf", "--out", "run", "--trainer.accelerator", "gpu-of-mars"): "gpu-of-mars",
    (
        "train",
        "molecules",
        "good.sdf",
        "--out",
        "run",
        "--trainer.precision",
        "7",
    ): "--trainer.precision: '7' is not one",
    ("sample", RUN, "-n", "0", "-o", "new.sdf"): "-n must be at least 1, got 0",
    ("sample", RUN, "-n", "-5", "-o", "new.sdf"): "-n must be at least 1, got -5",
    ("sample", RUN, "-n", "few", "-o", "new.sdf"): "--number: 'few' is not a whole number",
    ("sample", RUN, "--steps", "0", "-o", "new.sdf"): "--steps must be at least 1, got 0",
    ("sample", RUN, "--temperature", "2", "-o", "new.sdf"): "--temperature must lie in [0, 1], got 2",
    (
        "sample",
        RUN,
        "--sampler",
        "best",
        "-o",
        "new.sdf",
    ): "--sampler: there is no sampler 'best'; choose from ddim, ancestral, heun, dpm-solver++, unipc",
    ("sample", RUN, "--sampler", "heun", "--temperature", "2", "-o", "new.sdf"): "--temperature must lie in [0, 1]",
    ("sample", RUN, "--batch-size", "0", "-o", "new.sdf"): "--batch-size must be at least 1, got 0",
    ("sample", RUN, "--atoms", "many", "-o", "new.sdf"): "--size 'many' is no range; write 12-20",
    ("sample", RUN, "--atoms", "-", "-o", "new.sdf"): "--size '-' is no range",
    ("sample", RUN, "--atoms", "9-3", "-o", "new.sdf"): "--size '9-3' is an empty range",
    ("sample", RUN, "--atoms", "0", "-o", "new.sdf"): "--size '0' is an empty range",
    (
        "sample",
        RUN,
        "--atoms",
        "99",
        "-o",
        "new.sdf",
    ): "no size between 99 and 99 in the training data, which has 2 to 4",
    ("sample", RUN, "--only", "pretty", "-o", "new.sdf"): "--only knows valid, connected, stable and new, not 'pretty'",
    ("sample", RUN, "--device", "abacus", "-o", "new.sdf"): "--device abacus: is not available here",
    ("sample", RUN): "--output is missing",
    ("sample",): "model and --output are missing",
    ("evaluate", "good.sdf"): "--reference is missing",
    ("evaluate", "good.sdf", "--reference", "good.sdf", "--hydrogens", "some"): "hydrogens",
    ("evaluate", "good.sdf", "--reference", "good.sdf", "--rule", "guess"): "rule",
    ("evaluate", "good.sdf", "--reference", "good.sdf", "--on-error", "cry"): "on-error",
    ("evaluate", "good.sdf", "--reference", "good.sdf", "--modality", "atoms"): "unknown modality 'atoms'",
    (
        "evaluate",
        "good.sdf",
        "--reference",
        "good.sdf",
        "--no-strain",
        "--json",
        ".",
    ): "cannot write a file without an ending",
    ("data", "sing"): "unknown action 'sing'",
    ("data", "info"): "wants the name of a data set",
    ("data", "info", "nope"): "no data set 'nope'; there are: ",
    ("data", "get", "small-molecules"): "wants a file to write",
    ("data", "get", "small-molecules", "-o", "a.docx"): "cannot write .docx",
    ("doctor", "--now"): "now",
}


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_words_that_make_no_sense(refused, words):
    line = refused(*(examples.run() if word is RUN else word for word in words))
    assert WORDS[words] in line


def test_status_tells_usage_from_data(refused):
    refused("train", "molecules", "good.sdf", "--out", "run", "--no-such-option", "1", status=[2])
    refused("sample", examples.run(), "--atoms", "9-3", "-o", "new.sdf", status=[2])
    refused("nonsense", status=[2])
    refused("train", "molecules", "missing.sdf", "--out", "run", status=[1])


YAML = {
    "nope: 1\n": "options.yaml: Option 'nope' is not accepted",
    "trainer:\n  nope: 1\n": "nope",
    "steps: many\n": "options.yaml: --steps: 'many' is not a whole number",
    "steps: 0\n": "--steps must be at least 1, got 0",
    "- 1\n- 2\n": "options.yaml",
    "a: [1\n": "options.yaml",
    "steps: !!python/object/apply:os.system ['touch sentinel']\n": "options.yaml",
    "trainer:\n  strategy:\n    class_path: os.system\n    init_args: {command: touch sentinel}\n": "strategy",
    "trainer:\n  profiler: {class_path: subprocess.Popen, init_args: {args: [touch, sentinel]}}\n": "profiler",
}


@pytest.mark.parametrize("text", YAML)
def test_a_bad_yaml_file(refused, here, text):
    (here / "options.yaml").write_text(text)
    line = refused("train", "molecules", "good.sdf", "--out", "run", "--config", "options.yaml")
    assert YAML[text] in line
    assert not (here / "sentinel").exists()


@pytest.mark.parametrize("name", ["missing.yaml", "folder"])
def test_no_yaml_file(refused, here, name):
    (here / "folder").mkdir()
    assert name in refused("train", "molecules", "good.sdf", "--out", "run", "--config", name, status=[2])


def test_a_bug_is_one_line_too_and_can_be_seen_whole(gendiff, here, monkeypatch):
    def bug(*args, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("gendiff.model.Model.draw", bug)
    result = gendiff("sample", examples.run(), "-o", "new.sdf")
    assert result.status == 1
    assert result.err.startswith("gendiff: error: unexpected RuntimeError: two lines (GENDIFF_DEBUG=1 shows where")
    assert result.err.count("\n") == 1
    monkeypatch.setenv("GENDIFF_DEBUG", "1")
    with pytest.raises(RuntimeError, match="two"):
        gendiff("sample", examples.run(), "-o", "new.sdf")


PROCESS = """
import resource, sys
from gendiff.cli import main
assert main(["train", "molecules", "bad.sdf", "--out", "run", "--steps", "2"]) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(["train", "molecules", "good.sdf", "--out", "run", "--steps", "2"]))
"""


def test_in_a_real_process(here):
    """Once for all: what RDKit, Lightning and Python themselves say to a terminal is not there either. In the second
    run the first file of over 100 kB, the model's, finds no place; a run that could keep nothing leaves nothing."""
    bad_record(here, ".sdf", "one place")
    before, environment = tree(here), {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROCESS], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 1, result.stderr
    first, *bar, last = result.stderr.splitlines()
    assert re.fullmatch("gendiff: error: .*/bad.sdf, record 3 .*two atoms at one place: .*", first)
    assert re.fullmatch("gendiff: error: .*/run/model: file too large", last)
    assert all(line.startswith("training:") or not line for line in bar)
    assert tree(here) == before
