"""What each number of the table means."""

from __future__ import annotations

from typing import Literal

LARGEST_RING = 12
"""Larger rings count as this size."""

RULES = {
    ("kekule", "explicit"): "from the coordinates of all atoms: neighbours by lengths, orders by valences",
    ("kekule", "implicit"): "from the coordinates of heavy atoms by lengths, then valences; hydrogens by RDKit",
    ("lookup", "explicit"): "from the coordinates of all atoms by EDM's table of lengths",
    ("lookup", "implicit"): "from the coordinates of heavy atoms by lengths, then valences; hydrogens by RDKit",
    ("rdkit", "explicit"): "from the coordinates of all atoms by RDKit's DetermineBonds",
}

Row = tuple[str, str, Literal["higher", "lower"] | None, str]
METRICS: dict[str, Row] = {
    "atom_stability": (
        "stable atoms",
        "%",
        "higher",
        "Atoms whose bond orders by EDM's table add up to an allowed valence of their element. The rule knows no "
        "formal charges, so ions in the reference count as unstable.",
    ),
    "molecule_stability": ("stable molecules", "%", "higher", "Molecules all of whose atoms are stable in this sense."),
    "validity": (
        "valid",
        "%",
        "higher",
        "Molecules without overlapping atoms that RDKit sanitises whole, with the bonds as drawn.",
    ),
    "valid_connected": ("valid and connected", "%", "higher", "Molecules that are valid and one single fragment."),
    "uniqueness": (
        "unique, of the valid",
        "%",
        "higher",
        "Different SMILES (canonical, without stereochemistry) per valid molecule. Falls as more are drawn.",
    ),
    "novelty": (
        "new, of the valid",
        "%",
        None,
        "Valid molecules whose SMILES is not among those of the training molecules, neither as the same rule reads "
        "them off the coordinates nor as the file states them. Neither high nor low is good in itself.",
    ),
    "valid_unique": ("valid and unique", "%", "higher", "Different valid SMILES per molecule (V×U)."),
    "valid_unique_new": (
        "valid, unique and new",
        "%",
        "higher",
        "Different valid SMILES that are not among the training molecules', per molecule (V×U×N).",
    ),
    "size_variation": (
        "sizes: total variation",
        "",
        "lower",
        "Between the distributions of the number of modelled atoms; 0 equal, 1 disjoint.",
    ),
    "size_distance": ("sizes: Wasserstein", "atoms", "lower", "Between the same distributions."),
    "element_variation": (
        "elements: total variation",
        "",
        "lower",
        "Between the distributions of elements over modelled atoms; 0 equal, 1 disjoint.",
    ),
    "ring_variation": (
        "ring sizes: total variation",
        "",
        "lower",
        "Between the distributions of ring sizes in valid molecules (smallest set of smallest rings; "
        f"{LARGEST_RING} stands for all larger); 0 equal, 1 disjoint.",
    ),
    "bond_length_distance": (
        "bond lengths: Wasserstein",
        "Å",
        "lower",
        "Between bond lengths, averaged over the kinds of bonds (elements and order) that both sets have, weighted by "
        "how frequent they are in the reference. Lengths are rounded to 0.001 Å.",
    ),
    "strain": (
        "strain: median",
        "kcal/mol",
        "lower",
        "MMFF94s energy of a valid molecule as drawn minus that of the minimum it relaxes to, per molecule. Where "
        "hydrogens are not modelled, RDKit adds them and MMFF94s relaxes them first, those of the reference too. "
        "Radicals and molecules that MMFF94s has no parameters for are left out and counted.",
    ),
    "strain_low": ("strain: lower quartile", "kcal/mol", "lower", "A quarter of the molecules are strained less."),
    "strain_high": ("strain: upper quartile", "kcal/mol", "lower", "A quarter of the molecules are strained more."),
    "strain_per_atom": (
        "strain per atom: median",
        "kcal/mol",
        "lower",
        "The strain of a molecule divided by the number of its atoms, hydrogens included.",
    ),
}
"""The rows of :func:`evaluate`: title, unit, which direction is better, and what the number means, by name."""
