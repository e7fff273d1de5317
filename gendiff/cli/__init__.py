"""The `gendiff` command: one file per word, loaded when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from gendiff import __version__
from gendiff.files import UserError

COMMANDS = {
    "demo": "the main job end to end on the built-in data, in minutes on two CPU cores",
    "train": "examples in, trained model out",
    "distill": "a model of few steps out of one of many",
    "classifier": "a classifier of noisy samples, to lead a model to a class",
    "sample": "draw new samples from a model",
    "edit": "new samples from given ones: grow, link, complete, heal, trace, inpaint, enlarge, vary, interpolate",
    "evaluate": "metrics of generated samples, the reference's own numbers beside them",
    "logprob": "how likely a model finds the records of files",
    "encode": "latent codes of the records of files",
    "report": "one HTML page of a run or of generated samples",
    "data": "the data sets that gendiff knows: list, info, get",
    "models": "the models that come with gendiff, and their measured quality",
    "doctor": "versions, devices, what is missing and how to get it",
}


def usage() -> str:
    """Return the overview of the commands."""
    width = max(map(len, COMMANDS))
    lines = [
        f"gendiff {__version__}: diffusion models for graphs, sequences and images",
        "",
        "usage: gendiff COMMAND ...",
        "",
    ]
    lines += [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "gendiff COMMAND --help explains a command and its options.",
        "",
        "  gendiff demo molecules --out DIR",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    0 well, 1 for a mistake in the data, 2 for one on the command line, 130 for Ctrl-C.
    """
    # Threads that wait spin this long for small tensors, then give their core away: without a bound one busy neighbour
    # makes a step a hundred times slower. GNU OpenMP reads it when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()  # so that a reader that has gone away is met here
        return status
    except UserError as error:
        return _fail(str(error), error.status)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or 'gendiff'}: {(error.strerror or str(error)).lower()}", 1)
    except Exception as error:
        if os.environ.get("GENDIFF_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (GENDIFF_DEBUG=1 shows where; please report it)", 1)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        print(f"gendiff {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}; there are: {', '.join(COMMANDS)}", 2)
    with suppress(SystemExit):  # the end of --help and --print_config
        return importlib.import_module(f"gendiff.cli.{name}").main(rest) or 0
    return 0


def _fail(message: str, status: int) -> int:
    print(f"gendiff: error: {' '.join(message.split())}", file=sys.stderr)
    return status
