"""What the command-line parsers share."""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace

from gendiff.files import UserError


class UsageError(UserError):
    """A mistake on the command line or in a YAML file of options."""

    status = 2


def parser(command: str, description: str, config: bool = True) -> ArgumentParser:
    """Return a parser for one command; with `--config FILE` and `--print_config` if `config`."""
    result = ArgumentParser(
        prog=f"gendiff {command}", description=description, exit_on_error=False, default_env=False, allow_abbrev=False
    )
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
    raise UsageError(f"{_plain(command, _one_line(message), argv)[:400]}; see {command.prog} --help")


def config_file(argv: Sequence[str]) -> str:
    """Return the last file of options that is named, or ""."""
    return value_of(argv, "--config")


def value_of(argv: Sequence[str], flag: str) -> str:
    """Return the last value that a command line gives an option, before it is parsed, or ""."""
    pairs = [word.partition("=")[::2] if "=" in word else (word, after) for word, after in pairwise([*argv, ""])]
    found = next((value for option, value in reversed(pairs) if option == flag), "")
    return "" if found.startswith("-") else found


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    line = " ".join(line for line in lines if line and not line.startswith(("usage:", "tip:")))
    return re.sub(r"^error:\s*", "", line) or "the command line cannot be understood"


KINDS = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "true or false"}
"""How types are called in messages."""


def _plain(command: ArgumentParser, line: str, argv: Sequence[str]) -> str:
    """Return what a parser complains of in the words of the help: options by their flags, types by their names.

    What a file of options says is told with its name.
    """
    names = {action.dest: max(action.option_strings, key=len, default=action.metavar) for action in command._actions}
    if missing := re.fullmatch(r"the following arguments are required: (.*)", line):
        words = [str(names.get(word) or word) for word in missing[1].split(", ")]
        return f"{' and '.join(words)} {'is' if len(words) == 1 else 'are'} missing"
    file = config_file(argv)
    line = line.replace("<unicode string>", file)
    if key := re.match(r'Parser key "([^"]*)":', line):
        flag = str(names.get(key[1]) or f"--{key[1]}")
        line = flag + line[key.end() - 1 :]
        if file and file not in line and not {word.partition("=")[0] for word in argv} & {flag, f"--{key[1]}"}:
            line = f"{file}: {line}"
    elif file not in line and ("config" in line or line.startswith("Option ")):
        line = f"{file}: {line}"
    return _typed(line)


def _typed(line: str) -> str:
    """Return what a parser says of a value of another type in one clause: the value, and what it should be."""
    wanted = re.search(r"^(.*?:) (?:Does not validate|Expected)\b(.*?)(?:Got value|Given value): (.*)$", line)
    if not wanted:
        return line
    options = re.findall(r"'([^']*)'|(\d+)", " ".join(re.findall(r"Literal\[(.*?)\]", wanted[2])))
    kinds = [KINDS.get(name, name) for name in re.findall(r"Expected (?:a )?<class '(\w+)'>", line)]
    kinds = [kind for kind in dict.fromkeys(kinds) if kind != "NoneType"]
    choices = [" or ".join(kinds)] * bool(kinds)
    if options:
        choices.append("one of " + ", ".join(dict.fromkeys(word or number for word, number in options)))
    return f"{wanted[1]} {wanted[3]!r} is not {' or '.join(choices)}" if choices else line


def add_size(command: ArgumentParser, help: str) -> None:
    """Add the option that bounds the number of elements of a sample, under the names that each modality gives them."""
    command.add_argument("--size", "--atoms", "--points", type=str | None, default=None, help=help)


def add_guidance(command: ArgumentParser) -> None:
    """Add the options of the guidance that a model gives itself."""
    command.add_argument(
        "--guidance",
        type=float | None,
        default=None,
        help="how strongly to ask: 1 is the network as it is, 2 or 3 is more (default: as the model says, mostly 1)",
    )
    command.add_argument(
        "--skip",
        type=str | int | None,
        default=None,
        help="lead samples away from what the network says without these blocks: 2, or 2,3, counting from 0; none for"
        " the network as it is (default: as the model says, mostly none)",
    )
    command.add_argument(
        "--skip-scale",
        type=float | None,
        default=None,
        help="how strongly: 1 is the network as it is (default: as the model says, else 1.5)",
    )


def bounds(text: str | None) -> tuple[int | None, int | None]:
    """Return (low, high) from "12-20", "12-", "-20" or "12".

    Raises:
        UsageError: for another form, or an empty range.
    """
    if text is None:
        return None, None
    match = re.fullmatch(r"\s*(\d*)\s*(-?)\s*(\d*)\s*", text)
    if not match or not (match[1] or match[3]):
        raise UsageError(f"--size {text!r} is no range; write 12-20, 12-, -20 or 12")
    low = int(match[1]) if match[1] else None
    high = int(match[3]) if match[3] else (None if match[2] else low)
    if (low is not None and low < 1) or (low is not None and high is not None and low > high):
        raise UsageError(f"--size {text!r} is an empty range; write 12-20, 12-, -20 or 12")
    return low, high


def words(text: str | None) -> list[str]:
    """Return the words of a comma-separated list."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def wishes(condition: str | None, word: str | None, known: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is asked of samples: the numbers of `--condition`, and the words of `--class`.

    The text of `--class` is one word if it is `known`, such as "a,b", else a comma-separated list.

    Raises:
        UsageError: for another form, or a name that comes twice.
    """
    asked: dict[str, Any] = dict(numbers(condition, "--condition"))
    classes = [word] if word in known else words(word)
    return asked | ({"class": classes[0] if len(classes) == 1 else classes} if classes else {})


def numbers(text: str | None, option: str) -> dict[str, float]:
    """Return the numbers of a comma-separated list of NAME=NUMBER.

    Raises:
        UsageError: for another form, or a name that comes twice.
    """
    result: dict[str, float] = {}
    for word in words(text):
        name, equals, value = (part.strip() for part in word.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not equals or not math.isfinite(number):
            raise UsageError(f"{option} {word!r} is no NAME=NUMBER; write {option} logP=2.5,TPSA=40")
        if name in result:
            raise UsageError(f"{option} names {name} twice")
        result[name] = number
    return result


OURS = {
    "callbacks",
    "logger",
    "default_root_dir",
    "enable_progress_bar",
    "enable_checkpointing",
    "enable_model_summary",
    "max_time",
    "plugins",
}
"""Options of Lightning's Trainer that gendiff sets itself."""


USEFUL = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "precision",
    "max_epochs",
    "accumulate_grad_batches",
    "gradient_clip_val",
)
"""Options of Lightning's Trainer that the help of a command names; there are four times as many."""


def add_trainer(command: ArgumentParser, argv: Sequence[str], **defaults: Any) -> None:
    """Add the options of Lightning's Trainer as `--trainer.NAME`; loads Lightning, for seconds, if there are any.

    The help of the command names a few of them, and `--trainer.help` explains all.

    Arguments:
        command: Gets them.
        argv: The words of the command line.
        defaults: Where gendiff's defaults are not Lightning's.
    """
    if wants_trainer(argv):
        import pytorch_lightning as pl

        text = "options of Lightning's Trainer, by its names"
        command.add_class_arguments(pl.Trainer, "trainer", skip=OURS, help=text)
        ours = {"devices": 1, "use_distributed_sampler": False, **defaults}
        command.set_defaults({f"trainer.{name}": value for name, value in ours.items()})
    command.add_argument(
        "--trainer.help",
        action=_TrainerHelp,
        help="explain the options of Lightning's Trainer and exit; of use are, among others, "
        + ", ".join(f"--trainer.{name}" for name in USEFUL),
    )
    command.formatter_class = _Brief


def wants_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for the help of its command."""
    return any(word in ("-h", "--help") for word in argv)


def wants_trainer(argv: Sequence[str]) -> bool:
    """Whether a command line has, or may have in a file, options of Lightning's Trainer."""
    return any(word.startswith(("--trainer", "--config", "--print")) for word in argv)


class _Brief(DefaultHelpFormatter):
    """Leaves Lightning's options out."""

    def shows(self, action: Action) -> bool:
        return not _lightning(action)

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **more: Any) -> None:
        super().add_usage(usage, filter(self.shows, actions), *args, **more)

    def add_argument(self, action: Action) -> None:
        if self.shows(action):
            super().add_argument(action)


class _Lightning(_Brief):
    """Leaves all others out."""

    def shows(self, action: Action) -> bool:
        return _lightning(action)


class _TrainerHelp(Action):
    """Shows the help of Lightning's options."""

    def __init__(self, option_strings: Sequence[str], help: str, **_: Any):
        super().__init__(option_strings, SUPPRESS, nargs=0, default=SUPPRESS, help=help)

    def __call__(self, parser: Any, *_: Any) -> None:
        parser.formatter_class, parser.description = _Lightning, None
        parser.usage = f"{parser.prog} ... [--trainer.NAME VALUE ...]"
        parser.print_help()
        parser.exit()


def _lightning(action: Action) -> bool:
    return any(option.startswith("--trainer") and option != "--trainer.help" for option in action.option_strings)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def asked_of_trainer(args: Namespace, command: ArgumentParser) -> dict[str, Any]:
    """Return the options of Lightning's Trainer that were given.

    Of "float or int" a parser makes a float; Lightning takes 3.0 for a share, and 3 for a count.
    """
    if "trainer" not in args:
        return {}
    mine, theirs = dict(vars(args.trainer)), dict(vars(command.get_defaults().trainer))
    found = {key: value for key, value in mine.items() if value != theirs.get(key)}
    return {k: int(v) if isinstance(v, float) and v > 1 and v.is_integer() else v for k, v in found.items()}


def step_bar(what: str) -> Any:
    """Return a progress callback (done, total) that draws a bar on standard error, a new one for each round."""
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
            bars.pop().close()

    return tick
