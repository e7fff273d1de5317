r"""Feature spaces of sketches, learnt from real ones: one of pictures, one of sequences of points."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendiff.metrics import Floats, Value, frechet_distance, share
from gendiff.modalities.sketches.geometry import normalised
from gendiff.modalities.sketches.metrics.fit import fit_raster, fit_sequence
from gendiff.modalities.sketches.metrics.strokes import stroke_distances
from gendiff.modalities.sketches.raster import SIZE, rasterise
from gendiff.modalities.sketches.records import SketchArrays
from gendiff.nn.features import RasterNetwork, SequenceNetwork

MAX_POINTS = 256
"""Points of a sketch that the network of sequences sees: the first ones."""

MAX_TRAINING = 10_000
"""Sketches that the networks are trained on, at most."""

UNIT = 2000
"""Sketches learnt from by which features are scaled, at most."""

CHUNK = 500
"""Sketches described at once."""


@dataclass
class Features:
    """Networks that describe sketches, made by :meth:`fit`.

    Every sketch is seen in its own box: where it lies and how large it is changes nothing.

    Attributes:
        raster: The network of pictures; None for sequences that are not drawings in two dimensions.
        sequence: The network of sequences of points.
        words: The classes, in order; none if the networks were trained on transformations.
        scale: Standard deviation of the offsets between points, in units of the box.
        trained_on: Which of the reference the networks were trained on, row numbers.
        held_out: Accuracy on real sketches that they were not trained on, by the pictures (by the sequences if there
            are none); None if there were no such sketches.
        units: By what the features of each space are divided, so that their variances add up to 100 over the sketches
            learnt from.
    """

    raster: RasterNetwork | None
    sequence: SequenceNetwork
    words: tuple[str, ...]
    scale: float
    trained_on: NDArray[np.int64]
    held_out: Value | None = None
    units: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, reference: SketchArrays, seed: int = 0, steps: int = 400, held_out: float = 0.2) -> Features:
        """Train the networks on real sketches, a minute on one core.

        They learn to tell the classes apart, if the reference has at least two, else transformations of a sketch (see
        :func:`turned`). One seed gives one result on one machine and number of threads.

        Arguments:
            reference: Real sketches, at least 2; at most 10,000 of them, drawn at random, are learnt from.
            seed: Of everything random.
            steps: Steps of training for each network, at batches of 128.
            held_out: The share that is not learnt from but measures the accuracy; at most 2,500 sketches.

        Raises:
            ValueError: for fewer than 2 sketches, no step, or a share out of range.
        """
        if len(reference) < 2 or steps < 1 or not 0 <= held_out < 1:
            raise ValueError(
                "learning features needs at least 2 sketches, 1 step and a held-out share in [0, 1), got "
                f"{len(reference)}, {steps} and {held_out}"
            )
        rng = np.random.default_rng(seed)
        words = tuple(sorted({*reference.words.tolist()} - {""}))
        words = words if len(words) > 1 else ()
        order = rng.permutation(np.flatnonzero(reference.words != "") if words else len(reference))
        order = order[: round(MAX_TRAINING / (1 - held_out))]
        test, train = np.split(order, [min(round(held_out * len(order)), len(order) - 1)])
        if words:
            taught = reference.select(train)
            labels = shapes = np.searchsorted(words, taught.words)
            kinds = (len(words), len(words))
        else:
            taught = reference.select(np.tile(train, -(-MAX_TRAINING // len(train))))
            kinds = (2 * TURNS, TURNS) if reference.dimensions == 2 else (2, 1)
            labels = rng.integers(kinds[0], size=len(taught))
            taught, shapes = turned(taught, labels), labels // 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sequence = SequenceNetwork(2 * reference.dimensions + 1, kinds[0])
            self = cls(None, sequence, words, spread(taught), np.sort(train))
            fit_sequence(self.sequence, *self._sequences(taught), torch.from_numpy(labels), steps, rng)
            if reference.has_pen and reference.dimensions == 2:
                self.raster = RasterNetwork(kinds[1], SIZE)
                fit_raster(self.raster, torch.from_numpy(rasterise(taught)), torch.from_numpy(shapes), steps, rng)
        some = reference.select(train[:UNIT])
        self.units["sequence"] = _unit(self.describe_sequences(some))
        if self.raster is not None:
            self.units["raster"] = _unit(self.describe_pictures(some))
        real = reference.select(test)
        if words:
            self.held_out = self.accuracy(real)
        elif len(test):
            labels = rng.integers(kinds[0], size=len(test))
            guess = self._logits(turned(real, labels)).argmax(1)
            self.held_out = share(guess == (labels if self.raster is None else labels // 2))
        return self

    def describe_pictures(self, arrays: SketchArrays) -> Floats:
        """Return what the network of pictures sees in sketches, (M, 128).

        Raises:
            ValueError: if there is no such network.
        """
        if self.raster is None:
            raise ValueError("pictures need drawings in two dimensions with a pen")
        return self._run(self.raster.describe, arrays, pictures=True) / self.units.get("raster", 1.0)

    def describe_sequences(self, arrays: SketchArrays) -> Floats:
        """Return what the network of sequences sees in sketches, (M, 128)."""
        return self._run(self.sequence.describe, arrays, pictures=False) / self.units.get("sequence", 1.0)

    def raster_frechet(self, a: SketchArrays, b: SketchArrays) -> float:
        """Return the Fréchet distance of two sets of pictures, in per cent of the variance of the real ones."""
        return frechet_distance(self.describe_pictures(a), self.describe_pictures(b))

    def sequence_frechet(self, a: SketchArrays, b: SketchArrays) -> float:
        """Return the Fréchet distance of two sets of sequences, in per cent of the variance of the real ones."""
        return frechet_distance(self.describe_sequences(a), self.describe_sequences(b))

    def probabilities(self, arrays: SketchArrays) -> Floats:
        """Return how likely each sketch is of each class, (M, K), by its picture (by its sequence if there is none).

        Raises:
            ValueError: if the networks know no classes.
        """
        if not self.words:
            raise ValueError("the reference has fewer than two classes, so there is nothing to recognise")
        logits = self._logits(arrays)
        exp = np.exp(logits - logits.max(1, keepdims=True))
        return exp / exp.sum(1, keepdims=True)

    def accuracy(self, arrays: SketchArrays, **options: int) -> Value | None:
        """Return the share of sketches that are recognised as the word they carry; a word never learnt is missed.

        Arguments:
            arrays: Sketches; those without a word are left out.
            options: `n_resamples` and `seed` of :func:`gendiff.metrics.share`.

        Raises:
            ValueError: if the networks know no classes.
        """
        arrays = arrays.select(arrays.words != "")
        if not len(arrays):
            return None
        return share(np.array(self.words)[self.probabilities(arrays).argmax(1)] == arrays.words, **options)

    def stroke_statistics(self, a: SketchArrays, b: SketchArrays) -> dict[str, float | None]:
        """Return how far the strokes of set a are from those of the real set b, in standard deviations of b's."""
        found = stroke_distances(a, b, n_resamples=2)
        return {name: value.value if value else None for name, value in found.items()}

    def digest(self) -> str:
        """Return a hash of the weights, which says whether two tables were measured in one space."""
        digest = hashlib.sha256()
        for network in (self.raster, self.sequence):
            for name, value in sorted(network.state_dict().items() if network else ()):
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _logits(self, arrays: SketchArrays) -> Floats:
        network = self.sequence if self.raster is None else self.raster
        return self._run(network, arrays, pictures=self.raster is not None)

    @torch.no_grad()
    def _run(self, function: Callable[..., Tensor], arrays: SketchArrays, pictures: bool) -> Floats:
        """Apply a network to all sketches; for sequences in order of length, so that padding is rare."""
        order = np.argsort(arrays.num_points, kind="stable")
        rows: list[Floats] = []
        for start in range(0, len(arrays), CHUNK):
            part = arrays.select(order[start : start + CHUNK])
            inputs = (torch.from_numpy(rasterise(part))[:, None] / 255,) if pictures else self._sequences(part)
            rows.append(function(*inputs).double().numpy())
        if not rows:
            raise ValueError("there are no sketches to describe")
        values = np.concatenate(rows)
        return values[np.argsort(order)]

    def _sequences(self, arrays: SketchArrays) -> tuple[Tensor, Tensor]:
        """Return sketches as padded sequences (M, N, 2D + 1) and their mask (M, N).

        An element is the offset from the point before (from the middle of the box for the first) over the scale, twice
        the place, and ±1 for the pen, in units of the box.
        """
        points = normalised(arrays)
        offset = np.diff(points, axis=0, prepend=0)
        offset[arrays.first] = points[arrays.first]
        pen = 2.0 * arrays.ends[:, None] - 1
        number = np.arange(len(points)) - arrays.first[arrays.sketch_of_point]
        size = np.minimum(arrays.num_points, MAX_POINTS)
        x = np.zeros((len(arrays), size.max(), 2 * arrays.dimensions + 1), np.float32)
        seen = number < MAX_POINTS
        x[arrays.sketch_of_point[seen], number[seen]] = np.hstack([offset / self.scale, 2 * points, pen])[seen]
        return torch.from_numpy(x), torch.from_numpy(np.arange(x.shape[1]) < size[:, None])


TURNS = 8
"""Symmetries of the square."""


def turned(arrays: SketchArrays, kind: NDArray[np.int64]) -> SketchArrays:
    """Return sketches transformed, each by a kind in 0 … 15, (M,); other than two dimensions know 0 and 1 only.

    Odd kinds are drawn from the end to the beginning. Half the kind, rounded down, is one of the eight symmetries of
    the square: bit 0 exchanges x and y, then bit 1 mirrors x and bit 2 mirrors y.
    """
    which = arrays.sketch_of_point
    back, turn = (kind % 2 == 1)[which], (kind // 2)[which]
    row = np.arange(len(which))
    row = np.where(back, (arrays.first + arrays.last)[which] - row, row)
    points = arrays.points[row]
    if arrays.dimensions == 2:
        points = np.where(turn[:, None] & 1, points[:, ::-1], points) * (1 - (turn[:, None] & [2, 4]) // [1, 2])
    # Read backwards, a stroke ends where it began.
    pen = None if arrays.pen is None else np.where(back, np.roll(arrays.pen, 1)[row], arrays.pen)
    return SketchArrays(arrays.num_points, points, pen)


def spread(arrays: SketchArrays) -> float:
    """Return the standard deviation of the offsets between points, in units of the box; 1 if there are none."""
    steps = np.delete(np.diff(normalised(arrays), axis=0), arrays.last[:-1], axis=0)
    return float(steps.std()) or 1.0 if len(steps) else 1.0


def _unit(values: Floats) -> float:
    return float(np.sqrt(values.var(0).sum() / 100)) or 1.0
