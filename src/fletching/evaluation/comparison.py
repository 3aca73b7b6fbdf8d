"""Several systems on the same queries: their rankings, how good they are, and what they cost."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fletching.errors import DataError, bad_argument, bad_choice, missing_extra
from fletching.evaluation.answering import RunSystem
from fletching.evaluation.cache import Answer, Prepared, Store, make_folder, open_store
from fletching.evaluation.costs import Meter, sum_costs
from fletching.evaluation.data_set import EvaluationSet
from fletching.evaluation.planning import Entry, check_seed, failure_named, hash_lists, plan_systems
from fletching.evaluation.results import Comparison, Cost, Difference, SystemResult
from fletching.evaluation.systems import System, open_system
from fletching.evaluation.vectors import Arrays
from fletching.metrics import (
    Interval,
    RunEvaluation,
    bootstrap_interval,
    evaluate_run,
    paired_bootstrap,
    permutation_test,
)
from fletching.metrics.measures import parse_measure
from fletching.models.inputs import check_positive
from fletching.progress import progress_bar, track

__all__ = ["ORDERS", "evaluate"]

ORDERS = ("first_stage", "shuffled")
"""How candidates are handed to a reranker: best first, or in a random order."""

_OWNER = "evaluate"
_RECALL = 100  # the cut of recall, where systems return as many
_RERANKED = 100  # candidates of BM25 that a reranker reads, where the data brings none
_LEVEL = 0.95

Lists = dict[str, list[str]]  # query id -> ids of its candidates, in the order in which they are shown


def evaluate(
    systems: Sequence[Any] | Mapping[str, Any],
    data: EvaluationSet,
    *,
    measures: Sequence[str] | None = None,
    baseline: str | None = None,
    depth: int = 1000,
    rerank_depth: int | None = None,
    order: str = "first_stage",
    seed: int = 0,
    n_resamples: int = 10_000,
    cache: str | Path | None = None,
    show_progress_bar: bool | None = None,
    **model_options: Any,
) -> Comparison:
    """Compare systems on judged queries.

    Where the data brings candidates, every system but a run file orders these; BM25 takes its statistics from
    the whole collection all the same. Without candidates each system searches the collection, and rerankers
    order what BM25 finds first. Measures are averaged over all judged queries, those without candidates
    included, which count as 0; equal scores are ordered by document id.

    Queries are answered one at a time, since that is what is timed; a first call that only warms up is not
    counted. Systems are opened one after the other, and each is freed before the next, so that only the
    largest has to fit into memory, beside the texts of all candidates.

    Args:
        systems: Names or objects, as for `open_system`, or a mapping from the names to be shown to them.
        data: Queries, judgements, passages and candidates.
        measures: Names of measures, as for `evaluate_run`; ``None`` takes nDCG and MRR at 10, MAP, and recall
            at 100, or at the depth if that is less.
        baseline: Name of the system that the others are compared with; ``None`` takes the first stage, or the
            first system if there is none.
        depth: Documents that a search returns.
        rerank_depth: Candidates of each query that are ordered; ``None`` takes all that the data brings, or
            100 of BM25's.
        order: ``"first_stage"`` hands candidates to rerankers best first, as most users do; ``"shuffled"`` in
            a random order, which exposes a model that goes by position.
        seed: Of the random order and of the resampling.
        n_resamples: Draws of each interval and test.
        cache: Folder where results are kept while they come in: a run that was interrupted goes on where it
            was, and one that was finished returns at once. ``None`` keeps nothing.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.
        **model_options: Arguments of `open_system`, for all systems: ``device``, ``dtype``, ``batch_size``,
            ``truncate_dim``.

    Returns:
        One result for each system, in the order asked for; the first stage comes first.

    Raises:
        ArgumentError: If an argument is outside its domain; nothing has been computed then.
        CheckpointError: If a name belongs to no checkpoint; likewise, but for what only its weights show.
        DataError: If a run file is malformed, or a candidate is not in the collection.
        FletchingError: If a system fails; the text names it. With a cache, the results of those before it are
            not lost.
        MissingExtraError: If a package is not installed.

    Example:
        >>> from fletching.data import Document
        >>> passages = [Document("d1", "A bow bends."), Document("d2", "Rain.")]
        >>> data = EvaluationSet("toy", {"q1": "Which bow?"}, {"q1": {"d1": 1}}, lambda: iter(passages))
        >>> evaluate(["bm25"], data).results[0].evaluation.means()["mrr_at_10"]
        1.0
    """
    names = _check_arguments(measures, depth, rerank_depth, order, n_resamples)
    check_seed(_OWNER, seed)
    _check_data(data, cache)
    entries = plan_systems(systems, data, model_options)
    baseline = entries[0].name if baseline is None else baseline
    if baseline not in (known := [entry.name for entry in entries]):
        raise bad_choice(_OWNER, "baseline", known, baseline)
    pool = _Pool(data)
    if data.candidates is not None:
        pool.fill(data.candidates, rerank_depth)
    settings = _Settings(data, pool, depth, order, seed, cache, show_progress_bar, model_options)
    answers: list[_Answers] = []
    for place, entry in enumerate(entries):
        with failure_named(entry.name):
            answers.append(_answer(entry, settings))
        if place == 0 and data.candidates is None and any(entry.orders for entry in entries):
            pool.fill(answers[0].run, rerank_depth or _RERANKED)
        if entry.is_checkpoint:
            _free_memory()
    return _compare(entries, answers, settings, names, baseline, n_resamples)


@dataclass(frozen=True)
class _Settings:
    """What holds for all systems of a call."""

    data: EvaluationSet
    pool: _Pool
    depth: int
    order: str
    seed: int
    cache: str | Path | None
    show: bool | None
    model_options: Mapping[str, Any]


@dataclass(frozen=True)
class _Answers:
    """What a system answered to all queries."""

    kind: str
    fingerprint: str
    run: dict[str, dict[str, float]]
    cost: Cost
    from_cache: bool


@dataclass
class _Pool:
    """The candidates of all queries, best first, and their texts, once somebody asks for them."""

    data: EvaluationSet
    lists: Lists = field(default_factory=dict)
    texts: dict[str, str] | None = None

    def fill(self, candidates: Mapping[str, Mapping[str, float]], depth: int | None) -> None:
        self.lists = {
            query: sorted(scores, key=lambda key: (-scores[key], key))[:depth]
            for query, scores in candidates.items()
            if query in self.data.queries and scores
        }

    def read_texts(self) -> dict[str, str]:
        """Read the texts of all candidates, at the first call; complain about those that are missing."""
        if self.texts is not None:
            return self.texts
        texts: dict[str, str] = {}
        wanted = {key for ids in self.lists.values() for key in ids}
        for document in self.data.open_corpus():
            if document.id in wanted:
                texts[document.id] = document.full_text
                wanted.discard(document.id)
        if wanted:
            raise DataError(
                f"Data {self.data.name!r}: the collection must hold all candidates; "
                f"{len(wanted)} are missing, such as {min(wanted)!r}."
            )
        self.texts = texts
        return texts

    def shuffle(self, seed: int) -> Lists:
        """Put each list into a random order of its own: the same for the same seed and query."""
        return {
            query: random.Random(f"{seed} {query}").sample(sorted(ids), len(ids))
            for query, ids in self.lists.items()
        }


# --- before the work ---


def _check_arguments(
    measures: Sequence[str] | None, depth: int, rerank_depth: int | None, order: str, n_resamples: int
) -> tuple[str, ...]:
    """Return the names of the measures."""
    check_positive(_OWNER, "depth", depth)
    check_positive(_OWNER, "n_resamples", n_resamples)
    if rerank_depth is not None:
        check_positive(_OWNER, "rerank_depth", rerank_depth)
    if order not in ORDERS:
        raise bad_choice(_OWNER, "order", ORDERS, order)
    if find_spec("pytrec_eval") is None:
        raise missing_extra(_OWNER, "pytrec-eval-terrier", "evaluate")
    if measures is None:
        return ("ndcg_at_10", "mrr_at_10", "map", f"recall_at_{min(depth, _RECALL)}")
    if isinstance(measures, str) or not measures:
        raise bad_argument(_OWNER, "measures", "a list of at least one name", measures)
    return tuple(dict.fromkeys(parse_measure(_OWNER, name).name for name in measures))


def _check_data(data: EvaluationSet, cache: str | Path | None) -> None:
    if not any(data.qrels.get(query) for query in data.queries):
        raise bad_argument(_OWNER, "data", "a set with at least one judged query", data.name)
    if data.candidates is not None and not any(data.candidates.get(query) for query in data.queries):
        domain = f"lists for the judged queries, such as {next(iter(data.queries))!r}"
        raise bad_argument(_OWNER, "data.candidates", domain, list(data.candidates)[:3])
    if cache is not None:
        make_folder(_OWNER, cache, data=data.digest)


# --- the work ---


def _answer(entry: Entry, settings: _Settings) -> _Answers:
    """Open one system and let it answer all queries that an earlier run did not."""
    data, pool = settings.data, settings.pool
    if isinstance(entry.system, RunSystem):
        system: System = entry.system
        asked = [*data.queries, *(query for query in entry.system.run if query not in data.queries)]
        run = {query: found for query in asked if (found := system.search(query, "", settings.depth))}
        return _Answers(entry.kind, system.fingerprint(), run, Cost(), from_cache=False)
    meter = Meter()
    system = open_system(entry.system, name=entry.name, **settings.model_options)
    lists: Lists | None = None
    if entry.orders:
        shuffled = settings.order == "shuffled" and entry.kind == "reranker"
        lists = pool.shuffle(settings.seed) if shuffled else pool.lists
    key = {"depth": settings.depth} if lists is None else {"lists": hash_lists(lists)}
    fingerprint = system.fingerprint()
    store = open_store(settings.cache, key, fingerprint=fingerprint, data=data.digest)
    queries = {query: text for query, text in data.queries.items() if lists is None or query in lists}
    pending = {query: text for query, text in queries.items() if query not in store.answers}
    from_cache = not pending and store.prepared is not None
    with meter.watch(system.modules):
        if not from_cache:
            _prepare(system, store, meter, settings, ordering=entry.orders)
        _ask(system, pending, lists, store, meter, settings)
    assert store.prepared is not None, "prepared now or by an earlier run"
    answered = {query: store.answers[query] for query in queries}
    cost = sum_costs(
        store.prepared.spent,
        {query: answer.spent for query, answer in answered.items()},
        bytes_per_vector=store.prepared.bytes_per_vector,
    )
    run = {query: answer.scores for query, answer in answered.items() if answer.scores}
    return _Answers(entry.kind, fingerprint, run, cost, from_cache)


def _prepare(system: System, store: Store, meter: Meter, settings: _Settings, *, ordering: bool) -> None:
    documents: Iterable[tuple[str, str]]
    documents = ((document.id, document.full_text) for document in settings.data.open_corpus())
    total: int | None = None
    if ordering:
        texts = meter.exclude(settings.pool.read_texts)  # they serve all systems
        if not system.reads_corpus:
            documents, total = texts.items(), len(texts)
    documents = track(documents, desc=f"{system.name}: passages", total=total, show=settings.show)

    def keep(ids: list[str], texts: list[str], compute: Any) -> Arrays:
        return store.keep_block(ids, texts, lambda: meter.measure(compute, lambda: None))

    _, spent = meter.measure(lambda: system.prepare(documents, keep=keep), lambda: None)
    steps = tuple(store.blocks) or (spent,)  # blocks know better what they took, and do not count reading
    store.set_prepared(Prepared(steps, system.bytes_per_vector))


def _ask(
    system: System,
    queries: Mapping[str, str],
    lists: Lists | None,
    store: Store,
    meter: Meter,
    settings: _Settings,
) -> None:
    def ask(query: str, text: str) -> dict[str, float]:
        if lists is None:
            return system.search(query, text, settings.depth)
        return system.score(query, text, lists[query])

    for query, text in list(queries.items())[:1]:
        ask(query, text)  # the first call allocates and is not counted
    with progress_bar(len(queries), f"{system.name}: queries", settings.show) as advance:
        for query, text in queries.items():
            scores, spent = meter.measure(lambda: ask(query, text), lambda: system.lost_tokens)  # noqa: B023
            store.add(query, Answer(scores, spent))
            advance(1)


def _free_memory() -> None:
    """Let go of a model: it and its card refer to each other."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


# --- after the work ---


def _compare(
    entries: Sequence[Entry],
    answers: Sequence[_Answers],
    settings: _Settings,
    measures: tuple[str, ...],
    baseline: str,
    n_resamples: int,
) -> Comparison:
    data = settings.data
    qrels = {query: data.qrels[query] for query in data.queries if data.qrels.get(query)}
    found = [_measure(answer.run, qrels, measures, data.relevance_level) for answer in answers]
    reference = next(value for entry, value in zip(entries, found, strict=True) if entry.name == baseline)
    options = {"n_resamples": n_resamples, "seed": settings.seed}
    recall: float | None = None
    if any(entry.orders for entry in entries):
        run = {
            query: {key: -rank for rank, key in enumerate(ids)} for query, ids in settings.pool.lists.items()
        }
        name = f"recall_at_{max(map(len, run.values()), default=1)}"
        recall = _measure(run, qrels, (name,), data.relevance_level).means()[name]
    results = []
    for entry, answer, evaluation in zip(entries, answers, found, strict=True):
        differences = {}
        if entry.name != baseline:
            differences = {
                measure: _subtract(evaluation[measure], reference[measure], options) for measure in measures
            }
        results.append(
            SystemResult(
                name=entry.name,
                kind=answer.kind,
                fingerprint=answer.fingerprint,
                run=answer.run,
                evaluation=evaluation,
                intervals={measure: _estimate(evaluation[measure], options) for measure in measures},
                differences=differences,
                cost=answer.cost,
                first_stage=entries[0].name if entry.orders else "",
                first_stage_recall=recall if entry.orders else None,
                from_cache=answer.from_cache,
            )
        )
    return Comparison(
        data.name,
        data.digest,
        measures,
        baseline,
        tuple(results),
        dict(data.skipped),
        settings.order,
        data.relevance_level,
    )


def _measure(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str],
    relevance_level: int,
) -> RunEvaluation:
    if any(run.get(query) for query in qrels):
        return evaluate_run(run, qrels, measures, relevance_level=relevance_level)
    return RunEvaluation(  # a search that found nothing for any query
        query_ids=tuple(sorted(qrels)),
        values={measure: np.zeros(len(qrels)) for measure in measures},
        n_missing=len(qrels),
        n_unjudged=0,
        n_without_relevant=sum(max(grades.values()) < relevance_level for grades in qrels.values()),
    )


def _estimate(values: Any, options: Mapping[str, int]) -> Interval:
    """Estimate a mean; a single query says nothing about others."""
    if len(values) < 2:
        return Interval(float(values[0]), 0.0, 1.0, _LEVEL)
    return bootstrap_interval(values, level=_LEVEL, **options)


def _subtract(first: Any, second: Any, options: Mapping[str, int]) -> Difference:
    if len(first) < 2:
        return Difference(Interval(float(first[0] - second[0]), -1.0, 1.0, _LEVEL), 1.0)
    interval = paired_bootstrap(first, second, level=_LEVEL, **options)
    return Difference(interval, permutation_test(first, second, **options))
