"""Classes: words of the examples, and their numbers in the condition "class"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gendiff.files import UserError


def class_counts(words: Sequence[str], sizes: Sequence[int]) -> dict[str, dict[int, int]]:
    """Return how many records of each class have each size, for a :class:`gendiff.sizes.ClassSizes`.

    All count as one class, "", if there are fewer than two words.
    """
    known = sorted({*words} - {""})
    if len(known) < 2:
        return {"": dict(Counter(sizes))}
    return {w: dict(Counter(n for word, n in zip(words, sizes, strict=True) if word == w)) for w in known}


def class_numbers(words: Any, classes: Sequence[str]) -> Tensor:
    """Return the numbers, (M,), of the classes that are asked for, a word or several.

    Raises:
        UserError: for a word that is none of them.
    """
    words = [words] if isinstance(words, (str, int)) else list(words)
    for word in words:
        if str(word) not in classes:
            some = ", ".join(map(repr, classes[:20])) + (", …" if len(classes) > 20 else "")
            raise UserError(f"class {word!r} cannot be asked of this model; it knows {some}")
    return torch.tensor([list(classes).index(str(word)) for word in words])
