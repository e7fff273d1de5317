"""Make a model that comes with gendiff: hold out, train, measure, and write gendiff/shipped/NAME with its card.

    python benchmarks/shipped.py sketches-digits --work runs/sketches-digits
    python benchmarks/shipped.py sketches-digits --work runs/sketches-digits --measure

The data lie under $GENDIFF_DATA, as the recipe says below; what is held out is never trained on, by the model or by
the networks that judge it. Training goes on where it was stopped, with the same command. Every number of the card comes
from the last part, which --measure repeats alone, of the shipped model where --work is empty: three seeds of sampling,
the whole table beside real samples, and quality against the number of steps.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff.files import UserError, read_json, sha256, write_json
from gendiff.guide import Skip
from gendiff.metrics import Table
from gendiff.metrics.paired import LEAST
from gendiff.modality import find_modality
from gendiff.model import Model, load
from gendiff.train import train

SHIPPED = Path(__file__).resolve().parent.parent / "gendiff" / "shipped"

SEEDS = (0, 1, 2)

WHOLE = ("edm_molecule_stability", "edm_valid", "edm_valid_unique")
"""Rows of molecules with the hydrogens that RDKit adds to the valid ones, judged with all their atoms."""


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Attributes:
        title: One line.
        modality: Name of the adapter.
        data: File under $GENDIFF_DATA.
        held_out: Another file, of samples that are held out, or how many of the last ones of `data` are.
        training: Options of :func:`gendiff.train.train`.
        further: Options of a second run, which starts from the first (`gendiff train --from`).
        steps: Steps of the sampler that it ships with.
        curve: Other numbers of steps, at which it is measured too.
        guidance: Scale that it ships with.
        temperature: Scale of the sampler's noise that it ships with.
        skip: Skip guidance that it ships with.
        number: Samples that each seed draws to measure.
        points: Samples of each other number of steps (as many).
        readings: Options of the reader for training and for held-out samples, where they are parts of one file.
        rows: Rows of the table that show quality against steps and the spread over seeds.
        credit: Where the data come from, for the card.
        licence: Of the weights.
        limits: What users must know.
    """

    title: str
    modality: str
    data: str
    held_out: str | int
    training: dict[str, Any]
    steps: int
    curve: tuple[int, ...]
    guidance: float
    number: int
    rows: tuple[str, ...]
    credit: list[str]
    licence: str
    limits: list[str] = field(default_factory=list)
    points: int | None = None
    readings: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    temperature: float = 1.0
    skip: Skip | None = None
    further: dict[str, Any] | None = None


FLUORINE = "Fluorine is practically absent from this part of QM9 (10 atoms), and so from what is drawn."

FORMULAS = (
    "It draws the formulas of its training molecules (465), each as often as it occurs there, and no others; the"
    " elements are drawn first, and not by the network. It cannot interpolate."
)

RADICALS = (
    "One in six of its molecules has an atom with a free valence: radicals, which the line on strain leaves out and"
    " `--only stable` does not draw. molecules-qm9-heavy draws whole ones."
)

QM9 = [
    "QM9: Ramakrishnan, Dral, Rupp, von Lilienfeld, Scientific Data 1, 140022 (2014), doi 10.1038/sdata.2014.22, in the"
    " split of EDM, without molecules whose geometries were not found again (CC0 according to third parties)",
]

RECIPES = {
    "sketches-digits": Recipe(
        title="Handwritten digits as pen strokes, by class",
        modality="sketches",
        data="sketches/mnist_strokes.npz",
        held_out=5000,
        training={
            "steps": 16_000, "batch_size": 128, "preset": "tiny", "fitting": {"resample": 32.0},
        },
        steps=12,
        curve=(6, 8, 20, 100),
        guidance=1.3,
        number=3000,
        rows=("recognised", "raster_frechet", "sequence_frechet", "strokes"),
        credit=[
            "MNIST digits as stroke sequences, by Edwin de Jong"
            " (github.com/edwin-de-jong/mnist-digits-stroke-sequence-data,"
            " CC BY-SA 3.0), made from the training images of MNIST by LeCun, Cortes and Burges",
        ],
        licence="CC BY-SA 3.0, as the data",
        limits=[
            "It draws the digits 0 to 9, in one style of handwriting: American, of the 1990s, by pen traces that were"
            " recovered from pictures. Order and direction of strokes are those of that recovery, not of a hand.",
            "Strokes are made of points some 32 units apart where the digit is 255 high: polygons, not curves.",
        ],
    ),
    "sketches-kanji": Recipe(
        title="Characters in the manner of kanji, stroke by stroke",
        modality="sketches",
        data="sketches/kanji_train.npz",
        held_out="sketches/kanji_valid.npz",
        training={
            "steps": 8000, "preset": "tiny", "network": "transformer",
            "fitting": {"representation": "absolute"},
        },
        steps=20,
        curve=(8, 12, 50, 100),
        guidance=1.0,
        number=600,
        rows=("raster_kernel", "precision", "recall", "sequence_frechet", "strokes"),
        credit=[
            "KanjiVG by Ulrich Apel (kanjivg.tagaini.net, CC BY-SA 3.0), in the simplified form of"
            " github.com/hardmaru/sketch-rnn-datasets",
        ],
        licence="CC BY-SA 3.0, as the data",
        limits=["What it draws looks like characters and mostly is none: it knows strokes, not their meaning."],
    ),
    "images-mnist": Recipe(
        title="Handwritten digits of 28 x 28 gray pixels, by class",
        modality="images",
        data="images/mnist.npz",
        held_out=5000,
        training={"steps": 10_000, "preset": "tiny"},
        steps=10,
        curve=(5, 7, 20, 100),
        guidance=1.5,
        number=1000,
        rows=("recognised", "frechet", "kernel", "precision", "recall"),
        credit=[
            "MNIST by Yann LeCun, Corinna Cortes and Christopher Burges: its 60,000 training images"
            " (yann.lecun.com/exdb/mnist; CC BY-SA 3.0 according to third parties)",
        ],
        licence="CC BY-SA 3.0, as the data",
        limits=[
            "It draws the digits 0 to 9 in one style of handwriting: American, of the 1990s.",
            "Parts of a picture that should be black have a grain of a few levels of 255, which neither recognition nor"
            " the distances notice.",
        ],
    ),
    "images-cifar": Recipe(
        title="Small colour photographs of ten kinds, 32 x 32 pixels, by class",
        modality="images",
        data="images/cifar10_10k.npz",
        held_out=2000,
        training={
            "steps": 20_000, "batch_size": 256, "preset": "small", "average": 0.9995, "compile": True,
            "fitting": {"flip": True},
        },
        steps=20,
        curve=(8, 12, 50),
        guidance=1.5,
        number=2000,
        rows=("recognised", "frechet", "kernel", "precision", "recall"),
        credit=[
            "10,000 of the images of CIFAR-10 by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton"
            " (cs.toronto.edu/~kriz/cifar.html), as JPEG had changed them",
        ],
        licence="none is stated for the data, whose authors ask to be cited",
        limits=[
            "The images that it learned from had been compressed as JPEG, and are a sixth of CIFAR-10: no number of it"
            " compares with published ones.",
        ],
    ),
    "molecules-qm9-heavy": Recipe(
        title="Small organic molecules of up to 9 heavy atoms (C, N, O), hydrogens by RDKit",
        modality="molecules",
        data="molecules/qm9.npz",
        held_out="molecules/qm9.npz",
        training={
            "steps": 12_000, "preset": "small", "network": "transformer", "fitting": {"hydrogens": "implicit"},
        },
        further={"steps": 25_000, "seed": 1, "learning_rate": 0.003, "compile": True},
        steps=50,
        curve=(5, 12, 20, 100, 200),
        guidance=1.0,
        number=2000,
        points=500,
        readings=({"split": "train"}, {"split": "valid"}),
        rows=("valid_connected", "uniqueness", "novelty", "strain"),
        credit=QM9,
        licence="MIT, as gendiff",
        limits=[FLUORINE],
    ),
}  # fmt: skip
RECIPES["molecules-qm9"] = replace(
    RECIPES["molecules-qm9-heavy"],
    title="Small organic molecules of up to 9 heavy atoms (C, N, O) with all their hydrogens",
    training={
        "steps": 7000,
        "preset": "small",
        "network": "transformer",
        "compile": True,
        "fitting": {"hydrogens": "explicit", "atom_types": "given"},
    },
    further={
        "steps": 20_000, "seed": 1, "learning_rate": 0.003, "compile": True, "trainer": {"precision": "bf16-mixed"},
    },
    curve=(5, 12, 20, 100),
    temperature=0.7,
    skip=Skip([3], 1.4),
    limits=[FLUORINE, FORMULAS, RADICALS],
    rows=("atom_stability", "molecule_stability", "valid_connected", "uniqueness", "strain"),
)  # fmt: skip


def carve(recipe: Recipe, data: Path, work: Path) -> tuple[Path, Path]:
    """Return files of training and held-out samples."""
    source = data / recipe.data
    if not source.is_file():
        raise UserError(f"{source}: no such file; --data names the folder of the data")
    if isinstance(recipe.held_out, str):
        return source, data / recipe.held_out
    files = work / "train.npz", work / "held_out.npz"
    if not all(file.is_file() for file in files):
        kind = find_modality(recipe.modality)
        records, _ = kind.read([source])
        cut = len(records) - recipe.held_out
        work.mkdir(parents=True, exist_ok=True)
        for file, rows in zip(files, (np.arange(cut), np.arange(cut, len(records))), strict=True):
            kind.write_examples(records.select(rows), file)
    return files


def sketch_suite(model: Model, training: Any, held_out: Any) -> tuple[Callable[[list[Any]], Any], Any]:
    """Return how records become a set, and the suite that judges sets of sketches."""
    from gendiff.modalities.sketches.metrics import Suite
    from gendiff.modalities.sketches.records import SketchArrays

    adapter: Any = model.modality
    return SketchArrays.from_sketches, Suite(adapter.preprocess(held_out), training=adapter.preprocess(training))


def image_suite(model: Model, training: Any, held_out: Any) -> tuple[Callable[[list[Any]], Any], Any]:
    """Return how records become a set, and the suite that judges sets of images."""
    from gendiff.modalities.images.metrics import Suite
    from gendiff.modalities.images.records import ImageArrays

    return ImageArrays.from_images, Suite(held_out, training=training)


def molecule_suite(model: Model, training: Any, held_out: Any) -> tuple[Callable[[list[Any]], Any], Any]:
    """Return how records become a set, and what judges sets of molecules: by EDM's rows too, if all atoms are there."""
    from gendiff.modalities.molecules.metrics import Suite
    from gendiff.modalities.molecules.records import MoleculeArrays

    adapter: Any = model.modality
    rules = {"hydrogens": adapter.hydrogens, "rule": adapter.rule}
    rules["protocol"] = "edm,geometry" if adapter.hydrogens == "explicit" else "geometry"
    return MoleculeArrays.from_mols, Suite(held_out, training=training, **rules)


def whole_judge(model: Model, gather: Callable[[list[Any]], Any], held_out: Any) -> Callable[[list[Any]], Table] | None:
    """Return what judges molecules with the hydrogens that RDKit adds, or None if the model draws all that there is."""
    if getattr(model.modality, "hydrogens", "explicit") == "explicit":
        return None
    from gendiff.modalities.molecules.metrics import Suite

    suite = Suite(held_out, hydrogens="explicit", protocol="edm", strain=False)

    def evaluate(mols: list[Any]) -> Table:
        """Judge those that are valid; of the others, whose hydrogens are not there, none counts as stable or valid."""
        valid = [mol for mol in mols if not mol.HasProp("invalid")]
        table, part = suite.evaluate(gather(valid)), len(valid) / len(mols)
        shares = {row: replace(table[row].generated, value=part * table[row].generated.value) for row in WHOLE}
        return replace(
            table, metrics=[replace(row, generated=shares.get(row.name, row.generated)) for row in table.metrics]
        )

    return evaluate


SUITES = {"sketches": sketch_suite, "images": image_suite, "molecules": molecule_suite}


def measure(recipe: Recipe, model: Model, files: tuple[Path, Path]) -> dict[str, Any]:
    """Return the numbers of the card, as lines of Markdown, and highlights."""
    kind = find_modality(recipe.modality)
    training, held_out = (kind.read([file], **how)[0] for file, how in zip(files, recipe.readings, strict=True))
    gather, suite = SUITES[recipe.modality](model, training, held_out)
    whole = whole_judge(model, gather, held_out)
    classes = list(getattr(model.modality, "classes", ()))
    condition = {"class": classes} if classes else None

    def judge(
        steps: int, seed: int, number: int = recipe.number, by: Model = model
    ) -> tuple[Table, float, Table | None]:
        begin = time.monotonic()
        records = by.sample(number, steps=steps, seed=seed, condition=condition)
        seconds = time.monotonic() - begin
        table = suite.evaluate(gather(records))
        print(
            f"{steps} steps, seed {seed}: " + ", ".join(f"{row} {value(table, row)}" for row in recipe.rows), flush=True
        )
        return table, number / seconds, whole and whole(records)

    tables, speeds, wholes = zip(*(judge(recipe.steps, seed) for seed in SEEDS), strict=True)
    first = tables[0]
    points, asks = recipe.points or recipe.number, "; under guidance a step asks the network twice"
    asks *= recipe.guidance != 1 or recipe.skip is not None
    curve = {steps: judge(steps, SEEDS[0], points)[:2] for steps in recipe.curve}
    curve[recipe.steps] = (first, speeds[0]) if points == recipe.number else judge(recipe.steps, SEEDS[0], points)[:2]
    way = f"{recipe.steps} steps, guidance {recipe.guidance:g}"
    if recipe.temperature != 1:
        way += f", temperature {recipe.temperature:g}"
    rows = {"generated": tables}
    if recipe.skip is not None:
        way += f", skip guidance {recipe.skip.scale:g} without block {', '.join(map(str, recipe.skip.blocks))}"
        plain = copy.copy(model)
        plain.skip = None
        rows["without skip guidance"] = [judge(recipe.steps, seed, by=plain)[0] for seed in SEEDS]
    titles = [first[row].title + (f" ({first[row].unit})" if first[row].unit else "") for row in recipe.rows]
    lines = [
        f"{recipe.number:,} samples of each seed, {way}; "
        f"`python benchmarks/shipped.py` makes and measures this model. {machine()}, torch {torch.__version__}.",
        "",
        "Mean over three seeds of sampling, and their range; real samples by the same procedure beside:",
        "",
        "| " + " | ".join(["", *titles]) + " |",
        "|---" * (len(titles) + 1) + "|",
        *(
            f"| {name} | " + " | ".join(spread(those, row) for row in recipe.rows) + " |"
            for name, those in rows.items()
        ),
        "| real | " + " | ".join(first[row].texts()[0][0] for row in recipe.rows) + " |",
        "",
        f"Quality against steps (seed 0, {points:,} samples{asks}):",
        "",
        "| " + " | ".join(["steps", *titles, "samples/s"]) + " |",
        "|---" * (len(titles) + 2) + "|",
        *(
            f"| {steps} | " + " | ".join(value(table, row) for row in recipe.rows) + f" | {speed:.0f} |"
            for steps, (table, speed) in sorted(curve.items())
        ),
        "",
        "Everything that `gendiff evaluate` measures (seed 0):",
        "",
        *first.markdown().splitlines(),
    ]  # fmt: skip
    if whole:
        lines += [
            "",
            "The same molecules with the hydrogens that RDKit adds, all atoms judged by EDM's rules. The model does not"
            " draw hydrogens, and RDKit adds as many as valences want, which is an easier task than EDM's. Real"
            " hydrogens stand where the data have them, added ones are relaxed; molecules that are not valid get none,"
            " and count as neither stable nor valid:",
            "",
            "|  | " + " | ".join(f"{wholes[0][row].title} ({wholes[0][row].unit})" for row in WHOLE) + " |",
            "|---" * (len(WHOLE) + 1) + "|",
            "| generated | " + " | ".join(spread(wholes, row) for row in WHOLE) + " |",
            "| real | " + " | ".join(wholes[0][row].texts()[0][0] for row in WHOLE) + " |",
        ]
    highlights = [
        f"{first[row].title}: {spread(tables, row)}{first[row].unit and ' ' + first[row].unit}"
        f" (real: {first[row].texts()[0][0]})"
        for row in recipe.rows
    ]
    return {"metrics": lines, "highlights": highlights}


def value(table: Table, row: str) -> str:
    """Return what the generated samples score, as text."""
    return table[row].texts()[1][0]


def spread(tables: Any, row: str) -> str:
    """Return mean and range over tables, with the decimals of the first."""
    text = value(tables[0], row)
    decimals = len(text.partition(".")[2])
    scale = 100 if tables[0][row].unit == "%" else 1
    values = [scale * table[row].generated.value for table in tables]
    return f"{np.mean(values):.{decimals}f} ({min(values):.{decimals}f} to {max(values):.{decimals}f})"


def minutes(run: Path) -> float:
    """Return how long a run was trained, all its parts together: its checkpoint keeps count."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return checkpoint["elapsed"] / 60


def machine() -> str:
    """Say what the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"


def main(arguments: list[str] | None = None) -> None:
    """Make the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES, help="the model")
    data = Path(os.environ.get("GENDIFF_DATA", "."))
    parser.add_argument("--data", type=Path, default=data, help="folder of the data ($GENDIFF_DATA)")
    parser.add_argument("--work", type=Path, required=True, help="folder of the run; goes on with it")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the model folder is made (gendiff/shipped)")
    parser.add_argument(
        "--measure", action="store_true", help="measure again what is in --work or, if nothing is, what ships"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--steps", type=int, help="training steps in the place of the recipe's, to see that it runs")
    parser.add_argument("--number", type=int, help=f"samples in the place of the recipe's, at least {LEAST}")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.name]
    stages = {"run": recipe.training} | ({"further": recipe.further} if recipe.further else {})
    runs = [options.work / name for name in stages]
    shorter = {} if options.steps is None else {"steps": options.steps}
    if options.number is not None:
        if options.number < LEAST:
            raise UserError(f"--number must be at least {LEAST}: fewer samples have no distances")
        recipe = replace(recipe, number=options.number, points=None)
    files = carve(recipe, options.data, options.work)
    if not options.measure:
        finished = options.work / "training.json"
        if not finished.is_file():
            for run, parent, how in zip(runs, [None, *runs[:-1]], stages.values(), strict=True):
                train(
                    recipe.modality,
                    [files[0]],
                    run,
                    parent=parent,
                    previews=0,
                    resume=(run / "config.yaml").is_file(),
                    reading=recipe.readings[0],
                    **how | shorter,
                )
            write_json(finished, {"minutes": round(sum(map(minutes, runs)), 1), "machine": machine()})
    trained = load(runs[-1] if runs[-1].exists() else options.out / options.name)
    temperature = None if recipe.temperature == 1 else recipe.temperature  # not every sampler has one
    sampler = trained.tuned(recipe.steps, temperature)
    model = Model(trained.modality, trained.denoiser, sampler, trained.info, recipe.guidance, recipe.skip)
    held_out = recipe.held_out if isinstance(recipe.held_out, str) else f"the last {recipe.held_out:,} samples"
    held_out += "".join(f", its part {part}" for part in recipe.readings[1].values())
    model.info |= {
        "title": recipe.title,
        "licence": recipe.licence,
        "data": [*recipe.credit, f"File: {Path(recipe.data).name}, sha256 {sha256(options.data / recipe.data)}",
                 f"Held out, neither trained on nor shown to the networks that judge: {held_out}"],
        "limits": [*recipe.limits, *trained.modality.limits],
    }  # fmt: skip
    if runs[-1].exists():
        model.info["training"] |= read_json(options.work / "training.json")
    model.info |= measure(recipe, model, files)
    model.save(options.out / options.name)
    print(model.card())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
