from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from fletching.errors import MissingExtraError
from fletching.methods.two_d_matryoshka import Frontier, FrontierPoint, plot_frontier
from fletching.methods.two_d_matryoshka.frontiers import mark_best

pytest.importorskip("matplotlib")


@pytest.fixture
def found() -> Frontier:
    rows = [(4, 64, 0.80, 10.0), (4, 16, 0.79, 10.0), (2, 64, 0.70, 5.0), (2, 16, 0.72, 5.0)]
    points = [FrontierPoint(n, d, score, None, None, score / 0.8, ms, 4 * d) for n, d, score, ms in rows]
    points = [replace(point, is_best=best) for point, best in zip(points, mark_best(points), strict=True)]
    return Frontier("models/toy", "pairs", "ndcg_at_10", 7, tuple(points), "cpu, 1 thread", 8, 16)


def test_plot_writes_each_score_into_its_cell(found: Frontier) -> None:
    """Columns are widths, rows are depths, both rising."""
    heat_map = plot_frontier(found).axes[0]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in heat_map.texts}
    assert cells == {(0, 0): "0.720", (1, 0): "0.700", (0, 1): "0.790", (1, 1): "0.800"}
    assert [tick.get_text() for tick in heat_map.get_xticklabels()] == ["16", "64"]
    assert [tick.get_text() for tick in heat_map.get_yticklabels()] == ["2", "4"]


def test_plot_frames_the_frontier(found: Frontier) -> None:
    frames = [(round(patch.get_x()), round(patch.get_y())) for patch in plot_frontier(found).axes[0].patches]
    assert sorted(frames) == [(0, 0), (0, 1), (1, 1)]  # all but (2, 64)


def test_plot_draws_scores_by_latency(found: Frontier) -> None:
    costs = plot_frontier(found).axes[1]
    assert costs.get_xlabel() == "ms for 8 texts of 16 tokens\n(cpu, 1 thread)"
    assert costs.get_ylabel() == "nDCG at 10"
    assert list(costs.lines[0].get_xdata()) == [5.0, 10.0]
    assert list(costs.lines[0].get_ydata()) == [0.70, 0.80]


def test_plot_takes_layers_where_latency_was_not_measured(found: Frontier) -> None:
    points = tuple(replace(point, latency_ms=None) for point in found.points)
    costs = plot_frontier(replace(found, points=points)).axes[1]
    assert costs.get_xlabel() == "layers"
    assert list(costs.lines[0].get_xdata()) == [2, 4]


def test_plot_needs_matplotlib(found: Frontier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[plot\]"'):
        plot_frontier(found)
