r"""How good are generated molecules? One protocol for what was generated and for the reference it is held against.

Bonds are always read off the coordinates by the rule that is named (:mod:`gendiff.modalities.molecules.bonds`), for
generated and reference molecules alike, whatever bonds a file states. Nothing is repaired or filtered first; hydrogens
that RDKit adds are relaxed before strain is measured, and no other atom is moved.
:data:`METRICS` says what each number means. The reference's own number is what the procedure gives on real molecules;
no model can be expected to do better. Protocols of the field may be asked for besides, each number under the name of
its own (:mod:`gendiff.modalities.molecules.metrics.protocols`).

The interval of a number comes from resampling molecules. Numbers that count *different* molecules (uniqueness and
what contains it) give each of m equal molecules the weight 1/m and resample these weights: drawing with replacement
would itself make duplicates.

Distances are between what the molecules hold together: :math:`p_k \propto \sum_i c_{ik}`, where molecule i adds
:math:`c_{ik}` to bin k of a histogram (its size, its atoms by element, its rings by size, its bonds by length). The
reference's own distance is that between two parts of it, drawn at random: as many molecules as were generated (at
most half of it) against the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import rdkit

from gendiff import __version__
from gendiff.metrics import Metric, Table, Value, bootstrap, share
from gendiff.modalities.molecules.bonds import Hydrogens, Rule
from gendiff.modalities.molecules.metrics import asked, protocols
from gendiff.modalities.molecules.metrics.content import distances_between, split_content
from gendiff.modalities.molecules.metrics.drawn import COST, Drawn, Meter, draw_bonds, modelled, same_molecules
from gendiff.modalities.molecules.metrics.edm import copies_shared, stability
from gendiff.modalities.molecules.metrics.judge import Verdict, judge, strain_energy
from gendiff.modalities.molecules.metrics.protocols import PROTOCOLS
from gendiff.modalities.molecules.metrics.rows import METRICS, RULES
from gendiff.modalities.molecules.records import MoleculeArrays

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Suite",
    "Table",
    "Verdict",
    "evaluate",
    "judge",
    "smiles_set",
    "stability",
    "strain_energy",
]


def smiles_set(molecules: MoleculeArrays, rule: Rule = "kekule", hydrogens: Hydrogens = "explicit") -> set[str]:
    """Return the SMILES by which molecules are known, to look up what is new.

    Arguments:
        molecules: The molecules; their hydrogens are left out if implicit.
        rule: How bonds are read off coordinates.
        hydrogens: "explicit" or "implicit".

    Returns:
        The canonical SMILES of those that the rule makes valid molecules of, and those that the records state.
    """
    return _known(draw_bonds(modelled(molecules, hydrogens), rule, hydrogens))


def _known(taught: Drawn) -> set[str]:
    return {*taught.smiles, *(taught.molecules.smiles or ())} - {""}


class Suite:
    """The metrics, with the bonds of real molecules drawn once, for any number of generated sets.

    Arguments:
        reference: Real molecules, for example the training set or a part that was held out.
        training: What the model was trained on, against which novelty is judged; the reference if None.
        rule: How bonds are read off coordinates: "kekule", "lookup" or "rdkit".
        hydrogens: "explicit" (all atoms are modelled) or "implicit" (heavy atoms only; hydrogens are left out).
        protocol: Protocols of the field whose rows to add, each under its name: words of :data:`PROTOCOLS`, also in one
            text with commas. "edm": stability, validity of largest fragments and V×U as EDM computes them. "rdkit":
            bonds and charges by RDKit, valences of Nikitin et al. (2025). "posebusters": its checks without energies,
            of at most 1,000 molecules; "posebusters-energy": all of them, of at most 100. "geometry": distances of bond
            angles and torsions.
        strain: Whether to relax molecules with MMFF94s, the slow part (milliseconds per molecule).
        max_strain: Relax at most so many molecules of each set, drawn at random.
        seed: Seed of the bootstrap and of what is drawn at random.
        meter: Told of the work done on reference and training set.

    Raises:
        UserError: for the RDKit rule with implicit hydrogens, or a protocol that there is not or that needs hydrogens.
    """

    def __init__(
        self,
        reference: MoleculeArrays,
        *,
        training: MoleculeArrays | None = None,
        rule: Rule = "kekule",
        hydrogens: Hydrogens = "explicit",
        protocol: str | Sequence[str] = (),
        strain: bool = True,
        max_strain: int = 1000,
        seed: int = 0,
        meter: Meter | None = None,
    ) -> None:
        self.protocols = protocols.chosen(protocol, hydrogens)
        self.rule, self.hydrogens, self.seed = rule, hydrogens, seed
        self.strain, self.max_strain = strain, max_strain * strain
        self.old = self._draw(reference, self.max_strain, meter)
        self.taught = self.old if training is None else self._draw(training, 0, meter, self.old)
        self.known = _known(self.taught)

    def _draw(
        self,
        molecules: MoleculeArrays,
        strain: int,
        meter: Meter | None,
        before: Drawn | None = None,
        wanted: Sequence[str] = (),
    ) -> Drawn:
        """Draw the bonds of modelled atoms, unless the set before is the same and nothing more is wanted of it."""
        atoms = modelled(molecules, self.hydrogens)
        if before and not wanted and same_molecules(before.molecules, atoms):
            return before
        return draw_bonds(atoms, self.rule, self.hydrogens, strain, self.seed, meter, wanted)

    def evaluate(self, generated: MoleculeArrays, *, n_resamples: int = 1000, meter: Meter | None = None) -> Table:
        """Return the table of one generated set.

        Arguments:
            generated: The molecules; bonds that they state are ignored.
            n_resamples: Bootstrap resamples.
            meter: Told of the work done.

        Returns:
            The table. Stability is there with explicit hydrogens only; a number that does not apply is None (the
            novelty of the training set, distances without molecules, …).
        """
        meter = meter or Meter(None, 0)
        options = {"n_resamples": n_resamples, "seed": self.seed}
        names = asked.wanted(generated)
        old, new = self.old, self._draw(generated, self.max_strain, meter, self.old, names)
        part, rest = split_content(old.content, new.content.n, self.seed)
        left = _scores(new, self.known, self.hydrogens, options) | distances_between(new.content, old.content, options)
        right = _scores(old, self.known, self.hydrogens, options) | distances_between(part, rest, options)
        if old is self.taught:
            right |= {"novelty": None, "valid_unique_new": None}
        if not self.strain:
            left = {name: value for name, value in left.items() if not name.startswith("strain")}
        more, notes = protocols.rows(self.protocols, new, old, self.rule, self.hydrogens, options, meter.advance)
        meter.advance(meter.total)
        rows = [
            Metric(name, row[0], left[name], right[name], *row[1:]) for name, row in METRICS.items() if name in left
        ]
        rows += [*asked.rows(new.molecules, names, new.found, options), *more]
        facts = _facts(new, old, self.taught, self.rule, self.hydrogens, self.max_strain, options)
        return Table(rows, facts | notes, "Generated molecules beside the reference")


def evaluate(
    generated: MoleculeArrays,
    reference: MoleculeArrays,
    *,
    training: MoleculeArrays | None = None,
    rule: Rule = "kekule",
    hydrogens: Hydrogens = "explicit",
    protocol: str | Sequence[str] = (),
    strain: bool = True,
    max_strain: int = 1000,
    seed: int = 0,
    n_resamples: int = 1000,
    progress: Callable[[float], None] | None = None,
) -> Table:
    """Measure generated molecules, and a reference by the same procedure; the first lines of this module say how.

    `progress` is called with the fraction done, 0 to 1, now and then; the other arguments are those of :class:`Suite`
    and of its method.
    """
    sets = [generated, reference, reference if training is None else training]
    total = sum(map(len, sets)) + COST * sum(min(max_strain * strain, len(one)) for one in sets[:2])
    meter = Meter(progress, total + protocols.work(protocols.chosen(protocol, hydrogens), *map(len, sets[:2])))
    suite = Suite(
        reference,
        training=training,
        rule=rule,
        hydrogens=hydrogens,
        protocol=protocol,
        strain=strain,
        max_strain=max_strain,
        seed=seed,
        meter=meter,
    )
    return suite.evaluate(generated, n_resamples=n_resamples, meter=meter)


def _scores(drawn: Drawn, known: set[str], hydrogens: Hydrogens, options: dict[str, Any]) -> dict[str, Value | None]:
    """The metrics that need one set of molecules."""
    valid = drawn.valid
    weight = copies_shared([smiles if good else "" for smiles, good in zip(drawn.smiles, valid, strict=True)])
    new = np.array([smiles not in known for smiles in drawn.smiles], bool)
    scores = {
        "validity": share(valid, **options),
        "valid_connected": share(valid & drawn.connected, **options),
        "uniqueness": share(weight[valid], **options),
        "novelty": share(new[valid], **options),
        "valid_unique": share(weight, **options),
        "valid_unique_new": share(weight * new, **options),
    }
    if hydrogens == "explicit":
        scores["atom_stability"], scores["molecule_stability"] = stability(drawn.molecules, **options)
    strain, atoms = np.array(drawn.strains, np.float64).reshape(-1, 2).T
    return scores | {
        "strain": bootstrap(strain, np.median, **options),
        "strain_low": bootstrap(strain, partial(np.quantile, q=0.25), **options),
        "strain_high": bootstrap(strain, partial(np.quantile, q=0.75), **options),
        "strain_per_atom": bootstrap(strain / atoms, np.median, **options),
    }


def _facts(
    new: Drawn,
    old: Drawn,
    taught: Drawn,
    rule: Rule,
    hydrogens: Hydrogens,
    max_strain: int,
    options: dict[str, Any],
) -> dict[str, str]:
    """What the numbers rest on, in words."""
    facts = {
        "generated": _count(new),
        "reference": _count(old),
        "training": "the reference" if taught is old else _count(taught),
        "bonds": f"{RULES[rule, hydrogens]}; nothing is repaired",
    }
    faults = Counter(_kind(verdict["reason"]) for verdict in new.verdicts if not verdict["valid"])
    if faults:
        facts["not valid"] = f"{faults.total():,} generated: {_most(faults)}"
    if max_strain:
        first = "" if hydrogens == "explicit" else ", hydrogens relaxed before"
        facts["strain"] = f"MMFF94s{first}, up to {max_strain:,} valid molecules of each, at random"
        for name, drawn in (("generated", new), ("reference", old)):
            without = f" (without {_most(drawn.unstrained)})" if drawn.unstrained else ""
            facts["strain"] += f"; {len(drawn.strains):,} {name}{without}"
    facts["intervals"] = f"95 %, {options['n_resamples']:,} bootstrap resamples of molecules; seed {options['seed']}"
    facts["versions"] = f"gendiff {__version__}, RDKit {rdkit.__version__}"
    return facts


def _count(drawn: Drawn) -> str:
    return f"{len(drawn.molecules):,} molecules, {len(drawn.molecules.atomic_numbers):,} modelled atoms"


def _kind(reason: str) -> str:
    """A reason without the numbers of atoms, so that all molecules with one fault have the same."""
    reason = re.sub(r"Explicit valence for atom # \d+ (\w+), (\d+).*", r"\1 with \2 bonds", reason)
    return re.sub(r"( #|:)( ?\d+)+| \d+ and \d+", "", reason)


def _most(counts: Counter[str]) -> str:
    """The three most frequent kinds, with how often each occurs."""
    kinds = [f"{count:,} × {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return "; ".join(kinds[:3] + ["…"] * (len(kinds) > 3))
