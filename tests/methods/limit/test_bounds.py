"""Bounds, and the critical-n law."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from fletching.errors import ArgumentError
from fletching.methods.limit.bounds import (
    CRITICAL_N,
    CRITICAL_N_COEFFICIENTS,
    critical_dim,
    critical_n,
    log_combinations,
    max_docs,
    min_dim,
)


@pytest.mark.parametrize(("n", "k", "expected"), [(100, 2, 4), (1000, 10, 23), (10**6, 100, 425)])
def test_item_4_min_dim(n: int, k: int, expected: int) -> None:
    assert min_dim(n, k, 0.1) == expected


def test_item_4_min_dim_grows_with_documents_and_margin() -> None:
    assert sorted(dims := [min_dim(n, 2, 0.1) for n in range(3, 3000, 7)]) == dims
    assert sorted(dims := [min_dim(1000, 10, step / 100) for step in range(1, 100)]) == dims


@pytest.mark.parametrize("n", [1, 2, 46, 10**6])
def test_item_4_min_dim_of_all_documents_is_zero(n: int) -> None:
    assert min_dim(n, n, 0.1) == 0


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (2, {2: 4, 3: 6, 4: 8, 5: 10, 6: 12}),
        (10, {2: 13, 3: 23, 4: 33, 5: 42, 6: 52}),
        (100, {3: 135, 4: 233, 5: 329, 6: 425}),
        (1000, {4: 1354, 5: 2334, 6: 3296}),
    ],
)
def test_min_dim_reproduces_the_table_of_theorem_1(k: int, expected: dict[int, int]) -> None:
    """Section 4: margin 0.1, documents 1e2 to 1e6."""
    assert {power: min_dim(10**power, k, 0.1) for power in expected} == expected


@pytest.mark.parametrize(("dim", "k"), [(1, 1), (4, 2), (12, 2), (13, 10), (3, 40)])
def test_max_docs_is_the_last_that_min_dim_allows(dim: int, k: int) -> None:
    n = max_docs(dim, k)
    assert min_dim(n, k) <= dim < min_dim(n + 1, k)


def test_critical_n_is_table_6_from_4_to_45() -> None:
    assert (min(CRITICAL_N), max(CRITICAL_N), len(CRITICAL_N)) == (4, 45, 42)
    for dim, n in {4: 10, 12: 47, 20: 120, 30: 261, 40: 460, 45: 626}.items():
        assert critical_n(dim) == (n, False)


def test_critical_n_coefficients_are_the_least_squares_fit_of_table_6() -> None:
    """Section 2.4: r^2 = 0.99858, largest residual 24."""
    dims, ns = np.array(list(CRITICAL_N)), np.array(list(CRITICAL_N.values()))
    fitted = np.polynomial.Polynomial.fit(dims, ns, 3).convert().coef
    np.testing.assert_allclose(CRITICAL_N_COEFFICIENTS, fitted, rtol=2e-6)
    residuals = ns - sum(c * dims**power for power, c in enumerate(CRITICAL_N_COEFFICIENTS))
    assert 1 - (residuals**2).sum() / ((ns - ns.mean()) ** 2).sum() == pytest.approx(0.99858, abs=1e-5)
    assert abs(residuals).max() == pytest.approx(24, abs=0.5)


@pytest.mark.parametrize(
    ("dim", "published"), [(512, 5e5), (768, 1.7e6), (1024, 4e6), (3072, 107e6), (4096, 250e6)]
)
def test_critical_n_extrapolates_as_published(dim: int, published: float) -> None:
    n, extrapolated = critical_n(dim)
    assert extrapolated
    assert n == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_critical_n_of_few_dimensions_is_a_simplex(dim: int) -> None:
    assert critical_n(dim) == (dim + 1, True)


@pytest.mark.parametrize("n", [*range(1, 12), 19, 20, 626, 627, 10**6])
def test_critical_dim_is_the_first_that_critical_n_allows(n: int) -> None:
    dim, extrapolated = critical_dim(n)
    assert critical_n(dim).n >= n
    assert dim == 1 or critical_n(dim - 1).n < n
    assert extrapolated == (dim not in CRITICAL_N)


@pytest.mark.parametrize("k", [5000, 1001])
def test_log_combinations_of_many_documents_loses_no_digits(k: int) -> None:
    """Beside the sum of its k logarithms; lgamma alone would be off by 0.01 at 1e12 documents."""
    n = 10**12
    expected = math.fsum(math.log(n - i) - math.log(i + 1) for i in range(k))
    assert log_combinations(n, k) == pytest.approx(expected, abs=1e-8)


def test_log_combinations_of_more_documents_than_a_float_can_count() -> None:
    """ln C(n, 2) = ln n + ln (n - 1) - ln 2; ln C(n, k) nears k ln n - ln k!."""
    n = 10**400
    assert log_combinations(n, 2) == pytest.approx(800 * math.log(10) - math.log(2), rel=1e-14)
    assert log_combinations(n, 2000) == pytest.approx(
        2000 * 400 * math.log(10) - math.lgamma(2001), rel=1e-14
    )


@pytest.mark.parametrize("dim", [384, 1024, 4096])
def test_max_docs_of_usual_dimensions(dim: int) -> None:
    """n (n - 1) / 2 <= 11^d: about sqrt(2) * 11^(d / 2) documents, far more than a float can count."""
    n = max_docs(dim)
    assert n * (n - 1) // 2 <= 11**dim + 11**dim // 10**9
    assert math.log(n) == pytest.approx((dim * math.log(11) + math.log(2)) / 2, rel=1e-12)


def test_log_combinations_does_not_overflow() -> None:
    assert log_combinations(10**9, 10**6) > 1e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: min_dim(0), "min_dim: `n` must be a positive integer; got 0"),
        (lambda: min_dim(5, 6), r"min_dim: `k` must be an integer from 1 to n \(5\); got 6"),
        (lambda: min_dim(5, 2, 0.0), r"min_dim: `margin` must be in \(0, 1\]; got 0.0"),
        (lambda: max_docs(0), "max_docs: `dim`"),
        (lambda: critical_n(0), "critical_n: `dim`"),
        (lambda: critical_dim(0), "critical_dim: `n`"),
    ],
)
def test_values_outside_their_domain_are_refused(call: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()  # type: ignore[operator]


def test_bounds_need_no_torch() -> None:
    code = "import sys; from fletching.methods.limit import min_dim as f; f(9); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
