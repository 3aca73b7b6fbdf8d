"""The equations: the toys of the specification."""

from __future__ import annotations

import math

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from fletching.errors import ArgumentError
from fletching.methods.multi_cpr.functional import compare_vectors, compute_contrastive_loss

QUERIES = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
PASSAGES = torch.tensor([[6.0, 8.0], [0.0, 2.0]])


class Echo(torch.nn.Module):
    """Returns the vectors it is given."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return features


def test_3_loss_is_that_of_the_toy() -> None:
    """Section 5, item 3: S = ((20, 16), (12, 0)), so (log(1 + e^-4) + log(1 + e^12)) / 2 = 6.009078."""
    expected = (math.log1p(math.exp(-4)) + math.log1p(math.exp(12))) / 2
    assert expected == pytest.approx(6.009078, abs=1e-6)
    assert compute_contrastive_loss(QUERIES, PASSAGES).item() == pytest.approx(expected, abs=1e-5)


def test_3_loss_does_not_depend_on_lengths() -> None:
    """Section 5, item 3: scaling any vector leaves it unchanged."""
    scales = torch.tensor([[7.0], [0.01]])
    loss = compute_contrastive_loss(scales * QUERIES, PASSAGES / scales)
    assert loss.item() == pytest.approx(6.009078, abs=1e-5)


def test_3_loss_is_the_one_that_trains() -> None:
    """The loss of sentence-transformers that the recipe takes, at its scale of 20."""
    trained = MultipleNegativesRankingLoss(Echo(), scale=20.0)
    features = [{"sentence_embedding": QUERIES}, {"sentence_embedding": PASSAGES}]
    assert trained(features, None).item() == pytest.approx(6.009078, abs=1e-5)


def test_loss_reaches_both_sides() -> None:
    queries, passages = QUERIES.clone().requires_grad_(), PASSAGES.clone().requires_grad_()
    compute_contrastive_loss(queries, passages).backward()
    for gradient in (queries.grad, passages.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


ABC = torch.tensor([[3.0, 0.5], [0.9, 0.1], [5.0, 0.0]])


@pytest.mark.parametrize(
    ("score", "values", "order"),
    [
        ("l2", [-4.25, -0.02, -16.0], "bac"),
        ("cosine", [0.98639, 0.99388, 1.0], "cba"),
        ("dot", [3.0, 0.9, 5.0], "cab"),
    ],
)
def test_4_each_score_has_its_own_order(score: str, values: list[float], order: str) -> None:
    """Section 5, item 4: q = (1, 0), a = (3, .5), b = (.9, .1), c = (5, 0).

    Squared distances 2^2 + .5^2, .1^2 + .1^2, 4^2; cosines 3 / sqrt(9.25), .9 / sqrt(.82), 1; products 3, .9
    and 5.
    """
    scores = compare_vectors(torch.tensor([[1.0, 0.0]]), ABC, score=score)[0]
    torch.testing.assert_close(scores, torch.tensor(values), atol=1e-5, rtol=0)
    assert "".join("abc"[place] for place in scores.argsort(descending=True)) == order


def test_4_vectors_of_length_one_have_one_order() -> None:
    """Section 5, item 4: then the squared distance is 2 - 2 cos."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    queries, passages = vectors[:5], vectors[5:]
    orders = [
        compare_vectors(queries, passages, score=score).argsort(dim=1, descending=True)
        for score in ("l2", "cosine")
    ]
    assert torch.equal(*orders)


def test_unknown_score_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`score` must be one of 'cosine', 'l2', 'dot'; got 'L2'"):
        compare_vectors(QUERIES, PASSAGES, score="L2")
