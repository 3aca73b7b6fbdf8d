"""Figures of the paper's kind; needs matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fletching.errors import missing_extra
from fletching.methods.limit.functional import CRITICAL_N, critical_n, max_docs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_critical_n(measured: Mapping[int, int] | None = None, *, margin: float | None = None) -> Figure:
    """Draw critical n by dimension: the authors' table, the cubic, and what you measured.

    Args:
        measured: Your own numbers by dimension, such as from ``find_critical_n``; ``None`` draws none.
        margin: Draws the bound of Theorem 1 at this margin as well; ``None`` does not.

    Returns:
        The figure; save it by ``figure.savefig(path)``.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _start_figure("dimension", "documents whose pairs were all solved")
    dims = list(CRITICAL_N)
    axes.plot(
        dims, list(CRITICAL_N.values()), "o", markersize=3, label="Table 6 (best case of the optimiser)"
    )
    longer = [*dims, *range(dims[-1] + 1, dims[-1] + 20)]
    axes.plot(longer, [critical_n(dim).n for dim in longer], linewidth=1, label="extrapolated beyond 45")
    if measured:
        axes.plot(list(measured), list(measured.values()), "x", label="measured here")
    if margin is not None:
        few = [dim for dim in longer if dim <= 12]
        bound = [max_docs(dim, 2, margin) for dim in few]
        axes.plot(few, bound, "--", label=f"Theorem 1 at margin {margin:g}")
        axes.set_yscale("log")
    axes.legend()
    return figure


def plot_dimensions(
    curves: Mapping[str, Mapping[int, Mapping[str, float]]],
    metric: str = "recall_at_2",
    *,
    baselines: Mapping[str, float] | None = None,
) -> Figure:
    """Draw a metric by dimension, one curve for each model, baselines as horizontal lines.

    Args:
        curves: Model name -> result of ``measure_dimensions``.
        metric: What to draw.
        baselines: Name -> value, such as ``{"BM25": 0.99, "chance": 0.043}``; ``None`` draws none.

    Returns:
        The figure.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _start_figure("dimension", metric.replace("_", " "))
    axes.set_xscale("log", base=2)
    for name, curve in curves.items():
        dims = sorted(curve)
        axes.plot(dims, [curve[dim][metric] for dim in dims], "o-", label=name)
    for name, value in (baselines or {}).items():
        axes.axhline(value, linestyle="--", linewidth=1, color="gray")
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.legend()
    return figure


def plot_margins(margins: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how the margins of several models' subsets are distributed.

    Args:
        margins: Model name -> margins, such as ``capacity(...).margins``.

    Returns:
        The figure: share of subsets by the margin they at least have.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _start_figure("margin", "share of subsets with at least this margin")
    for name, values in margins.items():
        ordered = sorted((float(value) for value in values), reverse=True)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        axes.step(ordered, shares, where="pre", label=name)
    axes.legend()
    return figure


def _start_figure(x: str, y: str) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and picks a backend
    except ImportError as error:
        raise missing_extra("fletching.methods.limit", "matplotlib", "plot") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes
