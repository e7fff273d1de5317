"""Reading molecules: what is in the file, what had to be made up, and a one-line reason for what cannot be used."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDepictor

from gendiff.files import UserError
from gendiff.modalities.molecules.read import EXTENSIONS, embed_3d, read_molecules
from gendiff.modalities.molecules.read.archive import fragment_of_atom, restore_charges
from gendiff.modalities.molecules.records import MoleculeArrays, canonical_smiles


def block(smiles: str, name: str = "", dimension: int = 3, v3000: bool = False) -> str:
    """A mol block in 3-D, in 2-D, or without coordinates."""
    mol = Chem.MolFromSmiles(smiles)
    if dimension == 3:
        mol = embed_3d(mol, 1)
    elif dimension == 2:
        rdDepictor.Compute2DCoords(mol)
    mol.SetProp("_Name", name)
    return Chem.MolToMolBlock(mol, forceV3000=v3000)


def sdf(*blocks: str, fields: str = "") -> str:
    return "".join(text + fields + "$$$$\n" for text in blocks)


WATER = """water

     3D
  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1173 O   0  0
    0.0000    0.7572   -0.4692 H   0  0
    0.0000   -0.7572   -0.4692 H   0  0
  1  2  1  0
  1  3  1  0
M  END
""".replace("     3D", "  by hand           3D")

XYZ = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v3000", [False, True])
def test_sdf(tmp_path, v3000):
    smiles = ["CCO", "c1ccncc1", "C[N+](=O)[O-]", "CC(=O)[O-]"]
    text = sdf(*(block(text, f"name {index}", v3000=v3000) for index, text in enumerate(smiles)))
    assert ("V3000" in text) == v3000
    seen: list[float] = []
    arrays, report = read_molecules(write(tmp_path / "a.sdf", text), progress=seen.append)
    assert arrays.smiles == [Chem.CanonSmiles(text) for text in smiles]
    assert arrays.names == [f"name {index}" for index in range(4)]
    assert arrays.has_bonds.all()
    assert arrays.total_charge.tolist() == [0, 0, 0, -1]
    assert arrays.charges[arrays.molecule_of_atom == 2].tolist()[:4] == [0, 1, 0, -1]
    assert seen[-1] == 1.0
    first = Chem.MolFromMolBlock(text.split("$$$$\n")[0], removeHs=False)
    np.testing.assert_allclose(arrays[0].positions, first.GetConformer().GetPositions(), atol=1e-6)
    assert (report.records, report.kept, report.embedded, report.without_hydrogens) == (4, 4, 0, 0)
    assert (report.charged, report.zwitterions) == (1, 1)
    assert report.heavy_atoms == (3, 4.0, 6)
    assert report.elements["O"] == 1 + 2 + 2
    assert report.files[0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_mol_file_and_windows_line_ends(tmp_path):
    arrays, _ = read_molecules(write(tmp_path / "a.mol", WATER.replace("\n", "\r\n")))
    assert arrays.smiles == ["O"]
    np.testing.assert_allclose(arrays[0].positions[1], [0, 0.7572, -0.4692], atol=1e-6)


def test_numeric_data_fields_become_properties(tmp_path):
    fields = ["> <gap>\n0.25\n\n>  <name> (1)\nfoo\n\n> <poem>\n1\n2\n\n", "> <gap>\nnan\n\n> <mass>\n1e3\n\n", ""]
    text = "".join(WATER + field + "$$$$\n" for field in fields)
    arrays, _ = read_molecules(write(tmp_path / "a.sdf", text))
    assert set(arrays.properties) == {"gap", "mass"}
    np.testing.assert_array_equal(arrays.properties["gap"], [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(arrays.properties["mass"], [np.nan, 1e3, np.nan])


def test_hundreds_of_different_fields_do_not_fill_the_memory(tmp_path):
    text = "".join(WATER + f"> <field {index}>\n{index}\n\n$$$$\n" for index in range(400))
    arrays, _ = read_molecules(write(tmp_path / "a.sdf", text))
    assert len(arrays) == 400
    assert len(arrays.properties) == 256


def test_smiles_list(tmp_path):
    text = "# made by hand\n\nsmiles\nCCO ethanol from corn\nc1ccccc1\tbenzene\n\n# the end\nC[C@H](N)C(=O)O\n"
    arrays, report = read_molecules(write(tmp_path / "a.smi", "\ufeff" + text))
    assert arrays.names == ["ethanol from corn", "benzene", "C[C@H](N)C(=O)O"]
    assert arrays.smiles == ["CCO", "c1ccccc1", "CC(N)C(=O)O"]
    assert report.embedded == report.kept == 3
    assert arrays.num_atoms.tolist() == [9, 12, 13]
    assert "made 3-D coordinates for 3 molecules without any" in report.lines()[1]


def test_xyz_of_several_frames(tmp_path):
    text = XYZ + "\n" + "2\n\n8 0 0 0 -0.5 more columns\nc 1.1D0 0 0\n" + "1\nlast\nHe 1*^0 2 3"
    arrays, report = read_molecules(write(tmp_path / "a.xyz", text))
    assert [molecule.atomic_numbers.tolist() for molecule in arrays] == [[8, 1, 1], [8, 6], [2]]
    assert arrays.names == ["water", "", "last"]
    np.testing.assert_allclose(arrays[1].positions, [[0, 0, 0], [1.1, 0, 0]], atol=1e-6)
    assert arrays[2].positions.tolist() == [[1, 2, 3]]
    assert arrays.smiles is None
    assert report.duplicates is None
    assert "duplicates unknown" in report.lines()[0]


def test_raw_qm9_files_have_a_footer(tmp_path):
    atoms = "C -0.01 1.08 0.008 -0.53\nO 0.002 -0.006\t1.9*^-3 0.13\n"
    text = f"2\ngdb 4\t157.7 0.1 1.0\t\n{atoms}1341.3\t1341.4\nC=O\tC=O\nInChI=1S/CO\tInChI=1S/CO\n"
    arrays, _ = read_molecules(write(tmp_path / "a.xyz", text + XYZ))
    assert arrays.names == ["gdb 4", "water"]
    np.testing.assert_allclose(arrays[0].positions[1], [0.002, -0.006, 0.0019], atol=1e-7)


def test_a_folder_is_read_like_the_files_in_it(tmp_path):
    folder = tmp_path / "ligands"
    (folder / "more").mkdir(parents=True)
    for name, smiles in (("b.smi", "CCO"), ("a.smi", "CC"), ("more/c.smi", "CCN"), ("notes.md", "none")):
        (folder / name).write_text(f"{smiles} x\n")
    arrays, report = read_molecules(folder)
    expected, _ = read_molecules([folder / "a.smi", folder / "b.smi", folder / "more/c.smi"])
    assert list(arrays.smiles) == list(expected.smiles) == ["CC", "CCO", "CCN"]
    np.testing.assert_array_equal(arrays.positions, expected.positions)
    assert report.lines()[0].startswith("read 3 molecules from 3 files: C")


def test_a_part_is_asked_of_archives_alone(tmp_path):
    """Else all of a file would count as held out."""
    with pytest.raises(UserError, match=r"a\.smi: --split takes a part of \.npz files"):
        read_molecules(write(tmp_path / "a.smi", "CC x\n"), split="valid")


def test_several_files_of_several_formats(tmp_path):
    paths = [write(tmp_path / "a.sdf", sdf(WATER)), write(tmp_path / "b.xyz", XYZ), write(tmp_path / "c.smi", "C\nO\n")]
    arrays, report = read_molecules(paths)
    assert [Path(file["path"]).name for file in report.files] == ["a.sdf", "b.xyz", "c.smi"]
    assert [file["kept"] for file in report.files] == [1, 1, 2]
    assert arrays.smiles == ["O", "", "C", "O"]
    assert report.duplicates == 1
    assert report.lines()[0].startswith(
        "read 4 molecules from 3 files: C O H; 1 heavy atoms; 1 duplicate; 0 salts; 0 charged"
    )


# --- three dimensions -------------------------------------------------------------------------------------------------


def with_header(text: str, code: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([lines[0], f"{'by hand':>10}{'':10}{code}\n", *lines[2:]])


@pytest.mark.parametrize(
    ("text", "embedded"),
    [
        (block("CCO", dimension=2), True),
        (block("CCO", dimension=0), True),
        (with_header(block("CCO", dimension=2), "3D"), False),  # flat, but the header says 3D
        (
            with_header(re.sub(r"[ -]\d\.\d{4}", " 0.0000", block("CCO", dimension=2)), "3D"),
            True,
        ),  # no header makes zeros a geometry
        (with_header(block("CCO", dimension=3), "2D"), False),
        (with_header(block("CCO", dimension=3), "  "), False),
        (block("CCO", dimension=2, v3000=True), True),
        (with_header(block("C", dimension=0), "  "), True),  # one atom that should have hydrogens around it
        (with_header(block("[Ar]", dimension=0), "  "), False),
    ],
)
def test_what_counts_as_three_dimensional(tmp_path, text, embedded):
    arrays, report = read_molecules(write(tmp_path / "a.sdf", sdf(text)))
    assert report.embedded == embedded
    if embedded:
        assert arrays.has_hydrogens.all()
        assert np.linalg.matrix_rank(arrays[0].positions - arrays[0].positions.mean(0), tol=0.1) == 3
        with pytest.raises(UserError, match="record 1: no 3-D coordinates"):
            read_molecules(tmp_path / "a.sdf", embed=False)


def test_embedding_gives_the_geometry_of_a_molecule(tmp_path):
    write(tmp_path / "a.smi", "c1ccccc1\nC[C@H](F)Cl\nC[C@@H](F)Cl\n")
    arrays, _ = read_molecules(tmp_path / "a.smi")
    ring = arrays[0].positions[:6].astype(float)
    np.testing.assert_allclose(np.linalg.norm(ring - np.roll(ring, 1, 0), axis=1), 1.395, atol=0.02)
    volumes = []
    for molecule in (arrays[1], arrays[2]):
        a, b, c = molecule.positions[[0, 2, 3]] - molecule.positions[1]
        volumes.append(np.dot(a, np.cross(b, c)))
    assert volumes[0] * volumes[1] < 0  # each hand of the molecule was embedded as written


def test_embedding_depends_on_the_seed_alone(tmp_path):
    write(tmp_path / "a.smi", "CCCCO\nOCCCN\n")
    first, again, other = (read_molecules(tmp_path / "a.smi", seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.positions, again.positions)
    assert np.abs(first.positions - other.positions).max() > 0.1


def test_elements_that_mmff_does_not_know_are_relaxed_by_uff(tmp_path):
    arrays, _ = read_molecules(write(tmp_path / "a.smi", "CB(O)O\n"))
    assert 1.3 < np.linalg.norm(arrays[0].positions[0] - arrays[0].positions[1]) < 1.7


def test_missing_hydrogens_are_reported_and_can_be_added(tmp_path):
    heavy = Chem.MolToMolBlock(Chem.RemoveHs(embed_3d(Chem.MolFromSmiles("CCO"))))
    path = write(tmp_path / "a.sdf", sdf(heavy, WATER))
    arrays, report = read_molecules(path)
    assert arrays.num_atoms.tolist() == [3, 3]
    assert arrays.has_hydrogens.tolist() == [False, True]
    assert report.without_hydrogens == 1
    full, report = read_molecules(path, add_hydrogens=True)
    assert full.num_atoms.tolist() == [9, 3]
    assert report.without_hydrogens == 0
    np.testing.assert_array_equal(full[0].positions[:3], arrays[0].positions)
    assert np.linalg.norm(full[0].positions[3] - full[0].positions[0]) == pytest.approx(1.1, abs=0.03)


# --- salts, charges, duplicates ---------------------------------------------------------------------------------------


def test_isotopes_radicals_and_metals_are_named(tmp_path):
    text = "[2H]C([2H])O\n[13CH4]\nC[CH2]\nO=[N]\n[Li]CCC\nCCO\n"
    arrays, report = read_molecules(write(tmp_path / "a.smi", text))
    assert (report.isotopes, report.radicals, report.metals) == (2, 2, 1)
    assert arrays[0].atomic_numbers.tolist().count(1) == 4
    lines = report.lines()
    assert "2 molecules with isotopes, read as their elements" in lines
    assert "2 radicals; 1 molecule with metals" in lines
    heavy_water = "3\nD2O\nO 0 0 0\nD 0.96 0 0\nd -0.24 0.93 0\n"
    assert read_molecules(write(tmp_path / "c.xyz", heavy_water))[1].isotopes == 1
    arrays.save_npz(tmp_path / "d.npz")
    assert read_molecules(tmp_path / "d.npz")[1].metals == 1
    assert not any(
        "isotopes" in line or "radical" in line
        for line in read_molecules(write(tmp_path / "b.smi", "CCO\n"))[1].lines()
    )


@pytest.mark.parametrize("form", ["smi", "sdf", "npz"])
def test_policy_on_fragments(tmp_path, form):
    smiles = ["CC(=O)[O-].[Na+]", "CCO", "Cl.CN", "O.CC.CO.OC"]
    path = tmp_path / f"a.{form}"
    if form == "smi":
        write(path, "\n".join(smiles))
    elif form == "sdf":
        write(path, sdf(*(block(text) for text in smiles)))
    else:
        MoleculeArrays.from_mols([embed_3d(Chem.MolFromSmiles(text)) for text in smiles]).save_npz(path)
    arrays, report = read_molecules(path)
    mols = [canonical_smiles(mol) for mol in arrays.to_mols()]
    assert mols == ["CC(=O)[O-]", "CCO", "CN", "CC"]  # CC has more atoms than CO
    assert (report.fragments, report.charged) == (3, 1)
    assert "3 salts or mixtures (largest fragment kept)" in report.lines()[0]
    kept, report = read_molecules(path, fragments="keep")
    assert kept.num_heavy.tolist() == [5, 3, 3, 7]
    assert (report.fragments, report.charged, report.zwitterions) == (3, 0, 1)
    with pytest.raises(UserError, match=r"a\..*, record 1.*several fragments"):
        read_molecules(path, fragments="refuse")
    left, report = read_molecules(path, "skip", fragments="refuse")
    assert len(left) == 1
    assert report.skipped == {"several fragments": 3}


def test_duplicates_are_counted_without_stereochemistry_and_stay(tmp_path):
    write(tmp_path / "a.smi", "C[C@H](F)Cl\nC[C@@H](F)Cl\nOCC\nCCO\nCC\n")
    arrays, report = read_molecules(tmp_path / "a.smi")
    assert len(arrays) == 5
    assert report.duplicates == 2


def test_report_is_json(tmp_path):
    _, report = read_molecules(write(tmp_path / "a.sdf", sdf(WATER, WATER)))
    facts = json.loads(json.dumps(report.to_json()))
    assert facts["records"] == facts["kept"] == 2
    assert facts["duplicates"] == 1
    assert facts["elements"] == {"H": 4, "O": 2}
    assert facts["atoms"] == [3, 3.0, 3]


# --- archives ---------------------------------------------------------------------------------------------------------


def test_archive_with_the_first_three_arrays_only(tmp_path):
    np.savez(tmp_path / "a.npz", num_atoms=[2, 1], atomic_numbers=[6, 8, 2], positions=np.arange(9.0).reshape(3, 3))
    arrays, report = read_molecules(tmp_path / "a.npz")
    assert arrays.num_atoms.tolist() == [2, 1]
    assert arrays.names == ["", ""]
    assert not arrays.charges.any()
    assert report.without_hydrogens == 2


def test_archive_layout_of_qm9(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        num_atoms=np.array([2, 1, 3], np.uint8),
        atomic_numbers=np.array([6, 8, 2, 8, 1, 1], np.uint8),
        positions=np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32),
        index=np.array([11, 12, 13], np.int32),
        split=np.array([0, 1, 0], np.uint8),
        smiles=np.array(["[C-]#[O+]", "[He]", "O"], "S30"),
        smiles_source=np.array([1, 4, 2], np.uint8),
        properties=np.array([[1, 2], [3, np.nan], [5, 6]], np.float64),
        property_names=np.array(["gap", "homo"]),
    )
    arrays, _ = read_molecules(tmp_path / "a.npz")
    assert arrays.names == ["11", "12", "13"]
    assert arrays.smiles == ["", "[He]", "O"]  # source 1 is not to be trusted
    np.testing.assert_array_equal(arrays.properties["homo"], [2, np.nan, 6])
    train, report = read_molecules(tmp_path / "a.npz", split="train")
    assert train.names == ["11", "13"]
    assert report.records == 2
    assert train.atomic_numbers.tolist() == [6, 8, 8, 1, 1]
    assert read_molecules(tmp_path / "a.npz", split="valid")[0].properties["gap"].tolist() == [3]


CHARGED = {
    "C[N+](=O)[O-]": 0,
    "C[NH3+]": 1,
    "CC(=O)[O-]": -1,
    "CC[S-]": -1,
    "C[n+]1ccccc1": 1,
    "Cn1cccc1": 0,
    "C[S+2]([O-])([O-])C": 0,
    "O=C([O-])c1ccc[nH+]c1": 0,
    "[O-]S(=O)(=O)CC[N+](C)(C)C": 0,
    "CC#N": 0,
    "C[N+]1=CNC=C1": 1,
    "Cn1ccc(-c2cc[n+](C)cc2)c1": 1,
}


def test_smiles_of_an_archive_are_made_canonical(tmp_path):
    """So that the two ways to write ethanol are one duplicate, and what is no SMILES is unknown."""
    texts = ["OCC", "C(C)O", "C[C@H](O)F", "not a SMILES"]
    mol = embed_3d(Chem.MolFromSmiles("CCO"))
    arrays = MoleculeArrays.from_mols([mol] * 4).to_arrays() | {"smiles": np.array(texts, "S12")}
    np.savez(tmp_path / "m.npz", **arrays)
    read, report = read_molecules(tmp_path / "m.npz")
    assert read.smiles == ["CCO", "CCO", "CC(O)F", ""]
    assert report.duplicates == 1


@pytest.mark.parametrize("smiles", CHARGED)
def test_charges_are_restored_from_bonds_and_net_charge(smiles):
    mol = embed_3d(Chem.MolFromSmiles(smiles))
    arrays = MoleculeArrays.from_mols([mol])
    rows = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), 2 * bond.GetBondTypeAsDouble()) for bond in mol.GetBonds()]
    aromatic = MoleculeArrays(
        arrays.num_atoms, arrays.atomic_numbers, arrays.positions, num_bonds=arrays.num_bonds, bonds=np.array(rows, int)
    )
    charged = dataclasses.replace(aromatic, charges=restore_charges(aromatic, np.array([CHARGED[smiles]])))
    assert canonical_smiles(charged.to_mols()[0]) == canonical_smiles(mol)
    assert charged.total_charge.tolist() == [CHARGED[smiles]]


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 10_000))
def test_fragments_are_those_of_the_graph(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, 5)
    bonds = [np.argwhere(np.triu(rng.random((n, n)) < 0.25, 1)) for n in sizes]
    arrays = MoleculeArrays(
        sizes,
        np.full(sizes.sum(), 6),
        rng.normal(size=(sizes.sum(), 3)),
        num_bonds=[len(pairs) for pairs in bonds],
        bonds=np.column_stack([np.concatenate(bonds), np.full(sum(map(len, bonds)), 2)]),
    )
    expected, count = [], 0
    for n, pairs in zip(sizes, bonds, strict=True):
        reach = np.eye(n, dtype=bool)
        reach[tuple(pairs.T)] = reach[tuple(pairs[:, ::-1].T)] = True
        reach = np.linalg.matrix_power(reach.astype(float), n) > 0
        first = reach.argmax(1)
        expected += (count + np.searchsorted(np.unique(first), first)).tolist()
        count += len(np.unique(first))
    assert fragment_of_atom(arrays).tolist() == expected


# --- bad records ------------------------------------------------------------------------------------------------------

CARBON = "    0.0000    0.0000    0.0000 C   0  0"


def edited(old: str, new: str, text: str = WATER) -> str:
    assert old in text
    return text.replace(old, new, 1)


BAD_SDF = {
    "NaN or infinite coordinate": [edited("    0.7572", "       nan"), edited("    0.7572", "       inf")],
    "coordinate beyond 1,000 Å": [edited("    0.7572", " 9999.7572")],
    "two atoms at one place": [edited("    0.0000   -0.7572   -0.4692 H", "    0.0000    0.7572   -0.4692 H")],
    "unknown element": [edited(" O ", " Xx")],
    "dummy or query atom": [edited(" O ", " A "), edited(" O ", " R#"), edited(" O ", " * "), edited(" O ", " Q ")],
    "truncated record": [
        edited("M  END\n", ""),
        "\n".join(WATER.splitlines()[:6]) + "\nM  END\n",
        "only a name\n",
        "",
    ],
    "unreadable counts line": [edited("  3  2  0", " three    ")],
    "unreadable atom line": [edited("    0.7572", "   x.7572 ")],
    "chemistry RDKit rejects": [
        edited("  1  3  1  0", "  1  3  3  0"),
        block("CCO").replace("M  END", "M  CHG  1   1  -3\nM  END"),
    ],
    "no atoms": ["nothing\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n"],
    "too many atoms": [block("C" * 300, dimension=2)],
    "unreadable mol block": [edited("  1  3  1  0", "  1  9  1  0")],
}
BAD_V3000 = {
    "NaN or infinite coordinate": [("0.757200", "nan"), ("0.757200", "inf")],
    "coordinate beyond 1,000 Å": [("0.757200", "1e300"), ("0.757200", "1e6")],
    "unknown element": [(" O ", " Xx ")],
    "dummy or query atom": [(" O ", " * "), (" O ", " [C,N] ")],
}
BAD_SMILES = {
    "unreadable SMILES": ["C1CC(", "CXx", "hello", "C" * 20 + "%", "\x01\x02\x03", "é"],
    "chemistry RDKit rejects": ["C(C)(C)(C)(C)C", "c1cccc1"],
    "dummy or query atom": ["*CC", "[*]"],
    "too many atoms": ["C" * 257, "C" * 5000],
    "cannot be embedded in 3-D": ["C1#CC1", "[Og]"],
}
BAD_XYZ = {
    "NaN or infinite coordinate": [edited("0.7572", "nan", XYZ), edited("0.7572", "-inf", XYZ)],
    "coordinate beyond 1,000 Å": [edited("0.7572", "1e5", XYZ), edited("0.7572", "1e300", XYZ)],
    "two atoms at one place": ["2\n\nC 0 0 0\nC 0 0 0.01\n"],
    "unknown element": [edited("O", "Xx", XYZ), edited("O", "0", XYZ), edited("O", "119", XYZ)],
    "truncated record": ["3\n\nC 0 0 0\nC 0 0 1.4\n", "3\n\nC 0 0 0\nC 0 0\nC 0 0 3\n"],
    "no atom count": ["-3\n\nC 0 0 0\n", "many\n\nC 0 0 0\n", "C 0 0 0\n", "3.0\n\nC 0 0 0\n"],
    "unreadable coordinate": [edited("0.7572", "x", XYZ)],
    "no atoms": ["0\n\n"],
    "too many atoms": ["300\n\n" + "".join(f"C {i} 0 0\n" for i in range(300))],
}
V3000 = Chem.MolToMolBlock(Chem.MolFromMolBlock(WATER, removeHs=False), forceV3000=True)
BAD_RECORDS = (
    [(kind, "sdf", sdf(text), sdf(WATER)) for kind, texts in BAD_SDF.items() for text in texts]
    + [(kind, "sdf", sdf(edited(*change, V3000)), sdf(V3000)) for kind, all_ in BAD_V3000.items() for change in all_]
    + [(kind, "smi", text + "\n", "C\n") for kind, texts in BAD_SMILES.items() for text in texts]
    + [(kind, "xyz", text, XYZ) for kind, texts in BAD_XYZ.items() for text in texts]
)


@pytest.mark.parametrize(("kind", "form", "bad", "good"), BAD_RECORDS)
def test_bad_record(tmp_path, capfd, kind, form, bad, good):
    """Stops with file, record and reason in one line, or is left out and counted while the good ones stay."""
    path = write(tmp_path / f"a.{form}", good + bad + good + good)
    with pytest.raises(UserError) as error:
        read_molecules(path)
    message = str(error.value)
    assert message.startswith(f"{path}, record 2")
    assert f": {kind}" in message
    assert message.endswith("leave such records out with --on-error skip")
    assert message.isprintable()
    arrays, report = read_molecules(path, "skip")
    assert report.skipped == {kind: 1}
    assert len(arrays) == report.kept == 3
    assert report.records == 4
    assert f"left out 1 of 4 records: {kind} 1 (first: a.{form}, record 2" in report.lines()[-1]
    write(path, bad)
    with pytest.raises(UserError, match=r"no usable molecule in 1 records: .* 1 \(first: ") as error:
        read_molecules(path, "skip")
    assert kind in str(error.value)
    if kind != "cannot be embedded in 3-D":  # there threads share RDKit's log, which embedding switches on for moments
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("cut", [5, 60, 150, 210, len(WATER) + 10, len(WATER) + 19])
def test_sdf_that_ends_too_early(tmp_path, cut):
    text = sdf(WATER, fields="> <gap>\n0.2517\n\n")
    path = write(tmp_path / "a.sdf", text + text[:cut])
    with pytest.raises(UserError, match=r"record 2.*: truncated record: the file ends inside"):
        read_molecules(path)
    arrays, report = read_molecules(path, "skip")
    assert len(arrays) == 1
    assert report.skipped == {"truncated record": 1}


@pytest.mark.parametrize("end", ["", "\n", "\n\n  \n"])
def test_last_record_of_an_sdf_may_lack_its_dollars(tmp_path, end):
    assert len(read_molecules(write(tmp_path / "a.sdf", sdf(WATER) + WATER + end))[0]) == 2
    assert len(read_molecules(write(tmp_path / "b.sdf", sdf(WATER) + end))[0]) == 1


def test_reading_goes_on_after_a_broken_frame(tmp_path):
    text = XYZ + "4\nbroken\nC 0 0 0\nC 0 0\nC 0 0 2\nC 0 0 3\n" + XYZ + "garbage\nmore garbage\n" + XYZ
    arrays, report = read_molecules(write(tmp_path / "a.xyz", text), "skip")
    assert len(arrays) == 3
    assert report.skipped == {"truncated record": 1, "no atom count": 1}


def test_lenient_reading_keeps_what_an_evaluation_must_count(tmp_path):
    overlap, valence = BAD_SDF["two atoms at one place"][0], BAD_SDF["chemistry RDKit rejects"][0]
    path = write(tmp_path / "a.sdf", sdf(WATER, overlap, valence))
    arrays, report = read_molecules(path, strict=False)
    assert arrays.smiles[0] == "O"
    assert arrays.smiles[2] == ""
    assert report.rejected == 1
    assert "1 molecule kept though RDKit rejects the chemistry" in report.lines()
    with pytest.raises(UserError, match="NaN"):
        read_molecules(write(tmp_path / "b.sdf", sdf(BAD_SDF["NaN or infinite coordinate"][0])), strict=False)


def archive(**changes: object) -> dict[str, np.ndarray]:
    sound = {
        "num_atoms": np.array([2, 1, 3]),
        "atomic_numbers": np.array([6, 8, 2, 8, 1, 1]),
        "positions": np.arange(18.0).reshape(6, 3),
        "num_bonds": np.array([1, 0, 2]),
        "bonds": np.array([[0, 1, 6], [0, 1, 2], [0, 2, 2]]),
        "name": np.array(["CO", "helium", "water"]),
    }
    return sound | changes


BAD_ROWS = [
    (
        "NaN or infinite coordinate",
        {"positions": np.where(np.arange(18).reshape(6, 3) == 4, np.nan, np.arange(18.0).reshape(6, 3))},
    ),
    (
        "coordinate beyond 1,000 Å",
        {"positions": np.where(np.arange(18).reshape(6, 3) == 4, 1e9, np.arange(18.0).reshape(6, 3))},
    ),
    ("two atoms at one place", {"positions": np.array([[0, 0, 0], [0, 0, 0], *np.arange(12.0).reshape(4, 3)])}),
    ("dummy or query atom", {"atomic_numbers": np.array([6, 0, 2, 8, 1, 1])}),
    ("unknown element", {"atomic_numbers": np.array([6, 119, 2, 8, 1, 1])}),
    ("bond table that does not fit the atoms", {"bonds": np.array([[0, 2, 6], [0, 1, 2], [0, 2, 2]])}),
    ("bond table that does not fit the atoms", {"bonds": np.array([[0, 1, 9], [0, 1, 2], [0, 2, 2]])}),
    ("bond table that does not fit the atoms", {"bonds": np.array([[1, 1, 2], [0, 1, 2], [0, 2, 2]])}),
    ("bond table that does not fit the atoms", {"bonds": np.array([[-1, 1, 2], [0, 1, 2], [0, 2, 2]])}),
]


@pytest.mark.parametrize(("kind", "change"), BAD_ROWS)
def test_bad_row_of_an_archive(tmp_path, kind, change):
    np.savez(tmp_path / "a.npz", **archive(**change))
    with pytest.raises(UserError, match=rf"a\.npz, record 1 \(CO\): {kind}.*--on-error skip"):
        read_molecules(tmp_path / "a.npz")
    arrays, report = read_molecules(tmp_path / "a.npz", "skip")
    assert arrays.names == ["helium", "water"]
    assert arrays[1].bonds.tolist() == [[0, 1, 2], [0, 2, 2]]
    assert arrays[1].atomic_numbers.tolist() == [8, 1, 1]
    assert report.skipped == {kind: 1}


def test_row_without_atoms(tmp_path):
    np.savez(tmp_path / "a.npz", num_atoms=[0, 1], atomic_numbers=[2], positions=np.zeros((1, 3)))
    with pytest.raises(UserError, match="record 1: no atoms"):
        read_molecules(tmp_path / "a.npz")
    assert len(read_molecules(tmp_path / "a.npz", "skip")[0]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((5, 3))}, "`positions` should be floats of shape"),
        ({"positions": np.zeros((6, 2))}, "`positions` should be floats of shape"),
        ({"positions": np.zeros((6, 3), complex)}, "`positions` should be floats"),
        ({"atomic_numbers": np.zeros(6)}, "`atomic_numbers` should be integers"),
        ({"atomic_numbers": np.zeros(4, int)}, "`atomic_numbers`"),
        ({"num_atoms": np.array([2, -1, 5])}, "`num_atoms` counts more"),
        ({"num_atoms": np.array([2, 2**62, 2**62])}, "`num_atoms` counts more"),
        ({"num_atoms": np.array([[2, 1, 3]])}, "`num_atoms` should have one axis"),
        ({"num_atoms": np.array([2.0, 1.0, 3.0])}, "`num_atoms` should be integers"),
        ({"num_bonds": np.array([1, 0])}, "`num_bonds`"),
        ({"bonds": np.zeros((2, 3), int)}, "`bonds`"),
        ({"name": np.array(["a"])}, "`name`"),
        ({"smiles": np.array([1.5, 2, 3])}, "`smiles`"),
        ({"charges": np.zeros(3, int)}, "`charges`"),
        ({"formal_charge": np.zeros(6, int)}, "`formal_charge`"),
        ({"properties": np.zeros((2, 1))}, "`properties`"),
        ({"properties": np.zeros((3, 1)), "property_names": np.array(["a", "b"])}, "`property_names`"),
        ({"smiles": np.array(["C"] * 3), "smiles_source": np.zeros(2, int)}, "`smiles_source`"),
    ],
)
def test_archive_whose_arrays_do_not_fit(tmp_path, change, message):
    np.savez(tmp_path / "a.npz", **archive(**change))
    with pytest.raises(UserError) as error:
        read_molecules(tmp_path / "a.npz", "skip")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_archive_without_what_is_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", **archive())
    with pytest.raises(UserError, match="lacks the array `split`"):
        read_molecules(tmp_path / "a.npz", split="train")
    np.savez(tmp_path / "b.npz", pixels=np.zeros(3))
    with pytest.raises(UserError, match="lacks the array `num_atoms`; a molecule archive has"):
        read_molecules(tmp_path / "b.npz")
    np.savez(
        tmp_path / "c.npz", num_atoms=np.zeros(0, int), atomic_numbers=np.zeros(0, int), positions=np.zeros((0, 3))
    )
    with pytest.raises(UserError, match="no usable molecule in 0 records"):
        read_molecules(tmp_path / "c.npz")


# --- bad files --------------------------------------------------------------------------------------------------------


class Evil:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def pickled(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(proof)))


def pickled_member(path: Path, proof: Path) -> None:
    np.savez(path, num_atoms=np.array([Evil(proof)], object), atomic_numbers=[1], positions=np.zeros((1, 3)))


def bomb(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 33,)})
        file.writestr("num_atoms.npy", header.getvalue() + b"\0" * 1000)


@pytest.mark.parametrize("make", [pickled, pickled_member, bomb])
def test_hostile_archives_are_refused_and_run_nothing(tmp_path, make):
    path, proof = tmp_path / "a.npz", tmp_path / "proof"
    make(path, proof)
    with pytest.raises(UserError) as error:
        read_molecules(path, "skip")
    assert str(error.value).startswith(str(path))
    assert not proof.exists()


NOISE = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()


@pytest.mark.parametrize("suffix", EXTENSIONS)
@pytest.mark.parametrize(
    "content", [NOISE, NOISE.replace(b"\0", b"1"), b"\n\n\n", b"\xff\xfe" + "CCO\n".encode("utf-16-le")]
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_random_bytes_are_one_line(tmp_path, suffix, content, on_error):
    path = write(tmp_path / f"a{suffix}", content)
    with pytest.raises(UserError) as error:
        read_molecules(path, on_error)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.sdf", "no such file"),
        ("folder.sdf", "holds no file that ends in one of .sdf .sd .mol"),
        ("empty.sdf", "the file is empty"),
        ("molecules.docx", "unknown extension '.docx'; molecules are read from .sdf"),
        ("noextension", "unknown extension ''"),
        ("molecules.gz", "unknown extension '.gz'"),
        ("molecules.npz.gz", "unknown extension '.npz.gz'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, message):
    (tmp_path / "folder.sdf").mkdir()
    for other in ("empty.sdf", "molecules.docx", "noextension", "molecules.gz", "molecules.npz.gz"):
        write(tmp_path / other, "" if other == "empty.sdf" else "x")
    with pytest.raises(UserError) as error:
        read_molecules([write(tmp_path / "good.sdf", sdf(WATER)), tmp_path / name])
    assert str(error.value).startswith(str(tmp_path / name))
    assert message in str(error.value)


def test_file_without_permission(tmp_path, monkeypatch):
    path = write(tmp_path / "a.sdf", sdf(WATER))
    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr(os, "access", lambda *_: False)
    path.chmod(0)
    with pytest.raises(UserError, match="permission denied"):
        read_molecules(path)


def test_endless_lines_and_records_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.smi: a line has over"):
        read_molecules(write(tmp_path / "a.smi", "C\n" + "C" * (1 << 20)), "skip")
    with pytest.raises(UserError, match=r"a\.sdf, record 2: has over"):
        read_molecules(write(tmp_path / "a.sdf", sdf(WATER) + WATER + ("x" * 1000 + "\n") * 5000), "skip")


def test_options_that_do_not_exist(tmp_path):
    path = write(tmp_path / "a.sdf", sdf(WATER))
    for options in ({"on_error": "ignore"}, {"fragments": "all"}, {"split": "test"}):
        with pytest.raises(ValueError, match="must be one of"):
            read_molecules(path, **options)
    with pytest.raises(UserError, match="no file"):
        read_molecules([])


# --- real data --------------------------------------------------------------------------------------------------------

data = os.environ.get("GENDIFF_DATA")
needs_data = pytest.mark.skipif(not data, reason="GENDIFF_DATA is not set")


@needs_data
def test_qm9():
    arrays, report = read_molecules(Path(str(data)) / "molecules" / "qm9.npz")
    assert len(arrays) == 115_896
    assert report.elements == {"H": 1_078_515, "C": 739_815, "N": 116_171, "O": 163_392, "F": 10}
    assert report.atoms[::2] == (3, 29)
    assert len(arrays.properties) == 12
    assert int(np.isfinite(arrays.properties["gap"]).sum()) == 85_891
    assert arrays.has_hydrogens.sum() > 115_800


@needs_data
def test_druglike():
    arrays, report = read_molecules(Path(str(data)) / "molecules" / "druglike.npz")
    assert (len(arrays), report.charged, report.skipped.total()) == (4_207, 377, 0)
    with np.load(Path(str(data)) / "molecules" / "druglike.npz") as archive:
        np.testing.assert_array_equal(arrays.total_charge, archive["formal_charge"])
    some = arrays.select(slice(None, None, 29))
    for mol, smiles in zip(some.to_mols(), some.smiles, strict=True):
        assert canonical_smiles(mol) == canonical_smiles(Chem.MolFromSmiles(smiles))
