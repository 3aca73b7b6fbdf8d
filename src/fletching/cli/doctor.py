"""``fletching doctor``: does everything that is installed work?"""

from __future__ import annotations

import os
import platform
import traceback
from importlib import metadata
from typing import Any

import typer

from fletching.cli._output import AsJson, print_json, reserve_stdout
from fletching.errors import FletchingError, MissingExtraError
from fletching.plugins import find_unknown_names, registry
from fletching.registry import Registry, missing_requirements, read_extras

__all__ = ["command"]

_PACKAGES = ("fletching", "sentence-transformers", "transformers", "tokenizers", "torch", "numpy", "pluggy")
_VARIABLES = ("FLETCHING_PLUGINS", "FLETCHING_PLUGINS_OFF")


def command(as_json: AsJson = False) -> None:
    """Import every method; report what is broken.

    Also shows versions, the packages that extras lack, and names that clash. Exits with status 1 when
    something is broken.
    """
    with reserve_stdout():
        report = _examine(registry())
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if report["broken"]:
        raise typer.Exit(1)


def _examine(methods: Registry) -> dict[str, Any]:
    broken = {plugin.name: plugin.traceback for plugin in methods.broken}
    working = []
    incomplete = {}
    for spec in methods:
        name = methods.name_of(spec)
        try:
            for target in filter(None, (spec.entry, spec.recipe)):
                methods.resolve(target)
        except MissingExtraError:
            incomplete[name] = missing_requirements(spec)
        except FletchingError as error:
            broken[name] = "".join(traceback.format_exception(error))
        else:
            working.append(name)
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "unknown": {name: unknown for name in _VARIABLES if (unknown := find_unknown_names(name))},
        "extras": {
            extra: [package for package in packages if _version(package) is None]
            for extra, packages in read_extras().items()
        },
        "working": working,
        "incomplete": incomplete,
        "clashes": [str(clash) for clash in methods.clashes],
        "broken": broken,
    }


def _print_report(report: dict[str, Any]) -> None:
    for package, version in report["versions"].items():
        typer.echo(f"{package} {version or 'is not installed'}")
    for variable, value in report["environment"].items():
        typer.echo(f"{variable}={value!r} is set")
    for variable, names in report["unknown"].items():
        typer.secho(f"{variable} names what is not installed: {', '.join(names)}", fg="yellow")
    for extra, missing in report["extras"].items():
        typer.echo(f"extra {extra}: {'lacks ' + ', '.join(missing) if missing else 'complete'}")
    for name in report["working"]:
        typer.secho(f"{name} works", fg="green")
    for name, missing in report["incomplete"].items():
        typer.secho(f"{name} needs {', '.join(missing)}", fg="yellow")
    for clash in report["clashes"]:
        typer.secho(clash, fg="yellow")
    for name, trace in report["broken"].items():
        typer.secho(f"{name} is broken:", fg="red")
        typer.echo(trace.rstrip())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
