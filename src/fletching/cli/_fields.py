"""From what a user typed, or wrote in YAML, to the fields of a dataclass."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fletching.errors import ArgumentError, bad_argument, did_you_mean

__all__ = ["convert_field", "find_missing", "parse_assignment"]


def convert_field(owner: str, target: type, name: str, *candidates: object) -> Any:
    """Check a value against a dataclass field, and convert what YAML cannot say: paths, tuples, ``1e-4``.

    Args:
        owner: Who is named in errors.
        target: The dataclass.
        name: The field.
        *candidates: Ways to read the value; the first that has the field's type is taken.

    Returns:
        The value, as the field wants it.

    Raises:
        ArgumentError: If there is no such field, or no candidate has its type.
    """
    names = [field.name for field in fields(target) if field.init]
    if name not in names:
        remedy = did_you_mean(name, names) or f"Its fields are {', '.join(names)}."
        raise ArgumentError(f"{owner}: {target.__name__} has no field {name!r}. {remedy}")
    hint = get_type_hints(target)[name]
    for candidate in candidates:
        with suppress(ValueError):
            return _convert(hint, candidate)
    kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    raise bad_argument(owner, name, f"of type {kind.replace('typing.', '')}", candidates[0])


def parse_assignment(owner: str, target: type, assignment: str) -> tuple[str, Any]:
    """Read ``name=value`` as typed on a command line.

    Args:
        owner: Who is named in errors.
        target: The dataclass that has the field.
        assignment: The text; its value is read as YAML, and as plain text if the field wants that.

    Returns:
        The field's name and its value.

    Raises:
        ArgumentError: If there is no ``=``, no such field, or the value has another type.
    """
    import yaml  # type: ignore[import-untyped]

    name, equals, text = assignment.partition("=")
    if not equals:
        raise bad_argument(owner, "--set", "NAME=VALUE", assignment)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    return name, convert_field(owner, target, name, value, text)


def find_missing(target: type, values: dict[str, Any]) -> list[str]:
    """Name the fields that need a value and have none.

    Args:
        target: The dataclass.
        values: Values by field name.

    Returns:
        The names, in the order of the fields.
    """
    return [
        field.name
        for field in fields(target)
        if field.init
        and field.default is MISSING
        and field.default_factory is MISSING
        and field.name not in values
    ]


def _convert(hint: Any, value: Any) -> Any:
    """Return ``value`` as the type wants it; ValueError if it has another one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for option in arguments:
            with suppress(ValueError):
                return _convert(option, value)
    elif origin in (list, tuple) and isinstance(value, (list, tuple)):
        return origin(_convert(arguments[0], item) for item in value)
    elif origin is dict and isinstance(value, dict):
        key, item = arguments
        return {_convert(key, name): _convert(item, entry) for name, entry in value.items()}
    elif origin is Literal and value in arguments:
        return value
    elif hint is NoneType and value is None:
        return None
    elif hint is float and type(value) in (int, float, str):
        return float(value)  # YAML 1.1 reads 1e-4 as text
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif type(value) is hint:  # a bool is no int here
        return value
    raise ValueError
