"""How sure a mean over queries is: intervals and tests that draw queries again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletching.errors import bad_argument

__all__ = ["Interval", "bootstrap_interval", "paired_bootstrap", "permutation_test"]

Values = Sequence[float] | NDArray[np.floating]

_DRAWS_AT_ONCE = 1 << 18  # 8 bytes each, a few times over: fits into the cache
_BLOCK = 8  # differences whose signs one random byte decides


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie.

    Args:
        mean: The mean of the values themselves.
        low: Lower end.
        high: Upper end.
        level: Share of the resampled means between the ends.
    """

    mean: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


def bootstrap_interval(
    values: Values, *, n_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Estimate how far the mean of ``values`` would move with other queries of the same kind.

    Percentile bootstrap: queries are drawn with replacement, as many as there are, ``n_resamples`` times.

    Args:
        values: One value for each query, at least 2.
        n_resamples: How often to draw, at least 1.
        level: Share of the means that the interval holds, between 0 and 1.
        seed: Same seed, same interval.

    Returns:
        Mean and interval.

    Raises:
        ArgumentError: If there are fewer than two values, one is not finite, or a setting is out of range.

    Example:
        >>> print(bootstrap_interval([0.2, 0.4, 0.6, 0.8]))
        0.5000 (0.3000 to 0.7000)
    """
    checked = _check_values("bootstrap_interval", "values", values)
    return _bootstrap("bootstrap_interval", checked, n_resamples, level, seed)


def paired_bootstrap(
    first: Values, second: Values, *, n_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Estimate how far the mean of ``first - second`` would move with other queries of the same kind.

    Queries are drawn, and both systems are read on the same ones: what is hard for both cancels out.

    Args:
        first: One value for each query.
        second: One value for each query, in the same order.
        n_resamples: How often to draw, at least 1.
        level: Share of the means that the interval holds, between 0 and 1.
        seed: Same seed, same interval.

    Returns:
        Mean difference and interval; 0 outside it speaks for a difference.

    Raises:
        ArgumentError: If the two differ in length, or as in `bootstrap_interval`.
    """
    differences = _subtract("paired_bootstrap", first, second)
    return _bootstrap("paired_bootstrap", differences, n_resamples, level, seed)


def permutation_test(first: Values, second: Values, *, n_resamples: int = 10_000, seed: int = 0) -> float:
    """Test whether two systems differ on the same queries: paired, two-sided, by random signs.

    If they did not differ, each difference could as well have the other sign. The p-value is the share of
    random signs that bring the mean at least as far from 0 as it is. The signs as they are count as one more
    draw, ``(1 + hits) / (1 + n_resamples)``, so that it is never 0.

    Args:
        first: One value for each query.
        second: One value for each query, in the same order.
        n_resamples: How often to draw signs, at least 1.
        seed: Same seed, same p-value.

    Returns:
        The p-value, in (0, 1].

    Raises:
        ArgumentError: If the two differ in length, hold fewer than two values, one is not finite, or a
            setting is out of range.

    Example:
        >>> permutation_test([0.9, 0.8, 0.7], [0.1, 0.1, 0.1], n_resamples=999)  # 2 of 8 sign patterns
        0.2...
    """
    differences = _subtract("permutation_test", first, second)
    _check_setting("permutation_test", "n_resamples", n_resamples, 1)
    _check_setting("permutation_test", "seed", seed, 0)
    observed = abs(float(differences.sum()))
    rounding = 1e-12 * float(np.abs(differences).sum())  # sums that are equal on paper count as equal
    hits = sum(
        int(np.count_nonzero(np.abs(sums) >= observed - rounding))
        for sums in _draw_signed_sums(differences, n_resamples, seed)
    )
    return (1 + hits) / (1 + n_resamples)


def _bootstrap(
    owner: str, values: NDArray[np.float64], n_resamples: int, level: float, seed: int
) -> Interval:
    _check_setting(owner, "n_resamples", n_resamples, 1)
    _check_setting(owner, "seed", seed, 0)
    if not (isinstance(level, int | float) and 0 < level < 1):
        raise bad_argument(owner, "level", "between 0 and 1", level)
    generator = np.random.default_rng(seed)
    n = len(values)
    rows = max(1, _DRAWS_AT_ONCE // n)
    means = np.empty(n_resamples)
    for start in range(0, n_resamples, rows):
        drawn = generator.integers(0, n, (min(rows, n_resamples - start), n))
        means[start : start + rows] = values.take(drawn, mode="clip").mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level)


def _draw_signed_sums(
    differences: NDArray[np.float64], n_resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield sums of the differences under random signs.

    A byte decides eight signs: the 256 sums of each block of eight are made once and then looked up.
    """
    generator = np.random.default_rng(seed)
    n_blocks = -(-len(differences) // _BLOCK)
    blocks = np.zeros((n_blocks, _BLOCK))
    blocks.flat[: len(differences)] = differences
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)
    sums = (blocks @ (1.0 - 2.0 * bits.T)).ravel()  # (n_blocks * 256)
    offsets = 256 * np.arange(n_blocks)
    rows = max(1, _DRAWS_AT_ONCE // n_blocks)
    for start in range(0, n_resamples, rows):
        shape = (min(rows, n_resamples - start), n_blocks)
        drawn = generator.integers(0, 256, shape)
        yield sums.take(drawn + offsets, mode="clip").sum(axis=1)


def _subtract(owner: str, first: Values, second: Values) -> NDArray[np.float64]:
    minuend, subtrahend = _check_values(owner, "first", first), _check_values(owner, "second", second)
    if len(minuend) != len(subtrahend):
        raise bad_argument(owner, "second", f"as long as `first`, {len(minuend)} values", len(subtrahend))
    return minuend - subtrahend


def _check_values(owner: str, parameter: str, values: Values) -> NDArray[np.float64]:
    checked = to_array(values)
    if checked is None or len(checked) < 2:
        raise bad_argument(owner, parameter, "a list of at least two numbers", values)
    finite = np.isfinite(checked)
    if not finite.all():
        place = int(np.argmin(finite))
        raise bad_argument(owner, parameter, f"finite at place {place}", float(checked[place]))
    return checked


def to_array(values: Values) -> NDArray[np.float64] | None:
    """Turn numbers into an array.

    Args:
        values: The numbers.

    Returns:
        The array; ``None`` if that is no flat list of numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 1 else None


def _check_setting(owner: str, parameter: str, value: int, least: int) -> None:
    if not isinstance(value, int | np.integer):
        raise bad_argument(owner, parameter, "a whole number", value)
    if value < least:
        raise bad_argument(owner, parameter, f"at least {least}", value)
