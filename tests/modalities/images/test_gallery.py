"""The examples of images: the gallery shows every system, and each has a file of options that train takes."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from gendiff.cli import main
from gendiff.cli.parsing import parse
from gendiff.cli.train import build_parser
from gendiff.modalities.images.modality import Images
from gendiff.modalities.images.records import ImageArrays
from gendiff.modalities.images.systems import SYSTEMS
from gendiff.modalities.images.write import write_images
from gendiff.model import Model

PAGE = (Path(__file__).parents[3] / "docs" / "images.md").read_text(encoding="utf-8")
FOLDER = Path(__file__).parents[3] / "examples" / "images"


def gallery():
    spec = importlib.util.spec_from_file_location("gallery", FOLDER / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_system_has_a_file_of_options_and_nothing_else_has():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*SYSTEMS}


@pytest.mark.parametrize("system", SYSTEMS)
def test_train_takes_the_options(system):
    path = FOLDER / f"{system}.yaml"
    words = ["--config", str(path), "--out", "run"]
    args = parse(build_parser(words), words)
    wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert wanted["system"] == system
    assert {name: args[name] for name in wanted} == wanted
    assert f"--config examples/images/{system}.yaml" in path.read_text(encoding="utf-8")


def test_the_gallery_shows_every_system():
    assert {*SYSTEMS} | {"sdedit", "ilvr", "repaint"} == {*gallery().SHOWN}


def test_the_gallery_runs_at_its_smallest(tmp_path, monkeypatch, capsys):
    module = gallery()
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--out", str(tmp_path), "--size", "smallest"])
    module.main()
    lines = (tmp_path / "gallery.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(module.SHOWN) + 3  # Palette has four rows
    for line in lines[2:]:
        picture = line.split("](")[1].split(")")[0]
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert sum("same: True" in line for line in lines) == 3
    assert lines[-1] in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    told = [command for line in lines[2:] for command in line.split("`")[1].split("; ")]
    made = [command for command in told if Path(shlex.split(command)[-1]).exists()]
    assert {command.split()[1] for command in made} == {"train", "classifier"}  # what they make is there
    for command in (command for command in told if command not in made):
        assert main(shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)
        assert len(Images.read([tmp_path / "new.npz"])[0]) == 6
        (tmp_path / "new.npz").unlink()


def test_the_page_names_every_system():
    table = PAGE.split("## 3. Systems")[1].split("##")[0]
    assert re.findall(r"^\| `(\w[\w-]*)`", table, re.M) == [*SYSTEMS]


@pytest.mark.slow
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    """One after another, with fewer steps, on untrained models."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    records = ImageArrays(rng.integers(0, 255, (12, 32, 32, 3), dtype=np.uint8), np.array(["cats", "dogs"] * 6))
    write_images(list(records), tmp_path / "photos")
    for run, system in (("photos", "cfg"), ("palette", "palette"), ("ddpm", "ddpm")):
        adapter = Images.fit(records, system=system)
        torch.manual_seed(0)
        Model(adapter, adapter.denoiser("tiny")).save(tmp_path / "runs" / run)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        fewer = re.sub(r"steps=\d+", "steps=2", block).replace("repaint_plan(50, 5, 5)", "repaint_plan(4, 2, 2)")
        exec(compile(fewer, "docs/images.md", "exec"), names)
    assert len(names["cats"]) == 16
    assert (tmp_path / "cats.npz").is_file()
    x, free = names["x"], names["free"].expand(8, 3, 32, 32)
    for name in ("told", "painted"):
        assert torch.equal(names[name]["pixel"][~free], x[~free])
    for record, given in zip(names["filled"], names["records"].pixels, strict=False):
        assert np.array_equal(record.pixels[~names["mask"]], given[~names["mask"]])
    coarse = [value.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)) for value in (names["alike"]["pixel"], x)]
    torch.testing.assert_close(*coarse, rtol=0, atol=1e-5)
    assert (len(names["filled"]), len(names["varied"])) == (8, 16)
    assert names["rough"]["pixel"].shape == x.shape
