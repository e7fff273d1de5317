import os
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdForceFieldHelpers
from scipy.spatial.transform import Rotation

from gendiff.files import UserError, load_npz
from gendiff.modalities.molecules.bonds import infer_all
from gendiff.modalities.molecules.metrics import Suite, evaluate, judge, smiles_set, stability, strain_energy
from gendiff.modalities.molecules.metrics.drawn import draw_bonds
from gendiff.modalities.molecules.records import MoleculeArrays

QM9 = Path(os.environ.get("GENDIFF_DATA", "")) / "molecules" / "qm9.npz"
needs_qm9 = pytest.mark.skipif(
    "GENDIFF_DATA" not in os.environ or not QM9.exists(), reason="GENDIFF_DATA is not set or has no molecules/qm9.npz"
)
SATURATED = (
    "CC CCC CCO COC CCN CC(C)O C1CC1C CC(=O)C C1CCC1 CCF OCCO CNC CC(C)C C1CC1O CCCC N#CC C1CCC1O CC=O OCC(=O)C NCCO"
)
SHARES = ("validity", "valid_connected", "uniqueness", "novelty", "valid_unique", "valid_unique_new")
DISTANCES = ("size_variation", "size_distance", "element_variation", "ring_variation", "bond_length_distance")


def embed(smiles, seed=0):
    """A molecule with hydrogens in the minimum of MMFF94s."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed + 1)
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=10_000)
    return mol


def arrays(*molecules):
    """Molecules from (numbers, positions)."""
    return MoleculeArrays(
        [len(numbers) for numbers, _ in molecules],
        np.concatenate([np.zeros(0, int), *(numbers for numbers, _ in molecules)]),
        np.concatenate([np.zeros((0, 3)), *(positions for _, positions in molecules)]),
    )


@pytest.fixture(scope="module")
def mols():
    return [embed(smiles) for smiles in SATURATED.split()]


@pytest.fixture(scope="module")
def real(mols):
    return MoleculeArrays.from_mols(mols)


def values(table, names, side="generated"):
    found = [getattr(table[name], side) for name in names]
    return [None if value is None else round(value.value, 10) for value in found]


def test_a_copy_of_the_reference_scores_what_the_reference_scores(real):
    table = evaluate(real, real)
    for metric in table.metrics:
        if metric.name in DISTANCES:
            assert metric.generated.value == metric.generated.low == 0
            assert metric.name == "ring_variation" or metric.reference.value > 0  # not every part has rings
        elif metric.name not in ("novelty", "valid_unique_new"):
            assert metric.generated == metric.reference
    assert values(table, SHARES) == [1, 1, 1, 0, 1, 0]
    assert values(table, ("novelty", "valid_unique_new"), "reference") == [None, None]
    assert values(table, ("atom_stability", "molecule_stability")) == [1, 1]
    assert table["strain"].generated.value == pytest.approx(0, abs=0.01)


def test_an_equal_set_in_other_arrays_is_a_copy_too(real):
    again = MoleculeArrays(real.num_atoms, real.atomic_numbers, real.positions.copy(), smiles=real.smiles)
    options = {"strain": False, "n_resamples": 50}
    assert evaluate(real, again, **options).to_json() == evaluate(real, real, **options).to_json()


def test_known_sets_give_known_shares(real):
    """Of ten: two known ones, one of them three times; two new ones; a new one in two pieces; three not valid."""
    parts = real.split()
    known, drawn = real.select(range(10)), [(z, x) for z, x, _ in parts]
    pieces = (np.concatenate([drawn[0][0], drawn[2][0]]), np.concatenate([drawn[0][1], drawn[2][1] + 20]))
    crowded = (np.array([6, *[1] * 5]), np.array([[0, 0, 0], *(1.09 * np.eye(3)), [-1.09, 0, 0], [0, -1.09, 0]]))
    nearby = (np.array([6, 6]), np.array([[0, 0, 0], [0.3, 0, 0]]))
    generated = arrays(drawn[0], drawn[1], drawn[1], drawn[1], drawn[15], drawn[16], pieces, crowded, crowded, nearby)
    table = evaluate(generated, known, strain=False)
    assert values(table, SHARES) == pytest.approx([7 / 10, 6 / 10, 5 / 7, 3 / 7, 5 / 10, 3 / 10])
    assert table["uniqueness"].generated.n == 7
    assert table.facts["not valid"] == "3 generated: 2 × C with 5 bonds; 1 × atoms overlap"
    assert values(table, ("molecule_stability",)) == [7 / 10]
    stable = sum(len(z) for z, _ in [drawn[0], *3 * [drawn[1]], drawn[15], drawn[16], pieces]) + 2 * 5
    assert table["atom_stability"].generated.value == pytest.approx(stable / generated.num_atoms.sum())


def test_novelty_is_judged_against_the_training_set(real):
    half, rest = real.select(range(10)), real.select(range(10, 20))
    table = evaluate(real, rest, training=half, strain=False)
    assert values(table, ("novelty", "valid_unique_new")) == [0.5, 0.5]
    assert values(table, ("novelty", "valid_unique_new"), "reference") == [1, 1]
    assert table.facts["training"].startswith("10 molecules")
    assert values(evaluate(half, rest, training=real, strain=False), ("novelty",)) == [0]


def test_what_the_file_states_is_known_too(real):
    """A training molecule that the rule cannot read still counts as known."""
    broken = real.positions.copy()
    broken[:] = np.arange(len(broken))[:, None] * 3.0  # nothing is bonded
    training = MoleculeArrays(real.num_atoms, real.atomic_numbers, broken, smiles=real.smiles)
    unknown = MoleculeArrays(real.num_atoms, real.atomic_numbers, broken)
    assert values(evaluate(real, real, training=training, strain=False), ("novelty",)) == [0]
    assert values(evaluate(real, real, training=unknown, strain=False), ("novelty",)) == [1]
    assert smiles_set(training) >= set(real.smiles)


def moved(molecules, seed):
    """The same molecules turned, reflected and shifted, with their atoms and themselves in another order."""
    rng = np.random.default_rng(seed)
    changed = []
    for numbers, positions, _ in molecules.split():
        order = rng.permutation(len(numbers))
        turn = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix() * (-1) ** seed
        changed.append((numbers[order], positions[order].astype(float) @ turn.T + rng.normal(size=3) * 5))
    return arrays(*(changed[i] for i in rng.permutation(len(changed))))


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
@pytest.mark.parametrize("seed", [0, 1])
def test_motions_and_orders_change_nothing(real, seed, hydrogens):
    noise = np.random.default_rng(7).normal(scale=0.05, size=real.positions.shape)
    drawn = MoleculeArrays(real.num_atoms, real.atomic_numbers, real.positions + noise)
    options = {"hydrogens": hydrogens, "strain": hydrogens == "explicit", "n_resamples": 20}
    first, second = (evaluate(one, real, **options) for one in (drawn, moved(drawn, seed)))
    for a, b in zip(first.metrics, second.metrics, strict=True):
        limit = {"kcal/mol": 1e-2, "Å": 1e-5}.get(a.unit, 1e-9)
        assert b.generated.value == pytest.approx(a.generated.value, abs=limit), a.name
        assert b.generated.n == a.generated.n


def test_distances_have_known_values():
    """Nitrogen of two bond lengths, and rings of three and four."""

    def pair(z, length):
        return np.array([z, z]), np.array([[0, 0, 0], [0, 0, length]])

    short, long = (arrays(*[pair(7, length)] * 30) for length in (1.08, 1.10))
    table = evaluate(long, short, strain=False)
    assert values(table, DISTANCES) == pytest.approx([0, 0, 0, None, 0.02])
    mixed = arrays(*[pair(7, 1.08)] * 20, *[pair(9, 1.40)] * 10)  # F2 has no counterpart, its length does not count
    assert values(evaluate(mixed, short, strain=False), DISTANCES) == pytest.approx([0, 0, 1 / 3, None, 0])
    three, four = (MoleculeArrays.from_mols([embed(smiles)] * 4) for smiles in ("C1CC1", "C1CCC1"))
    table = evaluate(three, four, hydrogens="implicit", strain=False)
    assert values(table, ("size_variation", "size_distance", "ring_variation")) == [1, 1, 1]


def test_kinds_of_bonds_weigh_as_in_the_reference():
    """There two C-C of 1.50 and a C-F of 1.35 Å in every molecule: errors of 0.03 and 0.06 Å weigh 2 : 1."""

    def chain(c, f, carbons):
        positions = [[c, 0, 0], [c, c, 0]][: carbons - 1]
        return np.array([6] * carbons + [9]), np.array([[0, 0, 0], *positions, [*positions[-1][:2], f]])

    short, long = arrays(chain(1.53, 1.41, 2)), arrays(*[chain(1.50, 1.35, 3)] * 5)
    table = evaluate(short, long, hydrogens="implicit", strain=False)
    assert table["bond_length_distance"].generated.value == pytest.approx((2 * 0.03 + 0.06) / 3)


def test_strain_is_zero_in_a_minimum_and_grows_with_distortion(mols):
    mol = Chem.Mol(mols[2])
    direction = np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3))
    at_rest = mol.GetConformer().GetPositions()
    strains = []
    for size in (0, 0.02, 0.05, 0.1):
        mol.GetConformer().SetPositions(at_rest + size * direction)
        before = mol.GetConformer().GetPositions()
        strains.append(strain_energy(mol)[0])
        assert (mol.GetConformer().GetPositions() == before).all()  # the molecule itself is not relaxed
    assert strains[0] == pytest.approx(0, abs=1e-3)
    assert strains == sorted(strains)
    assert strains[-1] > 5


def test_strain_of_a_set_is_that_of_its_molecules(real):
    noise = np.random.default_rng(7).normal(scale=0.03, size=real.positions.shape)
    drawn = MoleculeArrays(real.num_atoms, real.atomic_numbers, real.positions + noise)
    table = evaluate(drawn, real, n_resamples=100)
    judged = [(mol, reason) for mol, reason in infer_all(drawn.split())]
    strains = [(strain_energy(mol)[0], mol.GetNumAtoms()) for mol, reason in judged if not reason]
    energies, atoms = np.array([pair for pair in strains if np.isfinite(pair[0])]).T
    expected = [*np.quantile(energies, [0.5, 0.25, 0.75]), np.median(energies / atoms)]
    names = ("strain", "strain_low", "strain_high", "strain_per_atom")
    assert values(table, names) == pytest.approx(expected, rel=1e-5)
    few = evaluate(drawn, real, max_strain=5, n_resamples=100)
    assert few["strain"].generated.n + few["strain"].reference.n <= 10


def test_molecules_without_a_force_field_are_left_out_and_counted(real):
    methyl = (np.array([6, 1, 1, 1]), np.array([[0, 0, 0], [1.08, 0, 0], [-0.54, 0.935, 0], [-0.54, -0.935, 0]]))
    table = evaluate(arrays(methyl, methyl, *[(z, x) for z, x, _ in real.split()[:3]]), real, n_resamples=20)
    assert table["validity"].generated.value == 1
    assert table["strain"].generated.n == 3
    assert "3 generated (without 2 × radical)" in table.facts["strain"]
    assert strain_energy(Chem.MolFromMolBlock(Chem.MolToMolBlock(embed_metal())))[1] == "no MMFF94s parameters"


def embed_metal():
    mol = Chem.AddHs(Chem.MolFromSmiles("[SeH2]"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return mol


def test_hydrogens_in_the_records_do_not_matter_where_they_are_implicit(real):
    options = {"hydrogens": "implicit", "n_resamples": 20, "max_strain": 5}
    whole, heavy = (
        evaluate(real, real, **options),
        evaluate(real.remove_hydrogens(), real.remove_hydrogens(), **options),
    )
    assert whole.to_json() == heavy.to_json()
    assert "atom_stability" not in whole
    assert values(whole, ("validity", "valid_connected", "novelty")) == [1, 1, 0]
    assert smiles_set(real, hydrogens="implicit") == smiles_set(real) == set(real.smiles)
    assert whole["strain"].reference.value < 0.1  # minima of MMFF94s, whose hydrogens are relaxed into them again


def test_molecules_are_judged_as_they_are_drawn(mols):
    marked = Chem.Mol(mols[0])
    marked.SetProp("invalid", "atoms overlap")
    crowded = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    pieces = Chem.MolFromSmiles("CC.O")
    chiral = Chem.MolFromSmiles("C[C@H](O)[13CH2]F")
    nothing = Chem.Mol()
    verdicts = judge([mols[1], marked, crowded, pieces, chiral, nothing])
    assert [verdict["valid"] for verdict in verdicts] == [True, False, False, True, True, True]
    assert [verdict["connected"] for verdict in verdicts] == [True, True, True, False, True, False]
    assert [verdict["smiles"] for verdict in verdicts] == ["CCC", "", "", "CC.O", "CC(O)CF", ""]
    assert verdicts[1]["reason"] == "atoms overlap"
    assert "valence" in verdicts[2]["reason"]
    assert crowded.GetAtomWithIdx(0).GetDegree() == 5
    assert judge([]) == []


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_nothing_and_nothing_valid_give_a_table_all_the_same(real, hydrogens):
    crowd = (np.array([6] * 6), np.random.default_rng(0).normal(size=(6, 3)) * 0.6)
    for generated in (real.select([]), arrays(crowd, crowd)):
        table = evaluate(generated, real, hydrogens=hydrogens, n_resamples=20)
        assert table.lines()
        assert table.markdown()
        assert values(table, ("uniqueness", "novelty", "strain")) == [None, None, None]
        assert table["validity"].reference.value == 1
    assert values(table, ("validity", "valid_connected", "valid_unique_new")) == [0, 0, 0]
    assert values(table, ("ring_variation",)) == [None]
    assert values(evaluate(real, real.select([]), hydrogens=hydrogens, n_resamples=20), DISTANCES) == [None] * 5
    assert evaluate(real.select([]), real.select([]), hydrogens=hydrogens).lines()
    assert evaluate(real.select([0]), real.select([0]), hydrogens=hydrogens, n_resamples=20).lines()


def test_without_strain_there_is_no_strain(real):
    table = evaluate(real, real, strain=False, n_resamples=20)
    assert not any(metric.name.startswith("strain") for metric in table.metrics)
    assert "strain" not in table.facts


@pytest.mark.parametrize("known", [False, True])
def test_a_suite_says_of_many_sets_what_is_said_of_each_alone(real, known, monkeypatch):
    reference, training = real.select(range(12)), real.select(range(4, 18)) if known else None
    options = {"training": training, "protocol": "edm", "max_strain": 3}
    sets = [real.select(range(10, 20)), real.select(range(5)), reference]
    alone = [evaluate(one, reference, n_resamples=20, **options).to_json() for one in sets]
    drawn = []

    def counted(molecules, *arguments):
        drawn.append(len(molecules))
        return draw_bonds(molecules, *arguments)

    monkeypatch.setattr("gendiff.modalities.molecules.metrics.draw_bonds", counted)
    suite = Suite(reference, **options)
    assert [suite.evaluate(one, n_resamples=20).to_json() for one in sets] == alone
    assert drawn == [12, *([14] if known else []), 10, 5]  # what is the reference is not drawn again


def test_what_was_asked_for_is_said_by_the_generated_molecules_alone(real):
    def asking(value):
        target = {"target_logP": np.full(len(real), value)}
        return MoleculeArrays(real.num_atoms, real.atomic_numbers, real.positions, properties=target)

    def titles(*sets):
        return [metric.title for metric in evaluate(*sets, strain=False, n_resamples=20).metrics]

    assert "logP: median (asked: 1)" in titles(asking(1.0), asking(5.0))
    assert not any(title.startswith("logP") for title in titles(real, asking(5.0)))


def test_progress_rises_to_one(real):
    seen = []
    evaluate(real, real.select(range(5)), n_resamples=20, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 20
    assert seen[-1] == 1


def test_rdkits_rule_needs_hydrogens(real):
    with pytest.raises(UserError, match="explicit"):
        evaluate(real, real, rule="rdkit", hydrogens="implicit")


def test_rdkits_rule_reads_the_same_molecules(real):
    few = real.select(range(4))
    table = evaluate(few, few, rule="rdkit", strain=False, n_resamples=20)
    assert values(table, SHARES) == [1, 1, 1, 0, 1, 0]
    assert "DetermineBonds" in table.facts["bonds"]


def qm9():
    content = load_npz(QM9)
    return MoleculeArrays(content["num_atoms"], content["atomic_numbers"], content["positions"])


@needs_qm9
def test_stability_of_qm9():
    atoms, molecules = stability(qm9())
    assert round(atoms.value, 6) == 0.994376
    assert round(molecules.value, 6) == 0.957393
    assert atoms.low < atoms.value < atoms.high
    assert molecules.n == 115_896


@needs_qm9
@pytest.mark.slow
def test_evaluation_of_qm9():
    data = qm9()
    table = evaluate(data, data, strain=False)
    for side in ("generated", "reference"):
        assert [round(v, 4) for v in values(table, ("atom_stability", "molecule_stability"), side)] == [0.9944, 0.9574]
    assert values(table, ("novelty", *DISTANCES)) == [0] * 6
