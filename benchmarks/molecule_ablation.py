"""What each choice of the recipe for molecules brings: rows trained for equal times on one file, judged by one judge.

    python benchmarks/molecule_ablation.py FILE --hydrogens explicit --minutes 10 --out runs/ablation

A row is a file of options in examples/molecules, or another one that `--rows` names; "default" has no options. Each is
trained by `gendiff train` for the same wall-clock time, one after the other, so nothing else should run meanwhile, and
draws the same number of molecules with its default sampler. All of them are counted; nothing is repaired.
Rows lie in folders below `--out`: the command may be stopped and given again, goes on where it was, and does nothing
twice. It ends with one table in Markdown: the share that is valid and in one piece, the shares of stable atoms and
molecules by EDM's table (explicit hydrogens only), and the median MMFF94s strain of the valid ones, with 95 % bootstrap
intervals, and above the rows what the same judge says of molecules of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
import torch
import yaml
from denoisers import interval, machine

from gendiff.catalog import resolve
from gendiff.cli import main as gendiff
from gendiff.files import atomic_write
from gendiff.metrics import Value, bootstrap, share
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.bonds import stability_flat
from gendiff.modalities.molecules.modality import HYDROGENS, Molecules, modelled_atoms
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.modality import PRESETS
from gendiff.model import Model, load

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "molecules"
ROWS = ("default", *sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("qm9")))

COLUMNS = ("valid and connected %", "stable atoms %", "stable molecules %", "strain kcal/mol")


def judge(mols: Sequence[Any], hydrogens: str) -> dict[str, Any]:
    """The columns of molecules with bonds, by name: [value, low, high], or None where there is no such number."""
    verdicts = metrics.judge(mols)
    strains = [metrics.strain_energy(m)[0] for m, v in zip(mols, verdicts, strict=True) if v["valid"]]
    atoms = molecules = None
    if hydrogens == "explicit":
        drawn = MoleculeArrays.from_mols(mols)
        stable, whole = stability_flat(drawn.num_atoms, drawn.atomic_numbers, drawn.positions)
        counts = np.bincount(drawn.molecule_of_atom, stable, len(drawn))
        atoms, molecules = share(counts, drawn.num_atoms), share(whole)
    found = (
        _scaled(share([v["valid"] and v["connected"] for v in verdicts])),
        _scaled(atoms),
        _scaled(molecules),
        bootstrap([energy for energy in strains if not math.isnan(energy)], np.median),
    )
    return {name: value and [value.value, value.low, value.high] for name, value in zip(COLUMNS, found, strict=True)}


def _scaled(value: Value | None) -> Value | None:
    return value and Value(100 * value.value, 100 * value.low, 100 * value.high, value.n)


class Row:
    """One row: its folder, and what it has to be made of for its result to count."""

    def __init__(self, name: str, options: argparse.Namespace, digest: str):
        self.path = None if name == "default" else FOLDER / f"{name}.yaml" if name in ROWS else Path(name)
        self.name, self.options = Path(name).stem, options
        self.folder = options.out / self.name
        self.run, self.result = self.folder / "run", self.folder / "result.json"
        self.facts = {
            "recipe": yaml.safe_load(self.path.read_text(encoding="utf-8")) if self.path else {},
            "sha256": digest,
            "hydrogens of RDKit": "relaxed",  # results of before have other strains
            **{name: getattr(options, name) for name in ("split", "hydrogens", "minutes", "preset", "samples", "seed")},
        }

    def finish(self) -> dict[str, Any]:
        """Train, draw and judge what is missing; return the result."""
        if self.result.is_file():
            found = json.loads(self.result.read_text(encoding="utf-8"))
            if found["facts"] != self.facts:
                raise SystemExit(f"{self.result} was made with other settings; choose another --out")
            return found
        trained = self.folder / "trained"
        if not trained.is_file():
            self.train()
            trained.touch()
        steps = torch.load(self.run / "checkpoints" / "last.ckpt", "cpu", weights_only=True)["batch_number"]
        model = load(self.run, device=self.options.device)
        mols, seconds = draw(model, self.options.samples, self.options.seed)
        found = {
            "facts": self.facts,
            "parameters": sum(p.numel() for p in model.denoiser.parameters()),
            "steps": steps,
            "ms a step": 60e3 * self.options.minutes / steps,
            "ms a molecule": 1e3 * seconds / len(mols),
            **judge(mols, model.modality.hydrogens),
        }
        with atomic_write(self.result) as file:
            json.dump(found, file, indent=1)
        return found

    def train(self) -> None:
        """Run `gendiff train`, or go on with it."""
        o, words = self.options, ["train", "molecules", "--out", str(self.run)]
        if (self.run / "config.yaml").is_file():
            words.append("--resume")
        else:
            words[2:2] = [str(o.file), *(["--config", str(self.path)] if self.path else [])]
            words += ["--split", o.split] if o.split else []
            words += ["--hydrogens", o.hydrogens, "--rule", "lookup"]  # as papers judge
            words += ["--max-time", f"{60 * o.minutes}s", "--preset", o.preset]
            words += ["--seed", str(o.seed), "--previews", "0"]
            words += ["--trainer.accelerator", "cuda" if o.device == "cuda" else "cpu"]
        with contextlib.redirect_stdout(sys.stderr):
            status = gendiff(words)
        if status:
            raise SystemExit(status)


def draw(model: Model, number: int, seed: int) -> tuple[list[Any], float]:
    """Molecules, and the seconds they took."""
    begin = time.perf_counter()
    mols = model.sample(number, seed=seed)
    return mols, time.perf_counter() - begin


def line(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [name, *(f"{found[key]:,}" if key in found else "" for key in ("parameters", "steps"))]
    cells += [f"{found[key]:.1f}" if key in found else "" for key in ("ms a step", "ms a molecule")]
    cells += [interval(found[key] and Value(*found[key], 0)) for key in COLUMNS]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="molecules: a file, or the name of a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows, each with its run and its result")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help=f"what to run ({' '.join(ROWS)}), or .yaml files")
    parser.add_argument("--hydrogens", choices=HYDROGENS, default="explicit", help="of the model (explicit)")
    parser.add_argument("--split", choices=("train", "valid"), help="part of a .npz file that has one (all)")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each row (10)")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="size of each network (tiny)")
    parser.add_argument("--samples", type=int, default=1000, help="molecules drawn of each row (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and samples (0)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch (all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train and draw (cpu)")
    options = parser.parse_args(arguments)
    for name in options.rows:
        if name not in ROWS and not Path(name).is_file():
            parser.error(f"--rows knows {', '.join(ROWS)} and files, not {name!r}")
    torch.set_num_threads(options.threads)
    (path,) = resolve([options.file])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options.file = path
    options.out.mkdir(parents=True, exist_ok=True)

    rows = {row.name: row.finish() for row in (Row(name, options, digest) for name in options.rows)}
    records, _ = Molecules.read([path], split=options.split)
    chosen = records.select(np.linspace(0, len(records) - 1, min(len(records), options.samples)).astype(int))
    adapter = Molecules.fit(records, hydrogens=options.hydrogens)
    own = judge(adapter.redraw(modelled_atoms(chosen, options.hydrogens)), options.hydrogens)

    print(f"{path.name}, sha256 {digest}: {len(records):,} molecules, {options.hydrogens} hydrogens.")
    print(f"{machine(options.device)}; {options.threads} thread(s); Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, RDKit {rdkit.__version__}.")
    print(f"Preset {options.preset}, {options.minutes:g} minutes of training, seed {options.seed}, ", end="")
    print(f"{options.samples:,} molecules each; 95 % bootstrap intervals.\n")
    heads = ("row", "parameters", "steps", "ms a step", "ms a molecule", *COLUMNS)
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, found in {"the file": own, **rows}.items():
        print(line(name, found))


if __name__ == "__main__":
    main()
