"""The loss, overlap of relevance, the moment curve."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.limit import functional
from fletching.methods.limit.bounds import min_dim
from fletching.methods.limit.data import build_pattern
from fletching.methods.limit.free_vectors import build_relevance
from fletching.methods.limit.functional import (
    build_moment_curve,
    build_moment_queries,
    compute_contrastive_loss,
    compute_margins,
    qrel_density,
)

TOY = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])


def test_item_2_density_of_the_dense_pattern() -> None:
    """Section 5, item 2: density 0.0854815 and strength 28.46533; 1000 of 1035 document pairs occur."""
    found = qrel_density(build_relevance(build_pattern("dense", 1000, 2, n_docs=46), 46))
    assert found.density == pytest.approx(0.0854815, abs=5e-8)
    assert found.query_strength == pytest.approx(28.46533, abs=5e-6)
    assert found.document_density == pytest.approx(1000 / 1035)


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


def test_margins_are_half_the_gap() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    relevance = torch.tensor([[1, 1, 0], [1, 0, 1]])
    torch.testing.assert_close(compute_margins(scores, relevance), torch.tensor([0.2, -0.2]))


def test_density_of_a_large_collection_costs_no_square_of_it() -> None:
    """As in the full LIMIT: 1000 queries ask for the first 46 of 50,000 documents, in 1000 pairs."""
    found = qrel_density(build_relevance(build_pattern("dense", 1000, 2, n_docs=50_000), 50_000))
    assert found.density == pytest.approx(0.0854815, abs=5e-8)
    assert found.document_density == pytest.approx(1000 / (50_000 * 49_999 / 2))


def test_densities_are_added_up_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    relevance = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    whole = qrel_density(relevance)
    monkeypatch.setattr(functional, "_BLOCK", 2)
    assert qrel_density(relevance) == pytest.approx(whole)
    together = sum((relevance[:, i] & relevance[:, j]).any().item() for i in range(9) for j in range(i))
    assert whole.document_density == pytest.approx(together / 36)


def test_density_of_disjoint_queries_is_zero() -> None:
    assert qrel_density(torch.eye(4)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
