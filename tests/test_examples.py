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
