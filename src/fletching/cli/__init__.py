"""The ``fletching`` command.

Every module of this folder is a sub-command named after its file: it defines ``command``, a function that
typer reads. Adding a command is adding a file; modules that start with an underscore are shared by commands.
Nothing heavy is imported before a command runs, so that ``fletching --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fletching import __version__
from fletching.errors import FletchingError

__all__ = ["build_app", "main"]


def main() -> None:
    """Run the command line and exit: 0 success, 1 a check failed, 2 the user's mistake, 130 Ctrl-C."""
    build_app()()


def build_app() -> typer.Typer:
    """Collect the commands of this folder.

    Returns:
        The application; call it to run it.
    """
    app = typer.Typer(
        name="fletching",
        help="Research on embedding and reranking, inside the retrieval stack you already run.",
        cls=_Group,
        callback=_fletching,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # rich would double the time to show the help
        pretty_exceptions_enable=False,
    )
    for module in sorted(iter_modules(__path__), key=lambda info: info.name):
        if not module.name.startswith("_"):
            command = import_module(f"{__name__}.{module.name}").command
            app.command(module.name.replace("_", "-"), cls=_Command)(command)
    return app


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
