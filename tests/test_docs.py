"""What docs/extend.md tells people to write does what it says."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from gendiff.denoise import AnalyticDenoiser
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import RK45
from gendiff.schedule import VP, Flow, Linear
from gendiff.space import Euclidean

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.split("## A modality")[0], re.S)
"""Those of the last section are parts of a package: see test_pointcloud_adapter.py."""


def mixture(schedule):
    """Two lumps in the plane, and a batch of prior states."""
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(2))})
    means = torch.tensor([[-1.0, 0.3], [0.8, -0.5]], dtype=torch.float64)[:, None]
    mask = torch.ones(64, 1, dtype=torch.bool)
    x_1 = {name: x.double() for name, x in process.prior(process.noise(mask, Random(0, 64))).items()}
    return AnalyticDenoiser(process, [0.4, 0.6], {"x": (means, 0.3)}), x_1, mask


def written(block, **names):
    """What a block of the page defines, run with these names at hand."""
    exec(compile(block, "docs/extend.md", "exec"), names)
    return names


def test_the_page_has_the_blocks_this_file_runs():
    assert [re.search(r"class (\w+)|(\w+) =", block)[0] for block in BLOCKS] == [
        "class Midpoint", "samples =", "class Sine", "guided =",
    ]  # fmt: skip
    sampler = BLOCKS[0].split("\n\n\n", 1)[1]
    assert len([line for line in sampler.splitlines() if line.strip()]) < 30


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=["vp", "linear"])
def test_the_sampler_of_the_page_has_its_order(schedule):
    denoiser, x_1, mask = mixture(schedule)
    kind = written(BLOCKS[0])["Midpoint"]
    exact = RK45(rtol=1e-10, atol=1e-10)(denoiser, x_1, mask)["x"]
    errors = [
        (kind(steps, "log_snr")(denoiser, x_1, mask)["x"] - exact).square().mean().sqrt().item()
        for steps in (40, 80, 160)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert torch.tensor(coarse / fine).log2().item() == pytest.approx(kind.order, abs=0.3)


def test_the_second_block_samples_and_encodes():
    denoiser, x_1, mask = mixture(VP())
    kind = written(BLOCKS[0])["Midpoint"]
    x_0 = RK45()(denoiser, x_1, mask)
    found = written(BLOCKS[1], Midpoint=kind, denoiser=denoiser, x_1=x_1, x_0=x_0, mask=mask)
    assert (found["samples"]["x"] - x_0["x"]).abs().mean() < 0.1
    assert (found["codes"]["x"] - x_1["x"]).abs().mean() < 0.05


def test_the_schedule_of_the_page_is_one():
    schedule = written(BLOCKS[2])["Sine"]()
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t)
    assert torch.allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))
    assert torch.allclose(schedule.derivatives(t)[1], torch.pi / 2 * schedule.alpha(t))


def test_the_guidance_of_the_page_guides():
    denoiser, x_1, mask = mixture(Flow())
    guided = written(BLOCKS[3], denoiser=denoiser)["guided"]
    sampler = written(BLOCKS[0])["Midpoint"](40)
    plain, compact = (sampler(d, x_1, mask)["x"].square().mean() for d in (denoiser, guided))
    assert compact < 0.8 * plain


ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("| ---", "| method"))
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_method_of_the_page_is_where_it_says_with_its_test(row):
    root = Path(__file__).parents[1]
    assert len(row) == 5
    _, _, where, call, tests = row
    places, proofs = re.findall(r"`([\w/.]+)`", where), re.findall(r"`([\w/.]+?)(?:::(\w+))?`", tests)
    assert places
    assert proofs
    folder = (root / "gendiff" / places[0]).parent
    assert all((root / "gendiff" / place).is_file() or (folder / place).is_file() for place in places)
    for file, name in proofs:
        assert (root / "tests" / file).exists()
        assert not name or f"def {name}(" in (root / "tests" / file).read_text(encoding="utf-8")
    package = "\n".join(path.read_text(encoding="utf-8") for path in (root / "gendiff").rglob("*.py"))
    for name in re.findall(r"\b([A-Z]\w+)\(", call):
        assert f"class {name}" in package
