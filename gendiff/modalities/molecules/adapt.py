"""Models of molecules that go on with other molecules: which words both know, and where the weights have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gendiff.modalities.molecules.properties import column, standards
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.nn.equivariant import EquivariantTransformer
from gendiff.sizes import PropertySizes

if TYPE_CHECKING:
    from gendiff.modalities.molecules.modality import Molecules


def refit(parent: Molecules, records: MoleculeArrays, conditions: Sequence[str], options: dict[str, Any]) -> Molecules:
    """Return the adapter of other molecules: the parent's units, and its elements and charges beside the new ones.

    Arguments:
        parent: The adapter of the model that is adapted.
        records: The molecules.
        conditions: Properties to ask for; by default those of the parent that the molecules have. Those that the parent
            knows stay in its standard deviations.
        options: As :meth:`Molecules.fit`.

    Raises:
        UserError: as there.
    """
    from gendiff.modalities.molecules.modality import _condition, modelled_atoms

    fitted = parent.fit(records, conditions=[name for name in conditions if name not in parent.conditions], **options)
    modelled = modelled_atoms(records, parent.hydrogens)
    known = [name for name in conditions if name in parent.conditions]
    standards(modelled, known)  # refuses what the molecules do not have
    if not conditions:
        columns = {name: column(modelled, name) for name in parent.conditions}
        known = [name for name, values in columns.items() if values is not None and np.isfinite(values).any()]
    fitted.conditions = dict(sorted((fitted.conditions | {name: parent.conditions[name] for name in known}).items()))
    values = _condition(modelled, fitted.conditions)
    fitted.property_sizes = PropertySizes.fit(torch.from_numpy(modelled.num_atoms), values) if values else None
    fitted.position_scale, fitted.element_scale = parent.position_scale, parent.element_scale
    laws = dict(fitted.frequencies)
    for field, name in (("element", "elements"), ("charge", "charges")):
        mine: list[int] = getattr(fitted, name)
        law = dict(zip(mine, laws.get(field, [1.0]), strict=False))
        setattr(fitted, name, both := sorted({*getattr(parent, name), *mine}))
        laws[field] = [law.get(word, 0.0) for word in both]
    if fitted.frequencies:
        fitted.frequencies = {field: laws[field] for field in fitted.categories}
    return fitted


def axes(network: Any, words: Mapping[str, Sequence[int]], fields: Sequence[str]) -> dict[str, tuple[int, list[Any]]]:
    """Return what the first and last layers mean, as :meth:`gendiff.modality.Modality.axes`.

    Arguments:
        network: One of those of :mod:`gendiff.modalities.molecules.networks`.
        words: By field what its channels stand for.
        fields: Names of all fields in the order of their noise levels.
    """
    scalars = [(name, word) for name in network.features for word in words[name]]
    inputs = scalars + [("previous", *channel) for channel in scalars] * network.self_condition
    levels: list[Any] = [("level", name, k) for name in fields for k in range(network.level_features or 1)]
    if isinstance(network, EquivariantTransformer):
        found = {"embedding.weight": (1, [*inputs, "bias"]), "level.0.weight": (1, levels)}
    else:
        found = {"embedding.weight": (1, inputs + levels), "told.0.weight": (1, levels)}
    last: nn.Linear = network.output
    outputs = [*scalars, *(("level", name) for name in fields)][: last.out_features]  # EGNN puts out the levels, too
    return found | {"output.weight": (0, outputs), "output.bias": (0, outputs)}
