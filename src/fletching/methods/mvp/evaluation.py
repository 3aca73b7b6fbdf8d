"""nDCG@10 on labelled lists, during training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score

from fletching.data import CandidateList
from fletching.errors import DataError
from fletching.models.reranker import Reranker


class MVPListEvaluator(BaseEvaluator):
    """Mean nDCG@10 (linear gain, ties averaged) over fixed lists, overall and by source.

    Args:
        lists: Labelled lists; those without any positive label are skipped.
        name: Prefix of the metrics.
    """

    def __init__(self, lists: Sequence[CandidateList], name: str = "dev") -> None:
        super().__init__()
        self.lists = [
            ranked for ranked in lists if len(ranked.documents) > 1 and max(ranked.labels, default=0) > 0
        ]
        if not self.lists:
            raise DataError(
                "MVPListEvaluator: no list has two documents and a positive label; got none to rank."
            )
        self.name = name
        self.primary_metric: str = f"{name}_ndcg_at_10"

    def __call__(
        self, model: Reranker, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Rank every list and average.

        Args:
            model: The model.
            output_path: Not used: results go to the trainer's log and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            ``{"<name>_ndcg_at_10": mean over sources, "<name>_<source>_ndcg_at_10": ...}``.
        """
        rankings = model.rank_batch(
            [ranked.query for ranked in self.lists],
            [ranked.documents for ranked in self.lists],
            scores="logit",
        )
        by_source: dict[str, list[float]] = defaultdict(list)
        for ranked, ranking in zip(self.lists, rankings, strict=True):
            scores = np.empty(len(ranked.documents))
            for hit in ranking:
                scores[hit["corpus_id"]] = hit["score"]
            gains = np.maximum(np.asarray(ranked.labels), 0.0)
            by_source[ranked.source].append(float(ndcg_score(gains[None], scores[None], k=10)))
        metrics: dict[str, Any] = {
            f"{self.name}_{source}_ndcg_at_10": float(np.mean(values))
            for source, values in sorted(by_source.items())
        }
        metrics = {self.primary_metric: float(np.mean(list(metrics.values()))), **metrics}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics
