"""What can be asked of an edit: a task by its word, inputs by their numbers, and what is refused before the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gendiff.files import UserError
from gendiff.modality import Modality, Task
from gendiff.model.model import Model
from gendiff.process import GivenProcess
from gendiff.sample import Heun, Sampler

PATH_STEPS = 50
"""Steps of a path, by default."""

INTACT = "intact"
"""The word for records that still are what was to stay of the input."""

SIZED = ("fix", "noise", "path")
"""Kinds of tasks whose results are as large as their inputs."""


def check(
    model: Model,
    task: str,
    n: int | None = None,
    *,
    keep: Sequence[int] | None = None,
    sizes: tuple[int | None, int | None] = (None, None),
    strength: float | None = None,
    steps: int | None = None,
    resamples: int | None = None,
    condition: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    batch_size: int = 256,
    **options: Any,
) -> None:
    """Check what can be checked of an edit before its input is read; arguments as :func:`gendiff.model.edit.edit`.

    Raises:
        UserError: for bad numbers, or what the task or the model does not know.
    """
    modality, (_, todo) = model.modality, find_task(model.modality, task)
    categorical = [(name, field) for name, field in model.denoiser.process.items() if field.categorical]
    if todo.kind == "path" and categorical:
        name, field = categorical[0]
        kind = "given" if isinstance(field, GivenProcess) else "categorical"
        raise UserError(f"{task} needs the codes of Gaussian fields, and {name!r} is {kind}")
    if "new" in only:
        raise UserError("--only new is not known here; gendiff evaluate says what is new")
    modality.check_filters(only, [*(word for word in modality.filters if word != "new"), INTACT])
    if todo.kind == "path" and only:
        raise UserError(f"--only draws until there are enough, and the steps of {task} are fixed; leave it out")
    if keep is not None and todo.kind != "keep":
        raise UserError(f"--keep belongs to {_words(modality, 'keep')}; {task} may change every element")
    if todo.kind in SIZED and sizes != (None, None):
        raise UserError(f"--size belongs to {_words(modality, 'keep', 'ask')}; {task} takes its sizes from the input")
    for name in options:
        if name != "side" and name not in todo.uses:
            raise UserError(f"--{name} belongs to {_users(modality, name)}; {task} has no use for it")
    if n is not None and todo.kind == "path" and n < 2:
        raise UserError(f"-n must be at least 2 for a path, both ends included, got {n}")
    if n is not None and n < 1:
        raise UserError(f"-n must be at least 1, got {n}")
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    if strength is not None and not 0 <= strength <= 1:
        raise UserError(f"--strength must lie in [0, 1] (0 the input itself, 1 a fresh sample), got {strength:g}")
    if resamples is not None and resamples < 1:
        raise UserError(f"--resamples must be at least 1, got {resamples}")
    sampler_of(model, task, steps)  # refuses bad steps
    modality.condition(condition or {})  # refuses unknown names and words


def find_task(
    modality: Modality, word: str | None = None, records: Any = None, options: Mapping[str, Any] | None = None
) -> tuple[str, Task]:
    """Return a task of a modality under its name; by default the first, or the one that its `usual_task` names.

    Arguments:
        modality: The modality.
        word: The name.
        records: What is to be edited, where it is known.
        options: What else is known of what is to be done with them.

    Raises:
        UserError: if there is no such task, or none at all.
    """
    if not modality.tasks:
        raise UserError(f"{modality.name} cannot be edited yet")
    if word is None:
        word = next(iter(modality.tasks)) if records is None else modality.usual_task(records, options or {})
    if word not in modality.tasks:
        raise UserError(f"--task must be one of {', '.join(modality.tasks)} for {modality.name}, got {word!r}")
    return word, modality.tasks[word]


def chosen(records: Any, which: Sequence[int] | int | None) -> Any:
    """Return the records of these numbers, from 1, in their order; all if None.

    Raises:
        UserError: for a number that there is not.
    """
    if which is None:
        return records
    numbers = [which] if isinstance(which, int) else list(which)
    if wrong := [number for number in numbers if not 1 <= number <= len(records)]:
        raise UserError(f"--which names number {wrong[0]}, and the input has {len(records):,}")
    rows = [number - 1 for number in numbers]
    return [records[row] for row in rows] if isinstance(records, list) else records.select(rows)


def sampler_of(model: Model, task: str | None, steps: int | None = None) -> Sampler:
    """Return the sampler of a task; arguments as :func:`gendiff.model.edit.edit`.

    Raises:
        UserError: for steps < 1, or no such task.
    """
    _, todo = find_task(model.modality, task)
    if steps is not None and steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    if todo.kind == "path":
        return Heun(steps or PATH_STEPS)
    return model.tuned(steps or todo.levels if todo.kind == "keep" else steps)


def walks(todo: Task, resamples: int | None = None) -> int:
    """Return how often each step of a task of the kind "keep" is walked: as users say, or as the task has it."""
    return todo.resamples if resamples is None else resamples


def _users(modality: Modality, option: str) -> str:
    """Return the words of the tasks that take an option."""
    words = [word for word, task in modality.tasks.items() if option in task.uses]
    return " and ".join(words) or "other modalities or models"


def _words(modality: Modality, *kinds: str) -> str:
    """Return the words of the tasks of some kinds: "grow and link"."""
    return " and ".join(word for word, task in modality.tasks.items() if task.kind in kinds) or "other modalities"
