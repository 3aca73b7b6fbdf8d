"""Bounds, the critical-n law, the loss, overlap of relevance, the moment curve."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.limit.data import build_pattern
from fletching.methods.limit.free_vectors import build_relevance
from fletching.methods.limit.functional import (
    CRITICAL_N,
    CRITICAL_N_COEFFICIENTS,
    build_moment_curve,
    build_moment_queries,
    compute_contrastive_loss,
    compute_margins,
    critical_n,
    log_combinations,
    max_docs,
    min_dim,
    qrel_density,
)

TOY = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])


def test_item_2_density_of_the_dense_pattern() -> None:
    """Section 5, item 2: density 0.0854815 and strength 28.46533; 1000 of 1035 document pairs occur."""
    found = qrel_density(build_relevance(build_pattern("dense", 1000, 2, n_docs=46), 46))
    assert found.density == pytest.approx(0.0854815, abs=5e-8)
    assert found.query_strength == pytest.approx(28.46533, abs=5e-6)
    assert found.document_density == pytest.approx(1000 / 1035)


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


@pytest.mark.parametrize(("n", "k", "expected"), [(300, 2, 44850), (12, 3, 220)])
def test_item_7_moment_curve_returns_every_subset(n: int, k: int, expected: int) -> None:
    subsets = torch.tensor(list(combinations(range(n), k)))
    scores = build_moment_queries(subsets, n) @ build_moment_curve(n, k).T
    margins = compute_margins(scores, torch.zeros(len(subsets), n).scatter_(1, subsets, 1))
    assert int((margins > 0).sum()) == len(subsets) == expected


@pytest.mark.parametrize(("n", "smallest"), [(10, 7.6e-3), (46, 1.5e-5), (100, 6.7e-7)])
def test_item_7_margins_of_the_moment_curve(n: int, smallest: float) -> None:
    subsets = torch.tensor(list(combinations(range(n), 2)))
    documents, queries = build_moment_curve(n, 2), build_moment_queries(subsets, n)
    ones = torch.ones(n, dtype=torch.float64)
    torch.testing.assert_close(documents.norm(dim=1), ones)
    margins = compute_margins(queries @ documents.T, torch.zeros(len(subsets), n).scatter_(1, subsets, 1))
    assert float(margins.min()) == pytest.approx(smallest, rel=0.02)
    assert documents.shape[1] >= min_dim(n, 2, float(margins.min()))  # Theorem 1 holds on it


@pytest.mark.parametrize(("form", "expected"), [("each", 0.90761), ("any", 0.09435)])
def test_item_8_loss_forms(form: str, expected: float) -> None:
    """Softmax of (2, 1, 0) is (0.66524, 0.24473, 0.09003): -(ln 0.66524 + ln 0.24473) / 2, or -ln 0.90997."""
    assert float(compute_contrastive_loss(*TOY, form=form)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", ["each", "any"])
def test_loss_sends_a_finite_gradient_to_every_logit(form: str) -> None:
    logits = TOY[0].clone().requires_grad_()
    compute_contrastive_loss(logits, TOY[1], form=form).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).all()
    assert float(logits.grad.sum()) == pytest.approx(0.0, abs=1e-6)


def test_loss_averages_over_relevant_documents_not_over_queries() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    relevance = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    picked = torch.log_softmax(logits, dim=1)[relevance.bool()]
    torch.testing.assert_close(compute_contrastive_loss(logits, relevance), -picked.mean())


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


def test_log_combinations_does_not_overflow() -> None:
    assert log_combinations(10**9, 10**6) > 1e6


def test_margins_are_half_the_gap() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    relevance = torch.tensor([[1, 1, 0], [1, 0, 1]])
    torch.testing.assert_close(compute_margins(scores, relevance), torch.tensor([0.2, -0.2]))


def test_density_of_disjoint_queries_is_zero() -> None:
    assert qrel_density(torch.eye(4)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: min_dim(0), "min_dim: `n` must be an integer >= 1; got 0"),
        (lambda: min_dim(5, 6), r"min_dim: `k` must be an integer from 1 to n \(5\); got 6"),
        (lambda: min_dim(5, 2, 0.0), r"min_dim: `margin` must be in \(0, 1\]; got 0.0"),
        (lambda: max_docs(0), "max_docs: `dim`"),
        (lambda: critical_n(0), "critical_n: `dim`"),
        (lambda: build_moment_curve(4, 0), "build_moment_curve: `k`"),
        (lambda: qrel_density(torch.ones(1, 3)), "qrel_density: `relevance`"),
    ],
)
def test_values_outside_their_domain_are_refused(call: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("function", [compute_contrastive_loss, compute_margins])
def test_shapes_that_do_not_fit_are_refused(function: object) -> None:
    with pytest.raises(ShapeError, match=r"expected \(B, N\) = \(1, 3\), got \(1, 2\)"):
        function(torch.zeros(1, 3), torch.ones(1, 2))  # type: ignore[operator]
