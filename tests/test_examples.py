"""The examples run, and leave the pictures they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("two_dimensions", ["--steps", "5", "--points", "20"], ["two moons: trained", "UniPC(12)", "swiss roll"]),
        ("choose_a_sampler", ["--evaluations", "6", "--points", "64"], ["UniPC", "annealed Langevin", "exact samples"]),
    ],
)
def test_an_example_draws_its_picture(tmp_path, name, options, words):
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--out", tmp_path / "a.png", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_of_properties_runs(tmp_path):
    """The whole of it, with a network that has learned nothing."""
    words = ["--out", tmp_path / "out", "--steps", "2", "--samples", "12", "--guidance", "2", "--sampling-steps", "5"]
    command = [sys.executable, ROOT / "examples" / "molecules" / "properties.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("size alone", "guidance 2", "Spearman TPSA", "radius of gyration"))
    assert (tmp_path / "out" / "asked.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "options", "words", "made"),
    [
        ("trajectories", ["--count", "40"], ["jerk", "of the spectra"], ["trajectories.png", "new.npz"]),
        ("own_drawings", ["--count", "12"], ["40 new drawings", "in all 8: True"], ["new.svg", "completed.svg"]),
    ],
)
def test_an_example_of_sketches_runs(tmp_path, name, options, words, made):
    """The whole of it, with a network that has learned nothing."""
    command = [sys.executable, ROOT / "examples" / "sketches" / f"{name}.py", "--out", tmp_path / "out", "--steps", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words)
    assert all((tmp_path / "out" / file).stat().st_size > 1000 for file in made)
