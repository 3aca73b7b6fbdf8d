"""Which subsets given vectors can return: counts that geometry knows, and certificates that hold."""

from __future__ import annotations

import math
from itertools import combinations
from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fletching.errors import ArgumentError
from fletching.methods.limit import certificates
from fletching.methods.limit.bounds import log_combinations
from fletching.methods.limit.certificates import capacity, certify_subsets, find_query
from fletching.methods.limit.free_vectors import free_embeddings
from fletching.methods.limit.functional import build_moment_curve

SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def draw(n: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1)


def count(documents: Tensor, k: int) -> int:
    found = capacity(documents, k, n_samples=10**6)
    assert found.exhaustive
    return round(found.fraction * found.tested)


def test_item_5_toy_margins_of_single_documents() -> None:
    """At right angles the gap of ``u = v_i`` is 1 - 0 = 2 * 0.5; Theorem 1: 4 <= (1 + 2)^2 = 9."""
    found = capacity(SQUARE, k=1)
    assert found.margins.tolist() == pytest.approx([0.5] * 4)
    assert math.exp(log_combinations(4, 1)) <= (1 + 1 / 0.5) ** 2


def test_item_5_toy_margins_of_pairs() -> None:
    """Neighbours: the query between them, 0.70711 against -0.70711; opposite documents: none."""
    margins = dict(zip(combinations(range(4), 2), capacity(SQUARE, k=2).margins.tolist(), strict=True))
    opposite = {(0, 2), (1, 3)}
    assert {pair for pair, margin in margins.items() if margin == 0.0} == opposite
    assert [m for pair, m in margins.items() if pair not in opposite] == pytest.approx(
        [0.70711] * 4, abs=1e-5
    )


def test_item_6_counts_on_a_line() -> None:
    assert count(torch.tensor([[0.3], [-1.0], [0.9], [0.1], [-0.4], [0.7]]), 2) == 2


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_item_6_counts_on_a_circle(k: int) -> None:
    assert count(draw(7, 2), k) == 7


@pytest.mark.parametrize(("n", "pairs", "of"), [(8, 18, 28), (10, 24, 45)])
def test_item_6_counts_on_a_sphere(n: int, pairs: int, of: int) -> None:
    assert (count(draw(n, 3), 2), comb(n, 2)) == (3 * n - 6, of)
    assert pairs == 3 * n - 6


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_item_6_a_simplex_has_every_subset(k: int) -> None:
    assert capacity(draw(5, 4), k).fraction == 1.0


def test_item_6_programs_find_at_least_what_the_gradient_finds() -> None:
    result = free_embeddings(11, 4, certify=True)
    solved = int((result.margins > 0).sum())
    assert solved < comb(11, 2)
    assert result.certified is not None
    assert int(result.certified.sum()) == count(result.document_embeddings, 2) >= solved


def test_moment_curve_is_certified() -> None:
    """What its own queries show, a program finds too, with a margin at least as large (7.6e-3 at n = 10)."""
    found = capacity(build_moment_curve(10, 2), 2)
    assert found.fraction == 1.0
    assert found.margin_quantiles(0.0)[0] >= 7.5e-3


def test_query_returns_exactly_its_subset_with_the_margin_it_states() -> None:
    documents = draw(30, 12)
    for subset in ([0, 1], [3, 28, 29], [7]):
        query, margin = find_query(documents, subset) or pytest.fail("must be feasible")
        scores = documents @ query
        assert float(query.norm()) == pytest.approx(1.0)
        assert sorted(scores.topk(len(subset)).indices.tolist()) == subset
        rest = [index for index in range(30) if index not in subset]
        assert float(scores[subset].min() - scores[rest].max()) / 2 == pytest.approx(margin)


def test_margin_is_that_of_a_hard_margin_support_vector_machine() -> None:
    from sklearn.svm import SVC

    documents, subset = draw(30, 12), [4, 9]
    labels = [index in subset for index in range(30)]
    machine = SVC(kernel="linear", C=1e8, tol=1e-8).fit(documents.numpy(), labels)
    _, margin = find_query(documents, subset) or pytest.fail("must be feasible")
    assert margin == pytest.approx(1 / float((machine.coef_**2).sum()) ** 0.5, rel=1e-4)


def test_margin_is_relative_to_the_largest_norm() -> None:
    """Pitfall 9: only the shape counts; margins are those of documents in the unit ball."""
    assert capacity(SQUARE * 50, k=2).margins.tolist() == pytest.approx(
        capacity(SQUARE, k=2).margins.tolist()
    )


@pytest.mark.parametrize("kind", ["list", "array", "half"])
def test_vectors_come_in_any_form(kind: str) -> None:
    forms: dict[str, Any] = {"list": SQUARE.tolist(), "array": SQUARE.numpy(), "half": SQUARE.half()}
    assert capacity(forms[kind], k=2).fraction == pytest.approx(2 / 3)


def test_duplicates_cannot_be_told_apart() -> None:
    assert certify_subsets([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0], [0, 1], [0, 1, 2]]).tolist() == [
        False,
        True,
        True,
    ]


def test_sample_is_seeded_and_without_repetition() -> None:
    documents = draw(40, 6)
    first, again = (capacity(documents, 3, n_samples=25, seed=5) for _ in range(2))
    assert (first.tested, first.exhaustive) == (25, False)
    torch.testing.assert_close(first.margins, again.margins)
    assert not first.margins.equal(capacity(documents, 3, n_samples=25, seed=6).margins)


@pytest.mark.parametrize(("n_samples", "exhaustive"), [(10**9, True), (19, False)])
def test_all_subsets_are_tested_where_as_many_are_allowed(
    n_samples: int, exhaustive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many that is: C(1500, 2) = 1,124,250 are more than a million, C(6, 3) = 20 just above 19."""
    monkeypatch.setattr(certificates, "_solve_subset", lambda *_: None)
    n, k, subsets = (1500, 2, 1_124_250) if exhaustive else (6, 3, 19)
    found = capacity(draw(n, 2), k, n_samples=n_samples)
    assert (found.tested, found.exhaustive) == (subsets, exhaustive)


def test_quantiles_default_to_minimum_median_and_maximum() -> None:
    assert capacity(SQUARE, k=2).margin_quantiles() == pytest.approx((0.0, 0.70711, 0.70711), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: capacity(SQUARE, k=4), "capacity: `k` must be an integer from 1 to 3"),
        (lambda: capacity(SQUARE, n_samples=0), "capacity: `n_samples`"),
        (lambda: capacity(SQUARE[0]), "capacity: `document_embeddings` must be a matrix"),
        (lambda: capacity(SQUARE * float("nan")), "capacity: `document_embeddings` must be finite"),
        (lambda: find_query(SQUARE, []), "find_query: `subset` must be some, but not all"),
        (lambda: find_query(SQUARE, [0, 0]), "find_query: `subset`"),
        (lambda: find_query(SQUARE, [0, 4]), "find_query: `subset` must be indices from 0 to 3"),
    ],
)
def test_values_outside_their_domain_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()
