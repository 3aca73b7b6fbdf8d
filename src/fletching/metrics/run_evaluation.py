"""Scores runs against judgements, query by query, with trec_eval's own code (pytrec_eval-terrier)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.metrics.measures import Measure, parse_measure

__all__ = ["RunEvaluation", "break_ties", "evaluate_run"]

_TIES = ("id", "trec_eval")
_MAX_GRADE = 1000  # trec_eval makes a table with a place for every grade up to the highest
_QUERIES_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """What a run reached, query by query.

    ``evaluation["ndcg_at_10"]`` is the array of one measure, in the order of ``query_ids``. Two runs that are
    evaluated on the same judgements have the same order, so that their arrays can be paired.

    Args:
        query_ids: The judged queries, sorted.
        values: Measure -> one value for each query.
        n_missing: Judged queries for which the run has no document; they count with 0.
        n_unjudged: Queries of the run without judgements; they are left out.
        n_without_relevant: Judged queries without any relevant document: no run gets more than 0 in a binary
            measure for them, and they count.
    """

    query_ids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    n_missing: int
    n_unjudged: int
    n_without_relevant: int

    def __getitem__(self, measure: str) -> NDArray[np.float64]:
        if measure not in self.values:
            raise bad_choice("RunEvaluation", "measure", self.values, measure)
        return self.values[measure]

    def means(self) -> dict[str, float]:
        """Average each measure over all judged queries.

        Returns:
            Measure -> mean.
        """
        return {measure: float(values.mean()) for measure, values in self.values.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Go through the queries.

        Yields:
            ``{"query_id": str, measure: float, ...}`` for each judged query.
        """
        for place, query in enumerate(self.query_ids):
            yield {"query_id": query, **{name: float(values[place]) for name, values in self.values.items()}}


def evaluate_run(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = ("ndcg_at_10", "mrr_at_10", "map", "recall_at_100"),
    *,
    relevance_level: int = 1,
    ties: str = "id",
) -> RunEvaluation:
    """Score a run against judgements.

    Measures: ``ndcg``, ``map`` and ``mrr``, of the whole ranking or of its first k documents
    (``ndcg_at_10``); ``recall_at_k``, ``precision_at_k``, ``success_at_k`` (1 where a relevant document is
    among the first k), and ``r_precision``. nDCG is graded: the gain of a document is its grade, divided by
    ``log2(1 + rank)``, a negative grade gains nothing, and the ideal ranking holds every judged document,
    returned or not. All other measures are binary. ``map_at_k`` divides by all relevant documents,
    ``mrr_at_k`` is 0 where the first relevant one comes after rank k.

    Args:
        run: Query id -> document id -> score, higher is better.
        qrels: Query id -> document id -> grade. Documents that are not judged are not relevant.
        measures: Names of measures.
        relevance_level: Lowest grade that counts as relevant in the binary measures, at least 1: 2 for TREC
            Deep Learning and T2Ranking. nDCG does not depend on it.
        ties: How equal scores are ordered: ``"id"``, the smaller document id first (by code points), whatever
            the order of the run; ``"trec_eval"``, the larger first, after rounding scores to float32.

    Returns:
        One value for each measure and judged query, and how many queries were missing or left out.

    Raises:
        ArgumentError: If a measure is unknown, a score is not finite, a grade is no whole number, an id is no
            Unicode text or holds a zero character, or run and judgements have no query in common.
        MissingExtraError: If pytrec_eval-terrier is not installed.

    Example:
        >>> qrels = {"q1": {"d1": 1}, "q2": {"d1": 1}}
        >>> evaluate_run({"q1": {"d2": 0.9, "d1": 0.4}}, qrels, ["mrr"]).means()
        {'mrr': 0.25}
    """
    parsed = [parse_measure("evaluate_run", name) for name in measures]
    if not parsed or isinstance(measures, str):
        raise bad_argument("evaluate_run", "measures", "a list of at least one name", measures)
    if not isinstance(relevance_level, int) or relevance_level < 1:
        domain = "at least 1" if isinstance(relevance_level, int) else "a whole number"
        raise bad_argument("evaluate_run", "relevance_level", domain, relevance_level)
    if ties not in _TIES:
        raise bad_choice("evaluate_run", "ties", _TIES, ties)
    _check_ids("qrels", "query", qrels)
    judged = {query: _check_grades(grades) for query, grades in sorted(qrels.items()) if grades}
    found = [query for query in judged if run.get(query)]
    if not found:
        domain = f"a run with a judged query, such as {next(iter(judged), 'none')!r}"
        raise bad_argument("evaluate_run", "run", domain, list(islice(run, 3)))
    measured = _measure(run, judged, found, parsed, relevance_level, ties)
    return RunEvaluation(
        query_ids=tuple(judged),
        values={
            measure.name: np.array(
                [measure.compute(measured[query]) if query in measured else 0.0 for query in judged]
            )
            for measure in parsed
        },
        n_missing=len(judged) - len(found),
        n_unjudged=sum(query not in judged for query in run),
        n_without_relevant=sum(max(grades.values()) < relevance_level for grades in judged.values()),
    )


def break_ties(scores: Mapping[str, float]) -> dict[str, float]:
    """Replace scores by distinct ones in the same order; of equal scores the smaller id comes first.

    The result does not depend on the order of ``scores``, and trec_eval's float32 makes no new ties of it.

    Args:
        scores: Document id -> score, higher is better.

    Returns:
        Document id -> number of documents that do not come before it; best first.

    Example:
        >>> break_ties({"c": 0.5, "b": 0.5, "a": 0.1})
        {'b': 3.0, 'c': 2.0, 'a': 1.0}
    """
    ranked = sorted(sorted(scores), key=scores.__getitem__, reverse=True)  # stable: equal ones stay sorted
    return dict(zip(ranked, map(float, range(len(ranked), 0, -1)), strict=True))


def _measure(
    run: Mapping[str, Mapping[str, float]],
    judged: dict[str, dict[str, int]],
    queries: Sequence[str],
    measures: Sequence[Measure],
    relevance_level: int,
    ties: str,
) -> dict[str, dict[str, float]]:
    """Return pytrec_eval's values, query by query."""
    try:
        import pytrec_eval
    except ModuleNotFoundError as error:
        raise missing_extra("evaluate_run", "pytrec-eval-terrier", "evaluate") from error

    # A negative grade gains what 0 does; a query with nothing else makes trec_eval read past its tables.
    gains = {query: {key: max(grade, 0) for key, grade in grades.items()} for query, grades in judged.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(
        gains,
        {measure.request for measure in measures},
        relevance_level=min(relevance_level, _MAX_GRADE + 1),  # a C integer; no grade is higher
    )
    measured: dict[str, dict[str, float]] = {}
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = {
            query: _check_scores(query, run[query]) for query in queries[start : start + _QUERIES_AT_ONCE]
        }
        if ties == "id":
            part = {query: break_ties(scores) for query, scores in part.items()}
        measured.update(evaluator.evaluate(part))
    return measured


def _check_scores(query: str, scores: Mapping[str, float]) -> dict[str, float]:
    _check_ids("run", "document", scores)
    checked = {}
    for document, score in scores.items():
        checked[document] = _to_float(score)
        if not isfinite(checked[document]):
            place = f"finite for document {document!r} of query {query!r}"
            raise bad_argument("evaluate_run", "run", place, score)
    return checked


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return nan


def _check_grades(grades: Mapping[str, int]) -> dict[str, int]:
    _check_ids("qrels", "document", grades)
    checked = {}
    for document, grade in grades.items():
        number = _to_float(grade)
        if not number.is_integer() or abs(number) > _MAX_GRADE:
            raise bad_argument("evaluate_run", "qrels", f"whole grades up to {_MAX_GRADE}", grade)
        checked[document] = int(number)
    return checked


def _check_ids(parameter: str, what: str, ids: Iterable[object]) -> None:
    """Refuse ids that C strings cannot hold: trec_eval takes two of them for one, and never returns."""
    for key in ids:
        if not isinstance(key, str):
            raise bad_argument("evaluate_run", parameter, f"a mapping with strings as {what} ids", key)
        if "\0" in key or not (key.isascii() or _is_unicode(key)):
            domain = f"a mapping with {what} ids of Unicode text without zero characters"
            raise bad_argument("evaluate_run", parameter, domain, key)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
