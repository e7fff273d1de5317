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
from rdkit.Chem import AllChem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

import examples
from gendiff.cli import main
from gendiff.config import build, describe
from gendiff.denoise import AnalyticDenoiser, Denoiser
from gendiff.distill import Distill
from gendiff.files import UserError
from gendiff.guide import Autoguidance, Gradient
from gendiff.likelihood import log_density, variational_bound
from gendiff.modalities.molecules.formulas import Composition, read_formula, sizes_around, tally, write_formula
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


def test_what_no_formula_contains_is_refused_unless_all_is_known():
    mask = torch.ones(1, 5, dtype=torch.bool)
    known, keep = one_hot(7, 7, 1, 1, 1)[None], torch.tensor([[True, True, False, False, False]])
    with pytest.raises(ValueError, match=r"no formula .* contains those that are known"):
        composition().prior_given(noise_of([0.1], 5), mask, known, keep)
    with pytest.raises(ValueError, match="no formula of the training molecules has so many atoms"):
        composition().prior(noise_of([0.1], 6), torch.ones(1, 6, dtype=torch.bool))
    strange = one_hot(7, 7, 7, 7, 7, 7, 7)[None]
    seven = torch.ones(1, 7, dtype=torch.bool)
    assert torch.equal(composition().prior_given(noise_of([0.1], 7), seven, strange, seven), strange)


def test_sizes_around_what_stays():
    assert sizes_around(FORMULAS, {8: 1}) == {3: 6, 5: 6}
    assert sizes_around(FORMULAS, {8: 1, 6: 2}) == {5: 4}
    assert sizes_around(FORMULAS, {9: 1}) == {}


def test_laws_of_large_tables_are_exact_in_any_precision():
    """Counts are whole numbers, which no cast of the denoiser touches."""
    law = Composition(Flow(), Euclidean(2), [1, 6], {"CH2": 70_000, "C2H": 30_000, "C3": 3}).half()
    u = torch.tensor([0.0, 0.6999, 0.7001, 0.9999, 0.99999])
    z = torch.zeros(5, 3, 2, dtype=torch.float64)
    z[:, 0, 0] = gumbel(u)
    x = law.prior(z, torch.ones(5, 3, dtype=torch.bool))
    assert x[..., 1].sum(1).tolist() == [1, 1, 2, 2, 3]


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
            assert not parts["element"].any()
        assert torch.isfinite(total).all()
    estimate = denoiser(batch.state, torch.full((8,), 0.4), batch.mask)
    assert torch.equal(estimate.data["element"], batch.state["element"])
    assert not estimate.logits


@pytest.mark.parametrize("network", ["egnn", "transformer", "steerable"])
def test_every_weight_has_a_gradient_as_several_processes_want(network):
    adapter = Molecules.fit(examples.arrays(), hydrogens="explicit", atom_types="given")
    batch = adapter.encode(examples.arrays()).batch(torch.arange(8))
    denoiser = adapter.denoiser("tiny", network)
    loss, _ = adapter.objective()(denoiser, batch.state, batch.mask, None, Random(0, 8))
    loss.sum().backward()
    assert [name for name, weight in denoiser.named_parameters() if weight.grad is None] == []


def test_guidance_leaves_it_however_strong():
    """Of the number of carbons, which it would flip, and of places."""
    process, exact = given_law()
    mask, random = torch.ones(20, 3, dtype=torch.bool), Random(3, 20)
    start = {name: x.double() for name, x in process.prior(process.noise(mask, random), mask).items()}

    def log_prob(x, t, mask):
        return x["element"][..., 1].sum(1) + x["x"].sum((1, 2))

    for guided in (
        Gradient(exact, log_prob, 1e3, at="data"),
        Gradient(exact, log_prob, 1e3, at="x_t"),
        Autoguidance(exact, exact, 3.0),
    ):
        estimate = guided(start, torch.full((20,), 0.6).double(), mask)
        assert torch.equal(estimate.data["element"], start["element"])
        assert "element" not in estimate.logits
        assert torch.equal(DDIM(4)(guided, start, mask, random=random)["element"], start["element"])


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
    assert set(target) == {"x"}
    assert not loss.errors(exact, {}, z, {}, t, mask, None, Random(0, 6))["element"].any()
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
    with pytest.raises(UserError, match="'element' is given"):
        model.sample(1, sampler="unipc")
    assert torch.isfinite(model.log_prob(examples.arrays().select(slice(3)), steps=3)["log_prob"]).all()


def test_the_density_is_that_of_the_formula_times_that_of_the_flow():
    """Two shapes, told apart by their elements too: what is given says which is the likelier one."""
    means, stds = torch.tensor([-1.0, 0.7]).double()[:, None, None], torch.tensor([0.5, 0.3]).double()[:, None, None]
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]).double()[:, None]
    fields = {"x": GaussianProcess(Flow(), Euclidean(2)), "element": composition()}
    weights = torch.tensor([0.4, 0.6]).double()
    denoiser = AnalyticDenoiser(JointProcess(fields), weights, {"x": (means, stds), "element": shares})
    element = torch.stack([one_hot(8, 1, 1), one_hot(6, 8, 8), one_hot(8, 6, 8)])
    x = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = log_density(denoiser, {"x": x, "element": element}, probes=None, rtol=1e-7, atol=1e-7)
    which = (element[:, None] * shares.log()).sum((2, 3)) + weights.log()
    spread = (stds**2 + (1e-3 / (1 - 1e-3)) ** 2).sqrt()  # at the first time of the flow
    shape = torch.distributions.Normal(means, spread).log_prob(x[:, None]).sum((2, 3))
    exact = (which.log_softmax(1) + shape).logsumexp(1) - composition().prior_kl(element)
    assert torch.allclose(found, exact, atol=1e-5)
    assert (which[:, 0] - which[:, 1]).std() > 0.5


def test_molecules_come_back_from_their_codes_with_the_elements_they_were_given(tmp_path):
    adapter = Molecules.fit(examples.arrays(), atom_types="given")
    torch.manual_seed(0)
    model, some = Model(adapter, adapter.denoiser("tiny"), Ancestral(4)), examples.arrays().select(slice(4))
    codes, state = model.encode(some, steps=20), adapter.encode(some)
    assert torch.equal(codes.fields["element"], state.fields["element"])
    assert not torch.allclose(codes.fields["position"], state.fields["position"], atol=0.1)
    mask = size_mask(codes.sizes)
    batch = codes.batch(torch.arange(4))
    back = Heun(20)(model.denoiser, batch.state, mask)
    assert torch.equal(back["element"], batch.state["element"])
    again = state.batch(torch.arange(4)).state["position"]
    assert (back["position"] - again).abs().max() < 0.02
    names = [sorted(atom.GetSymbol() for atom in mol.GetAtoms()) for mol in model.decode(codes, steps=20)]
    assert names == [sorted(atom.GetSymbol() for atom in examples.molecules()[k].GetAtoms()) for k in range(4)]
    flow = model.log_prob(some, "flow")["log_prob"]
    assert torch.isfinite(flow).all()
    model.save(tmp_path / "model")
    path = examples.write(tmp_path / "some.sdf", 4)
    assert main(["encode", str(tmp_path / "model"), str(path), "-o", str(tmp_path / "codes.npz"), "--steps", "3"]) == 0


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


def test_an_adapted_model_draws_the_new_formulas_alone(tmp_path):
    """None of the parent's, which had other molecules, and other elements."""
    words = "--steps 2 --previews 0 --batch-size 2 --hydrogens explicit".split()
    for name, smiles in (("old", ("CO", "CN", "OO")), ("new", ("CF", "CCO", "NC=O"))):
        text = "".join(Chem.MolToMolBlock(named(each)) + "$$$$\n" for each in smiles)
        (tmp_path / f"{name}.sdf").write_text(text)
    given = [
        "train",
        "molecules",
        str(tmp_path / "old.sdf"),
        "--out",
        str(tmp_path / "parent"),
        "--atom-types",
        "given",
    ]
    assert main([*given, *words]) == 0
    going = ["train", "molecules", str(tmp_path / "new.sdf"), "--from", str(tmp_path / "parent")]
    assert main([*going, "--out", str(tmp_path / "child"), *words]) == 0
    child = load(tmp_path / "child")
    assert child.modality.atom_types == "given"
    assert child.modality.formulas == {"CH3F": 1, "C2H6O": 1, "CH3NO": 1}
    assert dict(child.denoiser.process["element"].formulas) == child.modality.formulas
    assert child.modality.elements == child.denoiser.process["element"].elements == [1, 6, 7, 8, 9]
    assert {CalcMolFormula(mol) for mol in child.sample(20, steps=2)} == set(child.modality.formulas)
    assert torch.isfinite(child.log_prob(MoleculeArrays.from_mols([named("CF")]), steps=2)["log_prob"]).all()


@pytest.mark.parametrize("coupling", ["permute", "align"])
def test_noise_is_not_moved_between_atoms_that_differ(coupling):
    with pytest.raises(UserError, match=f"--coupling {coupling} gives atoms noise by their places"):
        Molecules.fit(examples.arrays(), atom_types="given", coupling=coupling)


def test_nothing_can_be_asked_of_a_formula_that_is_drawn_first(tmp_path, capsys):
    words = [
        "train",
        "molecules",
        str(examples.write(tmp_path / "a.sdf")),
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "2",
    ]
    assert main([*words, "--condition", "MW", "--atom-types", "given"]) == 1
    assert "draws the formula before anything is asked for" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_formulas_never_seen_are_never_drawn_and_the_command_says_so(tmp_path, capsys):
    model_of("explicit", "given").save(tmp_path / "model")
    unseen = Chem.AddHs(Chem.MolFromSmiles("OC#N"))
    AllChem.EmbedMolecule(unseen, randomSeed=1)
    known = named("CO")
    (tmp_path / "two.sdf").write_text("".join(Chem.MolToMolBlock(mol) + "$$$$\n" for mol in (unseen, known)))
    words = [
        "logprob",
        str(tmp_path / "model"),
        str(tmp_path / "two.sdf"),
        "-o",
        str(tmp_path / "p.csv"),
        "--steps",
        "3",
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 that the model never draws (molecules of formulas that it never saw): log p is -inf" in said
    assert "of a size" not in said
    assert "over 1 records" in said


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
    assert "'element' is given" in capsys.readouterr().err


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
        ("C2H7Cl", "element Cl; this model knows"),
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


def test_sizes_of_what_grows_are_those_of_formulas_that_contain_what_stays(tmp_path, capsys):
    """With a fluorine that stays there are only C2H5F and CH2F2 and larger: as often as they occur."""
    model = model_of("explicit", "given")
    part = model.modality.parts([named("CF")], "grow", [2])[0]
    wanted = sizes_around(model.modality.formulas, {9: 1})
    assert part.counts == wanted
    assert set(wanted) < set(model.modality.sizes)
    for mol in model.edit([named("CF")], "grow", 12, keep=[2], steps=2, resamples=1).records:
        assert CalcMolFormula(mol) in model.modality.formulas
        assert mol.GetAtomWithIdx(0).GetSymbol() == "F"
    model.save(tmp_path / "model")
    odd = Chem.AddHs(Chem.MolFromSmiles("FN(F)O"))
    AllChem.EmbedMolecule(odd, randomSeed=1)
    (tmp_path / "odd.sdf").write_text(Chem.MolToMolBlock(odd))
    words = [
        "edit",
        str(tmp_path / "model"),
        str(tmp_path / "odd.sdf"),
        "--keep",
        "1-3",
        "-o",
        str(tmp_path / "out.sdf"),
    ]
    assert main(words) == 1
    assert "none contains F2N and more; keep fewer atoms" in capsys.readouterr().err


def test_the_charge_of_an_input_is_no_part_of_its_formula():
    adapter = Molecules.fit(examples.arrays(), hydrogens="implicit", atom_types="given")
    adapter.charges = [0, 1]
    ion = Chem.AddHs(Chem.MolFromSmiles("C[NH3+]"))
    AllChem.EmbedMolecule(ion, randomSeed=1)
    bonded = MoleculeArrays.from_mols([ion])
    bare = MoleculeArrays(bonded.num_atoms, bonded.atomic_numbers, bonded.positions, bonded.charges)
    for arrays in (bonded, bare):
        part = adapter.parts(arrays, "isomers")[0]
        for mol, wanted in ((Chem.Mol(ion), "true"), (Chem.Mol(named("CN")), "false")):
            part.place([mol])
            assert mol.GetProp("isomer") == wanted


def test_variations_keep_their_elements():
    model = model_of("explicit", "given")
    for mol in model.edit([named("NCCO")], "vary", 4, strength=0.6).records:
        assert CalcMolFormula(mol) == "C2H7NO"
