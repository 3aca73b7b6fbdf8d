"""How well similarities agree with those that people gave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fletching.errors import bad_argument
from fletching.metrics.resampling import Values, to_array

__all__ = ["pearson", "spearman"]


def pearson(first: Values, second: Values) -> float:
    """Compute Pearson's correlation: how well a straight line describes the pairs.

    Args:
        first: Numbers, at least 2, not all equal.
        second: As many.

    Returns:
        The correlation, from -1 to 1.

    Raises:
        ArgumentError: If the two differ in length, are too short or constant, or a number is not finite.

    Example:
        >>> pearson([1, 2, 3], [2, 4, 6])
        1.0
    """
    return _correlate(*_check("pearson", first, second))


def spearman(first: Values, second: Values) -> float:
    """Compute Spearman's correlation: Pearson's of the ranks; equal numbers share the mean of their ranks.

    Args:
        first: Numbers, at least 2, not all equal.
        second: As many.

    Returns:
        The correlation, from -1 to 1.

    Raises:
        ArgumentError: As in `pearson`.

    Example:
        >>> spearman([1, 2, 3], [1, 10, 100])
        1.0
    """
    return _correlate(*(_rank(values) for values in _check("spearman", first, second)))


def _check(owner: str, first: Values, second: Values) -> list[NDArray[np.float64]]:
    checked = []
    for parameter, values in (("first", first), ("second", second)):
        array = to_array(values)
        if array is None or len(array) < 2 or not np.isfinite(array).all():
            raise bad_argument(owner, parameter, "a list of at least two finite numbers", values)
        if np.ptp(array) == 0:
            raise bad_argument(owner, parameter, "numbers that are not all equal", values)
        checked.append(array)
    if len(checked[0]) != len(checked[1]):
        raise bad_argument(owner, "second", f"as long as `first`, {len(checked[0])} numbers", len(checked[1]))
    return checked


def _rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return ranks[places]


def _correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.clip(np.corrcoef(first, second)[0, 1], -1.0, 1.0))
