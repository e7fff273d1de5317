"""Hydrogens that RDKit adds are relaxed, and nothing else is."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdForceFieldHelpers

from gendiff.catalog import builtin
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.bonds import infer_all
from gendiff.modalities.molecules.hydrogens import infer_relaxed, relax_hydrogens
from gendiff.modalities.molecules.modality import Molecules


def placed(smiles):
    """A molecule in a minimum of its force field, and the same with hydrogens where RDKit alone puts them."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, "MMFF94s", maxIters=5000)
    else:
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=5000)
    return mol, Chem.AddHs(Chem.RemoveHs(mol), addCoords=True)


def field(mol):
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
    parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, "MMFF94s")
    return rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters)


SMILES = ["CCO", "c1ccccc1O", "CC(=O)N", "OC1CC1", "NCC#C", "C[NH3+]", "C[Si](C)(C)O", "CB(O)O", "C[Se]C"]


@pytest.mark.parametrize("smiles", SMILES)
def test_hydrogens_end_without_forces_and_all_other_atoms_stay(smiles):
    _, start = placed(smiles)
    before = start.GetConformer().GetPositions()
    end = relax_hydrogens(start)
    heavy = np.array([atom.GetAtomicNum() > 1 for atom in end.GetAtoms()])
    after = end.GetConformer().GetPositions()
    forces = [np.abs(np.reshape(field(mol).CalcGrad(), (-1, 3))[~heavy]).max() for mol in (start, end)]
    assert forces[1] < 0.1 < forces[0]  # kcal/mol/Å
    assert np.array_equal(after[heavy], before[heavy])
    assert np.array_equal(start.GetConformer().GetPositions(), before)  # what was given is not changed


@pytest.mark.parametrize("smiles", ["C", "c1ccccc1", "C=CC=C", "C[NH3+]", "C[Se]C"])
def test_a_minimum_is_found_again(smiles):
    minimum, start = placed(smiles)
    end = relax_hydrogens(start)
    assert field(end).CalcEnergy() == pytest.approx(field(minimum).CalcEnergy(), abs=1e-3)


def test_without_parameters_nothing_moves():
    mol = Chem.AddHs(Chem.MolFromSmiles("[SeH2]"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.GetAtomWithIdx(0).SetAtomicNum(118)
    mol.UpdatePropertyCache(strict=False)
    assert relax_hydrogens(mol) is mol


def test_what_has_no_finite_minimum_stays():
    mol = Chem.AddHs(Chem.MolFromSmiles("CC"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.GetConformer().SetAtomPosition(mol.GetNumAtoms() - 1, [np.nan] * 3)
    assert relax_hydrogens(mol) is mol


def test_the_built_in_molecules_are_minima_again_and_were_not_where_rdkit_puts_hydrogens():
    records, _ = Molecules.read([builtin("small-molecules")])
    heavy = records.select(np.arange(0, len(records), 100)).remove_hydrogens().split()
    energies = [
        np.median([metrics.strain_energy(mol)[0] for mol, reason in draw(heavy, hydrogens="implicit") if not reason])
        for draw in (infer_all, infer_relaxed)
    ]
    assert energies[0] > 2
    assert energies[1] < 0.05


def test_drawn_molecules_have_relaxed_hydrogens_and_invalid_ones_are_left():
    records, _ = Molecules.read([builtin("small-molecules")])
    few = records.select(np.arange(20))
    adapter = Molecules.fit(records)
    assert adapter.hydrogens == "implicit"
    for mol in adapter.redraw(few):
        heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
        assert np.abs(np.reshape(field(mol).CalcGrad(), (-1, 3))[~heavy]).max() < 0.1
    bad = (np.array([6, 6]), np.zeros((2, 3)), None)
    assert infer_relaxed([bad], hydrogens="implicit")[0][1] == infer_all([bad], hydrogens="implicit")[0][1] != ""


def test_hydrogens_that_are_drawn_are_not_touched():
    mol, _ = placed("CCO")
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    noise = np.random.default_rng(0).normal(scale=0.03, size=(len(numbers), 3))
    positions = mol.GetConformer().GetPositions() + noise
    ((drawn, reason),) = infer_relaxed([(numbers, positions, None)], hydrogens="explicit")
    assert not reason
    assert np.array_equal(drawn.GetConformer().GetPositions(), positions)


def test_a_force_field_that_gives_up_changes_nothing(monkeypatch):
    class GivesUp:
        def __getattr__(self, name):
            return lambda *args, **options: None

        def Minimize(self, **options):
            raise RuntimeError("bad direction in linearSearch")

    _, mol = placed("CCO")
    monkeypatch.setattr(rdForceFieldHelpers, "MMFFGetMoleculeForceField", lambda *args: GivesUp())
    assert relax_hydrogens(mol) is mol
