"""Molecules as graphs of PyTorch Geometric, and back.

=============  ===========  ====================================================================================
field          shape        content
=============  ===========  ====================================================================================
`z`            (n,)         atomic numbers
`pos`          (n, 3)       coordinates in Å
`charge`       (n,)         formal charges
`edge_index`   (2, 2b)      bonds, both directions
`edge_attr`    (2b,)        bond orders: 1, 1.5 (aromatic), 2, 3
`smiles`       text         canonical SMILES without stereochemistry, "" if unknown
`name`         text         name
`y`            (1, P)       properties, in the order of their names
=============  ===========  ====================================================================================

A data set of PyTorch Geometric is made of Python objects, which gendiff does not load from files: they could execute
anything. Train from one by way of arrays::

    from torch_geometric.datasets import QM9
    from gendiff.modalities.molecules import pyg

    pyg.from_data(QM9("qm9"), pyg.QM9_PROPERTIES).save_npz("qm9.npz")
    gendiff.train("molecules", ["qm9.npz"], "runs/qm9")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from gendiff.modalities.molecules.records import (
    BOND_TYPES,
    Molecule,
    MoleculeArrays,
    canonical_text,
    clean_name,
    from_mol,
)

if TYPE_CHECKING:
    from torch_geometric.data import Data

QM9_PROPERTIES = tuple("mu alpha homo lumo gap r2 zpve U0 U H G Cv U0_atom U_atom H_atom G_atom A B C".split())
"""Columns of `y` in PyTorch Geometric's QM9: energies in eV, mu in D, alpha in a0^3, r2 in a0^2, Cv in cal/(mol K), the
rotational constants A, B, C in GHz."""

_ORDERS = {1.0: 2, 1.5: 3, 2.0: 4, 3.0: 6}  # of `edge_attr`, to the codes of `MoleculeArrays.bonds`
_COLUMNS = (2, 4, 6, 3)  # the codes of one-hot bond types: single, double, triple, aromatic


def to_data(molecules: MoleculeArrays | Molecule | Iterable[Molecule | Chem.Mol]) -> list[Data]:
    """Return molecules as graphs.

    Arguments:
        molecules: Records, or RDKit molecules with coordinates, sanitised or not.

    Raises:
        ValueError: if an RDKit molecule has no atoms or no coordinates.
    """
    import torch
    from torch_geometric.data import Data

    if isinstance(molecules, Molecule):
        molecules = [molecules]
    records = [from_mol(one) if isinstance(one, Chem.Mol) else one for one in molecules]
    names = dict.fromkeys(name for record in records for name in record.properties)
    bonded = any(len(record.bonds) for record in records)
    graphs = []
    for record in records:
        graph = Data(
            z=torch.from_numpy(record.atomic_numbers.astype(np.int64)),
            pos=torch.from_numpy(np.array(record.positions, np.float32)),
            charge=torch.from_numpy(record.charges.astype(np.int64)),
            smiles=record.smiles,
            name=record.name,
        )
        if names:
            graph.y = torch.tensor([[record.properties.get(name, np.nan) for name in names]], dtype=torch.float64)
        if bonded:
            ends = torch.from_numpy(record.bonds[:, :2].T.astype(np.int64))
            order = torch.from_numpy(record.bonds[:, 2] / np.float32(2))
            graph.edge_index, graph.edge_attr = torch.cat([ends, ends.flip(0)], 1), torch.cat([order, order])
        graphs.append(graph)
    return graphs


def from_data(graphs: Iterable[Data] | Any, property_names: Sequence[str] = ()) -> MoleculeArrays:
    """Gather graphs that have `z` and `pos`; the other fields are optional.

    Bonds are taken from `edge_index` where `edge_attr` says their orders: one number per edge, or the one-hot single,
    double, triple, aromatic of PyTorch Geometric's own data sets. Other edges (neighbours, all pairs) are no bonds.
    SMILES are made canonical; `name` may also be called `idx`.

    Arguments:
        graphs: A data set, or a list of graphs.
        property_names: Names for the columns of `y`; without them `y` is left out.

    Raises:
        ValueError: if a graph lacks a field or its fields do not fit; says which graph.
    """
    molecules = []
    for number, graph in enumerate(graphs):
        try:
            molecules.append(_molecule(graph, property_names))
        except ValueError as error:
            raise ValueError(f"graph {number}: {error}") from None
    return MoleculeArrays.from_molecules(molecules)


def _molecule(graph: Data, property_names: Sequence[str]) -> Molecule:
    fields = {key: graph.get(key) for key in ("z", "pos", "charge", "edge_index", "edge_attr", "y", "name", "smiles")}
    for key in ("z", "pos"):
        if fields[key] is None:
            raise ValueError(f"lacks `{key}`; a molecule has atomic numbers `z` (n,) and coordinates `pos` (n, 3)")
    numbers, positions = _numpy(fields["z"]).reshape(-1), _numpy(fields["pos"])
    charges = np.zeros(len(numbers), np.int8) if fields["charge"] is None else _numpy(fields["charge"]).reshape(-1)
    if not len(numbers) or positions.shape != (len(numbers), 3) or len(charges) != len(numbers):
        raise ValueError(f"`pos` has shape {positions.shape} and `charge` {charges.shape} for {len(numbers)} atoms")
    if ((numbers < 1) | (numbers > 118)).any():
        raise ValueError("`z` must lie in 1 to 118")
    if not np.isfinite(positions).all():
        raise ValueError("`pos` must be finite")
    values: list[float] = [] if fields["y"] is None or not property_names else fields["y"].reshape(-1).tolist()
    if property_names and len(values) != len(property_names):
        raise ValueError(f"`y` has {len(values)} columns and {len(property_names)} names")
    name = fields["name"] if fields["name"] is not None else graph.get("idx")
    return Molecule(
        numbers.astype(np.uint8),
        positions.astype(np.float32),
        charges.astype(np.int8),
        _bonds(fields["edge_index"], fields["edge_attr"], len(numbers)),
        canonical_text(str(fields["smiles"] or "")),
        "" if name is None else clean_name(str(name.item() if hasattr(name, "item") else name)),
        {key: float(value) for key, value in zip(property_names, values, strict=True) if np.isfinite(value)},
    )


def _bonds(edges: Any, attributes: Any, atoms: int) -> NDArray[np.int32]:
    """Rows (begin, end, code) of the edges whose orders are understood; none if one is not."""
    none = np.zeros((0, 3), np.int32)
    if edges is None or attributes is None:
        return none
    ends, kinds = _numpy(edges), _numpy(attributes)
    if kinds.ndim == 2 and kinds.shape[1] == 1:
        kinds = kinds[:, 0]
    if ends.shape != (2, len(kinds)) or (ends.size and (ends.min() < 0 or ends.max() >= atoms)):
        raise ValueError(f"`edge_index` of shape {ends.shape} does not fit {len(kinds)} edges of {atoms} atoms")
    if kinds.ndim == 1 and np.isin(kinds, list(_ORDERS)).all():
        codes = np.rint(2 * kinds).astype(np.int32)
    elif kinds.ndim == 2 and kinds.shape[1] == 4 and np.isin(kinds, (0, 1)).all() and (kinds.sum(1) == 1).all():
        codes = np.array(_COLUMNS, np.int32)[kinds.argmax(1)]
    else:
        return none
    rows = np.column_stack([ends.T, codes]).astype(np.int32)
    assert set(codes.tolist()) <= BOND_TYPES.keys()  # noqa: S101
    return np.unique(rows[rows[:, 0] < rows[:, 1]], axis=0)


def _numpy(tensor: Any) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()
