"""Numbers of things in words."""

import pytest

from gendiff.wording import many, some


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "point", "1 point"), (0, "point", "0 points"), (2000, "sketch", "2,000 sketches"), (2, "class", "2 classes")],
)
def test_one_of_a_thing_has_no_s(count, noun, text):
    assert many(count, noun) == text


@pytest.mark.parametrize(("name", "one"), [("molecules", "molecule"), ("sketches", "sketch"), ("images", "image")])
def test_names_of_modalities_may_be_one(name, one):
    assert (some(1, name), some(2, name)) == (f"1 {one}", f"2 {name}")
