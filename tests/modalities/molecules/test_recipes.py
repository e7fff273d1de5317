"""How molecules are learned: every choice trains, is remembered and means what it says; the default is what it was."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
import yaml
from scipy.stats import kstest, norm

import examples
from gendiff.cli import main
from gendiff.cli.parsing import parse
from gendiff.cli.train import build_parser
from gendiff.config import build, describe
from gendiff.denoise import Denoiser, Estimate
from gendiff.files import UserError
from gendiff.likelihood import variational_bound
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.recipes import ATOM_TYPES, COUPLINGS, TARGETS, TIMES, OneHot, Recipe
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.model import Model, load
from gendiff.nn.egnn import EGNN
from gendiff.objective import LogNormal, NodeTransport, Objective, Power, Uniform
from gendiff.ops import Random
from gendiff.process import CategoricalProcess, GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, ReverseSDE
from gendiff.schedule import Flow, Polynomial
from gendiff.space import Euclidean, ZeroCenterOfMass

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "molecules"

CHOICES = {
    "target": tuple(TARGETS),
    "atom_types": ATOM_TYPES,
    "coupling": tuple(COUPLINGS),
    "times": tuple(TIMES),
    "self_condition": (False, True),
}


def fit(hydrogens="implicit", **recipe):
    return Molecules.fit(examples.arrays(), hydrogens=hydrogens, **recipe)


def data(adapter, rows=(3, 39, 0, 20, 11)):
    return adapter.encode(examples.arrays()).batch(torch.tensor(rows))


def denoiser(adapter, seed=0, noise=0.05):
    """A tiny one away from its start, where nothing moves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = adapter.denoiser("tiny").eval()
        for p in made.parameters():
            p.data += noise * torch.randn_like(p)
    return made


def test_the_default_is_what_it_was_before_there_were_choices():
    adapter = fit("explicit")
    gaussian = {
        "position": GaussianProcess(Flow(), ZeroCenterOfMass(3)),
        "element": GaussianProcess(Flow(), Euclidean(5)),
    }
    process = JointProcess(gaussian, "position")
    torch.manual_seed(0)
    network = EGNN(
        {"element": 5}, 2, 64, 3, normalization=8.0, distance_features=32, distance_range=4.0, vector_channels=8
    )
    rows = {"position": "residual", "element": "logits"}
    was = Denoiser(network, process, rows, {"element": adapter.element_scale})
    torch.manual_seed(0)
    now = adapter.denoiser("tiny")
    assert describe(now) == describe(was)
    assert all(torch.equal(a, b) for a, b in zip(now.parameters(), was.parameters(), strict=True))
    loss = Objective("velocity", {"element": 0.5, "charge": 0.5}, times=Power(1.5), max_weight=2500.0)
    assert describe(adapter.objective()) == describe(loss)
    assert describe(adapter.sampler()) == describe(Ancestral(100, "quadratic"))


def test_a_model_from_before_loads_unchanged(tmp_path):
    """Its configuration has none of the choices."""
    model = examples.model()
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    for name in (*CHOICES, "frequencies"):
        del config["modality"][name]
    path.write_text(json.dumps(config))
    old = load(tmp_path / "model")
    assert describe(old.modality) == describe(model.modality)
    for a, b in zip(old.sample(3, seed=1), model.sample(3, seed=1), strict=True):
        np.testing.assert_array_equal(a.GetConformer().GetPositions(), b.GetConformer().GetPositions())


@pytest.mark.parametrize(
    "words",
    [
        "--target data",
        "--target flow --network chiral-transformer --self-condition",
        "--target v --coupling permute",
        "--target noise --atom-types squared-error",
        "--atom-types categorical --self-condition",
        "--coupling align --times logit-normal --network transformer --self-condition",
    ],
)
def test_every_choice_trains_and_is_remembered(words, tmp_path):
    path, run = examples.write(tmp_path / "mine.sdf", 12), tmp_path / "run"
    options = "--steps 2 --preset tiny --previews 0 --hydrogens implicit --batch-size 6".split()
    assert main(["train", "molecules", str(path), "--out", str(run), *options, *words.split()]) == 0
    wanted = dict(zip(*[iter(words.replace("--self-condition", "--self-condition true").split())] * 2, strict=True))
    wanted = {name[2:].replace("-", "_"): value == "true" or value for name, value in wanted.items()}
    wanted.pop("network", None)
    known = json.loads((run / "model" / "config.json").read_text())["modality"]
    assert {name: known[name] for name in wanted} == wanted
    model = load(run)
    recipe = Recipe(**wanted)
    assert model.modality.recipe == recipe
    assert describe(model.sampler) == describe(recipe.sampler())
    assert model.denoiser.self_condition == model.denoiser.network.self_condition == recipe.self_condition
    assert len(model.sample(2, steps=3)) == 2
    assert torch.isfinite(model.log_prob(examples.arrays().select(slice(2)), steps=4)["log_prob"]).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_every_word_comes_back_from_a_configuration(choice):
    for word in CHOICES[choice]:
        adapter = fit(**{choice: word})
        again = build(describe(adapter))
        assert getattr(again, choice) == word
        assert describe(again) == describe(adapter)
        assert describe(again.denoiser("tiny")) == describe(adapter.denoiser("tiny"))
        assert describe(again.objective()) == describe(adapter.objective())


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_rows_on_their_paths_with_one_weight(target):
    adapter = fit(target=target)
    d, loss, t = adapter.denoiser("tiny"), adapter.objective(), torch.tensor([0.02, 0.1, 0.5, 0.9]).double()
    assert d.parameterization == {"position": target, "element": "logits"}
    if target == "noise":  # EDM: the simple loss at uniform times on the polynomial schedule
        assert describe(d.process["position"].schedule) == describe(Polynomial())
        assert isinstance(loss.times, Uniform)
        torch.testing.assert_close(loss.weight(d, "position", t), d.process.schedule.log_snr(t).exp())
    else:
        assert describe(d.process["position"].schedule) == describe(Flow())
        assert describe(loss.times) == describe(Power(1.5))
        torch.testing.assert_close(loss.weight(d, "position", t), 1 / t**2)


def test_times_are_the_laws_they_are_named_after():
    random = Random(0, 4000)
    laws = {
        "power": lambda t: t ** (1 / 1.5),
        "uniform": lambda t: t,
        "logit-normal": lambda t: norm.cdf(torch.logit(t)),
    }
    assert laws.keys() == TIMES.keys()
    for name, uniform in laws.items():
        adapter = fit(times=name)
        t, factor = adapter.objective().times(random, adapter.process())
        assert kstest(uniform(t.double()), "uniform").pvalue > 1e-3
        assert (factor == 1).all()
    assert isinstance(fit(times="logit-normal", target="noise").objective().times, LogNormal)
    assert isinstance(fit(times="power", target="noise").objective().times, Power)


def test_couplings_are_those_of_positions_and_the_sampler_draws_nothing():
    assert fit().objective().coupling is None
    for word, rotate in (("permute", False), ("align", True)):
        adapter = fit(coupling=word)
        assert describe(adapter.objective().coupling) == describe(NodeTransport("position", rotate))
        assert describe(adapter.sampler()) == describe(DDIM(100, "quadratic"))


@pytest.mark.parametrize("recipe", [{"coupling": "align"}, {"self_condition": True}, {"atom_types": "categorical"}])
def test_the_loss_of_a_molecule_is_its_own(recipe):
    """Padding and the other molecules of a batch change nothing."""
    adapter = fit(**recipe)
    d, loss = denoiser(adapter), adapter.objective()

    def losses(rows):
        batch = data(adapter, rows)
        return loss(d, batch.state, batch.mask, None, Random(4, batch.index))[0]

    rows = [3, 39, 0, 20, 11]
    torch.testing.assert_close(losses(rows), torch.cat([losses([k]) for k in rows]), rtol=1e-4, atol=1e-5)


def test_atom_types_are_processes_with_the_right_estimates():
    kinds = {"cross-entropy": GaussianProcess, "squared-error": OneHot, "categorical": CategoricalProcess}
    for word, kind in kinds.items():
        adapter = fit(atom_types=word, target="flow")
        d, batch = denoiser(adapter), data(adapter)
        assert type(d.process["element"]) is kind
        assert d.parameterization["element"] == ("flow" if word == "squared-error" else "logits")
        x_t = d.process.corrupt(
            batch.state, torch.full((5,), 0.5), d.process.noise(batch.mask, Random(0, 5)), batch.mask
        )
        estimate = d(x_t, torch.full((5,), 0.5), batch.mask)
        totals = estimate.data["element"][batch.mask].sum(-1)
        assert torch.allclose(totals, torch.ones(()), atol=1e-5) == (word != "squared-error")
        one_hot = ((x_t["element"] == 0) | (x_t["element"] == 1)).all()
        assert one_hot == (word == "categorical")


def test_categories_come_to_the_frequencies_of_the_atoms():
    for hydrogens in ("explicit", "implicit"):
        adapter = fit(hydrogens, atom_types="categorical")
        modelled = examples.arrays() if hydrogens == "explicit" else examples.arrays().remove_hydrogens()
        counts = np.array([(modelled.atomic_numbers == z).sum() for z in adapter.elements])
        law = torch.tensor(counts / counts.sum())
        assert torch.equal(adapter.process()["element"].law(law), law)
    for name, wrong in (("element", [0.5, 0.5]), ("mass", [1.0])):
        with pytest.raises(ValueError, match="frequencies are one number a category"):
            Molecules([6, 7, 8], {3: 1}, atom_types="categorical", frequencies={name: wrong})


def test_formal_charges_are_learned_like_elements():
    arrays = examples.arrays()
    charges = np.zeros(len(arrays.atomic_numbers), np.int8)
    charges[:4] = [1, -1, -1, 1]
    charged = MoleculeArrays(arrays.num_atoms, arrays.atomic_numbers, arrays.positions, charges)
    adapter = Molecules.fit(charged, hydrogens="explicit", atom_types="categorical")
    assert adapter.charges == [-1, 0, 1]
    law = torch.tensor([2, len(charges) - 4, 2]).double() / len(charges)
    torch.testing.assert_close(adapter.process()["charge"].law(law), law)
    d = denoiser(adapter)
    batch = adapter.encode(charged).batch(torch.arange(5))
    _, parts = adapter.objective()(d, batch.state, batch.mask, None, Random(0, 5))
    assert parts.keys() == {"position", "element", "charge"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("time", [0.001, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("estimate", [[0.9, 0.2, -0.1], [0.3, 0.4, 0.35], [-40.0, 0.5, 60.0]])
def test_one_hot_numbers_are_reconstructed_by_edms_window(estimate, time, dtype):
    """Log-probabilities of the categories, normal windows around 1, against fifty digits; far from the data, too."""
    process, t = OneHot(Polynomial(), Euclidean(3)), torch.tensor([time], dtype=dtype)
    data = torch.tensor([[estimate]], dtype=dtype)
    found = [process.reconstruction(k.expand(1, 1, 3), data, t).item() for k in torch.eye(3, dtype=dtype)]
    with mpmath.workdps(50):
        std = process.schedule.sigma(t.double()).item() / process.schedule.alpha(t.double()).item()
        edges = [[(edge - value) / std for edge in (0.5, 1.5)] for value in map(mpmath.mpf, estimate)]
        tails = [(low, high) if high < 0 else (-high, -low) for low, high in edges]  # where a cdf is not 1
        windows = [mpmath.ncdf(high) - mpmath.ncdf(low) for low, high in tails]
        wanted = [float(-mpmath.log(window / sum(windows))) for window in windows]
    relative, absolute = (1e-8, 1e-12) if dtype == torch.float64 else (1e-3, 1e-4)
    assert found == pytest.approx(wanted, rel=relative, abs=absolute)


def test_the_bound_of_the_likelihood_model_is_one_of_probabilities_of_elements():
    """A denoiser that knows the molecule pays nothing for its elements, whichever way they are learned."""
    bounds = []
    for word in ("cross-entropy", "squared-error"):
        adapter = fit(target="noise", atom_types=word)
        batch, process = data(adapter), adapter.process()
        logits = {"element": batch.state["element"].clamp(min=1e-30).log()} if word == "cross-entropy" else {}

        def knows(x_t, t, mask, condition, process=process, state=batch.state, logits=logits):
            return Estimate(process, x_t, t, dict(state), logits)

        knows.process = process
        parts = variational_bound(knows, batch.state, batch.mask, steps=20)
        first = torch.tensor([1 / 20])
        std = process.schedule.sigma(first) / process.schedule.alpha(first)
        entropy = 3 * (batch.mask.sum(1) - 1) * (0.5 * math.log(2 * math.pi) + std.log())  # of positions alone
        torch.testing.assert_close(parts["reconstruction"], entropy, rtol=1e-4, atol=1e-3)
        assert parts["diffusion"].abs().max() < 1e-5
        bounds.append(parts["total"])
    torch.testing.assert_close(*bounds, rtol=1e-4, atol=1e-3)


def test_the_network_sees_its_last_estimate_in_half_of_the_training_and_at_every_step_but_the_first():
    adapter = fit(self_condition=True)
    d, batch = denoiser(adapter), data(adapter)
    seen = []
    d.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs) > 4 and inputs[4] is not None))
    Ancestral(4)(d, d.process.prior(d.process.noise(batch.mask, Random(0, 5)), batch.mask), batch.mask)
    assert seen == [False, True, True, True]
    twice = []
    for k in range(40):
        seen.clear()
        adapter.objective()(d, batch.state, batch.mask, None, Random(k, batch.index))
        assert seen in ([False], [False, True])
        twice.append(len(seen) == 2)
    assert 10 <= sum(twice) <= 30
    t, x = torch.full((5,), 0.4), batch.state
    first = d(x, t, batch.mask).data
    second = d(x, t, batch.mask, None, first).data
    assert (second["position"] - first["position"]).abs().max() > 1e-4
    assert (second["element"] - first["element"]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"target": "noise", "coupling": "align"},
            "--coupling align wants straight paths, and --target noise has none",
        ),
        ({"target": "score"}, "--target must be one of residual, data, flow, v, noise, got 'score'"),
        ({"atom_types": "numbers"}, "--atom-types must be one of cross-entropy, squared-error, categorical"),
        ({"coupling": "batch"}, "--coupling must be one of none, permute, align"),
        ({"times": "log"}, "--times must be one of power, uniform, logit-normal"),
    ],
)
def test_what_does_not_go_together_is_one_line(options, words):
    with pytest.raises(UserError, match=words) as error:
        fit(**options)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=words):
        Molecules([6], {2: 1}, **options)


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    path = examples.write(tmp_path / "mine.sdf", 4)
    words = ["train", "molecules", str(path), "--out", str(tmp_path / "run"), "--steps", "1"]
    assert main([*words, "--target", "noise", "--coupling", "permute"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--coupling permute wants straight paths" in line
    assert not (tmp_path / "run").exists()
    assert main([*words, "--target", "score"]) == 2
    assert "score" in capsys.readouterr().err


def test_categories_have_no_code_and_no_density_and_samplers_of_scores_say_so(tmp_path, capsys):
    adapter = fit(atom_types="categorical")
    model = Model(adapter, denoiser(adapter))
    model.save(tmp_path / "model")
    source = [str(tmp_path / "model"), str(examples.write(tmp_path / "mine.sdf", 2))]
    encoding = ["encode", *source, "-o", str(tmp_path / "a.npz")]
    judging = ["logprob", *source, "-o", str(tmp_path / "a.csv"), "--method", "flow"]
    drawing = ["sample", source[0], "--sampler", "unipc", "-n", "2", "-o"]
    for words in (encoding, judging, [*drawing, str(tmp_path / "a.sdf")], [*drawing, f"{tmp_path / 'new'}/"]):
        assert main(words) == 1
        assert "'element' is categorical" in capsys.readouterr().err.strip().splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"model", "mine.sdf"}
    assert main([*drawing, str(tmp_path / "a.sdf"), "--sampler", "heun", "--steps", "2"]) == 0
    with pytest.raises(ValueError, match="'element' is categorical"):
        model.sample(1, sampler=ReverseSDE(3))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_train_takes_the_files_of_options(path):
    text = path.read_text(encoding="utf-8")
    assert f"--config examples/molecules/{path.name}" in text
    words = ["molecules", "--config", str(path), "--out", "run"]
    args = parse(build_parser(words), words)
    for name, value in yaml.safe_load(text).items():
        given = vars(args[name]) if name == "trainer" else {name: args[name]}
        assert given | (value if name == "trainer" else {name: value}) == given
    assert not Recipe(args.target, args.atom_types, args.coupling, args.self_condition, args.times).unfit()


def test_every_row_of_the_ablation_changes_one_thing_or_what_its_name_says():
    rows = [path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("qm9")]
    assert len(rows) == 17
    for path in rows:
        changed = len(yaml.safe_load(path.read_text(encoding="utf-8"))) - 1  # and the modality
        assert changed == (2 if path.stem == "compile-precision" else 1)


@pytest.mark.slow
def test_the_ablation_does_nothing_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("molecule_ablation", ROOT / "benchmarks" / "molecule_ablation.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    path = examples.write(tmp_path / "mine.npz")
    words = [str(path), "--out", str(tmp_path / "out"), "--minutes", "0.02", "--samples", "4", "--threads", "1"]
    words += ["--rows", "default", "align"]
    benchmark.main(words)
    first = capsys.readouterr()
    (tmp_path / "out" / "align" / "result.json").unlink()  # trained, but not judged
    monkeypatch.setattr(benchmark, "gendiff", lambda words: pytest.fail("trained again"))
    benchmark.main(words)
    second = capsys.readouterr()
    tables = [[line.split("|") for line in out.splitlines() if line.startswith("|")] for out in (first.out, second.out)]
    assert [row[1].strip() for row in tables[0]] == ["row", "---", "the file", "default", "align"]
    assert [row[:5] + row[6:] for row in tables[0]] == [row[:5] + row[6:] for row in tables[1]]  # but milliseconds
    assert "sha256" in first.out
    with pytest.raises(SystemExit, match="made with other settings"):
        benchmark.main([*words, "--seed", "1"])
