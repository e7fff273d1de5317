"""Protocols of the field: EDM's, RDKit's bonds with corrected valences, PoseBusters, and distances of geometry."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms

from gendiff.files import UserError, load_npz
from gendiff.modalities.molecules.bonds import EDM_DOUBLE, EDM_SINGLE, EDM_TRIPLE, infer_all
from gendiff.modalities.molecules.metrics import PROTOCOLS, busters, edm, evaluate, geometry, protocols, valences
from gendiff.modalities.molecules.metrics.drawn import draw_bonds
from gendiff.modalities.molecules.records import MoleculeArrays

QM9 = Path(os.environ.get("GENDIFF_DATA", "")) / "molecules" / "qm9.npz"
needs_qm9 = pytest.mark.skipif(
    "GENDIFF_DATA" not in os.environ or not QM9.exists(), reason="GENDIFF_DATA is not set or has no molecules/qm9.npz"
)
SMILES = "CCO CC#N c1ccccc1 C1CC1C OC=O CNC c1cc[nH]c1 O=C1CC1 N#CC=O CC(=O)N"
FAST = {"strain": False, "n_resamples": 20}


def embed(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s")
    return mol


def arrays(*molecules):
    """Molecules from (numbers, positions)."""
    numbers = np.concatenate([np.zeros(0, int), *(numbers for numbers, _ in molecules)])
    positions = np.concatenate([np.zeros((0, 3)), *(positions for _, positions in molecules)])
    return MoleculeArrays([len(numbers) for numbers, _ in molecules], numbers, positions)


@pytest.fixture(scope="module")
def real():
    return MoleculeArrays.from_mols([embed(smiles) for smiles in SMILES.split()])


def shaken(molecules, size):
    noise = np.random.default_rng(3).normal(scale=size, size=molecules.positions.shape)
    return MoleculeArrays(molecules.num_atoms, molecules.atomic_numbers, molecules.positions + noise)


def values(table, names, side="generated"):
    return [getattr(table[name], side).value for name in names]


METHANE = (np.array([6, 1, 1, 1, 1]), 0.63 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
WATER = (np.array([8, 1, 1]), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))


# EDM


def plain_fragment(numbers, positions):
    """The published procedure, pair by pair: table, sanitise, largest fragment; None if it is not valid."""

    def table(text):
        words = text.split()
        return {frozenset(pair.split("-")): float(length) for pair, length in zip(words[::2], words[1::2], strict=True)}

    single, double, triple = map(table, (EDM_SINGLE, EDM_DOUBLE, EDM_TRIPLE))
    mol = Chem.RWMol()
    for number in numbers:
        mol.AddAtom(Chem.Atom(int(number)))
    for i, j in itertools.combinations(range(len(numbers)), 2):
        pair = frozenset(mol.GetAtomWithIdx(k).GetSymbol() for k in (i, j))
        distance = 100 * np.linalg.norm(positions[i] - positions[j])
        if distance < single.get(pair, -99) + 10:
            order = Chem.BondType.SINGLE
            if distance < double.get(pair, -99) + 5:
                order = Chem.BondType.TRIPLE if distance < triple.get(pair, -99) + 3 else Chem.BondType.DOUBLE
            mol.AddBond(i, j, order)
    try:
        Chem.SanitizeMol(mol)
    except ValueError:
        return None
    return Chem.MolToSmiles(max(Chem.GetMolFrags(mol, asMols=True), key=lambda part: part.GetNumAtoms()))


def test_edm_counts_as_the_published_procedure_does(real):
    for size in (0.0, 0.03, 0.06, 0.5):
        drawn = shaken(real, size)
        plain = [plain_fragment(z, x.astype(float)) for z, x, _ in drawn.split()]
        assert edm.largest_fragments(drawn) == [smiles or "" for smiles in plain]
        good = [smiles for smiles in plain if smiles]
        found = edm.scores(MoleculeArrays.concatenate([drawn, drawn]), n_resamples=20)
        assert found["edm_valid"].value == len(good) / len(plain)
        assert found["edm_valid_unique"].value == pytest.approx(len(set(good)) / len(plain) / 2)


def test_edm_keeps_the_largest_fragment_and_minds_neither_overlap_nor_missing_hydrogens():
    """Six molecules: methane twice, once with water beside it; its radical; hydrogens on one another; C with five."""
    pieces = (np.concatenate([WATER[0], METHANE[0]]), np.concatenate([WATER[1] + 20, METHANE[1]]))
    radical = METHANE[0][:4], METHANE[1][:4]
    overlap = np.array([1, 1]), np.array([[0, 0, 0], [0.1, 0, 0]])
    crowded = np.array([6, *[1] * 5]), np.array([*METHANE[1], [0, 0, 1.0]])
    table = evaluate(arrays(METHANE, pieces, radical, overlap, crowded), arrays(METHANE), protocol="edm", **FAST)
    assert values(table, ("edm_valid", "edm_valid_unique")) == pytest.approx([4 / 5, 3 / 5])
    assert values(table, ("validity", "valid_connected")) == pytest.approx([3 / 5, 2 / 5])
    assert values(table, edm.ROWS, "reference") == [1, 1, 1, 1]
    names = ("atom_stability", "molecule_stability")
    assert values(table, [f"edm_{name}" for name in names]) == values(table, names)
    assert values(table, ("edm_molecule_stability",)) == [3 / 5]
    assert edm.largest_fragments(arrays(METHANE, pieces, radical)) == [
        "[H]C([H])([H])[H]",
        "[H]C([H])([H])[H]",
        "[H]C([H])[H]",
    ]


@needs_qm9
@pytest.mark.parametrize(("split", "expected"), [(0, (0.994374, 0.957438)), (1, (0.994389, 0.957139))])
def test_edm_stability_of_the_parts_of_qm9(split, expected):
    content = load_npz(QM9)
    data = MoleculeArrays(content["num_atoms"], content["atomic_numbers"], content["positions"])
    atoms, molecules = edm.stability(data.select(np.flatnonzero(content["split"] == split)), n_resamples=2)
    assert (round(atoms.value, 6), round(molecules.value, 6)) == expected


# RDKit's bonds


REAL = (
    "c1ccccc1 c1ccc2ccccc2c1 c1cc[nH]c1 c1ccncc1 c1ccsc1 c1ccoc1 O=c1cc[nH]cc1 C[N+](=O)[O-] [NH3+]CC(=O)[O-] "
    "[C-]#[N+]C CS(=O)(=O)C CP(=O)(C)C C[Si](C)(C)C CB(C)C CBr CCl CI CF"
)


@pytest.mark.parametrize("smiles", REAL.split())
def test_atoms_of_real_molecules_are_stable(smiles):
    assert valences.stable_atoms(Chem.AddHs(Chem.MolFromSmiles(smiles))).all()


@pytest.mark.parametrize(
    ("smiles", "unstable"), [("[CH3]", [0]), ("C[NH]", [1]), ("C[O]", [1]), ("[CH2]C", [0]), ("[SiH2]", [0])]
)
def test_atoms_that_lack_bonds_are_not(smiles, unstable):
    """Carbon with three bonds and nitrogen with two, which older tables let pass."""
    stable = valences.stable_atoms(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    assert np.flatnonzero(~stable).tolist() == unstable


def test_aromatic_bonds_are_counted_and_not_rounded():
    """A carbon where two rings meet has three aromatic bonds; as 1.5 each they would sum to 4.5."""
    naphthalene = Chem.AddHs(Chem.MolFromSmiles("c1ccc2ccccc2c1"))
    orders = Chem.GetAdjacencyMatrix(naphthalene, useBO=True).sum(1)
    assert orders.max() == 4.5
    assert valences.stable_atoms(naphthalene).all()
    assert valences.ALLOWED["C", 0] == {(0, 4), (2, 2), (2, 1), (3, 0)}
    assert valences.ALLOWED["N", -1] == {(0, 2), (2, 0)}
    assert valences.ALLOWED["S", 2] == {(0, 4), (2, 1), (2, 2)}
    assert len(valences.ALLOWED) == 32
    assert sum(map(len, valences.ALLOWED.values())) == 58


def test_rdkit_bonds_see_charges_and_aromatic_rings_where_edm_does_not():
    """Glycine as a zwitterion, twice; benzene; and methane with a hydrogen torn off: for RDKit the ions of CH3 and H.

    No proton is in the table, and the carbon of CH3- is.
    """
    torn = arrays((METHANE[0], METHANE[1] * np.array([1, 1, 1, 1, 5])[:, None]))
    zwitterion, benzene = (MoleculeArrays.from_mols([embed(text)]) for text in ("[NH3+]CC(=O)[O-]", "c1ccccc1"))
    zwitterion = arrays((zwitterion.atomic_numbers, zwitterion.positions))  # nobody states its charges
    drawn = MoleculeArrays.concatenate([zwitterion, zwitterion, benzene, torn])
    table = evaluate(drawn, drawn, protocol="rdkit,edm", **FAST)
    names = ("rdkit_valid", "rdkit_valid_connected", "rdkit_valid_unique", "rdkit_molecule_stability")
    assert values(table, names) == pytest.approx([1, 3 / 4, 3 / 4, 3 / 4])
    assert values(table, ("rdkit_atom_stability",)) == [(10 + 10 + 12 + 4) / 37]
    assert values(table, ("edm_molecule_stability",)) == [0]
    assert "Nikitin" in table.facts["RDKit bonds"]


# PoseBusters


def test_without_posebusters_its_rows_are_left_out_and_a_line_says_how_to_get_it(real, monkeypatch):
    monkeypatch.setattr(busters, "installed", lambda: "")
    table = evaluate(real, real, protocol="posebusters", **FAST)
    assert not any(metric.name.startswith("posebusters") for metric in table.metrics)
    assert 'pip install "gendiff[eval]"' in table.facts["PoseBusters"]


@pytest.mark.parametrize(("word", "config"), [("posebusters", "mol_fast"), ("posebusters-energy", "mol")])
def test_what_posebusters_cannot_check_does_not_pass(real, monkeypatch, word, config):
    """A stand-in says yes, but for the first molecule's angles, which it leaves open; the last is not valid."""
    asked = []

    class StandIn:
        def __init__(self, config):
            asked.append(config)
            self.count = 0

        def bust(self, mols):
            self.count += 1
            row = dict.fromkeys(busters.CHECKS, True) | {"bond_angles": self.count > 1 or float("nan")}
            return SimpleNamespace(iloc=[row])

    monkeypatch.setitem(sys.modules, "posebusters", SimpleNamespace(PoseBusters=StandIn))
    monkeypatch.setattr(busters, "installed", lambda: "1.2.3")
    crowded = np.array([6, *[1] * 5]), np.array([*METHANE[1], [0, 0, 1.0]])
    drawn = MoleculeArrays.concatenate([real.select([0, 1, 2]), arrays(crowded)])
    table = evaluate(drawn, drawn, protocol=["posebusters", word], **FAST)
    assert asked == [config]  # the two sets are one
    assert values(table, ("posebusters_geometry", "posebusters_bond_angles", "posebusters_bond_lengths")) == [
        2 / 4,
        2 / 4,
        3 / 4,
    ]
    energy = word == "posebusters-energy"
    assert ("posebusters_all" in table) == ("posebusters_internal_energy" in table) == energy
    assert "version 1.2.3" in table.facts["PoseBusters"]


def test_posebusters_tells_good_molecules_from_bad_ones():
    pytest.importorskip("posebusters")
    flat, bent = embed("c1ccccc1"), embed("c1ccccc1")
    place = bent.GetConformer().GetPositions()
    normal = np.cross(place[1] - place[0], place[2] - place[0])
    place[:6] += 0.3 * np.array([1, -1, 1, -1, 1, -1])[:, None] * normal / np.linalg.norm(normal)
    bent.GetConformer().SetPositions(place)
    pieces = Chem.CombineMols(embed("CCO"), embed("O"))
    Chem.SanitizeMol(pieces)
    passed = busters.bust([(flat, ""), (bent, ""), (pieces, ""), (flat, "not valid")])
    names = list(busters.CHECKS)[:-1]
    assert passed[0].all()
    assert not passed[1, names.index("aromatic_ring_flatness")]
    assert not passed[2, names.index("all_atoms_connected")]
    assert not passed[3].any()


# Geometry


def content(molecules, **options):
    return geometry.count_angles(molecules, draw_bonds(molecules, "lookup", "explicit", **options).bonds)


def angles(molecules):
    """Degrees of all angles, and of all torsions, ascending."""
    keys = content(molecules).keys
    of_torsion = keys >= geometry.TORSION
    place = keys % geometry.BINS
    return np.sort(place[~of_torsion] * geometry.ANGLE_BIN), np.sort(place[of_torsion] * geometry.TORSION_BIN)


def test_angles_and_torsions_are_those_that_rdkit_measures(real):
    mols = [mol for mol, _ in infer_all(real.split())]
    expected, turned = [], []
    for mol in mols:
        place = mol.GetConformer()
        near = [[b.GetIdx() for b in atom.GetNeighbors()] for atom in mol.GetAtoms()]
        for j, around in enumerate(near):
            expected += [rdMolTransforms.GetAngleDeg(place, i, j, k) for i, k in itertools.combinations(around, 2)]
        for bond in mol.GetBonds():
            j, k = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            for i, m in itertools.product(near[j], near[k]):
                if len({i, j, k, m}) == 4 and all(
                    rdMolTransforms.GetAngleDeg(place, *three) <= 175 for three in ((i, j, k), (j, k, m))
                ):
                    turned.append(abs(rdMolTransforms.GetDihedralDeg(place, i, j, k, m)))
    found, torsions = angles(real)
    np.testing.assert_allclose(found, np.sort(expected), atol=0.101)
    np.testing.assert_allclose(torsions, np.sort(turned), atol=0.501)
    assert len(torsions) > 100


def peroxide(bend, twist):
    """HOOH with both angles and its torsion in degrees."""
    b, t = np.radians([bend, twist])
    first = 0.97 * np.array([np.cos(b), np.sin(b), 0])
    last = [1.45 - 0.97 * np.cos(b), 0.97 * np.sin(b) * np.cos(t), 0.97 * np.sin(b) * np.sin(t)]
    return np.array([1, 8, 8, 1]), np.array([first, [0, 0, 0], [1.45, 0, 0], last])


def test_distances_of_geometry_have_known_values():
    reference = arrays(*[peroxide(100, 110)] * 4)
    mirror = arrays(peroxide(100, -110))
    table = evaluate(mirror, reference, protocol="geometry", **FAST)
    assert values(table, geometry.ROWS) == pytest.approx([0, 0], abs=1e-9)
    other = arrays(peroxide(104, 80), peroxide(104, 130))
    table = evaluate(other, reference, protocol="geometry", **FAST)
    assert values(table, geometry.ROWS) == pytest.approx([4, (30 + 20) / 2])
    assert values(table, geometry.ROWS, "reference") == [0, 0]


def test_kinds_weigh_as_in_the_reference_and_kinds_without_a_counterpart_do_not_count():
    """Three H-O-O of the reference's four angles are 2 degrees off, H-O-H by 8; C-H angles have none beside them."""

    def water(bend):
        b = np.radians(bend)
        return np.array([8, 1, 1]), 0.97 * np.array([[0, 0, 0], [1, 0, 0], [np.cos(b), np.sin(b), 0]])

    reference = arrays(water(104), water(104), peroxide(100, 110), peroxide(100, 110), peroxide(100, 110))
    table = evaluate(arrays(water(112), peroxide(102, 110), METHANE), reference, protocol="geometry", **FAST)
    assert values(table, geometry.ROWS) == pytest.approx([(6 * 2 + 2 * 8) / 8, 0], abs=1e-9)


def test_torsions_of_straight_chains_are_left_out():
    found, torsions = angles(MoleculeArrays.from_mols([embed("C#C")]))
    np.testing.assert_allclose(found, [180, 180], atol=0.21)
    assert len(torsions) == 0
    empty = evaluate(arrays(WATER), arrays(WATER, WATER), protocol="geometry", **FAST)
    assert empty["torsion_distance"].generated is None
    assert values(empty, ("bond_angle_distance",)) == [0]


# All together


def test_no_protocol_changes_nothing_and_all_add_their_rows_at_the_end(real, monkeypatch):
    monkeypatch.setattr(busters, "installed", lambda: "")
    drawn = shaken(real, 0.03)
    plain, all_of_them = (evaluate(drawn, real, protocol=words, **FAST) for words in ("", " ".join(PROTOCOLS)))
    assert all_of_them.metrics[: len(plain.metrics)] == plain.metrics
    names = [metric.name for metric in all_of_them.metrics[len(plain.metrics) :]]
    assert names == [*edm.ROWS, *valences.ROWS, *geometry.ROWS]
    assert all_of_them.metrics[-1].title.startswith("geometry: ")
    assert {**all_of_them.facts, **plain.facts} == all_of_them.facts


def test_words_of_protocols():
    assert protocols.chosen("geometry, edm", "explicit") == ["edm", "geometry"]
    assert protocols.chosen((), "implicit") == protocols.chosen("", "implicit") == []
    assert protocols.chosen(["posebusters"], "implicit") == ["posebusters"]
    with pytest.raises(UserError, match=r"--protocol knows edm, rdkit, .*, not 'EDM'"):
        protocols.chosen("EDM", "explicit")
    with pytest.raises(UserError, match="--protocol rdkit judges molecules with all their atoms"):
        protocols.chosen("rdkit", "implicit")


def test_large_sets_are_judged_in_part_and_progress_rises_to_one(real, monkeypatch):
    monkeypatch.setitem(protocols.MOST, "rdkit", 3)
    monkeypatch.setitem(protocols.MOST, "geometry", 4)
    seen = []
    table = evaluate(real, real, protocol="rdkit,geometry", progress=seen.append, **FAST)
    assert table["rdkit_valid"].generated.n == 3
    assert table["bond_angle_distance"].generated.n == 4
    assert table.facts["RDKit bonds"].endswith("3 generated, 3 reference molecules; at most 3 of each, at random")
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_nothing_and_nothing_valid_give_a_table_all_the_same(real):
    crowd = (np.array([6] * 6), np.random.default_rng(0).normal(size=(6, 3)) * 0.6)
    for generated in (real.select([]), arrays(crowd, crowd)):
        for a, b in ((generated, real), (real, generated)):
            assert evaluate(a, b, protocol="edm,geometry", **FAST).lines()
