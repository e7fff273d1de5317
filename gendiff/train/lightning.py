"""Lightning as gendiff uses it: without its advertisements, and with one line for what it refuses."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from gendiff.files import UserError


def make_trainer(**options: Any) -> pl.Trainer:
    """Return a Trainer.

    Raises:
        UserError: for options that Lightning refuses.
    """
    try:
        return pl.Trainer(**options)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"--trainer: Lightning refuses its options: {str(error).splitlines()[0]}") from None


def end_others(trainer: pl.Trainer) -> None:
    """Kill the processes that this one has started: they would wait for it for ever."""
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)


@contextmanager
def silence() -> Iterator[None]:
    """Silence Lightning's advertisements; its errors come through."""
    loggers = [
        logging.getLogger(name)
        for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    os.environ.setdefault("SUPPRESS_LIGHTNING_TIPS", "1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
