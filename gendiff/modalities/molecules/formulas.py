r"""Molecular formulas: as text, counted in examples, and as the law of elements that are told from the start.

References: | Hill, On a system of indexing chemical literature (1900) | https://doi.org/10.1021/ja02046a005
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.process import GivenProcess
from gendiff.schedule import Schedule
from gendiff.space import Euclidean

SYMBOLS = {number: Chem.GetPeriodicTable().GetElementSymbol(number) for number in range(1, 119)}
NUMBERS = {symbol: number for number, symbol in SYMBOLS.items()}

ATOMS = re.compile(r"([A-Z][a-z]?)(\d{0,3})", re.ASCII)


def write_formula(counts: Mapping[int, int]) -> str:
    """Return a formula in Hill's order: carbon, hydrogen, then the symbols by the alphabet; without carbon all so.

    Arguments:
        counts: How many atoms there are of each atomic number.
    """
    named = {SYMBOLS[number]: count for number, count in counts.items() if count}
    first = [symbol for symbol in ("C", "H") if symbol in named] if "C" in named else []
    order = first + sorted(named.keys() - {*first})
    return "".join(f"{symbol}{named[symbol] if named[symbol] > 1 else ''}" for symbol in order)


def read_formula(text: str) -> Counter[int]:
    """Return how many atoms of each atomic number a formula has, in any order: C2H6O, CH3CH2OH.

    Raises:
        ValueError: for a text that is none.
    """
    counts, parts = Counter[int](), ATOMS.findall(text)
    if not text or "".join(map("".join, parts)) != text or any(symbol not in NUMBERS for symbol, _ in parts):
        raise ValueError(f"{text!r} is no formula, as C7H10O2 is")
    for symbol, count in parts:
        counts[NUMBERS[symbol]] += int(count or 1)
    return +counts


def tally(arrays: MoleculeArrays) -> Counter[str]:
    """Return how many molecules have each formula; charges are no part of it."""
    numbers, places = np.unique(arrays.atomic_numbers, return_inverse=True)
    counts = np.zeros((len(arrays), len(numbers)), np.int64)
    np.add.at(counts, (arrays.molecule_of_atom, places), 1)
    rows, often = np.unique(counts, axis=0, return_counts=True)
    texts = [write_formula(dict(zip(numbers.tolist(), row, strict=True))) for row in rows.tolist()]
    return Counter(dict(zip(texts, often.tolist(), strict=True)))


def sizes_around(formulas: Mapping[str, int], kept: Mapping[int, int]) -> dict[int, int]:
    """Return how many molecules of each size have a formula that contains `kept` atoms, given by atomic number."""
    found = Counter[int]()
    for text, count in formulas.items():
        formula = read_formula(text)
        if all(formula[number] >= least for number, least in kept.items()):
            found[formula.total()] += count
    return dict(sorted(found.items()))


class Composition(GivenProcess):
    r"""Elements that are told from the start: those of a formula c of the training molecules with as many atoms.

    .. math::
        p(c | N) \propto \mathrm{count}(c), \qquad
        p(x | N) = p(c | N) \prod_k c_k! \,/\, N!

    with every order of the atoms alike likely. Networks do not see the order; what is drawn has the heavier elements
    first. Where some elements are known, the formula is one of those that contain them.

    Arguments:
        schedule: Says nothing here.
        space: Where elements live, one feature each.
        elements: Their atomic numbers, ascending.
        formulas: How often each formula occurs, by formula or as pairs.

    Raises:
        ValueError: for a formula that is none, has other elements, or does not occur; if there is none; at a draw, if
            no formula has as many atoms, or contains what is known.
    """

    def __init__(
        self,
        schedule: Schedule,
        space: Euclidean,
        elements: Sequence[int],
        formulas: Mapping[str, int] | Sequence[tuple[str, int]],
    ):
        super().__init__(schedule, space)
        self.elements, often = [int(number) for number in elements], dict(formulas)
        # Pairs, as a table in a configuration is replaced whole when a model is adapted, and a mapping added to.
        self.formulas: list[list[Any]] = [[text, int(count)] for text, count in often.items()]
        if not often or space.features != len(self.elements):
            raise ValueError("elements that are given want formulas, and a space of one feature an element")
        read = [read_formula(text) for text in often]
        for (text, count), formula in zip(self.formulas, read, strict=True):
            if not {*formula} <= {*self.elements} or count < 1:
                raise ValueError(f"formula {text} occurs {count} times, or has elements that are unknown")
        rows = sorted(zip(read, often.values(), strict=True), key=lambda row: row[0].total())
        counts = torch.tensor([[formula[number] for number in self.elements] for formula, _ in rows])
        below = torch.tensor([0, *itertools.accumulate(count for _, count in rows)])
        for name, table in {"_counts": counts, "_size": counts.sum(1), "_below": below}.items():
            self.register_buffer(name, table, persistent=False)

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the counts of all formulas by size, (F, K), their sizes, (F,), and how many molecules come before."""
        return tuple(self.get_buffer(name).to(like.device) for name in ("_counts", "_size", "_below"))  # type: ignore[return-value]

    def prior(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        real = noise.new_ones(noise.shape[:2], dtype=torch.bool) if mask is None else mask
        counts, size, below = self._tables(noise)
        sizes = real.sum(1)
        first, last = (below[torch.searchsorted(size, sizes, right=side)] for side in (False, True))
        if (first == last).any():
            raise ValueError("no formula of the training molecules has so many atoms")
        chosen = first + (_share(noise) * (last - first)).long()
        return self._filled(counts[torch.searchsorted(below, chosen, right=True) - 1], real).to(noise)

    def prior_given(self, noise: Tensor, mask: Tensor | None, known: Tensor, keep: Tensor) -> Tensor:  # noqa: D102
        real = noise.new_ones(noise.shape[:2], dtype=torch.bool) if mask is None else mask
        keep = keep.reshape(real.shape) & real
        kept, free = known * keep[..., None], real & ~keep
        if not free.any():
            return kept
        counts, size, below = self._tables(noise)
        there = kept.sum(1).long()
        fits = size == real.sum(1, keepdim=True)
        for k in range(len(self.elements)):  # (B, F) at a time
            fits &= counts[:, k] >= there[:, k, None]
        total = (fits * below.diff()).cumsum(1)
        if not total[:, -1].all():
            raise ValueError("no formula of the training molecules has so many atoms and contains those that are known")
        chosen = (_share(noise) * total[:, -1]).long()
        rest = counts[torch.searchsorted(total, chosen[:, None], right=True)[:, 0]] - there
        return torch.where(keep[..., None], kept, self._filled(rest, free).to(kept))

    def _filled(self, counts: Tensor, free: Tensor) -> Tensor:
        """Return one-hot elements at the free nodes, (B, N): so many of each, (B, K), the heavier ones first."""
        place = free.cumsum(1)[..., None]
        lighter = (place > counts.flip(1).cumsum(1)[:, None]).sum(2).clamp(max=len(self.elements) - 1)
        return torch.nn.functional.one_hot(len(self.elements) - 1 - lighter, len(self.elements)) * free[..., None]

    def prior_kl(self, x_0: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x_0 | N) in nats, shape (B,); infinite for a formula that does not occur."""
        counts, size, below = self._tables(x_0)
        there = self.space.project(x_0, mask).sum(1).round().long()
        sizes = there.sum(1)
        same = (fits := size == sizes[:, None]).clone()
        for k in range(len(self.elements)):
            same &= counts[:, k] == there[:, k, None]
        often = below.diff()
        share = (same * often).sum(1) / (fits * often).sum(1).clamp(min=1)
        orders = torch.lgamma(sizes + 1.0) - torch.lgamma(there + 1.0).sum(1)
        return (orders - share.log()).to(x_0)


def _share(noise: Tensor) -> Tensor:
    """Return a uniform number below 1 of each sample, (B,): the probability below its first Gumbel number."""
    return noise[:, 0, 0].double().neg().exp().neg().exp().clamp(max=1 - 1e-12)
