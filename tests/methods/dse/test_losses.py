"""What the loss does at its borders: missing labels, missing teachers, other precisions, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, MSELoss
from torch import nn

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.dse.losses import DSELoss, compute_distillation, compute_task_loss
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_cross_encoder

NAN = float("nan")


class Fixed(nn.Module):
    """Scores the pairs of a batch with the rows of a parameter."""

    device = torch.device("cpu")

    def __init__(self, scores: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores, dtype=dtype))
        self.num_labels = self.scores.shape[1]
        self.asked: list[Any] = []

    def preprocess(self, inputs: Any, **options: Any) -> dict[str, Any]:
        self.asked.append((inputs, options))
        return {}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"scores": self.scores}


def run(loss: DSELoss, labels: Any) -> dict[str, torch.Tensor]:
    rows = [torch.tensor(row) for row in labels]
    return loss([["a"] * len(rows), ["b"] * len(rows)], rows)


def test_a_pair_without_a_label_counts_in_the_distillation_only() -> None:
    """Task: BCE of the first pair, ln(1 + e^-1) = 0.313262; distillation: (0 + 2^2) / 2."""
    terms = run(DSELoss(Fixed([[1.0], [0.0]]), alpha=0.5), [[1.0, 1.0], [NAN, 2.0]])
    assert terms["task"].item() == pytest.approx(0.5 * 0.313262, abs=1e-6)
    assert terms["distillation"].item() == pytest.approx(0.5 * 2.0)


def test_a_pair_without_a_teacher_counts_in_the_task_only() -> None:
    """Distillation: 2^2 of the second pair alone; task: (0.313262 + ln 2) / 2."""
    terms = run(DSELoss(Fixed([[1.0], [0.0]]), alpha=0.5), [[1.0, NAN], [0.0, 2.0]])
    assert terms["distillation"].item() == pytest.approx(0.5 * 4.0)
    assert terms["task"].item() == pytest.approx(0.5 * (0.313262 + 0.693147) / 2, abs=1e-6)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_batch_without_any_label_and_teacher_has_a_loss_and_a_gradient_of_zero(task: str) -> None:
    model = Fixed([[1.0], [0.0]])
    sum(run(DSELoss(model, task=task), [[NAN, NAN], [NAN, NAN]]).values()).backward()
    assert model.scores.grad.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("task", "scores", "label"),
    [("binary", [[0.5]], 1.0), ("multiclass", [[0.5, 0.1, -1.0]], 2.0), ("regression", [[0.5]], 3.4)],
)
def test_a_gradient_reaches_every_logit(task: str, scores: Any, label: float) -> None:
    for alpha in (0.0, 0.5, 1.0):
        model = Fixed(scores)
        sum(
            run(DSELoss(model, task=task, alpha=alpha), [[label, *([2.0] * len(scores[0]))]]).values()
        ).backward()
        assert torch.isfinite(model.scores.grad).all()
        assert (model.scores.grad != 0).all()


def test_scores_in_bfloat16_give_a_loss_in_float32() -> None:
    terms = run(DSELoss(Fixed([[1.0], [0.0]], torch.bfloat16)), [[1.0, 0.5], [0.0, 0.5]])
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_pairs_and_options_reach_the_model() -> None:
    model = Fixed([[1.0], [0.0]])
    DSELoss(model, alpha=0.0)([["a", "b"], ["c", "d"]], torch.tensor([1.0, 0.0]), prompt="p", task="t")
    assert model.asked == [([("a", "c"), ("b", "d")], {"prompt": "p", "task": "t"})]


def test_values_are_those_of_sentence_transformers_at_both_ends(tmp_path: Any) -> None:
    model = Reranker(save_tiny_cross_encoder(tmp_path), device="cpu").eval()
    texts, labels = [["a bow", "an arrow"], ["wood", "feathers"]], torch.tensor([1.0, 0.0])
    plain = DSELoss(model, alpha=0.0)(texts, labels)["task"]
    torch.testing.assert_close(plain, BinaryCrossEntropyLoss(model)(texts, labels))
    packed = torch.stack([torch.full((2,), NAN), labels], dim=1)
    distilled = DSELoss(model, alpha=1.0)(texts, packed)["distillation"]
    torch.testing.assert_close(distilled, MSELoss(model)(texts, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "`alpha` must be from 0 to 1; got 1.5"),
        ({"alpha": NAN}, "`alpha` must be from 0 to 1"),
        ({"reduction": "max"}, "`reduction` must be one of 'sum', 'mean'; got 'max'"),
        ({"task": "ranking"}, "`task` must be one of 'binary', 'multiclass', 'regression'"),
        ({"task": "multiclass", "num_labels": 3}, "`model` must be a model with 3 logits .*; got 1"),
        ({"task": "multiclass"}, "`num_labels` must be at least 2 for the multiclass task; got 1"),
        ({"task": "regression", "num_labels": 2}, "`num_labels` must be 1 or None for the regression task"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DSELoss(Fixed([[1.0]]), **options)


def test_labels_without_a_teacher_are_refused_where_one_is_needed() -> None:
    with pytest.raises(ShapeError, match=r"= \(2, 2\); got \(2, 1\): add_teacher_logits attaches them"):
        DSELoss(Fixed([[1.0], [0.0]]))([["a", "b"], ["c", "d"]], torch.tensor([1.0, 0.0]))


def test_a_teacher_with_another_label_count_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 2\); got \(1, 4\)"):
        run(DSELoss(Fixed([[1.0]])), [[1.0, 0.1, 0.2, 0.3]])


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5])
def test_a_label_of_another_task_is_refused(label: float) -> None:
    with pytest.raises(ArgumentError, match="`labels` must be whole numbers from 0 to 1"):
        run(DSELoss(Fixed([[1.0]])), [[label, 0.1]])


def test_three_columns_of_texts_are_refused() -> None:
    with pytest.raises(ArgumentError, match="two columns of texts"):
        DSELoss(Fixed([[1.0]]), alpha=0.0)([["a"], ["b"], ["c"]], torch.tensor([1.0]))


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(B, C\) = \(2, 3\), got \(2, 1\)"):
        compute_distillation(torch.zeros(2, 3), torch.zeros(2, 1))


def test_unrelated_pairs_change_the_mean_only() -> None:
    y, gold = torch.tensor([[0.3], [2.0]]), torch.tensor([1.0, 0.0])
    parts = [compute_task_loss(y[i : i + 1], gold[i : i + 1], task="binary").item() for i in range(2)]
    assert compute_task_loss(y, gold, task="binary").item() == pytest.approx(sum(parts) / 2)
