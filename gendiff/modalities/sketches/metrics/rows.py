"""What each number of the table means."""

from __future__ import annotations

from gendiff.metrics.paired import Row

METRICS: dict[str, Row] = {
    "raster_frechet": (
        "pictures: Fréchet distance",
        "",
        "lower",
        "Between normal laws of what a network that was trained on real sketches sees in 32 × 32 pictures, in per cent "
        "of the variance of real ones. Falls with the number of sketches; compare at one number and one network.",
    ),
    "raster_kernel": (
        "pictures: kernel distance",
        "",
        "lower",
        "Squared discrepancy under a cubic kernel (KID) of the same numbers, unbiased: about 0 for equal laws.",
    ),
    "precision": ("pictures: precision", "%", "higher", "Generated sketches that lie among real ones (k = 3)."),
    "recall": ("pictures: recall", "%", "higher", "Real sketches that lie among generated ones (k = 3)."),
    "density": (
        "pictures: density",
        "",
        "higher",
        "Real sketches in whose neighbourhood a generated one lies, over k = 5; about 1 for equal laws.",
    ),
    "coverage": (
        "pictures: coverage",
        "%",
        "higher",
        "Real sketches with a generated one in their neighbourhood, k = 5.",
    ),
    "sequence_frechet": (
        "sequences: Fréchet distance",
        "",
        "lower",
        "As for pictures, by a network that reads the points in order: it sees strokes, their order and direction.",
    ),
    "recognised": (
        "recognised as its word",
        "%",
        "higher",
        "Sketches that the network of pictures takes for the word they carry. The reference's number is for real "
        "sketches that the network was not trained on.",
    ),
    "entropy": (
        "classes: entropy",
        "nat",
        None,
        "Of the distribution of recognised classes. Below the reference's, classes are missing or rare.",
    ),
    "points": (
        "points of a sketch",
        "std",
        "lower",
        "Wasserstein-1 distance over the standard deviation of real ones.",
    ),
    "strokes": ("strokes of a sketch", "std", "lower", "As above."),
    "stroke_length": ("length of a stroke", "std", "lower", "As above; lengths in units of the sketch's box."),
    "jump_length": ("jump between strokes", "std", "lower", "As above."),
    "step_length": ("step from point to point", "std", "lower", "As above."),
    "turning": ("angle between steps", "std", "lower", "As above."),
    "aspect": ("height over width", "std", "lower", "As above, of the logarithm."),
    "stroke_kernel": (
        "strokes jointly: kernel distance",
        "",
        "lower",
        "Squared discrepancy (MMD) of the vectors of these statistics, in standard deviations of the real ones, under "
        "a Gaussian kernel as wide as their median distance; unbiased.",
    ),
    "told_apart": (
        "told from real ones",
        "%",
        "lower",
        "Accuracy of a linear classifier of generated against real sketches by everything above and its squares, "
        "cross-validated (C2ST); 50 % is chance.",
    ),
    "copies": (
        "copies of training sketches",
        "%",
        "lower",
        "Sketches nearer (chamfer distance) to one of the training sketches than all but 1 % of real ones are to a "
        "training sketch other than themselves.",
    ),
    "nearest": (
        "distance to training: median",
        "",
        None,
        "Chamfer distance to the nearest training sketch, in units of the box. Below the reference's, a model copies; "
        "above, it draws what nobody drew.",
    ),
    "unique": (
        "unique",
        "%",
        "higher",
        "Sketches without another one among the samples as near as a copy is. Falls as more are drawn.",
    ),
}
"""The rows of a table: title, unit, which direction is better, and what the number means, by name."""
