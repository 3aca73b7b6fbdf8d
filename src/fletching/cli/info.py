"""``fletching info``: all that is known about one method or checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fletching.cli._output import AsJson, print_json, reserve_stdout
from fletching.plugins import registry
from fletching.registry import missing_requirements

__all__ = ["command"]


def command(
    name: Annotated[
        str, typer.Argument(help="A method such as mvp, or one of its checkpoints such as mvp-mini.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show what a method is, where it comes from and what it needs."""
    with reserve_stdout():
        methods = registry()
    found = methods.find_checkpoint(name)
    spec = found[0] if found else methods.get(name)
    facts = {
        **asdict(spec),
        "name": methods.name_of(spec),
        "owner": methods.owner_of(spec),
        "missing": missing_requirements(spec),
    }
    if as_json:
        print_json(facts)
        return

    facts["checkpoints"] = [f"{item.name} ({item.location}): {item.summary}" for item in spec.checkpoints]
    width = max(map(len, facts))
    for label, value in facts.items():
        lines = [str(value)] if isinstance(value, str) else list(value or ())
        for position, line in enumerate(filter(None, lines)):
            typer.echo(f"{'' if position else label:<{width}}  {line}")
