"""LIMIT as an evaluator: dense, sparse, late-interaction, word-overlap and reranking models, one metric."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import Tensor
from torch.nn.functional import normalize

from fletching.errors import bad_argument
from fletching.methods.limit.baselines import BM25Baseline
from fletching.methods.limit.data import LimitDataset
from fletching.progress import track

_QUERIES_PER_CHUNK = 256
_ADAPTERS = (("embed_documents", "embed_query"), ("get_text_embedding", "get_query_embedding"))
_MODELS = (
    "a sentence-transformers model, an object with embed_documents and embed_query (LangChain) or "
    "get_text_embedding and get_query_embedding (LlamaIndex), or one with score(queries, documents)"
)


class LimitEvaluator(BaseEvaluator):
    """Recall on LIMIT for any kind of model; report it with the baselines beside it.

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
        for parameter, value in (("truncate_dim", truncate_dim), ("candidates", candidates)):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise bad_argument("LimitEvaluator", parameter, "a positive integer", value)
        self.dataset = dataset
        self.k_values = tuple(sorted(set(cuts)))
        self.truncate_dim = truncate_dim
        self.candidates = candidates
        self.batch_size = batch_size
        self.name = dataset.name if name is None else name
        self.show_progress_bar = show_progress_bar
        self.primary_metric = f"{self.name}_recall_at_{2 if 2 in self.k_values else self.k_values[0]}"
        self._queries = list(dataset.queries.values())
        self._order = sorted(dataset.corpus)  # a stable sort of the scores then breaks ties by id
        self._documents = [dataset.corpus[key] for key in self._order]

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Rank the documents of every query and average.

        Args:
            model: A sentence-transformers model of any kind, an embedding object of LangChain or LlamaIndex,
                or a baseline.
            output_path: Not used: results go to the caller and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            ``<name>_recall_at_<k>`` for every cut; ``<name>_set_accuracy``, the share of queries whose whole
            set is on top; for a reranker that read candidates only, ``<name>_ceiling``, the recall of these.

        Raises:
            ArgumentError: If the model is of no known kind.
        """
        rankings, ceiling = self._rank(model)
        sizes = [len(self.dataset.qrels[query]) for query in self.dataset.queries]
        metrics = {
            f"{self.name}_recall_at_{k}": _average(self._recalls(rankings, [k] * len(sizes)))
            for k in self.k_values
        }
        solved = [recall == 1.0 for recall in self._recalls(rankings, sizes)]
        metrics[f"{self.name}_set_accuracy"] = _average(solved)
        if ceiling is not None:
            metrics[f"{self.name}_ceiling"] = _average(self._recalls(ceiling, map(len, ceiling)))
        if hasattr(model, "model_card_data"):
            self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _recalls(self, rankings: Sequence[Sequence[str]], cuts: Iterable[int]) -> list[float]:
        relevant = (self.dataset.qrels[query] for query in self.dataset.queries)
        return [recall_at_k(*triple) for triple in zip(rankings, relevant, cuts, strict=True)]

    def _rank(self, model: Any) -> tuple[list[list[str]], list[list[str]] | None]:
        """Order the ids of every query, best first, deep enough for every cut."""
        depth = max(*self.k_values, *map(len, self.dataset.qrels.values()))
        if hasattr(model, "predict") and hasattr(model, "rank"):
            if len(self._documents) <= self.candidates:
                everything = [list(range(len(self._documents)))] * len(self._queries)
                return self._rerank(model, everything), None
            first = _order_by_score(BM25Baseline().score, self._queries, self._documents, self.candidates)
            return self._rerank(model, first), [self._name(places) for places in first]
        scorer = self._build_scorer(model)
        return [
            self._name(places) for places in _order_by_score(scorer, self._queries, self._documents, depth)
        ], None

    def _rerank(self, model: Any, candidates: list[list[int]]) -> list[list[str]]:
        lists = zip(self._queries, candidates, strict=True)
        options: dict[str, Any] = {"show_progress_bar": False}
        if self.batch_size is not None:
            options["batch_size"] = self.batch_size
        rankings = []
        for query, places in track(lists, desc="Ranking", total=len(candidates), show=self.show_progress_bar):
            places = sorted(places)  # by id: no candidate profits from the order of the first stage
            hits = model.rank(query, [self._documents[place] for place in places], **options)
            ordered = sorted((-float(hit["score"]), int(hit["corpus_id"])) for hit in hits)
            rankings.append(self._name([places[index] for _, index in ordered]))
        return rankings

    def _build_scorer(self, model: Any) -> Any:
        if all(hasattr(model, name) for name in ("encode_query", "encode_document", "similarity")):
            return _EmbedderScorer(model, self._encode_options())
        for document_method, query_method in _ADAPTERS:
            if hasattr(model, document_method) and hasattr(model, query_method):
                return _AdapterScorer(model, document_method, query_method, self.truncate_dim)
        if callable(getattr(model, "score", None)):
            return model.score
        raise bad_argument("LimitEvaluator", "model", _MODELS, model)

    def _encode_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"show_progress_bar": bool(self.show_progress_bar)}
        if self.batch_size is not None:
            options["batch_size"] = self.batch_size
        if self.truncate_dim is not None:
            options["truncate_dim"] = self.truncate_dim
        return options

    def _name(self, places: Sequence[int]) -> list[str]:
        return [self._order[place] for place in places]


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


def recall_at_k(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return the share of the relevant documents among the first k.

    Args:
        ranking: Document ids, best first.
        relevant: Ids of the relevant documents; not empty.
        k: Documents that are looked at.

    Returns:
        From 0 to 1; with fewer than ``len(relevant)`` documents looked at, less than 1.

    Example:
        >>> recall_at_k(["b", "a", "c"], {"a", "c"}, 2)
        0.5
    """
    return len(set(ranking[:k]) & set(relevant)) / len(relevant)


class _EmbedderScorer:
    """Documents are encoded once, queries chunk by chunk."""

    def __init__(self, model: Any, options: dict[str, Any]) -> None:
        self._model = model
        self._options = options
        self._embeddings: Any = None

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        if self._embeddings is None:
            self._embeddings = self._model.encode_document(list(documents), **self._options)
        encoded = self._model.encode_query(list(queries), **self._options)
        scores = self._model.similarity(encoded, self._embeddings)
        return (scores.to_dense() if scores.is_sparse else scores).float().cpu()


class _AdapterScorer:
    """Cosine of what an embedding object of another library returns."""

    def __init__(self, model: Any, document_method: str, query_method: str, dim: int | None) -> None:
        self._embed_document = getattr(model, document_method)
        self._embed_query = getattr(model, query_method)
        self._takes_lists = document_method == "embed_documents"
        self._dim = dim
        self._embeddings: Tensor | None = None

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        if self._embeddings is None:
            vectors = (
                self._embed_document(list(documents))
                if self._takes_lists
                else [self._embed_document(text) for text in documents]
            )
            self._embeddings = self._shape(vectors)
        return self._shape([self._embed_query(query) for query in queries]) @ self._embeddings.T

    def _shape(self, vectors: Any) -> Tensor:
        return normalize(torch.as_tensor(vectors, dtype=torch.float32)[:, : self._dim], dim=1)


def _order_by_score(
    scorer: Any, queries: Sequence[str], documents: Sequence[str], depth: int
) -> list[list[int]]:
    """Order the documents of every query, best first; equal scores keep the order of the documents."""
    ordered: list[list[int]] = []
    for first in range(0, len(queries), _QUERIES_PER_CHUNK):
        scores = scorer(queries[first : first + _QUERIES_PER_CHUNK], documents)
        order = torch.as_tensor(scores).argsort(dim=1, descending=True, stable=True)
        ordered += order[:, :depth].tolist()
    return ordered


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
