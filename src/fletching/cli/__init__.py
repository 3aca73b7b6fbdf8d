"""The ``fletching`` command.

Every module of this folder is a sub-command named after its file: it defines ``command``, a function that
typer reads. A module with several of them, such as ``fletching limit dimension``, defines ``commands``, name
-> function, and ``summary``, the help of the group. Adding a command is adding a file; modules that start
with an underscore are parts of commands, some shared by several. Nothing heavy is imported before a command
runs, so that ``fletching --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper
from pkgutil import iter_modules
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fletching import __version__
from fletching.cli._output import one_line
from fletching.errors import FletchingError

__all__ = ["build_app", "main"]


def main() -> None:
    """Run the command line and exit: 0 success, 1 a check failed, 2 the user's mistake, 130 Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot print
    build_app(*sys.argv[1:2])()


def build_app(wanted: str | None = None) -> typer.Typer:
    """Collect the commands of this folder.

    Args:
        wanted: A command that alone is to run: the others are then left out, which saves most of the time to
            start. Anything else collects all of them.

    Returns:
        The application; call it to run it.
    """
    summary = "Research on embedding and reranking, inside the retrieval stack you already run."
    app = _build_group("fletching", summary, _fletching)
    modules = {
        info.name.replace("_", "-"): info.name for info in iter_modules(__path__) if info.name[0] != "_"
    }
    for name in [wanted] if wanted in modules else sorted(modules):
        module = import_module(f"{__name__}.{modules[name]}")
        if not hasattr(module, "commands"):
            app.command(name, cls=_Command)(module.command)
            continue
        group = _build_group(name, module.summary)
        for subname, command in module.commands.items():
            group.command(subname, cls=_Command)(command)
        app.add_typer(group)
    return app


def _build_group(name: str, summary: str, callback: Callable[..., None] | None = None) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=summary,
        cls=_Group,
        callback=callback,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # rich would double the time to show the help
        pretty_exceptions_enable=False,
    )


class _QuickHelp:
    """Gives ``--help`` a boolean default; typer imports pydantic, 0.1 s, to convert a missing one."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class _Command(_QuickHelp, TyperCommand):
    """A command that starts fast."""


class _Group(_QuickHelp, TyperGroup):
    """Turns what users do wrong into one red sentence, and Ctrl-C into a quiet exit."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FletchingError as error:
            typer.secho(str(error), fg="red", err=True)
            raise typer.Exit(2) from error
        except BrokenPipeError:  # whoever reads has enough; typer ends in silence
            raise
        except OSError as error:  # a full disk, a folder that may not be written
            owner = f"{ctx.command_path} {ctx.invoked_subcommand}"
            typer.secho(f"{owner}: {one_line(str(error))}.", fg="red", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(130) from interrupt


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fletching {__version__}")
        raise typer.Exit


def _fletching(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass
