"""Features of the Inception network, by which FID is measured: only when asked for, and only if it is here already."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gendiff.files import UserError, sha256
from gendiff.metrics import Floats

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
"""Where users find the weights; their SHA-256 starts with the last part of the name."""

CHUNK = 50
"""Images described at once."""


def inception() -> Callable[[NDArray[np.uint8]], Floats]:
    """Return a function that describes images (M, H, W, C), uint8, by the 2,048 features of FID, (M, 2048).

    It is the network of Heusel et al. (GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium, 2017, https://arxiv.org/abs/1706.08500) in torchmetrics, enlarging images as theirs does. Gray counts
    as three equal colours, what is transparent as white.

    Raises:
        UserError: if torch-fidelity or its weights are not here, or the weights are damaged.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL).name
    if find_spec("torch_fidelity") is None:
        raise UserError("FID needs torch-fidelity; install it (pip install torch-fidelity) or leave FID out")
    if not path.is_file():
        raise UserError(f"FID needs the weights of Inception, {path}; put the file {URL} there or leave FID out")
    if not sha256(path).startswith(path.stem.rpartition("-")[2]):
        raise UserError(f"{path}: is damaged or another file; fetch {URL} again")
    from torchmetrics.image.fid import NoTrainInceptionV3

    # The library unpickles whatever a file holds, so it gets the tensors that were read safely.
    tensors = io.BytesIO()
    torch.save(torch.load(path, weights_only=True), tensors)
    tensors.seek(0)
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], tensors, antialias=False)  # type: ignore[arg-type]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)

    @torch.no_grad()
    def describe(pixels: NDArray[np.uint8]) -> Floats:
        parts = (torch.from_numpy(rgb(pixels[start : start + CHUNK])) for start in range(0, len(pixels), CHUNK))
        return np.concatenate([network(part.movedim(-1, 1).to(device)).double().cpu().numpy() for part in parts])

    return describe


def rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels (..., C) as RGB on white, (..., 3)."""
    if pixels.shape[-1] in (2, 4):
        alpha = pixels[..., -1:] / 255
        pixels = np.rint(alpha * pixels[..., :-1] + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)))
