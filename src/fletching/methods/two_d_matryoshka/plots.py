"""A picture of a frontier; needs matplotlib (extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fletching.errors import missing_extra
from fletching.methods.two_d_matryoshka.frontiers import Frontier, FrontierPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_frontier"]

# Okabe and Ito's colours, which those who see few colours can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#777777"
_FAINT = "#e6e6e6"
_CELL_INCHES = (0.8, 0.42)
_LEAST_INCHES = (4.2, 3.4)


def plot_frontier(result: Frontier) -> Figure:
    """Draw quality over layers and dimensions, and beside it quality against latency.

    On the left a heat map: a cell is a size, a frame around it says that no other size beats it. On the
    right the same scores by the latency of their depth, or by the number of layers where latency was not
    measured, a line for each width; sizes on the frontier are filled.

    Args:
        result: What `frontier` found.

    Returns:
        The figure; save it by ``figure.savefig(path)``.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and picks a backend
    except ImportError as error:
        raise missing_extra("plot_frontier", "matplotlib", "plot") from error
    width = max(_LEAST_INCHES[0], 1.6 + _CELL_INCHES[0] * len(result.dims))
    height = max(_LEAST_INCHES[1], 1.6 + _CELL_INCHES[1] * len(result.layers))
    figure = Figure(figsize=(width + 4.6, height), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(width, 4.6))
    figure.suptitle(f"{result.model_name.rstrip('/').rpartition('/')[2]}, {result.data_name}", fontsize=11)
    _draw_map(left, result)
    _draw_costs(right, result)
    return figure


def _draw_map(axes: Axes, result: Frontier) -> None:
    from matplotlib.patches import Rectangle

    layers, dims = result.layers, result.dims
    points = {(point.num_layers, point.truncate_dim): point for point in result.points}
    scores = [[points[depth, dim].score for dim in dims] for depth in layers]
    axes.imshow(scores, cmap="cividis", aspect="auto", origin="lower")
    middle = (max(map(max, scores)) + min(map(min, scores))) / 2
    for row, depth in enumerate(layers):
        for column, dim in enumerate(dims):
            point = points[depth, dim]
            colour = "black" if point.score > middle else "white"
            text = f"{point.score:.3f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
            if point.is_best:
                frame = Rectangle(
                    (column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=_COLOURS[1], linewidth=2
                )
                axes.add_patch(frame)
    axes.set_xticks(range(len(dims)), [str(dim) for dim in dims])
    axes.set_yticks(range(len(layers)), [str(depth) for depth in layers])
    axes.tick_params(length=0)
    axes.set(xlabel="dimensions", ylabel="layers")
    axes.set_title(_word_measure(result), fontsize=10)


def _draw_costs(axes: Axes, result: Frontier) -> None:
    for number, dim in enumerate(reversed(result.dims)):
        points = sorted(
            (point for point in result.points if point.truncate_dim == dim),
            key=lambda point: point.num_layers,
        )
        colour = _COLOURS[number % len(_COLOURS)]
        scores = [point.score for point in points]
        costs = [_find_cost(point) for point in points]
        axes.plot(costs, scores, "-", color=colour, linewidth=1, label=str(dim))
        for is_best, face in ((True, colour), (False, "white")):
            kept = [place for place, point in enumerate(points) if point.is_best is is_best]
            axes.plot(
                [costs[place] for place in kept],
                [scores[place] for place in kept],
                "o",
                color=colour,
                markerfacecolor=face,
                markersize=5,
            )
    axes.axhline(result.full.score, color=_GREY, linewidth=0.8, linestyle="--")
    if result.full.latency_ms is None:
        axes.set_xlabel("layers")
    else:
        batch = f"{result.batch_size} texts of {result.n_tokens} tokens"
        axes.set_xlabel(f"ms for {batch}\n({result.device})")
    axes.set_xlim(0, 1.05 * max(map(_find_cost, result.points)))
    axes.set_ylabel(_word_measure(result))
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(title="dimensions", fontsize=8, title_fontsize=8)


def _find_cost(point: FrontierPoint) -> float:
    return point.num_layers if point.latency_ms is None else point.latency_ms


def _word_measure(result: Frontier) -> str:
    return result.measure.replace("_", " ").replace("ndcg", "nDCG").replace("mrr", "MRR")
