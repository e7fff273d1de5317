"""The architecture: every import points to a lower floor, and heavy libraries stay in their rooms."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "gendiff"

FLOORS: list[set[str]] = [
    {"ops", "files", "solve", "wording", "shipped"},
    {"config"},  # stands on the errors of `files`; the marker `Configurable` is under all that a model is made of
    {"schedule", "space", "nn"},
    {"process"},
    {"denoise"},
    {"objective", "sample", "guide", "likelihood"},
    {"distill", "decoder", "metrics", "data", "catalog", "sizes", "download"},
    {"modality"},
    {"modalities"},
    {"model"},
    {"train", "report"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
CORE = set().union(*FLOORS[: LEVEL["modality"]])

CORE_LIBRARIES = {"torch", "numpy", "scipy"}
HEAVY = {  # library: where it may be imported
    "rdkit": lambda path: path.startswith("modalities/molecules/"),
    "torch_geometric": lambda path: path.startswith("modalities/molecules/"),
    "pytorch_lightning": lambda path: path.startswith(("train/", "cli/")) or path == "cli.py",
    "matplotlib": lambda path: path.startswith("report/") or path.endswith("/draw.py"),
    "e3nn": lambda path: path == "nn/steerable.py",
    "lightning": lambda path: False,  # the other name of pytorch_lightning
    "torchvision": lambda path: False,
}


def imports(source: str, path: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import: at the top, inside functions, for type checkers, and by name."""
    package = ["gendiff", *Path(path).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def room_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the room of a path or dotted name below gendiff: its first part, and which modality it is."""
    return parts[:2] if parts[0] == "modalities" else parts[:1]


def violations(source: str, path: str) -> list[str]:
    """Return what is wrong with the imports of the file at `path`, relative to gendiff."""
    room = room_of(Path(path).with_suffix("").parts)
    if room[0] not in LEVEL:
        return [f"{path}: {room[0]!r} is in no floor; add it to the table here and in docs/design.md"]
    wrong = []
    for line, name in imports(source, path):
        top, *rest = name.split(".")
        if top == "gendiff":
            if rest == ["__version__"]:
                continue
            target = room_of(tuple(rest)) if rest else ("",)
            inside = target == room and "/" in path
            if not inside and LEVEL.get(target[0], len(FLOORS)) >= LEVEL[room[0]]:
                wrong.append(f"{path}:{line}: {'/'.join(room)} imports {name}, which is not on a lower floor")
        elif top in HEAVY:
            if not HEAVY[top](path):
                wrong.append(f"{path}:{line}: {top} does not belong here")
        elif room[0] in CORE and top not in CORE_LIBRARIES and top not in sys.stdlib_module_names:
            wrong.append(f"{path}:{line}: the core imports torch, numpy and scipy only, not {top}")
    return wrong


FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down(path):
    assert violations((ROOT / path).read_text(), path) == []


def test_the_house_is_not_empty():
    rooms = {room_of(Path(path).with_suffix("").parts)[0] for path in FILES}
    assert {"ops", "files", "solve", "config", "schedule", "space", "nn", "process", "denoise", "objective"} <= rooms
    assert {
        "sample",
        "guide",
        "likelihood",
        "metrics",
        "data",
        "modality",
        "modalities",
        "model",
        "train",
        "cli",
    } <= rooms


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops.py", "import gendiff.sample"),
        ("ops.py", "from gendiff import process"),
        ("ops.py", "from gendiff.files import UserError"),  # the same floor is not lower
        ("process.py", "def f():\n    from gendiff.denoise import Denoiser"),
        ("process.py", "if TYPE_CHECKING:\n    from gendiff.denoise import Denoiser"),
        ("process.py", "import importlib\nimportlib.import_module('gendiff.denoise')"),
        ("process.py", "from .denoise import Denoiser"),
        ("sample/plan.py", "from ..guide import ClassifierFree"),
        ("guide/replacement.py", "from gendiff.sample.plan import Step"),
        ("process.py", "import gendiff"),
        ("modalities/molecules/read.py", "from gendiff.modalities.images.read import x"),
        ("modalities/molecules/read.py", "from gendiff.model import Model"),
        ("denoise.py", "import safetensors"),
        ("nn/egnn.py", "def f():\n    import e3nn"),
        ("metrics.py", "import sklearn"),
        ("model.py", "import rdkit.Chem"),
        ("modalities/images/draw.py", "from torch_geometric.data import Data"),
        ("report/html.py", "import pytorch_lightning as pl"),
        ("train/run.py", "import matplotlib.pyplot"),
        ("train/run.py", "import lightning"),
        ("attic.py", "import os"),
    ],
)
def test_the_check_finds(path, source):
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("process.py", "import math\nimport torch.nn\nfrom gendiff.ops import State\nfrom .space import Space"),
        ("sample/ddim.py", "from gendiff.sample.plan import Step\nfrom .sampler import Sampler"),
        ("nn/steerable.py", "def f():\n    import e3nn"),
        ("metrics.py", "import scipy.linalg"),
        (
            "modalities/molecules/read.py",
            "import rdkit\nfrom gendiff.modalities.molecules.records import x\nimport networkx",
        ),
        ("modalities/sketches/draw.py", "import matplotlib"),
        ("cli/train.py", "import pytorch_lightning\nfrom gendiff import __version__\nfrom gendiff.train import train"),
    ],
)
def test_the_check_allows(path, source):
    assert violations(source, path) == []
