r"""All metrics of sketches against one reference."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from gendiff import __version__
from gendiff.metrics import Metric, Table
from gendiff.metrics.sets import Scores, matched
from gendiff.modalities.sketches.metrics.features import MAX_TRAINING, Features
from gendiff.modalities.sketches.metrics.rows import METRICS
from gendiff.modalities.sketches.metrics.scores import MOST_PAIRS, View, classes, copies, distances
from gendiff.modalities.sketches.records import SketchArrays

MOST = 5000
"""Sketches of a set that distances look at."""

MOST_COPIES = 1000
"""Sketches that are looked up among the training sketches."""

LEAST, ENOUGH = 50, 500
"""Fewer compared sketches than the first have no distances; fewer than the second are said to be few."""


class Suite:
    r"""The metrics, with the networks trained once, for any number of generated sets.

    The networks learn from at most half of the training set (of the reference, if none is given). What is left gives
    two sets of real sketches that no network has seen: A from the reference, B from the training set, disjoint, as
    many as were generated and with the same words, as far as there are so many. Every number of a generated set is
    measured against A, and the number beside it is the floor: what B scores against A by the same procedure, as a
    perfect model would. (B is training against held-out sketches if a training set is given, else two parts of the
    reference.)

    Arguments:
        reference: Real sketches; a part that was held out if `training` is given.
        training: What the model was trained on; the reference if None.
        seed: Of everything random.
        steps: Steps of training of each network.
    """

    def __init__(
        self, reference: SketchArrays, *, training: SketchArrays | None = None, seed: int = 0, steps: int = 400
    ) -> None:
        self.reference, self.training, self.seed = reference, reference if training is None else training, seed
        order = np.random.default_rng(seed).permutation(len(self.training))
        learnt, rest = np.split(order, [min(len(order) // 2, round(1.25 * MAX_TRAINING))])
        self.unseen = (np.arange(len(reference)), rest) if training is not None else tuple(np.array_split(rest, 2))
        self.learnt, self.steps = self.training.select(learnt), steps

    @cached_property
    def features(self) -> Features | None:
        """The networks, trained when they are first asked for; None if there are too few sketches."""
        return Features.fit(self.learnt, self.seed, self.steps) if len(self.learnt) > 1 else None

    def evaluate(self, generated: SketchArrays, *, n_resamples: int = 200) -> Table:
        """Return the table of one generated set, which may be empty.

        Arguments:
            generated: The sketches, simplified as the reference is.
            n_resamples: Bootstrap resamples of sketches; a quarter of them for Fréchet distances.

        Raises:
            ValueError: if the sketches have another number of coordinates than the reference, or a pen where it has
                none.
        """
        kinds = [(one.dimensions, one.has_pen) for one in (generated, self.reference, self.training) if len(one)]
        if len(set(kinds)) > 1:
            raise ValueError(f"all sets must have as many coordinates, and all a pen or none, got {kinds}")
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
        named = len({*self.learnt.words.tolist()} - {""}) > 1
        features = self.features if named or len(rows[-2]) >= LEAST else None  # else nothing would be said of them
        *new, real, other = (View(one.select(row), features) for one, row in zip(sets, rows, strict=True))
        left: Scores = {}
        right: Scores = {}
        if len(real.arrays) >= LEAST:
            left |= distances(new[0], real, options) if new else {}
            right |= distances(other, real, options)
        if features is not None and features.words:
            left |= classes(features, drawn, options)
            right |= classes(features, real.arrays, options)
        if len(real.arrays) > 3 and real.arrays.dimensions == 2 and real.arrays.has_pen:
            few = [one.arrays.select(np.arange(min(len(one.arrays), MOST_COPIES))) for one in (*new, real)]
            itself = numbers[0][rows[-2]][: len(few[-1])] if self.reference is self.training else None
            near = copies(few[0] if new else drawn, few[-1], self.training, itself, options)
            left |= near[0]
            right |= near[1]
        table = [
            Metric(name, title, left.get(name), right.get(name), unit, better, text)
            for name, (title, unit, better, text) in METRICS.items()
            if name in right
        ]
        facts = self._facts(drawn, generated, real.arrays, features, options)
        return Table(table, facts, "Generated sketches beside real ones")

    def _facts(
        self,
        drawn: SketchArrays,
        generated: SketchArrays,
        real: SketchArrays,
        features: Features | None,
        options: dict[str, Any],
    ) -> dict[str, str]:
        """What the numbers rest on, in words."""
        facts = {
            "generated": f"{len(generated):,} sketches",
            "reference": f"{len(self.reference):,} sketches",
            "training": "the reference" if self.training is self.reference else f"{len(self.training):,} sketches",
            "compared": f"{len(real):,} sketches of each, of the same words; {MOST_PAIRS:,} at most in pairs, "
            f"{MOST_COPIES:,} against training",
        }
        if len(real) < LEAST:
            facts["compared"] += f"; too few for distances, which take {LEAST} of each at least"
        elif len(real) < ENOUGH:
            facts["compared"] += "; these are few: distances are biased upwards and intervals wide"
        missing = sorted({*drawn.words.tolist()} - {*real.words.tolist()} - {""}) if (real.words != "").any() else []
        if missing:
            facts["not compared"] = f"words without unseen real sketches: {', '.join(missing[:5])}" + ", …" * (
                len(missing) > 5
            )
        if features is None:
            facts["networks"] = "none: too few sketches for what they measure"
        else:
            task = f"{len(features.words)} words" if features.words else "transformations of a sketch"
            held_out = features.held_out
            facts["networks"] = f"{features.digest()}, trained on {task} of {len(features.trained_on):,} sketches"
            facts["networks"] += f"; {held_out.value:.1%} right on {held_out.n:,} held-out ones" if held_out else ""
        floor = "two parts of the reference" if self.training is self.reference else "training against reference"
        facts["reference column"] = f"{floor}, as many as generated: the floor of a perfect model"
        facts["intervals"] = f"95 %, {options['n_resamples']:,} bootstrap resamples of sketches; seed {self.seed}"
        facts["versions"] = f"gendiff {__version__}"
        return facts
