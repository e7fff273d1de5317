r"""Molecules to states and back.

A molecule of n atoms is the fields

==========  ========  ==========================================================================
field       shape     content
==========  ========  ==========================================================================
position    (n, 3)    coordinates in units of `position_scale` Å, zero centre of mass
element     (n, K)    one-hot over the K elements of the training data
charge      (n, C)    one-hot over its formal charges; only if there is more than one
==========  ========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from torch import Tensor

from gendiff.data import Ragged
from gendiff.files import UserError
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.ops import State


def to_ragged(
    arrays: MoleculeArrays,
    elements: Sequence[int],
    charges: Sequence[int],
    position_scale: float,
    net: bool = False,
) -> Ragged:
    """Return molecules as training data.

    Arguments:
        arrays: The atoms to model, without hydrogens if those are implicit.
        elements: Atomic numbers the model knows, ascending.
        charges: Formal charges the model knows, ascending.
        position_scale: Å per unit of position.
        net: Only the charge of a whole molecule counts.

    Raises:
        UserError: if a molecule has an element or a formal charge that the model does not know.
    """
    check_known(arrays, elements, charges, net)
    centred = arrays.centred()
    fields = {
        "position": torch.from_numpy(centred.positions).float() / position_scale,
        "element": _one_hot(arrays.atomic_numbers, elements),
    }
    if len(charges) > 1:
        fields["charge"] = _one_hot(arrays.charges, charges)
    return Ragged(torch.from_numpy(arrays.num_atoms.astype(np.int64)), fields)


def from_state(
    state: State, mask: Tensor, elements: Sequence[int], charges: Sequence[int], position_scale: float
) -> list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int8]]]:
    """Return (atomic numbers, positions in Å, formal charges) of every sample: the likeliest category of each atom."""
    real = mask.cpu().numpy()
    position = state["position"].float().cpu().numpy() * position_scale
    number = np.asarray(elements, np.uint8)[state["element"].float().cpu().numpy().argmax(-1)]
    charge = np.full(real.shape, charges[0], np.int8)
    if "charge" in state:
        charge = np.asarray(charges, np.int8)[state["charge"].float().cpu().numpy().argmax(-1)]
    return [(number[i][m], position[i][m], charge[i][m]) for i, m in enumerate(real)]


def check_known(
    arrays: MoleculeArrays, elements: Sequence[int], charges: Sequence[int], net: bool = False, before: int = 0
) -> None:
    """Check that a model knows all elements and charges; `before` molecules came earlier in the set.

    With `net` only the charge of a whole molecule counts.

    Raises:
        UserError: if it does not, naming the first molecule.
    """
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    for what, values, known, word in (
        ("element", arrays.atomic_numbers, elements, symbol),
        ("formal charge", arrays.total_charge[arrays.molecule_of_atom] if net else arrays.charges, charges, str),
    ):
        unknown = np.flatnonzero(~np.isin(values, known))
        if len(unknown):
            row = int(arrays.molecule_of_atom[unknown[0]])
            which = f"molecule {before + row + 1:,}" + (f" ({arrays.names[row]})" if arrays.names[row] else "")
            value = word(int(values[unknown[0]]))
            raise UserError(f"{which} has {what} {value}; this model knows {', '.join(map(word, sorted(known)))}")


def _one_hot(values: NDArray[np.integer], known: Sequence[int]) -> Tensor:
    place = np.searchsorted(np.asarray(sorted(known)), values)
    return torch.nn.functional.one_hot(torch.from_numpy(place.astype(np.int64)), len(known)).float()
