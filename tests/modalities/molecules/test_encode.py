"""Molecules to states and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

import examples
from gendiff.files import UserError
from gendiff.modalities.molecules.encode import from_state, to_ragged
from gendiff.modalities.molecules.records import MoleculeArrays

ELEMENTS, CHARGES = (1, 6, 7, 8, 9, 35), (-1, 0, 1)


@st.composite
def molecules(draw):
    """Arrays of a few molecules with known elements and charges, far from the origin."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    atoms = sum(sizes)
    return MoleculeArrays(
        np.array(sizes),
        rng.choice(ELEMENTS, atoms).astype(np.uint8),
        rng.normal(20, 3, (atoms, 3)).astype(np.float32),
        rng.choice(CHARGES, atoms).astype(np.int8),
    )


@settings(max_examples=50)
@given(molecules(), st.sampled_from([0.5, 1.0, 1.7]))
def test_round_trip(arrays, scale):
    samples = to_ragged(arrays, ELEMENTS, CHARGES, scale)
    batch = samples.batch(torch.arange(len(arrays)))
    decoded = from_state(batch.state, batch.mask, ELEMENTS, CHARGES, scale)
    for (numbers, positions, charges), molecule in zip(decoded, arrays, strict=True):
        np.testing.assert_array_equal(numbers, molecule.atomic_numbers)
        np.testing.assert_array_equal(charges, molecule.charges)
        centred = molecule.positions - molecule.positions.mean(0, dtype=np.float64)
        np.testing.assert_allclose(positions, centred, atol=1e-4)
        assert (numbers.dtype, positions.dtype, charges.dtype) == (np.uint8, np.float32, np.int8)


def test_fields_are_what_the_table_says():
    arrays = MoleculeArrays(
        np.array([2, 1]),
        np.array([6, 35, 1], np.uint8),
        np.array([[0, 0, 0], [0, 0, 3], [5, 5, 5]], np.float32),
        np.array([0, -1, 1], np.int8),
    )
    samples = to_ragged(arrays, [1, 6, 35], [-1, 0, 1], 1.5)
    assert samples.sizes.tolist() == [2, 1]
    assert samples.fields["position"].tolist() == [[0, 0, -1], [0, 0, 1], [0, 0, 0]]  # in units of 1.5 Å, centred
    assert samples.fields["element"].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert samples.fields["charge"].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert {field.dtype for field in samples.fields.values()} == {torch.float32}


def test_one_charge_makes_no_field():
    arrays = examples.arrays()
    samples = to_ragged(arrays, arrays.elements, [0], 1.0)
    assert set(samples.fields) == {"position", "element"}
    batch = samples.batch(torch.arange(3))
    assert all((charges == 0).all() for *_, charges in from_state(batch.state, batch.mask, arrays.elements, [0], 1.0))
    anions = from_state(batch.state, batch.mask, arrays.elements, [-1], 1.0)
    assert all((charges == -1).all() for *_, charges in anions)


def test_the_likeliest_category_wins_and_padding_is_left_out():
    state = {
        "position": torch.randn(2, 3, 3),
        "element": torch.tensor([[[0.2, 0.5, 0.3], [9.0, 1.0, 8.9], [0, 0, 0]], [[-3, -2, -1.0]] * 3]),
    }
    mask = torch.tensor([[True, True, False], [True, True, True]])
    first, second = from_state(state, mask, [1, 6, 8], [0], 2.0)
    assert first[0].tolist() == [6, 1]
    assert second[0].tolist() == [8, 8, 8]
    np.testing.assert_allclose(first[1], 2 * state["position"][0, :2].numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_state_of_any_precision_decodes(dtype):
    state = {"position": torch.ones(1, 2, 3, dtype=dtype), "element": torch.eye(2, dtype=dtype)[None]}
    ((numbers, positions, _),) = from_state(state, torch.ones(1, 2, dtype=torch.bool), [1, 6], [0], 1.0)
    assert numbers.tolist() == [1, 6]
    assert positions.dtype == np.float32


@pytest.mark.parametrize("elements", [[1, 6, 7, 8], [6, 7, 8, 9], [6, 7, 8], [1, 6, 7, 8, 35], [9]])
def test_an_element_the_model_does_not_know_is_one_line(elements):
    arrays = examples.arrays()
    missing = ~np.isin(arrays.atomic_numbers, elements)
    molecule = int(arrays.molecule_of_atom[missing][0]) + 1
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    found, first = symbol(int(arrays.atomic_numbers[missing][0])), symbol(elements[0])
    words = rf"^molecule {molecule} .*has element {found}; this model knows {first}[A-Za-z, ]*$"
    with pytest.raises(UserError, match=words):
        to_ragged(arrays, elements, [0], 1.0)


@pytest.mark.parametrize("charges", [[0], [0, 1], [-1, 0], [-1]])
def test_a_charge_the_model_does_not_know_is_one_line(charges):
    arrays = MoleculeArrays(
        np.array([1, 2]), np.full(3, 7, np.uint8), np.eye(3, dtype=np.float32), np.array([0, -1, 1], np.int8)
    )
    with pytest.raises(UserError, match=r"^molecule [12] .*has formal charge -?\d; this model knows"):
        to_ragged(arrays, [7], charges, 1.0)


def test_an_unknown_atom_names_its_molecule():
    arrays = MoleculeArrays(
        np.array([2, 1]), np.array([6, 6, 17], np.uint8), np.zeros((3, 3), np.float32), names=["ethane", "chloride"]
    )
    with pytest.raises(UserError, match=r"molecule 2 \(chloride\) has element Cl"):
        to_ragged(arrays, [6], [0], 1.0)
