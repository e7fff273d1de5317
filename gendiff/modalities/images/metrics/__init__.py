r"""How good are generated images? Everything is learnt and measured offline, seeded, beside what real images score.

No weights are downloaded: the network in whose space images are compared is trained on a part of the real images that
is then not compared with (:class:`Features`); its distance is never called FID, which is another network's. Every
number stands beside its floor, what a perfect model would score: real images against other real ones, as many, by the
same procedure (:class:`Suite`). :func:`ladder` shows what the numbers make of images with known faults, and
:data:`METRICS` says what each number means.

Restored images are compared with the originals pair by pair: :func:`psnr` and :meth:`Features.distance`.
"""

from __future__ import annotations

from gendiff.metrics import Table, Value
from gendiff.modalities.images.metrics.copies import nearest
from gendiff.modalities.images.metrics.features import STEPS, Features
from gendiff.modalities.images.metrics.ladder import ladder, spoil
from gendiff.modalities.images.metrics.pairs import psnr
from gendiff.modalities.images.metrics.rows import METRICS
from gendiff.modalities.images.metrics.suite import Suite
from gendiff.modalities.images.records import ImageArrays

__all__ = [
    "METRICS",
    "Features",
    "Suite",
    "Table",
    "evaluate",
    "ladder",
    "nearest",
    "psnr",
    "recognition",
    "spoil",
]


def evaluate(
    generated: ImageArrays,
    reference: ImageArrays,
    *,
    training: ImageArrays | None = None,
    seed: int = 0,
    steps: int = STEPS,
    n_resamples: int = 200,
    fid: bool = False,
) -> Table:
    """Measure generated images, and real ones by the same procedure; about a minute on one core at 32 × 32 pixels.

    For several generated sets make one :class:`Suite`, whose network is trained once.

    Arguments:
        generated: The images.
        reference: Real images; a part that was held out if `training` is given.
        training: What the model was trained on; the reference if None.
        seed: Of everything random.
        steps: Steps of training of the network.
        n_resamples: Bootstrap resamples of images.
        fid: Also measure FID; see :class:`Suite`.

    Returns:
        The table. What does not apply is left out: words if there are fewer than two, distances if fewer than 50 of
        each are compared. A reference that is too small is said to be so in the facts.

    Raises:
        UserError: if the sets have unlike sizes or numbers of channels, or if FID cannot be had.
    """
    suite = Suite(reference, training=training, seed=seed, steps=steps, fid=fid)
    return suite.evaluate(generated, n_resamples=n_resamples)


def recognition(
    reference: ImageArrays, generated: ImageArrays, seed: int = 0, steps: int = STEPS
) -> tuple[Value | None, Value | None]:
    """Train a classifier on real images and return how many images it takes for the word they carry.

    Arguments:
        reference: Real images of at least two words; a fifth is held out.
        generated: Images with words.
        seed: Of everything random.
        steps: Steps of training.

    Returns:
        The share of generated images that are recognised, and that of the held-out real ones.

    Raises:
        ValueError: if the reference has fewer than two words, or images of another size.
    """
    features = Features.fit(reference, seed, steps)
    return features.accuracy(generated, seed=seed), features.held_out
