"""Suites of metrics by networks that are trained first: what to compare with what, and what there is to say of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gendiff import __version__
from gendiff.metrics.sets import Scores, matched
from gendiff.metrics.table import Metric, Table

Row = tuple[str, str, Literal["higher", "lower"] | None, str]
"""Of a metric its title, its unit, which way is better, and what it means."""

MOST = 5000
"""Records of a set that distances look at."""

MOST_COPIES = 1000
"""Records that are looked up among the training records."""

LEAST, ENOUGH = 50, 500
"""Fewer compared records than the first have no distances; fewer than the second are said to be few."""


class PairedSuite(ABC):
    r"""Metrics against one reference, with the networks trained once, for any number of generated sets.

    The networks learn from at most half of the training set (of the reference, if none is given). What is left gives
    two sets of real records that no network has seen: A from the reference, B from the training set, disjoint, as many
    as were generated and with the same words, as far as there are so many. Every number of a generated set is measured
    against A, and the number beside it is the floor: what B scores against A by the same procedure, as a perfect model
    would. (B is training against held-out records if a training set is given, else two parts of the reference.)

    A set of records has a length, `words` (their classes, "" for none) and `select`.

    Arguments:
        reference: Real records; a part that was held out if `training` is given.
        training: What the model was trained on; the reference if None.
        seed: Of everything random.
        steps: Steps of training of the networks.
    """

    noun: str
    """How the records are called."""

    rows: Mapping[str, Row]
    """The metrics, by name."""

    looks: Any
    """The class of the networks; `looks.fit(records, seed, steps)` trains them."""

    most_learnt: int
    """Records that they are trained on, at most; a quarter as many more show how good they are."""

    network: str
    """How they are called."""

    untold: str
    """What they learn to tell apart where there are no words."""

    most_pairs: int
    """Records that are compared pair by pair, at most."""

    classes: Callable[[Any, Any, dict[str, Any]], Scores]
    """How many records are taken for the word they carry: networks, records, options of the intervals."""

    copies: Callable[[Any, Any, Any, Any, dict[str, Any]], tuple[Scores, Scores]]
    """How near records come to the training set, of the generated and of real ones: these two, the training set, the
    numbers that the real ones have in it (None if they are not part of it), options of the intervals."""

    def __init__(self, reference: Any, training: Any, seed: int, steps: int) -> None:
        self.reference, self.training = reference, reference if training is None else training
        self.seed, self.steps = seed, steps
        order = np.random.default_rng(seed).permutation(len(self.training))
        taught, rest = np.split(order, [min(len(order) // 2, round(1.25 * self.most_learnt))])
        self.unseen = (np.arange(len(reference)), rest) if training is not None else tuple(np.array_split(rest, 2))
        self.learnt = self.training.select(taught)

    @abstractmethod
    def scores(
        self, features: Any, new: Sequence[Any], real: Any, other: Any, options: dict[str, Any]
    ) -> tuple[Scores, Scores]:
        """Return the distances of at least :data:`LEAST` records of each.

        Arguments:
            features: The networks; None if there were too few records to train any.
            new: The generated set, or nothing.
            real: A.
            other: B.
            options: Of the intervals.

        Returns:
            Of the generated set against A, and of B against A.
        """

    def comparable(self, real: Any) -> bool:
        """Whether copies can be looked for."""
        return len(real) > 3

    @cached_property
    def features(self) -> Any:
        """The networks, trained when they are first asked for; None if there are too few records."""
        return self.looks.fit(self.learnt, self.seed, self.steps) if len(self.learnt) > 1 else None

    def table(self, generated: Any, n_resamples: int) -> Table:
        """Return the table of one generated set, which may be empty.

        Arguments:
            generated: The records.
            n_resamples: Bootstrap resamples of records.
        """
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
        features = self.features if named or len(real) >= LEAST else None  # else nothing would be said of them
        left: Scores = {}
        right: Scores = {}
        if len(real) >= LEAST:
            found = self.scores(features, new, real, other, options)
            left |= found[0]
            right |= found[1]
        if features is not None and features.words:
            left |= self.classes(features, drawn, options)
            right |= self.classes(features, real, options)
        if self.comparable(real):
            some = [one.select(np.arange(min(len(one), MOST_COPIES))) for one in (*new, real)]
            itself = numbers[0][rows[-2]][: len(some[-1])] if self.reference is self.training else None
            near = self.copies(some[0] if new else drawn, some[-1], self.training, itself, options)
            left |= near[0]
            right |= near[1]
        table = [
            Metric(name, title, left.get(name), right.get(name), unit, better, text)
            for name, (title, unit, better, text) in self.rows.items()
            if name in right
        ]
        facts = self.facts(drawn, generated, real, features, options)
        return Table(table, facts, f"Generated {self.noun} beside real ones")

    def facts(self, drawn: Any, generated: Any, real: Any, features: Any, options: dict[str, Any]) -> dict[str, str]:
        """Return what the numbers rest on, in words."""
        noun, same = self.noun, self.training is self.reference
        facts = {
            "generated": f"{len(generated):,} {noun}",
            "reference": f"{len(self.reference):,} {noun}",
            "training": "the reference" if same else f"{len(self.training):,} {noun}",
            "compared": f"{len(real):,} {noun} of each, of the same words; {self.most_pairs:,} at most in pairs, "
            f"{MOST_COPIES:,} against training",
        }
        if len(real) < LEAST:
            facts["compared"] += f"; too few for distances, which take {LEAST} of each at least"
        elif len(real) < ENOUGH:
            facts["compared"] += "; these are few: distances are biased upwards and intervals wide"
        missing = sorted({*drawn.words.tolist()} - {*real.words.tolist()} - {""}) if (real.words != "").any() else []
        if missing:
            named = ", ".join(missing[:5]) + ", …" * (len(missing) > 5)
            facts["not compared"] = f"words without unseen real {noun}: {named}"
        if features is None:
            facts[self.network] = f"none: too few {noun} for what it takes to measure by them"
        else:
            task = f"{len(features.words)} words" if features.words else self.untold
            held_out = features.held_out
            facts[self.network] = f"{features.digest()}, trained on {task} of {len(features.trained_on):,} {noun}"
            facts[self.network] += f"; {held_out.value:.1%} right on {held_out.n:,} held-out ones" if held_out else ""
        floor = "two parts of the reference" if same else "training against reference"
        facts["reference column"] = f"{floor}, as many as generated: the floor of a perfect model"
        facts["intervals"] = f"95 %, {options['n_resamples']:,} bootstrap resamples of {noun}; seed {self.seed}"
        facts["versions"] = f"gendiff {__version__}"
        return facts
