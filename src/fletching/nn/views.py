"""A module looked at as one of another class, or around other children; weights are shared."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["view_module"]


def view_module(module: nn.Module, kind: type[nn.Module], **children: nn.Module) -> Any:
    """Look at a module as one of another class, with other children in the place of some of its own.

    Nothing is copied but the list of children, and nothing is initialised: ``kind`` has to get along with the
    attributes of the module. What is set on the view is not set on the module.

    Args:
        module: The module; it stays as it is.
        kind: Class of the view.
        **children: Children that take the place of those of the same name.

    Returns:
        The view.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> view = view_module(nn.Sequential(linear), nn.ModuleList)
        >>> type(view).__name__, view[0] is linear
        ('ModuleList', True)
    """
    view: nn.Module = object.__new__(kind)
    object.__setattr__(view, "__dict__", {**vars(module), "_modules": {**module._modules, **children}})
    return view
