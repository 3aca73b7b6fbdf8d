"""What several commands print: JSON, texts of strangers, and notes that do not belong in the result."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer

from fletching.registry import Registry

__all__ = ["AsJson", "one_line", "print_json", "reserve_stdout", "warn_of_broken"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""The ``--json`` flag, the same in every command."""


def print_json(value: object) -> None:
    """Print a value as indented JSON on stdout.

    Args:
        value: Anything. JSON knows neither NaN nor infinity: they become ``null``; and what it has no form
            for becomes its text.
    """
    typer.echo(json.dumps(_replace_infinite(value), indent=2, default=str))


@contextmanager
def reserve_stdout() -> Iterator[None]:
    """Keep stdout for the result: what others print, such as plug-ins on import, goes to stderr.

    Yields:
        Nothing.
    """
    with redirect_stdout(sys.stderr):
        yield


def one_line(text: str, max_characters: int = 1000) -> str:
    """Make a text of unknown origin fit for one cell of a table.

    Args:
        text: Anything, control characters and lone surrogates included.
        max_characters: How much of it to show.

    Returns:
        Its beginning with single spaces; what a terminal cannot print is U+FFFD.

    Example:
        >>> one_line("  two   words "), one_line("a longer text", max_characters=8)
        ('two words', 'a longer…')
    """
    line = " ".join(text[:max_characters].split())
    shown = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return shown if len(text) <= max_characters else f"{shown}\N{HORIZONTAL ELLIPSIS}"


def warn_of_broken(registry: Registry) -> None:
    """Say on stderr that some plug-ins are missing from the result.

    Args:
        registry: The registry that the result was made from.
    """
    if registry.broken:
        names = ", ".join(plugin.name for plugin in registry.broken)
        typer.secho(f"Broken plug-ins: {names}. Run `fletching doctor` to see why.", fg="yellow", err=True)


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _replace_infinite(item) for name, item in value.items()}
    return [_replace_infinite(item) for item in value] if isinstance(value, (list, tuple)) else value
