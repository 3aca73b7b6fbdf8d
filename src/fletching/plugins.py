"""Finds the plug-ins: built-ins by folder scan, everyone else's by entry points of the group ``fletching``.

Plug-ins are loaded one by one. One that fails is kept with its error and never stops the others.

Two environment variables choose among them. Both hold names separated by commas:

- ``FLETCHING_PLUGINS``: the distributions or entry points to load, no other third party; empty loads none.
- ``FLETCHING_PLUGINS_OFF``: distributions, entry points or folders of ``fletching.methods`` to leave out.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pkgutil import iter_modules

from pluggy import PluginManager

from fletching import hookspecs
from fletching.errors import PluginError
from fletching.registry import BUILT_IN, BrokenPlugin, MethodSpec, Registry, summarise

__all__ = ["find_unknown_names", "registry", "reload"]

_METHODS = "fletching.methods"
_LOCK = threading.RLock()


def registry() -> Registry:
    """Find all plug-ins, once, whichever thread asks first.

    Returns:
        The registry of their methods; call `reload` after installing a plug-in into a running process.
    """
    with _LOCK:
        return _build_registry()


@cache
def _build_registry() -> Registry:
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
    with _LOCK:
        _build_registry.cache_clear()
        return registry()


def find_unknown_names(variable: str) -> list[str]:
    """Find the names in an environment variable that no plug-in goes by, which therefore do nothing.

    Args:
        variable: ``"FLETCHING_PLUGINS"`` or ``"FLETCHING_PLUGINS_OFF"``.

    Returns:
        The names, as installers compare them, sorted.
    """
    found = [*(() if variable == "FLETCHING_PLUGINS" else _find_built_ins()), *_find_third_party()]
    known = {_normalise(alias) for plugin in found for alias in plugin.aliases}
    return sorted((_read_names(variable) or set()) - known)


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
    for plugin in _find_third_party():
        names = set(map(_normalise, plugin.aliases))
        if names.isdisjoint(blocked) and (allowed is None or names & allowed):
            yield plugin


def _find_built_ins() -> Iterator[_Found]:
    folders = sorted(info.name for info in iter_modules(import_module(_METHODS).__path__) if info.ispkg)
    for folder in folders:
        module = f"{_METHODS}.{folder}.plugin"
        yield _Found(module, BUILT_IN, (folder, module), partial(import_module, module))


def _find_third_party() -> list[_Found]:
    try:
        found = [_describe(entry_point) for entry_point in entry_points(group=hookspecs.PROJECT)]
    except Exception:  # one distribution of any kind whose metadata cannot be read
        found = [plugin for each in distributions() for plugin in _describe_distribution(each)]
    return sorted({plugin.name: plugin for plugin in reversed(found)}.values(), key=lambda each: each.name)


def _describe_distribution(distribution: Distribution) -> list[_Found]:
    try:
        return [_describe(each) for each in distribution.entry_points if each.group == hookspecs.PROJECT]
    except Exception as error:
        name = distribution.name or str(distribution)
        return [
            _Found(name, name, (name,), partial(_refuse, f"{name}: its entry points cannot be read", error))
        ]


def _refuse(problem: str, cause: Exception) -> None:
    raise PluginError(f"{problem} ({summarise(cause)}).") from cause


def _describe(entry_point: EntryPoint) -> _Found:
    of_module = entry_point.value.partition(":")[0].partition(".")[0].strip()
    owner = (entry_point.dist.name if entry_point.dist else None) or of_module  # metadata may lack the name
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
