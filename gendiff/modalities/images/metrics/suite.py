r"""All metrics of images against one reference."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from gendiff import __version__
from gendiff.files import UserError
from gendiff.metrics import Metric, Table, compare, frechet_distance
from gendiff.metrics.sets import Scores, matched
from gendiff.modalities.images.metrics.features import MAX_TRAINING, STEPS, Features
from gendiff.modalities.images.metrics.inception import inception
from gendiff.modalities.images.metrics.rows import METRICS
from gendiff.modalities.images.metrics.scores import MOST_PAIRS, classes, copies, distances
from gendiff.modalities.images.records import ImageArrays, kind

MOST = 5000
"""Images of a set that distances look at."""

MOST_COPIES = 1000
"""Images that are looked up among the training images."""

LEAST, ENOUGH = 50, 500
"""Fewer compared images than the first have no distances; fewer than the second are said to be few."""


class Suite:
    r"""The metrics, with the network trained once, for any number of generated sets.

    The network learns from at most half of the training set (of the reference, if none is given). What is left gives
    two sets of real images that it has not seen: A from the reference, B from the training set, disjoint, as many as
    were generated and with the same words, as far as there are so many. Every number of a generated set is measured
    against A, and the number beside it is the floor: what B scores against A by the same procedure, as a perfect model
    would. (B is training against held-out images if a training set is given, else two parts of the reference.)

    Arguments:
        reference: Real images; a part that was held out if `training` is given.
        training: What the model was trained on; the reference if None.
        seed: Of everything random.
        steps: Steps of training of the network.
        fid: Also measure FID. This takes torch-fidelity and the weights of its Inception network, which are never
            fetched from here, and about a tenth of a second an image on one core.

    Raises:
        UserError: for training images of another size than the reference, or if FID is asked for and cannot be had.
    """

    def __init__(
        self,
        reference: ImageArrays,
        *,
        training: ImageArrays | None = None,
        seed: int = 0,
        steps: int = STEPS,
        fid: bool = False,
    ) -> None:
        self.reference, self.training, self.seed = reference, reference if training is None else training, seed
        _alike("training images", self.training, reference)
        self.inception = inception() if fid else None
        order = np.random.default_rng(seed).permutation(len(self.training))
        learnt, rest = np.split(order, [min(len(order) // 2, round(1.25 * MAX_TRAINING))])
        self.unseen = (np.arange(len(reference)), rest) if training is not None else tuple(np.array_split(rest, 2))
        self.learnt, self.steps = self.training.select(learnt), steps

    @cached_property
    def features(self) -> Features | None:
        """The network, trained when it is first asked for; None if there are too few images."""
        return Features.fit(self.learnt, self.seed, self.steps) if len(self.learnt) > 1 else None

    def evaluate(self, generated: ImageArrays, *, n_resamples: int = 200) -> Table:
        """Return the table of one generated set, which may be empty.

        Arguments:
            generated: The images.
            n_resamples: Bootstrap resamples of images; a quarter of them for Fréchet distances.

        Raises:
            UserError: if the images have another size or number of channels than the reference.
        """
        _alike("generated images", generated, self.reference)
        options = {"n_resamples": n_resamples, "seed": self.seed}
        rng = np.random.default_rng([self.seed, 1])
        drawn = generated.select(rng.permutation(len(generated))[:MOST])
        numbers = [rng.permutation(rows) for rows in self.unseen]
        sets = [one.select(rows) for one, rows in zip((self.reference, self.training), numbers, strict=True)]
        sets = [drawn, *sets] if len(drawn) else sets
        words = [one.words for one in sets]
        if not all((word != "").any() for word in words):  # one of them knows no words
            words = [np.full(len(word), "") for word in words]
        rows = matched(words, MOST)
        *new, real, other = (one.select(row) for one, row in zip(sets, rows, strict=True))
        named = len({*self.learnt.words.tolist()} - {""}) > 1
        features = self.features if named or len(real) >= LEAST else None  # else nothing would be said of it
        left: Scores = {}
        right: Scores = {}
        if len(real) >= LEAST and features is not None:
            seen = [features.describe(one) for one in (*new, other, real)]
            left |= distances(seen[0], seen[-1], options) if new else {}
            right |= distances(seen[-2], seen[-1], options)
        if len(real) >= LEAST and self.inception is not None:
            few = options | {"n_resamples": max(2, n_resamples // 20)}
            *ours, floor, truth = (self.inception(one.pixels) for one in (*new, other, real))
            left["fid"] = compare(frechet_distance, ours[0], truth, **few) if new else None
            right["fid"] = compare(frechet_distance, floor, truth, **few)
        if features is not None and features.words:
            left |= classes(features, drawn, options)
            right |= classes(features, real, options)
        if len(real) > 3:
            some = [one.select(np.arange(min(len(one), MOST_COPIES))) for one in (*new, real)]
            itself = numbers[0][rows[-2]][: len(some[-1])] if self.reference is self.training else None
            near = copies(some[0] if new else drawn, some[-1], self.training, itself, options)
            left |= near[0]
            right |= near[1]
        table = [
            Metric(name, title, left.get(name), right.get(name), unit, better, text)
            for name, (title, unit, better, text) in METRICS.items()
            if name in right
        ]
        facts = self._facts(drawn, generated, real, features, options)
        return Table(table, facts, "Generated images beside real ones")

    def _facts(
        self,
        drawn: ImageArrays,
        generated: ImageArrays,
        real: ImageArrays,
        features: Features | None,
        options: dict[str, Any],
    ) -> dict[str, str]:
        """What the numbers rest on, in words."""
        facts = {
            "generated": f"{len(generated):,} images",
            "reference": f"{len(self.reference):,} images of {kind(self.reference.pixels.shape)}",
            "training": "the reference" if self.training is self.reference else f"{len(self.training):,} images",
            "compared": f"{len(real):,} images of each, of the same words; {MOST_PAIRS:,} at most in pairs, "
            f"{MOST_COPIES:,} against training",
        }
        if len(real) < LEAST:
            facts["compared"] += f"; too few for distances, which take {LEAST} of each at least"
        elif len(real) < ENOUGH:
            facts["compared"] += "; these are few: distances are biased upwards and intervals wide"
        missing = sorted({*drawn.words.tolist()} - {*real.words.tolist()} - {""}) if (real.words != "").any() else []
        if missing:
            facts["not compared"] = f"words without unseen real images: {', '.join(missing[:5])}" + ", …" * (
                len(missing) > 5
            )
        if features is None:
            facts["network"] = "none: too few images for what it measures"
        else:
            task = f"{len(features.words)} words" if features.words else "how an image was turned,"
            held_out = features.held_out
            facts["network"] = f"{features.digest()}, trained on {task} of {len(features.trained_on):,} images"
            facts["network"] += f"; {held_out.value:.1%} right on {held_out.n:,} held-out ones" if held_out else ""
        floor = "two parts of the reference" if self.training is self.reference else "training against reference"
        facts["reference column"] = f"{floor}, as many as generated: the floor of a perfect model"
        facts["intervals"] = f"95 %, {options['n_resamples']:,} bootstrap resamples of images; seed {self.seed}"
        facts["versions"] = f"gendiff {__version__}"
        return facts


def _alike(what: str, these: ImageArrays, reference: ImageArrays) -> None:
    if len(these) and these.pixels.shape[1:] != reference.pixels.shape[1:]:
        raise UserError(
            f"the {what} are {kind(these.pixels.shape)}, the reference {kind(reference.pixels.shape)}: all must be of"
            " one kind; read the reference with --resize and --channels, or generate again"
        )
