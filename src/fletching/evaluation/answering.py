"""Systems that answer with what they read: finished runs, word overlap, rerankers, score matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

from fletching.errors import FletchingError
from fletching.evaluation.bm25 import BM25
from fletching.evaluation.interface import (
    Keep,
    Scores,
    System,
    describe_model,
    find_culprit,
    look_up,
    sort_scores,
)
from fletching.models.reranker import Reranker

__all__ = ["BM25_NAME", "BM25System", "RerankerSystem", "RunSystem", "ScorerSystem"]

BM25_NAME = "bm25"
"""What a user types for word overlap."""


class RunSystem(System):
    """A finished run: it answers with what stands in its file, whole, whatever depth is asked for.

    Args:
        name: What the user called it.
        run: Query id -> document id -> score.
        digest: Hexadecimal digits that change with the run.
    """

    kind = "run"

    def __init__(self, name: str, run: Mapping[str, Mapping[str, float]], digest: str) -> None:
        super().__init__(name)
        self.run = run
        self._digest = digest

    def fingerprint(self) -> str:
        """Digest of the file."""
        return self._digest

    def _score(self, query_id: str, query: str, ids: list[str]) -> Scores:
        found = self.run.get(query_id, {})
        return {key: found[key] for key in ids if key in found}

    def _search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]:
        return {key: dict(self.run.get(key, {})) for key in queries}


class BM25System(System):
    """Word overlap.

    Args:
        name: What the user called it.
        model: Decides on words and weights; ``None`` takes the defaults of `BM25`.
    """

    kind = "bm25"
    reads_corpus = True

    def __init__(self, name: str = BM25_NAME, model: BM25 | None = None) -> None:
        super().__init__(name)
        self.model = BM25() if model is None else model

    def fingerprint(self) -> str:
        """Settings and versions."""
        return self.model.fingerprint()

    def prepare(self, documents: Iterable[tuple[str, str]], *, keep: Keep | None = None) -> None:
        """Index the documents."""
        self.model.index(documents, show_progress_bar=False)

    def _score(self, query_id: str, query: str, ids: list[str]) -> Scores:
        return self.model.score(query, ids)

    def _search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]:
        return {key: self.model.retrieve(query, depth) for key, query in queries.items()}


class RerankerSystem(System):
    """Orders candidates: one call of ``rank`` for each query, with its whole list.

    Args:
        name: What the user called it.
        model: A cross-encoder, or any object with ``rank(query, documents)``.
        options: Further arguments of that call.
    """

    kind = "reranker"
    can_search = False

    def __init__(self, name: str, model: Any, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(name)
        self.model = model
        self.options = dict(options or {})
        self._texts: dict[str, str] = {}
        self.lost_tokens = 0 if isinstance(model, Reranker) else None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The model, if it is one of torch."""
        return (self.model,) if isinstance(self.model, nn.Module) else ()

    def fingerprint(self) -> str:
        """Name what the model computes."""
        return describe_model(self.model, self.options)

    def prepare(self, documents: Iterable[tuple[str, str]], *, keep: Keep | None = None) -> None:
        """Remember the texts."""
        self._texts = dict(documents)

    def _score(self, query_id: str, query: str, ids: list[str]) -> Scores:
        texts = look_up(self._texts, ids)
        try:
            hits = self.model.rank(query, texts, **self.options)
        except FletchingError as error:
            place = find_culprit(texts, lambda part: self.model.rank(query, part, **self.options))
            at = "" if place is None else f", document {ids[place]!r}"
            raise FletchingError(f"System {self.name!r}, query {query_id!r}{at}: {error}") from error
        lost = getattr(hits, "lost_tokens", None)
        if self.lost_tokens is not None:  # one list that is not known makes the sum unknown
            self.lost_tokens = None if lost is None else self.lost_tokens + sum(lost.values())
        scores: Scores = {}
        for hit in hits:
            place, score = hit["corpus_id"], float(hit["score"])
            if not 0 <= place < len(ids) or ids[place] in scores:
                raise FletchingError(
                    f"System {self.name!r}: `corpus_id` must be one of {len(ids)} places, each once; "
                    f"got {place} for query {query_id!r}."
                )
            scores[ids[place]] = score
        return scores

    def _search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]:
        raise AssertionError("can_search is False")


class ScorerSystem(System):
    """An object with ``score(queries, documents)``, which returns a matrix.

    Args:
        name: What the user called it.
        model: The object.
    """

    kind = "scorer"

    def __init__(self, name: str, model: Any) -> None:
        super().__init__(name)
        self.model = model
        self._texts: dict[str, str] = {}

    def fingerprint(self) -> str:
        """Name what the model computes."""
        return describe_model(self.model, {})

    def prepare(self, documents: Iterable[tuple[str, str]], *, keep: Keep | None = None) -> None:
        """Remember the texts."""
        self._texts = dict(documents)

    def _score(self, query_id: str, query: str, ids: list[str]) -> Scores:
        return self._ask([query], ids)[0]

    def _search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]:
        rows = self._ask(list(queries.values()), sorted(self._texts))
        return {
            key: dict(list(sort_scores(row).items())[:depth]) for key, row in zip(queries, rows, strict=True)
        }

    def _ask(self, queries: list[str], ids: list[str]) -> list[Scores]:
        matrix = np.asarray(self.model.score(queries, look_up(self._texts, ids)), dtype=np.float64)
        if matrix.shape != (len(queries), len(ids)):
            raise FletchingError(
                f"System {self.name!r}: `score` must return a matrix of shape {(len(queries), len(ids))}; "
                f"got {matrix.shape}."
            )
        return [dict(zip(ids, row, strict=True)) for row in matrix.tolist()]
