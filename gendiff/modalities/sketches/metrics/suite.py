r"""All metrics of sketches against one reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gendiff.metrics import Table
from gendiff.metrics.paired import PairedSuite
from gendiff.metrics.sets import Scores
from gendiff.modalities.sketches.metrics import scores
from gendiff.modalities.sketches.metrics.features import MAX_TRAINING, Features
from gendiff.modalities.sketches.metrics.rows import METRICS
from gendiff.modalities.sketches.records import SketchArrays


class Suite(PairedSuite):
    r"""The metrics, with the networks trained once, for any number of generated sets; see :class:`PairedSuite`.

    Arguments:
        reference: Real sketches; a part that was held out if `training` is given.
        training: What the model was trained on; the reference if None.
        seed: Of everything random.
        steps: Steps of training of each network.
    """

    noun, rows = "sketches", METRICS
    network, untold = "networks", "transformations of a sketch"
    looks, most_learnt, most_pairs = Features, MAX_TRAINING, scores.MOST_PAIRS
    classes, copies = staticmethod(scores.classes), staticmethod(scores.copies)

    def __init__(
        self, reference: SketchArrays, *, training: SketchArrays | None = None, seed: int = 0, steps: int = 400
    ) -> None:
        super().__init__(reference, training, seed, steps)

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
        return self.table(generated, n_resamples)

    def scores(  # noqa: D102
        self, features: Features | None, new: Sequence[Any], real: Any, other: Any, options: dict[str, Any]
    ) -> tuple[Scores, Scores]:
        *views, truth, floor = (scores.View(one, features) for one in (*new, real, other))
        left = scores.distances(views[0], truth, options) if views else {}
        return left, scores.distances(floor, truth, options)

    def comparable(self, real: SketchArrays) -> bool:  # noqa: D102
        return super().comparable(real) and real.dimensions == 2 and real.has_pen
