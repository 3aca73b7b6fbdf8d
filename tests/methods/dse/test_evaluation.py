"""Quality of pairs, and what a student has lost of its teacher's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fletching.errors import ArgumentError
from fletching.methods.dse.data import PairRow
from fletching.methods.dse.evaluation import DSEEvaluator, measure_degradation, measure_logits

NAN = float("nan")


class Known:
    """Has an opinion on some pairs."""

    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args: None)

    def __init__(self, logits: dict[str, list[float]]) -> None:
        self.logits = logits
        self.asked: list[Any] = []

    def __getitem__(self, place: int) -> Any:
        return self

    def predict(self, pairs: Any, **options: Any) -> torch.Tensor:
        self.asked.append((pairs, options))
        return torch.tensor([self.logits[first] for first, _ in pairs])


def test_a_binary_task_is_measured_by_f1_and_accuracy() -> None:
    """Found: 1, 1, 0, 0; gold: 1, 0, 1, 0. One of two found is right and one of two is found: F1 1/2."""
    found = measure_logits([[2.0], [0.1], [-0.1], [-3.0]], [1, 0, 1, 0], task="binary")
    assert found == {"f1": 0.5, "accuracy": 0.5}
    assert next(iter(found)) == "f1"


def test_the_threshold_is_a_probability() -> None:
    """sigmoid(ln 3) = 0.75: above 0.7, not above 0.8."""
    for threshold, accuracy in ((0.7, 1.0), (0.8, 0.0)):
        found = measure_logits([[1.0986123]], [1], task="binary", threshold=threshold)
        assert found["accuracy"] == accuracy


def test_a_multiclass_task_is_measured_by_accuracy_and_macro_f1() -> None:
    """Found 0, 1, 1 for 0, 1, 2. F1 of the classes: 1, 2 * (1/2) * 1 / (3/2) = 2/3, 0."""
    found = measure_logits([[3, 0, 0], [0, 3, 0], [0, 3, 1]], [0, 1, 2], task="multiclass")
    assert found == pytest.approx({"accuracy": 2 / 3, "macro_f1": 5 / 9})


def test_a_regression_is_measured_by_correlation() -> None:
    """In the right order, but not on a line: Spearman 1, and Pearson 4 / sqrt(52 / 3).

    Deviations from the means 5/3 and 1: (-5/3, -2/3, 7/3) and (-1, 0, 1); product 4, norms 78/9 and 2.
    """
    found = measure_logits([[0.0], [1.0], [4.0]], [0, 1, 2], task="regression")
    assert found == pytest.approx({"pearson": 4 / (52 / 3) ** 0.5, "spearman": 1.0})


def test_equal_scores_correlate_with_nothing(caplog: pytest.LogCaptureFixture) -> None:
    found = measure_logits([[1.0], [1.0]], [0, 1], task="regression")
    assert found == {"pearson": 0.0, "spearman": 0.0}
    assert "All 2 pairs got the same score" in caplog.text


def test_the_degradation_is_the_mean_of_the_shares_that_are_lost() -> None:
    """(0.08 / 0.8 + 0.09 / 0.9 - 0.1 / 0.5) / 3 = (0.1 + 0.1 - 0.2) / 3 = 0."""
    teacher = {"a": 0.8, "b": 0.9, "c": 0.5}
    assert measure_degradation(teacher, {"a": 0.72, "b": 0.81, "c": 0.6}) == pytest.approx(0.0, abs=1e-12)
    assert measure_degradation({"a": 0.8}, {"a": 0.72}) == pytest.approx(0.1)


def test_the_evaluator_leaves_out_pairs_without_a_label_and_asks_for_logits() -> None:
    model = Known({"a": [1.0], "b": [-1.0]})
    rows = [PairRow("a", "x", 1.0), PairRow("c", "x", NAN), PairRow("b", "x", 0.0)]
    evaluator = DSEEvaluator(rows, batch_size=7)
    assert evaluator(model) == {"dev_f1": 1.0, "dev_accuracy": 1.0}
    ((pairs, options),) = model.asked
    assert pairs == [("a", "x"), ("b", "x")]
    assert isinstance(options["activation_fn"], torch.nn.Identity)
    assert options["batch_size"] == 7


def test_the_evaluator_compares_with_the_teacher() -> None:
    """The teacher has two logits and knows both pairs, the student one of them: accuracy 1 and 1/2."""
    rows = [PairRow("a", "x", 1.0), PairRow("b", "x", 1.0)]
    teacher = DSEEvaluator(rows, name="test")(Known({"a": [0.0, 2.0], "b": [0.0, 1.0]}))
    assert teacher == {"test_f1": 1.0, "test_accuracy": 1.0}
    student = DSEEvaluator(rows, name="test", teacher_metrics=teacher)(Known({"a": [1.0], "b": [-1.0]}))
    # precision 1, recall 1/2: F1 2/3
    assert student["test_relative_degradation"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("task", "primary"), [("binary", "dev_f1"), ("multiclass", "dev_accuracy"), ("regression", "dev_pearson")]
)
def test_the_best_model_is_chosen_as_in_the_reference_code(task: str, primary: str) -> None:
    rows = [PairRow("a", "b", 1.0), PairRow("a", "c", 0.0)]
    assert DSEEvaluator(rows, task=task).primary_metric == primary


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "`rows` must be at least one pair with a label"),
        ([PairRow("a", "b")], {}, "`rows` must be at least one pair with a label"),
        ([PairRow("a", "b", 1.0)], {"threshold": 1.0}, "`threshold` must be between 0 and 1"),
        ([PairRow("a", "b", 1.0)], {"task": "sts"}, "`task` must be one of 'binary'"),
        ([PairRow("a", "b", 4.2)], {}, "the labels 0 and 1 for the binary task; got 4.2"),
        ([PairRow("a", "b", 2.0)], {}, "the labels 0 and 1 for the binary task; got 2.0"),
        (
            [PairRow("a", "b", 0.5)],
            {"task": "multiclass"},
            "numbers of classes for the multiclass task; got 0.5",
        ),
        ([PairRow("a", "b", -1.0)], {"task": "multiclass"}, "numbers of classes .*; got -1.0"),
        ([PairRow("a", "b", 3.0)] * 2, {"task": "regression"}, "two different labels; got 3.0"),
    ],
)
def test_bad_settings_are_refused(rows: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DSEEvaluator(rows, **options)


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ({"a": 0.5}, {"b": 0.5}, "`student` must be qualities for the same tasks, a; got"),
        ({}, {}, "at least one"),
        ({"a": 0.0}, {"a": 0.5}, r"`teacher\['a'\]` must be positive"),
    ],
)
def test_a_degradation_needs_the_same_tasks(
    teacher: dict[str, float], student: dict[str, float], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        measure_degradation(teacher, student)
