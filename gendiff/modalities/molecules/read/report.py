"""What a reading found, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.wording import many

Fragments = Literal["largest", "keep", "refuse"]
"""What to do with a record of several fragments."""

METALS = [3, 4, 11, 12, 13, *range(19, 32), *range(37, 51), *range(55, 85), *range(87, 119)]
"""Atomic numbers."""


@dataclass
class ReadReport:
    """What was read: :meth:`lines` for people, :meth:`to_json` for programs. Numbers count molecules that were kept.

    Attributes:
        policy: What was done with records of several fragments.
        files: Of each file its path, bytes, sha256, records and records kept.
        records: Records met, usable or not.
        kept: Molecules read.
        skipped: Records left out, by kind of reason.
        examples: File, number and detail of the first record left out, by kind of reason.
        embedded: Molecules whose 3-D coordinates were made here.
        duplicates: Molecules whose SMILES without stereochemistry occurred before; None if no SMILES is known.
        fragments: Records that had several fragments.
        charged: Molecules with a net charge.
        zwitterions: Neutral molecules with charged atoms (nitro groups count).
        without_hydrogens: Molecules that lack hydrogens they should have.
        isotopes: Molecules with labelled isotopes, which are read as their elements.
        radicals: Molecules with unpaired electrons, by the bonds of the file.
        metals: Molecules with metal atoms.
        rejected: Molecules kept though RDKit rejects their chemistry.
        elements: Atoms by element symbol.
        heavy_atoms: Smallest, median and largest number of atoms other than hydrogen.
        atoms: The same of all atoms.
        ligands: Residues taken from PDB files, by name.
        aside: What lay beside them and was not taken: water, ions, atoms in a second location.
        orders_read: Ligands whose bond orders were read off their bond lengths.
        orders_unknown: Ligands whose bonds are kept as single ones, as no orders make sense.
        store: Whether the molecules are in the cache, or came from there; "" if neither.
    """

    policy: Fragments = "largest"
    files: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    embedded: int = 0
    duplicates: int | None = None
    fragments: int = 0
    charged: int = 0
    zwitterions: int = 0
    without_hydrogens: int = 0
    isotopes: int = 0
    radicals: int = 0
    metals: int = 0
    rejected: int = 0
    elements: Counter[str] = field(default_factory=Counter)
    heavy_atoms: tuple[int, float, int] = (0, 0, 0)
    atoms: tuple[int, float, int] = (0, 0, 0)
    ligands: Counter[str] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)
    orders_read: int = 0
    orders_unknown: int = 0
    store: str = ""

    def lines(self) -> list[str]:
        """A line of numbers and, if need be, lines on what was made up or left out."""
        where = Path(self.files[0]["path"]).name if len(self.files) == 1 else f"{len(self.files):,} files"
        # carbon first, hydrogen last, the others by frequency
        symbols = sorted(self.elements, key=lambda symbol: (symbol != "C", symbol == "H", -self.elements[symbol]))
        low, median, high = self.heavy_atoms
        policy = {"largest": "largest fragment kept", "keep": "kept whole", "refuse": "refused"}[self.policy]
        facts = [
            f"read {many(self.kept, 'molecule')} from {where}: {' '.join(symbols)}",
            f"{low}-{high} heavy atoms (median {median:g})" if high > low else f"{low} heavy atoms",
            "duplicates unknown (no SMILES)" if self.duplicates is None else many(self.duplicates, "duplicate"),
            many(self.fragments, "salt") + (f" or mixtures ({policy})" if self.fragments else ""),
            f"{self.charged:,} charged",
        ]
        lines = ["; ".join(facts)]
        if self.embedded:
            lines.append(f"made 3-D coordinates for {many(self.embedded, 'molecule')} without any (ETKDGv3, MMFF94s)")
        if self.without_hydrogens:
            lines.append(f"{many(self.without_hydrogens, 'molecule')} without (all) hydrogens")
        if self.isotopes:
            lines.append(f"{many(self.isotopes, 'molecule')} with isotopes, read as their elements")
        odd = [many(self.radicals, "radical")] * bool(self.radicals)
        odd += [f"{many(self.metals, 'molecule')} with metals"] * bool(self.metals)
        if odd:
            lines.append("; ".join(odd))
        if self.ligands:
            aside = ", ".join(many(count, kind) for kind, count in self.aside.most_common() if count)
            names = ", ".join(f"{count:,} {name}" for name, count in self.ligands.most_common(8))
            rest = self.ligands.total() - sum(count for _, count in self.ligands.most_common(8))
            lines.append(
                f"residues of PDB files: {names}"
                + (f" and {rest:,} others" if rest else "")
                + (f"; not taken: {aside}" if aside else "")
            )
        if self.orders_read:
            lines.append(f"read the bond orders of {many(self.orders_read, 'ligand')} off the bond lengths")
        if self.orders_unknown:
            lines.append(f"{many(self.orders_unknown, 'ligand')} with unknown bond orders, kept as single bonds")
        if self.rejected:
            lines.append(f"{many(self.rejected, 'molecule')} kept though RDKit rejects the chemistry")
        if self.skipped:
            lines.append(f"left out {self.skipped.total():,} of {many(self.records, 'record')}: {self.reasons()}")
        return lines + [self.store] * bool(self.store)

    def reasons(self) -> str:
        """Why records were left out, the five most frequent reasons first; "" if none was."""
        return "; ".join(
            f"{kind} {count:,} (first: {self.examples[kind]})" for kind, count in self.skipped.most_common(5)
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        return asdict(self) | {
            "skipped": dict(self.skipped.most_common()),
            "elements": dict(self.elements.most_common()),
            "heavy_atoms": list(self.heavy_atoms),
            "atoms": list(self.atoms),
            "ligands": dict(self.ligands.most_common()),
            "aside": dict(self.aside.most_common()),
        }

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> ReadReport:
        """The report whose :meth:`to_json` this is."""
        counters = ("skipped", "elements", "ligands", "aside")
        tuples = ("heavy_atoms", "atoms")
        return cls(
            **facts | {name: Counter(facts[name]) for name in counters} | {name: tuple(facts[name]) for name in tuples}
        )


class Tally:
    """What follows from the molecules themselves, counted a part at a time. SMILES are remembered as 64-bit hashes."""

    def __init__(self) -> None:
        self.elements = np.zeros(119, np.int64)
        self.heavy: Counter[int] = Counter()
        self.atoms: Counter[int] = Counter()
        self.charged = self.zwitterions = self.metals = 0
        self.hashes: list[NDArray[np.uint64]] = []

    def add(self, arrays: MoleculeArrays) -> None:
        """Count some more molecules."""
        self.elements += np.bincount(arrays.atomic_numbers, minlength=119)
        self.heavy.update(arrays.num_heavy.tolist())
        self.atoms.update(arrays.num_atoms.tolist())
        self.charged += int((arrays.total_charge != 0).sum())
        self.metals += len(np.unique(arrays.molecule_of_atom[np.isin(arrays.atomic_numbers, METALS)]))
        charged_atom = np.unique(arrays.molecule_of_atom[arrays.charges != 0])
        self.zwitterions += int((arrays.total_charge[charged_atom] == 0).sum())
        known = [blake2b(smiles.encode(), digest_size=8).digest() for smiles in arrays.smiles or [] if smiles]
        self.hashes.append(np.frombuffer(b"".join(known), np.uint64))

    def finish(self, report: ReadReport) -> None:
        """Write the sums into a report."""
        symbol = Chem.GetPeriodicTable().GetElementSymbol
        report.kept = self.atoms.total()
        report.elements = Counter({symbol(int(n)): int(self.elements[n]) for n in np.flatnonzero(self.elements)})
        report.heavy_atoms, report.atoms = _range(self.heavy), _range(self.atoms)
        report.charged, report.zwitterions, report.metals = self.charged, self.zwitterions, self.metals
        known = np.concatenate(self.hashes)
        report.duplicates = len(known) - len(np.unique(known)) if len(known) else None


def _range(counts: Counter[int]) -> tuple[int, float, int]:
    values = np.repeat(*map(np.array, zip(*sorted(counts.items()), strict=True)))
    return int(values[0]), float(np.median(values)), int(values[-1])
