"""One figure of a comparison; needs matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fletching.errors import bad_choice, missing_extra
from fletching.evaluation.report import percentiles, shorten_names
from fletching.evaluation.results import Comparison, SystemResult
from fletching.metrics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_comparison"]

# Okabe and Ito's colours, which those who see few colours can tell apart; the baseline is grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#777777"
_FAINT = "#e6e6e6"
_MIN_HEIGHT = 3.8  # inches
_ROW_INCHES = 0.42
_DECADE = 10


def plot_comparison(comparison: Comparison, measure: str | None = None) -> Figure:
    """Draw quality against latency, and beside it the differences to the baseline.

    Latency is the median over queries, on a logarithmic axis. A system whose latency is not known, such as a
    run file, is a line across with its interval as a band. If no latency is known at all, quality stands by
    system. A difference is a filled dot where its interval leaves zero out.

    Args:
        comparison: What an evaluation found.
        measure: What to draw; ``None`` takes the first measure.

    Returns:
        The figure; save it by ``figure.savefig(path)``.

    Raises:
        ArgumentError: If the comparison lacks the measure.
        MissingExtraError: If matplotlib is not installed.
    """
    if measure is None:
        measure = comparison.measures[0]
    elif measure not in comparison.measures:
        raise bad_choice("plot_comparison", "measure", comparison.measures, measure)
    try:
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and picks a backend
    except ImportError as error:
        raise missing_extra("plot_comparison", "matplotlib", "plot") from error

    results = comparison.results
    height = max(_MIN_HEIGHT, 1.2 + _ROW_INCHES * len(results))
    figure = Figure(figsize=(10, height), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    n_queries = len(results[0].evaluation.query_ids)
    figure.suptitle(f"{comparison.data_name}, {n_queries} queries", fontsize=11)
    label = measure.replace("_", " ").replace("ndcg", "nDCG").replace("mrr", "MRR")
    colours = _choose_colours(comparison)
    if any(result.cost.latency_ms for result in results):
        _draw_by_latency(left, results, measure, colours)
        left.set(xlabel="ms per query, median", ylabel=label)
    else:
        for place, result in enumerate(results):
            _draw_interval(left, place, result.intervals[measure], colours[result.name], "{:.4f}")
        _name_rows(left, [""] * len(results))
        left.set(xlabel=label)
    right.axvline(0, color=_GREY, linewidth=1)
    for place, result in enumerate(results):
        if measure in result.differences:
            found = result.differences[measure]
            colour, is_filled = colours[result.name], found.leaves_zero_out
            _draw_interval(right, place, found.interval, colour, "{:+.4f}", is_filled)
        else:
            right.plot([0], [place], "o", color=colours[result.name])
    names = shorten_names([result.name for result in results])
    _name_rows(right, list(names.values()))
    for tick, result in zip(right.get_yticklabels(), results, strict=True):
        tick.set_color(colours[result.name])
    right.set(xlabel=f"difference to {names[comparison.baseline]}, {label}")
    return figure


def _choose_colours(comparison: Comparison) -> dict[str, str]:
    names = [result.name for result in comparison.results if result.name != comparison.baseline]
    chosen = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    return {**chosen, comparison.baseline: _GREY}


def _draw_by_latency(
    axes: Axes, results: Sequence[SystemResult], measure: str, colours: dict[str, str]
) -> None:
    axes.set_xscale("log")
    latencies = []
    for result in results:
        interval, colour = result.intervals[measure], colours[result.name]
        if result.cost.latency_ms:
            latencies.append(percentiles(result.cost.latency_ms)["p50"])
            ends = [[interval.mean - interval.low], [interval.high - interval.mean]]
            axes.errorbar([latencies[-1]], [interval.mean], yerr=ends, fmt="o", color=colour, capsize=3)
        else:
            axes.axhline(interval.mean, color=colour, linewidth=1.2, linestyle="--")
            axes.axhspan(interval.low, interval.high, color=colour, alpha=0.08, linewidth=0)
    low, high = min(latencies), max(latencies)
    if high < low * _DECADE:  # at least a decade, so that the axis has numbers
        middle = (low * high) ** 0.5
        low, high = middle / _DECADE**0.5, middle * _DECADE**0.5
    axes.set_xlim(low / 2, high * 2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_interval(
    axes: Axes, place: int, interval: Interval, colour: str, form: str, is_filled: bool = True
) -> None:
    ends = [[interval.mean - interval.low], [interval.high - interval.mean]]
    face = colour if is_filled else "white"
    axes.errorbar([interval.mean], [place], xerr=ends, fmt="o", color=colour, markerfacecolor=face, capsize=3)
    axes.annotate(
        form.format(interval.mean),
        (interval.mean, place),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
    )


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Put the names of systems on the right, the first one on top."""
    axes.yaxis.tick_right()
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(names)), names)
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
