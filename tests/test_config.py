"""Objects to JSON and back: nothing is lost, and a description can name nothing but what models are made of."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import pkgutil
from importlib.metadata import EntryPoint

import pytest
import torch

import examples
import gendiff
from gendiff import config
from gendiff.config import Configurable, build, describe
from gendiff.denoise import Denoiser
from gendiff.files import UserError
from gendiff.guide import Replacement, Skip
from gendiff.modalities.images.modality import Images
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.sketches.modality import Sketches
from gendiff.nn.egnn import EGNN
from gendiff.objective import (
    Antithetic,
    Bound,
    Hybrid,
    ImplicitScoreMatching,
    LogNormal,
    LossAware,
    NodeTransport,
    Objective,
    OptimalTransport,
    Piecewise,
    Power,
    SlicedScoreMatching,
    Uncertainty,
    Uniform,
)
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import (
    DDIM,
    RK45,
    Ancestral,
    DPMSolver,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseSDE,
    UniPC,
)
from gendiff.schedule import Cosine, Flow, Linear, Polynomial
from gendiff.sizes import PropertySizes
from gendiff.space import Euclidean, Space, ZeroCenterOfMass


def joint():
    return JointProcess(
        {
            "position": GaussianProcess(Flow(), ZeroCenterOfMass(3)),
            "element": CategoricalProcess(Cosine(), [0.2, 0.3, 0.5], Euclidean(3)),
        },
        clock="position",
    )


def network():
    return EGNN({"element": 3}, levels=2, width=8, layers=1)


THINGS = [
    Linear(),
    Linear(500, 0.001, 0.01),
    Cosine(),
    Polynomial(),
    Flow(),
    Space(3, "pair"),
    Euclidean(2, "grid", (4, 5)),
    ZeroCenterOfMass(2),
    joint(),
    network(),
    Denoiser(network(), joint(), {"position": "karras", "element": "logits"}, {"position": 2.0}, noise_level="time"),
    Objective({"position": "data"}, {"element": 0.25}, Power(2.0), 5.0, 0.2, 0.3),
    Objective(times=Uniform()),
    Objective(coupling=NodeTransport("x", True)),
    Objective(times=Antithetic(), gamma=3.0, coupling=OptimalTransport("x"), uncertainty=Uncertainty(8)),
    Objective(times=LogNormal(-1.0, 2.0)),
    Objective(times=Piecewise(50)),
    Objective(times=LossAware(7, 3, 0.01)),
    Hybrid(0.01, 20),
    ImplicitScoreMatching(),
    SlicedScoreMatching(2, "normal"),
    Bound(20),
    Bound(None, 0.01),
    Ancestral(7, "log_snr", "large"),
    DDIM(7, eta=0.5),
    Heun(7, coordinate="karras"),
    DPMSolver(7),
    UniPC(7, predictor_order=3),
    RK45(rtol=1e-4),
    ReverseSDE(7, noise=0.5),
    Langevin(7, corrections=2),
    PredictorCorrector(7, predictor=ReverseSDE()),
    Skip([2, 3], 1.75),
    Molecules([6, 1], {3: 2, 5: 1}, "explicit", [0, -1], 1.25, 0.375),
    Molecules(
        [6],
        {3: 2},
        conditions={"logP": [0.5, 1.25]},
        property_sizes=PropertySizes(["logP"], {3: 2}, {3: [0.5]}, {3: [[1.5]]}),
    ),
    Sketches({"cat": {3: 2}, "class": {4: 1}}, ["cat", "class"], scale=2.5, simplify=2.0, pen="gaussian", points=True),
    Images([8, 6], 1, {"cat": 2, "class": 1}, scale=0.75, flip=True),
]


def kinds():
    """Every public class of gendiff that says it is configurable and that can be made."""
    for module in pkgutil.walk_packages(gendiff.__path__, "gendiff."):
        if module.name.startswith(("gendiff.cli", "gendiff.report", "gendiff.train")):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            mine = inspect.isclass(kind) and kind.__module__ == module.name and not name.startswith("_")
            if mine and issubclass(kind, Configurable) and not inspect.isabstract(kind):
                yield kind


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
def test_round_trip(thing):
    text = json.dumps(describe(thing), allow_nan=False)
    again = build(json.loads(text))
    assert type(again) is type(thing)
    assert json.dumps(describe(again)) == text
    if isinstance(thing, torch.nn.Module):
        again.load_state_dict(thing.state_dict())  # the same parameters of the same shapes


def test_every_configurable_class_has_a_round_trip_above():
    def parts(value):
        if isinstance(value, dict):
            yield from [value["class"]] if "class" in value else []
            value = list(value.values())
        for item in value if isinstance(value, list) else []:
            yield from parts(item)

    covered = {name for thing in THINGS for name in parts(describe(thing))}
    bases = {"Configurable", "Schedule", "Process", "Sampler", "Modality", "Times", "Coupling"}
    missing = {f"{k.__module__}.{k.__qualname__}" for k in kinds() if k.__name__ not in bases} - covered
    assert not missing


def test_a_description_is_exact_and_says_only_arguments():
    assert describe(DDIM(7, eta=0.5)) == {
        "class": "gendiff.sample.ddim.DDIM",
        "steps": 7,
        "grid": "uniform",
        "eta": 0.5,
        "variance": "small",
        "temperature": 1.0,
    }
    assert describe((1, [2.5, None], {"a": True, 3: "b"})) == [1, [2.5, None], {"a": True, "3": "b"}]
    assert build({"a": [1, {"class": "gendiff.schedule.Flow"}]})["a"][1].alpha(torch.tensor(0.25)) == 0.75


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"bytes", torch.zeros(2), len, Flow, Replacement])
def test_what_cannot_be_rebuilt_is_not_described(thing):
    with pytest.raises(TypeError, match="cannot be written to a configuration"):
        describe([thing])


def test_an_object_must_keep_its_arguments():
    class Forgets(Configurable):
        def __init__(self, size: int):
            self.width = size

    with pytest.raises(TypeError, match="Forgets does not keep its argument 'size'"):
        describe(Forgets(3))


FOREIGN = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "shutil.rmtree",
    "torch.load",
    "torch.nn.Linear",
    "torch.nn.modules.linear.Linear",
    "gendiffx.schedule.Flow",
    "schedule.Flow",
    "Flow",
    ".Flow",
    "",
    "gendiff",
]
NOT_PARTS = [
    "gendiff.load",
    "gendiff.model.load",
    "gendiff.files.write_json",
    "gendiff.config.build",
    "gendiff.files.UserError",
    "gendiff.model.Model",
    "gendiff.ops.Random",
    "gendiff.sizes.SizeModel",
    "gendiff.files.os",
    "gendiff.files.Path",
    "gendiff.files.shutil.rmtree",
    "gendiff.config.importlib.import_module",
    "gendiff.modality.nn.Linear",  # torch's, through a door of gendiff
    "gendiff.denoise.GaussianProcess",  # ours, but not where it lives
    "gendiff.config.Configurable.__init__",
    "gendiff.config.__builtins__",
    "gendiff.schedule.",
    "gendiff..schedule.Flow",
    "gendiff.no_such_module.Flow",
    "gendiff.schedule.NoSuch",
]


@pytest.mark.parametrize("path", FOREIGN)
def test_foreign_names_are_refused(path, monkeypatch):
    monkeypatch.setattr(config.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(UserError, match="only classes of gendiff or of an installed adapter") as error:
        build({"class": path, "command": "true"}, "there/config.json")
    assert str(error.value).startswith("there/config.json: ")


@pytest.mark.parametrize("path", NOT_PARTS)
def test_nothing_of_gendiff_but_parts_of_models_can_be_named(path):
    with pytest.raises(UserError, match="names"):
        build({"class": path})


def test_private_helpers_are_refused(monkeypatch):
    class _Helper(Configurable):
        pass

    _Helper.__module__ = "gendiff.schedule"
    monkeypatch.setattr("gendiff.schedule._Helper", _Helper, raising=False)
    with pytest.raises(UserError, match="not a class that a model is made of"):
        build({"class": "gendiff.schedule._Helper"})


@pytest.mark.parametrize("value", [None, 3, ["gendiff.schedule.Flow"], {"class": "gendiff.schedule.Flow"}])
def test_a_class_is_named_by_a_string(value):
    with pytest.raises(UserError):
        build({"class": value})


WRONG = [
    {"class": "gendiff.schedule.Flow", "nope": 1},
    {"class": "gendiff.schedule.Flow", "self": 1},
    {"class": "gendiff.space.Euclidean"},
    {"class": "gendiff.space.Euclidean", "features": 0},
    {"class": "gendiff.space.Euclidean", "features": "many"},
    {"class": "gendiff.space.Euclidean", "features": {"class": "gendiff.schedule.Flow"}},
    {"class": "gendiff.sample.ddim.DDIM", "steps": 0},
    {"class": "gendiff.sample.ddim.DDIM", "steps": -3},
    {"class": "gendiff.sample.ddim.DDIM", "grid": "no such grid"},
    {"class": "gendiff.nn.egnn.EGNN", "features": 3, "levels": 1},
    {"class": "gendiff.nn.egnn.EGNN", "features": {"a": float("inf")}, "levels": 1},
    {"class": "gendiff.nn.egnn.EGNN", "features": {"a": 2}, "levels": None},
    {"class": "gendiff.nn.egnn.EGNN", "features": {"a": 2}, "levels": 1, "width": -8},
    {"class": "gendiff.process.JointProcess", "fields": []},
    {"class": "gendiff.process.JointProcess", "fields": {"x": 1}, "clock": "x"},
    {"class": "gendiff.denoise.Denoiser", "network": 1, "process": 2},
    {"class": "gendiff.modality.Modality"},
    {"class": "gendiff.modalities.molecules.modality.Molecules", "elements": [], "sizes": {}},
    {"class": "gendiff.modalities.molecules.modality.Molecules", "elements": [6], "sizes": {}},
    {"class": "gendiff.modalities.molecules.modality.Molecules", "elements": [999], "sizes": {"3": 1}},
    {"class": "gendiff.modalities.molecules.modality.Molecules", "elements": [6], "sizes": {"3": 1}, "rule": "magic"},
    {"class": "gendiff.modalities.molecules.modality.Molecules", "elements": [6], "sizes": {"x": 1}},
    {"class": "gendiff.modalities.molecules.modality.Molecules", "elements": [6], "sizes": {"3": 0}},
]


@pytest.mark.parametrize("description", WRONG, ids=lambda description: description["class"].split(".")[-1])
def test_wrong_arguments_are_one_line(description):
    with pytest.raises(UserError) as error:
        build([{"deep": description}], "there/config.json")
    name = description["class"].split(".")[-1]
    assert str(error.value).startswith(f"there/config.json: {name} cannot be built: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [400, 5_000])
@pytest.mark.parametrize(
    "wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: {"class": "gendiff.space.Space", "features": x}]
)
def test_depth_is_no_crash(depth, wrap):
    value = 1
    for _ in range(depth):
        value = wrap(value)
    with contextlib.suppress(UserError):  # fine where Python goes so deep, one line where not; no other error
        build(value, "there/config.json")


def test_an_installed_adapter_is_trusted_and_nobody_else(monkeypatch):
    assert config.trusted_packages() == {"gendiff"}
    mine = EntryPoint("examples", "examples.modality:Examples", config.GROUP)
    monkeypatch.setattr(config, "entry_points", lambda group: [mine] if group == config.GROUP else [])
    config.trusted_packages.cache_clear()
    try:
        monkeypatch.setattr(examples, "Part", type("Part", (Configurable,), {"__module__": "examples"}), raising=False)
        assert type(build({"class": "examples.Part"})) is examples.Part
        with pytest.raises(UserError, match="not a class that a model is made of"):
            build({"class": "examples.run"})
        with pytest.raises(UserError, match="only classes of gendiff"):
            build({"class": "os.system"})
    finally:
        config.trusted_packages.cache_clear()
