r"""Sketches to states and back.

A sketch of n points is the fields

==========  ========  ===================================================================================
field       shape     content
==========  ========  ===================================================================================
stroke      (n, D)    offsets from point to point, the first from the centre of the bounding box, over
                      their root mean square in the training data; or positions around that centre, over
                      theirs
position    (n, D)    of the representation "both": those positions, beside the offsets
pen         (n, 2)    one-hot: goes on, ends a stroke; of the kind "gaussian" (n, 1): -1 and 1
==========  ========  ===================================================================================

Drawings only have a pen; sequences without one are the field `stroke` alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from torch import Tensor

from gendiff.data import Ragged
from gendiff.modalities.sketches.geometry import centred, offsets
from gendiff.modalities.sketches.records import SketchArrays
from gendiff.ops import State

REPRESENTATIONS = ("offset", "absolute", "both")
PENS = ("logits", "gaussian", "categorical")


def to_ragged(arrays: SketchArrays, scale: float, position_scale: float, representation: str, pen: str) -> Ragged:
    """Return sketches as training data.

    Arguments:
        arrays: The sketches.
        scale: Units of the drawing per unit of an offset.
        position_scale: The same for a position.
        representation: "offset", "absolute" or "both".
        pen: "logits", "gaussian" or "categorical"; of drawings.
    """
    step, place = offsets(arrays) / scale, centred(arrays) / position_scale
    fields = {"stroke": _real(place if representation == "absolute" else step)}
    if representation == "both":
        fields["position"] = _real(place)
    if arrays.has_pen:
        ends = torch.from_numpy(arrays.ends)
        one_hot = torch.nn.functional.one_hot(ends.long(), 2).float()
        fields["pen"] = 2 * ends.float()[:, None] - 1 if pen == "gaussian" else one_hot
    return Ragged(torch.from_numpy(arrays.num_points), fields)


def from_state(
    state: State, mask: Tensor, scale: float, position_scale: float, representation: str
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.bool_]]]:
    """Return the points of every sample, (n, D), around the centre of their box, and where its strokes end, (n,).

    With "both" the points are those x that agree best with positions p and offsets d, the minimum of
    :math:`|x - p|^2 / s_p^2 + |\\Delta x - d|^2 / s_d^2`, s being the scales: offsets tell neighbours apart, positions
    keep the sum from drifting.
    """
    sizes = mask.sum(1).tolist()
    stroke = state["stroke"].double().cpu().numpy()
    pen = state["pen"].float().cpu() if "pen" in state else None
    up = None if pen is None else ((pen[..., 0] > 0) if pen.shape[-1] == 1 else pen.argmax(-1) == 1).numpy()
    points, ends = [], []
    for i, n in enumerate(sizes):
        x = stroke[i, :n] * (position_scale if representation == "absolute" else scale)
        if representation == "offset":
            x = x.cumsum(0)
        elif representation == "both":
            place = state["position"][i, :n].double().cpu().numpy() * position_scale
            x = agree(x, place, (position_scale / scale) ** 2)
        points.append(x - (x.min(0) + x.max(0)) / 2)
        ends.append(np.zeros(n, bool) if up is None else up[i, :n].copy())
        ends[-1][-1] = True
    return points, ends


def agree(steps: NDArray[np.float64], places: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    r"""Return the points x that minimize :math:`|x - p|^2 + w |\Delta x - d|^2`, the first step being from the origin.

    Arguments:
        steps: d, (n, D).
        places: p, (n, D).
        weight: w.
    """
    n = len(steps)
    if n == 1:  # no band, which LAPACK refuses
        return (places + weight * steps) / (1 + weight)
    bands = np.zeros((2, n))
    bands[1] = 1 + 2 * weight
    bands[1, -1] = 1 + weight
    bands[0, 1:] = -weight
    pull = weight * steps
    pull[:-1] -= weight * steps[1:]
    return solveh_banded(bands, places + pull)


def _real(x: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))
