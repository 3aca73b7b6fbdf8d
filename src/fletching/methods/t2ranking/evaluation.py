"""T2Ranking as evaluators: search in the whole collection, or an order for the candidates of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import Tensor

from fletching.data import MappedTexts
from fletching.errors import DataError, bad_argument
from fletching.evaluation.streaming import search_vectors
from fletching.evaluation.systems import System, open_system
from fletching.methods.t2ranking.functional import MAX_RANK, MRR_AT, RECALL_AT, Tally
from fletching.metrics import break_ties, evaluate_run
from fletching.progress import track

__all__ = ["GradedRerankingEvaluator", "T2RankingEvaluator", "rank_queries"]

Scores = dict[str, float]
Candidates = Mapping[str, Iterable[str]]

NDCG_AT = (20, 100)
"""Cuts of nDCG that the authors report."""

_QUERIES_AT_ONCE = 256


class T2RankingEvaluator(BaseEvaluator):
    """MRR and recall as the authors compute them, for models that search and for models that rerank.

    A retriever searches all of ``corpus``, exactly: vectors are compared by the model's own similarity, the
    dot product for the authors' models. Embedders read passages once and keep the best of each query, so that
    a collection of any size fits. A reranker orders ``candidates``, best of the run first as it reads
    them, so that recall at the depth of the run is that of the run.

    Args:
        queries: Query id -> text: those of the run, with and without a relevant passage.
        corpus: Passage id -> text.
        positives: Query id -> ids of the relevant passages.
        style: ``"t2"``: MRR over **all** queries, micro recall, as in the authors' tables; ``"standard"``:
            both averaged over the queries with a relevant passage. The names of the metrics differ.
        candidates: Query id -> passage ids of a first stage, best first; ``None`` searches. Queries without
            candidates are not ranked, and do not count for style ``"t2"``.
        levels: Query id -> passage id -> level; if given, nDCG is computed too.
        mrr_at: Last rank that counts for MRR.
        recall_at: Cuts of recall.
        ndcg_at: Cuts of nDCG.
        batch_size: Texts of one batch; ``None`` leaves it to the model.
        name: Prefix of the metrics.
        show_progress_bar: Whether to draw progress bars; ``None`` draws one for a terminal at level INFO.

    Raises:
        ArgumentError: If a cut or the style is wrong, or there is no query.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        positives: Mapping[str, Collection[str]],
        *,
        style: str = "t2",
        candidates: Candidates | None = None,
        levels: Mapping[str, Mapping[str, int]] | None = None,
        mrr_at: int = MRR_AT,
        recall_at: Sequence[int] = RECALL_AT,
        ndcg_at: Sequence[int] = NDCG_AT,
        batch_size: int | None = None,
        name: str = "t2ranking",
        show_progress_bar: bool | None = None,
    ) -> None:
        super().__init__()
        if not queries:
            raise bad_argument("T2RankingEvaluator", "queries", "at least one query", queries)
        self.queries = queries
        self.corpus = corpus
        self.positives = {query: positives[query] for query in queries if positives.get(query)}
        self.style = style
        self.candidates = candidates
        self.levels = levels
        self.mrr_at = mrr_at
        self.recall_at = tuple(recall_at)
        self.ndcg_at = tuple(ndcg_at)
        self.batch_size = batch_size
        self.name = name
        self.show_progress_bar = show_progress_bar
        first = self._build_tally().names[0]
        self.primary_metric = f"{name}_{first}" if name else first

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Rank all queries and measure.

        Args:
            model: Any sentence-transformers model, a `BM25`, or whatever else `open_system` takes.
            output_path: Not used: results go to the caller and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            The metrics of `Tally.compute` and, with levels, ``ndcg_at_20`` and ``ndcg_at_100``, each behind
            the evaluator's name.

        Raises:
            ArgumentError: If a reranker gets no candidates, or no query has a relevant passage.
            DataError: If a candidate is not in the corpus.
        """
        run = rank_queries(
            model,
            self.queries,
            self.corpus,
            candidates=self.candidates,
            depth=max(MAX_RANK, *self.recall_at),
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
        )
        return _report(model, self, self.measure(run), epoch, steps)

    def measure(self, run: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
        """Measure a run that is there already, such as that of `stream_run`.

        Args:
            run: Query id, and passage id -> score, one query at a time.

        Returns:
            As a call, without the model.

        Raises:
            ArgumentError: If no query has a relevant passage.
        """
        tally, gains = self._build_tally(), _GradedTally(self.levels or {}, self.ndcg_at)
        for query, scores in run:
            ranking = break_ties(scores)
            tally.add(query, list(ranking))
            gains.add(query, ranking)
        metrics = tally.compute()
        if self.levels is not None:
            metrics |= gains.compute()
        return self.prefix_name_to_metrics(metrics, self.name)

    def _build_tally(self) -> Tally:
        return Tally(self.positives, style=self.style, mrr_at=self.mrr_at, recall_at=self.recall_at)


class GradedRerankingEvaluator(BaseEvaluator):
    """nDCG on graded judgements, over the candidates of a run: T2Ranking's re-ranking track.

    As trec_eval computes it: the gain of a passage is its level, divided by ``log2(1 + rank)``; the ideal
    ranking holds all judged passages, candidates or not; averaged over the queries that have both candidates
    and judgements. Candidates are handed over best first; equal scores are ordered by id.

    Args:
        queries: Query id -> text.
        corpus: Passage id -> text.
        levels: Query id -> passage id -> level, from 0.
        candidates: Query id -> passage ids of a first stage, best first.
        ndcg_at: Cuts.
        batch_size: Texts of one batch; ``None`` leaves it to the model.
        name: Prefix of the metrics.
        show_progress_bar: Whether to draw progress bars; ``None`` draws one for a terminal at level INFO.

    Raises:
        ArgumentError: If no query has candidates and judgements.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        levels: Mapping[str, Mapping[str, int]],
        candidates: Candidates,
        *,
        ndcg_at: Sequence[int] = NDCG_AT,
        batch_size: int | None = None,
        name: str = "t2ranking",
        show_progress_bar: bool | None = None,
    ) -> None:
        super().__init__()
        self.queries = {key: text for key, text in queries.items() if key in candidates and levels.get(key)}
        if not self.queries:
            domain = "a mapping with candidates for a judged query"
            raise bad_argument("GradedRerankingEvaluator", "candidates", domain, list(candidates)[:3])
        self.corpus = corpus
        self.levels = levels
        self.candidates = candidates
        self.ndcg_at = tuple(ndcg_at)
        self.batch_size = batch_size
        self.name = name
        self.show_progress_bar = show_progress_bar
        first = f"ndcg_at_{self.ndcg_at[0]}"
        self.primary_metric = f"{name}_{first}" if name else first

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Order the candidates of every query and measure.

        Args:
            model: A reranker, or anything else that `open_system` takes.
            output_path: Not used: results go to the caller and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            ``ndcg_at_20`` and ``ndcg_at_100``, behind the evaluator's name.

        Raises:
            DataError: If a candidate is not in the corpus.
        """
        gains = _GradedTally(self.levels, self.ndcg_at)
        for query, scores in rank_queries(
            model,
            self.queries,
            self.corpus,
            candidates=self.candidates,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
        ):
            gains.add(query, scores)
        return _report(model, self, self.prefix_name_to_metrics(gains.compute(), self.name), epoch, steps)


def rank_queries(
    model: Any,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    *,
    candidates: Candidates | None = None,
    depth: int = MAX_RANK,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Iterator[tuple[str, Scores]]:
    """Search the collection for every query, or order the candidates of every query.

    Args:
        model: Whatever `open_system` takes.
        queries: Query id -> text.
        corpus: Passage id -> text.
        candidates: Query id -> passage ids, best first; ``None`` searches.
        depth: Passages that a search returns; all candidates are ordered.
        batch_size: Texts of one batch; ``None`` leaves it to the model.
        show_progress_bar: Whether to draw progress bars; ``None`` draws one for a terminal at level INFO.

    Yields:
        Query id, and passage id -> score, best first; with candidates only queries that have some.

    Raises:
        ArgumentError: If the model cannot search and there are no candidates.
        DataError: If a candidate is not in the corpus.
    """
    if candidates is None and isinstance(model, SentenceTransformer):
        hits = search_vectors(
            model,
            queries,
            passages=_stream(corpus),
            compare=cast("Callable[[Tensor, Tensor], Tensor]", model.similarity),
            depth=depth,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )
        yield from ((query, break_ties(found)) for query, found in hits)
        return
    system = open_system(model, batch_size=batch_size)
    if candidates is None:
        if not system.can_search:
            domain = "given for a model that orders candidates and cannot search"
            raise bad_argument("T2RankingEvaluator", "candidates", domain, None)
        yield from _search(system, queries, corpus, depth, show_progress_bar)
        return
    with_candidates = [query for query in queries if query in candidates]
    for query in track(with_candidates, desc="Ranking", show=show_progress_bar):
        ids = list(candidates[query])
        system.prepare([(passage, _read(corpus, query, passage)) for passage in ids])
        yield query, system.score(query, queries[query], ids)


def _search(
    system: System,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    depth: int,
    show_progress_bar: bool | None,
) -> Iterator[tuple[str, Scores]]:
    documents = _stream(corpus)
    system.prepare(track(documents, desc="Reading passages", total=len(corpus), show=show_progress_bar))
    items = iter(track(queries.items(), desc="Searching", total=len(queries), show=show_progress_bar))
    while part := dict(islice(items, _QUERIES_AT_ONCE)):
        yield from system.search_many(part, depth).items()


def _stream(corpus: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Read the passages in their order; those on disk in one go."""
    if isinstance(corpus, MappedTexts):
        return ((one.id, one.text) for one in corpus.documents())
    return corpus.items()


def _read(corpus: Mapping[str, str], query: str, passage: str) -> str:
    text = corpus.get(passage)
    if text is None:
        raise DataError(f"T2Ranking: candidate {passage!r} of query {query!r} must be in the corpus.")
    return text


class _GradedTally:
    """Adds up nDCG, query by query."""

    def __init__(self, levels: Mapping[str, Mapping[str, int]], cuts: Sequence[int]) -> None:
        self.levels = levels
        self.measures = [f"ndcg_at_{cut}" for cut in cuts]
        self.sums = dict.fromkeys(self.measures, 0.0)
        self.n_queries = 0

    def add(self, query: str, scores: Mapping[str, float]) -> None:
        if not (levels := self.levels.get(query)):
            return
        self.n_queries += 1
        if scores:
            for measure, value in (
                evaluate_run({query: scores}, {query: levels}, self.measures).means().items()
            ):
                self.sums[measure] += value

    def compute(self) -> dict[str, float]:
        if not self.n_queries:
            raise bad_argument("T2Ranking", "levels", "judgements of at least one ranked query", "none")
        return {measure: value / self.n_queries for measure, value in self.sums.items()}


def _report(
    model: Any, evaluator: BaseEvaluator, metrics: dict[str, float], epoch: int, steps: int
) -> dict[str, float]:
    """Tell the model card."""
    if hasattr(model, "model_card_data"):
        evaluator.store_metrics_in_model_card_data(model, metrics, epoch, steps)
    return metrics
