"""How well pairs are judged, and how much of its teacher a student has lost."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import accuracy_score, f1_score

from fletching.errors import bad_argument
from fletching.methods.dse.data import PairRow, count_logits
from fletching.methods.dse.teachers import compute_logits
from fletching.metrics import pearson, spearman

__all__ = ["PRIMARY", "DSEEvaluator", "measure_degradation", "measure_logits"]

logger = logging.getLogger(__name__)

PRIMARY = {"binary": "f1", "multiclass": "accuracy", "regression": "pearson"}
"""What the best model of each task is chosen by, as in the reference code."""

_DEGRADATION = "relative_degradation"


def measure_logits(
    logits: Any, labels: Sequence[float], *, task: str, threshold: float = 0.5
) -> dict[str, float]:
    """Compare logits with labels.

    Args:
        logits: Shape ``(N, C)``, or ``(N,)`` for one logit.
        labels: N numbers.
        task: ``"binary"``: F1 of class 1 and accuracy; ``"multiclass"``: accuracy and the mean of the F1 of
            the classes; ``"regression"``: Pearson and Spearman.
        threshold: Probability from which a pair is of class 1. Reference code: 0.5.

    Returns:
        The measures by name, those of `PRIMARY` first. Logits that are all equal correlate with nothing and
        count as 0.

    Example:
        >>> measure_logits([[2.0], [-1.0], [0.5]], [1, 0, 0], task="binary")
        {'f1': 0.67, 'accuracy': 0.67}
    """
    values: NDArray[np.float64] = np.asarray(logits, dtype=np.float64).reshape(len(labels), -1)
    gold = np.asarray(labels, dtype=np.float64)
    if task == "regression":
        if np.ptp(values) == 0:
            logger.warning("All %d pairs got the same score, which correlates with nothing.", len(values))
            return {"pearson": 0.0, "spearman": 0.0}
        return {"pearson": pearson(values[:, 0], gold), "spearman": spearman(values[:, 0], gold)}
    if task == "binary":
        found = values[:, 0] > math.log(threshold / (1 - threshold))
        f1 = float(f1_score(gold > 0.5, found, zero_division=0.0))
        return {"f1": f1, "accuracy": float(accuracy_score(gold > 0.5, found))}
    classes = values.argmax(axis=1)
    macro_f1 = float(f1_score(gold, classes, average="macro", zero_division=0.0))
    return {"accuracy": float(accuracy_score(gold, classes)), "macro_f1": macro_f1}


def measure_degradation(teacher: Mapping[str, float], student: Mapping[str, float]) -> float:
    """Measure which share of its teacher's quality a student has lost, on average over tasks.

    The paper's measure: the mean over tasks of ``(teacher - student) / teacher``. Its abstract reports 0.046
    on five tasks of GLUE.

    Args:
        teacher: Task -> quality of the teacher, positive.
        student: Task -> quality of the student, for the same tasks.

    Returns:
        The mean; 0 is no loss, and below 0 the student is better.

    Raises:
        ArgumentError: If the tasks differ, there is none, or a teacher's quality is not positive.

    Example:
        >>> measure_degradation({"mrpc": 0.8, "stsb": 0.9}, {"mrpc": 0.76, "stsb": 0.9})
        0.025
    """
    if not teacher or teacher.keys() != student.keys():
        domain = f"qualities for the same tasks, {', '.join(teacher) or 'at least one'}"
        raise bad_argument("measure_degradation", "student", domain, list(student))
    for task, quality in teacher.items():
        if not quality > 0:
            raise bad_argument("measure_degradation", f"teacher[{task!r}]", "positive", quality)
    return sum((teacher[task] - student[task]) / teacher[task] for task in teacher) / len(teacher)


class DSEEvaluator(BaseEvaluator):
    """Judges pairs and compares with their labels: for the student, and for any cross-encoder beside it.

    F1 and accuracy for binary tasks, accuracy and macro F1 for multiclass ones, Pearson and Spearman for
    regressions. Pairs without a label are left out.

    Args:
        rows: The pairs.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        labels: Names of the labels in their order, for models that have them in another.
        teacher_metrics: What this evaluator found for the teacher; adds the relative degradation of the
            measure of `PRIMARY`.
        threshold: Probability from which a pair is of class 1. Reference code: 0.5.
        batch_size: Pairs of one batch; ``None`` leaves it to the model. Reference code: 128.
        name: Prefix of the metrics.

    Raises:
        ArgumentError: If an argument is outside its domain, no pair has a label, or the labels are none of
            the task: others than 0 and 1, no numbers of classes, or a single one to correlate with.
    """

    def __init__(
        self,
        rows: Sequence[PairRow],
        *,
        task: str = "binary",
        labels: Sequence[str] = (),
        teacher_metrics: Mapping[str, float] | None = None,
        threshold: float = 0.5,
        batch_size: int | None = None,
        name: str = "dev",
    ) -> None:
        super().__init__()
        count_logits("DSEEvaluator", task, 2 if task == "multiclass" else None)
        if not 0 < threshold < 1:
            raise bad_argument("DSEEvaluator", "threshold", "between 0 and 1", threshold)
        self.rows = [row for row in rows if not math.isnan(row.label)]
        if not self.rows:
            raise bad_argument("DSEEvaluator", "rows", "at least one pair with a label", len(rows))
        _check_labels(task, [row.label for row in self.rows])
        self.task = task
        self.labels = tuple(labels)
        self.teacher_metrics = teacher_metrics
        self.threshold = threshold
        self.batch_size = batch_size
        self.name = name
        self.primary_metric: str = f"{name}_{PRIMARY[task]}"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Judge and compare.

        Args:
            model: A `DSEReranker`, or any cross-encoder.
            output_path: Not used: results go to the trainer's log and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            The metrics.
        """
        logits = compute_logits(
            model,
            [(row.first, row.second) for row in self.rows],
            task=self.task,
            labels=self.labels,
            batch_size=self.batch_size,
        )
        found = measure_logits(
            logits.numpy(), [row.label for row in self.rows], task=self.task, threshold=self.threshold
        )
        metrics = {f"{self.name}_{measure}": value for measure, value in found.items()}
        reached = (self.teacher_metrics or {}).get(self.primary_metric, 0.0)
        if reached > 0:
            student = {self.task: metrics[self.primary_metric]}
            metrics[f"{self.name}_{_DEGRADATION}"] = measure_degradation({self.task: reached}, student)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


def _check_labels(task: str, labels: Sequence[float]) -> None:
    """Refuse labels of another task, which would be measured all the same, or only fail during training."""
    if task == "regression":
        if len(set(labels)) < 2:
            raise bad_argument("DSEEvaluator", "rows", "pairs with at least two different labels", labels[0])
        return
    wrong = [label for label in labels if label < 0 or label % 1 or (task == "binary" and label > 1)]
    if wrong:
        domain = "pairs with the labels 0 and 1" if task == "binary" else "pairs with numbers of classes"
        raise bad_argument("DSEEvaluator", "rows", f"{domain} for the {task} task", wrong[0])
