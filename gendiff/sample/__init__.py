"""The reverse process p: plans of times, and the samplers that walk them."""

from gendiff.sample.ddim import DDIM, Ancestral
from gendiff.sample.heun import Heun
from gendiff.sample.multistep import DPMSolver
from gendiff.sample.plan import Plan, Step, Table, downward
from gendiff.sample.sampler import Hook, Sampler, draw_categories
from gendiff.schedule import time_grid

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMSolver",
    "Heun",
    "Hook",
    "Plan",
    "Sampler",
    "Step",
    "Table",
    "downward",
    "draw_categories",
    "time_grid",
]
