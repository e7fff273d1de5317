"""Files of molecules: what is written is what is read, whatever the chemistry, and a file is whole or absent."""

import contextlib
import csv
import errno
import gzip
import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase

from gendiff.files import UserError
from gendiff.modalities.molecules.read import embed_3d, read_molecules
from gendiff.modalities.molecules.records import MoleculeArrays, canonical_smiles, clean_name
from gendiff.modalities.molecules.write import annotate, is_valid, mol_block, sdf_record, write_molecules

SMILES = ["O", "C", "c1cc[nH]c1", "C[N+](=O)[O-]", "CC(=O)[O-]", "C[NH3+]", "CC#N", "C[C@H](F)Cl", "O=S(=O)(N)c1ccccc1"]


@pytest.fixture(scope="module")
def molecules() -> list[Chem.Mol]:
    mols = [embed_3d(Chem.MolFromSmiles(smiles), seed) for seed, smiles in enumerate(SMILES)]
    for index, mol in enumerate(mols):
        annotate(mol, model="tiny", seed=7, index=index)
    return mols


def impossible(charge: int = 0) -> Chem.Mol:
    """Carbon with five bonds, as a model may draw it."""
    mol = Chem.RWMol()
    for _ in range(6):
        mol.AddAtom(Chem.Atom(6))
    mol.GetAtomWithIdx(0).SetFormalCharge(charge)
    for index in range(1, 6):
        mol.AddBond(0, index, Chem.BondType.SINGLE)
    conformer = Chem.Conformer(6)
    conformer.SetPositions(np.arange(18.0).reshape(6, 3))
    mol.AddConformer(conformer)
    mol.SetProp("invalid", "carbon with five bonds")
    return mol.GetMol()


def assert_same_molecules(arrays: MoleculeArrays, mols: list[Chem.Mol], tolerance: float, bonds: bool = True) -> None:
    assert len(arrays) == len(mols)
    for got, mol in zip(arrays, mols, strict=True):
        assert got.atomic_numbers.tolist() == [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        np.testing.assert_allclose(got.positions, mol.GetConformer().GetPositions(), atol=tolerance)
        assert got.name == mol.GetProp("_Name")
        if bonds:
            assert got.charges.tolist() == [atom.GetFormalCharge() for atom in mol.GetAtoms()]
            assert got.smiles == canonical_smiles(mol)
            pairs = {frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in mol.GetBonds()}
            assert {frozenset(row[:2].tolist()) for row in got.bonds} == pairs


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [(".sdf", 6e-5), (".sdf.gz", 6e-5), (".npz", 1e-6), (".xyz", 1e-6), (".xyz.gz", 1e-6), (".pdb", 6e-4)],
)
def test_round_trip(molecules, tmp_path, suffix, tolerance):
    path = tmp_path / f"new{suffix}"
    assert write_molecules(molecules, path) == len(molecules)
    arrays, report = read_molecules(path)
    assert_same_molecules(arrays, molecules, tolerance, bonds=".xyz" not in suffix)
    assert report.embedded == 0
    if ".sdf" in suffix:  # the numbers of the data fields come back too
        assert arrays.properties["seed"].tolist() == [7] * len(molecules)
        np.testing.assert_allclose(arrays.properties["MW"][0], 18.015)
    second = tmp_path / f"again{suffix}"
    write_molecules(molecules, second)
    assert suffix == ".npz" or second.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", [".smi", ".smiles"])
def test_smiles_list(molecules, tmp_path, suffix):
    path = tmp_path / f"new{suffix}"
    assert write_molecules([*molecules, impossible()], path) == len(molecules)
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [Chem.CanonSmiles(smiles) for smiles, _ in lines] == [Chem.CanonSmiles(smiles) for smiles in SMILES]
    assert [name for _, name in lines] == [f"tiny-{index}" for index in range(len(SMILES))]
    arrays, report = read_molecules(path)
    assert report.embedded == len(molecules)
    assert arrays.smiles == [canonical_smiles(mol) for mol in molecules]


def test_mol_file(molecules, tmp_path):
    path = tmp_path / "new.mol"
    assert write_molecules(molecules[3:4], path) == 1
    assert path.read_text() == mol_block(molecules[3])
    assert_same_molecules(read_molecules(path)[0], molecules[3:4], 6e-5)
    with pytest.raises(UserError, match=r"new\.mol: a \.mol file holds one molecule, not 9; write \.sdf"):
        write_molecules(molecules, path)
    assert path.read_text() == mol_block(molecules[3])


SUFFIXES = [".sdf", ".sdf.gz", ".mol", ".pdb", ".xyz", ".smi", ".csv", ".csv.gz", ".tsv", ".npz"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".tsv.gz"])
def test_table(molecules, tmp_path, suffix):
    path = tmp_path / f"new{suffix}"
    assert write_molecules([*molecules, impossible()], path) == len(molecules)
    text = gzip.decompress(path.read_bytes()).decode() if suffix.endswith(".gz") else path.read_text()
    rows = list(csv.DictReader(io.StringIO(text), delimiter="," if "csv" in suffix else "\t"))
    assert [row["smiles"] for row in rows] == SMILES_OF_COORDINATES
    assert rows[0].keys() == {*("smiles", "name", "valid", "connected", "QED", "logP", "MW", "model", "seed", "index")}
    arrays, _ = read_molecules(path)
    assert arrays.smiles == [canonical_smiles(mol) for mol in molecules]
    assert list(arrays.names) == [mol.GetProp("_Name") for mol in molecules]
    np.testing.assert_allclose(arrays.properties["logP"], [float(mol.GetProp("logP")) for mol in molecules])
    assert arrays.properties["seed"].tolist() == [7] * len(molecules)


SMILES_OF_COORDINATES = [Chem.CanonSmiles(smiles) for smiles in SMILES]


def test_a_table_holds_text_and_no_formulas(tmp_path):
    mol = embed_3d(Chem.MolFromSmiles("C"))
    mol.SetProp("_Name", '=cmd|"/c calc"!A1\nx,y')
    mol.SetProp("change", "-1.5")
    mol.SetProp("@note\n", "+sum(1)")
    write_molecules([mol], tmp_path / "a.csv")
    header, row = csv.reader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert header == ["smiles", "name", "change", "'@note"]
    assert row[1] == '\'=cmd|"/c calc"!A1 x,y'
    assert row[2:] == ["-1.5", "'+sum(1)"]


def test_equal_molecules_are_equal_bytes_packed_too(molecules, tmp_path, monkeypatch):
    for seconds, name in ((1e9, "a.sdf.gz"), (2e9, "b.sdf.gz")):
        monkeypatch.setattr("gzip.time.time", lambda seconds=seconds: seconds)
        write_molecules(molecules, tmp_path / name)
    assert (tmp_path / "a.sdf.gz").read_bytes() == (tmp_path / "b.sdf.gz").read_bytes()
    write_molecules(molecules, tmp_path / "a.sdf")
    assert gzip.decompress((tmp_path / "a.sdf.gz").read_bytes()) == (tmp_path / "a.sdf").read_bytes()


def test_what_does_not_fit_a_pdb_file_stays_out(molecules, tmp_path):
    far = Chem.Mol(molecules[0])
    far.GetConformer().SetPositions(far.GetConformer().GetPositions() + 5000)
    assert write_molecules([molecules[0], far, impossible(), Chem.MolFromSmiles("C")], tmp_path / "a.pdb") == 2
    text = (tmp_path / "a.pdb").read_text()
    assert text.count("MODEL ") == text.count("ENDMDL") == 2


@settings(max_examples=25, deadline=None, database=None)
@given(st.integers(0, 10_000), st.sampled_from([".sdf", ".sdf.gz", ".xyz", ".pdb", ".npz"]))
def test_points_survive_every_format(tmp_path_factory, seed, suffix):
    """Atoms without sense, from one atom on, in any order, anywhere in space."""
    rng = np.random.default_rng(seed)
    mols = []
    for index in range(3):
        n = int(rng.integers(1, 8))
        mol = Chem.RWMol()
        for number in rng.choice([1, 5, 6, 7, 8, 17, 26, 53], n):
            mol.AddAtom(Chem.Atom(int(number)))
        conformer = Chem.Conformer(n)
        grid = rng.permutation(125)[:n]
        conformer.SetPositions(
            np.column_stack(np.unravel_index(grid, (5, 5, 5))) * 1.7
            + rng.normal(0, 0.1, (n, 3))
            + rng.normal(0, 100, 3)
        )
        mol.AddConformer(conformer)
        mol.SetProp("_Name", f"points {index}")
        mols.append(mol.GetMol())
    path = tmp_path_factory.mktemp("points") / f"file{suffix}"
    write_molecules(mols, path)
    arrays, _ = read_molecules(path, fragments="keep", strict=False)
    assert_same_molecules(arrays, mols, 6e-4 if suffix == ".pdb" else 6e-5, bonds=False)


@settings(max_examples=40, deadline=None, database=None)
@given(st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False))
def test_any_name_and_number_survive_a_table(tmp_path_factory, name, number):
    mol = embed_3d(Chem.MolFromSmiles("C"))
    with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate is no text
        mol.SetProp("_Name", name.replace("\0", ""))
    mol.SetProp("number", repr(number))
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write_molecules([mol], path)
    arrays, _ = read_molecules(path)
    title = clean_name(mol.GetProp("_Name")) if mol.HasProp("_Name") else ""
    assert arrays.names[0] in (title or "C", f"'{title}", f"'{title}"[:80])
    assert arrays.properties["number"].tolist() == [number]


def test_annotate_measures_valid_molecules(molecules):
    from rdkit.Chem import QED, Crippen, Descriptors

    for mol, smiles in zip(molecules, SMILES, strict=True):
        plain = Chem.MolFromSmiles(smiles)
        assert mol.GetProp("valid") == mol.GetProp("connected") == "true"
        assert mol.GetProp("SMILES") == Chem.MolToSmiles(plain)  # with the stereochemistry of the coordinates
        assert float(mol.GetProp("QED")) == pytest.approx(QED.qed(plain), abs=5e-4)
        assert float(mol.GetProp("logP")) == pytest.approx(Crippen.MolLogP(plain), abs=5e-3)
        assert float(mol.GetProp("MW")) == pytest.approx(Descriptors.MolWt(plain), abs=5e-4)
        assert (mol.GetProp("model"), mol.GetProp("seed")) == ("tiny", "7")
        assert not mol.HasProp("reason")


def test_annotate_says_why_a_molecule_is_not_valid(capfd):
    noted, found, pieces = impossible(), impossible(), Chem.MolFromSmiles("C.C")
    found.ClearProp("invalid")
    for mol in (noted, found, pieces):
        annotate(mol)
    assert noted.GetProp("reason") == "carbon with five bonds"
    assert "Explicit valence" in found.GetProp("reason")
    assert [mol.GetProp("valid") for mol in (noted, found, pieces)] == ["false", "false", "true"]
    assert [mol.GetProp("connected") for mol in (noted, found, pieces)] == ["true", "true", "false"]
    assert [is_valid(mol) for mol in (noted, found, pieces)] == [False, False, True]
    assert not noted.HasProp("QED")
    assert not noted.HasProp("model")
    assert not is_valid(impossible())
    assert is_valid(Chem.MolFromSmiles("C"))
    assert capfd.readouterr().err == ""


def test_invalid_molecules_are_written_as_drawn(molecules, tmp_path):
    path = tmp_path / "all.sdf"
    mols = [*molecules[:2], impossible(), impossible(charge=1)]
    for index, mol in enumerate(mols):
        annotate(mol, index=index)
    assert write_molecules(mols, path) == 4
    text = path.read_text()
    assert text.count("$$$$") == 4
    assert "carbon with five bonds" in text
    with pytest.raises(UserError, match=r"record 3 \(molecule-2\): chemistry RDKit rejects"):
        read_molecules(path)
    arrays, report = read_molecules(path, strict=False)
    assert_same_molecules(arrays, mols, 6e-5)
    assert report.rejected == 2


def test_any_graph_can_be_written():
    """Random unsanitised graphs, among them some that RDKit itself refuses to write."""
    rng = np.random.default_rng(0)
    kinds = [
        Chem.BondType.SINGLE,
        Chem.BondType.DOUBLE,
        Chem.BondType.TRIPLE,
        Chem.BondType.AROMATIC,
        Chem.BondType.DATIVE,
    ]
    with rdBase.BlockLogs():
        for _ in range(300):
            n = int(rng.integers(1, 9))
            mol = Chem.RWMol()
            for _ in range(n):
                atom = Chem.Atom(int(rng.choice([1, 6, 7, 8, 26])))
                atom.SetFormalCharge(int(rng.integers(-3, 4)))
                mol.AddAtom(atom)
            for i in range(n):
                for j in range(i):
                    if rng.random() < 0.4:
                        mol.AddBond(i, j, kinds[rng.integers(len(kinds))])
            if rng.random() < 0.8:
                conformer = Chem.Conformer(n)
                x = rng.normal(0, rng.choice([1.0, 1e5]), (n, 3))
                x[rng.random((n, 3)) < 0.03] = np.nan
                conformer.SetPositions(x)
                mol.AddConformer(conformer)
            annotate(mol)
            record = sdf_record(mol)
            assert record.endswith("$$$$\n")
            assert record.count("M  END") == 1
            assert sum(line.startswith("$$$$") for line in record.splitlines()) == 1


@pytest.mark.parametrize(("shift", "version"), [(0.0, "V2000"), (50_000.0, "V3000")])
def test_coordinates_that_do_not_fit_the_columns_get_v3000(shift, version):
    mol = Chem.MolFromSmiles("CO")
    conformer = Chem.Conformer(2)
    conformer.SetPositions(np.array([[0, 0, 0], [1.4, 0, shift]]))
    mol.AddConformer(conformer)
    block = mol_block(mol)
    assert version in block
    back = Chem.MolFromMolBlock(block)
    assert back.GetConformer().GetPositions()[1, 2] == shift


def test_text_cannot_break_out_of_its_field():
    mol = Chem.MolFromSmiles("C")
    mol.SetProp("_Name", "a\n$$$$\nb")
    mol.SetProp("evil> <name\n", "x\n\n> <other>\ny\n$$$$\n")
    lines = sdf_record(mol).splitlines()
    assert lines[0] == "a $$$$ b"
    assert [line for line in lines if line.startswith("$$$$")] == ["$$$$"]
    assert sum(line.startswith(">") for line in lines) == 1


@pytest.mark.parametrize("text", ["$$$$", "M  END", ">  <x>"])
def test_no_line_of_text_ends_a_record(molecules, tmp_path, text):
    mol = Chem.Mol(molecules[0])
    mol.SetProp("_Name", text)
    mol.SetProp("first", text)
    mol.SetProp("last", "1.5")
    assert text not in [line[: len(text)] for line in sdf_record(mol).splitlines()[:1]]
    broken = impossible()
    broken.SetProp("_Name", text)
    write_molecules([mol, broken, molecules[1]], tmp_path / "a.sdf")
    content = (tmp_path / "a.sdf").read_text().splitlines()
    assert content.count("$$$$") == content.count("M  END") == 3
    arrays, report = read_molecules(tmp_path / "a.sdf", "skip")
    assert report.records == 3
    assert arrays.names[0] == text
    assert arrays.properties["last"][0] == 1.5
    with Chem.SDMolSupplier(str(tmp_path / "a.sdf")) as supplier:
        assert supplier[0].GetProp("last") == "1.5"


def test_a_column_called_valid_is_not_our_note(tmp_path):
    arrays = MoleculeArrays.from_mols([embed_3d(Chem.MolFromSmiles("CCO"))])
    arrays.properties.update(valid=np.array([0.0]), SMILES=np.array([1.0]), invalid=np.array([1.0]))
    write_molecules(arrays.to_mols(), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == ["smiles,name,valid", "CCO,,0"]


def test_molecules_without_coordinates_go_where_they_fit(molecules, tmp_path):
    flat = Chem.MolFromSmiles("CC")
    broken = Chem.Mol(molecules[0])
    broken.GetConformer().SetPositions(np.full((broken.GetNumAtoms(), 3), np.nan))
    assert write_molecules([molecules[0], flat, broken], tmp_path / "a.xyz") == 1
    assert write_molecules([molecules[0], flat, broken], tmp_path / "a.npz") == 1
    assert write_molecules([molecules[0], flat, broken], tmp_path / "a.sdf") == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "new.docx",
            "unknown extension '.docx'; molecules are written as .sdf .mol .xyz .pdb .npz .smi .smiles .csv",
        ),
        ("new.gz", "unknown extension '.gz'"),
        ("new.npz.gz", "unknown extension '.npz.gz'"),
        ("new", "unknown extension ''"),
        ("file.txt/new.sdf", "file.txt"),
        ("folder.sdf", "is a directory"),
        ("invalid.smi", "there is no molecule that is valid"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(tmp_path, name, message):
    (tmp_path / "file.txt").write_text("in the way")
    (tmp_path / "folder.sdf").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        write_molecules([impossible()], tmp_path / name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "suffix", [".sdf", ".sdf.gz", ".mol", ".pdb", ".xyz", ".smi", ".csv", ".csv.gz", ".tsv", ".npz"]
)
def test_no_molecules_make_no_file(tmp_path, suffix):
    with pytest.raises(UserError, match="there is no molecule"):
        write_molecules([], tmp_path / f"new{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "suffix", [".sdf", ".sdf.gz", ".mol", ".pdb", ".xyz", ".smi", ".csv", ".csv.gz", ".tsv", ".npz"]
)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(molecules, tmp_path, suffix, monkeypatch):
    path = tmp_path / f"new{suffix}"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_molecules(molecules[:1], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_npz_holds_the_documented_arrays(molecules, tmp_path):
    path = tmp_path / "new.npz"
    write_molecules(molecules, path)
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {
            *("num_atoms", "atomic_numbers", "positions", "charges", "formal_charge"),
            *("smiles", "name", "num_bonds", "bonds", "properties", "property_names"),
        }
        names = ["QED", "logP", "MW", "seed", "index"]  # numbers alone, not `valid` or `SMILES`
        assert [name.decode() for name in arrays["property_names"]] == names
        expected = [[float(mol.GetProp(name)) for name in names] for mol in molecules]
        np.testing.assert_array_equal(arrays["properties"], expected)
        assert arrays["formal_charge"].tolist() == [Chem.GetFormalCharge(mol) for mol in molecules]
        assert arrays["num_atoms"].sum() == len(arrays["positions"]) == len(arrays["charges"])


@pytest.mark.parametrize(
    "smiles", ["C/C=C\\C", "C/C=C/C", "C/C(C=O)=N/O", "C[C@H](O)F", "C[C@@H](O)F", "CC=C", "c1ccncc1"]
)
def test_a_mol_block_has_the_stereochemistry_of_the_coordinates(smiles):
    """Of a molecule of bonds and coordinates alone, as models draw it; programs that read it need not look at 3-D."""
    whole = embed_3d(Chem.MolFromSmiles(smiles))
    drawn = Chem.RWMol()
    plain = Chem.Mol(whole)
    Chem.Kekulize(plain, clearAromaticFlags=True)
    for atom in plain.GetAtoms():
        drawn.AddAtom(Chem.Atom(atom.GetSymbol()))
    for bond in plain.GetBonds():
        drawn.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondType())
    drawn.AddConformer(whole.GetConformer())
    Chem.SanitizeMol(drawn)
    for mol in (drawn, Chem.RemoveHs(drawn)):
        read = Chem.MolFromMolBlock(mol_block(mol))
        assert Chem.MolToSmiles(read) == Chem.CanonSmiles(smiles)
        assert all(bond.GetStereo() != Chem.BondStereo.STEREOANY for bond in read.GetBonds())
