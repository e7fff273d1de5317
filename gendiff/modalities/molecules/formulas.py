r"""Molecular formulas: as text, counted in examples, and as the law of elements that are told from the start.

References: | Hill, On a system of indexing chemical literature (1900) | https://doi.org/10.1021/ja02046a005
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.process import GivenProcess
from gendiff.schedule import Schedule
from gendiff.space import Euclidean

ATOMS = re.compile(r"([A-Z][a-z]?)(\d{0,3})", re.ASCII)


def write_formula(counts: Mapping[int, int]) -> str:
    """Return a formula in Hill's order: carbon, hydrogen, then the symbols by the alphabet; without carbon all so.

    Arguments:
        counts: How many atoms there are of each atomic number.
    """
    table = Chem.GetPeriodicTable()
    named = {table.GetElementSymbol(number): count for number, count in counts.items() if count}
    first = [symbol for symbol in ("C", "H") if symbol in named] if "C" in named else []
    order = first + sorted(named.keys() - {*first})
    return "".join(f"{symbol}{named[symbol] if named[symbol] > 1 else ''}" for symbol in order)


def read_formula(text: str) -> Counter[int]:
    """Return how many atoms of each atomic number a formula has, in any order: C2H6O, CH3CH2OH.

    Raises:
        ValueError: for a text that is none.
    """
    table, counts = Chem.GetPeriodicTable(), Counter[int]()
    known = {table.GetElementSymbol(number): number for number in range(1, 119)}
    parts = ATOMS.findall(text)
    if not text or "".join(map("".join, parts)) != text or any(symbol not in known for symbol, _ in parts):
        raise ValueError(f"{text!r} is no formula, as C7H10O2 is")
    for symbol, count in parts:
        counts[known[symbol]] += int(count or 1)
    return +counts


def tally(arrays: MoleculeArrays) -> Counter[str]:
    """Return how many molecules have each formula; charges are no part of it."""
    numbers, places = np.unique(arrays.atomic_numbers, return_inverse=True)
    counts = np.zeros((len(arrays), len(numbers)), np.int64)
    np.add.at(counts, (arrays.molecule_of_atom, places), 1)
    rows, often = np.unique(counts, axis=0, return_counts=True)
    texts = [write_formula(dict(zip(numbers.tolist(), row, strict=True))) for row in rows.tolist()]
    return Counter(dict(zip(texts, often.tolist(), strict=True)))


class Composition(GivenProcess):
    r"""Elements that are told from the start: those of a formula c of the training molecules with as many atoms.

    .. math::
        p(c | N) \propto \mathrm{count}(c), \qquad
        p(x | N) = p(c | N) \prod_k c_k! \,/\, N!

    with every order of the atoms alike likely. Networks do not see the order; what is drawn has the heavier elements
    first. Where some elements are known, the formula is one that contains them or, if there is none of N atoms, one
    that lacks fewest of them, and loses its lightest atoms for those.

    Arguments:
        schedule: Says nothing here.
        space: Where elements live, one feature each.
        elements: Their atomic numbers, ascending.
        formulas: How often each formula occurs.

    Raises:
        ValueError: for a formula that is none, has other elements, or does not occur; or if there is none.
    """

    def __init__(self, schedule: Schedule, space: Euclidean, elements: Sequence[int], formulas: Mapping[str, int]):
        super().__init__(schedule, space)
        self.elements, self.formulas = [int(number) for number in elements], dict(formulas)
        if not formulas or space.features != len(self.elements):
            raise ValueError("elements that are given want formulas, and a space of one feature an element")
        read = {text: read_formula(text) for text in self.formulas}
        for text, counts in read.items():
            if not {*counts} <= {*self.elements} or self.formulas[text] < 1:
                raise ValueError(f"formula {text} occurs {self.formulas[text]} times, or has elements that are unknown")
        table = torch.tensor([[row[number] for number in self.elements] for row in read.values()])
        self.register_buffer("_counts", table, persistent=False)
        often = torch.tensor(list(self.formulas.values()), dtype=torch.float64)
        self.register_buffer("_often", often, persistent=False)

    def _law(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the counts of all formulas, (F, K), and their unscaled law for each of some sizes, (B, F)."""
        counts = self.get_buffer("_counts").to(sizes.device)
        return counts, self.get_buffer("_often").to(sizes.device) * (counts.sum(1) == sizes[:, None])

    def prior(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        return self.prior_given(
            noise, mask, torch.zeros_like(noise), noise.new_zeros(noise.shape[:2], dtype=torch.bool)
        )

    def prior_given(self, noise: Tensor, mask: Tensor | None, known: Tensor, keep: Tensor) -> Tensor:  # noqa: D102
        keep = keep.reshape(noise.shape[:2])
        real = torch.ones_like(keep) if mask is None else mask
        sizes, kept = real.sum(1), self.space.project(known * keep[..., None], mask)
        counts, law = self._law(sizes)
        there = kept.sum(1).long()
        lacking = (there[:, None] - counts).clamp(min=0).sum(2)
        possible = torch.where(law > 0, lacking, lacking.max() + 1)
        total = (law * (possible == possible.amin(1, keepdim=True))).cumsum(1)
        u = noise[:, 0, 0].double().neg().exp().neg().exp().clamp(max=1 - 1e-12)  # the share below a Gumbel number
        chosen = (total <= u[:, None] * total[:, -1:]).sum(1).clamp(max=len(counts) - 1)
        rest = (counts[chosen] - there).clamp(min=0).flip(1).cumsum(1)  # heavier elements first
        place = (real & ~keep).cumsum(1) - 1
        heavier = (place[..., None] >= rest[:, None]).sum(2).clamp(max=len(self.elements) - 1)
        drawn = torch.nn.functional.one_hot(len(self.elements) - 1 - heavier, len(self.elements)).to(noise)
        return self.space.project(torch.where(keep[..., None], kept, drawn), mask)

    def prior_kl(self, x_0: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x_0 | N) in nats, shape (B,); infinite for a formula that does not occur."""
        x = self.space.project(x_0, mask)
        there = x.sum(1).round().long()
        sizes = there.sum(1)
        counts, law = self._law(sizes)
        same = (counts == there[:, None]).all(2)
        share = (law * same).sum(1) / law.sum(1).clamp(min=1)
        orders = torch.lgamma(sizes + 1.0) - torch.lgamma(there + 1.0).sum(1)
        return (orders - share.log()).to(x_0)
