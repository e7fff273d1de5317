"""Formulas: their text, their law, and models that are told the elements from the start."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

import examples
from gendiff.cli import main
from gendiff.config import build, describe
from gendiff.denoise import AnalyticDenoiser, Denoiser
from gendiff.distill import Distill
from gendiff.files import UserError
from gendiff.likelihood import variational_bound
from gendiff.modalities.molecules.formulas import Composition, read_formula, tally, write_formula
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.model import Model, load
from gendiff.objective import Bound, Objective
from gendiff.ops import Random, size_mask
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM, Ancestral, DPMSolver, Heun
from gendiff.schedule import Cosine, Flow
from gendiff.space import Euclidean, ZeroCenterOfMass

FORMULAS = {"CH4": 3, "H2O": 5, "H3N": 2, "CO2": 1, "C2H2O": 4, "CH2O2": 2}
ELEMENTS = [1, 6, 7, 8]


def composition():
    return Composition(Flow(), Euclidean(4), ELEMENTS, FORMULAS)


def gumbel(u):
    return -torch.log(-torch.log(torch.as_tensor(u, dtype=torch.float64)))


def noise_of(u, n, mask=None):
    """Noise whose first number stands for the share u; the others say nothing."""
    z = torch.randn(len(u), n, 4, dtype=torch.float64)
    z[:, 0, 0] = gumbel(u)
    return z


def formulas_of(x):
    return [write_formula(dict(zip(ELEMENTS, row, strict=True))) for row in x.sum(1).long().tolist()]


def one_hot(*numbers):
    return torch.nn.functional.one_hot(torch.tensor([ELEMENTS.index(z) for z in numbers]), 4).double()


# Text


def test_formulas_are_those_of_rdkit():
    for mol, text in zip(examples.molecules(), tally_each(), strict=True):
        assert text == CalcMolFormula(mol)
        assert read_formula(text) == Counter(atom.GetAtomicNum() for atom in mol.GetAtoms())
    assert write_formula({1: 2, 8: 1}) == "H2O"
    assert write_formula({1: 1, 17: 1}) == "ClH"  # without carbon by the alphabet
    assert write_formula({6: 2, 1: 5, 35: 1}) == "C2H5Br"
    assert read_formula("CH3CH2OH") == {6: 2, 1: 6, 8: 1}


def tally_each():
    return [next(iter(tally(MoleculeArrays.from_mols([mol])))) for mol in examples.molecules()]


@pytest.mark.parametrize("text", ["", "c2", "C2H5x", "Xx", "2C", "C-1", "C 2", "D2O", "C1000", "C²"])
def test_what_is_no_formula(text):
    with pytest.raises(ValueError, match="is no formula, as C7H10O2 is"):
        read_formula(text)


def test_formulas_are_counted():
    assert tally(examples.arrays()) == Counter(tally_each())
    assert sum(tally(examples.arrays()).values()) == len(examples.SMILES)


# The law


def test_formulas_are_drawn_as_often_as_they_occur():
    """On a grid of shares the counts are exact: of five atoms C2H2O, CH4 and CH2O2 as 4 to 3 to 2."""
    u = (torch.arange(900) + 0.5) / 900
    x = composition().prior(noise_of(u, 5), torch.ones(900, 5, dtype=torch.bool))
    assert Counter(formulas_of(x)) == {"C2H2O": 400, "CH4": 300, "CH2O2": 200}
    x = composition().prior(noise_of(u, 5), size_mask(torch.tensor([3] * 900), 5))
    assert Counter(formulas_of(x)) == {"H2O": 750, "CO2": 150}
    assert not x[:, 3:].any()
    assert (x[:, :3].sum(-1) == 1).all()


def test_the_ends_of_the_noise_draw_formulas_too():
    z = noise_of([0.5, 0.5], 3)
    z[:, 0, 0] = torch.tensor([-1e4, 1e4])
    assert set(formulas_of(composition().prior(z, torch.ones(2, 3, dtype=torch.bool)))) == {"H2O", "CO2"}


def test_heavier_elements_come_first():
    x = composition().prior(noise_of([0.99], 5), torch.ones(1, 5, dtype=torch.bool))
    assert x[0].argmax(-1).tolist() == [3, 3, 1, 0, 0]


def test_probabilities_of_all_orders_sum_to_one():
    for n in (3, 4, 5):
        rows = list(itertools.product(range(4), repeat=n))
        x = torch.nn.functional.one_hot(torch.tensor(rows), 4).double()
        p = (-composition().prior_kl(x, torch.ones(len(x), n, dtype=torch.bool))).exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-6)
        assert (p > 0).sum() < len(p)
    x = one_hot(8, 1, 1)[None]
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2))
    for state, mask in ((x, None), (padded, size_mask(torch.tensor([3]), 5))):
        assert float(composition().prior_kl(state, mask)) == pytest.approx(-math.log(5 / 6 / 3), abs=1e-6)
    assert composition().prior_kl(one_hot(6, 6)[None]).tolist() == [math.inf]


def test_what_is_known_stays_and_the_formula_contains_it():
    """Oxygen in the second place: CH4 is out, and the two others keep their odds; the rest fills the free places."""
    u = (torch.arange(600) + 0.5) / 600
    mask, known = torch.ones(600, 5, dtype=torch.bool), torch.zeros(600, 5, 4, dtype=torch.float64)
    known[:, 1, 3] = 1
    keep = torch.zeros(600, 5, 1, dtype=torch.bool)
    keep[:, 1] = True
    x = composition().prior_given(noise_of(u, 5), mask, known, keep)
    assert Counter(formulas_of(x)) == {"C2H2O": 400, "CH2O2": 200}
    assert (x[:, 1].argmax(-1) == 3).all()
    joint = JointProcess({"position": GaussianProcess(Flow(), ZeroCenterOfMass(3)), "element": composition()})
    noise = {"position": torch.randn(600, 5, 3).double(), "element": noise_of(u, 5)}
    both = joint.prior_given(noise, mask, {"element": known}, {"element": keep})
    assert Counter(formulas_of(both["element"])) == Counter(formulas_of(x))
    assert torch.equal(both["position"], joint.prior(noise, mask)["position"])


def test_without_a_formula_that_contains_it_the_nearest_loses_its_lightest_atoms():
    """Two nitrogens: no formula of five atoms has one, so each lacks two, and two of its lightest atoms go."""
    known, keep = one_hot(7, 7, 1, 1, 1)[None], torch.tensor([[True, True, False, False, False]])
    x = composition().prior_given(noise_of([0.1], 5), torch.ones(1, 5, dtype=torch.bool), known, keep)
    assert x[0].argmax(-1).tolist() in ([2, 2, 1, 0, 0], [2, 2, 3, 1, 1], [2, 2, 3, 3, 1])
    every = composition().prior_given(
        noise_of([0.1], 5), torch.ones(1, 5, dtype=torch.bool), known, keep.new_ones(1, 5)
    )
    assert torch.equal(every, known[:1])
    strange = one_hot(7, 7, 7, 7, 7, 7, 7)[None]  # seven atoms: no formula has as many
    seven = torch.ones(1, 7, dtype=torch.bool)
    assert torch.equal(composition().prior_given(noise_of([0.1], 7), seven, strange, seven), strange)


@pytest.mark.parametrize(
    ("elements", "formulas"),
    [(ELEMENTS, {}), ([1, 6], FORMULAS), (ELEMENTS, {"CH4": 0}), (ELEMENTS, {"CH4F": 1}), (ELEMENTS, {"methane": 1})],
)
def test_what_is_no_law(elements, formulas):
    with pytest.raises(ValueError, match=r"want formulas|unknown|no formula"):
        Composition(Flow(), Euclidean(4), elements, formulas)


# The field that no noise touches, under exact denoisers


def given_law():
    """Three atoms, hydrogens at 2 and carbons at -3, each within 0.1: their process, and the exact denoiser.

    A component of the mixture is one order of one formula, so the elements say where every atom is.
    """
    schedule = Cosine()
    elements = Composition(schedule, Euclidean(2), [1, 6], {"CH2": 3, "C2H": 1})
    process = JointProcess({"x": GaussianProcess(schedule, Euclidean(1)), "element": elements}, clock="x")
    orders = [order for order in itertools.product((0, 1), repeat=3) if sum(order) in (1, 2)]
    table = torch.tensor(orders)
    law = {"x": (places(table)[..., None], 0.1), "element": torch.nn.functional.one_hot(table, 2).double()}
    return process, AnalyticDenoiser(process, [(3 if sum(order) == 1 else 1) / 12 for order in orders], law)


def places(carbon):
    return torch.where(carbon == 1, -3.0, 2.0).double()


class Watch:
    """A hook that keeps every state."""

    def __init__(self):
        self.states = []

    def after(self, x, step, process, mask, random):
        self.states.append(dict(x))
        return x

    def finish(self, x, process, mask):
        return x


@pytest.mark.parametrize(
    "sampler", [Ancestral(60, "log_snr"), DDIM(12), Heun(6), DPMSolver(12)], ids=lambda s: type(s).__name__
)
def test_samplers_leave_it_and_draw_the_rest_by_it(sampler):
    process, exact = given_law()
    mask, random, watch = torch.ones(400, 3, dtype=torch.bool), Random(3, 400), Watch()
    start = {name: x.double() for name, x in process.prior(process.noise(mask, random), mask).items()}
    x = sampler(exact, start, mask, random=random, hooks=[watch])
    assert all(torch.equal(state["element"], start["element"]) for state in [*watch.states, x])
    carbon = x["element"][..., 1]
    share = (carbon.sum(1) == 1).double().mean()
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 400))
    if isinstance(sampler, Ancestral):
        away = x["x"][..., 0] - places(carbon)
        assert away.mean() == pytest.approx(0, abs=4 * 0.1 / math.sqrt(1200))
        assert away.std() == pytest.approx(0.1, rel=0.1)
        return
    alone = JointProcess({"x": process["x"]})  # the flow of a law whose places are known draws the same
    for row in (0, 5, 9):
        known = AnalyticDenoiser(alone, [1.0], {"x": (places(carbon[row])[None, :, None], 0.1)})
        plain = sampler(known, {"x": start["x"][row : row + 1]}, mask[:1], random=Random(3, 1))
        assert torch.allclose(plain["x"][0], x["x"][row], atol=1e-9)


def test_its_bound_is_its_probability():
    """The bound of an exact denoiser is -log p(elements) above that of positions whose law is known."""
    process, exact = given_law()
    carbon = torch.tensor([[0, 1, 0], [1, 1, 0]])
    x_0 = {
        "x": torch.tensor([[2.05, -3.1, 2.0], [-2.9, -3.0, 1.9]]).double()[..., None],
        "element": torch.nn.functional.one_hot(carbon, 2).double(),
    }
    element = -torch.tensor([3 / 4 / 3, 1 / 4 / 3]).double().log()
    assert torch.allclose(process["element"].prior_kl(x_0["element"]), element)
    for row in range(2):
        rows = {name: value[row : row + 1].repeat(600, 1, 1) for name, value in x_0.items()}
        mask, how = torch.ones(600, 3, dtype=torch.bool), {"steps": 100, "grid": "log_snr"}
        found = variational_bound(exact, rows, mask, random=Random(0, 600), **how)
        known = AnalyticDenoiser(
            JointProcess({"x": process["x"]}), [1.0], {"x": (places(carbon[row])[None, :, None], 0.1)}
        )
        plain = variational_bound(known, {"x": rows["x"]}, mask, random=Random(1, 600), **how)
        assert torch.allclose(found["prior"] - plain["prior"], element[row].expand(600), atol=1e-6)
        totals = torch.stack([found["total"] - element[row], plain["total"]])
        error = float((totals.var(1) / 600).sum().sqrt())
        assert float(totals.mean(1).diff()) == pytest.approx(0, abs=4 * error)


def test_there_is_nothing_to_learn_of_it():
    adapter = Molecules.fit(examples.arrays(), hydrogens="explicit", atom_types="given")
    denoiser = adapter.denoiser("tiny")
    batch = adapter.encode(examples.arrays()).batch(torch.arange(8))
    for loss in (adapter.objective(), Objective("velocity"), Bound(20), Bound(None)):
        total, parts = loss(denoiser, batch.state, batch.mask, None, Random(0, 8))
        assert set(parts) <= {"position", "element"}
        if isinstance(loss, Objective):
            assert set(parts) == {"position"}
        assert torch.isfinite(total).all()
    estimate = denoiser(batch.state, torch.full((8,), 0.4), batch.mask)
    assert torch.equal(estimate.data["element"], batch.state["element"])
    assert not estimate.logits


def test_rows_and_processes_belong_together():
    process = JointProcess({"x": GaussianProcess(Flow(), Euclidean(4)), "element": composition()}, "x")
    for rows, message in (
        ({"x": "v", "element": "logits"}, "'element' is given: its parameterization is 'given', got 'logits'"),
        ({"x": "given", "element": "given"}, "'x' wants a parameterization of .* got 'given'"),
    ):
        with pytest.raises(ValueError, match=message):
            Denoiser(torch.nn.Identity(), process, rows)
    assert Denoiser(torch.nn.Identity(), process, "v").parameterization == {"x": "v", "element": "given"}


def test_a_student_learns_positions_alone():
    """An exact teacher of one place for each element has an exact student: the place itself."""
    process, exact = given_law()
    loss, mask = Distill(exact, 4), torch.ones(6, 3, dtype=torch.bool)
    z = process.prior(process.noise(mask, Random(0, 6)), mask)
    z = {name: value.double() for name, value in z.items()}
    t = torch.full((6,), 0.25).double()  # its last step
    target = loss.target(z, t, mask)
    assert set(target) == set(loss.errors(exact, {}, z, {}, t, mask, None, Random(0, 6))) == {"x"}
    alone = JointProcess({"x": process["x"]})
    for row, carbon in enumerate(z["element"][..., 1]):
        known = AnalyticDenoiser(alone, [1.0], {"x": (places(carbon)[None, :, None], 0.1)})
        plain = Distill(known, 4).target({"x": z["x"][row : row + 1]}, t[:1], mask[:1])
        assert torch.allclose(plain["x"][0], target["x"][row], atol=1e-9)


# Models of molecules


@pytest.mark.parametrize("hydrogens", ["implicit", "explicit"])
def test_a_model_draws_the_formulas_of_its_examples(hydrogens, tmp_path):
    path, run = examples.write(tmp_path / "mine.sdf"), tmp_path / "run"
    words = f"--steps 2 --preset tiny --previews 0 --batch-size 8 --atom-types given --hydrogens {hydrogens}".split()
    assert main(["train", "molecules", str(path), "--out", str(run), *words]) == 0
    model, known = load(run), examples.arrays()
    known = tally(known if hydrogens == "explicit" else known.remove_hydrogens())
    assert model.modality.formulas == known
    assert json.loads((run / "model" / "config.json").read_text())["modality"]["formulas"] == known
    state, mask = drawn(model, 60)
    numbers = np.array(model.modality.elements)
    for row, real in zip(state["element"].argmax(-1).numpy(), mask.numpy(), strict=True):
        assert write_formula(Counter(numbers[row[real]].tolist())) in known
    again = build(describe(model.modality))
    assert describe(again) == describe(model.modality)
    assert len(model.sample(3, steps=2)) == 3
    with pytest.raises(UserError, match="'element' is categorical"):
        model.sample(1, sampler="unipc")
    assert torch.isfinite(model.log_prob(examples.arrays().select(slice(3)), steps=3)["log_prob"]).all()


def drawn(model, n):
    random = Random(0, n)
    mask = size_mask(model.modality.draw_sizes(random))
    process = model.denoiser.process
    return process.prior(process.noise(mask, random), mask), mask


def test_formulas_go_with_atom_types_that_are_given():
    adapter = Molecules.fit(examples.arrays(), atom_types="given")
    made = describe(adapter)
    for change in ({"formulas": {}}, {"atom_types": "cross-entropy"}):
        with pytest.raises((ValueError, UserError), match="formulas go with atom types that are given"):
            build({**made, **change})


def test_a_sample_depends_on_its_number_alone():
    adapter = Molecules.fit(examples.arrays(), atom_types="given")
    torch.manual_seed(0)
    model = Model(adapter, adapter.denoiser("tiny"), Ancestral(4))
    whole = [Chem.MolToMolBlock(mol) for mol in model.sample(9, seed=2)]
    for size in (1, 4):
        assert [Chem.MolToMolBlock(mol) for mol in model.sample(9, seed=2, batch_size=size)] == whole


def test_an_adapted_model_knows_the_new_formulas(tmp_path):
    parent = tmp_path / "parent"
    few = examples.write(tmp_path / "few.sdf", 2)  # C, O and N
    words = "--steps 2 --previews 0 --batch-size 2".split()
    assert main(["train", "molecules", str(few), "--out", str(parent), *words, "--atom-types", "given"]) == 0
    more = examples.write(tmp_path / "more.sdf")
    assert main(["train", "molecules", str(more), "--out", str(tmp_path / "child"), "--from", str(parent), *words]) == 0
    child = load(tmp_path / "child").modality
    assert child.atom_types == "given"
    assert child.formulas == tally(examples.arrays().remove_hydrogens())
    assert 9 in child.elements


# Edits


def model_of(hydrogens, atom_types):
    adapter = Molecules.fit(examples.arrays(), hydrogens=hydrogens, atom_types=atom_types)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(adapter, adapter.denoiser("tiny"), Ancestral(8))


def named(smiles):
    return next(mol for mol in examples.molecules() if mol.GetProp("_Name") == smiles)


@pytest.mark.parametrize("atom_types", ["given", "cross-entropy", "categorical", "squared-error"])
def test_isomers_have_the_atoms_of_the_input_whatever_the_recipe(atom_types):
    model = model_of("explicit", atom_types)
    for smiles in ("NCCO", "C1CO1"):
        for mol in model.edit([named(smiles)], "isomers", 5, steps=4).records:
            assert CalcMolFormula(mol) == CalcMolFormula(named(smiles))


def test_isomers_of_several_molecules_and_of_formulas_never_seen():
    model, given = model_of("explicit", "given"), [named("NCCO"), named("OO")]
    made = model.edit(given, "isomers", steps=4).records
    assert [CalcMolFormula(mol) for mol in made] == [CalcMolFormula(mol) for mol in given]
    unseen = Chem.AddHs(Chem.MolFromSmiles("OC#N"))
    from rdkit.Chem import AllChem

    AllChem.EmbedMolecule(unseen, randomSeed=1)
    assert "CHNO" not in model.modality.formulas
    assert {CalcMolFormula(mol) for mol in model.edit([unseen], "isomers", 3, steps=4).records} == {"CHNO"}


def test_isomers_of_models_of_heavy_atoms_say_how_many_have_the_hydrogens():
    result = model_of("implicit", "given").edit([named("NCCO")], "isomers", 30, steps=4)
    same = [CalcMolFormula(mol) == "C2H7NO" for mol in result.records]
    assert [mol.GetProp("isomer") == "true" for mol in result.records] == same
    assert result.remark.startswith(f"{sum(same)} of 30 have as many hydrogens as the input")
    heavy = Counter({6: 2, 7: 1, 8: 1})
    assert all(
        Counter(a.GetAtomicNum() for a in mol.GetAtoms() if a.GetAtomicNum() > 1) == heavy for mol in result.records
    )


def test_what_isomers_want(tmp_path, capsys):
    model_of("explicit", "given").save(tmp_path / "model")
    bare = tmp_path / "bare.sdf"
    bare.write_text(Chem.MolToMolBlock(Chem.RemoveHs(named("CCO"))) + "$$$$\n")
    words = ["edit", str(tmp_path / "model"), str(bare), "--task", "isomers", "-o", str(tmp_path / "out.sdf")]
    for extra, status, message in (
        ([], 1, "the input lacks 6 hydrogens, and this model draws all atoms; add them to the file"),
        (["--keep", "1"], 1, "--keep belongs to grow and link"),
        (["--size", "5-8"], 1, "--size belongs to grow and link; isomers takes its sizes from the input"),
    ):
        assert main([*words, *extra]) == status
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.sdf").exists()
    whole = examples.write(tmp_path / "whole.sdf", 3)
    words[2] = str(whole)
    assert main([*words, "--steps", "2"]) == 0
    assert "3 molecules" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["task"] == "isomers"
    words[2:3] = [str(examples.write(tmp_path / "a.sdf", 2)), "--which", "1"]
    words[words.index("isomers")] = "interpolate"
    assert main(words) == 1
    assert "'element' is categorical" in capsys.readouterr().err


@pytest.mark.parametrize("hydrogens", ["implicit", "explicit"])
def test_a_formula_is_enough_for_isomers(hydrogens, tmp_path, capsys):
    model_of(hydrogens, "given").save(tmp_path / "model")
    words = ["edit", str(tmp_path / "model"), "C2H7NO", "--task", "isomers", "-n", "6", "--steps", "3", "-o"]
    assert main([*words, str(tmp_path / "out.sdf")]) == 0
    assert "read" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["input"] == [{"formula": "C2H7NO"}]
    made = list(Chem.SDMolSupplier(str(tmp_path / "out.sdf"), removeHs=False, sanitize=False))
    for mol in made:
        counts = Counter(atom.GetAtomicNum() for atom in mol.GetAtoms())
        assert {number: counts[number] for number in (6, 7, 8)} == {6: 2, 7: 1, 8: 1}
        assert counts[1] == 7 or (hydrogens == "implicit" and mol.GetProp("isomer") == "false")
    assert len(made) == 6
    for text, message in (
        ("C2H7N0x", "C2H7N0x: no such file"),
        ("C2H7Cl", "element of atomic number 17; this model knows"),
        ("C40H82", "and the model knows molecules of at most"),
    ):
        words[2] = text
        assert main([*words, str(tmp_path / "no.sdf")]) == 1
        assert message in capsys.readouterr().err
    words[4] = "vary"
    assert main([*words, str(tmp_path / "no.sdf")]) == 1
    assert not (tmp_path / "no.sdf").exists()


@pytest.mark.parametrize("hydrogens", ["implicit", "explicit"])
def test_what_grows_has_a_formula_of_the_examples_around_what_stays(hydrogens):
    model, given = model_of(hydrogens, "given"), named("CCO")
    for mol in model.edit([given], "grow", 8, keep=[1, 3], steps=3, resamples=2, sizes=(4, None)).records:
        assert [mol.GetAtomWithIdx(i).GetSymbol() for i in (0, 1)] == ["C", "O"]
        counts = Counter(a.GetAtomicNum() for a in mol.GetAtoms() if hydrogens == "explicit" or a.GetAtomicNum() > 1)
        assert write_formula(counts) in model.modality.formulas


def test_variations_keep_their_elements():
    model = model_of("explicit", "given")
    for mol in model.edit([named("NCCO")], "vary", 4, strength=0.6).records:
        assert CalcMolFormula(mol) == "C2H7NO"
