"""The training objective of DSE: the task's own loss and the distance to the teacher's logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from fletching.errors import ShapeError, bad_argument, bad_choice
from fletching.methods.dse.data import TASKS, count_logits

__all__ = ["REDUCTIONS", "DSELoss", "compute_distillation", "compute_task_loss"]

REDUCTIONS = ("sum", "mean")
"""What ``reduction`` may be: how squared differences of the classes of one pair are put together."""


def compute_distillation(scores: Tensor, teacher: Tensor, *, reduction: str = "sum") -> Tensor:
    """Compare logits with a teacher's: squared differences, summed over classes, averaged over pairs.

    The distillation term of Barkan et al. 2019 (arXiv 1908.05161) as the reference code
    (microsoft/Distilled-Sentence-Embedding) computes it: ``mean_b sum_c (y[b, c] - t[b, c])^2``, without any
    temperature. ``torch.nn.MSELoss`` is smaller by the number of classes.

    Args:
        scores: Logits y of the student, shape ``(B, C)``.
        teacher: Logits t of the teacher, shape ``(B, C)``. Pairs with NaN are left out of the mean.
        reduction: ``"sum"`` over classes, or ``"mean"``, which is ``MSELoss``.

    Returns:
        A float32 scalar; 0 if no pair is left.

    Raises:
        ShapeError: If the two differ in shape.

    Example:
        >>> y, t = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> compute_distillation(y, t)
        tensor(1.6250)
    """
    if scores.shape != teacher.shape:
        raise ShapeError(
            f"compute_distillation: `teacher` has the wrong shape: expected (B, C) = {tuple(scores.shape)}, "
            f"got {tuple(teacher.shape)}."
        )
    known = ~teacher.isnan().any(dim=1)
    if not known.any():
        return scores[known].float().sum()  # 0, with a gradient of 0
    squares = (scores[known].float() - teacher[known].float()).square()
    rows = squares.sum(dim=1) if reduction == "sum" else squares.mean(dim=1)
    return rows.mean()


def compute_task_loss(scores: Tensor, labels: Tensor, *, task: str) -> Tensor:
    """Compare logits with what people said, as each kind of task does.

    Binary: cross-entropy of ``sigmoid(y)``; multiclass: cross-entropy of ``softmax(y)``; regression: squared
    difference, on the labels' own scale.

    Args:
        scores: Logits y of the student, shape ``(B, C)``.
        labels: 0 or 1, the number of the class, or any number, shape ``(B,)``. Pairs with NaN are left out of
            the mean.
        task: One of `TASKS`.

    Returns:
        A float32 scalar; 0 if no pair is left.
    """
    known = ~labels.isnan()
    scores, labels = scores[known].float(), labels[known].float()
    if not len(labels):
        return scores.sum()  # 0, with a gradient of 0
    if task == "binary":
        return binary_cross_entropy_with_logits(scores[:, 0], labels)
    if task == "multiclass":
        return cross_entropy(scores, labels.long())
    return mse_loss(scores[:, 0], labels)


class DSELoss(nn.Module):
    """``(1 - alpha) * task loss + alpha * distillation`` (Barkan et al., arXiv 1908.05161).

    Args:
        model: The model to train: given pairs of texts, it computes ``"scores"`` of shape ``(B, C)``.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        num_labels: Classes of a multiclass task; ``None`` takes the model's. The other tasks have one logit.
        alpha: Share of the distillation, from 0 to 1. Reference code: 0.5. With 0, no teacher is needed; with
            1, no labels.
        reduction: How the classes of a pair are put together in the distillation. Reference code: ``"sum"``.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model has another number of logits.

    Inputs:
        Texts ``(sentence1, sentence2)``, and ``[label, t_1, ..., t_C]`` for each pair in the one label column
        that trainers pass on: `build_dataset` packs it. With ``alpha=0`` a plain label will do. NaN as the
        label leaves a pair out of the task loss, NaN as a logit out of the distillation.

    Relations:
        With ``alpha=0`` and a binary task the value is that of sentence-transformers'
        ``BinaryCrossEntropyLoss``; with ``alpha=1`` and one logit that of its ``MSELoss``.

    Pitfalls:
        Logits attached by their place in a file belong to other pairs once somebody shuffles: attach them
        with `add_teacher_logits`, as a column. If labels of a regression are rescaled, the teacher's logits
        must be, too.
    """

    def __init__(
        self,
        model: Any,
        *,
        task: str = "binary",
        num_labels: int | None = None,
        alpha: float = 0.5,
        reduction: str = "sum",
    ) -> None:
        super().__init__()
        if not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
            raise bad_argument("DSELoss", "alpha", "from 0 to 1", alpha)
        if reduction not in REDUCTIONS:
            raise bad_choice("DSELoss", "reduction", REDUCTIONS, reduction)
        if task not in TASKS:
            raise bad_choice("DSELoss", "task", TASKS, task)
        given = int(model.num_labels) if num_labels is None and task == "multiclass" else num_labels
        self.n_logits = count_logits("DSELoss", task, given)
        if model.num_labels != self.n_logits:
            domain = f"a model with {self.n_logits} logits for the {task} task"
            raise bad_argument("DSELoss", "model", domain, model.num_labels)
        self.model = model
        self.task = task
        self.alpha = float(alpha)
        self.reduction = reduction

    def forward(
        self,
        inputs: Sequence[Any],
        labels: Tensor | Sequence[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms of a batch of pairs.

        Args:
            inputs: ``[texts, texts]``: the first and the second sentences.
            labels: Shape ``(B, 1 + C)``, or ``(B,)`` without a teacher; or a list of its rows.
            prompt: Passed to the model's ``preprocess``.
            task: Passed to the model's ``preprocess``.

        Returns:
            ``{"task": ..., "distillation": ...}``, float32 scalars times their shares; a term whose share is
            0 is not computed. The trainer logs each and trains on their sum.

        Raises:
            ArgumentError: If there are not two columns of texts, or a label is none of the task's.
            ShapeError: If labels do not have the shape that the task and ``alpha`` need.
        """
        if len(inputs) != 2:
            raise bad_argument("DSELoss", "inputs", "two columns of texts", len(inputs))
        pairs = list(zip(*inputs, strict=True))
        features = self.model.preprocess(pairs, prompt=prompt, task=task)
        scores = self.model(batch_to_device(features, self.model.device))["scores"]
        scores = scores.view(len(pairs), -1)
        packed = labels if isinstance(labels, Tensor) else torch.stack(list(labels))
        gold, teacher = self._unpack(packed.to(scores.device), len(pairs))
        terms = {}
        if self.alpha < 1:
            terms["task"] = (1 - self.alpha) * compute_task_loss(scores, gold, task=self.task)
        if self.alpha > 0:
            distance = compute_distillation(scores, teacher, reduction=self.reduction)
            terms["distillation"] = self.alpha * distance
        return terms

    def _unpack(self, labels: Tensor, n_pairs: int) -> tuple[Tensor, Tensor]:
        """Take labels and logits apart, and look at both."""
        packed = labels.float().view(n_pairs, -1) if labels.ndim < 2 else labels.float()
        expected = (n_pairs, 1 + self.n_logits)
        if tuple(packed.shape) != expected and not (self.alpha == 0 and tuple(packed.shape) == (n_pairs, 1)):
            remedy = "add_teacher_logits attaches them" if packed.shape[-1] == 1 else "is it another task's?"
            raise ShapeError(
                f"DSELoss: `labels` must hold the label and {self.n_logits} logits of a teacher for each "
                f"pair, (B, 1 + C) = {expected}; got {tuple(packed.shape)}: {remedy}."
            )
        gold = packed[:, 0]
        known = gold[~gold.isnan()]
        if self.alpha < 1 and self.task != "regression":
            n_classes = 2 if self.task == "binary" else self.n_logits
            wrong = known[(known != known.round()) | (known < 0) | (known >= n_classes)]
            if len(wrong):
                domain = f"whole numbers from 0 to {n_classes - 1}"
                raise bad_argument("DSELoss", "labels", domain, wrong[0].item())
        return gold, packed[:, 1:]

    def get_config_dict(self) -> dict[str, Any]:
        """Parameters for the model card."""
        return {name: getattr(self, name) for name in ("task", "alpha", "reduction")}

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@inproceedings{barkan2020dse,\n"
            "    title={Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding},\n"
            "    author={Barkan and Razin and Malkiel and Katz and Caciularu and Koenigstein},\n"
            "    booktitle={AAAI},\n    year={2020},\n    eprint={1908.05161}\n}"
        )
