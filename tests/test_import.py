"""`import gendiff` is cheap, and every public name is there."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gendiff

ROOT = Path(__file__).parents[1]
HEAVY = [
    "rdkit",
    "pytorch_lightning",
    "matplotlib",
    "torch_geometric",
    "scipy",
    "e3nn",
    "sklearn",
    "jsonargparse",
    "PIL",
]
CORE = [
    "ops",
    "files",
    "solve",
    "config",
    "schedule",
    "space",
    "nn",
    "process",
    "denoise",
    "objective",
    "sample",
    "guide",
]


def fresh(code: str) -> object:
    """Run code in a new interpreter and return what it leaves in `result`."""
    code = f"import json, sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(json.dumps(result))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("modules", [[], [*CORE, "likelihood"]], ids=["package", "core"])
def test_import_loads_nothing_heavy(modules):
    lines = "\n".join(["import gendiff", *(f"import gendiff.{name}" for name in modules)])
    loaded = fresh(f"{lines}\nresult = [name for name in {HEAVY} if name in sys.modules]")
    assert loaded == []


@pytest.mark.parametrize("words", [["models"], ["models", "molecules-qm9"], ["data", "list"]])
def test_lists_wait_not_even_for_torch(words):
    assert fresh(f"from gendiff.cli import main\nmain({words})\nresult = 'torch' in sys.modules") is False


def test_a_help_waits_for_nothing_heavy():
    slow = ["pytorch_lightning", "matplotlib", "scipy.optimize", "scipy.stats", "torch_geometric"]
    code = f"""
from gendiff.cli import main
status = main(["train", "molecules", "--help"])
result = [status, [name for name in {slow} if name in sys.modules]]
"""
    assert fresh(code) == [0, []]


def test_a_mistake_does_not_wait_for_lightning():
    code = """
from gendiff.cli import main
status = [main(["train", "molecules", *words, "--out", "run"]) for words in (["none.sdf"], ["--nope"])]
result = [status, "pytorch_lightning" in sys.modules]
"""
    assert fresh(code) == [[1, 2], False]


def test_public_names_are_written_out_for_type_checkers():
    """They see neither a computed `__all__` nor names that are loaded when they are used."""
    tree = ast.parse(Path(gendiff.__file__).read_text(encoding="utf-8"))
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    (guarded,) = (node.body for node in tree.body if isinstance(node, ast.If))
    imported = {alias.asname or alias.name for node in guarded for alias in node.names}
    assert set(ast.literal_eval(values[0])) == {*gendiff._PUBLIC, "__version__"} == {*imported, "__version__"}


def test_train_is_a_function_and_a_room_from_the_start():
    code = (
        "import gendiff\nresult = [callable(gendiff.train), callable(gendiff.train.distill), callable(gendiff.train)]"
    )
    assert fresh(code) == [True] * 3


def test_every_public_name_is_there_whatever_was_loaded_before():
    """Also after all rooms are loaded, when Python has bound each room to its name."""
    kinds = fresh(
        """
import importlib, pkgutil, types, gendiff
def kinds():
    return {name: callable(getattr(gendiff, name)) for name in gendiff.__all__}
first = kinds()
for module in pkgutil.walk_packages(gendiff.__path__, "gendiff."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
result = [first, kinds(), gendiff.Model is gendiff.model.Model, sorted(gendiff.__all__) == sorted(dir(gendiff))]
"""
    )
    expected = {name: name != "__version__" for name in gendiff.__all__}
    assert kinds == [expected, expected, True, True]


def test_names_that_are_not_there():
    assert {"load", "train", "Model", "Denoiser", "DDIM", "Modality", "log_density"} <= set(gendiff.__all__)
    with pytest.raises(AttributeError, match="module 'gendiff' has no attribute 'Diffusion'"):
        gendiff.Diffusion  # noqa: B018
    with pytest.raises(ImportError):
        exec("from gendiff import Diffusion")
