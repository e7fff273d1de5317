"""Asking for properties: columns of the file and of RDKit, their units, sizes that fit them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdkit.Chem import Crippen, rdMolDescriptors
from scipy.stats import spearmanr

from examples import arrays, molecules
from gendiff.config import build, describe
from gendiff.files import UserError
from gendiff.guide import Gradient
from gendiff.modalities.molecules.metrics import evaluate
from gendiff.modalities.molecules.metrics.asked import rank_correlation
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.properties import column, compute
from gendiff.model import Model, load
from gendiff.sample import Ancestral


def plain(records):
    """Only the fields of the constructor."""
    names = ("num_atoms", "atomic_numbers", "positions", "charges", "smiles", "names", "num_bonds", "bonds")
    return {name: getattr(records, name) for name in names}


def with_property(name="gap", values=None):
    records = arrays()
    values = np.arange(len(records), dtype=float) if values is None else np.asarray(values, float)
    return type(records)(**plain(records), properties={name: values})


def conditional(records, names, seed=0):
    adapter = Molecules.fit(records, hydrogens="implicit", conditions=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = adapter.denoiser("tiny")
    for block in denoiser.network.blocks:  # an untrained network hardly moves an atom, whatever it is told
        block.coordinate.scalar.weight.data *= 100
    return Model(adapter, denoiser, Ancestral(6))


def test_rdkit_computes_the_columns_that_the_file_lacks():
    records = arrays()
    expected = [Crippen.MolLogP(mol) for mol in molecules()], [rdMolDescriptors.CalcTPSA(mol) for mol in molecules()]
    for atoms in (records, records.remove_hydrogens()):
        assert column(atoms, "logP") == pytest.approx(expected[0], abs=1e-9)
        assert column(atoms, "TPSA") == pytest.approx(expected[1], abs=1e-9)
    assert [compute(mol, "logP") for mol in molecules()] == pytest.approx(expected[0], abs=1e-9)
    assert column(with_property("logP", range(len(records))), "logP").tolist() == list(range(len(records)))
    assert column(records, "gap") is None


def test_conditions_are_standardized_columns_of_the_modelled_molecules():
    values = np.arange(float(len(arrays())))
    values[3] = np.nan
    adapter = Molecules.fit(with_property(values=values), hydrogens="implicit", conditions=["gap", "logP"])
    data = adapter.encode(with_property(values=values))
    known = torch.from_numpy(values).isfinite()
    assert data.condition["gap"].isnan().tolist() == (~known).tolist()
    assert data.condition["gap"][known].mean().item() == pytest.approx(0, abs=1e-5)
    assert data.condition["gap"][known].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert data.batch(torch.tensor([5, 2])).condition["gap"].tolist() == data.condition["gap"][[5, 2]].tolist()
    asked = adapter.condition({"gap": [values[5], values[2]], "logP": 1.0})
    assert asked["gap"].tolist() == pytest.approx(data.condition["gap"][[5, 2]].tolist(), abs=1e-6)
    assert asked["logP"].shape == (1,)
    assert adapter.encode(arrays()).condition["gap"].isnan().all()  # files without the column are files all the same


def test_an_adapter_with_conditions_comes_back_from_json():
    adapter = Molecules.fit(with_property(), hydrogens="implicit", conditions=["gap", "logP"])
    again = build(describe(adapter))
    assert again.conditions == adapter.conditions
    assert list(again.network("tiny").conditions) == ["gap", "logP"]
    asked = adapter.condition({"gap": 20.0})
    assert torch.equal(again.property_sizes.log_prob(asked)[1], adapter.property_sizes.log_prob(asked)[1])


def test_sizes_follow_the_property_that_is_asked_for():
    heavy = arrays().num_heavy.astype(float)
    noise = np.random.default_rng(0).normal(0, 0.05, len(heavy))
    model = conditional(with_property("weight", heavy + noise), ["weight"])
    for size in (2, 3, 4):
        drawn = model.sample(20, condition={"weight": float(size)})
        assert {mol.GetNumHeavyAtoms() for mol in drawn} == {size}
    sweep = model.sample(12, condition={"weight": [2.0, 4.0]})
    assert [mol.GetNumHeavyAtoms() for mol in sweep] == [2, 4] * 6
    assert {mol.GetNumHeavyAtoms() for mol in model.sample(20, condition={"weight": 4.0}, sizes=(2, 3))} <= {2, 3}
    assert len({mol.GetNumHeavyAtoms() for mol in model.sample(40)}) == 3  # nothing asked: p(N)


def positions(mols):
    return [mol.GetConformer().GetPositions()[: mol.GetNumHeavyAtoms()] for mol in mols]


def same(a, b, atol=1e-5):
    return all(np.allclose(x, y, atol=atol) for x, y in zip(positions(a), positions(b), strict=True))


def test_what_is_asked_reaches_the_network_of_each_sample_alone():
    model, sizes = conditional(with_property(), ["gap"]), (3, 3)
    free, low, high = (model.sample(4, sizes=sizes, condition=c) for c in (None, {"gap": 2.0}, {"gap": 30.0}))
    assert not same(low, high, 1e-3)
    assert not same(low, free, 1e-3)
    mixed = model.sample(4, sizes=sizes, condition={"gap": [2.0, 30.0]}, batch_size=3)
    assert same(mixed[::2], low[::2])
    assert same(mixed[1::2], high[1::2])


def test_guidance_strengthens_the_condition():
    model, sizes = conditional(with_property(), ["gap"]), (3, 3)
    plain_, twice, none = (model.sample(3, sizes=sizes, condition={"gap": 30.0}, guidance=w) for w in (1.0, 2.0, 0.0))
    assert not same(plain_, twice, 1e-3)
    assert same(none, model.sample(3, sizes=sizes), 1e-4)  # a guidance of zero is the unconditional model


def test_a_function_of_ones_own_guides():
    model = conditional(with_property(), ["gap"])
    scale = model.modality.position_scale

    def compact(state, t, mask):
        return -20 * (state["position"] * scale).square().sum((1, 2))

    free = model.sample(8, sizes=(4, 4))
    small = model.sample(8, sizes=(4, 4), guide=lambda denoiser: Gradient(denoiser, compact, 0.02, at="data"))
    radius = [np.mean([x.std(0).sum() for x in positions(mols)]) for mols in (free, small)]
    assert radius[1] < 0.9 * radius[0]


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["nope"], None, r"no numeric column 'nope' to condition on; there are: gap, logP, TPSA, QED, MW"),
        (["gap"], [1.0] * 40, r"column 'gap' is the same in every molecule"),
        (["gap"], [np.nan] * 40, r"column 'gap' has no number in any molecule"),
    ],
)
def test_columns_without_use_are_refused(names, values, message):
    with pytest.raises(UserError, match=message):
        Molecules.fit(with_property(values=values), hydrogens="implicit", conditions=names)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"logP": 1.0},
            r"'logP' cannot be asked of this model, which was trained with gap; train with --condition logP",
        ),
        ({"class": "cat"}, "molecules have no classes to ask for; ask for properties with --condition"),
        ({"GAP": 1.0}, r"'GAP' cannot be asked of this model, which was trained with gap; did you mean gap\?"),
        ({"gap": "high"}, r"gap must be a number, got 'high'"),
        ({"gap": float("nan")}, r"gap must be a finite number"),
        ({"gap": []}, r"gap must be a finite number"),
    ],
)
def test_what_cannot_be_asked_is_one_line(asked, message):
    with pytest.raises(UserError, match=message):
        conditional(with_property(), ["gap"]).sample(2, condition=asked)


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(UserError, match=r"--guidance 2 strengthens a condition, and none is given"):
        conditional(with_property(), ["gap"]).sample(2, guidance=2.0)
    with pytest.raises(UserError, match="trained with no condition"):
        conditional(with_property(), []).sample(2, condition={"gap": 1.0})


# What was asked for beside what came


def test_the_table_compares_what_was_asked_for_with_what_came():
    found = column(arrays(), "logP")
    asked = found + np.random.default_rng(0).normal(0, 0.5, len(found))
    table = evaluate(with_property("target_logP", asked), arrays(), hydrogens="implicit", strain=False)
    rows = {row.name: row for row in table.metrics}
    correlation, error = rows["asked_logP_correlation"].generated, rows["asked_logP_error"].generated
    assert correlation.value == pytest.approx(spearmanr(asked, found).statistic, abs=1e-9)
    assert correlation.low < correlation.value < correlation.high
    assert error.value == pytest.approx(np.abs(asked - found).mean(), abs=1e-9)
    assert rows["asked_logP_correlation"].reference is None
    assert not any(row.name.startswith("asked") for row in evaluate(arrays(), arrays(), strain=False).metrics)


def test_one_value_for_all_has_an_error_and_no_correlation():
    table = evaluate(with_property("target_MW", [40.0] * 40), arrays(), hydrogens="implicit", strain=False)
    rows = {row.name: row for row in table.metrics}
    assert "asked_MW_correlation" not in rows
    assert rows["asked_MW_found"].title == "MW: median (asked: 40)"
    assert rows["asked_MW_found"].generated.value == pytest.approx(np.median(column(arrays(), "MW")), abs=1e-9)
    expected = np.abs(column(arrays(), "MW") - 40).mean()
    assert rows["asked_MW_error"].generated.value == pytest.approx(expected, abs=1e-9)


def test_resampled_rank_correlations_are_those_of_scipy():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=30).round(1), rng.normal(size=30).round(1)  # with ties
    index = rng.integers(30, size=(5, 30))
    got = rank_correlation(index.astype(float), x, y, axis=1)
    assert got == pytest.approx([spearmanr(x[row], y[row]).statistic for row in index], abs=1e-12)


@pytest.mark.parametrize("name", ["a.b", "type", "keys", "float", "pIC50 (nM)", "ΔG", "0"])
def test_any_name_of_a_column_can_be_asked_for(name, tmp_path):
    model = conditional(with_property(name), [name])
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert same(model.sample(3, condition={name: 20.0}), again.sample(3, condition={name: 20.0}))
    assert not same(again.sample(3, sizes=(3, 3), condition={name: 2.0}), again.sample(3, sizes=(3, 3)), 1e-4)


def test_a_name_that_a_configuration_keeps_for_itself_is_refused():
    with pytest.raises(UserError, match="a column named 'class' cannot be a condition; rename it"):
        Molecules.fit(with_property("class"), hydrogens="implicit", conditions=["class"])


def test_what_has_no_bonds_or_no_finite_number_is_unknown():
    bare = arrays().select(slice(3))
    bare = type(bare)(bare.num_atoms, bare.atomic_numbers, bare.positions)
    mixed = type(bare).concatenate([bare, arrays().select(slice(3, 6))])
    assert np.isnan(column(mixed, "logP")).tolist() == [True] * 3 + [False] * 3
    values = [float(i) for i in range(39)] + [float("inf")]
    adapter = Molecules.fit(with_property(values=values), hydrogens="implicit", conditions=["gap"])
    assert adapter.encode(with_property(values=values)).condition["gap"].isnan().tolist() == [False] * 39 + [True]
    assert adapter.conditions["gap"][0] == pytest.approx(19)


def test_the_mode_of_a_model_comes_back_after_an_error():
    model = conditional(with_property(), ["gap"])
    model.denoiser.train()
    with pytest.raises(ZeroDivisionError):
        model.sample(2, progress=lambda done, total: 1 / 0)
    assert model.denoiser.training
    with pytest.raises(UserError, match="--guidance must be a finite number, got nan"):
        model.sample(2, condition={"gap": 1.0}, guidance=float("nan"))
