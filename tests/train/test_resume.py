"""Exact resume: a run that is killed, at whatever moment, and taken up again ends in the very same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import examples
from gendiff.files import UserError
from gendiff.train import train

LEFTOVERS = (".part", ".old")


class Server:
    """Processes to kill; see crash.py."""

    def __init__(self, folder: Path):
        self.folder, self.examples, self.references = folder, examples.write(folder / "examples.sdf"), {}
        command = [sys.executable, str(Path(__file__).with_name("crash.py")), str(self.examples)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # or nothing could be forked
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._answer() == "ready"

    def _answer(self):
        line = self.process.stdout.readline()
        assert line, "the server is gone"
        return json.loads(line)

    def train(self, out: Path, crash=None, **options) -> dict:
        job = {"files": [str(self.examples)], "out": str(out), "batch_size": 8, "previews": 0, "seed": 3, **options}
        self.process.stdin.write(json.dumps({"crash": crash, "train": job}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert answer["code"] == (0 if crash is None else answer["code"])
        assert answer["code"] in (0, -signal.SIGKILL), answer["error"]
        return answer

    def reference(self, **options) -> Path:
        """A run of these options that nobody disturbed."""
        key = json.dumps(options)
        if key not in self.references:
            self.references[key] = self.folder / f"reference-{len(self.references)}"
            self.train(self.references[key], **options)
        return self.references[key]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("resume"))
    yield server
    server.process.stdin.close()
    assert server.process.wait(30) == 0
    server.process.stdout.close()


def same(folder: Path, reference: Path) -> None:
    """Both runs have the same model to the bit, and nothing half-written lies about."""
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (folder / "model" / name).read_bytes() == (reference / "model" / name).read_bytes(), name
    mine, theirs = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, reference))
    assert (mine["global_step"], mine["batch_number"], mine["samples_seen"]) == (
        theirs["global_step"],
        theirs["batch_number"],
        theirs["samples_seen"],
    )
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, mine[part][name]) for name, value in theirs[part].items())
    parts = [checkpoint["optimizer_states"][0]["parts"] for checkpoint in (mine, theirs)]
    for mine, theirs in zip(*parts, strict=True):
        assert theirs["state"]
        for name, value in theirs["state"].items():
            assert all(torch.equal(v, mine["state"][name][key]) for key, v in value.items())
    assert not [path for path in folder.rglob("*") if path.name.endswith(LEFTOVERS)]


def attempt(server, out, crash, accumulate=1, **options):
    """One process, that must go on at its checkpoint exactly: no batch is lost or taken twice."""
    answer = server.train(out, crash, **options)
    if answer["first"] is not None:
        assert answer["first"] == (answer["before"] or 0) * accumulate
    assert (answer["after"] or 0) >= (answer["before"] or 0)
    return answer


def history(server, out, crashes, **options):
    """Train with one crash after another, then to the end."""
    answers = [attempt(server, out, crash, **options) for crash in crashes]
    if answers[-1]["code"]:
        answers.append(attempt(server, out, None, **options))
    assert answers[-1]["after"] == options["steps"]
    return answers


OPTIONS = {"steps": 12, "checkpoint_every": 4}


def test_killed_before_every_change_of_a_file(server, tmp_path):
    """Each process dies one change later than the one before, until one gets on: through the configuration, the first
    model and checkpoint, and the next, which replace them."""
    options, out, places, k = {"steps": 4, "checkpoint_every": 2}, tmp_path / "run", [], 0
    while True:
        begun = (out / "config.yaml").exists()
        answer = attempt(server, out, ["call", k], **options)
        if answer["code"] == 0:
            break
        places.append((begun, answer["before"]))
        k = 0 if (begun, answer["before"]) != ((out / "config.yaml").exists(), answer["after"]) else k + 1
    same(out, server.reference(**options))
    assert places.count((False, None)) >= 3
    assert places.count((True, None)) >= 7
    assert places.count((True, 2)) >= 7


def test_killed_in_the_middle_of_batches(server, tmp_path):
    crashes = [["batch", k] for k in (0, 3, 4, 2, 5)]
    answers = history(server, tmp_path / "run", crashes, **OPTIONS)
    same(tmp_path / "run", server.reference(**OPTIONS))
    assert [(answer["before"], answer["after"]) for answer in answers] == [
        (None, None), (None, None), (None, 4), (4, 4), (4, 8), (8, 12),
    ]  # fmt: skip


def test_killed_with_half_a_checkpoint_on_the_disk(server, tmp_path):
    answers = history(server, tmp_path / "run", [["write", 0], ["write", 1], ["write", 1]], **OPTIONS)
    same(tmp_path / "run", server.reference(**OPTIONS))
    assert [answer["after"] for answer in answers] == [None, 4, 8, 12]


def test_killed_at_random_moments(server, tmp_path):
    options = {"steps": 12, "checkpoint_every": 1}  # a checkpoint after every step: half of the time is spent in them
    crashes = [["save", random.uniform(0, 0.15)] for _ in range(4)]
    answers = history(server, tmp_path / "run", crashes, **options)
    same(tmp_path / "run", server.reference(**options))
    assert sum(answer["code"] != 0 for answer in answers) >= 2


def test_with_accumulated_gradients(server, tmp_path):
    options = {"steps": 8, "checkpoint_every": 1, "trainer": {"accumulate_grad_batches": 3}}
    crashes = [["batch", 1], ["batch", 7], ["batch", 3], ["write", 1], ["batch", 8]]
    answers = history(server, tmp_path / "run", crashes, accumulate=3, **options)
    same(tmp_path / "run", server.reference(**options))
    assert [answer["after"] for answer in answers[:5]] == [None, 2, 3, 4, 6]


def test_by_epochs(server, tmp_path):
    """Five batches an epoch: the second bound is the same as ten steps, and the middle of an epoch is a good place to
    die."""
    options = {"steps": None, "checkpoint_every": 3, "trainer": {"max_epochs": 2}}
    server.train(tmp_path / "run", ["batch", 7], **options)
    assert server.train(tmp_path / "run", **options) | {"error": ""} == {
        "code": 0, "before": 6, "first": 6, "after": 10, "error": "",
    }  # fmt: skip
    same(tmp_path / "run", server.reference(**options))
    by_steps = server.reference(steps=10, checkpoint_every=3)
    weights = [(f / "model" / "model.safetensors").read_bytes() for f in (tmp_path / "run", by_steps)]
    assert weights[0] == weights[1]


def test_previews_change_nothing(server, tmp_path):
    server.train(tmp_path / "run", **OPTIONS, previews=1)
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1
    same(tmp_path / "run", server.reference(**OPTIONS))


def test_the_interval_of_checkpoints_changes_nothing(server, tmp_path):
    server.train(tmp_path / "run", **{**OPTIONS, "checkpoint_every": 1000})
    weights = [
        (f / "model" / "model.safetensors").read_bytes() for f in (tmp_path / "run", server.reference(**OPTIONS))
    ]
    assert weights[0] == weights[1]


def test_a_finished_run_stays_as_it_is(server, tmp_path):
    shutil.copytree(server.reference(**OPTIONS), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")}
    answer = server.train(tmp_path / "run", **OPTIONS)
    assert (answer["before"], answer["first"], answer["after"]) == (12, None, 12)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")} == before
    same(tmp_path / "run", server.reference(**OPTIONS))


def test_a_moved_run_goes_on(server, tmp_path):
    server.train(tmp_path / "first", ["batch", 6], **OPTIONS)
    (tmp_path / "first").rename(tmp_path / "second")
    assert server.train(tmp_path / "second", **OPTIONS)["before"] == 4
    same(tmp_path / "second", server.reference(**OPTIONS))
    assert not (tmp_path / "first").exists()


# What may not be resumed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("finished")
    path = examples.write(folder / "examples.sdf")
    train("molecules", [path], folder / "run", steps=4, checkpoint_every=2, batch_size=8, previews=0, say=None)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """The same with a file of its own."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path / "run"


def resume(run, **options):
    return train("molecules", [], run, resume=True, say=None, **options)


def content(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def edit(run, **changes):
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, **changes}))


def test_a_changed_or_missing_file_of_examples_is_refused(run):
    before, path = content(run), run.parent / "examples.sdf"
    text = path.read_text()
    path.write_text(text + text)
    with pytest.raises(UserError, match=rf"^{path}: is gone or has changed since the run began"):
        resume(run)
    path.unlink()
    with pytest.raises(UserError, match=rf"^{path}: is gone or has changed since the run began"):
        resume(run)
    assert content(run) == before
    path.write_text(text)
    resume(run)


class Bomb:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")


def pickled(path, sentinel):
    import pickle

    path.write_bytes(pickle.dumps({"state_dict": Bomb(sentinel)}))


def saved(path, sentinel):
    torch.save({"state_dict": Bomb(sentinel), "global_step": 2}, path)


def hidden(path, sentinel):
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "callbacks": {"x": Bomb(sentinel)}}, path)


@pytest.mark.parametrize("plant", [pickled, saved, hidden])
def test_a_hostile_checkpoint_executes_nothing(run, tmp_path, plant):
    plant(run / "checkpoints" / "last.ckpt", tmp_path / "sentinel")
    with pytest.raises(UserError, match=r"last\.ckpt: ") as error:
        resume(run)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sentinel").exists()


def empty(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path):
    path.write_bytes(random.Random(0).randbytes(5000))


def tensors(path):
    torch.save({"weights": torch.zeros(3)}, path)


def a_list(path):
    torch.save([1, 2], path)


def other_shapes(path):
    checkpoint = torch.load(path, weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name] = torch.zeros(2, 3)
    torch.save(checkpoint, path)


@pytest.mark.parametrize("damage", [empty, halved, noise, tensors, a_list, other_shapes])
def test_a_damaged_checkpoint_is_one_line(run, damage):
    damage(run / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: ") as error:
        resume(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid YAML"),
        ("[1, 2]", "is not the configuration of a run"),
        ("", "is empty"),
        ("a: 1", "is not the configuration of a run"),
        ("!!python/object/apply:os.system ['touch sentinel']", "is not valid YAML"),
    ],
)
def test_a_damaged_configuration_is_one_line(run, text, words, monkeypatch):
    monkeypatch.chdir(run)
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"config\.yaml: .*{words}") as error:
        resume(run)
    assert "\n" not in str(error.value)
    assert not (run / "sentinel").exists()


@pytest.mark.parametrize(
    "changes", [{"steps": "many"}, {"files": 3}, {"batch_size": None}, {"trainer": [1]}, {"sha256": "x"}, {"seed": "a"}]
)
def test_a_configuration_of_wrong_types_is_one_line(run, changes):
    edit(run, **changes)
    with pytest.raises(UserError, match=r"config\.yaml: "):
        resume(run)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        resume(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_leftovers_of_a_killed_process_do_not_stand_in_the_way(tmp_path):
    path, run = examples.write(tmp_path / "examples.sdf"), tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.abc123.part").write_text("modality: mol")
    train("molecules", [path], run, steps=1, previews=0, say=None)
    (run / ".model.abc.old" / "old").mkdir(parents=True)
    (run / "checkpoints" / ".last.ckpt.part").write_bytes(b"half")
    resume(run)
    assert not [path for path in run.rglob("*") if path.name.endswith(LEFTOVERS)]
