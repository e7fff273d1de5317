"""What every test shares: one thread, and a random state of its own."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for those of torch itself: its forward-mode derivatives compile TorchScript."""
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    # What commands keep for later stays out of the home of whoever runs the tests.
    CACHE.append(tempfile.TemporaryDirectory())
    os.environ["GENDIFF_CACHE"] = CACHE[0].name
    # Jobs in the background of a shell ignore Ctrl-C, and so would the tests of it and the processes they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


CACHE: list[tempfile.TemporaryDirectory] = []
"""Kept until the tests end."""


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed torch for the test and give the old state back after it, so that no test leans on another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
