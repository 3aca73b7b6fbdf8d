"""Several processes of one run, as torchrun and accelerate start them: one writes, the others wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

__all__ = ["count_processes", "main_process_first"]

_PATIENCE = timedelta(days=30)  # mining and a teacher's scores take long


def count_processes() -> int:
    """Return the processes of a distributed run, as torchrun and accelerate say it; 1 for any other."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def main_process_first() -> Iterator[bool]:
    """Let one process of a distributed run go first, alone, and tell it so; the others wait.

    What is written goes into this block, behind a question whether this is the one; the others read it
    afterwards. All processes must come by, must see the same folder, and must not enter the block twice.

    Yields:
        Whether this is the one; always, where there are no others.

    Example:
        >>> with main_process_first() as is_main:
        ...     is_main
        True
    """
    if count_processes() == 1:
        yield True
        return
    from accelerate import PartialState  # type: ignore[import-untyped]

    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    with state.main_process_first():
        yield state.is_main_process
