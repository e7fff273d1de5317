"""Views in notebooks: what is handed to 3Dmol.js, and that nothing of a molecule's text is."""

import sys

import numpy as np
import pytest
from rdkit import Chem

from gendiff.files import UserError
from gendiff.modalities.molecules.read import embed_3d
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.modalities.molecules.view import STICKS, view


def molecule(smiles: str, name: str = "") -> Chem.Mol:
    mol = embed_3d(Chem.MolFromSmiles(smiles))
    mol.SetProp("_Name", name)
    return mol


class Recorder:
    """Stands for py3Dmol: remembers what it is told."""

    def __init__(self, **options: object) -> None:
        self.options, self.calls = options, []

    def __getattr__(self, name: str) -> object:
        return lambda *words, **options: self.calls.append((name, words, options))

    def of(self, name: str) -> list[tuple[tuple, dict]]:
        return [(words, options) for called, words, options in self.calls if called == name]


@pytest.fixture
def recorder(monkeypatch):
    class Module:
        view = Recorder

    monkeypatch.setitem(sys.modules, "py3Dmol", Module)


def test_one_molecule(recorder):
    mol = molecule("CCO")
    for one in (mol, MoleculeArrays.from_mols([mol])[0]):
        shown = view(one, size=(300, 100))
        assert shown.options == {"width": 300, "height": 100, "linked": False, "viewergrid": None}
        (((block, kind, options), place),) = shown.of("addModel")
        assert (kind, options, place) == ("sdf", {"keepH": True}, {"viewer": None})
        back = Chem.MolFromMolBlock(block, removeHs=False)
        np.testing.assert_allclose(back.GetConformer().GetPositions(), mol.GetConformer().GetPositions(), atol=6e-5)
        assert shown.of("setStyle") == [(({}, STICKS), {"viewer": None})]
        assert len(shown.of("zoomTo")) == 1
    assert view(mol, style={"line": {}}).of("setStyle")[0][0] == ({}, {"line": {}})


def test_several_lie_in_a_grid(recorder):
    mols = [molecule("C" * n) for n in range(1, 6)]
    for many in (mols, iter(mols), MoleculeArrays.from_mols(mols)):
        shown = view(many, columns=3, size=(100, 50))
        assert shown.options == {"width": 300, "height": 100, "linked": False, "viewergrid": (2, 3)}
        places = [options["viewer"] for _, options in shown.of("addModel")]
        assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
        assert [words[0].splitlines()[3][:3].strip() for words, _ in shown.of("addModel")] == [
            "5",
            "8",
            "11",
            "14",
            "17",
        ]


def test_no_text_of_a_molecule_is_in_the_view(recorder):
    evil = "</script><script>alert(1)</script>"
    mol = molecule("CO", evil)
    mol.SetProp("SMILES", evil)
    mol.SetProp("invalid", evil)
    for name in ("molAtomMapNumber", "molFileAlias", "molFileValue"):
        mol.GetAtomWithIdx(0).SetProp(name, evil)
    group = Chem.CreateMolSubstanceGroup(mol, "DAT")
    group.SetProp("FIELDNAME", "x")
    group.SetProp("QUERYTYPE", evil)
    assert "script" not in repr(view(mol).calls)
    assert mol.GetProp("_Name") == evil  # as it was


def test_an_invalid_molecule_is_shown(recorder):
    mol = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    mol.AddConformer(Chem.Conformer(6))
    assert len(view(mol).of("addModel")) == 1


@pytest.mark.parametrize(
    ("molecules", "message"),
    [
        ([], "shows 1 to 100 molecules, got 0"),
        ([molecule("C")] * 101, "shows 1 to 100 molecules, got 101; choose some"),
        (Chem.MolFromSmiles("C"), "finite 3-D coordinates"),
    ],
)
def test_what_cannot_be_shown(recorder, molecules, message):
    with pytest.raises(ValueError, match=message):
        view(molecules)


def test_without_py3dmol_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3Dmol", None)
    with pytest.raises(UserError, match=r"pip install 'gendiff\[view\]'"):
        view(molecule("C"))


def test_with_py3dmol_itself():
    pytest.importorskip("py3Dmol", reason="py3Dmol is not installed (the extra `view`)")
    evil = "</script><script>alert(1)</script>"
    for molecules in (molecule("CCO", evil), [molecule("CCO", evil), molecule("C#N", evil)]):
        page = view(molecules)._make_html()
        assert page.count("addModel") == (1 if isinstance(molecules, Chem.Mol) else 2)
        assert "alert" not in page
        assert "V2000" in page
