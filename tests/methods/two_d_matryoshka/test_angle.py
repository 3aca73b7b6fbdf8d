"""AnglE's sum, part by part."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as stock
from torch import Tensor, nn

from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import CombinedAnglELoss

GENERATOR = torch.Generator().manual_seed(0)
QUERIES, POSITIVES, NEGATIVES = torch.randn(3, 4, 6, generator=GENERATOR)
SCORES = torch.tensor([0.1, 2.0, 2.0, 5.0])
NONE = {"ibn_weight": 0.0, "cln_weight": 0.0, "angle_weight": 0.0, "cosine_weight": 0.0}


class Echo(nn.Module):
    """Gives the vectors that its features carry."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": features["vectors"]}


def compute(*columns: Tensor, labels: Tensor | None = None, **weights: float) -> Tensor:
    loss = CombinedAnglELoss(Echo(), **{**NONE, **weights})  # type: ignore[arg-type]
    found: Tensor = loss([{"vectors": column} for column in columns], labels)
    return found


def test_in_batch_negatives_count_half_without_and_with_the_hard_ones() -> None:
    """Unit vectors at right angles: 2 candidates without, 4 with negatives, one of which is the positive.

    Query 0 finds its own at cosine 1 and the rest at 0: ``ln(1 + e^-20)`` and ``ln(1 + 3 e^-20)``; with the
    scale 1 instead: ``ln(1 + e^-1)`` and ``ln(1 + 3 e^-1)``.
    """
    queries = torch.eye(4)[:2]
    negatives = torch.eye(4)[2:]
    found = compute(queries, 3 * queries, negatives, ibn_weight=2.0, scale=1.0)
    assert found.item() == pytest.approx(math.log1p(math.exp(-1)))
    found = compute(queries, 3 * queries, negatives, cln_weight=2.0, scale=1.0)
    assert found.item() == pytest.approx(math.log1p(3 * math.exp(-1)))


@pytest.mark.parametrize(
    ("name", "loss_class"), [("cosine_weight", stock.CoSENTLoss), ("angle_weight", stock.AnglELoss)]
)
def test_orders_are_those_of_the_stock_losses(name: str, loss_class: Any) -> None:
    labelled = compute(QUERIES, POSITIVES, labels=SCORES, **{name: 1.0})
    reference = loss_class(Echo(), scale=20.0)
    expected = reference.compute_loss_from_embeddings([QUERIES, POSITIVES], SCORES)
    torch.testing.assert_close(labelled, expected)
    pairs = [torch.cat([QUERIES, QUERIES]), torch.cat([POSITIVES, NEGATIVES])]
    wanted = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    expected = reference.compute_loss_from_embeddings(pairs, wanted)
    torch.testing.assert_close(compute(QUERIES, POSITIVES, NEGATIVES, **{name: 2.0}), 2 * expected)


def test_angles_are_those_of_complex_quotients() -> None:
    """(1, 1) by (1, 0) is (1 + i) / 1, over the quotient of the lengths (1 + i) / sqrt 2: the sum is sqrt 2.

    (1, 0) by (1, 0) is 1. Scores of 20 sqrt 2 and 20 in the wrong order: ln(1 + e^(20 (sqrt 2 - 1))).
    """
    first = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = compute(first, second, labels=torch.tensor([0.0, 1.0]), angle_weight=1.0)
    assert found.item() == pytest.approx(math.log1p(math.exp(20 * (math.sqrt(2) - 1))), rel=1e-5)


def test_pairs_have_in_batch_negatives_only() -> None:
    found = compute(QUERIES, POSITIVES, angle_weight=1.0)
    expected = compute(QUERIES, POSITIVES, NEGATIVES, ibn_weight=2.0)
    torch.testing.assert_close(found, expected)


def test_parts_are_added() -> None:
    weights = {"ibn_weight": 10.0, "cln_weight": 1.0, "angle_weight": 0.02, "cosine_weight": 0.5}
    parts = [compute(QUERIES, POSITIVES, NEGATIVES, **{name: value}) for name, value in weights.items()]
    torch.testing.assert_close(compute(QUERIES, POSITIVES, NEGATIVES, **weights), torch.stack(parts).sum())


@pytest.mark.parametrize(
    ("weights", "columns", "labels", "text"),
    [
        ({}, 2, None, "`ibn_weight` must be positive where the other weights are 0"),
        ({"cln_weight": -1.0}, 2, None, "`cln_weight` must be zero or positive"),
        ({"angle_weight": 1.0, "angle_scale": 0.0}, 2, None, "`angle_scale` must be positive"),
        ({"angle_weight": 1.0}, 1, None, "`columns` must be query, positive"),
        ({"angle_weight": 1.0}, 3, SCORES, "`labels` must be left out where there are negatives"),
        ({"ibn_weight": 1.0}, 2, SCORES, "`angle_weight` must be positive for labelled pairs"),
    ],
)
def test_what_does_not_go_together_is_named(
    weights: dict[str, float], columns: int, labels: Tensor | None, text: str
) -> None:
    with pytest.raises(ArgumentError, match=f"CombinedAnglELoss: {text}"):
        compute(*[QUERIES, POSITIVES, NEGATIVES][:columns], labels=labels, **weights)
