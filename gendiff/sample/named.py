"""Samplers by name, to take the place of another one."""

from __future__ import annotations

from gendiff.sample.ddim import DDIM, Ancestral
from gendiff.sample.heun import Heun
from gendiff.sample.multistep import DPMSolver
from gendiff.sample.sampler import Sampler
from gendiff.sample.unipc import UniPC

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ancestral": Ancestral,
    "heun": Heun,
    "dpm-solver++": DPMSolver,
    "unipc": UniPC,
}
"""Those that are good on any grid of times with nothing else to choose. The others are not: RK45 chooses its own steps,
and Langevin dynamics, correctors and the reverse SDE want many steps and sizes of their own."""


def named(name: str, like: Sampler) -> Sampler:
    """Return the sampler of a name, on the grid of times of another one and in as many steps.

    Arguments:
        name: A word of :data:`SAMPLERS`.
        like: The sampler whose place it takes; returned as it is, with all of its settings, if it is of this kind.

    Raises:
        ValueError: for another name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}; choose from {', '.join(SAMPLERS)}")
    kind = SAMPLERS[name]
    return like if type(like) is kind else kind(like.steps, like.grid)
