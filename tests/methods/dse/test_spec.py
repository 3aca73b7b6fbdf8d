"""What must hold for the loss and the teacher: items 3 to 6 of the specification, with its numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fletching.methods.dse.losses import DSELoss, compute_distillation, compute_task_loss
from fletching.methods.dse.teachers import reduce_logits


class Echo(nn.Module):
    """Scores the pairs of a batch with the rows of a parameter."""

    device = torch.device("cpu")

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))
        self.num_labels = len(scores[0])

    def preprocess(self, inputs: Any, **options: Any) -> dict[str, Any]:
        return {"pairs": inputs}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {**features, "scores": self.scores}


def run(loss: DSELoss, labels: list[list[float]]) -> torch.Tensor:
    texts = [f"text {place}" for place in range(len(labels))]
    return torch.stack(list(loss([texts, texts], torch.tensor(labels)).values())).sum()


def test_item_3_the_distillation_sums_over_classes_and_averages_over_pairs() -> None:
    """Pair 1: 0.5^2 + 1^2 = 1.25; pair 2: 1^2 + 1^2 = 2; mean 1.625; over 2 classes, 0.8125."""
    y, t = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert compute_distillation(y, t).item() == 1.625
    assert compute_distillation(y, t, reduction="mean").item() == 0.8125
    assert nn.MSELoss()(y, t).item() == 0.8125


def test_item_4_a_binary_and_a_multiclass_step() -> None:
    """Binary: t = [1.3, -2]; BCE = (ln(1 + e^-0.2) + ln(1 + e^-1)) / 2 = (0.598139 + 0.313262) / 2, which is
    0.455700; distillation (1.1^2 + 1^2) / 2 = 1.105. Multiclass: CE = ln(1 + e^-1 + e^-2) = 0.407606,
    distillation 2.
    """
    t = reduce_logits(torch.tensor([[0.2, 1.5], [1.0, -1.0]]), task="binary")
    assert t.flatten().tolist() == pytest.approx([1.3, -2.0])
    y = torch.tensor([[0.2], [-1.0]])
    assert compute_task_loss(y, torch.tensor([1.0, 0.0]), task="binary").item() == pytest.approx(
        0.4557, abs=1e-6
    )
    assert compute_distillation(y, t).item() == pytest.approx(1.105)
    binary = DSELoss(Echo(y.tolist()), task="binary", alpha=0.5)
    assert run(binary, [[1.0, t[0].item()], [0.0, t[1].item()]]).item() == pytest.approx(0.780350, abs=1e-6)

    three = DSELoss(Echo([[1.0, 0.0, -1.0]]), task="multiclass", num_labels=3, alpha=0.5)
    assert compute_task_loss(
        three.model.scores, torch.tensor([0.0]), task="multiclass"
    ).item() == pytest.approx(0.407606, abs=1e-6)
    assert run(three, [[0.0, 2.0, 0.0, -2.0]]).item() == pytest.approx(1.203803, abs=1e-6)


@pytest.mark.parametrize(("task", "label"), [("binary", 1.0), ("regression", 3.2)])
def test_item_5_alpha_one_is_pure_distillation_and_alpha_zero_needs_no_teacher(
    task: str, label: float
) -> None:
    y = [[0.25], [-1.5]]
    distilled = DSELoss(Echo(y), task=task, alpha=1.0)
    value = run(distilled, [[label, 0.25], [0.0, -1.5]])
    value.backward()
    assert value.item() == 0.0
    assert distilled.model.scores.grad.tolist() == [[0.0], [0.0]]

    plain = DSELoss(Echo(y), task=task, alpha=0.0)
    (logits,) = torch.tensor(y).T
    gold = torch.tensor([label, 0.0])
    expected = nn.BCEWithLogitsLoss()(logits, gold) if task == "binary" else nn.MSELoss()(logits, gold)
    assert run(plain, [[label], [0.0]]).item() == expected.item()
    assert run(plain, [[label, 9.0], [0.0, 9.0]]).item() == expected.item()  # a teacher is not looked at


def test_item_5_holds_for_several_classes() -> None:
    y = [[0.5, 0.0, -1.0], [2.0, 1.0, 0.0]]
    distilled = DSELoss(Echo(y), task="multiclass", alpha=1.0)
    value = run(distilled, [[2.0, *y[0]], [1.0, *y[1]]])
    value.backward()
    assert (value.item(), distilled.model.scores.grad.abs().max().item()) == (0.0, 0.0)
    expected = nn.CrossEntropyLoss()(torch.tensor(y), torch.tensor([2, 1])).item()
    assert run(DSELoss(Echo(y), task="multiclass", alpha=0.0), [[2.0], [1.0]]).item() == expected


def test_item_6_the_sigmoid_of_the_reduced_logit_is_the_teachers_probability_of_class_1() -> None:
    z = 4 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reduce_logits(z, task="binary")[:, 0].sigmoid(), z.softmax(dim=1)[:, 1])
