"""Graphs of PyTorch Geometric: the same molecules there and back, and training from them by way of arrays."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from torch_geometric.data import Batch, Data, InMemoryDataset

from gendiff.modalities.molecules import pyg
from gendiff.modalities.molecules.read import embed_3d, read_molecules
from gendiff.modalities.molecules.records import MoleculeArrays, canonical_smiles

SMILES = ["CCO", "c1ccncc1", "C[N+](=O)[O-]", "CC#N", "O", "C"]


@pytest.fixture(scope="module")
def mols() -> list[Chem.Mol]:
    result = [embed_3d(Chem.MolFromSmiles(smiles), seed) for seed, smiles in enumerate(SMILES)]
    for index, mol in enumerate(result):
        mol.SetProp("_Name", f"name {index}")
    return result


@pytest.fixture(scope="module")
def arrays(mols) -> MoleculeArrays:
    arrays = MoleculeArrays.from_mols(mols)
    rng = np.random.default_rng(0)
    return MoleculeArrays(
        arrays.num_atoms, arrays.atomic_numbers, arrays.positions, arrays.charges, arrays.smiles, arrays.names,
        {"gap": rng.normal(size=6), "mass": rng.normal(size=6)}, arrays.num_bonds, arrays.bonds,
    )  # fmt: skip


def assert_equal(got: MoleculeArrays, expected: MoleculeArrays) -> None:
    for name in ("num_atoms", "atomic_numbers", "positions", "charges", "num_bonds", "bonds"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    assert list(got.smiles or []) == list(expected.smiles or [])
    assert list(got.names) == list(expected.names)
    assert got.properties.keys() == expected.properties.keys()
    for name, values in expected.properties.items():
        np.testing.assert_array_equal(got.properties[name], values)


def test_round_trip(arrays):
    graphs = pyg.to_data(arrays)
    batch = Batch.from_data_list(graphs)
    assert batch.num_graphs == 6
    assert batch.pos.shape == (arrays.num_atoms.sum(), 3)
    assert batch.y.shape == (6, 2)
    assert batch.edge_index.shape == (2, 2 * len(arrays.bonds))
    assert all(graph.validate() for graph in graphs)
    assert not graphs[0].is_directed()
    assert_equal(pyg.from_data(graphs, ["gap", "mass"]), arrays)


def test_molecules_of_rdkit_and_single_records_are_graphs_too(mols, arrays):
    for graph, expected in zip(pyg.to_data(mols), pyg.to_data(list(arrays)), strict=True):
        assert torch.equal(graph.pos, expected.pos)
        assert torch.equal(graph.edge_attr, expected.edge_attr)
        assert (graph.smiles, graph.name) == (expected.smiles, expected.name)
    (graph,) = pyg.to_data(arrays[3])
    assert graph.smiles == "CC#N"
    assert sorted(graph.edge_attr.tolist())[-2:] == [3.0, 3.0]
    with pytest.raises(ValueError, match="coordinates"):
        pyg.to_data([Chem.MolFromSmiles("C")])


def test_bare_graphs_are_enough():
    arrays = pyg.from_data([Data(z=torch.tensor([6, 8]), pos=torch.tensor([[0.0, 0, 0], [1.2, 0, 0]]))])
    assert arrays[0].charges.tolist() == [0, 0]
    assert arrays.smiles is None
    assert not arrays.has_bonds.any()


def like_qm9(mol: Chem.Mol, index: int) -> Data:
    """A graph with the fields of PyTorch Geometric's own QM9: bond types one-hot, SMILES not canonical."""
    columns = {1.0: 0, 2.0: 1, 3.0: 2, 1.5: 3}
    edges = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), columns[b.GetBondTypeAsDouble()]) for b in mol.GetBonds()]
    table = torch.tensor([*edges, *[(j, i, kind) for i, j, kind in edges]])
    return Data(
        z=torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        pos=torch.from_numpy(mol.GetConformer().GetPositions()).float(),
        edge_index=table[:, :2].T,
        edge_attr=torch.nn.functional.one_hot(table[:, 2], 4).float(),
        y=torch.arange(19.0)[None] + index,
        smiles=Chem.MolToSmiles(mol),  # hydrogens and all
        name=f"gdb_{index}",
        idx=torch.tensor([index]),
    )


class Few(InMemoryDataset):
    def __init__(self, graphs: list[Data]) -> None:
        super().__init__()
        self.data, self.slices = self.collate(graphs)


@pytest.mark.filterwarnings("ignore")
def test_a_data_set_trains_by_way_of_arrays(mols, tmp_path):
    chosen = [mols[index] for index in (0, 1, 3, 4)]
    data = Few([like_qm9(mol, index) for index, mol in enumerate(chosen)])
    pyg.from_data(data, pyg.QM9_PROPERTIES).save_npz(tmp_path / "mine.npz")
    arrays, _ = read_molecules(tmp_path / "mine.npz")
    assert [canonical_smiles(mol) for mol in arrays.to_mols()] == [canonical_smiles(mol) for mol in chosen]
    assert arrays.smiles == [canonical_smiles(mol) for mol in chosen]
    assert list(arrays.names) == ["gdb_0", "gdb_1", "gdb_2", "gdb_3"]
    assert arrays.properties["gap"].tolist() == [4, 5, 6, 7]
    from gendiff.train import train

    model = train(
        "molecules", [tmp_path / "mine.npz"], tmp_path / "run", steps=2, batch_size=4, previews=0, conditions=["gap"],
        say=None,
    )  # fmt: skip
    assert list(model.modality.conditions) == ["gap"]


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"z": torch.tensor([6])}, "graph 1: lacks `pos`"),
        ({"pos": X}, "graph 1: lacks `z`"),
        ({"z": torch.tensor([6]), "pos": X}, r"`pos` has shape \(2, 3\) .* for 1 atoms"),
        ({"z": torch.tensor([]), "pos": X[:0]}, "for 0 atoms"),
        ({"z": torch.tensor([6, 0]), "pos": X}, "`z` must lie in 1 to 118"),
        ({"z": torch.tensor([6, 6]), "pos": X / 0}, "`pos` must be finite"),
        ({"z": torch.tensor([6, 6]), "pos": X, "charge": torch.zeros(3)}, "for 2 atoms"),
        (
            {"z": torch.tensor([6, 6]), "pos": X, "edge_index": torch.tensor([[0], [5]]), "edge_attr": torch.ones(1)},
            "`edge_index` of shape",
        ),
        ({"z": torch.tensor([6, 6]), "pos": X, "y": torch.zeros(1, 3)}, "`y` has 3 columns and 1 names"),
    ],
)
def test_graphs_that_are_no_molecules(fields, message):
    good = Data(z=torch.tensor([6]), pos=torch.zeros(1, 3), y=torch.zeros(1, 1))
    with pytest.raises(ValueError, match=message):
        pyg.from_data([good, Data(**fields)], ["gap"] if "y" in fields else ())


@pytest.mark.parametrize("attributes", [torch.tensor([0.7, 0.7]), torch.rand(2, 5), torch.rand(2, 4), None])
def test_edges_of_another_meaning_are_no_bonds(attributes):
    edges = torch.tensor([[0, 1], [1, 0]])
    graph = Data(z=torch.tensor([6, 8]), pos=torch.eye(3)[:2], edge_index=edges, edge_attr=attributes)
    assert not len(pyg.from_data([graph]).bonds)
