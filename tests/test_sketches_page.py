"""docs/sketches.md tells the truth: its commands parse, the files that it names are there."""

import pages
import pytest

NAME = "docs/sketches.md"


def test_the_page_shows_the_whole_way():
    assert {words[1] for words in pages.commands(NAME)} >= {"train", "sample", "evaluate", "report", "edit"}


@pytest.mark.parametrize("words", pages.commands(NAME), ids=lambda words: " ".join(words[1:5]))
def test_a_command_of_the_page_parses(words):
    pages.check(words)


def test_files_that_the_page_names_exist():
    assert pages.missing(NAME) == []
