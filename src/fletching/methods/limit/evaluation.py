"""LIMIT as an evaluator: dense, sparse, late-interaction, word-overlap and reranking models, one metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.evaluation import BaseEvaluator

from fletching.errors import bad_argument
from fletching.evaluation.bm25 import BM25
from fletching.evaluation.systems import System, open_system
from fletching.methods.limit.data import LimitDataset
from fletching.metrics import evaluate_run
from fletching.models.inputs import check_count, check_positive
from fletching.progress import progress_bar, track

_QUERIES_PER_CHUNK = 256
_SCORES_PER_CHUNK = 1 << 20  # a score may take 100 bytes until the best are taken

Run = Mapping[str, Mapping[str, float]]


class LimitEvaluator(BaseEvaluator):
    """Recall on LIMIT for any kind of model; report it with the baselines beside it (extra ``evaluate``).

    Recall on LIMIT is no measure of general quality: it does not correlate with BEIR, word overlap solves it,
    and random word vectors beat large models on the small set.

    Embedders (dense, sparse, late interaction) encode with their own prompts and compare by their own
    similarity. Rerankers read every document where there are at most ``candidates``, else the first of BM25,
    whose recall is then reported as the ceiling. Equal scores are ordered by document id.

    Args:
        dataset: The data.
        k_values: Cuts of recall, 2 being the main one; ``None`` takes the paper's: 2, 10, 20 up to 100
            documents, else 2, 10, 100.
        truncate_dim: Dimensions that dense vectors are cut to; ``None`` keeps all. Rerankers and baselines
            ignore it.
        candidates: Most documents that a reranker reads for one query. Ours.
        batch_size: Texts of one batch; ``None`` leaves it to the model.
        name: Prefix of the metrics; ``None`` takes the data set's.
        show_progress_bar: Whether to draw progress bars; ``None`` draws one for a terminal at level INFO.
    """

    def __init__(
        self,
        dataset: LimitDataset,
        *,
        k_values: Sequence[int] | None = None,
        truncate_dim: int | None = None,
        candidates: int = 100,
        batch_size: int | None = None,
        name: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> None:
        super().__init__()
        cuts = ((2, 10, 20) if len(dataset.corpus) <= 100 else (2, 10, 100)) if k_values is None else k_values
        if not cuts or not all(isinstance(k, int) and k >= 1 for k in cuts):
            raise bad_argument("LimitEvaluator", "k_values", "one or more positive integers", k_values)
        self.dataset = dataset
        self.k_values = tuple(sorted(set(cuts)))
        self.truncate_dim = check_count("LimitEvaluator", "truncate_dim", truncate_dim)
        self.candidates = check_positive("LimitEvaluator", "candidates", candidates)
        self.batch_size = batch_size
        self.name = dataset.name if name is None else name
        self.show_progress_bar = show_progress_bar
        self.primary_metric = f"{self.name}_recall_at_{2 if 2 in self.k_values else self.k_values[0]}"
        self._qrels = {query: dict.fromkeys(ids, 1) for query, ids in dataset.qrels.items()}

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Rank the documents of every query and average.

        Args:
            model: As for `measure`.
            output_path: Not used: results go to the caller and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            ``<name>_<measure>`` -> mean, for every measure of `measure`.

        Raises:
            ArgumentError: If the model is of no known kind.
            MissingExtraError: If a package of the extra is not installed.
        """
        measured = self.measure(model)
        metrics = {f"{self.name}_{metric}": float(values.mean()) for metric, values in measured.items()}
        if hasattr(model, "model_card_data"):
            self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def measure(self, model: Any) -> dict[str, NDArray[np.float64]]:
        """Rank the documents of every query; keep every query's value, for intervals and tests.

        Args:
            model: A sentence-transformers model of any kind, an embedding object of LangChain or LlamaIndex,
                a baseline, or whatever else `fletching.evaluation.systems.open_system` takes.

        Returns:
            Measure -> one value for each query, in the order of their sorted ids: ``recall_at_<k>`` for every
            cut; ``set_accuracy``, 1 where the whole set is on top; for a reranker that read candidates only,
            ``ceiling``, the recall of these.

        Raises:
            ArgumentError: If the model is of no known kind.
            MissingExtraError: If a package of the extra is not installed.
        """
        system = open_system(model, truncate_dim=self.truncate_dim, batch_size=self.batch_size)
        run, first_stage = self._search(system) if system.can_search else self._rerank(system)
        cuts = [f"recall_at_{k}" for k in self.k_values]
        found = evaluate_run(run, self._qrels, [*cuts, "r_precision"])
        measured = {cut: found[cut] for cut in cuts}
        measured["set_accuracy"] = np.asarray(found["r_precision"] == 1.0, dtype=np.float64)
        if first_stage is not None:
            depth = f"recall_at_{self.candidates}"
            measured["ceiling"] = evaluate_run(first_stage, self._qrels, [depth])[depth]
        return measured

    def _search(self, system: System) -> tuple[Run, None]:
        """Search all documents, deep enough for every cut."""
        self._prepare(system)
        depth = max(*self.k_values, *map(len, self._qrels.values()))
        run: dict[str, Mapping[str, float]] = {}
        queries = list(self.dataset.queries.items())
        with progress_bar(len(queries), "Searching", self.show_progress_bar) as advance:
            size = max(1, min(_QUERIES_PER_CHUNK, _SCORES_PER_CHUNK // len(self.dataset.corpus)))
            for first in range(0, len(queries), size):
                part = dict(queries[first : first + size])
                run |= system.search_many(part, depth)
                advance(len(part))
        return run, None

    def _rerank(self, system: System) -> tuple[Run, Run | None]:
        """Rank all documents, or those that BM25 finds; in the order of their ids, which is no hint."""
        self._prepare(system)
        queries, corpus = self.dataset.queries, self.dataset.corpus
        first_stage: Run | None = None
        if len(corpus) > self.candidates:
            words = BM25("words")
            words.index(corpus.items(), show_progress_bar=False)
            first_stage = {key: words.retrieve(text, self.candidates) for key, text in queries.items()}
        run = {
            key: system.score(key, text, sorted(first_stage[key] if first_stage else corpus))
            for key, text in track(queries.items(), desc="Ranking", show=self.show_progress_bar)
        }
        return run, first_stage

    def _prepare(self, system: System) -> None:
        corpus = self.dataset.corpus
        documents = track(sorted(corpus.items()), desc="Reading", show=self.show_progress_bar)
        system.prepare(documents)


def measure_dimensions(model: Any, dataset: LimitDataset, dims: Sequence[int]) -> dict[int, dict[str, float]]:
    """Evaluate a dense model at several truncated dimensions.

    A model that was not trained for truncation (Matryoshka) is naturally poor at small dimensions; recall
    need not even grow with the dimension.

    Args:
        model: A dense embedder.
        dataset: The data.
        dims: Dimensions to cut to.

    Returns:
        The metrics of :class:`LimitEvaluator`, named ``recall_at_2`` and so on, by dimension.

    Raises:
        ArgumentError: If a dimension is not a positive integer.
    """
    return {
        dim: {
            metric.removeprefix("limit_"): value
            for metric, value in LimitEvaluator(dataset, truncate_dim=dim, name="limit")(model).items()
        }
        for dim in dims
    }
