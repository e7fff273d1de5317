"""What any molecule model costs and gives: training and sampling speed, and quality against network evaluations.

    python benchmarks/molecules.py runs/qm9 runs/edm --data qm9.npz --out measured
    python benchmarks/molecules.py runs/qm9 --data qm9.npz --out measured --samplers default ddim heun \\
        --steps 200 100 50 20 12 5 --seeds 0 1 2 -n 1000 --nll 200 --baseline --device cuda

A model is a run folder, a model folder or the name of a model that comes with gendiff; --data are its examples, or some
like them. Training: steps of the model's own network with its objective, optimizer and batch size, on a copy. Sampling:
whole draws, decoding included. An evaluation is one pass of the network for one molecule. Stability, valid and V×U are
EDM's (lookup table, largest fragment; gendiff/modalities/molecules/metrics/edm.py) where all atoms are modelled, else
of whole molecules by the heavy-atom rule; `connected` is valid and one fragment, strain is the median MMFF94s energy
above the relaxed molecule. All seeds count together, V×U within each seed; brackets are 95 % bootstrap intervals over
molecules. Diverged samples count as neither stable nor valid.

With --nll, -log p of molecules of --data in nats, of coordinates in Å and elements, log p(N) included: the bound on
200 levels of log SNR; and, for models with noise at t = 0, the bound on EDM's own chain of 1000 steps, of which 50 are
drawn at random for each molecule. With --compile the network runs through torch's compiler, whose work is not timed;
operations are counted of the plain network. With --baseline, EDM's network written plainly (benchmarks/egnn.py), 9
layers of 256, at the same batch size, padded as EDM pads, in turns with the model's training.

Results are kept in --out/results.jsonl, one line each; what is there for the same weights, data and settings is not
computed again, and a line that a killed run left half is dropped. The table is made from the lines.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
import torch
from rdkit import Chem
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gendiff import __version__
from gendiff.catalog import builtin, resolve
from gendiff.config import describe
from gendiff.data import Batch, Ragged, batch_stream
from gendiff.denoise import compiled
from gendiff.files import UserError, atomic_write, sha256
from gendiff.likelihood import variational_bound
from gendiff.metrics import Value, bootstrap, share
from gendiff.modalities.molecules import metrics
from gendiff.modalities.molecules.bonds import stability_flat
from gendiff.modalities.molecules.metrics import edm
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.model import Model, load
from gendiff.model.digest import digest
from gendiff.model.folder import model_folder
from gendiff.ops import Random
from gendiff.sample import SAMPLERS, Sampler
from gendiff.train.optimizer import MuonAdamW

TERMS = 50
"""Steps of EDM's chain that are evaluated for each molecule."""

COUNTED = 3
"""Batches over which operations are counted, and over which EDM's network is timed without gradients."""

FAR = 1e3
"""Å from one atom to the next, where a sample that diverged has none."""


def beside(name: str) -> Any:
    """Another benchmark of this folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise SystemExit(f"benchmarks/{name}.py: not found; run this benchmark from a checkout of the repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


egnn = beside("egnn")


class Results:
    """Lines of JSON, each a question and its answer; one that was asked before is not asked again.

    Arguments:
        path: The file, which may be there.
    """

    def __init__(self, path: Path):
        self.path, self.answers = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
                self.answers[self._key(one["asked"])] = one["found"]
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise UserError(f"{path}, line {number}: not a result of this benchmark; move it away") from None
                with atomic_write(path) as file:
                    file.writelines(f"{line}\n" for line in lines[:-1])

    @staticmethod
    def _key(asked: dict[str, Any]) -> str:
        return json.dumps(asked, sort_keys=True)

    def get(self, asked: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the answer, from the file if it is there; else compute it and write it down."""
        key = self._key(asked)
        if key not in self.answers:
            self.answers[key] = compute()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"asked": asked, "found": self.answers[key]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return self.answers[key]


def train(model: Model, data: Ragged, batch_size: int, steps: int, plain: Any, fused: bool = False) -> dict[str, Any]:
    """Seconds of training steps of a copy of the model, by turns with those of the plain network if there is one."""
    device = model.device
    denoiser, objective = copy.deepcopy(model.denoiser).train(), model.modality.objective().to(device)
    learned = [*denoiser.parameters(), *objective.parameters()]
    optimizer = MuonAdamW(learned, 1e-4)
    stream, random = batch_stream(data.sizes, batch_size, 0), np.random.default_rng(0)

    def step(batch: Batch) -> None:
        noise = Random(0, batch.index, device)
        losses, _ = objective(denoiser, batch.state, batch.mask, batch.condition or None, noise)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    batches = [data.batch(next(stream)).to(device) for _ in range(steps)]
    sizes = [random.choice(data.sizes.numpy(), batch_size).tolist() for _ in batches]
    if plain is not None:
        plain.seconds("training", sizes[:1])
    found: dict[str, list[float]] = {"seconds": [], "plain": []}
    with compiled(denoiser, fused):
        for batch in batches[: 3 if fused else 1]:
            step(batch)
        for batch, of_plain in zip(batches, sizes, strict=True):
            found["seconds"].append(egnn.clock(partial(step, batch), device.type) / len(batch))
            if plain is not None:
                found["plain"].append(plain.seconds("training", [of_plain]))
    with FlopCounterMode(display=False) as counter:
        for batch in batches[:COUNTED]:
            step(batch)
    flops = counter.get_total_flops() / sum(map(len, batches[:COUNTED]))
    largest = int(data.sizes.max())
    sampled = [plain.seconds("sampling", [one], largest) for one in sizes[:COUNTED]] if plain is not None else []
    return {**found, "flops": flops, "sampled": sampled, "largest": largest}


def sample(model: Model, sampler: Sampler, n: int, seed: int, strain: int) -> dict[str, Any]:
    """Draw n molecules; what they cost, and what is said of each of them."""
    count = 0

    def tick(module: nn.Module, inputs: tuple[Any, ...], words: dict[str, Any]) -> None:
        nonlocal count
        state = inputs[0] if inputs else words["x_t"]
        count += len(next(iter(state.values())))

    hook = model.denoiser.register_forward_pre_hook(tick, with_kwargs=True)
    mols: list[Chem.Mol] = []
    try:
        seconds = egnn.clock(lambda: mols.extend(model.sample(n, seed=seed, sampler=sampler)), model.device.type)
    finally:
        hook.remove()
    verdicts = metrics.judge(mols)
    valid = np.array([verdict["valid"] for verdict in verdicts], bool)
    smiles = [verdict["smiles"] for verdict in verdicts]
    found: dict[str, Any] = {"seconds": seconds, "evaluations": count / n}
    if model.modality.hydrogens == "explicit":
        drawn = arrays(mols)
        stable, _ = stability_flat(drawn.num_atoms, drawn.atomic_numbers, drawn.positions)
        found["stable"] = np.bincount(drawn.molecule_of_atom, stable, n).astype(int).tolist()
        found["atoms"] = drawn.num_atoms.tolist()
        smiles = edm.largest_fragments(drawn)
    energies = [metrics.strain_energy(mols[i])[0] for i in np.flatnonzero(valid)[:strain]]
    return found | {
        "valid": [int(text != "") for text in smiles],
        "unique": edm.copies_shared(smiles).round(6).tolist(),
        "connected": [int(v["valid"] and v["connected"]) for v in verdicts],
        "strain": [round(energy, 4) for energy in energies if np.isfinite(energy)],
    }


def arrays(mols: list[Chem.Mol]) -> MoleculeArrays:
    """Atoms of molecules as drawn; those of diverged samples lie far from one another."""
    numbers = [[atom.GetAtomicNum() for atom in mol.GetAtoms()] for mol in mols]
    places = [
        mol.GetConformer().GetPositions()
        if mol.GetNumConformers()
        else FAR * np.eye(3)[[0]] * np.arange(len(z))[:, None]
        for mol, z in zip(mols, numbers, strict=True)
    ]
    return MoleculeArrays([len(z) for z in numbers], np.concatenate(numbers), np.concatenate(places))


def likelihood(model: Model, records: MoleculeArrays) -> dict[str, Any]:
    """-log p of each record in nats by the bound, and on EDM's own chain where the model's schedules have one."""
    whole = model.log_prob(records)
    found = {"bound": (-whole["log_prob"]).tolist()}
    zero = torch.zeros(1, dtype=torch.float64)
    if not all(field.schedule.sigma(zero) > 0 for _, field in model.denoiser.process.items()):
        return found
    data, adapter = model.modality.encode(records), model.modality
    nats = torch.zeros(len(data), dtype=torch.float64)
    with model.evaluating():
        for size in data.sizes.unique():
            rows = torch.nonzero(data.sizes == size)[:, 0]
            batch = data.batch(rows).to(model.device)
            random = Random(0, rows, model.device)
            options = {"steps": 1000, "terms": TERMS, "noise_at_zero": True}
            bound = variational_bound(model.denoiser, batch.state, batch.mask, None, random, **options)
            nats[rows] = bound["total"].double().cpu()
    return found | {"chain": (nats + adapter.log_volume(data.sizes) - adapter.log_size(data.sizes)).tolist()}


COLUMNS = ("stable atoms %", "stable %", "valid %", "V×U %", "connected %", "strain kcal/mol")


def judge(runs: list[dict[str, Any]]) -> list[Value | None]:
    """The columns of the table, from the molecules of all seeds."""

    def pooled(name: str) -> list[Any]:
        return [value for run in runs for value in run.get(name, [])]

    stable, atoms = pooled("stable"), pooled("atoms")
    return [
        share(stable, atoms) if atoms else None,
        share([a == b for a, b in zip(stable, atoms, strict=True)]) if atoms else None,
        share(pooled("valid")),
        share(pooled("unique")),
        share(pooled("connected")),
        bootstrap(pooled("strain"), np.median),
    ]


def text(value: Value | None, scale: float) -> str:
    """A number with its interval."""
    if value is None:
        return "–"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(scale * x for x in (value.value, value.low, value.high)))


def parse(words: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run folders, model folders or names")
    parser.add_argument("--data", nargs="+", default=[str(builtin("small-molecules"))], help="examples (built-in set)")
    parser.add_argument("--split", choices=("train", "valid"), help="part of .npz files that have one (all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, made if it is not there")
    parser.add_argument("-n", type=int, default=1000, help="molecules of each seed (1000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the samples (0)")
    parser.add_argument("--steps", type=int, nargs="+", help="steps of the samplers (each model's own)")
    parser.add_argument("--samplers", nargs="+", choices=("default", *SAMPLERS), default=["default"])
    parser.add_argument("--strain", type=int, default=200, help="valid molecules of each seed to relax (200)")
    parser.add_argument("--train-steps", type=int, default=20, help="timed training steps (20; 0 for none)")
    parser.add_argument("--batch-size", type=int, help="of training (that of the model's run, else 64)")
    parser.add_argument("--nll", type=int, default=0, help="molecules whose -log p is bounded (0)")
    parser.add_argument("--baseline", action="store_true", help="also time EDM's network")
    parser.add_argument("--compile", action="store_true", help="run the network through torch's compiler")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(words)
    for name, least in (("n", 1), ("strain", 0), ("train_steps", 0), ("nll", 0), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    return options


def samplers(model: Model, options: argparse.Namespace) -> list[tuple[str, Sampler]]:
    """The samplers to try, by a word each."""
    made: list[tuple[str, Sampler]] = []
    for steps in options.steps or [None]:
        for word in options.samplers:
            sampler = model.tuned(steps, sampler=None if word == "default" else word)
            made.append((f"{type(sampler).__name__} {getattr(sampler, 'steps', '')}".strip(), sampler))
    return made


def main(words: list[str] | None = None) -> None:
    """Measure what is not there yet, and print."""
    options = parse(words)
    torch.set_num_threads(options.threads)
    models = {source: load(source, options.device) for source in options.models}
    for source, model in models.items():
        if not isinstance(model.modality, Molecules):
            raise UserError(f"{source}: a model of {model.modality.name}, not of molecules")
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "results.jsonl")
    files = resolve(options.data)
    hashes = [sha256(file) for file in files]
    records, _ = Molecules.read(files, **({"split": options.split} if options.split else {}))
    machine = f"{egnn.processor(options.device)}, {options.threads} threads, torch {torch.__version__}"
    print(f"{machine}; gendiff {__version__}, RDKit {rdkit.__version__}; float32 products {precision()}")
    for file, code in zip(files, hashes, strict=True):
        print(f"{file.name}, sha256 {code}")
    print(f"{len(records):,} molecules; {options.n:,} drawn for each of the seeds {options.seeds}\n")
    side = 4096 if options.device == "cuda" else 1024
    rate = results.get(
        {"what": "product", "machine": machine, "side": side, "precision": precision()},
        lambda: {"flops": egnn.matmul_rate(side, side, options.device)},
    )["flops"]
    print(f"matrix product of {side} x {side}: {rate / 1e12:.3g} TFLOP/s\n")
    for source, model in models.items():
        measure(source, model, records, results, {"machine": machine, "precision": precision()}, hashes, rate, options)


def precision() -> str:
    """How torch multiplies matrices of float32."""
    return torch.get_float32_matmul_precision()


def measure(
    source: str,
    model: Model,
    records: MoleculeArrays,
    results: Results,
    where: dict[str, str],
    hashes: list[str],
    rate: float,
    options: argparse.Namespace,
) -> None:
    """Measure one model and print its part of the table."""
    here = {**where, "model": digest(model_folder(source)), **({"compiled": True} if options.compile else {})}
    given = {**here, "data": hashes, "split": options.split}
    known = records.select([i for i, reason in enumerate(model.modality.unknown(records)) if not reason])
    if not len(known):
        raise UserError(f"{source}: the model knows none of the {len(records):,} molecules of --data")
    size = sum(p.numel() for p in model.denoiser.parameters())
    network = type(model.denoiser.network).__name__
    rule = "EDM's table and largest fragments" if model.modality.hydrogens == "explicit" else "the heavy-atom rule"
    print(f"{source} ({here['model'][:16]}): {network}, {size:,} parameters; judged by {rule}")
    if len(known) < len(records):
        print(f"  {len(records) - len(known):,} molecules of --data are unknown to it and left out")

    batch_size = options.batch_size or model.info.get("training", {}).get("batch_size", 64)
    if options.train_steps:
        asked = {**given, "what": "training", "batch": batch_size, "steps": options.train_steps}
        asked["baseline"] = options.baseline

        def compute() -> dict[str, Any]:
            data = model.modality.encode(known)
            return train(model, data, batch_size, options.train_steps, plain(options), options.compile)

        found = results.get(asked, compute)
        print_speed(found, batch_size, rate)
    if options.nll:
        chosen = np.sort(np.random.default_rng(0).permutation(len(known))[: options.nll])
        asked = {**given, "what": "likelihood", "molecules": len(chosen)}
        for name, values in results.get(asked, partial(likelihood, model, known.select(chosen))).items():
            title = "bound, 200 levels of log SNR" if name == "bound" else "EDM's chain of 1000 steps"
            finite = [value for value in values if np.isfinite(value)]
            print(f"  -log p ({title}): {text(bootstrap(finite), 1)} nats, {len(finite):,} molecules")

    row = "  {:<16} {:>11} {:>12}" + " {:>19}" * len(COLUMNS)
    print(row.format("sampler", "evaluations", "molecules/s", *COLUMNS))
    for title, sampler in samplers(model, options):
        runs = []
        for seed in options.seeds:
            asked = {**here, "what": "samples", "sampler": describe(sampler), "seed": seed, "n": options.n}
            asked["strain"] = options.strain

            def draw(sampler: Sampler = sampler, seed: int = seed) -> dict[str, Any]:
                with compiled(model.denoiser, options.compile):
                    if options.compile:  # code is made outside the clock
                        model.sample(options.n, seed=seed, sampler=model.tuned(2))
                    return sample(model, sampler, options.n, seed, options.strain)

            runs.append(results.get(asked, draw))
        speed = options.n * len(runs) / sum(run["seconds"] for run in runs)
        evaluations = statistics.mean(run["evaluations"] for run in runs)
        cells = [text(value, 1 if "kcal" in name else 100) for name, value in zip(COLUMNS, judge(runs), strict=True)]
        print(row.format(title, f"{evaluations:g}", f"{speed:.3g}", *cells), flush=True)
    print()


def plain(options: argparse.Namespace) -> Any:
    """EDM's network, if it is to be timed."""
    settings = argparse.Namespace(width=256, layers=9, device=options.device)
    return egnn.Contender("plain", settings) if options.baseline else None


def print_speed(found: dict[str, Any], batch_size: int, rate: float) -> None:
    """Lines about training, and about the plain network beside it."""
    speeds = [1 / seconds for seconds in found["seconds"]]
    share_of_rate = found["flops"] * statistics.median(speeds) / rate
    print(f"  training, batch {batch_size}: {egnn.spread(speeds)} molecules/s (median, range), ", end="")
    print(f"{found['flops'] / 1e9:.3g} GFLOP each, {share_of_rate:.1%} of the rate of the matrix product")
    if found["plain"]:
        plain_speeds, evaluations = ([1 / x for x in found[name]] for name in ("plain", "sampled"))
        ratios = [a / b for a, b in zip(speeds, plain_speeds, strict=True)]
        print(f"  EDM's network (9 x 256), same batch: {egnn.spread(plain_speeds)} molecules/s, ", end="")
        print(
            f"ratio {egnn.spread(ratios)}; padded to {found['largest']}, {egnn.spread(evaluations)} evaluations/s, ",
            end="",
        )
        print(f"which is {statistics.median(evaluations) / 1000:.3g} molecules/s in its 1000 steps")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
