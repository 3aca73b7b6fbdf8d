from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from fletching.errors import ArgumentError
from fletching.metrics import pearson, spearman


def test_pearson_is_what_hand_counting_gives() -> None:
    """Deviations -1 0 1 and -1 1 0: 1 / sqrt(2 * 2)."""
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)


def test_spearman_reads_ranks() -> None:
    """Ranks 1 2 3 and 1 3 2."""
    assert spearman([0.1, 0.2, 9], [-5, 100, 7]) == pytest.approx(0.5)


def test_spearman_shares_ranks_of_equal_numbers() -> None:
    """Ranks 1.5 1.5 3 and 1 2 3: deviations -.5 -.5 1 and -1 0 1: 1.5 / sqrt(1.5 * 2)."""
    assert spearman([4, 4, 5], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_correlation_of_opposites_is_minus_1(measure: Callable[..., float]) -> None:
    assert measure([1, 2, 4], [-1, -2, -4]) == pytest.approx(-1)


@pytest.mark.parametrize("measure", [pearson, spearman])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 1], [1, 2], "`first` must be numbers that are not all equal; got [1, 1]"),
        ([1, 2], [1, float("nan")], "`second` must be a list of at least two finite numbers; got [1, nan]"),
        ([1], [1], "`first` must be a list of at least two finite numbers; got [1]"),
        ([1, 2], [1, 2, 3], "`second` must be as long as `first`, 2 numbers; got 3"),
    ],
)
def test_undefined_correlation_is_refused(
    measure: Callable[..., float], first: Any, second: Any, message: str
) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"{measure.__name__}: {message}.")):
        measure(first, second)
