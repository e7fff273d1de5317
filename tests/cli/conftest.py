"""The command, run in this process: its status and what it wrote to both streams, also from C++."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gendiff.cli import main


@pytest.fixture
def gendiff(capfd):
    """Call it with words; the result has `status`, `out` and `err`."""

    def run(*words):
        capfd.readouterr()
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run
