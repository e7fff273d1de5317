r"""All metrics of images against one reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gendiff.files import UserError
from gendiff.metrics import Table, compare, frechet_distance
from gendiff.metrics.paired import PairedSuite
from gendiff.metrics.sets import Scores
from gendiff.modalities.images.metrics import scores
from gendiff.modalities.images.metrics.features import MAX_TRAINING, STEPS, Features
from gendiff.modalities.images.metrics.inception import inception
from gendiff.modalities.images.metrics.rows import METRICS
from gendiff.modalities.images.records import ImageArrays, kind


class Suite(PairedSuite):
    r"""The metrics, with the network trained once, for any number of generated sets; see :class:`PairedSuite`.

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

    noun, rows = "images", METRICS
    network, untold = "network", "how an image was turned,"
    looks, most_learnt, most_pairs = Features, MAX_TRAINING, scores.MOST_PAIRS
    classes, copies = staticmethod(scores.classes), staticmethod(scores.copies)

    def __init__(
        self,
        reference: ImageArrays,
        *,
        training: ImageArrays | None = None,
        seed: int = 0,
        steps: int = STEPS,
        fid: bool = False,
    ) -> None:
        _alike("training images", reference if training is None else training, reference)
        super().__init__(reference, training, seed, steps)
        self.inception = inception() if fid else None

    def evaluate(self, generated: ImageArrays, *, n_resamples: int = 200) -> Table:
        """Return the table of one generated set, which may be empty.

        Arguments:
            generated: The images.
            n_resamples: Bootstrap resamples of images; a quarter of them for Fréchet distances.

        Raises:
            UserError: if the images have another size or number of channels than the reference.
        """
        _alike("generated images", generated, self.reference)
        return self.table(generated, n_resamples)

    def scores(  # noqa: D102
        self, features: Features | None, new: Sequence[Any], real: Any, other: Any, options: dict[str, Any]
    ) -> tuple[Scores, Scores]:
        left: Scores = {}
        right: Scores = {}
        if features is not None:
            *seen, floor, truth = (features.describe(one) for one in (*new, other, real))
            left |= scores.distances(seen[0], truth, options) if seen else {}
            right |= scores.distances(floor, truth, options)
        if self.inception is not None:
            few = options | {"n_resamples": max(2, options["n_resamples"] // 20)}
            *seen, floor, truth = (self.inception(one.pixels) for one in (*new, other, real))
            left["fid"] = compare(frechet_distance, seen[0], truth, **few) if seen else None
            right["fid"] = compare(frechet_distance, floor, truth, **few)
        return left, right

    def facts(self, *sets: Any) -> dict[str, str]:  # noqa: D102
        size = kind(self.reference.pixels.shape)
        return super().facts(*sets) | {"reference": f"{len(self.reference):,} images of {size}"}


def _alike(what: str, these: ImageArrays, reference: ImageArrays) -> None:
    if len(these) and these.pixels.shape[1:] != reference.pixels.shape[1:]:
        raise UserError(
            f"the {what} are {kind(these.pixels.shape)}, the reference {kind(reference.pixels.shape)}: all must be of"
            " one kind; read the reference with --resize and --channels, or generate again"
        )
