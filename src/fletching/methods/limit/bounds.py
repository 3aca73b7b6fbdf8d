"""Bounds and laws of LIMIT (arXiv 2508.21038): plain numbers, at once and without torch.

n documents, d dimensions; k is the size of a relevant set. Only the margin bound is a theorem; the critical-n
law describes an optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from fletching.errors import bad_argument
from fletching.models.inputs import check_positive

_TABLE_6 = """
    10 14 19 24 28 32 36 42 47 54 62 70 79 89 99 109 120 132 144 157 170 184 198 213 229 245 261 278 296 314
    333 352 372 392 413 434 460 484 505 545 605 626
"""
CRITICAL_N = {dim: int(n) for dim, n in enumerate(_TABLE_6.split(), start=4)}
"""Most documents whose pairs (k = 2) the authors' optimiser fitted, by dimension (Table 6)."""

CRITICAL_N_COEFFICIENTS = (-10.53217, 4.030936, 0.0520465, 0.00367559)
"""The cubic of :func:`critical_n`, constant first: our least-squares fit of Table 6, r^2 = 0.9986."""

_ROUNDING = 1e-12  # a quotient of logarithms that is whole must not be rounded up to the next whole number
_FEW = 1000  # logarithms that are added one by one
_LARGE = 10**8  # beyond, logarithms of factorials are too large to be subtracted


class CriticalN(NamedTuple):
    """How many documents an optimiser was seen to handle.

    Attributes:
        n: Documents.
        extrapolated: Whether the number comes from the fitted cubic and not from a run of the authors.
    """

    n: int
    extrapolated: bool


class CriticalDim(NamedTuple):
    """How many dimensions an optimiser needed.

    Attributes:
        dim: Dimensions.
        extrapolated: Whether the number comes from the fitted cubic and not from a run of the authors.
    """

    dim: int
    extrapolated: bool


def log_combinations(n: int, k: int) -> float:
    """Return ``ln C(n, k)`` without computing the binomial, whatever the size of n.

    Args:
        n: Documents, >= k.
        k: Size of a subset, >= 0.

    Returns:
        The natural logarithm; 0 for one combination.

    Example:
        >>> round(math.exp(log_combinations(46, 2)))
        1035
    """
    few = min(k, n - k)
    if few <= _FEW:
        return math.fsum(math.log(n - i) - math.log(i + 1) for i in range(few))
    if n < _LARGE:
        return math.lgamma(n + 1) - math.lgamma(few + 1) - math.lgamma(n - few + 1)
    share = few / n  # Stirling's formula for ln n! - ln (n - few)!, in terms that do not cancel
    slope = math.log1p(-share) / share if share else -1.0
    return few * (math.log(n) - 1 - (1 - share + 1 / (2 * n)) * slope) - math.lgamma(few + 1)


def min_dim(n: int, k: int = 2, margin: float = 0.1) -> int:
    """Return the fewest dimensions in which all k-subsets of n unit documents can have a margin.

    Implements Theorem 1 of the ICLR version, a bound that no model escapes: if for every k-subset some unit
    query scores its documents at least ``2 * margin`` above all others, ``D >= ln C(n, k) / ln(1 + 1 /
    margin)``. It is necessary, not sufficient, and says nothing about queries without a margin.

    Args:
        n: Documents.
        k: Relevant documents per query, from 1 to n.
        margin: Half the gap between the worst relevant and the best other cosine, in (0, 1]. Paper: 0.1.

    Returns:
        Dimensions; 0 when there is a single subset (k = n).

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> min_dim(1_000_000, k=100)
        425
    """
    _check_sizes("min_dim", n, k, margin)
    return math.ceil(log_combinations(n, k) / math.log1p(1 / margin) - _ROUNDING)


def max_docs(dim: int, k: int = 2, margin: float = 0.1) -> int:
    """Return the most documents of which all k-subsets can have a margin: :func:`min_dim` solved for n.

    Args:
        dim: Dimensions, >= 1.
        k: Relevant documents per query, >= 1.
        margin: As in :func:`min_dim`.

    Returns:
        Documents, at least k: an upper bound, not a promise that some model reaches it.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> n = max_docs(4)
        >>> min_dim(n), min_dim(n + 1)
        (4, 5)
    """
    check_positive("max_docs", "dim", dim)
    _check_sizes("max_docs", k, k, margin)
    return _find_first(lambda n: min_dim(n, k, margin) > dim, k + 1) - 1


def critical_n(dim: int) -> CriticalN:
    """Return for how many documents free vectors of ``dim`` dimensions were fitted to every pair (k = 2).

    The best case of a contrastive loss at temperature 0.1 (Table 6), not a maximum: other vectors hold more,
    see ``build_moment_curve``. Outside d = 4 to 45 it extrapolates by the cubic of
    :data:`CRITICAL_N_COEFFICIENTS`, but not below d + 1, which a simplex always reaches.

    Args:
        dim: Dimensions, >= 1.

    Returns:
        The number, and whether it is extrapolated.

    Raises:
        ArgumentError: If ``dim`` is not a positive integer.

    Example:
        >>> critical_n(12)
        CriticalN(n=47, extrapolated=False)
        >>> critical_n(1024).extrapolated
        True
    """
    check_positive("critical_n", "dim", dim)
    if dim in CRITICAL_N:
        return CriticalN(CRITICAL_N[dim], extrapolated=False)
    fitted = sum(coefficient * dim**power for power, coefficient in enumerate(CRITICAL_N_COEFFICIENTS))
    return CriticalN(max(dim + 1, math.floor(fitted)), extrapolated=True)


def critical_dim(n: int) -> CriticalDim:
    """Return in how many dimensions free vectors were fitted to every pair of n documents (k = 2).

    :func:`critical_n` solved for the dimension: the fewest that its best case reaches, not a minimum.

    Args:
        n: Documents, >= 1.

    Returns:
        The number, and whether it is extrapolated.

    Raises:
        ArgumentError: If ``n`` is not a positive integer.

    Example:
        >>> critical_dim(47), critical_dim(48)
        (CriticalDim(dim=12, extrapolated=False), CriticalDim(dim=13, extrapolated=False))
    """
    check_positive("critical_dim", "n", n)
    dim = _find_first(lambda dim: critical_n(dim).n >= n, 1)
    return CriticalDim(dim, critical_n(dim).extrapolated)


def _find_first(holds: Callable[[int], bool], start: int) -> int:
    """Find the first number from ``start`` on where something holds that then holds for all larger ones."""
    low, high = start - 1, start
    while not holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check_sizes(owner: str, n: int, k: int, margin: float) -> None:
    check_positive(owner, "n", n)
    if not (isinstance(k, int) and 1 <= k <= n):
        raise bad_argument(owner, "k", f"an integer from 1 to n ({n})", k)
    if not 0 < margin <= 1:
        raise bad_argument(owner, "margin", "in (0, 1]", margin)
