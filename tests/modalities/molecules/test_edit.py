"""Fragments of molecules: they stay where they are, with their elements, charges and bonds, and match one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolAlign
from scipy.spatial.distance import cdist, pdist
from scipy.spatial.transform import Rotation
from torch import nn

import examples
from gendiff.denoise import AnalyticDenoiser
from gendiff.files import UserError
from gendiff.modalities.molecules.edit import fragments, read_parts
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.read import embed_3d
from gendiff.modalities.molecules.records import MoleculeArrays, to_mol
from gendiff.model import Model, load
from gendiff.sample import Ancestral

TURN = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix()
AWAY = np.array([512.3, -377.1, 250.9])


def moved(mol):
    """The molecule turned, and far away."""
    mol = Chem.Mol(mol)
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() @ TURN.T + AWAY)
    return mol


def named(smiles):
    return next(mol for mol in examples.molecules() if mol.GetProp("_Name") == smiles)


def points(*rows):
    """Carbons without bonds."""
    return MoleculeArrays(np.array([len(rows)]), np.full(len(rows), 6), np.array(rows, np.float32))


def joined(*mols):
    """Molecules as pieces of one record."""
    whole = mols[0]
    for mol in mols[1:]:
        whole = Chem.CombineMols(whole, mol)
    return MoleculeArrays.from_mols([whole])


def sdf(path, *mols):
    path.write_text("".join(Chem.MolToMolBlock(mol) + "$$$$\n" for mol in mols))
    return path


def smiles(mol):
    return Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


# What stays


@pytest.mark.parametrize("ending", [".sdf", ".xyz", ".npz"])
def test_atoms_stay_where_they_are_from_file_to_file(tmp_path, ending):
    """Hydrogens of the fragment go, its heavy atoms stay to 1e-4 Å, their elements too; any valence may grow."""
    model, given = examples.model(), moved(named("CO"))
    records, _ = model.modality.read_parts([sdf(tmp_path / "in.sdf", given)], "grow")
    drawn = model.edit(records, "grow", 12, seed=1, resamples=2)
    model.write(drawn.records, tmp_path / f"out{ending}")
    made, _ = Molecules.read([tmp_path / f"out{ending}"], strict=False, fragments="keep")
    assert len(made) == 12
    where = given.GetConformer().GetPositions()[:2]
    for one in made:
        assert np.abs(one.positions[:2] - where).max() < 1e-4
        assert one.atomic_numbers[:2].tolist() == [6, 8]
        assert 3 <= (one.atomic_numbers > 1).sum() <= 4


def test_numbers_count_as_in_the_file_and_are_noted():
    """Hydrogens count, but do not stay where the model has none."""
    model, given = examples.model(), named("CC(=O)N")
    for keep, stay in (([1, 4], [1, 4]), ([4, 5, 2], [2, 4]), ([2], [2])):
        made = model.edit([given], "grow", 4, keep=keep, resamples=2, steps=4).records
        where = given.GetConformer().GetPositions()[np.array(stay) - 1]
        for mol in made:
            assert np.array_equal(mol.GetConformer().GetPositions()[: len(stay)], where.astype(np.float32))
            elements = [given.GetAtomWithIdx(number - 1).GetSymbol() for number in stay]
            assert [mol.GetAtomWithIdx(i).GetSymbol() for i in range(len(stay))] == elements
            assert mol.GetProp("kept_of_input") == ",".join(map(str, stay))
            assert mol.GetProp("kept") == ("1" if len(stay) == 1 else "1-2")


def test_models_of_all_atoms_keep_the_hydrogens_they_are_given():
    model, given = examples.model("explicit"), moved(named("CCO"))
    made = model.edit([given], "grow", 6, keep=[1, 2, 4, 5, 6], resamples=2, steps=4).records
    where = given.GetConformer().GetPositions()[[0, 1, 3, 4, 5]]
    for mol in made:
        assert np.abs(mol.GetConformer().GetPositions()[:5] - where).max() < 1e-4
        assert [mol.GetAtomWithIdx(i).GetAtomicNum() for i in range(5)] == [6, 6, 1, 1, 1]


def test_formal_charges_stay():
    adapter = Molecules([6, 7, 8], {3: 1, 4: 1, 5: 1}, charges=[-1, 0, 1])
    torch.manual_seed(0)
    model = Model(adapter, adapter.denoiser("tiny"), Ancestral(4))
    given = Chem.MolFromSmiles("C[N+](C)(C)CC(=O)[O-]")
    from gendiff.modalities.molecules.read import embed_3d

    given = embed_3d(given)
    made = model.edit([given], "grow", 5, keep=[2, 8], resamples=2).records
    assert [[mol.GetAtomWithIdx(i).GetFormalCharge() for i in (0, 1)] for mol in made] == [[1, -1]] * 5


def test_bonds_that_change_are_noted_and_told():
    """Up to the mesomeric form: single and double bonds of a diene are the same when a ring makes them aromatic."""
    adapter = examples.model().modality
    acetamide, benzene = named("CC(=O)N"), Chem.MolFromSmiles("C1=CC=CC=C1")
    part = fragments(adapter, [acetamide], "grow", [1, 2, 3])[0]

    def note(atoms):
        mol = to_mol(MoleculeArrays.from_mols([atoms]).remove_hydrogens()[0])
        part.place([mol])
        return mol

    same = note(acetamide)
    assert same.GetProp("kept_bonds") == "same"
    single = Chem.RWMol(acetamide)
    single.GetBondBetweenAtoms(1, 2).SetBondType(Chem.BondType.SINGLE)
    apart = Chem.RWMol(acetamide)
    apart.RemoveBond(0, 1)
    changed = [note(single), note(apart)]
    assert [mol.GetProp("kept_bonds") for mol in changed] == ["changed", "changed"]
    assert part.remark([same]) == ""
    assert "in 1 of 3" in part.remark([same, *changed])
    assert part.intact([changed[0], same, changed[1]]) == [False, True, False]
    AllChem.EmbedMolecule(benzene, randomSeed=1)
    chain = Chem.MolFromSmiles("C=CC=C")
    AllChem.EmbedMolecule(chain, randomSeed=1)
    diene = fragments(Molecules([6], {7: 1}), [chain], "grow")[0]  # its bonds are single and double, the ring's neither
    diene.place([benzene])
    assert benzene.GetProp("kept_bonds") == "same"


def test_what_stays_can_be_asked_for():
    """Drawing goes on until so many have it; a molecule of which nothing has to stay has no such word."""
    model, acetamide = examples.model(), named("CC(=O)N")
    options = {"keep": [1, 2, 3], "resamples": 1, "steps": 4}
    drawn = model.edit([acetamide], "grow", 5, only="intact", **options)
    assert [mol.GetProp("kept_bonds") for mol in drawn.records] == ["same"] * 5
    free = model.edit([acetamide], "grow", drawn.drawn, **options).records
    places = [mol.GetConformer().GetPositions() for mol in free if mol.GetProp("kept_bonds") == "same"]
    for mol, place in zip(drawn.records, places, strict=False):
        np.testing.assert_array_equal(mol.GetConformer().GetPositions(), place)
    assert len(places) >= 5
    assert drawn.drawn > 5
    given = examples.model("explicit")  # of isomers all atoms are told
    assert len(given.edit([acetamide], "isomers", 2, steps=2, only="intact").records) == 2
    with pytest.raises(UserError, match="intact: nothing has to stay"):
        model.edit([acetamide], "vary", 5, only=["valid", "intact"])
    with pytest.raises(UserError, match="intact: the input has no bonds"):
        model.edit([without_bonds(acetamide)], "grow", 5, only="intact", **options)
    with pytest.raises(UserError, match="knows valid, connected, stable and intact, not 'whole'"):
        model.edit([acetamide], "grow", 5, only="whole", **options)
    with pytest.raises(UserError, match="knows valid, connected, stable and new, not 'intact'"):
        model.sample(5, only="intact")


def test_what_a_model_of_all_atoms_draws_it_takes_in():
    """It knows no charges, and nitro groups that it draws are written with theirs; an ion is refused as ever."""
    model = examples.model("explicit")
    nitro = embed_3d(Chem.MolFromSmiles("C[N+](=O)[O-]"))
    assert len(model.edit([nitro], "vary", 2, steps=2).records) == 2
    model.log_prob([nitro], steps=2)
    with pytest.raises(UserError, match="has formal charge 1; this model knows 0"):
        model.edit([embed_3d(Chem.MolFromSmiles("C[NH3+]"))], "vary", 2, steps=2)
    with pytest.raises(UserError, match="has formal charge 1; this model knows 0"):
        examples.model().edit([nitro], "vary", 2, steps=2)


def test_pieces_of_a_geometry_are_those_of_its_bonds():
    """EDM's table has no lengths of B-C and B-N: without them this would be two pieces, and more."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CB(C)N(C)C"))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.UFFOptimizeMolecule(mol)
    adapter = Molecules([1, 5, 6, 7], {30: 1})
    with pytest.raises(UserError, match="what is kept is one piece"):
        fragments(adapter, [without_bonds(mol)], "link")


def without_bonds(mol):
    bare = Chem.RWMol()
    for atom in mol.GetAtoms():
        bare.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    bare.AddConformer(mol.GetConformer())
    return bare.GetMol()


# Linkers


@pytest.mark.parametrize(("gap", "atoms"), [(2.54, 1), (3.93, 2), (5.1, 3), (6.4, 4)])
def test_a_linker_is_as_long_as_a_stretched_chain(gap, atoms):
    """Distances 1-3, 1-4, 1-5 and 1-6 in a stretched alkane."""
    adapter = Molecules([6], {n: 1 for n in range(2, 30)})
    apart = points([0, 0, 0], [1.5, 0, 0], [1.5 + gap, 0, 0], [3 + gap, 0, 0])
    assert fragments(adapter, apart, "link")[0].sizes == (4 + atoms, 4 + 2 * atoms + 1)
    four = points([0, 0, 0], [0, gap, 0], [8.9, 0, 0], [8.9, gap, 0])  # two near pairs; 1-8 are as far as they are
    assert fragments(adapter, four, "link")[0].sizes[0] == 4 + 2 * atoms + 6


def test_pieces_may_come_as_one_record_or_several(tmp_path):
    model, one = examples.model(), Chem.RemoveHs(named("CO"))
    other = Chem.Mol(Chem.RemoveHs(named("CF")))
    other.GetConformer().SetPositions(other.GetConformer().GetPositions() + np.array([0, 0, 2.6]))
    adapter = Molecules(model.modality.elements, {n: 1 for n in range(2, 9)})
    together, _ = read_parts([sdf(tmp_path / "a.sdf", Chem.CombineMols(one, other))], "link")
    apart, _ = read_parts([sdf(tmp_path / "b.sdf", one, other)], "link")
    a, b = (fragments(adapter, records, "link")[0] for records in (together, apart))
    assert len(a) == len(b) == 4
    assert a.sizes == b.sizes
    assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    assert np.array_equal(a.atoms.bonds, b.atoms.bonds)


# Two molecules


@pytest.mark.parametrize("text", ["CC(=O)N", "C1CO1", "CC(C)O", "C=CC=O", "OCCO"])
def test_a_turned_and_shuffled_copy_is_matched(text):
    mol = named(text)
    order = np.random.default_rng(0).permutation(mol.GetNumAtoms())
    copy = moved(Chem.RenumberAtoms(mol, order.tolist()))
    adapter = examples.model("explicit").modality
    first, second = fragments(adapter, [mol, copy], "interpolate")
    a, b = first.match(second)
    assert torch.allclose(a.state["position"], b.state["position"], atol=1e-4)
    assert torch.equal(a.state["element"], b.state["element"])


def test_nothing_is_mirrored():
    """Carbons without symmetry, nearly in a plane: they come close to their mirror image, and no closer by turning."""
    hand = np.array([[0, 0, 0], [3, 0, 0], [0, 5, 0], [6, 7, 0], [1, 2, 1.2]], np.float32)
    mirror = MoleculeArrays(np.array([5, 5]), np.full(10, 6), np.concatenate([hand, hand * [1, 1, -1]]))
    first, second = fragments(Molecules([6], {5: 1}), mirror, "interpolate")
    a, b = (part.state["position"].double() for part in first.match(second))
    assert (a - b).norm(dim=1).max() > 0.1
    assert torch.allclose(torch.pdist(b).sort()[0], torch.pdist(second.state["position"].double()).sort()[0], atol=1e-5)


def test_a_smaller_molecule_finds_its_place_in_a_larger_one():
    large, small = named("CC(=O)N"), named("CC=O")
    adapter = examples.model().modality
    for pair in ([small, large], [large, small]):
        first, second = fragments(adapter, pair, "interpolate")
        a, b = first.match(second)
        assert {len(a), len(b)} == {3, 4}
        assert torch.equal(a.state["element"][:3], b.state["element"][:3])
        gap = a.state["position"][:3] - b.state["position"][:3]
        assert gap.norm(dim=1).max() * adapter.position_scale < 0.2


def test_what_has_no_partner_follows_from_near_to_far():
    """So that what appears along the way hangs on what is there."""
    chain = [[1.5 * k, 0, 0] for k in range(6)]
    both = MoleculeArrays(np.array([2, 6]), np.full(8, 6), np.array(chain[:2] + chain, np.float32))
    adapter = Molecules([6], {2: 1, 6: 1}, position_scale=1.0)
    first, second = fragments(adapter, both, "interpolate")
    for x in (first.match(second)[1].state["position"], second.match(first)[0].state["position"]):
        away = torch.cdist(x[2:], x[:2]).amin(1)
        assert torch.equal(away, away.sort()[0])
        assert away.max() > away.min() + 1
        assert torch.cdist(x[:1], x[1:2]).item() == pytest.approx(1.5, abs=1e-3)


class Exact(AnalyticDenoiser):
    """The exact denoiser; a model asks its weights where they are."""

    def __init__(self, *args):
        super().__init__(*args)
        self.place = nn.Parameter(torch.zeros(1))


def exact():
    """The exact model of all examples with four heavy atoms, each nearly fixed in shape and frame."""
    adapter = examples.model().modality
    records = examples.arrays()
    four = records.select(records.num_heavy == 4)
    data = adapter.encode(four)
    fields = {name: value.reshape(len(four), 4, -1) for name, value in data.fields.items()}
    law = {"position": (fields["position"], 0.05), "element": (fields["element"], 0.05)}
    return Model(adapter, Exact(adapter.process(), [1 / len(four)] * len(four), law), Ancestral(60, "quadratic")), four


@pytest.mark.parametrize("pair", [(2, 7), (7, 2), (7, 20)])
def test_the_ways_ends_are_the_inputs(pair):
    """To the error of encoding. The first stands where it stood, the second is turned onto it; sizes may be unlike."""
    model, records = load(examples.run()), examples.arrays()
    four, heavy = records.num_heavy == 4, records.remove_hydrogens()
    rows = [int(np.flatnonzero(four)[pair[0]]), int(np.flatnonzero(four)[pair[1]]) if pair[1] < 10 else pair[1]]
    made = model.edit([moved(mol) for mol in records.select(rows).to_mols()], "interpolate", 5).records
    assert [smiles(made[0]), smiles(made[-1])] == [records.smiles[row] for row in rows]
    for mol, row in ((made[0], rows[0]), (made[-1], rows[1])):
        x = mol.GetConformer().GetPositions()[: heavy.num_atoms[row]]
        assert np.abs(np.sort(pdist(x)) - np.sort(pdist(heavy[row].positions))).max() < 0.05
    first = made[0].GetConformer().GetPositions()[: heavy.num_atoms[rows[0]]]
    where = heavy[rows[0]].positions @ TURN.T + AWAY
    assert cdist(first, where).min(0).max() < 0.05
    assert [float(mol.GetProp("interpolation")) for mol in made] == [0, 0.25, 0.5, 0.75, 1]


def test_variations_keep_the_shape_more_than_fresh_samples_do():
    model, four = exact()
    given = to_mol(four.remove_hydrogens()[3])

    def away(mols):
        return [
            rdMolAlign.AlignMol(Chem.RemoveAllHs(mol, sanitize=False), given, atomMap=[(i, i) for i in range(4)])
            for mol in mols
        ]

    moves = [np.mean(away(model.edit(four.select([3]), "vary", 60, strength=s).records)) for s in (0, 0.2, 0.5, 1)]
    assert moves[0] < 1e-4
    assert moves == sorted(moves)
    fresh = np.mean(away(model.sample(60, sizes=(4, 4))))
    assert moves[1] < 0.3 * fresh
    assert moves[3] == pytest.approx(fresh, rel=0.25)


def test_at_strength_0_a_molecule_is_itself():
    model, given = examples.model(), moved(named("CC(=O)N"))
    (mol,) = model.edit([given], "vary", 1, strength=0.0).records
    assert smiles(mol) == smiles(given)
    assert np.abs(mol.GetConformer().GetPositions()[:4] - given.GetConformer().GetPositions()[:4]).max() < 1e-4
    assert mol.GetProp("strength") == "0"
    assert not mol.HasProp("kept")


# Reading and refusals


def test_a_file_without_coordinates_varies_but_does_not_grow(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\n")
    for task in ("grow", "link"):
        with pytest.raises(UserError, match=r"a\.smi: has no 3-D coordinates"):
            read_parts([tmp_path / "a.smi"], task)
    records, report = read_parts([tmp_path / "a.smi"], "vary")
    assert report.embedded == len(records) == 1


def test_a_bad_record_is_named_without_advice_that_does_not_fit(tmp_path):
    (tmp_path / "a.xyz").write_text("2\n\nC 0 0 0\nXx 1 0 0\n")
    with pytest.raises(UserError, match=r"a\.xyz, record 1: unknown element: Xx \(atom 2\)$"):
        read_parts([tmp_path / "a.xyz"], "grow")


@pytest.mark.parametrize(
    ("given", "task", "keep", "message"),
    [
        (
            ["CO", "CN"],
            "grow",
            None,
            "got 2; --which says which of them; fragments of one scaffold belong in one record",
        ),
        (["CO", "CN"], "vary", None, "vary takes 1 molecule, got 2; --which says which of them$"),
        (["CO"], "interpolate", None, "interpolate takes 2 molecules, got 1$"),
        (["CO"], "link", None, "link joins two or more pieces, and what is kept is one piece"),
        (["CO"], "grow", [1, 7], "--keep names atom 7, and the input has atoms 1 to 6"),
        (["CO"], "grow", [0], "--keep names atom 0"),
        (["CO"], "grow", [], "--keep names no atom"),
        (["CO"], "grow", [3, 4], "no heavy atom is kept"),
        (
            ["CC(=O)N"],
            "grow",
            None,
            "4 heavy atoms stay, and the model knows molecules of at most 4; keep fewer",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(given, task, keep, message):
    with pytest.raises(UserError, match=message):
        fragments(examples.model().modality, [named(text) for text in given], task, keep)


def test_an_element_that_the_model_does_not_know_is_named():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCl"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    with pytest.raises(UserError, match="element Cl; this model knows C, N, O, F"):
        examples.model().edit([mol], "grow", 1)
    made = examples.model().edit([mol], "grow", 1, keep=[1], resamples=1).records
    assert made[0].GetAtomWithIdx(0).GetSymbol() == "C"


def test_a_linker_of_all_atoms_has_room_for_its_hydrogens():
    pieces, sizes = points((0, 0, 0), (4.5, 0, 0)), {}
    for hydrogens in ("implicit", "explicit"):
        adapter = Molecules([1, 6], {n: 1 for n in range(1, 40)}, hydrogens)
        sizes[hydrogens] = fragments(adapter, pieces, "link")[0].sizes
    low, high = sizes["implicit"]
    assert sizes["explicit"] == (low, 2 + 3 * (high - 2) + 2)


def test_pieces_on_top_of_one_another_are_refused_before_the_work():
    adapter = Molecules([6], {n: 1 for n in range(2, 9)})
    overlapping = points((0, 0, 0), (1.5, 0, 0), (1.5, 0.4, 0), (3, 0.4, 0))
    for task in ("grow", "link"):
        with pytest.raises(UserError, match=r"atoms 2 and 3 of the input overlap, .* move its pieces apart"):
            fragments(adapter, overlapping, task)
    with pytest.raises(UserError, match="atoms 2 and 3 of the input overlap"):
        fragments(adapter, overlapping, "link", [2, 3, 4])
    assert len(fragments(adapter, overlapping, "grow", [1, 2, 4])[0]) == 3


def test_a_molecule_larger_than_any_known_is_not_varied():
    adapter = Molecules([6, 8], {3: 1})
    with pytest.raises(UserError, match="the input has 4 heavy atoms, and the model knows molecules of at most 3"):
        fragments(adapter, [named("CCCO")], "vary")


def test_pieces_too_far_apart_are_named_as_the_reason():
    far = points((0, 0, 0), (40, 0, 0))
    with pytest.raises(UserError, match=r"no size between \d+ and \d+ .*pieces that lie far apart .*--size bounds"):
        examples.model().edit(far, "link", 2)
