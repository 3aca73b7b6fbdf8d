"""The ``--plot`` option, the same in every command that draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletching.errors import bad_argument, missing_extra

__all__ = ["Plot", "check_plot"]

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
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise missing_extra(owner, "matplotlib", "plot") from error
    if path.suffix.removeprefix(".") not in FigureCanvasBase.filetypes:
        raise bad_argument(owner, "--plot", "a file that ends in .png, .svg or .pdf", str(path))
    if not path.parent.is_dir():
        raise bad_argument(owner, "--plot", "a file in an existing folder", str(path))
