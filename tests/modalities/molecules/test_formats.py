"""Formats beside SDF, SMILES lists and XYZ: packed files, tables, MOL2, ligands of PDB files."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from gendiff.files import UserError
from gendiff.modalities.molecules.read import EXTENSIONS, embed_3d, read_molecules, text
from gendiff.modalities.molecules.read.report import ReadReport
from gendiff.modalities.molecules.records import canonical_smiles

SMILES = ["CCO", "c1ccncc1", "CC(=O)[O-]", "CC#N", "C[NH3+]", "NC(=O)c1ccccc1", "FC(F)(F)S(=O)(=O)N"]


def molecules(smiles: list[str] = SMILES) -> list[Chem.Mol]:
    mols = [embed_3d(Chem.MolFromSmiles(text), seed) for seed, text in enumerate(smiles)]
    for index, mol in enumerate(mols):
        mol.SetProp("_Name", f"name {index}")
    return mols


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, *options: object, **more: object) -> str:
    with pytest.raises(UserError) as error:
        read_molecules(path, *options, **more)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()
    return str(error.value)[len(str(path)) :]


def read_or_refused(path: Path) -> None:
    """Whatever is in the file, there are molecules or there is one line."""
    message = ""
    try:
        count = len(read_molecules(path)[0])
    except UserError as error:
        count, message = 0, str(error)
    assert count > 0 or (message.startswith(str(path)) and message.isprintable())


# --- packed files -----------------------------------------------------------------------------------------------------

XYZ = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


@pytest.mark.parametrize("suffix", [name for name in EXTENSIONS if name.endswith(".gz")])
def test_packed_text_is_the_text(tmp_path, suffix):
    kind = suffix.removesuffix(".gz")
    content = {".xyz": XYZ, ".csv": "smiles,gap\nCC,1\n", ".tsv": "smiles\tgap\nCC\t1\n"}.get(kind, "CC ethane\n")
    if kind in (".sdf", ".sd", ".mol"):
        content = Chem.MolToMolBlock(molecules()[0])
    if kind == ".mol2":
        content = mol2(molecules()[0])
    if kind in (".pdb", ".ent"):
        content = Chem.MolToPDBBlock(molecules()[0])
    seen: list[float] = []
    plain, _ = read_molecules(write(tmp_path / f"a{kind}", content))
    packed, report = read_molecules(
        write(tmp_path / f"a{suffix}", gzip.compress(content.encode(), mtime=0)), progress=seen.append
    )
    np.testing.assert_array_equal(plain.positions, packed.positions)
    assert (plain.smiles, plain.names, list(plain.properties)) == (packed.smiles, packed.names, list(packed.properties))
    assert seen[-1] == pytest.approx(1.0)
    assert report.files[0]["bytes"] == (tmp_path / f"a{suffix}").stat().st_size


LONG = gzip.compress("".join(XYZ.replace("water", f"water {n * n}") for n in range(3000)).encode(), mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LONG[:-5], "the gzip file ends too early; copy or download it again"),
        (LONG[: len(LONG) // 2], "the gzip file ends too early"),
        (LONG[:9], "the gzip file ends too early"),
        (LONG[:200] + bytes(200) + LONG[400:], "the gzip file is damaged"),
        (LONG[:-8] + b"\1\2\3\4" + LONG[-4:], "is damaged (crc check failed"),
        (LONG + b"tail", "is damaged (not a gzipped file"),
        (XYZ.encode(), "is not packed by gzip"),
        (gzip.compress(b"\0\1\2", mtime=0), "is not a text file"),
        (gzip.compress(b"C" * (1 << 21), mtime=0), "a line has over 1,048,576 bytes"),
        (gzip.compress(b"", mtime=0), "no usable molecule in 0 records"),
        (gzip.compress(b"\n" * 10, mtime=0), "no usable molecule in 0 records"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_damaged_archives_are_one_line(tmp_path, content, message, on_error):
    text = gzip.compress(content, mtime=0) if isinstance(content, str) else content
    assert message in refused(write(tmp_path / "a.xyz.gz", text), on_error)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_UNPACKED", 100_000)
    bomb = gzip.compress(b"\n" * 1_000_000, mtime=0)
    assert len(bomb) < 2000
    line = refused(write(tmp_path / "a.smi.gz", bomb))
    assert line == ": unpacks to more than the limit of 100,000 bytes"


def test_blank_lines_without_end_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("gendiff.modalities.molecules.read.text.MAX_RECORD", 10_000)
    assert "record 1: has over 10,000 characters" in refused(
        write(tmp_path / "a.sdf.gz", gzip.compress(b"\n" * 20_000, mtime=0))
    )


# --- tables -----------------------------------------------------------------------------------------------------------

TABLE = """id,Canonical_SMILES,name,logP,comment,gap
7,CCO,ethanol,-0.3,fine,1e-1
8,"C1CC1",,1.5,"a, b",
9,CC(=O)O,acid,nan,,inf
"""


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table(tmp_path, delimiter):
    content = TABLE.replace('"a, b"', "x").replace(",", delimiter)
    arrays, report = read_molecules(write(tmp_path / "a.csv", content if delimiter != "," else TABLE))
    assert arrays.smiles == ["CCO", "C1CC1", "CC(=O)O"]
    assert arrays.names == ["ethanol", "C1CC1", "acid"]
    assert list(arrays.properties) == ["id", "logP", "gap"]
    np.testing.assert_array_equal(arrays.properties["id"], [7, 8, 9])
    np.testing.assert_array_equal(arrays.properties["logP"], [-0.3, 1.5, np.nan])
    np.testing.assert_array_equal(arrays.properties["gap"], [0.1, np.nan, np.nan])
    assert report.embedded == 3


def test_commas_are_decimal_points_between_semicolons_alone(tmp_path):
    german, _ = read_molecules(write(tmp_path / "a.csv", "smiles;gap;note\nCC;1,5;a,b\nCO;-2,25e1;1.000,5\n"))
    np.testing.assert_array_equal(german.properties["gap"], [1.5, -22.5])
    assert set(german.properties) == {"gap"}
    tabs, _ = read_molecules(write(tmp_path / "b.tsv", "smiles\tgap\tmass\nCC\t1,234\t1.5\n"))
    assert set(tabs.properties) == {"mass"}  # 1.234 or 1234: not for gendiff to say


def test_column_of_smiles_by_name(tmp_path):
    path = write(tmp_path / "a.csv", "\ufeffsmiles,Product,id\nnot this,CC,x1\nnor this,CO,x2\n")
    arrays, _ = read_molecules(path, smiles_column="Product")
    assert arrays.smiles == ["CC", "CO"]
    assert arrays.names == ["x1", "x2"]
    assert read_molecules(path, smiles_column="product")[0].smiles == ["CC", "CO"]
    line = refused(path, smiles_column="educt")
    assert (
        line == ": its columns are smiles, Product, id: none of that name;"
        " rename the column, or train with --smiles-column NAME"
    )


def test_properties_of_a_table_are_there_to_be_asked_for(tmp_path):
    from gendiff.modalities.molecules.modality import Molecules

    path = write(tmp_path / "a.csv", "smiles,gap\n" + "".join(f"{'C' * n},{n / 4}\n" for n in range(1, 5)))
    records, _ = Molecules.read([path])
    adapter = Molecules.fit(records, conditions=["gap"])
    assert adapter.conditions["gap"][0] == pytest.approx(0.625)
    assert adapter.encode(records).condition["gap"].shape == (4,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", ": its columns are a, b: no column of SMILES (smiles, canonical_smiles, ...)"),
        ("CCO,1\nCC,2\n", ": its columns are CCO, 1: no column of SMILES"),
        ("\n\n", ": its columns are not named"),
        ("smiles,gap\n", ": no usable molecule in 0 records"),
        ("smiles,gap\nCC,1\n,2\n", ", record 2: no SMILES: the field is empty"),
        ("gap,smiles\n1,CC\n2\n", ", record 2: no SMILES"),
        ("smiles,gap\nCC,1\nC1CC(,2\n", ", record 2 (C1CC(): unreadable SMILES"),
        ("smiles,name\nCC,a\nC(C)(C)(C)(C)C,b\n", ", record 2 (b): chemistry RDKit rejects"),
        ('smiles,gap\nCC,1\n"C' + "C\n" * 140_000, ", record 2: is no row of a table: field larger"),
        ("smiles,gap\n" + "C" * (1 << 20), ": a line has over"),
        ("smiles,gap\nCC,1\n" + "C" * 5000 + ",2\n", "too many atoms: a SMILES of 5,000 characters"),
        (b"smiles\n\0", ": is not a text file"),
    ],
)
def test_bad_table(tmp_path, content, message):
    assert message in refused(write(tmp_path / "a.csv", content))


def test_bad_rows_of_a_table_are_left_out(tmp_path):
    path = write(tmp_path / "a.csv", "smiles,gap\nCC,1\n,2\nC1CC(,3\nCO,4\n")
    arrays, report = read_molecules(path, "skip")
    assert arrays.properties["gap"].tolist() == [1, 4]
    assert report.skipped == {"no SMILES": 1, "unreadable SMILES": 1}


# --- MOL2 -------------------------------------------------------------------------------------------------------------


def mol2(mol: Chem.Mol) -> str:
    """A MOL2 record, with atom types good enough for what is in these tests."""
    mol = Chem.Mol(mol)
    kind = {Chem.HybridizationType.SP: "1", Chem.HybridizationType.SP2: "2"}
    orders = {1.0: "1", 1.5: "ar", 2.0: "2", 3.0: "3"}
    acid = {match[i] for match in mol.GetSubstructMatches(Chem.MolFromSmarts("C(=O)[O-]")) for i in (1, 2)}
    atoms, bonds = [], []
    for atom, (x, y, z) in zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True):
        symbol, index = atom.GetSymbol(), atom.GetIdx()
        suffix = "ar" if atom.GetIsAromatic() else kind.get(atom.GetHybridization(), "3")
        suffix = "4" if symbol == "N" and atom.GetFormalCharge() else "co2" if index in acid else suffix
        suffix = "o2" if symbol == "S" else suffix
        name = symbol if symbol in ("H", "F", "Cl") else f"{symbol}.{suffix}"
        atoms.append(f"{index + 1:7d} {symbol}{index + 1:<4d} {x:9.4f} {y:9.4f} {z:9.4f} {name} 1 LIG 0.0")
    for bond in mol.GetBonds():
        order = orders[bond.GetBondTypeAsDouble()]
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        order = "ar" if {i, j} & acid else order
        bonds.append(f"{bond.GetIdx() + 1:6d} {i + 1:5d} {j + 1:5d} {order}")
    head = [mol.GetProp("_Name"), f" {len(atoms)} {len(bonds)} 0 0 0", "SMALL", "NO_CHARGES", ""]
    lines = ["@<TRIPOS>MOLECULE", *head, "@<TRIPOS>ATOM", *atoms, "@<TRIPOS>BOND", *bonds]
    return "\n".join(lines) + "\n"


def test_mol2(tmp_path):
    mols = molecules()
    path = write(tmp_path / "a.mol2", "# made by a test\n\n" + "".join(map(mol2, mols)))
    arrays, report = read_molecules(path)
    assert arrays.smiles == [Chem.CanonSmiles(smiles) for smiles in SMILES]
    assert arrays.names == [f"name {index}" for index in range(len(mols))]
    assert arrays.total_charge.tolist() == [Chem.GetFormalCharge(mol) for mol in mols]
    assert (report.records, report.embedded) == (len(mols), 0)
    for got, mol in zip(arrays, mols, strict=True):
        np.testing.assert_allclose(got.positions, mol.GetConformer().GetPositions(), atol=6e-5)


WATER2, CYCLE = mol2(molecules(["O"])[0]), mol2(Chem.RemoveHs(molecules(["C1CCCC1"])[0]))
BAD_MOL2 = [
    ("truncated record: 1 of 3 atoms", lambda t: "\n".join(t.splitlines()[:8])),
    ("truncated record: 1 of 2 bonds", lambda t: "\n".join(t.splitlines()[:-1])),
    ("truncated record: no counts line", lambda t: "@<TRIPOS>MOLECULE\n"),
    ("unreadable counts line", lambda t: t.replace(" 3 2 0", " many")),
    ("unreadable counts line", lambda t: t.replace(" 3 2 0", " 3000000000 2 0")),
    ("unreadable counts line", lambda t: t.replace(" 3 2 0", " -3 2 0")),
    ("NaN or infinite coordinate: atom 2", lambda t: re.sub(r"(H2 +)\S+", r"\1nan", t)),
    ("NaN or infinite coordinate: atom 2", lambda t: re.sub(r"(H2 +)\S+", r"\1-inf", t)),
    ("unreadable coordinate: atom 2", lambda t: re.sub(r"(H2 +)\S+", r"\1x.yz", t)),
    ("coordinate beyond 1,000 Å: atom 2", lambda t: re.sub(r"(H2 +)\S+", r"\g<1>1e9", t)),
    ("unreadable atom line: atom 2", lambda t: re.sub(r"H2 .*", "H2 0 0", t)),
    ("unreadable atom line: two atoms of one number", lambda t: re.sub(r"\d+ H2 ", "1 H2 ", t)),
    ("unknown element: Xx (atom 1)", lambda t: t.replace("O.3", "Xx.3")),
    ("dummy or query atom: Du (atom 1)", lambda t: t.replace("O.3", "Du")),
    ("dummy or query atom: Any (atom 1)", lambda t: t.replace("O.3", "Any")),
    ("bond table that does not fit the atoms: bond 2", lambda t: re.sub(r"2 +1 +3 1$", "2 1 9 1", t, flags=re.M)),
    ("bond table that does not fit the atoms: bond 2", lambda t: re.sub(r"2 +1 +3 1$", "2 1 1 1", t, flags=re.M)),
    ("unknown kind of bond: 7 (bond 2)", lambda t: re.sub(r"2 +1 +3 1$", "2 1 3 7", t, flags=re.M)),
    ("chemistry RDKit rejects", lambda t: re.sub(r" 1$", " ar", CYCLE, flags=re.M).replace("C.3", "C.ar")),
    ("no atoms", lambda t: "@<TRIPOS>MOLECULE\nx\n 0 0\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n@<TRIPOS>BOND\n"),
]


@pytest.mark.parametrize(("message", "change"), BAD_MOL2, ids=[case[0] for case in BAD_MOL2])
def test_bad_mol2(tmp_path, message, change, capfd):
    bad = change(WATER2)
    assert bad != WATER2
    path = write(tmp_path / "a.mol2", WATER2 + bad.rstrip() + "\n" + WATER2)
    line = refused(path)
    assert line.startswith(", record 2")
    assert message in line
    arrays, report = read_molecules(path, "skip")
    assert arrays.smiles == ["O", "O"]
    assert report.skipped == {message.split(":")[0]: 1}
    assert capfd.readouterr().err == ""


def test_no_mol2(tmp_path, monkeypatch):
    assert ": begins with 'hello', not with @<TRIPOS>MOLECULE" in refused(
        write(tmp_path / "a.mol2", "hello\n" + WATER2)
    )
    monkeypatch.setattr("gendiff.modalities.molecules.read.mol2.MAX_RECORD", 1000)
    line = refused(write(tmp_path / "b.mol2", WATER2 + WATER2 + "\n" * 2000))
    assert ", record 2: has over 1,000 characters" in line


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, len(WATER2) - 1), st.binary(min_size=1, max_size=6), st.booleans())
def test_changed_mol2_files_are_read_or_refused(tmp_path_factory, place, change, cut):
    content = WATER2.encode()
    content = content[:place] + change + (b"" if cut else content[place + len(change) :])
    read_or_refused(write(tmp_path_factory.mktemp("fuzz") / "a.mol2", content))


# --- PDB --------------------------------------------------------------------------------------------------------------


def pdb_lines(mol: Chem.Mol, name: str, chain: str, number: int, serial: int = 1, alt: str = " ") -> list[str]:
    lines = []
    for index, (atom, (x, y, z)) in enumerate(zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True)):
        label = f" {atom.GetSymbol()}{index + 1}"
        lines.append(
            f"HETATM{serial + index:5d} {label:<4}{alt}{name:>3} {chain}{number:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00          {atom.GetSymbol():>2}"
        )
    return lines


def conect(mol: Chem.Mol, serial: int) -> list[str]:
    """Bonds as the Protein Data Bank writes them: both directions, without orders."""
    return [
        f"CONECT{serial + atom.GetIdx():5d}" + "".join(f"{serial + other.GetIdx():5d}" for other in atom.GetNeighbors())
        for atom in mol.GetAtoms()
    ]


PROTEIN = [
    "SEQRES   1 A    3  GLY MSE CSO",
    "MODRES 1ABC SEP A    3  SER  PHOSPHOSERINE",
    "ATOM      1  N   GLY A   1      11.000  12.000  13.000  1.00 20.00           N",
    "ATOM      2  CA  GLY A   1      12.000  12.000  13.000  1.00 20.00           C",
    "HETATM    3 SE   MSE A   2      13.000  12.000  13.000  1.00 20.00          SE",
    "HETATM    4  P   SEP A   3      14.000  12.000  13.000  1.00 20.00           P",
    "HETATM    8  SG  CSO A   5      17.000  12.000  13.000  1.00 20.00           S",
    "HETATM    9  OD  CSO A   5      18.000  12.000  13.000  1.00 20.00           O",
    "ATOM      5  N   LIG A   4      15.000  12.000  13.000  1.00 20.00           N",
    "TER       6      LIG A   4",
]
WATERS = [
    "HETATM  900  O   HOH A 301      20.000  12.000  13.000  1.00 20.00           O",
    "HETATM  901  O   HOH A 302      22.000  12.000  13.000  1.00 20.00           O",
    "HETATM  902 ZN    ZN A 303      24.000  12.000  13.000  1.00 20.00          ZN",
    "HETATM  903  S   SO4 A 304      26.000  12.000  13.000  1.00 20.00           S",
]


@pytest.mark.parametrize("bonds", ["conect", "near"])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_ligands_of_a_complex(tmp_path, bonds, hydrogens):
    """No amino acids, modified residues, water and ions; every copy of a ligand; bond orders come from lengths."""
    first, second = molecules(["NC(=O)c1ccccc1", "OCC(O)CO"])
    if not hydrogens:
        first, second = Chem.RemoveHs(first), Chem.RemoveHs(second)
    lines = [*PROTEIN, *pdb_lines(first, "BZM", "A", 201, 10), *pdb_lines(second, "GOL", "A", 202, 40)]
    lines += [*pdb_lines(first, "BZM", "B", 201, 70), *WATERS]
    if bonds == "conect":
        lines += [*conect(first, 10), *conect(second, 40), *conect(first, 70)]
    path = write(tmp_path / "1abc.pdb", "\n".join(["HEADER    TEST", *lines, "END"]) + "\n")
    arrays, report = read_molecules(path)
    assert arrays.names == ["BZM A 201", "GOL A 202", "BZM B 201"]
    assert arrays.smiles == ["NC(=O)c1ccccc1", "OCC(O)CO", "NC(=O)c1ccccc1"]
    np.testing.assert_allclose(arrays[0].positions, first.GetConformer().GetPositions(), atol=6e-4)
    assert report.ligands == {"BZM": 2, "GOL": 1}
    assert report.aside == {"water": 2, "ion": 2}
    assert "residues of PDB files: 2 BZM, 1 GOL; not taken: 2 waters, 2 ions" in report.lines()
    assert report.orders_read == (2 if hydrogens else 3)
    again = ReadReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again.lines() == report.lines()


def test_models_of_a_file_without_a_polymer(tmp_path):
    """Bonds after all models hold in each of them; those inside a model in it alone; ATOM is as good as HETATM."""
    (mol,) = molecules(["CC=O"])
    model = [line.replace("HETATM", "ATOM  ") for line in pdb_lines(mol, "ACT", "", 1)]
    text = ["MODEL        1", *model, "ENDMDL", "MODEL        2", *model, "ENDMDL", *conect(mol, 1), "END"]
    arrays, report = read_molecules(write(tmp_path / "a.pdb", "\n".join(text)))
    assert arrays.names == ["ACT 1", "ACT 1, model 2"]
    assert arrays.smiles == ["CC=O", "CC=O"]
    inside = ["MODEL        1", *model, *conect(mol, 1), "ENDMDL", "MODEL        2", *model, "ENDMDL"]
    assert read_molecules(write(tmp_path / "b.pdb", "\n".join(inside)))[0].smiles == ["CC=O", "CC=O"]
    assert report.records == 2


def test_of_alternative_locations_the_first_is_taken(tmp_path):
    (mol,) = molecules(["CCO"])
    mol = Chem.RemoveHs(mol)
    moved = Chem.Mol(mol)
    moved.GetConformer().SetPositions(mol.GetConformer().GetPositions() + 0.3)
    one, other = pdb_lines(mol, "EOH", "A", 5, 1, "B"), pdb_lines(moved, "EOH", "A", 5, 11, "C")
    shared = one[0].replace("B", " ")
    lines = [shared, *[line for pair in zip(one[1:], other[1:], strict=True) for line in pair]]
    arrays, report = read_molecules(write(tmp_path / "a.pdb", "\n".join([*PROTEIN, *lines, "END"])))
    assert arrays.smiles == ["CCO"]
    np.testing.assert_allclose(arrays[0].positions, mol.GetConformer().GetPositions(), atol=6e-4)
    assert "residues of PDB files: 1 EOH; not taken: 1 other conformation" in report.lines()


def test_repeated_bonds_are_multiple_bonds(tmp_path):
    """As RDKit writes them; then lengths do not count."""
    (mol,) = molecules(["C=C"])
    mol = Chem.RemoveHs(mol)
    mol.GetConformer().SetPositions(np.array([[0, 0, 0], [1.54, 0, 0]]))
    arrays, report = read_molecules(write(tmp_path / "a.pdb", Chem.MolToPDBBlock(mol)))
    assert arrays.smiles == ["C=C"]
    assert report.orders_read == 0


def test_bonds_after_all_models_hold_in_each(tmp_path):
    (mol,) = molecules(["C=C"])
    mol = Chem.RemoveHs(mol)
    mol.GetConformer().SetPositions(np.array([[0, 0, 0], [1.54, 0, 0]]))
    atoms = pdb_lines(mol, "ETE", "", 1)
    text = ["MODEL        1", *atoms, "ENDMDL", "MODEL        2", *atoms, "ENDMDL", "CONECT    1    2    2", "END"]
    assert read_molecules(write(tmp_path / "a.pdb", "\n".join(text)))[0].smiles == ["C=C", "C=C"]


def test_orders_that_make_no_sense_stay_unknown(tmp_path):
    """A crushed neopentane: five-bonded carbon by its lengths, so its bonds stay single and its SMILES unknown."""
    lines = [
        f"HETATM{i:5d}  C{i}  NEO A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C"
        for i, (x, y, z) in enumerate(
            [(0, 0, 0), (1.2, 0, 0), (-0.4, 1.13, 0), (-0.4, -0.57, 0.98), (-0.4, -0.57, -0.98)], 1
        )
    ]
    lines += ["CONECT    1    2    3    4    5"]
    arrays, report = read_molecules(write(tmp_path / "a.pdb", "\n".join(lines)))
    assert arrays.bonds.tolist() == [[0, k, 2] for k in range(1, 5)]
    assert arrays.smiles is None
    assert "1 ligand with unknown bond orders, kept as single bonds" in report.lines()


ONE = pdb_lines(molecules(["CO"])[0], "MOH", "A", 1)
BAD_PDB = [
    ("NaN or infinite coordinate: atom 2", lambda t: [t[0], t[1][:30] + "     nan" + t[1][38:], *t[2:]]),
    ("unreadable coordinate: atom 2", lambda t: [t[0], t[1][:30] + "   x.yyy" + t[1][38:], *t[2:]]),
    ("coordinate beyond 1,000 Å: atom 2", lambda t: [t[0], t[1][:30] + "9999.999" + t[1][38:], *t[2:]]),
    ("truncated record: the line of atom 6 has 40 characters", lambda t: [*t[:-1], t[-1][:39] + "7"]),
    ("unknown element: 9", lambda t: [t[0][:76] + " 9", *t[1:]]),
    ("two atoms at one place", lambda t: [t[0], t[1][:30] + t[0][30:54] + t[1][54:], *t[2:]]),
]


@pytest.mark.parametrize(("message", "change"), BAD_PDB, ids=[case[0] for case in BAD_PDB])
def test_bad_pdb(tmp_path, message, change, capfd):
    bad = [line.replace(" A   1", " A   2") for line in change(ONE)]
    good = [line.replace(" A   1", " A   3") for line in ONE]
    path = write(tmp_path / "a.pdb", "\n".join([*ONE, *bad, *good, *conect(molecules(["CO"])[0], 1)]))
    line = refused(path)
    assert line.startswith(", record 2 (MOH A 2): ")
    assert message in line
    arrays, report = read_molecules(path, "skip")
    assert arrays.names == ["MOH A 1", "MOH A 3"]
    assert report.skipped == {message.split(":")[0]: 1}
    assert capfd.readouterr().err == ""


def test_no_ligand(tmp_path):
    assert ": no usable molecule in 0 records" in refused(write(tmp_path / "a.pdb", "\n".join([*PROTEIN, *WATERS])))
    assert ": no usable molecule in 0 records" in refused(write(tmp_path / "a.pdb", "hello\n"))
    assert ": is not a text file" in refused(write(tmp_path / "a.pdb", b"\0\1"))


def test_a_model_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gendiff.modalities.molecules.read.pdb.MAX_RECORD", 100)
    assert ": model 1 has too many atoms outside of polymers" in refused(write(tmp_path / "a.pdb", "\n".join(ONE * 9)))


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 900), st.binary(min_size=1, max_size=6), st.booleans())
def test_changed_pdb_files_are_read_or_refused(tmp_path_factory, place, change, cut):
    content = Chem.MolToPDBBlock(molecules(["C[N+](=O)[O-]"])[0]).encode()
    content = content[:place] + change + (b"" if cut else content[place + len(change) :])
    read_or_refused(write(tmp_path_factory.mktemp("fuzz") / "a.pdb", content))


def test_a_ligand_reads_like_the_same_molecule_in_an_sdf(tmp_path):
    """Lengths of MMFF94s give the orders of all these molecules, hydrogens there or not."""
    for smiles in ("Cc1ccc(C(=O)N2CCOCC2)cc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CN1CCN(CC1)c1ccncc1", "N#CC1(CC1)C=C"):
        (mol,) = molecules([smiles])
        for one in (mol, Chem.RemoveHs(mol)):
            lines = [*pdb_lines(one, "LIG", "A", 1), *conect(one, 1)]
            arrays, _ = read_molecules(write(tmp_path / "a.pdb", "\n".join(lines)))
            assert arrays.smiles == [canonical_smiles(mol)]
