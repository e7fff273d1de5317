"""The reverse process p: plans of times, and the samplers that walk them."""

from gendiff.sample.ddim import DDIM, Ancestral
from gendiff.sample.heun import Heun
from gendiff.sample.langevin import Langevin
from gendiff.sample.multistep import DPMSolver
from gendiff.sample.named import SAMPLERS, named
from gendiff.sample.ode import RK45
from gendiff.sample.plan import Plan, Step, Table, downward
from gendiff.sample.predictor_corrector import PredictorCorrector
from gendiff.sample.repaint import repaint_plan
from gendiff.sample.sampler import Hook, Sampler, draw_categories
from gendiff.sample.sde import ReverseSDE
from gendiff.sample.unipc import UniPC
from gendiff.schedule import time_grid

__all__ = [
    "DDIM",
    "RK45",
    "SAMPLERS",
    "Ancestral",
    "DPMSolver",
    "Heun",
    "Hook",
    "Langevin",
    "Plan",
    "PredictorCorrector",
    "ReverseSDE",
    "Sampler",
    "Step",
    "Table",
    "UniPC",
    "downward",
    "draw_categories",
    "named",
    "repaint_plan",
    "time_grid",
]
