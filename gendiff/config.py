"""Objects to JSON and back, without trusting the JSON.

An object is described by its class and the arguments of its constructor, which it keeps under the same names. A
description can name only a class of gendiff, or of a package that is installed as an adapter, that is a torch module
or says it is :class:`Configurable`; it can name no function and import nothing else.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from gendiff.files import UserError

GROUP = "gendiff.modalities"
"""Entry-point group of the adapters."""


class Configurable:
    """Marks a class whose objects a model's configuration may name."""


def describe(value: Any) -> Any:
    """Return `value` as JSON: plain values as they are, objects as {"class": ..., arguments}.

    Raises:
        TypeError: if an object does not keep one of its constructor's arguments, or cannot be rebuilt.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, (Mapping, nn.ModuleDict)):
        return {_escaped(str(key)): describe(item) for key, item in value.items()}
    if not isinstance(value, (nn.Module, Configurable)):
        raise TypeError(f"{type(value).__name__} cannot be written to a configuration")
    kind = type(value)
    described: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(value, name):
            raise TypeError(f"{kind.__name__} does not keep its argument {name!r}")
        described[name] = describe(getattr(value, name))
    return described


def _escaped(key: str) -> str:
    """The key of a mapping as JSON has it: "class" names a class there, so it gets an underscore, and "class_" two."""
    return f"{key}_" if key.rstrip("_") == "class" else key


def _plain(key: str) -> str:
    return key[:-1] if key.rstrip("_") == "class" else key


def build(description: Any, where: str = "config.json") -> Any:
    """Rebuild what :func:`describe` returned.

    Arguments:
        description: JSON.
        where: Named in errors.

    Raises:
        UserError: if a class is not allowed or unknown, or refuses its arguments.
    """
    try:
        return _build(description, where)
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply") from None


def _build(description: Any, where: str) -> Any:
    if isinstance(description, list):
        return [_build(item, where) for item in description]
    if not isinstance(description, dict):
        return description
    arguments = {_plain(key): _build(item, where) for key, item in description.items() if key != "class"}
    if "class" not in description:
        return arguments
    kind = _find(str(description["class"]), where)
    try:
        return kind(**arguments)
    except Exception as error:  # a constructor may raise anything at arguments that nobody would give it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: {kind.__name__} cannot be built: {reason}") from None


@cache
def trusted_packages() -> frozenset[str]:
    """Return the packages whose classes a configuration may name: gendiff and the installed adapters'."""
    return frozenset({"gendiff"} | {point.module.split(".")[0] for point in entry_points(group=GROUP)})


def check_trusted(description: Any, where: str) -> None:
    """Refuse a description that :func:`build` would refuse for the package of a class: it could not be loaded.

    Raises:
        UserError: naming the class.
    """
    if isinstance(description, Mapping):
        if isinstance(path := description.get("class"), str):
            _check_package(path, where)
        description = list(description.values())
    if isinstance(description, list):
        for item in description:
            check_trusted(item, where)


def _check_package(path: str, where: str) -> None:
    if path.rpartition(".")[0].split(".")[0] not in trusted_packages():
        raise UserError(f"{where}: names {path!r}; only classes of gendiff or of an installed adapter are allowed")


def _find(path: str, where: str) -> type:
    module_name, _, name = path.rpartition(".")
    _check_package(path, where)
    try:
        kind = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        raise UserError(f"{where}: names {path!r}, which this version of gendiff does not have") from None
    # A room may have become a folder since: gendiff.schedule.Flow is now defined in a file below gendiff.schedule.
    at_home = getattr(kind, "__module__", "") == module_name or getattr(kind, "__module__", "").startswith(
        f"{module_name}."
    )
    allowed = inspect.isclass(kind) and issubclass(kind, (nn.Module, Configurable)) and at_home
    if not allowed or name.startswith("_"):
        raise UserError(f"{where}: names {path!r}, which is not a class that a model is made of")
    return kind
