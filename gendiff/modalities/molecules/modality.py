"""The molecule adapter: read this file first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.data import Lazy, Ragged
from gendiff.denoise import Denoiser
from gendiff.files import UserError, ending
from gendiff.modalities.molecules import adapt, draw, edit, metrics, read, write
from gendiff.modalities.molecules.encode import check_known, from_state, to_ragged
from gendiff.modalities.molecules.formulas import tally
from gendiff.modalities.molecules.hydrogens import infer_relaxed
from gendiff.modalities.molecules.networks import CHIRAL, NETWORKS, build_network
from gendiff.modalities.molecules.properties import column, standards
from gendiff.modalities.molecules.recipes import ATOM_TYPES, COUPLINGS, TARGETS, TIMES, Recipe
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.modalities.molecules.store import HeavyAtoms, StoredMolecules
from gendiff.modality import Modality, Option, Part
from gendiff.objective import Objective
from gendiff.ops import Random, State
from gendiff.process import JointProcess
from gendiff.sample import Sampler
from gendiff.sizes import PropertySizes, SizeModel

HYDROGENS, RULES = ("explicit", "implicit"), ("kekule", "lookup", "rdkit")

TARGET = (
    "what the network estimates of positions: residual (their move), data, flow (noise - data), v, or noise (EDM, the "
    "likelihood model, on its own schedule)"
)
ATOMS = (
    "how elements and charges are learned: cross-entropy (Gaussian noise, probabilities as estimates), squared-error "
    "(Gaussian noise, numbers as estimates), categorical (they jump, and are drawn), or given (elements are those of a "
    "training molecule's formula, and only the rest is drawn)"
)
COUPLING = "optimal transport inside a molecule: none, permute (its noise), or align (permute, then turn)"
SELF = "let the network see its last estimate, in half of the training and when sampling"
RULE = (
    "how bonds are read off coordinates: kekule (lengths and valences), lookup (EDM's table of lengths) or rdkit; of "
    "heavy atoms alone the first two are one"
)
LAW = "where in time training looks: power (u^1.5), uniform or logit-normal (default: power; uniform for target noise)"


class Molecules(Modality):
    """Molecules as elements and positions; bonds are inferred from what is drawn.

    Arguments:
        elements: Atomic numbers that are modelled, ascending.
        sizes: How many training molecules have each number of modelled atoms: the size model p(N).
        hydrogens: "explicit" models every atom; "implicit" models heavy atoms; RDKit adds the hydrogens to what was
            drawn, and they are relaxed (:mod:`gendiff.modalities.molecules.hydrogens`).
        charges: Formal charges that occur, ascending ([0]).
        position_scale: Standard deviation of the coordinates of the training data in Å; states are in its units.
        element_scale: Standard deviation of the one-hot elements of the training data.
        rule: How bonds are read off coordinates: "kekule" (lengths and valences), "lookup" (EDM's table of lengths) or
            "rdkit" (explicit hydrogens only); with implicit hydrogens the first two are the heavy-atom rule. See
            :mod:`gendiff.modalities.molecules.bonds`.
        conditions: Mean and standard deviation in the training data of each property that can be asked for.
        property_sizes: p(N | those properties); None if there are none.
        target: With the next four how it is learned, words of :mod:`gendiff.modalities.molecules.recipes`.
        atom_types: See there.
        coupling: See there.
        self_condition: See there.
        times: See there; None for the default of the target.
        frequencies: By field how often its categories occur; of atom types that are categorical.
        formulas: How many training molecules have each formula of modelled atoms; of atom types that are given.
    """

    name = "molecules"
    extensions = write.EXTENSIONS
    networks = NETWORKS + CHIRAL
    single = (".mol",)
    filters = ("valid", "connected", "stable", "new")
    limits = (
        "Meant for exploration: what it draws resembles its training data, biases included, and is not checked for "
        "safety, synthesis or activity.",
        "It knows only the elements, sizes and charges of its training data.",
        "The default network is blind to reflection and draws both mirror images alike.",
    )
    options = (
        Option(
            "hydrogens",
            "fit",
            "auto",
            "explicit (all atoms), implicit (heavy atoms; RDKit adds hydrogens), or auto by file type",
            ("auto", *HYDROGENS),
        ),
        Option("rule", "fit", "kekule", RULE, RULES),
        Option("target", "fit", "residual", TARGET, tuple(TARGETS)),
        Option("atom_types", "fit", "cross-entropy", ATOMS, ATOM_TYPES),
        Option("coupling", "fit", "none", COUPLING, tuple(COUPLINGS)),
        Option("self_condition", "fit", False, SELF, kind=bool),
        Option("times", "fit", None, LAW, tuple(TIMES)),
        Option(
            "fragments",
            "read",
            "largest",
            "of salts and mixtures: largest fragment, keep all, or refuse the record",
            ("largest", "keep", "refuse"),
        ),
        Option(
            "split", "read", None, "use only the part train or valid of .npz files that have one", ("train", "valid")
        ),
        Option(
            "smiles_column",
            "read",
            None,
            "name of the column of SMILES in .csv and .tsv files (default: smiles or the like)",
        ),
        Option(
            "hydrogens",
            "evaluate",
            "auto",
            "protocol: explicit or implicit (default: as the model that made the samples)",
            ("auto", *HYDROGENS),
        ),
        Option(
            "rule",
            "evaluate",
            "auto",
            f"{RULE}; auto: as the model that made the samples, else kekule",
            ("auto", *RULES),
        ),
        Option("no_strain", "evaluate", False, "leave out the MMFF strain, the slow part", kind=bool),
        Option(
            "protocol", "evaluate", "", f"rows of other protocols to add, with commas: {', '.join(metrics.PROTOCOLS)}"
        ),
    )
    tasks = edit.TASKS

    def __init__(
        self,
        elements: Sequence[int],
        sizes: Mapping[Any, int],
        hydrogens: str = "implicit",
        charges: Sequence[int] = (0,),
        position_scale: float = 1.5,
        element_scale: float = 0.4,
        rule: str = "kekule",
        conditions: Mapping[str, Sequence[float]] | None = None,
        property_sizes: PropertySizes | None = None,
        target: str = "residual",
        atom_types: str = "cross-entropy",
        coupling: str = "none",
        self_condition: bool = False,
        times: str | None = None,
        frequencies: Mapping[str, Sequence[float]] | None = None,
        formulas: Mapping[str, int] | None = None,
    ):
        if hydrogens not in HYDROGENS:
            raise ValueError(f"hydrogens must be one of {HYDROGENS}, got {hydrogens!r}")
        if rule not in RULES or (rule == "rdkit" and hydrogens == "implicit"):
            raise ValueError(f"rule must be one of {RULES}, 'rdkit' with explicit hydrogens only, got {rule!r}")
        self.elements, self.charges = sorted(int(z) for z in elements), sorted(int(q) for q in charges)
        if not self.elements or not self.charges or self.elements[0] < 1 or self.elements[-1] > 118:
            raise ValueError(
                f"elements must be atomic numbers 1 to 118 and charges not empty, got {self.elements}, {self.charges}"
            )
        if not position_scale > 0 or not element_scale > 0:
            raise ValueError(f"scales must be positive, got {position_scale} and {element_scale}")
        self.size_model = SizeModel(dict(sizes))
        self.sizes = self.size_model.counts
        self.hydrogens, self.rule = hydrogens, rule
        self.position_scale, self.element_scale = float(position_scale), float(element_scale)
        self.conditions = {name: [float(value) for value in pair] for name, pair in sorted((conditions or {}).items())}
        if any(len(pair) != 2 or not pair[1] > 0 for pair in self.conditions.values()):
            raise ValueError(f"conditions are mean and positive standard deviation by name, got {self.conditions}")
        self.property_sizes = property_sizes
        self.recipe = Recipe(target, atom_types, coupling, bool(self_condition), times)
        if reason := self.recipe.unfit():
            raise ValueError(reason)
        self.target, self.atom_types, self.coupling = target, atom_types, coupling
        self.self_condition, self.times = bool(self_condition), times
        self.frequencies = {name: [float(p) for p in law] for name, law in sorted((frequencies or {}).items())}
        if any(len(law) != self.categories.get(name) for name, law in self.frequencies.items()):
            raise ValueError(f"frequencies are one number a category of {self.categories}, got {self.frequencies}")
        self.formulas = {text: int(count) for text, count in (formulas or {}).items()}
        if (atom_types == "given") != bool(self.formulas):
            raise ValueError("formulas go with atom types that are given, which cannot be without them")

    @classmethod
    def read(
        cls, paths: Sequence[str | Path], on_error: str = "stop", **options: Any
    ) -> tuple[MoleculeArrays, read.ReadReport]:
        """Read files of molecules; formats and options as `gendiff.modalities.molecules.read.read_molecules`."""
        return read.read_molecules([Path(path) for path in paths], on_error=on_error, **options)  # type: ignore[arg-type]

    @classmethod
    def prepare(cls, loader: str, sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:  # noqa: D102
        from gendiff.modalities.molecules.prepare import LOADERS

        return LOADERS[loader](sources, folder) if loader in LOADERS else super().prepare(loader, sources, folder)

    @classmethod
    def fit(
        cls,
        records: MoleculeArrays,
        hydrogens: str = "auto",
        rule: str = "kekule",
        conditions: Sequence[str] = (),
        target: str = "residual",
        atom_types: str = "cross-entropy",
        coupling: str = "none",
        self_condition: bool = False,
        times: str | None = None,
        **_: Any,
    ) -> Molecules:
        """Return the adapter for these molecules.

        Arguments:
            records: The examples.
            hydrogens: "explicit", "implicit", or "auto": explicit for geometries without bonds (XYZ, NPZ of QM9) that
                have hydrogens, implicit for files of chemical structures (SDF, SMILES).
            rule: How bonds will be read off coordinates.
            conditions: Properties that will be asked for: numeric columns of the file, or logP, TPSA, QED, MW, which
                RDKit computes where the file has bonds and no such column.
            target: As the class says, like the next four.
            atom_types: As the class says.
            coupling: As the class says.
            self_condition: As the class says.
            times: As the class says.

        Raises:
            UserError: if explicit hydrogens are asked for and missing, nothing but hydrogen is there, a condition is no
                column or says nothing, or parts of the recipe do not go together, or with conditions.
        """
        if reason := Recipe(target, atom_types, coupling, self_condition, times).unfit():
            raise UserError(reason)
        if atom_types == "given" and conditions:
            raise UserError(
                "--atom-types given draws the formula before anything is asked for, and properties hang on it; leave"
                " --condition out, or learn the elements"
            )
        has_hydrogens = any((part.atomic_numbers == 1).any() for part in records.chunks())
        if hydrogens == "auto":
            hydrogens = "explicit" if has_hydrogens and not (records.num_bonds > 0).any() else "implicit"
        if rule == "rdkit" and hydrogens == "implicit":
            raise UserError(
                "bond rule 'rdkit' needs explicit hydrogens; add --hydrogens explicit, or use rule 'kekule'"
            )
        modelled = modelled_atoms(records, hydrogens)
        if not len(modelled):
            raise UserError("no molecule has a heavy atom; train with --hydrogens explicit")
        if hydrogens == "explicit" and not has_hydrogens:
            raise UserError("no molecule has hydrogens; train with --hydrogens implicit, or add them to the file")
        counts, charges, square = np.zeros(119, np.int64), np.zeros(256, np.int64), 0.0
        formulas: Counter[str] = Counter()
        for part in modelled.chunks():
            counts += np.bincount(part.atomic_numbers, minlength=119)
            charges += np.bincount(part.charges.astype(np.int64) + 128, minlength=256)
            square += float((part.centred().positions.astype(np.float64) ** 2).sum())
            if atom_types == "given":
                formulas += tally(part)
        share, charge_share = (each[each > 0] / each.sum() for each in (counts, charges))
        sizes, often = np.unique(modelled.num_atoms, return_counts=True)
        scales = standards(modelled, list(conditions))
        values = _condition(modelled, scales)
        frequencies = {"element": share.tolist()} | ({"charge": charge_share.tolist()} if len(charge_share) > 1 else {})
        return cls(
            elements=np.flatnonzero(counts).tolist(),
            sizes=dict(zip(sizes.tolist(), often.tolist(), strict=True)),
            hydrogens=hydrogens,
            charges=(np.flatnonzero(charges) - 128).tolist(),
            position_scale=round(max(math.sqrt(square / (3 * counts.sum())), 0.1), 6),
            element_scale=round(max(float(np.sqrt((share * (1 - share)).mean())), 0.05), 6),
            rule=rule,
            conditions=scales,
            property_sizes=PropertySizes.fit(torch.from_numpy(modelled.num_atoms), values) if values else None,
            target=target,
            atom_types=atom_types,
            coupling=coupling,
            self_condition=self_condition,
            times=times,
            frequencies=frequencies if atom_types == "categorical" else None,
            formulas=dict(sorted(formulas.items())),
        )

    @property
    def net(self) -> bool:
        """Whether charges of molecules count, not those of atoms: of a model of all atoms that knows no charges.

        It draws nitro groups as it does anything else.
        """
        return self.hydrogens == "explicit" and list(self.charges) == [0]

    def kept(self) -> dict[str, Any]:
        """Return what a network was made for; how bonds are read is no part of it."""
        names = ("hydrogens", "target", "atom_types", "coupling", "self_condition")
        return {name: getattr(self, name) for name in names}

    def refit(self, records: MoleculeArrays, conditions: Sequence[str] = (), **options: Any) -> Molecules:  # noqa: D102
        return adapt.refit(self, records, conditions, options)

    def axes(self, network: nn.Module) -> dict[str, tuple[int, list[Any]]]:  # noqa: D102
        words = {"element": self.elements, "charge": self.charges}
        return super().axes(network) | adapt.axes(network, words, list(dict(self.process().items())))

    def encode(self, records: MoleculeArrays | Sequence[Any]) -> Ragged:
        """Return the states of molecules, of arrays or of RDKit molecules with all of their hydrogens."""
        modelled = modelled_atoms(self.gather(records), self.hydrogens)
        condition = {name: value.float() for name, value in _condition(modelled, self.conditions).items()}
        if isinstance(modelled, MoleculeArrays) and not isinstance(modelled, StoredMolecules):
            return replace(self._gather(modelled), condition=condition)
        before = 0
        for part in modelled.chunks():
            check_known(part, self.elements, self.charges, self.net, before)
            before += len(part)
        sizes = torch.from_numpy(np.array(modelled.num_atoms, np.int64))
        return Lazy(sizes, lambda index: self._gather(modelled.select(index.numpy())), condition)

    def _gather(self, modelled: MoleculeArrays) -> Ragged:
        return to_ragged(modelled, self.elements, self.charges, self.position_scale, self.net)

    def unknown(self, records: MoleculeArrays) -> list[str]:  # noqa: D102
        reasons = np.full(len(records), "", object)
        seen = (records.atomic_numbers > 1) | (self.hydrogens == "explicit")
        for what, values, known in (
            ("element of atomic number", records.atomic_numbers, self.elements),
            ("formal charge", records.charges, self.charges),
        ):
            bad = np.flatnonzero(seen & ~np.isin(values, known))[::-1]  # the first of a molecule is written last
            words = np.array(
                [f"{what} {value}; this model knows {', '.join(map(str, known))}" for value in values[bad]]
            )
            reasons[records.molecule_of_atom[bad]] = words
        reasons[np.bincount(records.molecule_of_atom, seen, len(records)) == 0] = "no heavy atom"
        return reasons.tolist()

    def condition(self, wanted: Mapping[str, Any]) -> State:  # noqa: D102
        state = {}
        for name, value in wanted.items():
            if name not in self.conditions:
                if name == "class":
                    raise UserError("molecules have no classes to ask for; ask for properties with --condition")
                known = ", ".join(self.conditions)
                meant = next((other for other in self.conditions if other.lower() == name.lower()), "")
                way = f"did you mean {meant}?" if meant else f"train with --condition {name}"
                raise UserError(
                    f"{name!r} cannot be asked of this model, which was trained with {known or 'no condition'}; {way}"
                )
            try:
                numbers = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            except (TypeError, ValueError, RuntimeError):
                raise UserError(f"{name} must be a number, got {value!r}") from None
            if not len(numbers) or not numbers.isfinite().all():
                raise UserError(f"{name} must be a finite number, got {value!r}")
            mean, std = self.conditions[name]
            state[name] = ((numbers - mean) / std).float()
        return state

    def decode(self, state: State, mask: Tensor, condition: State | None = None) -> list[Any]:
        """Return RDKit molecules with 3-D coordinates; one that is not valid says why in its property "invalid"."""
        atoms = from_state(state, mask, self.elements, self.charges, self.position_scale)
        drawn = infer_relaxed(atoms, self.rule, self.hydrogens)  # type: ignore[arg-type]
        return [mol for mol, _ in drawn]

    def redraw(self, records: MoleculeArrays) -> list[Any]:  # noqa: D102
        parts = (part.split() for part in modelled_atoms(records, self.hydrogens).chunks())
        return [mol for part in parts for mol, _ in infer_relaxed(part, self.rule, self.hydrogens)]  # type: ignore[arg-type]

    @classmethod
    def read_parts(cls, paths: Sequence[str | Path], task: str) -> tuple[MoleculeArrays, Any]:  # noqa: D102
        return edit.read_parts(paths, task)

    def parts(  # noqa: D102
        self, records: Any, task: str, keep: Sequence[int] | None = None, side: float | None = None, **_: Any
    ) -> list[Part]:
        return edit.fragments(self, records, task, keep, side)

    @property
    def categories(self) -> dict[str, int]:
        """How many categories the fields besides positions have."""
        known = {"element": len(self.elements), "charge": len(self.charges)}
        return known if len(self.charges) > 1 else {"element": len(self.elements)}

    def process(self) -> JointProcess:  # noqa: D102
        uniform = {name: [1 / count] * count for name, count in self.categories.items()}
        return self.recipe.process(uniform | self.frequencies, self.elements, self.formulas)

    def network(self, preset: str = "small", kind: str | None = None) -> nn.Module:  # noqa: D102
        told = dict.fromkeys(self.conditions, "float")
        return build_network(kind, preset, self.categories, told, self.self_condition)

    def denoiser(self, preset: str = "small", network: str | None = None) -> Denoiser:
        """Return the denoiser of the recipe, by default of the move of positions and of probabilities of elements."""
        return self.recipe.denoiser(self.network(preset, network), self.process(), self.element_scale)

    def objective(self) -> Objective:
        """Return the loss of the recipe, by default that of flow matching with a bound on its weight."""
        return self.recipe.objective()

    def sampler(self) -> Sampler:
        """Return the sampler of the recipe: 100 ancestral steps, or steps of the flow where noise is coupled."""
        return self.recipe.sampler()

    def draw_sizes(  # noqa: D102
        self, random: Random, low: int | None = None, high: int | None = None, condition: State | None = None
    ) -> Tensor:
        if condition and self.property_sizes is not None:
            return self.property_sizes.sample(random, condition, low, high)
        return self.size_model.sample(random, low, high)

    def log_size(self, sizes: Tensor) -> Tensor:  # noqa: D102
        return self.size_model.log_prob(sizes).double()

    def log_volume(self, sizes: Tensor) -> Tensor:
        """Return (N - 1) 3 log(position_scale), for densities in Å on centred coordinates."""
        return (sizes.double() - 1) * 3 * math.log(self.position_scale)

    def protocol(self) -> dict[str, Any]:  # noqa: D102
        return {"hydrogens": self.hydrogens, "rule": self.rule}

    def labels(self, records: MoleculeArrays) -> list[str]:
        """Return the SMILES of each molecule, or its name."""
        smiles = records.smiles or [""] * len(records)
        return [text or name for text, name in zip(smiles, records.names, strict=True)]

    def annotate(self, records: list[Any], **facts: Any) -> None:
        """Note SMILES, QED, logP, molecular weight, validity and origin as properties of each molecule."""
        first = facts.pop("index", 0)
        for i, mol in enumerate(records):
            write.annotate(mol, index=first + i, **facts)

    def keep(self, records: list[Any], wanted: Sequence[str], known: set[str]) -> list[bool]:
        """Return which molecules are all of "valid", "connected", "stable" and "new" that are wanted.

        A stable molecule is valid and no atom of it has a free valence: it is no radical.

        Raises:
            UserError: for another word.
        """
        self.check_filters(wanted)
        kept = []
        for mol, verdict in zip(records, metrics.judge(records), strict=True):
            new = verdict["smiles"] not in known
            facts = {"valid": verdict["valid"], "connected": verdict["connected"], "new": new}
            if "stable" in wanted:
                facts["stable"] = not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
            kept.append(all(facts[word] for word in wanted) and (verdict["valid"] or not wanted))
        return kept

    def known(self, records: MoleculeArrays) -> set[str]:
        """Return the SMILES of examples: those the bond rule reads off them, and those the file states."""
        found = {smiles for smiles in records.smiles or [] if smiles}
        for part in modelled_atoms(records, self.hydrogens).chunks():
            found |= metrics.smiles_set(part, self.rule, self.hydrogens)  # type: ignore[arg-type]
        return found

    def write(self, records: list[Any], path: str | Path) -> int:  # noqa: D102
        return write.write_molecules(records, Path(path))

    @classmethod
    def write_examples(cls, records: MoleculeArrays, path: str | Path) -> None:  # noqa: D102
        if ending(path) == ".npz":
            records.save_npz(path)
        else:
            write.write_molecules(records.to_mols(), Path(path))

    @classmethod
    def read_samples(cls, paths: Sequence[str | Path], on_error: str = "stop") -> tuple[MoleculeArrays, Any]:  # noqa: D102
        return cls.read(paths, on_error, strict=False, embed=False, fragments="keep")

    @classmethod
    def gather(cls, records: MoleculeArrays | Sequence[Any]) -> MoleculeArrays:  # noqa: D102
        return records if isinstance(records, MoleculeArrays) else MoleculeArrays.from_mols(records)

    @classmethod
    def evaluate(
        cls,
        generated: MoleculeArrays,
        reference: MoleculeArrays,
        hydrogens: str = "auto",
        rule: str = "auto",
        no_strain: bool = False,
        **options: Any,
    ) -> metrics.Table:
        """Return the metrics of `gendiff.modalities.molecules.metrics`.

        Hydrogens "auto" are as in the reference, the rule "auto" is "kekule".
        """
        options |= {"hydrogens": cls.fit(reference).hydrogens if hydrogens == "auto" else hydrogens}
        options |= {"rule": "kekule" if rule == "auto" else rule}
        return metrics.evaluate(generated, reference, **{"strain": not no_strain, **options})

    def draw(self, records: list[Any], path: str | Path, **options: Any) -> None:  # noqa: D102
        draw.grid_png(records, Path(path), **options)

    def picture(self, record: Any) -> tuple[str, str, str]:  # noqa: D102
        facts = record.GetPropsAsDict()
        if not write.is_valid(record):
            return draw.ball_and_stick_svg(record), str(facts.get("reason", "")), "invalid"
        caption = f"{facts.get('SMILES', '')} · QED {facts.get('QED', '?')}, logP {facts.get('logP', '?')}"
        return draw.svg(record), caption, "" if str(facts.get("connected", "true")).lower() == "true" else "in pieces"


def modelled_atoms(records: MoleculeArrays, hydrogens: str) -> MoleculeArrays | HeavyAtoms:
    """Return the atoms that a model sees: all, or the heavy ones."""
    if hydrogens == "implicit" and isinstance(records, StoredMolecules):
        return HeavyAtoms(records)
    return records if hydrogens == "explicit" else records.remove_hydrogens()


def _condition(modelled: MoleculeArrays | HeavyAtoms, scales: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
    """Return properties of molecules in standard deviations, (M,) each, float64, NaN where unknown."""
    result = {}
    for name, (mean, std) in scales.items():
        values = column(modelled, name)
        missing = np.full(len(modelled), np.nan)
        result[name] = torch.from_numpy((missing if values is None else values) - mean) / std
    return result
