"""Figures are drawn without touching pyplot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fletching.errors import MissingExtraError
from fletching.methods.limit import plot_critical_n, plot_dimensions, plot_margins

CURVE = {2: {"recall_at_2": 0.1}, 8: {"recall_at_2": 0.3}}
CALLS: list[Callable[[], Any]] = [
    lambda: plot_critical_n({6: 19, 7: 24}, margin=0.1),
    lambda: plot_critical_n(),
    lambda: plot_dimensions({"mine": CURVE}, baselines={"BM25": 0.99}),
    lambda: plot_dimensions({"mine": CURVE}),
    lambda: plot_margins({"mine": [0.0, 0.1, 0.3]}),
]


@pytest.mark.parametrize("call", CALLS)
def test_figures_can_be_saved(call: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    call().savefig(path)
    assert path.stat().st_size > 1000
    assert "matplotlib.pyplot" not in sys.modules


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
