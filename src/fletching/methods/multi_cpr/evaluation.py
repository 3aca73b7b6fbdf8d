"""The measures of Multi-CPR, exactly as the reference computes them, for run files and for models."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator

from fletching.data.lines import StrPath, parse_number
from fletching.data.tables import DOCUMENT, QUERY, SCORE, read_rows
from fletching.errors import bad_argument, bad_record
from fletching.evaluation.streaming import Hits, search_vectors
from fletching.methods.multi_cpr.config import SCORES, check_choice
from fletching.methods.multi_cpr.data import MultiCPRDataset, QueryKey
from fletching.methods.multi_cpr.functional import compare_vectors
from fletching.progress import track

__all__ = [
    "MultiCPREvaluator",
    "measure_rankings",
    "order_passages",
    "read_rankings",
    "rerank_passages",
    "search_words",
]

Key = TypeVar("Key", bound=Hashable)

_LAYOUTS = {3: (0, 1, 2), 4: (0, 1, 3), 6: (0, 2, 4)}
_MRR_AT, _RECALL_AT = 10, 1000
_MODELS = (
    "a dense embedder of sentence-transformers, a reranker with `rank`, or one with `index` and `retrieve`, "
    "such as BM25"
)


def measure_rankings(
    rankings: Mapping[Key, Sequence[str]], positives: Mapping[Key, str], *, depth: int = _RECALL_AT
) -> dict[str, float]:
    """Compute MRR@10 and recall@1000 over the queries that have both a ranking and a judgement.

    A query of the run without a judgement changes nothing, as in the reference; nor does a judged one without
    a ranking, which flatters a run that leaves hard queries out. An empty ranking counts with 0: a system
    that was asked and found nothing has one.

    Args:
        rankings: Query -> passage ids, best first.
        positives: Query -> the passage that answers it.
        depth: Passages that a ranking has room for; below 1000, recall is cut there and named after it.

    Returns:
        ``{"mrr_at_10": ..., "recall_at_1000": ..., "queries": ...}``; with one positive for each query,
        recall is the share of queries whose positive was found.

    Raises:
        ArgumentError: If no query has both.

    Example:
        >>> measure_rankings({"q1": ["a", "b"], "q2": ["c"], "q3": []}, {"q1": "b", "q2": "c"})
        {'mrr_at_10': 0.75, 'recall_at_1000': 1.0, 'queries': 2}
    """
    shared = [key for key in rankings if key in positives]
    if not shared:
        domain = "rankings of at least one judged query"
        raise bad_argument("measure_rankings", "rankings", domain, next(iter(rankings), "none"))
    recall_at = min(depth, _RECALL_AT)
    reciprocal = recalled = 0.0
    for key in shared:
        ranked, positive = rankings[key][:recall_at], positives[key]
        if positive in ranked:
            recalled += 1
            rank = ranked.index(positive) + 1
            reciprocal += 1 / rank if rank <= _MRR_AT else 0.0
    return {
        f"mrr_at_{_MRR_AT}": reciprocal / len(shared),
        f"recall_at_{recall_at}": recalled / len(shared),
        "queries": len(shared),
    }


def order_passages(scores: Mapping[str, float], *, ascending: bool = False) -> list[str]:
    """Order the passages of a query; equal scores keep their order.

    Args:
        scores: Passage id -> score.
        ascending: Whether the lowest is best, as of L2 distances.

    Returns:
        The ids, best first.

    Example:
        >>> order_passages({"b": 0.5, "a": 0.5, "c": 0.9})
        ['c', 'b', 'a']
    """
    return sorted(scores, key=scores.__getitem__, reverse=not ascending)  # stable in both directions


def read_rankings(path: StrPath, *, ascending: bool = False, split: str = "dev") -> dict[QueryKey, list[str]]:
    """Read a run file and order it by its scores; equal ones keep the order of the file.

    Layouts, with tabs or spaces, plain or gzipped: query id, passage id, score (the reference's); query id,
    passage id, rank, score; TREC's six columns. Ranks are not read.

    Args:
        path: The file.
        ascending: Whether the lowest score is best: the reference's dense runs hold L2 distances, their names
            end in ``.l2.out``; sparse and reranker runs hold similarities.
        split: The split that the query ids belong to.

    Returns:
        Query -> passage ids, best first.

    Raises:
        DataError: If a record is malformed, a score is no finite number, or a passage is returned twice for a
            query; the text names file and line.
    """
    scores: dict[QueryKey, dict[str, float]] = {}
    for number, (query, passage, value) in read_rows(path, (QUERY, DOCUMENT, SCORE), _LAYOUTS):
        assert query is not None  # every layout has all three
        assert passage is not None
        returned = scores.setdefault(QueryKey(split, query), {})
        if passage in returned:
            raise bad_record(path, number, DOCUMENT, f"returned once for query {query!r}", passage)
        returned[passage] = parse_number(path, number, SCORE, value)
    return {key: order_passages(returned, ascending=ascending) for key, returned in scores.items()}


def rerank_passages(
    model: Any,
    queries: Mapping[Key, str],
    *,
    candidates: Mapping[Key, Sequence[str]],
    corpus: Mapping[str, str],
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> dict[Key, list[str]]:
    """Order the candidates of each query by a reranker.

    The model gets them in the order of their ids, so that none profits from the place that the first stage
    gave it; equal scores stay in that order.

    Args:
        model: A reranker.
        queries: Query -> text.
        candidates: Query -> passage ids; queries without any keep an empty list.
        corpus: Passage id -> text.
        batch_size: Pairs of one batch; ``None`` leaves it to the model.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Returns:
        Query -> passage ids, best first.
    """
    options: dict[str, Any] = {"show_progress_bar": False}
    if batch_size is not None:
        options["batch_size"] = batch_size
    ranked: dict[Key, list[str]] = {}
    for key, text in track(queries.items(), desc="Ranking", total=len(queries), show=show_progress_bar):
        ids = sorted(candidates.get(key, ()))
        hits = model.rank(text, [corpus[passage] for passage in ids], **options) if ids else []
        order = sorted((-float(hit["score"]), int(hit["corpus_id"])) for hit in hits)
        ranked[key] = [ids[place] for _, place in order]
    return ranked


def search_words(
    model: Any,
    queries: Mapping[Key, str],
    *,
    passages: Iterable[tuple[str, str]],
    depth: int = 1000,
    show_progress_bar: bool | None = None,
) -> Hits[Key]:
    """Index the passages by their words, and look every query up.

    Args:
        model: A ``BM25``, or anything with its ``index`` and ``retrieve``.
        queries: Query -> text.
        passages: Pairs of id and text.
        depth: Passages to keep for each query, >= 1.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Yields:
        Each query with at most ``depth`` passages; none where no passage shares a word with it.
    """
    model.index(passages)
    for key, text in track(queries.items(), desc="Searching", total=len(queries), show=show_progress_bar):
        yield key, model.retrieve(text, depth)


class MultiCPREvaluator(BaseEvaluator):
    """MRR@10 and recall@1000 of an embedder, a reranker or BM25 on Multi-CPR.

    Embedders and BM25 search all passages of the data set. A reranker orders ``candidates``, and its recall
    is that of the first stage which found them: no order changes it. Of a million passages for each query one
    is judged, so that other right answers count as wrong ones; a low MRR is not a bad ranking.

    Args:
        dataset: The data; its ``"dev"`` split is the paper's test set.
        score: How vectors are compared: ``"cosine"``, as in training; ``"l2"``, as the released search does
            it, on vectors of any length; or ``"dot"``. Rerankers and BM25 ignore it.
        depth: Passages of a ranking; recall is named after it where it is below 1000.
        candidates: Query -> passage ids, or passage id -> score, for rerankers; such as from
            `read_rankings`. ``None`` without any.
        batch_size: Texts of one batch; ``None`` leaves it to the model.
        name: Prefix of the measures; ``None`` takes the data set's.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    def __init__(
        self,
        dataset: MultiCPRDataset,
        *,
        score: str = "cosine",
        depth: int = _RECALL_AT,
        candidates: Mapping[QueryKey, Sequence[str] | Mapping[str, float]] | None = None,
        batch_size: int | None = None,
        name: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "score", SCORES, score)
        if not (isinstance(depth, int) and depth >= _MRR_AT):
            raise bad_argument(owner, "depth", f"an integer >= {_MRR_AT}, where MRR is cut", depth)
        self.dataset = dataset
        self.score = score
        self.depth = depth
        self.candidates = candidates
        self.batch_size = batch_size
        self.name = dataset.name if name is None else name
        self.show_progress_bar = show_progress_bar
        self.primary_metric: str = f"{self.name}_mrr_at_{_MRR_AT}"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Rank the passages of every judged query, and average.

        Args:
            model: A dense embedder, a reranker, or a ``BM25``.
            output_path: Not used: results go to the caller and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            ``<name>_mrr_at_10`` and ``<name>_recall_at_1000``.

        Raises:
            ArgumentError: If the model is of no known kind, or a reranker without candidates.
            DataError: If the passages are missing or malformed.
        """
        measured = measure_rankings(self.rank(model), self.dataset.positives, depth=self.depth)
        metrics = {f"{self.name}_{key}": value for key, value in measured.items() if key != "queries"}
        if hasattr(model, "model_card_data"):
            self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def rank(self, model: Any) -> dict[QueryKey, list[str]]:
        """Rank the passages of every judged query.

        Args:
            model: As in a call.

        Returns:
            Query -> passage ids, best first; empty where nothing was found.

        Raises:
            ArgumentError: As a call.
            DataError: As a call.
        """
        if callable(getattr(model, "rank", None)):
            return self._rerank(model)
        return {key: list(found) for key, found in self.search(model)}

    def search(self, model: Any) -> Hits[QueryKey]:
        """Search all passages for every judged query.

        Args:
            model: A dense embedder or a ``BM25``.

        Returns:
            Yields each query with its hits, passage id -> score, best first.

        Raises:
            ArgumentError: If the model is neither.
        """
        queries = {key: self.dataset.queries[key] for key in self.dataset.qrels}
        shared: dict[str, Any] = {
            "passages": self.dataset.stream_passages(),
            "depth": self.depth,
            "show_progress_bar": self.show_progress_bar,
        }
        if callable(getattr(model, "index", None)) and callable(getattr(model, "retrieve", None)):
            return search_words(model, queries, **shared)
        if not isinstance(model, SentenceTransformer):
            raise bad_argument(type(self).__name__, "model", _MODELS, model)
        compare = partial(compare_vectors, score=self.score)
        return search_vectors(model, queries, compare=compare, batch_size=self.batch_size, **shared)

    def _rerank(self, model: Any) -> dict[QueryKey, list[str]]:
        if self.candidates is None:
            remedy = "Pass the rankings of a first stage"
            raise bad_argument(type(self).__name__, "candidates", "given for a reranker", None, remedy)
        candidates = {
            key: order_passages(found) if isinstance(found, Mapping) else list(found)
            for key, found in self.candidates.items()
        }
        return rerank_passages(
            model,
            {key: self.dataset.queries[key] for key in self.dataset.qrels if key in candidates},
            candidates={key: found[: self.depth] for key, found in candidates.items()},
            corpus=self.dataset.corpus,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
        )
