"""What a recipe measures before and after: held-out rows, and whatever `fletching.evaluation` reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from fletching.data import Document
from fletching.evaluation import EvaluationSet, STSSet, evaluate, evaluate_sts
from fletching.methods.ullme.data import TrainingRow

__all__ = ["MEASURES", "build_retrieval_set", "measure_model"]

MEASURES = ("ndcg_at_10", "mrr_at_10")
"""What retrieval is measured by; sentence pairs by their rank correlation."""

_RESAMPLES = 100  # intervals are not shown


def build_retrieval_set(rows: Sequence[TrainingRow], *, name: str = "held_out") -> EvaluationSet:
    """Ask every query of some rows for its positives, among all texts of these rows.

    Args:
        rows: At least one; rows of one query count as one.
        name: Prefix of the metrics.

    Returns:
        The data; a text that occurs twice is one passage.
    """
    texts = dict.fromkeys(text for row in rows for text in (*row.positives, *row.negatives))
    ids = {text: str(number) for number, text in enumerate(texts)}
    digest = sha256(repr(rows).encode("utf-8", "backslashreplace")).hexdigest()
    queries = {query: str(number) for number, query in enumerate(dict.fromkeys(row.query for row in rows))}
    qrels: dict[str, dict[str, int]] = {key: {} for key in queries.values()}
    for row in rows:
        qrels[queries[row.query]] |= {ids[text]: 1 for text in row.positives}
    return EvaluationSet(
        name,
        queries={key: query for query, key in queries.items()},
        qrels=qrels,
        open_corpus=partial(_open, list(ids.items())),
        digest=digest[:16],
    )


def measure_model(
    model: Any, data: Iterable[EvaluationSet | STSSet], *, show_progress_bar: bool | None = None
) -> dict[str, float]:
    """Measure a model on several sets.

    Args:
        model: An embedder.
        data: What to measure it on.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Returns:
        ``{"<set>_<measure>": value}``.
    """
    found: dict[str, float] = {}
    for each in data:
        options: dict[str, Any] = {"n_resamples": _RESAMPLES, "show_progress_bar": show_progress_bar}
        if isinstance(each, STSSet):
            names: tuple[str, ...] = ("spearman",)
            comparison = evaluate_sts({"model": model}, each, **options)
        else:
            names = MEASURES
            comparison = evaluate({"model": model}, each, measures=names, **options)
        intervals = comparison.results[-1].intervals
        found |= {f"{each.name}_{name}": float(intervals[name].mean) for name in names}
    return found


def _open(ids: list[tuple[str, str]]) -> Iterator[Document]:
    return (Document(key, text) for text, key in ids)
