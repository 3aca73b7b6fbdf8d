"""Softmax cross-entropy over a positive and the negatives of its own query, for cross-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fletching.errors import bad_argument

__all__ = ["GroupedCrossEntropyLoss", "compute_grouped_cross_entropy"]

_OWNER = "GroupedCrossEntropyLoss"


def compute_grouped_cross_entropy(logits: Tensor) -> Tensor:
    """Compute the mean cross-entropy of groups whose first member is the positive.

    ``L = mean over b of log(sum over n of exp(s[b, n])) - s[b, 0]``: the loss of T2Ranking's cross-encoder
    (arXiv 2304.03679, reference code) and of localized contrastive estimation, which Multi-CPR uses.

    Args:
        logits: Raw scores, shape ``(B, N)``; column 0 holds the positive.

    Returns:
        A scalar, float32 whatever the input precision.

    Example:
        >>> compute_grouped_cross_entropy(torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, 0.5, 0.0, 0.0]]))
        tensor(0.8037)
    """
    targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return nn.functional.cross_entropy(logits.float(), targets)


class GroupedCrossEntropyLoss(nn.Module):
    """Train a cross-encoder to pick the positive among the negatives of the same query.

    Implements :func:`compute_grouped_cross_entropy` on raw logits: no activation, no scale, no negatives from
    other queries.

    Args:
        model: A ``CrossEncoder`` with one label; fletching's ``Reranker`` is one.
        mini_batch_size: Pairs that are computed at once, >= 1. A batch with more runs in parts, and each part
            once more in the backward pass: the gradients are those of the whole batch, dropout included, and
            memory holds the activations of one part. ``None`` computes everything at once.

    Raises:
        ArgumentError: If the model has more than one label, or ``mini_batch_size`` is no positive integer.

    Inputs:
        Columns ``(query, positive, negative_1, ..., negative_n)`` of texts, at least one negative; no labels.

    Relations:
        ``sentence_transformers.cross_encoder.losses.MultipleNegativesRankingLoss`` adds negatives from other
        queries, a sigmoid and a scale of 10. ``ListNetLoss`` takes the softmax of the labels, so that (1, 0,
        ...) is no one-hot target there; with labels (0, -inf, ..., -inf) and groups of equal size its value
        is that of this loss.

    Pitfalls:
        - The positive is the second column by place, whatever the columns are called.
        - A negative that is relevant after all is pushed down as hard as any other: drop the judged
          positives when mining.
        - The activation of the saved model (a sigmoid unless set otherwise) is not part of the training;
          order is the same with and without it.
        - A listwise model reads a group as one list: for such a model ``mini_batch_size`` cuts between
          groups only, and a group larger than it still runs whole.
    """

    def __init__(self, model: CrossEncoder, *, mini_batch_size: int | None = 32) -> None:
        super().__init__()
        if model.num_labels != 1:
            raise bad_argument(_OWNER, "model", "a cross-encoder with one label", model.num_labels)
        if mini_batch_size is not None and not (isinstance(mini_batch_size, int) and mini_batch_size >= 1):
            raise bad_argument(_OWNER, "mini_batch_size", "a positive integer or None", mini_batch_size)
        self.model = model
        self.mini_batch_size = mini_batch_size
        self._is_listwise = bool(getattr(model, "listwise", False))

    def forward(
        self,
        inputs: Sequence[Sequence[str]],
        labels: Tensor | None = None,
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """Compute the loss of a batch of groups.

        Args:
            inputs: The columns: queries, positives, then one column for each negative.
            labels: None are taken: the second column is the positive.
            prompt: Passed to the model's ``preprocess``.
            task: Passed to the model's ``preprocess``.

        Returns:
            The mean over the groups, a float32 scalar.

        Raises:
            ArgumentError: If there are fewer than three columns, or labels.
        """
        if len(inputs) < 3:
            domain = "three or more columns: query, positive, and one for each negative"
            raise bad_argument(_OWNER, "inputs", domain, len(inputs))
        if labels is not None:
            raise bad_argument(
                _OWNER, "labels", "left out, as the second column is the positive", list(labels)
            )
        queries, *columns = inputs
        groups = list(zip(*columns, strict=True))
        pairs = [(query, text) for query, group in zip(queries, groups, strict=True) for text in group]
        step = self._choose_step(len(pairs), len(columns))
        parts = [pairs[start : start + step] for start in range(0, len(pairs), step)]
        logits = []
        for part in parts:
            features = self.model.preprocess(part, prompt=prompt, task=task)
            if "list_sizes" in features:  # said outright: equal neighbouring queries must not merge
                features["list_sizes"] = [len(columns)] * (len(part) // len(columns))
            features = batch_to_device(features, self.model.device)
            if len(parts) == 1:
                logits.append(self._score(features))
            else:  # forget the activations, and compute them once more in the backward pass
                logits.append(checkpoint(self._score, features, use_reentrant=False))
        return compute_grouped_cross_entropy(torch.cat(logits).view(len(queries), len(columns)))

    def _choose_step(self, n_pairs: int, group_size: int) -> int:
        step = self.mini_batch_size or n_pairs
        return max(step // group_size, 1) * group_size if self._is_listwise else step

    def _score(self, features: dict[str, Any]) -> Tensor:
        """Return the raw logits of a part, one for each pair."""
        scores: Tensor = self.model(dict(features))["scores"]
        return scores.view(-1).float()

    def get_config_dict(self) -> dict[str, Any]:
        """Return the parameters for the model card."""
        return {"mini_batch_size": self.mini_batch_size}

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@inproceedings{xie2023t2ranking,\n"
            "    title={T2Ranking: A large-scale Chinese Benchmark for Passage Ranking},\n"
            "    booktitle={SIGIR},\n    year={2023},\n    eprint={2304.03679}\n}"
        )
