r"""The feature space of images, learnt from real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendiff.metrics import Floats, Value, frechet_distance, share
from gendiff.modalities.images.metrics.fit import fit, seen, side
from gendiff.modalities.images.records import ImageArrays, kind
from gendiff.nn.features import RasterNetwork

MAX_TRAINING = 20_000
"""Images that the network is trained on, at most."""

UNIT = 2000
"""Images learnt from by which features are scaled, at most."""

CHUNK = 250
"""Images described at once."""

STEPS = 800
"""Steps of training by default."""


@dataclass
class Features:
    """A network that describes images, made by :meth:`fit`.

    Attributes:
        network: What looks at images.
        shape: (H, W, C) of the images it knows.
        words: The classes, in order; none if the network was trained on transformations.
        trained_on: Which of the reference the network was trained on, row numbers.
        held_out: Accuracy on real images that it was not trained on; None if there were no such images.
        unit: By what features are divided, so that their variances add up to 100 over the images learnt from.
    """

    network: RasterNetwork
    shape: tuple[int, int, int]
    words: tuple[str, ...]
    trained_on: NDArray[np.int64]
    held_out: Value | None = None
    unit: float = 1.0

    @classmethod
    def fit(cls, reference: ImageArrays, seed: int = 0, steps: int = STEPS, held_out: float = 0.2) -> Features:
        """Train the network on real images, about a minute on one core at 32 × 32 pixels.

        It learns to tell the classes apart, if the reference has at least two, else how an image was turned (see
        :func:`turned`). One seed gives one result on one machine and number of threads.

        Arguments:
            reference: Real images, at least 2; at most 20,000 of them, drawn at random, are learnt from.
            seed: Of everything random.
            steps: Steps of training, at batches of 128.
            held_out: The share that is not learnt from but measures the accuracy; at most 5,000 images.

        Raises:
            ValueError: for fewer than 2 images, no step, or a share out of range.
        """
        if len(reference) < 2 or steps < 1 or not 0 <= held_out < 1:
            raise ValueError(
                "learning features needs at least 2 images, 1 step and a held-out share in [0, 1), got "
                f"{len(reference)}, {steps} and {held_out}"
            )
        rng = np.random.default_rng(seed)
        words = tuple(sorted({*reference.words.tolist()} - {""}))
        words = words if len(words) > 1 else ()
        order = rng.permutation(np.flatnonzero(reference.words != "") if words else len(reference))
        order = order[: round(MAX_TRAINING / (1 - held_out))]
        test, train = np.split(order, [min(round(held_out * len(order)), len(order) - 1)])
        labels = np.searchsorted(words, reference.words) if words else np.zeros(len(reference), np.int64)
        turns = 8 if reference.size[0] == reference.size[1] else 4

        def examples(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            rows = train[numbers]
            if words:
                return seen(reference.pixels[rows]), torch.from_numpy(labels[rows])
            turn = rng.integers(turns, size=len(rows))
            return seen(turned(reference.pixels[rows], turn)), torch.from_numpy(turn)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = RasterNetwork(len(words) or turns, side(*reference.size), channels=reference.channels)
            fit(network, examples, len(train), steps, rng)
        self = cls(network, (*reference.size, reference.channels), words, np.sort(train))
        variance = self.describe(reference.select(train[:UNIT])).var(0).sum()
        self.unit = float(np.sqrt(variance / 100)) or 1.0
        real = reference.select(test)
        if words:
            self.held_out = self.accuracy(real)
        elif len(test):
            turn = rng.integers(turns, size=len(test))
            self.held_out = share(self._run(self.network, turned(real.pixels, turn)).argmax(1) == turn)
        return self

    def describe(self, arrays: ImageArrays) -> Floats:
        """Return what the network sees in images, (M, 128).

        Raises:
            ValueError: for no image, or images of another size or number of channels than the network was trained on.
        """
        return self._run(self.network.describe, arrays.pixels) / self.unit

    def frechet(self, a: ImageArrays, b: ImageArrays) -> float:
        """Return the Fréchet distance of two sets of images, in per cent of the variance of the real ones."""
        return frechet_distance(self.describe(a), self.describe(b))

    def distance(self, a: ImageArrays, b: ImageArrays) -> Floats:
        """Return how unlike the images of each pair look, (M,): 0 for equal ones, 1 as two real ones drawn at random.

        It is the distance of their features over the root mean square of that between real images.

        Raises:
            ValueError: as :meth:`describe`, or if the sets are not of one length.
        """
        if len(a) != len(b):
            raise ValueError(f"pairs need two sets of one length, got {len(a):,} and {len(b):,} images")
        return np.linalg.norm(self.describe(a) - self.describe(b), axis=1) / np.sqrt(200)

    def probabilities(self, arrays: ImageArrays) -> Floats:
        """Return how likely each image is of each class, (M, K).

        Raises:
            ValueError: as :meth:`describe`, or if the network knows no classes.
        """
        if not self.words:
            raise ValueError("the reference has fewer than two classes, so there is nothing to recognise")
        logits = self._run(self.network, arrays.pixels)
        exp = np.exp(logits - logits.max(1, keepdims=True))
        return exp / exp.sum(1, keepdims=True)

    def accuracy(self, arrays: ImageArrays, **options: int) -> Value | None:
        """Return the share of images that are recognised as the word they carry; a word never learnt is missed.

        Arguments:
            arrays: Images; those without a word are left out.
            options: `n_resamples` and `seed` of :func:`gendiff.metrics.share`.

        Raises:
            ValueError: as :meth:`probabilities`.
        """
        arrays = arrays.select(arrays.words != "")
        if not len(arrays):
            return None
        return share(np.array(self.words)[self.probabilities(arrays).argmax(1)] == arrays.words, **options)

    def digest(self) -> str:
        """Return a hash of the weights, which says whether two tables were measured in one space."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _run(self, function: Callable[[Tensor], Tensor], pixels: NDArray[np.uint8]) -> Floats:
        """Apply the network to all images, (M, H, W, C)."""
        if not len(pixels):
            raise ValueError("there are no images to describe")
        if pixels.shape[1:] != self.shape:
            raise ValueError(f"the network was trained on images of {kind(self.shape)}, not {kind(pixels.shape)}")
        parts = (pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK))
        return np.concatenate([function(seen(part)).double().numpy() for part in parts])


def turned(pixels: NDArray[np.uint8], turn: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return images (M, H, W, C), each turned by one of the eight symmetries of the square, 0 … 7, (M,).

    Bit 0 mirrors left and right, then bit 1 mirrors up and down, then bit 2 exchanges rows and columns, which images
    that are no squares cannot do: they know 0 … 3 only.
    """
    turn = turn[:, None, None, None]
    pixels = np.where(turn & 1, pixels[:, :, ::-1], pixels)
    pixels = np.where(turn & 2, pixels[:, ::-1], pixels)
    return np.where(turn & 4, pixels.swapaxes(1, 2), pixels) if (turn & 4).any() else pixels
