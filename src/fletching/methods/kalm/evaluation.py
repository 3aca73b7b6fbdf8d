"""Search among the texts of rows, as an evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.evaluation import BaseEvaluator

from fletching.errors import bad_argument
from fletching.evaluation.streaming import search_vectors
from fletching.methods.kalm.data import KaLMRow
from fletching.methods.kalm.mining import AsIs, compare_by_product
from fletching.metrics import evaluate_run

__all__ = ["KaLMRowEvaluator"]

_DEPTH = 100
_MEASURES = ("ndcg_at_10", "mrr_at_10", "recall_at_100")


class KaLMRowEvaluator(BaseEvaluator):
    """nDCG@10, MRR@10 and recall@100: each query searches all positives and negatives of all rows.

    Queries are read as they are, with the instruction they carry. Rows of one query count as one.

    Args:
        rows: The rows.
        name: Prefix of the metrics.

    Raises:
        ArgumentError: If there is no row.
    """

    def __init__(self, rows: Sequence[KaLMRow], name: str = "dev") -> None:
        super().__init__()
        if not rows:
            raise bad_argument("KaLMRowEvaluator", "rows", "at least one row", rows)
        self.rows = rows
        self.name = name
        self.primary_metric: str = f"{name}_ndcg_at_10"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Search and measure.

        Args:
            model: The embedder.
            output_path: Not used: results go to the trainer's log and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            The metrics, means over queries.

        Raises:
            MissingExtraError: If the ``evaluate`` extra is not installed.
        """
        texts = dict.fromkeys(text for row in self.rows for text in (*row.positives, *row.negatives))
        places = {text: str(place) for place, text in enumerate(texts)}
        ids = {
            query: str(number) for number, query in enumerate(dict.fromkeys(row.query for row in self.rows))
        }
        qrels: dict[str, dict[str, int]] = {}
        for row in self.rows:
            relevant = dict.fromkeys((places[text] for text in row.positives), 1)
            qrels.setdefault(ids[row.query], {}).update(relevant)
        run = search_vectors(
            AsIs(model),
            {key: query for query, key in ids.items()},
            passages=[(place, text) for text, place in places.items()],
            compare=compare_by_product,
            depth=_DEPTH,
            show_progress_bar=False,
        )
        means = evaluate_run(dict(run), qrels, _MEASURES).means()
        metrics = {f"{self.name}_{measure}": mean for measure, mean in means.items()}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics
