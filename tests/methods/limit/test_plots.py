"""Figures are drawn without touching pyplot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fletching.errors import MissingExtraError
from fletching.methods.limit import (
    critical_n,
    max_docs,
    plot_critical_n,
    plot_dimension_bounds,
    plot_dimensions,
    plot_margins,
)

CURVE = {2: {"recall_at_2": 0.1}, 8: {"recall_at_2": 0.3}}
CALLS: list[Callable[[], Any]] = [
    lambda: plot_critical_n({6: 19, 7: 24}, margin=0.1),
    lambda: plot_critical_n(),
    lambda: plot_dimensions({"mine": CURVE}, baselines={"BM25": 0.99}),
    lambda: plot_dimensions({"mine": CURVE}),
    lambda: plot_dimensions({}, baselines={"BM25": 0.99}),
    lambda: plot_dimension_bounds(100, dim=8),
    lambda: plot_dimension_bounds(100, k=10, margin=0.5),
    lambda: plot_margins({"mine": [0.0, 0.1, 0.3]}),
]


@pytest.mark.parametrize("call", CALLS)
def test_figures_can_be_saved(call: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    call().savefig(path)
    assert path.stat().st_size > 1000
    assert "matplotlib.pyplot" not in sys.modules


def test_bounds_are_those_of_the_library() -> None:
    (axes,) = plot_dimension_bounds(1000, margin=0.2, dim=8).axes
    bound, reached = (line.get_xydata().tolist() for line in axes.lines[:2])
    assert bound
    assert all(size <= max_docs(int(dim), 2, 0.2) for dim, size in bound)
    assert all(size == critical_n(int(dim)).n for dim, size in reached)
    assert reached[0][0] == 1
    assert reached[-1][0] >= 64


def test_larger_sets_have_no_best_case() -> None:
    (axes,) = plot_dimension_bounds(1000, k=3).axes
    assert len(axes.lines) == 2  # the bound, and the user's documents


def test_dimensions_are_drawn_in_order() -> None:
    (axes,) = plot_dimensions({"mine": dict(reversed(CURVE.items()))}).axes
    assert axes.lines[0].get_xydata().tolist() == [[2.0, 0.1], [8.0, 0.3]]


def test_margins_are_shares_of_subsets() -> None:
    (axes,) = plot_margins({"mine": [0.0, 0.3, 0.1, 0.1]}).axes
    assert axes.lines[0].get_xydata().tolist() == [[0.3, 0.25], [0.1, 0.5], [0.1, 0.75], [0.0, 1.0]]


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[plot\]"'):
        plot_critical_n()
