r"""How good are drawn sketches? Everything is learnt and measured offline, seeded, beside what real sketches score.

No weights are downloaded: the networks in whose spaces sketches are compared are trained on a part of the real
sketches that is then not compared with (:class:`Features`). Every number stands beside its floor, what a perfect model
would score: real sketches against other real ones, as many, by the same procedure (:class:`Suite`). :func:`ladder`
shows what the numbers make of sketches with known faults, and :data:`METRICS` says what each number means.

All that is measured of a sketch is in units of the longer side of its own bounding box, whose middle is the origin: no
metric depends on where a sketch lies or how large it is. Generated and real sketches must have gone through the same
simplification before; nothing is resampled or simplified here.
"""

from __future__ import annotations

from gendiff.metrics import Table, Value
from gendiff.modalities.sketches.metrics.copies import chamfer, nearest
from gendiff.modalities.sketches.metrics.features import Features
from gendiff.modalities.sketches.metrics.ladder import ladder, spoil
from gendiff.modalities.sketches.metrics.rows import METRICS
from gendiff.modalities.sketches.metrics.strokes import stroke_distances, stroke_values
from gendiff.modalities.sketches.metrics.suite import Suite
from gendiff.modalities.sketches.records import SketchArrays

__all__ = [
    "METRICS",
    "Features",
    "Suite",
    "Table",
    "chamfer",
    "evaluate",
    "ladder",
    "nearest",
    "recognition",
    "spoil",
    "stroke_distances",
    "stroke_values",
]


def evaluate(
    generated: SketchArrays,
    reference: SketchArrays,
    *,
    training: SketchArrays | None = None,
    seed: int = 0,
    steps: int = 400,
    n_resamples: int = 200,
) -> Table:
    """Measure generated sketches, and real ones by the same procedure; about two minutes on one core.

    For several generated sets make one :class:`Suite`, whose networks are trained once.

    Arguments:
        generated: The sketches.
        reference: Real sketches; a part that was held out if `training` is given.
        training: What the model was trained on; the reference if None.
        seed: Of everything random.
        steps: Steps of training of each network.
        n_resamples: Bootstrap resamples of sketches.

    Returns:
        The table. What does not apply is left out: pictures, copies without drawings in two dimensions, words if there
        are fewer than two, distances if fewer than 50 of each are compared. A reference that is too small is said to
        be so in the facts.

    Raises:
        ValueError: if the sets have unlike numbers of coordinates, or some a pen and some none.
    """
    suite = Suite(reference, training=training, seed=seed, steps=steps)
    return suite.evaluate(generated, n_resamples=n_resamples)


def recognition(
    reference: SketchArrays, generated: SketchArrays, seed: int = 0, steps: int = 400
) -> tuple[Value | None, Value | None]:
    """Train a classifier on real sketches and return how many sketches it takes for the word they carry.

    Arguments:
        reference: Real sketches of at least two words; a fifth is held out.
        generated: Sketches with words.
        seed: Of everything random.
        steps: Steps of training.

    Returns:
        The share of generated sketches that are recognised, and that of the held-out real ones.

    Raises:
        ValueError: if the reference has fewer than two words.
    """
    features = Features.fit(reference, seed, steps)
    return features.accuracy(generated, seed=seed), features.held_out
