"""Finds the plug-ins: built-ins by folder scan, everyone else's by entry points of the group ``fletching``.

Plug-ins are loaded one by one. One that fails is kept with its error and never stops the others.

Two environment variables choose among them. Both hold names separated by commas:

- ``FLETCHING_PLUGINS``: the distributions or entry points to load, no other third party; empty loads none.
- ``FLETCHING_PLUGINS_OFF``: distributions, entry points or folders of ``fletching.methods`` to leave out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules

from pluggy import PluginManager

from fletching import hookspecs
from fletching.errors import PluginError
from fletching.registry import BUILT_IN, BrokenPlugin, MethodSpec, Registry

__all__ = ["registry", "reload"]

_METHODS = "fletching.methods"


@cache
def registry() -> Registry:
    """Find all plug-ins, once.

    Returns:
        The registry of their methods; call `reload` after installing a plug-in into a running process.
    """
    manager = PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = Registry()
    for plugin in _find_plugins():
        try:
            manager.register(plugin.load(), name=plugin.name)
            manager.check_pending()
            found.add(plugin.owner, _ask_for_methods(manager, plugin.name))
        except (Exception, SystemExit) as error:
            if manager.has_plugin(plugin.name):
                manager.unregister(name=plugin.name)
            found.broken.append(BrokenPlugin(plugin.name, plugin.aliases, error))
    return found


def reload() -> Registry:
    """Look for plug-ins again.

    Returns:
        The new registry.
    """
    registry.cache_clear()
    return registry()


@dataclass(frozen=True)
class _Found:
    """A plug-in that is not loaded yet."""

    name: str
    owner: str
    aliases: tuple[str, ...]
    load: Callable[[], object]


def _find_plugins() -> Iterator[_Found]:
    """Yield the plug-ins that the environment allows: built-ins first, both groups sorted by name."""
    blocked = _read_names("FLETCHING_PLUGINS_OFF") or set()
    allowed = _read_names("FLETCHING_PLUGINS")
    for plugin in _find_built_ins():
        if blocked.isdisjoint(map(_normalise, plugin.aliases)):
            yield plugin
    for plugin in sorted(map(_describe, entry_points(group=hookspecs.PROJECT)), key=lambda found: found.name):
        names = set(map(_normalise, plugin.aliases))
        if names.isdisjoint(blocked) and (allowed is None or names & allowed):
            yield plugin


def _find_built_ins() -> Iterator[_Found]:
    folders = sorted(info.name for info in iter_modules(import_module(_METHODS).__path__) if info.ispkg)
    for folder in folders:
        module = f"{_METHODS}.{folder}.plugin"
        yield _Found(module, BUILT_IN, (folder, module), partial(import_module, module))


def _describe(entry_point: EntryPoint) -> _Found:
    owner = entry_point.dist.name if entry_point.dist else entry_point.module.partition(".")[0]
    name = f"{owner}:{entry_point.name}"
    return _Found(name, owner, (owner, entry_point.name, name), entry_point.load)


def _ask_for_methods(manager: PluginManager, name: str) -> list[MethodSpec]:
    """Call one plug-in's hook, so that its failure is its own."""
    others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
    answers = manager.subset_hook_caller("fletching_methods", others)()
    if not answers:
        raise PluginError(f"{name}: no `@hookimpl def fletching_methods()` returned a list of MethodSpec.")
    for answer in answers:
        if not isinstance(answer, list) or not all(isinstance(spec, MethodSpec) for spec in answer):
            raise PluginError(
                f"{name}: `fletching_methods` must return a list of MethodSpec; got {answer!r}."
            )
    return [spec for answer in answers for spec in answer]


def _read_names(variable: str) -> set[str] | None:
    value = os.environ.get(variable)
    return None if value is None else {_normalise(name) for name in value.split(",") if name.strip()}


def _normalise(name: str) -> str:
    """Spell a distribution's name the way installers compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
