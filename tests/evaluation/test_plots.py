"""Figures are drawn without touching pyplot."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fletching.errors import ArgumentError, MissingExtraError
from fletching.evaluation.plots import plot_comparison
from fletching.evaluation.results import Comparison, Cost, Difference, SystemResult
from fletching.metrics import Interval, RunEvaluation

MEASURES = ("ndcg_at_10", "map")


def build_result(
    name: str, mean: float, difference: Interval | None, latency: float | None = None
) -> SystemResult:
    interval = Interval(mean, mean - 0.1, mean + 0.1, 0.95)
    return SystemResult(
        name=name,
        kind="embedder",
        fingerprint="ab",
        run={},
        evaluation=RunEvaluation(("q1", "q2"), {name: np.zeros(2) for name in MEASURES}, 0, 0, 0),
        intervals=dict.fromkeys(MEASURES, interval),
        differences={} if difference is None else dict.fromkeys(MEASURES, Difference(difference, 0.01)),
        cost=Cost() if latency is None else Cost(latency_ms={"q1": latency, "q2": 3 * latency}),
    )


def build_comparison(latency: float | None) -> Comparison:
    results = (
        build_result("bm25", 0.5, None),
        build_result("owner/better", 0.7, Interval(0.2, 0.1, 0.3, 0.95), latency),
        build_result("owner/same", 0.51, Interval(0.01, -0.1, 0.1, 0.95), latency),
    )
    return Comparison("archery", "d", MEASURES, "bm25", results, {})


@pytest.mark.parametrize("latency", [10.0, None])
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figure_can_be_saved(latency: float | None, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure{suffix}"
    plot_comparison(build_comparison(latency)).savefig(path)

    assert path.stat().st_size > 1000
    assert "matplotlib.pyplot" not in sys.modules


def test_quality_stands_over_the_median_latency() -> None:
    """Latencies of 10 and 30 ms: the median is 20. What has no latency is a line across, from 0 to 1."""
    left = plot_comparison(build_comparison(10.0)).axes[0]

    points = [line.get_xydata().tolist() for line in left.lines if line.get_marker() == "o"]
    assert points == [[[20.0, 0.7]], [[20.0, 0.51]]]
    assert [[0.0, 0.5], [1.0, 0.5]] in [line.get_xydata().tolist() for line in left.lines]
    assert left.get_xscale() == "log"


def test_quality_stands_by_system_without_latencies() -> None:
    left = plot_comparison(build_comparison(None)).axes[0]

    points = [line.get_xydata().tolist() for line in left.lines if line.get_marker() == "o"]
    assert points == [[[0.5, 0.0]], [[0.7, 1.0]], [[0.51, 2.0]]]


def test_differences_are_filled_where_zero_is_outside() -> None:
    right = plot_comparison(build_comparison(10.0)).axes[1]

    faces = {
        line.get_xydata().tolist()[0][1]: line.get_markerfacecolor()
        for line in right.lines
        if line.get_marker() == "o"
    }
    assert faces[2.0] == "white"
    assert faces[1.0] != "white"


def test_systems_are_named_without_their_owners() -> None:
    right = plot_comparison(build_comparison(10.0)).axes[1]

    assert [tick.get_text() for tick in right.get_yticklabels()] == ["bm25", "better", "same"]


def test_owners_are_kept_where_they_tell_systems_apart() -> None:
    results = tuple(build_result(name, 0.5, None) for name in ("a/model", "b/model"))
    figure = plot_comparison(Comparison("x", "d", MEASURES, "a/model", results, {}))

    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ["a/model", "b/model"]


def test_another_measure_can_be_drawn() -> None:
    assert plot_comparison(build_comparison(10.0), "map").axes[0].get_ylabel() == "map"


def test_measure_that_was_not_computed_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`measure` must be one of 'ndcg_at_10', 'map'; got 'mrr'"):
        plot_comparison(build_comparison(10.0), "mrr")


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_zero_outside_is_a_difference(low: float, high: float, expected: bool) -> None:
    assert Difference(Interval(0.0, low, high, 0.95), 1.0).leaves_zero_out is expected


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[plot\]"'):
        plot_comparison(build_comparison(10.0))
