"""Every system of the field on real digits: trained, sampled, measured, and one picture of each.

    python examples/images/gallery.py --out gallery
    python examples/images/gallery.py --out gallery --systems ddpm,sr3
    python examples/images/gallery.py --out gallery --data mnist/train --steps 20000

Trains each system on four fifths of the 1,797 digits of 8 x 8 pixels that come with scikit-learn, the paper's recipe on
a small network, measures it on the last fifth, and prints the table of docs/images.md. Restored images stand beside
what one gets without a model: bicubic enlargement, holes filled with the mean of the rest, gray for colours. Palette
sees the digits in a colour for each class, so that there is something to colour. `--size smallest` only shows that all
of it runs. A run that is there already is not trained again. The commands of the table start from files that are
written beside the pictures; holes are measured with one for each image, and filled by the command with the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import gendiff
from gendiff.catalog import resolve
from gendiff.decoder import byte_bound
from gendiff.guide.ilvr import block_mean
from gendiff.likelihood import bits_per_dim
from gendiff.modalities.images.classifier import accuracy, train_classifier
from gendiff.modalities.images.draw import sheet_png
from gendiff.modalities.images.encode import from_state, to_state
from gendiff.modalities.images.metrics import Features, psnr
from gendiff.modalities.images.modality import Images
from gendiff.modalities.images.records import Image, ImageArrays
from gendiff.modalities.images.restore import enlarge, gray, jpeg, margin, rectangle, shrink
from gendiff.modalities.images.write import write_images
from gendiff.model import Model
from gendiff.ops import Random


class Size(NamedTuple):
    """How much is done: training steps, images drawn, most steps of sampling, steps of the network that judges."""

    steps: int
    images: int
    sampling: int
    judging: int


SIZES = {"smallest": Size(2, 6, 3, 3), "minutes": Size(400, 256, 100, 300)}

FACTOR = 2
"""How many times SR3 enlarges, along each side, and the side of the blocks that SDEdit and ILVR start from."""

STRENGTH = 0.35
"""How far SDEdit goes up into noise."""

LEVELS = 20
"""Levels of noise of filling holes, each of which is walked three times."""

LONGER = {"palette": 3}
"""How many times as long a system trains as the others: Palette learns four tasks at once, in colours."""


class Row(NamedTuple):
    """A row of the table."""

    system: str
    command: str
    picture: str
    measured: str


@dataclass
class Studio:
    """What all systems share.

    Attributes:
        out: Folder of runs and pictures.
        training: Images to train on.
        held: Images to measure on.
        size: How much is done.
        seed: Of everything.
        judges: A network for each number of channels, by which images are compared.
    """

    out: Path
    training: ImageArrays
    held: ImageArrays
    size: Size
    seed: int
    judges: dict[int, Features] = field(default_factory=dict)

    def model(self, system: str, colour: bool = False, **fitting: int) -> Model:
        """Train a system, or load the run that is there."""
        run = self.out / "runs" / system
        examples = self.write(f"training{'-colour' * colour}", self.examples(colour)[0])
        if not run.exists():
            options = {"fitting": {"system": system, **fitting}, "trainer": {"accelerator": "cpu"}}
            length = self.length(system)
            gendiff.train("images", [examples], run, steps=length, seed=self.seed, preset="tiny", previews=0, **options)
        return gendiff.load(run)

    def write(self, name: str, images: ImageArrays) -> Path:
        """Write images that a command of the table starts from; return their file."""
        path = self.out / f"{name}.npz"
        write_images(list(images), path)
        return path

    def trains(self, system: str, more: str = "", colour: bool = False) -> str:
        """Return the command that trains a system."""
        examples, run = f"{self.out}/training{'-colour' * colour}.npz", f"{self.out}/runs/{system}"
        options = f"--system {system}{more} --preset tiny --steps {self.length(system)}"
        return f"gendiff train images {examples} {options} --out {run}"

    def samples(self, system: str, model: Model, more: str = "") -> str:
        """Return the command that draws what is measured."""
        number = f"-n {self.size.images} --steps {self.steps(model)}"
        return f"gendiff sample {self.out}/runs/{system} {number}{more} -o new.npz"

    def edits(self, system: str, model: Model, name: str, task: str, steps: int | None = None) -> str:
        """Return the command that edits the images of a file that was written."""
        steps = self.steps(model) if steps is None else min(steps, self.size.sampling)
        return f"gendiff edit {self.out}/runs/{system} {self.out}/{name}.npz --task {task} --steps {steps} -o new.npz"

    def mask(self, name: str, free: np.ndarray) -> str:
        """Write the first of some masks, (M, H, W), as a picture; return its file."""
        path = self.out / f"{name}.png"
        write_images([Image(np.where(free[0], np.uint8(255), np.uint8(0)))], path)
        return str(path)

    def length(self, system: str) -> int:
        """Return the training steps of a system."""
        return self.size.steps * LONGER.get(system, 1)

    def examples(self, colour: bool = False) -> tuple[ImageArrays, ImageArrays]:
        """Return the images to train on and those to measure on, at most as many as are drawn."""
        both = (self.training, self.held.select(np.arange(min(len(self.held), self.size.images))))
        return tuple(coloured(part) for part in both) if colour else both

    def judge(self, colour: bool = False) -> Features:
        """Return the network by which images are compared; it learns the classes of the training images."""
        training, _ = self.examples(colour)
        if training.channels not in self.judges:
            self.judges[training.channels] = Features.fit(training, self.seed, self.size.judging)
        return self.judges[training.channels]

    def steps(self, model: Model) -> int:
        """Return the steps to sample with: those of the paper, but not more than there is time for."""
        return min(model.sampler.steps, self.size.sampling)

    def draw(self, model: Model, **options) -> ImageArrays:
        """Return images of a model."""
        records = model.sample(self.size.images, steps=self.steps(model), seed=self.seed, **options)
        return ImageArrays.from_images(records)

    def distance(self, images: ImageArrays, blocks: ImageArrays | None = None) -> str:
        """Return the Fréchet distance of images, beside that of as many real ones, and of those made of blocks."""
        real = self.held.select(np.arange(min(len(self.held), len(images))))
        others = {"real": self.training.select(np.arange(len(real)))} | ({"blocks": blocks} if blocks else {})
        beside = [f"{name} {self.judge().frechet(other, real):.1f}" for name, other in others.items()]
        return f"Fréchet distance {self.judge().frechet(images, real):.1f} ({', '.join(beside)})"

    def edited(self, model: Model, images: ImageArrays, task: str, steps: int | None = None, **options) -> ImageArrays:
        """Return what `gendiff edit` makes of images, one of each."""
        steps = self.steps(model) if steps is None else min(steps, self.size.sampling)
        records = model.edit(images, task, len(images), steps=steps, seed=self.seed, **options).records
        return ImageArrays.from_images(records)

    def sheet(self, name: str, *rows: ImageArrays, columns: int = 16) -> str:
        """Draw rows of images, the first of each; return the name of the picture."""
        if len(rows) == 1:
            images = list(rows[0].select(np.arange(min(len(rows[0]), 2 * columns))))
        else:
            images = [image for row in rows for image in row.select(np.arange(min(len(row), columns)))]
            columns = min(columns, *(len(row) for row in rows))
        sheet_png(images, self.out / f"{name}.png", columns=columns, captions=[], scale=max(1, 48 // self.held.size[0]))
        return f"{name}.png"

    def beside(self, ours: ImageArrays, without: ImageArrays, truth: ImageArrays, colour: bool = False) -> str:
        """Return how near images come to the originals, and how near what one gets without a model."""
        judge, pair = self.judge(colour), (ours, without)
        (near, other), (look, plain) = (
            [float(np.mean(np.minimum(psnr(part, truth), 60))) for part in pair],
            [float(judge.distance(part, truth).mean()) for part in pair],
        )
        return f"PSNR {near:.1f} dB ({other:.1f}), feature distance {look:.2f} ({plain:.2f})"


def coloured(images: ImageArrays) -> ImageArrays:
    """Return gray images with a hue for each word, and images that have colours already as they are."""
    if images.channels >= 3:
        return images
    words = sorted({*images.words.tolist()})
    turn = np.searchsorted(words, images.words) / max(1, len(words))
    hue = 0.5 + 0.5 * np.cos(2 * np.pi * (turn[:, None] - np.arange(3) / 3))
    pixels = np.rint(images.pixels[..., :1] * (0.15 + 0.85 * hue[:, None, None]))
    return ImageArrays(pixels.astype(np.uint8), images.words, images.names)


def arrays(x: Tensor) -> ImageArrays:
    """Return states as images."""
    return ImageArrays(from_state(x)[0])


def filled(images: ImageArrays, free: np.ndarray) -> ImageArrays:
    """Return images whose holes, (M, H, W), have the mean of the rest."""
    rest = np.where(free[..., None], np.nan, images.pixels.astype(float))
    mean = np.nanmean(rest, (1, 2), keepdims=True)
    return ImageArrays(np.rint(np.where(np.isnan(rest), mean, rest)).astype(np.uint8))


def pierced(images: ImageArrays, free: np.ndarray) -> ImageArrays:
    """Return images whose holes, (M, H, W), are light gray, to be looked at."""
    return ImageArrays(np.where(free[..., None], np.uint8(204), images.pixels))


def kept(ours: ImageArrays, truth: ImageArrays, free: np.ndarray) -> str:
    """Return whether the pixels that were known are the same bytes."""
    return f"known pixels bit by bit the same: {bool((ours.pixels == truth.pixels)[~free].all())}"


# -- one function for each way to show a system ----------------------------------------------------------------------


def draws(studio: Studio, system: str) -> list[Row]:
    """Train and draw."""
    model = studio.model(system)
    images = studio.draw(model)
    said = studio.distance(images)
    if model.modality.classes:
        said += f"; {100 * studio.judge().accuracy(images).value:.0f} % recognised as their class"
    if system in ("ddpm", "iddpm", "vdm"):
        x = {"pixel": to_state(studio.examples()[1].pixels)}
        with model.evaluating():
            random = Random(studio.seed, len(x["pixel"]))
            nats = byte_bound(model.denoiser, x, random=random, terms=studio.size.sampling)["total"]  # of 1,000
        bits = bits_per_dim(nats, x["pixel"][0].numel())
        said += f"; at most {float(bits.mean()):.2f} bits/dim"
    told = f"{studio.trains(system)}; {studio.samples(system, model)}"
    return [Row(system, told, studio.sheet(system, images), said)]


def classifier_free(studio: Studio, system: str) -> list[Row]:
    """Draw with and without guidance."""
    model = studio.model(system)
    plain, strong = studio.draw(model), studio.draw(model, guidance=2.0)
    right = [100 * studio.judge().accuracy(images).value for images in (plain, strong)]
    said = f"{studio.distance(plain)}; {right[0]:.0f} % recognised as their class, {right[1]:.0f} % at guidance 2"
    told = f"{studio.trains(system)}; {studio.samples(system, model, ' --guidance 2')}"
    return [Row(system, told, studio.sheet(system, strong), said)]


def classifier_guided(studio: Studio, system: str) -> list[Row]:
    """Draw with and without the gradient of a classifier of noisy images."""
    model = studio.model(system)
    process = model.denoiser.process
    classifier = train_classifier(process, studio.training, studio.size.steps, seed=studio.seed, say=print)
    run, judge = studio.out / "runs" / system, studio.out / "runs" / f"{system}-classifier"
    classifier.save(judge)
    plain = studio.draw(model)
    led = studio.draw(model, guide=classifier.guide(scale=2.0, classes=model.modality.classes))
    right = [100 * studio.judge().accuracy(images).value for images in (plain, led)]
    seen = 100 * accuracy(classifier, process, studio.held, 0.3)
    said = (
        f"{studio.distance(plain)}; {right[0]:.0f} % recognised as their class, {right[1]:.0f} % led by a classifier"
        f" (which is right of {seen:.0f} % at t = 0.3)"
    )
    learns = f"gendiff classifier {run} {studio.out}/training.npz --steps {studio.size.steps} --out {judge}"
    leads = studio.samples(system, model, f" --classifier {judge} --classifier-scale 2")
    told = f"{studio.trains(system)}; {learns}; {leads}"
    return [Row(system, told, studio.sheet(system, led), said)]


def enlarges(studio: Studio, system: str) -> list[Row]:
    """Enlarge images that were made small."""
    model, truth = studio.model(system, factor=FACTOR), studio.examples()[1]
    small = shrink(to_state(truth.pixels), FACTOR)
    big, ours = arrays(enlarge(small, FACTOR)), studio.edited(model, arrays(small), "enlarge")
    picture = studio.sheet(system, big, ours, truth)
    studio.write("small", arrays(small))
    told = f"{studio.trains(system, f' --factor {FACTOR}')}; {studio.edits(system, model, 'small', 'enlarge')}"
    return [Row(system, told, picture, f"{studio.beside(ours, big, truth)}; in brackets bicubic")]


def restores(studio: Studio, system: str) -> list[Row]:
    """Fill in, continue, colour and repair, all by one model."""
    model, truth = studio.model(system, colour=True), studio.examples(colour=True)[1]
    x, random = to_state(truth.pixels), Random(studio.seed, len(truth))
    holes, half = (hole(x, random)[:, 0].numpy() for hole in (rectangle, margin))
    plain, bad = arrays(gray(x)), arrays(jpeg(x, torch.full((len(x),), 10.0)))
    rows, train = [], studio.trains(system, colour=True)
    for name, images in (("held-colour", truth), ("gray", plain), ("jpeg", bad)):
        studio.write(name, images)
    for task, free in (("inpaint", holes), ("uncrop", half)):
        ours = studio.edited(model, truth, task, mask=free)
        said = f"{studio.beside(ours, filled(truth, free), truth, colour=True)}; in brackets the mean of the rest"
        picture = studio.sheet(f"{system}-{task}", pierced(truth, free), ours, truth)
        edit = studio.edits(system, model, "held-colour", f"{task} --mask {studio.mask(f'{task}-mask', free)}")
        rows.append(Row(f"{system}: {task}", f"{train}; {edit}", picture, f"{said}; {kept(ours, truth, free)}"))
    for task, given, baseline in (("colourise", plain, "gray"), ("repair", bad, "JPEG of quality 10")):
        ours = studio.edited(model, given, task)
        said = f"{studio.beside(ours, given, truth, colour=True)}; in brackets {baseline}"
        picture = studio.sheet(f"{system}-{task}", given, ours, truth)
        edit = studio.edits(system, model, "gray" if task == "colourise" else "jpeg", task)
        rows.append(Row(f"{system}: {task}", f"{train}; {edit}", picture, said))
    return rows


def varies(studio: Studio, system: str) -> list[Row]:
    """Make digits out of rough blocks, by noise and back."""
    model, truth = studio.model("ddpm"), studio.examples()[1]
    rough = arrays(block_mean(to_state(truth.pixels), FACTOR))
    made = studio.edited(model, rough, "vary", strength=STRENGTH)
    off = means(made) - means(rough)
    said = f"{studio.distance(made, rough)}; the mean of a block moves by {np.sqrt((off**2).mean()):.0f} of 255"
    picture = studio.sheet(system, rough, made, truth)
    studio.write("blocks", rough)
    told = f"{studio.trains('ddpm')}; {studio.edits('ddpm', model, 'blocks', f'vary --strength {STRENGTH}')}"
    return [Row(system, told, picture, said)]


def follows(studio: Studio, system: str) -> list[Row]:
    """Give new digits the means of the blocks of given ones."""
    model, truth = studio.model("ddpm"), studio.examples()[1]
    low = arrays(block_mean(to_state(truth.pixels), FACTOR))
    made = studio.edited(model, truth, "like", factor=FACTOR)
    off = np.abs(means(made) - means(truth)).mean()
    said = f"{studio.distance(made, low)}; the mean of a block moves by {off:.2f} of 255"
    picture = studio.sheet(system, low, made, truth)
    studio.write("held", truth)
    told = f"{studio.trains('ddpm')}; {studio.edits('ddpm', model, 'held', f'like --factor {FACTOR}')}"
    return [Row(system, told, picture, said)]


def means(images: ImageArrays) -> np.ndarray:
    """Return the means of the blocks of images, in bytes."""
    return 127.5 * block_mean(to_state(images.pixels), FACTOR).numpy()


def repaints(studio: Studio, system: str) -> list[Row]:
    """Fill holes by a model that was never told of any."""
    model, truth = studio.model("ddpm"), studio.examples()[1]
    free = rectangle(to_state(truth.pixels), Random(studio.seed, len(truth)))[:, 0].numpy()
    made = studio.edited(model, truth, "inpaint", steps=LEVELS, mask=free)
    said = f"{studio.beside(made, filled(truth, free), truth)}; in brackets the mean of the rest"
    picture = studio.sheet(system, pierced(truth, free), made, truth)
    studio.write("held", truth)
    edit = studio.edits("ddpm", model, "held", f"inpaint --mask {studio.mask('hole', free)}", LEVELS)
    told = f"{studio.trains('ddpm')}; {edit}"
    return [Row(system, told, picture, f"{said}; {kept(made, truth, free)}")]


SHOWN: dict[str, Callable[[Studio, str], list[Row]]] = {
    "ddpm": draws,
    "iddpm": draws,
    "cfg": classifier_free,
    "adm": classifier_guided,
    "vdm": draws,
    "edm": draws,
    "ncsn": draws,
    "score-sde": draws,
    "sr3": enlarges,
    "palette": restores,
    "sdedit": varies,
    "ilvr": follows,
    "repaint": repaints,
}


def main() -> None:
    """Run the example."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("gallery"))
    p.add_argument("--size", choices=SIZES, default="minutes")
    p.add_argument("--systems", default=",".join(SHOWN), help=f"some of {', '.join(SHOWN)}")
    p.add_argument("--data", nargs="+", default=["digits"], help="images, gray or in colours, with classes")
    p.add_argument("--steps", type=int, help="training steps, in the place of those of the size")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    chosen = args.systems.split(",")
    if unknown := [name for name in chosen if name not in SHOWN]:
        p.error(f"--systems knows {', '.join(SHOWN)}, not {unknown[0]}")
    torch.set_num_threads(1)
    size = SIZES[args.size]._replace(**({"steps": args.steps} if args.steps else {}))
    records, _ = Images.read(resolve(args.data))
    order = np.random.default_rng(args.seed).permutation(len(records))
    fifth = len(order) // 5
    args.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(args.out, records.select(order[fifth:]), records.select(order[:fifth]), size, args.seed)
    rows = []
    for name in chosen:
        rows += SHOWN[name](studio, name)
        print(f"{rows[-1].system}: {rows[-1].measured}", flush=True)
    lines = ["| system | command | picture | measured |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.system} | `{row.command}` | ![{row.system}]({row.picture}) | {row.measured} |" for row in rows]
    (args.out / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
