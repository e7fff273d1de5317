"""What the command-line parsers share."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from gendiff.files import UserError


class UsageError(UserError):
    """A mistake on the command line or in a YAML file of options."""

    status = 2


def parser(command: str, description: str, config: bool = True) -> ArgumentParser:
    """Return a parser for one command; with `--config FILE` and `--print_config` if `config`."""
    result = ArgumentParser(prog=f"gendiff {command}", description=description, exit_on_error=False, default_env=False)
    if config:
        result.add_argument("--config", action=ActionConfigFile, help="YAML file of options; see --print_config")
    return result


def parse(command: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse; a mistake becomes one line."""
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise):
            return command.parse_args(list(argv))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        message = noise.getvalue()
    except Exception as error:
        message = str(error)
    raise UsageError(f"{_one_line(message, _config_file(argv))}; see {command.prog} --help")


def _config_file(argv: Sequence[str]) -> str:
    """Return the last file of options that is named, or ""."""
    pairs = [word.partition("=")[::2] if "=" in word else (word, after) for word, after in pairwise([*argv, ""])]
    return next((file for option, file in reversed(pairs) if option == "--config"), "")


def _one_line(text: str, config: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    line = re.sub(
        r"^error:\s*", "", " ".join(line for line in lines if line and not line.startswith(("usage:", "tip:")))
    )
    line = line.replace("<unicode string>", config)[:400] or "the command line cannot be understood"
    return f"{config}: {line}" if "config" in line and config not in line else line


def bounds(text: str | None) -> tuple[int | None, int | None]:
    """Return (low, high) from "12-20", "12-", "-20" or "12".

    Raises:
        UsageError: for another form, or an empty range.
    """
    if text is None:
        return None, None
    match = re.fullmatch(r"\s*(\d*)\s*(-?)\s*(\d*)\s*", text)
    if not match or not (match[1] or match[3]):
        raise UsageError(f"--atoms {text!r} is no range; write 12-20, 12-, -20 or 12")
    low = int(match[1]) if match[1] else None
    high = int(match[3]) if match[3] else (None if match[2] else low)
    if (low is not None and low < 1) or (low is not None and high is not None and low > high):
        raise UsageError(f"--atoms {text!r} is an empty range; write 12-20, 12-, -20 or 12")
    return low, high


def words(text: str | None) -> list[str]:
    """Return the words of a comma-separated list."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def changed(values: Any, defaults: Any) -> dict[str, Any]:
    """Return the entries of a namespace that differ from its defaults."""
    mine, theirs = dict(vars(values)), dict(vars(defaults))
    return {key: value for key, value in mine.items() if value != theirs.get(key)}


def step_bar(what: str) -> Any:
    """Return a progress callback (done, total) that draws a bar on standard error."""
    from tqdm import tqdm

    bars: list[Any] = []

    def tick(done: int, total: int) -> None:
        if not bars:
            interval = 0.5 if sys.stderr.isatty() else 20.0
            bars.append(
                tqdm(
                    total=total,
                    unit="step",
                    desc=what,
                    mininterval=interval,
                    delay=interval,
                    dynamic_ncols=True,
                    leave=False,
                )
            )
        bars[0].update(done - bars[0].n)
        if done >= total:
            bars[0].close()

    return tick
