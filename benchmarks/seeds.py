"""What the benchmarks that train with several seeds share: options, records, intervals, tables, pictures."""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import REPOSITORY
from scipy import stats

__all__ = [
    "build_seeds_parser",
    "draw_interval",
    "format_table",
    "mark_zero",
    "read_options",
    "save_figure",
    "student_interval",
    "write_record",
]


def build_seeds_parser(description: str | None, commands: Iterable[str], *, name: str) -> Any:
    """Make a parser with the options that all these benchmarks have.

    Args:
        description: The docstring of the script.
        commands: What it can do.
        name: Folder of its records, below ``runs/``.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=list(commands))
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / name)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--plot", type=Path, default=None, help="draw what is found into this picture")
    return parser


def read_options(parser: Any) -> argparse.Namespace:
    """Read the command line, set the threads, and silence load reports and words about long texts.

    Args:
        parser: What `build_seeds_parser` made.

    Returns:
        The options.
    """
    options: argparse.Namespace = parser.parse_args()
    for name in ("transformers", "fletching"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def draw_interval(
    axes: Any,
    place: float,
    middle: float,
    ends: tuple[float, float],
    *,
    number: int,
    label: str | None = None,
) -> None:
    """Draw a mean with its interval as a row of a picture.

    Args:
        axes: Of matplotlib.
        place: Height of the row.
        middle: The mean.
        ends: Of the interval.
        number: Of the colour.
        label: Of the legend; ``None`` leaves it out.
    """
    low, high = ends
    reach = [[middle - low], [high - middle]]
    axes.errorbar(middle, place, xerr=reach, fmt="o", color=f"C{number}", label=label)


def mark_zero(axes: Any, names: Sequence[str]) -> None:
    """Draw the line of no difference, and name the rows from the top.

    Args:
        axes: Of matplotlib.
        names: Of the rows at the heights 0, -1, -2, ...
    """
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks([-place for place in range(len(names))], list(names))


def save_figure(figure: Any, path: Path) -> None:
    """Write a picture and say where.

    Args:
        figure: Of matplotlib.
        path: The file.
    """
    figure.savefig(path, dpi=120)
    print(f"Drawn to {path}.", file=sys.stderr)


def student_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Find where the mean of a normal distribution lies, by Student's t.

    Args:
        values: At least two draws.
        level: Of confidence.

    Returns:
        The two ends.
    """
    mean, size = statistics.mean(values), len(values)
    half = float(stats.t.ppf((1 + level) / 2, size - 1)) * statistics.stdev(values) / math.sqrt(size)
    return mean - half, mean + half


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a table in Markdown.

    Args:
        rows: The keys of the first are the columns.

    Returns:
        The lines.
    """
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_record(path: Path, content: Any) -> None:
    """Write a file of JSON, whole or not at all, so that its presence says that the run has ended.

    Args:
        path: The file; its folder is made.
        content: What JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    part.replace(path)
