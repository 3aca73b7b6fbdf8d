"""``fletching train``: run the recipe of a method."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fletching.cli._fields import convert_field, find_missing, parse_assignment
from fletching.cli._output import reserve_stdout
from fletching.errors import bad_argument, bad_record
from fletching.plugins import registry

__all__ = ["command"]

_DATA_FIELD = "train_data"
_MODEL_FILES = ("modules.json", "config.json")  # of whatever fletching.load opens


def command(
    name: Annotated[str, typer.Argument(help="A method with a recipe, such as mvp.")],
    output: Annotated[Path, typer.Option(help="Where the model goes: a new or an empty folder.")],
    config: Annotated[Path | None, typer.Option(help="YAML file with fields of the recipe.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set one field; may be repeated, wins over --config."
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help=f"Short for {_DATA_FIELD}; may be repeated.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try it on a tiny model and data that ship with fletching.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --output.")
    ] = False,
) -> None:
    """Train a method with its recipe."""
    owner = f"fletching train {name}"
    with reserve_stdout():
        methods = registry()
    spec = methods.get(name)
    if spec.recipe is None:
        raise bad_argument(owner, "NAME", "a method with a recipe", name, f"See `fletching info {name}`")
    is_main = os.environ.get("RANK", "0") == "0"  # of several processes, which torchrun starts
    if is_main and not resume and output.exists() and (not output.is_dir() or any(output.iterdir())):
        remedy = "Choose another, or go on with --resume"
        raise bad_argument(owner, "--output", "a new or an empty folder", str(output), remedy)
    recipe_class: Any = methods.resolve(spec.recipe)
    values = _read_config(owner, recipe_class, config) if config else {}
    values |= dict(parse_assignment(owner, recipe_class, setting) for setting in settings or [])
    if data:
        values[_DATA_FIELD] = convert_field(owner, recipe_class, _DATA_FIELD, data)
    missing = [] if smoke else find_missing(recipe_class, values)
    if missing:
        raise bad_argument(owner, missing[0], "given", None, f"Use --set {missing[0]}=..., or --config")
    recipe = replace(recipe_class.smoke(), **values) if smoke else recipe_class(**values)

    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # on stderr
    logging.getLogger("fletching").setLevel(logging.INFO if is_main else logging.WARNING)
    results = recipe.run(output, resume=resume)
    if not is_main:
        return
    _print_results(results["before"], results["after"])
    is_model = any((output / name).is_file() for name in _MODEL_FILES)
    remedy = f"; open it with fletching.load({str(output)!r})" if is_model else ""
    typer.echo(f"Saved to {output}{remedy}.", err=True)


def _read_config(owner: str, recipe_class: type, path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise bad_record(path, None, None, "readable", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise bad_record(path, None, None, "text in UTF-8", error.reason) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise bad_record(path, line, None, "valid YAML", getattr(error, "problem", str(error))) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise bad_record(path, None, None, "a mapping of fields to values", content)
    return {
        str(name): convert_field(f"{owner}: {path}", recipe_class, str(name), value)
        for name, value in content.items()
    }


def _print_results(before: dict[str, float], after: dict[str, float]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not after:
        typer.echo("Nothing was evaluated: the recipe got no data for it.", err=True)
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for metric, value in after.items():
        if metric in before:
            table.add_row(metric, f"{before[metric]:.4f}", f"{value:.4f}", f"{value - before[metric]:+.4f}")
        else:
            table.add_row(metric, "", f"{value:.4f}", "")
    Console().print(table)
