"""Bonds from coordinates: the published lookup, the Kekulé and heavy-atom rules, RDKit's rule in its own process."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import networkx
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from gendiff.catalog import builtin, manifest
from gendiff.files import UserError
from gendiff.modalities.molecules import bonds

EASY = """CC C=C C#C CCO C1CC1 C1CCCCC1 C=CC=C C=C=C C=C=O CC#N C#CC#C CC(=O)C CC(=O)O CC(=O)OC CC(=O)NC CNC=O CC(C)(C)F
c1ccoc1 c1cc[nH]c1 c1cnc[nH]1 c1cn[nH]c1 C=CC=O C1=CCC=C1 CN1CC1 CC=NO O=c1cc[nH]cc1 C1=CC=CC=CC=C1 CSSC""".split()
CONJUGATED = """c1ccccc1 c1ccncc1 c1cncnc1 c1cnccn1 Cc1ccccc1 Nc1ccccc1 Oc1ccccc1 c1ccc2ccccc2c1 c1ccc2[nH]ccc2c1
c1ccsc1 N=C(N)N c1ccc(-c2ccccc2)cc1 Cn1cnc2c1c(=O)n(C)c(=O)n2C CC(=N)N C1=COC=CO1 c1cocn1 Nc1ccncn1 CS(C)(=O)=O
CC(N)=S""".split()
HYPERVALENT = """CS(C)=O CS(N)(=O)=O COP(=O)(OC)OC CP(C)(C)=O OS(=O)(=O)O CS(=O)(=O)c1ccccc1""".split()
UNCOMMON = "OB(O)c1ccccc1 CB1OCCO1 C[Se]C C[Se](C)=O C[Se][Se]C C[As](C)C CS(=O)(=O)O".split()
ZWITTERIONS = """C[N+](=O)[O-] O=[N+]([O-])c1cc([N+](=O)[O-])cc([N+](=O)[O-])c1 [NH3+]CC(=O)[O-] CN=[N+]=[N-] [C-]#[N+]C
[O-][n+]1ccccc1 CC=[N+](C)[O-] C=[N+]=[N-] [O-][n+]1cc[n+]([O-])cc1 Nc1nc2ccccc2[n+]([O-])n1
Nc1n[n+]([O-])c2ccccc2[n+]1[O-] F[B-]1(F)n2cccc2C=C2C=CC=[N+]21""".split()
CHARGED = """C[N+](=O)[O-] O=[N+]([O-])c1ccccc1 [NH3+]CC(=O)[O-] CN=[N+]=[N-] [C-]#[N+]C [O-][n+]1ccccc1 c1cc[nH+]cc1
C[N+](C)(C)C CC(N)=[NH2+] CC=[N+](C)[O-]""".split()


def embed(smiles: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Canonical SMILES, atomic numbers, positions and charges of a minimum with hydrogens."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    if rdForceFieldHelpers.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=5000) < 0:
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=5000)  # boron, selenium and arsenic
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()])
    return Chem.CanonSmiles(smiles), numbers, mol.GetConformer().GetPositions(), charges


def written(mol: Chem.Mol) -> str:
    return Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


def plain_order(first: str, second: str, distance: float) -> int:
    """EDM's rule for one pair, straight from the published tables; distance in Å."""

    def length(table: str) -> float | None:
        words = table.split()
        entries = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        return entries.get(f"{first}-{second}", entries.get(f"{second}-{first}"))

    single, double, triple = map(length, (bonds.EDM_SINGLE, bonds.EDM_DOUBLE, bonds.EDM_TRIPLE))
    if single is None or 100 * distance >= single + 10:
        return 0
    if double is None or 100 * distance >= double + 5:
        return 1
    return 3 if triple is not None and 100 * distance < triple + 3 else 2


def rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


# The published lookup


@pytest.mark.parametrize(
    ("pair", "distance", "order"),
    [
        ((6, 6), 1.641, 0),
        ((6, 6), 1.639, 1),
        ((6, 6), 1.391, 1),
        ((6, 6), 1.389, 2),
        ((6, 6), 1.231, 2),
        ((6, 6), 1.229, 3),
        ((6, 7), 1.569, 1),
        ((6, 7), 1.339, 2),
        ((6, 7), 1.189, 3),
        ((6, 8), 1.529, 1),
        ((6, 8), 1.249, 2),
        ((6, 8), 1.159, 3),
        ((7, 7), 1.549, 1),
        ((7, 7), 1.299, 2),
        ((7, 7), 1.129, 3),
        ((7, 8), 1.501, 0),
        ((7, 8), 1.259, 2),
        ((7, 8), 1.05, 2),
        ((8, 8), 1.579, 1),
        ((6, 9), 1.451, 0),
        ((6, 9), 1.1, 1),
        ((1, 6), 1.191, 0),
        ((1, 6), 1.189, 1),
        ((1, 1), 0.839, 1),
        ((15, 16), 1.909, 2),
        ((16, 16), 2.141, 0),
        ((6, 17), 1.869, 1),
        ((53, 53), 2.759, 1),
        ((2, 6), 0.5, 0),
    ],
)
def test_lookup_switches_at_the_published_lengths(pair: tuple[int, int], distance: float, order: int) -> None:
    positions = np.array([[[0.0, 0.0, 0.0], [0.0, distance, 0.0]]])
    for numbers in (pair, pair[::-1]):
        found = bonds.lookup_orders(np.array([numbers]), positions, np.ones((1, 2), bool))
        assert found.tolist() == [[[0, order], [order, 0]]]


def test_lookup_equals_a_loop_over_pairs_and_ignores_padding() -> None:
    rng = np.random.default_rng(0)
    symbols = ["H", "C", "N", "O", "F", "P", "S", "Cl", "B", "Si", "Br", "I", "As"]
    numbers = np.array([Chem.GetPeriodicTable().GetAtomicNumber(symbol) for symbol in symbols])
    pick = rng.integers(len(symbols), size=(40, 9))
    positions = rng.normal(size=(40, 9, 3)).astype(np.float32)
    mask = np.arange(9) < rng.integers(0, 10, size=(40, 1))
    positions[~mask] = np.nan
    found = bonds.lookup_orders(numbers[pick], positions, mask)
    assert found.dtype == np.int8
    assert {0, 1, 2, 3} <= set(np.unique(found))
    for m in range(40):
        for i in range(9):
            for j in range(9):
                order = 0
                if i != j and mask[m, i] and mask[m, j]:
                    distance = np.linalg.norm(positions[m, i].astype(float) - positions[m, j].astype(float))
                    order = plain_order(symbols[pick[m, i]], symbols[pick[m, j]], distance)
                assert found[m, i, j] == order


def test_chunks_do_not_change_the_orders() -> None:
    rng = np.random.default_rng(1)
    numbers, positions = rng.choice([1, 6, 7, 8], size=(700, 40)), 2 * rng.normal(size=(700, 40, 3))
    mask = np.ones(numbers.shape, bool)
    whole = bonds.lookup_orders(numbers, positions, mask)  # 780 pairs each: more than one chunk
    assert np.array_equal(whole[650:], bonds.lookup_orders(numbers[650:], positions[650:], mask[650:]))


@pytest.mark.parametrize("smiles", EASY)
def test_lookup_draws_molecules_with_hydrogens(smiles: str) -> None:
    reference, numbers, positions, _ = embed(smiles)
    mol, reason = bonds.infer_bonds(numbers, positions, rule="lookup")
    assert reason == ""
    assert written(mol) == reference
    assert np.allclose(mol.GetConformer().GetPositions(), positions)


def test_stability_knows_valences() -> None:
    water, ammonia, phosphine = (embed(smiles) for smiles in ("O", "N", "P"))
    ammonium, sulfane = embed("[NH4+]"), embed("S")
    for one, good in ((water, True), (ammonia, True), (phosphine, True), (ammonium, False), (sulfane, False)):
        _, numbers, positions, _ = one
        atoms, molecule = bonds.stability(numbers[None], positions[None], np.ones((1, len(numbers)), bool))
        assert bool(molecule[0]) is good
        assert atoms[0, 1:].all()  # the hydrogens have one bond each in any case
        assert bool(atoms[0, 0]) is good


def test_stability_ignores_padding_and_equals_the_flat_form() -> None:
    molecules = [embed(smiles)[1:3] for smiles in ("C", "CCO", "c1ccoc1", "[CH3]")]
    widest = max(len(numbers) for numbers, _ in molecules)
    numbers, positions = np.zeros((4, widest), int), np.full((4, widest, 3), np.inf)
    for row, (number, position) in enumerate(molecules):
        numbers[row, : len(number)], positions[row, : len(number)] = number, position
    mask = numbers > 0
    atoms, whole = bonds.stability(numbers, positions, mask)
    assert whole.tolist() == [True, True, True, False]
    assert not atoms[~mask].any()
    flat = bonds.stability_flat(mask.sum(1), numbers[mask], positions[mask])
    assert np.array_equal(flat[0], atoms[mask])
    assert np.array_equal(flat[1], whole)


@pytest.mark.skipif("GENDIFF_DATA" not in os.environ, reason="needs GENDIFF_DATA/molecules/qm9.npz")
def test_stability_of_qm9() -> None:
    with np.load(Path(os.environ["GENDIFF_DATA"]) / "molecules" / "qm9.npz", allow_pickle=False) as file:
        num_atoms, split = file["num_atoms"], file["split"]
        atoms, whole = bonds.stability_flat(num_atoms, file["atomic_numbers"], file["positions"])
    member = np.repeat(split, num_atoms)
    figures = [(atoms.mean(), whole.mean())] + [(atoms[member == s].mean(), whole[split == s].mean()) for s in (0, 1)]
    assert np.allclose(figures, [(0.994376, 0.957393), (0.994374, 0.957438), (0.994389, 0.957139)], atol=5e-7, rtol=0)


# The Kekulé rule


@pytest.mark.parametrize("smiles", EASY + CONJUGATED + HYPERVALENT + UNCOMMON + ZWITTERIONS)
def test_valences_give_the_molecule_back(smiles: str) -> None:
    """Neutral in all: charges are found."""
    reference, numbers, positions, charges = embed(smiles)
    mol, reason = bonds.infer_bonds(numbers, positions, rule="kekule")
    assert reason == ""
    assert written(mol) == reference
    assert sorted(atom.GetFormalCharge() for atom in mol.GetAtoms()) == sorted(charges)
    assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    assert np.allclose(mol.GetConformer().GetPositions(), positions)


@pytest.mark.parametrize("smiles", [*CHARGED, "CC(=O)[O-]", "C[S+](C)C", "CC[S-]", "C[NH3+]", "[O-]Cl(=O)(=O)=O"])
def test_valences_of_given_charges(smiles: str) -> None:
    reference, numbers, positions, charges = embed(smiles)
    mol, reason = bonds.infer_bonds(numbers, positions, charges, rule="kekule")
    assert reason == ""
    assert written(mol) == reference
    assert [atom.GetFormalCharge() for atom in mol.GetAtoms()] == charges.tolist()


HALF = math.sin(math.radians(60)), math.cos(math.radians(60))
SMALL = {
    "O=S=O": ([16, 8, 8], [[0, 0, 0], [1.43 * HALF[0], 1.43 * HALF[1], 0], [-1.43 * HALF[0], 1.43 * HALF[1], 0]]),
    "O=S(=O)=O": (
        [16, 8, 8, 8],
        1.42 * np.array([[0, 0, 0], [0, 1, 0], [HALF[0], -HALF[1], 0], [-HALF[0], -HALF[1], 0]]),
    ),
    "N=S=O": ([16, 8, 7, 1], [[0, 0, 0], [1.25, 0.72, 0], [-1.3, 0.76, 0], [-1.35, 1.78, 0]]),
    "N#SF": ([16, 7, 9], [[0, 0, 0], [1.45, 0, 0], [-0.74, 1.46, 0]]),
    "O=[O+][O-]": ([8, 8, 8], [[0, 0, 0], [1.09, 0.67, 0], [-1.09, 0.67, 0]]),
    "[C-]#[O+]": ([6, 8], [[0, 0, 0], [1.128, 0, 0]]),
    "N#[N+][O-]": ([7, 7, 8], [[0, 0, 0], [1.128, 0, 0], [2.312, 0, 0]]),
    "[N]=O": ([7, 8], [[0, 0, 0], [1.151, 0, 0]]),
}  # geometries of the gases


@pytest.mark.parametrize("smiles", SMALL)
def test_valences_of_small_molecules(smiles: str) -> None:
    numbers, positions = SMALL[smiles]
    mol, reason = bonds.infer_bonds(np.array(numbers), np.array(positions), rule="kekule")
    assert reason == ""
    assert written(mol) == Chem.CanonSmiles(smiles)


def test_a_lone_charge_is_not_made_up() -> None:
    """Without its own charge an ammonium ion is a nitrogen of four bonds, as a neutral molecule has no such."""
    _, numbers, positions, _ = embed("C[NH3+]")
    mol, reason = bonds.infer_bonds(numbers, positions, rule="kekule")
    assert "valence" in reason.lower()
    assert all(atom.GetFormalCharge() == 0 for atom in mol.GetAtoms())


@pytest.mark.parametrize(("distance", "order"), [(1.34, 2), (1.485, 2), (1.495, 1), (1.54, 1)])
def test_valences_do_not_shorten_bonds(distance: float, order: int) -> None:
    """H2C-CH2, two free valences: a double bond up to 144 + 5 pm, and two radicals beyond."""
    _, numbers, positions, _ = embed("C=C")
    axis = (positions[1] - positions[0]) / np.linalg.norm(positions[1] - positions[0])
    second = (positions - positions[:2].mean(0)) @ axis > 0
    moved = positions + np.outer(second, (distance - np.linalg.norm(positions[1] - positions[0])) * axis)
    mol, reason = bonds.infer_bonds(numbers, moved, rule="kekule")
    assert reason == ""
    assert mol.GetBondBetweenAtoms(0, 1).GetBondTypeAsDouble() == order
    assert sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()) == 2 * (order == 1)


def test_builtin_set_with_hydrogens_is_drawn_as_its_smiles() -> None:
    with np.load(builtin("small-molecules"), allow_pickle=False) as file:
        data = dict(file)
    ends = np.cumsum(data["num_atoms"].astype(int))[:-1]
    whole = zip(np.split(data["atomic_numbers"], ends), np.split(data["positions"], ends), strict=True)
    drawn = bonds.infer_all([(z, x, None) for z, x in whole], rule="kekule")
    assert all(reason == "" for _, reason in drawn)
    same = [written(mol) == s.decode() for (mol, _), s in zip(drawn, data["smiles"], strict=True)]
    assert np.mean(same) == 1


# The heavy-atom rule


@pytest.mark.parametrize("smiles", EASY + CONJUGATED + UNCOMMON)
def test_heavy_atoms_alone_give_the_molecule_back(smiles: str) -> None:
    reference, numbers, positions, _ = embed(smiles)
    heavy = numbers > 1
    mol, reason = bonds.infer_bonds(numbers[heavy], positions[heavy], hydrogens="implicit")
    assert reason == ""
    assert written(mol) == reference
    assert mol.GetNumAtoms() == len(numbers)
    assert np.allclose(mol.GetConformer().GetPositions()[: heavy.sum()], positions[heavy])
    lengths = [
        np.linalg.norm(
            np.subtract(*(mol.GetConformer().GetPositions()[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]))
        )
        for bond in mol.GetBonds()
        if bond.GetEndAtom().GetAtomicNum() == 1
    ]
    assert all(0.8 < length < 1.4 for length in lengths)  # hydrogens stand where they belong


@pytest.mark.parametrize("smiles", CHARGED)
def test_heavy_atoms_with_formal_charges(smiles: str) -> None:
    reference, numbers, positions, charges = embed(smiles)
    heavy = numbers > 1
    mol, reason = bonds.infer_bonds(numbers[heavy], positions[heavy], charges[heavy], hydrogens="implicit")
    assert reason == ""
    assert written(mol) == reference


def test_four_bonds_at_nitrogen_need_its_charge() -> None:
    _, numbers, positions, _ = embed("C[N+](C)(C)C")
    heavy = numbers > 1
    mol, reason = bonds.infer_bonds(numbers[heavy], positions[heavy], hydrogens="implicit")
    assert "valence" in reason.lower()
    assert mol.GetProp("invalid") == reason


def test_short_bonds_are_never_repaired() -> None:
    """Two C=O lengths and a C-C length at one carbon: five bonds, whatever else would be possible."""
    positions = np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [-0.6, 1.04, 0.0], [-0.75, -1.3, 0.0]])
    mol, reason = bonds.infer_bonds(np.array([6, 8, 8, 6]), positions, hydrogens="implicit")
    assert "valence" in reason.lower()
    assert [int(bond.GetBondTypeAsDouble()) for bond in mol.GetBonds()] == [2, 2, 1]
    assert mol.GetNumAtoms() == 4
    Chem.MolToMolBlock(mol, kekulize=False)


def test_the_shorter_bond_of_two_equals_is_the_double_one() -> None:
    """N-C-N of an amidine: both lengths could be double, one is."""
    positions = np.array([[-1.32, 0.0, 0.0], [0.0, 0.0, 0.0], [0.7, 1.15, 0.0], [0.8, -1.3, 0.0]])
    orders = bonds.heavy_orders(np.array([[7, 6, 7, 6]]), positions[None], np.ones((1, 4), bool))[0]
    assert orders[0, 1] == 2
    assert orders[1, 2] == 1
    assert orders[1, 3] == 1
    assert np.array_equal(orders, orders.T)


def test_bonds_without_a_neighbour_are_matched_as_in_one_graph_of_all() -> None:
    rng = np.random.default_rng(4)
    band = np.triu(rng.random((300, 8, 8)) < 0.12, 1)
    weight = rng.uniform(0.01, 1, band.shape)
    order = np.ones(band.shape, np.int8)
    bonds._match(order, band | band.swapaxes(1, 2), weight + weight.swapaxes(1, 2))
    neighbours = 0
    for found, edges, lengths in zip(order, band, weight + weight.swapaxes(1, 2), strict=True):
        graph = networkx.Graph()
        graph.add_weighted_edges_from((i, j, bonds.RING + lengths[i, j]) for i, j in np.argwhere(edges).tolist())
        for i, j in networkx.bridges(graph):
            graph[i][j]["weight"] -= bonds.RING
        expected = np.ones((8, 8), np.int8)
        for i, j in networkx.max_weight_matching(graph):
            expected[[i, j], [j, i]] += 1
        assert np.array_equal(found, expected)
        neighbours += sum(degree > 1 for _, degree in graph.degree)
    assert neighbours > 300


def test_builtin_set_is_drawn_as_its_smiles() -> None:
    with np.load(builtin("small-molecules"), allow_pickle=False) as file:
        data = dict(file)
    ends = np.cumsum(data["num_atoms"].astype(int))
    numbers, positions = np.split(data["atomic_numbers"], ends[:-1]), np.split(data["positions"], ends[:-1])
    heavy = [(z[z > 1], x[z > 1], None) for z, x in zip(numbers, positions, strict=True)]
    drawn = bonds.infer_all(heavy, hydrogens="implicit")
    same = [written(mol) == s.decode() for (mol, _), s in zip(drawn, data["smiles"], strict=True)]
    assert all(reason == "" for _, reason in drawn)
    assert all(len(Chem.GetMolFrags(mol)) == 1 for mol, _ in drawn)
    assert np.mean(same) >= 0.998


def test_builtin_set_is_as_the_manifest_says() -> None:
    entry, path = manifest()["small-molecules"], builtin("small-molecules")
    assert path.stat().st_size == entry["size"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    with np.load(path, allow_pickle=False) as file:
        data = dict(file)
    mols = [Chem.MolFromSmiles(s.decode()) for s in data["smiles"]]
    heavy = np.array([mol.GetNumAtoms() for mol in mols])
    assert len(mols) == entry["molecules"] >= 3000
    assert len(set(data["smiles"].tolist())) == len(set(data["name"].tolist())) == len(mols)
    assert np.median(heavy) >= 6
    assert np.mean([mol.GetRingInfo().NumRings() > 0 for mol in mols]) >= 0.5
    assert all(atom.GetFormalCharge() == atom.GetNumRadicalElectrons() == 0 for mol in mols for atom in mol.GetAtoms())
    starts = np.cumsum(data["num_atoms"].astype(int)) - data["num_atoms"]
    assert np.abs(np.add.reduceat(data["positions"], starts) / data["num_atoms"][:, None]).max() < 1e-3
    assert np.array_equal(np.add.reduceat(data["atomic_numbers"] > 1, starts, dtype=int), heavy)


# Both rules


@pytest.mark.parametrize(
    ("rule", "hydrogens"), [("kekule", "explicit"), ("lookup", "explicit"), ("kekule", "implicit")]
)
@pytest.mark.parametrize("smiles", ["CC(=O)NC", "c1cnc[nH]1", "CC(=O)Oc1ccccc1C(=O)O", "C#CC1CN1", "C[N+](=O)[O-]"])
def test_motion_reflection_and_order_change_nothing(smiles: str, rule: bonds.Rule, hydrogens: bonds.Hydrogens) -> None:
    rng = np.random.default_rng(3)
    _, numbers, positions, _ = embed(smiles)
    if hydrogens == "implicit":
        numbers, positions = numbers[numbers > 1], positions[numbers > 1]
    reference, reason = bonds.infer_bonds(numbers, positions, rule=rule, hydrogens=hydrogens)
    for _ in range(5):
        order = rng.permutation(len(numbers))
        moved = positions[order] @ rotation(rng) + rng.normal(size=3)
        mol, why = bonds.infer_bonds(numbers[order], moved, rule=rule, hydrogens=hydrogens)
        assert why == reason
        assert Chem.MolToSmiles(mol, isomericSmiles=False) == Chem.MolToSmiles(reference, isomericSmiles=False)
        orders = bonds.lookup_orders if hydrogens == "explicit" else bonds.heavy_orders
        mask = np.ones((1, len(numbers)), bool)
        degree = (orders(numbers[None], positions[None], mask)[0] > 0).sum(1)
        assert np.array_equal((orders(numbers[order][None], moved[None], mask)[0] > 0).sum(1), degree[order])


def test_many_at_once_equal_one_by_one_in_order() -> None:
    molecules = [(numbers, positions, charges) for _, numbers, positions, charges in map(embed, EASY + CHARGED)]
    together = bonds.infer_all(molecules)
    for molecule, (mol, reason) in zip(molecules, together, strict=True):
        alone, why = bonds.infer_bonds(*molecule)
        assert reason == why
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(alone)


def test_charges_make_ammonium_valid() -> None:
    _, numbers, positions, charges = embed("[NH4+]")
    assert bonds.infer_bonds(numbers, positions)[1]
    mol, reason = bonds.infer_bonds(numbers, positions, charges)
    assert reason == ""
    assert written(mol) == "[NH4+]"


def test_fragments_are_valid_but_apart() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 9.0, 0.0]])
    mol, reason = bonds.infer_bonds(np.array([6, 6, 8]), positions, hydrogens="implicit")
    assert reason == ""
    assert written(mol) == "CC.O"
    assert len(Chem.GetMolFrags(mol)) == 2


def test_missing_hydrogens_are_not_added_to_explicit_molecules() -> None:
    _, numbers, positions, _ = embed("C")
    mol, reason = bonds.infer_bonds(numbers[:4], positions[:4])
    assert reason == ""
    assert mol.GetNumAtoms() == 4
    assert mol.GetAtomWithIdx(0).GetNumRadicalElectrons() == 1


# Hostile input


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_hostile_molecules_are_refused_with_a_reason(hydrogens: bonds.Hydrogens) -> None:
    together = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [1.5, 0.0, 1e-9]])
    molecules = [
        (np.array([6, 6, 6]), together, None),
        (np.array([6, 8]), np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]]), None),
        (np.array([6, 8]), np.array([[0.0, 0.0, 0.0], [np.inf, 0.0, 0.0]]), None),
        (np.array([], int), np.zeros((0, 3)), None),
        (np.array([8]), np.zeros((1, 3)), None),
        (np.array([8, 8]), np.array([[0.0, 0.0, 0.0], [1e300, 0.0, 0.0]]), None),
        (np.array([2, 10]), np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), None),
    ]
    reasons = [reason for _, reason in bonds.infer_all(molecules, hydrogens=hydrogens)]
    finite = "positions are not finite"
    assert reasons == ["atoms 2 and 3 overlap", finite, finite, "no atoms", "", "", ""]
    for mol, reason in bonds.infer_all(molecules, hydrogens=hydrogens):
        assert mol.HasProp("invalid") == bool(reason)
        Chem.MolToSmiles(mol)
    assert bonds.infer_all([], hydrogens=hydrogens) == []


@pytest.mark.parametrize("rule", [bonds.lookup_orders, bonds.heavy_orders, bonds.stability])
def test_arrays_with_nan_are_refused(rule) -> None:
    positions = np.array([[[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]]])
    with pytest.raises(ValueError, match="not finite"):
        rule(np.array([[6, 6]]), positions, np.ones((1, 2), bool))


def test_no_molecules_and_no_atoms_are_stable_without_fuss() -> None:
    none = np.zeros(0, np.uint8), np.zeros((0, 3), np.float32)
    assert [part.tolist() for part in bonds.stability_flat(np.zeros(0, np.uint8), *none)] == [[], []]
    assert [part.tolist() for part in bonds.stability_flat(np.zeros(2, np.uint8), *none)] == [[], [True, True]]


def test_by_size_covers_every_atom_once() -> None:
    sizes = np.array([3, 0, 5, 3, 1], np.uint8)
    seen = {int(row): atoms[k].tolist() for rows, atoms in bonds.by_size(sizes) for k, row in enumerate(rows)}
    assert seen == {0: [0, 1, 2], 1: [], 2: [3, 4, 5, 6, 7], 3: [8, 9, 10], 4: [11]}


# RDKit's rule


def test_rdkit_rule_places_charges_and_needs_hydrogens() -> None:
    molecules = [
        (numbers, positions, charges) for _, numbers, positions, charges in map(embed, ["CC(=O)[O-]", "c1ccncc1"])
    ]
    drawn = bonds.infer_all([*molecules, (molecules[1][0], molecules[1][1], None)], rule="rdkit")
    assert [reason for _, reason in drawn] == ["", "", ""]
    assert [written(mol) for mol, _ in drawn] == ["CC(=O)[O-]", "c1ccncc1", "c1ccncc1"]
    with pytest.raises(UserError, match="explicit hydrogens"):
        bonds.infer_all(molecules, rule="rdkit", hydrogens="implicit")


def test_rdkit_rule_refuses_without_dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bonds, "ATOM_LIMIT", 12)
    rng = np.random.default_rng(0)
    _, numbers, positions, _ = embed("C")
    molecules = [
        (np.full(13, 6), rng.normal(size=(13, 3)) * 9, None),
        (np.full(5, 6), rng.normal(size=(5, 3)), None),
        (numbers, positions, None),
    ]
    (_, large), (_, _), (mol, good) = bonds.infer_all(molecules, rule="rdkit")
    assert large.startswith("13 atoms")
    assert good == ""
    assert written(mol) == "C"


def test_a_search_without_end_is_killed_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = bonds.RDKitBonds._start, []

    def sleeper(self: bonds.RDKitBonds) -> subprocess.Popen[str]:
        if started:
            return start(self)
        code = "print(flush=True); import time; time.sleep(600)"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, "-c", code], text=True, **pipes))
        started[0].stdout.readline()
        return started[0]

    monkeypatch.setattr(bonds.RDKitBonds, "_start", sleeper)
    _, numbers, positions, _ = embed("C")
    before = time.monotonic()
    with bonds.RDKitBonds(time_limit=0.3) as worker:
        answer = worker(numbers, positions)
        assert time.monotonic() - before < 10
        assert answer == ([], None, "RDKit drew no bonds within 0.3 s")
        assert started[0].poll() is not None
        worker.time_limit = 30
        assert worker(numbers, positions)[2] == ""
        alive = worker._process
        started[0] = alive
        alive.kill()
        alive.wait()
        assert worker(numbers, positions) == ([], None, "RDKit crashed")
        assert worker(numbers, positions)[2] == ""
        alive = worker._process
    assert alive.poll() is not None
