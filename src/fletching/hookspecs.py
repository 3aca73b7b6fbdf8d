"""The hook that a plug-in implements: there is one."""

from __future__ import annotations

import pluggy

from fletching.registry import MethodSpec

__all__ = ["PROJECT", "fletching_methods", "hookimpl"]

PROJECT = "fletching"
"""Name of the plug-in project and of its entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as an implementation of a fletching hook."""


@hookspec
def fletching_methods() -> list[MethodSpec]:  # type: ignore[empty-body]
    """Return the methods that this plug-in adds.

    Called once, when fletching first lists its methods. It must not import torch or the methods themselves:
    the specs name their classes as strings.
    """
