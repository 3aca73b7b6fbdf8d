"""Figures of the paper's kind; needs matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fletching.errors import missing_extra
from fletching.methods.limit.bounds import CRITICAL_N, critical_dim, critical_n, max_docs, min_dim

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


def plot_dimension_bounds(n: int, k: int = 2, *, margin: float = 0.1, dim: int | None = None) -> Figure:
    """Draw which dimensions the bound rules out for n documents, and what an optimiser reached.

    Args:
        n: Documents, drawn as a horizontal line.
        k: Relevant documents per query; what the optimiser reached is drawn for 2 only.
        margin: As in ``min_dim``.
        dim: Your dimension, drawn as a vertical line; ``None`` draws none.

    Returns:
        The figure.

    Raises:
        ArgumentError: If an argument is outside its domain.
        MissingExtraError: If matplotlib is not installed.
    """
    needed = min_dim(n, k, margin)
    figure, axes = _start_figure("dimension", "documents")
    widest = max(64, 2 * needed, 2 * (dim or 0), 2 * critical_dim(n).dim if k == 2 else 0)
    bound = {least: size for size in _spread(k, 10 * n) if 1 <= (least := min_dim(size, k, margin)) <= widest}
    axes.plot(
        list(bound), list(bound.values()), "--", label=f"at most these documents, margin {margin:g} (bound)"
    )
    if k == 2:
        dims = _spread(1, widest)
        reached = [critical_n(point).n for point in dims]
        axes.plot(dims, reached, label="best case reached by InfoNCE at T=0.1 (beyond 45: extrapolated)")
    axes.axhline(n, linewidth=1, color="gray", label=f"{n:,} documents")
    if dim is not None:
        axes.axvline(dim, linewidth=1, color="black", linestyle=":", label=f"{dim} dimensions")
    axes.set(xscale="log", yscale="log")
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
        curves: Model name -> result of ``measure_dimensions``; may be empty.
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
    if curves:
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


def _spread(first: int, last: int) -> list[int]:
    """Take whole numbers, spread as a logarithmic axis wants them."""
    points, point = [], first
    while point < last:
        points.append(point)
        point = max(point + 1, round(1.1 * point))
    return [*points, last]


def _start_figure(x: str, y: str) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and picks a backend
    except ImportError as error:
        raise missing_extra("fletching.methods.limit", "matplotlib", "plot") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes
