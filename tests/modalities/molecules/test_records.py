"""Molecules in flat arrays: every operation against the same operation on a plain list of molecules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from gendiff.modalities.molecules.records import (
    MAX_COORDINATE,
    Molecule,
    MoleculeArrays,
    canonical_smiles,
    clean_name,
    find_defects,
    from_mol,
    to_mol,
)

quick = settings(max_examples=40, deadline=None, database=None)


def random_molecules(seed: int, count: int, hydrogens: float = 0.5) -> list[Molecule]:
    """Molecules of 1 to 9 atoms with random bonds; chemistry plays no role."""
    rng = np.random.default_rng(seed)
    molecules = []
    for index in range(count):
        n = int(rng.integers(1, 10))
        numbers = np.where(rng.random(n) < hydrogens, 1, rng.choice([6, 7, 8, 9, 16], n)).astype(np.uint8)
        pairs = np.argwhere(np.triu(rng.random((n, n)) < 0.4, 1))
        bonds = np.column_stack([pairs, rng.choice([2, 3, 4, 6], len(pairs))]).astype(np.int32)
        molecules.append(
            Molecule(
                numbers,
                rng.normal(0, 2, (n, 3)).astype(np.float32),
                rng.integers(-1, 2, n).astype(np.int8),
                bonds.reshape(-1, 3),
                f"S{index}",
                f"name {index}",
                {"energy": float(rng.normal())},
            )
        )
    return molecules


def assert_same(got: Molecule, expected: Molecule) -> None:
    for name in ("atomic_numbers", "positions", "charges", "bonds"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
        assert getattr(got, name).dtype == getattr(expected, name).dtype
    assert (got.smiles, got.name, got.properties) == (expected.smiles, expected.name, expected.properties)


seeds = st.integers(0, 10_000)


@quick
@given(seeds, st.integers(1, 12))
def test_arrays_are_the_molecules_one_after_another(seed, count):
    molecules = random_molecules(seed, count)
    arrays = MoleculeArrays.from_molecules(molecules)
    assert len(arrays) == count
    for got, expected in zip(arrays, molecules, strict=True):
        assert_same(got, expected)
    assert_same(arrays[-1], molecules[-1])
    for (numbers, positions, charges), expected in zip(arrays.split(), molecules, strict=True):
        np.testing.assert_array_equal(numbers, expected.atomic_numbers)
        np.testing.assert_array_equal(positions, expected.positions)
        np.testing.assert_array_equal(charges, expected.charges)
    np.testing.assert_array_equal(arrays.total_charge, [molecule.charges.sum() for molecule in molecules])
    np.testing.assert_array_equal(arrays.num_heavy, [(molecule.atomic_numbers > 1).sum() for molecule in molecules])
    np.testing.assert_array_equal(
        arrays.has_hydrogens, [(molecule.atomic_numbers == 1).any() for molecule in molecules]
    )
    np.testing.assert_array_equal(
        arrays.has_bonds, [len(molecule.bonds) > 0 or len(molecule.charges) == 1 for molecule in molecules]
    )


@quick
@given(seeds, st.integers(1, 12), st.data())
def test_select_takes_molecules_in_any_order(seed, count, data):
    molecules = random_molecules(seed, count)
    arrays = MoleculeArrays.from_molecules(molecules)
    index = data.draw(st.lists(st.integers(0, count - 1), max_size=8))
    chosen = arrays.select(index)
    assert len(chosen) == len(index)
    for got, row in zip(chosen, index, strict=True):
        assert_same(got, molecules[row])
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    assert [molecule.name for molecule in arrays.select(keep)] == [
        m.name for m, k in zip(molecules, keep, strict=True) if k
    ]
    assert arrays.select(slice(1, None, 2)).names == arrays.names[1::2]


@quick
@given(seeds, st.integers(1, 8))
def test_concatenate_undoes_select(seed, count):
    molecules = random_molecules(seed, count)
    arrays = MoleculeArrays.from_molecules(molecules)
    joined = MoleculeArrays.concatenate([arrays.select([row]) for row in range(count)])
    for got, expected in zip(joined, molecules, strict=True):
        assert_same(got, expected)


def test_concatenate_fills_what_a_part_does_not_know():
    first, second = (MoleculeArrays.from_molecules(random_molecules(seed, 2)) for seed in (0, 1))
    second = MoleculeArrays(second.num_atoms, second.atomic_numbers, second.positions, properties={"gap": np.ones(2)})
    joined = MoleculeArrays.concatenate([first, second])
    assert joined.smiles == ["S0", "S1", "", ""]
    assert joined.names == ["name 0", "name 1", "", ""]
    assert np.isnan(joined.properties["energy"][2:]).all()
    assert np.isnan(joined.properties["gap"][:2]).all()
    assert len(MoleculeArrays.concatenate([])) == 0


@quick
@given(seeds, st.integers(1, 10))
def test_removing_hydrogens_keeps_heavy_atoms_and_the_bonds_between_them(seed, count):
    molecules = random_molecules(seed, count)
    heavy = MoleculeArrays.from_molecules(molecules).remove_hydrogens()
    expected = [molecule for molecule in molecules if (molecule.atomic_numbers > 1).any()]
    assert heavy.names == [molecule.name for molecule in expected]
    for got, molecule in zip(heavy, expected, strict=True):
        keep = np.flatnonzero(molecule.atomic_numbers > 1)
        new = {int(old): place for place, old in enumerate(keep)}
        bonds = [(new[i], new[j], code) for i, j, code in molecule.bonds.tolist() if i in new and j in new]
        np.testing.assert_array_equal(got.atomic_numbers, molecule.atomic_numbers[keep])
        np.testing.assert_array_equal(got.positions, molecule.positions[keep])
        np.testing.assert_array_equal(got.charges, molecule.charges[keep])
        assert [tuple(row) for row in got.bonds.tolist()] == bonds


@pytest.mark.parametrize("shift", [0.0, 900.0])
def test_centred_moves_the_centroid_and_nothing_else(shift):
    molecules = random_molecules(3, 20)
    moved = [molecule._replace(positions=molecule.positions + np.float32(shift)) for molecule in molecules]
    centred = MoleculeArrays.from_molecules(moved).centred()
    for got, before in zip(centred, moved, strict=True):
        assert np.abs(got.positions.mean(0)).max() < 1e-4
        inner = before.positions.astype(float)
        np.testing.assert_allclose(got.positions, inner - inner.mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_atoms": [3, 0]}, "at least one atom"),
        ({"num_atoms": [2, 2]}, "must have shape"),
        ({"positions": np.zeros((3, 2))}, "must have shape"),
        ({"positions": np.full((3, 3), np.nan)}, "finite"),
        ({"atomic_numbers": [6, 0, 8]}, "1 to 118"),
        ({"atomic_numbers": [6, 300, 8]}, "1 to 118"),
        ({"names": ["one"]}, "names"),
        ({"smiles": ["C"] * 3}, "smiles"),
        ({"properties": {"num_atoms": np.zeros(3)}}, "properties"),
        ({"num_bonds": [1, 0], "bonds": [[0, 2, 2]]}, "two different atoms"),
        ({"num_bonds": [1, 0], "bonds": [[1, 1, 2]]}, "two different atoms"),
        ({"num_bonds": [1, 0], "bonds": [[0, 1, 5]]}, "2 × order"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    sound = {"num_atoms": [2, 1], "atomic_numbers": [6, 8, 1], "positions": np.arange(9.0).reshape(3, 3)}
    MoleculeArrays(**sound)
    with pytest.raises(ValueError, match=message):
        MoleculeArrays(**sound | change)


def test_arrays_cannot_be_reassigned():
    arrays = MoleculeArrays.from_molecules(random_molecules(0, 2))
    with pytest.raises(AttributeError):
        arrays.positions = np.zeros((1, 3))
    with pytest.raises(IndexError):
        arrays[2]


DEFECTS = [
    ("no atoms", np.zeros(0, int), np.zeros((0, 3))),
    ("dummy or query atom", [6, 0], [[0, 0, 0], [1, 1, 1]]),
    ("unknown element", [6, 119], [[0, 0, 0], [1, 1, 1]]),
    ("NaN or infinite coordinate", [6, 1], [[0, 0, 0], [1, np.nan, 1]]),
    ("NaN or infinite coordinate", [6, 1], [[0, 0, 0], [1, np.inf, 1]]),
    ("coordinate beyond", [6, 1], [[0, 0, 0], [1, 2 * MAX_COORDINATE, 1]]),
    ("two atoms at one place", [6, 1, 1], [[0, 0, 0], [1, 0, 0], [1, 0.05, 0]]),
    ("too many atoms", [6] * 6, np.arange(18).reshape(6, 3)),
    ("too many atoms", [1] * 16, np.arange(48).reshape(16, 3)),
    ("", [6, 1], [[0, 0, 0], [1, 0, 0]]),
    ("", [6], [[0, 0, 0]]),
]


@pytest.mark.parametrize(("kind", "numbers", "positions"), DEFECTS)
def test_defects_are_found(kind, numbers, positions):
    (reason,) = find_defects([len(numbers)], numbers, positions, max_heavy_atoms=5)
    assert reason.startswith(kind)
    assert bool(reason) == bool(kind)


def test_defects_belong_to_their_molecule():
    order = np.random.default_rng(0).permutation(len(DEFECTS))
    cases = [DEFECTS[row] for row in order]
    reasons = find_defects(
        [len(numbers) for _, numbers, _ in cases],
        np.concatenate([np.asarray(numbers) for _, numbers, _ in cases]),
        np.concatenate([np.asarray(positions, float) for *_, positions in cases]),
        max_heavy_atoms=5,
    )
    for (kind, *_), reason in zip(cases, reasons, strict=True):
        assert reason.partition(":")[0].startswith(kind)
        assert bool(reason) == bool(kind)


@quick
@given(seeds)
def test_closeness_is_that_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, 20)
    positions = rng.random((sizes.sum(), 3))
    reasons = find_defects(sizes, np.full(sizes.sum(), 6), positions, min_distance=0.12)
    for x, reason in zip(np.split(positions, np.cumsum(sizes)[:-1]), reasons, strict=True):
        distance = np.linalg.norm(x[:, None] - x, axis=-1) + 9 * np.eye(len(x))
        assert bool(reason) == (distance.min() < 0.12)
        if reason:
            i, j = (int(word) - 1 for word in reason.replace("atoms", "").split(":")[1].split("and"))
            assert distance[i, j] < 0.12
    assert not any(find_defects(sizes, np.full(sizes.sum(), 6), positions, min_distance=0.0))


SMILES = ["O", "c1cc[nH]c1", "C[N+](=O)[O-]", "CC(=O)[O-]", "C#N", "c1ccc2ccccc2c1", "FC(F)(F)S(=O)(=O)N", "[H][H]"]


def embedded(smiles: str) -> Chem.Mol:
    from rdkit.Chem import rdDistGeom

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    return mol


@pytest.mark.parametrize("smiles", SMILES)
def test_rdkit_round_trip(smiles):
    mol = embedded(smiles)
    mol.SetProp("_Name", "it\nself")
    molecule = from_mol(mol)
    assert molecule.name == "it self"
    assert molecule.smiles == Chem.CanonSmiles(smiles)
    assert 3 not in molecule.bonds[:, 2]  # aromatic rings are stored as Kekulé structures
    back = to_mol(molecule)
    assert canonical_smiles(back) == Chem.CanonSmiles(smiles)
    np.testing.assert_allclose(back.GetConformer().GetPositions(), mol.GetConformer().GetPositions(), atol=1e-5)
    assert back.GetConformer().Is3D()
    assert sum(molecule.charges) == Chem.GetFormalCharge(mol)


@pytest.mark.parametrize("smiles", SMILES[:-1])
def test_heavy_atoms_alone_still_tell_the_molecule(smiles):
    heavy = MoleculeArrays.from_mols([embedded(smiles)]).remove_hydrogens()
    assert canonical_smiles(heavy.to_mols()[0]) == Chem.CanonSmiles(smiles)


def test_finite_properties_go_to_rdkit_and_back():
    mol = embedded("CCO")
    notes = {"logP": "-0.5", "index": "7", "valid": "true", "SMILES": "CCO", "bad": "nan", "long": "inf", "_mine": "3"}
    for name, value in notes.items():
        mol.SetProp(name, value)
    mol.SetDoubleProp("third", 1 / 3)
    molecule = from_mol(mol)
    assert molecule.properties == {"logP": -0.5, "index": 7.0, "third": pytest.approx(1 / 3)}
    numbers = {"a": 1 / 3, "b": 7.0, "c": -1e300, "d": float("nan"), "_Name": 1.0}
    back = to_mol(molecule._replace(properties=numbers, name="title"))
    assert back.GetProp("_Name") == "title"
    assert back.GetProp("b") == "7"
    assert from_mol(back).properties == {name: numbers[name] for name in "abc"}


def test_from_mol_takes_any_bonds_and_needs_coordinates():
    mol = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    with pytest.raises(ValueError, match="coordinates"):
        from_mol(mol)
    mol.AddConformer(Chem.Conformer(6))
    molecule = from_mol(mol)
    assert molecule.smiles == ""
    assert len(molecule.bonds) == 5
    assert to_mol(molecule).GetNumBonds() == 5
    with pytest.raises(ValueError, match="atoms"):
        from_mol(Chem.Mol())


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("N[C@@H](C)C(=O)O", "CC(N)C(=O)O"),
        ("C/C=C/C", "CC=CC"),
        ("[CH3:7][13CH3]", "CC"),
        ("[2H]C", "C"),
        ("[H]O[H]", "O"),
        ("[NH4+]", "[NH4+]"),
    ],
)
def test_canonical_smiles_ignores_what_models_cannot_choose(written, canonical):
    assert canonical_smiles(Chem.MolFromSmiles(written)) == canonical


def test_canonical_smiles_of_nonsense_is_empty_and_silent(capfd):
    assert canonical_smiles(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)) == ""
    assert capfd.readouterr().err == ""


def test_clean_name_is_one_printable_line():
    assert clean_name("  a\nb\x1b[31m\t ") == "a b [31m"
    assert clean_name("x" * 1000) == "x" * 80
    assert clean_name("Größe 3 µm") == "Größe 3 µm"
