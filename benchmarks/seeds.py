"""What the benchmarks that train with several seeds share: records of runs, intervals, tables."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

__all__ = ["format_table", "student_interval", "write_record"]


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
