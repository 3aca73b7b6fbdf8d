"""The ``--plot`` option, the same in every command that draws."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from fletching.errors import bad_argument, missing_extra

__all__ = ["Plot", "check_plot"]

_FIGURES = (".png", ".svg", ".pdf")

Plot = Annotated[Path | None, typer.Option(help="Draw it into this file: .png, .svg, .pdf (extra plot).")]


def check_plot(owner: str, path: Path | None) -> None:
    """Refuse a file that could not be drawn, before anything is computed.

    Args:
        owner: The command, named in errors.
        path: The file; ``None`` draws nothing.

    Raises:
        ArgumentError: If no figure can be written under this name.
        MissingExtraError: If matplotlib is not installed.
    """
    if path is None:
        return
    try:
        import_module("matplotlib.backend_bases")
    except ImportError as error:
        raise missing_extra(owner, "matplotlib", "plot") from error
    if path.suffix.lower() not in _FIGURES:
        raise bad_argument(owner, "--plot", "a file that ends in .png, .svg or .pdf", str(path))
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise bad_argument(owner, "--plot", "a file in an existing folder", str(path))
