"""docs/images.md tells the truth: its commands parse, the files that it names are there."""

import pages
import pytest

NAME = "docs/images.md"


@pytest.mark.parametrize("words", pages.commands(NAME), ids=lambda words: " ".join(words[1:5]))
def test_a_command_of_the_page_parses(words):
    pages.check(words)


def test_files_that_the_page_names_exist():
    assert pages.missing(NAME) == []
