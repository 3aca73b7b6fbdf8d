"""``fletching list``: every method on one screen."""

from __future__ import annotations

import typer

from fletching.cli._output import AsJson, print_json, reserve_stdout, warn_of_broken
from fletching.plugins import registry

__all__ = ["command"]


def command(as_json: AsJson = False) -> None:
    """List the methods, built-in and from plug-ins."""
    with reserve_stdout():
        methods = registry()
    rows = [
        {
            "name": methods.name_of(spec),
            "kind": spec.kind,
            "fidelity": spec.fidelity,
            "owner": methods.owner_of(spec),
            "summary": spec.summary,
        }
        for spec in methods
    ]
    if as_json:
        print_json(rows)
    elif rows:
        _print_table(rows)
    else:
        typer.echo("No methods are installed.")
    warn_of_broken(methods)


def _print_table(rows: list[dict[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in rows[0]:
        table.add_column(heading, no_wrap=heading == "name", style="bold" if heading == "name" else "")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
