"""Shards: what is in them depends on nothing but the arguments, and a killed run loses nothing."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
import signal
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import shared
from rdkit import Chem

import examples
from gendiff.cli import main
from gendiff.config import describe
from gendiff.download import alone
from gendiff.files import UserError, sha256
from gendiff.model import load
from gendiff.sample import Heun
from gendiff.train.generate import Candidates, ShardTask, generate
from gendiff.train.shards import Shards

TWO = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    examples.model().save(folder / "model")
    examples.model(seed=1).save(folder / "other")
    return folder


@pytest.fixture(scope="module")
def processes():
    return shared()


@pytest.fixture(scope="module")
def reference(folder):
    """14 samples in shards of 4 draws, made by one process that nobody disturbed."""
    return make(folder, "reference")


@pytest.fixture(scope="module")
def filtered(folder):
    """13 valid samples; every other draw is one."""
    return make(folder, "filtered", 13, only=["valid"])


def make(folder, name, number=14, **options):
    options = {"shard_size": 4, "batch_size": 3, "steps": 3, "device": "cpu", "say": None, **options}
    return generate(options.pop("source", folder / "model"), number, folder / name, **options)


def words(folder, out, number=14, size=4):
    sampling = ("--steps", 3, "--batch-size", 3, "--device", "cpu")
    return ("sample", folder / "model", "-n", number, "-o", f"{out}/", "--shard-size", size, *sampling)


def shards(out):
    """The files of samples, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("shard-*")) if path.suffix != ".json"}


def molecules(out):
    return [mol for file in sorted(out.glob("shard-*.sdf")) for mol in Chem.SDMolSupplier(str(file), sanitize=False)]


def manifest(out):
    return json.loads((out / "manifest.json").read_text())


def check(out):
    """What is there is whole, whatever happened."""
    for path in out.glob("shard-*.json"):
        record = json.loads(path.read_text())
        assert record["file"] is None or sha256(out / record["file"]) == record["sha256"]
    if (out / "manifest.json").exists():
        for shard in manifest(out)["shards"]:
            assert shard["file"] is None or sha256(out / shard["file"]) == shard["sha256"]


def same(out, reference):
    """The very bytes of a run that nobody disturbed, and nothing else."""
    assert shards(out) == shards(reference)
    assert {path.name for path in out.iterdir()} == {path.name for path in reference.iterdir()}
    assert manifest(out) == {**manifest(reference), "model": manifest(out)["model"]}
    check(out)


# What is in them


def test_they_hold_what_draw_returns(folder, reference):
    model = load(folder / "model")
    drawn = model.draw(14, steps=3).records
    mols = molecules(reference)
    assert [mol.GetProp("index") for mol in mols] == [str(i) for i in range(14)]
    assert {(mol.GetProp("model"), mol.GetProp("seed")) for mol in mols} == {("model", "0")}
    for mine, theirs in zip(mols, drawn, strict=True):
        # hydrogens of invalid molecules are not drawn; what is read of an SDF has four digits
        positions = [mol.GetConformer().GetPositions() for mol in (mine, theirs)]
        np.testing.assert_allclose(*positions, atol=2e-3)
    assert [shard["number"] for shard in manifest(reference)["shards"]] == [4, 4, 4, 2]
    assert [shard["range"] for shard in manifest(reference)["shards"]] == [[0, 4], [4, 8], [8, 12], [12, 14]]
    check(reference)


def test_the_manifest_and_the_records_say_how_they_were_made(folder, reference):
    facts = manifest(reference)
    expected = {
        "made": "shards",
        "number": 14,
        "shard_size": 4,
        "ending": ".sdf",
        "modality": "molecules",
        "model": str(folder / "model"),
        "weights_sha256": sha256(folder / "model" / "model.safetensors"),
        "seed": 0,
        "only": [],
        "size": [None, None],
        "guidance": 1.0,
        "condition": {},
        "state": "complete",
        "there": 14,
        "drawn": 14,
    }
    assert {name: facts[name] for name in expected} == expected
    assert facts["sampler"]["steps"] == 3
    record = json.loads((reference / "shard-000003.json").read_text())
    assert (record["made"], record["range"], record["number"], record["device"]) == ("samples", [12, 14], 2, "cpu")
    assert record["sampler"] == facts["sampler"]


def test_another_sampler_draws_them_and_is_recorded(folder, tmp_path):
    words = ("sample", folder / "model", "-n", 5, "--sampler", "heun", "--steps", 2, "--temperature", 0.5)
    assert main([str(word) for word in (*words, "--shard-size", 4, "-o", f"{tmp_path}/new/")]) == 0
    facts, model = manifest(tmp_path / "new"), load(folder / "model")
    assert (facts["sampler"], facts["prior_scale"]) == (describe(Heun(2)), 0.5)
    drawn = model.draw(5, sampler=Heun(2), temperature=0.5).records
    for mine, theirs in zip(molecules(tmp_path / "new"), drawn, strict=True):
        positions = [mol.GetConformer().GetPositions() for mol in (mine, theirs)]
        np.testing.assert_allclose(*positions, atol=2e-3)


def test_of_kept_samples_they_hold_the_first(folder, filtered):
    """As many as asked for, those that `draw` keeps, and as many draws as it took."""
    drawn = load(folder / "model").draw(13, steps=3, only=["valid"])
    mols = molecules(filtered)
    assert [int(mol.GetProp("index")) for mol in mols] == drawn.indices
    assert all(mol.GetProp("valid") == "true" for mol in mols)
    facts = manifest(filtered)
    assert (facts["there"], facts["drawn"], facts["state"]) == (13, drawn.drawn, "complete")
    assert len(facts["shards"]) == 5
    assert 13 < facts["drawn"] < 20  # some were left out, and so was what followed the last in its shard


def test_a_shard_that_keeps_nothing_has_a_record_and_no_file(folder):
    out = make(folder, "sparse", 8, shard_size=1, only=["valid"])
    drawn = load(folder / "model").draw(8, steps=3, only=["valid"])
    assert [int(mol.GetProp("index")) for mol in molecules(out)] == drawn.indices
    assert len(list(out.glob("shard-*.json"))) == drawn.drawn == 9
    assert len(shards(out)) == 8


@pytest.mark.parametrize("ending", [".npz", ".xyz", ".sdf.gz"])
def test_other_formats(folder, ending, reference):
    out, again = (make(folder, f"{name}{ending}", ending=ending) for name in ("format", "again"))
    assert [path.name for path in out.glob(f"shard-*{ending}")]
    assert shards(out) == shards(again)
    read, _ = load(folder / "model").modality.read([out / name for name in shards(out)], strict=False)
    assert len(read) == 14


def test_what_does_not_fit_the_format_is_counted(folder):
    """Of shards of one draw some hold one line and some none, and none of them ends the run."""
    out = make(folder, "smiles", 9, shard_size=1, ending=".smi")
    records = [json.loads(path.read_text()) for path in sorted(out.glob("shard-*.json"))]
    assert [(record["number"], record["written"]) for record in records] == [
        (1, int((out / f"shard-{k:06d}.smi").exists())) for k in range(9)
    ]
    assert {record["written"] for record in records} == {0, 1}
    assert all(record["file"] is None for record in records if not record["written"])
    facts = manifest(out)
    assert (facts["there"], facts["written"], facts["state"]) == (9, len(shards(out)), "complete")
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    make(folder, "smiles", 9, shard_size=1, ending=".smi", resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.glob("shard-*")} == before


def test_writers_that_count_nothing_have_written_all(tmp_path):
    mine = Shards(tmp_path / "x", 2, 4, ".txt", {})
    mine.begin()
    assert mine.take(0)
    mine.save(0, ["a", "b"], [0, 1], 2, lambda records, path: path.write_text("ab") and None)
    assert mine.record(0)["written"] == 2


# How they are made


def test_nobody_draws_what_another_has_taken(tmp_path):
    mine, theirs = (Shards(tmp_path / "x", 12, 4, ".txt", {}) for _ in range(2))
    mine.begin()
    assert mine.take(1)
    assert not theirs.take(1)
    assert theirs.busy()
    assert theirs.take(0)
    theirs.release()
    assert mine.take(0) or pytest.fail("given back, and yet taken")
    mine.save(0, ["a"] * 4, [0, 1, 2, 3], 4, lambda records, path: path.write_text("".join(records)))
    assert not theirs.take(0)
    assert not mine.take(3)  # there is no such shard
    assert theirs.kept() == 4


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_in_whatever_order_they_are_ready_the_first_samples_are_kept(tmp_path, order):
    """Four processes took a shard each before any was ready; some draws are kept, and five are wanted."""
    shards = [Shards(tmp_path / "x", 5, 4, ".txt", {"only": ["even"]}) for _ in range(4)]
    shards[0].begin()

    def write(records, path):
        path.write_text(" ".join(records))

    def save(k, by):
        kept = [i for i in range(4 * k, 4 * k + 4) if i % 2 == 0 or k == 1]  # 2, 4, 2, 2
        by.save(k, list(map(str, kept)), kept, 4, write)

    assert all(s.take(k) for k, s in enumerate(shards))
    for k in order:
        save(k, shards[k])
    assert not shards[0].busy()
    last = shards[0].cut()
    if last is not None:
        assert last == 1
        assert shards[0].take(1)
        save(1, shards[0])
    assert shards[0].finish()
    texts = [path.read_text() for path in sorted(tmp_path.glob("x/*.txt"))]
    assert texts == ["0 2", "4 5 6"]


def test_one_shard_at_a_time_is_in_memory(folder, tmp_path, monkeypatch):
    draw, seen, alive = ShardTask.draw, [], []

    def watched(self, k):
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        drawn = draw(self, k)
        seen.extend(map(weakref.ref, drawn.records))
        return drawn

    monkeypatch.setattr(ShardTask, "draw", watched)
    make(folder, tmp_path / "new", 12)
    assert len(seen) == 12
    assert alive == [0, 0, 0]


@pytest.mark.slow
def test_memory_does_not_grow_with_their_number(processes, folder, tmp_path):
    """Peak memory of 2 and of 12 shards of 400; what ten more shards of molecules would take is about 30 MB."""
    peaks = []
    for count in (2, 12):
        (answer,) = processes.run(*words(folder, tmp_path / str(count), 400 * count, 400), seconds=300)
        assert answer["code"] == 0, answer["err"]
        peaks.append(answer["peak"])
    assert peaks[1] - peaks[0] < 8e6


def test_two_processes_make_what_one_does(processes, folder, tmp_path, reference, filtered):
    wait = ["wait", 1, str(tmp_path / "two" / "manifest.json")]
    answers = processes.run(*words(folder, tmp_path / "two"), *TWO, world=2, faults=[wait])
    assert [answer["code"] for answer in answers] == [0, 0], answers
    assert answers[0]["out"].startswith("14 molecules in 4 shards, 14 of them now in ")
    assert answers[1]["out"] == answers[1]["err"] == ""
    same(tmp_path / "two", reference)
    answers = processes.run(*words(folder, tmp_path / "kept", 13), "--only", "valid", *TWO, world=2)
    assert [answer["code"] for answer in answers] == [0, 0], answers
    same(tmp_path / "kept", filtered)


def test_shards_beyond_the_last_are_removed_and_the_last_is_cut(folder, filtered, monkeypatch):
    """As when other processes were faster: the shards are made from the last to the first."""
    monkeypatch.setattr("gendiff.train.generate.candidates", lambda shards: reversed(range(7)))
    same(make(folder, "backwards", 13, only=["valid"]), filtered)


def test_a_process_without_the_one_that_started_it_ends(tmp_path, monkeypatch):
    shards = Shards(tmp_path / "x", 12, 4, ".txt", {})
    assert list(Candidates(shards)) == [0, 1, 2]
    orphan = Candidates(shards)
    monkeypatch.setattr("gendiff.train.generate.first", lambda: False)
    monkeypatch.setattr("gendiff.train.generate.os.getppid", lambda: -1)
    assert list(orphan) == []


# Killed, and gone on with


def test_killed_before_every_change_of_a_file(processes, folder, tmp_path, reference):
    """Each process dies one change later than the one before, until one has made a shard; then it begins again."""
    out, deaths, k = tmp_path / "new", 0, 0
    while True:
        more = ("--resume",) if (out / "manifest.json").exists() else ()
        before = len(list(out.glob("shard-*.json")))
        (answer,) = processes.run(*words(folder, out), *more, faults=[["change", 0, k]])
        assert answer["code"] in (0, -signal.SIGKILL), answer["err"]
        check(out)
        if answer["code"] == 0:
            break
        deaths, k = deaths + 1, 0 if len(list(out.glob("shard-*.json"))) > before else k + 1
    assert deaths > 12
    same(out, reference)


@pytest.mark.parametrize("only", [False, True])
def test_two_processes_killed_and_gone_on_with_by_one(processes, folder, tmp_path, reference, filtered, only):
    out = tmp_path / "new"
    command = words(folder, out, 13 if only else 14) + (("--only", "valid") if only else ())
    answers = processes.run(*command, *TWO, world=2, send=[None, signal.SIGKILL, str(out / "shard-*.json"), 1])
    assert [answer["code"] for answer in answers] == [-signal.SIGKILL] * 2
    check(out)
    (answer,) = processes.run(*command, "--resume")
    assert answer["code"] == 0, answer["err"]
    same(out, filtered if only else reference)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_and_leaves_whole_shards(processes, folder, tmp_path, number):
    out = tmp_path / "new"
    answers = processes.run(*words(folder, out, 2000), *TWO, world=2, send=[None, number, str(out / "shard-*.json"), 2])
    assert [answer["code"] for answer in answers] == [130, 0], answers
    assert "go on with --resume" in answers[0]["out"]
    assert answers[1]["out"] == answers[1]["err"] == ""
    assert [path.name for path in out.glob(".*")] == [".lock"]
    check(out)


@pytest.fixture
def copied(reference, tmp_path):
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def halved(out):
    path = out / "shard-000001.sdf"
    path.write_bytes(path.read_bytes()[:100])


def gone(out):
    (out / "shard-000001.sdf").unlink()


def without_record(out):
    (out / "shard-000001.json").unlink()


def half_a_record(out):
    path = out / "shard-000001.json"
    path.write_text(path.read_text()[:50])


def a_record_of_another(out):
    shutil.copy(out / "shard-000002.json", out / "shard-000001.json")


def half_written(out):
    without_record(out)
    (out / ".shard-000001.sdf.abc.part").write_text("half")
    (out / ".shard-000001.taken").touch()


@pytest.mark.parametrize("damage", [halved, gone, without_record, half_a_record, a_record_of_another, half_written])
def test_what_is_damaged_is_drawn_again(folder, reference, copied, damage, monkeypatch):
    damage(copied)
    draw, drawn = ShardTask.draw, []
    monkeypatch.setattr(ShardTask, "draw", lambda self, k: drawn.append(k) or draw(self, k))
    make(folder, copied, resume=True)
    assert drawn == [1]
    same(copied, reference)


def test_a_finished_folder_stays_as_it_is(folder, copied, monkeypatch):
    monkeypatch.setattr(ShardTask, "draw", lambda self, k: pytest.fail("it draws"))
    before = {path: path.stat().st_mtime_ns for path in copied.glob("shard-*")}
    make(folder, copied, resume=True)
    assert {path: path.stat().st_mtime_ns for path in copied.glob("shard-*")} == before


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"seed": 1}, "begun with seed 0, not 1"),
        ({"steps": 4}, "begun with sampler"),
        ({"sampler": "heun"}, "begun with sampler"),
        ({"number": 15}, "begun with number 14, not 15"),
        ({"shard_size": 5}, "begun with shard_size 4, not 5"),
        ({"only": ["valid"]}, "begun with only"),
        ({"sizes": (3, None)}, "begun with size"),
        ({"ending": ".xyz"}, "begun with ending .sdf, not .xyz"),
        ({"source": "other"}, "begun with weights_sha256"),
    ],
)
def test_other_samples_are_not_mixed_in(folder, copied, options, line):
    if "source" in options:
        options = {"source": folder / "other"}
    before = {path: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(UserError, match=line) as error:
        make(folder, copied, resume=True, **options)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in copied.iterdir()} == before


def test_what_changes_no_sample_may_change(folder, copied):
    gone(copied)
    shutil.copytree(folder / "model", folder / "moved", dirs_exist_ok=True)
    make(folder, copied, resume=True, source=folder / "moved", batch_size=2)
    assert manifest(copied)["state"] == "complete"


def test_a_place_that_cannot_be_written_to_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/new: cannot be written to \("):
        make(folder, tmp_path / "file" / "new")


def test_a_folder_that_is_being_made_is_left_alone(folder, copied, tmp_path):
    without_record(copied)
    (copied / ".shard-000001.taken").touch()  # of the other process
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    (tmp_path / "empty").mkdir()
    for out, resume in ((copied, True), (tmp_path / "empty", False)):
        with alone(out / ".lock"), pytest.raises(UserError, match="another process is at work there"):
            make(folder, out, resume=resume)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    make(folder, copied, resume=True)


def test_a_lock_of_a_process_that_is_gone_is_no_lock(folder, tmp_path, reference):
    """Killed before there was a manifest: nothing but the lock file is left."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".lock").touch()
    same(make(folder, tmp_path / "new"), reference)


@pytest.mark.parametrize("text", ["{", "[1]", '{"made": "samples"}', ""])
def test_a_damaged_manifest_is_one_line(folder, copied, text):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        make(folder, copied, resume=True)
    assert len(shards(copied)) == 4


def test_a_folder_in_use_is_refused(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists; add --resume"):
        make(folder, tmp_path)
    with pytest.raises(UserError, match=r"holds no shards to go on with \(no manifest.json\)"):
        make(folder, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"number": 0}, "-n must be at least 1, got 0"),
        ({"shard_size": 0}, "--shard-size must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"ending": ".docx"}, "--format: cannot write .docx; choose from sdf"),
        ({"ending": ".mol"}, "--format: cannot write .mol; choose from sdf"),
        ({"condition": {"logP": [1.0, 2.0]}}, "--condition: logP takes one number for all samples, not a list"),
        ({"condition": {"logP": torch.ones(2)}}, "--condition: logP takes one number for all samples, not a Tensor"),
        ({"only": ["pretty"]}, "--only knows valid, connected, stable and new, not 'pretty'"),
        ({"only": ["new"]}, "name them with --reference"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"sampler": "best"}, "--sampler: there is no sampler 'best'"),
        ({"sizes": (90, 99)}, "no size between 90 and 99"),
        ({"guidance": 2.0}, "--guidance 2 strengthens a condition"),
        ({"condition": {"logP": 1.0}}, "'logP' cannot be asked of this model"),
        ({"trainer": {"strategy": "magic"}}, "--trainer: Lightning refuses its options"),
    ],
)
def test_refused_without_leaving_a_folder(folder, tmp_path, options, line):
    with pytest.raises(UserError, match=line):
        make(folder, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_nothing_kept_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gendiff.modalities.molecules.modality.Molecules.keep", lambda self, r, *_: [False] * len(r))
    with pytest.raises(UserError, match="only 0 of 100 samples are valid; 1 were asked for"):
        make(folder, tmp_path / "new", 1, only=["valid"], shard_size=50)


def test_a_part_of_the_work(folder, reference, tmp_path):
    """Lightning's own bound on what it does leaves a folder to go on with."""
    lines = []
    make(folder, tmp_path / "new", trainer={"limit_predict_batches": 1}, say=lines.append)
    assert lines == ["4 of 14 are there; go on with --resume"]
    assert manifest(tmp_path / "new")["state"] == "drawing"
    make(folder, tmp_path / "new", resume=True)
    same(tmp_path / "new", reference)


def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch):
    def full(self, records, path):
        raise UserError(f"{path}: no space left on device")

    monkeypatch.setattr("gendiff.modalities.molecules.modality.Molecules.write", full)
    with pytest.raises(UserError, match="no space left on device"):
        make(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()
