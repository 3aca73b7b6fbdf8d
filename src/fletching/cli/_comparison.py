"""A comparison of systems as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fletching.cli._output import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fletching.evaluation import Comparison, SystemResult
    from fletching.metrics import Interval

__all__ = ["print_comparison"]

_MEASURE_WIDTH = 21  # a difference with its mark and interval, and two columns of air
_NAME_WIDTH = 16
_ANY_WIDTH = 1000
_DASH = "\N{EN DASH}"


def print_comparison(comparison: Comparison, notes: Sequence[str]) -> None:
    """Print quality and costs on stdout, and notes below them.

    Args:
        comparison: What an evaluation found.
        notes: Sentences.
    """
    from rich.console import Console

    console = Console(highlight=False)
    dash = ".." if console.options.ascii_only else _DASH
    at_most = max(1, (console.width - _NAME_WIDTH) // _MEASURE_WIDTH)
    n_tables = -(-len(comparison.measures) // at_most)
    per_table = -(-len(comparison.measures) // n_tables)  # tables of about the same width
    for start in range(0, len(comparison.measures), per_table):
        some = comparison.measures[start : start + per_table]
        console.print(_build_quality(comparison, some, dash), "")
    _print_costs(console, comparison)
    for note in notes:
        console.print(one_line(note), style="dim", markup=False)


def _build_quality(comparison: Comparison, measures: Sequence[str], dash: str) -> Table:
    """A row for each system: means with intervals, below them the differences to the baseline."""
    from rich.text import Text

    table = _start_table()
    for measure in measures:
        table.add_column(measure, no_wrap=True)
    names = _name_rows(comparison)
    for result in comparison.results:
        name = Text(names[result.name])
        if result.first_stage_recall is not None and result.first_stage:
            name.append(f"\nfirst stage {result.first_stage_recall:.2f}", "dim")
        table.add_row(name, *(_draw_cell(result, measure, dash) for measure in measures))
    return table


def _draw_cell(result: SystemResult, measure: str, dash: str) -> Any:
    from rich.text import Text

    interval = result.intervals[measure]
    cell = Text.assemble((f"{interval.mean:.4f}", "bold"), (f" {_word_range(interval, dash)}", "dim"))
    if measure in result.differences:
        found, is_clear = result.differences[measure].interval, result.differences[measure].leaves_zero_out
        cell.append(
            f"\n{round(found.mean, 3) + 0.0:+.3f}{'*' if is_clear else ''}", "" if is_clear else "dim"
        )
        cell.append(f" {_word_range(found, dash)}", "dim")
    return cell


def _word_range(interval: Interval, dash: str) -> str:
    low, high = (round(end, 2) + 0.0 for end in (interval.low, interval.high))  # + 0.0: no minus zero
    return f"{low:.2f}{dash}{high:.2f}"


def _print_costs(console: Console, comparison: Comparison) -> None:
    """Print the columns of which something is known, if any; in two tables where one is too wide."""
    from fletching.evaluation.report import describe_results

    columns: dict[str, list[str]] = {}
    for result in describe_results(comparison):
        latency = result["latency_ms"]
        cells = {
            "ms p50": _round(latency.get("p50")),
            "p95": _round(latency.get("p95")),
            "prepare s": _round(result["prepare_seconds"]),
            "tokens": _count(result["tokens"]),
            "padding": "" if result["padding"] is None else f"{result['padding']:.1%}",
            "cut off": _count(result["lost_tokens"] or None),
            "MiB": _count(result["peak_memory_mib"]),
            "bytes": _count(result["bytes_per_vector"]),
        }
        for name, cell in cells.items():
            columns.setdefault(name, []).append(cell)
    known = {name: cells for name, cells in columns.items() if any(cells)}
    if not known:
        return
    table = _build_costs(comparison, known)
    unlimited = console.options.update(
        max_width=_ANY_WIDTH
    )  # a table never says that it wants more than that
    if console.measure(table, options=unlimited).maximum <= console.width:
        console.print(table, "")
        return
    names = list(known)
    for some in (names[: len(names) // 2], names[len(names) // 2 :]):
        console.print(_build_costs(comparison, {name: known[name] for name in some}), "")


def _build_costs(comparison: Comparison, columns: dict[str, list[str]]) -> Table:
    from rich.text import Text

    table = _start_table()
    names = _name_rows(comparison)
    table.add_column("kind", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for result, *row in zip(comparison.results, *columns.values(), strict=True):
        table.add_row(Text(names[result.name]), result.kind, *row)
    return table


def _start_table() -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("system", overflow="fold")
    return table


def _name_rows(comparison: Comparison) -> dict[str, str]:
    from fletching.evaluation.report import shorten_names

    short = shorten_names([result.name for result in comparison.results])
    return {name: one_line(label) for name, label in short.items()}


def _round(value: float | None) -> str:
    """As many digits as a clock is good for."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
