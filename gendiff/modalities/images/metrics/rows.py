"""What each number of the table means."""

from __future__ import annotations

from gendiff.metrics.paired import Row

METRICS: dict[str, Row] = {
    "frechet": (
        "Fréchet distance",
        "",
        "lower",
        "Between normal laws of what a small network that was trained on real images sees in both sets, in per cent of "
        "the variance of real ones. It is not FID, which is by another network. Falls with the number of images; "
        "compare at one number and one network.",
    ),
    "kernel": (
        "kernel distance",
        "",
        "lower",
        "Squared discrepancy under a cubic kernel (as KID) of the same numbers, unbiased: about 0 for equal laws.",
    ),
    "precision": ("precision", "%", "higher", "Generated images that lie among real ones (k = 3)."),
    "recall": ("recall", "%", "higher", "Real images that lie among generated ones (k = 3)."),
    "density": (
        "density",
        "",
        "higher",
        "Real images in whose neighbourhood a generated one lies, over k = 5; about 1 for equal laws.",
    ),
    "coverage": ("coverage", "%", "higher", "Real images with a generated one in their neighbourhood, k = 5."),
    "told_apart": (
        "told from real ones",
        "%",
        "lower",
        "Accuracy of a linear classifier of generated against real images by the same numbers and their squares, "
        "cross-validated (C2ST); 50 % is chance.",
    ),
    "fid": (
        "FID",
        "",
        "lower",
        "Fréchet distance of the features of the Inception network; intervals by a twentieth of the resamples. It "
        "compares with published numbers only with tens of thousands of images.",
    ),
    "recognised": (
        "recognised as its word",
        "%",
        "higher",
        "Images that the network takes for the word they carry. The reference's number is for real images that the "
        "network was not trained on.",
    ),
    "entropy": (
        "classes: entropy",
        "nat",
        None,
        "Of the distribution of recognised classes. Below the reference's, classes are missing or rare.",
    ),
    "equal": (
        "equal to a training image",
        "%",
        "lower",
        "Images of which every pixel is that of one of the training images.",
    ),
    "copies": (
        "copies of training images",
        "%",
        "lower",
        "Images nearer to one of the training images than all but 1 % of real ones are to a training image other than "
        "themselves. Blurred images and plain ones are near to many.",
    ),
    "nearest": (
        "distance to training: median",
        "level",
        None,
        "To the nearest training image, the root mean square of differences of pixels, 0 to 255. Below the "
        "reference's, a model copies or blurs.",
    ),
    "unique": (
        "unique",
        "%",
        "higher",
        "Images without another one among the samples as near as a copy is. Falls as more are drawn.",
    ),
}
"""The rows of a table: title, unit, which direction is better, and what the number means, by name."""
