"""Samplers by name: on the grid of another one, in as many steps."""

from __future__ import annotations

import pytest

from gendiff.sample import DDIM, SAMPLERS, Ancestral, Heun, Langevin, UniPC, named


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_named_sampler_walks_the_plan_of_the_one_whose_place_it_takes(name):
    found = named(name, Langevin(7, "quadratic"))
    assert (type(found), found.steps, found.grid) == (SAMPLERS[name], 7, "quadratic")
    plain = SAMPLERS[name](7, "quadratic")
    assert vars(found) == vars(plain)


@pytest.mark.parametrize(
    ("name", "like"),
    [("ancestral", Ancestral(9, variance="learned")), ("ddim", DDIM(9, eta=0.5)), ("heun", Heun(9, churn=2.0))],
)
def test_one_of_the_same_kind_keeps_all_of_its_settings(name, like):
    assert named(name, like) is like


def test_ancestral_sampling_is_not_taken_for_ddim():
    """The one is a subclass of the other."""
    found = named("ddim", Ancestral(9, temperature=0.5))
    assert (type(found), found.eta, found.temperature) == (DDIM, 0.0, 1.0)
    assert type(named("ancestral", DDIM(9))) is Ancestral


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(
        ValueError, match=r"no sampler 'Heun'; choose from ddim, ancestral, heun, dpm-solver\+\+, unipc"
    ):
        named("Heun", UniPC())
