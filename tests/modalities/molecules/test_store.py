"""Large files: read once into arrays on the disk, in constant memory, and the same to everything that comes after."""

import errno
import json
import os
import shutil
import time
import tracemalloc
import weakref
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import examples
from gendiff.data import Lazy, batch_stream
from gendiff.files import UserError
from gendiff.modalities.molecules import read, store
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.read import read_molecules
from gendiff.modalities.molecules.records import Molecule, MoleculeArrays
from gendiff.modalities.molecules.store import StoredMolecules, Texts

ARRAYS = ("num_atoms", "atomic_numbers", "positions", "charges", "num_bonds", "bonds")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GENDIFF_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    """Several parts, though there are few molecules."""
    monkeypatch.setattr(read, "CHUNK", 7)


@pytest.fixture
def file(tmp_path) -> Path:
    """An SDF of many parts: salts, hydrogen alone, charges, names beyond ASCII, properties that come and go."""
    path = tmp_path / "many.sdf"
    text = ""
    for number in range(3):
        for index, mol in enumerate(examples.molecules()):
            from rdkit import Chem

            block = Chem.MolToMolBlock(mol).split("\n", 1)[1]
            text += f"Größe {number} {index}\n{block}> <number>\n{number * 40 + index}\n\n"
            text += f"> <late>\n{index / 4}\n\n" * (number > 0 and index % 3 == 0) + "$$$$\n"
        text += "hydrogen\n\n  \n  2  1  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.0000 H   0  0\n"
        text += "    0.7400    0.0000    0.1000 H   0  0\n  1  2  1  0\nM  END\n$$$$\n"
    path.write_text(text)
    return path


def assert_equal(got: MoleculeArrays, expected: MoleculeArrays) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
        assert getattr(got, name).dtype == getattr(expected, name).dtype
    assert list(got.names) == list(expected.names)
    assert (got.smiles is None) == (expected.smiles is None)
    assert list(got.smiles or []) == list(expected.smiles or [])
    assert list(got.properties) == list(expected.properties)
    for name, values in expected.properties.items():
        np.testing.assert_array_equal(got.properties[name], values)


# --- the same -------------------------------------------------------------------------------------------------------


def test_stored_molecules_are_the_molecules(file, cache):
    plain, report = read_molecules(file)
    stored, first = read_molecules(file, store=True)
    again, second = read_molecules(file, store=True)
    assert isinstance(stored, StoredMolecules)
    assert not isinstance(plain, StoredMolecules)
    for one in (stored, again):
        assert_equal(one, plain)
        assert_equal(one.select([5, 0, -1, 5]), plain.select([5, 0, -1, 5]))
        assert_equal(MoleculeArrays.concatenate(list(one.chunks(50))), plain)
        assert [molecule.name for molecule in one] == plain.names
        assert isinstance(one[3], Molecule)
        assert not one.positions.flags.writeable
    assert report.lines() == first.lines()[:-1] == second.lines()[:-1]
    assert first.lines()[-1] == "kept as arrays in the cache, for other runs"
    assert second.lines()[-1] == "opened from the cache, where an earlier run kept them as arrays"
    assert report.to_json() | {"store": ""} == second.to_json() | {"store": ""}
    assert len(list((cache / "molecules").iterdir())) == 1


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_the_same_model_and_the_same_batches(file, hydrogens):
    plain, _ = read_molecules(file)
    stored, _ = read_molecules(file, store=True)
    options = {"hydrogens": hydrogens, "conditions": ["number", "logP"]}
    adapter, other = Molecules.fit(plain, **options), Molecules.fit(stored, **options)
    assert vars(adapter).keys() == vars(other).keys()
    for name in ("elements", "sizes", "charges", "position_scale", "element_scale", "conditions"):
        assert getattr(adapter, name) == getattr(other, name)
    assert vars(adapter.property_sizes)["means"] == vars(other.property_sizes)["means"]
    data, lazy = adapter.encode(plain), adapter.encode(stored)
    assert isinstance(lazy, Lazy)
    assert not isinstance(data, Lazy)
    assert torch.equal(data.sizes, lazy.sizes)
    assert len(data) == len(plain) - 3 * (hydrogens == "implicit")
    for mine, theirs in zip(
        islice(batch_stream(data.sizes, 8, 3), 40), islice(batch_stream(lazy.sizes, 8, 3), 40), strict=True
    ):
        a, b = data.batch(mine), lazy.batch(theirs)
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.mask, b.mask)
        assert a.state.keys() == b.state.keys()
        assert a.condition.keys() == b.condition.keys() == {"number", "logP"}
        assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)
        torch.testing.assert_close(a.condition, b.condition, rtol=0, atol=0, equal_nan=True)  # H2 has no logP
    assert adapter.known(plain) == other.known(stored)
    assert adapter.labels(plain) == other.labels(stored)


def test_everything_else_works_on_stored_molecules(file, tmp_path):
    plain, _ = read_molecules(file)
    stored, _ = read_molecules(file, store=True)
    options = {"hydrogens": "implicit", "strain": False, "n_resamples": 20}
    assert Molecules.evaluate(stored, stored, **options).lines() == Molecules.evaluate(plain, plain, **options).lines()
    for name, records in (("a", plain), ("b", stored)):
        records.save_npz(tmp_path / f"{name}.npz")
        Molecules.write_examples(records, tmp_path / f"{name}.sdf")
    assert_equal(read_molecules(tmp_path / "a.npz")[0], read_molecules(tmp_path / "b.npz")[0])
    assert (tmp_path / "a.sdf").read_bytes() == (tmp_path / "b.sdf").read_bytes()
    adapter = Molecules.fit(plain)
    assert adapter.unknown(stored) == adapter.unknown(plain)
    assert len(adapter.redraw(stored)) == len(adapter.redraw(plain))


def test_training_is_the_same(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from gendiff.train import train

    examples.write(tmp_path / "a.sdf")
    weights = []
    for name, stored in (("plain", False), ("stored", True)):
        reading = {"store": stored}
        train("molecules", [tmp_path / "a.sdf"], tmp_path / name, steps=3, batch_size=8, reading=reading, say=None)
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_a_model_does_not_know_is_named_before_it_trains(file, tmp_path):
    adapter = Molecules.fit(read_molecules(file)[0])
    lines = file.read_text().replace("Größe 2 6\n", "odd one\n")
    where = lines.index("odd one")
    lines = lines[:where] + lines[where:].replace(" C   0", " Si  0", 1)
    (tmp_path / "b.sdf").write_text(lines)
    messages = set()
    for option in (False, True):
        records, _ = read_molecules(tmp_path / "b.sdf", store=option, strict=False)
        with pytest.raises(UserError, match=r"\(odd one\) has element Si; this model knows C, N") as e:
            adapter.encode(records)
        messages.add(str(e.value))
    assert len(messages) == 1


def test_formats_of_text_and_archives_share_a_store(file, tmp_path):
    examples.arrays().save_npz(tmp_path / "a.npz")
    (tmp_path / "b.xyz").write_text("1\nhelium\nHe 0 0 0\n")
    files = [tmp_path / "a.npz", tmp_path / "b.xyz", file]
    plain, _ = read_molecules(files)
    stored, report = read_molecules(files, store=True)
    assert_equal(stored, plain)
    assert [Path(one["path"]).name for one in report.files] == ["a.npz", "b.xyz", "many.sdf"]


def test_without_smiles_bonds_and_properties(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nHe 0 0 0\n" * 30)
    for _ in range(2):
        stored, report = read_molecules(tmp_path / "a.xyz", store=True)
        assert_equal(stored, read_molecules(tmp_path / "a.xyz")[0])
        assert report.duplicates is None


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.text(max_size=5), max_size=9))
def test_texts(values):
    data = [value.encode("utf-8", "replace") for value in values]
    texts = Texts(np.frombuffer(b"".join(data), np.uint8), np.cumsum([len(value) for value in data], dtype=np.int64))
    expected = [value.decode() for value in data]
    assert list(texts) == expected
    assert len(texts) == len(expected)
    assert texts[1:7:2] == expected[1:7:2]
    assert texts[-3:] == expected[-3:]
    with pytest.raises(IndexError):
        texts[len(expected)]


# --- when -----------------------------------------------------------------------------------------------------------


def test_large_files_are_stored_and_small_ones_not(file, cache, monkeypatch):
    assert not isinstance(read_molecules(file)[0], StoredMolecules)
    assert not (cache / "molecules").exists()
    monkeypatch.setattr(read, "LARGE", file.stat().st_size)
    assert isinstance(read_molecules(file)[0], StoredMolecules)
    assert not isinstance(read_molecules(file, store=False)[0], StoredMolecules)
    monkeypatch.setattr(read, "LARGE", file.stat().st_size + 1)
    assert not isinstance(read_molecules(file)[0], StoredMolecules)


def test_a_store_is_of_its_files_and_options_alone(file, cache, tmp_path):
    def count(*paths: Path, **options: object) -> int:
        read_molecules(paths, store=True, **options)
        return len(list((cache / "molecules").iterdir()))

    assert count(file) == 1
    (tmp_path / "folder").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "folder" / file.name))
    assert count(moved) == 1
    assert count(file, seed=1) == 2
    assert count(file, strict=False) == 3
    assert count(file, moved) == 4
    moved.write_text(file.read_text() + file.read_text()[: file.read_text().index("$$$$") + 5])
    assert count(moved) == 5
    assert count(file) == 5


# --- damage ---------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_array(folder: Path) -> None:
    """Another array, and its right hash: the manifest is not believed about types."""
    from gendiff.files import sha256

    np.save(folder / "charges.npy", np.array([object()]), allow_pickle=True)
    facts = json.loads((folder / "store.json").read_text())
    facts["sha256"]["charges"] = sha256(folder / "charges.npy")
    (folder / "store.json").write_text(json.dumps(facts))


DAMAGE = {
    "bit": lambda folder: flip(folder / "positions.npy"),
    "short": lambda folder: os.truncate(folder / "bonds.npy", 200),
    "empty": lambda folder: os.truncate(folder / "names_ends.npy", 0),
    "missing": lambda folder: (folder / "smiles.npy").unlink(),
    "no manifest": lambda folder: (folder / "store.json").unlink(),
    "no JSON": lambda folder: (folder / "store.json").write_text("{"),
    "a list": lambda folder: (folder / "store.json").write_text("[]"),
    "other key": lambda folder: change(folder / "store.json", key={}),
    "no hashes": lambda folder: change(folder / "store.json", sha256={}),
    "rows": lambda folder: change(folder / "store.json", rows={}),
    "report": lambda folder: change(folder / "store.json", report=None),
    "properties": lambda folder: change(folder / "store.json", properties=["a"] * 9),
    "objects": other_array,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_store_is_made_anew(file, cache, kind):
    plain, _ = read_molecules(file)
    read_molecules(file, store=True)
    (folder,) = (cache / "molecules").iterdir()
    DAMAGE[kind](folder)
    stored, report = read_molecules(file, store=True)
    assert "what an earlier run kept in the cache was damaged: the files were read again" in report.lines()[-1]
    assert_equal(stored, plain)
    assert read_molecules(file, store=True)[1].lines()[-1].startswith("opened from the cache")
    assert list((cache / "molecules").iterdir()) == [folder]


def test_a_bad_record_leaves_no_store(file, cache):
    file.write_text(file.read_text() + "broken\n$$$$\n")
    with pytest.raises(UserError, match="record 124"):
        read_molecules(file, store=True)
    assert list(cache.iterdir()) == []
    stored, report = read_molecules(file, "skip", store=True)
    assert (len(stored), report.skipped.total()) == (123, 1)
    assert read_molecules(file, "skip", store=True)[1].skipped == report.skipped


def test_a_file_without_molecules_leaves_no_store(tmp_path, cache):
    (tmp_path / "a.smi").write_text("\n")
    with pytest.raises(UserError, match=r"a\.smi: no usable molecule in 0 records"):
        read_molecules(tmp_path / "a.smi", store=True)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(file, cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store._Column, "append", full)
    with pytest.raises(UserError, match="no space left on device") as error:
        read_molecules(file, store=True)
    assert str(cache) in str(error.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("whole", [True, False])
def test_another_process_may_be_first(file, cache, tmp_path, monkeypatch, whole):
    """It puts its store there between the look at the place and the move."""
    plain, _ = read_molecules(file)
    read_molecules(file, store=True)
    (folder,) = (cache / "molecules").iterdir()
    folder.rename(tmp_path / "theirs")
    if not whole:
        flip(tmp_path / "theirs" / "positions.npy")
    move = os.replace

    def late(source, target):
        if Path(target) == folder:
            shutil.copytree(tmp_path / "theirs", folder)
        move(source, target)

    monkeypatch.setattr(os, "replace", late)
    if not whole:
        with pytest.raises(UserError, match="not empty"):
            read_molecules(file, store=True)
        return
    stored, report = read_molecules(file, store=True)
    assert "another run has just kept them" in report.lines()[-1]
    assert_equal(stored, plain)
    assert list((cache / "molecules").iterdir()) == [folder]


def test_what_killed_processes_left_is_swept_after_a_day(file, cache):
    now = time.time()
    ages = {".old.abc.part": 2, ".old.abc.old": 2, ".new.abc.part": 0.5, "other": 2}
    for name, days in ages.items():
        left = cache / "molecules" / name
        left.mkdir(parents=True)
        (left / "positions.npy").write_bytes(b"half")
        for path in (left / "positions.npy", left):
            os.utime(path, (now - days * store.DAY,) * 2)
    busy = cache / "molecules" / ".busy.abc.part"
    busy.mkdir()
    (busy / "positions.npy").write_bytes(b"half")
    os.utime(busy, (now - 2 * store.DAY,) * 2)  # its columns are still being written
    read_molecules(file, store=True)
    names = {path.name for path in (cache / "molecules").iterdir()}
    assert {".busy.abc.part", ".new.abc.part", "other"} < names
    assert not any(name.startswith(".old") for name in names)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_parts_are_let_go_one_by_one(file, monkeypatch):
    """However long a file is, at most two parts of it are in memory: the one being written and the one being made."""
    alive: list[weakref.ref] = []
    most = 0
    make = MoleculeArrays.from_molecules

    def counted(molecules: list[Molecule]) -> MoleculeArrays:
        nonlocal most
        part = make(molecules)
        alive.append(weakref.ref(part))
        most = max(most, sum(ref() is not None for ref in alive))
        return part

    monkeypatch.setattr(MoleculeArrays, "from_molecules", counted)
    read_molecules(file, store=True)
    assert len(alive) == 18
    assert most <= 2


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which pages are in memory")
def test_pages_of_the_disk_do_not_stay_in_memory(file, cache):
    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        here = [place for place, line in enumerate(lines) if str(cache) in line]
        assert here
        return sum(int(next(line for line in lines[place:] if line.startswith("Rss:")).split()[1]) for place in here)

    records, _ = read_molecules(file, store=True)
    assert np.isfinite(records.positions).all()
    assert resident() > 0
    Molecules.fit(records)
    assert resident() == 0
    data = Molecules.fit(records).encode(records)
    data.batch(torch.tensor([3, 1, 100]))
    assert resident() == 0


def peak(path: Path, copies: int, text: str, stored: bool) -> int:
    """Bytes that reading, fitting and a few batches take at most."""
    path.write_text(text * copies)
    tracemalloc.start()
    records, _ = read_molecules(path, store=stored)
    data = Molecules.fit(records).encode(records)
    for index in islice(batch_stream(data.sizes, 16, 0), 3):
        data.batch(index)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Of each further molecule a few numbers remain (sizes, offsets, hashes), a small share of its text."""
    monkeypatch.setattr(read, "CHUNK", 50)
    monkeypatch.setattr(MoleculeArrays, "chunks", lambda self, size=50: _chunks(self, size))
    monkeypatch.setattr(store.HeavyAtoms, "chunks", lambda self, size=50: _chunks(self, size))
    text = examples.write(tmp_path / "one.sdf").read_text()
    growth = {}
    for stored in (True, False):
        peak(tmp_path / "warm.sdf", 1, text, stored)
        small, large = (peak(tmp_path / f"{n}.sdf", n, text, stored) for n in (5, 20))
        growth[stored] = (large - small) / (15 * len(text))
    assert growth[True] < 0.25 < growth[False]


def _chunks(molecules: MoleculeArrays, size: int):
    return (molecules.select(slice(start, start + size)) for start in range(0, len(molecules), size))
