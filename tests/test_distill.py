"""Progressive distillation: where two steps of a teacher lead, in closed form, and models of fewer and fewer steps."""

import copy
import json
import signal

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

import examples
from gendiff import load
from gendiff.cli import main
from gendiff.denoise import AnalyticDenoiser, Denoiser, Estimate
from gendiff.distill import Distill, levels
from gendiff.files import UserError, sha256
from gendiff.ops import Random, expand, size_mask
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral
from gendiff.schedule import VP, Cosine, Flow, Karras
from gendiff.space import Euclidean, ZeroCenterOfMass
from gendiff.train import distill
from gendiff.train.students import students

SCHEDULES = {"cosine": Cosine(), "flow": Flow(), "vp": VP(), "karras": Karras()}
scheduled = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
grids = pytest.mark.parametrize("grid", ["uniform", "quadratic"])


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def process_of(schedule, space=None):
    return JointProcess({"x": GaussianProcess(schedule, space or Euclidean(2))})


def mixture(schedule):
    """Two clusters in the plane: an exact denoiser that is far from affine."""
    means, stds = normal(2, 1, 2) * 2, torch.tensor([0.25, 0.75], dtype=torch.float64).view(2, 1, 1)
    return AnalyticDenoiser(process_of(schedule), [0.25, 0.75], {"x": (means, stds)})


def single(process, std):
    """One normal law around zero."""
    law = torch.zeros(1, 1, 2, dtype=torch.float64), torch.full((1, 1, 2), std, dtype=torch.float64)
    return AnalyticDenoiser(process, [1.0], {"x": law})


def all_of(x):
    return torch.ones(x["x"].shape[:2], dtype=torch.bool)


def times(steps, grid):
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return t if grid == "uniform" else t**2


# Where two steps lead


@scheduled
@grids
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_one_step_towards_the_target_is_the_two_steps_of_the_teacher(schedule, grid, steps):
    """The teacher walks by the library's DDIM; the target is that of the paper's formula, and its step arrives."""
    teacher = mixture(schedule)
    loss = Distill(teacher, steps, grid)
    later = [0.0, *times(steps, grid).tolist()]
    between = times(2 * steps, grid).tolist()[::2]
    for k, t in enumerate(later[1:]):
        z = {"x": normal(5, 1, 2) * float(schedule.sigma(torch.tensor(t)))}
        at = torch.full((5,), t, dtype=torch.float64)
        target = loss.target(z, at)["x"]
        end = DDIM()(teacher, z, plan=[(t, between[k]), (between[k], later[k])])["x"]
        alpha, sigma = levels(schedule, at, z["x"])
        alpha_2, sigma_2 = levels(schedule, torch.full_like(at, later[k]), z["x"])
        paper = (end - sigma_2 / sigma * z["x"]) / (alpha_2 - sigma_2 / sigma * alpha)
        assert target == pytest.approx(paper, rel=1e-6, abs=1e-6)
        assert alpha_2 * target + sigma_2 / sigma * (z["x"] - alpha * target) == pytest.approx(
            end, rel=1e-11, abs=1e-11
        )
        if k == 0:  # the last step, to clean data, is the second estimate itself
            assert torch.equal(sigma_2, torch.zeros_like(sigma_2))
            assert target == pytest.approx(end, rel=1e-12, abs=1e-12)


class Affine(nn.Module):
    """The student x_0 = a(t) x_t with any function a."""

    def __init__(self, process, slope):
        super().__init__()
        self.process, self.slope = process, slope

    def forward(self, x_t, t, mask=None, condition=None, previous=None):
        data = {"x": expand(self.slope(t), x_t["x"]) * x_t["x"]}
        return Estimate(self.process, x_t, t, data)


def best_slope(schedule, std, steps, grid):
    """a~(t) of normal data: z'' = f(t', t'') f(t, t') z, as a product of the factors of the two steps."""
    power = 1 if grid == "uniform" else 2

    def at(t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return torch.where(t == 0, 1.0, alpha), torch.where(t == 0, 0.0, sigma)

    def factor(t, s):
        (a, b), (c, d) = at(t), at(s)
        shrink = a * std**2 / (a**2 * std**2 + b**2)
        return c * shrink + d / b * (1 - a * shrink)

    def slope(t):
        k = (2 * steps * t ** (1 / power)).round()
        middle, end = (((k - i) / (2 * steps)) ** power for i in (1, 2))
        (a, b), (c, d) = at(t), at(end)
        return (factor(middle, end) * factor(t, middle) - d / b) / (c - d / b * a)

    return slope


@scheduled
@grids
@pytest.mark.parametrize("weighting", ["truncated", "plus_one"])
def test_the_best_student_of_normal_data_has_no_loss_and_others_have_theirs(schedule, grid, weighting):
    std, steps, process = 0.6, 4, process_of(schedule)
    teacher = single(process, std)
    loss, best = Distill(teacher, steps, grid, weighting), best_slope(schedule, std, steps, grid)
    t = times(steps, grid).repeat(3)
    x = {"x": normal(len(t), 3, 2)}

    def errors(slope):
        return loss.errors(Affine(process, slope), {}, x, {}, t, all_of(x), None, Random(0, len(t)))["x"]

    snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    weight = snr.clamp(min=1) if weighting == "truncated" else snr + 1
    assert errors(best) == pytest.approx(torch.zeros(len(t)).double(), abs=1e-20)
    missed = weight * 0.1**2 * x["x"].square().flatten(1).mean(1)
    assert errors(lambda t: best(t) + 0.1) == pytest.approx(missed, rel=1e-9)


def test_the_best_student_samples_in_half_of_the_steps_what_its_teacher_samples():
    """A chain of closed forms: eight steps, then four, are the map of sixteen steps of the exact flow."""
    std, schedule = 0.6, Cosine()
    process = process_of(schedule)
    teacher = single(process, std)
    first = Affine(process, best_slope(schedule, std, 8, "uniform"))
    z = {"x": normal(4, 1, 2)}
    long = DDIM(16)(teacher, z)["x"]
    assert DDIM(8)(first, z)["x"] == pytest.approx(long, rel=1e-9)
    loss = Distill(first, 4)
    second = Affine(process, lambda t: loss.target({"x": torch.ones(len(t), 1, 1).double()}, t)["x"].flatten())
    assert DDIM(4)(second, z)["x"] == pytest.approx(long, rel=1e-9)


def test_probabilities_are_distilled_by_their_divergence():
    class Logits(nn.Module):
        parameterization, takes_levels = {"x": "logits"}, False

        def __init__(self, logits):
            super().__init__()
            self.process, self.logits = process_of(Flow(), Euclidean(3)), logits

        def forward(self, x_t, t, mask=None, condition=None):
            logits = self.logits.expand_as(x_t["x"])
            return Estimate(self.process, x_t, t, {"x": logits.softmax(-1)}, {"x": logits})

    p, q = (torch.tensor(law, dtype=torch.float64) for law in ([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]))
    x, t, mask = {"x": normal(2, 4, 3)}, torch.tensor([0.5, 1.0]).double(), size_mask(torch.tensor([4, 2]))
    loss = Distill(Logits(p.log()), 2)
    args = ({}, x, {}, t, mask, None, Random(0, 2))
    assert loss.errors(Logits(p.log() + 7), *args)["x"] == pytest.approx(torch.zeros(2).double(), abs=1e-12)
    expected = (p * (p / q).log()).sum().expand(2)
    assert loss.errors(Logits(q.log()), *args)["x"] == pytest.approx(expected, rel=1e-12)


def test_padding_and_the_other_samples_change_nothing():
    space = ZeroCenterOfMass(2)
    process = process_of(Cosine(), space)
    teacher = single(process, 0.5)
    student, loss = Affine(process, lambda t: 0.3 + 0 * t), Distill(teacher, 4)
    mask = size_mask(torch.tensor([5, 3]))
    x_0 = space.project(normal(2, 5, 2) * mask[..., None], mask)
    whole, _ = loss(student, {"x": x_0}, mask, None, Random(0, 2))
    alone, _ = loss(student, {"x": x_0[1:, :3]}, mask[1:, :3], None, Random(0, torch.tensor([1])))
    assert alone == pytest.approx(whole[1:], rel=1e-6)
    assert float(whole[1]) > 0


def test_times_are_those_of_the_grid_all_alike_likely():
    for grid in ("uniform", "quadratic"):
        t, factor = Distill(mixture(Cosine()), 5, grid).draw(Random(0, 5000), process_of(Cosine()))
        found, counts = t.unique(return_counts=True)
        assert found == pytest.approx(times(5, grid).float(), rel=1e-6)
        assert factor.unique().tolist() == [1.0]
        assert (counts - 1000).abs().max() < 4 * (5000 * 0.2 * 0.8) ** 0.5


def test_conditions_are_lost_for_teacher_and_student_together():
    seen = []

    class Told(Affine):
        def forward(self, x_t, t, mask=None, condition=None):
            seen.append(condition["class"].clone())
            return super().forward(x_t, t)

    process, x_0 = process_of(Cosine()), {"x": torch.randn(64, 1, 2)}
    teacher, student = (Told(process, lambda t: 0 * t + 0.5) for _ in range(2))
    Distill(teacher, 4, condition_dropout=0.5)(
        student, x_0, all_of(x_0), {"class": torch.zeros(64, dtype=torch.long)}, Random(0, 64)
    )
    assert len(seen) == 3  # two steps of the teacher, one of the student
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert 16 < int((seen[0] < 0).sum()) < 48


class Small(nn.Module):
    """A network of one number."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, x, level, mask, condition):
        return {"x": self.layers(torch.cat([x["x"], level[:, None].expand_as(x["x"])], -1))}


def test_students_of_two_steps_and_of_one_follow_the_flow_where_ddim_cannot():
    """Two lumps in one dimension. DDIM with the exact denoiser misses its own limit by 0.44 and 0.89."""
    process, means, stds = process_of(Cosine(), Euclidean(1)), torch.tensor([-1.0, 0.8]), torch.tensor([0.2, 0.1])
    exact = AnalyticDenoiser(process, [0.4, 0.6], {"x": (means.view(2, 1, 1), stds.view(2, 1, 1))})
    kind, mask = (torch.rand(4000) < 0.6).long(), torch.ones(128, 1, dtype=torch.bool)
    x_0, z = (means[kind] + stds[kind] * torch.randn(4000)).view(-1, 1, 1), {"x": torch.randn(1000, 1, 1)}
    limit = DDIM(128)(exact, z)["x"]
    teacher, student = exact, Denoiser(Small(), process, "v")
    for steps, updates, allowed in ((2, 600, 0.26), (1, 250, 0.3)):  # the first begins from nothing
        loss, optimizer = Distill(teacher, steps), torch.optim.Adam(student.train().parameters(), 5e-3)
        for k in range(updates):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - k / updates)
            batch = {"x": x_0[torch.randint(0, 4000, (128,))]}
            loss(student, batch, mask, None, Random(k, 128))[0].mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        missed = [(DDIM(steps)(d, z)["x"] - limit).square().mean().sqrt() for d in (student.eval(), exact)]
        assert missed[0] < allowed < 0.6 * missed[1], missed
        teacher = copy.deepcopy(student)


# The teacher


def test_the_teacher_is_neither_trained_nor_saved_nor_copied():
    teacher = Denoiser(nn.Linear(2, 2), process_of(Cosine()), "v").train()
    loss = Distill(teacher, 4)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert copy.deepcopy(loss).teacher is teacher
    assert not teacher.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"grid": "log_snr"}, r"grid must be one of \['quadratic', 'uniform'\]"),
        ({"weighting": "snr"}, "weighting must be one of"),
    ],
)
def test_what_a_student_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Distill(**{"teacher": mixture(Cosine()), "steps": 4, **change})


def test_what_cannot_be_distilled():
    category = JointProcess({"c": CategoricalProcess(Cosine(), [0.5, 0.5], Euclidean(2))})
    network = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'c' is categorical: it has no deterministic steps"):
        Distill(Denoiser(network, category, "logits"), 4)
    with pytest.raises(ValueError, match="'x' is estimated by its noise, which says nothing"):
        Distill(Denoiser(network, process_of(Cosine()), "noise"), 4)
    with pytest.raises(ValueError, match="sees its own last estimate"):
        Distill(Denoiser(network, process_of(Cosine()), "v", self_condition=True), 4)


# Whole models


def test_the_students_on_the_way():
    assert students(64, 8) == [32, 16, 8]
    assert students(2, 1) == [1]
    assert students(24, 3) == [12, 6, 3]
    for first, last in ((60, 8), (8, 8), (4, 8), (64, 0), (7, 3), (0, 1)):
        with pytest.raises(UserError, match=f"^--start {first} halved again and again is never --steps {last}"):
            students(first, last)


SHORT = {"steps": (4, 1), "updates": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that nobody trained, with its examples beside it."""
    folder = tmp_path_factory.mktemp("teacher")
    examples.write(folder / "examples.sdf")
    model = examples.model()
    model.sampler, model.info = Ancestral(8, "quadratic"), {"training": {"preset": "tiny"}, "licence": "CC0-1.0"}
    model.save(folder / "teacher")
    return folder / "teacher"


@pytest.fixture(scope="module")
def whole(teacher):
    """A folder in which it was halved twice, from four steps."""
    said = []
    model = distill(teacher, [teacher.parent / "examples.sdf"], teacher.parent / "out", say=said.append, **SHORT)
    return teacher.parent / "out", model, said


def test_a_model_is_halved_and_halved_and_still_samples(whole, teacher):
    out, model, said = whole
    assert {path.name for path in out.iterdir()} == {"config.yaml", "2-steps", "1-steps", "model"}
    assert [line for line in said if line.endswith(":")] == ["4 steps to 2:", "2 steps to 1:"]
    assert [load(out / name).sampler.steps for name in ("2-steps", "1-steps")] == [2, 1]
    assert (type(model.sampler), model.sampler.steps, model.sampler.grid) == (DDIM, 1, "quadratic")  # as the teacher's
    calls = []
    model.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    assert len(model.sample(5)) == 5
    assert len(calls) == 1
    assert model.info["training"]["parent"] == {
        "name": "teacher",
        "weights_sha256": sha256(teacher / "model.safetensors"),
        "training": {"preset": "tiny"},
    }
    assert model.info["training"]["distill"] == [2, 1]
    card = (out / "model" / "README.md").read_text()
    assert "distilled to 1 steps, halving from 4, from the model teacher" in card
    assert "licence of that model: CC0-1.0" in card
    assert json.loads((out / "model" / "config.json").read_text())["sampler"]["steps"] == 1


def test_a_student_begins_as_its_teacher_and_learns_only_slightly_different_numbers(whole, teacher):
    before, after = (load(folder).denoiser.state_dict() for folder in (teacher, whole[0] / "2-steps"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(value, after[name], atol=0.01) for name, value in before.items())
    assert not all(torch.equal(value, after[name]) for name, value in before.items())


class Interrupted(Callback):
    """Ctrl-C after some batches."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, trainer, *_):
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("batches", [2, 6])
def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(whole, teacher, tmp_path, batches, monkeypatch):
    """In the first student, and in the second."""
    from gendiff.train import run as module

    callback, make = Interrupted(batches), module.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_trainer", lambda **o: make(**{**o, "callbacks": [*o["callbacks"], callback]}))
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, [teacher.parent / "examples.sdf"], tmp_path / "out", say=None, **SHORT)
    assert not (tmp_path / "out" / "model").exists()
    distill("", [], tmp_path / "out", resume=True, say=None)
    for name in ("model.safetensors", "config.json"):
        mine, theirs = ((folder / "model" / name).read_bytes() for folder in (tmp_path / "out", whole[0]))
        assert mine == theirs, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": (6, 4)}, "^--start 6 halved again and again is never --steps 4"),
        ({"model": "nowhere"}, "^nowhere: no such model"),
        ({"model": "sketches-digits"}, "examples.sdf: "),
        ({"trainer": {"devices": 2}}, "^--trainer.devices: a student is trained on one device"),
        ({"updates": 0}, "^--steps must be at least 1, got 0"),
    ],
)
def test_a_refused_distillation_leaves_no_folder(teacher, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        distill(
            **{
                "model": teacher,
                "files": [teacher.parent / "examples.sdf"],
                "out": tmp_path / "out",
                "say": None,
                **change,
            }
        )
    assert not (tmp_path / "out").exists()


def test_no_folder_is_written_over_and_none_resumed_that_is_none(whole, teacher, tmp_path):
    with pytest.raises(UserError, match="already exists; add --resume"):
        distill(teacher, [teacher.parent / "examples.sdf"], whole[0], say=None)
    with pytest.raises(UserError, match="holds no distillation to resume"):
        distill("", [], tmp_path, resume=True, say=None)
    (tmp_path / "config.yaml").write_text("files: []\n")
    with pytest.raises(UserError, match="is not the configuration of a distillation"):
        distill("", [], tmp_path, resume=True, say=None)


def test_the_command(teacher, tmp_path, capsys):
    words = [
        "distill",
        teacher,
        teacher.parent / "examples.sdf",
        "--out",
        tmp_path / "out",
        "--start",
        "2",
        "--steps",
        "1",
    ]
    assert main([*map(str, words), "--updates", "1", "--batch-size", "8"]) == 0
    assert "made a model of 1 steps" in capsys.readouterr().out
    assert load(tmp_path / "out").sampler.steps == 1
    assert main(["distill", str(teacher), "--out", str(tmp_path / "no")]) == 2
    assert "write gendiff distill MODEL FILE" in capsys.readouterr().err
    assert main([*map(str, words[:3]), "--out", str(tmp_path / "no"), "--start", "3"]) == 1
    assert capsys.readouterr().err.startswith("gendiff: error: --start 3 halved again and again is never --steps 8")
    assert not (tmp_path / "no").exists()


def test_students_run_through_the_compiler(teacher, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *args: calls.append(1) or function(*args))
    files, weights = [teacher.parent / "examples.sdf"], []
    for name, wanted in (("plain", False), ("compiled", True)):
        options = {"steps": (2, 1), "updates": 2, "batch_size": 8, "compile": wanted, "say": None}
        weights.append(distill(teacher, files, tmp_path / name, **options).denoiser.state_dict())
        assert bool(calls) == wanted
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
