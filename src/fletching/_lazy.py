"""Names that are imported on first use (PEP 562), so that a package costs nothing until it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["import_target", "lazy_exports"]


def lazy_exports(
    package: str, targets: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Make the three names that turn a package into a lazy facade.

    Args:
        package: The package's ``__name__``.
        targets: Where each public name lives, as ``{"Name": "package.module:Attribute"}``.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__`` of the package, to be assigned in this order.

    Example:
        >>> __getattr__, __dir__, __all__ = lazy_exports(__name__, {"sqrt": "math:sqrt"})
        >>> __getattr__("sqrt")(9.0)
        3.0
    """

    def import_export(name: str) -> object:
        if name not in targets:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = import_target(targets[name])
        vars(sys.modules[package])[name] = value  # the next look-up does not come here
        return value

    def list_names() -> list[str]:
        return sorted({*targets, *(name for name in vars(sys.modules[package]) if name.startswith("__"))})

    return import_export, list_names, sorted(targets)


def import_target(target: str) -> object:
    """Import what ``"package.module:Attribute"`` names.

    Args:
        target: Module and attribute, separated by a colon; the attribute may be dotted.

    Returns:
        The object.

    Example:
        >>> import_target("collections.abc:Mapping.get").__name__
        'get'
    """
    module, _, attribute = target.partition(":")
    value: object = import_module(module)
    for name in attribute.split("."):
        value = getattr(value, name)
    return value
