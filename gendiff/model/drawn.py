"""Samples that are drawn until there are enough of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gendiff.files import UserError


@dataclass
class Drawn:
    """Samples and how they came about.

    Attributes:
        records: What was kept, in order of their indices.
        indices: Index of each in the stream of samples of this seed.
        drawn: How many samples were drawn in all.
        remark: What else there is to say of them, in one line, or "".
    """

    records: list[Any] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    drawn: int = 0
    remark: str = ""

    @property
    def rate(self) -> float:
        """Share of the drawn samples that was kept."""
        return len(self.records) / max(self.drawn, 1)


def collect(
    n: int,
    draw: Callable[[torch.Tensor], list[Any]],
    keep: Callable[[list[Any]], list[bool]],
    only: Sequence[str],
    batch_size: int,
    max_draws: int | None = None,
) -> Drawn:
    """Draw samples 0, 1, 2, .. until `n` of them are kept.

    Arguments:
        n: How many to return.
        draw: Numbers of samples, (M,), to their records.
        keep: Which records are kept.
        only: What is asked of them, for the error; nothing means that all are kept.
        batch_size: Samples computed together.
        max_draws: Give up after this many draws (100 n with `only`, else n).

    Raises:
        UserError: for n or a batch size below 1, or when (nearly) nothing is kept.
    """
    if n < 1:
        raise UserError(f"-n must be at least 1, got {n}")
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    limit = max_draws or (n if not only else 100 * n)
    result = Drawn()
    while len(result.records) < n and result.drawn < limit:
        missing = n - len(result.records)
        if result.records:
            count = round(missing / max(result.rate, 0.05)) + 8
        else:  # as many again as in vain: few of them would waste the batch
            count = max(missing, result.drawn)
        count = max(1, min(count, limit - result.drawn, max(n, 16 * batch_size)))
        records = draw(torch.arange(result.drawn, result.drawn + count))
        for i, good in enumerate(keep(records)):
            if good and len(result.records) < n:
                result.records.append(records[i])
                result.indices.append(result.drawn + i)
                last = i
        result.drawn += last + 1 if len(result.records) == n else count
    if len(result.records) < n:
        raise UserError(
            f"only {len(result.records)} of {result.drawn:,} samples are {', '.join(only)}; {n} were asked for:"
            " train longer or relax --only"
        )
    return result
