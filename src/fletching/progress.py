"""Progress bars on stderr, drawn by rich; silent unless someone is watching."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TypeVar

__all__ = ["progress_bar", "track"]

T = TypeVar("T")


def track(
    iterable: Iterable[T], *, desc: str, total: int | None = None, show: bool | None = None
) -> Iterator[T]:
    """Yield the items of ``iterable`` while a progress bar counts them.

    Args:
        iterable: What to go through.
        desc: Label in front of the bar, such as ``"Encoding"``.
        total: Number of items; ``None`` asks the iterable, and an unknown length shows a bar without an end.
        show: Whether to draw; ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Yields:
        The items, unchanged and in order.

    Example:
        >>> [word.upper() for word in track(["arrow", "bow"], desc="Reading")]
        ['ARROW', 'BOW']
    """
    with progress_bar(length_hint(iterable) or None if total is None else total, desc, show) as advance:
        for item in iterable:
            yield item
            advance(1)


@contextmanager
def progress_bar(total: int | None, desc: str, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Draw a progress bar for work that does not come one item at a time.

    Args:
        total: Number of steps; ``None`` when it is not known.
        desc: Label in front of the bar.
        show: Whether to draw; ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Yields:
        A function that moves the bar forward by so many steps.

    Example:
        >>> with progress_bar(64, "Ranking") as advance:
        ...     advance(32)
    """
    if not (_someone_watches() if show is None else show):
        yield lambda steps: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(desc, total=total)
        yield lambda steps: progress.advance(task, steps)


def _someone_watches() -> bool:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal and logging.getLogger("fletching").isEnabledFor(logging.INFO)
